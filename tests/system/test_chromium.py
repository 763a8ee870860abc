"""The page to explore, in real Chromium: pointer, keys, links, both color schemes, a phone."""

import itertools
import json
from pathlib import Path
from typing import Any

import keras
import menagerie
import pytest
from applications import application
from browsing import MODELS, Open, all_of, click, crossing, one_of
from hostile import NAMES, hostile_model
from IPython.core.formatters import DisplayFormatter
from menagerie import Kind
from samples import due
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from selenium.webdriver.common.by import By
from small_models import uneven

import kerassplit as ks
from kerassplit.display.units import format_count
from kerassplit.graph.reading import read_graph


def test_a_click_opens_a_block_and_another_folds_it(page: Open) -> None:
    browser = page(application("MobileNetV2"))
    assert not all_of(browser, ".layer")
    click(browser, '[data-box="2"]')
    assert len(all_of(browser, ".layer")) == 18
    assert one_of(browser, '[data-box="2"]').get_attribute("aria-expanded") == "true"
    click(browser, '[data-box="2"]')
    assert not all_of(browser, ".layer")


def test_keys_search_select_open_and_clear(page: Open) -> None:
    browser = page(application("MobileNetV2"))
    ActionChains(browser).send_keys("/").send_keys("block_7 expand_relu").perform()
    assert [one.text for one in all_of(browser, "#found li")] == ["block_7_expand_relu"]
    ActionChains(browser).send_keys(Keys.ENTER).perform()
    assert browser.current_url.endswith("#block_7_expand_relu")
    assert one_of(browser, "#details h2").text == "block_7_expand_relu"
    ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    assert one_of(browser, "#details h2").text == "Where can it be cut?"
    assert not crossing(browser)
    box = one_of(browser, '.box[data-box="2"]')
    browser.execute_script("arguments[0].focus()", box)
    before = len(all_of(browser, ".layer"))
    ActionChains(browser).send_keys(Keys.ENTER).perform()
    assert len(all_of(browser, ".layer")) == before + 18
    assert browser.execute_script("return document.activeElement.dataset.box") == "2"


def test_a_tensor_inside_a_branch_lights_up_what_crosses_there(page: Open) -> None:
    model = application("MobileNetV2")
    browser = page(model, "block_7_expand_BN")
    found = ks.explain(model, "block_7_expand_relu")
    names = [tensor.name for tensor in ks.profile(model).tensors]
    call = [call.name for call in ks.profile(model).calls].index("block_7_expand_relu")
    click(browser, f'[data-call="{call}"]')
    assert {names[tensor] for tensor in crossing(browser)} == set(found.crossing)
    assert one_of(browser, "#details .reason").text == found.reason
    assert [one.text for one in all_of(browser, "#details .near a")] == [found.before, found.after]
    assert [one.text for one in all_of(browser, "#details .crossing a")] == list(found.crossing)
    colors = {
        side: one_of(browser, f".layer.{side} > rect").value_of_css_property("fill") for side in ("before", "after")
    }
    assert colors["before"] != colors["after"]
    one_of(browser, "#details .near a").click()
    assert one_of(browser, "#details h2").text == found.before


@pytest.mark.parametrize("name", MODELS)
def test_a_link_opens_a_tensor_with_the_figures_of_the_split_point(page: Open, name: str) -> None:
    model = MODELS[name]()
    point = ks.split_points(model)[-1]
    browser = page(model, point.name)
    assert one_of(browser, "#details h2").text == point.name
    rows = [
        [cell.text for cell in row.find_elements(By.TAG_NAME, "td")] for row in all_of(browser, "#details tbody tr")
    ]
    assert rows[0] == [format_count(point.params_before), format_count(point.params_after)]
    if not point.also:  # masks count on neither side of a split point
        assert rows[1] == [format_count(point.flops_before or 0), format_count(point.flops_after or 0)]


