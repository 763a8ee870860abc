"""Collects what the page shows; profile, split points and explanations are what `--json` of the commands prints."""

from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import keras

from kerassplit._version import __version__
from kerassplit.costs.profile import Profile
from kerassplit.costs.profiling import profile
from kerassplit.cutting.explaining import explain_all
from kerassplit.cutting.frontiers import split_tensors
from kerassplit.cutting.points import split_points
from kerassplit.cutting.stages import Stages
from kerassplit.files.saved import plain
from kerassplit.graph.model_graph import Graph
from kerassplit.graph.reading import read_graph
from kerassplit.graph.shapes import OpenSides
from kerassplit.graph.sides import read_sides
from kerassplit.graph.sizes import total
from kerassplit.pictures.page.layout import Layout
from kerassplit.pictures.page.levels import levels_of
from kerassplit.pictures.page.settings import settings_of
from kerassplit.pictures.picture import Picture
from kerassplit.pictures.wording import describe
from kerassplit.text import printable
from kerassplit.wire import FORMS, MESSAGE_BYTES, packed_bytes
from kerassplit.wire.forms import PACKED


@dataclass(frozen=True)
class Cuts:
    """A model, and the cuts that its page shows at first.

    Attributes:
        model: The model.
        at: For each cut, the names of the tensors that cross.
        stages: Names of the stages.
        plan: The expected costs, as plain values, if the cuts are those of a plan.
        batch_size: Samples in the batch that all figures refer to; `None`: the batch size of the model, or 1.
    """

    model: keras.Model
    at: tuple[tuple[str, ...], ...] = ()
    stages: tuple[str, ...] = ()
    plan: dict[str, Any] | None = None
    batch_size: int | None = None


@runtime_checkable
class Planned(Protocol):
    """A result that is no cut model itself but knows the cuts of one: a `Plan`."""

    def _cuts_for_page(self) -> Cuts:
        """Returns the model and the cuts that a page shows."""
        ...


def cuts_of(drawn: keras.Model | Stages | Cuts) -> Cuts:
    """Returns the model and the cuts to show at first."""
    if isinstance(drawn, Stages):
        at = tuple(tuple(tensor.name for tensor in cut.tensors) for cut in drawn.crossings)
        return Cuts(drawn.model, at, tuple(stage.name for stage in drawn.stages))
    return drawn if isinstance(drawn, Cuts) else Cuts(drawn)


def data_of(cuts: Cuts, picture: Picture, open_sides: OpenSides, *, opened: bool) -> dict[str, Any]:
    """Returns all that the page shows, as plain values.

    Args:
        cuts: The model, and the cuts to show at first.
        picture: Its overview, for title and subtitle.
        open_sides: Sizes to assume for unknown input dimensions.
        opened: Whether all blocks are open at first.
    """
    graph = read_graph(cuts.model)
    costs = profile(cuts.model, cuts.batch_size, open_sides=open_sides)
    words = {index: printable(describe(call.operation), kept="") for index, call in enumerate(graph.calls)}
    return {
        "version": __version__,
        "title": picture.title,
        "subtitle": picture.subtitle,
        "profile": plain(costs.to_dict()),
        "points": [point.to_dict() for point in split_points(cuts.model)],
        "explanations": [asdict(explanation) for explanation in explain_all(graph)],
        "settings": settings_of(call.operation for call in graph.calls if call.inputs),
        "words": [words[index] for index, call in enumerate(graph.calls) if call.inputs],
        "cuts": cuts.at,
        "stages": [printable(name, kept="") for name in cuts.stages],
        "plan": plain(cuts.plan),
        "sending": _sending(graph, costs),
        "layout": Layout(graph, words).of(levels_of(graph)),
        "open_sides": None if open_sides is None else repr(open_sides),
        "opened": opened,
    }


def _sending(graph: Graph, costs: Profile) -> dict[str, Any]:
    """Returns the bytes of tensors that can cross a cut of one tensor, in every form that does not depend on values.

    The form `""` is that of the tensors themselves. `masks` maps masks to the inputs that are sent in their place where
    these take fewer bytes, as in a plan.
    """
    sides = read_sides(graph)
    sent = sorted({*graph.flat_inputs(), *sides.users, *split_tensors(sides)})
    known = {one: costs.tensors[one] for one in sent if costs.tensors[one].bytes is not None}
    forms: dict[str, dict[int, int | None]] = {"": {one: cost.bytes for one, cost in known.items()}}
    for form in FORMS:
        if not form.endswith(PACKED):
            forms[form] = {
                one: packed_bytes(graph.tensors[one].name, [side or 0 for side in cost.shape], cost.dtype, form)
                for one, cost in known.items()
            }
    masks = {}
    for one in sides.users:
        own, theirs = costs.tensors[one].bytes, total(costs.tensors[source].bytes for source in sides.sources[one])
        if not sides.is_input(one) and theirs is not None and (own is None or own > theirs):
            masks[one] = sorted(sides.sources[one])
    return {"forms": forms, "message_bytes": MESSAGE_BYTES, "masks": masks}
