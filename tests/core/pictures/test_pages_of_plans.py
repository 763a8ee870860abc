"""Pages of plans, pages in notebooks, and pages that the command opens."""

import copy
import gc
import pickle
import sys
from pathlib import Path

import keras
import pytest
from command_line import run
from IPython.core.formatters import DisplayFormatter
from page_data import data_of
from small_models import uneven

import kerassplit as ks


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return uneven()


def plan_of(model: keras.Model, count: int = 3, **options) -> ks.Plan:
    return ks.plan(model, ks.Device("board", "1 GFLOPS", count=count), links=ks.Link("1 GB/s"), **options)


def page_at(path: Path) -> dict:
    return data_of(path.read_text())


def test_the_page_of_a_plan_shows_its_cuts_and_costs(model, tmp_path):
    plan = plan_of(model, batch_size=8)
    ks.plot(plan, tmp_path / "one.html", title="three boards")
    plan.plot(tmp_path / "two.html", model=model, title="three boards")
    data = page_at(tmp_path / "one.html")
    assert data == page_at(tmp_path / "two.html")
    assert data["title"] == "three boards"
    assert data["cuts"] == [[name] for name in plan.at]
    assert data["stages"] == [stage.device for stage in plan.stages]
    assert data["profile"]["batch_size"] == 8
    assert data["plan"]["value"] == plan.value
    assert [one["load"] for one in data["plan"]["stages"]] == [stage.load for stage in plan.stages]
    assert data["profile"]["totals"]["flops"] == ks.profile(model, 8).flops


def test_a_plan_that_does_not_know_its_model_asks_for_it(model, tmp_path):
    plan = plan_of(model)
    plan.save(tmp_path / "plan.json")
    page = tmp_path / "page.html"
    for other in (ks.Plan.load(tmp_path / "plan.json"), copy.copy(plan), pickle.loads(pickle.dumps(plan))):
        assert other == plan
        with pytest.raises(ks.SplitError, match=r"does not hold its model, 'uneven'. Pass it: .*model=model"):
            ks.plot(other, page)
        other.plot(page, model=model)
        assert page_at(page)["cuts"] == [[name] for name in plan.at]
    with pytest.raises(ks.SplitError, match="was made for 'uneven', but 'other' has other layers"):
        plan.plot(page, model=keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)], name="other"))
    with pytest.raises(ks.SplitError, match="'model' applies only to pages"):
        plan.plot(tmp_path / "plan.svg", model=model)


def test_a_plan_does_not_keep_its_model_in_memory():
    plan = plan_of(uneven())
    gc.collect()
    with pytest.raises(ks.SplitError, match="does not hold its model"):
        ks.plot(plan, "page.html")


def test_other_pictures_of_a_plan_are_its_chart(model, tmp_path):
    plan = plan_of(model)
    assert plan.plot(tmp_path / "chart.svg").figure
    with pytest.raises(ks.SplitError, match=r"as a page \(.html\); got 'chart.svg'. `Plan.plot` draws its chart"):
        ks.plot(plan, tmp_path / "chart.svg")
    assert data_of(ks.plot(plan).render("html").decode())["cuts"] == [[name] for name in plan.at]


def test_the_command_writes_the_page_of_a_plan(model, tmp_path):
    model.save(tmp_path / "uneven.keras")
    page = tmp_path / "plan.html"
    run("plan", tmp_path / "uneven.keras", "--devices", 3, "--plot", page)
    assert page_at(page)["cuts"] == [[name] for name in ks.plan(model, 3).at]
    assert page_at(page)["plan"]["unit"] == "FLOPs"
    said = run("profile", tmp_path / "uneven.keras", "--plot", page, status=2).stderr
    assert "Charts are written as .png, .svg, .pdf" in said


def test_notebooks_show_the_page_in_a_frame_without_rights(model):
    for shown in (model, ks.split(model, "first", allow_crossing=True), plan_of(model)):
        formats, _ = DisplayFormatter().format(ks.explore(shown, height=500, title='it\'s <b> & "more"'))
        html = formats["text/html"]
        assert html.startswith('<iframe title="it&#x27;s &lt;b&gt; &amp; &quot;more&quot;" sandbox="allow-scripts" ')
        assert "height: 500px" in html
        assert html.count("<iframe") == 1
        assert html.count("'") == 2  # around the page
        assert data_of(html.replace("&#39;", "'").replace("&amp;", "&"))["title"] == 'it\'s <b> & "more"'
        assert formats["text/plain"] == '<Page of it\'s <b> & "more": notebooks show it; `plot` writes it to a file>'


def test_the_command_opens_the_page_in_the_browser(model, tmp_path, monkeypatch):
    model.save(tmp_path / "uneven.keras")
    browser = tmp_path / "browser"
    browser.write_text(f"#!{sys.executable}\nimport sys\nopen({str(tmp_path / 'asked')!r}, 'w').write(sys.argv[1])\n")
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", f"{browser} %s")
    monkeypatch.setattr("webbrowser._tryorder", None)  # read anew
    page = tmp_path / "a page.html"
    run("plot", tmp_path / "uneven.keras", "-o", page, "--browser")
    assert (tmp_path / "asked").read_text() == page.as_uri()
    said = run("plot", tmp_path / "uneven.keras", "-o", tmp_path / "uneven.svg", "--browser", status=2).stderr
    assert "--browser applies only to pages (.html)." in said
