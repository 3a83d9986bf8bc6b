"""How soon a live plane answers: zooms of the plane of the digits network, in headless Chromium, from click to picture.

Targets on two cores: a zoom by 2 shows a first picture within 0.5 s and is finished within 3 s. The page is served by a
process of its own, as to a reader.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks._harness import Report
from benchmarks.page import FLAGS, browser_for

ZOOMS = 6
MODEL = """
import jax, optax
import landscape as ls

def factory():
    problem = ls.problems.digits_mlp(hidden={hidden})
    train, test = problem.objectives["train"], problem.objectives["test"]
    run = ls.train(train, optax.adam(3e-3), problem.init(jax.random.key(0)), num_steps=150)
    directions = ls.subspace.random_directions(jax.random.key(1), run.params)
    directions = ls.subspace.filter_normalize(directions, run.params)
    surface = ls.LossSurface(ls.Subspace(run.params, directions), {{"train": train, "test": test}})
    return surface, ls.Grid.square(1.0, {points})
"""
ANSWERED = "() => document.querySelector('#page').dataset.answered === '1 final'"
# Milliseconds from the click until the page has drawn the first picture of its number, and the last.
ZOOM = """async () => {
    const root = document.querySelector("#page"), number = Number(root.dataset.asked) + 1, start = performance.now();
    const found = {};
    const drawn = new Promise((resolve) => new MutationObserver(() => {
        const [id, stage] = (root.dataset.answered ?? "").split(" ");
        if (Number(id) !== number) return;
        found.first ??= performance.now() - start;
        if (stage !== "coarse") resolve(stage);
    }).observe(root, { attributeFilter: ["data-answered"] }));
    document.querySelector("#zoom-in").click();
    const stage = await drawn;
    return { ...found, last: performance.now() - start, stage };
}"""


def run(report: Report) -> None:
    """Serve the digits network, open its page, and zoom in again and again."""
    points, hidden = (65, (8,)) if report.quick else (129, (128, 128))
    report.section(f"live plane: digits MLP {hidden}, {points} x {points} points, tolerance 0.01")
    if (chromium := browser_for(report)) is None:
        return
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        Path(folder, "model.py").write_text(MODEL.format(hidden=hidden, points=points), encoding="utf-8")
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        try:
            with _served(folder) as address:
                zooms = _zooms(browser.new_page(viewport={"width": 1280, "height": 800}), address)
        finally:
            browser.close()
    first, last = ([zoom[key] / 1000 for zoom in zooms] for key in ("first", "last"))
    median = f"first picture after {statistics.median(first):.2f} s, {max(first):.2f} at most (target 0.5)"
    report.note(f"  zoom by 2: {median}", first=first)
    report.note(f"  finished after {statistics.median(last):.2f} s, {max(last):.2f} at most (target 3)", last=last)


@contextmanager
def _served(folder: str) -> Generator[str]:
    """The address of the model of a folder, served by a process of its own."""
    command = [sys.executable, "-m", "landscape", "serve", "model.py:factory"]
    path = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        command, cwd=folder, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield next(word for line in process.stdout for word in line.split() if word.startswith("http://"))
    finally:
        process.terminate()
        process.wait(30)


def _zooms(page: Any, address: str) -> list[dict[str, Any]]:
    """The first view, which compiles, then zooms about the middle, each once the one before is finished."""
    page.goto(address)
    page.wait_for_function(ANSWERED, timeout=300_000)
    zooms = []
    for _ in range(ZOOMS):
        page.wait_for_timeout(1000)
        zooms.append(page.evaluate(ZOOM))
        if zooms[-1]["stage"] != "final":
            raise RuntimeError(f"a zoom ended with an error: {page.locator('#status').inner_text()}")
    return zooms
