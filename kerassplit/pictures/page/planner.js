// The sliders, and the plan for where they stand.

import { copyable, link } from "./panel.js";
import { callsBefore, data, element, inBytes, inSeconds, pointOf, profile } from "./model.js";
import { equalDevices, known, moves, runnerUp, sets, twoDevices } from "./plan.js";

const digits = (value, count) => Number(value.toPrecision(count));
const unit = (value, size, name) => `${digits(value / size, 3)} ${name}`;
const inFlops = (value) => (value >= 1e12 ? unit(value, 1e12, "TFLOPS") : unit(value, 1e9, "GFLOPS"));
const inBits = (value) => (8 * value >= 1e9 ? unit(8 * value, 1e9, "Gbit/s") : unit(8 * value, 1e6, "Mbit/s"));

// Each slider has 200 positions, evenly spaced in decades; numbers have two digits, so that copied calls are exact.
const scale = (low, high) => (position) => digits(low * (high / low) ** (position / 200), 2);
const SLIDERS = {
  first: ["First device", scale(1e9, 1e13), inFlops, 65],
  second: ["Second device", scale(1e9, 1e15), inFlops, 123],
  speed: ["Each device", scale(1e9, 1e15), inFlops, 100],
  count: ["Devices", (position) => 2 + Math.round((position / 200) * 6), String, 67],
  bandwidth: ["Bandwidth", scale(1.25e4, 1.25e10), inBits, 77],
  latency: ["Latency of the link", (position) => (position ? scale(1e-6, 1)(position) : 0), inSeconds, 133],
  input: [
    "Bytes of the input",
    (position) => (position ? scale(100, 1e8)(position) : null),
    (value) => (value === null ? "as a tensor" : inBytes(value)),
    0,
  ],
};
const OF_GOAL = {
  latency: ["first", "second", "bandwidth", "latency", "input"],
  throughput: ["speed", "count", "bandwidth", "latency", "input"],
};
const FORMS = {
  "": "tensors as they are",
  float32: "float32",
  float16: "float16",
  bfloat16: "bfloat16",
  int8: "int8",
  int4: "int4",
};

const state = {
  goal: "latency",
  form: "",
  ...Object.fromEntries(Object.entries(SLIDERS).map(([key, [, , , start]]) => [key, start])),
};
const valueOf = (key) => SLIDERS[key][1](state[key]);

function settings() {
  return {
    form: state.form,
    bandwidth: valueOf("bandwidth"),
    latency: valueOf("latency"),
    inputBytes: valueOf("input"),
    speeds: state.goal === "latency" ? [valueOf("first"), valueOf("second")] : [valueOf("speed")],
    count: valueOf("count"),
  };
}

const cutName = (cut) => (sets[cut].tensor === null ? null : profile.tensors[sets[cut].tensor].name);

// The call of `ks.plan` for these settings.
function call({ form, bandwidth, latency, inputBytes, speeds, count }) {
  const devices =
    state.goal === "latency"
      ? `[ks.Device("first", ${speeds[0]}), ks.Device("second", ${speeds[1]})]`
      : `ks.Device("device", ${speeds[0]}, count=${count})`;
  const options = [`links=ks.Link(${bandwidth}, ${latency})`, `objective="${state.goal}"`];
  if (form) options.push(`compression="${form}"`);
  if (inputBytes !== null) options.push(`input_bytes=${inputBytes}`);
  if (profile.batch_size !== 1) options.push(`batch_size=${profile.batch_size}`);
  if (data.open_sides !== null) options.push(`open_sides=${data.open_sides}`);
  return `ks.plan(model, ${devices}, ${options.join(", ")})`;
}

function inWords(cuts) {
  if (state.goal === "latency" && cuts[0] === sets.length - 1) return ["everything on the first device"];
  if (state.goal === "latency" && cuts[0] === 0) return ["everything on the second device"];
  return ["cut at ", ...cuts.flatMap((cut, index) => [index ? ", " : "", link(cutName(cut))])];
}

