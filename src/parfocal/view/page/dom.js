/** Elements made by hand: text goes in as text, never as markup. */

/**
 * Make an element.
 * @param {string} tag
 * @param {object} options `text`, `className`, `hint` (a sentence shown on hover, focus or tap), `on` (listeners); all else is an attribute.
 * @param {...(Node|string|null)} children nulls are left out.
 */
export function element(tag, options = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") made.textContent = value;
    else if (name === "className") made.className = value;
    else if (name === "hint") explain(made, value);
    else if (name === "on")
      for (const [event, listener] of Object.entries(value)) made.addEventListener(event, listener);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export const find = (id) => document.getElementById(id);

/** Say what a number means: shown on hover, on focus and on tap. */
export function explain(node, sentence) {
  node.dataset.hint = sentence;
  if (node.tabIndex < 0 && !node.closest("button, a")) node.tabIndex = 0;
  node.setAttribute("aria-description", sentence);
}

/** Show the sentences of `explain` in one box beside what they belong to. */
export function showHints(box) {
  const show = (event) => {
    const owner = event.target instanceof Element ? event.target.closest("[data-hint]") : null;
    const pressing = owner?.matches("button") && (event.type === "click" || event.pointerType === "touch"); // it does what it says
    box.hidden = owner === null || pressing;
    if (box.hidden) return;
    box.textContent = owner.dataset.hint;
    const place = owner.getBoundingClientRect();
    const size = box.getBoundingClientRect();
    const left = Math.min(Math.max(6, place.left), innerWidth - size.width - 6);
    const below = place.bottom + 6 + size.height <= innerHeight;
    box.style.left = `${left}px`;
    box.style.top = `${below ? place.bottom + 6 : Math.max(6, place.top - size.height - 6)}px`;
  };
  for (const event of ["pointerover", "focusin", "click"]) document.addEventListener(event, show);
  document.addEventListener("keydown", (event) => event.key === "Escape" && (box.hidden = true));
}

/** A number with its sign: +0.123, −12.3, and 0 without one. */
export function signed(value) {
  return value > 0 ? `+${digits(value)}` : digits(value);
}

/** A number of three significant digits, two where it is small. */
export function digits(value) {
  const size = Math.abs(value);
  const rounded = Number(size.toPrecision(size < 0.001 ? 2 : 3));
  const text = size >= 100 ? size.toFixed(0) : size === 0 || size >= 1e-6 ? String(rounded) : size.toExponential(1);
  return value < 0 ? `−${text}` : text;
}

export const percent = (share) => `${Number((100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0))} %`;
