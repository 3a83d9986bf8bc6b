"""Nested sub-grids of a grid, and prediction of each from the next coarser one, in NumPy alone.

Level 0 has about 9 nodes along each axis; every level has about twice the intervals of the one before, and the last
has every point of the grid. All nodes are points of the grid: with `n - 1 = 8 * 2^j` intervals they are equally
spaced, otherwise indices are rounded, so neighbouring intervals differ by one index at most. The levels of an axis end
where it has all its points; the others go on. An axis of one point plays no part.

*Nodes* are points of a level, boolean and numeric arrays of `shape(level)`. *Cells* are the boxes between
neighbouring nodes, arrays with one entry fewer along each axis. A point inside a cell inherits from its lower corner.
"""

from collections.abc import Iterator

import numpy as np

from landscape.grid import Grid

COARSEST = 8  # intervals along an axis at level 0
Cells = Nodes = np.ndarray


class Levels:
    """The nested sub-grids of a grid."""

    def __init__(self, grid: Grid) -> None:
        self._axes = axes = [axis.values for axis in grid.axes if len(axis) > 1]
        self.shape = tuple(map(len, axes))
        self.last = max((_depth(n) for n in self.shape), default=0)
        self._nodes = [tuple(_nodes(n, level) for n in self.shape) for level in range(self.last + 1)]
        self._steps = [
            tuple(Refine(x[c], x[f], c, f) for x, c, f in zip(axes, coarse, fine))
            for coarse, fine in zip(self._nodes, self._nodes[1:])
        ]
        self._where = [_indexer(nodes) for nodes in self._nodes]

    def shape_at(self, level: int) -> tuple[int, ...]:
        """Number of nodes along each axis."""
        return tuple(map(len, self._nodes[level]))

    def pick(self, level: int, values: np.ndarray) -> np.ndarray:
        """The nodes of a level among all points, a view where they are equally spaced."""
        return values.reshape(self.shape)[self._where[level]]

    def flat(self, level: int, nodes: Nodes) -> np.ndarray:
        """C-order indices, in the whole grid, of the nodes that are True."""
        index = [axis[i] for axis, i in zip(self._nodes[level], np.nonzero(nodes))]
        return np.ravel_multi_index(index, self.shape)

    def cell_of(self, level: int, flat: np.ndarray) -> tuple[np.ndarray, ...]:
        """Index of a cell that holds each of these points."""
        point = np.unravel_index(flat, self.shape)
        return tuple(
            np.clip(np.searchsorted(nodes, i, side="right") - 1, 0, len(nodes) - 2)
            for nodes, i in zip(self._nodes[level], point)
        )

    def inherit(self, level: int, nodes: Nodes) -> Nodes:
        """Nodes of the next level, each with the value of the node at or below it."""
        for axis, step in enumerate(self._steps[level]):
            nodes = nodes if step.same else nodes.take(step.parent, axis)
        return nodes

    def inherit_cells(self, level: int, cells: Cells) -> Cells:
        """Cells of the next level, each with the value of the cell that it is part of."""
        for axis, step in enumerate(self._steps[level]):
            cells = cells if step.same else cells.take(step.parent[:-1], axis)
        return cells

    def embed(self, level: int, nodes: Nodes) -> Nodes:
        """Nodes of the next level, False where this level has none."""
        out = np.zeros(self.shape_at(level + 1), dtype=bool)
        out[np.ix_(*(step.kept for step in self._steps[level]))] = nodes
        return out

    def spline(self, level: int, values: Nodes) -> Nodes:
        """Prediction of the next level by cubic splines along each axis (not-a-knot, in the true coordinates)."""
        return self._predict(level, values, "spline")

    def lagrange(self, level: int, values: Nodes) -> Nodes:
        """Prediction of the next level by the cubic through the four nearest nodes along each axis."""
        return self._predict(level, values, "lagrange")

    def differences(self, level: int, values: Nodes, order: int) -> np.ndarray:
        """Divided differences of every run of `order + 1` nodes along each axis; NaN where all of a run is the same.

        The weights of a difference have unit norm. So a polynomial of lower degree gives 0, and independent noise
        gives its own standard deviation, whatever the spacing (Moré & Wild 2011, "Estimating computational noise").
        """
        lines = (np.moveaxis(values, axis, -1).reshape(-1, n) for axis, n in enumerate(values.shape))
        nodes = (x[index] for x, index in zip(self._axes, self._nodes[level]))
        return np.concatenate([_differences(x, line, order).ravel() for x, line in zip(nodes, lines)])

    def _predict(self, level: int, values: Nodes, method: str) -> Nodes:
        for axis in reversed(range(values.ndim)):  # the first axis last: the result is in C order
            step = self._steps[level][axis]
            if not step.same:
                rows = np.ascontiguousarray(np.moveaxis(values, axis, 0))
                fine = np.empty((len(step.parent), rows[0].size))
                fine[step.kept] = rows = rows.reshape(len(rows), -1)
                fine[step.new] = getattr(step, method)(rows)
                values = np.moveaxis(fine.reshape(-1, *np.moveaxis(values, axis, 0).shape[1:]), 0, axis)
        return values


