// Overheads with their intervals: one line for each result, one mark for each variant.

function overheadOf(row, category) {
  const found = documentOf(row).generation_info?.variants?.[row.variant]?.overhead_pct;
  if (!found) return null;
  const over = category ? found.by_category?.[category] : found.overall;
  if (!over || !Number.isFinite(over.pct)) return null;
  // The table's verdict over all prompts has all results of the group in view.
  const cell = category ? null : row.cells[columnAt("overhead_pct")];
  return cell ? { ...over, detected: cell.detected, taken_back: cell.taken_back } : over;
}

// Why no difference counts as detected.
function undetected(over) {
  if (over.taken_back) return "no difference detected among all of these (Holm's correction)";
  return over.fewest_pairs < 5 ? "too few pairs to tell" : "no difference detected";
}

function categoriesOf(rows) {
  const found = rows.flatMap((row) => Object.keys(documentOf(row).generation_info?.by_category ?? {}));
  return [...new Set(found)];
}

// From the lowest to the highest overhead, with room for most intervals; what lies far outside of
// the others is an arrow.
function forestDomain(overs) {
  const values = sorted(overs.map((over) => over.pct));
  const halves = sorted(
    overs
      .filter((over) => over.interval_pct)
      .map((over) => (over.interval_pct[1] - over.interval_pct[0]) / 2),
  );
  const half = halves.length > 0 ? quantile(halves, 0.9) : 1;
  const [low, high] = [Math.min(0, values[0] - half), Math.max(0, values.at(-1) + half)];
  const usual = [quantile(values, 0.05) - half, quantile(values, 0.95) + half];
  const clip = (end, limit) => (Math.abs(end) > 3 * Math.max(Math.abs(limit), 1) ? limit * 1.5 : end);
  return [Math.min(0, clip(low, usual[0])), Math.max(1, clip(high, usual[1]))];
}

function shortened(text, width) {
  const room = Math.max(4, Math.floor(width / 6.7));
  return text.length > room ? `${text.slice(0, room - 1)}…` : text;
}

function overText(over) {
  if (!over.interval_pct) return percent(over.pct);
  return `${decimal(over.pct, 1, true)} [${interval(over.interval_pct)}]`;
}

function overTip(name, variant, over) {
  const about = [`${name}, ${variant}`, `${percent(over.pct)} over the base`];
  if (over.interval_pct)
    about.push(
      `95 % interval ${interval(over.interval_pct)}${THIN}%, ${over.pairs} ${over.paired ? "pairs" : "runs"}`,
    );
  if (over.starts > 1) about.push(`${over.starts} starts of all processes`);
  if (!over.detected) about.push(undetected(over));
  return about.join("\n");
}

// `lines` are `{ name, result, doubtful, marks: [{ variant, over }] }`.
function forestPlot(lines, width, label) {
  const overs = lines.flatMap((entry) => entry.marks.map((item) => item.over));
  if (overs.length === 0) return html("p", { class: "quiet" }, "No overheads here.");
  const left = Math.min(230, Math.max(96, Math.round(width * 0.27)));
  const wide = width >= 640;
  const right = wide ? 158 : 12;
  const most = Math.max(...lines.map((entry) => entry.marks.length));
  const step = Math.max(22, 8 + 13 * most);
  const tall = lines.length > 15;
  const top = tall ? 20 : 6;
  const bottom = top + lines.length * step;
  const domain = forestDomain(overs);
  const scale = linear(domain, [left, width - right]);
  const drawing = canvas(width, bottom + 38, label);
  lines.forEach((entry, index) => {
    if (entry.result !== undefined && entry.result === chosen && lines.length > 1) {
      drawing.append(svg("rect", { x: 0, y: top + index * step, width, height: step, class: "chosen-lane" }));
    }
  });
  drawing.append(
    bottomAxis(
      scale,
      bottom,
      top,
      "overhead in % of the base's time",
      Math.max(3, Math.floor((width - left - right) / 70)),
      tall,
    ),
  );
  drawing.append(line(scale(0), top, scale(0), bottom, "zero"));
  lines.forEach((entry, index) => {
    const middle = top + (index + 0.5) * step;
    const reachable = entry.result === undefined ? {} : { "data-row": entry.result };
    drawing.append(
      svg(
        "text",
        { x: 0, y: middle + 4, "data-tip": entry.name, ...reachable },
        shortened(entry.name, left - 12),
      ),
    );
    if (entry.doubtful) drawing.append(crossed(left - 8, middle, 3.5));
    entry.marks.forEach(({ variant, over }, which) => {
      const y = middle + (which - (entry.marks.length - 1) / 2) * 13;
      const part = svg("g", { "data-tip": overTip(entry.name, variant, over), ...reachable });
      // The whole line answers to the pointer, not only the few pixels that are drawn.
      part.append(
        svg("rect", { x: left, y: y - 6, width: width - left - right, height: 12, fill: "transparent" }),
      );
      if (over.interval_pct) part.append(whisker(variant, scale, over.interval_pct, y, domain, false) ?? "");
      const inside = Math.min(domain[1], Math.max(domain[0], over.pct));
      part.append(mark(variant, scale(inside), y, 4, !over.detected || inside !== over.pct));
      if (wide)
        part.append(
          svg("text", { x: width, y: y + 4, "text-anchor": "end", class: "quiet-text" }, overText(over)),
        );
      drawing.append(part);
    });
  });
  return drawing;
}

