// How figures are written.

const THIN = "\u202f";
const NONE = "–";

// `value` with a set number of decimals, thin spaces between thousands, and a real minus sign.
function decimal(value, decimals, signed = false) {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  const [whole, part] = Math.abs(value).toFixed(decimals).split(".");
  const spaced = whole.replace(/\B(?=(\d{3})+$)/g, THIN);
  const digits = part ? `${spaced}.${part}` : spaced;
  // What rounds to zero has no sign.
  const zero = Number(Math.abs(value).toFixed(decimals)) === 0;
  if (zero) return digits;
  if (value < 0) return `\u2212${digits}`;
  return signed ? `+${digits}` : digits;
}

// Decimals that give the middle one of `values` about three significant digits.
function decimalsFor(values) {
  const sizes = values
    .filter((value) => Number.isFinite(value) && value !== 0)
    .map(Math.abs)
    .sort((a, b) => a - b);
  if (sizes.length === 0) return 0;
  const middle = sizes[Math.floor(sizes.length / 2)];
  return Math.min(6, Math.max(0, 2 - Math.floor(Math.log10(middle))));
}

function significant(value, digits = 3) {
  if (!Number.isFinite(value)) return NONE;
  return decimal(
    value,
    value === 0 ? 0 : Math.min(9, Math.max(0, digits - 1 - Math.floor(Math.log10(Math.abs(value))))),
  );
}

function milliseconds(seconds) {
  return Number.isFinite(seconds) ? `${significant(seconds * 1e3)}${THIN}ms` : NONE;
}

// Any time, in the unit that fits it.
function duration(seconds) {
  if (!Number.isFinite(seconds)) return NONE;
  const size = Math.abs(seconds);
  if (size < 1e-3) return `${significant(seconds * 1e6)}${THIN}µs`;
  if (size < 1) return milliseconds(seconds);
  return `${significant(seconds)}${THIN}s`;
}

function percent(value) {
  return `${decimal(value, 1, true)}${THIN}%`;
}

function interval([low, high], decimals = 1, signed = true) {
  return `${decimal(low, decimals, signed)} … ${decimal(high, decimals, signed)}`;
}

function unitOf(column) {
  return column.unit ? ` ${column.unit}` : "";
}

// The share `q` of sorted values lies below this; linear between two, as NumPy does it and as the
// program does.
function quantile(sorted, q) {
  if (sorted.length === 0) return NaN;
  const position = q * (sorted.length - 1);
  const below = Math.floor(position);
  const above = Math.ceil(position);
  return sorted[below] + (sorted[above] - sorted[below]) * (position - below);
}

function sorted(values) {
  return values.filter(Number.isFinite).sort((a, b) => a - b);
}