class Refine:
    """One axis, from the nodes of a level to those of the next.

    Args:
        x: coordinates of the coarse nodes, shape `(m,)`, `m >= 4` where there are new nodes.
        fine_x: coordinates of the fine nodes.
        coarse: indices of the coarse nodes in the grid.
        fine: indices of the fine nodes, among them all of `coarse`.
    """

    def __init__(self, x: np.ndarray, fine_x: np.ndarray, coarse: np.ndarray, fine: np.ndarray) -> None:
        self.same = len(coarse) == len(fine)
        self.parent = np.searchsorted(coarse, fine, side="right") - 1
        self.kept = np.searchsorted(fine, coarse)
        self.new = np.setdiff1d(np.arange(len(fine)), self.kept)
        if not self.same:
            self._left = self.parent[self.new]
            self._stencil = np.clip(self._left - 1, 0, len(x) - 4)
            self._weights = _lagrange_weights(x[self._stencil[:, None] + np.arange(4)], fine_x[self.new])
            self._hermite = _hermite_weights(x[self._left], x[self._left + 1], fine_x[self.new])
            self._slopes = _Slopes(x)

    def lagrange(self, rows: np.ndarray) -> np.ndarray:
        """Values at the new nodes, shape `(new, k)`, from those at the coarse ones, `(m, k)`."""
        return sum(w[:, None] * rows[self._stencil + i] for i, w in enumerate(self._weights))

    def spline(self, rows: np.ndarray) -> np.ndarray:
        """As `lagrange`, by the spline through all coarse nodes."""
        slopes = self._slopes(rows)
        ends = (rows[self._left], rows[self._left + 1], slopes[self._left], slopes[self._left + 1])
        return sum(w[:, None] * end for w, end in zip(self._hermite, ends))


class _Slopes:
    """Slopes at its knots of the not-a-knot cubic spline: a tridiagonal system (de Boor 1978, chapter IV), factored."""

    def __init__(self, x: np.ndarray) -> None:
        h = np.diff(x)
        self._h = h[:, None]
        first, last = h[0] + h[1], h[-2] + h[-1]
        lower = np.concatenate([[0.0], h[1:], [last]])
        diagonal = np.concatenate([[h[1]], 2 * (h[:-1] + h[1:]), [h[-2]]])
        upper = np.concatenate([[first], h[:-1], [0.0]])
        for i in range(1, len(x)):
            upper[i - 1] /= diagonal[i - 1]
            diagonal[i] -= lower[i] * upper[i - 1]
        self._inverse, self._lower, self._upper = 1 / diagonal[:, None], (lower / diagonal).tolist(), upper.tolist()

    def __call__(self, y: np.ndarray) -> np.ndarray:
        """Slopes, shape `(m, k)`, from the values at the knots, `(m, k)`."""
        out = self._right_side(y)
        out *= self._inverse
        rows, one = list(out), np.empty_like(out[0])
        for i in range(1, len(rows)):
            rows[i] -= np.multiply(rows[i - 1], self._lower[i], out=one)
        for i in range(len(rows) - 2, -1, -1):
            rows[i] -= np.multiply(rows[i + 1], self._upper[i], out=one)
        return out

    def _right_side(self, y: np.ndarray) -> np.ndarray:
        h = self._h
        rise = np.diff(y, axis=0)
        rise /= h
        out = np.empty_like(y)
        out[1:-1] = (3 * h[1:]) * rise[:-1]
        out[1:-1] += (3 * h[:-1]) * rise[1:]
        first, last = h[0] + h[1], h[-2] + h[-1]
        out[0] = ((h[0] + 2 * first) * h[1] * rise[0] + h[0] ** 2 * rise[1]) / first
        out[-1] = (h[-1] ** 2 * rise[-2] + (2 * last + h[-1]) * h[-2] * rise[-1]) / last
        return out


