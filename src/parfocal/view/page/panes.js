/** Panes side by side on one slide: each is an OpenSeadragon viewer with one canvas above it, and they move together. */

import { tileAddress } from "./api.js";
import { element, explain } from "./dom.js";

const SCALE_BARS_UM = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000];
const SCALE_BAR_PX = 140; // the longest scale bar
const OUTLINE_PX = 14; // regions smaller than this on the screen are filled only: their outlines would be all that is seen
const PLAIN_FILL = 0x24b08a00; // regions without an overlay: a tint that tissue is seen through
const FOOTPRINTS = ["#0b5fff", "#c2410c", "#5b21b6", "#0f766e"];
const FINEST_PX_PER_PX = 8; // how many screen pixels a pixel of the slide may take

const motion = () => (matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 0.35);

/** "8.3x" of micrometres per pixel; 0.5 um per pixel is called 20x. */
export const magnificationLabel = (mpp) => `${Number((10 / mpp).toPrecision(2))}x`;

export class Panes {
  /**
   * @param {HTMLElement} host what holds the panes.
   * @param {{moved: Function, clicked: Function, hovered: Function}} listeners called with the view, or with a region's number.
   */
  constructor(host, listeners) {
    this.host = host;
    this.listeners = listeners;
    this.panes = [];
    this.leader = null; // the pane that people move; the others follow it
    this.slide = null;
    this.map = null;
    this.selected = null;
    this.view = { x: 0, y: 0, mpp: 1 }; // middle in micrometres, and the scale of the first pane
    this.frame = 0;
  }

  /** Show these magnifications side by side, each at its own scale; none is one free pane. */
  layout(magnifications) {
    for (const pane of this.panes) pane.remove();
    const shown = magnifications.length ? magnifications : [null];
    this.panes = shown.map(
      (magnification, index) =>
        new Pane(this, magnification, magnification ? magnification.mpp / shown[0].mpp : 1, index, shown.length === 1),
    );
    this.host.dataset.panes = shown.length;
    this.leader = this.panes[0];
    if (magnifications.length) this.view.mpp = magnifications[0].mpp;
    if (this.slide) for (const pane of this.panes) pane.open(this.slide);
  }

  /** Show a slide; `view` says where, and null shows all of it. */
  open(slide, view) {
    this.slide = slide;
    this.map = null;
    this.selected = null;
    this.isWhole = view === null; // then it stays whole when the panes change their size
    this.view = view ?? this.#whole();
    for (const pane of this.panes) {
      pane.colours = null;
      pane.open(slide);
    }
  }

  #whole() {
    const { clientWidth, clientHeight } = this.panes[0].stage;
    const [width, height] = this.slide.size_um;
    return {
      x: width / 2,
      y: height / 2,
      mpp: 1.05 * Math.max(width / Math.max(1, clientWidth), height / Math.max(1, clientHeight)),
    };
  }

  /** The least and the most micrometres per screen pixel of the first pane. */
  limits() {
    const { mpp, region_um } = this.slide;
    // Without a resolution there is no picture either, and at most a region fills the pane.
    const finest = mpp ? mpp / FINEST_PX_PER_PX : region_um / Math.max(1, this.panes[0].stage.clientWidth);
    return [finest, 4 * this.#whole().mpp];
  }

  showWhole() {
    this.go(this.#whole());
    this.isWhole = true;
    this.redraw();
  }

  /** A pane has another size: the place and the scale in its middle stay. */
  resized() {
    if (!this.slide) return;
    if (this.isWhole) this.view = this.#whole();
    for (const pane of this.panes) pane.show(this.view, false);
    this.redraw();
  }

  /** Move all panes; what `place` does not name stays. */
  go(place, { smoothly = true } = {}) {
    if (!this.slide) return;
    const [finest, coarsest] = this.limits();
    const wanted = { ...this.target(), ...place };
    this.view = {
      x: Math.min(this.slide.size_um[0], Math.max(0, wanted.x)),
      y: Math.min(this.slide.size_um[1], Math.max(0, wanted.y)),
      mpp: Math.min(coarsest, Math.max(finest, wanted.mpp)),
    };
    this.isWhole = false;
    this.leader = this.panes[0];
    for (const pane of this.panes) pane.show(this.view, smoothly && pane === this.leader);
    this.listeners.moved(this.view);
  }

  /** Where the panes are going: a second step of the keyboard adds to the first, though that is still on its way. */
  target() {
    return this.leader?.ready ? this.leader.where(false) : this.view;
  }

  /** The leader has moved: the others follow in the same frame. */
  follow(pane) {
    if (pane !== this.leader || !pane.ready) return;
    this.view = pane.where(true);
    for (const other of this.panes) if (other !== pane) other.show(this.view, false);
    this.listeners.moved(this.view);
  }

  setRegions(map) {
    this.map = map;
    this.redraw();
  }

  /** @param {(magnification: object|null) => Uint32Array|null} coloursOf what each pane paints its regions with. */
  paint(coloursOf) {
    for (const pane of this.panes) pane.colours = coloursOf(pane.magnification);
    this.redraw();
  }

  select(region) {
    this.selected = region;
    this.redraw();
  }

  redraw() {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.panes.forEach((pane) => pane.draw()));
  }
}

