"""How large and how quick a page is: 1025 x 1025 points with four outputs, in headless Chromium.

Targets: at most 20 MB beyond plotly.js, the first picture within 5 s, another output within 1 s, the value under the
pointer within 50 ms, and ten frames a second of the turning surface in software rendering.
"""

import importlib.util
import os
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._harness import Report

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
SWITCH = """async name => {
    const root = document.querySelector("#page"), before = root.dataset.drawn, start = performance.now();
    const select = document.querySelector("#choose-output");
    select.value = name;
    select.dispatchEvent(new Event("change"));
    while (root.dataset.drawn === before) await new Promise(requestAnimationFrame);
    await new Promise(requestAnimationFrame);
    return performance.now() - start;
}"""
HOVER = """async share => {
    const svg = document.querySelector(".plot > svg");
    const box = document.querySelector(".plot canvas").getBoundingClientRect();
    const read = () => document.querySelector("#coord-0").textContent + document.querySelector("#value-0").textContent;
    const before = read(), start = performance.now();
    const at = { clientX: box.left + share * box.width, clientY: box.top + share * box.height };
    svg.dispatchEvent(new PointerEvent("pointermove", at));
    while (read() === before) await new Promise(requestAnimationFrame);
    return performance.now() - start;
}"""
COUNT = """() => { window.frames_seen = 0;
    const next = () => { window.frames_seen++; requestAnimationFrame(next); }; requestAnimationFrame(next); }"""


def run(report: Report) -> None:
    """Write the page, open it, and time what a reader does."""
    report.section("page: 1025 x 1025 points, 4 outputs")
    if (chromium := browser_for(report)) is None:
        return
    from playwright.sync_api import sync_playwright
    from plotly.offline import get_plotlyjs

    html = _page(65 if report.quick else 1025)
    size = (len(html.encode()) - len(get_plotlyjs().encode())) / 1e6
    report.note(f"  {size:.1f} MB beyond plotly.js (target 20)", megabytes=size)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder) / "page.html"
        file.write_text(html, encoding="utf-8")
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        try:
            _measure(report, browser.new_page(viewport={"width": 1400, "height": 900}), file.as_uri())
        finally:
            browser.close()


def browser_for(report: Report) -> str | None:
    """The path of a browser that pages can be measured in; says so where there is none."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    missing = [name for name in ("playwright", "plotly", "aiohttp") if importlib.util.find_spec(name) is None]
    if missing or chromium is None:
        report.note(f"  not measured: {' and '.join(missing) or 'chromium'} is not installed")
        return None
    return chromium


def _page(num: int) -> str:
    """A page of four outputs that compress as losses do: smooth, with the rounding of float32 sums."""
    import landscape as ls

    grid = ls.Grid.square(1.5, num)
    x, y = np.meshgrid(*(axis.values for axis in grid.axes), indexing="ij")
    noise = np.random.default_rng(5)

    def output(shift: float) -> np.ndarray:
        loss = 0.2 + np.log1p(np.exp(3 * x + shift)) + (y - 0.3 * x) ** 2 + 0.1 * np.sin(9 * x * y + shift)
        return (loss * (1 + 6e-8 * noise.normal(size=grid.shape))).astype(np.float32)

    values = {name: output(0.2 * i) for i, name in enumerate(("train_loss", "test_loss", "train_norm", "test_norm"))}
    return ls.view.page(ls.Landscape(grid, values, np.ones(grid.shape, dtype=bool)))


def _measure(report: Report, page: Any, url: str) -> None:
    page.goto(url)
    page.wait_for_selector("#page[data-drawn]", timeout=120_000)
    page.wait_for_function("performance.getEntriesByName('landscape drawn').length")
    first = page.evaluate("performance.getEntriesByName('landscape drawn')[0].startTime") / 1000
    report.note(f"  first picture after {first:.2f} s (target 5)", first_picture=first)
    page.wait_for_selector("#page[data-complete]", timeout=120_000)
    page.wait_for_timeout(2000)
    switch = [page.evaluate(SWITCH, name) / 1000 for name in ("test_loss", "train_norm", "train_loss", "test_norm")]
    page.wait_for_timeout(3000)
    report.note(f"  another output after {max(switch):.2f} s at most (target 1)", switch=switch)
    hover = [page.evaluate(HOVER, 0.1 + 0.03 * i) for i in range(20)]
    median, slowest = statistics.median(hover), max(hover)
    report.note(f"  value under the pointer after {median:.0f} ms, {slowest:.0f} at most (target 50)", hover=hover)
    frames = _frames(page)
    report.note(f"  {frames:.0f} frames a second of the turning surface (target 10)", frames=frames)


def _frames(page: Any, seconds: float = 3.0) -> float:
    """Frames a second while the surface is turned by dragging."""
    import time

    page.locator(".surface").scroll_into_view_if_needed()
    page.wait_for_selector(".surface canvas", timeout=120_000)
    page.wait_for_timeout(3000)
    box = page.locator(".surface .chart").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.evaluate(COUNT)
    start, step = time.perf_counter(), 0
    while (now := time.perf_counter() - start) < seconds:
        step += 1
        page.mouse.move(x + 80 * np.sin(step / 9), y + 30 * np.sin(step / 13))
    frames = page.evaluate("window.frames_seen")
    page.mouse.up()
    return frames / now
