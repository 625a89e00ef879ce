// Any two columns against each other, with the results that no other beats in both.

function axisColumns() {
  return data.columns.filter(
    (column) => isNumeric(column) && group().rows.some((row) => !Number.isNaN(valueIn(row, column.key))),
  );
}

function usualAxis(keys, columns, other) {
  const found = keys.find((key) => key !== other && columns.some((column) => column.key === key));
  return found ?? columns.find((column) => column.key !== other)?.key ?? "";
}

// Quality against overhead where there is quality, else time against memory. Results are measured
// one after the other, so absolute times have the machine's drift in them, and overheads don't.
function axes() {
  const columns = axisColumns();
  const known = (key) => columns.some((column) => column.key === key);
  const times = ["time_per_token", "overhead_pct", "decode_p50"];
  const [forX, forY] = known("quality")
    ? [["overhead_pct", ...times], ["quality", ...times]]
    : [["peak_memory_mb", "trainable_params", "time_to_first_token"], times];
  const x = known(state.x) ? state.x : usualAxis(forX, columns, state.y);
  const y = known(state.y) ? state.y : usualAxis(forY, columns, x);
  return [x, y];
}

// The points that no other is at least as good as in both columns and better in one. The way to go
// is the column's own.
function paretoFront(points, better) {
  const sign = better.map((way) => (way === "higher" ? -1 : 1));
  const ordered = [...points].sort((a, b) => sign[0] * (a.x - b.x) || sign[1] * (a.y - b.y));
  const front = [];
  for (const point of ordered) {
    const last = front.at(-1);
    if (!last || sign[1] * point.y < sign[1] * last.y) front.push(point);
  }
  return front;
}

// Whether `one` is better than `other` on an axis, beyond what their intervals leave open. The
// difference of two independent values is uncertain by the root of the squares of both.
function isSurelyBetter(one, other, axis, way) {
  const gain = way === "higher" ? one[axis] - other[axis] : other[axis] - one[axis];
  const [ends, otherEnds] = [one[`${axis}Ends`], other[`${axis}Ends`]];
  if (!ends || !otherEnds) return gain > 0;
  const [toOther, toOne] = way === "higher" ? [ends[0], otherEnds[1]] : [ends[1], otherEnds[0]];
  return gain > Math.hypot(one[axis] - toOther, other[axis] - toOne);
}

// The points beside the front that are not surely beaten: no other is at least as good in both
// columns, and in one of them better beyond the intervals.
function notToldFrom(front, points, better) {
  const axes = ["x", "y"];
  const isBehind = (one, other, axis, way) =>
    way === "higher" ? one[axis] < other[axis] : one[axis] > other[axis];
  const beats = (one, other) =>
    !axes.some((axis, index) => isBehind(one, other, axis, better[index])) &&
    axes.some((axis, index) => isSurelyBetter(one, other, axis, better[index]));
  return points.filter((point) => !front.includes(point) && !points.some((other) => beats(other, point)));
}

// The front as steps: a corner says that both values are reached by neither neighbour.
function frontPath(front, x, y) {
  const [first, ...rest] = front;
  let path = `M${x(first.x)},${y(first.y)}`;
  for (const point of rest) path += `H${x(point.x)}V${y(point.y)}`;
  return path;
}

// A figure's interval: in its own cell, or in columns of its own.
function endsOf(row, key) {
  const cell = row.cells[columnAt(key)];
  if (Number.isFinite(cell?.low)) return [cell.low, cell.high];
  const ends = [valueIn(row, `${key}_low`), valueIn(row, `${key}_high`)];
  return ends.every(Number.isFinite) ? ends : null;
}

function scatterPoints(rows, [xKey, yKey]) {
  const points = rows.map((row) => ({
    row,
    x: valueIn(row, xKey),
    y: valueIn(row, yKey),
    xEnds: endsOf(row, xKey),
    yEnds: endsOf(row, yKey),
  }));
  return points.filter((point) => Number.isFinite(point.x) && Number.isFinite(point.y));
}

function axisScale(points, name, log, range) {
  const values = points.map((point) => point[name]);
  if (log) return logarithmic(logDomainOf(values), range);
  return linear(domainOf(values, [], 0.06), range);
}

