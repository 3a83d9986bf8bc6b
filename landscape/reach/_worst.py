"""`worst_radius`: the smallest radius that an ascent on the sphere finds, beside that of the quadratic."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from landscape import _tree
from landscape.checks import check_count
from landscape.curvature import eigenpairs
from landscape.engine import sweep
from landscape.grid import Grid
from landscape.maps import Fall, Radius, Rise, geometric
from landscape.maps._radius import PRECISION, as_rise, moved
from landscape.objective import Objective
from landscape.subspace import Draws, direction_of, join, mask

ANGLE = 0.5  # of the first step, in radians
LONGER, SHORTER = 1.5, 1 / 3  # of the angle, after a step that climbed and after one that did not
BELOW, ABOVE = 8.0, 1024.0  # how far around the quadratic's radius an ascent looks
_static: Any = {"static": True}


class Prediction(NamedTuple):
    """The smallest radius of the quadratic, sqrt(2 rise / largest eigenvalue).

    Attributes:
        value: infinite where no eigenvalue is positive.
        lower, upper: between which it lies by the residual of the eigenvalue.
        eigenvalue: the largest, and `residual`, how near an eigenvalue is known to lie.
    """

    value: float
    lower: float
    upper: float
    eigenvalue: float
    residual: float


@dataclass(frozen=True, eq=False, repr=False)
class WorstRadius:
    """The smallest radius that was found. An ascent may miss a steeper direction: it is an upper bound.

    Attributes:
        value: a distance at which the loss has risen in the worst direction found; the smallest there is is at most so.
        radii: of the starts after the ascent, `(starts,)`.
        before: of the starts before it, `(starts,)`.
        status: a `maps.Reached` for each start, `(starts,)`.
        direction: the worst direction found, a tree like the parameters, of unit length.
        quadratic: what the largest eigenvalue predicts; `None` where it was not asked for.
        evaluations, gradients: of the loss, in all; those of the eigenvalue are not counted.
    """

    value: float
    radii: Float[np.ndarray, " n"]
    before: Float[np.ndarray, " n"]
    status: Int[np.ndarray, " n"]
    direction: PyTree
    quadratic: Prediction | None
    evaluations: int
    gradients: int

    def __repr__(self) -> str:
        lines = [f"worst radius at most {self.value:.4g} ({len(self.radii)} ascents, from {self.before.min():.4g})"]
        if (q := self.quadratic) is not None:
            lines.append(
                f"of the quadratic {q.value:.4g} [{q.lower:.4g}, {q.upper:.4g}] (largest eigenvalue {q.eigenvalue:.4g})"
            )
        return "\n".join(lines)


@_tree.register
@dataclass(frozen=True, eq=False)
class Ascended:
    """Directions after an ascent of the loss on the sphere: number of a start -> direction of unit length.

    Each round finds the radius along the direction, then turns it uphill on the sphere of that radius: along great
    circles, by an angle that grows after a step that climbed and shrinks after one that did not. A draw for `Radius`.

    Attributes:
        found: radii of the starts: origin, loss, rise and where to look.
        where: parameters that move, as for `subspace.mask`.
        rounds: how often the radius is found anew.
        steps: gradients in each round.
    """

    found: Radius
    where: Any = field(default=None, kw_only=True, metadata=_static)
    rounds: int = field(default=4, kw_only=True, metadata=_static)
    steps: int = field(default=10, kw_only=True, metadata=_static)

    def __call__(self, number: Any) -> PyTree:
        """The direction that was reached."""
        start = unit(direction_of(self.found.draw, number, self.found.origin))
        return jax.lax.fori_loop(0, self.rounds, lambda _, u: self._climb(u), start)

    def _climb(self, start: PyTree) -> PyTree:
        """Uphill on the sphere of the radius of where it starts."""
        values = self.found.along(start)
        radius = jnp.where(jnp.isfinite(values["radius"]), values["radius"], values["below"])

        def step(_: Any, state: Any) -> Any:
            here, angle, loss, slope = state
            there = turned(here, slope, angle)
            new, uphill = self._slope(there, radius)
            climbed = new > loss
            here, loss, slope = jax.tree.map(
                lambda a, b: jnp.where(climbed, a, b), (there, new, uphill), (here, loss, slope)
            )
            return here, jnp.minimum(angle * jnp.where(climbed, LONGER, SHORTER), jnp.pi / 2), loss, slope

        return jax.lax.fori_loop(0, self.steps, step, (start, jnp.asarray(ANGLE), *self._slope(start, radius)))[0]

    def _slope(self, direction: PyTree, radius: Array) -> tuple[Array, PyTree]:
        """The loss at the radius in a direction, and its gradient there for the leaves that move."""
        origin, objective = self.found.origin, self.found.objective
        loss, gradient = objective.value_and_grad(moved(origin, direction, radius))
        if self.where is not None:
            gradient = jax.tree.map(lambda x: x[0], mask(_tree.as_stack(gradient), self.where, like=origin))
        return loss, jax.tree.map(lambda g, u: g.astype(u.dtype), gradient, direction)


def unit(tree: PyTree) -> PyTree:
    """A tree over its norm; zeros stay zeros."""
    length = _tree.norm(tree)
    return jax.tree.map(lambda x: x / jnp.where(length > 0, length, 1).astype(x.dtype), tree)


def turned(direction: PyTree, slope: PyTree, angle: Array) -> PyTree:
    """A unit vector, turned by an angle towards a slope."""
    slope = unit(slope)
    along = _tree.inner(_tree.as_stack(slope), _tree.as_stack(direction))[0, 0]
    across = unit(jax.tree.map(lambda s, u: s - along.astype(u.dtype) * u, slope, direction))
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    mixed = jax.tree.map(lambda u, a: cos.astype(u.dtype) * u + sin.astype(u.dtype) * a, direction, across)
    return unit(mixed)


def worst_radius(
    key: Array,
    objective: Objective,
    params: PyTree,
    *,
    rise: float | Rise | Fall,
    where: Any = None,
    starts: int = 6,
    rounds: int = 4,
    steps: int = 10,
    quadratic: bool = True,
    precision: float = PRECISION,
    **options: Any,
) -> WorstRadius:
    r"""The smallest radius over all directions, as far as an ascent finds it: an upper bound.

    Projected gradient ascent on the sphere from several starts: both sides of the eigenvector of the largest
    eigenvalue, and random directions. Each radius is then measured along the direction itself (`maps.Radius`), so the
    loss has risen there; whether it does so nearer elsewhere is not known. With it comes what the quadratic predicts,
    $\sqrt{2\,\mathrm{rise} / \lambda_{\max}}$ (of the loss, so for a `Fall` there is none).

    Args:
        key: random key of the starts.
        objective: the loss, which is climbed also where a metric is to fall.
        params: where from.
        rise: as for `radius`.
        where: parameters that move, a regular expression or a function as for `subspace.mask`; all by default.
        starts: ascents; two of them from the eigenvector where `quadratic`.
        rounds: how often each finds its radius anew.
        steps: gradients in each round.
        quadratic: whether to find the largest eigenvalue, which needs second derivatives.
        precision: of each radius, relative.
        options: of `sweep`.

    Raises:
        TypeError, ValueError: as for `radius`; `starts`, `rounds` or `steps` is no positive integer, or fewer than 3
            starts where two are the eigenvector's.
    """
    draw = Draws(key, params, where=where)
    as_rise(rise).check(objective, params)
    for name, value, least in (("starts", starts, 3 if quadratic else 1), ("rounds", rounds, 1), ("steps", steps, 1)):
        check_count(name, value, least)
    params = jax.tree.map(jnp.asarray, params)
    given = [draw(i) for i in range(starts - 2 * quadratic)]
    found = Radius(params, objective, _tree.stack(given), rise=as_rise(rise), precision=precision)
    predicted = None
    if quadratic:
        found, predicted = _with_eigenvector(key, found, where)
    ascent = Ascended(found, where=where, rounds=rounds, steps=steps)
    return _measured(ascent, predicted, {"progress": False, "batch": 1} | options)


def _with_eigenvector(key: Array, found: Radius, where: Any) -> tuple[Radius, Prediction | None]:
    """With both sides of the top eigenvector as starts, and looks around what the quadratic predicts."""
    block = re.compile(where) if isinstance(where, str) else where  # as `mask` reads it
    pairs = eigenpairs(jax.random.fold_in(key, 1), found.objective, found.origin, 1, where=block)
    value, residual = float(pairs.values[0]), float(pairs.residuals[0])
    vector = join(pairs.vectors, jax.tree.map(lambda x: jnp.zeros((1, *x.shape), x.dtype), found.origin))
    vector = jax.tree.map(lambda x: jnp.concatenate([x, -x]), vector)
    starts = jax.tree.map(lambda v, x: jnp.concatenate([v.astype(x.dtype), x]), vector, found.draw)
    found = dataclasses.replace(found, draw=starts)
    if isinstance(found.rise, Fall):
        return found, None
    amount = float(found.rise.amount(found.objective(found.origin)))
    predicted = Prediction(*(_radius(amount, x) for x in (value, value + residual, value - residual)), value, residual)
    if np.isfinite(predicted.value):
        found = dataclasses.replace(found, distances=geometric(predicted.value / BELOW, predicted.value * ABOVE))
    return found, predicted


def _radius(rise: float, curvature: float) -> float:
    return float(np.sqrt(2 * rise / curvature)) if curvature > 0 else np.inf


def _measured(ascent: Ascended, predicted: Prediction | None, options: Mapping[str, Any]) -> WorstRadius:
    starts = _tree.num_stacked(ascent.found.draw)
    directions = jax.lax.map(partial(_call, ascent), jnp.arange(starts))
    grid = Grid.of(direction=range(starts))
    before = sweep(ascent.found, grid, **options)
    after = sweep(dataclasses.replace(ascent.found, draw=directions), grid, **options)
    best = int(np.argmin(after["above"]))
    each = len(ascent.found._distances(jnp.float32)) + 3
    return WorstRadius(
        float(after["above"][best]),
        after["radius"],
        before["radius"],
        after["status"],
        jax.tree.map(lambda x: x[best], directions),
        predicted,
        int(before["evaluations"].sum() + after["evaluations"].sum()) + starts * ascent.rounds * each,
        starts * ascent.rounds * (ascent.steps + 1),
    )


@jax.jit
def _call(ascent: Ascended, number: Any) -> PyTree:
    return ascent(number)
