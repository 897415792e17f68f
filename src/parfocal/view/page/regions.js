/** The regions of one slide in typed arrays, found by place: 50,000 of them cost no more than those on view. */

const REGIONS_PER_CELL = 4; // side of a cell of the index, in sides of a region

export class RegionMap {
  /** @param {{x_um: number[], y_um: number[]}} columns top-left corners. @param {number} sideUm side of a region. */
  constructor(columns, sideUm) {
    this.side = sideUm;
    this.x = Float64Array.from(columns.x_um);
    this.y = Float64Array.from(columns.y_um);
    this.length = this.x.length;
    this.cell = sideUm * REGIONS_PER_CELL;
    this.left = this.x.reduce((least, value) => Math.min(least, value), Infinity);
    this.top = this.y.reduce((least, value) => Math.min(least, value), Infinity);
    const across = (values, start) =>
      values.reduce((most, value) => Math.max(most, Math.floor((value - start) / this.cell)), -1) + 1;
    this.columns = across(this.x, this.left);
    this.rows = across(this.y, this.top);

    // Regions ordered by the cell of their corner: those of cell c are order[starts[c]] to order[starts[c + 1] - 1].
    const cells = Uint32Array.from(this.x, (x, i) => this.#row(this.y[i]) * this.columns + this.#column(x));
    this.starts = new Uint32Array(this.columns * this.rows + 1);
    for (const cell of cells) this.starts[cell + 1]++;
    for (let cell = 1; cell < this.starts.length; cell++) this.starts[cell] += this.starts[cell - 1];
    const next = this.starts.slice();
    this.order = new Uint32Array(this.length);
    cells.forEach((cell, i) => (this.order[next[cell]++] = i));
  }

  #column(x) {
    return Math.floor((x - this.left) / this.cell);
  }

  #row(y) {
    return Math.floor((y - this.top) / this.cell);
  }

  /** Call `visit(index)` for each region that touches the rectangle, in micrometres. */
  within(x0, y0, x1, y1, visit) {
    const lastColumn = Math.min(this.columns - 1, this.#column(x1));
    const lastRow = Math.min(this.rows - 1, this.#row(y1));
    for (let row = Math.max(0, this.#row(y0 - this.side)); row <= lastRow; row++) {
      for (let column = Math.max(0, this.#column(x0 - this.side)); column <= lastColumn; column++) {
        const cell = row * this.columns + column;
        for (let at = this.starts[cell]; at < this.starts[cell + 1]; at++) {
          const i = this.order[at];
          if (this.x[i] < x1 && this.y[i] < y1 && this.x[i] + this.side > x0 && this.y[i] + this.side > y0) visit(i);
        }
      }
    }
  }

  /** The region at a place, the one whose middle is nearest where several overlap; null outside. */
  at(x, y) {
    let found = null;
    let nearest = Infinity;
    this.within(x, y, x, y, (i) => {
      const away = Math.hypot(this.x[i] + this.side / 2 - x, this.y[i] + this.side / 2 - y);
      if (away < nearest) [found, nearest] = [i, away];
    });
    return found;
  }

  /**
   * Fill the squares of the regions on view straight into the pixels of a picture.
   * Squares are rounded to whole pixels, so neighbours meet without a seam, and where regions overlap the later one is seen
   * once and not mixed: a colour on the slide is one of the colour bar.
   * @returns {number} how many regions have a colour and lie on view.
   */
  paint(picture, x0, y0, umPerPixel, colours) {
    const { width, height } = picture;
    const pixels = new Uint32Array(picture.data.buffer);
    pixels.fill(0);
    let painted = 0;
    this.within(x0, y0, x0 + width * umPerPixel, y0 + height * umPerPixel, (i) => {
      const colour = colours[i];
      if (colour === 0) return;
      painted++;
      const left = Math.round((this.x[i] - x0) / umPerPixel);
      const top = Math.round((this.y[i] - y0) / umPerPixel);
      const right = Math.min(width, Math.max(left + 1, Math.round((this.x[i] + this.side - x0) / umPerPixel)));
      const bottom = Math.min(height, Math.max(top + 1, Math.round((this.y[i] + this.side - y0) / umPerPixel)));
      for (let row = Math.max(0, top); row < bottom; row++)
        pixels.fill(colour, row * width + Math.max(0, left), row * width + right);
    });
    return painted;
  }
}
