"""Retakes the screenshot of the page: `python docs/pictures/screenshot.py` (needs Chromium and selenium)."""

import shutil
import tempfile
from pathlib import Path

import keras
from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.chrome.service import Service

import kerassplit as ks

if __name__ == "__main__":
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("google-chrome") or shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--window-size=1280,860"):
        options.add_argument(argument)
    driver = Service(shutil.which("chromedriver"))
    with tempfile.TemporaryDirectory() as folder, webdriver.Chrome(options, driver) as browser:
        page = Path(folder) / "mobilenet.html"
        ks.plot(keras.applications.MobileNetV2(weights=None), page, title="MobileNetV2")
        browser.get(f"{page.as_uri()}#block_7_expand_relu")
        ActionChains(browser).pause(0.5).perform()  # until it is drawn
        browser.save_screenshot(str(Path(__file__).with_name("mobilenetv2_page.png")))
