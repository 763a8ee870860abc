"""Chart of a profile: how many bytes cross each cut, and how much of the work lies before it.

The two curves of Kang et al., "Neurosurgeon" (2017): a good cut has few bytes crossing and the desired amounts of work
before and after it.
"""

import os
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from kerassplit.costs.figures import Figures
from kerassplit.costs.tables import format_flops, format_seconds
from kerassplit.display.chart import BYTES, SMALL, WIDTH, Chart, chart_of, new_figure, scale
from kerassplit.display.colors import CUT
from kerassplit.display.units import format_count
from kerassplit.files.sizes import format_bytes
from kerassplit.graph.sizes import total

_BAR, _INPUT, _LINE = "#90CAF9", "#B0BEC5", "#37474F"


def plot_profile(profile: Figures, to_file: str | os.PathLike[str] | None = None) -> Chart:
    """Draws a profile; see `Profile.plot`."""
    taken = total(profile.tensors[tensor].bytes for tensor in profile.inputs)
    sizes = [taken, *(block.crossing_bytes for block in profile.blocks[:-1])]
    most = max(size or 0 for size in sizes)
    unit, factor = scale(most, BYTES)
    best = _smaller_than_all_before(sizes)
    with new_figure(WIDTH, 6) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
        work, what = _work(profile)
        upper.fill_between(range(len(sizes)), work[: len(sizes)], step="mid", color=_LINE, alpha=0.15, linewidth=0)
        upper.plot(range(len(sizes)), work[: len(sizes)], color=_LINE, linewidth=2, drawstyle="steps-mid")
        upper.set_ylim(0, 100)
        upper.set_yticks(range(0, 101, 25))
        upper.set_ylabel(f"{what} before\nthe cut [%]")
        colors = [_INPUT, *(CUT if place in best else _BAR for place in range(1, len(sizes)))]
        lower.bar(range(len(sizes)), [(size or 0) / factor for size in sizes], color=colors, width=0.8)
        lower.set_ylim(0, most / factor * 1.05 or 1)
        _mark_unknown(lower, sizes)
        lower.set_ylabel(f"crosses the cut [{unit}]")
        lower.set_xlabel("cut after block")
        lower.set_xticks(*_ticks(len(sizes)))
        lower.set_xlim(-0.7, len(sizes) - 0.3)
        for axes in (upper, lower):
            axes.set_axisbelow(True)
            axes.grid(visible=False, axis="x")
        figure.suptitle(f"{profile.model}: where to cut it", fontweight="bold", x=0.01, ha="left")
        upper.set_title(_subtitle(profile), fontsize=SMALL, color="#546E7A")
        _name(lower, profile, sizes, best, factor)
    return chart_of(figure, to_file)


def _smaller_than_all_before(sizes: Sequence[int | None]) -> list[int]:
    """Returns the cuts where less crosses than at every earlier one, counting the input; skips unknown sizes."""
    found: list[int] = []
    least = sizes[0]
    for place, size in enumerate(sizes):
        if size is not None and least is not None and size < least:
            found.append(place)
        least = min((one for one in (size, least) if one is not None), default=None)
    return found


def _mark_unknown(axes: Any, sizes: Sequence[int | None]) -> None:
    """Draws hatched bars up to the top, with a question mark, where the crossing size is unknown."""
    top = axes.get_ylim()[1]
    for bar, size in zip(list(axes.patches), sizes, strict=True):
        if size is None:
            bar.set(height=top, facecolor="white", edgecolor=_INPUT, hatch="///")
            middle = bar.get_x() + bar.get_width() / 2
            axes.text(middle, top / 2, "?", ha="center", va="center", color=_LINE, backgroundcolor="white")


def _work(profile: Figures) -> tuple[list[float], str]:
    """Returns the percentage of the work before each cut, and the name of the work."""
    seconds = [block.seconds for block in profile.blocks]
    if profile.whole is not None and None not in seconds:
        what, amounts = "time", [second or 0.0 for second in seconds]
    else:
        what = "FLOPs" if profile.flops is not None else "known FLOPs"
        amounts = [float(block.known_flops) for block in profile.blocks]
    whole = sum(amounts) or 1.0
    return [100 * amount / whole for amount in accumulate(amounts, initial=0.0)], what


def _subtitle(profile: Figures) -> str:
    facts = [f"{format_count(profile.parameters)} parameters"]
    facts.append(f"{format_flops(profile.flops, profile.known_flops)} FLOPs")
    if profile.whole is not None:
        facts.append(f"{format_seconds(profile.whole_seconds)} on {profile.device}")
    facts.append("1 sample" if profile.batch_size == 1 else f"batches of {profile.batch_size}")
    facts.append("red: less crosses than at every earlier cut")
    return " · ".join(facts)


def _ticks(count: int) -> tuple[list[int], list[str]]:
    """Returns positions and labels of some cuts: the input, then the number of the block before the cut."""
    step = max(1, -(-count // 20))
    places = list(range(0, count, step))
    return places, ["input" if place == 0 else str(place - 1) for place in places]


def _name(axes: Any, profile: Figures, sizes: Sequence[int | None], best: Sequence[int], factor: float) -> None:
    """Labels the best cuts with their tensors, vertically so that neighbors do not overlap."""
    from matplotlib.patheffects import withStroke

    apart = max(1, len(sizes) // 30)
    last = len(sizes) + apart
    for place in reversed(best):  # of close neighbors the later one, where less crosses
        if last - place < apart:
            continue
        last = place
        axes.annotate(
            f"{profile.blocks[place - 1].name}  {format_bytes(sizes[place])}",
            xy=(place, (sizes[place] or 0) / factor),
            xytext=(0, 5),
            textcoords="offset points",
            rotation=90,
            fontsize=SMALL,
            color=CUT,
            ha="center",
            va="bottom",
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )
