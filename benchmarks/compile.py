"""What a training costs to compile: `train`, `train_many`, `BasinMap` and `fit_bezier` beside loops written by hand.

A tanh network of square layers with 10, 40, 160 and 640 leaves, Adam, 200 steps of the full batch. *plain* is
`jax.jit` of a `lax.scan` that takes the same steps and keeps the loss and the norm of the gradient of each; for
`train_many` it is under `vmap`, and for `fit_bezier` it goes down on one point of a quadratic Bezier curve. Counted
are the CPU seconds of this process from the call of `lower` to the end of `compile`, with nothing traced before.

Target: at most 1.5 times the plain loop, at every number of leaves.
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


def pairs(leaves: int) -> dict[str, tuple[Program, Program]]:
    """By name, our program and the loop by hand, with their arguments."""
    one, net = objective(), network(leaves)
    many = jax.tree.map(lambda x: jnp.stack([x] * RUNS), net)
    numbers, other = jnp.arange(float(RUNS))[:, None], jax.tree.map(lambda x: -x, net)
    options: dict[str, Any] = {"num_steps": STEPS, "record_every": STEPS}
    runs = Runs(objective=one, optimizer=OPTIMIZER, inits=many, num_runs=RUNS, check_every=100, **options)
    line = ls.subspace.line(net, other)
    basins = ls.BasinMap(line, one, OPTIMIZER, STEPS, tol=1e-6)

    def by_hand(params: Any) -> Any:
        return plain(lambda p, _: one(p), params, None)

    def curve(middle: Any) -> Any:
        def loss(bend: Any, t: jax.Array) -> jax.Array:
            mix = lambda a, m, b: (1 - t) ** 2 * a + 2 * t * (1 - t) * m + t**2 * b  # noqa: E731
            return one(jax.tree.map(mix, net, bend, other))

        return plain(loss, middle, jnp.linspace(0, 1, STEPS))

    def fitted(a: Any, b: Any) -> Any:
        return ls.paths.fit_bezier(jax.random.key(0), one, a, b, optimizer=OPTIMIZER, num_steps=STEPS)

    alone, batch = (by_hand, (net,)), (jax.vmap(by_hand), (many,))
    return {
        "train, every step recorded": ((lambda p: ls.train(one, OPTIMIZER, p, num_steps=STEPS), (net,)), alone),
        "train, the ends recorded": ((lambda p: ls.train(one, OPTIMIZER, p, **options), (net,)), alone),
        "train_many": ((jax.vmap(runs), (numbers,)), batch),
        "BasinMap": ((jax.vmap(basins), (numbers,)), batch),
        "fit_bezier": ((fitted, (net, other)), (curve, (net,))),
    }


def seconds(program: Program) -> float:
    """CPU seconds to trace, lower and compile."""
    fn, arguments = program
    jax.clear_caches()
    start = time.process_time()
    jax.jit(lambda *given: fn(*given)).lower(*arguments).compile()
    return time.process_time() - start


def run(report: Report) -> None:
    """The ratios, each of two compilations in turn."""
    report.section(f"compile: {STEPS} steps of Adam on a tanh network, CPU seconds and ratio to a loop by hand")
    seconds(pairs(2)["train, the ends recorded"][1])  # what is loaded once
    for leaves in LEAVES[:1] if report.quick else LEAVES:
        for name, (ours, by_hand) in pairs(leaves).items():
            mine, plain_loop = seconds(ours), seconds(by_hand)
            ratio = mine / plain_loop
            verdict = "met" if ratio <= TARGET else "MISSED"
            report.note(
                f"  {leaves:>4} leaves, {name:<28} {mine:7.2f} s / {plain_loop:6.2f} s = {ratio:5.2f}"
                f"  target <= {TARGET}: {verdict}",
                leaves=leaves, program=name, seconds=mine, plain=plain_loop, ratio=ratio, target=TARGET,
            )  # fmt: skip
