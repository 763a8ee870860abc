"""How tensors flow between stages, and the batches that carry them."""

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras

from kerassplit.cutting.crossing import CrossingTensor, crossing_tensor
from kerassplit.cutting.stages import Stages
from kerassplit.graph.shapes import fixed_batch
from kerassplit.storage.manifest import described, preprocessor_of


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
    """How tensors flow through the stages of a model.

    Attributes:
        model: The model's name.
        inputs: The model's inputs by tensor name, in the structure in which the model takes them.
        outputs: The model's outputs, likewise.
        steps: The stages in order.
        takes: The model's inputs described, each once, in the order of `inputs`.
        preprocessor: What the model's own `predict` puts its input through first; it is in no stage.
    """

    model: str
    inputs: Any
    outputs: Any
    steps: tuple[Step, ...]
    takes: tuple[CrossingTensor, ...]
    preprocessor: str | None = None

    @property
    def warning(self) -> str | None:
        """The note, where raw input could be taken for what the preprocessor gives: not where that is several tensors.

        A text task takes tokens and their mask, so texts are refused: the refusal has the note.
        """
        return self.note if len(self.takes) == 1 else None

    @property
    def note(self) -> str | None:
        """A hint for an input that does not fit, if there is one."""
        if self.preprocessor is None:
            return None
        return (
            f"'{self.model}' puts what its own `predict` gets through its preprocessor, "
            f"'{self.preprocessor}', which is in no stage: pass what that gives, `model.preprocessor(x)`. "
            "Where x has been through it, preprocess='none' (--preprocess none) says so."
        )

    @cached_property
    def results(self) -> tuple[str, ...]:
        """Names of the model's outputs, each once."""
        return tuple(dict.fromkeys(keras.tree.flatten(self.outputs)))

    @property
    def batch(self) -> int | None:
        """Number of rows in a batch; `None`: any."""
        return fixed_batch(tensor.shape for tensor in self.takes)

    def needed_from(self, step: int) -> frozenset[str]:
        """Tensors to keep until a stage: those that it or a later one takes, and the model's outputs."""
        return frozenset([*(name for later in self.steps[step:] for name in later.inputs), *self.results])


def route_of(split: Stages) -> Route:
    """The route through the stages of a split."""
    steps = tuple(Step(stage.name, stage.inputs, stage.outputs) for stage in split)
    taken = {
        name: crossing_tensor(name, symbol)
        for stage in split
        for name, symbol in zip(stage.inputs, stage.model.inputs, strict=True)
    }
    known = {**taken, **{tensor.name: tensor for tensor in split.unused_inputs}}
    takes = tuple(known[name] for name in dict.fromkeys(keras.tree.flatten(split.inputs)))
    return Route(split.name, split.inputs, split.outputs, steps, takes, split.preprocessor)


def route_in(manifest: Mapping[str, Any]) -> Route:
    """The route through the saved stages that a manifest describes."""
    entries = manifest["stages"]
    steps = tuple(
        Step(entry["name"], *(tuple(spec["tensor"] for spec in entry[side]) for side in ("inputs", "outputs")))
        for entry in entries
    )
    known = [spec for entry in entries for spec in entry["inputs"]] + manifest.get("unused_inputs", [])
    specs = {spec["tensor"]: spec for spec in known}
    takes = tuple(described(specs[name]) for name in dict.fromkeys(keras.tree.flatten(manifest["inputs"])))
    return Route(manifest["model"], manifest["inputs"], manifest["outputs"], steps, takes, preprocessor_of(manifest))


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


RunBatches = Callable[[Iterable[Batch]], Generator[Batch]]
"""Runs batches, in order."""
