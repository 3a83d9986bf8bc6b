"""The same exact surface by `landscape`, by loss-landscapes 3.0.6, and by a compiled PyTorch loop.

A 51 x 51 grid over [-1, 1]^2 of a filter-normalised plane around initial weights, mean cross-entropy, all in
float32 with the same weights, directions, points and data, every program on all cores:

- *landscape*: `sweep(LossSurface(plane, objective), grid)` with `batch="auto"` and with `batch=1`, and with `"auto"`
  where the sweep may use one thread, which leaves the other cores to XLA.
- *loss-landscapes*: `random_plane` draws its own directions, so its sibling with the same loop,
  `planar_interpolation(start, end_one, end_two, Loss(..), steps=51, deepcopy_model=True)`, is given a start and two
  ends that make its steps those of the grid. In its rows of even index every point lies one step further along
  the second direction than in those of odd index (a flaw of 3.0.6), so `start` lies one step before the grid: the
  even rows are then the grid's, in the odd rows column j + 1 is the grid's column j and the first lies outside.
  It evaluates exactly as many points as we do.
- *torch.compile*: one compiled function writes origin + a d1 + b d2 into the parameters in place and returns the
  loss; a Python loop calls it at each point. A second variant hands new parameters to `functional_call`.
- *torch.func.vmap* over chunks of 8 points of the second variant, not compiled.

Targets: ours at least 7 times as fast as loss-landscapes and 6 times as torch.compile on the large network, where most
of the arithmetic is in the first layer, and at least 1.8 and 1.3 times as fast on the digits.

All surfaces must agree to 1e-4 relative before anything is timed. *Cold* is the first call, with tracing,
compiling and tuning, after both compilers were loaded and JAX's and inductor's caches emptied; *warm* is one of the
later ones, when our search for a strategy, which goes on in later calls, has ended. *Floor*: the FLOPs of the matrix
products of every point evaluated plainly, at the rate that the faster of the two libraries reaches on large square
matrices in the same round. Sharing the linear part between points may pass below it.
"""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import landscape as ls
from benchmarks._harness import Report, Times, on_threads, settle
from landscape.problems.classification import digits

AGREEMENT = 1e-4
OURS = ("landscape auto", "landscape batch=1")
ALONE = "landscape, one thread"
PRODUCTS = ("matrix products jax", "matrix products torch")
NUM_PRODUCTS = 5
PEERS = ("loss-landscapes", "torch.compile in place", "torch.compile functional", "torch.func.vmap")
CHUNK = 8  # points that torch.func.vmap takes at a time: about the best of 4 to 64


@dataclass(frozen=True)
class Case:
    """A multilayer perceptron, its data, and a plane of weights; NumPy so that both libraries start from it."""

    name: str
    activation: str
    widths: tuple[int, ...]
    params: list[dict[str, np.ndarray]]
    directions: list[dict[str, np.ndarray]]
    x: np.ndarray
    y: np.ndarray
    grid: ls.Grid

    @property
    def flops(self) -> float:
        """Of the matrix products of one point evaluated plainly."""
        return 2.0 * len(self.x) * sum(m * n for m, n in zip(self.widths[:-1], self.widths[1:]))


def make_case(name: str, activation: str, x: np.ndarray, y: np.ndarray, num: int) -> Case:
    """He or Lecun initial weights and two filter-normalised Gaussian directions."""
    widths = (x.shape[1], 128, 128, 10)
    init, _ = ls.problems.mlp(widths, _activation(activation))
    params = init(jax.random.key(0))
    directions = ls.subspace.filter_normalize(ls.subspace.random_directions(jax.random.key(1), params), params)
    params, directions = jax.tree.map(np.asarray, (params, directions))
    return Case(name, activation, widths, params, directions, x, y, ls.Grid.square(1.0, num))


def _activation(name: str) -> Callable[..., Any]:
    return {"relu": jax.nn.relu, "tanh": jnp.tanh}[name]


def cases(quick: bool) -> list[Case]:
    """MNIST and the digits."""
    num = 7 if quick else 51
    mnist, _ = ls.problems.mnist5k()
    first, second = digits()
    x, y = (np.concatenate([first[k], second[k]]) for k in "xy")
    images = mnist["x"][:1024].reshape(1024, -1)
    return [
        make_case("MLP 784-128-128-10 relu, 1,024 MNIST digits", "relu", images, mnist["y"][:1024], num),
        make_case("MLP 64-128-128-10 tanh, 1,797 digits", "tanh", x, y, num),
    ]


