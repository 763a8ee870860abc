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
        outputs: Names of the tensors it returns, in the order of its model's outputs.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Route:
    """Flow of tensors through the stages of a model.

    Attributes:
        model: The model's name.
        inputs: Tensor names of the model's inputs, in the structure in which the model takes them.
        outputs: Tensor names of the model's outputs, likewise.
        steps: The stages in order.
        takes: Descriptions of the model's inputs, each once, in the order of `inputs`.
        preprocessor: The preprocessor that the model's own `predict` applies first; it is not part of any stage.
    """

    model: str
    inputs: Any
    outputs: Any
    steps: tuple[Step, ...]
    takes: tuple[CrossingTensor, ...]
    preprocessor: str | None = None

    @property
    def warning(self) -> str | None:
        """The note, if raw input could pass for preprocessed input: that is, if the model takes a single tensor.

        A text task takes tokens and their mask, so raw texts are refused anyway, and that error includes the note.
        """
        return self.note if len(self.takes) == 1 else None

    @property
    def note(self) -> str | None:
        """A hint for an input that does not fit, if there is one."""
        if self.preprocessor is None:
            return None
        return (
            f"'{self.model}' applies a preprocessor in its own `predict`, "
            f"'{self.preprocessor}', which is not part of any stage: pass `model.preprocessor(x)`. "
            "If x is already preprocessed, say so with preprocess='none' (--preprocess none)."
        )

    @cached_property
    def results(self) -> tuple[str, ...]:
        """Names of the model's outputs, each once."""
        return tuple(dict.fromkeys(keras.tree.flatten(self.outputs)))

    @property
    def batch(self) -> int | None:
        """Fixed batch size; `None`: any."""
        return fixed_batch(tensor.shape for tensor in self.takes)

    def needed_from(self, step: int) -> frozenset[str]:
        """Returns the tensors to keep until a stage: those that it or a later one takes, and the model's outputs."""
        return frozenset([*(name for later in self.steps[step:] for name in later.inputs), *self.results])


def route_of(split: Stages) -> Route:
    """Returns the route through the stages of a split."""
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
    """Returns the route through the saved stages that a manifest describes."""
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
    """Consecutive rows of the input on their way through the stages.

    Attributes:
        number: Number of the batch, counted from 0 over the whole input.
        first: Its first row, counted from 0 over the whole input.
        rows: Number of rows.
        tensors: Tensors by name: the model's inputs at first, its outputs at the end. Arrays with the rows along the
            first dimension; `None` for an optional input that was left out.
    """

    number: int
    first: int
    rows: int
    tensors: dict[str, Any]

    @property
    def span(self) -> str:
        """Its rows in words, for messages."""
        return f"rows {self.first} to {self.first + self.rows - 1}" if self.rows > 1 else f"row {self.first}"


RunBatches = Callable[[Iterable[Batch]], Generator[Batch]]
"""Runs batches, in order."""
