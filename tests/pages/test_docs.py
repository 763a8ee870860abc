"""The documentation: it builds without warnings, covers all public names, and its code runs as written."""

import html
import importlib.util
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT
from pages import COMPUTERS, blocks, run_page

import kerassplit
from kerassplit.cli import main

DOCS = ROOT / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if blocks(page, *COMPUTERS))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_every_block_of_a_page_runs_and_prints_what_it_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    if "import keras_hub" in page.read_text(encoding="utf-8") and "CI" not in os.environ:
        pytest.importorskip("keras_hub")
    run_page(page)


def test_no_block_is_in_a_language_that_nobody_runs():
    for page in DOCS.rglob("*.md"):
        for language in re.findall(r"^ *```(\w+)", page.read_text(encoding="utf-8"), re.MULTILINE):
            assert language in (*COMPUTERS, "text"), (page.name, language)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Builds the pages as HTML, with warnings as errors."""
    folder = tmp_path_factory.mktemp("docs")
    before = sorted(ROOT.rglob("docs/**/*"))
    command = [sys.executable, "-m", "sphinx", "-W", "-n", "-E", "-q", str(DOCS), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(ROOT.rglob("docs/**/*")) == before
    return folder


def test_all_that_is_public_is_in_the_reference(built):
    pages = "".join(page.read_text(encoding="utf-8") for page in (built / "reference").glob("*.html"))
    described = set(re.findall(r'id="(kerassplit\.[\w.]+)"', pages))
    for name in kerassplit.__all__:
        thing = getattr(kerassplit, name)
        assert f"kerassplit.{name}" in described
        if inspect.isclass(thing):
            ours = [base for base in thing.__mro__ if base.__module__.startswith("kerassplit.")]
            own = {*(one for base in ours for one in vars(base)), *getattr(thing, "__dataclass_fields__", ())}
            members = {member for member in own if not member.startswith("_")}
            assert {f"kerassplit.{name}.{member}" for member in members} <= described, name
    for command in main.commands:
        assert f'id="kerassplit-{command}"' in pages


def test_there_is_a_page_to_explore_each_architecture_that_is_linked(built):
    linked = re.findall(
        r'href="(\.\./pages/\w+\.html)"', (built / "how-to" / "explore.html").read_text(encoding="utf-8")
    )
    found = [(built / "how-to" / target).read_text(encoding="utf-8") for target in linked]
    titles = [re.findall("<title>(.*)</title>", one) for one in found]
    assert titles == [["MobileNetV2"], ["ResNet50"], ["DenseNet121"], ["EfficientNetB0"]]


def test_every_page_can_be_reached_and_every_picture_is_there(built):
    for page in DOCS.rglob("*.md"):
        path = built / page.relative_to(DOCS).with_suffix(".html")
        assert 'class="toctree-l1 current' in path.read_text(encoding="utf-8") or page.stem == "index", page
    for picture in (DOCS / "pictures").glob("*.svg"):
        assert any(picture.name in page.read_text(encoding="utf-8") for page in DOCS.rglob("*.md")), picture


def test_the_pictures_show_what_would_be_drawn_today():
    spec = importlib.util.spec_from_file_location("make_pictures", DOCS / "pictures" / "make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    for name, drawing in make.pictures():
        old, new = (
            [html.unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", picture)]
            for picture in ((DOCS / "pictures" / f"{name}.svg").read_text("utf-8"), drawing.render("svg").decode())
        )
        assert old == new, f"{name}.svg is stale: `python docs/pictures/make.py` draws it again"
        assert len(old) > 5


def test_no_sentence_of_a_docstring_is_shown_as_a_type():
    """In the first line of `Returns:`, Sphinx treats text before a colon as the type."""
    things = [getattr(kerassplit, name) for name in kerassplit.__all__]
    members = [member for thing in things if inspect.isclass(thing) for member in vars(thing).values()]
    first_lines = [
        match[1]
        for thing in (*things, *members)
        if (match := re.search(r"^Returns:\n +(.*)", inspect.getdoc(thing) or "", re.MULTILINE))
    ]
    assert len(first_lines) > 20
    for line in first_lines:
        before, colon, _ = line.partition(": ")
        assert not colon or re.fullmatch(r"`[\w.]+`", before), line
