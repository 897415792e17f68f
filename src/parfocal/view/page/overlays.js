/** The overlays of a slide: which there are, their values once they are asked for, and the colour bar of the one on view. */

import * as api from "./api.js";
import { ends, gradient, paintOf } from "./colours.js";
import { digits, element, explain, signed } from "./dom.js";

export const NONE = "none"; // regions only
export const OWN = "own"; // each of the linked panes shows the overlay of its own magnification
export const ALIKE = "similar"; // how much each region is like the chosen one

export class Overlays {
  constructor(slide, list) {
    this.slide = slide;
    this.list = list;
    this.asked = new Map();
    this.known = new Map();
  }

  /** What can be chosen, given how many panes there are and which region is chosen. */
  choices(panes, region) {
    const own = panes > 1 && this.list.some((overlay) => overlay.mpp);
    return [
      { key: NONE, label: "Regions only", about: "The regions that were planned, without colours." },
      ...(own
        ? [{ key: OWN, label: "Each pane its own", about: "Each pane shows the overlay of its own magnification." }]
        : []),
      ...this.list,
      ...(region === null ? [] : [likeness(region)]),
    ];
  }

  /** Which overlay a choice is in a pane of some magnification; null for none. */
  of(choice, magnification, region) {
    if (choice === ALIKE) return region === null ? null : likeness(region);
    if (choice !== OWN) return this.list.find((overlay) => overlay.key === choice) ?? null;
    return this.list.find((overlay) => overlay.mpp && Number(overlay.mpp) === magnification?.mpp) ?? null;
  }

  /** The overlay with its values; they are asked for once. */
  async fetch(overlay) {
    const name = overlay.name ?? overlay.key;
    if (!this.asked.has(name)) {
      const asked =
        overlay.key === ALIKE ? api.likeness(this.slide, overlay.region) : api.overlay(this.slide, overlay.key);
      this.asked.set(
        name,
        asked.then((values) => this.known.set(name, { ...overlay, ...values })),
      );
      asked.catch(() => this.asked.delete(name));
    }
    await this.asked.get(name);
    return this.known.get(name);
  }

  #found(choice, magnification, region) {
    const overlay = this.of(choice, magnification, region);
    return overlay ? this.known.get(overlay.name ?? overlay.key) : undefined;
  }

  /** Colours of the regions in a pane of this magnification; null without an overlay. */
  colours(choice, magnification, chosen, opacity) {
    const overlay = this.#found(choice, magnification, chosen);
    return overlay ? paintOf(overlay, opacity) : null;
  }

  /** What the chosen overlay says of one region, as text. */
  say(choice, magnification, chosen, region) {
    const overlay = this.#found(choice, magnification, chosen);
    if (!overlay) return `Region ${region}`;
    const value = overlay.values[region];
    if (value === null) return `Region ${region} · ${overlay.label}: no value`;
    return `Region ${region} · ${overlay.label}: ${overlay.diverging ? signed(value) : digits(value)}${overlay.unit ? ` (${overlay.unit})` : ""}`;
  }
}

const likeness = (region) => ({
  key: ALIKE,
  name: `${ALIKE} ${region}`,
  region,
  label: `like region ${region}`,
  unit: "cosine",
  diverging: false,
  mpp: null,
  about: `How much the embedding of each region is like that of region ${region}: 1 is the same, 0 has nothing in common, and below 0 it is the opposite.`,
});

/** The colour bar of an overlay, with its unit and numbers. */
export function colourBar(overlay) {
  const [low, high] = ends(overlay);
  const write = overlay.diverging ? signed : digits;
  const beyond = (is) => overlay.values.some((value) => value !== null && is(value));
  const strip = element("span", { className: "strip", text: overlay.diverging ? "0" : null });
  strip.style.background = gradient(overlay.diverging);
  const bar = element(
    "div",
    { className: "colour-bar", "data-key": overlay.key },
    element("span", { className: "title", text: overlay.label }),
    element("span", { text: `${beyond((value) => value < low) ? "≤ " : ""}${write(low)}` }),
    strip,
    element("span", { text: `${beyond((value) => value > high) ? "≥ " : ""}${write(high)}` }),
    element("span", { className: "quiet", text: overlay.unit }),
  );
  explain(bar, overlay.about ?? overlay.label);
  return bar;
}
