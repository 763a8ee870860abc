"""What an engine is told: which stage takes and gives which tensors, and the batches that go through them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras

from kerassplit.stages import Split


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
    """

    model: str
    inputs: Any
    outputs: Any
    steps: tuple[Step, ...]

    @property
    def results(self) -> tuple[str, ...]:
        """Names of the model's outputs, each once."""
        return tuple(dict.fromkeys(keras.tree.flatten(self.outputs)))

    def needed_from(self, step: int) -> frozenset[str]:
        """The tensors that a stage or one behind it takes, and the model's outputs: what has to be kept until then."""
        return frozenset([*(name for later in self.steps[step:] for name in later.inputs), *self.results])


def route_of(split: Split) -> Route:
    """The route through the stages of a split."""
    steps = tuple(Step(stage.name, stage.inputs, stage.outputs) for stage in split)
    return Route(split.name, split.inputs, split.outputs, steps)


def route_in(manifest: Mapping[str, Any]) -> Route:
    """The route through the saved stages that a manifest describes."""
    steps = tuple(
        Step(entry["name"], *(tuple(spec["tensor"] for spec in entry[side]) for side in ("inputs", "outputs")))
        for entry in manifest["stages"]
    )
    return Route(manifest["model"], manifest["inputs"], manifest["outputs"], steps)


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
