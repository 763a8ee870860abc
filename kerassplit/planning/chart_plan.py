"""Chart of a plan: the work of each device, and the chosen cuts among all possible ones."""

import math
import os
from typing import Any

from kerassplit.display.chart import SMALL, WIDTH, Chart, new_figure
from kerassplit.display.colors import CUT
from kerassplit.files.sizes import format_bytes
from kerassplit.planning.results import PlanData
from kerassplit.planning.tables import format_amount, format_value
from kerassplit.text import printable

_WORK, _MOVE, _BAR, _LINE = "#42A5F5", "#FFB74D", "#B0BEC5", "#37474F"
_SECONDS = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6))
_BYTES = (("GiB", 2.0**30), ("MiB", 2.0**20), ("KiB", 2.0**10), ("bytes", 1.0))
_LABEL_WIDTH = 18  # percent of the axis
_COUNTS = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0))


def plot_plan(plan: PlanData, to_file: str | os.PathLike[str] | None = None) -> Chart:
    """Draws a plan; see `Plan.plot`."""
    rows = len(plan.stages)
    height = 1.6 + 0.42 * rows + (3.2 if plan.cuts else 0)
    with new_figure(WIDTH, height) as figure:
        if plan.cuts:
            upper, lower = figure.subplots(2, 1, height_ratios=(0.6 + 0.42 * rows, 3.2))
            _draw_cuts(lower, plan)
        else:
            upper = figure.subplots()
        _draw_stages(upper, plan)
        figure.suptitle(f"{plan.model}: the plan for {plan.objective}", fontweight="bold", x=0.01, ha="left")
    chart = Chart(figure)
    if to_file is not None:
        chart.save(to_file)
    return chart


def _draw_stages(axes: Any, plan: PlanData) -> None:
    """Draws a bar per stage: receiving, computing, sending. For latency, each begins where the previous one ends."""
    in_turn = plan.objective != "throughput"
    end = plan.latency if in_turn else plan.bottleneck
    unit, factor = _unit(end, plan.unit)
    done = 0.0
    for row, stage in enumerate(plan.stages):
        before, after = (stage.packing + stage.receive, 0.0) if in_turn else (stage.receive, stage.send)
        parts = [(before, _MOVE), (stage.work, _WORK), (after, _MOVE)]
        left = done
        for place, (amount, color) in enumerate(parts):
            if plan.overlap and not in_turn:
                axes.barh(row + (place - 1) * 0.24, amount / factor, height=0.22, color=color)
            else:
                axes.barh(row, amount / factor, left=left / factor, height=0.62, color=color)
                left += amount
        if in_turn:
            done = left
        shown = before + stage.work if in_turn else stage.load
        axes.annotate(
            format_amount(shown, plan.unit),
            ((left if in_turn else stage.load) / factor, row),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=SMALL,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )
    axes.axvline(end / factor, color=_LINE, linewidth=1, linestyle=":", zorder=0)
    axes.set_yticks(range(len(plan.stages)), [printable(stage.device, "") for stage in plan.stages])
    axes.set_ylim(len(plan.stages) - 0.4, -0.6)
    axes.set_xlim(0, end / factor * 1.12 or 1)
    axes.set_xlabel(f"{'time since the input' if in_turn else 'load of a stage'} [{unit}]")
    axes.grid(visible=False, axis="y")
    axes.set_axisbelow(True)
    axes.set_title(_subtitle(plan), fontsize=SMALL, color="#546E7A")
    if any(stage.receive or stage.send for stage in plan.stages):
        from matplotlib.patches import Patch

        handles = [Patch(color=_WORK, label="computes"), Patch(color=_MOVE, label="moves tensors")]
        axes.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, fontsize=SMALL)


def _subtitle(plan: PlanData) -> str:
    samples = "1 sample" if plan.batch_size == 1 else f"batches of {plan.batch_size}"
    found = "the best there is" if plan.optimal else f"at most {plan.gap:.1%} above the best"
    name = "bottleneck" if plan.objective == "throughput" else plan.objective
    return f"{name} {format_value(plan, plan.value)} · {found} · {samples}"


def _draw_cuts(axes: Any, plan: PlanData) -> None:
    """Draws bytes crossing each possible cut over the work before it (Kang et al., "Neurosurgeon", 2017)."""
    sizes = [cut.bytes or 0.0 for cut in plan.cuts]
    unit, factor = _scale(max(sizes), _BYTES)
    places = [100 * cut.before for cut in plan.cuts]
    top = max(sizes) / factor or 1.0
    for place, cut in enumerate(plan.cuts):
        color, above = (CUT, 3) if cut.chosen else (_BAR, 2)
        size = sizes[place] / factor
        axes.vlines(places[place], 0, size, color=color, linewidth=3 if cut.chosen else 1.5, zorder=above)
        axes.plot(places[place], size, "o", color=color, markersize=6 if cut.chosen else 3, zorder=above)
    last, level = -math.inf, 0
    for place, cut in enumerate(plan.cuts):
        if cut.chosen:
            # Labels of close neighbors are stacked.
            level = level + 1 if places[place] - last < _LABEL_WIDTH else 0
            last = places[place]
            _name(axes, places[place], sizes[place] / factor, cut.names, cut.bytes, top, level)
    axes.set_ylim(0, top * 1.3)
    axes.set_xlim(0, 100)
    axes.set_xlabel(f"{_WORK_NAMES[plan.unit]} before the cut [%]")
    axes.set_ylabel(f"crosses [{unit}]")
    axes.set_axisbelow(True)


_WORK_NAMES = {"seconds": "time", "FLOPs": "FLOPs", "parameters": "parameters", "bytes": "memory"}


def _name(axes: Any, x: float, y: float, names: tuple[str, ...], count: float | None, top: float, level: int) -> None:
    first = names[0] if len(names) == 1 else f"{names[0]} + {len(names) - 1} more"
    size = "" if count is None else f"\n{format_bytes(round(count))}"
    side = "right" if x > 85 else "left" if x < 15 else "center"
    axes.annotate(
        first + size,
        (x, max(y, 0.02 * top)),
        (0, 7 + 26 * level),
        textcoords="offset points",
        ha=side,
        va="bottom",
        fontsize=SMALL,
        color=CUT,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1},
    )


def _unit(largest: float, unit: str) -> tuple[str, float]:
    if unit == "seconds":
        return _scale(largest, _SECONDS)
    if unit == "bytes":
        return _scale(largest, _BYTES)
    prefix, factor = _scale(largest, _COUNTS)
    return f"{prefix} {unit}".strip() if prefix != "" else unit, factor


def _scale(largest: float, units: tuple[tuple[str, float], ...]) -> tuple[str, float]:
    return next(((name, factor) for name, factor in units if largest >= factor), units[-1])
