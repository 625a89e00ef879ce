// A result's times, step by step and run by run.

// The variants of a result that were measured, in the file's order.
function measuredVariants(info) {
  const all = Object.entries(info?.variants ?? {});
  return all.filter(([, variant]) => Object.keys(variant.by_category ?? {}).length > 0);
}

function runsOf(variant, category) {
  const samples = variant.by_category?.[category]?.samples ?? [];
  return samples.flatMap((sample) =>
    (sample.individual_runs ?? []).map((run) => ({ ...run, prompt: sample.prompt })),
  );
}

function stepsOf(variant, category) {
  const categories =
    category && variant.by_category?.[category] ? [category] : Object.keys(variant.by_category ?? {});
  return sorted(categories.flatMap((name) => runsOf(variant, name)).flatMap((run) => run.decode_steps ?? []));
}

const SHARES = [0.5, 0.9, 0.95, 0.99];

// A lane for each variant: how often a step took how long, and its percentiles.
function stepLanes(lanes, width) {
  const left = 76;
  const lane = 58;
  const bottom = 14 + lanes.length * lane;
  const all = sorted(lanes.flatMap((entry) => entry.steps));
  // The slowest of all steps would leave no room for the others. They're counted instead.
  const high = Math.max(quantile(all, 0.995), ...lanes.map((entry) => quantile(entry.steps, 0.99)));
  const domain = domainOf(
    [all[0], high].map((seconds) => seconds * 1e3),
    [],
    0.02,
  );
  const scale = linear(domain, [left, width - 14]);
  const bins = Math.max(20, Math.min(60, Math.floor((width - left) / 9)));
  const drawing = canvas(
    width,
    bottom + 38,
    "Distribution of decode steps",
    bottomAxis(scale, bottom, 8, "one decode step, ms", Math.max(3, Math.floor((width - left) / 80))),
  );
  const binOf = (seconds) => Math.floor(((seconds * 1e3 - domain[0]) / (domain[1] - domain[0])) * bins);
  const counts = lanes.map((entry) => {
    const count = new Array(bins).fill(0);
    for (const step of entry.steps) if (binOf(step) < bins) count[binOf(step)] += 1 / entry.steps.length;
    return count;
  });
  const most = Math.max(...counts.flat());
  lanes.forEach((entry, index) => {
    const floor = 8 + (index + 1) * lane;
    const part = svg("g", { class: variantClass(entry.name) });
    let path = `M${left},${floor}`;
    counts[index].forEach((share, bin) => {
      path += `V${floor - (share / most) * (lane - 16)}H${left + ((bin + 1) / bins) * (width - 14 - left)}`;
    });
    part.append(
      svg("path", { d: `${path}V${floor}Z`, class: "area" }),
      svg("path", { d: path, class: "series" }),
    );
    part.append(line(left, floor, width - 14, floor, "axis"));
    part.append(svg("text", { x: 0, y: floor - 6 }, entry.name));
    for (const share of SHARES) {
      const value = quantile(entry.steps, share) * 1e3;
      const tip = `${entry.name}: ${share * 100} % of the steps took at most ${significant(value)}${THIN}ms`;
      part.append(
        svg(
          "g",
          { "data-tip": tip },
          svg("rect", {
            x: scale(value) - 4,
            y: floor - lane + 14,
            width: 8,
            height: lane - 10,
            fill: "transparent",
          }),
          line(scale(value), floor - (share === 0.5 ? lane - 20 : 14), scale(value), floor + 4, "whisker"),
        ),
      );
    }
    const beyond = entry.steps.filter((step) => step * 1e3 > domain[1]).length;
    if (beyond > 0) {
      part.append(
        svg(
          "text",
          { x: width - 14, y: floor - lane + 26, "text-anchor": "end", class: "quiet-text" },
          `${beyond} slower →`,
        ),
      );
    }
    drawing.append(part);
  });
  return drawing;
}

