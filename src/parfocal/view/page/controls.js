/** Keys and buttons: each calls one of the actions that the page has. */

import { element, explain, find } from "./dom.js";

const STEP = 0.15; // of a pane's width, for one key
const ZOOM_STEP = 1.5;

/** Keys that work before a slide is there, too. */
const ALWAYS = ["?", "/", "n", "p", "Escape"];

function keysOf(actions) {
  return {
    ArrowLeft: () => actions.move(-STEP, 0),
    ArrowRight: () => actions.move(STEP, 0),
    ArrowUp: () => actions.move(0, -STEP),
    ArrowDown: () => actions.move(0, STEP),
    h: () => actions.move(-STEP, 0),
    l: () => actions.move(STEP, 0),
    k: () => actions.move(0, -STEP),
    j: () => actions.move(0, STEP),
    "+": () => actions.zoomBy(ZOOM_STEP),
    "=": () => actions.zoomBy(ZOOM_STEP),
    "-": () => actions.zoomBy(1 / ZOOM_STEP),
    0: actions.showWhole,
    o: () => actions.stepOverlay(1),
    O: () => actions.stepOverlay(-1),
    v: actions.linkAll,
    n: () => actions.stepSlide(1),
    p: () => actions.stepSlide(-1),
    "/": () => {
      openDrawer(true);
      find("filter").focus();
    },
    "?": () => find("help").showModal(),
    Escape: () => {
      if (document.body.classList.contains("drawer")) openDrawer(false);
      else if (document.activeElement === find("filter")) find("filter").blur();
      else actions.closeRegion();
    },
  };
}

/** Open or close the list of slides, where the page is too narrow for it. */
export function openDrawer(open) {
  document.body.classList.toggle("drawer", open);
  find("drawer").setAttribute("aria-expanded", String(open));
}

/** Say which magnifications have a pane. */
export function markPanes(labels) {
  for (const button of find("layouts").querySelectorAll("button"))
    button.setAttribute("aria-pressed", String(labels.includes(button.dataset.label)));
}

/**
 * Make the buttons of the magnifications, and listen to buttons and keys.
 * @param {{mpp: number, label: string}[]} magnifications coarse to fine.
 * @param {object} actions what they do; `ready()` says whether a slide is there to do it to.
 */
export function connect(magnifications, actions) {
  const button = (text, hint, click, more = {}) =>
    element("button", { type: "button", text, hint, on: { click }, ...more });
  find("zooms").append(
    element("span", { className: "name", text: "Zoom" }),
    button("−", "Zoom out (key −).", () => actions.zoomBy(1 / ZOOM_STEP), { "aria-label": "Zoom out" }),
    button("+", "Zoom in (key +).", () => actions.zoomBy(ZOOM_STEP), { "aria-label": "Zoom in" }),
    button("whole", "The whole slide (key 0).", actions.showWhole),
    ...magnifications.map(({ label, mpp }, index) =>
      button(label, `${mpp} µm per pixel (key ${index + 1}).`, () => actions.zoomTo(index)),
    ),
  );
  find("layouts").append(
    element("span", { className: "name", text: "Linked panes" }),
    ...magnifications.map(({ label }) => {
      const hint = `A pane at ${label} beside the others; all move together (key v for all).`;
      return button(label, hint, () => actions.togglePane(label), { "data-label": label, "aria-pressed": "false" });
    }),
  );
  find("opacity").addEventListener("input", (event) => actions.fade(Number(event.target.value)));
  explain(find("opacity"), "How much of the slide the overlay covers.");
  find("drawer").addEventListener("click", () => openDrawer(!document.body.classList.contains("drawer")));
  find("theme").addEventListener("click", actions.switchTheme);
  find("keys").addEventListener("click", () => find("help").showModal());
  find("close-help").addEventListener("click", () => find("help").close());
  find("error").addEventListener("click", () => (find("error").hidden = true));

  const keys = keysOf(actions);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || find("help").open) return;
    if (event.target instanceof HTMLInputElement && event.key !== "Escape") return;
    const digit = Number(event.key);
    const zooms = digit >= 1 && digit <= magnifications.length;
    const does = zooms ? () => actions.zoomTo(digit - 1) : keys[event.key];
    if (!does || !(actions.ready() || ALWAYS.includes(event.key))) return;
    event.preventDefault();
    does();
  });
}
