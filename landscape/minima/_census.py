r"""The search for every critical point of a function of few variables: `minima.census`.

>>> import jax, jax.numpy as jnp
>>> from landscape import minima
>>> with jax.enable_x64(True):
...     found = minima.census(lambda p: (p[0] ** 2 - 4) ** 2 + p[0], [(-3, 3)], num_starts=20)
>>> found.counts, found.euler, found.complete
((2, 1), 1, True)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from landscape import _tree
from landscape.checks import check_share, reals
from landscape.minima import _evidence, _newton
from landscape.objective import Objective

CHUNK = 1024  # starts at a time
MOST_CELLS = 128  # cells of a grid for each start asked for, at most


@dataclass(frozen=True, eq=False)
class Census:
    """Critical points of a function in a box, those of lower value first, and why they may be all.

    Attributes:
        points: `(m, d)`.
        values: of the function, `(m,)`.
        indices: Morse indices, `(m,)`: 0 for minima, `d` for maxima.
        eigenvalues: of the Hessians, ascending, `(m, d)`.
        grad_norms: gradient norms, `(m,)`.
        degenerate: points with an eigenvalue that is zero to its tolerance, whose index means nothing, `(m,)`.
        hits: starts that led to each, `(m,)`.
        starts: number of starts in all.
        new_per_round: points found first in each round of search.
        complete: whether the last two rounds, each a finer grid with as many random starts, found nothing new,
            and no point is degenerate. Evidence, not proof.
    """

    points: Float[np.ndarray, "m d"]
    values: Float[np.ndarray, " m"]
    indices: Int[np.ndarray, " m"]
    eigenvalues: Float[np.ndarray, "m d"]
    grad_norms: Float[np.ndarray, " m"]
    degenerate: Bool[np.ndarray, " m"]
    hits: Int[np.ndarray, " m"]
    starts: int
    new_per_round: tuple[int, ...]
    complete: bool

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Number of points of each index, from minima to maxima."""
        return tuple(int(np.sum(self.indices == i)) for i in range(self.points.shape[1] + 1))

    @property
    def euler(self) -> int:
        """Sum of `(-1)^index`, in two dimensions minima - saddles + maxima.

        It is 1 for a function whose gradient points out of the box all around, as that of a coercive function does in
        a box that holds all its critical points (Milnor 1963).
        """
        return int(np.sum((-1) ** self.indices))

    @property
    def found_once(self) -> int:
        """Points to which a single start led: with many of these, others will have been missed."""
        return int(np.sum(self.hits == 1))

    def __str__(self) -> str:
        rounds = " + ".join(map(str, self.new_per_round))
        return (
            f"{len(self.points)} critical points, by index {'-'.join(map(str, self.counts))}, Euler sum {self.euler}; "
            f"{self.starts} starts found {rounds} by rounds, {self.found_once} points were found once, "
            f"{int(self.degenerate.sum())} are degenerate; search {'complete' if self.complete else 'not complete'}"
        )


@dataclass(frozen=True)
class _Plain:
    """A function of the parameters as a loss that takes no data; equal for equal functions, so compiled once."""

    fn: Callable[[Any], Any]

    def __call__(self, params: PyTree, batch: PyTree) -> Any:
        return self.fn(params)


def census(
    fn: Callable[[Any], Any] | Objective,
    box: Any,
    *,
    key: Array | None = None,
    num_starts: int = 400,
    tol: float = 1e-6,
    max_rounds: int = 6,
) -> Census:
    """Find all critical points of a smooth function of few variables in a box.

    Newton on the gradient from every cell of a grid and from as many random points, then again from grids with twice
    the starts, until two rounds in turn find nothing new. Runs in the default precision: use float64.

    Args:
        fn: function of a vector `(d,)`, or an Objective over one.
        box: lower and upper bound of each variable, `(d, 2)`.
        key: random key of the random starts.
        num_starts: points of the first grid, at least: it should be finer than the features of the function.
        tol: points nearer than this share of the box's diagonal are one; at least 1,000 times the precision.
        max_rounds: rounds of search at most.

    Raises:
        TypeError: `fn` is not callable, a count is no integer, `tol` no number, or `key` no random key.
        ValueError: `box` is no list of ascending finite bounds or has many variables, or a count or `tol` is out of
            range.
    """
    if not callable(fn):
        raise TypeError(f"fn must be a function of a vector or a landscape.Objective, got {type(fn).__name__}")
    if not isinstance(fn, Objective):
        _tree.check_takes(fn, "fn", "x")
    box = reals("box", box)
    if box.ndim != 2 or box.shape[1] != 2 or not np.all(np.isfinite(box)) or not np.all(box[:, 0] < box[:, 1]):
        raise ValueError(f"box must be (low, high) of each variable, finite and ascending, got {box.tolist()}")
    _tree.check_count("num_starts", num_starts, 1)
    _tree.check_count("max_rounds", max_rounds, 1)
    check_share("tol", tol)
    key = jax.random.key(0) if key is None else key
    _tree.check_key(key)
    _check_cells(num_starts, len(box))
    objective = fn if isinstance(fn, Objective) else Objective(_Plain(fn))
    search = _Census(objective, box, num_starts, tol)
    return search.run(key, max_rounds)


