"""Early exit: a batch goes through the stages until each of its rows has an answer; later stages are not run.

The algorithm is BranchyNet (Teerapittayanon, McDanel and Kung, "BranchyNet: Fast inference via early exiting from deep
neural networks", ICPR 2016), applied to batches, and with the largest probability instead of the entropy.
"""

import contextlib
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from kerassplit.cutting.stages import Stages
from kerassplit.display.progress import progress
from kerassplit.display.rich_table import Shown, right
from kerassplit.display.table import FittedTable
from kerassplit.display.units import format_shape
from kerassplit.engines.local import refuse_states, through
from kerassplit.engines.route import Batch, Route, route_of
from kerassplit.engines.running import checked_source
from kerassplit.engines.whole_batches import in_whole_batches
from kerassplit.errors import SplitError
from kerassplit.graph.backends.interface import Run
from kerassplit.text import listed, shortened, warn

Measure = Callable[[np.ndarray], Any]
"""Maps the output of an exit (rows × classes) to its confidence, one number per row."""

_ROUNDING = 1e-3  # how far a probability in half precision may lie outside 0 to 1


@dataclass(frozen=True, eq=False, repr=False)
class EarlyExits(Shown):
    """Result of a run with early exits.

    Attributes:
        outputs: Rows × classes: for each row the output of the first confident exit, else the final output.
        exits: For each row the name of the output that answered it, as an array of strings.
        ran: Number of batches that each stage ran, by stage name.
        batches: Total number of batches.
        stage_of: Name of the stage that computes each output, by name of the output: the exits in the order in which
            they are tried, then the final output.
    """

    outputs: np.ndarray
    exits: np.ndarray
    ran: dict[str, int]
    batches: int
    stage_of: dict[str, str]

    @property
    def answered(self) -> dict[str, int]:
        """Number of rows that each output answered, the final output last."""
        return {name: int(np.count_nonzero(self.exits == name)) for name in self.stage_of}

    def __repr__(self) -> str:
        answered = ", ".join(f"{count:,} by {name}" for name, count in self.answered.items())
        return shortened(f"<EarlyExits: {len(self.outputs):,} rows answered, {answered}>")

    def __rich__(self) -> FittedTable:
        rows = len(self.outputs)
        saved = sum(self.batches - count for count in self.ran.values())
        table = FittedTable(
            f"{rows:,} rows in {self.batches:,} batches through {len(self.ran)} stages",
            *("stage", "output", right("rows answered"), right("share"), right("batches run")),
            whole=2,
            notes=(f"{saved:,} of {self.batches * len(self.ran):,} runs of a stage on a batch were not needed.",),
        )
        for stage, count in self.ran.items():
            given = [name for name, place in self.stage_of.items() if place == stage]
            table.add_row(
                stage,
                "\n".join(given),
                "\n".join(f"{self.answered[name]:,}" for name in given),
                "\n".join(f"{self.answered[name] / rows:.1%}" for name in given),
                f"{count:,}",
            )
        return table


@dataclass(frozen=True)
class _Exits:
    """The exits, and the confidence that each needs.

    Attributes:
        by_stage: For each stage, the tensor names of its exits; the final output, which answers the remaining rows, is
            the last one of the last stage.
        names: The user's names of these tensors, by tensor name.
        needed: Confidence that each exit needs to answer a row, by tensor name; the final output needs none.
        dtype: A dtype that can hold the values of all of them.
    """

    by_stage: list[list[str]]
    names: dict[str, str]
    needed: dict[str, float]
    dtype: np.dtype


