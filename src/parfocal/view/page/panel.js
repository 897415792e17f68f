/** The panel beside the slide: what the head says of the slide and of a region, with the region's tiles. */

import { cropAddress } from "./api.js";
import { colourOf, css } from "./colours.js";
import { digits, element, percent, signed } from "./dom.js";
import { doubtSentence, outsideSentence, SETTLED, verdict } from "./slides.js";

const CROP_PX = 256; // of one tile at the coarsest magnification; finer tiles are shown smaller
const STATUS = {
  read: "This tile was read and embedded.",
  unread: "This tile lies in tissue and was not read, because a budget left it out.",
  absent: "There is no tile here: no tissue, or data that cannot be read.",
};

const heading = (text) => element("h2", { text });
const line = (text, className = null) => element("p", { text, className });

/** One row for each slide-level fact that the list has no room for. */
export function slideCard(slide, row, store, explanation) {
  const card = element("section", { className: "card", "aria-label": "This slide" }, heading(slide.id));
  if (!slide.is_there) card.append(line(slide.why ?? "The slide's file is not there.", "problem"));
  const facts = [];
  if (row.n_regions !== null)
    facts.push(`${row.n_regions.toLocaleString("en")} regions of ${digits(slide.region_um)} µm`);
  for (const magnification of store.magnifications) {
    const count = row.n_tiles?.[String(magnification.mpp)];
    if (count !== undefined) facts.push(`${count.toLocaleString("en")} tiles at ${magnification.label}`);
  }
  facts.push(`${(slide.size_um[0] / 1000).toFixed(1)} × ${(slide.size_um[1] / 1000).toFixed(1)} mm`);
  if (slide.mpp) facts.push(`${Number(slide.mpp.toPrecision(4))} µm per pixel at its finest`);
  card.append(line(facts.join(" · "), "quiet"));
  if (store.head === null) return card;

  if (row.prediction) {
    card.append(verdict(row.prediction, store.head));
    if (row.prediction.probabilities.length > 2) {
      const shares = store.head.classes.map((name, index) => `${name} ${percent(row.prediction.probabilities[index])}`);
      card.append(line(shares.join(" · "), "quiet"));
    }
    if (row.prediction.outside) card.append(line(outsideSentence(row.prediction), "problem"));
    if (row.prediction.doubt) card.append(line(doubtSentence(row.prediction), "problem"));
    if (row.prediction.settled) card.append(line(SETTLED, "quiet"));
  } else if (row.error) {
    card.append(line(`No prediction: ${row.error}`, "problem"));
  }
  if (explanation instanceof Error) card.append(line(explanation.message, "quiet"));
  else if (explanation) {
    card.append(line(scoreSentence(explanation, store.head.parts)));
    card.append(
      partBars(explanation.parts, store.head.parts, {
        what: "slide",
        start: {
          label: "base",
          value: explanation.baseline,
          hint: "What the head says with no magnification at all: where every slide starts.",
        },
        total: explanation.score,
      }),
    );
  } else if (slide.why_no_parts)
    card.append(line(`What its parts are cannot be said: ${slide.why_no_parts}`, "quiet"));
  else if (slide.explains) card.append(line("What each magnification says is being worked out …", "quiet"));
  return card;
}

/** What the score of a slide is and starts from, and its largest part, in the numbers of the bars. */
function scoreSentence({ score_of, score, baseline, parts }, names) {
  const largest = names.reduce((most, one) => (Math.abs(parts[one.key]) > Math.abs(parts[most.key]) ? one : most));
  return (
    `The score of ${score_of} before calibration is ${signed(score)}: ${signed(baseline)} with no magnification, ` +
    `and the largest part is ${largest.label}, which adds ${signed(parts[largest.key])}.`
  );
}

/** Signed bars of what each magnification and each pair adds, and whether they add up to the score. */
export function partBars(parts, names, { what, start = null, total }) {
  const rows = names
    .filter(({ key }) => key in parts)
    .map(({ key, label }) => ({ label, value: parts[key], hint: partSentence(key, label, what) }));
  if (start) rows.unshift(start);
  const longest = Math.max(...rows.map((row) => Math.abs(row.value)), 1e-12);
  const list = element("dl", { className: "bars" });
  for (const { label, value, hint } of rows) {
    const fill = element("span", { className: `fill ${value < 0 ? "below" : "above"}` });
    fill.style.width = `${(50 * Math.abs(value)) / longest}%`;
    list.append(
      element("dt", { text: label }),
      element(
        "dd",
        { hint },
        element("span", { className: "track" }, fill),
        element("span", { className: "value", text: signed(value) }),
      ),
    );
  }
  const sum = rows.reduce((so_far, row) => so_far + row.value, 0);
  const holds = Math.abs(sum - total) <= 1e-4 * Math.max(1, Math.abs(total), longest);
  const text = holds
    ? `These add up to ${signed(total)}, the ${what}'s score before calibration.`
    : `These sum to ${signed(sum)}; the ${what}'s score before calibration is ${signed(total)}.`;
  return element("div", { className: "parts" }, list, line(text, "sum"));
}