def test_code_is_copied(page: Open) -> None:
    browser = page(uneven(), "first")
    copied = []
    for button in all_of(browser, "#details .copy"):
        button.click()
        box = one_of(browser, "#search")
        box.clear()
        box.send_keys(Keys.CONTROL, "v")
        copied.append(box.get_property("value"))
    assert copied == [
        'ks.split(model, "first", allow_crossing=True)',
        'ks.tap(model, "first")',
    ] or copied == [
        'ks.split(model, "first")',
        'ks.build_submodel(model, start="first")',
        "kerassplit split MODEL --at='first' -o stages",
    ]
    names = [tensor.name for tensor in ks.profile(uneven()).tensors]
    for name, offered in ((names[0], []), (names[-1], [f"ks.tap(model, {json.dumps(names[-1])})"])):
        browser.execute_script("location.hash = arguments[0]", name)
        browser.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0]))")
        assert [one.get_attribute("data-copy") for one in all_of(browser, "#details .copy")] == offered


def test_chart_and_graph_point_at_each_other(page: Open) -> None:
    model = application("MobileNetV2")
    browser = page(model)
    assert len(all_of(browser, "#chart circle")) == len(ks.split_points(model))
    number = [tensor.name for tensor in ks.profile(model).tensors].index("block_5_add")
    ActionChains(browser).move_to_element(one_of(browser, f'#chart circle[data-tensor="{number}"]')).perform()
    [marked] = all_of(browser, ".line.pointed")
    assert marked.get_attribute("data-tensor") == str(number)
    ActionChains(browser).move_to_element(one_of(browser, '[data-box="3"]')).perform()
    [dot] = all_of(browser, "circle.pointed")
    assert dot.get_attribute("data-tensor") == str(number)
    assert "block_5_add" in one_of(browser, "#tip").text


def test_pointing_at_a_layer_shows_its_settings_shapes_and_costs(page: Open) -> None:
    model = application("MobileNetV2")
    browser = page(model, "block_5_depthwise")
    profile = ks.profile(model)
    call = [call.name for call in profile.calls].index("block_5_depthwise")
    ActionChains(browser).move_to_element(one_of(browser, f'[data-call="{call}"]')).perform()
    shown = one_of(browser, "#tip").text.split("\n")
    assert shown[:2] == ["block_5_depthwise", "DepthwiseConv2D"]
    layer: Any = model.get_layer("block_5_depthwise")
    settings = dict(one.split(" ", 1) for one in shown[2].split(" · "))
    assert settings == {
        "depth_multiplier": "1",
        "kernel_size": "(3, 3)",
        "strides": "(1, 1)",
        "padding": "same",
        "data_format": "channels_last",
        "dilation_rate": "(1, 1)",
        "activation": "linear",
        "use_bias": "False",
    }
    assert shown[3:6] == [
        "takes 8×8×192",
        f"FLOPs: {format_count(profile.calls[call].flops or 0)}",
        f"parameters: {format_count(layer.count_params())}",
    ]
    assert shown[-1] == "gives block_5_depthwise: 8×8×192 float32, 48.0 KiB"


def test_bars_show_the_figures_of_blocks_and_layers(page: Open) -> None:
    model = application("MobileNetV2")
    browser, profile = page(model), ks.profile(model)
    for measure in ("flops", "parameters", "activation_bytes"):
        one_of(browser, f'#measure option[value="{measure}"]').click()
        values = [int(str(bar.get_attribute("data-value"))) for bar in all_of(browser, ".bars rect")]
        assert sum(values) == getattr(profile, measure)
        widths = [float(str(bar.get_attribute("width"))) for bar in all_of(browser, ".bars rect")]
        assert widths == pytest.approx([130 * value / max(values) for value in values])
    one_of(browser, "#open-all").click()
    assert len(all_of(browser, ".bars rect")) == len(profile.calls)


