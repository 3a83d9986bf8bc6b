r"""Which minima are the same up to a symmetry of the loss: `distinct`, and the symmetries to declare.

A loss that does not change when a group $G$ acts on its parameters has each minimum in as many copies as its orbit
holds. Two points are one when $\min_{g \in G} |a - g b|$ is at rounding. That minimum over many group elements is
only looked for where cheap *invariants*, numbers that no group element changes, agree: different invariants prove
that the orbits differ. The best matching is exact for copies in general position; elsewhere the distance returned is
that of the best one found, an upper bound, so distinct points are never merged by a matching that was missed.

>>> import numpy as np
>>> from landscape import minima
>>> triangle = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
>>> moved = triangle[[2, 0, 1]] @ np.array([[0.6, -0.8], [0.8, 0.6]]) + 7.0
>>> found = minima.distinct(np.stack([triangle, moved]), np.array([2.5, 2.5]), symmetry=minima.Points())
>>> found.counts
array([2])
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import jax
import numpy as np
from jaxtyping import PyTree

from landscape import _tree
from landscape.checks import reals, short


class Symmetry(Protocol):
    """What `distinct` asks of a symmetry; write your own for other models."""

    def invariants(self, params: PyTree) -> np.ndarray:
        """Numbers `(m,)`, in the units of the parameters, that no element of the group changes."""
        ...

    def distance(self, a: PyTree, b: PyTree) -> float:
        """Euclidean distance of `a` and `b` after the best matching found."""
        ...


@dataclass(frozen=True)
class Identity:
    """No symmetry: the same point is the same parameters."""

    def invariants(self, params: PyTree) -> np.ndarray:
        """None."""
        return np.zeros(0)

    def distance(self, a: PyTree, b: PyTree) -> float:
        """Euclidean distance."""
        return length_of(raveled(a) - raveled(b))


def raveled(params: PyTree) -> np.ndarray:
    return np.concatenate([np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(params)])


def _unit(*arrays: np.ndarray) -> float:
    """A power of two near the largest finite entry: in units of it squares stay within the range of a float."""
    largest = max((np.max(np.abs(x), where=np.isfinite(x), initial=0.0) for x in arrays), default=0.0)
    return float(np.ldexp(1.0, max(int(np.frexp(largest)[1]), -1021))) if largest > 0 else 1.0


def length_of(x: np.ndarray) -> float:
    """Euclidean norm that neither overflows nor underflows."""
    unit = _unit(x)
    return unit * float(np.linalg.norm(x / unit))


@dataclass(frozen=True)
class HiddenUnits:
    """Hidden units of a multilayer perceptron, in any order and, for odd activations, of either sign.

    Parameters are a list of layers `{"kernel": (in, out), "bias": (out,)}`, the bias optional. Units are matched
    layer by layer from the input by linear assignment, then in sweeps over both sides of each layer until the
    distance stops falling (the weight matching of Ainsworth et al. 2023, section 3.2, which for one hidden layer is
    the exact minimum).

    Attributes:
        activation_sign: `"odd"` where the activation is odd (tanh), so that a unit may change its sign.
        layers: indices of the hidden layers whose units may be exchanged; all by default.
    """

    activation_sign: Literal["none", "odd"] = "none"
    layers: tuple[int, ...] | None = None

    def invariants(self, params: PyTree) -> np.ndarray:
        """Sorted norms of what enters and what leaves each unit, and the norms of the layers."""
        unit, (kernels, biases) = _scaled(self._arrays(params))
        norms = [np.linalg.norm(np.vstack(layer)) for layer in zip(kernels, biases)]
        for layer in self._hidden(kernels):
            norms += sorted(np.linalg.norm(np.vstack([kernels[layer], biases[layer]]), axis=0))
            norms += sorted(np.linalg.norm(kernels[layer + 1], axis=1))
        return unit * np.asarray(norms)

    def distance(self, a: PyTree, b: PyTree) -> float:
        """Distance after matching the units of `b` to those of `a`."""
        unit, first, second = _scaled(self._arrays(a), self._arrays(b))
        hidden = self._hidden(first[0])
        for layer in hidden:
            second = self._matched(layer, first, second, both=False)
        best = np.inf
        while (gap := _gap(first, second)) < best:
            best = gap
            for layer in hidden:
                second = self._matched(layer, first, second, both=True)
        return unit * min(best, gap)

    def _matched(self, layer: int, first: Any, second: Any, both: bool) -> Any:
        """`second` with the units of one layer exchanged to be as near to `first` as they can."""
        u, v = (_units(arrays, layer, both) for arrays in (first, second))
        inner = u @ v.T
        worth = np.abs(inner) if self.activation_sign == "odd" else inner
        order = _assign(-worth)  # the norms of the units do not depend on the order
        sign = np.ones(len(order))
        if self.activation_sign == "odd":
            sign = np.where(inner[np.arange(len(order)), order] < 0, -1.0, 1.0)
        kernels, biases = list(second[0]), list(second[1])
        kernels[layer], biases[layer] = kernels[layer][:, order] * sign, biases[layer][:, order] * sign
        kernels[layer + 1] = kernels[layer + 1][order] * sign[:, None]
        return kernels, biases

    def _hidden(self, kernels: list[np.ndarray]) -> Sequence[int]:
        hidden = range(len(kernels) - 1)
        if self.layers is not None and not isinstance(self.layers, list | tuple):
            raise TypeError(f"layers must be a tuple of the numbers of hidden layers, got {short(self.layers)}")
        if self.layers is not None and not all(layer in hidden for layer in self.layers):
            raise ValueError(f"layers={self.layers}, but the hidden layers are numbered {list(hidden)}")
        return hidden if self.layers is None else self.layers

    def _arrays(self, params: PyTree) -> tuple[list[np.ndarray], list[np.ndarray]]:
        if not isinstance(self.activation_sign, str) or self.activation_sign not in ("none", "odd"):
            raise ValueError(f"activation_sign must be 'none' or 'odd', got {self.activation_sign!r}")
        is_layers = isinstance(params, list | tuple) and all(isinstance(p, Mapping) and "kernel" in p for p in params)
        if not is_layers:
            raise TypeError(
                'HiddenUnits needs params as a list of layers {"kernel": (in, out), "bias": (out,)}, got '
                f"{jax.tree.structure(params)}; write a Symmetry of your own for other models"
            )
        kernels = [np.asarray(layer["kernel"], np.float64) for layer in params]
        biases = [layer.get("bias", np.zeros(k.shape[1])) for layer, k in zip(params, kernels)]
        return kernels, [np.asarray(bias, np.float64)[None] for bias in biases]


def _units(arrays: Any, layer: int, both: bool) -> np.ndarray:
    """One row per unit: what enters it and, with `both`, what leaves it."""
    kernels, biases = arrays
    parts = [kernels[layer].T, biases[layer].T]
    return np.concatenate([*parts, kernels[layer + 1]] if both else parts, axis=1)


def _scaled(*networks: Any) -> Any:
    """A unit, and kernels and biases in it."""
    unit = _unit(*(x for kernels, biases in networks for x in (*kernels, *biases)))
    return unit, *(tuple([x / unit for x in arrays] for arrays in network) for network in networks)


def _gap(first: Any, second: Any) -> float:
    return float(np.sqrt(sum(np.sum((a - b) ** 2) for x, y in zip(first, second) for a, b in zip(x, y))))


def _assign(cost: np.ndarray) -> np.ndarray:
    """The column of each row in the cheapest assignment."""
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(cost)[1]


@dataclass(frozen=True, eq=False)
class Neurons:
    r"""Neurons of a student $\sum_i \sigma(w_i \cdot x)$, `{"w": (n, d)}`, of a teacher with orthogonal neurons.

    The loss under Gaussian input does not change when the rows of $w$ are permuted, nor under an orthogonal map
    that takes the set of teacher neurons to itself. Without the teacher, students are compared by their Gram
    matrices up to one permutation: equal ones differ by a rotation, and an equal loss is what says that the rotation
    keeps the teacher.

    Attributes:
        teacher: the teacher's neurons `(k, d)`, orthogonal and of one length, or `None` where it is not known.
    """

    teacher: Any = None

    def invariants(self, params: PyTree) -> np.ndarray:
        """Roots of the Gram eigenvalues, sorted row norms and sorted Gram entries in units of the largest norm."""
        w = _rows(params)
        unit = _unit(w)
        w = w / unit
        gram = w @ w.T
        norms = np.sqrt(np.diagonal(gram))
        parts = [np.linalg.svd(w, compute_uv=False), np.sort(norms), _sorted_pairs(gram) / max(norms.max(), 1e-300)]
        if self.teacher is not None:
            parts.append(np.sort((w @ self._unit_teacher().T).ravel()))
        return unit * np.concatenate(parts)

    def distance(self, a: PyTree, b: PyTree) -> float:
        """Distance after matching the neurons and, by Procrustes' rotation or the teacher's own, the basis."""
        u, v = _rows(a), _rows(b)
        unit = _unit(u, v)
        return unit * self._distance(u / unit, v / unit)

    def _distance(self, u: np.ndarray, v: np.ndarray) -> float:
        if self.teacher is None:
            v = v[_match_gram(u @ u.T, v @ v.T)]
            return float(np.linalg.norm(u - v @ _rotation(v, u)))
        teacher = self._unit_teacher()
        rows, columns = _match_table(u @ teacher.T, v @ teacher.T)
        v = v[rows]
        inside = (v @ teacher.T)[:, columns] @ teacher
        rest_u, rest_v = u - u @ teacher.T @ teacher, v - v @ teacher.T @ teacher
        return float(np.linalg.norm(u - inside - rest_v @ _rotation(rest_v, rest_u)))

    def _unit_teacher(self) -> np.ndarray:
        teacher = reals("Neurons.teacher", self.teacher, finite=True)
        if teacher.ndim != 2 or not teacher.size:
            raise ValueError(f"Neurons.teacher must be neurons (k, d), got {short(self.teacher)}")
        teacher = teacher / _unit(teacher)
        gram = teacher @ teacher.T
        if not np.allclose(gram, gram[0, 0] * np.eye(len(gram)), atol=1e-6 * abs(gram[0, 0])):
            raise ValueError("Neurons.teacher must have orthogonal rows of one length; leave it out for other teachers")
        return teacher / np.sqrt(gram[0, 0])


def _rows(params: PyTree) -> np.ndarray:
    w = reals('neurons, {"w": (n, d)} or (n, d),', params.get("w") if isinstance(params, Mapping) else params)
    if w.ndim != 2:
        raise TypeError(f'expected neurons as {{"w": (n, d)}} or as an array (n, d), got shape {w.shape}')
    return w


def _sorted_pairs(matrix: np.ndarray) -> np.ndarray:
    return np.sort(matrix[np.triu_indices(len(matrix), 1)])


def _rotation(v: np.ndarray, u: np.ndarray) -> np.ndarray:
    """The orthogonal matrix, reflections included, that brings `v` nearest to `u` (Schönemann 1966)."""
    left, _, right = np.linalg.svd(v.T @ u)
    return left @ right


def _signatures(gram: np.ndarray) -> np.ndarray:
    """One row per neuron that does not depend on the order of the others: its norm and its sorted inner products."""
    others = gram[~np.eye(len(gram), dtype=bool)].reshape(len(gram), -1)
    return np.concatenate([np.diagonal(gram)[:, None], np.sort(others, axis=1)], axis=1)


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sum((a[:, None] - b[None]) ** 2, axis=-1)


def _match_gram(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A permutation with `b[order][:, order]` near to `a`: signatures, then repeated assignment, then exchanges.

    To match two Gram matrices is a quadratic assignment problem, hard in general; signatures solve it wherever
    neurons with the same signature are interchangeable, as in the known families of minima.
    """

    def gap(order: np.ndarray) -> float:
        return float(np.sum((a - b[np.ix_(order, order)]) ** 2))

    order = _assign(_squared_distances(_signatures(a), _signatures(b)))
    best, scale = gap(order), 1e-20 * float(np.sum(a**2))
    for _ in range(len(a)):
        own = (np.diagonal(a)[:, None] - np.diagonal(b)[None]) ** 2
        other = _assign(_squared_distances(a, b[:, order]) + own)
        if not gap(other) < best:
            break
        order, best = other, gap(other)
    improved = best > scale
    while improved:
        improved = False
        for i, j in itertools.combinations(range(len(a)), 2):
            other = order.copy()
            other[[i, j]] = other[[j, i]]
            if gap(other) < best * (1 - 1e-9):
                order, best, improved = other, gap(other), best > scale
    return order


