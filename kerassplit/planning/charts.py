"""Charts of plans and sweeps.

A plan: the work of each device, and the chosen cuts among all possible ones. A sweep: the time of the best cut at every
bandwidth, and latency against throughput.
"""

import math
import os
from typing import Any

import numpy as np

from kerassplit.display.chart import BYTES, SMALL, WIDTH, Chart, chart_of, new_figure, scale
from kerassplit.display.colors import CUT
from kerassplit.display.units import format_bandwidth
from kerassplit.files.sizes import format_bytes
from kerassplit.planning.results import PlanData, SweepData
from kerassplit.planning.tables import as_sent, format_amount, format_value, place_of
from kerassplit.text import printable

_WORK, _MOVE, _BAR, _LINE, _FAINT = "#42A5F5", "#FFB74D", "#B0BEC5", "#37474F", "#546E7A"
_COLORS = ("#1E88E5", "#FB8C00", "#43A047", "#8E24AA", "#E53935", "#00ACC1", "#6D4C41", "#3949AB", "#C0CA33", "#D81B60")
_SECONDS = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6))
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
    return chart_of(figure, to_file)


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
    axes.set_title(_subtitle(plan), fontsize=SMALL, color=_FAINT)
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
    unit, factor = scale(max(sizes), BYTES)
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
    if unit in ("seconds", "bytes"):
        return scale(largest, _SECONDS if unit == "seconds" else BYTES)
    prefix, factor = scale(largest, _COUNTS)
    return f"{prefix} {unit}".strip(), factor


def plot_sweep(sweep: SweepData, to_file: str | os.PathLike[str] | None = None) -> Chart:
    """Draws a sweep; see `Sweep.plot`."""
    with_front = len(sweep.front) > 1
    with new_figure(WIDTH, 8 if with_front else 5) as figure:
        if with_front:
            upper, lower = figure.subplots(2, 1, height_ratios=(3, 2))
            _draw_front(lower, sweep)
        else:
            upper = figure.subplots()
        _draw_ranges(upper, sweep)
        if sweep.compression is not None or any(one.given for one in sweep.inputs):
            upper.set_title(" ".join(as_sent(sweep)), fontsize=SMALL, color=_FAINT)
        figure.suptitle(f"{sweep.model}: the best cut at every bandwidth", fontweight="bold", x=0.01, ha="left")
    return chart_of(figure, to_file)


def _draw_ranges(axes: Any, sweep: SweepData) -> None:
    for place, one in enumerate(sweep.ranges):
        bandwidths = np.geomspace(one.low, one.high, 100)
        times = [one.value(bandwidth) * 1000 for bandwidth in bandwidths]
        color = _COLORS[place % len(_COLORS)]
        axes.plot(bandwidths * 8 / 1e6, times, color=color, linewidth=3, label=_label(sweep, place))
        if place:
            axes.axvline(one.low * 8 / 1e6, color=_LINE, linewidth=0.8, linestyle=":")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(lambda megabits, _: format_bandwidth(megabits * 1e6 / 8))
    _plain_numbers(axes.yaxis)
    axes.set_xlabel("bandwidth")
    axes.set_ylabel("latency [ms]" if sweep.objective == "latency" else "slowest stage [ms]")
    axes.legend(fontsize=SMALL, frameon=False)


def _plain_numbers(axis: Any) -> None:
    """Labels 1, 2 and 5 of every decade instead of powers of ten."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: f"{value:g}")


def _label(sweep: SweepData, place: int) -> str:
    one = sweep.ranges[place]
    begins = "" if place == 0 else f" from {format_bandwidth(one.low)}"
    return f"{place_of(one)}{begins}"


def _draw_front(axes: Any, sweep: SweepData) -> None:
    """Draws the front as a staircase: every point to its upper right is dominated by a plan."""
    latencies = [plan.latency * 1000 for plan in sweep.front]
    bottlenecks = [plan.bottleneck * 1000 for plan in sweep.front]
    axes.step(latencies, bottlenecks, where="post", color=_LINE, linewidth=1.5)
    axes.plot(latencies, bottlenecks, "o", color=_LINE, markersize=6)
    axes.set_xlabel("latency [ms]")
    axes.set_ylabel("slowest stage [ms]")
    axes.set_title(
        f"latency against throughput at {format_bandwidth(sweep.front_bandwidth)}", fontsize=SMALL, color=_FAINT
    )
