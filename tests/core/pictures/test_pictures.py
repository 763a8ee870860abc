"""Pictures show the model, are the same every time, and are written completely or not at all."""

import os
import re
import sys
import xml.etree.ElementTree as ElementTree
from functools import cache
from pathlib import Path

import keras
import pytest
from applications import NEEDS_NASNET
from PIL import Image

import kerassplit as ks
from kerassplit.pictures import FORMATS, plot, write_dot as dot_writer
from kerassplit.pictures.picture import Box, Edge, Picture
from kerassplit.zoo.models import load_model


@cache
def structure(name: str) -> keras.Model:
    """Builds an architecture of `keras.applications` without weights."""
    return load_model(name)


@cache
def in_three() -> ks.Split:
    return ks.split(structure("ResNet50"), ["conv3_block4_out", "conv4_block6_out"])


@pytest.fixture(scope="module")
def late_input() -> keras.Model:
    """Two inputs, the second used only at the end; a residual block with layers named by Keras."""
    image, extra = keras.Input((8, 8, 3), name="image"), keras.Input((4,), name="extra", dtype="int32")
    x = keras.layers.Conv2D(4, 3, padding="same", name="stem")(image)
    y = keras.layers.Conv2D(4, 3, padding="same", name="inner")(x)
    x = keras.layers.Add(name="sum")([x, y])
    x = keras.layers.GlobalAveragePooling2D(name="pooled")(x)
    return keras.Model([image, extra], keras.layers.Concatenate(name="both")([x, extra]), name="late")


@pytest.fixture(scope="module")
def formats() -> tuple[str, ...]:
    """Returns the formats that this machine can draw: without fonts, no PNG and PDF."""
    tiny = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    try:
        plot(tiny).render("png")
    except ks.SplitError as error:
        assert "no fonts" in str(error)
        return tuple(extension for extension in FORMATS if extension not in ("png", "pdf"))
    return FORMATS


@pytest.fixture
def png(formats: tuple[str, ...]) -> None:
    if "png" not in formats:
        missing = pytest.fail if os.environ.get("CI") else pytest.skip
        missing("a PNG takes fonts, and this machine has none")


def boxes(picture: Picture) -> list[Box]:
    return [box for cluster in picture.clusters for box in cluster.boxes]


def titles(model: keras.Model) -> list[str]:
    return [box.title for box in boxes(plot(model).picture)]


def crossing_edges(picture: Picture) -> list[Edge]:
    return [edge for edge in picture.edges if edge.label]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ResNet50", ["conv1 · pool1", "conv2 ×3", "conv3 ×4", "conv4 ×6", "conv5 ×3", "avg_pool · predictions"]),
        ("MobileNetV2", ["block_1…2 ×2", "block_3…5 ×3", "block_6…12 ×7", "block_13…16 ×4", "Conv_1 … predictions"]),
        ("DenseNet121", ["conv2 ×6", "pool2", "conv3 ×12", "pool3", "conv4 ×24", "pool4", "conv5 ×16"]),
        ("EfficientNetB0", ["stem", "block1", "block2 ×2", "block3 ×2", "block4 ×3", "block5 ×3", "block6 ×4"]),
        ("InceptionV3", ["mixed0…2 ×3", "mixed3…7 ×5", "mixed8…10 ×3", "avg_pool · predictions"]),
        ("Xception", ["block1", "block2", "block3", "block4…12 ×9"]),
        ("VGG16", ["block1", "block2", "block3", "block4", "block5", "fc1 · fc2 · predictions"]),
        ("ConvNeXtTiny", ["stage_0 ×3", "downsampling_block_0", "stage_1 ×3"]),
    ],
)
def test_runs_of_like_blocks_are_folded(name: str, expected: list[str]):
    found = titles(structure(name))
    first = found.index(expected[0])
    assert found[first : first + len(expected)] == expected
    assert found[0] == "input"


@pytest.mark.parametrize(
    ("name", "block", "kind"),
    [
        ("ResNet50", "conv4 ×6", "residual blocks"),
        ("MobileNetV2", "block_1…2 ×2", "1 of 2 residual"),
        ("MobileNetV2", "block_13…16 ×4", "2 of 4 residual"),
        ("EfficientNetB0", "block6 ×4", "3 of 4 residual"),
        ("DenseNet121", "conv4 ×24", "dense blocks"),
        ("InceptionV3", "mixed3…7 ×5", "parallel branches"),
    ],
)
def test_a_run_says_how_many_of_its_blocks_are_of_a_kind(name: str, block: str, kind: str):
    assert [box.lines[0] for box in boxes(plot(structure(name)).picture) if box.title == block] == [kind]


