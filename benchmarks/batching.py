"""Does `batch="auto"` find the strategy? Whole sweeps at its choice beside the same sweeps at fixed strategies.

Three point functions that want different widths on a CPU: a multilayer perceptron (784-128-128-10 on 1,024
examples), a convolutional net (vmap over its kernels becomes a grouped convolution) and a net of 16 hidden units.
Target: the sweep at auto's choice takes at most 1.25 times that at the best fixed width. What the tuning itself
costs is paid once per function and process, and is stated apart.

A fixed strategy is a width, plain or hoisted. It runs through the same code as auto's choice, with the tuner's answer
put in its place: `batch=16` would time that width first, which auto, once tuned, does not. The best strategy is chosen
by its median in the same rounds, so the ratio is rather too high than too low.
"""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

import landscape as ls
from benchmarks._harness import Report
from landscape.engine import Local, Strategy, Timing, default_memory, forgotten, measure

TARGET = 1.25
WIDTHS = (1, 4, 16, 64, 256, 1024, 4096)
SWEEP_SECONDS = 2.0  # about, at auto's choice
SIDES = (24, 1500)  # fewest and most points along an axis
SLOWEST = 10.0  # a width that needs so many times as long as auto's choice is swept with once only


def surface(loss_fn: Callable[..., Any], params: Any, data: Any) -> ls.LossSurface:
    """A loss surface over a filter-normalised plane."""
    directions = ls.subspace.random_directions(jax.random.key(1), params)
    plane = ls.Subspace(params, ls.subspace.filter_normalize(directions, params, filter_axis=-1))
    return ls.LossSurface(plane, ls.Objective(loss_fn, data))


def classify(predict: Callable[..., Any]) -> Callable[..., Any]:
    """Cross-entropy of each example."""
    return lambda params, batch: optax.losses.softmax_cross_entropy_with_integer_labels(
        predict(params, batch["x"]), batch["y"]
    )


def mnist(count: int) -> dict[str, jax.Array]:
    train, _ = ls.problems.mnist5k()
    return {key: jnp.asarray(values[:count]) for key, values in train.items()}


def mlp() -> ls.LossSurface:
    """784-128-128-10, ReLU, 1,024 MNIST digits."""
    init, predict = ls.problems.mlp((784, 128, 128, 10), jax.nn.relu)
    data = mnist(1024)
    return surface(classify(predict), init(jax.random.key(0)), {"x": data["x"].reshape(1024, -1), "y": data["y"]})