function forestLines(rows) {
  const lines = new Map();
  for (const row of rows) {
    const over = overheadOf(row, state.category);
    if (!over) continue;
    if (!lines.has(row.result))
      lines.set(row.result, { name: nameOf(row), result: row.result, doubtful: isDoubtful(row), marks: [] });
    lines.get(row.result).marks.push({ variant: row.variant, over });
  }
  return [...lines.values()];
}

// What the machine alone makes of no difference, where the base was measured against itself.
function noiseSentence(rows) {
  const widths = rows
    .map((row) => documentOf(row).generation_info?.aa?.smallest_detectable_pct)
    .filter(Number.isFinite);
  if (widths.length === 0) return null;
  return `Where the base was measured against itself, overheads below about ${decimal(Math.max(...widths), 1)} % couldn't be told from none. `;
}

function forestSection(rows) {
  const lines = forestLines(rows);
  const variants = [...new Set(lines.flatMap((entry) => entry.marks.map((item) => item.variant)))];
  const categories = categoriesOf(rows);
  const doubtful = lines.filter((entry) => entry.doubtful);
  const options = [["", "all prompts"], ...categories.map((name) => [name, name])];
  return html(
    "section",
    { id: "overheads", "aria-labelledby": "overheads-title" },
    html("h2", { id: "overheads-title" }, "Overheads and their 95 % intervals"),
    html(
      "div",
      { class: "controls" },
      categories.length > 0 &&
        segments("Prompts", options, state.category, (category) => update({ category })),
      columnOf("overhead_pct") &&
        html(
          "button",
          { type: "button", onclick: () => update({ sort: "overhead_pct" }) },
          "Sort by overhead",
        ),
    ),
    doubtfulNotice(doubtful.map((entry) => entry.result)),
    legend(
      variants,
      [mark("base", 8, 6, 4, true), "hollow: no difference detected"],
      ...(doubtful.length > 0 ? [[crossed(8, 6, 3.5), "not to be relied on"]] : []),
    ),
    figure(
      null,
      (width) => forestPlot(lines, width, `Overheads of ${lines.length} results with their 95 % intervals`),
      html(
        "figcaption",
        {},
        noiseSentence(rows),
        "In the table's order, and only what passes its filters. An arrow leads out of the plot.",
      ),
    ),
  );
}

// Says above a plot which of its results can't be relied on.
function doubtfulNotice(results) {
  const unique = [...new Set(results)];
  if (unique.length === 0) return null;
  const about = unique.slice(0, 6).map((result) => {
    const row = group().rows.find((other) => other.result === result && isDoubtful(other));
    const why = row.warnings.filter((warning) => warning.level === "bad").map((warning) => warning.short);
    return `${nameOf(row)} (${[...new Set(why)].join(", ")})`;
  });
  const more = unique.length > 6 ? ` and ${unique.length - 6} more` : "";
  return html("p", { class: "warning bad" }, `Not to be relied on: ${about.join(", ")}${more}.`);
}
