/** The list of slides: what the head says of each, and what is wrong with it. */

import { digits, element, percent } from "./dom.js";

export class SlideList {
  /** @param {{list: HTMLElement, filter: HTMLInputElement, count: HTMLElement}} parts @param {(number: number) => void} chosen */
  constructor(parts, chosen) {
    Object.assign(this, parts);
    this.chosen = chosen;
    this.rows = [];
    this.current = null;
    this.filter.addEventListener("input", () => this.#sift());
    this.list.addEventListener("click", (event) => {
      const row = event.target.closest("[role=option]");
      if (row) chosen(Number(row.dataset.number));
    });
    for (const node of [this.list, this.filter]) node.addEventListener("keydown", (event) => this.#key(event));
  }

  fill(slides, head) {
    this.head = head;
    this.rows = slides.map((slide) =>
      element("li", {
        role: "option",
        id: `slide-${slide.number}`,
        "data-number": slide.number,
        "aria-selected": "false",
      }),
    );
    this.slides = slides;
    slides.forEach((slide) => this.#write(slide));
    this.list.replaceChildren(...this.rows);
    this.#sift();
  }

  /** Put what was found since in the place of what was there. */
  update(slides) {
    for (const slide of slides) {
      this.slides[slide.number] = slide;
      this.#write(slide);
    }
  }

  select(number) {
    if (this.current !== null) this.rows[this.current].setAttribute("aria-selected", "false");
    this.current = number;
    this.rows[number].setAttribute("aria-selected", "true");
    this.rows[number].scrollIntoView({ block: "nearest" });
    this.list.setAttribute("aria-activedescendant", `slide-${number}`);
  }

  /** Go `step` slides on among those that the filter leaves. */
  step(step) {
    const left = this.rows.filter((row) => !row.hidden);
    if (!left.length) return;
    const at = left.findIndex((row) => Number(row.dataset.number) === this.current);
    const next = at < 0 ? 0 : Math.min(left.length - 1, Math.max(0, at + step));
    this.chosen(Number(left[next].dataset.number));
  }

  #key(event) {
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    event.preventDefault();
    event.stopPropagation();
    this.step(event.key === "ArrowDown" ? 1 : -1);
  }

  #sift() {
    const wanted = this.filter.value.trim().toLowerCase();
    let left = 0;
    this.rows.forEach((row, number) => {
      row.hidden = !this.slides[number].id.toLowerCase().includes(wanted);
      left += row.hidden ? 0 : 1;
    });
    this.count.textContent = left === this.rows.length ? `${left} slides` : `${left} of ${this.rows.length} slides`;
  }

  #write(slide) {
    this.rows[slide.number].replaceChildren(
      element("span", { className: "name", text: slide.id }),
      ...this.#verdict(slide),
      this.#flags(slide),
    );
  }

  #verdict(slide) {
    const { prediction } = slide;
    if (prediction === null) {
      if (slide.error) return [element("span", { className: "problem", text: `No prediction: ${slide.error}` })];
      return this.head && slide.pending ? [element("span", { className: "quiet", text: "prediction follows …" })] : [];
    }
    return [verdict(prediction, this.head)];
  }

  #flags(slide) {
    const flag = (kind, text, hint) => {
      const made = element("span", { className: `flag ${kind}`, text });
      made.dataset.hint = hint; // the row takes the focus, and not each of its flags
      return made;
    };
    const { prediction } = slide;
    const shares = Object.entries(slide.shares_read);
    return element(
      "span",
      { className: "flags" },
      prediction?.outside ? flag("warn", "unlike training", outsideSentence(prediction)) : null,
      prediction?.doubt ? flag("warn", "in doubt", doubtSentence(prediction)) : null,
      prediction?.settled ? flag("info", "settled", SETTLED) : null,
      shares.length
        ? flag(
            "info",
            `${shares.map(([label, share]) => `${label} ${percent(share)}`).join(", ")} read`,
            "These shares of the tiles that were planned were read; the others were left out by a budget.",
          )
        : null,
      slide.is_there === false
        ? flag(
            "gone",
            "file cannot be shown",
            slide.why ?? "The slide's file cannot be opened; what the store holds is still shown.",
          )
        : null,
    );
  }
}

export const SETTLED = "Reading ended here because the slide's class was settled by then.";

/** A class with its probability as a bar, or a number with its interval. */
export function verdict(prediction, head) {
  if (prediction.call !== null) {
    const called = /^\d+$/.test(prediction.call) ? `${head.target} ${prediction.call}` : prediction.call; // a bare number says nothing
    const share = prediction.probabilities[head.classes.indexOf(prediction.call)] ?? 0;
    const bar = element("span", { className: "bar" }, element("span", { className: "fill" }));
    bar.firstChild.style.width = `${100 * share}%`;
    const made = element(
      "span",
      { className: "verdict" },
      element("span", { className: "call", text: called }),
      bar,
      element("span", { className: "share", text: percent(share) }),
    );
    made.dataset.hint = `${prediction.calibrated ? "Calibrated probability" : "Probability, not calibrated,"} that ${head.target} is ${prediction.call}: ${percent(share)}.`;
    if (head.call_at !== null)
      made.dataset.hint += ` ${head.classes[1]} is called from a probability of ${percent(head.call_at)} on.`;
    return made;
  }
  const spread = prediction.low !== null && prediction.high !== null;
  const [text, hint] =
    head.outcome === "survival"
      ? [
          `${head.target}: risk ${digits(prediction.value)} of 100`,
          `Where the slide's risk lies among the training slides: 0 is the lowest and 100 the highest.`,
        ]
      : [
          `${head.target} ${digits(prediction.value)}${spread ? ` (${digits(prediction.low)} to ${digits(prediction.high)})` : ""}`,
          `What the head predicts for ${head.target}${spread ? ", with the interval that holds nine of ten new values" : ""}.`,
        ];
  const made = element("span", { className: "verdict number", text });
  made.dataset.hint = hint;
  return made;
}

export const doubtSentence = (prediction) => `This prediction is in doubt: ${prediction.doubt}`;

export function outsideSentence(prediction) {
  const { percentile } = prediction;
  const further =
    percentile === null
      ? ""
      : ` It lies further off than ${percentile >= 100 ? "all" : `${percentile.toFixed(0)} %`} of the training patients.`;
  return `This slide is unlike the slides that the head was fitted on, so its prediction may mean nothing.${further}`;
}