def predict_early(
    split: Stages,
    x: Any,
    confidence: float | Mapping[str, float],
    *,
    measure: Measure | None,
    final: str | None,
    batch_size: int,
    preprocess: str | None,
    exif: bool,
    verbose: bool | None,
) -> EarlyExits:
    """Runs input through the stages until all rows are answered; see `Split.predict_early`."""
    if measure is not None and not callable(measure):
        raise SplitError(
            f"`measure` must be a function from the output of an exit to one number per row; got {measure!r}."
        )
    route = route_of(split)
    exits = _exits(split, route, confidence, measure, final)
    for stage in split:
        so = "and would miss the batches that end before it. Build it with stateful=False, or use `Split.predict`."
        refuse_states(stage.model, f"stage '{stage.name}'", so)
    source = checked_source(x, route, batch_size, preprocess, exif=exif)
    for text in [*source.notes, *split.notes_on_prediction()]:
        warn(text)
    outputs: list[np.ndarray] = []
    answered: list[np.ndarray] = []
    ran = {stage.name: 0 for stage in split}
    programs = [stage.compiled for stage in split]
    order = [name for names in exits.by_stage for name in names]
    stage_of = [step for step, names in enumerate(exits.by_stage) for _ in names]
    rows = 0
    what = f"{route.model}, {len(split)} stages"

    def run(batches: Iterable[Batch]) -> Generator[Batch]:
        for batch in batches:
            yield replace(batch, tensors=_answers(split, programs, route, exits, batch, measure))

    with contextlib.closing(source.batches(0)) as batches, progress(what, source.rows, verbose) as show:
        for batch in in_whole_batches(run, route)(batches):
            outputs.append(batch.tensors["answers"])
            answered.append(batch.tensors["places"])
            for stage in split.stages[: stage_of[answered[-1].max()] + 1]:  # until each row had an answer
                ran[stage.name] += 1
            rows += batch.rows
            show(rows, rows)
    if not rows:
        raise SplitError("The input holds no rows. Expected at least one.")
    return EarlyExits(
        outputs=np.concatenate(outputs),
        exits=np.array([exits.names[name] for name in order])[np.concatenate(answered)],
        ran=ran,
        batches=len(outputs),
        stage_of={exits.names[name]: split[step].name for name, step in zip(order, stage_of, strict=True)},
    )


def _answers(
    split: Stages, programs: Sequence[Run], route: Route, exits: _Exits, batch: Batch, measure: Measure | None
) -> dict[str, np.ndarray]:
    """Answers each row of a batch; `places` holds the number of the output that answered it."""
    given: list[np.ndarray] = []
    places = np.full(route.batch or batch.rows, -1)
    for step, (stage, program, asked) in enumerate(zip(split, programs, exits.by_stage, strict=True)):
        batch = through(stage, program, batch, route, step)
        for name in asked:
            values = keras.ops.convert_to_numpy(batch.tensors[name]).astype(exits.dtype)
            places[_is_sure(values, name, exits, measure) & (places < 0)] = len(given)
            given.append(values)
        if (places >= 0).all():
            break
    answers = given[-1].copy()
    for place, values in enumerate(given):
        answers[places == place] = values[places == place]
    return {"answers": answers, "places": places}


def _is_sure(values: np.ndarray, name: str, exits: _Exits, measure: Measure | None) -> np.ndarray:
    """Returns, for each row, whether an exit is confident enough to answer it; the final output always is."""
    if name not in exits.needed:
        return np.ones(len(values), bool)
    called = exits.names[name]
    if measure is None:
        if bool(((values < -_ROUNDING) | (values > 1 + _ROUNDING)).any()):
            raise SplitError(
                f"The exit '{called}' returns numbers from {np.nanmin(values):.4g} to {np.nanmax(values):.4g}, which "
                "are not probabilities. End it with a softmax (keras.layers.Softmax()), or compute the confidence of "
                "each row: measure=lambda logits: scipy.special.softmax(logits, axis=-1).max(axis=-1)."
            )
        largest = values.max(axis=-1)
        sure = np.maximum(largest, 1 - largest) if values.shape[-1] == 1 else largest
    else:
        sure = np.asarray(keras.ops.convert_to_numpy(measure(values)))
        if sure.shape != (len(values),):
            raise SplitError(
                f"`measure` must return one number per row; for the {len(values)} rows of '{called}' it returned an "
                f"array of shape {sure.shape}."
            )
    return sure >= exits.needed[name]


