"""How sharp is the loss where training goes, and does the learning rate decide it?

Full-batch training sharpens the loss until the largest eigenvalue of its Hessian reaches what the optimizer can stand,
and hovers there (Cohen et al. 2021, arXiv 2103.00065). A tanh network 1-50-50-1 on 20 points of a Chebyshev polynomial
(or your own model by --problem, whose training objective is taken), three seeds.

Expected, over the last third of training:

- gradient descent with rate eta: sharpness / (2 / eta) in .97 ... 1.05, at each of two rates;
- heavy ball with momentum b: sharpness / (2 (1 + b) / eta) in .97 ... 1.05.

The law is about runs that stay at the edge. With momentum .9 these small runs cross it so fast that they are thrown to
where the data can be fitted with less sharpness (--momentum 0.9: .55 ... .78 of the edge, the loss is below 1e-5), and
at twice the rate they diverge; so the default is .5.

The sharpness is measured along the run: Rayleigh-Ritz on a Krylov space of Hessian-vector products that starts from the
last eigenvector. Its relative residual |Hv - lambda v| / lambda, which bounds the distance to an eigenvalue, is kept
and reported.

Cost: about a minute on one CPU core for the defaults.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _lab import Lab, UsageError, main
from jax.flatten_util import ravel_pytree

import landscape as ls
from landscape import curvature
from landscape.point import as_number

BAND = (0.97, 1.05)


@dataclass(frozen=True)
class Config:
    """Settings of this experiment."""

    rates: tuple[float, ...] = (0.1, 0.2)
    """Learning rates of gradient descent."""
    heavy_ball_rates: tuple[float, ...] = (0.1,)
    """Learning rates of heavy ball."""
    momentum: float = 0.5
    """Momentum of heavy ball."""
    degree: int = 4
    """Degree of the Chebyshev polynomial."""
    steps: int = 15_000
    """Training steps."""
    every: int = 50
    """Steps between two measurements of the sharpness."""
    products: int = 8
    """Hessian-vector products in each of them."""
    seeds: int = 3
    """Runs of each optimizer."""


SMOKE = Config(rates=(0.2,), heavy_ball_rates=(), steps=400, every=50, seeds=2)


class Along(NamedTuple):
    """What was measured along a run; each of shape `(num_steps // every + 1,)`.

    Attributes:
        step: steps taken.
        loss: full training loss.
        sharpness: largest eigenvalue of its Hessian.
        residual: `|Hv - sharpness v|` of the unit Ritz vector; an eigenvalue lies that close.
    """

    step: jax.Array
    loss: jax.Array
    sharpness: jax.Array
    residual: jax.Array


def sharpness_along(
    objective: ls.Objective,
    optimizer: optax.GradientTransformation,
    params: Any,
    num_steps: int,
    every: int,
    *,
    num_products: int = 8,
    key: jax.Array | None = None,
) -> Along:
    """Train with any optax optimizer on the full data, and measure the sharpness every few steps.

    Args:
        objective: what is minimised.
        optimizer: any optax optimizer; those that need the value get it.
        params: starting point.
        num_steps: steps, in whole multiples of `every`.
        every: steps between two measurements.
        num_products: Hessian-vector products in each measurement, and the dimension of its Krylov space. The space
            starts from the last eigenvector and a tenth of noise, so that a crossing of eigenvalues is not missed; the
            first measurement takes eight times as many.
        key: for the first vector and the noise; `jax.random.key(0)` by default.

    Returns:
        Losses, sharpnesses and residuals, the first before the first step.
    """
    key = jax.random.key(0) if key is None else key
    return _along(optimizer, num_steps // every, every, num_products, objective, params, key)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _along(
    optimizer: Any, num_records: int, every: int, num_products: int, objective: ls.Objective, params: Any, key: Any
) -> Along:
    update = optax.with_extra_args_support(optimizer).update

    def step(_: Any, state: Any) -> Any:
        params, memory = state
        loss, gradient = objective.value_and_grad(params)
        updates, memory = update(gradient, memory, params, value=loss, grad=gradient, value_fn=objective)
        return optax.apply_updates(params, updates), memory

    def advance(carry: Any, number: jax.Array) -> Any:
        state, vector = carry
        state = jax.lax.fori_loop(0, every, step, state)
        vector, entry = measure(state[0], vector, jax.random.fold_in(key, number))
        return (state, vector), (number * every, *entry)

    def measure(params: Any, vector: jax.Array, key: jax.Array) -> Any:
        noise = jax.random.normal(key, vector.shape, vector.dtype)
        vector, value, residual = leading(params, vector + 0.1 * noise / jnp.linalg.norm(noise))
        return vector, (objective(params), value, residual)

    def leading(params: Any, vector: jax.Array) -> Any:
        return largest_eigenpair(partial(_flat_product, objective, params), vector, num_products)

    params = jax.tree.map(jnp.asarray, params)
    flat = _flat(params)[0]
    vector = jax.random.normal(key, flat.shape, flat.dtype)
    vector = jax.lax.fori_loop(0, 7, lambda _, v: leading(params, v)[0], vector)
    vector, first = measure(params, vector, key)
    start = ((params, optimizer.init(params)), vector)
    _, rest = jax.lax.scan(advance, start, jnp.arange(1, num_records + 1))
    return Along(*(jnp.concatenate([jnp.asarray(a)[None], b]) for a, b in zip((0, *first), rest)))


def _flat_product(objective: ls.Objective, params: Any, vector: jax.Array) -> jax.Array:
    return ravel_pytree(curvature.hvp(objective, params, _flat(params)[1](vector)))[0]


def _flat(params: Any) -> tuple[jax.Array, Any]:
    """The parameters as a vector of at least float32, and the way back."""
    return ravel_pytree(jax.tree.map(lambda p: p.astype(jnp.promote_types(p.dtype, jnp.float32)), params))


def largest_eigenpair(product: Any, vector: jax.Array, size: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The largest Ritz pair `(vector, value, residual)` in the Krylov space of `vector`, of this dimension.

    Rayleigh-Ritz in an orthonormal basis (Gram-Schmidt, twice): the value never exceeds the largest eigenvalue, and the
    residual is that of the pair, not an estimate.
    """

    def extend(carry: Any, number: jax.Array) -> Any:
        basis, vector = carry
        for _ in range(2):
            vector = vector - basis.T @ (basis @ vector)
        vector = vector / jnp.linalg.norm(vector)
        image = product(vector)
        return (basis.at[number].set(vector), image), image

    with jax.default_matmul_precision("highest"):
        start = (jnp.zeros((size, len(vector)), vector.dtype), vector / jnp.linalg.norm(vector))
        (basis, _), images = jax.lax.scan(extend, start, jnp.arange(size))
        small = basis @ images.T
        values, vectors = jnp.linalg.eigh((small + small.T) / 2)
        ritz = vectors[:, -1] @ basis
        residual = jnp.linalg.norm(vectors[:, -1] @ images - values[-1] * ritz)
    return ritz, values[-1], residual


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Sharpening:
    """Point function: a run from the start that belongs to a seed, with the sharpness along it."""

    problem: Any = field(metadata={"static": True})
    objective: ls.Objective
    optimizer: Any = field(metadata={"static": True})
    steps: int = field(metadata={"static": True})
    every: int = field(metadata={"static": True})
    products: int = field(metadata={"static": True})

    def __call__(self, coords: jax.Array) -> dict[str, jax.Array]:
        """Loss, sharpness and residual along the run, `(steps // every + 1,)` each."""
        key = jax.random.fold_in(jax.random.key(0), as_number(coords[0]))
        start = self.problem.init(key)
        run = sharpness_along(
            self.objective, self.optimizer, start, self.steps, self.every, num_products=self.products, key=key
        )
        return {name: value for name, value in run._asdict().items() if name != "step"}


