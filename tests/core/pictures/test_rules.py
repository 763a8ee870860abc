"""Rules that every picture follows: texts fit and are centered, order is execution order, runs are folded."""

import importlib.util
import re
import xml.etree.ElementTree as ElementTree
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import keras
import pytest
from checkout import ROOT
from hypothesis import given, strategies
from keras import layers
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.text import Text
from PIL import ImageFont

import kerassplit as ks
from kerassplit.display.chart import SMALL, WIDTH, Chart
from kerassplit.pictures import Drawing
from kerassplit.pictures.lettering import TEXT, broken, text_width
from kerassplit.pictures.rows import place_in_rows, track_lines
from kerassplit.pictures.wording import describe
from kerassplit.pictures.write_dot import WIDEST

SVG = "{http://www.w3.org/2000/svg}"
SMALL_EXHIBITS = (
    "unet", "unet_split", "vit_by_hand", "siamese", "mlp", "lstm", "tickets", "autoencoder", "translation",
    "shared_embedding", "crossing",
)  # fmt: skip


@cache
def gallery() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gallery", ROOT / "docs" / "pictures" / "gallery.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def drawn(name: str) -> Drawing:
    return gallery().EXHIBITS[name].draw()


@cache
def svg(name: str) -> ElementTree.Element:
    return ElementTree.fromstring(drawn(name).render("svg"))


def words(picture: ElementTree.Element) -> list[str]:
    return ["".join(text.itertext()) for text in picture.iter(f"{SVG}text")]


def width_of(text: ElementTree.Element) -> float:
    """Returns the width of a text in the picture's first font."""
    total = 0.0
    for part in (text, *text):
        family = text.get("font-family").split(",")[0]
        weight = part.get("font-weight", "normal")
        font = ImageFont.truetype(findfont(FontProperties(family=family, weight=weight)), 200)
        total += font.getlength(part.text or "") * float(text.get("font-size")) / 200
    return total


def titles(model: keras.Model | ks.Split) -> list[str]:
    return [box.title for cluster in ks.plot(model).picture.clusters for box in cluster.boxes]


@pytest.mark.parametrize("name", SMALL_EXHIBITS)
def test_texts_stand_in_the_middle_and_are_no_wider_than_their_boxes(name: str):
    checked = 0
    for group in svg(name).iter(f"{SVG}g"):
        shapes = [shape for shape in group if shape.tag in (f"{SVG}path", f"{SVG}polygon")]
        if group.get("class") == "edge" or not shapes:
            continue
        sides = [float(one) for one in re.findall(r"-?[\d.]+", shapes[0].get("points") or shapes[0].get("d"))][::2]
        for text in group.findall(f"{SVG}text"):
            assert text.get("text-anchor") == "middle"
            assert float(text.get("x")) == pytest.approx((min(sides) + max(sides)) / 2, abs=0.1)
            assert width_of(text) <= max(sides) - min(sides) + 0.5, "".join(text.itertext())
            checked += 1
    assert checked == len(words(svg(name)))


def test_rows_keep_the_order_of_execution():
    drawing = drawn("unet_split")
    places = dict(re.findall(r'^ *(s\d+_\d+) \[.*pos="([^"]+)"', drawing.dot, re.MULTILINE))
    order = [box.id for cluster in drawing.picture.clusters for box in cluster.boxes]
    points = [tuple(map(float, places[box].split(","))) for box in order]
    assert len(order) == 10
    assert points == sorted(points, key=lambda point: (-point[1], point[0]))


def test_a_u_net_is_its_levels():
    found = [box for cluster in drawn("unet").picture.clusters for box in cluster.boxes]
    sizes = ["128×128", "64×64", "32×32", "16×16", "8×8", "16×16", "32×32", "64×64", "128×128", "128×128"]
    assert [box.shape.rsplit("×", 1)[0] for box in found[1:]] == sizes


