"""Display in a REPL and a notebook of all results of public functions: one short line, and a table."""

import inspect
import pickle
from dataclasses import fields, is_dataclass
from html.parser import HTMLParser

import keras
import numpy as np
import pytest

import kerassplit as ks
from kerassplit.display.rich_table import Records
from kerassplit.storage.exports.receipt import ExportComparison, ExportedStage, ExportReceipt

layers = keras.layers
LONG = "a_layer_with_a_name_that_is_much_longer_than_names_should_be_" * 4


def chain() -> keras.Model:
    """Forty layers, one of them with a very long name."""
    x = inputs = keras.Input((4,), name="x")
    for number in range(40):
        x = layers.Dense(4, name=LONG if number == 20 else f"dense_{number}")(x)
        x = layers.Add(name=f"sum_{number}")([x, x]) if number % 10 else x
    return keras.Model(inputs, layers.Dense(3, "softmax", name="scores")(x), name="chain")


def results() -> dict:
    """Results of public functions, by the name of the function."""
    model, x = chain(), np.ones((2, 4), "float32")
    split = ks.split(model, ["dense_10", LONG, "dense_30"])
    devices = [ks.Device("phone", "1 MFLOPS"), ks.Device("server", "9 GFLOPS")]
    multi = ks.with_outputs(model, {"dense_10": [layers.Dense(3, "softmax", name="exit")]})
    stages = tuple(ExportedStage(f"{name}", f"{name}.onnx", 9, 9, 0.1, None) for name in "abcdefghi")
    compared = tuple(
        ExportComparison(f"{name}:0", name, False, (2, 4), "float32", 0.0, 1.0, 1e-4, 8) for name in "abcdefghi"
    )
    return {
        "split_points": ks.split_points(model),
        "crossings": ks.crossings(model),
        "explain": ks.explain(model, LONG),
        "blocks": ks.blocks(model),
        "split": split,
        "profile": ks.profile(model),
        "plan": ks.plan(model, 4),
        "plan_sweep": ks.plan_sweep(model, devices),
        "verify": split.verify(x),
        "plot": ks.plot(split),
        "stage_optimizers": ks.stage_optimizers(split, "adam"),
        "export": ExportReceipt("chain", "onnx", "out", stages, compared, "given input", "onnxruntime 1.20", 1e-4),
        "predict_early": ks.split(multi, [["dense_10", "exit"]]).predict_early(x, verbose=False),
        "device": ks.Device("phone", seconds={f"dense_{number}": 0.1 for number in range(40)}),
    }


RESULTS = results()
SHOWN_AS_PICTURES = ("split", "plot")
NO_TABLES = ("explain", "device", *SHOWN_AS_PICTURES)


def inside(value):
    """Yields a result and the records in it."""
    yield value
    if isinstance(value, tuple):
        for one in value:
            yield from inside(one)
    elif is_dataclass(value) and not isinstance(value, keras.Model):
        for field in fields(value):
            yield from (one for one in inside(getattr(value, field.name)) if is_dataclass(one) or type(one) is Records)


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_and_all_records_in_it_have_one_short_line(name):
    for value in inside(RESULTS[name]):
        line = repr(value)
        assert len(line) < 200, line
        assert "\n" not in line
        assert " object at 0x" not in line


@pytest.mark.parametrize("name", [name for name in RESULTS if name not in NO_TABLES])
def test_a_notebook_shows_a_result_as_a_table(name):
    class Text(HTMLParser):
        data = ""

        def handle_data(self, data):
            self.data += data

    parser = Text()
    parser.feed(RESULTS[name]._repr_html_())
    shown = [line.rstrip() for line in parser.data.splitlines() if line.strip()]
    assert shown == [line.rstrip() for line in str(RESULTS[name]).splitlines() if line.strip()]
    assert len(shown) >= 4  # title, headings, rule, rows


@pytest.mark.parametrize("name", SHOWN_AS_PICTURES)
def test_a_notebook_shows_splits_and_drawings_as_pictures(name):
    assert "<svg" in RESULTS[name]._repr_svg_()
    assert not hasattr(RESULTS[name], "_repr_html_")


def test_lines_say_what_there_is():
    points = RESULTS["split_points"]
    assert repr(points).startswith(f"<{len(points)} split points: dense_0; dense_1; sum_1; …; ")
    assert repr(points[0]) == "<SplitPoint 0 'dense_0': 4 float32, 16 B a sample, 20 parameters before, 795 after>"
    assert repr(RESULTS["split"][0]) == "<Stage stage_0: x → dense_10, 220 parameters>"
    assert repr(RESULTS["verify"]) == "<Receipt: The stages compute what 'chain' computes, bit for bit.>"
    assert repr(RESULTS["split"].crossings[0]) == "<Crossing of 16 B a sample: dense_10 4 float32>"
    assert repr(RESULTS["plot"]).startswith("<Drawing of chain: ")
    assert repr(RESULTS["plan"].stages) == "<4 planned stages: device 1; device 2; device 3; device 4>"
    assert repr(RESULTS["predict_early"]).startswith("<EarlyExits: 2 rows answered, ")


def test_records_are_tuples():
    points = RESULTS["split_points"]
    assert isinstance(points, tuple)
    assert points == tuple(points)
    assert hash(points) == hash(tuple(points))
    assert type(points[1:3]) is type(points)
    assert repr(points[1:3]) == "<2 split points: dense_1; sum_1>"
    assert (points[:0], repr(points[:0])) == ((), "()")
    assert points[0] is next(iter(points))
    blocks = RESULTS["profile"].blocks
    assert pickle.loads(pickle.dumps(blocks)) == blocks
    assert repr(RESULTS["profile"].to_dict()["blocks"]).startswith("({'name': 'dense_0'")
    assert isinstance(RESULTS["blocks"], dict)


def test_a_table_has_the_fields_that_are_filled():
    lines = str(RESULTS["split_points"][:2]).splitlines()
    assert [word for word in ("name", "shape", "dtype", "bytes", "index") if word not in lines[2]] == []
    assert "also" not in lines[2]
    assert "Dense" in lines[4]
    assert "float32" in lines[4]


def test_names_in_html_are_no_markup():
    inputs = keras.Input((4,), name="x")
    x = layers.Dense(4, name="<script>alert(1)<|script>")(inputs)
    model = keras.Model(inputs, layers.Dense(2, name="last")(x), name="<b>bold<|b>")
    for result in (ks.split_points(model), ks.profile(model), ks.blocks(model)):
        page = result._repr_html_()
        assert "<script" not in page
        assert "<b>" not in page


def test_the_help_of_functions_names_types_as_users_write_them():
    for name in ks.__all__:
        thing = getattr(ks, name)
        if inspect.isfunction(thing):
            signature = str(inspect.signature(thing))
            assert "keras.src" not in signature, name
            assert "kerassplit." not in signature, name
    assert "at: 'Cut | Sequence[Cut] | Set[Cut] | Plan | None' = None" in str(inspect.signature(ks.split))
    assert "start: 'TensorRef | Sequence[TensorRef] | None' = None" in str(inspect.signature(ks.build_submodel))
    assert len(str(inspect.signature(ks.split))) < 250