def run(config: Config, lab: Lab) -> dict[str, ls.Landscape]:
    """One landscape over the seeds for each optimizer."""
    _check(config)
    problem = lab.problem or ls.problems.chebyshev_regression(config.degree)
    grid = ls.Grid.of(seed=np.arange(config.seeds))
    result = {}
    for name, (optimizer, about) in optimizers(config).items():
        run = Sharpening(problem, problem.objectives["train"], optimizer, config.steps, config.every, config.products)
        about = about | {"every": config.every, "model": problem.name}
        landscape = lab.sweep(name, run, grid, lambda _, about=about: {"edge": about})
        if landscape is not None:
            result[name] = landscape
    return result


def _check(config: Config) -> None:
    if config.steps < 3 * config.every or config.every < 1:
        raise UsageError(f"--steps must be at least 3 times --every, got {config.steps} and {config.every}")
    if config.products < 2 or config.seeds < 1:
        raise UsageError("needs --products >= 2 and --seeds >= 1")
    if not all(rate > 0 for rate in config.rates + config.heavy_ball_rates) or not 0 <= config.momentum < 1:
        raise UsageError("learning rates must be positive, and --momentum lie in [0, 1)")


def optimizers(config: Config) -> dict[str, tuple[Any, dict[str, Any]]]:
    """`{name: (optimizer, {"title": .., "edge": the sharpness at which a quadratic becomes unstable})}`."""
    found = {}
    for rate in config.rates:
        about = {"title": f"gradient descent, η = {rate:g}", "law": "2/η", "edge": 2 / rate}
        found[f"descent_{rate:g}"] = (optax.sgd(rate), about)
    for rate in config.heavy_ball_rates:
        edge = 2 * (1 + config.momentum) / rate
        about = {"title": f"heavy ball, η = {rate:g}, β = {config.momentum:g}", "law": "2(1+β)/η", "edge": edge}
        found[f"heavy_ball_{rate:g}"] = (optax.sgd(rate, momentum=config.momentum), about)
    return found