class Pane {
  constructor(owner, magnification, ratio, index, alone) {
    this.owner = owner;
    this.magnification = magnification;
    this.ratio = ratio;
    this.index = index;
    this.colours = null;
    this.picture = null;
    this.ready = false;
    this.stage = element("div", { className: "stage" });
    this.label = element("span", { className: "at" });
    explain(
      this.label,
      "The magnification on the screen and how many micrometres one screen pixel shows. 20x is 0.5 µm per pixel.",
    );
    this.bar = element("span", { className: "scale-bar" });
    explain(this.bar, "A scale bar: this length on the screen is so many micrometres on the slide.");
    this.why = element("p", { className: "why" });
    const name = magnification ? `Slide at ${magnification.label}` : "Slide";
    this.figure = element(
      "figure",
      { className: "pane", "aria-label": name },
      this.stage,
      this.why,
      element("figcaption", {}, this.label, this.bar),
    );
    this.figure.style.setProperty("--footprint", FOOTPRINTS[index % FOOTPRINTS.length]);
    owner.host.append(this.figure);

    this.viewer = OpenSeadragon({
      element: this.stage,
      drawer: "canvas",
      showNavigationControl: false,
      crossOriginPolicy: false,
      visibilityRatio: 0,
      animationTime: motion(),
      zoomPerScroll: 1.25,
      imageLoaderLimit: 6,
      maxImageCacheCount: 300,
      autoResize: false, // it keeps its own idea of the scale; `resized` keeps ours
      showNavigator: alone,
      navigatorPosition: "TOP_RIGHT",
      navigatorSizeRatio: 0.16,
      navigatorAutoFade: false,
      tabIndex: 0,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
      gestureSettingsTouch: { clickToZoom: false, dblClickToZoom: true, pinchRotate: false },
      gestureSettingsPen: { clickToZoom: false, dblClickToZoom: true },
    });
    this.canvas = element("canvas", { className: "overlay", "aria-hidden": "true" });
    this.viewer.canvas.append(this.canvas);
    this.viewer.canvas.setAttribute("role", "application");
    this.viewer.canvas.setAttribute(
      "aria-label",
      `${name}. Arrows move it, plus and minus zoom, the question mark lists all keys.`,
    );
    this.context = this.canvas.getContext("2d");
    this.#listen();
  }

