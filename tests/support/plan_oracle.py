"""Finds the best plan for a small model by brute force, from a profile and the definitions alone."""

import math
from functools import cached_property
from itertools import combinations, permutations

from oracle import side_calls

from kerassplit.graph.reading import read_graph


class Oracle:
    """All ways to cut a model and to assign the stages to devices.

    `speeds` are FLOPs per second, `memories` bytes, `overheads` seconds, `powers` watts for computing and for sending,
    one for each device; `link` is (bytes per second, seconds) or None. `budget` are the most joules for latency, or the
    most seconds for energy. `sent` are the bytes of each tensor on a link, `packing` the seconds to pack some of them,
    `unpacking` those to unpack them, `message` the bytes of each message besides its tensors, and `down` the bytes per
    second to a device that is listed earlier.
    """

    def __init__(
        self,
        model,
        profile,
        speeds,
        link,
        memories,
        *,
        objective,
        overlap,
        leave_out,
        max_crossing,
        any_order=False,
        sent=None,
        packing=None,
        unpacking=None,
        message=0,
        down=None,
        overheads=None,
        powers=None,
        budget=math.inf,
    ):
        self.overheads, self.powers = overheads or [0.0] * len(speeds), powers or [(0.0, 0.0)] * len(speeds)
        self.budget = budget
        self.graph, self.profile = read_graph(model), profile
        self.speeds, self.link, self.memories = speeds, link, memories
        self.objective, self.overlap, self.leave_out = objective, overlap, leave_out
        self.any_order = any_order
        self.sent = [tensor.bytes for tensor in profile.tensors] if sent is None else sent
        self.packing, self.unpacking = packing or {}, unpacking or {}
        self.message, self.down = message, down
        self.inputs_move = link is not None and not any_order
        self.most = math.inf if max_crossing == "any" else max_crossing
        self.sides = side_calls(self.graph)
        self.calls = [index for index, call in enumerate(self.graph.calls) if call.inputs]
        self.cost = dict(zip(self.calls, profile.calls, strict=True))

    @cached_property
    def cuts(self):
        """Returns the sets of calls before a cut (closed, and all of them lead to what crosses), with what crosses."""
        needs = {call: {self.graph.tensors[t].call for t in self.graph.calls[call].inputs} for call in self.calls}
        closed = {frozenset()}
        for call in self.calls:
            closed |= {some | {call} for some in closed if needs[call] & set(self.calls) <= some}
        found = {}
        for some in closed:
            crossing = [
                index
                for index, tensor in enumerate(self.graph.tensors)
                if any(user not in some for user in tensor.users)
                and (tensor.call in some or (tensor.call not in needs and any(user in some for user in tensor.users)))
            ]
            counted = [tensor for tensor in crossing if self.graph.tensors[tensor].call not in self.sides]
            if some and len(counted) <= self.most and self._before(counted, needs) == some:
                found[some] = crossing
        return found

    def _before(self, crossing, needs):
        waiting, seen = [self.graph.tensors[tensor].call for tensor in crossing], set()
        while waiting:
            call = waiting.pop()
            if call in needs and call not in seen:
                seen.add(call)
                waiting += needs[call]
        return seen

    @cached_property
    def live(self):
        """Returns the bytes of live tensors during each call of a run of the whole model, by block."""
        last, calls = {}, [self.calls[call] for block in self.profile.blocks for call in block.calls]
        for place, call in enumerate(calls):
            for tensor in (*self.graph.calls[call].inputs, *self.graph.calls[call].outputs):
                last[tensor] = math.inf if tensor in self.profile.outputs else max(place, last.get(tensor, 0))
        first = {tensor: place for place, call in enumerate(calls) for tensor in self.graph.calls[call].outputs}
        return {
            call: sum(
                self.profile.tensors[tensor].bytes
                for tensor, end in last.items()
                if first.get(tensor, 0) <= place <= end
            )
            for place, call in enumerate(calls)
        }

    def moving(self, tensors, back=False):
        """Returns the seconds to pack tensors, to send them and to unpack them."""
        if self.link is None:
            return 0.0, 0.0, 0.0
        bandwidth, latency = self.link
        bandwidth = self.down if back and self.down else bandwidth
        packing, unpacking = (sum(some.get(one, 0.0) for one in tensors) for some in (self.packing, self.unpacking))
        seconds = latency + (self.message + sum(self.sent[tensor] for tensor in tensors)) / bandwidth
        return packing, seconds, unpacking

    def moved(self, some):
        """Returns what is sent over a cut: crossing tensors, and inputs on their way to later stages."""
        late = [
            tensor
            for tensor in self.profile.inputs
            if self.graph.tensors[tensor].users and not some.intersection(self.graph.tensors[tensor].users)
        ]
        if self.inputs_move:
            return [*self.cuts[some], *late]
        return [tensor for tensor in self.cuts[some] if tensor not in self.profile.inputs]

    def value(self, sets, devices):
        """Returns the value of a plan; `inf` if it does not fit. `sets` are increasing, without the whole."""
        bounds = [frozenset(), *sets, frozenset(self.calls)]
        loads, total, energy = [], 0.0, 0.0
        used = [tensor for tensor in self.profile.inputs if self.graph.tensors[tensor].users]
        for place, device in enumerate(devices):
            own = bounds[place + 1] - bounds[place]
            work = sum(self.cost[call].flops for call in own) / self.speeds[device] + self.overheads[device]
            given = self.moved(bounds[place]) if place else []
            sent = self.moved(bounds[place + 1]) if place + 1 < len(devices) else []
            come = self.moving(used) if not place and device and self.inputs_move else (0.0, 0.0, 0.0)
            if place:
                come = self.moving(given, device < devices[place - 1])
            packing, sending, _ = self.moving(sent, devices[place + 1] < device) if sent else (0.0, 0.0, 0.0)
            receive, send = come[1] + come[2], packing + sending
            loads.append(max(work, receive, send) if self.overlap else work + receive + send)
            total += work + sum(come)
            energy += (work + packing + come[2]) * self.powers[device][0] + sending * self.powers[device][1]
            energy += 0.0 if place else come[0] * self.powers[0][0] + come[1] * self.powers[0][1]
            if self.memory(own, given, sent) > self.memories[device]:
                return math.inf
        if (energy if self.objective == "latency" else total) > self.budget:
            return math.inf
        return {"throughput": max(loads), "latency": total, "energy": energy}[self.objective]

    def memory(self, own, given, sent):
        """Returns the sum of weights, live activations, and a buffer for each tensor received or sent."""
        weights = {variable for call in own for variable in self.cost[call].variables}
        kept = sum(self.profile.variables[variable].bytes for variable in weights)
        if self.link is None:  # tensors go straight from where they are made to where they are used
            received = {tensor for tensor in given if own.intersection(self.graph.tensors[tensor].users)}
            buffers = received | {tensor for tensor in sent if self.graph.tensors[tensor].call in own}
        else:
            buffers = {*given, *sent}
        kept += sum(self.sent[tensor] for tensor in buffers - set(self.profile.inputs))
        return kept + max(self.live[call] for call in own)

    def best(self, allowed=lambda sets: True):
        """Returns the minimum value of all plans with such cuts."""
        count, least = len(self.speeds), math.inf
        for stages in range(1, count + 1):
            if stages < count and not self.leave_out:
                continue
            orders = permutations(range(count), stages) if self.any_order else combinations(range(count), stages)
            orders = list(orders)
            for sets in filter(allowed, self._chains(stages - 1)):
                least = min([least, *(self.value(sets, devices) for devices in orders)])
        return least

    def _chains(self, count):
        """Returns all sequences of this many cuts, each with more calls before it than the last."""
        chains = [()]
        for _ in range(count):
            chains = [(*chain, some) for chain in chains for some in self.cuts if not chain or chain[-1] < some]
        return [chain for chain in chains if not chain or chain[-1] < frozenset(self.calls)]