def _check_cells(num_starts: int, dim: int) -> None:
    """A grid has at least two cells along each variable, so with their number it soon outgrows what was asked for."""
    side = _side(num_starts, dim)
    if side**dim > MOST_CELLS * num_starts:
        raise ValueError(
            f"census is for few variables: a grid over {dim} of them has {side}^{dim} cells, each a start, where "
            f"num_starts={num_starts} were asked for; polish points of your own instead (minima.polish)"
        )


def _side(num: int, dim: int) -> int:
    """Cells along each variable, so that there are `num` at least."""
    return math.ceil(num ** (1 / dim))


class _Census:
    """The points known so far, and the search for more."""

    def __init__(self, objective: Objective, box: np.ndarray, num_starts: int, tol: float) -> None:
        self.objective, self.box, self.dim = objective, box, len(box)
        self.diagonal = float(np.linalg.norm(box[:, 1] - box[:, 0]))
        self.num_starts, self.tol = num_starts, max(tol, 1e3 * float(jnp.finfo(jnp.zeros(()).dtype).eps))
        self.radius = self.diagonal / _side(num_starts, self.dim) / 2
        self.found: dict[str, np.ndarray] = {}
        self.hits = np.zeros(0, int)
        self.starts, self.new = 0, []

    def run(self, key: Array, max_rounds: int) -> Census:
        while len(self.new) < max_rounds and not self._quiet():
            key, here = jax.random.split(key)
            self._round(here, self.num_starts * 2 ** len(self.new))
        order = np.argsort(self.found["loss"], kind="stable")
        found = {name: value[order] for name, value in self.found.items()}
        values, tols = found["eigenvalues"], found["eigenvalue_tol"][:, None]
        degenerate = np.any(np.abs(values) <= tols, axis=1)
        return Census(
            found["x"], found["loss"], np.sum(values < -tols, axis=1), values, found["grad_norm"], degenerate,
            self.hits[order], self.starts, tuple(self.new), self._quiet() and not degenerate.any(),
        )  # fmt: skip

    def _quiet(self) -> bool:
        return len(self.new) >= 3 and self.new[-2:] == [0, 0]

    def _round(self, key: Array, num: int) -> None:
        low, width = self.box[:, 0], self.box[:, 1] - self.box[:, 0]
        side = _side(num, self.dim)
        cells = np.stack(np.meshgrid(*[(np.arange(side) + 0.5) / side] * self.dim, indexing="ij"), axis=-1)
        anywhere = np.asarray(jax.random.uniform(key, (side**self.dim, self.dim)), np.float64)
        starts = low + width * np.concatenate([cells.reshape(-1, self.dim), anywhere])
        ends = self._ends(starts)
        inside = np.all(np.abs(ends["x"] - low - width / 2) <= width * (0.5 + self.tol), axis=1)
        kept = ends["converged"].astype(bool) & inside
        self.starts += len(starts)
        self.new.append(self._merge({name: value[kept] for name, value in ends.items()}))

    def _ends(self, starts: np.ndarray) -> dict[str, np.ndarray]:
        """Where Newton leads from each start, in chunks of one shape."""
        padded = np.concatenate([starts, np.repeat(starts[-1:], -len(starts) % CHUNK, axis=0)])
        parts = [
            jax.device_get(_critical(self.objective, jnp.asarray(part), self.radius))
            for part in padded.reshape(-1, CHUNK, self.dim)
        ]
        return {name: np.concatenate([part[name] for part in parts])[: len(starts)] for name in parts[0]}

    def _merge(self, ends: dict[str, np.ndarray]) -> int:
        """Count the ends at known points, add the others as new ones; those of least gradient stand for the rest."""
        before = len(self.hits)
        order = np.argsort(ends["grad_norm"], kind="stable")
        if not self.found:
            self.found = {name: value[:0] for name, value in ends.items()}
        for i in order:
            gaps = np.linalg.norm(self.found["x"] - ends["x"][i], axis=1)
            known = np.flatnonzero(gaps <= self._reach(ends, i))
            if len(known):
                self.hits[known[np.argmin(gaps[known])]] += 1
                continue
            self.found = {name: np.concatenate([value, ends[name][i : i + 1]]) for name, value in self.found.items()}
            self.hits = np.append(self.hits, 1)
        return len(self.hits) - before

    def _reach(self, ends: dict[str, np.ndarray], i: Any) -> float:
        """How far ends may lie apart: a zero eigenvalue leaves the position open."""
        degenerate = np.min(np.abs(ends["eigenvalues"][i])) <= ends["eigenvalue_tol"][i]
        return self.diagonal * (max(self.tol, 1e-3) if degenerate else self.tol)


@jax.jit
def _critical(objective: Objective, starts: Array, radius: Any) -> dict[str, Array]:
    settings = _newton.Settings("critical", True, 100, 0)

    def one(x: Array) -> dict[str, Array]:
        end = _newton.run(settings, objective, x, None, radius)
        evidence = _evidence.dense(objective, end.params, jax.random.key(0))
        return {"x": end.params, "converged": end.converged} | {
            name: evidence[name] for name in ("loss", "grad_norm", "eigenvalues", "eigenvalue_tol")
        }

    return jax.vmap(one)(starts)
