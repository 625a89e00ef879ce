// What all plots share: scales, axes, marks. They are SVG, written here: a forest plot, lanes and
// intervals are lines and circles, and no small library draws them.

function linear([low, high], [from, to]) {
  const span = high - low || 1;
  const scale = (value) => from + ((value - low) / span) * (to - from);
  scale.ticks = (count) => linearTicks(low, high, count);
  scale.domain = [low, high];
  return scale;
}

function logarithmic([low, high], [from, to]) {
  const inner = linear([Math.log10(low), Math.log10(high)], [from, to]);
  const scale = (value) => inner(Math.log10(value));
  scale.ticks = (count) => logTicks(low, high, count);
  scale.domain = [low, high];
  return scale;
}

function linearTicks(low, high, count) {
  const span = high - low;
  if (!(span > 0)) return [low];
  const rough = span / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((times) => times * power).find((size) => size >= rough);
  const ticks = [];
  for (let index = Math.ceil(low / step - 1e-9); index * step <= high + step * 1e-9; index += 1)
    ticks.push(index * step);
  return ticks;
}

function logTicks(low, high, count) {
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
    for (const times of [1, 2, 5]) ticks.push(times * 10 ** power);
  }
  const inside = ticks.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
  const whole = inside.filter((tick) => Math.abs(Math.log10(tick) % 1) < 1e-9);
  return inside.length > count && whole.length >= 2 ? whole : inside;
}

// The ends of `values`, with a little room; `also` must lie inside.
function domainOf(values, also = [], room = 0.05) {
  const all = [...values, ...also].filter(Number.isFinite);
  if (all.length === 0) return [0, 1];
  let [low, high] = [Math.min(...all), Math.max(...all)];
  if (low === high) [low, high] = [low - Math.abs(low || 1) * 0.05, high + Math.abs(high || 1) * 0.05];
  const pad = (high - low) * room;
  return [low - pad, high + pad];
}

function logDomainOf(values) {
  const all = values.filter((value) => value > 0);
  if (all.length === 0) return [1, 10];
  const [low, high] = [Math.min(...all), Math.max(...all)];
  return [low / 1.15, high * 1.15];
}

function tickText(ticks) {
  const step =
    ticks.length > 1
      ? Math.min(...ticks.slice(1).map((tick, index) => tick - ticks[index]))
      : Math.abs(ticks[0] || 1);
  const decimals = Math.min(6, Math.max(0, -Math.floor(Math.log10(step) + 1e-9)));
  return (tick) => {
    if (Math.abs(tick) >= 1e6) return `${significant(tick / 1e6)}${THIN}M`;
    return ticks.length > 1 && ticks.at(-1) / Math.max(Math.abs(ticks[0]), 1e-12) > 50
      ? significant(tick, 1)
      : decimal(tick, decimals);
  };
}

function line(x1, y1, x2, y2, name) {
  return svg("line", { x1, y1, x2, y2, class: name });
}

// The horizontal axis at `y`, with lines up to `top`, and the numbers there as well if the plot is
// so tall that one needs them.
function bottomAxis(scale, y, top, label, count, both = false) {
  const [left, right] = scale.domain.map(scale);
  const ticks = scale.ticks(count);
  const text = tickText(ticks);
  return svg(
    "g",
    {},
    ticks.map((tick) => [
      line(scale(tick), top, scale(tick), y, "grid"),
      svg("text", { x: scale(tick), y: y + 15, "text-anchor": "middle", class: "quiet-text" }, text(tick)),
      both &&
        svg("text", { x: scale(tick), y: top - 5, "text-anchor": "middle", class: "quiet-text" }, text(tick)),
    ]),
    line(left, y, right, y, "axis"),
    label && svg("text", { x: right, y: y + 31, "text-anchor": "end" }, label),
  );
}

