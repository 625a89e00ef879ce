// A result's memory at the end of each stage.

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