def test_wheel_and_drag_move_the_graph_and_fit_brings_it_back(page: Open) -> None:
    browser = page(uneven())

    def where() -> str:
        browser.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0]))")
        return str(one_of(browser, "#canvas g").get_attribute("transform"))

    first, canvas = where(), one_of(browser, "#canvas svg")
    drag = ActionChains(browser).move_to_element(canvas).click_and_hold()
    drag.move_by_offset(90, 40).release().perform()
    dragged = where()
    ActionChains(browser).scroll_from_origin(ScrollOrigin.from_element(canvas), 0, -300).perform()
    assert len({first, dragged, where()}) == 3
    assert one_of(browser, "#details h2").text == "Where can it be cut?"  # a drag is no click
    ActionChains(browser).send_keys("f").perform()
    assert where() == first


def test_a_map_shows_where_the_window_is_and_moves_it(page: Open) -> None:
    browser = page(application("MobileNetV2"))
    click(browser, "#open-all")
    size = browser.execute_script("return document.querySelector('#map .view').getBBox().height")
    whole = browser.execute_script("return document.querySelector('#map').viewBox.baseVal.height")
    assert size < whole / 4
    ends = one_of(browser, "#map")
    for offset, first in ((-0.48, True), (0.48, False)):
        place = round(ends.size["height"] * offset)
        ActionChains(browser).move_to_element_with_offset(ends, 0, place).click().perform()
        browser.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0]))")
        [inputs, last] = [one.rect["y"] for one in (one_of(browser, ".input"), all_of(browser, ".box, .layer")[-1])]
        assert (0 < inputs < 900) == first
        assert (0 < last < 900) != first
    click(browser, "#fold-all")
    assert one_of(browser, "#details h2").text == "Where can it be cut?"


