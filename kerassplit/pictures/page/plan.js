// The best cuts for devices, as `ks.plan` finds them. Each cut is crossed by one tensor, besides inputs and masks.
// Ties are broken as there: fewest tensors over all cuts; for throughput the most even loads; then the fewest bytes.

import { crossingAfter, data, makerOf, named, profile, usersOf } from "./model.js";

const TIED = 1 + 1e-12;
const { forms, masks, message_bytes: messageBytes } = data.sending;

// The set of calls up to a tensor, made from a smaller one; null if that is not a part of it.
function grown(from, tensor) {
  const before = from.before.slice();
  const added = [];
  const waiting = [makerOf[tensor]];
  let isPart = from.tensor === null;
  while (waiting.length) {
    const call = waiting.pop();
    if (call === null) continue;
    if (before[call]) {
      isPart ||= call === makerOf[from.tensor];
      continue;
    }
    before[call] = 1;
    added.push(call);
    for (const input of profile.calls[call].inputs) waiting.push(makerOf[input]);
  }
  if (!isPart) return null;
  const crossing = [...from.crossing, ...added.flatMap((call) => profile.calls[call].outputs)].filter((one) =>
    usersOf[one].some((user) => !before[user]),
  );
  const work = added.reduce((sum, call) => sum + (profile.calls[call].flops ?? NaN), from.work);
  return { tensor, before, crossing, work, counted: 1, size: from.size + added.length };
}

// Sets of calls that can lie before a cut, in the order of their FLOPs: nothing, up to each split point, everything.
export const sets = (() => {
  const before = new Uint8Array(profile.calls.length);
  const nothing = { tensor: null, before, crossing: crossingAfter(before), work: 0, counted: 0, size: 0 };
  let from = nothing;
  const cuts = data.points.map((point) => {
    const tensor = named.get(point.name);
    from = grown(from, tensor) ?? grown(nothing, tensor);
    return from;
  });
  cuts.sort((one, other) => one.work - other.work || one.size - other.size);
  const work = profile.calls.reduce((sum, call) => sum + (call.flops ?? NaN), 0);
  const all = { ...nothing, before: before.map(() => 1), crossing: [], work, size: before.length };
  return [nothing, ...cuts, all];
})();

const last = sets.length - 1;
const isBefore = (one, other) => sets[other].before[makerOf[sets[one].tensor]] === 1;
const isChain = sets.every((_, index) => index < 2 || index === last || isBefore(index - 1, index));

function isNested(one, other) {
  return one < other && (one === 0 || other === last || isChain || isBefore(one, other));
}

// Seconds and bytes of everything that crosses after each set, after nothing the inputs; null in bytes: unknown.
export function moves(settings) {
  const sizes = forms[settings.form];
  const sizeOf = (tensor) => {
    if (masks[tensor]) return masks[tensor].reduce((sum, source) => sum + sizeOf(source), 0);
    if (settings.inputBytes !== null && makerOf[tensor] === null) return settings.inputBytes * profile.batch_size;
    return sizes[tensor] ?? null;
  };
  return sets.map(({ crossing }) => {
    if (!crossing.length) return { seconds: 0, bytes: 0, made: 0 };
    const each = crossing.map(sizeOf);
    if (each.includes(null)) return { seconds: Infinity, bytes: null, made: 0 };
    const sum = each.reduce((total, size) => total + size, 0);
    const bytes = sum + (settings.form ? messageBytes : 0);
    const made = each.reduce((total, size, index) => total + (makerOf[crossing[index]] === null ? 0 : size), 0);
    return { seconds: settings.latency + bytes / settings.bandwidth, bytes, made };
  });
}

export const known = sets.every((set) => !Number.isNaN(set.work));

// Two devices, least latency: the best way first. `cut` is a set; the last one runs everything on the first device.
export function twoDevices(settings) {
  const over = moves(settings);
  const ways = sets.map((set, cut) => {
    const [first, second] = [set.work / settings.speeds[0], (sets[last].work - set.work) / settings.speeds[1]];
    const value = first + over[cut].seconds + second;
    return { cuts: [cut], value, counted: set.counted, made: over[cut].made, stages: cut === last ? 1 : 2 };
  });
  const best = Math.min(...ways.map((way) => way.value));
  const rank = (way) => [way.value <= best * TIED ? 0 : way.value, way.counted, way.made, way.stages];
  return ways.filter((way) => way.value < Infinity).sort((one, other) => compared(rank(one), rank(other)));
}

// `count` equal devices in a row, least bottleneck; `without`: a cut that may not be made. Null if there is no way.
export function equalDevices(settings, without = null) {
  const { count } = settings;
  const over = moves(settings);
  const load = (from, to) =>
    (sets[to].work - sets[from].work) / settings.speeds[0] + (from ? over[from].seconds : 0) + over[to].seconds; // the inputs are on the first device
  const value = search(
    count,
    without,
    (from, to) => [load(from, to)],
    (so, step) => [Math.max(so[0], step[0])],
  );
  if (value === null) return null;
  const most = value.value[0] * TIED;
  const even = search(
    count,
    without,
    (from, to) => {
      const seconds = load(from, to);
      return seconds <= most ? [sets[to].counted, seconds * seconds, over[to].made] : null;
    },
    (so, step) => so.map((sum, rank) => sum + step[rank]),
  );
  return { cuts: even.cuts, value: value.value[0] };
}

// The runner-up misses at least one of the best cuts.
export function runnerUp(settings, best) {
  const others = best.cuts.map((cut) => equalDevices(settings, cut)).filter((way) => way !== null);
  return others.sort((one, other) => one.value - other.value)[0] ?? null;
}

// Dynamic programming over stages: the least values, compared rank by rank, of ways from nothing to everything.
function search(count, without, costOf, added) {
  let ways = sets.map((_, index) => (index ? null : { value: [0, 0, 0], cuts: [] }));
  for (let stage = 1; stage <= count; stage += 1) {
    const next = sets.map(() => null);
    for (let to = stage === count ? last : 1; to <= (stage === count ? last : last - 1); to += 1) {
      if (to === without) continue;
      for (let from = 0; from < to; from += 1) {
        if (ways[from] === null || !isNested(from, to)) continue;
        const cost = costOf(from, to);
        if (cost === null) continue;
        const value = added(ways[from].value, cost);
        if (value[0] < Infinity && (next[to] === null || compared(value, next[to].value) < 0)) {
          next[to] = { value, from: ways[from], to };
        }
      }
    }
    ways = next;
  }
  if (ways[last] === null) return null;
  const cuts = [];
  for (let way = ways[last].from; way?.to; way = way.from) cuts.unshift(way.to);
  return { value: ways[last].value, cuts };
}

function compared(one, other) {
  for (let rank = 0; rank < one.length; rank += 1) {
    if (one[rank] !== other[rank]) return one[rank] - other[rank];
  }
  return 0;
}
