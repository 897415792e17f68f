/** The page: what is on view, what people do to it, and the address that keeps it. */

import * as api from "./api.js";
import { connect, markPanes, openDrawer } from "./controls.js";
import { element, find, showHints } from "./dom.js";
import { readLink, writeLink } from "./link.js";
import { ALIKE, colourBar, NONE, Overlays } from "./overlays.js";
import { regionCard, slideCard } from "./panel.js";
import { Panes } from "./panes.js";
import { directionCards, similarCard } from "./elsewhere.js";
import { RegionMap } from "./regions.js";
import { SlideList } from "./slides.js";

const ASK_AGAIN_MS = 1000; // while the server is still finding predictions or ends of directions
const OPACITY = 0.5;

const view = {
  slide: null,
  x: null,
  y: null,
  mpp: null,
  region: null,
  overlay: null,
  opacity: OPACITY,
  panes: [],
  theme: null,
};
const shown = {
  slide: null,
  map: null,
  tissue: null,
  overlays: null,
  explanation: null,
  region: null,
  similar: null,
  directions: [],
  direction: null,
};
let store;
let opening = 0; // counts slides that were asked for: an answer to an older one is dropped
let written = "";
let writing = 0;

const list = new SlideList({ list: find("list"), filter: find("filter"), count: find("count") }, (number) =>
  openSlide(number).then(() => openDrawer(false)),
);
const panes = new Panes(find("panes"), {
  moved: keepPlace,
  clicked: (region) => shown.overlays && selectRegion(region),
  hovered: sayUnder,
});

function fail(error) {
  find("error").textContent = error.message;
  find("error").hidden = false;
}

/** Run what the server may refuse; its one line is shown. */
const attempt = (task) => task.catch(fail);

// -- slides ------------------------------------------------------------------------------------------------------------

async function openSlide(number, { place = null, region = null, mpp = null } = {}) {
  const turn = ++opening;
  find("middle").setAttribute("aria-busy", "true");
  find("error").hidden = true;
  list.select(number);
  try {
    const columns = api.regions(number);
    columns.catch(() => {}); // awaited below; a slide that fails first is the error to show
    const slide = await api.slide(number);
    slide.size_um ??= extent(await columns, slide.region_um);
    if (turn !== opening) return;
    Object.assign(shown, { slide, map: null, overlays: null, explanation: null, region: null, similar: null });
    Object.assign(view, { slide: slide.id, region: null });
    panes.open(slide, place);
    document.title = `${slide.id} · parfocal`;
    showRegion();
    showSlide();
    explainSlide(turn);

    const { overlays, ...places } = await columns;
    if (turn !== opening) return;
    shown.map = new RegionMap(places, slide.region_um);
    shown.tissue = places.tissue;
    shown.overlays = new Overlays(number, overlays);
    panes.setRegions(shown.map);
    writeOverlays();
    if (region !== null) selectRegion(region);
    if (place === null && (view.panes.length || mpp !== null))
      goToNearest(slide.size_um[0] / 2, slide.size_um[1] / 2, mpp ?? panes.panes[0].magnification.mpp);
    await paint();
  } catch (error) {
    if (turn !== opening) return;
    if (shown.slide) list.select(shown.slide.number); // what is still on view
    fail(error);
  } finally {
    if (turn === opening) find("middle").setAttribute("aria-busy", "false");
  }
}

/** Of a slide whose size nobody has kept, as far as its regions reach. */
function extent({ x_um, y_um }, side) {
  const furthest = (values) => values.reduce((most, value) => Math.max(most, value), 0) + side;
  return [furthest(x_um), furthest(y_um)];
}

async function explainSlide(turn) {
  if (!shown.slide.explains) return;
  const explanation = await api.explanation(shown.slide.number).catch((error) => error);
  if (turn !== opening) return;
  shown.explanation = explanation;
  showSlide();
}

/** Ask for what the server has found since, until it has looked at every slide. */
async function followNews() {
  let after = 0;
  for (;;) {
    const [news, directions] = await Promise.all([api.news(after), api.directions()]);
    after = news.next;
    list.update(news.slides);
    const more = directions.directions.length !== shown.directions.length;
    shown.directions = directions.directions;
    if (more) showDirections();
    if (news.slides.some((slide) => slide.number === shown.slide?.number)) showSlide();
    if (directions.n_seen >= directions.n_slides && !list.slides.some((slide) => slide.pending)) return;
    await new Promise((go) => setTimeout(go, ASK_AGAIN_MS));
  }
}

// -- regions and directions --------------------------------------------------------------------------------------------