def landscape_surface(case: Case, batch: Any) -> Callable[[], np.ndarray]:
    """Our sweep, as a user calls it."""
    _, predict = ls.problems.mlp(case.widths, _activation(case.activation))

    def loss_fn(params: Any, batch: Any) -> jax.Array:
        return optax.losses.softmax_cross_entropy_with_integer_labels(predict(params, batch["x"]), batch["y"])

    plane = ls.Subspace(*jax.tree.map(jnp.asarray, (case.params, case.directions)))
    surface = ls.LossSurface(plane, ls.Objective(loss_fn, {"x": jnp.asarray(case.x), "y": jnp.asarray(case.y)}))
    return lambda: ls.sweep(surface, case.grid, batch=batch, progress=False)["loss"]


def torch_tensors(layers: list[dict[str, np.ndarray]], index: Any = ()) -> list[Any]:
    """Kernels transposed and biases, in the order of `Module.parameters`."""
    import torch

    arrays = [a for layer in layers for a in (layer["kernel"][index].T, layer["bias"][index])]
    return [torch.tensor(np.ascontiguousarray(a)) for a in arrays]


def torch_model(case: Case, a: float = 0.0, b: float = 0.0) -> Any:
    """A torch module with the weights at the point (a, b)."""
    import torch

    modules: list[Any] = []
    for m, n in zip(case.widths[:-1], case.widths[1:]):
        modules += [torch.nn.Linear(m, n), torch.nn.ReLU() if case.activation == "relu" else torch.nn.Tanh()]
    model = torch.nn.Sequential(*modules[:-1]).requires_grad_(False)
    tensors = [torch_tensors(case.params), *(torch_tensors(case.directions, i) for i in range(2))]
    for p, origin, one, two in zip(model.parameters(), *tensors):
        p.copy_(origin + a * one + b * two)
    return model


def loss_landscapes_surface(case: Case) -> Callable[[], np.ndarray]:
    """Its own loop over the plane, started one step early so that its even rows are ours."""
    import loss_landscapes
    import torch
    from loss_landscapes.metrics import Loss

    low, num = float(case.grid.axes[0].values[0]), len(case.grid.axes[0])
    step = float(np.diff(case.grid.axes[0].values)[0])
    start = (low, low - step)
    models = [torch_model(case, *p) for p in (start, (low + num * step, start[1]), (low, start[1] + num * step))]
    metric = Loss(torch.nn.CrossEntropyLoss(), torch.tensor(case.x), torch.tensor(case.y, dtype=torch.long))
    return lambda: loss_landscapes.planar_interpolation(*models, metric, steps=num, deepcopy_model=True)


def torch_surface(case: Case, in_place: bool) -> Callable[[], np.ndarray]:
    """A Python loop over a compiled evaluation of one point."""
    import torch

    model = torch_model(case)
    x, y = torch.tensor(case.x), torch.tensor(case.y, dtype=torch.long)
    origin, one, two = torch_tensors(case.params), torch_tensors(case.directions, 0), torch_tensors(case.directions, 1)
    points = torch.tensor(case.grid.points(), dtype=torch.float32)
    names = [name for name, _ in model.named_parameters()]

    def write_and_evaluate(a: Any, b: Any) -> Any:
        for p, o, d, e in zip(model.parameters(), origin, one, two):
            p.copy_(o + a * d + b * e)
        return torch.nn.functional.cross_entropy(model(x), y)

    def evaluate(a: Any, b: Any) -> Any:
        params = {n: o + a * d + b * e for n, o, d, e in zip(names, origin, one, two)}
        return torch.nn.functional.cross_entropy(torch.func.functional_call(model, params, (x,)), y)

    compiled = torch.compile(write_and_evaluate if in_place else evaluate)

    def surface() -> np.ndarray:
        with torch.no_grad():
            return torch.stack([compiled(a, b) for a, b in points]).numpy().reshape(case.grid.shape)

    return surface


def torch_vmap_surface(case: Case) -> Callable[[], np.ndarray]:
    """`torch.func.vmap` over the points, a chunk at a time."""
    import torch

    model = torch_model(case)
    x, y = torch.tensor(case.x), torch.tensor(case.y, dtype=torch.long)
    origin, one, two = torch_tensors(case.params), torch_tensors(case.directions, 0), torch_tensors(case.directions, 1)
    names = [name for name, _ in model.named_parameters()]

    def evaluate(point: Any) -> Any:
        params = {n: o + point[0] * d + point[1] * e for n, o, d, e in zip(names, origin, one, two)}
        return torch.nn.functional.cross_entropy(torch.func.functional_call(model, params, (x,)), y)

    points = torch.tensor(case.grid.points(), dtype=torch.float32)
    together = torch.func.vmap(evaluate, chunk_size=CHUNK)

    def surface() -> np.ndarray:
        with torch.no_grad():
            return together(points).numpy().reshape(case.grid.shape)

    return surface


