// Elements are made node by node, never from a string of HTML, so that no name out of a result file
// can become markup.

function make(space, tag, attributes, children) {
  const element = document.createElementNS(space, tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  const shown = children
    .flat(Infinity)
    .filter((child) => child !== null && child !== undefined && child !== false);
  element.append(...shown);
  return element;
}

function html(tag, attributes = {}, ...children) {
  return make("http://www.w3.org/1999/xhtml", tag, attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return make("http://www.w3.org/2000/svg", tag, attributes, children);
}

function field(label, control) {
  return html("label", { class: "field" }, html("span", {}, label), control);
}

// A `select` of `options`, each `[value, text]`.
function choice(options, chosen, onchange) {
  const select = html("select", { onchange: () => onchange(select.value) });
  for (const [value, text] of options)
    select.append(html("option", { value, selected: value === chosen }, text));
  return select;
}

// Buttons of which one is pressed; `options` are `[value, text]`.
function segments(label, options, chosen, onchoose) {
  const buttons = options.map(([value, text]) =>
    html(
      "button",
      { type: "button", "aria-pressed": String(value === chosen), onclick: () => onchoose(value) },
      text,
    ),
  );
  return html(
    "div",
    { class: "field fixed" },
    html("span", {}, label),
    html("div", { class: "segments", role: "group", "aria-label": label }, buttons),
  );
}

// One box for the explanations of everything that has `data-tip`, by pointer and by keyboard.
function followTips() {
  const tip = html("div", { id: "tip", role: "tooltip", hidden: true });
  document.body.append(tip);
  const show = (event) => {
    const target = event.target.closest?.("[data-tip]");
    tip.hidden = !target;
    if (!target) return;
    tip.textContent = target.dataset.tip;
    const box = target.getBoundingClientRect();
    const from =
      event.type === "pointerover" && target.namespaceURI.endsWith("svg")
        ? { left: event.clientX, top: event.clientY - 8, bottom: event.clientY + 12 }
        : box;
    const { width, height } = tip.getBoundingClientRect();
    const left = Math.min(Math.max(8, from.left), innerWidth - width - 8);
    const above = from.top - height - 6;
    tip.style.left = `${left}px`;
    tip.style.top = `${above >= 8 ? above : from.bottom + 6}px`;
  };
  const hide = () => {
    tip.hidden = true;
  };
  document.addEventListener("pointerover", show);
  document.addEventListener("focusin", show);
  document.addEventListener("focusout", hide);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hide();
  });
  document.addEventListener("scroll", hide, { capture: true, passive: true });
}
