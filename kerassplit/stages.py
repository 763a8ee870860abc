"""A model as a sequence of stages: `Split`, `Stage`, and what crosses between them."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from kerassplit.compiling import Run, compiled
from kerassplit.errors import SplitError
from kerassplit.graph import bytes_per_sample, read_graph
from kerassplit.names import listed, unique
from kerassplit.rebuild import joined, without_mask
from kerassplit.units import format_bytes, format_count, format_shape

if TYPE_CHECKING:
    from kerassplit.engines.early import EarlyExits
    from kerassplit.exporting.receipt import ExportReceipt
    from kerassplit.receipt import Receipt

STAGE_NAME = re.compile(r"[A-Za-z_][\w.-]*")
"""What can name a stage: it names a file, too."""


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

    @cached_property
    def compiled(self) -> Run:
        """The stage as a function of its inputs in order, compiled as `predict` compiles a model."""
        return compiled(self.model)

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
        unknown: What a later kerassplit has written into the manifest of the folder that this split was loaded from:
            it is saved again. Under `""` what it says of the split, under a stage's name what it says of that.
    """

    stages: tuple[Stage, ...]
    inputs: Any
    outputs: Any
    name: str
    original: keras.Model | None = None
    unused_inputs: tuple[CrossingTensor, ...] = ()
    unknown: dict[str, dict[str, Any]] = field(default_factory=dict)

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

    def predict(
        self,
        x: Any,
        batch_size: int = 32,
        verbose: bool | None = None,
        *,
        output: Any = None,
        resume: bool = False,
        overwrite: bool = False,
        preprocess: str | None = None,
        engine: Literal["local", "ray"] = "local",
        **options: Any,
    ) -> Any:
        """Runs arrays, files or a dataset through the stages in batches, each stage compiled.

        Args:
            x: Arrays in the structure of the model's inputs, the samples along the first dimension (sparse tensors
                become dense); the path of a folder of images, of an image, or of a `.npy` or `.npz` file; a
                `tf.data.Dataset`; or any iterable of batches or of single samples in that structure. Of a tuple, the
                first element is the input, as in Keras.
            batch_size: Samples a batch. The batches of an iterable stay as they are.
            verbose: Whether to show progress on standard error; by default on a terminal, once it takes 2 seconds.
            output: A `.npy` file to write the results to while they are computed; several outputs get a file each,
                `NAME.TENSOR.npy`. Memory stays the same however many rows there are. `NAME.json` says what the run was
                and, for images, which row is which file.
            resume: Whether to go on with a run into `output` that was interrupted, at the first batch that it had not
                finished. An iterable is read from its beginning again.
            overwrite: Whether `output` may be replaced.
            preprocess: For images: the architecture whose `preprocess_input` they get, such as `"ResNet50"`; by default
                the one that bears the model's name. `"none"`: pixels from 0 to 255.
            engine: `"local"`: in this process. `"ray"`: each stage in a process of its own, here or on a cluster; needs
                `pip install "kerassplit[ray]"`.
            options: Of the engine: see `kerassplit.engines.local.LocalOptions` (`devices`) and
                `kerassplit.engines.ray_core.RayOptions` (`replicas`, `num_cpus`, `num_gpus`, `max_restarts`,
                `max_retries`, `in_flight`, `address`).

        Returns:
            NumPy arrays in the structure of the model's outputs; memory maps of the files where there is `output`.

        Raises:
            SplitError: The input does not fit the model or cannot be read, or results would be lost.
            RunError: A stage fails on a batch. What was finished stays beside `output`, to go on with.

        Example:

        >>> split.predict("photos/", output="scores.npy").shape
        (1000, 1000)
        """
        from kerassplit.engines.running import predict

        return predict(
            self,
            x,
            batch_size,
            verbose,
            output=output,
            resume=resume,
            overwrite=overwrite,
            preprocess=preprocess,
            engine=engine,
            options=options,
        )

    def predict_early(
        self,
        x: Any,
        confidence: float | Mapping[str, float] = 0.9,
        *,
        measure: Callable[[np.ndarray], Any] | None = None,
        final: str | None = None,
        batch_size: int = 32,
        preprocess: str | None = None,
        verbose: bool | None = None,
    ) -> "EarlyExits":
        """Runs batches through the stages until an exit is confident of each row; the stages behind are not run.

        After each stage that gives an output of the model, its exit, the rows that this is confident of have their
        answer. A batch goes on whole to the next stage while one of its rows has none; the final output answers for
        the rows that no exit is confident of. Smaller batches end earlier, larger ones take less time for each row.

        The algorithm is BranchyNet's (Teerapittayanon, McDanel and Kung, ICPR 2016), by batches, with the largest
        probability as confidence; `measure` takes others, such as the entropy.

        Args:
            x: What `predict` takes: arrays, a folder of images, a file, a dataset.
            confidence: How sure an exit must be of a row to answer: its largest probability (of one alone, `p` or
                `1 - p`), from 0 to 1. A dict has a number for each exit, by its output's name.
            measure: How sure an exit is, where that is not its largest probability: a function from what it gives
                (an array, rows × classes) to one number for each row, which is compared with `confidence`.
            final: The output that answers when no exit is confident, where the last stage gives several.
            batch_size: Samples a batch. The batches of an iterable stay as they are.
            preprocess: For images; see `predict`.
            verbose: Whether to show progress; see `predict`.

        Returns:
            `EarlyExits`: the `outputs`, rows × classes; `exits`, the name of the output that answered, for each row;
            `ran`, the batches that each stage ran. Printed, it is a table.

        Raises:
            SplitError: No stage before the last gives an output, or an exit gives another shape than the final output,
                or no probabilities (then say how sure it is with `measure`, or end it in a softmax); or the input does
                not fit the model.
            RunError: A stage fails on a batch.

        Example:

        >>> multi = ks.with_outputs(resnet, {"conv3_block4_out": exit_layers})  # and trained
        >>> split = ks.split(multi, at=[["conv3_block4_out", "exit_softmax"]])
        >>> early = split.predict_early("photos/", confidence=0.8)
        >>> early.outputs.shape, early.answered, early.ran
        ((1000, 1000), {'conv3_block4_out': 912, 'predictions': 88}, {'stage_0': 32, 'stage_1': 19})
        """
        from kerassplit.engines.early import predict_early

        return predict_early(
            self,
            x,
            confidence,
            measure=measure,
            final=final,
            batch_size=batch_size,
            preprocess=preprocess,
            verbose=verbose,
        )

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

        A process that is killed meanwhile leaves the old split or the new one. It may leave a folder `.kerassplit.*`
        besides, which the next save into the same place removes, and, where it was overwriting, files of stages that
        the manifest does not name.

        Args:
            directory: The folder. It appears whole or not at all. A stage's file bears its name; the manifest has the
                last word, because a split that is overwritten keeps its files until the new ones are complete.
            overwrite: Whether a folder that holds a split may be replaced. No other folder ever is.

        Raises:
            StoreError: The folder is not empty, cannot be written (what was there is still there then), or another
                process is overwriting it.
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
            StoreError: The folder is not empty, or cannot be written. In all these cases nothing is written.

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
        return named_tensors(x, self.inputs, self.name)

    def _packed(self, tensors: dict[str, Any]) -> Any:
        return packed_tensors(tensors, self.outputs)


