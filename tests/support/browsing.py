"""Real Chromium, and what its tests ask of a page."""

from collections.abc import Callable

import keras
from applications import application
from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from small_models import narrow, transformer, uneven

Open = Callable[..., webdriver.Chrome]
"""Writes a page with the options of `plot`, and opens it."""


def towers() -> keras.Model:
    """Two towers side by side that meet: cuts that are not nested, and inputs of both."""
    dense, (a, b) = keras.layers.Dense, (keras.Input((8,), name=name) for name in "ab")
    x = dense(16, name="a2")(dense(32, name="a1")(a))
    y = dense(4, name="b2")(dense(64, name="b1")(b))
    both = keras.layers.Concatenate(name="both")([x, y])
    return keras.Model([a, b], dense(3, name="end")(dense(30, name="middle")(both)), name="towers")


MODELS: dict[str, Callable[[], keras.Model]] = {
    "MobileNetV2": lambda: application("MobileNetV2"),
    "uneven": uneven,
    "towers": towers,
    "transformer": lambda: transformer(narrow),
    "late input": lambda: transformer(narrow, late=True),
}


def all_of(browser: webdriver.Chrome, selector: str) -> list[WebElement]:
    return browser.find_elements(By.CSS_SELECTOR, selector)


def one_of(browser: webdriver.Chrome, selector: str) -> WebElement:
    return browser.find_element(By.CSS_SELECTOR, selector)


def click(browser: webdriver.Chrome, selector: str) -> None:
    ActionChains(browser).move_to_element(one_of(browser, selector)).click().perform()


def crossing(browser: webdriver.Chrome) -> set[int]:
    """The tensors whose lines are lit."""
    found = all_of(browser, ".line.crossing")
    return {int(str(one.get_attribute("data-tensor"))) for one in found}