def test_only_what_is_appended_to_its_own_input_is_dense():
    source, target = keras.Input((10, 8), name="source"), keras.Input((9, 8), name="target")
    decoded = keras.layers.LSTM(16, return_sequences=True, name="decoder")(target)
    encoded = keras.layers.LSTM(16, return_sequences=True, name="encoder")(source)
    attended = keras.layers.Attention(name="attention")([decoded, encoded])
    both = keras.layers.Concatenate(name="both")([decoded, attended])
    x = keras.layers.Dense(4, name="first")(both)
    for place in range(6):
        y = keras.layers.Dense(4, name=f"grow_{place}")(x)
        x = keras.layers.Concatenate(name=f"grown_{place}")([x, y])
    kinds = {box.title: box.lines[0] for box in boxes(plot(keras.Model([source, target], x)).picture) if box.lines}
    assert kinds["both"] == "branched block"
    assert kinds["grown_0…5 ×6"] == "dense blocks"


def test_what_is_left_of_a_cut_block_is_not_counted_as_a_block():
    split = ks.split(structure("MobileNetV2"), ["block_1_depthwise_BN", "block_5_add"])
    assert [box.title for box in plot(split).picture.clusters[1].boxes] == ["block_1", "block_2", "block_3…5 ×3"]
    split = ks.split(structure("ResNet50"), ["conv4_block2_1_relu", "conv4_block4_out"], allow_crossing=True)
    found = [[box.title for box in cluster.boxes] for cluster in plot(split).picture.clusters]
    assert found[1:] == [["conv4", "conv4 ×2"], ["conv4 ×2", "conv5 ×3", "avg_pool · predictions"]]
    assert "conv4 ×2" not in found[0]


@NEEDS_NASNET
def test_a_giant_branch_is_divided_into_cells_where_few_tensors_cross():
    found = [box.title for box in boxes(plot(structure("NASNetMobile")).picture)]
    cells = ["normal_0…3 ×4", "reduction_reduce_4", "normal_5…8 ×4", "reduction_reduce_8", "normal_9…12 ×4"]
    assert found[2:-1] == ["reduction_stem_1", "reduction_stem_2", *cells]


def test_blocks_that_keras_named_are_folded_too():
    x = entry = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, padding="same")(x)
    for _ in range(5):
        y = keras.layers.Conv2D(4, 3, padding="same")(x)
        y = keras.layers.Conv2D(4, 3, padding="same")(y)
        x = keras.layers.ReLU()(keras.layers.Add()([x, y]))
    found = boxes(plot(keras.Model(entry, keras.layers.Flatten()(x))).picture)
    assert [box.count for box in found] == [1, 1, 5, 1]
    assert found[2].name.startswith("add")
    assert "residual blocks" in found[2].lines


def test_long_chains_of_like_layers_become_one_box():
    x = entry = keras.Input((4,))
    for _ in range(60):
        x = keras.layers.Dense(4)(x)
    assert [box.count for box in boxes(plot(keras.Model(entry, x)).picture)] == [1, 60]


def test_boxes_hold_all_layers_and_parameters_of_the_model():
    for name in ("ResNet50", "InceptionV3", "MobileNetV2"):
        model = structure(name)
        picture = plot(model).picture
        assert f"{len(model.layers) - 1} layers" in picture.subtitle
        counted = re.findall(r"(?m)^(\d+) layers$", "\n".join(line for box in boxes(picture) for line in box.lines))
        assert sum(map(int, counted)) == len(model.layers) - 1


def test_a_model_shows_where_it_can_be_cut():
    model = structure("ResNet50")
    picture = plot(model).picture
    names = {point.name for point in ks.split_points(model)}
    marks = [box.mark for box in boxes(picture) if box.mark]
    assert len(marks) == 5
    assert set(marks) <= names
    assert f"{len(names)} split points" in picture.subtitle
    assert sum(edge.kind == "open" for edge in picture.edges) == len(marks)