def _lagrange_weights(x: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Weights of four nodes `x`, shape `(k, 4)`, at `at`, `(k,)`; shape `(4, k)`."""
    others = [[j for j in range(4) if j != i] for i in range(4)]
    return np.stack([np.prod((at[:, None] - x[:, o]) / (x[:, [i]] - x[:, o]), axis=1) for i, o in enumerate(others)])


def _differences(x: np.ndarray, lines: np.ndarray, order: int) -> np.ndarray:
    """Divided differences along lines of values at `x`, shape `(lines, runs)`; see `Levels.differences`."""
    if len(x) <= order:
        return np.zeros((len(lines), 0))
    nodes = np.lib.stride_tricks.sliding_window_view(x, order + 1)
    away = order * (nodes[:, :, None] - nodes[:, None, :]) / (nodes[:, -1:, None] - nodes[:, :1, None])
    weights = 1 / np.prod(away + np.eye(order + 1), axis=2)
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    runs = np.lib.stride_tricks.sliding_window_view(lines, order + 1, axis=1)
    differences = np.einsum("lrk,rk->lr", runs, weights)
    differences[runs.min(axis=2) == runs.max(axis=2)] = np.nan
    return differences


def _hermite_weights(left: np.ndarray, right: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Weights of the values at both ends and of the slopes at both ends, shape `(4, k)`."""
    h = right - left
    t = (at - left) / h
    return np.stack([(1 + 2 * t) * (1 - t) ** 2, t**2 * (3 - 2 * t), h * t * (1 - t) ** 2, h * t**2 * (t - 1)])


# ----------------------------------------------------------------------------------------------- nodes and cells


def corners(cells: Cells) -> Nodes:
    """The nodes that are a corner of a cell that is True."""
    for axis in range(cells.ndim):
        low, high = _ends(cells.ndim, axis)
        out = np.zeros([n + (i == axis) for i, n in enumerate(cells.shape)], dtype=bool)
        out[low] = cells
        out[high] |= cells
        cells = out
    return cells


def touching(nodes: Nodes) -> Cells:
    """The cells of which a corner is True."""
    for axis in range(nodes.ndim):
        low, high = _ends(nodes.ndim, axis)
        nodes = nodes[low] | nodes[high]
    return nodes


def disagreeing(labels: Nodes) -> Cells:
    """The cells whose corners do not all hold the same."""
    least = most = labels
    for axis in range(labels.ndim):
        low, high = _ends(labels.ndim, axis)
        least, most = np.minimum(least[low], least[high]), np.maximum(most[low], most[high])
    return least != most


def widened(values: np.ndarray, times: int = 1) -> np.ndarray:
    """The largest value among the neighbours at most `times` away along each axis (for booleans: any of them)."""
    for axis in range(values.ndim):
        low, high = _ends(values.ndim, axis)
        for _ in range(times):
            out = values.copy()
            np.maximum(out[low], values[high], out=out[low])
            np.maximum(out[high], values[low], out=out[high])
            values = out
    return values


def neighbours(values: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each axis, the values at the lower and the upper node of every interval along it."""
    for axis in range(values.ndim):
        low, high = _ends(values.ndim, axis)
        yield values[low], values[high]


def _ends(ndim: int, axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """All but the last, and all but the first, along an axis."""
    before, after = (slice(None),) * axis, (slice(None),) * (ndim - axis - 1)
    return (*before, slice(None, -1), *after), (*before, slice(1, None), *after)


def _depth(num: int) -> int:
    """The first level that has all `num` points of an axis."""
    return max(0, int(np.ceil(np.log2((num - 1) / COARSEST))))


def _nodes(num: int, level: int) -> np.ndarray:
    """Indices of the nodes: `COARSEST * 2^level` intervals, as equal as whole indices allow."""
    if level >= _depth(num):
        return np.arange(num)
    count = COARSEST << level
    return (2 * np.arange(count + 1) * (num - 1) + count) // (2 * count)


def _indexer(nodes: tuple[np.ndarray, ...]) -> tuple[slice, ...] | tuple[np.ndarray, ...]:
    """What selects these nodes: slices where the indices are equally spaced."""
    steps = [np.unique(np.diff(index)) for index in nodes]
    if all(len(step) == 1 for step in steps):
        return tuple(slice(0, None, int(step[0])) for step in steps)
    return np.ix_(*nodes)
