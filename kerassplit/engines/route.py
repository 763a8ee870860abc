"""What an engine is told: which stage takes and gives which tensors, and the batches that go through them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras

from kerassplit.manifest import described
from kerassplit.stages import CrossingTensor, Split, crossing_tensor


@dataclass(frozen=True)
class Step:
    """One stage.

    Attributes:
        name: The stage's name.
        inputs: Names of the tensors it takes, in the order of its model's inputs.
        outputs: Names of the tensors it gives, in the order of its model's outputs.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Route:
    """The way of tensors through the stages of a model.

    Attributes:
        model: The model's name.
        inputs: The model's inputs by tensor name, in the structure in which the model takes them.
        outputs: The model's outputs, likewise.
        steps: The stages in order.
        takes: The model's inputs described, each once, in the order of `inputs`.
    """

    model: str
    inputs: Any
    outputs: Any
    steps: tuple[Step, ...]
    takes: tuple[CrossingTensor, ...]

    @cached_property
    def results(self) -> tuple[str, ...]:
        """Names of the model's outputs, each once."""
        return tuple(dict.fromkeys(keras.tree.flatten(self.outputs)))

    def needed_from(self, step: int) -> frozenset[str]:
        """The tensors that a stage or one behind it takes, and the model's outputs: what has to be kept until then."""
        return frozenset([*(name for later in self.steps[step:] for name in later.inputs), *self.results])


def route_of(split: Split) -> Route:
    """The route through the stages of a split."""
    steps = tuple(Step(stage.name, stage.inputs, stage.outputs) for stage in split)
    taken = {
        name: crossing_tensor(name, symbol)
        for stage in split
        for name, symbol in zip(stage.inputs, stage.model.inputs, strict=True)
    }
    return _route(split.name, split.inputs, split.outputs, steps, taken, split.unused_inputs)


def route_in(manifest: Mapping[str, Any]) -> Route:
    """The route through the saved stages that a manifest describes."""
    entries = manifest["stages"]
    steps = tuple(
        Step(entry["name"], *(tuple(spec["tensor"] for spec in entry[side]) for side in ("inputs", "outputs")))
        for entry in entries
    )
    taken = {spec["tensor"]: described(spec) for entry in entries for spec in entry["inputs"]}
    unused = [described(spec) for spec in manifest.get("unused_inputs", [])]
    return _route(manifest["model"], manifest["inputs"], manifest["outputs"], steps, taken, unused)


def _route(
    model: str,
    inputs: Any,
    outputs: Any,
    steps: tuple[Step, ...],
    taken: Mapping[str, CrossingTensor],
    unused: Iterable[CrossingTensor],
) -> Route:
    known = {**taken, **{tensor.name: tensor for tensor in unused}}
    names = dict.fromkeys(keras.tree.flatten(inputs))
    return Route(model, inputs, outputs, steps, tuple(known[name] for name in names))


@dataclass(frozen=True, eq=False)
class Batch:
    """Some rows on their way.

    Attributes:
        number: Counted from 0 over all the input.
        first: Its first row, counted from 0 over all the input.
        rows: How many rows.
        tensors: By name: the model's inputs at first, its outputs at the end. Arrays with the rows along the first
            dimension; `None` for an optional input that was left out.
    """

    number: int
    first: int
    rows: int
    tensors: dict[str, Any]

    @property
    def span(self) -> str:
        """Its rows, for a message."""
        return f"rows {self.first} to {self.first + self.rows - 1}" if self.rows > 1 else f"row {self.first}"