def test_a_split_shows_each_stage_and_each_cut():
    picture = plot(in_three()).picture
    assert [cluster.name for cluster in picture.clusters] == ["stage_0", "stage_1", "stage_2"]
    assert picture.clusters[1].lines == ("7.1 M parameters", "62 layers")
    assert "176 layers" in picture.subtitle
    assert [edge.label for edge in crossing_edges(picture)] == [
        ("cut 0", "conv3_block4_out", "28×28×512 float32", "1.5 MiB per sample"),
        ("cut 1", "conv4_block6_out", "14×14×1024 float32", "784.0 KiB per sample"),
    ]
    assert {edge.kind for edge in crossing_edges(picture)} == {"cut"}


def test_a_cut_is_never_hidden_in_a_folded_block():
    picture = plot(ks.split(structure("ResNet50"), ["conv4_block2_out"])).picture
    assert picture.clusters[0].boxes[-1].title == "conv4 ×2"
    assert picture.clusters[1].boxes[0].title == "conv4 ×4"


def test_whatever_else_crosses_is_drawn_dashed(late_input: keras.Model):
    picture = plot(ks.split(late_input, ["stem", "sum"])).picture
    carried = [edge for edge in picture.edges if edge.kind == "carried"]
    cuts = [edge for edge in picture.edges if edge.kind == "cut"]
    assert [edge.label[1] for edge in cuts] == ["stem", "sum"]
    assert not carried  # `extra` is first used by the last stage: nothing carries it
    picture = plot(ks.split(late_input, ["inner"], allow_crossing=True)).picture
    assert {edge.label[1] for edge in picture.edges if edge.kind == "cut"} == {"stem", "inner"}


def test_an_input_used_by_two_stages_is_carried(tmp_path: Path):
    entry, scale = keras.Input((4,), name="entry"), keras.Input((4,), name="scale")
    x = keras.layers.Multiply(name="first")([entry, scale])
    x = keras.layers.Dense(4, name="middle")(x)
    x = keras.layers.Multiply(name="last")([x, scale])
    split = ks.split(keras.Model([entry, scale], x), ["middle"], allow_crossing=True)
    carried = [edge for edge in plot(split).picture.edges if edge.kind == "carried"]
    assert [edge.label for edge in carried] == [("scale", "4 float32", "16 B per sample")]
    assert "style=dashed" in plot(split).dot
    assert "-.->" in plot(split).render("mmd").decode()
    plot(split, tmp_path / "split.svg")


def test_a_loaded_split_gives_the_same_picture(late_input: keras.Model, tmp_path: Path):
    split = ks.split(late_input, ["stem", "sum"])
    split.save(tmp_path / "stages")
    assert plot(ks.load(tmp_path / "stages")).dot == plot(split).dot


def test_splitting_a_model_leaves_its_picture_as_it_is():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="a"), keras.layers.Dense(2, name="b")])
    before = plot(model, detail="layers").dot
    kept = ks.split(model, ["a"])
    assert plot(model, detail="layers").dot == before
    assert len(kept) == 2


@pytest.mark.parametrize("detail", ["blocks", "layers"])
def test_every_format_is_written(detail: str, formats: tuple[str, ...], tmp_path: Path):
    for extension in formats:
        plot(in_three(), tmp_path / f"split.{extension}", detail=detail)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"split.{extension}" for extension in formats)
    assert ElementTree.parse(tmp_path / "split.svg").getroot().tag.endswith("svg")
    if "png" in formats:
        assert (tmp_path / "split.pdf").read_bytes().startswith(b"%PDF")
        with Image.open(tmp_path / "split.png") as image:
            assert image.format == "PNG"
    assert (tmp_path / "split.dot").read_text().startswith("digraph")
    assert "flowchart" in (tmp_path / "split.mmd").read_text()
    assert "conv4_block6_out" in (tmp_path / "split.txt").read_text()