def test_a_map_is_not_shown_if_everything_is(page: Open) -> None:
    assert not one_of(page(uneven()), "#map").is_displayed()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_color_schemes_are_readable(page: Open, scheme: str) -> None:
    browser = page(uneven(), "first,skip")
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    ink, back = (
        _luminance(one_of(browser, "body").value_of_css_property(what)) for what in ("color", "background-color")
    )
    assert (ink < back) == (scheme == "light")
    browser.execute_script("document.querySelector('.layer, .box').focus()")
    stages = ("#stages th", "#stages .remove")
    for selector in ("#details p", "#details a", "th.before", "th.after", *stages, "#subtitle", "#tip"):
        text = _luminance(one_of(browser, selector).value_of_css_property("color"))
        panel = _luminance(one_of(browser, "aside").value_of_css_property("background-color"))
        assert (max(text, panel) + 0.05) / (min(text, panel) + 0.05) >= 4.5, selector  # WCAG 2.2, AA
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def _luminance(color: str) -> float:
    """Relative luminance of `rgba(r, g, b, a)` (WCAG 2.2)."""
    parts = [float(one) / 255 for one in color[color.index("(") + 1 : -1].split(",")[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_a_phone_shows_everything_without_scrolling_sideways(page: Open) -> None:
    browser = page(application("MobileNetV2"), "block_6_project_BN,block_13_project_BN")
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        wide = browser.execute_script("return document.scrollingElement.scrollWidth")
        parts = ("canvas", "details", "stages", "chart", "planner")
        sections = [one_of(browser, f"#{part}").rect for part in parts]
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert wide == 390
    tops = [section["y"] for section in sections]
    assert tops == sorted(tops)
    assert sections[0]["width"] == 390


def test_a_cell_of_a_notebook_shows_the_page(chromium: webdriver.Chrome, tmp_path: Path) -> None:
    model = application("MobileNetV2")
    formats, _ = DisplayFormatter().format(ks.explore(model))
    notebook = tmp_path / "notebook.html"
    notebook.write_text(
        f"<!doctype html><meta charset=utf-8><base href=https://jupyter.invalid/>{formats['text/html']}"
    )
    chromium.get(notebook.as_uri())
    chromium.switch_to.frame(0)
    number = [tensor.name for tensor in ks.profile(model).tensors].index("block_6_project_BN")
    click(chromium, f'#chart circle[data-tensor="{number}"]')
    assert one_of(chromium, "#details h2").text == "block_6_project_BN"
    click(chromium, "#details .near a")
    assert one_of(chromium, "#details h2").text == ks.explain(model, "block_6_project_BN").before
    click(chromium, "#details .copy")
    assert one_of(chromium, "#details .done").text == "copied"
    chromium.switch_to.default_content()
    assert chromium.current_url == notebook.as_uri()
    assert chromium.get_log("browser") == []


def test_controls_have_names_and_can_be_reached_by_keys(page: Open) -> None:
    browser = page(ks.split(uneven(), ["first", "skip"], allow_crossing=True))
    nameless = browser.execute_script(
        """return [...document.querySelectorAll("button, input, select, [role=button], [role=img], [role=group]")]
        .filter((one) => !(one.getAttribute("aria-label") || one.textContent.trim() || one.labels?.length))
        .map((one) => one.outerHTML);"""
    )
    assert nameless == []
    assert browser.execute_script(
        "return [...document.querySelectorAll('[role=button]')].every((one) => one.tabIndex === 0)"
    )


def test_keys_alone_cut_in_several_places(page: Open) -> None:
    browser = page(uneven(), detail="layers")
    for name in ("first", "skip"):
        layer = one_of(browser, f'.layer[aria-label^="{name}"], .box[aria-label^="{name}"]')
        browser.execute_script("arguments[0].focus()", layer)
        assert one_of(browser, "#tip").is_displayed()
        ActionChains(browser).key_down(Keys.SHIFT).send_keys(Keys.ENTER).key_up(Keys.SHIFT).perform()
    assert [one.text for one in all_of(browser, "#stages .cuts a")] == ["first", "skip"]
    ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    assert not one_of(browser, "#stages").is_displayed()


@pytest.mark.filterwarnings("ignore:.*scope name:UserWarning")
def test_no_name_runs_as_code(page: Open) -> None:
    model = hostile_model()
    browser = page(model, title=f"</title>{NAMES[0]}</script>{NAMES[0]}")
    one_of(browser, "#open-all").click()
    profile = ks.profile(model)
    assert len(profile.calls) == len(NAMES) + 2
    for tensor in profile.tensors:
        browser.execute_script("location.hash = encodeURIComponent(arguments[0])", tensor.name)
        browser.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0]))")
        assert one_of(browser, "#details h2").get_property("textContent") == tensor.name
        one_of(browser, "#search").clear()
        one_of(browser, "#search").send_keys(tensor.name[:9].replace("\u2028", ""))
    assert browser.execute_script("return window.hurt ?? null") is None
    assert not all_of(browser, "img, script:not([type]), [onerror], [onload], [onfocus], [onclick], [onpointerenter]")


@pytest.mark.filterwarnings("ignore:.*scope name:UserWarning")
def test_no_name_of_a_device_or_in_what_is_pointed_at_runs_as_code(page: Open) -> None:
    model = hostile_model()
    devices = [ks.Device(name, 1e9) for name in NAMES[:6]]
    plan = ks.plan(model, devices, links=ks.Link(1e12))
    browser = page(plan)
    named = [row.text for row in all_of(browser, "#stages tbody th")]
    assert named == [*NAMES[:6]] * 2
    one_of(browser, "#open-all").click()
    for one in all_of(browser, ".box, .layer, .head"):
        browser.execute_script("arguments[0].focus()", one)
        assert one_of(browser, "#tip").is_displayed()
    last = ks.split_points(model)[-1].name
    browser.execute_script("location.hash += ',' + encodeURIComponent(arguments[0])", last)
    assert browser.execute_script("return window.hurt ?? null") is None
    assert not all_of(browser, "img, script:not([type]), [onerror], [onload], [onfocus], [onclick], [onpointerenter]")