// The vertical axis at `x`, with lines as far as `right`; its label stands above it.
function leftAxis(scale, x, right, label, count) {
  const [bottom, top] = scale.domain.map(scale);
  const ticks = scale.ticks(count);
  const text = tickText(ticks);
  return svg(
    "g",
    {},
    ticks.map((tick) => [
      line(x, scale(tick), right, scale(tick), "grid"),
      svg("text", { x: x - 6, y: scale(tick) + 4, "text-anchor": "end", class: "quiet-text" }, text(tick)),
    ]),
    line(x, bottom, x, top, "axis"),
    label && svg("text", { x: 0, y: top - 8 }, label),
  );
}

function canvas(width, height, label, ...children) {
  return svg(
    "svg",
    { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
    ...children,
  );
}

function variantClass(variant) {
  if (variant === "merged" || variant === "unmerged") return `v-${variant}`;
  return (variant ?? "").startsWith("base") ? "v-base" : "v-other";
}

// Each variant has a shape as well as a colour: merged is round, unmerged a diamond, the base a
// square, any other a triangle.
function mark(variant, x, y, size, hollow, attributes = {}) {
  const name = `mark ${variantClass(variant)}${hollow ? " hollow" : ""}`;
  if (variant === "merged") return svg("circle", { cx: x, cy: y, r: size, class: name, ...attributes });
  if (variantClass(variant) === "v-other") {
    const d = `M${x},${y - size * 1.15}l${size * 1.1},${size * 2}h${-size * 2.2}Z`;
    return svg("path", { d, class: name, ...attributes });
  }
  const side = size * 1.75;
  const turned = variant === "unmerged" ? `rotate(45 ${x} ${y})` : null;
  return svg("rect", {
    x: x - side / 2,
    y: y - side / 2,
    width: side,
    height: side,
    transform: turned,
    class: name,
    ...attributes,
  });
}

function crossed(x, y, size) {
  return svg("path", {
    d: `M${x - size},${y - size}l${2 * size},${2 * size}m0,${-2 * size}l${-2 * size},${2 * size}`,
    class: "doubt",
  });
}

// An interval with ends; an end outside of `clip` is an arrow.
function whisker(variant, scale, [low, high], y, clip, faint) {
  const name = `whisker ${variantClass(variant)}${faint ? " faint" : ""}`;
  const [from, to] = [Math.max(low, clip[0]), Math.min(high, clip[1])];
  if (!(from <= to)) return null;
  const [left, right] = [scale(from), scale(to)];
  const end = (x, isInside, direction) =>
    isInside
      ? `M${x},${y - 3.5}v7`
      : `M${x - direction * 5},${y - 3.5}l${direction * 5},3.5l${-direction * 5},3.5`;
  return svg("path", {
    d: `M${left},${y}H${right}${end(left, low >= clip[0], -1)}${end(right, high <= clip[1], 1)}`,
    class: name,
  });
}

function legend(variants, ...more) {
  const entry = (drawing, text) =>
    html("li", {}, svg("svg", { width: 16, height: 12, "aria-hidden": "true" }, drawing), text);
  return html(
    "ul",
    { class: "legend" },
    variants.map((variant) => entry(mark(variant, 8, 6, 4, false), variant)),
    more.map(([drawing, text]) => entry(drawing, text)),
  );
}

// A figure whose drawing is made for the width that it has, and again when that changes.
const figures = new Set();

function figure(title, draw, ...about) {
  const box = html("div");
  const element = html("figure", {}, title && html("h3", {}, title), box, ...about);
  const entry = { box, draw, width: 0 };
  figures.add(entry);
  return element;
}

function drawFigures() {
  for (const entry of figures) {
    if (!entry.box.isConnected) {
      figures.delete(entry);
      continue;
    }
    const width = Math.floor(entry.box.clientWidth);
    if (width === 0 || width === entry.width) continue;
    entry.width = width;
    entry.box.replaceChildren(...[entry.draw(width)].flat());
  }
}
