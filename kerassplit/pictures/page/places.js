// Where boxes and lines are. Opening a box stretches the space around it, so that what was apart stays apart: the page
// never lays anything out.

import { data, profile } from "./model.js";

export const { boxes, edges } = data.layout;
export const HEADER = 26;
const PADDING = 14;

export const boxOf = new Array(profile.calls.length);
boxes.forEach((box, index) =>
  box.calls.forEach((call) => {
    boxOf[call] = index;
  }),
);

export const opened = new Set();

// The size of a box now, and a function for each axis that maps the layout to the stretched page.
function sizeOf(index) {
  const { inside, width: wide, height: high } = boxes[index];
  return opened.has(index)
    ? [Math.max(wide, inside.width + 2 * PADDING), inside.height + HEADER + 2 * PADDING]
    : [wide, high];
}

function stretched(axis) {
  const [center, side] = axis ? ["y", "height"] : ["x", "width"];
  const wanted = [...opened].map((index) => {
    const box = boxes[index];
    return {
      from: box[center] - box[side] / 2,
      to: box[center] + box[side] / 2,
      rate: sizeOf(index)[axis] / box[side],
    };
  });
  const stops = [...new Set(wanted.flatMap(({ from, to }) => [from, to]))].sort((one, other) => one - other);
  let reached = stops[0];
  const starts = stops.map((stop, place) => {
    const start = { stop, reached, rate: 1 };
    const next = stops[place + 1];
    if (next !== undefined) {
      for (const { from, to, rate } of wanted) if (from <= stop && to >= next) start.rate = Math.max(start.rate, rate);
      reached += (next - stop) * start.rate;
    }
    return start;
  });
  return (value) => {
    let low = 0;
    let high = starts.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (starts[middle].stop <= value) low = middle + 1;
      else high = middle;
    }
    return low ? starts[low - 1].reached + (value - starts[low - 1].stop) * starts[low - 1].rate : value;
  };
}

export let places = [];
export let [mapX, mapY] = [stretched(0), stretched(1)];

export function place() {
  [mapX, mapY] = [stretched(0), stretched(1)];
  places = boxes.map((box, index) => {
    const [wide, high] = sizeOf(index);
    const x = (mapX(box.x - box.width / 2) + mapX(box.x + box.width / 2)) / 2;
    const y = (mapY(box.y - box.height / 2) + mapY(box.y + box.height / 2)) / 2;
    return { x, y, left: x - wide / 2, top: y - high / 2, right: x + wide / 2, bottom: y + high / 2, wide, high };
  });
}

// The corner of what is inside an open box.
export const corner = (index) => [
  places[index].x - boxes[index].inside.width / 2 - boxes[index].inside.left,
  places[index].top + HEADER + PADDING,
];

export function curve(points) {
  const pairs = [];
  for (let place = 0; place < points.length; place += 2)
    pairs.push(`${points[place].toFixed(1)} ${points[place + 1].toFixed(1)}`);
  return `M${pairs[0]}C${pairs.slice(1).join(" ")}`;
}

// Where a line meets a box: at the tensor's own point if the box is open.
export function meeting(index, tensor, side, x) {
  const { left, right, top, bottom } = places[index];
  const port = opened.has(index) && boxes[index].inside[side].find(([one]) => one === tensor);
  if (port) {
    const [cornerX, cornerY] = corner(index);
    return `${(cornerX + port[1]).toFixed(1)} ${(cornerY + port[2]).toFixed(1)}`;
  }
  return `${Math.min(Math.max(x, left + 4), right - 4).toFixed(1)} ${(side === "entering" ? top : bottom).toFixed(1)}`;
}
