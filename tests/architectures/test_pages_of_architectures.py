"""The page to explore every architecture: each commit writes some (`samples.py`)."""

import itertools

import pytest
from applications import application
from page_data import data_of
from samples import due, marked

import kerassplit as ks
from kerassplit.zoo.names import architectures

LARGEST = 2.5e6  # bytes; EfficientNetV2L has 1,031 layers


@pytest.mark.parametrize("name", marked(due(sorted(architectures()), 10)))
def test_its_page_is_small_and_shows_every_layer_once_side_by_side(name):
    page = ks.plot(application(name)).render("html")
    assert len(page) <= LARGEST
    data = data_of(page.decode())
    boxes = data["layout"]["boxes"]
    assert sorted(call for box in boxes for call in box["calls"]) == list(range(len(data["profile"]["calls"])))
    opened = [box["inside"] for box in boxes if box["inside"]]
    places = [(box["x"], box["y"], box["width"], box["height"]) for box in boxes]
    for together in (places, *([layer[1:] for layer in inside["layers"]] for inside in opened)):
        for one, other in itertools.combinations(together, 2):
            assert any(abs(one[axis] - other[axis]) + 0.5 >= (one[axis + 2] + other[axis + 2]) / 2 for axis in (0, 1))
