"""Models with a fixed batch size: rows are sent through them in batches of that size, the last one padded.

The result of a row must not depend on the padding, and this is checked: the last batch runs twice, padded with copies
of its last row and padded with zeros.
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
    """Runs batches of any number of rows through a model with a fixed batch size.

    Args:
        run_batches: Runs batches of that size; its results have the rows along the first dimension.
        route: Route of the model; if it takes batches of any size, they are run as they are.

    Raises:
        SplitError: While running: rows depend on others of their batch, so a batch cannot be padded.
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
    """Checks, before anything is computed, that the last batch can be padded.

    Raises:
        SplitError: A layer keeps a state from batch to batch, and rows are left over.
    """
    size = route.batch
    layer = next(filter(None, (stateful_layer(stage.model) for stage in stages)), None)
    if layer is not None and size is not None and rows is not None and rows % size:
        raise SplitError(
            f"'{route.model}' takes batches of {size}, and its layer '{layer}' keeps a state from batch to batch, so "
            f"the last one cannot be padded. Expected a multiple of {size} rows; got {rows}."
        )


def _whole(batches: Iterable[Batch], size: int) -> Iterator[Batch]:
    """Yields batches of the right size, numbered anew; leftover rows twice, padded in two ways."""
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
    """Removes the padding of a batch that ran with two different paddings.

    Raises:
        SplitError: The results depend on the padding.
    """
    rows = {}
    for name, value in one.tensors.items():
        ours, theirs = np.asarray(value), np.asarray(other.tensors[name])
        if ours.ndim == 0 or len(ours) != size or not _equal(ours[: one.rows], theirs[: one.rows]):
            raise SplitError(
                f"'{model}' takes batches of {size}, and {one.span} do not fill one. Padding would be wrong: the "
                f"result '{name}' of a row depends on other rows, or on chance. Pass a multiple of {size} rows."
            )
        rows[name] = ours[: one.rows]
    return replace(one, tensors=rows)


def _equal(one: Any, other: Any) -> bool:
    return one.tolist() == other.tolist() if one.dtype.hasobject else one.tobytes() == other.tobytes()
