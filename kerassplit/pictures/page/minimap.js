// The whole graph in a corner, with a frame around what the window shows; a press or drag moves there.

import { drawn } from "./model.js";
import { boxes, corner, opened, places } from "./places.js";
import { moved, svg, view, watchers } from "./view.js";

const [WIDEST, HIGHEST, NARROWEST] = [130, 190, 44];
const MOST = 400;

const blocks = drawn("g");
const frame = drawn("rect", { class: "view" });
// Arrows and `f` do the same for keyboards and screen readers.
const map = drawn("svg", { id: "map", "aria-hidden": "true", preserveAspectRatio: "none" }, blocks, frame);

let whole = { left: 0, top: 0, wide: 1, high: 1 };

// The rectangles of a box: itself, or a frame and its layers. Too many layers would not be told apart.
function rectangles(index, styleOf) {
  const { left, top, wide, high } = places[index];
  const one = (style, x, y, width, height) => drawn("rect", { class: style, x, y, width, height });
  const { calls, inside } = boxes[index];
  if (!opened.has(index) || inside.layers.length > MOST) return [one(styleOf(calls), left, top, wide, high)];
  const [x, y] = corner(index);
  return [
    one("frame", left, top, wide, high),
    ...inside.layers.map(([call, middle, center, width, height]) =>
      one(styleOf([call]), x + middle - width / 2, y + center - height / 2, width, height),
    ),
  ];
}

// Draws the blocks; `styleOf(calls)` is the class of each.
export function drawMap(styleOf) {
  const left = Math.min(...places.map((one) => one.left));
  const top = Math.min(...places.map((one) => one.top));
  const wide = Math.max(...places.map((one) => one.right)) - left;
  const high = Math.max(...places.map((one) => one.bottom)) - top;
  whole = { left, top, wide, high };
  const scale = Math.min(WIDEST / wide, HIGHEST / high);
  map.setAttribute("viewBox", `${left} ${top} ${wide} ${high}`);
  map.setAttribute("width", Math.max(wide * scale, NARROWEST));
  map.setAttribute("height", Math.max(high * scale, NARROWEST));
  blocks.replaceChildren(...places.flatMap((_, index) => rectangles(index, styleOf)));
  follow();
}

// Puts the frame where the window is; without need for a map, hides it.
function follow() {
  const { left, top, wide, high } = whole;
  const seen = {
    x: Math.max(-view.x / view.scale, left),
    y: Math.max(-view.y / view.scale, top),
    right: Math.min((svg.clientWidth - view.x) / view.scale, left + wide),
    bottom: Math.min((svg.clientHeight - view.y) / view.scale, top + high),
  };
  map.classList.toggle("idle", seen.right - seen.x >= wide * 0.99 && seen.bottom - seen.y >= high * 0.99);
  frame.setAttribute("x", seen.x);
  frame.setAttribute("y", seen.y);
  frame.setAttribute("width", Math.max(seen.right - seen.x, 0));
  frame.setAttribute("height", Math.max(seen.bottom - seen.y, 0));
}

function goTo(event) {
  const { left, top, width, height } = map.getBoundingClientRect();
  view.x = svg.clientWidth / 2 - (whole.left + ((event.clientX - left) / width) * whole.wide) * view.scale;
  view.y = svg.clientHeight / 2 - (whole.top + ((event.clientY - top) / height) * whole.high) * view.scale;
  moved();
}

export function startMap(parent) {
  parent.append(map);
  map.addEventListener("pointerdown", (event) => {
    map.setPointerCapture(event.pointerId);
    goTo(event);
  });
  map.addEventListener("pointermove", (event) => {
    if (map.hasPointerCapture(event.pointerId)) goTo(event);
  });
  watchers.push(follow);
}
