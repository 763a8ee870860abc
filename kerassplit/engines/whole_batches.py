"""Models that are built for batches of one size: rows are sent through them in such batches, the last one filled up.

What a row gives must not depend on what the batch was filled up with, and that is seen to: the last batch runs twice,
filled up with copies of its last row and with zeros.
"""

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np

from kerassplit.cutting.stages import Stage
from kerassplit.engines.route import Batch, Route, RunBatches
from kerassplit.errors import SplitError
from kerassplit.graph.internals.layers import stateful_layer


def in_whole_batches(run_batches: RunBatches, route: Route) -> RunBatches:
    """Runs batches of any number of rows through a model that is built for batches of one size.

    Args:
        run_batches: What runs batches of that size. What it gives of a batch has its rows along the first dimension.
        route: Of the model; where it takes batches of all sizes, they are run as they are.

    Raises:
        SplitError: While it runs: rows depend on others of their batch, so that a batch cannot be filled up.
    """
    size = route.batch
    if size is None:
        return run_batches

    def run(batches: Iterable[Batch]) -> Generator[Batch]:
        with closing(run_batches(_whole(batches, size))) as results:
            for batch in results:
                yield batch if batch.rows == size else _cut(batch, next(results), route.model, size)

    return run


def refuse_rest(stages: Iterable[Stage], route: Route, rows: int | None) -> None:
    """Finds before there is work that the last batch cannot be filled up.

    Raises:
        SplitError: A layer keeps a state from batch to batch, and there are rows left over.
    """
    size = route.batch
    layer = next(filter(None, (stateful_layer(stage.model) for stage in stages)), None)
    if layer is not None and size is not None and rows is not None and rows % size:
        raise SplitError(
            f"'{route.model}' takes batches of {size}, and its layer '{layer}' keeps a state from batch to batch, so "
            f"that none can be filled up. Expected a number of rows that {size} divides; got {rows}."
        )


def _whole(batches: Iterable[Batch], size: int) -> Iterator[Batch]:
    """Batches of the right size, each with a number of its own; what is left over twice, filled up in two ways."""
    number = None
    for batch in batches:
        for start in range(0, batch.rows, size):
            rows = min(size, batch.rows - start)
            tensors = {name: None if one is None else one[start : start + rows] for name, one in batch.tensors.items()}
            for zeros in (False, True) if rows < size else (False,):
                number = batch.number if number is None else number + 1
                yield _filled(Batch(number, batch.first + start, rows, tensors), size - rows, zeros)


def _filled(batch: Batch, missing: int, zeros: bool) -> Batch:
    def longer(array: np.ndarray) -> np.ndarray:
        if not missing:
            return array
        more = np.repeat(array[-1:], missing, axis=0)
        if zeros:
            more = np.full_like(more, b"" if array.dtype.hasobject else 0)
        return np.concatenate([array, more])

    return replace(batch, tensors={name: None if one is None else longer(one) for name, one in batch.tensors.items()})


def _cut(one: Batch, other: Batch, model: str, size: int) -> Batch:
    """The rows of a batch that was filled up.

    Raises:
        SplitError: They depend on what it was filled up with.
    """
    rows = {}
    for name, value in one.tensors.items():
        ours, theirs = np.asarray(value), np.asarray(other.tensors[name])
        if ours.ndim == 0 or len(ours) != size or not _equal(ours[: one.rows], theirs[: one.rows]):
            raise SplitError(
                f"'{model}' takes batches of {size}, and {one.span} make none. To fill it up would be wrong: what "
                f"'{name}' gives for a row depends on other rows, or on chance. Expected a number of rows that {size} "
                "divides."
            )
        rows[name] = ours[: one.rows]
    return replace(one, tensors=rows)


def _equal(one: Any, other: Any) -> bool:
    return one.tolist() == other.tolist() if one.dtype.hasobject else one.tobytes() == other.tobytes()
