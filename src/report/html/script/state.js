// What the reader has chosen, kept in the address' fragment, so that a link shows the same view.

const UNCHOSEN = {
  group: "0",
  sort: "",
  q: "",
  method: "",
  variants: "",
  columns: "",
  x: "",
  y: "",
  log: "",
  category: "",
  theme: "",
  result: "",
};
const FILTER = "where.";

const state = { ...UNCHOSEN, filters: new Map() };

function readFragment() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const key of Object.keys(UNCHOSEN)) state[key] = given.get(key) ?? UNCHOSEN[key];
  state.filters = new Map();
  for (const [key, value] of given) {
    if (key.startsWith(FILTER) && value) state.filters.set(key.slice(FILTER.length), value);
  }
}

function writeFragment() {
  const shown = new URLSearchParams();
  for (const [key, unchosen] of Object.entries(UNCHOSEN))
    if (state[key] !== unchosen) shown.set(key, state[key]);
  for (const [key, value] of state.filters) shown.set(FILTER + key, value);
  const fragment = `#${shown}`;
  if (fragment === (location.hash || "#")) return;
  // Typing into a filter shouldn't fill the history.
  history.replaceState(null, "", fragment === "#" ? location.href.split("#")[0] : fragment);
}

function chosenSet(text) {
  return new Set(text.split(",").filter(Boolean));
}
