// One result: its warnings and environment, and every plot of it.

const detail = html("section", { id: "detail", "aria-labelledby": "detail-title", tabindex: "-1" });

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

// Pressure: the part of the time in which at least one task waited.
const waited = (pressure) => (pressure ? `${decimal(100 * pressure.some, 1)} % of the time` : null);
const seconds = (count) => (Number.isFinite(count) ? duration(count) : null);
const times = (count) => (Number.isFinite(count) ? `${count} times` : null);

function resultFacts(document, rows) {
  const { run_info: run = {}, meta_info: meta = {}, generation_info: info = {} } = document;
  const disturbance = run.interference;
  const published = rows.filter((row) => publishedAs(row));
  // Merged and unmerged have the same.
  const quality = new Map(published.map((row) => [publishedAs(row), valueIn(row, "quality")]));
  const qualityText = ([text, value]) => (Number.isFinite(value) ? `${significant(value)} (${text})` : text);
  return facts([
    ["Measured", run.timestamp?.replace("T", " ").replace("Z", " UTC")],
    ["Took", Number.isFinite(run.duration) ? duration(run.duration) : null],
    ["Status", run.status],
    ["Parity", parityText(info.parity)],
    ["Quantized base", meta.base_quantization?.scheme],
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
    ["Published quality", [...quality].map(qualityText).join("; ")],
    [
      "Others between rounds",
      run.rounds
        ? `up to ${decimal(100 * run.rounds.largest_share, 0)} %, disturbing at ${run.rounds.disturbed} of ${run.rounds.looks} looks`
        : null,
    ],
    ["Waiting for cores", waited(run.environment?.pressure?.cpu)],
    ["Waiting for memory", waited(run.environment?.pressure?.memory)],
    ["Waiting for storage", waited(run.environment?.pressure?.io)],
    [
      "Stopped by its quota",
      Number.isFinite(run.environment?.control_group?.cpu_quota)
        ? seconds(run.environment.control_group.throttled_seconds)
        : null,
    ],
    ["Throttled for heat", times(run.environment?.frequency?.throttle_events)],
    ["Waited for a quiet machine", seconds(run.quiet_gate?.waited_seconds)],
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
    resultFacts(document, own),
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
