/** What the server is asked. Addresses are relative, so the token of the page's own address stays in them. */

/** Fetch JSON; the error of a refused request is the server's one line. */
async function ask(path) {
  let answer;
  try {
    answer = await fetch(path);
  } catch {
    throw new Error(
      "The viewer's server does not answer. Start `parfocal view` again and open the address that it prints.",
    );
  }
  const body = await answer.json().catch(() => null);
  if (!answer.ok) throw new Error(body?.error ?? `The server answered ${answer.status} to ${path}.`);
  return body;
}

export const store = () => ask("api/store");
export const slides = () => ask("api/slides");
export const news = (after) => ask(`api/slides/news?after=${after}`);
export const slide = (number) => ask(`api/slides/${number}`);
export const explanation = (number) => ask(`api/slides/${number}/explanation`);
export const regions = (number) => ask(`api/slides/${number}/regions`);
export const overlay = (number, key) => ask(`api/slides/${number}/overlays/${encodeURIComponent(key)}`);
export const likeness = (number, index) => ask(`api/slides/${number}/overlays/similar?region=${index}`);
export const region = (number, index) => ask(`api/slides/${number}/regions/${index}`);
export const similar = (number, index) => ask(`api/slides/${number}/regions/${index}/similar?k=12`);
export const directions = () => ask("api/directions");
export const direction = (number) => ask(`api/directions/${number}`);

export const tileAddress = (number, level, column, row) => `slides/${number}/tiles/${level}/${column}_${row}.jpg`;

export function cropAddress(number, square, px) {
  return `slides/${number}/crop.jpg?x_um=${square.x_um}&y_um=${square.y_um}&side_um=${square.side_um}&px=${px}`;
}
