// One result: its warnings and environment, its times run by run, its memory, and when merging
// pays.

const detail = html("section", { id: "detail", "aria-labelledby": "detail-title", tabindex: "-1" });

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

function stageNames(variants) {
  return [
    ...new Set(
      variants.flatMap(([, variant]) => (variant.memory?.memory_logs ?? []).map((log) => log.stage)),
    ),
  ];
}

const SHORT_STAGES = { session_loaded: "loaded", warmed_up: "warm", benchmark_complete: "end" };

// Bars for each stage and variant. `parts` gives what stands in them, from the bottom, and `peak`
// the line above.
function memoryPlot(variants, parts, peak, width) {
  const stages = stageNames(variants);
  const edge = { left: 58, right: width - 6, top: 24, bottom: 200 };
  const logOf = (variant, stage) => variant.memory?.memory_logs?.find((log) => log.stage === stage);
  const logs = variants.flatMap(([, variant]) => variant.memory?.memory_logs ?? []);
  const sums = logs.map((log) => parts.reduce((sum, part) => sum + (log[part.key] ?? 0), 0));
  const y = linear(
    [0, Math.max(...sums, ...logs.map((log) => log[peak] ?? 0)) * 1.03 || 1],
    [edge.bottom, edge.top],
  );
  const drawing = canvas(
    width,
    edge.bottom + 24,
    "Memory by stage",
    leftAxis(y, edge.left, edge.right, "MiB", 5),
  );
  const room = (edge.right - edge.left) / stages.length;
  const bar = Math.min(26, (room * 0.8) / variants.length);
  stages.forEach((stage, place) => {
    const middle = edge.left + (place + 0.5) * room;
    drawing.append(
      svg(
        "text",
        { x: middle, y: edge.bottom + 16, "text-anchor": "middle", class: "quiet-text" },
        shortened(SHORT_STAGES[stage] ?? stage, room),
      ),
    );
    variants.forEach(([name, variant], index) => {
      const log = logOf(variant, stage);
      if (!log) return;
      const x = middle + (index - variants.length / 2) * bar;
      const tip = [
        `${name}, ${stage}`,
        ...parts.map((part) => `${part.name}: ${decimal(log[part.key] ?? NaN, 1)} MiB`),
        `peak so far: ${decimal(log[peak] ?? NaN, 1)} MiB`,
      ].join("\n");
      const drawn = svg("g", { class: variantClass(name), "data-tip": tip });
      drawn.append(
        svg("rect", { x, y: edge.top, width: bar, height: edge.bottom - edge.top, fill: "transparent" }),
      );
      let sum = 0;
      for (const part of parts) {
        const height = y(sum) - y(sum + (log[part.key] ?? 0));
        sum += log[part.key] ?? 0;
        drawn.append(
          svg("rect", { x: x + 0.5, y: y(sum), width: bar - 1, height, class: `bar ${part.look}` }),
        );
      }
      if (Number.isFinite(log[peak]))
        drawn.append(line(x + 0.5, y(log[peak]), x + bar - 0.5, y(log[peak]), "peak"));
      drawing.append(drawn);
    });
  });
  drawing.append(line(edge.left, edge.bottom, edge.right, edge.bottom, "axis"));
  return drawing;
}

function memoryFigures(variants) {
  const logs = variants.flatMap(([, variant]) => variant.memory?.memory_logs ?? []);
  if (logs.length === 0) return [];
  const split = logs.some((log) => Number.isFinite(log.anonymous_mb));
  const parts = split
    ? [
        { key: "anonymous_mb", name: "the process' own", look: "" },
        { key: "file_backed_mb", name: "pages of files", look: "mapped" },
      ]
    : [{ key: "ram_mb", name: "resident", look: "" }];
  const about = split
    ? "Full colour: the process' own memory. Pale: pages of mapped files, which processes share. Line: the peak up to then."
    : "Resident memory. Line: the peak up to then.";
  const drawn = [
    figure(
      "Memory by stage",
      (width) => memoryPlot(variants, parts, "peak_ram_mb", width),
      html("figcaption", {}, about),
    ),
  ];
  if (logs.some((log) => Number.isFinite(log.peak_accelerator_mb))) {
    const own = [{ key: "accelerator_allocated_mb", name: "allocated", look: "" }];
    drawn.push(
      figure(
        "Accelerator memory by stage",
        (width) => memoryPlot(variants, own, "peak_accelerator_mb", width),
        html("figcaption", {}, "Memory on the accelerator. Line: the peak up to then."),
      ),
    );
  }
  return drawn;
}