class Mixer(layers.Layer):
    """A custom layer with weights."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        self.kernel = self.add_weight(shape=(shape[-1], shape[-1]))

    def call(self, x: keras.KerasTensor, scale: keras.KerasTensor | None = None) -> keras.KerasTensor:
        return x @ self.kernel if scale is None else x @ self.kernel * scale


def transformer(width: int, name: str) -> keras.Model:
    x = keras.Input((5, width))
    y = layers.Add()([x, layers.MultiHeadAttention(1, width)(x, x)])
    return keras.Model(x, layers.Add()([y, layers.Dense(width)(y)]), name=name)


def test_runs_of_layers_that_all_take_a_mask_are_folded():
    x, scale = keras.Input((5, 4), name="x"), keras.Input((5, 1), name="scale")
    y = layers.Dense(4, name="first")(x)
    for place in range(12):
        y = Mixer(name=f"transformer_layer_{place}")(y, scale=scale)
    model = keras.Model([x, scale], layers.Dense(2, name="last")(y))
    assert "transformer_layer_0…11 ×12" in titles(model)


def test_runs_of_nested_models_are_folded_at_any_depth():
    x = y = keras.Input((5, 4))
    for place in range(4):
        y = transformer(4, f"layer_{place}")(y)
    inner = keras.Model(x, y, name="backbone")
    x = keras.Input((5, 4), name="x")
    model = keras.Model(x, layers.Dense(2, name="last")(inner(layers.Dense(4, name="first")(x))))
    assert "backbone/layer_0…3 ×4" in titles(model)


def test_layers_of_a_decoder_that_all_see_the_encoder_are_folded():
    assert "decoder_0…1 ×2" in [box.title for box in drawn("translation").picture.clusters[0].boxes]


def test_blocks_that_alternate_are_folded_in_pairs():
    assert "add_1…15 ×8" in [box.title for box in drawn("vit_by_hand").picture.clusters[0].boxes]


@pytest.mark.parametrize("name", ["siamese", "shared_embedding"])
def test_what_is_called_more_than_once_is_marked_as_shared(name: str):
    marked = [box.name for box in drawn(name).picture.clusters[0].boxes if "shared, called 2×" in box.lines]
    expected = {"siamese": ["tower@0", "tower@1"], "shared_embedding": ["words", "words", "average", "average"]}
    assert marked == expected[name]


@pytest.mark.filterwarnings("ignore:Several stages share")
def test_what_stages_share_is_marked_also_in_a_loaded_split(tmp_path: Path):
    x = keras.Input((4,), name="x")
    shared = layers.Dense(4, name="shared")
    model = keras.Model(x, layers.Dense(2, name="last")(shared(layers.Dense(4, name="middle")(shared(x)))))
    split = ks.split(model, ["middle"])
    split.save(tmp_path / "stages")
    for one in (split, ks.load(tmp_path / "stages")):
        found = [box.name for cluster in ks.plot(one).picture.clusters for box in cluster.boxes
                 if any(line.startswith("shared") for line in box.lines)]  # fmt: skip
        assert found == ["shared", "shared"]


@pytest.mark.parametrize("name", ["unet_split", "crossing"])
def test_the_labels_of_one_cut_differ(name: str):
    labels = [edge.label[0] for edge in drawn(name).picture.edges if edge.kind == "cut"]
    assert labels == [f"cut 0, {place} of {len(labels)}" for place in range(1, len(labels) + 1)]
    assert len(labels) > 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ViTEncoder", "vit encoder"),
        ("ReLU", "relu"),
        ("PReLU", "prelu"),
        ("LeakyReLU", "leaky relu"),
        ("LSTMCell", "lstm cell"),
        ("MultiHeadAttention", "multi-head attention"),
        ("RMSNormalization", "rms normalization"),
    ],
)
def test_class_names_are_read_word_by_word(name: str, expected: str):
    assert describe(type(name, (layers.Layer,), {})()) == expected


@given(strategies.text(strategies.sampled_from("abcXYZ019_/.-"), min_size=1, max_size=60))
def test_names_are_broken_at_the_ends_of_words_only(name: str):
    lines = broken(name)
    assert "".join(lines) == name
    for one, other in pairwise(lines):
        assert one[-1] in "_/.-" or other[0].isdigit() or other[0].isupper()


def test_many_stages_make_no_tall_page():
    x = y = keras.Input((8,), name="x")
    for place in range(16):
        y = layers.Dense(8, name=f"block_{place}_dense")(y)
        y = layers.ReLU(name=f"block_{place}_relu")(y)
    split = ks.split(keras.Model(x, y), [f"block_{place}_relu" for place in range(15)])
    picture = ElementTree.fromstring(ks.plot(split).render("svg"))
    width, height = (float(picture.get(side).removesuffix("pt")) for side in ("width", "height"))
    assert len(split) == 16
    assert height <= 2.2 * width


def test_an_output_from_inside_a_block_breaks_nothing():
    x = y = keras.Input((8, 8, 4), name="x")
    outputs = []
    for place in range(6):
        inner = layers.Conv2D(4, 3, padding="same", name=f"inner_{place}")(y)
        outputs.append(layers.Conv2D(1, 1, name=f"head_{place}")(inner))
        y = layers.Add(name=f"sum_{place}")([y, layers.Conv2D(4, 3, padding="same", name=f"second_{place}")(inner)])
    drawing = ks.plot(keras.Model(x, [*outputs, layers.Flatten(name="flat")(y)]))
    assert all(f"output head_{place}" in str(drawing) for place in range(6))
    assert drawing.render("svg")


def charts() -> list[Chart]:
    x = keras.Input((8, 8, 3), name="x")
    y = layers.Conv2D(4, 3, name="a")(x)
    y = layers.Conv2D(2, 3, name="b")(y)
    model = keras.Model(x, layers.Dense(2, name="c")(layers.Flatten(name="d")(y)))
    devices = [ks.Device("phone", "1 MFLOPS"), ks.Device("server", "1 GFLOPS")]
    sweep = ks.plan_sweep(model, devices, latency="5 ms")
    return [ks.profile(model).plot(), ks.plan(model, devices, links=ks.Link("1 Mbit/s")).plot(), sweep.plot()]


def test_letters_of_charts_are_11_pixels_high_on_a_page_of_700():
    for chart in charts():
        inches = chart.figure.get_size_inches()[0]
        assert inches == WIDTH
        sizes = [text.get_fontsize() for text in chart.figure.findobj(Text) if text.get_text()]
        assert min(sizes) >= SMALL
        assert min(sizes) / 72 * 700 / inches >= 11


@pytest.mark.parametrize("name", SMALL_EXHIBITS)
def test_the_gallery_shows_what_would_be_drawn_today(name: str):
    folder = ROOT / "docs" / "pictures"
    assert words(ElementTree.parse(folder / "gallery" / f"{name}.svg").getroot()) == words(svg(name))
    assert gallery().section(name, drawn(name)) in (folder / "gallery.md").read_text("utf-8")


def test_the_gallery_says_what_its_boxes_hold():
    assert "Nothing is folded" in gallery().section("mlp", drawn("mlp"))
    levels = gallery().section("unet", drawn("unet"))
    assert "- 10 of 10 boxes hold several layers that are not a run of similar blocks." in levels
    assert "Nothing is folded" not in levels
    x = keras.Input((8,))
    y = z = layers.Dense(8, name="first")(x)
    for _ in range(40):
        y = layers.Dense(8)(y)
    branched = ks.plot(keras.Model(x, layers.Dense(2, name="last")(layers.Add(name="branched")([y, z]))))
    assert "- `branched` holds 41 layers." in gallery().section("mlp", branched)


def test_the_gallery_shows_all_its_pictures():
    page = (ROOT / "docs" / "pictures" / "gallery.md").read_text("utf-8")
    pictures = {path.stem: path for path in (ROOT / "docs" / "pictures" / "gallery").iterdir()}
    assert set(re.findall(r"\(gallery/(\w+)\.svg\)", page)) == set(pictures) == set(gallery().EXHIBITS)
    assert len(pictures) >= 20
    assert sum(path.stat().st_size for path in pictures.values()) < 1.5e6


def test_the_picture_of_the_readme_is_readable_and_names_its_stages():
    readme = (ROOT / "README.md").read_text("utf-8")
    source, shown = re.search(r'<img src="([^"]+)" width="(\d+)"', readme).groups()
    picture = ElementTree.parse(ROOT / source).getroot()
    points = float(picture.get("width").removesuffix("pt"))
    smallest = min(float(text.get("font-size")) for text in picture.iter(f"{SVG}text"))
    assert smallest * min(830, int(shown)) / points >= 12
    assert smallest * 390 / points >= 9
    for name in ("features", "middle", "classifier"):
        assert name in words(picture)
        assert f'"{name}"' in readme


@pytest.mark.parametrize("name", ["unet_split", "crossing"])
def test_labels_hide_no_corner_of_their_lines(name: str):
    picture = drawn(name).picture
    page = place_in_rows(picture, WIDEST)
    corners = {number: places[1:3] for (number, _), places in page.lines.items() if number not in page.gaps}
    labels = {number: label for number, label in page.labels.items() if number in corners}
    assert labels
    for number, (x, y) in labels.items():
        half = max(text_width(line, TEXT) for line in track_lines(picture.edges[number])) / 2
        assert all(height == y and abs(x - corner) > half for corner, height in corners[number])
