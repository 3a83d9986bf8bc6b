"""How many minima several points are, up to a symmetry."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int, PyTree

from landscape import _tree
from landscape.checks import reals, short, warn
from landscape.minima._symmetry import Identity, Symmetry, length_of, raveled
from landscape.moving import parted, read_rows


@dataclass(frozen=True, eq=False)
class Distinct:
    """Minima told apart, those of lower loss first.

    Attributes:
        labels: which minimum each point belongs to, `(n,)`; -1 where loss or parameters are not finite.
        representatives: the point of lowest loss of each, a stack of `m` parameter trees.
        counts: points that belong to each, `(m,)`.
        losses: loss of each representative, `(m,)`.
    """

    labels: Int[np.ndarray, " n"]
    representatives: PyTree
    counts: Int[np.ndarray, " m"]
    losses: Float[np.ndarray, " m"]


def distinct(
    minima: PyTree, losses: Any, *, symmetry: Symmetry | None = None, eigenvalues: Any = None, tol: float = 1e-4
) -> Distinct:
    """Tell minima apart up to a symmetry: by loss, by invariants, then by distance after the best matching.

    Points are taken in ascending order of loss; each joins the first minimum whose loss, invariants and position
    agree within `tol`, relative to a unit plus their size, or founds a new one. The unit of parameters is 1, or the
    length of the longest point where all are shorter, so parameters may be in any unit; that of losses is 1, or the
    largest loss, in whose rounding the smaller ones are. Polish the points first: how far two runs stopped from one
    minimum must be below the tolerance. Points that all lie within `tol` of 0 and of which no two agree may be one
    minimum at 0, of which nothing but rounding is left; they are taken for it, and a warning says so.

    Args:
        minima: parameters of `n` points, a stack or a list of trees.
        losses: their losses, `(n,)`.
        symmetry: `Identity()`, `HiddenUnits(..)`, `Neurons()`, `Points()`, or any object with `invariants(params)`
            and `distance(a, b)`.
        eigenvalues: Hessian eigenvalues `(n, m)` of the points, in ascending order, as further invariants.
        tol: relative tolerance.

    Raises:
        TypeError: parameters that are not real numbers or that the symmetry does not know, or something that is no
            symmetry.
        ValueError: the number of losses or of eigenvalues is not that of the points, or `tol` is not positive and
            finite.
    """
    losses = reals("losses", losses)
    if isinstance(minima, list | tuple):
        minima = read_rows(minima, "minima", num=losses.size, otherwise="give a dict of the layers")
    whole, minima = minima, parted(minima, aloud=True).moving
    _tree.check_params(minima, "minima")
    leaves = {_tree.key_name(p): np.shape(x) for p, x in jax.tree_util.tree_leaves_with_path(minima)}
    if losses.ndim != 1 or {shape[:1] for shape in leaves.values()} != {losses.shape}:
        raise ValueError(f"minima must be a stack with one tree per loss, {losses.shape} losses for leaves {leaves}")
    for path, leaf in jax.tree_util.tree_leaves_with_path(minima):
        reals(f"minima.{_tree.key_name(path)}", leaf)
    eigenvalues = None if eigenvalues is None else reals("eigenvalues", eigenvalues)
    if eigenvalues is not None and (eigenvalues.ndim != 2 or len(eigenvalues) != len(losses)):
        raise ValueError(f"eigenvalues must be (n, m) for {len(losses)} points, got shape {np.shape(eigenvalues)}")
    _tree.check_positive("tol", tol, "relative to the size of what is compared")
    symmetry = Identity() if symmetry is None else symmetry
    is_symmetry = all(callable(getattr(symmetry, name, None)) for name in ("invariants", "distance"))
    if isinstance(symmetry, type) or not is_symmetry:
        raise TypeError(
            "symmetry must be an object with invariants(params) and distance(a, b), as minima.HiddenUnits() is, "
            f"got {short(symmetry)}"
        )
    points = _Points.of(minima, losses, symmetry, eigenvalues, tol)
    labels, heads = _told_apart(points)
    counts = np.bincount(labels[labels >= 0], minlength=len(heads))
    return Distinct(labels, jax.tree.map(lambda x: np.asarray(x)[heads], whole), counts, losses[heads])


def _told_apart(points: "_Points") -> tuple[np.ndarray, np.ndarray]:
    """Labels and first points, in the unit of the points themselves, unless that would tell rounding apart."""
    labels, heads = points.grouped()
    if len(heads) < 2 or len(heads) < np.sum(labels >= 0) or points.units[0] > points.tol:
        return labels, heads
    together = dataclasses.replace(points, units=(1.0, points.units[1])).grouped()
    if len(together[1]) < len(heads):
        warn(
            f"all {len(heads)} points lie within {points.units[0]:.3g} of 0, and no two agree: "
            f"taken for {len(together[1])} minima at 0 with their rounding. Where the parameters are in such units, "
            "multiply them up first"
        )
    return together


@dataclass(frozen=True, eq=False)
class _Points:
    """Points to be told apart; `units` are those of parameters and of losses."""

    stacked: PyTree
    losses: np.ndarray
    symmetry: Symmetry
    eigenvalues: Any
    tol: float
    units: tuple[float, float]

    @classmethod
    def of(cls, stacked: PyTree, losses: np.ndarray, symmetry: Symmetry, eigenvalues: Any, tol: float) -> "_Points":
        """Points in their own units."""
        trees = [jax.tree.map(lambda x, i=i: np.asarray(x)[i], stacked) for i in range(len(losses))]
        lengths = [length_of(x) for x in map(raveled, trees) if np.all(np.isfinite(x))]
        largest = np.max(np.abs(losses), where=np.isfinite(losses), initial=1.0)
        return cls(stacked, losses, symmetry, eigenvalues, tol, (min(1.0, max(lengths, default=1.0)), float(largest)))

    def grouped(self) -> tuple[np.ndarray, np.ndarray]:
        """Labels, and the index of each minimum's first point."""
        labels, heads, known = np.full(len(self.losses), -1), [], []
        trees = [jax.tree.map(lambda x, i=i: np.asarray(x)[i], self.stacked) for i in range(len(self.losses))]
        usable = [
            i for i, tree in enumerate(trees) if np.isfinite(self.losses[i]) and np.all(np.isfinite(raveled(tree)))
        ]
        for i in sorted(usable, key=lambda i: self.losses[i]):
            mine = self._numbers(i, trees[i])
            same = (g for g, head in enumerate(heads) if self._same(trees[head], trees[i], known[g], mine))
            labels[i] = next(same, len(heads))
            if labels[i] == len(heads):
                heads.append(i)
                known.append(mine)
        return labels, np.asarray(heads, dtype=int)

    def _numbers(self, i: int, tree: PyTree) -> list[np.ndarray]:
        own = [self.losses[i : i + 1], np.asarray(self.symmetry.invariants(tree))]
        return own if self.eigenvalues is None else [*own, np.asarray(self.eigenvalues[i])]

    def _same(self, a: PyTree, b: PyTree, numbers_a: list[np.ndarray], numbers_b: list[np.ndarray]) -> bool:
        length, loss = self.units
        for x, y, unit in zip(numbers_a, numbers_b, (loss, length, 1.0)):
            if x.size and not np.max(np.abs(x - y)) <= self.tol * (unit + np.max(np.abs(x))):
                return False
        return self.symmetry.distance(a, b) <= self.tol * (length + length_of(raveled(a)))
