"""Cuts and plans in the page to explore, in real Chromium: sliders, several cuts, those of splits and plans."""

import json
import random

import keras
import pytest
from applications import application
from browsing import MODELS, Open, all_of, click, crossing, one_of
from samples import LONG
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from small_models import uneven

import kerassplit as ks
from kerassplit.costs.profile import Profile
from kerassplit.display.units import format_count
from kerassplit.files.sizes import format_bytes
from kerassplit.graph.reading import read_graph
from kerassplit.graph.sides import read_sides

SETTINGS = 200 if LONG else 40
FORMS = ("", "float32", "float16", "bfloat16", "int8", "int4")
SLIDERS = ("first", "second", "speed", "count", "bandwidth", "latency", "input")


def plan_at(browser: webdriver.Chrome, goal: str, form: str, sliders: dict[str, int]) -> tuple[str, str, str | None]:
    """Moves the sliders; returns the cuts and the value that the page shows, and the call that it offers to copy."""
    return browser.execute_script(
        """const [goal, form, sliders] = arguments;
        const put = (one, value, event) => { if (one) { one.value = value; one.dispatchEvent(new Event(event)); } };
        put(document.getElementById("goal"), goal, "change");
        put(document.getElementById("form"), form, "change");
        for (const [key, value] of Object.entries(sliders)) {
          put(document.querySelector(`[data-slider="${key}"]`), value, "input");
        }
        const plan = document.getElementById("plan");
        return [plan.dataset.cuts, plan.dataset.value, plan.querySelector("[data-copy]")?.dataset.copy ?? null];""",
        goal,
        form,
        sliders,
    )


@pytest.mark.parametrize("name", MODELS)
def test_every_position_of_the_sliders_shows_what_plan_finds(page: Open, name: str) -> None:
    model = MODELS[name]()
    browser, profile, chance = page(model), ks.profile(model), random.Random(name)
    seen = set()
    for _ in range(SETTINGS):
        goal, form = chance.choice(("latency", "throughput")), chance.choice(FORMS)
        sliders = {key: chance.randint(0, 200) for key in SLIDERS}
        sliders["input"] *= chance.random() > 0.3
        cuts, value, call = plan_at(browser, goal, form, sliders)
        if call is None:
            count = int(2 + sliders["count"] / 200 * 6 + 0.5)
            with pytest.raises(ks.PlanError, match="stages"):
                ks.plan(model, ks.Device("one", 1e9, count=count), links=ks.Link(1e6), profile=profile)
            continue
        plan = _called(call, model, profile)
        assert json.loads(cuts) == list(plan.at), call
        assert float(value) == pytest.approx(plan.value, rel=1e-9), call
        seen.add((goal, cuts))
    assert len(seen) > 2


def _called(call: str, model: keras.Model, profile: Profile) -> ks.Plan:
    return eval(f"{call.removesuffix(')')}, profile=profile)", {"ks": ks, "model": model, "profile": profile})


def test_a_runner_up_and_the_table_of_stages_are_shown(page: Open) -> None:
    model = application("MobileNetV2")
    browser = page(model)
    plan_at(browser, "throughput", "int8", {"count": 34, "speed": 60, "bandwidth": 120, "latency": 0})
    shown = one_of(browser, "#plan").text
    assert "bottleneck" in shown
    assert "Runner-up: cut at" in shown
    assert len(all_of(browser, "#plan tbody tr")) == 3
    assert all_of(browser, ".box.divided")
    one_of(browser, "#open-all").click()
    assert not all_of(browser, ".box.divided")
    cuts = [one.text for one in all_of(browser, "#plan .best a")]
    names = [tensor.name for tensor in ks.profile(model).tensors]
    assert sorted(cuts) == sorted(names[tensor] for tensor in crossing(browser))


def test_the_cuts_of_a_split_are_lit_at_first(page: Open) -> None:
    split = ks.split(uneven(), ["first", "skip"], names=["a", "b", "c"], allow_crossing=True)
    browser = page(split)
    assert [one.text for one in all_of(browser, "#stages .cuts a")] == ["first", "skip"]
    assert len(crossing(browser)) == 2
    assert table(browser, "#stages table") == figures(split)
    assert _split(browser, split.model).stages[1].name == "b"


def test_the_cuts_of_a_plan_are_lit_at_first_with_what_it_expects(page: Open) -> None:
    model = application("MobileNetV2")
    phone, server = ks.Device("phone", "20 GFLOPS"), ks.Device("<b>server", "5 TFLOPS")
    plan = ks.plan(model, [phone, server], links=ks.Link("100 Mbit/s", "1 ms"), objective="latency", batch_size=4)
    browser = page(plan, title="planned")
    assert one_of(browser, "h1").text == "planned"
    assert [one.text for one in all_of(browser, "#stages .cuts a")] == plan.at
    rows, expected = table(browser, "#stages table"), figures(ks.split(model, plan))
    assert [row[1:3] for row in rows[:2]] == [
        [one[1], format_count(flops)] for one, flops in zip(expected, _flops(model, plan), strict=True)
    ]
    assert [row[0] for row in rows] == ["phone", "<b>server"] * 2
    assert f"latency {plan.value * 1000:.3g} ms" in one_of(browser, "#stages").text
    assert _split(browser, model).crossings == ks.split(model, plan).crossings


