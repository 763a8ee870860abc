// Reads the data; what lies before a cut and what crosses it. Calls and tensors are indices into the profile.

export const data = JSON.parse(document.getElementById("data").textContent);
export const { profile } = data;

export const makerOf = new Array(profile.tensors.length).fill(null); // null: an input of the model
export const usersOf = profile.tensors.map(() => []);
profile.calls.forEach((call, index) => {
  for (const tensor of call.outputs) makerOf[tensor] = index;
  for (const tensor of call.inputs) usersOf[tensor].push(index);
});

export const named = new Map(profile.tensors.map((tensor, index) => [tensor.name, index]));
export const pointOf = new Map(data.points.map((point) => [named.get(point.name), point]));

// The calls that tensors depend on, as one byte per call.
export function callsBefore(tensors) {
  const before = new Uint8Array(profile.calls.length);
  const waiting = tensors.map((tensor) => makerOf[tensor]);
  while (waiting.length) {
    const call = waiting.pop();
    if (call === null || before[call]) continue;
    before[call] = 1;
    for (const tensor of profile.calls[call].inputs) waiting.push(makerOf[tensor]);
  }
  return before;
}

// The tensors that calls and the model's inputs give to other calls.
export function crossingAfter(before) {
  const given = (tensor) => makerOf[tensor] === null || before[makerOf[tensor]];
  return profile.tensors
    .map((_, tensor) => tensor)
    .filter((tensor) => given(tensor) && usersOf[tensor].some((user) => !before[user]));
}

// Sums a figure of calls on one side of a cut; null if one of them is unknown.
export function sumOf(figure, before, side) {
  let sum = 0;
  for (const [index, call] of profile.calls.entries()) {
    if (Boolean(before[index]) !== side) continue;
    if (call[figure] === null) return null;
    sum += call[figure];
  }
  return sum;
}

// Parameters of the calls on one side of a cut, shared ones once.
export function parametersOf(before, side) {
  const own = new Set();
  profile.calls.forEach((call, index) => {
    if (Boolean(before[index]) === side) call.variables.forEach((variable) => own.add(variable));
  });
  let sum = 0;
  for (const variable of own) sum += profile.variables[variable].parameters;
  return sum;
}

const scaled = (count, step, units) => {
  let power = 1;
  while (power < units.length && Math.round((count / step ** power) * 10) / 10 >= step) power += 1;
  return `${(count / step ** power).toFixed(1)} ${units[power - 1]}`;
};
export const inBytes = (count) =>
  count === null || count === undefined
    ? "?"
    : count < 1024
      ? `${Math.round(count)} B`
      : scaled(count, 1024, ["KiB", "MiB", "GiB", "TiB"]);
export const inThousands = (count) =>
  count === null ? "?" : count < 1000 ? String(count) : scaled(count, 1000, ["k", "M", "G", "T"]);
export const inShape = (shape) =>
  shape
    .slice(1)
    .map((side) => side ?? "?")
    .join("×") || "scalar";
export const inSeconds = (seconds) => {
  const [unit, size] = [
    ["s", 1],
    ["ms", 1e-3],
    ["µs", 1e-6],
  ].find(([, one]) => seconds >= one) ?? ["ns", 1e-9];
  return `${Number((seconds / size).toPrecision(3))} ${unit}`;
};

// An element with attributes and children; texts become text, never markup.
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  return filled(made, attributes, children);
}

export function drawn(name, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function filled(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(key, value);
    else if (value !== null && value !== undefined && value !== false)
      made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}
