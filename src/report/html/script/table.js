// The table of the group that is shown.

const table = html("div", { id: "table" });
const counted = html("p", { class: "quiet small", role: "status" });

function badges(row) {
  return row.warnings.map((warning) =>
    html("span", { class: `badge ${warning.level}`, "data-tip": warning.text }, warning.short),
  );
}

// One column's drawing of intervals: all of its cells share this scale.
function cellScale(column, rows) {
  const index = columnAt(column.key);
  const cells = rows
    .map((row) => row.cells[index])
    .filter((cell) => cell?.low !== undefined && cell.low !== null);
  if (cells.length === 0) return null;
  const lows = sorted(cells.map((cell) => cell.low));
  const highs = sorted(cells.map((cell) => cell.high));
  // One very wide interval shouldn't press all others flat.
  const domain = [Math.min(0, quantile(lows, 0.03)), Math.max(0, quantile(highs, 0.97))];
  return linear(domain, [6, 106]);
}

function drawnCell(scale, row, cell) {
  const drawing = svg("svg", { width: 112, height: 16, "aria-hidden": "true" });
  if (scale) {
    drawing.append(line(scale(0), 0, scale(0), 16, "zero faint"));
    if (cell?.low !== undefined && cell?.low !== null) {
      const whole = whisker(row.variant, scale, [cell.low, cell.high], 8, scale.domain, !cell.detected);
      if (whole) drawing.append(whole);
      const inside = cell.value >= scale.domain[0] && cell.value <= scale.domain[1];
      if (inside) drawing.append(mark(row.variant, scale(cell.value), 8, 3, !cell.detected));
    }
  }
  return html("td", { class: "drawn" }, drawing);
}

function cellsOf(column, row, decimals, scale) {
  const cell = row.cells[columnAt(column.key)];
  if (column.key === "variant") {
    return html(
      "td",
      {},
      row.variant && html("span", { class: `variant ${variantClass(row.variant).slice(2)}` }, row.variant),
    );
  }
  if (!isNumeric(column)) return html("td", { class: "text" }, cell ?? NONE);
  if (column.kind !== "interval") {
    const about = column.key === "quality" ? publishedAs(row) : null;
    return html("td", { class: "number", "data-tip": about || null }, decimal(numberOf(cell), decimals));
  }
  const hasInterval = cell?.low !== undefined && cell?.low !== null;
  const text = decimal(numberOf(cell), decimals, true);
  const tip = hasInterval
    ? `95 % interval: ${interval([cell.low, cell.high], decimals)}${unitOf(column)}${cell.detected ? "" : `\n${undetected(cell)}`}`
    : null;
  const between =
    hasInterval && html("span", { class: "interval" }, ` [${interval([cell.low, cell.high], decimals)}]`);
  return [html("td", { class: "number", "data-tip": tip }, text, between), drawnCell(scale, row, cell)];
}

function decimalsOf(column, rows) {
  if (column.kind === "count") return 0;
  if (Number.isInteger(column.decimals)) return column.decimals;
  return column.kind === "interval" ? 1 : decimalsFor(rows.map((row) => valueIn(row, column.key)));
}

function bodyRow(row, columns, decimals, scales) {
  const [, ...others] = columns;
  const choose = () => update({ result: data.results[row.result].name }, { goTo: "detail" });
  const name = html(
    "th",
    { scope: "row" },
    html(
      "button",
      {
        type: "button",
        class: "plain link",
        onclick: choose,
        "aria-label": `${nameOf(row)}: show its details`,
      },
      nameOf(row),
    ),
    badges(row),
  );
  const attributes = {
    class: isDoubtful(row) && "doubtful",
    "aria-current": row.result === chosen && "true",
  };
  return html(
    "tr",
    attributes,
    name,
    others.map((column) => cellsOf(column, row, decimals.get(column.key), scales.get(column.key))),
  );
}

function sortBy(key) {
  const next = state.sort === key ? `-${key}` : state.sort === `-${key}` ? "" : key;
  update({ sort: next });
}

function heading(column, extra) {
  const sortedBy = state.sort.replace(/^-/, "") === column.key;
  const descending = state.sort.startsWith("-");
  const arrow = html(
    "span",
    { class: "arrow", "aria-hidden": "true" },
    sortedBy ? (descending ? "▾" : "▴") : "",
  );
  const unit = column.unit && html("span", { class: "unit" }, ` ${column.unit}`);
  const button = html(
    "button",
    {
      type: "button",
      class: "plain",
      "data-tip": column.meaning,
      "aria-description": column.meaning,
      onclick: () => sortBy(column.key),
    },
    column.heading,
    unit,
    arrow,
  );
  return html(
    "th",
    {
      scope: "col",
      class: isNumeric(column) ? "number" : null,
      colspan: column.kind === "interval" ? 2 : null,
      "aria-sort": sortedBy ? (descending ? "descending" : "ascending") : "none",
      "data-key": column.key,
    },
    button,
    extra,
  );
}