def _flops(model: keras.Model, plan: ks.Plan) -> list[int]:
    flops = {call.name: call.flops or 0 for call in ks.profile(model, plan.batch_size).calls}
    return [sum(flops[name] for name in stage.calls) for stage in plan.stages]


def table(browser: webdriver.Chrome, selector: str) -> list[list[str]]:
    """The texts of the rows of all these tables, without their heads."""
    return [
        [cell.text for cell in row.find_elements(By.CSS_SELECTOR, "th, td")]
        for row in all_of(browser, f"{selector} tbody tr")
    ]


def figures(split: ks.Split) -> list[list[str]]:
    """The rows of the table of stages: parameters, FLOPs, bytes of the inputs and outputs."""
    tensors = {tensor.name: tensor.bytes or 0 for tensor in ks.profile(split.model).tensors}
    return [
        [
            stage.name,
            format_count(stage.model.count_params()),
            format_count(ks.profile(stage.model).flops or 0),
            *(format_bytes(sum(tensors[name] for name in names)) for names in (stage.inputs, stage.outputs)),
        ]
        for stage in split.stages
    ]


def _split(browser: webdriver.Chrome, model: keras.Model) -> ks.Split:
    """What the call computes that the page offers to copy."""
    return eval(str(one_of(browser, "#stages .copy").get_attribute("data-copy")), {"ks": ks, "model": model})


def shift_click(browser: webdriver.Chrome, selector: str) -> None:
    keys = ActionChains(browser).key_down(Keys.SHIFT).move_to_element(one_of(browser, selector)).click()
    keys.key_up(Keys.SHIFT).perform()


def test_shift_and_a_click_cut_again_and_the_table_of_stages_grows(page: Open) -> None:
    model = application("MobileNetV2")
    browser = page(model, "block_6_project_BN")
    assert not all_of(browser, "#stages table")
    numbers = [tensor.name for tensor in ks.profile(model).tensors]
    for count, name in enumerate(("block_13_project_BN", "block_2_add"), 3):
        shift_click(browser, f'#chart circle[data-tensor="{numbers.index(name)}"]')
        assert len(table(browser, "#stages table")) == count
    names = ["block_2_add", "block_6_project_BN", "block_13_project_BN"]
    assert table(browser, "#stages table") == figures(ks.split(model, names))
    assert one_of(browser, "#stages .copy").get_attribute("data-copy") == f"ks.split(model, {json.dumps(names)})"
    assert {numbers[tensor] for tensor in crossing(browser)} == set(names)
    assert browser.current_url.endswith("#block_6_project_BN,block_13_project_BN,block_2_add")
    shift_click(browser, f'#chart circle[data-tensor="{numbers.index("block_2_add")}"]')
    all_of(browser, "#stages .remove")[1].click()
    assert browser.current_url.endswith("#block_6_project_BN")
    one_of(browser, "#add").click()  # without a keyboard
    click(browser, f'#chart circle[data-tensor="{numbers.index("block_2_add")}"]')
    assert table(browser, "#stages table") == figures(ks.split(model, ["block_2_add", "block_6_project_BN"]))


@pytest.mark.parametrize("name", MODELS)
def test_any_cuts_make_the_stages_that_split_makes(page: Open, name: str) -> None:
    model, chance = MODELS[name](), random.Random(name)
    browser = page(model)
    graph = read_graph(model)
    usual = [tensor.name for tensor in graph.tensors if tensor.users and graph.calls[tensor.call].inputs]
    seen = set()
    for _ in range(8 if LONG else 3):
        names = chance.sample(usual, min(chance.choice((2, 3, 4)), len(usual)))
        browser.execute_script("location.hash = arguments[0].map(encodeURIComponent).join(',')", names)
        browser.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0]))")
        shown = table(browser, "#stages table")
        seen.add(bool(shown))
        if not shown:
            assert "Nothing is left between the cuts" in one_of(browser, "#stages").text
            with pytest.raises(ks.SplitError, match="No call would be left"):
                ks.split(model, names, allow_crossing=True)
            continue
        split = _split(browser, model)
        assert [row[:2] for row in shown] == [row[:2] for row in figures(split)], names
        if not read_sides(graph).calls - {index for index, call in enumerate(graph.calls) if not call.inputs}:
            assert shown == figures(split), names
    assert True in seen