@pytest.mark.parametrize("name", ["ResNet50", "EfficientNetB7", "DenseNet201"])
@pytest.mark.usefixtures("png")
def test_overviews_are_legible_at_1600_pixels(name: str, tmp_path: Path):
    drawing = plot(structure(name), tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as image:
        width, height = image.size
    assert abs(width - 1600) <= 8
    assert height < 1600
    svg = drawing.render("svg").decode()
    points = float(re.search(r'width="([\d.]+)pt"', svg)[1])
    smallest = min(float(size) for size in re.findall(r'font-size="([\d.]+)"', svg))
    assert smallest * width / points >= 11


@pytest.mark.usefixtures("png")
def test_wide_splits_go_on_below(tmp_path: Path):
    model = structure("EfficientNetB7")
    ends = [point.name for point in ks.split_points(model) if point.after_merge]
    split = ks.split(model, ends[6::7])
    plot(split, tmp_path / "split.png")
    assert len(split) == 8
    assert "layout=nop2" in plot(split).dot
    with Image.open(tmp_path / "split.png") as image:
        assert abs(image.size[0] - 1600) <= 8


def test_an_unknown_format_is_refused_with_the_list(tmp_path: Path):
    for name in ("split.gif", "split"):
        with pytest.raises(ks.SplitError, match=r"\.svg, \.png, \.pdf, \.dot, \.mmd, \.txt, \.html; got .*split"):
            plot(in_three(), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_and_an_unknown_detail_are_refused(tmp_path: Path):
    with pytest.raises(ks.SplitError, match="There is no folder"):
        plot(in_three(), tmp_path / "nowhere" / "split.svg")
    with pytest.raises(ks.SplitError, match="'blocks' or 'layers'; got 'all'"):
        plot(in_three(), tmp_path / "split.svg", detail="all")
    with pytest.raises(ks.SplitError, match="'resnet' is a name, not a model"):
        plot("resnet", tmp_path / "split.svg")
    assert not list(tmp_path.iterdir())


def test_nothing_half_written_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    target = tmp_path / "split.svg"
    target.write_text("old")

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(ks.SplitError, match="cannot be written"):
        plot(in_three(), target)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_without_graphviz_the_source_is_left_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pygraphviz", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ks.SplitError, match=r"pip install pygraphviz.*`dot` is on the PATH.*split\.dot"):
        plot(in_three(), tmp_path / "split.png")
    assert [path.name for path in tmp_path.iterdir()] == ["split.dot"]
    for extension in ("dot", "mmd", "txt"):
        plot(in_three(), tmp_path / f"split.{extension}")


def test_without_pygraphviz_the_dot_program_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    program = tmp_path / "dot"
    program.write_text('#!/bin/sh\necho "<svg>$1</svg>"\n')
    program.chmod(0o755)
    monkeypatch.setitem(sys.modules, "pygraphviz", None)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    plot(in_three(), tmp_path / "split.svg")
    assert "<svg>-Tsvg</svg>" in (tmp_path / "split.svg").read_text()


def test_layers_names_every_layer_and_no_address():
    split = in_three()
    source = plot(split[1], detail="layers").dot
    assert all(f"<b>{layer.name}</b>" in source for layer in split[1].model.layers)
    assert "ortho" not in source
    assert not re.search(r"\b\d{9,}\b", source)
    colored = plot(split, detail="layers").dot
    assert all(color in colored for color in dot_writer.BORDERS[:3])


def test_layers_have_all_their_shapes_and_names_with_signs_of_graphviz(capfd: pytest.CaptureFixture[str]):
    long, short = keras.Input((10,), name="long"), keras.Input((9,), name="short")
    words = keras.layers.Embedding(50, 16, name="words")
    named = [keras.layers.Flatten(name="x{y}<z>")(words(long)), keras.layers.Flatten(name="a|b")(words(short))]
    drawn = ElementTree.fromstring(plot(keras.Model([long, short], named), detail="layers").render("svg"))
    texts = ["".join(text.itertext()) for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    for expected in ("words (Embedding)", "● 9×16 | 10×16", "x{y}<z> (Flatten)", "160", "a|b (Flatten)", "144"):
        assert expected in texts
    assert "Error" not in capfd.readouterr().err


def test_names_with_signs_of_the_formats_are_escaped(formats: tuple[str, ...], tmp_path: Path):
    x = entry = keras.Input((4,), name='a"<b>&')
    model = keras.Model(entry, keras.layers.Dense(2, name="<&>")(x), name='"<model>"')
    for extension in formats:
        for detail in ("blocks", "layers"):
            plot(model, tmp_path / f"{detail}.{extension}", detail=detail)


def test_a_notebook_shows_a_split_and_print_gives_text():
    assert "<svg" in in_three()._repr_svg_()
    text = str(plot(in_three()))
    assert "cut 0 · conv3_block4_out · 28×28×512 float32 · 1.5 MiB per sample" in text
    assert "‖conv4 ×6‖" in text


def test_outputs_of_one_call_are_told():
    x = keras.Input((6,), name="x")
    model = keras.Model(x, list(keras.ops.split(keras.layers.Dense(6, name="dense")(x), 2, -1)))
    assert "output split" in str(ks.plot(model))
