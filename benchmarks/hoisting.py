"""What sharing the linear part buys, and what it costs where there is nothing to share.

The same loss surfaces under three strategies, each at the best of its widths: `lax.map`, plain `vmap`, hoisted
(`affine.affine_vmap`). Programs run in turn; the surfaces must agree before anything is timed.

- *MLP*: 784-128-128-10, ReLU, 1,024 digits at once, and scanned in batches of 64. Targets: hoisted at least 4.5 times
  as fast as `lax.map`; scanned, at least 3 times as fast as plain `vmap`.
- *Nothing to share*: a net whose parameters pass through a non-linearity first. Target: `batch="auto"` no slower than
  auto without the hoisted candidates, to 5 %.
- *Compiling*: the hoisted program against the plain one of the same width. Target: at most twice as long.
"""

import dataclasses
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

import landscape as ls
from benchmarks._harness import Report
from benchmarks.batching import classify, cnn, mlp, sweep_of
from landscape.engine import Kernel, Local, Strategy, forgotten

WIDTHS = (4, 8, 16, 32, 64, 128)
AGREEMENT = 1e-5


def run(report: Report) -> None:
    """Sharing, not sharing, compiling."""
    whole = mlp()
    scanned = dataclasses.replace(whole, objectives=dataclasses.replace(whole.objectives, batch_size=64))
    num = 7 if report.quick else 51
    strategies(report, "MLP, 1,024 digits at once", whole, num, {"lax.map": 1 / 4.5})
    strategies(report, "MLP, scanned in batches of 64", scanned, num, {"vmap": 1 / 3})
    strategies(report, "two convolutions and a dense layer, 64 digits", cnn(), num, {})
    nothing_to_share(report, 7 if report.quick else 101)
    compiling(report, {"MLP": whole, "MLP scanned": scanned, "CNN": cnn()})


def strategies(report: Report, name: str, fn: Any, num: int, targets: dict[str, float]) -> None:
    """One surface: the best width of each strategy, in turn."""
    report.section(f"hoisting: {name}, {num}x{num} points")
    grid = ls.Grid.square(1.0, num)
    kernel = Local(fn, grid, tuple(jax.local_devices())).kernel
    report.note(f"  {kernel.num_hoisted()} contractions are shared")
    chosen = {"lax.map": Strategy(), "vmap": best(fn, grid, False), "hoisted": best(fn, grid, True)}
    for label, strategy in chosen.items():
        report.note(f"  {label}: width {strategy.width}")
    sweeps = {label: at(fn, grid, strategy) for label, strategy in chosen.items()} | {"auto": sweep_of(fn, grid)}
    agree(report, {label: sweep() for label, sweep in sweeps.items()})
    times = report.compare(sweeps, repeats=5)
    for peer in ("lax.map", "vmap"):
        report.finding(f"hoisted / {peer}", times, lambda t, p=peer: t["hoisted"] / t[p], target=targets.get(peer))
    fastest = times.fastest(list(chosen))
    report.finding(f"auto / {fastest}", times, lambda t: t["auto"] / t[fastest], target=1.25)


def best(fn: Any, grid: ls.Grid, hoist: bool) -> Strategy:
    """The fastest width by single timings of each."""
    runner = Local(fn, grid, tuple(jax.local_devices()))
    timings = [runner.timing(Strategy(width, hoist), None, grid.size) for width in WIDTHS if width <= grid.size]
    return min(timings, key=lambda timing: timing.seconds).strategy


def at(fn: Any, grid: ls.Grid, strategy: Strategy) -> Callable[[], Any]:
    """A sweep with this strategy; timing it first is left to `best`."""
    return lambda: ls.sweep(fn, grid, batch=strategy, progress=False)


def agree(report: Report, results: dict[str, Any]) -> None:
    """Stop unless all surfaces are equal to rounding."""
    reference = results["vmap"]["loss"]
    for label, result in results.items():
        worst = float(np.max(np.abs(result["loss"] / reference - 1)))
        report.note(f"  {label} differs from vmap by at most {worst:.1e} relative", differs=worst)
        if not worst <= AGREEMENT:
            raise SystemExit(f"the surfaces differ by more than {AGREEMENT:g}: nothing to compare")


def bent() -> ls.LossSurface:
    """Weights that pass through tanh before they meet the data: nothing is linear in the coordinates."""

    def predict(params: Any, x: jax.Array) -> jax.Array:
        first, second = (jnp.tanh(w) for w in params)
        return jnp.tanh(x @ first) @ second

    keys = jax.random.split(jax.random.key(0), 4)
    params = [jax.random.normal(keys[0], (64, 64)) / 8, jax.random.normal(keys[1], (64, 10)) / 8]
    directions = ls.subspace.random_directions(keys[2], params)
    data = {"x": jax.random.normal(keys[3], (256, 64)), "y": jnp.arange(256) % 10}
    return ls.LossSurface(ls.Subspace(params, directions), ls.Objective(classify(predict), data))


def nothing_to_share(report: Report, num: int) -> None:
    """Auto beside auto without the hoisted candidates, tuning of both included and warm."""
    report.section(f"hoisting: nothing to share, {num}x{num} points")
    fn, grid = bent(), ls.Grid.square(1.0, num)

    def tuned(candidates: bool) -> Callable[[], Any]:
        def sweep() -> Any:
            with mock.patch.object(Kernel, "num_hoisted", without(candidates)), forgotten():
                return ls.sweep(fn, grid, progress=False)

        return sweep

    contenders = {"auto": tuned(True), "auto without hoisting": tuned(False)}
    for sweep in contenders.values():
        sweep()
    times = report.compare(contenders, repeats=5)
    ratio = "auto / auto without hoisting"
    report.finding(ratio, times, lambda t: t["auto"] / t["auto without hoisting"], target=1.05)


def without(candidates: bool) -> Callable[[Any], int]:
    """The true count of shared contractions, or none."""
    count = Kernel.num_hoisted
    return (lambda kernel: count(kernel)) if candidates else (lambda kernel: 0)


def compiling(report: Report, surfaces: dict[str, Any]) -> None:
    """Tracing, lowering and compiling at width 16, with nothing remembered."""
    report.section("hoisting: compile time at width 16")
    for name, fn in surfaces.items():
        times = report.compare({label: compiled(fn, hoist) for label, hoist in (("vmap", False), ("hoisted", True))}, 3)
        report.finding(f"{name}: hoisted / vmap", times, lambda t: t["hoisted"] / t["vmap"], target=2.0)


def compiled(fn: Any, hoist: bool) -> Callable[[], Any]:
    """Compile anew."""

    def work() -> Any:
        jax.clear_caches()
        kernel = Kernel.build(fn, 2, jax.local_devices()[:1])
        return kernel.using(Strategy(16, hoist)).program

    return work