function percentileTable(lanes) {
  const head = ["", ...SHARES.map((share) => `p${share * 100}`), "longest", "steps"];
  return html(
    "div",
    { class: "scroll" },
    html(
      "table",
      { class: "facts" },
      html(
        "thead",
        {},
        html(
          "tr",
          {},
          head.map((text, index) =>
            html(
              "th",
              { scope: "col", class: index > 0 && "number" },
              text,
              index > 0 && index < head.length - 1 && html("span", { class: "unit" }, " ms"),
            ),
          ),
        ),
      ),
      html(
        "tbody",
        {},
        lanes.map((entry) =>
          html(
            "tr",
            {},
            html("th", { scope: "row" }, entry.name),
            [...SHARES, 1].map((share) =>
              html("td", { class: "number" }, significant(quantile(entry.steps, share) * 1e3)),
            ),
            html("td", { class: "number" }, String(entry.steps.length)),
          ),
        ),
      ),
    ),
  );
}

function stepsFigure(variants) {
  const lanes = variants
    .map(([name, variant]) => ({ name, steps: stepsOf(variant, state.category) }))
    .filter((lane) => lane.steps.length > 0);
  if (lanes.length === 0) return null;
  const of = state.category ? ` with ${state.category} prompts` : "";
  return figure(
    `Decode steps${of}`,
    (width) => stepLanes(lanes, width),
    html(
      "figcaption",
      {},
      "How often a step took how long. The long line is the median, the short ones are p90, p95 and p99.",
    ),
    percentileTable(lanes),
  );
}

// The runs of one category in the order in which they were made: lines that rise show drift, lines
// that keep their distance show that pairs are a fair comparison.
function runsPlot(category, variants, width) {
  const lines = variants.map(([name, variant]) => ({
    name,
    times: runsOf(variant, category).map((run) => run.inference_time * 1e3),
  }));
  const edge = { left: 52, right: width - 8, top: 10, bottom: 150 };
  const most = Math.max(...lines.map((entry) => entry.times.length));
  const x = linear([0.5, most + 0.5], [edge.left, edge.right]);
  const y = linear(
    domainOf(
      lines.flatMap((entry) => entry.times),
      [],
      0.1,
    ),
    [edge.bottom, edge.top],
  );
  const drawing = canvas(
    width,
    edge.bottom + 36,
    `Runs of ${category} prompts`,
    leftAxis(y, edge.left, edge.right, null, 4),
    line(edge.left, edge.bottom, edge.right, edge.bottom, "axis"),
  );
  const every = Math.ceil(most / Math.max(1, (edge.right - edge.left) / 26));
  for (let run = 1; run <= most; run += every) {
    drawing.append(
      svg(
        "text",
        { x: x(run), y: edge.bottom + 15, "text-anchor": "middle", class: "quiet-text" },
        String(run),
      ),
    );
  }
  drawing.append(svg("text", { x: edge.right, y: edge.bottom + 31, "text-anchor": "end" }, "run"));
  for (const entry of lines) {
    const path = entry.times.map((time, index) => `${index ? "L" : "M"}${x(index + 1)},${y(time)}`).join("");
    drawing.append(
      svg("g", { class: variantClass(entry.name) }, svg("path", { d: path, class: "series faint" })),
    );
  }
  for (const entry of lines) {
    entry.times.forEach((time, index) => {
      const tip = `${entry.name}, ${category}, run ${index + 1}: ${significant(time, 4)}${THIN}ms`;
      drawing.append(
        mark(entry.name, x(index + 1), y(time), most > 40 ? 2.5 : 3.5, false, { "data-tip": tip }),
      );
    });
  }
  return drawing;
}

function runsFigure(variants) {
  const categories = [...new Set(variants.flatMap(([, variant]) => Object.keys(variant.by_category)))];
  return html(
    "div",
    {},
    html("h3", {}, "Runs, in the order in which they were made"),
    html(
      "div",
      { class: "small-figures" },
      categories.map((category) => figure(`${category}, ms`, (width) => runsPlot(category, variants, width))),
    ),
    html(
      "p",
      { class: "quiet small" },
      "Whole generations. A base and a variant of one run are a pair. The axes don't begin at zero.",
    ),
  );
}