def disagreement(name: str, surface: np.ndarray, ours: np.ndarray) -> float:
    """Largest relative difference at the points that both evaluated."""
    if name != "loss-landscapes":
        return float(np.max(np.abs(surface / ours - 1)))
    even, odd = surface[::2] / ours[::2] - 1, surface[1::2, 1:] / ours[1::2, :-1] - 1
    return float(max(np.max(np.abs(even)), np.max(np.abs(odd))))


def run(report: Report) -> None:
    """Both cases: cold, agreement, warm, floor."""
    report.section("peers: the same exact surface by other programs")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache  # nothing compiled by an earlier run
        prepare(report)
        for case in cases(report.quick):
            compare(report, case)


def prepare(report: Report) -> None:
    """Use all cores, and load the compiler."""
    import psutil
    import torch

    torch.set_num_threads(psutil.cpu_count())
    torch.compile(lambda x: x + 1)(torch.ones(3))
    report.note(f"torch has {torch.get_num_threads()} threads", threads=torch.get_num_threads())


def products(size: int) -> dict[str, Callable[[], Any]]:
    """A few products of two square float32 matrices in each library."""
    import torch

    ours, theirs = jnp.ones((size, size), jnp.float32), torch.ones(size, size)
    multiply = jax.jit(lambda a, b: jnp.matmul(a, b, precision="highest"))
    fns = (lambda: multiply(ours, ours).block_until_ready(), lambda: theirs @ theirs)
    return {name: lambda fn=fn: [fn() for _ in range(NUM_PRODUCTS)] for name, fn in zip(PRODUCTS, fns)}


def compare(report: Report, case: Case) -> None:
    """One network."""
    import torch

    report.section(f"{case.name}, {'x'.join(map(str, case.grid.shape))} points")
    torch.compiler.reset()
    surfaces = {
        OURS[0]: landscape_surface(case, "auto"),
        OURS[1]: landscape_surface(case, 1),
        PEERS[0]: loss_landscapes_surface(case),
        PEERS[1]: torch_surface(case, in_place=True),
        PEERS[2]: torch_surface(case, in_place=False),
        PEERS[3]: torch_vmap_surface(case),
    }
    report.note("cold: first call")
    check(report, {name: first_call(report, name, fn) for name, fn in surfaces.items()})
    size = 256 if report.quick else 2048
    programs = surfaces | products(size)
    for fn in programs.values():  # compiles again what emptying the caches threw away
        fn()
    programs |= {ALONE: on_threads(1, surfaces[OURS[0]])}
    check(report, {ALONE: programs[ALONE](), OURS[1]: programs[OURS[1]]()})
    calls = max(settle(programs[name]) for name in (OURS[0], ALONE))
    report.note(f"warm, ours after {calls} calls more: in turn with {NUM_PRODUCTS} products of {size}x{size} matrices")
    times = report.compare(programs, repeats=5)
    for peer in PEERS:
        for mine in (*OURS, ALONE):
            report.finding(f"{peer} / {mine}", times, lambda t, peer=peer, mine=mine: t[peer] / t[mine])

    def peak(t: Times) -> float:
        return NUM_PRODUCTS * 2 * size**3 / min(t[name] for name in PRODUCTS)

    flops = case.grid.size * case.flops
    report.note(f"  plain evaluation: {case.grid.size:,} points of {case.flops / 1e6:,.1f} MFLOP", flops=flops)
    report.finding("matmul peak, GFLOP/s", times, lambda t: peak(t) / 1e9, "{:,.0f}")
    report.finding("floor, seconds", times, lambda t: flops / peak(t), "{:.3f}")
    for name in (*surfaces, ALONE):
        report.finding(f"{name} / floor", times, lambda t, name=name: t[name] * peak(t) / flops)


def first_call(report: Report, name: str, surface: Callable[[], np.ndarray]) -> np.ndarray:
    """Time with nothing compiled."""
    jax.clear_caches()
    return report.once(name, surface)


def check(report: Report, surfaces: dict[str, np.ndarray]) -> None:
    """Stop unless all agree."""
    ours = surfaces[OURS[1]]
    worst = {name: disagreement(name, surface, ours) for name, surface in surfaces.items() if name != OURS[1]}
    for name, difference in worst.items():
        report.note(f"  {name} and {OURS[1]} differ by at most {difference:.1e} relative", differs=difference)
    if not max(worst.values()) <= AGREEMENT:
        raise SystemExit(f"the surfaces differ by more than {AGREEMENT:g}: nothing to compare")
