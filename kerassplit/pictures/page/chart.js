// The chart of what crosses each split point.

import { drawn, element, inBytes, profile } from "./model.js";
import { known, sets } from "./plan.js";

// For each split point: what crosses over the share of FLOPs (or of layers) before it.
const [WIDE, HIGH, LEFT, BOTTOM] = [360, 190, 58, 34];
const dots = new Map();

export function drawChart(parent, { select, point }) {
  const points = sets.slice(1, -1).filter(({ tensor }) => profile.tensors[tensor].bytes !== null);
  if (!points.length) {
    parent.replaceChildren(element("p", {}, "No tensor crosses alone, or its bytes are unknown: there is no chart."));
    return;
  }
  const all = sets.at(-1);
  const isKnown = known && all.work > 0;
  const share = ({ work, size }) => (isKnown ? work / all.work : size / all.size);
  const bytesAt = ({ tensor }) => profile.tensors[tensor].bytes / profile.batch_size;
  const logs = points.map((one) => Math.log10(Math.max(bytesAt(one), 1)));
  const [low, high] = [Math.floor(Math.min(...logs)), Math.ceil(Math.max(...logs) + 1e-9)];
  const y = (log) => HIGH - BOTTOM - ((log - low) / Math.max(high - low, 1)) * (HIGH - BOTTOM - 12);
  const x = (part) => LEFT + part * (WIDE - LEFT - 22);
  const axes = [];
  for (let power = low; power <= high; power += 1) {
    axes.push(
      drawn("line", { x1: LEFT, x2: WIDE - 12, y1: y(power), y2: y(power), class: "grid" }),
      drawn("text", { x: LEFT - 6, y: y(power) + 4, class: "left" }, `10${[..."⁰¹²³⁴⁵⁶⁷⁸⁹"][power] ?? `^${power}`} B`),
    );
  }
  for (const part of [0, 0.25, 0.5, 0.75, 1])
    axes.push(drawn("text", { x: x(part), y: HIGH - BOTTOM + 16 }, `${part * 100} %`));
  axes.push(
    drawn("text", { x: x(0.5), y: HIGH - 3 }, isKnown ? "of the FLOPs before the cut" : "of the layers before the cut"),
  );
  for (const [index, one] of points.entries()) {
    const { tensor } = one;
    const dot = drawn(
      "circle",
      {
        cx: x(share(one)).toFixed(1),
        cy: y(logs[index]).toFixed(1),
        r: 4.5,
        "data-tensor": tensor,
        click: (event) => select(tensor, event),
        pointerenter: (event) => point(tensor, null, event),
        pointerleave: () => point(null),
      },
      drawn("title", {}, `${profile.tensors[tensor].name}: ${inBytes(bytesAt(one))}`),
    );
    dots.set(tensor, dot);
  }
  parent.replaceChildren(
    element("h2", {}, "What crosses, over what is computed"),
    drawn(
      "svg",
      {
        viewBox: `0 0 ${WIDE} ${HIGH}`,
        role: "img",
        "aria-label": `Bytes per sample that cross each of ${points.length} split points`,
      },
      ...axes,
      ...dots.values(),
    ),
  );
}

export function markChart(pointed, chosen) {
  for (const [tensor, dot] of dots) {
    dot.classList.toggle("pointed", tensor === pointed);
    dot.classList.toggle("chosen", chosen.includes(tensor));
    if (chosen.includes(tensor) && pointed === null) dot.parentNode.append(dot); // under the pointer, it would lose the click
  }
}
