"""The README's code works as written."""

import re

from checkout import ROOT
from pages import blocks, run_page

import kerassplit

README = ROOT / "README.md"


def test_every_block_runs_in_order_in_one_folder_as_a_reader_runs_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run_page(README)
    assert names["split"].verify(names["images"]).identical
    assert names["classifier"].input.name == "conv4_block6_out"
    assert names["head"].output.shape == (None, 14, 14, 1024)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "split.svg", "stages"]
    assert (tmp_path / "stages" / "kerassplit.json").is_file()


def test_it_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


def test_the_two_commands_come_first():
    install, test = (block.code.strip() for block in blocks(README, "sh")[:2])
    assert install == 'pip install ".[tensorflow]" && kerassplit demo'
    assert test == 'pip install -e ".[test]" && pytest -n 2 --dist worksteal'


def test_every_file_it_links_to_is_there():
    for target in re.findall(r"\]\((?!https:)([^)#]+)\)", README.read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), target


def test_every_public_name_is_where_the_package_looks_for_it():
    assert dir(kerassplit) == sorted(kerassplit.__all__)
    for name in set(kerassplit.__all__) - {"Cut", "TensorRef"}:  # these are unions, which have no home
        assert getattr(kerassplit, name).__module__.startswith("kerassplit.")
