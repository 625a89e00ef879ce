// The page: controls, and what is drawn anew when a choice changes.

const app = document.getElementById("app");
const controls = html("div", { class: "controls" });
const groupArea = html("div");
const chooserArea = html("div");
const plots = html("div");

// Changes what is chosen, keeps it in the address, and draws what depends on it.
function update(change, { keepHead = false, goTo = null } = {}) {
  const otherGroup = change.group !== undefined && change.group !== state.group;
  Object.assign(state, change);
  if (otherGroup) state.result = "";
  writeFragment();
  if (otherGroup) drawGroup();
  draw(keepHead);
  if (goTo) {
    const target = document.getElementById(goTo);
    target.scrollIntoView({ block: "start" });
    target.focus({ preventScroll: true });
  }
}

function draw(keepHead) {
  const rows = shownRows();
  chosen = chosenResult(rows);
  drawTable(rows, keepHead);
  drawDetail();
  // Controls stand among the plots, and one of them may be in use.
  const focused = document.activeElement?.id;
  const pressed = document.activeElement?.closest?.("#overheads, #scatter")
    ? document.activeElement.textContent
    : null;
  const section = document.activeElement?.closest?.("#overheads, #scatter")?.id;
  plots.replaceChildren(...[forestSection(rows), scatterSection(rows)].filter(Boolean));
  if (focused && !document.activeElement?.id)
    document.getElementById(focused)?.focus({ preventScroll: true });
  else if (pressed) {
    const again = [...document.querySelectorAll(`#${section} button`)].find(
      (button) => button.textContent === pressed,
    );
    again?.focus({ preventScroll: true });
  }
  drawFigures();
}

// What differs between groups, and what all results of this one have in common.
function drawGroup() {
  const current = group();
  const several = data.groups.length > 1;
  const tabs =
    several &&
    html(
      "nav",
      { class: "groups", "aria-label": "Groups of results that can be compared" },
      data.groups.map((each, index) =>
        html(
          "button",
          {
            type: "button",
            "aria-pressed": String(each === current),
            onclick: () => update({ group: String(index) }),
          },
          each.title,
          html("span", {}, `${new Set(each.rows.map((row) => row.result)).size} results`),
        ),
      ),
    );
  groupArea.replaceChildren(
    ...[
      several &&
        html(
          "p",
          { class: "quiet" },
          "Results that can't be compared, since they differ by machine, model, precision, prompts or the like, stand in groups of their own.",
        ),
      tabs,
      html("h2", {}, several ? current.title : "Results"),
      several &&
        current.differs_by?.length > 0 &&
        html("p", {}, `Differs from the first group by ${current.differs_by.join(", ")}.`),
      environment(current),
      warningsOf(current),
    ].filter(Boolean),
  );
  refreshControls();
}

function environment(of) {
  return html(
    "section",
    { "aria-label": "Environment" },
    facts(of.environment.map(({ name, value }) => [name, value])),
  );
}

// One line for each kind of warning, with the results that it is about.
function warningsOf(of) {
  const kinds = new Map();
  for (const row of of.rows) {
    for (const warning of row.warnings) {
      if (!kinds.has(warning.short))
        kinds.set(warning.short, { ...warning, rows: new Map(), texts: new Set() });
      const { rows, texts } = kinds.get(warning.short);
      texts.add(warning.text);
      if (!rows.has(row.result)) rows.set(row.result, nameOf(row));
    }
  }
  if (kinds.size === 0) return null;
  const order = ["bad", "warn", "note"];
  const all = [...kinds.values()].sort((a, b) => order.indexOf(a.level) - order.indexOf(b.level));
  const total = new Set(of.rows.map((row) => row.result)).size;
  return html(
    "ul",
    { class: "warnings", "aria-label": "Warnings" },
    all.map((kind) =>
      html(
        "li",
        { class: `warning ${kind.level}` },
        html("strong", {}, kind.short),
        `: ${kind.rows.size} of ${total} results`,
        kind.rows.size <= 5 && [
          ": ",
          [...kind.rows].map(([result, name], index) => [
            index > 0 && ", ",
            html(
              "button",
              {
                type: "button",
                class: "plain link",
                onclick: () => update({ result: data.results[result].name }, { goTo: "detail" }),
              },
              name,
            ),
          ]),
        ],
        kind.rows.size === 1 || kind.texts.size === 1 ? `. ${kind.text}` : null,
        kind.rows.size > 1 &&
          html(
            "span",
            {},
            " · ",
            html(
              "button",
              {
                type: "button",
                class: "plain link",
                onclick: () => {
                  update({ q: kind.short });
                  refreshControls();
                },
              },
              "show only these",
            ),
          ),
      ),
    ),
  );
}