def _exits(
    split: Stages, route: Route, confidence: float | Mapping[str, float], measure: Measure | None, final: str | None
) -> _Exits:
    names = _names(route)
    by_stage = [[name for name in route.results if name in stage.outputs] for stage in split]
    last = _final(split, by_stage[-1], names, final)
    by_stage[-1].remove(last)
    asked = [name for exits in by_stage for name in exits]
    if not asked:
        raise SplitError(
            f"The split of '{split.name}' has no early exit: '{names[last]}' is its only output. Add exits with "
            "`kerassplit.with_outputs`, and name each at the cut after which it comes: "
            "`kerassplit.split(model, at=[[tensor, exit]])`."
        )
    if not any(by_stage[:-1]):
        raise SplitError(
            f"All outputs of '{split.name}' are computed in the last stage, so no exit is early. Name each at the cut "
            f"after which it comes: `kerassplit.split(model, at=[[tensor, {asked[0]!r}]])`."
        )
    given = {name: symbol for stage in split for name, symbol in zip(stage.outputs, stage.model.outputs, strict=True)}
    for name in asked:
        if given[name].shape[1:] != given[last].shape[1:]:
            raise SplitError(
                f"'{names[name]}' returns {format_shape(given[name].shape)} for each row and the final output "
                f"'{names[last]}' {format_shape(given[last].shape)}, so one cannot replace the other. An exit must "
                "have the shape of the final output; leave other outputs out of the model."
            )
    if measure is None and len(given[last].shape) != 2:
        raise SplitError(
            f"'{names[last]}' returns {format_shape(given[last].shape)} for each row, not one probability per class. "
            "Pass measure=function, which maps the outputs of an exit to its confidence, one number per row."
        )
    dtypes = [given[name].dtype.replace("bfloat16", "float32") for name in (*asked, last)]
    needed = _needed(asked, names, confidence, measure)
    by_stage[-1].append(last)
    return _Exits(by_stage, names, needed, np.result_type(*dtypes))


def _names(route: Route) -> dict[str, str]:
    """Returns the model's outputs as the user knows them: keys of its dict, or tensor names."""
    outputs = route.outputs
    if isinstance(outputs, dict) and all(isinstance(name, str) for name in outputs.values()):
        return {name: key for key, name in reversed(outputs.items())}
    return {name: name for name in route.results}


def _final(split: Stages, there: list[str], names: Mapping[str, str], final: str | None) -> str:
    """Returns the tensor name of the final output."""
    found = there if final is None else [name for name in there if final in (name, names[name])]
    if len(found) == 1:
        return found[0]
    called = listed(names[name] for name in there)
    if final is not None:
        raise SplitError(f"The last stage, '{split[-1].name}', has no output '{final}'. It has {called}.")
    raise SplitError(
        f"The last stage, '{split[-1].name}', has the outputs {called}. Say which of them answers when no exit is "
        f"confident, final={names[there[0]]!r}, or name each exit at the cut after which it comes: "
        "`kerassplit.split(model, at=[[tensor, exit]])`."
    )


def _needed(
    asked: list[str], names: Mapping[str, str], confidence: float | Mapping[str, float], measure: Measure | None
) -> dict[str, float]:
    """Returns the confidence that each exit needs to answer, checked."""
    called = [names[name] for name in asked]
    given = confidence if isinstance(confidence, Mapping) else dict.fromkeys(called, confidence)
    if set(given) != set(called):
        raise SplitError(f"`confidence` must have a number for each exit, {listed(called)}; got {listed(given)}.")
    for value in given.values():
        if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
            raise SplitError(
                f"`confidence` must be a number, or one for each exit; got {value!r}. Pass a function that computes "
                "confidences as `measure`."
            )
        if measure is None and not 0 <= value <= 1:
            raise SplitError(f"`confidence` must be a probability, 0 to 1; got {value!r}.")
    return {name: float(given[names[name]]) for name in asked}
