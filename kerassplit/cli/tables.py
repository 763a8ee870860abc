"""Output of the commands: tables for people, plain values for JSON."""

from collections.abc import Collection, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Any

from kerassplit.display.rich_table import right
from kerassplit.display.table import FittedTable
from kerassplit.display.units import format_count, format_shape
from kerassplit.files.sizes import format_bytes

if TYPE_CHECKING:
    from kerassplit.cutting.crossing import Crossing
    from kerassplit.cutting.points import SplitPoint
    from kerassplit.cutting.stages import Stages


def points_table(
    model: str, points: "Sequence[SplitPoint]", *, shown: Collection[int] | None = None, cuts: Collection[int] = ()
) -> FittedTable:
    """Builds a table of a model's split points.

    Args:
        model: Name of the model.
        points: All of its split points.
        shown: Indices of the points to show; dots replace the others. All by default.
        cuts: Indices of the points to mark as cuts.
    """
    along = any(point.also for point in points)
    table = FittedTable(
        f"{model}: {len(points)} split points",
        *(right("#"), "name", right("shape"), right("per\nsample"), right("FLOPs\nbefore")),
        *(right("params\nbefore"), right("params\nafter"), "after\nmerge", "dtype"),
        *(["comes along"] if along else []),
        whole=2,
    )
    for is_shown, some in groupby(points, lambda point: shown is None or point.index in shown):
        if not is_shown:
            table.add_row("⋮", "⋮")
            continue
        for point in some:
            table.add_row(
                str(point.index),
                f"{point.name}  ← cut" if point.index in cuts else point.name,
                format_shape(point.shape),
                format_bytes(point.bytes),
                _share(point.flops_before, point.flops_after),
                format_count(point.params_before),
                format_count(point.params_after),
                "yes" if point.after_merge else "",
                point.dtype,
                *(["\n".join(point.also)] if along else []),
                style="bold green" if point.index in cuts else None,
            )
    return table


def _share(before: int | None, after: int | None) -> str:
    """Formats the share before the cut; `?` if unknown."""
    if before is None or after is None:
        return "?"
    return f"{before / max(before + after, 1):.1%}"


def crossings_table(model: str, crossings: "Sequence[Crossing]", max_tensors: int) -> FittedTable:
    """Builds a table of cuts where up to `max_tensors` tensors cross, in the syntax of `--at`."""
    along = any(crossing.also for crossing in crossings)
    table = FittedTable(
        f"{model}: {len(crossings)} cuts of up to {max_tensors} tensors",
        *("at", right("per\nsample"), "shapes", *(["comes along"] if along else [])),
        whole=1,
    )
    for crossing in crossings:
        table.add_row(
            ",".join(tensor.name for tensor in crossing.tensors),
            format_bytes(crossing.bytes),
            ", ".join(format_shape(tensor.shape) for tensor in crossing.tensors),
            *(["\n".join(tensor.name for tensor in crossing.also)] if along else []),
        )
    return table


def crossing_data(crossing: "Crossing") -> dict[str, Any]:
    """Converts a crossing to plain values."""
    return {"bytes": crossing.bytes, **asdict(crossing)}


def split_data(split: "Stages") -> dict[str, Any]:
    """Converts the stages and crossings of a split to plain values."""
    return {
        "model": split.name,
        "stages": [
            {
                "name": stage.name,
                "inputs": list(stage.inputs),
                "outputs": list(stage.outputs),
                "params": stage.model.count_params(),
            }
            for stage in split
        ],
        "crossings": [crossing_data(crossing) for crossing in split.crossings],
    }