async function selectRegion(index) {
  if (index !== null && !(Number.isInteger(index) && index >= 0 && index < shown.map.length)) {
    fail(new Error(`${shown.slide.id} has regions 0 to ${shown.map.length - 1}, and not ${index}.`));
    return;
  }
  const turn = opening;
  const { number } = shown.slide;
  const stale = () => turn !== opening || view.region !== index;
  Object.assign(view, { region: index });
  Object.assign(shown, { region: null, similar: null });
  panes.select(index);
  const wasAlike = view.overlay === ALIKE;
  writeOverlays();
  if (wasAlike) attempt(paint());
  keepPlace(view);
  showRegion();
  if (index === null) return;
  const likes = api.similar(number, index).catch((error) => error);
  try {
    const region = await api.region(number, index);
    if (stale()) return;
    shown.region = region;
    showRegion();
    find("panel").scrollTop = 0;
  } catch (error) {
    if (!stale()) fail(error);
    return;
  }
  const similar = await likes;
  if (stale()) return;
  if (similar instanceof Error) fail(similar);
  else {
    shown.similar = similar;
    showSimilar();
  }
}

async function goToRegion(place) {
  const mpp = view.panes.length ? view.mpp : store.magnifications[0].mpp;
  const middle = { x: place.x_um + store.region_um / 2, y: place.y_um + store.region_um / 2, mpp };
  if (place.slide !== shown.slide.number) await openSlide(place.slide, { place: middle, region: place.region });
  else {
    panes.go(middle);
    await selectRegion(place.region);
  }
}

/** Show both ends of a direction, and ask again while slides are still looked through. */
async function showDirection(number) {
  shown.direction = { number, ends: null };
  showDirections();
  for (;;) {
    const ends = await api.direction(number);
    if (shown.direction?.number !== number) return;
    shown.direction.ends = ends;
    showDirections();
    if (ends.n_seen >= ends.n_slides) return;
    await new Promise((go) => setTimeout(go, ASK_AGAIN_MS));
  }
}

const goTo = (place) => attempt(goToRegion(place));

function showRegion() {
  const { slide, region, tissue } = shown;
  const close = () => selectRegion(null);
  find("region").replaceChildren(
    ...(region ? [regionCard(slide, region, tissue?.[region.number] ?? null, store, close)] : []),
  );
  showSimilar();
}

function showSimilar() {
  find("similar").replaceChildren(...(shown.similar ? [similarCard(shown.similar, store, goTo)] : []));
}

function showSlide() {
  find("slide").replaceChildren(slideCard(shown.slide, list.slides[shown.slide.number], store, shown.explanation));
}

function showDirections() {
  const choose = (number) => attempt(showDirection(number));
  find("directions").replaceChildren(...directionCards(shown.directions, shown.direction, store, choose, goTo));
}

function sayUnder(region, magnification) {
  find("under").textContent =
    region === null || !shown.overlays ? "" : shown.overlays.say(view.overlay, magnification, view.region, region);
}

// -- overlays ----------------------------------------------------------------------------------------------------------

const choices = () => shown.overlays.choices(view.panes.length, view.region);

function writeOverlays() {
  const all = choices();
  if (!all.some(({ key }) => key === view.overlay))
    view.overlay = store.head && shown.overlays.list.length ? shown.overlays.list[0].key : NONE;
  find("overlays").replaceChildren(
    element("span", { className: "name", text: "Overlay" }),
    ...all.map(({ key, label, about }) =>
      element("button", {
        type: "button",
        text: label,
        role: "radio",
        "aria-checked": String(key === view.overlay),
        "data-key": key,
        hint: about,
        on: { click: () => chooseOverlay(key) },
      }),
    ),
  );
}