  #listen() {
    const lead = () => (this.owner.leader = this);
    this.observer = new ResizeObserver(() => this.owner.resized());
    this.observer.observe(this.stage);
    this.stage.addEventListener("pointerdown", lead, true);
    this.stage.addEventListener("wheel", lead, { capture: true, passive: true });
    for (const moves of ["canvas-drag", "canvas-scroll", "canvas-pinch", "canvas-double-click"])
      this.viewer.addHandler(moves, () => (this.owner.isWhole = false));
    this.viewer.addHandler("canvas-key", (event) => (event.preventDefaultAction = true)); // the page has keys of its own
    this.viewer.addHandler("open", () => {
      this.ready = true;
      this.show(this.owner.view, false);
      this.draw();
    });
    this.viewer.addHandler("viewport-change", () => this.owner.follow(this));
    this.viewer.addHandler("update-viewport", () => this.draw());
    this.viewer.addHandler("canvas-click", (event) => {
      if (event.quick) this.owner.listeners.clicked(this.#regionAt(event.position));
    });
    this.stage.addEventListener("pointermove", (event) => {
      const box = this.stage.getBoundingClientRect();
      this.owner.listeners.hovered(
        this.#regionAt(new OpenSeadragon.Point(event.clientX - box.left, event.clientY - box.top)),
        this.magnification,
      );
    });
    this.stage.addEventListener("pointerleave", () => this.owner.listeners.hovered(null, this.magnification));
  }

  #regionAt(pixel) {
    if (!this.ready || !this.owner.map) return null;
    const point = this.viewer.viewport.pointFromPixel(pixel, true);
    const width = this.owner.slide.size_um[0];
    return this.owner.map.at(point.x * width, point.y * width);
  }

  open(slide) {
    this.ready = false;
    this.why.textContent = slide.is_there ? "" : (slide.why ?? "The slide's file is not there.");
    this.viewer.open(tileSource(slide));
  }

  /** Micrometres per screen pixel and the middle, on the screen now or where the viewer is going. */
  where(now) {
    const { viewport } = this.viewer;
    const width = this.owner.slide.size_um[0];
    const middle = viewport.getCenter(now);
    return {
      x: middle.x * width,
      y: middle.y * width,
      mpp: width / (viewport.getContainerSize().x * viewport.getZoom(now)) / this.ratio,
    };
  }

  show(view, smoothly) {
    if (!this.ready) return;
    const { viewport } = this.viewer;
    const size = new OpenSeadragon.Point(this.stage.clientWidth, this.stage.clientHeight);
    if (size.x === 0 || size.y === 0) return;
    if (!viewport.getContainerSize().equals(size)) viewport.resize(size, false);
    const width = this.owner.slide.size_um[0];
    const zoomAt = (mpp) => width / (viewport.getContainerSize().x * mpp * this.ratio);
    // The same limits for all panes in micrometres, so that none stops before the others.
    const [finest, coarsest] = this.owner.limits();
    viewport.maxZoomLevel = zoomAt(finest);
    viewport.minZoomLevel = zoomAt(coarsest);
    viewport.zoomTo(zoomAt(view.mpp), null, !smoothly);
    viewport.panTo(new OpenSeadragon.Point(view.x / width, view.y / width), !smoothly);
  }

  remove() {
    this.observer.disconnect();
    this.viewer.destroy();
    this.figure.remove();
  }

  /** One frame of the overlay: the regions on view, the chosen one, and what the finer panes show. */
  draw() {
    if (!this.ready) return;
    const { clientWidth, clientHeight } = this.stage;
    const dense = devicePixelRatio || 1;
    const width = Math.max(1, Math.round(clientWidth * dense));
    const height = Math.max(1, Math.round(clientHeight * dense));
    if (this.canvas.width !== width || this.canvas.height !== height || this.picture === null) {
      this.canvas.width = width;
      this.canvas.height = height;
      this.picture = this.context.createImageData(width, height);
    }
    if (this.viewer.navigator) this.viewer.navigator.element.hidden = !this.owner.slide.is_there || this.owner.isWhole;
    const { x, y, mpp } = this.where(true);
    const shown = mpp * this.ratio;
    const unit = shown / dense; // micrometres per pixel of the canvas
    const left = x - (width / 2) * unit;
    const top = y - (height / 2) * unit;
    const { map } = this.owner;

    if (map) {
      const colours = this.colours ?? plain(map.length);
      this.canvas.dataset.regions = map.paint(this.picture, left, top, unit, colours);
      this.context.putImageData(this.picture, 0, 0);
      if (map.side / unit > OUTLINE_PX) this.#outline(map, left, top, unit, width, height);
    } else {
      this.context.clearRect(0, 0, width, height);
    }
    this.#footprints(shown, width, height, dense);
    this.#say(shown);
  }

  #outline(map, left, top, unit, width, height) {
    const { context } = this;
    const side = map.side / unit;
    context.beginPath();
    map.within(left, top, left + width * unit, top + height * unit, (i) =>
      context.rect((map.x[i] - left) / unit, (map.y[i] - top) / unit, side, side),
    );
    context.lineWidth = 1;
    context.strokeStyle = "rgba(15, 60, 80, 0.45)";
    context.stroke();
  }

  #footprints(shown, width, height, dense) {
    const { context, owner } = this;
    if (owner.selected !== null && owner.map) {
      const { x, y } = this.where(true);
      const unit = shown / dense;
      const side = owner.map.side / unit;
      const corner = [
        (owner.map.x[owner.selected] - x) / unit + width / 2,
        (owner.map.y[owner.selected] - y) / unit + height / 2,
      ];
      for (const [line, colour] of [
        [5 * dense, "#ffffff"],
        [2.5 * dense, "#111111"],
      ]) {
        context.lineWidth = line;
        context.strokeStyle = colour;
        context.strokeRect(corner[0], corner[1], side, side);
      }
    }
    for (const finer of owner.panes) {
      if (finer.ratio >= this.ratio) continue;
      const share = (finer.ratio / this.ratio) * dense;
      const box = [finer.stage.clientWidth * share, finer.stage.clientHeight * share];
      for (const [line, colour] of [
        [4 * dense, "#ffffff"],
        [2 * dense, FOOTPRINTS[finer.index % FOOTPRINTS.length]],
      ]) {
        context.lineWidth = line;
        context.strokeStyle = colour;
        context.strokeRect((width - box[0]) / 2, (height - box[1]) / 2, box[0], box[1]);
      }
    }
  }

  #say(shown) {
    this.figure.dataset.mpp = shown;
    this.label.textContent = `${magnificationLabel(shown)} · ${Number(shown.toPrecision(3))} µm per pixel`;
    const um = SCALE_BARS_UM.filter((length) => length / shown <= SCALE_BAR_PX).at(-1) ?? SCALE_BARS_UM[0];
    this.bar.textContent = um >= 1000 ? `${um / 1000} mm` : `${um} µm`;
    this.bar.style.width = `${um / shown}px`;
  }
}

