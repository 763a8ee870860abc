"""Chart of a sweep: the time of the best cut at every bandwidth, and latency against throughput."""

import os
from typing import Any

import numpy as np

from kerassplit.display.chart import SMALL, WIDTH, Chart, new_figure
from kerassplit.display.units import format_bandwidth
from kerassplit.planning.results import SweepData
from kerassplit.planning.tables import as_sent, place_of

_COLORS = ("#1E88E5", "#FB8C00", "#43A047", "#8E24AA", "#E53935", "#00ACC1", "#6D4C41", "#3949AB", "#C0CA33", "#D81B60")
_LINE, _FAINT = "#37474F", "#546E7A"


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
    chart = Chart(figure)
    if to_file is not None:
        chart.save(to_file)
    return chart


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
