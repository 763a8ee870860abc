"""Pictures show what was inserted and what was replaced: in words, with a sign, and in color."""

import re
from pathlib import Path

import keras
import pytest

import kerassplit as ks
from kerassplit.display.colors import EDITS
from kerassplit.pictures import plot

layers = keras.layers


@pytest.fixture(scope="module")
def chain() -> keras.Model:
    dense = [layers.Dense(4, name=name) for name in "abcdef"]
    return keras.Sequential([keras.Input((4,), name="x"), *dense], name="chain")


@pytest.fixture(scope="module")
def edited(chain) -> keras.Model:
    longer = ks.insert(chain, "b", layers.Dropout(0.1, name="dropped"))
    return ks.replace(longer, {"d": layers.Dense(4, name="better")})


def edits(model_or_split: keras.Model | ks.Split) -> dict[str, tuple[str, ...]]:
    """Returns what each box says of edits, by its title."""
    picture = plot(model_or_split).picture
    return {box.title: box.edits for cluster in picture.clusters for box in cluster.boxes if box.edits}


def test_a_box_says_what_it_is(edited):
    assert edits(edited) == {"dropped": ("+ inserted",), "better": ("≠ replaced",)}
    assert plot(edited).picture.subtitle.startswith("120 parameters · 7 layers · + 1 inserted · ≠ 1 replaced · ●")


def test_the_original_and_what_has_only_lost_layers_say_nothing(chain, edited):
    assert edits(chain) == edits(ks.remove(chain, "c")) == {}
    assert "serted" not in str(plot(chain))


def test_a_box_of_several_layers_names_the_one_or_counts_them(applications):
    model = applications("ResNet50")
    one = ks.insert(model, "conv2_block2_1_relu", layers.Dropout(0.1, name="dropped"))
    assert edits(one) == {"conv2 ×3": ("+ inserted: dropped",)}
    each = ks.replace(model, {"conv2*relu": lambda old: layers.Activation("gelu")})
    assert edits(each) == {"conv2 ×3": ("≠ 6 replaced",)}


def test_the_original_is_not_marked_by_an_edit_with_one_of_its_layers(chain):
    assert edits(ks.replace(chain, {"c": chain.get_layer("a")})) == edits(chain) == {}
    ks.insert(chain, "c", chain.get_layer("a"))
    assert edits(chain) == {}


def test_an_edit_of_an_edit_shows_both(edited):
    assert edits(ks.insert(edited, "better", layers.Dropout(0.2, name="more"))) == {
        "dropped": ("+ inserted",),
        "better": ("≠ replaced",),
        "more": ("+ inserted",),
    }


def test_a_layer_with_another_kernel_for_other_channels_is_replaced():
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(2, 3, name="first")(image)
    model = keras.Model(image, layers.Conv2D(2, 3, name="second")(x))
    assert edits(ks.with_input_shape(model, (8, 8, 1))) == {"first": ("≠ replaced",)}


def test_copies_are_marked_like_the_layers(chain):
    copy = ks.insert(chain, "b", layers.Dropout(0.1, name="dropped"), copy_weights=True)
    assert edits(copy) == {"dropped": ("+ inserted",)}


def test_stages_show_it_too(edited):
    split = ks.split(edited, "c", names=["front", "back"])
    assert edits(split) == {"dropped": ("+ inserted",), "better": ("≠ replaced",)}
    assert [cluster.lines[2:] for cluster in plot(split).picture.clusters] == [("+ 1 inserted",), ("≠ 1 replaced",)]


def test_every_format_says_it_in_words_and_in_color(edited, tmp_path: Path):
    drawing = plot(edited)
    assert re.search(r"^ +dropped .*  \+ inserted  ● dropped$", str(drawing), re.MULTILINE)
    mermaid = drawing.render("mmd").decode()
    name = re.search(r'(\w+)\["<b>better</b>.*≠ replaced', mermaid)[1]
    color, fill = EDITS["≠"]
    assert f"  style {name} fill:{fill},stroke:{color},stroke-width:3px" in mermaid
    for detail in ("blocks", "layers"):
        svg = plot(edited, detail=detail).render("svg").decode()
        for text, (border, filled) in zip(("+ inserted", "≠ replaced"), EDITS.values(), strict=True):
            assert re.search(rf'fill="{border}"[^>]*>{re.escape(text)}</', svg, re.IGNORECASE), (detail, text)
            assert f'fill="{filled.lower()}"' in svg.lower()


def test_text_stays_readable_on_its_fill():
    """Contrast of at least 4.5 (WCAG 2.2, 1.4.3), on white and on the fill."""
    for border, fill in EDITS.values():
        assert contrast(border, fill) >= 4.5 and contrast(border, "#FFFFFF") >= 4.5


def contrast(one: str, other: str) -> float:
    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def luminance(color: str) -> float:
    parts = (int(color[place : place + 2], 16) / 255 for place in (1, 3, 5))
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
