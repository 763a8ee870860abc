"""Packs every tensor of a sample that can cross: bytes and seconds; and what packing changes in the outputs."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from kerassplit.costs.profile import Profile
from kerassplit.costs.records import BlockCost, TensorCost
from kerassplit.costs.running import cleaned_up, failures_of
from kerassplit.cutting.blocks import Region
from kerassplit.cutting.submodel import build_part
from kerassplit.display.progress import progress
from kerassplit.errors import SplitError
from kerassplit.graph.backends.interface import outputs_of
from kerassplit.graph.model_graph import Graph
from kerassplit.graph.sizes import total
from kerassplit.graph.tensor_marks import without_mask
from kerassplit.wire import MESSAGE_BYTES, pack, unpack

_RUNS = 3  # of packing a tensor, and of unpacking it

Values = dict[int, Any]


def measure_wire(
    counted: Profile,
    graph: Graph,
    regions: Sequence[Region],
    sample: Mapping[int, np.ndarray],
    wire: Any,
    *,
    verbose: bool | None,
) -> Profile:
    """Adds to a profile what packing costs, and what it changes.

    Runs the blocks one after another, eagerly, on the sample. At each split point, runs the blocks after it again, on
    what `unpack` makes of the tensors that cross: n blocks are run about n² / 2 times in all. The model's state does
    not change.

    Args:
        counted: The profile.
        graph: The model.
        regions: Its blocks.
        sample: Values of its inputs, by tensor.
        wire: Form to pack the tensors in.
        verbose: Whether to show a progress bar; `None`: on a terminal.

    Raises:
        SplitError: The model fails on the sample.
    """
    return cleaned_up(lambda: _measure(counted, _Chain(graph, regions), sample, wire, verbose))


class _Chain:
    """The blocks of a model, built once, to run from any of them on."""

    def __init__(self, graph: Graph, regions: Sequence[Region]):
        self.graph, self.regions = graph, regions
        made = [[tensor for call in region.calls for tensor in graph.calls[call].outputs] for region in regions]
        self._parts = [
            build_part(graph, region.calls, region.given, tensors, graph.model.name, only_to_run=True)
            for region, tensors in zip(regions, made, strict=True)
        ]
        self._last_use = {tensor: place for place, region in enumerate(regions) for tensor in region.given}
        self._outputs = dict.fromkeys(graph.flat_outputs())

    def run(self, place: int, values: Values) -> Values:
        """Returns the values of all tensors that a block computes."""
        model, taken, made = self._parts[place]
        with failures_of(f"'{self.graph.model.name}'", "the sample"):
            results = outputs_of(model, False, [values[tensor] for tensor in taken])
        return dict(zip(made, map(without_mask, results), strict=True))

    def kept(self, place: int, values: Values) -> Values:
        """Returns the values that the blocks after this one need, and the outputs of the model."""
        return {one: values[one] for one in values if one in self._outputs or self._last_use.get(one, -1) > place}

    def results(self, first: int, values: Values) -> list[np.ndarray]:
        """Runs the blocks from one on; returns the model's outputs, except strings."""
        for place in range(first, len(self.regions)):
            values = self.kept(place, values | self.run(place, values))
        numbers = [tensor for tensor in self._outputs if self.graph.tensors[tensor].symbol.dtype != "string"]
        return [keras.ops.convert_to_numpy(values[tensor]) for tensor in numbers]


def _measure(
    counted: Profile, chain: _Chain, sample: Mapping[int, np.ndarray], wire: Any, verbose: bool | None
) -> Profile:
    tensors = list(counted.tensors)
    arrived: dict[int, np.ndarray | None] = {}
    errors: dict[int, dict[str, float | None]] = {}

    def pack_all(values: Values) -> None:
        for tensor, value in values.items():
            if chain.graph.tensors[tensor].users:
                tensors[tensor], arrived[tensor] = _packed(tensors[tensor], value, wire)

    with progress(f"Packing {counted.model}", len(counted.blocks), verbose, unit="") as show:
        show(0, 0)
        values: Values = {tensor: keras.ops.convert_to_tensor(value) for tensor, value in sample.items()}
        expected = chain.results(0, values)
        pack_all(values)
        for place, region in enumerate(chain.regions):
            made = chain.run(place, values)
            pack_all(made)
            values = chain.kept(place, values | made)
            # a mask may cross that a later block computes: the other side can do so, too, since it is made of inputs
            crossing = [tensor for tensor in (*region.crossing, *region.also) if tensor in arrived]
            if crossing and all(arrived[tensor] is not None for tensor in crossing):
                received = {one: keras.ops.convert_to_tensor(arrived[one], tensors[one].dtype) for one in crossing}
                errors[place] = _errors(chain.results(place + 1, values | received), expected)
            arrived = {tensor: array for tensor, array in arrived.items() if tensor in values}
            show(place + 1, place + 1)
    blocks = [_of_crossing(block, tensors, errors.get(place, {})) for place, block in enumerate(counted.blocks)]
    return replace(counted, tensors=tuple(tensors), blocks=tuple(blocks), wire=wire)


def _packed(tensor: TensorCost, value: Any, wire: Any) -> tuple[TensorCost, np.ndarray | None]:
    """Returns a tensor with what packing it costs, and what arrives; nothing if the form cannot hold it."""
    array = np.asarray(keras.ops.convert_to_numpy(value)).astype(tensor.dtype, copy=False)
    named = {tensor.name: array}
    try:
        data = pack(named, wire)
    except SplitError:
        return tensor, None
    packing, unpacking = _median(lambda: pack(named, wire)), _median(lambda: unpack(data))
    costs = replace(tensor, wire_bytes=len(data) - MESSAGE_BYTES, pack_seconds=packing, unpack_seconds=unpacking)
    return costs, unpack(data)[tensor.name]


def _median(work: Callable[[], object]) -> float:
    durations = []
    for _ in range(_RUNS):
        began = time.perf_counter()
        work()
        durations.append(time.perf_counter() - began)
    return statistics.median(durations)


def _of_crossing(block: BlockCost, tensors: Sequence[TensorCost], errors: Mapping[str, Any]) -> BlockCost:
    """Returns a block with the costs of the message after it, and its errors."""
    crossing = [tensors[tensor] for tensor in (*block.crossing, *block.also)]
    size = total(tensor.wire_bytes for tensor in crossing)
    if not crossing or size is None:
        return block
    return replace(
        block,
        wire_bytes=MESSAGE_BYTES + size,
        pack_seconds=total(tensor.pack_seconds for tensor in crossing),
        unpack_seconds=total(tensor.unpack_seconds for tensor in crossing),
        **errors,
    )


def _errors(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> dict[str, float | None]:
    """Returns the agreement of the classes, and the largest difference."""
    pairs = list(zip(found, expected, strict=True))
    classes = [
        np.argmax(one, axis=1) == np.argmax(other, axis=1)
        for one, other in pairs
        if one.ndim == 2 and one.shape[1] > 1 and one.dtype.kind not in "biu"
    ]
    return {
        "agreement": float(np.mean(np.logical_and.reduce(classes))) if classes else None,
        "difference": max((_difference(*pair) for pair in pairs), default=0.0),
    }


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    """Returns the largest absolute difference; infinite if only one of two numbers is."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    with np.errstate(invalid="ignore"):
        differences = np.abs(one - other)
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    return float(np.max(np.nan_to_num(np.where(same, 0, differences), nan=np.inf, posinf=np.inf), initial=0))
