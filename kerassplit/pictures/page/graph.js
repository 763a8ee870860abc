// Draws the graph; opens and folds its boxes.

import { data, drawn, inBytes, inThousands, makerOf, profile, usersOf } from "./model.js";
import { HEADER, around, boxOf, boxes, extent, path, place, top, visible } from "./places.js";
import { drawMap, startMap } from "./minimap.js";
import { BARS, dragging, fit, moved, scene, svg, view, zoom } from "./view.js";

const LINE = 16.5;

const handlers = { select() {}, point() {} };
let lit = [];
let measure = "flops";
let pointed = null;

function isLit(tensor, calls) {
  const maker = makerOf[tensor];
  return lit.some(
    (before) =>
      (maker === null || before[maker]) && calls.some((call) => !before[call] && usersOf[tensor].includes(call)),
  );
}

function line(shape, tensor, calls) {
  const group = drawn(
    "g",
    {
      class: "line",
      "data-tensor": tensor,
      click: (event) => handlers.select(tensor, event),
      pointerenter: (event) => handlers.point(tensor, null, event),
      pointerleave: () => handlers.point(null),
    },
    drawn("path", { d: shape, class: "reach" }),
    drawn("path", { d: shape, class: "stroke", "marker-end": "url(#arrow)" }),
  );
  group.classList.toggle("crossing", isLit(tensor, calls));
  group.classList.toggle("point", data.explanations[tensor].is_split_point);
  return group;
}

function lines(level) {
  return level.edges.flatMap(([tensors, from, to, points]) =>
    tensors.map((tensor) => {
      const calls = to === null ? usersOf[tensor].filter((call) => !level.own.has(call)) : level.boxes[to].calls;
      return line(path(level, tensor, from, to, points), tensor, calls);
    }),
  );
}

// The style of calls on one side of the lit cuts, or with a cut inside.
function side(calls) {
  const [stage, ...others] = new Set(calls.map((call) => lit.filter((before) => !before[call]).length));
  if (!lit.length || stage === undefined) return "";
  return others.length ? "divided" : stage % 2 ? "after" : "before";
}

const texts = (lines, x, y, style) =>
  lines.map((text, index) => drawn("text", { x, y: y + index * LINE, class: style }, text));

// Where a tip about something stands if no pointer is there.
function beside(group) {
  const { right, top } = group.getBoundingClientRect();
  return { clientX: right, clientY: top };
}

function button(attributes, act, about, ...children) {
  const group = drawn("g", {
    tabindex: 0,
    role: "button",
    ...attributes,
    click: act,
    pointerenter: (event) => handlers.point(about.tensor, about, event),
    pointerleave: () => handlers.point(null),
    focus: () => handlers.point(about.tensor, about, beside(group)),
    blur: () => handlers.point(null),
    keydown: (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        act(event);
      }
    },
  });
  group.append(...children);
  return group;
}

function closedBox(box) {
  const { x, left, top: high, wide, tall } = box.place;
  const [output] = box.input === null ? profile.calls[box.calls.at(-1)].outputs : [box.input];
  const act = (event) => {
    if (!box.inside || (event.shiftKey && box.ends_at !== null)) handlers.select(box.ends_at ?? output, event);
    else toggle(box);
  };
  const about = { tensor: box.ends_at ?? output, title: box.title.join(" "), calls: box.calls };
  const rectangle = (gap) =>
    drawn("rect", { x: left + gap, y: high + gap, width: wide - 2 * gap, height: tall - 2 * gap, rx: 6 });
  const names = texts(box.title, x, high + 20 + (box.several ? 4 : 0), "name");
  const below = high + 20 + (box.several ? 4 : 0) + box.title.length * 18.5 - 1;
  const rest = [
    ...texts(box.lines, x, below, "fine"),
    drawn(
      "g",
      {
        class: "mark",
        click: (event) => {
          event.stopPropagation();
          handlers.select(box.ends_at, event);
        },
      },
      ...texts(box.mark, x, below + box.lines.length * LINE, "fine"),
    ),
  ];
  return button(
    {
      class: `box ${side(box.calls)} ${box.input === null ? "" : "input"}`,
      "data-box": box.index,
      "aria-label": [...box.title, ...box.lines].join(", "),
      "aria-expanded": box.inside ? "false" : null,
    },
    act,
    about,
    rectangle(0),
    ...(box.several ? [rectangle(3)] : []),
    ...names,
    ...rest,
  );
}

function openBox(box) {
  const { left, top: high, wide, tall } = box.place;
  const title = box.title.join(" ");
  const head = button(
    { class: "head", "data-box": box.index, "aria-expanded": "true", "aria-label": `Fold ${title}` },
    () => toggle(box),
    { tensor: box.ends_at, title, calls: box.calls },
    drawn("rect", { x: left, y: high, width: wide, height: HEADER, rx: 6 }),
    drawn("text", { x: left + 10, y: high + 18, class: "name" }, `− ${title}`),
  );
  return drawn(
    "g",
    { class: "open" },
    drawn("rect", { class: "frame", x: left, y: high, width: wide, height: tall, rx: 6 }),
    head,
    ...contents(box.inside),
  );
}

