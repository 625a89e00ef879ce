// The data, and which of its rows are shown.

let data;

// The index of the result whose details are shown.
let chosen = -1;

// The results are compressed with deflate, which halves the page's size more than once.
async function unpack() {
  if (typeof DecompressionStream === "undefined") {
    throw new Error("this browser can't unpack the results (it lacks DecompressionStream)");
  }
  const packed = atob(document.getElementById("data").textContent.trim());
  const bytes = new Uint8Array(packed.length);
  for (let index = 0; index < packed.length; index += 1) bytes[index] = packed.charCodeAt(index);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).json();
}

function group() {
  return data.groups[Number(state.group)] ?? data.groups[0];
}

function columnAt(key) {
  return data.columns.findIndex((column) => column.key === key);
}

function columnOf(key) {
  return data.columns[columnAt(key)];
}

function isNumeric(column) {
  return column.kind !== "text";
}

// A cell's number, without its interval; NaN if it has none.
function numberOf(cell) {
  if (cell === null || cell === undefined || typeof cell === "string") return NaN;
  return typeof cell === "number" ? cell : cell.value;
}

function valueIn(row, key) {
  return numberOf(row.cells[columnAt(key)]);
}

function textIn(row, key) {
  return String(row.cells[columnAt(key)] ?? "");
}

// The first column names a result.
function nameOf(row) {
  return String(row.cells[0] ?? NONE);
}

// What a row's quality was published of; null without any.
function publishedAs(row) {
  const matched = textIn(row, "quality_match");
  return matched && `${textIn(row, "quality_metric") || "quality"}: ${matched}`;
}

function documentOf(row) {
  return data.results[row.result].document;
}

// Whether a row's times are of something else than they claim, or of nothing at all.
function isDoubtful(row) {
  return row.warnings.some((warning) => warning.level === "bad");
}

// In the data's order, but for quality, which stands before the costs.
function shownColumns() {
  const asked = chosenSet(state.columns);
  const shown = (column, index) => index === 0 || (state.columns ? asked.has(column.key) : column.shown);
  const columns = data.columns.filter(shown);
  const at = columns.findIndex((column) => isNumeric(column));
  if (at < 0) return columns;
  const [names, others] = [columns.slice(0, at), columns.slice(at)];
  const quality = others.filter((column) => column.key === "quality");
  return [...names, ...quality, ...others.filter((column) => column.key !== "quality")];
}

function variantsOf(rows) {
  return [...new Set(rows.map((row) => row.variant).filter(Boolean))];
}

// Which variants are shown. Unless something else is chosen, adapters: the base of each result
// stands behind their overheads.
function shownVariants() {
  if (state.variants) return chosenSet(state.variants);
  const all = variantsOf(group().rows);
  const adapters = all.filter((variant) => !variant.startsWith("base"));
  return new Set(adapters.length > 0 ? adapters : all);
}

// A column's filter as a test of cells; null if it can't be read. `< 5`, `>= 2`, `= 3`, `1 .. 5`,
// `none` for numbers; else text that the cell has, or with `!` hasn't.
function parseFilter(text, column) {
  const asked = text.trim();
  if (!isNumeric(column)) {
    const negated = asked.startsWith("!");
    const wanted = asked
      .slice(negated ? 1 : 0)
      .trim()
      .toLowerCase();
    return (cell) =>
      String(cell ?? "")
        .toLowerCase()
        .includes(wanted) !== negated;
  }
  if (/^none$/i.test(asked)) return (cell) => Number.isNaN(numberOf(cell));
  const number = "([-+\u2212]?[0-9]*\\.?[0-9]+(?:e[-+]?[0-9]+)?)";
  const read = (digits) => Number(digits.replace("\u2212", "-"));
  const range = asked.match(new RegExp(`^${number}\\s*(?:\\.\\.|…)\\s*${number}$`, "i"));
  if (range) {
    const [low, high] = [read(range[1]), read(range[2])];
    return (cell) => numberOf(cell) >= low && numberOf(cell) <= high;
  }
  const compared = asked.match(new RegExp(`^(<=|>=|<|>|==?|!=)\\s*${number}$`, "i"));
  if (!compared) return null;
  const limit = read(compared[2]);
  const tests = {
    "<": (value) => value < limit,
    "<=": (value) => value <= limit,
    ">": (value) => value > limit,
    ">=": (value) => value >= limit,
    "=": (value) => value === limit,
    "==": (value) => value === limit,
    "!=": (value) => value !== limit,
  };
  return (cell) => !Number.isNaN(numberOf(cell)) && tests[compared[1]](numberOf(cell));
}

function isShown(row, variants, tests, words) {
  // A result that failed before its variants were measured has a row without one.
  if (row.variant && !variants.has(row.variant)) return false;
  if (state.method && textIn(row, "method") !== state.method) return false;
  if (!tests.every(([index, test]) => test(row.cells[index]))) return false;
  if (words.length === 0) return true;
  const texts = [
    ...row.cells.filter((cell) => typeof cell === "string"),
    ...row.warnings.map((warning) => warning.short),
  ];
  const all = texts.join("\n").toLowerCase();
  return words.every((word) => all.includes(word));
}

function filteredRows(of = group()) {
  const variants = shownVariants();
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  const tests = [];
  for (const [key, text] of state.filters) {
    const index = columnAt(key);
    const test = index < 0 ? null : parseFilter(text, data.columns[index]);
    if (test) tests.push([index, test]);
  }
  return of.rows.filter((row) => isShown(row, variants, tests, words));
}

// Rows without a figure come last, whichever way the others are sorted.
function shownRows() {
  const rows = filteredRows();
  const descending = state.sort.startsWith("-");
  const key = state.sort.replace(/^-/, "");
  const index = columnAt(key);
  if (index < 0) return rows;
  const direction = descending ? -1 : 1;
  const numeric = isNumeric(data.columns[index]);
  const compare = (a, b) => {
    if (!numeric)
      return direction * String(a ?? "").localeCompare(String(b ?? ""), undefined, { numeric: true });
    const [left, right] = [numberOf(a), numberOf(b)];
    if (Number.isNaN(left) || Number.isNaN(right))
      return Number(Number.isNaN(left)) - Number(Number.isNaN(right));
    return direction * (left - right);
  };
  return [...rows].sort((a, b) => compare(a.cells[index], b.cells[index]));
}

// The result whose details are shown: the chosen one, or the first in the table that was measured.
function chosenResult(rows) {
  const asked = data.results.findIndex((result) => result.name === state.result);
  if (asked >= 0) return asked;
  const first = rows.find((row) => !isDoubtful(row)) ?? rows[0] ?? group().rows[0];
  return first?.result ?? -1;
}