function verdictText(found) {
  const tokens = (count) => decimal(Number(count.toPrecision(2)), 0);
  switch (found.verdict) {
    case "at-once":
      return "paid at once";
    case "never":
      return "never paid back: merged is slower";
    case "after":
      return `paid back after ${tokens(found.tokens)} tokens (${tokens(found.interval[0])} … ${tokens(found.interval[1])})`;
    case "too-few-pairs":
      return "too few pairs to tell";
    default:
      return "no saving detected";
  }
}

// What merging has saved after so many tokens: it begins with what it costs, and pays where the
// line crosses zero.
function breakEvenPlot(found, extra, width) {
  const edge = { left: 58, right: width - 14, top: 26, bottom: 170 };
  const saving = found.saving_per_token;
  const ends = found.saving_interval ?? [saving, saving];
  const crossing = found.verdict === "after" ? found.tokens : Math.abs(extra / (saving || 1e-9));
  const last = Math.min(Math.max(2.5 * crossing, 50), 1e7, found.verdict === "after" ? Infinity : 5000);
  const net = (tokens, of) => of * tokens - extra;
  const x = linear([0, last], [edge.left, edge.right]);
  const y = linear(domainOf([net(0, 0), ...ends.map((end) => net(last, end))], [0], 0.08), [
    edge.bottom,
    edge.top,
  ]);
  const drawing = canvas(
    width,
    edge.bottom + 38,
    `Break-even of ${found.group} prompts`,
    bottomAxis(x, edge.bottom, edge.top, "tokens", Math.max(2, Math.floor(width / 90))),
    leftAxis(y, edge.left, edge.right, "saved by merging, s", 5),
    line(edge.left, y(0), edge.right, y(0), "zero"),
  );
  const point = (tokens, of) => `${x(tokens)},${y(net(tokens, of))}`;
  const part = svg(
    "g",
    { class: "v-merged" },
    svg("path", { d: `M${point(0, 0)}L${point(last, ends[0])}L${point(last, ends[1])}Z`, class: "area" }),
    svg("path", { d: `M${point(0, 0)}L${point(last, saving)}`, class: "series" }),
  );
  if (found.verdict === "after") {
    const low = Math.max(0, found.interval[0]);
    const drawn = whisker("merged", x, [low, found.interval[1]], y(0), [0, last], false);
    if (drawn) part.append(drawn);
    part.append(mark("merged", x(found.tokens), y(0), 4, false, { "data-tip": verdictText(found) }));
  }
  drawing.append(part);
  return drawing;
}

function breakEvenFigure(info) {
  const found = info.break_even;
  if (!found?.groups?.length) return null;
  const extra = found.extra_seconds;
  const cost =
    extra >= 0.0005
      ? `Merging and loading take ${duration(extra)} more than keeping the adapter unmerged.`
      : `Merged is ready ${duration(-extra)} before unmerged.`;
  return html(
    "div",
    {},
    html("h3", {}, "When merging pays"),
    html("p", { class: "quiet small" }, `${cost} The band is the 95 % interval of what a token saves.`),
    html(
      "div",
      { class: "small-figures" },
      found.groups.map((entry) =>
        figure(
          String(entry.group),
          (width) => breakEvenPlot(entry, extra, width),
          html("figcaption", {}, verdictText(entry)),
        ),
      ),
    ),
  );
}

