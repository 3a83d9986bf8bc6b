"""Thousands of tiny networks trained side by side: `train_many` beside a plain scan, torch.func and a compiled bmm.

4,096 networks of two layers without bias, width 16, tanh, in mean-field scaling (Sohl-Dickstein 2024), on 16 random
data points of dimension 16, 500 steps of full-batch gradient descent each, float32, all from the same starts:

- *landscape*: `train_many(objective, optax.sgd(rate), starts)`, with its checks for divergence and `batch="auto"`.
- *landscape, one thread*: the same where a sweep may use one thread. XLA runs such a program on one core.
- *jax scan*: `jax.jit(jax.vmap(..))` of a `lax.scan` over the same steps, with nothing else in it.
- *torch.func*: a Python loop over `vmap(grad(loss))`.
- *torch.compile bmm*: a Python loop over a compiled step with gradients written by hand as batched matrix products.

The losses at the end must agree to 1e-4 relative before anything is timed. All use all cores and are warm: compiled by
a first call, and in our case tuned by as many as the search for a width takes, which spends no more than the calls do.
Targets, as shares of seconds: at most 1 / 1.6 s for a million steps of one network, 1/4 of torch.func, 1/1.3 of the
compiled bmm.

Before that, the programs are laid side by side: what one step of the innermost loop executes in `train_many` and in
the plain scan. The two are the same when the checks cost nothing.
"""

import collections
import os
import re
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import landscape as ls
from benchmarks._harness import Report, Times, on_threads, settle
from landscape.engine import choices
from landscape.training import Runs

AGREEMENT = 1e-4
WIDTH, NUM_POINTS, RATE = 16, 16, 0.7
NAMES = ("landscape", "landscape, one thread", "jax scan", "torch.func", "torch.compile bmm")
MILLION_STEPS, OVER_FUNC, OVER_BMM = 1 / 1.6, 1 / 4, 1 / 1.3
HOUSEKEEPING = {"parameter", "get-tuple-element", "tuple", "constant", "bitcast"}

Arrays = dict[str, np.ndarray]


def data(num_nets: int) -> tuple[Arrays, np.ndarray, np.ndarray]:
    """Starts of all networks, inputs and targets, all standard normal."""
    rng = np.random.default_rng(0)
    shapes = ((num_nets, WIDTH, WIDTH), (num_nets, WIDTH, 1), (NUM_POINTS, WIDTH), (NUM_POINTS, 1))
    first, second, x, y = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    return {"first": first, "second": second}, x, y


def predict(p: Any, x: Any, tanh: Callable[[Any], Any]) -> Any:
    """Mean-field scaling: each layer's input divided by the root of its width, the output once more."""
    return tanh(x @ p["first"] * (2 / WIDTH) ** 0.5) @ p["second"] / WIDTH


def point_function(starts: Arrays, x: np.ndarray, y: np.ndarray, num_steps: int) -> Runs:
    """What `train_many` evaluates."""
    return Runs(**_arguments(starts, x, y, num_steps), num_runs=len(starts["first"]), record_every=num_steps,
                check_every=ls.training.CHECK_EVERY)  # fmt: skip


def _arguments(starts: Arrays, x: np.ndarray, y: np.ndarray, num_steps: int) -> dict[str, Any]:
    def squared_error(p: Any, batch: Any) -> jax.Array:
        return (predict(p, batch[0], jnp.tanh) - batch[1])[:, 0] ** 2

    objective = ls.Objective(squared_error, (jnp.asarray(x), jnp.asarray(y)))
    inits = jax.tree.map(jnp.asarray, starts)
    return {"objective": objective, "optimizer": optax.sgd(RATE), "inits": inits, "num_steps": num_steps}


def landscape_runs(starts: Arrays, x: np.ndarray, y: np.ndarray, num_steps: int) -> Callable[[], np.ndarray]:
    """As a user calls it; the losses at the end."""
    arguments = _arguments(starts, x, y, num_steps)
    return lambda: ls.train_many(**arguments, progress=False).history["loss"][:, -1]


def scan_of(x: np.ndarray, y: np.ndarray, num_steps: int) -> Callable[[Any], Any]:
    """One network by `lax.scan`."""

    def loss(p: Any) -> jax.Array:
        return jnp.mean((predict(p, x, jnp.tanh) - y) ** 2)

    def step(p: Any, _: None) -> Any:
        return jax.tree.map(lambda w, g: w - RATE * g, p, jax.grad(loss)(p)), None

    def run(p: Any) -> Any:
        end = jax.lax.scan(step, p, length=num_steps)[0]
        return end, loss(end)

    return run


def jax_scan(starts: Arrays, x: np.ndarray, y: np.ndarray, num_steps: int) -> Callable[[], np.ndarray]:
    """All networks at once."""
    run, inits = jax.jit(jax.vmap(scan_of(x, y, num_steps))), jax.tree.map(jnp.asarray, starts)

    def scan() -> np.ndarray:
        end, losses = run(inits)
        jax.block_until_ready(end)
        return np.asarray(losses)

    return scan


def torch_func(starts: Arrays, x: np.ndarray, y: np.ndarray, num_steps: int) -> Callable[[], np.ndarray]:
    """`vmap(grad(loss))` over the networks."""
    import torch

    inputs, targets = torch.tensor(x), torch.tensor(y)

    def loss(p: Any) -> Any:
        return ((predict(p, inputs, torch.tanh) - targets) ** 2).mean()

    gradient, losses = torch.func.vmap(torch.func.grad(loss)), torch.func.vmap(loss)

    def run() -> np.ndarray:
        with torch.no_grad():
            p = {name: torch.tensor(value) for name, value in starts.items()}
            for _ in range(num_steps):
                g = gradient(p)
                p = {name: p[name] - RATE * g[name] for name in p}
            return losses(p).cpu().numpy()

    return run


def torch_bmm(starts: Arrays, x: np.ndarray, y: np.ndarray, num_steps: int) -> Callable[[], np.ndarray]:
    """Forward and backward pass as batched matrix products, compiled."""
    import torch

    inputs, targets, scale = torch.tensor(x), torch.tensor(y), (2 / WIDTH) ** 0.5

    def step(first: Any, second: Any) -> Any:
        hidden = torch.tanh(torch.matmul(inputs, first) * scale)
        slope = (torch.bmm(hidden, second) / WIDTH - targets) * (2 / NUM_POINTS) / WIDTH
        before = torch.bmm(slope, second.transpose(1, 2)) * (1 - hidden * hidden) * scale
        step_first, step_second = torch.matmul(inputs.T, before), torch.bmm(hidden.transpose(1, 2), slope)
        return first - RATE * step_first, second - RATE * step_second

    compiled = torch.compile(step)

    def run() -> np.ndarray:
        with torch.no_grad():
            first, second = torch.tensor(starts["first"]), torch.tensor(starts["second"])
            for _ in range(num_steps):
                first, second = compiled(first, second)
            out = predict({"first": first, "second": second}, inputs, torch.tanh)
            return ((out - targets) ** 2).mean(dim=(1, 2)).numpy()

    return run


def run(report: Report) -> None:
    """Programs, agreement, times."""
    num_nets, num_steps = (64, 100) if report.quick else (4096, 500)
    report.section(f"training: {num_nets:,} networks of width {WIDTH}, {num_steps} steps of gradient descent each")
    arguments = (*data(num_nets), num_steps)
    lay_side_by_side(report, *arguments)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache  # nothing compiled by an earlier run
        compare(report, arguments)


def compare(report: Report, arguments: Any) -> None:
    """All of them in turn."""
    import psutil
    import torch

    torch.set_num_threads(psutil.cpu_count())
    ours, alone, *peers = NAMES
    programs = {ours: landscape_runs(*arguments)}
    programs |= {alone: on_threads(1, programs[ours])}
    programs |= {name: make(*arguments) for name, make in zip(peers, (jax_scan, torch_func, torch_bmm))}
    report.note("cold: first call")
    check(report, {name: report.once(name, program) for name, program in programs.items()})
    calls = max(settle(programs[name]) for name in NAMES[:2])
    report.note(f"warm; ours after {calls} calls, {chosen()}")
    times = report.compare(programs, repeats=5)
    millions = len(arguments[0]["first"]) * arguments[-1] / 1e6
    for name in NAMES:
        report.finding(f"{name}, million net-steps/s", times, lambda t, name=name: millions / t[name])
    seconds = "{:.3f}"
    report.finding("seconds for a million net-steps", times, lambda t: t[ours] / millions, seconds, MILLION_STEPS)
    for peer, target in zip((alone, *peers), (None, None, OVER_FUNC, OVER_BMM)):
        report.finding(f"{ours} / {peer}", times, _ratio(ours, peer), target=target)


def chosen() -> str:
    """The strategy that was found."""
    return ", ".join(f"{timing.threads} times {timing.strategy.width} networks at a time" for timing in choices())


def _ratio(a: str, b: str) -> Callable[[Times], float]:
    return lambda times: times[a] / times[b]


def check(report: Report, losses: dict[str, np.ndarray]) -> None:
    """Stop unless the losses at the end agree."""
    reference = losses["jax scan"].astype(np.float64)
    worst = {name: float(np.max(np.abs(found / reference - 1))) for name, found in losses.items()}
    for name, difference in worst.items():
        report.note(f"  {name} and jax scan differ by at most {difference:.1e} relative", differs=difference)
    if not max(worst.values()) <= AGREEMENT:
        raise SystemExit(f"the losses differ by more than {AGREEMENT:g}: nothing to compare")


# ------------------------------------------------------------------------------------------------------- programs


def lay_side_by_side(report: Report, starts: Arrays, x: np.ndarray, y: np.ndarray, num_steps: int) -> None:
    """What the innermost loop executes in one step, at the width of all networks."""
    numbers = jnp.arange(len(starts["first"]), dtype=jnp.float32)[:, None]
    ours = jax.jit(jax.vmap(point_function(starts, x, y, num_steps))).lower(numbers).compile()
    plain = jax.jit(jax.vmap(scan_of(x, y, num_steps))).lower(jax.tree.map(jnp.asarray, starts)).compile()
    for name, program in {"landscape": ours, "jax scan": plain}.items():
        step = min(loop_bodies(program.as_text()), key=lambda ops: (sum(ops.values()), str(ops)))
        flops = (program.cost_analysis() or {}).get("flops", float("nan"))
        shown = ", ".join(f"{count} {op}" for op, count in sorted(step.items()))
        report.note(f"  {name}: a step executes {shown}; {flops:,.0f} flops in the whole program, each loop once")


def loop_bodies(text: str) -> list[collections.Counter[str]]:
    """How many operations of each kind the body of each loop of a compiled program has."""
    computations = dict(re.findall(r"^(?:ENTRY )?%?([\w.\-]+) \([^\n]*\{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL))
    bodies = re.findall(r" while\([^\n]*body=%?([\w.\-]+)", text)
    counts = [collections.Counter(re.findall(r"= \S+ ([\w\-]+)\(", computations[name])) for name in bodies]
    return [collections.Counter({op: n for op, n in c.items() if op not in HOUSEKEEPING}) for c in counts]
