/** The view as the fragment of the address, so that it can be sent to somebody. */

/** Read a fragment; what is missing or is no number is null. */
export function readLink(fragment) {
  const given = new URLSearchParams(fragment.replace(/^#/, ""));
  const number = (name) => {
    const text = given.get(name);
    return text === null || text.trim() === "" || !Number.isFinite(Number(text)) ? null : Number(text);
  };
  const theme = given.get("theme");
  return {
    slide: given.get("slide"),
    x: number("x"),
    y: number("y"),
    mpp: number("mpp") > 0 ? number("mpp") : null,
    region: number("region"),
    overlay: given.get("overlay"),
    opacity: number("opacity"),
    panes: (given.get("panes") ?? "").split(",").filter(Boolean),
    theme: theme === "dark" || theme === "light" ? theme : null,
  };
}

/** Write the fragment of a view; nulls are left out. */
export function writeLink(view) {
  const parts = [];
  const add = (name, value) =>
    value !== null &&
    value !== "" &&
    parts.push(`${name}=${encodeURIComponent(value).replaceAll("%2C", ",").replaceAll("%2F", "/")}`);
  add("slide", view.slide);
  add("x", view.x === null ? null : view.x.toFixed(1));
  add("y", view.y === null ? null : view.y.toFixed(1));
  add("mpp", view.mpp === null ? null : Number(view.mpp.toPrecision(5)));
  add("region", view.region);
  add("overlay", view.overlay);
  add("opacity", view.opacity);
  add("panes", view.panes.join(","));
  add("theme", view.theme);
  return `#${parts.join("&")}`;
}
