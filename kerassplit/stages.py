"""A model as a sequence of stages: `Split`, `Stage`, and what crosses between them."""

import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from kerassplit.errors import SplitError
from kerassplit.graph import bytes_per_sample, read_graph
from kerassplit.names import listed, unique
from kerassplit.rebuild import joined, without_mask
from kerassplit.units import format_bytes, format_count, format_shape

if TYPE_CHECKING:
    from kerassplit.exporting.receipt import ExportReceipt
    from kerassplit.receipt import Receipt

STAGE_NAME = re.compile(r"[A-Za-z_][\w.-]*")
"""What can name a stage: it names a file, too."""
_LONG_WORK = 2.0  # seconds after which `predict` shows its progress


@dataclass(frozen=True)
class CrossingTensor:
    """A tensor that goes from one stage to a later one.

    Attributes:
        name: Its name in the whole model.
        shape: With the batch dimension first; `None` for open dimensions.
        dtype: Such as `"float32"`.
        bytes: Bytes of one sample; `None` where a dimension other than the batch is open.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    bytes: int | None


@dataclass(frozen=True)
class Crossing:
    """All that goes over one cut.

    Attributes:
        tensors: What the stages before the cut receive or make and a stage behind it uses.
    """

    tensors: tuple[CrossingTensor, ...]

    @property
    def bytes(self) -> int | None:
        """Bytes of one sample of all the tensors; `None` where one of them has an open dimension."""
        sizes = [tensor.bytes for tensor in self.tensors]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    def __str__(self) -> str:
        return ", ".join(f"{tensor.name} {format_shape(tensor.shape)} {tensor.dtype}" for tensor in self.tensors)


@dataclass(frozen=True, eq=False)
class Stage:
    """One piece of a split.

    Attributes:
        name: Its name, also that of its model.
        model: From `inputs` to `outputs`, sharing the layers of the model it was cut from.
        inputs: Names of the tensors it takes, in the order of `model.inputs`.
        outputs: Names of the tensors it gives, in the order of `model.outputs`.
    """

    name: str
    model: keras.Model
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def run(self, tensors: dict[str, Any], training: bool | None = None) -> dict[str, Any]:
        """Runs the stage on named tensors (all it takes must be there) and gives its outputs by name."""
        values = [_as_received(tensors[name]) for name in self.inputs]
        return self._named(self.model(keras.tree.pack_sequence_as(self.model.input, values), training=training))

    def predict_on_batch(self, tensors: dict[str, Any]) -> dict[str, np.ndarray]:
        """The same, compiled, for arrays."""
        inputs = keras.tree.pack_sequence_as(self.model.input, [tensors[name] for name in self.inputs])
        return self._named(self.model.predict_on_batch(inputs))

    def _named(self, outputs: Any) -> dict[str, Any]:
        return dict(zip(self.outputs, keras.tree.flatten(outputs), strict=True))


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """A model cut into stages; call it like the model.

    `split[0]` and `split["features"]` are its stages, in the order in which they run.

    Attributes:
        stages: The stages.
        inputs: The model's inputs by tensor name, in the structure in which the model takes them.
        outputs: The model's outputs, likewise.
        name: The model's name.
        original: The model that was cut; `None` once loaded.
        unused_inputs: The model's inputs that no stage takes.
    """

    stages: tuple[Stage, ...]
    inputs: Any
    outputs: Any
    name: str
    original: keras.Model | None = None
    unused_inputs: tuple[CrossingTensor, ...] = ()

    @property
    def model(self) -> keras.Model:
        """The original model or, once loaded, the stages joined into one."""
        return self._joined[0] if self.original is None else self.original

    @property
    def crossings(self) -> tuple[Crossing, ...]:
        """What crosses each cut; `crossings[0]` is between stages 0 and 1."""
        made = {name: symbol for stage in self.stages for name, symbol in _symbols(stage)}
        crossings = []
        for cut in range(1, len(self.stages)):
            before, behind = self.stages[:cut], self.stages[cut:]
            used = {name for stage in behind for name in stage.inputs}
            ours = dict.fromkeys(name for stage in before for name in (*stage.inputs, *stage.outputs))
            crossings.append(Crossing(tuple(crossing_tensor(name, made[name]) for name in ours if name in used)))
        return tuple(crossings)

    @property
    def shared_variables(self) -> dict[str, tuple[str, ...]]:
        """The variables that several stages use, by path, with the names of these stages."""
        stages_of: dict[int, tuple[str, list[str]]] = {}
        for stage in self.stages:
            for variable in stage.model.variables:  # the states of random generators among them
                stages_of.setdefault(id(variable), (variable.path, []))[1].append(stage.name)
        taken: set[str] = set()
        return {unique(path, taken): tuple(stages) for path, stages in stages_of.values() if len(stages) > 1}

    def __len__(self) -> int:
        return len(self.stages)

    def __iter__(self) -> Iterator[Stage]:
        return iter(self.stages)

    def __getitem__(self, which: int | str) -> Stage:
        if isinstance(which, int):
            return self.stages[which]
        for stage in self.stages:
            if stage.name == which:
                return stage
        raise SplitError(
            f"The split of '{self.name}' has no stage '{which}'. Its stages: {listed(stage.name for stage in self)}."
        )

    def __call__(self, x: Any, training: bool | None = None) -> Any:
        """Runs the stages one after another: takes and gives what the model takes and gives.

        Args:
            x: Tensors or arrays in the structure of the model's inputs; a dict by input name is taken too.
            training: Whether layers run in training mode, as in calling the model.
        """
        tensors = self.named_inputs(x)
        for stage in self.stages:
            tensors.update(stage.run(tensors, training))
        return self._packed(tensors)

    def predict(self, x: Any, batch_size: int = 32, verbose: bool | None = None) -> Any:
        """Runs arrays through the stages in batches, each stage compiled.

        Args:
            x: Arrays in the structure of the model's inputs, the samples along the first dimension. Sparse
                tensors become dense.
            batch_size: Samples a batch.
            verbose: Whether to show progress on standard error; by default on a terminal, once it takes 2 seconds.

        Returns:
            Numpy arrays in the structure of the model's outputs.
        """
        given = self.named_inputs(x)
        arrays = {
            name: np.asarray(keras.ops.convert_to_numpy(value) if keras.ops.is_tensor(value) else value)
            for name, value in given.items()
            if value is not None
        }
        left_out = {name: None for name in given if name not in arrays}
        count = _samples(arrays)
        if not isinstance(batch_size, Integral) or batch_size < 1:
            raise SplitError(f"`batch_size` must be a whole number, at least 1; got {batch_size!r}.")
        names = list(dict.fromkeys(keras.tree.flatten(self.outputs)))
        parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
        began = time.monotonic()
        console = Console(stderr=True)
        shown = verbose or (verbose is None and sys.stderr.isatty())
        progress = Progress(console=console, transient=True)
        task = progress.add_task(f"{self.name}, {len(self)} stages", total=count)
        try:
            for first in range(0, count, batch_size):
                tensors: dict[str, Any] = {name: array[first : first + batch_size] for name, array in arrays.items()}
                tensors.update(left_out)
                for stage in self.stages:
                    tensors.update(stage.predict_on_batch(tensors))
                for name in names:
                    parts[name].append(keras.ops.convert_to_numpy(tensors[name]))
                progress.update(task, completed=min(first + batch_size, count))
                if shown and not progress.live.is_started and (verbose or time.monotonic() - began > _LONG_WORK):
                    progress.start()
        finally:
            progress.stop()
        return self._packed({name: np.concatenate(part) for name, part in parts.items()})

    def verify(self, x: Any = None, **options: Any) -> "Receipt":
        """Compares the stages with the model; see `kerassplit.verify`."""
        from kerassplit.receipt import verify

        return verify(self.model, self, x, **options)

    def plot(self, to_file: Any = None, **options: Any) -> Any:
        """Draws the stages and what crosses; see `kerassplit.plot`."""
        from kerassplit.pictures import plot

        return plot(self, to_file, **options)

    def save(self, directory: Any, *, overwrite: bool = False) -> None:
        """Writes one `.keras` file per stage and `kerassplit.json`.

        A process that is killed meanwhile may leave a folder `.kerassplit.*` beside, which can be deleted.

        Args:
            directory: The folder. It appears whole or not at all. A stage's file bears its name; the manifest has the
                last word, because a split that is overwritten keeps its files until the new ones are complete.
            overwrite: Whether a folder that holds a split may be replaced. No other folder ever is.

        Raises:
            StoreError: The folder is not empty, or cannot be written.
        """
        from kerassplit.store import save

        save(self, directory, overwrite=overwrite)

    def export(self, directory: Any, *, format: str, **options: Any) -> "ExportReceipt":  # noqa: A002 (as Keras has it)
        """Writes every stage in the format of another runtime, runs them there, and says how far the numbers are off.

        Beside the stages is `kerassplit-export.json`: which file is which stage, and how inputs and outputs of each
        are called in its file and in the model. They bear the names of their tensors (`/`, `@` and `:` become `.`,
        `_` and `_`), and the batch dimension stays open. `kerassplit.exported.run_exported` runs such a folder.

        Args:
            directory: The folder. It appears whole or not at all.
            format: `"savedmodel"`, `"onnx"`, `"litert"` or `"openvino"`.
            **options: `verify=False` writes without running anything. `x` is the input to compare on, by default a
                photograph and its mirror image where the model is an architecture of `keras.applications`, else two
                random samples (drawn with `seed`, by default 0). `tolerance` is the largest difference to allow,
                relative to the largest number of its tensor, by default 0.0001 for float32. `overwrite=True` replaces
                a folder that holds an export; no other folder ever is.

        Returns:
            An `ExportReceipt`.

        Raises:
            SplitError: A package is missing (the message says what to install), or a stage cannot be converted.
            VerificationError: What the exported stages compute differs by more than the tolerance.
            StoreError: The folder is not empty, or cannot be written.

            In all these cases nothing is written.

        Example:

        >>> receipt = ks.split(resnet, "conv4_block6_out").export("out", format="onnx")
        >>> receipt.ok, [stage.path for stage in receipt.stages]
        (True, ['stage_0.onnx', 'stage_1.onnx'])
        """
        from kerassplit.export import export

        return export(self, directory, format=format, **options)

    def join(self) -> keras.Model:
        """The stages as one model that shares their layers."""
        return self._join()[0]

    def symbols_in(self, model: keras.Model) -> dict[str, keras.KerasTensor] | None:
        """By tensor name, the symbolic tensors of `model` where that is the stages joined."""
        built = vars(self).get("_joined", (None, None))
        return built[1] if built[0] is model else None

    @cached_property
    def _joined(self) -> tuple[keras.Model, dict[str, keras.KerasTensor]]:
        return self._join()

    def _join(self) -> tuple[keras.Model, dict[str, keras.KerasTensor]]:
        pieces = [(read_graph(stage.model), stage.inputs, stage.outputs) for stage in self.stages]
        return joined(pieces, self.inputs, self.outputs, self.name, self.unused_inputs)

    def summary(self) -> None:
        """Prints the stages and what crosses each cut as a table."""
        Console(markup=False).print(self)

    def __rich__(self) -> Table:
        shared = [f"{path} is shared by {listed(stages)}." for path, stages in self.shared_variables.items()]
        table = Table(title=f"{self.name} in {len(self)} stages", caption="\n".join(shared) or None)
        table.add_column("stage")
        for heading in ("calls", "parameters", "weights"):
            table.add_column(heading, justify="right")
        table.add_column("gives to later stages")
        table.add_column("per sample", justify="right")
        crossings = [*self.crossings, None]
        for stage, crossing in zip(self.stages, crossings, strict=True):
            weights = stage.model.weights
            tensors = crossing.tensors if crossing else ()
            table.add_row(
                stage.name,
                str(sum(1 for call in read_graph(stage.model).calls if call.inputs)),
                format_count(stage.model.count_params()),
                format_bytes(sum(bytes_per_sample((None, *weight.shape), weight.dtype) or 0 for weight in weights)),
                "\n".join(f"{one.name} {format_shape(one.shape)} {one.dtype}" for one in tensors),
                format_bytes(crossing.bytes) if crossing else "",
            )
        return table

    def __repr__(self) -> str:
        return f"<Split of {self.name}: {', '.join(stage.name for stage in self.stages)}>"

    def _repr_svg_(self) -> str:
        return self.plot()._repr_svg_()

    def named_inputs(self, x: Any) -> dict[str, Any]:
        """What a caller passes as the model's input, by tensor name.

        Raises:
            SplitError: It does not have the structure of the model's inputs.
        """
        names = keras.tree.flatten(self.inputs)
        if isinstance(x, dict) and not isinstance(self.inputs, dict) and set(x) == set(names):
            return {name: x[name] for name in names}
        if len(names) == 1 and not isinstance(x, dict):
            x = x[0] if isinstance(x, (list, tuple)) and len(x) == 1 else x
            if x is None or isinstance(x, (list, tuple)) or not (hasattr(x, "shape") or np.ndim(x)):
                raise SplitError(f"'{self.name}' takes one array or tensor; got {_outline(x)}.")
            return {names[0]: x}
        try:
            keras.tree.assert_same_structure(*map(keras.tree.lists_to_tuples, (self.inputs, x)))
        except (ValueError, TypeError) as error:
            raise SplitError(
                f"The input does not have the structure that '{self.name}' takes, {self.inputs!r}. "
                f"Expected arrays or tensors in the places of the names; got {_outline(x)}."
            ) from error
        return dict(zip(names, keras.tree.flatten(x), strict=True))

    def _packed(self, tensors: dict[str, Any]) -> Any:
        outputs = keras.tree.map_structure(tensors.__getitem__, self.outputs)
        return outputs[0] if isinstance(outputs, (list, tuple)) and len(outputs) == 1 else outputs


def _as_received(value: Any) -> Any:
    """A tensor as another process would get it; an optional input may be `None`."""
    return None if value is None else without_mask(keras.ops.convert_to_tensor(value))


def _outline(x: Any) -> str:
    """A structure with the types of its leaves: short enough for a message."""
    return repr(keras.tree.map_structure(lambda leaf: type(leaf).__name__, x))


def _symbols(stage: Stage) -> Iterator[tuple[str, keras.KerasTensor]]:
    yield from zip(stage.inputs, stage.model.inputs, strict=True)
    yield from zip(stage.outputs, stage.model.outputs, strict=True)


def crossing_tensor(name: str, symbol: keras.KerasTensor) -> CrossingTensor:
    """What crosses, described."""
    return CrossingTensor(name, tuple(symbol.shape), symbol.dtype, bytes_per_sample(symbol.shape, symbol.dtype))


def _samples(arrays: dict[str, np.ndarray]) -> int:
    counts = {name: len(array) for name, array in arrays.items() if array.ndim}
    if len(counts) < len(arrays) or len(set(counts.values())) != 1 or not next(iter(counts.values())):
        shapes = ", ".join(f"'{name}' {array.shape}" for name, array in arrays.items())
        raise SplitError(
            f"All inputs need the same number of samples, at least one, along the first dimension; got {shapes}."
        )
    return next(iter(counts.values()))
