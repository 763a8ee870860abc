"""The examples, as users run them: they end by themselves, and leave nothing behind."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import keras
import numpy as np
import psutil
import pytest
from checkout import ROOT
from PIL import Image

FOLDER = ROOT / "examples"
EXAMPLES = sorted(
    path.relative_to(FOLDER)
    for pattern in ("*.py", "*/run.py")
    for path in FOLDER.glob(pattern)
    if path.name != "colab.py"  # cells of a notebook, which test_notebook.py runs
)


def tree(folder: Path) -> Iterator[tuple[Path, bytes | None]]:
    for path in sorted(folder.rglob("*")):
        yield path.relative_to(folder), path.read_bytes() if path.is_file() else None


def predicted_and_within_tolerances(output: str) -> None:
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines() if "bit/s │" in line]
    assert [row[1] for row in cells] == ["float32", "float16", "int8", "int4"]
    sent = [int(row[2].replace(",", "")) for row in cells]
    assert sent[0] > 1.99 * sent[1] > 3.7 * sent[2] > 7 * sent[3]
    assert all(float(row[3]) > 8e3 * int(row[2].replace(",", "")) / 20e6 for row in cells)  # ms for the bytes alone
    assert all(float(row[4]) > 8e3 * int(row[2].replace(",", "")) / 20e6 for row in cells)
    assert all(float(row[-2]) <= float(row[-1]) for row in cells)
    assert "within the tolerances: True" in output


def photo_and_mistakes_answered(output: str) -> None:
    assert "chelsea.jpg: 200, class " in output
    assert "equal to the whole model here: True" in output
    assert "as text/plain: 415, The content type is text/plain" in output
    assert "as image/png: 400," in output
    assert "as application/json: 422," in output


def cut_and_equal(output: str) -> None:
    assert "bit for bit" in output
    assert "loaded classifier equal: True" in output


def two_processes_trained_what_one_does(output: str) -> None:
    sent, back = (int(count.replace(",", "")) for count in re.findall(r"([\d,]+) (?:bytes to|back)", output))
    crossing = 64 * 4 * 4 * 8 * 4  # digits, rows, columns, channels, bytes
    assert crossing < back < crossing + 300
    assert crossing + 64 * 8 < sent < crossing + 64 * 8 + 400  # and the numbers of the rows
    assert "the server saw pooled (64, 4, 4, 8), rows (64,); loss" in output
    assert int(re.search(r"(\d+)% are classified correctly", output)[1]) > 85
    difference, allowed = map(float, re.search(r"one process: (\S+), allowed (\S+)", output).groups())
    assert difference <= allowed <= 1e-5


def heat_is_drawn(output: str) -> None:
    assert "heat.png: 912×912 pixels" in output
    with Image.open("../heat.png") as picture:
        assert picture.size == (912, 912)
        pixels = np.asarray(picture, dtype="float32")
    photo, drawn = pixels[:448, :448], pixels[:448, 464:]
    assert np.abs(photo - drawn).mean() > 20  # there is heat over it
    assert drawn.std() > 30


def exits_answer_more_the_less_sure_they_need_be(output: str) -> None:
    rows = re.findall(r"^ +([\d.]+) +([\d.]+)% +([\d.]+)% +(\d+) of (\d+)", output, re.MULTILINE)
    confidence, answered, right, ran, _ = np.array(rows, dtype=float).T
    assert len(rows) == 6 and all(np.diff(confidence) < 0)
    assert answered[0] < 50 < answered[-1] and all(np.diff(answered) >= 0) and all(np.diff(ran) <= 0)
    assert right[0] > 90 and right[-1] > 85


def the_model_has_learned_with_its_tail(output: str) -> None:
    *_, on_features = map(float, re.findall(r"([\d.]+)%\.$", output.split("The whole model")[0], re.MULTILINE))
    on_images = float(re.search(r"The whole model on the images: ([\d.]+)%", output)[1])
    assert on_images > 60  # ten digits: guessing gives 10
    assert abs(on_images - on_features) < 1  # these were stored as bfloat16


def planned(output: str) -> None:
    milliseconds = [float(found) for found in re.findall(r"bit/s: .*, ([\d.]+) ms$", output, re.MULTILINE)]
    assert len(milliseconds) == 3 and milliseconds == sorted(milliseconds, reverse=True)
    assert "no plan within the limits has less" in output
    assert "Each device needs a memory of 9930624 bytes" in output


SAYS = {
    "cut_and_compare.py": cut_and_equal,
    "plan_for_phone_and_server.py": planned,
    "cache_and_fine_tune.py": the_model_has_learned_with_its_tail,
    "early_exit.py": exits_answer_more_the_less_sure_they_need_be,
    "grad_cam.py": heat_is_drawn,
    "edge_and_server/run.py": predicted_and_within_tolerances,
    "serve/run.py": photo_and_mistakes_answered,
    "split_training/run.py": two_processes_trained_what_one_does,
}
OPTIONS = {"grad_cam.py": ["-o", "../heat.png"]}


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_an_example_runs_says_what_it_should_and_leaves_nothing_behind(example, tmp_path, monkeypatch):
    before = dict(tree(FOLDER))
    shutil.copytree(FOLDER, tmp_path / "examples")
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    settings = {"HOME": str(home), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    # What other packages keep of their own, in the places that they are told.
    theirs = {"KERAS_HOME": str(tmp_path / "keras"), "MPLCONFIGDIR": str(tmp_path / "matplotlib")}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "examples" / example), *OPTIONS.get(example.as_posix(), ())],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=here,
        env={**os.environ, **settings, **theirs},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    monkeypatch.chdir(here)
    SAYS[example.as_posix()](done.stdout)
    assert dict(tree(tmp_path / "examples")) == before
    assert not list(here.iterdir())
    assert not list(home.iterdir())
    assert not any(str(tmp_path) in " ".join(one.cmdline()) for one in psutil.Process().children(recursive=True))


def test_every_example_says_what_it_is_for():
    for example in EXAMPLES:
        text = (FOLDER / example).read_text(encoding="utf-8")
        first = text.split('"""')[1].strip().splitlines()
        assert text.startswith('"""'), example
        assert first[0].endswith((".", "?")) and len(first) > 2, example


def imported(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_grad_cam_weighs_the_maps_by_the_gradient_of_the_class():
    grad_cam = imported("grad_cam")
    generator = np.random.default_rng(0)
    kernel = generator.normal(size=(4, 6)).astype("float32")
    backbone = keras.Sequential(
        [keras.Input((12, 12, 3)), keras.layers.Conv2D(4, 3, 2, activation="relu", name="out_relu")], name="backbone"
    )
    model = keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            backbone,
            keras.layers.GlobalAveragePooling2D(name="pool"),
            keras.layers.Dense(6, name="scores"),
        ]
    )
    model.get_layer("scores").set_weights([kernel, np.zeros(6, "float32")])
    photo = generator.uniform(0, 1, (12, 12, 3)).astype("float32")
    heat, best = grad_cam.grad_cam(model, photo)
    maps = keras.ops.convert_to_numpy(backbone(photo[None]))[0]
    assert best == (maps.mean(axis=(0, 1)) @ kernel).argmax()
    # The score is the mean of the maps times a column of the kernel, which is the gradient but for a factor.
    expected = np.maximum(maps @ kernel[:, best], 0)
    np.testing.assert_allclose(heat, expected / expected.max(), rtol=1e-4, atol=1e-5)