function categoryForest(info, name) {
  const measured = measuredVariants(info).filter(([, variant]) => variant.overhead_pct);
  const categories = [
    ...new Set(measured.flatMap(([, variant]) => Object.keys(variant.overhead_pct.by_category ?? {}))),
  ];
  const lines = [
    ["all prompts", (over) => over.overall],
    ...categories.map((category) => [category, (over) => over.by_category?.[category]]),
  ];
  const drawn = lines.map(([label, pick]) => ({
    name: label,
    doubtful: false,
    marks: measured
      .map(([variant, entry]) => ({ variant, over: pick(entry.overhead_pct) }))
      .filter((entry) => Number.isFinite(entry.over?.pct)),
  }));
  if (drawn.every((entry) => entry.marks.length === 0)) return null;
  return figure(
    "Overheads",
    (width) => forestPlot(drawn, width, `Overheads of ${name} by length of the prompts`),
    html("figcaption", {}, "Over the base, with 95 % intervals. Hollow: no difference detected."),
  );
}

function dataTable(head, rows) {
  return html(
    "div",
    { class: "scroll tall", tabindex: "0" },
    html(
      "table",
      {},
      html(
        "thead",
        {},
        html(
          "tr",
          {},
          head.map(([text, numeric]) => html("th", { scope: "col", class: numeric && "number" }, text)),
        ),
      ),
      html(
        "tbody",
        {},
        rows.map((cells) =>
          html(
            "tr",
            {},
            cells.map((cell, index) => html("td", { class: head[index][1] && "number" }, cell ?? NONE)),
          ),
        ),
      ),
    ),
  );
}

function sweepTable(info) {
  if (!info.sweep?.length) return null;
  const rows = info.sweep.flatMap((entry) =>
    Object.entries(entry.variants ?? {}).map(([variant, found]) => [
      String(entry.batch_size),
      String(entry.prompts),
      String(entry.prompt_tokens ?? NONE),
      variant,
      milliseconds(found.metrics?.time_to_first_token),
      milliseconds(found.metrics?.decode_time_per_token),
      milliseconds(found.metrics?.decode_time_per_batch_token),
      found.error ? `failed: ${found.error}` : found.overhead_pct ? overText(found.overhead_pct) : NONE,
    ]),
  );
  const head = [
    ["batch", true],
    ["prompts", false],
    ["prompt tokens", true],
    ["variant", false],
    ["first token", true],
    ["one step", true],
    ["one token", true],
    ["overhead, %", true],
  ];
  return html("div", {}, html("h3", {}, "Batch sizes and prompt lengths"), dataTable(head, rows));
}

function swapFacts(info) {
  const found = info.swap;
  if (!found) return null;
  const title = html("h3", {}, "Changing adapters");
  if (found.absent || found.error)
    return html(
      "div",
      {},
      title,
      html("p", {}, found.absent ? `Not available: ${found.absent}` : `Failed: ${found.error}`),
    );
  const metrics = found.metrics;
  if (!metrics) return null;
  const over = metrics.first_token_overhead;
  return html(
    "div",
    {},
    title,
    facts([
      ["Adapters that take turns", String(metrics.adapters)],
      ["Reading one from its file", duration(metrics.load_seconds)],
      ["Binding one", duration(metrics.swap_seconds)],
      ["First token after it", duration(metrics.first_token_after)],
      ["First token without", duration(metrics.first_token_without)],
      ["Difference, %", over && `${overText(over)}${over.detected ? "" : ", none detected"}`],
    ]),
  );
}

function facts(entries) {
  const known = entries.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return html(
    "dl",
    { class: "facts" },
    known.map(([name, value]) =>
      html(
        "div",
        { class: String(value).length > 32 && "wide-fact" },
        html("dt", {}, name),
        html("dd", {}, String(value)),
      ),
    ),
  );
}

