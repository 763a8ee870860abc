"""What a page to explore holds."""

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any


def data_of(page: str) -> dict[str, Any]:
    """Reads the data of a page."""
    [data] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(data)


def levels(level: dict[str, Any]) -> Iterator[tuple[dict[str, Any], list[int]]]:
    """Yields a level of a layout and those inside its boxes, each with all calls that it shows."""
    yield level, sorted(call for box in level["boxes"] for call in (box["calls"] if isinstance(box, dict) else box[:1]))
    for box in level["boxes"]:
        if isinstance(box, dict) and box["inside"]:
            yield from levels(box["inside"])


def check_layout(data: dict[str, Any]) -> None:
    """Asserts that each box shows, level by level, its calls once each, and that nothing overlaps."""
    layout = data["layout"]
    assert next(levels(layout))[1] == list(range(len(data["profile"]["calls"])))
    for level, _ in levels(layout):
        boxes = [box for box in level["boxes"] if isinstance(box, dict)]
        for box in boxes:
            assert (box["inside"] is None) == (len(box["calls"]) <= 1)
            if box["inside"]:
                assert next(levels(box["inside"]))[1] == box["calls"]
                assert len(box["inside"]["boxes"]) > 1
        places = [[box[side] for side in ("x", "y", "width", "height")] for box in boxes]
        places += [layer[1:] for layer in level["boxes"] if isinstance(layer, list)]
        for one, other in itertools.combinations(places, 2):
            assert any(abs(one[axis] - other[axis]) + 0.5 >= (one[axis + 2] + other[axis + 2]) / 2 for axis in (0, 1))
