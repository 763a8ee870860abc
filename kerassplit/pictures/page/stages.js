// The stages between several cuts, as `ks.split` makes them. A cut is a list of tensors.

import { copyable, link, python } from "./panel.js";
import {
  callsBefore,
  data,
  element,
  inBytes,
  inSeconds,
  inThousands,
  makerOf,
  named,
  profile,
  usersOf,
} from "./model.js";
import { parametersIn, total } from "./graph.js";

const tensorName = (tensor) => profile.tensors[tensor].name;
const results = new Set(profile.outputs);

// Cuts of the split or plan that the page shows; each as one tensor where that says which others cross with it.
export const ownCuts = data.cuts.map((names) => {
  const whole = new Set(names);
  const alone = names.find((name) => {
    const { crossing, also } = data.explanations[named.get(name)];
    const all = new Set([...crossing, ...also]);
    return all.size === whole.size && names.every((one) => all.has(one));
  });
  return alone === undefined ? names.map((name) => named.get(name)) : [named.get(alone)];
});

const isSame = (cuts, others) => JSON.stringify(cuts) === JSON.stringify(others);
export const isCut = (tensor) => makerOf[tensor] !== null && usersOf[tensor].length > 0;

// In the order in which the stages run.
export function sorted(cuts) {
  const last = (cut) => Math.max(...cut.map((tensor) => makerOf[tensor] ?? -1));
  return [...cuts].sort((one, other) => last(one) - last(other) || one.length - other.length);
}

// For each cut, the calls before it and before all earlier ones.
export function headsOf(cuts) {
  let before = new Uint8Array(profile.calls.length);
  return cuts.map((cut) => {
    const own = callsBefore(cut);
    before = before.map((one, call) => one | own[call]);
    return before;
  });
}

// The calls of each stage, and the tensors that it takes and gives.
export function stagesAt(cuts) {
  const heads = headsOf(cuts);
  const stageOf = profile.calls.map((_, call) => {
    const place = heads.findIndex((before) => before[call]);
    return place < 0 ? cuts.length : place;
  });
  const found = Array.from({ length: cuts.length + 1 }, () => ({ calls: [], inputs: new Set(), outputs: [] }));
  profile.calls.forEach(({ inputs, outputs }, call) => {
    const stage = found[stageOf[call]];
    stage.calls.push(call);
    for (const tensor of inputs) {
      const maker = makerOf[tensor];
      if (maker === null || stageOf[maker] !== stageOf[call]) stage.inputs.add(tensor);
    }
    for (const tensor of outputs) {
      const isUsed = usersOf[tensor].some((user) => stageOf[user] > stageOf[call]);
      if (isUsed || results.has(tensor)) stage.outputs.push(tensor);
    }
  });
  return found;
}

const bytesOf = (tensors) => {
  const each = [...tensors].map((tensor) => profile.tensors[tensor].bytes);
  return each.includes(null) ? null : each.reduce((sum, one) => sum + one, 0);
};

function table(titles, rows) {
  return element(
    "table",
    {},
    element("thead", {}, element("tr", {}, ...titles.map((one) => element("th", { scope: "col" }, one)))),
    element(
      "tbody",
      {},
      ...rows.map(([name, ...cells], place) =>
        element(
          "tr",
          {},
          element("th", { scope: "row", class: place % 2 ? "after" : "before" }, name),
          ...cells.map((one) => element("td", {}, one)),
        ),
      ),
    ),
  );
}

// The call of `ks.split` for these cuts.
function splitCall(cuts, names) {
  const isWhole = cuts.every(([tensor, ...others]) => others.length || data.explanations[tensor].crossing.length < 2);
  const each = cuts.map((cut) => {
    const said = cut.map((tensor) => python(tensorName(tensor)));
    return said.length > 1 ? `[${said.join(", ")}]` : said[0];
  });
  const options = [
    ...(isWhole ? [] : ["allow_crossing=True"]),
    ...(names ? [`names=[${names.map(python).join(", ")}]`] : []),
  ];
  return `ks.split(model, ${[`[${each.join(", ")}]`, ...options].join(", ")})`;
}

const UNITS = { seconds: inSeconds, bytes: inBytes };

// What the plan that the page was made for expects.
function planned({ objective, unit, value, stages }) {
  const said = UNITS[unit] ?? inThousands;
  const inUnit = (number) => (unit in UNITS ? said(number) : `${said(number)} ${unit}`);
  const [what, result] =
    objective === "energy" ? ["energy", `${Number(value.toPrecision(3))} J`] : [objective, inUnit(value)];
  const orNone = (number) => (number ? said(number) : "–");
  const rows = stages.map((one) => [one.device, ...[one.work, one.receive, one.send, one.load].map(orNone)]);
  return [
    element("h3", {}, `Planned: ${what === "throughput" ? "bottleneck" : what} ${result}`),
    table(["device", "computes", "receives", "sends", "load"], rows),
  ];
}

// Shows the stages between cuts in an element. `remove(cut)` and `add(whether the next click adds a cut)` are called
// back; `adding` says whether it does now.
export function showStages(parent, cuts, { remove, add, adding }) {
  const own = data.cuts.length > 0 && isSame(cuts, ownCuts);
  parent.hidden = !cuts.length;
  if (!cuts.length) return;
  const stages = stagesAt(cuts);
  const names = own ? data.stages : stages.map((_, place) => `stage_${place}`);
  const hasNames = !data.plan && names.some((name, place) => name !== `stage_${place}`);
  const empty = stages.slice(0, -1).findIndex((stage) => !stage.calls.length);
  const chips = cuts.map((cut, place) =>
    element(
      "li",
      {},
      ...cut.flatMap((tensor, index) => [index ? ", " : "", link(tensorName(tensor))]),
      " ",
      element(
        "button",
        { class: "remove", "aria-label": `Remove the cut at ${cut.map(tensorName)}`, click: () => remove(place) },
        "×",
      ),
    ),
  );
  const rows = stages.map((stage, place) => [
    names[place],
    inThousands(parametersIn(stage.calls)),
    inThousands(total(stage.calls, "flops")),
    inBytes(bytesOf(stage.inputs)),
    inBytes(bytesOf(stage.outputs)),
  ]);
  const more = element(
    "button",
    { id: "add", "aria-pressed": String(adding), title: "Or hold Shift", click: () => add(!adding) },
    adding ? "Click where to cut, too" : "Add a cut",
  );
  if (cuts.length === 1 && !own) {
    parent.replaceChildren(more); // the figures of both sides are those of the tensor
    return;
  }
  parent.replaceChildren(
    element("h2", {}, `${stages.length} stages`),
    element("ol", { class: "cuts" }, ...chips),
    more,
    ...(empty < 0
      ? [table(["stage", "parameters", "FLOPs", "takes", "gives"], rows)]
      : [element("p", {}, `Nothing is left between the cuts before ${cuts[empty].map(tensorName)}: remove one.`)]),
    ...(own && data.plan ? planned(data.plan) : []),
    ...(empty < 0 ? [copyable(splitCall(cuts, hasNames ? names : null), "ks.split")] : []),
  );
}