function parityText(parity) {
  if (!parity) return "not checked";
  if (!parity.passed) return `failed: ${(parity.failures ?? []).join("; ")}`;
  if (!Number.isFinite(parity.merged_vs_unmerged)) return "passed";
  return `passed: merged and unmerged differ by ${parity.merged_vs_unmerged === 0 ? "0" : parity.merged_vs_unmerged.toExponential(1)} of at most ${parity.allowed.toExponential(0)}${
    Number.isFinite(parity.same_tokens) ? `, ${parity.same_tokens} of ${parity.of} tokens are the same` : ""
  }`;
}

function resultFacts(document) {
  const { run_info: run = {}, meta_info: meta = {}, generation_info: info = {} } = document;
  const disturbance = run.interference;
  return facts([
    ["Measured", run.timestamp?.replace("T", " ").replace("Z", " UTC")],
    ["Took", Number.isFinite(run.duration) ? duration(run.duration) : null],
    ["Status", run.status],
    ["Parity", parityText(info.parity)],
    ["Adapter", meta.adapter?.weights],
    [
      "Trainable parameters",
      Number.isFinite(meta.parameters?.trainable_params)
        ? decimal(meta.parameters.trainable_params, 0)
        : null,
    ],
    ["Adapter's form", meta.adapter_form],
    [
      "Others' share of the cores",
      disturbance
        ? `${decimal(100 * (disturbance.other_processes_share + disturbance.steal_share), 1)} %`
        : null,
    ],
    ["Base", run.session?.base],
    ["Tokenizer", run.tokenizer?.of],
  ]);
}

function everything(document) {
  const part = (title, value) =>
    value !== null &&
    value !== undefined &&
    html(
      "details",
      {},
      html("summary", {}, title),
      html("pre", { tabindex: "0" }, JSON.stringify(value, null, 2)),
    );
  const { run_info: run = {}, meta_info: meta, generation_info: info = {} } = document;
  const { peft_config: config, ...rest } = run;
  const executed = Object.fromEntries(
    measuredVariants(info)
      .filter(([, variant]) => variant.executed)
      .map(([name, variant]) => [name, variant.executed]),
  );
  return html(
    "div",
    {},
    part("The adapter's configuration", config),
    part("How it was measured", rest),
    part("What it was measured on", meta),
    Object.keys(executed).length > 0 && part("Nodes that ran", executed),
  );
}

function drawDetail() {
  if (chosen < 0) {
    detail.replaceChildren();
    return;
  }
  const { name, document } = data.results[chosen];
  const own = data.groups.flatMap((each) => each.rows).filter((row) => row.result === chosen);
  const title = own[0] ? nameOf(own[0]) : name;
  const warnings = new Map(own.flatMap((row) => row.warnings).map((warning) => [warning.text, warning]));
  const info = document.generation_info ?? {};
  const variants = measuredVariants(info);
  const method = own[0] && columnAt("method") >= 0 ? textIn(own[0], "method") : "";
  const parts = [
    html(
      "h2",
      { id: "detail-title" },
      "Details of ",
      title,
      method && html("span", { class: "quiet" }, ` ${method}`),
    ),
    html(
      "ul",
      { class: "warnings" },
      [...warnings.values()].map((warning) =>
        html("li", { class: `warning ${warning.level}` }, warning.text),
      ),
    ),
    resultFacts(document),
    variants.length > 0 && legend(variants.map(([variant]) => variant)),
    html(
      "div",
      { class: "figures" },
      html("div", { class: "stack" }, categoryForest(info, title), memoryFigures(variants)),
      stepsFigure(variants),
    ),
    variants.length > 0 && html("div", { class: "figures" }, runsFigure(variants)),
    html("div", { class: "figures" }, breakEvenFigure(info)),
    swapFacts(info),
    sweepTable(info),
    everything(document),
    html("p", { class: "quiet small" }, `File: ${name}`),
  ];
  detail.replaceChildren(...parts.filter(Boolean));
}