@pytest.mark.filterwarnings("ignore:Layer:UserWarning")  # of a mask that a layer drops
@pytest.mark.parametrize("kind", due(menagerie.kinds(), 4), ids=lambda kind: kind.name)
def test_every_tensor_of_every_kind_of_model_can_be_selected(page: Open, kind: Kind) -> None:
    model = kind.build().model
    browser = page(model, open_sides=16)
    tensors = ks.profile(model, open_sides=16).tensors
    names = [tensor.name for tensor in tensors]
    known = {tensor.name for tensor in tensors if tensor.bytes is not None}
    assert len(all_of(browser, "#chart circle")) == sum(point.name in known for point in ks.split_points(model))
    for name in names:
        browser.execute_script("location.hash = encodeURIComponent(arguments[0])", name)
        browser.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0]))")
        assert one_of(browser, "#details h2").get_property("textContent") == name
        assert {names[tensor] for tensor in crossing(browser)} >= set(ks.explain(model, name).crossing) - set(
            _ends(model)
        )
    one_of(browser, "#fold-all").click()
    assert not all_of(browser, ".layer")


def _ends(model: keras.Model) -> list[str]:
    """The tensors that no call uses."""
    return [tensor.name for tensor in read_graph(model).tensors if not tensor.users]


def nested() -> keras.Model:
    """Two towers side by side, of two cells each."""
    layers = keras.layers

    def cell(name: str) -> keras.Model:
        x = keras.Input((4,))
        y = layers.Dense(4, name=f"{name}_a")(x)
        return keras.Model(x, layers.Add(name=f"{name}_add")([y, layers.Dense(4, name=f"{name}_b")(y)]), name=name)

    def tower(name: str) -> keras.Model:
        return keras.Sequential([keras.Input((4,)), cell(f"{name}_cell1"), cell(f"{name}_cell2")], name=name)

    x = keras.Input((4,), name="x")
    both = layers.Concatenate(name="both")([tower("left")(x), tower("right")(x)])
    return keras.Model(x, layers.Dense(2, name="end")(both), name="nested")


def test_nested_models_open_one_level_at_a_time_and_stay_apart(page: Open) -> None:
    browser = page(nested())
    labels = [str(one.get_attribute("aria-label")) for one in all_of(browser, ".box")]
    assert [one.split(",")[0] for one in labels] == ["x", "left", "right", "both", "end"]
    click(browser, '.box[aria-label^="left"]')
    assert len(all_of(browser, '.box[aria-label^="left_cell"]')) == 2
    assert not all_of(browser, ".layer")
    click(browser, '.box[aria-label^="left_cell1"]')
    assert [one.text.split("\n")[0] for one in all_of(browser, ".layer")] == [
        f"left_cell1_{one}" for one in ("a", "b", "add")
    ]
    click(browser, '.head[aria-label="Fold left"]')
    assert len(all_of(browser, ".box")) == 5
    click(browser, '.box[aria-label^="left"]')
    assert len(all_of(browser, ".layer")) == 3  # what was open inside still is
    browser.execute_script("location.hash = 'right/right_cell2/right_cell2_b'")
    browser.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0]))")
    assert len(all_of(browser, ".layer")) == 6
    click(browser, "#open-all")
    frames = [one.rect for one in all_of(browser, ".open > .frame")]
    layers = [one.rect for one in all_of(browser, ".layer > rect, .box > rect:first-of-type")]
    assert (len(frames), len(layers)) == (6, 15)
    assert all(_apart(*pair) for pair in itertools.combinations(layers, 2))
    assert sum(not _apart(*pair) for pair in itertools.combinations(frames, 2)) == 4  # cells, inside their towers
    assert sum(not _apart(frame, layer) for frame in frames for layer in layers) == 2 * 12


def _apart(one: dict[str, float], other: dict[str, float]) -> bool:
    return any(
        one[place] + one[side] <= other[place] + 0.5 or other[place] + other[side] <= one[place] + 0.5
        for place, side in (("x", "width"), ("y", "height"))
    )
