// What is known about a tensor, and code to copy.

import {
  callsBefore,
  data,
  element,
  inBytes,
  inShape,
  inThousands,
  makerOf,
  named,
  parametersOf,
  pointOf,
  profile,
  sumOf,
  usersOf,
} from "./model.js";
import { measures } from "./graph.js";

export const python = (text) => JSON.stringify(text);
const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;

export function link(name) {
  return element("a", { href: `#${encodeURIComponent(name)}` }, name);
}

// A line of code with a button that copies it.
export function copyable(text, what) {
  const done = element("span", { class: "done", role: "status" });
  const button = element(
    "button",
    {
      class: "copy",
      "data-copy": text,
      "aria-label": `Copy ${what}`,
      click: async () => {
        done.textContent = (await copied(text)) ? " copied" : " select it and copy by hand";
        setTimeout(() => {
          done.textContent = "";
        }, 1500);
      },
    },
    "Copy",
  );
  return element("div", { class: "code" }, element("code", {}, text), button, done);
}

// Without a server, some browsers have no clipboard object; the old way works everywhere.
async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = element("textarea", { class: "unseen" });
    area.value = text;
    document.body.append(area);
    area.select();
    const worked = document.execCommand("copy");
    area.remove();
    return worked;
  }
}

const row = (what, ...values) =>
  element("tr", {}, element("th", { scope: "row" }, what), ...values.map((one) => element("td", {}, one)));

function figures(tensor) {
  const before = callsBefore([tensor]);
  const point = pointOf.get(tensor);
  const params = point
    ? [point.params_before, point.params_after]
    : [parametersOf(before, true), parametersOf(before, false)];
  const flops = [true, false].map((side) => sumOf("flops", before, side));
  return element(
    "table",
    {},
    element(
      "thead",
      {},
      element(
        "tr",
        {},
        element("td"),
        element("th", { scope: "col", class: "before" }, "before"),
        element("th", { scope: "col", class: "after" }, "after"),
      ),
    ),
    element("tbody", {}, row("parameters", ...params.map(inThousands)), row("FLOPs", ...flops.map(inThousands))),
  );
}

function crossing({ crossing: counted, also }) {
  const line = (name, along) => {
    const { shape, dtype, bytes } = profile.tensors[named.get(name)];
    return element(
      "li",
      {},
      link(name),
      ` ${inShape(shape)} ${dtype}, ${inBytes(bytes)}${along ? ", comes along" : ""}`,
    );
  };
  return element(
    "ul",
    { class: "crossing" },
    ...counted.map((name) => line(name, false)),
    ...also.map((name) => line(name, true)),
  );
}

function code(found, tensor) {
  const name = python(found.name);
  if (makerOf[tensor] === null) return [];
  if (found.is_split_point) {
    return [
      copyable(`ks.split(model, ${name})`, "ks.split"),
      copyable(`ks.build_submodel(model, start=${name})`, "ks.build_submodel"),
      copyable(`kerassplit split MODEL --at=${shell(found.name)} -o stages`, "the command"),
    ];
  }
  const tap = copyable(`ks.tap(model, ${name})`, "ks.tap");
  return found.crossing.length > 1 && usersOf[tensor].length
    ? [copyable(`ks.split(model, ${name}, allow_crossing=True)`, "ks.split"), tap]
    : [tap];
}

// Shows a tensor in an element, or how to select one.
export function showDetails(parent, tensor) {
  if (tensor === null) {
    parent.replaceChildren(
      element("h2", {}, "Where can it be cut?"),
      element("p", {}, "Click a line or a layer to see what crosses a cut there. Click a block to open it."),
    );
    return;
  }
  const found = data.explanations[tensor];
  const { shape, dtype, bytes } = profile.tensors[tensor];
  const near = [
    ["before", found.before],
    ["after", found.after],
  ].map(([where, name]) => element("span", {}, `${where}: `, name === null ? "none" : link(name)));
  parent.replaceChildren(
    element("h2", { class: found.is_split_point ? "is-point" : "" }, found.name),
    element("p", {}, `${inShape(shape)} ${dtype}, ${inBytes(bytes)}`),
    element("p", { class: "reason" }, found.reason),
    ...(found.advice ? [element("p", {}, found.advice)] : []),
    ...(makerOf[tensor] === null
      ? []
      : [element("p", { class: "layer-of" }, ...aboutLayer(makerOf[tensor]).flatMap((one, place) => (place ? [", ", one] : [one])))]),
    element("h3", {}, "Crosses here"),
    crossing(found),
    figures(tensor),
    element("p", { class: "near" }, "Nearest split points: ", near[0], ", ", near[1]),
    ...code(found, tensor),
  );
}

// The kind of a layer, its settings, and what it takes.
function aboutLayer(call) {
  const { kind, inputs } = profile.calls[call];
  const settings = data.settings.lists[data.settings.of[call]].map(([name, value]) => [
    element("span", { class: "setting" }, `${name} `),
    `${value}`,
  ]);
  return [
    kind,
    ...(settings.length
      ? [element("span", { class: "settings" }, ...settings.flatMap((one, place) => (place ? [" · ", ...one] : one)))]
      : []),
    `takes ${inputs.map((tensor) => inShape(profile.tensors[tensor].shape)).join(", ")}`,
  ];
}

// A few words about a tensor, and the box or layer that was pointed at.
export function showTip(tip, tensor, about, where) {
  tip.hidden = tensor === null && !about;
  if (tip.hidden) return;
  const lines = [];
  if (about) {
    const { calls, title } = about;
    lines.push(element("b", {}, title));
    if (calls.length === 1) lines.push(...aboutLayer(calls[0]));
    else if (calls.length) lines.push(`${calls.length} layers and operations`);
    if (calls.length) for (const [what, of, said] of Object.values(measures)) lines.push(`${what}: ${said(of(calls))}`);
  }
  if (tensor !== null && tensor !== undefined) {
    const { name, shape, dtype, bytes } = profile.tensors[tensor];
    lines.push(`gives ${name}: ${inShape(shape)} ${dtype}, ${inBytes(bytes)}`);
    if (pointOf.has(tensor)) lines.push("can be cut here");
  }
  tip.replaceChildren(...lines.map((one) => element("div", {}, one)));
  tip.style.left = `${Math.max(4, Math.min(where.clientX + 14, innerWidth - tip.offsetWidth - 4))}px`;
  tip.style.top = `${Math.max(4, Math.min(where.clientY + 14, innerHeight - tip.offsetHeight - 4))}px`;
}
