"""The notebook for Colab: it matches its script, changes nothing there, and runs completely without a network."""

import json
import re
import shutil
import tomllib
from pathlib import Path

import jupytext
import nbformat
import pytest
from checkout import ROOT
from packaging.requirements import Requirement
from run_notebook import digest, execute

NOTEBOOK = ROOT / "examples" / "colab.ipynb"
AGAIN = "`python tests/support/run_notebook.py` makes the notebook again"
PICTURES = 12
COLAB = {"tensorflow": "2.20.0", "keras": "3.13.2", "numpy": "2.0.2"}  # what it has, with Python 3.13


def cells(path: Path) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in jupytext.read(path).cells]


def outputs_of(notebook) -> list:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def printed_by(notebook) -> str:
    return "".join(output.text for output in outputs_of(notebook) if output.output_type == "stream")


def pictures(notebook) -> list[str]:
    return [kind for output in outputs_of(notebook) for kind in output.get("data", {}) if kind.startswith("image/")]


def shares_right(notebook) -> tuple[float, float]:
    """Returns the percentages that the new model classifies correctly: on images, and its tail on features."""
    line = re.search(r"^The whole model, on images: (.*)%\. The tail, on features: (.*)%$", printed_by(notebook), re.M)
    return float(line[1]), float(line[2])


def test_the_notebook_is_its_script():
    assert cells(NOTEBOOK) == cells(NOTEBOOK.with_suffix(".py")), AGAIN
    nbformat.validate(nbformat.read(NOTEBOOK, as_version=4))


def test_it_is_stored_with_what_it_shows():
    """The outputs come from one run of this very code, and reveal nothing about the machine."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert notebook.metadata["outputs_of"] == digest(notebook), AGAIN
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), AGAIN
    assert len(pictures(notebook)) == PICTURES
    assert shares_right(notebook)[0] > 90
    assert NOTEBOOK.stat().st_size < 1.5e6
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    texts = [output.get("text") or "".join(output.data.get("text/plain", "")) for output in outputs]
    for private in ("/home", "/root", "/tmp", "/work", "Traceback", "Warning", str(Path.home())):
        assert private not in "".join(texts), private


def test_it_opens_in_colab_and_has_a_text_before_its_code():
    badge = "https://colab.research.google.com/github/kerassplit/kerassplit/blob/main/examples/colab.ipynb"
    kinds = [kind for kind, _ in cells(NOTEBOOK)]
    assert f"colab-badge.svg)]({badge})" in cells(NOTEBOOK)[0][1]
    assert kinds.count("markdown") > 0.6 * kinds.count("code")
    assert all(len(source.splitlines()) <= 22 for _, source in cells(NOTEBOOK))


def test_installing_moves_neither_tensorflow_nor_keras_of_colab():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {one.name: one.specifier for one in map(Requirement, project["dependencies"])}
    assert not {"tensorflow", "jax", "torch"} & needed.keys()
    for name, version in COLAB.items():
        assert name not in needed or needed[name].contains(version), name


def test_it_runs_from_top_to_bottom_without_a_network_and_leaves_nothing_behind(tmp_path, monkeypatch):
    here, home, temporary = (tmp_path / name for name in ("here", "home", "temporary"))
    for folder in (here, home, temporary):
        folder.mkdir()
    shutil.copy(NOTEBOOK, here)
    settings = {
        "HOME": home,
        "IPYTHONDIR": tmp_path / "ipython",
        "JUPYTER_CONFIG_DIR": tmp_path / "jupyter",
        "JUPYTER_RUNTIME_DIR": tmp_path / "runtime",
        "KERAS_HOME": tmp_path / "keras",
        "MPLCONFIGDIR": tmp_path / "matplotlib",
        "PYTHONPATH": ROOT,
        "PYTHONWARNINGS": "default",
        "TMPDIR": temporary,
        "https_proxy": "http://127.0.0.1:9",  # nowhere, so no download can work
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, str(value))
    notebook = nbformat.read(here / "colab.ipynb", as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.update(outputs=[], execution_count=None)
    execute(notebook, here)

    outputs, printed = outputs_of(notebook), printed_by(notebook)
    assert re.search(r"^Keras \S+ with \w+ on: (CPU|GPU|.+MiB)$", printed, re.MULTILINE)
    assert "weights: random" in printed
    assert "39 split points in 177 layers" in printed
    assert "Proved best: True" in printed
    assert "bit for bit" in json.dumps(outputs)
    on_images, on_features = shares_right(notebook)
    assert on_images == pytest.approx(on_features, abs=1)
    assert on_images > 85  # ten digits: guessing gives 10
    assert len(pictures(notebook)) == PICTURES
    assert [path.name for path in here.iterdir()] == ["colab.ipynb"]
    assert not list(home.iterdir())
    assert not list(temporary.iterdir())