function layer(box) {
  const { x, y, left, top: high, wide, tall } = box.place;
  const { call } = box;
  const { name, outputs } = profile.calls[call];
  return button(
    { class: `layer ${side([call])}`, "data-call": call, "aria-label": `${name}, ${data.words[call]}` },
    (event) => handlers.select(outputs[0], event),
    { tensor: outputs[0], title: name, calls: [call] },
    drawn("rect", { x: left, y: high, width: wide, height: tall, rx: 4 }),
    drawn("text", { x, y: y - 3, class: "name fine" }, box.title[0]),
    drawn("text", { x, y: y + 13, class: "fine" }, data.words[call]),
  );
}

const drawnBox = (box) => (box.isOpen ? openBox(box) : box.call === undefined ? closedBox(box) : layer(box));
const contents = (level) => [...lines(level), ...level.boxes.map(drawnBox)];

// The strip beside the graph: a bar for each closed box, and for each layer of an open one.
export const measures = {
  flops: ["FLOPs", (calls) => total(calls, "flops"), inThousands],
  parameters: ["parameters", parametersIn, inThousands],
  activation_bytes: ["activation bytes", (calls) => total(calls, "activation_bytes"), inBytes],
};

export function total(calls, figure) {
  const each = calls.map((call) => profile.calls[call][figure]);
  return each.includes(null) ? null : each.reduce((sum, one) => sum + one, 0);
}

export function parametersIn(calls) {
  const own = new Set(calls.flatMap((call) => profile.calls[call].variables));
  return [...own].reduce((sum, variable) => sum + profile.variables[variable].parameters, 0);
}

function bars() {
  const rows = new Map(); // boxes or layers of one height share it
  for (const { calls, place: at, isOpen } of visible) {
    if (isOpen || !calls.length) continue;
    const key = Math.round(at.y);
    rows.set(key, [...(rows.get(key) ?? []), { calls, y: at.y, high: at.tall }]);
  }
  const [what, of, said] = measures[measure];
  const found = [...rows.values()].flatMap((row) =>
    row.map((one, place) => ({
      calls: one.calls,
      y: one.y - one.high / 2 + (one.high * place) / row.length,
      high: one.high / row.length,
      value: of(one.calls),
    })),
  );
  const most = Math.max(1, ...found.map(({ value }) => value ?? 0));
  const left = extent().left - 30;
  return drawn(
    "g",
    { class: "bars", role: "img", "aria-label": `${what} along the graph` },
    ...found.map(({ calls, y, high, value }) => {
      const wide = ((value ?? 0) / most) * BARS;
      return drawn(
        "rect",
        { x: left - wide, y: y + 0.5, width: wide, height: Math.max(high - 1, 1), "data-value": value ?? "?" },
        drawn(
          "title",
          {},
          `${what}: ${said(value)} (${calls.length === 1 ? profile.calls[calls[0]].name : `${calls.length} layers`})`,
        ),
      );
    }),
  );
}

export function draw() {
  const focused = scene.contains(document.activeElement) ? document.activeElement.dataset : null;
  place();
  scene.replaceChildren(bars(), ...contents(top));
  svg.classList.toggle("cut", lit.length > 0);
  drawMap(side);
  mark(pointed);
  if (focused?.call) scene.querySelector(`[data-call="${focused.call}"]`)?.focus({ preventScroll: true });
  else if (focused?.box) scene.querySelector(`[data-box="${focused.box}"]`)?.focus({ preventScroll: true });
}

// Opens or folds a box; it stays where it is on the screen. What is open inside stays so.
function toggle(box) {
  const { x, top: high } = box.place;
  box.isOpen = !box.isOpen;
  draw();
  view.x += (x - box.place.x) * view.scale;
  view.y += (high - box.place.top) * view.scale;
  moved();
}

export function openAll(isOpen) {
  for (const box of boxes) box.isOpen = isOpen && Boolean(box.inside);
  draw();
  fit();
}

// Lights up cuts, each given by the calls before it.
export function light(heads) {
  lit = heads;
  draw();
}

export function show(what) {
  measure = what;
  draw();
}

// Marks the lines of a tensor, such as the one that the chart points at.
export function mark(tensor) {
  pointed = tensor;
  for (const one of scene.querySelectorAll(".pointed")) one.classList.remove("pointed");
  if (tensor === null) return;
  for (const one of scene.querySelectorAll(".line")) {
    one.classList.toggle("pointed", one.dataset.tensor === String(tensor));
  }
}

// Opens the boxes of a tensor and brings what makes it to the middle of the window.
export function reveal(tensor) {
  const call = makerOf[tensor];
  const inner = call === null ? boxes.find((box) => box.input === tensor) : boxOf[call];
  if (!inner) return;
  let found = inner;
  let isOpened = false;
  for (const box of around(inner)) {
    if (!box.isOpen && box.ends_at === tensor) {
      found = box;
      break;
    }
    isOpened ||= !box.isOpen;
    box.isOpen = true;
  }
  if (isOpened) draw();
  const { x, y, bottom } = found.place;
  view.scale = Math.max(view.scale, 0.6);
  view.x = svg.clientWidth / 2 - x * view.scale;
  view.y = svg.clientHeight / 2 - (found.call === undefined ? bottom : y) * view.scale;
  moved();
}

// Prepares to draw in an element. `select(tensor)`, `point(tensor or null, box or layer)` are called back.
export function start(parent, given) {
  Object.assign(handlers, given);
  parent.append(svg);
  startMap(parent);
  place();
  fit();
  dragging();
  svg.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const { left, top } = svg.getBoundingClientRect();
      zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), event.clientX - left, event.clientY - top);
    },
    { passive: false },
  );
  new ResizeObserver(() => moved()).observe(svg);
}
