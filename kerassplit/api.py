"""`Split`, with all that a user does with one, and what gives one: `split`, `load`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, fields
from typing import Any, Literal

import keras
import numpy as np

from kerassplit import pictures
from kerassplit.cutting import verifying
from kerassplit.cutting.copying import deep_copy, reduced
from kerassplit.cutting.cuts import Cut, cut
from kerassplit.cutting.points import split_points
from kerassplit.cutting.receipt import Receipt
from kerassplit.cutting.stages import Stages
from kerassplit.engines import early_exit, running
from kerassplit.engines.early_exit import EarlyExits
from kerassplit.errors import SplitError
from kerassplit.graph.model_graph import Graph
from kerassplit.graph.reading import read_graph
from kerassplit.planning.even import even_stages
from kerassplit.planning.plan import Plan
from kerassplit.storage import saving
from kerassplit.storage.exports import export as exports
from kerassplit.storage.exports.receipt import ExportReceipt
from kerassplit.text import warn


@dataclass(frozen=True, eq=False, repr=False)
class Split(Stages):
    """A model cut into stages; call it like the model.

    `split[0]` and `split["features"]` are its stages, in the order in which they run.

    Attributes:
        stages: The stages.
        inputs: The model's inputs by tensor name, in the structure in which the model takes them.
        outputs: The model's outputs, likewise.
        name: The model's name.
        original: The model that was cut; `None` once loaded.
        unused_inputs: The model's inputs that no stage takes.
        preprocessor: What the model's own `predict` puts its input through first, such as KerasHub's
            `"ResNetImageClassifierPreprocessor"`: it is in no stage, and `predict` says so. `None`: nothing.
        unknown: What a later kerassplit has written into the manifest of the folder that this split was loaded from:
            it is saved again. Under `""` what it says of the split, under a stage's name what it says of that.
        own_prediction: Of a loaded split: the methods, such as `predict_step`, by which its model predicted in a way of
            its own, which stages do not have.
    """

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
        exif: bool = True,
        engine: Literal["local", "ray"] = "local",
        **options: Any,
    ) -> Any:
        """Runs arrays, files or a dataset through the stages in batches, each stage compiled.

        Args:
            x: Arrays in the structure of the model's inputs, the samples along the first dimension (sparse tensors
                become dense); the path of a folder of images, of an image, or of a `.npy` or `.npz` file; a
                `tf.data.Dataset`; or any iterable of batches or of single samples in that structure. Of a tuple, the
                first element is the input, as in Keras.
            batch_size: Samples a batch. The batches of an iterable stay as they are. A model that is built for batches
                of one size gets these: what is left over is filled up, and cut off again, where that changes nothing.
            verbose: Whether to show progress on standard error; by default on a terminal, once it takes 2 seconds.
            output: A `.npy` file to write the results to while they are computed; several outputs get a file each,
                `NAME.TENSOR.npy`. Memory stays the same however many rows there are. `NAME.json` says what the run was
                and, for images, which row is which file.
            resume: Whether to go on with a run into `output` that was interrupted, at the first batch that it had not
                finished. An iterable is read from its beginning again.
            overwrite: Whether `output` may be replaced.
            preprocess: For images: the architecture whose `preprocess_input` they get, such as `"ResNet50"`; by default
                the one that bears the model's name. `"none"`: pixels from 0 to 255; or, for what is no image, that it
                has been through the preprocessor of a model that has one, as KerasHub's tasks do.
            exif: Whether images are turned as their camera says. Keras's own loader does not: `False` gives its
                numbers.
            engine: `"local"`: in this process. `"ray"`: each stage in a process of its own, here or on a cluster; needs
                `pip install "kerassplit[ray]"`.
            options: Of the engine: see `kerassplit.engines.local.LocalOptions` (`devices`) and
                `kerassplit.engines.ray.engine.RayOptions` (`replicas`, `num_cpus`, `num_gpus`, `max_restarts`,
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
        return running.run_stages(
            self,
            x,
            output,
            batch_size=batch_size,
            preprocess=preprocess,
            exif=exif,
            resume=resume,
            overwrite=overwrite,
            verbose=verbose,
            engine=engine,
            options=options,
            safe_mode=False,  # the stages are the caller's own objects: what is saved for Ray may bring their code
        ).results

    def predict_early(
        self,
        x: Any,
        confidence: float | Mapping[str, float] = 0.9,
        *,
        measure: Callable[[np.ndarray], Any] | None = None,
        final: str | None = None,
        batch_size: int = 32,
        preprocess: str | None = None,
        exif: bool = True,
        verbose: bool | None = None,
    ) -> EarlyExits:
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
            batch_size: Samples a batch. The batches of an iterable stay as they are. A model that is built for batches
                of one size gets these: what is left over is filled up, and cut off again, where that changes nothing.
            preprocess: For images; see `predict`.
            exif: For images; see `predict`.
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
        return early_exit.predict_early(
            self,
            x,
            confidence,
            measure=measure,
            final=final,
            batch_size=batch_size,
            preprocess=preprocess,
            exif=exif,
            verbose=verbose,
        )

    def verify(self, x: Any = None, **options: Any) -> Receipt:
        """Compares the stages with the model; see `kerassplit.verify`."""
        return verifying.verify(self.model, self, x, **options)

    def plot(self, to_file: Any = None, **options: Any) -> Any:
        """Draws the stages and what crosses; see `kerassplit.plot`."""
        return pictures.plot(self, to_file, **options)

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
        saving.save(self, directory, overwrite=overwrite)

    def export(self, directory: Any, *, format: str, **options: Any) -> ExportReceipt:  # noqa: A002 (as Keras has it)
        """Writes every stage in the format of another runtime, runs them there, and says how far the numbers are off.

        Beside the stages is `kerassplit-export.json`: which file is which stage, and how inputs and outputs of each
        are called in its file and in the model. They bear the names of their tensors (`/`, `@` and `:` become `.`,
        `_` and `_`), and the batch dimension stays open. `kerassplit.exported.run_exported` runs such a folder.

        Args:
            directory: The folder. It appears whole or not at all.
            format: `"savedmodel"` (also `"tf_saved_model"`, as Keras calls it), `"onnx"`, `"litert"` or `"openvino"`.
            **options: `verify=False` writes without running anything. `x` is the input to compare on, by default a
                photograph and its mirror image where the model is an architecture of `keras.applications`, else two
                random samples (drawn with `seed`, by default 0, with `open_sides` for open dimensions, by default 32).
                `tolerance` is the largest difference to allow, relative to the largest number of its tensor, by default
                0.0001 for float32. `overwrite=True` replaces
                a folder that holds an export; no other folder ever is. `verbose` is that of `predict`.

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
        return exports.export(self, directory, format=format, **options)

    def __deepcopy__(self, memo: dict[int, Any]) -> Split:
        return deep_copy(self, memo)

    def __reduce__(self) -> tuple[Any, ...]:
        return reduced(self)

    def _repr_svg_(self) -> str:
        return self.plot()._repr_svg_()


def split(
    model: keras.Model,
    at: Cut | Sequence[Cut] | Set[Cut] | Plan | None = None,
    *,
    stages: int | None = None,
    allow_crossing: bool = False,
    names: Sequence[str] | None = None,
) -> Split:
    """Cuts a model into stages that, run one after another, compute what the model computes.

    Args:
        model: A functional or built Sequential model. It is left alone; the stages share its layers.
        at: Where to cut, in any order: tensors (names, layers or `KerasTensor`s), globs for several cuts,
            `split_points(model)` or indices into it. All the tensors of one crossing are named by a list within the
            list, or one of `crossings(model)`. Such a list may name outputs of the model, too: these are computed
            before the cut, and what no cut names and needs is computed in the last stage. Or a `plan` for this model.
        stages: In place of `at`: how many stages of even FLOPs to make, as `plan(model, stages)` finds them.
        allow_crossing: Whether to cut inside a branch and carry all that crosses there.
        names: One name per stage; by default `stage_0`, `stage_1`, ...

    Returns:
        A `Split` with one stage more than there are cuts.

    Raises:
        InsideBranchError: More than the named tensors cross there, and `allow_crossing` is off.
        UnknownTensorError, AmbiguousTensorError: A name is not one tensor of the model.
        SplitError: A cut is named twice, or is an input or output of the model, or nothing lies between two cuts; or
            so many even stages cannot be made.

    Example:

    >>> split = ks.split(resnet, ["conv3_block4_out", "conv4_block6_out"], names=["features", "middle", "classifier"])
    >>> bool(keras.ops.all(split(images) == resnet(images)))
    True
    """
    if (at is None) == (stages is None):
        got = "none" if at is None else "both"
        raise SplitError(
            f"Say where to cut with `at`, or how many stages to make with `stages`; got {got}. "
            "`kerassplit.split_points(model)` lists the places."
        )
    if stages is not None:
        at = even_stages(model, stages)
    if isinstance(at, Plan):
        at = _planned(at, read_graph(model))
    assert at is not None
    made = _as_split(cut(model, at, allow_crossing=allow_crossing, names=names))
    if isinstance(at, int | np.integer) and at > 0:  # 0 and below can only be places
        warn(
            f"at={at} cuts at split point {at}, '{split_points(model)[at].name}', and makes two stages. For even "
            f"stages pass how many, stages={max(at, 2)}; to cut here, at=[{at}]."
        )
    return made


def load(
    directory: str | os.PathLike[str], stages: Sequence[int | str] | None = None, *, safe_mode: bool = True
) -> Split:
    """Loads a split, or some of its stages, from a folder that `Split.save` wrote.

    Neither the model nor the other stages are needed in order to load one. Nothing but `kerassplit.json` and the files
    of these stages is read, and none of them through a link. Where another process overwrites the folder meanwhile, it
    is the old split or the new one.

    Args:
        directory: The folder.
        stages: Which stages to load, by number or name; by default all. A `Split` of some stages takes the tensors that
            they need and gives those that they make for others, by tensor name.
        safe_mode: Whether Keras refuses to run code that the files carry (such as Lambda layers), and kerassplit files
            with anything in them that `Split.save` never writes. Turn it off only for files that you trust.

    Returns:
        A `Split` whose `model` is the stages joined.

    Raises:
        StoreError: The folder, its manifest or a stage is missing, damaged or of a later version.

    Example:

    >>> ks.load("out", stages=["classifier"])[0].model.input.name
    'conv4_block6_out'
    """
    return _as_split(saving.load(directory, stages, safe_mode=safe_mode))


def _as_split(stages: Stages) -> Split:
    return Split(**{field.name: getattr(stages, field.name) for field in fields(Stages)})


def _planned(plan: Plan, graph: Graph) -> Sequence[Cut]:
    """The cuts of a plan that was made for this model."""
    theirs = sorted(name for stage in plan.stages for name in stage.calls)
    if theirs != sorted(call.name for call in graph.calls if call.inputs):
        raise SplitError(
            f"The plan was made for '{plan.model}', and '{graph.model.name}' has other layers. Plan for this model, "
            "or cut where the plan says with at=plan.at."
        )
    if len(plan.stages) == 1:
        raise SplitError(
            f"The plan for '{plan.model}' runs all of it on '{plan.stages[0].device}': there is nothing to cut."
        )
    return plan.at