function stages(best, given) {
  const over = moves(given);
  const all = sets.length - 1;
  const ends = [0, ...best.cuts.filter((cut) => cut && cut !== all), all];
  const skipped = state.goal === "latency" && best.cuts[0] === 0 ? 1 : 0; // the first device only sends the inputs
  const rows = ends.slice(1).map((end, stage) => {
    const device = stage + skipped;
    const compute = (sets[end].work - sets[ends[stage]].work) / (given.speeds[device] ?? given.speeds[0]);
    const moved = (set, is) => (is ? `${inSeconds(over[set].seconds)}, ${inBytes(over[set].bytes)}` : "–");
    const name = state.goal === "latency" ? ["first", "second"][device] : `device ${device + 1}`;
    return element(
      "tr",
      {},
      element("th", { scope: "row" }, name),
      ...[inSeconds(compute), moved(ends[stage], device), moved(end, end !== all)].map((one) => element("td", {}, one)),
    );
  });
  const titles = ["", "computes", "receives", "sends"].map((one) => element("th", { scope: "col" }, one));
  return element("table", {}, element("thead", {}, element("tr", {}, ...titles)), element("tbody", {}, ...rows));
}

function answer() {
  const given = settings();
  if (state.goal === "latency") {
    const [best, second] = twoDevices(given);
    return { given, best, second };
  }
  const best = equalDevices(given);
  return { given, best, second: best && sets.length < 300 ? runnerUp(given, best) : null };
}

function showPlan(output, { given, best, second }, choose) {
  if (!best) {
    output.dataset.cuts = "none";
    output.replaceChildren(element("p", {}, "There are not enough split points, or the bytes of one are unknown."));
    return;
  }
  const what = state.goal === "latency" ? "latency" : "bottleneck";
  const cuts = best.cuts.filter((cut) => sets[cut].tensor !== null).map((cut) => [sets[cut].tensor]);
  const names = cuts.map(([tensor]) => profile.tensors[tensor].name);
  output.dataset.cuts = JSON.stringify(names);
  output.dataset.value = best.value;
  output.replaceChildren(
    element("p", { class: "best" }, element("b", {}, ...inWords(best.cuts)), `: ${what} ${inSeconds(best.value)}`),
    ...(second ? [element("p", {}, "Runner-up: ", ...inWords(second.cuts), `, ${inSeconds(second.value)}`)] : []),
    stages(best, given),
    ...(names.length
      ? [element("button", { class: "choose", click: () => choose(cuts) }, "Show what each stage has")]
      : []),
    copyable(call(given), "ks.plan"),
  );
}

function slider(key, changed) {
  const [label, , said] = SLIDERS[key];
  const shown = element("output", {});
  const input = element("input", {
    type: "range",
    min: 0,
    max: 200,
    value: state[key],
    "data-slider": key,
    input: () => {
      state[key] = Number(input.value);
      say();
      changed();
    },
  });
  const say = () => {
    shown.textContent = said(valueOf(key));
    input.setAttribute("aria-valuetext", shown.textContent);
  };
  say();
  return element("label", { class: "slider" }, element("span", {}, label), input, shown);
}

// Draws the sliders. `planned(calls before each cut, tensors)` is called back whenever one moves, `choose(cuts)` to go on
// with the cuts found.
export function startPlanner(parent, planned, choose) {
  const title = element("h2", {}, "Plan");
  if (!known || !pointOf.size) {
    const why = known ? "no tensor crosses a cut alone" : "the FLOPs of some layers are unknown";
    parent.replaceChildren(
      title,
      element("p", {}, `Plans cannot be computed in this page: ${why}. Try ks.plan in Python.`),
    );
    return;
  }
  const sliders = element("div");
  const output = element("div", { id: "plan", role: "status" });
  const changed = (moved = true) => {
    const found = answer();
    showPlan(output, found, choose);
    if (moved && found.best) {
      const tensors = found.best.cuts.map((cut) => sets[cut].tensor).filter((tensor) => tensor !== null);
      planned(
        tensors.map((tensor) => callsBefore([tensor])),
        tensors,
      );
    }
  };
  const goals = element(
    "select",
    {
      id: "goal",
      change: () => {
        state.goal = goals.value;
        fill();
        changed();
      },
    },
    element("option", { value: "latency" }, "two devices, least latency"),
    element("option", { value: "throughput" }, "equal devices, most throughput"),
  );
  const forms = element(
    "select",
    {
      id: "form",
      change: () => {
        state.form = forms.value;
        changed();
      },
    },
    ...Object.entries(FORMS).map(([value, name]) => element("option", { value }, name)),
  );
  const fill = () => {
    const keys = OF_GOAL[state.goal].filter((key) => key !== "input" || profile.inputs.length === 1);
    sliders.replaceChildren(...keys.map((key) => slider(key, changed)));
  };
  fill();
  parent.replaceChildren(
    title,
    element("label", { class: "slider" }, element("span", {}, "For"), goals),
    sliders,
    element("label", { class: "slider" }, element("span", {}, "Send"), forms),
    output,
  );
  changed(false);
}
