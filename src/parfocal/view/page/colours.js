/** Two colour maps that people who see few colours can read: dark blue to yellow, and blue over white to orange about 0. */

const SEQUENTIAL = [
  "#00224e",
  "#123570",
  "#3b496c",
  "#575d6d",
  "#707173",
  "#8a8678",
  "#a59c74",
  "#c3b369",
  "#e1cc55",
  "#fee838",
];
const DIVERGING = ["#08366f", "#2b74b8", "#93c0e3", "#f4f4f4", "#f7b878", "#d66a16", "#7d3304"];
const STEPS = 255;

function table(stops) {
  const rgb = stops.map((stop) => [1, 3, 5].map((at) => parseInt(stop.slice(at, at + 2), 16)));
  const colours = [];
  for (let step = 0; step <= STEPS; step++) {
    const place = (step / STEPS) * (stops.length - 1);
    const left = Math.min(Math.floor(place), stops.length - 2);
    colours.push(
      rgb[left].map((value, channel) => Math.round(value + (place - left) * (rgb[left + 1][channel] - value))),
    );
  }
  return colours;
}

const TABLES = { sequential: table(SEQUENTIAL), diverging: table(DIVERGING) };

/** The two ends of an overlay's colour bar; one about 0 is as long on either side. */
export function ends(overlay) {
  if (!overlay.diverging) return [overlay.low, overlay.high];
  const furthest = Math.max(Math.abs(overlay.low), Math.abs(overlay.high));
  return [-furthest, furthest];
}

/** Red, green and blue of a value between the ends `low` and `high`. */
export function colourOf(value, low, high, diverging) {
  const share = high > low ? (value - low) / (high - low) : 0.5;
  const step = Math.round(Math.min(1, Math.max(0, share)) * STEPS);
  return TABLES[diverging ? "diverging" : "sequential"][step];
}

/** One colour for each region as the bytes of a picture (red lowest, as typed arrays lie in memory); 0 where there is no value. */
export function paintOf(overlay, opacity) {
  const alpha = Math.round(opacity * 255) << 24;
  const [low, high] = ends(overlay);
  const colours = new Uint32Array(overlay.values.length);
  overlay.values.forEach((value, index) => {
    if (value === null) return;
    const [red, green, blue] = colourOf(value, low, high, overlay.diverging);
    colours[index] = (alpha | (blue << 16) | (green << 8) | red) >>> 0;
  });
  return colours;
}

/** A gradient for the colour bar, as a value of CSS. */
export const gradient = (diverging) => `linear-gradient(to right, ${(diverging ? DIVERGING : SEQUENTIAL).join(", ")})`;

export const css = ([red, green, blue]) => `rgb(${red}, ${green}, ${blue})`;
