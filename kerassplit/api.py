"""`Split` and its methods, and the functions that return one: `split` and `load`."""

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
from kerassplit.planning.plan import Plan, check_model
from kerassplit.planning.planner import even_stages
from kerassplit.storage import loading, saving
from kerassplit.storage.exports import export as exports
from kerassplit.storage.exports.receipt import ExportReceipt
from kerassplit.text import warn


@dataclass(frozen=True, eq=False, repr=False)
class Split(Stages):
    """A model cut into stages; call it like the model.

    Index it for a stage, by number or name: `split[0]`, `split["features"]`.

    Attributes:
        stages: The stages, in execution order.
        inputs: Tensor names of the model's inputs, in the structure that the model accepts.
        outputs: Tensor names of the model's outputs, in the structure that the model returns.
        name: The model's name.
        original: The model that was cut; `None` for a loaded split.
        unused_inputs: The model's inputs that no stage uses.
        preprocessor: The preprocessor that the model's own `predict` applies first, such as KerasHub's
            `"ResNetImageClassifierPreprocessor"`; `None` if there is none. No stage contains it, and `predict` says so.
        unknown: Manifest entries written by a later version of kerassplit, kept so that they are saved again. The key
            `""` holds those about the split, a stage's name those about that stage.
        own_prediction: For a loaded split, the methods that the model had overridden, such as `predict_step`. The
            stages do not have them.
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
            x: Arrays in the structure of the model's inputs, with samples along the first dimension (sparse tensors
                become dense); the path of an image, a folder of images, or a `.npy` or `.npz` file; a
                `tf.data.Dataset`; or any iterable of batches or single samples in that structure. As in Keras, the
                first element of a tuple is the input.
            batch_size: Samples per batch. An iterable keeps its own batches. A model built for a fixed batch size gets
                batches of that size: the last one is padded and the padding removed again, if that changes nothing.
            verbose: Show progress on standard error; by default only on a terminal, after 2 seconds.
            output: A `.npy` file to write results to as they are computed; with several outputs, one file each, named
                `NAME.TENSOR.npy`. Memory use does not depend on the number of rows. `NAME.json` describes the run and,
                for images, lists the file of each row.
            resume: Continue an interrupted run into `output` at the first unfinished batch. An iterable is read from
                the beginning again.
            overwrite: Allow `output` to be replaced.
            preprocess: For images: the architecture whose `preprocess_input` to apply, such as `"ResNet50"`; by default
                the one with the model's name. `"none"` keeps pixels from 0 to 255. For other input, `"none"` states
                that it has already been through the model's preprocessor, if it has one (KerasHub's tasks do).
            exif: Rotate images as their EXIF orientation says. Keras's own loader does not: `False` reproduces its
                numbers.
            engine: `"local"` runs in this process. `"ray"` runs each stage in a process of its own, here or on a
                cluster; it needs `pip install "kerassplit[ray]"`.
            options: Options of the engine: see `kerassplit.engines.local.LocalOptions` (`devices`) and
                `kerassplit.engines.ray.engine.RayOptions` (`replicas`, `num_cpus`, `num_gpus`, `max_restarts`,
                `max_retries`, `in_flight`, `address`).

        Returns:
            NumPy arrays in the structure of the model's outputs; memory maps of the files if `output` is given.

        Raises:
            SplitError: The input does not fit the model or cannot be read, or results would be lost.
            RunError: A stage fails on a batch. Finished batches are kept next to `output`, for `resume`.

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
        """Runs batches through the stages until an exit is confident of every row, and skips the remaining stages.

        An exit is an output of the model that a stage before the last computes. It answers the rows that it is
        confident of. A batch goes to the next stage whole while any of its rows lacks an answer; the final output
        answers the rows left over. Smaller batches exit earlier; larger ones take less time per row.

        The algorithm is BranchyNet's (Teerapittayanon, McDanel and Kung, ICPR 2016), by batches, with the largest
        probability as confidence; `measure` replaces that, for example by the entropy.

        Args:
            x: Any input of `predict`: arrays, a folder of images, a file, a dataset.
            confidence: Smallest confidence for an exit to answer a row: its largest probability (for a single
                probability, the larger of `p` and `1 - p`), from 0 to 1. A dict sets one per exit, by output name.
            measure: Confidence to use in place of the largest probability: a function from an exit's output (an array,
                rows × classes) to one number per row, which is compared with `confidence`.
            final: The output that answers the rows left over, if the last stage has several.
            batch_size: Samples per batch; see `predict`.
            preprocess: For images; see `predict`.
            exif: For images; see `predict`.
            verbose: Show progress; see `predict`.

        Returns:
            `EarlyExits`: `outputs`, rows × classes; `exits`, the name of the output that answered each row; `ran`, the
            number of batches that each stage ran. It prints as a table.

        Raises:
            SplitError: No stage before the last computes an output of the model; or an exit's shape differs from that
                of the final output; or an exit does not return probabilities (pass `measure`, or end the exit in a
                softmax); or the input does not fit the model.
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
        """Verifies that the stages compute what the model computes; see `kerassplit.verify`."""
        return verifying.verify(self.model, self, x, **options)

    def plot(self, to_file: Any = None, **options: Any) -> Any:
        """Draws the stages and the tensors that cross the cuts; see `kerassplit.plot`."""
        return pictures.plot(self, to_file, **options)

    def save(self, directory: Any, *, overwrite: bool = False) -> None:
        """Writes one `.keras` file per stage and `kerassplit.json`.

        If the process is killed while saving, the folder holds either the old split or the new one. A folder
        `.kerassplit.*` may be left next to it, which the next save to the same place removes; after overwriting, files
        of stages that the manifest does not name may be left in it.

        Args:
            directory: The folder; it appears complete or not at all. Each file is named after its stage, but the
                manifest decides: the files of a split that is being overwritten stay until the new ones are complete.
            overwrite: Allow a folder that holds a split to be replaced. No other folder ever is.

        Raises:
            StoreError: The folder is not empty, cannot be written (its contents are then unchanged), or is being
                overwritten by another process.
        """
        saving.save(self, directory, overwrite=overwrite)

    def export(self, directory: Any, *, format: str, **options: Any) -> ExportReceipt:  # noqa: A002 (as Keras has it)
        """Exports every stage to the format of another runtime, runs the result there and compares the numbers.

        `kerassplit-export.json` in the same folder lists the file of each stage and the names of its inputs and
        outputs, in the file and in the model. They are named after their tensors (`/`, `@` and `:` become `.`, `_` and
        `_`), and the batch dimension stays open. `kerassplit.exported.run_exported` runs such a folder.

        Args:
            directory: The folder; it appears complete or not at all.
            format: `"savedmodel"` (also `"tf_saved_model"`, as Keras calls it), `"onnx"`, `"litert"` or `"openvino"`.
            **options: `verify=False` writes without running anything. `x` is the input to compare on; by default a
                photograph and its mirror image if the model is an architecture of `keras.applications`, else two random
                samples (drawn with `seed`, by default 0, with `open_sides` for open dimensions, by default 32).
                `tolerance` is the largest difference to allow, relative to the largest number in its tensor; by default
                0.0001 for float32. `overwrite=True` replaces a folder that holds an export; no other folder ever is
                replaced. `verbose` is that of `predict`.

        Returns:
            An `ExportReceipt`.

        Raises:
            SplitError: A package is missing (the message says what to install), or a stage cannot be converted.
            VerificationError: The outputs of the exported stages differ by more than the tolerance.
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
        model: A functional or built Sequential model. It is not changed; the stages share its layers.
        at: Where to cut, in any order: tensors (names, layers or `KerasTensor`s), globs for several cuts,
            `split_points(model)` or indices into it. To cut where several tensors cross, pass a list of them within
            the list, or one of `crossings(model)`. Such a list may also name outputs of the model: these are computed
            before the cut. Anything that no cut names or needs is computed in the last stage. Or a `plan` for this
            model; one that runs all of it on several devices gives one stage.
        stages: Number of stages with even FLOPs to cut into, in place of `at`, as `plan(model, stages)` finds them.
        allow_crossing: Allow cuts inside a branch, and carry all tensors that cross there.
        names: One name per stage; by default `stage_0`, `stage_1`, ...

    Returns:
        A `Split` with one stage more than there are cuts.

    Raises:
        InsideBranchError: More than the named tensors cross there, and `allow_crossing` is off.
        UnknownTensorError, AmbiguousTensorError: A name does not stand for exactly one tensor of the model.
        SplitError: A cut is named twice, or is an input or output of the model; or nothing lies between two cuts; or
            the model cannot be cut into that many even stages.

    Example:

    >>> split = ks.split(resnet, ["conv3_block4_out", "conv4_block6_out"], names=["features", "middle", "classifier"])
    >>> bool(keras.ops.all(split(images) == resnet(images)))
    True
    """
    if (at is None) == (stages is None):
        got = "none" if at is None else "both"
        raise SplitError(
            f"Say where to cut with `at`, or how many stages to make with `stages`; got {got}. "
            "`kerassplit.split_points(model)` lists where the model can be cut."
        )
    if stages is not None:
        at = even_stages(model, stages)
    if isinstance(at, Plan):
        at = _planned(at, model)
    made = _as_split(cut(model, at, allow_crossing=allow_crossing, names=names))
    if isinstance(at, int | np.integer) and at > 0:  # 0 and below can only be places
        warn(
            f"at={at} cuts at split point {at}, '{split_points(model)[at].name}', and makes two stages. For stages "
            f"of even FLOPs, pass their number, stages={max(at, 2)}; to cut here, at=[{at}]."
        )
    return made


