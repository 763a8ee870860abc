"""Collects what the page shows; profile, split points and explanations are what `--json` of the commands prints."""

from dataclasses import asdict
from typing import Any

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
from kerassplit.pictures.overview import model_part
from kerassplit.pictures.page.layout import layout_of
from kerassplit.pictures.picture import Picture
from kerassplit.pictures.wording import describe
from kerassplit.text import printable
from kerassplit.wire import FORMS, MESSAGE_BYTES, packed_bytes
from kerassplit.wire.forms import PACKED


def data_of(drawn: keras.Model | Stages, picture: Picture, open_sides: OpenSides, *, opened: bool) -> dict[str, Any]:
    """Returns all that the page shows, as plain values.

    Args:
        drawn: The model, or a split, whose cuts are then marked.
        picture: Its overview, for title and subtitle.
        open_sides: Sizes to assume for unknown input dimensions.
        opened: Whether all blocks are open at first.
    """
    model = drawn.model if isinstance(drawn, Stages) else drawn
    graph = read_graph(model)
    costs = profile(model, open_sides=open_sides)
    words = {index: printable(describe(call.operation), kept="") for index, call in enumerate(graph.calls)}
    cuts = drawn.crossings if isinstance(drawn, Stages) else ()
    return {
        "version": __version__,
        "title": picture.title,
        "subtitle": picture.subtitle,
        "profile": plain(costs.to_dict()),
        "points": [point.to_dict() for point in split_points(model)],
        "explanations": [asdict(explanation) for explanation in explain_all(graph)],
        "words": [words[index] for index, call in enumerate(graph.calls) if call.inputs],
        "cuts": [[tensor.name for tensor in cut.tensors] for cut in cuts],
        "stages": [stage.name for stage in drawn.stages] if isinstance(drawn, Stages) else [],
        "sending": _sending(graph, costs),
        "layout": layout_of(graph, model_part(graph), words),
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
