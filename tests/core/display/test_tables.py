"""Tables on narrow screens: names are never shortened, columns that do not fit are left out and listed."""

import contextlib
import io
import os

import keras
import numpy as np
import pytest
from samples import due

import kerassplit as ks
from kerassplit.cli import main
from kerassplit.cli.tables import crossings_table, points_table
from kerassplit.costs.tables import profile_tables
from kerassplit.display.rich_table import SafeConsole, right
from kerassplit.display.table import FittedTable
from kerassplit.engines.early_exit import EarlyExits
from kerassplit.storage.exports.receipt import ExportComparison, ExportedStage, ExportReceipt
from kerassplit.zoo import load_model

WIDTHS = (80, 100, 120)
LONG = "a_layer_with_a_name_that_is_longer_than_the_screen_of_most_terminals_is_wide_as_some_are_in_papers"


def lines_at(width: int, shown: object) -> list[str]:
    """Returns the output on a terminal of this width."""
    file = io.StringIO()
    SafeConsole(file=file, width=width).print(shown)
    return [line.rstrip() for line in file.getvalue().splitlines()]


def assert_whole(names, shown: object) -> None:
    """Checks that names are unbroken, and that only lines with a name exceed the width."""
    for width in WIDTHS:
        lines = lines_at(width, shown)
        words = {word.strip("',.") for line in lines for word in line.split()}
        missing = set(names) - words
        assert not missing, (width, sorted(missing)[:3])
        longest = max(map(len, names))
        for line in lines:
            assert len(line) <= max(width, longest + 30), line


@pytest.fixture(scope="module")
def nested() -> keras.Model:
    """A model with long names of nested tensors, one of them longer than any screen here."""
    x = inner_input = keras.Input((8,), name="x")
    for name in ("first", LONG, "last"):
        x = keras.layers.Dense(8, name=name)(x)
    backbone = keras.Model(inner_input, x, name="a_backbone_that_is_a_layer")
    inputs = keras.Input((8,), name="numbers")
    return keras.Model(inputs, keras.layers.Dense(2, name="classifier")(backbone(inputs)), name="nested")


@pytest.fixture(scope="module", params=["ResNet50", "nested", *due(["EfficientNetV2L", "NASNetMobile"], 2)])
def model(request) -> keras.Model:
    if request.param == "nested":
        return request.getfixturevalue("nested")
    return load_model(request.param)


def test_points_crossings_and_costs(model):
    points, profile = ks.split_points(model), ks.profile(model)
    names = [point.name for point in points]
    assert_whole(names, points_table(model.name, points))
    few = ks.crossings(model, 2)
    assert_whole([",".join(one.name for one in cut.tensors) for cut in few], crossings_table(model.name, few, 2))
    assert_whole([block.name for block in profile.blocks], profile_tables(profile))
    assert_whole([call.name for call in profile.calls], profile_tables(profile, "calls"))


def test_plans_and_sweeps(model):
    devices = [ks.Device(f"the_device_called_{name}", "50 GFLOPS", "64 GiB") for name in ("one", "two", "three")]
    plan = ks.plan(model, devices, links=ks.Link("1 GB/s"), leave_out=False)
    assert_whole([*plan.at, *(device.name for device in devices)], plan)
    sweep = ks.plan_sweep(model, devices[:2])
    names = {name for one in sweep.ranges for name in (*one.at, *one.devices[: not one.at])}
    assert_whole(names, sweep)
    assert_whole([name for front in sweep.front for name in front.at] or ["latency"], sweep)


def test_splits_and_their_receipts(nested):
    points = [point.name for point in ks.split_points(nested)]
    split = ks.split(nested, points)
    assert_whole(points, split)
    assert_whole(points, split.verify(np.ones((2, 8), "float32")))


def test_exports_and_early_exits():
    compared = ExportComparison(LONG, "stage_0", True, (2, 8), "float32", 1e-7, 1.0, 1e-4, 16)
    stages = tuple(ExportedStage(name, f"{name}.onnx", 2**20, 2**20, 31.5, 2**30) for name in ("stage_0", "stage_1"))
    exported = ExportReceipt("nested", "onnx", "out", stages, (compared,), "random input", "onnxruntime 1.2", 1e-4)
    assert_whole([LONG, "stage_0", "stage_0.onnx"], exported)
    exits = EarlyExits(
        outputs=np.ones((2, 3)),
        exits=np.array([LONG, "final"]),
        ran={"stage_0": 1, "stage_1": 1},
        batches=1,
        stage_of={LONG: "stage_0", "final": "stage_1"},
    )
    assert_whole([LONG, "final"], exits)


def test_the_name_is_the_last_to_shrink_and_what_is_left_out_is_named():
    table = FittedTable("title", right("#"), "name", right("per\nsample"), "dtype", whole=2)
    table.add_row("0", "conv4_block6_out", "784.0 KiB", "float32")
    assert any(line.endswith("dtype") for line in lines_at(50, table))
    narrow = lines_at(25, table)
    assert any(line.endswith("conv4_block6_out") for line in narrow)
    assert " ".join(narrow[-3:]).endswith("Left out (a wider screen shows them): per sample and dtype.")
    assert [column.header for column in table.columns] == ["#", "name", "per\nsample", "dtype"]


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="terminals of Unix")
@pytest.mark.parametrize("columns", WIDTHS)
def test_commands_and_print_fit_the_terminal(columns, tmp_path, monkeypatch):
    chain = small_chain()
    chain.save(tmp_path / "chain.keras")
    master, slave = os.openpty()
    monkeypatch.setenv("COLUMNS", str(columns))
    with os.fdopen(slave, "w") as terminal, contextlib.redirect_stdout(terminal):
        terminal.write(str(ks.profile(chain)) + "\n")
        main(["points", str(tmp_path / "chain.keras")], standalone_mode=False)
    printed = ""
    with os.fdopen(master, "rb", buffering=0) as screen, contextlib.suppress(OSError):  # its end, where all is read
        while True:
            printed += screen.read(10_000).decode()
    assert printed.count(LONG) == 2
    assert printed.count("Left out") == 2


def small_chain() -> keras.Model:
    x = inputs = keras.Input((4,))
    for name in ("a", LONG, "c"):
        x = keras.layers.Dense(4, name=name)(x)
    return keras.Model(inputs, x, name="chain")
