// Moves and zooms the graph.

import { drawn } from "./model.js";
import { extent } from "./places.js";

export const BARS = 130;
const SMALLEST = 0.25;

export const view = { x: 0, y: 0, scale: 1 };

export const scene = drawn("g");
const arrow = drawn(
  "marker",
  {
    id: "arrow",
    viewBox: "0 0 8 8",
    refX: 7,
    refY: 4,
    markerWidth: 7,
    markerHeight: 7,
    orient: "auto",
    markerUnits: "userSpaceOnUse",
  },
  drawn("path", { d: "M0 0L8 4L0 8z" }),
);
export const svg = drawn(
  "svg",
  { tabindex: 0, role: "group", "aria-label": "Graph. Arrows move it, + and - zoom, f fits." },
  drawn("defs", {}, arrow),
  scene,
);

export const watchers = []; // called whenever the graph has moved

let waits = false;
export function moved() {
  svg.classList.toggle("far", view.scale < 0.4);
  if (waits) return;
  waits = true;
  requestAnimationFrame(() => {
    waits = false;
    scene.setAttribute("transform", `translate(${view.x} ${view.y}) scale(${view.scale})`);
    for (const watcher of watchers) watcher();
  });
}

// Shows the whole graph, or the top of it if everything would be too small to see.
export function fit() {
  const [wide, high] = [svg.clientWidth, svg.clientHeight];
  const { left: first, right, top, bottom } = extent();
  const left = first - BARS - 40;
  view.scale = Math.min(1.2, Math.max(Math.min(wide / (right - left + 20), high / (bottom - top + 20)), SMALLEST));
  view.x = (wide - (right + left) * view.scale) / 2;
  view.y = Math.max((high - (top + bottom) * view.scale) / 2, 10 - top * view.scale);
  moved();
}

export function zoom(factor, x = svg.clientWidth / 2, y = svg.clientHeight / 2) {
  const scale = Math.min(Math.max(view.scale * factor, 0.02), 4);
  view.x = x - ((x - view.x) * scale) / view.scale;
  view.y = y - ((y - view.y) * scale) / view.scale;
  view.scale = scale;
  moved();
}

export function pan(x, y) {
  view.x += x;
  view.y += y;
  moved();
}

// One pointer moves, two zoom; what began as a drag does not end as a click.
export function dragging() {
  const down = new Map();
  let far = 0;
  svg.addEventListener("pointerdown", (event) => {
    down.set(event.pointerId, [event.clientX, event.clientY]);
    far = 0;
  });
  addEventListener("pointermove", (event) => {
    const from = down.get(event.pointerId);
    if (!from) return;
    const to = [event.clientX, event.clientY];
    const other = [...down.entries()].find(([id]) => id !== event.pointerId)?.[1];
    far += Math.hypot(to[0] - from[0], to[1] - from[1]);
    if (other) {
      const { left, top } = svg.getBoundingClientRect();
      zoom(
        Math.hypot(to[0] - other[0], to[1] - other[1]) /
          Math.max(Math.hypot(from[0] - other[0], from[1] - other[1]), 1),
        other[0] - left,
        other[1] - top,
      );
    } else if (far > 4) {
      pan(to[0] - from[0], to[1] - from[1]);
    }
    down.set(event.pointerId, to);
  });
  for (const end of ["pointerup", "pointercancel"]) addEventListener(end, (event) => down.delete(event.pointerId));
  svg.addEventListener(
    "click",
    (event) => {
      if (far > 4) event.stopPropagation();
    },
    { capture: true },
  );
}