def cnn() -> ls.LossSurface:
    """Two 3x3 convolutions (8 and 16 channels, each with 2x2 mean pooling) and a dense layer, 64 MNIST digits."""

    def layer(x: jax.Array, kernel: jax.Array) -> jax.Array:
        x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jax.lax.reduce_window(jax.nn.relu(x), 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4

    def predict(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        x = layer(layer(x, params["first"]), params["second"])
        return x.reshape(len(x), -1) @ params["dense"]

    shapes = {"first": (3, 3, 1, 8), "second": (3, 3, 8, 16), "dense": (7 * 7 * 16, 10)}
    keys = jax.random.split(jax.random.key(0), len(shapes))
    params = {n: jax.random.normal(k, s) / np.sqrt(np.prod(s[:-1]) / 2) for k, (n, s) in zip(keys, shapes.items())}
    return surface(classify(predict), params, mnist(64))


def small() -> ls.LossSurface:
    """2-16-1, tanh, squared error on 16 points."""
    init, predict = ls.problems.mlp((2, 16, 1))

    def squared(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
        return (predict(params, batch["x"])[:, 0] - batch["y"]) ** 2

    x = jax.random.normal(jax.random.key(2), (16, 2))
    return surface(squared, init(jax.random.key(0)), {"x": x, "y": jnp.sign(x[:, 0] * x[:, 1])})


@dataclass(frozen=True)
class Tuning:
    """What the tuner chose, what it tried, and what that took."""

    choice: Timing
    tried: list[Timing]
    seconds: float
    compiling: float


_COMPILING: list[float] = []


def note_compiling(event: str, seconds: float, **_: Any) -> None:
    """JAX calls this after tracing, lowering or compiling something."""
    if event.startswith("/jax/core/compile/"):
        _COMPILING.append(seconds)


def local(fn: Any, grid: ls.Grid) -> Local:
    """What the engine runs a sweep with."""
    return Local(fn, grid, tuple(jax.local_devices()))


def tune(fn: Any, grid: ls.Grid) -> Tuning:
    """Tune as the first sweep would, with nothing compiled, and remember the choice for the sweeps to come."""
    jax.clear_caches()
    runner, tried = local(fn, grid), []

    def recorded(*args: Any) -> Timing:
        tried.append(measure(*args))
        return tried[-1]

    _COMPILING.clear()
    start = time.perf_counter()
    with mock.patch("landscape.engine._tuning.measure", recorded):
        choice = runner.timing("auto", None, grid.size)
    return Tuning(choice, tried, time.perf_counter() - start, sum(_COMPILING))


def pilot(fn: Any, seconds: float) -> ls.Grid:
    """As many points as a sweep takes about `seconds` for."""
    side = SIDES[0]
    while side < SIDES[1]:
        sweep = sweep_of(fn, ls.Grid.square(1.0, side))
        sweep()
        share = seconds / clock(sweep)
        if share < 2:
            break
        side = min(SIDES[1], int(side * np.sqrt(min(share, 64))))
    return ls.Grid.square(1.0, side)


def clock(fn: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    fn()
    return time.perf_counter() - start


def sweep_of(fn: Any, grid: ls.Grid) -> Callable[[], Any]:
    """A sweep, as a user calls it."""
    return lambda: ls.sweep(fn, grid, progress=False)


def fixed_timing(fn: Any, strategy: Strategy, grid: ls.Grid) -> Timing | str:
    """The timing of a strategy, or why there is none."""
    runner = local(fn, grid)
    if strategy.width > min(runner.kernel.capacity, grid.size):
        return "wider than the grid" if strategy.width > grid.size else "wider than a buffer"
    memory = runner.kernel.using(strategy).program.memory_analysis()
    temporaries = getattr(memory, "temp_size_in_bytes", 0)
    if temporaries > default_memory(jax.local_devices()[0]):
        return f"needs {temporaries / 2**30:.1f} GiB"
    return runner.timing(strategy, None, grid.size)


def sweep_at(fn: Any, grid: ls.Grid, timing: Timing) -> Callable[[], Any]:
    """A sweep for which the tuner says `timing`."""
    sweep = sweep_of(fn, grid)

    def told() -> Any:
        with mock.patch("landscape.engine._runners.tune", return_value=timing):
            return sweep()

    return told


def run(report: Report) -> None:
    """All three functions."""
    report.section('batching: batch="auto" beside fixed widths')
    jax.monitoring.register_event_duration_secs_listener(note_compiling)
    for fn in (mlp, cnn, small):
        with forgotten():
            compare(report, str(fn.__doc__), fn())


def compare(report: Report, name: str, fn: ls.LossSurface) -> None:
    """One function: tune, then sweep at each width in turn."""
    grid = pilot(fn, SWEEP_SECONDS / 30 if report.quick else SWEEP_SECONDS)
    report.section(f"{name} {grid.size:,} points")
    with forgotten():
        tuning = report.once("tuning, compiling included", lambda: tune(fn, grid))
        describe(report, tuning)
        contenders = {"auto": sweep_of(fn, grid)}
        contenders |= fixed(report, fn, grid)
        times = report.compare(contenders, repeats=5)
    best = times.fastest([name for name in contenders if name != "auto"])
    report.note(f"  best fixed: {best}; auto chose {title(tuning.choice.strategy)}", best=best)
    report.finding(f"auto / {best}", times, lambda t: t["auto"] / t[best], target=TARGET)


def describe(report: Report, tuning: Tuning) -> None:
    """What was tried."""
    rows = ", ".join(f"{title(t.strategy)}: {1e6 * t.seconds:,.2f}" for t in tuning.tried)
    report.note(f"  tried (us a point) {rows}", tried=[dataclasses.asdict(t) for t in tuning.tried])
    report.note(
        f"  tuning {tuning.seconds:.2f} s, of which {tuning.compiling:.2f} s tracing and compiling; "
        f"auto chose {title(tuning.choice.strategy)}",
        tuning_seconds=tuning.seconds,
        compile_seconds=tuning.compiling,
    )


def title(strategy: Strategy) -> str:
    """How the tables name a strategy."""
    return f"{'hoisted' if strategy.hoist else 'width'} {strategy.width}"


def fixed(report: Report, fn: Any, grid: ls.Grid) -> dict[str, Callable[[], Any]]:
    """Sweeps at the fixed strategies that are worth repeating; all are compiled afterwards."""
    limit = SLOWEST * clock(sweep_of(fn, grid))
    widths = (1, 16, 64) if report.quick else WIDTHS
    shares = local(fn, grid).kernel.num_hoisted() > 0
    strategies = [Strategy(w, hoist) for w in widths for hoist in (False, True)[: 1 + (shares and w > 1)]]
    sweeps = {}
    for strategy in strategies:
        timing = fixed_timing(fn, strategy, grid)
        if isinstance(timing, str):
            report.note(f"  {title(strategy)} left out: {timing}")
            continue
        sweep = sweep_at(fn, grid, timing)
        seconds = clock(sweep)
        if seconds > limit:
            note = f"  {title(strategy)} left out: {seconds:.1f} s, more than {SLOWEST:g} times auto's"
            report.note(note, seconds=seconds)
        else:
            sweeps[title(strategy)] = sweep
    return sweeps