function pointTip(point, columns) {
  const value = (column, number, ends) =>
    `${column.heading}: ${significant(number, 4)}${unitOf(column)}${
      ends ? ` [${significant(ends[0])} … ${significant(ends[1])}]` : ""
    }`;
  const { row } = point;
  const notes = row.warnings.filter((warning) => warning.level !== "note").map((warning) => warning.short);
  return [
    [nameOf(row), row.variant].filter(Boolean).join(", "),
    value(columns[0], point.x, point.xEnds),
    value(columns[1], point.y, point.yEnds),
    columns.some((column) => column.key === "quality") && publishedAs(row),
    ...notes,
  ]
    .filter(Boolean)
    .join("\n");
}

// Names beside the front's points, as far as they don't cover each other.
function frontLabels(front, x, y, width) {
  const taken = [];
  const labels = [];
  for (const point of front) {
    const name = shortened(nameOf(point.row), 150);
    const size = name.length * 6.6;
    const toLeft = x(point.x) + 10 + size > width;
    const box = { left: toLeft ? x(point.x) - 10 - size : x(point.x) + 10, top: y(point.y) - 14 };
    const covers = (other) =>
      box.left < other.left + other.size &&
      other.left < box.left + size &&
      Math.abs(box.top - other.top) < 14;
    if (taken.some(covers)) continue;
    taken.push({ ...box, size });
    labels.push(
      svg(
        "text",
        {
          x: toLeft ? box.left + size : box.left,
          y: y(point.y) - 5,
          "text-anchor": toLeft ? "end" : "start",
          class: "over",
        },
        name,
      ),
    );
  }
  return labels;
}

function scatterPlot(points, front, open, columns, logs, width) {
  if (points.length === 0)
    return html("p", { class: "quiet" }, "No row that is shown has a figure in both columns.");
  const height = Math.round(Math.min(480, Math.max(300, width * 0.5)));
  const edge = { left: 58, right: width - 14, top: 26, bottom: height - 40 };
  const x = axisScale(points, "x", logs[0], [edge.left, edge.right]);
  const y = axisScale(points, "y", logs[1], [edge.bottom, edge.top]);
  const name = (column) => `${column.heading}${column.unit ? `, ${column.unit}` : ""}`;
  const drawing = canvas(
    width,
    height,
    `${columns[1].heading} against ${columns[0].heading}, ${points.length} points`,
    bottomAxis(x, edge.bottom, edge.top, name(columns[0]), Math.floor(width / 90)),
    leftAxis(y, edge.left, edge.right, name(columns[1]), 6),
  );
  const clamp = (value, [low, high]) => Math.min(high, Math.max(low, value));
  for (const point of points) {
    if (point.xEnds) {
      const [low, high] = point.xEnds.map((end) => x(clamp(end, x.domain)));
      drawing.append(
        svg(
          "g",
          { class: variantClass(point.row.variant) },
          line(low, y(point.y), high, y(point.y), "whisker faint"),
        ),
      );
    }
    if (point.yEnds) {
      const [low, high] = point.yEnds.map((end) => y(clamp(end, y.domain)));
      drawing.append(
        svg(
          "g",
          { class: variantClass(point.row.variant) },
          line(x(point.x), low, x(point.x), high, "whisker faint"),
        ),
      );
    }
  }
  if (front.length > 1) drawing.append(svg("path", { d: frontPath(front, x, y), class: "front" }));
  for (const point of points) {
    const attributes = { "data-tip": pointTip(point, columns), "data-row": point.row.result };
    const doubtful = isDoubtful(point.row);
    const hollow = doubtful || open.includes(point);
    drawing.append(mark(point.row.variant, x(point.x), y(point.y), 4.5, hollow, attributes));
    if (doubtful) drawing.append(crossed(x(point.x), y(point.y), 5));
    if (point.row.result === chosen) {
      drawing.append(
        svg("circle", {
          cx: x(point.x),
          cy: y(point.y),
          r: 9,
          class: "chosen-ring",
          "pointer-events": "none",
        }),
      );
    }
  }
  drawing.append(...frontLabels(front, x, y, width));
  return drawing;
}

function listed(points) {
  const names = points.map(
    (point) => `${nameOf(point.row)}${point.row.variant ? ` (${point.row.variant})` : ""}`,
  );
  return names.length > 12
    ? `${names.slice(0, 12).join(", ")} and ${names.length - 12} more`
    : names.join(", ");
}