// Controls keep their place while a reader types, so they're made once for a group, and again when
// the address changes.
function refreshControls() {
  const rows = group().rows;
  const search = html("input", {
    type: "search",
    id: "search",
    value: state.q,
    placeholder: "any text",
    spellcheck: "false",
    oninput: () => update({ q: search.value }, { keepHead: true }),
  });
  const methods = [...new Set(rows.map((row) => textIn(row, "method")).filter(Boolean))].sort();
  const method = choice([["", "all"], ...methods.map((name) => [name, name])], state.method, (name) =>
    update({ method: name }, { keepHead: true }),
  );
  method.id = "method";
  const all = variantsOf(rows);
  const shown = shownVariants();
  const boxes = all.map((variant) => {
    const box = html("input", { type: "checkbox", checked: shown.has(variant), value: variant });
    box.addEventListener("change", () => {
      if (box.checked) shown.add(variant);
      else shown.delete(variant);
      // An empty choice means the usual one, so the last box stays.
      if (shown.size === 0) shown.add(variant);
      box.checked = shown.has(variant);
      update({ variants: all.filter((name) => shown.has(name)).join(",") }, { keepHead: true });
    });
    return html(
      "label",
      { class: "check" },
      box,
      html("span", { class: `variant ${variantClass(variant).slice(2)}` }, variant),
    );
  });
  const filters = html(
    "button",
    {
      type: "button",
      id: "filters",
      "aria-pressed": String(filtersShown()),
      onclick: () => {
        const close = filtersShown();
        filtersOpen = !close;
        filters.setAttribute("aria-pressed", String(!close));
        update(close ? { filters: new Map() } : {});
      },
    },
    "Filter by column",
  );
  const reset = html(
    "button",
    {
      type: "button",
      onclick: () => {
        filtersOpen = false;
        update({ ...UNCHOSEN, group: state.group, theme: state.theme, filters: new Map() });
        refreshControls();
      },
    },
    "Reset",
  );
  controls.replaceChildren(
    ...[
      field("Search", search),
      methods.length > 1 && field("Method", method),
      all.length > 1 &&
        html(
          "div",
          { class: "field fixed", role: "group", "aria-label": "Variants" },
          html("span", {}, "Variants"),
          html("div", { class: "checks" }, boxes),
        ),
      filters,
      reset,
    ].filter(Boolean),
  );
  const open = chooserArea.querySelector("details")?.open;
  const chooser = columnChooser();
  chooser.open = Boolean(open);
  chooserArea.replaceChildren(chooser);
}

function drawTheme() {
  if (state.theme) document.documentElement.dataset.theme = state.theme;
  else delete document.documentElement.dataset.theme;
  const set = (theme) => {
    update({ theme });
    drawTheme();
  };
  const options = [
    ["", "as the system"],
    ["light", "light"],
    ["dark", "dark"],
  ];
  const focused = document.activeElement?.closest?.("#theme");
  document.getElementById("theme").replaceChildren(segments("Colours", options, state.theme, set));
  if (focused) document.querySelector('#theme [aria-pressed="true"]').focus();
}

// A mark in a plot shows its result's details.
function followMarks() {
  document.addEventListener("click", (event) => {
    const marked = event.target.closest?.("[data-row]");
    if (marked) update({ result: data.results[Number(marked.dataset.row)].name }, { goTo: "detail" });
  });
}

function followWidth() {
  let waiting = false;
  new ResizeObserver(() => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      drawFigures();
    });
  }).observe(app);
}

function restore() {
  readFragment();
  drawTheme();
  drawGroup();
  draw(false);
}

async function start() {
  data = await unpack();
  if (data.groups.length === 0) return;
  document.getElementById("static").hidden = true;
  app.hidden = false;
  app.append(groupArea, controls, counted, chooserArea, table, plots, detail);
  followTips();
  followMarks();
  restore();
  followWidth();
  addEventListener("hashchange", restore);
  // Whoever tests the page learns when it was ready, in milliseconds.
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
}

start().catch((error) => {
  // The summary stays, and the reader learns why there is no more than that.
  document.getElementById("static").hidden = false;
  app.hidden = true;
  const trouble = document.getElementById("trouble");
  trouble.hidden = false;
  trouble.textContent = `Only the summary is shown: ${error.message}.`;
  console.error(error);
});