def _match_table(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Orders of rows and columns with `b[rows][:, columns]` near to `a`, each in turn the best for the other."""
    rows = _assign(_squared_distances(np.sort(a, axis=1), np.sort(b, axis=1)))
    best, kept = np.inf, (rows, np.arange(a.shape[1]))
    while True:
        columns = _assign(_squared_distances(a.T, b[rows].T))
        gap = float(np.sum((a - b[np.ix_(rows, columns)]) ** 2))
        if not gap < best:
            return kept
        best, kept = gap, (rows, columns)
        rows = _assign(_squared_distances(a, b[:, columns]))


def student_family(w: Any, teacher: Any = None, *, tol: float = 1e-3) -> tuple[int, ...]:
    """The family of a student's minimum: how many neurons are of each kind, in ascending order.

    Minima of the student-teacher problem come in families `(p, k - p)` (Safran & Shamir 2018; Arjevani & Field
    2020): neurons of one kind are interchangeable. Two neurons are of one kind here when their norms and their
    sorted inner products with the other neurons agree. At the global minimum all are, `(k,)`.

    Args:
        w: the student's neurons, `(n, d)` or `{"w": (n, d)}`.
        teacher: the teacher's neurons `(k, d)`, if known: sorted overlaps with them must agree as well.
        tol: how far signatures may differ, relative to the largest squared norm.

    Returns:
        Sizes of the classes of neurons; `(1, 5)` means one neuron apart and five alike.

    Raises:
        TypeError: `w` is not a matrix of real numbers, or `tol` is no number.
        ValueError: `w` is empty or not finite, `teacher` has other inputs, or `tol` is not positive.
    """
    rows = _rows(w)
    if not rows.size or not np.all(np.isfinite(rows)):
        raise ValueError("the student's neurons must be finite, one at least: leave diverged runs out")
    _tree.check_positive("tol", tol)
    unit = _unit(rows)
    rows = rows / unit
    signatures = _signatures(rows @ rows.T)
    if teacher is not None:
        known = reals("teacher", teacher, finite=True)
        if known.ndim != 2 or known.shape[1] != rows.shape[1]:
            raise ValueError(
                f"teacher must be neurons (k, {rows.shape[1]}) like those of the student, got {known.shape}"
            )
        signatures = np.concatenate([signatures, np.sort(rows @ (known / unit).T, axis=1)], axis=1)
    near = np.max(np.abs(signatures[:, None] - signatures[None]), axis=-1)
    near = near <= tol * np.max(np.sum(rows**2, axis=1))
    for _ in range(len(rows)):  # friends of friends
        near = near @ near
    return tuple(sorted(len(set(members)) for members in {tuple(np.flatnonzero(row)) for row in near}))


@dataclass(frozen=True)
class Points:
    """Like points in space, one array `(N, d)`: clusters of atoms, charges on a sphere.

    Translations, rotations, reflections and permutations leave them the same. Frames of `d - 1` points about the
    centroid are laid onto all frames of the other cluster with the same inner products, and the points assigned.
    """

    def invariants(self, params: PyTree) -> np.ndarray:
        """Sorted distances of all pairs."""
        points = self._centred(params)
        unit = _unit(points)
        points = points / unit
        return unit * np.sqrt(np.maximum(_sorted_pairs(_squared_distances(points, points)), 0))

    def distance(self, a: PyTree, b: PyTree) -> float:
        """Distance after the best rigid motion and permutation found."""
        u, v = self._centred(a), self._centred(b)
        unit = _unit(u, v)
        return unit * self._distance(u / unit, v / unit)

    def _distance(self, u: np.ndarray, v: np.ndarray) -> float:
        frame = _frame(u)
        best = _settle(u, v)
        gram, size = u[frame] @ u[frame].T, max(float(np.max(np.sum(u**2, axis=1))), 1e-300)
        allowed = 1e-3 * size
        for other in _frames(v, gram, allowed):
            for mirror in (False, True):
                turned = v @ _frame_rotation(v[list(other)], u[frame], mirror)
                best = min(best, _settle(u, turned))
            if best <= 1e-9 * size**0.5:
                break
        return best

    def _centred(self, params: PyTree) -> np.ndarray:
        leaves = jax.tree.leaves(params)
        if len(leaves) != 1 or np.ndim(leaves[0]) != 2:
            shapes = [np.shape(leaf) for leaf in leaves]
            raise TypeError(f"Points needs params with one array (N, d), a point per row, got shapes {shapes}")
        points = reals("points", leaves[0])
        return points - points.mean(axis=0)


def _frame(points: np.ndarray) -> list[int]:
    """Indices of `d - 1` points that span as much volume about the centroid as can be had greedily."""
    rest, chosen = points.copy(), []
    for _ in range(min(points.shape[1] - 1, len(points))):
        norms = np.linalg.norm(rest, axis=1)
        chosen.append(int(np.argmax(norms)))
        if norms.max() > 0:
            axis = rest[chosen[-1]] / norms.max()
            rest = rest - np.outer(rest @ axis, axis)
    return chosen


def _frames(points: np.ndarray, gram: np.ndarray, allowed: float) -> list[tuple[int, ...]]:
    """All ordered tuples of points whose inner products agree with `gram`."""
    inner = points @ points.T
    tuples: list[tuple[int, ...]] = [()]
    for i in range(len(gram)):
        tuples = [
            (*t, j)
            for t in tuples
            for j in range(len(points))
            if j not in t and np.all(np.abs(inner[j, [*t, j]] - gram[i, : i + 1]) <= allowed)
        ]
    return tuples


def _frame_rotation(v: np.ndarray, u: np.ndarray, mirror: bool) -> np.ndarray:
    """The orthogonal map from one frame to another; the direction that neither holds has a free sign."""
    left, _, right = np.linalg.svd(v.T @ u)
    if mirror:
        left[:, -1] *= -1
    return left @ right


def _settle(u: np.ndarray, v: np.ndarray) -> float:
    """Assign the points, turn onto them, and again while that brings them nearer."""
    best = np.inf
    while True:
        v = v[_assign(_squared_distances(u, v))]
        v = v @ _rotation(v, u)
        gap = float(np.linalg.norm(u - v))
        if not gap < best * (1 - 1e-6):
            return min(gap, best)
        best = gap
