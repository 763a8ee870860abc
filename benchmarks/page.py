"""Pages to explore: the size of the file, the first paint, and the time of a frame while the graph moves.

    python benchmarks/page.py [--rounds 5] [--models MobileNetV2 chain]

Headless Chromium measures: paint and load times of the page by its performance timeline, frames by its tracing, as the
times from one drawn frame to the next while an arrow key moves the graph in each. `chain` is 714 transformer blocks of
7 calls. Needs `chromium` or `google-chrome`, `chromedriver` and selenium.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.request import urlopen

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import websocket
from rich.console import Console
from rich.table import Table
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

import kerassplit as ks

MODELS = ("MobileNetV2", "ResNet50", "NASNetLarge", "EfficientNetV2L", "chain")
FRAMES = 60

OPENED = """const done = arguments[0];
new PerformanceObserver((found) => {
  const [paint] = found.getEntriesByName("first-contentful-paint");
  if (paint) done([paint.startTime, performance.getEntriesByType("navigation")[0].loadEventEnd]);
}).observe({ type: "paint", buffered: true });"""
MOVED = """const [frames, done] = arguments;
let count = 0;
const step = () => {
  const key = count % 20 < 10 ? "ArrowDown" : "ArrowUp";
  document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  count += 1;
  if (count <= frames) requestAnimationFrame(step);
  else {
    performance.mark("moved");
    setTimeout(done, 200);
  }
};
performance.mark("move");
requestAnimationFrame(step);"""
TRACED = ["devtools.timeline.frame", "disabled-by-default-devtools.timeline.frame", "blink.user_timing"]
OPEN_ALL = """const done = arguments[0], start = performance.now();
document.getElementById("open-all").click();
requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)));"""


def chain(blocks: int = 714) -> keras.Model:
    """A chain of transformer blocks of 7 calls each."""
    layers = keras.layers
    x = inputs = keras.Input((16, 8), name="x")
    for number in range(blocks):
        y = layers.LayerNormalization(name=f"block{number}_norm1")(x)
        y = layers.MultiHeadAttention(1, 4, name=f"block{number}_attention")(y, y)
        x = layers.Add(name=f"block{number}_add1")([x, y])
        y = layers.LayerNormalization(name=f"block{number}_norm2")(x)
        y = layers.Dense(8, activation="gelu", name=f"block{number}_up")(y)
        y = layers.Dense(8, name=f"block{number}_down")(y)
        x = layers.Add(name=f"block{number}_add2")([x, y])
    return keras.Model(inputs, x, name="chain")


def new_browser() -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("google-chrome") or shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,900"):
        options.add_argument(argument)
    return webdriver.Chrome(options, Service(shutil.which("chromedriver")))


def frames(browser: webdriver.Chrome) -> tuple[str, str]:
    """The median and the 95th percentile of the times from frame to frame while the graph moves, in ms."""
    with urlopen(f"http://{browser.capabilities['goog:chromeOptions']['debuggerAddress']}/json/version") as answer:
        address = json.load(answer)["webSocketDebuggerUrl"]
    socket = websocket.create_connection(address, suppress_origin=True, timeout=60)
    config = {"includedCategories": TRACED}
    for _ in asked(socket, "Tracing.start", "id", traceConfig=config, transferMode="ReportEvents"):
        pass
    browser.execute_async_script(MOVED, FRAMES)
    found = [one for reply in asked(socket, "Tracing.end", "Tracing.tracingComplete") for one in reply.get("value", ())]
    socket.close()
    start, end = (next(one["ts"] for one in found if one["name"] == name) for name in ("move", "moved"))
    drawn = sorted(one["ts"] / 1000 for one in found if one["name"] == "DrawFrame" and start <= one["ts"] <= end)
    times = sorted(later - earlier for earlier, later in pairwise(drawn))
    return f"{statistics.median(times):.0f}", f"{times[int(0.95 * len(times))]:.0f}"


def asked(socket: websocket.WebSocket, method: str, last: str, **parameters: object) -> Iterator[dict[str, Any]]:
    """Sends a command to the browser and yields what it reports, until the reply with `last` comes."""
    socket.send(json.dumps({"id": 1, "method": method, "params": parameters}))
    while True:
        reply = json.loads(socket.recv())
        if "error" in reply:
            raise RuntimeError(reply["error"]["message"])
        yield reply.get("params", {})
        if last == reply.get("method") or last in reply:
            return


def row_of(name: str, browser: webdriver.Chrome, folder: Path, rounds: int) -> list[str]:
    model = chain() if name == "chain" else getattr(keras.applications, name)(weights=None)
    page = folder / f"{name}.html"
    start = time.perf_counter()
    ks.plot(model, page, title=name)
    written = time.perf_counter() - start
    loads = []
    for _ in range(rounds):
        browser.get("about:blank")
        browser.get(page.as_uri())
        loads.append(browser.execute_async_script(OPENED))
    paint, loaded = (statistics.median(times) for times in zip(*loads, strict=True))
    folded = frames(browser)
    opened = browser.execute_async_script(OPEN_ALL)
    figures = [f"{written:.1f}", f"{page.stat().st_size / 1e6:.2f}", f"{paint:.0f}", f"{loaded:.0f}", *folded]
    return [name, f"{len(ks.profile(model).calls):,}", *figures, f"{opened:.0f}", *frames(browser)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often each page is opened")
    parser.add_argument("--models", nargs="*", default=MODELS, help="architectures, or chain")
    options = parser.parse_args()
    sys.setrecursionlimit(1_000_000)  # for Keras, which recurses; kerassplit does not need it
    table = Table("page of", title="Pages to explore, in headless Chromium")
    for heading in ("calls", "written s", "MB", "first paint ms", "loaded ms", "frame ms", "95 %"):
        table.add_column(heading, justify="right")
    for heading in ("all opened ms", "frame ms", "95 %"):
        table.add_column(heading, justify="right")
    browser = new_browser()
    version = browser.capabilities["browserVersion"]
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            table.add_row(*row_of(name, browser, Path(folder), options.rounds))
            keras.utils.clear_session()
    browser.quit()
    Console(width=140).print(table, f"Chromium {version}; medians of {options.rounds} loads, {FRAMES} frames.")


if __name__ == "__main__":
    main()
