/** Small pictures of regions elsewhere on the cohort: those like a region, and both ends of a direction. */

import { cropAddress } from "./api.js";
import { digits, element, signed } from "./dom.js";

const CROP_PX = 96;
const ENDS =
  "Each direction of a pair lies in one magnification. A region that lies at the same end of both, top or bottom, raises the score; one that lies at opposite ends lowers it.";

/** The regions that are most like the chosen one. */
export function similarCard(regions, store, go) {
  const about = "The regions of all slides whose embeddings are most like this one's; a click goes there.";
  const describe = ({ similarity }) => ({
    text: digits(similarity),
    hint: `Similarity ${digits(similarity)}: the cosine between the two regions' embeddings, 1 for the same, 0 for nothing in common, and below 0 for opposites.`,
  });
  return regionList("Most similar regions", about, regions, store.region_um, describe, go);
}

/** The directions of a contrast head, and the regions at both ends of the chosen one. */
export function directionCards(directions, chosen, store, choose, go) {
  if (!directions.length) return [];
  const about =
    "A contrast head compares magnifications along these directions. The regions at both ends show what each is about.";
  const buttons = directions.map(({ number, label }) =>
    element("button", {
      type: "button",
      text: label,
      "aria-pressed": String(chosen?.number === number),
      on: { click: () => choose(number) },
    }),
  );
  const card = element(
    "section",
    { className: "card" },
    element("h2", { text: "Directions", hint: about }),
    element("p", { className: "quiet", text: ENDS }),
    element("div", { className: "group" }, ...buttons),
  );
  if (!chosen?.ends) return [card];
  const { label, n_seen: seen, n_slides: all } = chosen.ends;
  if (seen < all)
    card.append(element("p", { className: "quiet", text: `${seen} of ${all} slides were looked through so far.` }));
  const describe = ({ value }) => ({
    text: signed(value),
    hint: `It lies at ${signed(value)} along the direction. No unit: what counts is the order.`,
  });
  const end = (name) =>
    regionList(
      `${label}: ${name}`,
      "Of all slides; a click goes there.",
      chosen.ends[name],
      store.region_um,
      describe,
      go,
    );
  return [card, end("top"), end("bottom")];
}

function regionList(title, about, regions, sideUm, describe, go) {
  const list = element("ul", { className: "places" });
  for (const region of regions) {
    const { text, hint } = describe(region);
    const picture = element("img", {
      src: cropAddress(region.slide, { ...region, side_um: sideUm }, CROP_PX),
      alt: "",
      loading: "lazy",
    });
    const nothing = element("span", { className: "nothing", text: "no picture" });
    picture.addEventListener("error", () => picture.replaceWith(nothing));
    const button = element(
      "button",
      {
        type: "button",
        "aria-label": `Region ${region.region} of ${region.id}. ${hint}`,
        on: { click: () => go(region) },
      },
      picture,
      element("span", { className: "where", text: region.id }),
      element("span", { text: `region ${region.region}` }),
      element("span", { className: "value", text }),
      region.outside ? element("span", { className: "flag warn", text: "unlike training" }) : null,
    );
    const unlike = region.outside ? " Its slide is unlike the slides that the head was fitted on." : "";
    button.dataset.hint = `${region.id}, region ${region.region}. ${hint}${unlike}`;
    list.append(element("li", {}, button));
  }
  return element("section", { className: "card" }, element("h2", { text: title, hint: about }), list);
}