function partSentence(key, label, what) {
  return key.includes("+")
    ? `What ${label} add to the ${what}'s score only together, beyond what each says alone. No unit: it is a part of the score before calibration.`
    : `What ${label} adds to the ${what}'s score by itself. No unit: it is a part of the score before calibration.`;
}

/** A region: its tiles in their grids, and what it adds. */
export function regionCard(slide, region, tissue, store, close) {
  const button = element("button", {
    type: "button",
    className: "close",
    "aria-label": "Close the region",
    text: "×",
    on: { click: close },
  });
  const card = element(
    "section",
    { className: "card", "aria-label": `Region ${region.number}` },
    element("div", { className: "title" }, heading(`Region ${region.number}`), button),
  );
  const where = `At ${region.x_um.toFixed(0)}, ${region.y_um.toFixed(0)} µm from the slide's top left, ${digits(region.side_um)} µm wide`;
  card.append(line(tissue === null ? `${where}.` : `${where}, ${percent(tissue)} tissue.`, "quiet"));
  if (region.parts && store.head)
    card.append(partBars(region.parts, store.head.parts, { what: "region", total: region.score }));
  else if (region.why_no_parts && region.why_no_parts !== slide.why_no_parts) card.append(line(region.why_no_parts, "quiet"));

  const furthest = Math.max(
    0,
    ...Object.values(region.tiles)
      .flat()
      .map((tile) => Math.abs(tile.contribution ?? 0)),
  );
  const grids = element("div", { className: "grids" });
  for (const magnification of store.magnifications) {
    const tiles = region.tiles[String(magnification.mpp)];
    if (tiles) grids.append(tileGrid(slide, region, tiles, magnification, furthest));
  }
  card.append(grids);
  const legend = [];
  if (furthest > 0)
    legend.push("The border's colour is what a tile adds by itself: blue lowers the score, orange raises it.");
  if (grids.querySelector(".unread")) legend.push("Hatched: not read.");
  if (grids.querySelector(".absent")) legend.push("Dashed: no tile.");
  if (legend.length) card.append(line(legend.join(" "), "quiet"));
  return card;
}

function tileGrid(slide, region, tiles, magnification, furthest) {
  const counts = { read: 0, unread: 0, absent: 0 };
  const grid = element("div", { className: "grid" });
  for (const tile of tiles) {
    counts[tile.status]++;
    const box = element("div", { className: `tile ${tile.status}` });
    const place = {
      left: (tile.x_um - region.x_um) / region.side_um,
      top: (tile.y_um - region.y_um) / region.side_um,
      side: tile.side_um / region.side_um,
    };
    box.style.left = `${100 * place.left}%`;
    box.style.top = `${100 * place.top}%`;
    box.style.width = box.style.height = `${100 * place.side}%`;
    let hint = `${magnification.label} tile. ${STATUS[tile.status]}`;
    if (tile.contribution !== null && furthest > 0) {
      hint += ` By itself it adds ${signed(tile.contribution)} to the score before calibration.`;
      box.style.borderColor = css(colourOf(tile.contribution, -furthest, furthest, true));
      box.classList.add("weighed");
    }
    if (slide.is_there && tile.status !== "absent") {
      const px = Math.max(32, Math.round(CROP_PX * place.side));
      box.append(element("img", { src: cropAddress(slide.number, tile, px), alt: "", loading: "lazy" }));
    }
    box.setAttribute("role", "img");
    box.setAttribute("aria-label", hint);
    box.dataset.hint = hint;
    grid.append(box);
  }
  const words = [`${counts.read} read`];
  if (counts.unread) words.push(`${counts.unread} not read`);
  if (counts.absent) words.push(`${counts.absent} absent`);
  return element(
    "figure",
    { className: "tiles" },
    element("figcaption", { text: `${magnification.label}: ${words.join(", ")}` }),
    grid,
  );
}
