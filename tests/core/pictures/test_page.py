"""The page to explore: holds what the commands print, is complete in itself, and shows every layer once."""

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import keras
import menagerie
import pytest
from command_line import run
from hostile import NAMES, hostile_model
from menagerie import Kind
from page_data import check_layout, data_of
from samples import due
from small_models import uneven

import kerassplit as ks


def page_of(model: Any, **options: Any) -> str:
    return ks.plot(model, **options).render("html").decode()


def as_json(*words: object) -> dict[str, Any]:
    return json.loads(run(*words, "--json").stdout)


def test_its_data_is_what_the_commands_print(tmp_path: Path):
    uneven().save(tmp_path / "uneven.keras")
    run("plot", tmp_path / "uneven.keras", "-o", tmp_path / "page.html")
    data = data_of((tmp_path / "page.html").read_text())
    assert data["profile"] == as_json("profile", tmp_path / "uneven.keras")
    assert data["points"] == as_json("points", tmp_path / "uneven.keras")["points"]
    for tensor, explanation in zip(data["profile"]["tensors"], data["explanations"], strict=True):
        assert {"model": "uneven", **explanation} == as_json("explain", tmp_path / "uneven.keras", tensor["name"])


@pytest.mark.filterwarnings("ignore:Layer:UserWarning")  # of a mask that a layer drops
@pytest.mark.parametrize("kind", due(menagerie.kinds(), 3), ids=lambda kind: kind.name)
def test_every_layer_of_every_kind_of_model_is_in_one_box_of_each_level_and_none_overlap(kind: Kind):
    check_layout(data_of(page_of(kind.build().model, open_sides=16)))


def test_its_policy_allows_its_own_script_and_style_only():
    page = page_of(uneven())
    [policy] = re.findall(r'Content-Security-Policy" content="(.*?)"', page)
    [style], [script] = (re.findall(f"<{tag}>(.*?)</", page, re.DOTALL) for tag in ("style", 'script type="module"'))
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules.pop("script-src") == _digest(script)
    assert rules.pop("style-src") == _digest(style)
    assert rules == {"default-src": "'none'", "img-src": "data:", "base-uri": "'none'", "form-action": "'none'"}
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@pytest.mark.filterwarnings("ignore:.*scope name:UserWarning")
def test_names_cannot_end_the_data():
    page = page_of(hostile_model(), title="</title></script>{{script}}")
    assert page.count("</script>") == 2
    assert "<title>&lt;/title&gt;&lt;/script&gt;{{script}}</title>" in page
    names = {tensor["name"] for tensor in data_of(page)["profile"]["tensors"]}
    assert names.issuperset(NAMES)
    assert any(name.startswith("</script><img") for name in names)


def test_a_split_marks_its_cuts_also_once_it_is_loaded(tmp_path: Path):
    split = ks.split(uneven(), ["first", "skip"], names=["a", "b", "c"])
    split.save(tmp_path / "stages")
    run("plot", tmp_path / "stages", "-o", tmp_path / "page.html")
    for page in (page_of(split), (tmp_path / "page.html").read_text()):
        data = data_of(page)
        assert data["cuts"] == [["first"], ["skip"]]
        assert data["stages"] == ["a", "b", "c"]
        assert {"first", "skip"} <= {tensor["name"] for tensor in data["profile"]["tensors"]}


def test_layers_of_a_block_are_shown_at_first_if_asked_for():
    assert [data_of(page_of(uneven(), detail=detail))["opened"] for detail in ("blocks", "layers")] == [False, True]
    assert page_of(uneven()) == page_of(uneven())


def test_a_large_block_opens_into_its_parts_and_these_into_layers():
    x = entry = keras.Input((4,), name="x")
    for part in range(1, 13):
        y = keras.layers.Dense(4, name=f"conv4_block{part}_1")(x)
        y = keras.layers.Dense(4, name=f"conv4_block{part}_2")(y)
        x = keras.layers.Add(name=f"conv4_block{part}_out")([x, y])
    [_, box, _] = data_of(page_of(keras.Model(entry, keras.layers.Dense(1, name="end")(x))))["layout"]["boxes"]
    assert box["title"] == ["conv4 ×12"]
    assert [part["title"] for part in box["inside"]["boxes"]] == [[f"block{part}"] for part in range(1, 13)]
    assert [len(part["inside"]["boxes"]) for part in box["inside"]["boxes"]] == [3] * 12


def test_a_stage_is_shown_like_a_model():
    [first, _] = ks.split(uneven(), "first").stages
    assert [point["name"] for point in data_of(page_of(first))["points"]] == []
    assert [call["name"] for call in data_of(page_of(first))["profile"]["calls"]] == ["first"]


def test_unknown_sizes_have_to_be_given(tmp_path: Path):
    x = keras.Input((None, None, 3), name="x")
    y = keras.layers.Conv2D(4, 3, name="conv")(x)
    model = keras.Model(x, keras.layers.GlobalMaxPooling2D(name="pool")(y), name="open")
    model.save(tmp_path / "open.keras")
    with pytest.raises(ks.SplitError, match="Pass open_sides=128"):
        page_of(model)
    with pytest.raises(ks.SplitError, match="applies only to pages"):
        ks.plot(model, tmp_path / "picture.svg", open_sides=16)
    data = data_of(page_of(model, open_sides=16))
    assert data["profile"]["tensors"][0]["shape"] == [1, 16, 16, 3]
    assert data["open_sides"] == "16"
    assert (
        "applies only to pages"
        in run("plot", tmp_path / "open.keras", "-o", "x.svg", "--open-sides", 16, status=2).stderr
    )
    run("plot", tmp_path / "open.keras", "-o", tmp_path / "page.html", "--open-sides", 16)
    assert data_of((tmp_path / "page.html").read_text())["open_sides"] == "16"