function filterBox(column) {
  const input = html("input", {
    type: "text",
    value: state.filters.get(column.key) ?? "",
    spellcheck: "false",
    autocomplete: "off",
    "aria-label": `Filter ${column.heading}`,
    placeholder: isNumeric(column) ? "< 5" : "text",
    "data-tip": isNumeric(column)
      ? "< 5, >= 2, = 3, 1 .. 5, or none for cells without a figure"
      : "text that the cell has; !text for cells without it",
    oninput: () => {
      const asked = input.value.trim();
      const invalid = asked !== "" && parseFilter(asked, column) === null;
      input.setAttribute("aria-invalid", String(invalid));
      const filters = new Map(state.filters);
      if (asked) filters.set(column.key, asked);
      else filters.delete(column.key);
      update({ filters }, { keepHead: true });
    },
  });
  input.setAttribute("aria-invalid", String(input.value !== "" && parseFilter(input.value, column) === null));
  return html("th", { class: "filter", colspan: column.kind === "interval" ? 2 : null }, input);
}

function drawTable(rows, keepHead) {
  const columns = shownColumns();
  const all = group().rows;
  const decimals = new Map(columns.map((column) => [column.key, decimalsOf(column, all)]));
  const scales = new Map(
    columns
      .filter((column) => column.kind === "interval")
      .map((column) => [column.key, cellScale(column, all)]),
  );
  const body = html(
    "tbody",
    {},
    rows.map((row) => bodyRow(row, columns, decimals, scales)),
  );
  if (rows.length === 0)
    body.append(html("tr", {}, html("td", { colspan: "99" }, "Nothing passes these filters.")));
  const old = table.querySelector("table");
  if (keepHead && old) {
    old.tBodies[0].replaceWith(body);
  } else {
    const focused = document.activeElement?.closest?.("#table th")?.dataset.key;
    const head = html(
      "thead",
      {},
      html(
        "tr",
        {},
        columns.map((column) => heading(column)),
      ),
    );
    if (filtersShown()) head.append(html("tr", {}, columns.map(filterBox)));
    const scroller = html(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table of results" },
      html("table", { "aria-label": "Results" }, head, body),
    );
    const scrolled = table.querySelector(".scroll");
    const [left, top] = [scrolled?.scrollLeft ?? 0, scrolled?.scrollTop ?? 0];
    table.replaceChildren(scroller);
    scroller.scrollTo({ left, top, behavior: "instant" });
    // The heading that was pressed is a new element now, but still the one that the keyboard is at.
    const button =
      focused && [...table.querySelectorAll("th[data-key]")].find((cell) => cell.dataset.key === focused);
    button?.querySelector("button").focus({ preventScroll: true });
  }
  const results = new Set(rows.map((row) => row.result)).size;
  counted.textContent = `${rows.length} of ${all.length} rows, of ${results} ${results === 1 ? "result" : "results"}`;
}

let filtersOpen = false;

function filtersShown() {
  return filtersOpen || state.filters.size > 0;
}

// Every column with its meaning, to be switched on and off.
function columnChooser() {
  const shown = new Set(shownColumns().map((column) => column.key));
  const toggle = (column, on) => {
    if (on) shown.add(column.key);
    else shown.delete(column.key);
    const isUsual = data.columns.every((other, index) => index === 0 || other.shown === shown.has(other.key));
    const keys = data.columns.map((other) => other.key).filter((key) => shown.has(key));
    update({ columns: isUsual ? "" : keys.join(",") });
  };
  const entry = (column, index) => {
    const box = html("input", {
      type: "checkbox",
      checked: shown.has(column.key),
      disabled: index === 0,
      value: column.key,
    });
    box.addEventListener("change", () => toggle(column, box.checked));
    return html(
      "li",
      {},
      html(
        "label",
        { class: "check" },
        box,
        html("span", {}, column.heading, html("span", { class: "unit" }, unitOf(column))),
      ),
      html("span", { class: "quiet" }, column.meaning),
    );
  };
  return html(
    "details",
    { class: "chooser" },
    html("summary", {}, "Columns and what they mean"),
    html("ul", {}, data.columns.map(entry)),
    html(
      "button",
      {
        type: "button",
        onclick: () => {
          update({ columns: "" });
          refreshControls();
        },
      },
      "The usual columns",
    ),
  );
}