def late_ratio(landscape: ls.Landscape) -> np.ndarray:
    """Mean sharpness over the last third of each run, as a multiple of the edge."""
    sharpness = landscape["sharpness"]
    return sharpness[:, -(sharpness.shape[1] // 3) :].mean(axis=1) / landscape.meta["edge"]["edge"]


def findings(result: Mapping[str, ls.Landscape]) -> list[tuple[str, str, str]]:
    """Rows of `(what, expected, found)`."""
    rows = []
    for landscape in result.values():
        about = landscape.meta["edge"]
        ratios = late_ratio(landscape)
        inside = np.sum((ratios >= BAND[0]) & (ratios <= BAND[1]))
        found = f"{', '.join(f'{r:.3f}' for r in ratios)} ({inside} of {len(ratios)} inside)"
        rows.append((f"{about['title']}: sharpness / ({about['law']})", f"{BAND[0]} ... {BAND[1]}", found))
        relative = landscape["residual"] / np.abs(landscape["sharpness"])
        rows.append((f"{about['title']}: largest relative residual", "small", f"{np.max(relative):.1e}"))
    return rows


def plot(result: Mapping[str, ls.Landscape]) -> dict[str, Any]:
    """Training loss and sharpness of every optimizer, with the sharpness that it can stand."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        2, len(result), figsize=(0.8 + 2.7 * len(result), 4.2), sharex="col", sharey="row", squeeze=False
    )
    tops = [[landscape.meta["edge"]["edge"], np.nanmax(landscape["sharpness"])] for landscape in result.values()]
    highest = np.nanmax(tops)
    for (above, below), landscape in zip(axes.T, result.values()):
        about = landscape.meta["edge"]
        steps = about["every"] * np.arange(landscape["loss"].shape[1]) / 1000
        for seed, loss, sharpness in zip(landscape.grid.axes[0].values, landscape["loss"], landscape["sharpness"]):
            above.plot(steps, loss, linewidth=0.8, label=f"seed {seed:g}")
            below.plot(steps, sharpness, linewidth=0.8)
        below.axhline(about["edge"], color="black", linestyle="--", linewidth=0.9)
        text = f"{about['law']} = {about['edge']:g}"
        place = {"xytext": (-3, 3), "textcoords": "offset points", "ha": "right", "va": "bottom", "size": 9}
        below.annotate(text, (1, about["edge"]), xycoords=below.get_yaxis_transform(), **place)
        above.set(title=about["title"], yscale="log", xlim=steps[[0, -1]])
        below.set(xlabel="thousand steps", ylim=(0, 1.15 * highest))
        below.locator_params(axis="x", nbins=4)
    axes[0, 0].set_ylabel("training loss")
    axes[1, 0].set_ylabel("sharpness")
    axes[0, -1].legend(loc="best")
    return {"edge": figure}


if __name__ == "__main__":
    main("edge_of_stability", Config, SMOKE, run, plot, findings)