function frontSentence(front, open, columns, hasIntervals) {
  const ways = columns.map((column) => column.better);
  if (!ways.every(Boolean))
    return "One of these columns is neither better low nor high, so there is no Pareto front.";
  const way = columns
    .map((column) => `${column.better === "higher" ? "high" : "low"} “${column.heading}”`)
    .join(" and ");
  if (front.length === 0) return null;
  const within =
    open.length > 0
      ? ` Within their 95 % intervals, these can't be told from it: ${listed(open)}.`
      : hasIntervals
        ? " All others are beaten beyond their 95 % intervals."
        : "";
  return `Pareto front of ${way} (no other result shown is better in both): ${listed(front)}.${within}`;
}

// Of which model and when quality was published, by an example.
function publishedSentence(points, columns) {
  const example = points.find((point) => publishedAs(point.row));
  if (!example || !columns.some((column) => column.key === "quality")) return null;
  return ` Quality wasn't measured here: it was published. ${nameOf(example.row)} has the ${publishedAs(example.row)}.`;
}

function missingSentence(rows, points) {
  const missing = rows.length - points.length;
  if (missing === 0) return null;
  return ` ${missing} of ${rows.length} rows lack a figure in one of the columns and aren't drawn.`;
}

function scatterSection(rows) {
  const keys = axes();
  const columns = keys.map(columnOf);
  if (columns.some((column) => !column)) return null;
  const options = axisColumns().map((column) => [
    column.key,
    `${column.heading}${column.unit ? `, ${column.unit}` : ""}`,
  ]);
  const points = scatterPoints(rows, keys);
  // A logarithmic axis has no place for zero and less.
  const canLog = ["x", "y"].map((axis) => points.length > 0 && points.every((point) => point[axis] > 0));
  const wanted = chosenSet(state.log);
  const logs = ["x", "y"].map((axis, index) => wanted.has(axis) && canLog[index]);
  const toggle = (axis) => {
    const next = new Set(wanted);
    if (!next.delete(axis)) next.add(axis);
    update({ log: [...next].sort().join(",") });
  };
  const logBox = (axis, index) => {
    const box = html("input", {
      type: "checkbox",
      checked: logs[index],
      disabled: !canLog[index],
      id: `log-${axis}`,
    });
    box.addEventListener("change", () => toggle(axis));
    return html("label", { class: "check" }, box, `logarithmic ${axis}`);
  };
  const ways = columns.map((column) => column.better);
  // Times of what isn't the same model beat nothing.
  const reliable = ways.every(Boolean) ? points.filter((point) => !isDoubtful(point.row)) : [];
  const front = paretoFront(reliable, ways);
  const open = notToldFrom(front, reliable, ways);
  const hasIntervals = points.some((point) => point.xEnds || point.yEnds);
  const doubtful = points.filter((point) => isDoubtful(point.row));
  const axis = (label, id, key, change) => {
    const select = choice(options, key, change);
    select.id = id;
    return field(label, select);
  };
  return html(
    "section",
    { id: "scatter", "aria-labelledby": "scatter-title" },
    html("h2", { id: "scatter-title" }, "Two columns against each other"),
    html(
      "div",
      { class: "controls" },
      axis("Vertical", "axis-y", keys[1], (y) => update({ y })),
      axis("Horizontal", "axis-x", keys[0], (x) => update({ x })),
      html("button", { type: "button", onclick: () => update({ x: keys[1], y: keys[0] }) }, "Swap"),
      logBox("x", 0),
      logBox("y", 1),
    ),
    doubtfulNotice(doubtful.map((point) => point.row.result)),
    legend(
      variantsOf(points.map((point) => point.row)),
      ...(front.length > 1 ? [[line(0, 6, 16, 6, "front"), "Pareto front"]] : []),
      ...(open.length > 0 ? [[mark("base", 8, 6, 4, true), "hollow: not told from the front"]] : []),
      ...(doubtful.length > 0 ? [[crossed(8, 6, 4), "not to be relied on"]] : []),
    ),
    figure(
      null,
      (width) => scatterPlot(points, front, open, columns, logs, width),
      html(
        "figcaption",
        {},
        frontSentence(front, open, columns, hasIntervals),
        publishedSentence(points, columns),
        missingSentence(rows, points),
      ),
    ),
  );
}