function chooseOverlay(key) {
  view.overlay = key;
  for (const button of find("overlays").querySelectorAll("button")) {
    button.setAttribute("aria-checked", String(button.dataset.key === key));
    if (button.dataset.key === key) button.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
  keepPlace(view);
  attempt(paint());
}

async function paint() {
  const { overlays } = shown;
  const { overlay: choice, region } = view;
  const wanted = new Set(panes.panes.map((pane) => overlays.of(choice, pane.magnification, region)).filter(Boolean));
  const found = await Promise.all([...wanted].map((overlay) => overlays.fetch(overlay)));
  if (overlays !== shown.overlays || choice !== view.overlay) return;
  colour();
  const bars = new Map(found.map((overlay) => [overlay.name ?? overlay.key, overlay]));
  find("bars").replaceChildren(...[...bars.values()].map(colourBar));
}

function colour() {
  panes.paint((magnification) => shown.overlays.colours(view.overlay, magnification, view.region, view.opacity));
}

// -- panes, place and address ------------------------------------------------------------------------------------------

function setPanes(labels) {
  view.panes = store.magnifications.map(({ label }) => label).filter((label) => labels.includes(label));
  const wasAt = panes.view;
  panes.layout(store.magnifications.filter(({ label }) => view.panes.includes(label)));
  markPanes(view.panes);
  if (!shown.map) return;
  if (view.panes.length) goToNearest(wasAt.x, wasAt.y);
  writeOverlays();
  keepPlace(panes.view);
  attempt(paint());
}

/** The chosen region, else the one nearest to a place, in the middle of the panes: between regions there is only glass. */
function goToNearest(x, y, mpp = panes.view.mpp) {
  const { map } = shown;
  let nearest = view.region;
  if (nearest === null) {
    if (map.length === 0 || map.at(x, y) !== null) return panes.go({ x, y, mpp }, { smoothly: false });
    const away = (i) => Math.hypot(map.x[i] + map.side / 2 - x, map.y[i] + map.side / 2 - y);
    nearest = map.x.reduce((best, _, i) => (away(i) < away(best) ? i : best), 0);
  }
  return panes.go({ x: map.x[nearest] + map.side / 2, y: map.y[nearest] + map.side / 2, mpp }, { smoothly: false });
}

function keepPlace({ x, y, mpp }) {
  Object.assign(view, { x, y, mpp });
  clearTimeout(writing);
  writing = setTimeout(() => {
    const other = written !== "" && readLink(written).slide !== view.slide;
    written = writeLink(view);
    history[other ? "pushState" : "replaceState"](null, "", written); // "back" leads to the slide before
  }, 100);
}

function setTheme(theme) {
  view.theme = theme;
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
}

function setOpacity(opacity) {
  view.opacity = Math.min(1, Math.max(0, opacity));
  find("opacity").value = view.opacity;
  if (shown.overlays) colour();
}

/** Restore what an address says; a slide of that name that is not in the store is an error in one line. */
async function followLink() {
  const link = readLink(location.hash);
  written = location.hash;
  setTheme(link.theme);
  setOpacity(link.opacity ?? OPACITY);
  view.overlay = link.overlay ?? view.overlay;
  shown.map = null; // the panes are laid out for the slide that follows
  setPanes(link.panes);
  const number = link.slide === null ? 0 : list.slides.findIndex(({ id }) => id === link.slide);
  const place =
    link.x === null || link.y === null ? null : { x: link.x, y: link.y, mpp: link.mpp ?? store.magnifications[0].mpp };
  await openSlide(Math.max(0, number), number < 0 ? {} : { place, region: link.region, mpp: link.mpp });
  if (number < 0) fail(new Error(`This store has no slide ${link.slide}; the first one is shown.`));
}

// -- what keys and buttons do ------------------------------------------------------------------------------------------

const actions = {
  ready: () => shown.overlays !== null,
  move(right, down) {
    const { x, y, mpp } = panes.target();
    const { clientWidth, clientHeight } = panes.panes[0].stage;
    panes.go({ x: x + right * clientWidth * mpp, y: y + down * clientHeight * mpp });
  },
  zoomBy: (factor) => panes.go({ mpp: panes.target().mpp / factor }),
  /** To a magnification at its own scale; of linked panes all are then. */
  zoomTo: (index) => panes.go({ mpp: (panes.panes[0].magnification ?? store.magnifications[index]).mpp }),
  showWhole: () => panes.showWhole(),
  togglePane: (label) =>
    setPanes(view.panes.includes(label) ? view.panes.filter((one) => one !== label) : [...view.panes, label]),
  linkAll: () => setPanes(view.panes.length ? [] : store.magnifications.map(({ label }) => label)),
  stepSlide: (step) => list.step(step),
  stepOverlay(step) {
    const keys = choices().map(({ key }) => key);
    chooseOverlay(keys[(keys.indexOf(view.overlay) + step + keys.length) % keys.length]);
  },
  closeRegion: () => view.region !== null && selectRegion(null),
  fade(opacity) {
    setOpacity(opacity);
    keepPlace(view);
  },
  switchTheme() {
    const dark = view.theme ? view.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    setTheme(dark ? "light" : "dark");
    keepPlace(view);
  },
};

async function start() {
  showHints(find("hint"));
  const [about, slides] = await Promise.all([api.store(), api.slides()]);
  store = about;
  find("title").textContent = store.store;
  find("about").textContent = [
    store.set,
    store.encoder,
    store.head ? `head ${store.head.name} (${store.head.target})` : null,
  ]
    .filter(Boolean)
    .join(" · ");
  connect(store.magnifications, actions);
  addEventListener("hashchange", () => {
    if (location.hash !== written) attempt(followLink());
  });
  list.fill(slides, store.head);
  await Promise.all([followLink(), followNews()]);
}

attempt(start());
