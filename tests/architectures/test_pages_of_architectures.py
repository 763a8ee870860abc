"""The page to explore every architecture: each commit writes some (`samples.py`)."""

import pytest
from applications import application
from page_data import check_layout, data_of
from samples import due, marked

import kerassplit as ks
from kerassplit.zoo.names import architectures

LARGEST = 2.5e6  # bytes; EfficientNetV2L has 1,031 layers


@pytest.mark.parametrize("name", marked(due(sorted(architectures()), 10)))
def test_its_page_is_small_and_shows_every_layer_once_in_each_level_side_by_side(name):
    page = ks.plot(application(name)).render("html")
    assert len(page) <= LARGEST
    check_layout(data_of(page.decode()))