def load(
    directory: str | os.PathLike[str], stages: Sequence[int | str] | None = None, *, safe_mode: bool = True
) -> Split:
    """Loads a split, or some of its stages, from a folder that `Split.save` wrote.

    Loading a stage needs neither the model nor the other stages. Only `kerassplit.json` and the files of these stages
    are read, and none through a link. If another process overwrites the folder meanwhile, the result is either the old
    split or the new one.

    Args:
        directory: The folder.
        stages: Stages to load, by number or name; by default all. A `Split` of some stages accepts the tensors that
            they need and returns those that they compute for others, by tensor name.
        safe_mode: Refuse files that contain code (such as Lambda layers) or anything else that `Split.save` never
            writes. Turn it off only for files that you trust.

    Returns:
        A `Split` whose `model` is the stages joined.

    Raises:
        StoreError: The folder, its manifest or a stage is missing, damaged or from a later version.

    Example:

    >>> ks.load("out", stages=["classifier"])[0].model.input.name
    'conv4_block6_out'
    """
    return _as_split(loading.load(directory, stages, safe_mode=safe_mode))


def _as_split(stages: Stages) -> Split:
    return Split(**{field.name: getattr(stages, field.name) for field in fields(Stages)})


def _planned(plan: Plan, model: keras.Model) -> Sequence[Cut] | None:
    """Returns the cuts of a plan; `None` for a single stage on several devices.

    Raises:
        SplitError: The plan is for another model, or runs all of it on one device.
    """
    check_model(plan, model)
    if plan.replicas == [1]:
        raise SplitError(
            f"The plan for '{plan.model}' runs all of it on '{plan.stages[0].device}': there is nothing to cut."
        )
    return plan.at or None
