// The whole graph in a corner, with a frame around what the window shows; a press or drag moves there.

import { drawn } from "./model.js";
import { extent, visible } from "./places.js";
import { moved, svg, view, watchers } from "./view.js";

const [WIDEST, HIGHEST, NARROWEST] = [130, 190, 44];
const MOST = 1000;

const blocks = drawn("g");
const frame = drawn("rect", { class: "view" });
// Arrows and `f` do the same for keyboards and screen readers.
const map = drawn("svg", { id: "map", "aria-hidden": "true", preserveAspectRatio: "none" }, blocks, frame);

let whole = { left: 0, top: 0, wide: 1, high: 1 };

// Draws the boxes; `styleOf(calls)` is the class of each. Too many layers would not be told apart.
export function drawMap(styleOf) {
  const { left, top, right, bottom } = extent();
  const [wide, high] = [right - left, bottom - top];
  whole = { left, top, wide, high };
  const scale = Math.min(WIDEST / wide, HIGHEST / high);
  map.setAttribute("viewBox", `${left} ${top} ${wide} ${high}`);
  map.setAttribute("width", Math.max(wide * scale, NARROWEST));
  map.setAttribute("height", Math.max(high * scale, NARROWEST));
  const seen = visible.length > MOST ? visible.filter((box) => box.call === undefined) : visible;
  blocks.replaceChildren(
    ...seen.map(({ place, isOpen, calls }) =>
      drawn("rect", {
        class: isOpen && seen === visible ? "frame" : styleOf(calls),
        ...{ x: place.left, y: place.top, width: place.wide, height: place.tall },
      }),
    ),
  );
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
