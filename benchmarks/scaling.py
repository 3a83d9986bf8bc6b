"""Cost against size: points, parameters, examples, threads, as log-log plots with their slopes.

The loss surface of a multilayer perceptron 784-h-h-10 on MNIST digits, swept exactly by `sweep(batch="auto")`, warm
(compiled and tuned by calls before). One size is varied at a time about 256 points, h = 128 and 1,024 examples. A slope
of 1 in the log-log plot is cost in proportion to size, 0 no cost at all; it is a least-squares fit over the larger
half of the sizes, with its standard error. The parameters grow as h^2, and so does the arithmetic of the hidden layer,
while that of the first grows as h.

*Threads*: 4,096 trainings of a network of width 16 (`benchmarks/training.py`) where the sweep may use 1, 2, ...
threads. Figure: `.benchmarks/cost.png`, unless `--quick`.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import landscape as ls
from benchmarks import training
from benchmarks._harness import Report, on_threads, settle
from benchmarks.batching import classify, mnist, surface

POINTS, HIDDEN, EXAMPLES = 256, 128, 1024
SIZES = {
    "points": (16, 64, 256, 1024, 4096),
    "hidden units": (32, 64, 128, 256, 512),
    "examples": (64, 256, 1024, 4000),
}
REPEATS = 3
FIGURE = Path(__file__).parents[1] / ".benchmarks" / "cost"


def program(points: int = POINTS, hidden: int = HIDDEN, examples: int = EXAMPLES) -> tuple[Callable[[], Any], int]:
    """A sweep, and how many parameters its network has."""
    init, predict = ls.problems.mlp((784, hidden, hidden, 10), jax.nn.relu)
    data = mnist(examples)
    x = data["x"].reshape(len(data["x"]), -1)
    params = init(jax.random.key(0))
    fn = surface(classify(predict), params, {"x": x, "y": data["y"]})
    grid = ls.Grid.square(1.0, round(points**0.5))
    return lambda: ls.sweep(fn, grid, progress=False), sum(leaf.size for leaf in jax.tree.leaves(params))


def slope(sizes: Any, seconds: Any) -> tuple[float, float]:
    """Of log seconds against log size over the larger half of the sizes, with its standard error."""
    half = min(len(sizes) // 2, max(len(sizes) - 3, 0))  # three sizes at least: two have no standard error
    x, y = np.log(np.asarray(sizes, float)[half:]), np.log(np.asarray(seconds)[half:])
    x = x - x.mean()
    fit = np.sum(x * y) / np.sum(x**2)
    rest = y - y.mean() - fit * x
    return float(fit), float(np.sqrt(np.sum(rest**2) / max(len(x) - 2, 1) / np.sum(x**2)))


def run(report: Report) -> None:
    """Each size, then the threads."""
    measured = {}
    for what, sizes in SIZES.items():
        key = {"points": "points", "hidden units": "hidden", "examples": "examples"}[what]
        measured[what] = vary(report, what, [{key: size} for size in (sizes[:2] if report.quick else sizes)])
    measured["threads"] = threads(report)
    if not report.quick:
        draw(measured)


def vary(report: Report, what: str, settings: list[dict[str, int]]) -> tuple[list[int], list[float]]:
    """Median seconds of a warm sweep at each size."""
    report.section(f"scaling: {what}")
    programs, sizes = {}, []
    for setting in settings:
        (size,) = setting.values()
        fn, parameters = program(**setting)
        label = f"{size:,} {what}" + (f", {parameters:,} parameters" if what == "hidden units" else "")
        programs[label] = fn
        sizes.append(parameters if what == "hidden units" else size)
        settle(fn)
    times = report.compare(programs, repeats=REPEATS)
    seconds = [float(np.median(times.seconds(label))) for label in programs]
    fit, error = slope(sizes, seconds)
    trusted = "" if times.load <= 0.1 else f"   (untrustworthy: other load {times.load:.0%})"
    named = "parameters" if what == "hidden units" else what
    report.note(f"  => seconds grow as {named} to the power {fit:.2f} +- {error:.2f}{trusted}", slope=fit, sem=error)
    return sizes, seconds


def threads(report: Report) -> tuple[list[int], list[float]]:
    """4,096 trainings from as many threads as there are cores, half of them, ..., one."""
    report.section("scaling: threads, 4,096 trainings")
    cores = os.cpu_count() or 1
    counts = sorted({cores // 2**k for k in range(cores.bit_length()) if cores // 2**k})
    steps = 20 if report.quick else 500
    arguments = (*training.data(4096), steps)
    programs = {f"{n} threads": on_threads(n, training.landscape_runs(*arguments)) for n in counts}
    for program in programs.values():
        settle(program)
    times = report.compare(programs, repeats=REPEATS)
    if len(counts) > 1:
        first, last = f"{counts[0]} threads", f"{counts[-1]} threads"
        report.finding(f"{first} / {last}", times, lambda t: t[first] / t[last])
    return counts, [float(np.median(times.seconds(label))) for label in programs]


def draw(measured: dict[str, tuple[list[int], list[float]]]) -> None:
    """One panel for each size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    from landscape import plotting

    labels = {"points": "grid points", "hidden units": "parameters", "examples": "examples", "threads": "threads"}
    with plotting.style("paper"):
        figure, axes = pyplot.subplots(1, len(measured), figsize=(2.1 * len(measured), 2.2), layout="constrained")
        for ax, (what, (sizes, seconds)) in zip(axes, measured.items()):
            ax.loglog(sizes, seconds, "o-", color="#0072b2")
            ax.set_xlabel(labels[what])
            if what == "threads":
                ax.set_title(f"{seconds[0] / seconds[-1]:.2f} times as fast", fontsize="medium")
                ax.set_xticks(sizes, [str(size) for size in sizes], minor=False)
                ax.minorticks_off()
            else:
                fit, error = slope(sizes, seconds)
                ax.set_title(f"slope {fit:.2f} ± {error:.2f}", fontsize="medium")
                ax.xaxis.set_minor_formatter("")
            ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            ax.yaxis.set_major_formatter("{x:g}")
            ax.yaxis.set_minor_formatter("")
        axes[0].set_ylabel("seconds")
        FIGURE.parent.mkdir(exist_ok=True)
        plotting.save_figure(figure, FIGURE, {"Date": time.strftime("%Y-%m-%d")})
    pyplot.close(figure)
