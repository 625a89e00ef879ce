// When merging has paid for itself.

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
