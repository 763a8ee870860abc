// Where boxes and lines are. Opening a box stretches the space around it, so that what was apart stays apart: the page
// never lays anything out.

import { data, profile } from "./model.js";

export const HEADER = 26;
const PADDING = 14;

export const top = data.layout; // the level that shows the whole model
export const boxes = []; // of all levels, outer ones first; layers, too
export const boxOf = new Array(profile.calls.length); // the innermost box, or the layer

// Numbers the boxes of a level and of those inside, and makes boxes of its layers.
function number(level, around) {
  level.around = around;
  level.own = new Set(around?.calls);
  level.boxes = level.boxes.map((given) => {
    const [call, x, y, width, height] = Array.isArray(given) ? given : [];
    const box = call === undefined ? given : { x, y, width, height, calls: [call], input: null, inside: null };
    if (call !== undefined) Object.assign(box, { call, title: [profile.calls[call].name.slice(level.skip)] });
    if (!box.inside) for (const one of box.calls) boxOf[one] = box;
    Object.assign(box, { level, index: boxes.length, isOpen: data.opened && Boolean(box.inside) });
    boxes.push(box);
    return box;
  });
  for (const box of level.boxes) if (box.inside) number(box.inside, box);
}
number(top, null);

// The boxes around one, outer ones first.
export function around(box) {
  const outer = box.level.around;
  return outer ? [...around(outer), outer] : [];
}

// The size of a box now.
function sizeOf({ inside, width, height, isOpen }) {
  return isOpen ? [Math.max(width, inside.wide + 2 * PADDING), inside.high + HEADER + 2 * PADDING] : [width, height];
}

// A function that maps the layout of a level to the page, where open boxes take more space.
function stretched(open, axis) {
  const [center, side] = axis ? ["y", "height"] : ["x", "width"];
  const wanted = open.map((box) => ({
    from: box[center] - box[side] / 2,
    to: box[center] + box[side] / 2,
    rate: sizeOf(box)[axis] / box[side],
  }));
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

// From inside to outside: how far each level is stretched.
function stretch(level) {
  level.open = level.boxes.filter((box) => box.isOpen);
  for (const box of level.open) stretch(box.inside);
  level.mapX = stretched(level.open, 0);
  level.mapY = stretched(level.open, 1);
  level.wide = level.mapX(level.left + level.width) - level.mapX(level.left);
  level.high = level.mapY(level.height) - level.mapY(0);
}

export let visible = []; // the boxes that can be seen, outer ones first

// From outside to inside: where each box is, given the corner of its level.
function put(level, left, high) {
  const [moveX, moveY] = [left - level.mapX(level.left), high - level.mapY(0)];
  level.at = (x, y) => [moveX + level.mapX(x), moveY + level.mapY(y)];
  for (const box of level.boxes) {
    const [wide, tall] = sizeOf(box);
    const [fromX, fromY] = level.at(box.x - box.width / 2, box.y - box.height / 2);
    const [toX, toY] = level.at(box.x + box.width / 2, box.y + box.height / 2);
    const [x, y] = [(fromX + toX) / 2, (fromY + toY) / 2];
    box.place = { x, y, left: x - wide / 2, top: y - tall / 2, right: x + wide / 2, bottom: y + tall / 2, wide, tall };
    visible.push(box);
    if (box.isOpen) put(box.inside, x - box.inside.wide / 2, box.place.top + HEADER + PADDING);
  }
}

export function place() {
  visible = [];
  stretch(top);
  put(top, top.left, 0);
}

// What the whole graph covers.
export function extent() {
  const places = top.boxes.map((box) => box.place);
  return {
    left: Math.min(...places.map((one) => one.left)),
    top: Math.min(...places.map((one) => one.top)),
    right: Math.max(...places.map((one) => one.right)),
    bottom: Math.max(...places.map((one) => one.bottom)),
  };
}

// Where a line meets a box: at the tensor's own point if the box is open.
function meeting(box, tensor, side, x) {
  const { left, right, top: high, bottom } = box.place;
  const port = box.isOpen && box.inside[side].find(([one]) => one === tensor);
  if (port) return box.inside.at(port[1], port[2]);
  return [Math.min(Math.max(x, left + 4), right - 4), side === "entering" ? high : bottom];
}

const rounded = (numbers) => numbers.map((one) => one.toFixed(1)).join(" ");

// The path of a line of a level.
export function path(level, tensor, from, to, points) {
  const pairs = [];
  for (let index = 0; index < points.length; index += 2) pairs.push(level.at(points[index], points[index + 1]));
  const curve = `${rounded(pairs[0])}C${pairs.slice(1).map(rounded).join(" ")}`;
  if (!level.open.length) return `M${curve}`;
  const start = from === null ? "" : `${rounded(meeting(level.boxes[from], tensor, "leaving", pairs[0][0]))}L`;
  const end = to === null ? "" : `L${rounded(meeting(level.boxes[to], tensor, "entering", pairs.at(-1)[0]))}`;
  return `M${start}${curve}${end}`;
}