let plainColours = new Uint32Array(0);

function plain(length) {
  if (plainColours.length !== length) plainColours = new Uint32Array(length).fill(PLAIN_FILL);
  return plainColours;
}

/** The slide's own pyramid for OpenSeadragon, which counts levels from the coarsest; without the file no tile is asked for. */
function tileSource(slide) {
  const { levels } = slide;
  const last = levels.length - 1;
  const source = new OpenSeadragon.TileSource({
    width: levels[0]?.w ?? slide.size_um[0],
    height: levels[0]?.h ?? slide.size_um[1],
    tileSize: slide.tile_size,
    minLevel: 0,
    maxLevel: Math.max(0, last),
  });
  const of = (level) => levels[last - level];
  source.getLevelScale = (level) => (of(level) ? of(level).w / levels[0].w : 1);
  source.getNumTiles = (level) =>
    new OpenSeadragon.Point(
      Math.ceil((of(level)?.w ?? 1) / slide.tile_size),
      Math.ceil((of(level)?.h ?? 1) / slide.tile_size),
    );
  source.getTileUrl = (level, column, row) => tileAddress(slide.number, last - level, column, row);
  source.tileExists = (level, column, row) => {
    const count = source.getNumTiles(level);
    return (
      slide.is_there && level >= 0 && level <= last && column >= 0 && row >= 0 && column < count.x && row < count.y
    );
  };
  return source;
}
