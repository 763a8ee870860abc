"""Pictures of the largest architectures."""

from pathlib import Path

import pytest
from PIL import Image

from kerassplit.pictures import plot
from kerassplit.zoo.models import load_model


def test_every_layer_of_efficientnetb7_can_be_drawn(tmp_path: Path):
    model = load_model("EfficientNetB7")
    drawing = plot(model, tmp_path / "layers.svg", detail="layers")
    assert drawing.dot.count("<table") == 816
    plot(model, tmp_path / "layers.pdf", detail="layers")
    with pytest.warns(UserWarning, match=r"too long for a PNG.*Write \.svg"):
        plot(model, tmp_path / "layers.png", detail="layers")
    with Image.open(tmp_path / "layers.png") as image:
        assert image.size[1] <= 32000
