"""What a training costs to compile: `train`, `train_many`, `BasinMap` and `fit_bezier` beside loops written by hand.

A tanh network of square layers with 10, 40, 160 and 640 leaves, Adam, 200 steps of the full batch. *plain* is
`jax.jit` of a `lax.scan` that takes the same steps and keeps the loss and the norm of the gradient of each; for
`train_many` it is under `vmap`, and for `fit_bezier` it goes down on one point of a quadratic Bezier curve. Counted
are the CPU seconds of this process from the call of `lower` to the end of `compile`, with nothing traced before.

Each function is a part of its own: `python -m benchmarks compile:train_many`. Target: at most 1.5 times the plain loop,
at every number of leaves.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import landscape as ls
from benchmarks._harness import Report
from landscape.training import Runs

LEAVES, WIDTH, STEPS, RUNS, TARGET = (10, 40, 160, 640), 8, 200, 4, 1.5
OPTIMIZER = optax.adam(1e-2)

Program = tuple[Callable[..., Any], tuple[Any, ...]]


def network(leaves: int) -> list[dict[str, jax.Array]]:
    """Weights and biases of `leaves / 2` square layers."""
    draw = np.random.default_rng(0).normal
    scale = WIDTH**-0.5
    shape = (WIDTH, WIDTH)
    return [{"w": jnp.asarray(scale * draw(size=shape)), "b": jnp.zeros(WIDTH)} for _ in range(leaves // 2)]


def objective() -> ls.Objective:
    """The mean square of the outputs for 32 inputs."""

    def loss(layers: Any, x: jax.Array) -> jax.Array:
        for layer in layers:
            x = jnp.tanh(x @ layer["w"] + layer["b"])
        return jnp.sum(x**2, axis=-1)

    return ls.Objective(loss, jnp.asarray(np.random.default_rng(1).normal(size=(32, WIDTH))))


def plain(loss: Callable[..., Any], start: Any, sources: Any) -> Any:
    """The loop by hand; `sources` is what `loss` takes besides the parameters, one row a step."""

    def step(carry: Any, source: Any) -> Any:
        params, memory = carry
        value, gradient = jax.value_and_grad(loss)(params, source)
        updates, memory = OPTIMIZER.update(gradient, memory, params)
        return (optax.apply_updates(params, updates), memory), (value, optax.tree.norm(gradient))

    with jax.default_matmul_precision("highest"):
        return jax.lax.scan(step, (start, OPTIMIZER.init(start)), sources, length=STEPS)


def options() -> dict[str, Any]:
    return {"num_steps": STEPS, "record_every": STEPS}


def by_hand(params: Any) -> Any:
    """What `train` does, for one start."""
    return plain(lambda p, _: objective()(p), params, None)


def stacked(leaves: int) -> Any:
    """As many starts as there are runs."""
    return jax.tree.map(lambda x: jnp.stack([x] * RUNS), network(leaves))


def train(report: Report) -> None:
    """One run, every step recorded and the ends alone."""
    one = objective()
    every = {"every step": {"num_steps": STEPS}, "the ends": options()}
    for kept, given in every.items():
        ours = lambda p, given=given: ls.train(one, OPTIMIZER, p, **given)  # noqa: E731
        compare(
            report, f"train, {kept} recorded", lambda n, ours=ours: ((ours, (network(n),)), (by_hand, (network(n),)))
        )


def train_many(report: Report) -> None:
    """Four runs, the ends recorded."""

    def pair(leaves: int) -> tuple[Program, Program]:
        many = stacked(leaves)
        runs = Runs(objective=objective(), optimizer=OPTIMIZER, inits=many, num_runs=RUNS, check_every=100, **options())
        return (jax.vmap(runs), (jnp.arange(float(RUNS))[:, None],)), (jax.vmap(by_hand), (many,))

    compare(report, "train_many", pair)


def basin_map(report: Report) -> None:
    """Four points of a line, with a tolerance."""

    def pair(leaves: int) -> tuple[Program, Program]:
        net = network(leaves)
        line = ls.subspace.line(net, jax.tree.map(lambda x: -x, net))
        basins = ls.BasinMap(line, objective(), OPTIMIZER, STEPS, tol=1e-6)
        return (jax.vmap(basins), (jnp.arange(float(RUNS))[:, None],)), (jax.vmap(by_hand), (stacked(leaves),))

    compare(report, "BasinMap", pair)


def fit_bezier(report: Report) -> None:
    """A quadratic curve, one position a step."""

    def pair(leaves: int) -> tuple[Program, Program]:
        one, net = objective(), network(leaves)
        other = jax.tree.map(lambda x: -x, net)

        def curve(middle: Any) -> Any:
            def loss(bend: Any, t: jax.Array) -> jax.Array:
                mix = lambda a, m, b: (1 - t) ** 2 * a + 2 * t * (1 - t) * m + t**2 * b  # noqa: E731
                return one(jax.tree.map(mix, net, bend, other))

            return plain(loss, middle, jnp.linspace(0, 1, STEPS))

        def fitted(a: Any, b: Any) -> Any:
            return ls.paths.fit_bezier(jax.random.key(0), one, a, b, optimizer=OPTIMIZER, num_steps=STEPS)

        return (fitted, (net, other)), (curve, (net,))

    compare(report, "fit_bezier", pair)


def seconds(program: Program) -> float:
    """CPU seconds to trace, lower and compile."""
    fn, arguments = program
    jax.clear_caches()
    start = time.process_time()
    jax.jit(lambda *given: fn(*given)).lower(*arguments).compile()
    return time.process_time() - start


def compare(report: Report, name: str, pair: Callable[[int], tuple[Program, Program]]) -> None:
    """The ratio at each number of leaves, of the least of two compilations of each program in turn."""
    seconds((by_hand, (network(2),)))  # what is loaded once
    for leaves in LEAVES[:1] if report.quick else LEAVES:
        programs = pair(leaves)
        rounds = [[seconds(program) for program in programs] for _ in range(1 if report.quick else 2)]
        mine, plain_loop = map(min, zip(*rounds))
        ratio = mine / plain_loop
        verdict = "met" if ratio <= TARGET else "MISSED"
        report.note(
            f"  {leaves:>4} leaves, {name:<28} {mine:7.2f} s / {plain_loop:6.2f} s = {ratio:5.2f}"
            f"  target <= {TARGET}: {verdict}",
            leaves=leaves, program=name, seconds=mine, plain=plain_loop, ratio=ratio, target=TARGET,
        )  # fmt: skip


PARTS = (train, train_many, basin_map, fit_bezier)


def run(report: Report) -> None:
    """All parts."""
    report.section(f"compile: {STEPS} steps of Adam on a tanh network, CPU seconds and ratio to a loop by hand")
    for part in PARTS:
        part(report)
