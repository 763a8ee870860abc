"""Real Chromium for the tests of pages."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import Open
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

import kerassplit as ks


@pytest.fixture(scope="session")
def chromium() -> Iterator[webdriver.Chrome]:
    program, driver = shutil.which("google-chrome") or shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        missing = pytest.fail if os.environ.get("CI") else pytest.skip
        missing("the page takes Chromium and its driver, and this machine has none")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1300,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(driver))
    yield browser
    browser.quit()


@pytest.fixture
def page(chromium: webdriver.Chrome, tmp_path: Path) -> Iterator[Open]:
    """Writes a page and opens it; in the end, nothing was logged and nothing but the page was requested."""
    chromium.get_log("performance")

    def opened(model: Any, tensor: str = "", **options: Any) -> webdriver.Chrome:
        ks.plot(model, tmp_path / "page.html", **options)
        chromium.get("about:blank")
        chromium.get(f"{(tmp_path / 'page.html').as_uri()}#{tensor}")
        return chromium

    yield opened
    assert chromium.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in chromium.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert {one.partition("#")[0] for one in asked} <= {(tmp_path / "page.html").as_uri(), "about:blank", "data:,"}