def named_tensors(x: Any, inputs: Any, model: str) -> dict[str, Any]:
    """What a caller passes as a model's input, by tensor name.

    Args:
        x: Arrays or tensors.
        inputs: Names of tensors in the structure in which the model takes them.
        model: Its name, for messages.
    """
    names = keras.tree.flatten(inputs)
    if isinstance(x, dict) and not isinstance(inputs, dict) and set(x) == set(names):
        return {name: x[name] for name in names}
    if len(names) == 1 and not isinstance(x, dict):
        x = x[0] if isinstance(x, (list, tuple)) and len(x) == 1 else x
        if x is None or isinstance(x, (list, tuple)) or not (hasattr(x, "shape") or np.ndim(x)):
            raise SplitError(f"'{model}' takes one array or tensor; got {_outline(x)}.")
        return {names[0]: x}
    try:
        keras.tree.assert_same_structure(*map(keras.tree.lists_to_tuples, (inputs, x)))
    except (ValueError, TypeError) as error:
        raise SplitError(
            f"The input does not have the structure that '{model}' takes, {inputs!r}. "
            f"Expected arrays or tensors in the places of the names; got {_outline(x)}."
        ) from error
    return dict(zip(names, keras.tree.flatten(x), strict=True))


def packed_tensors(tensors: Mapping[str, Any], outputs: Any) -> Any:
    """Tensors by name in the structure of a model's outputs."""
    packed = keras.tree.map_structure(tensors.__getitem__, outputs)
    return packed[0] if isinstance(packed, (list, tuple)) and len(packed) == 1 else packed


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
