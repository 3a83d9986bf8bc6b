"""Basins: which endpoints are the same minimum, and what share of the starts reaches it.

Endpoints within `tol` of each other belong together, and so do those joined by a chain of such steps (single
linkage). Labels count from 0; `UNREACHED` and `DIVERGED` stand for the rest.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from landscape.analysis._intervals import wilson_interval
from landscape.checks import check_number, check_share, reals
from landscape.grid import Landscape, check_landscape

UNREACHED = -1
DIVERGED = -2
# Codes of `landscape.training.Outcome`, which this module does not import: it would bring JAX.
_CONVERGED_CODE, _DIVERGED_CODE = 0, 2
_CHUNK = 4_000_000  # numbers held at once while pairs are compared
_RESOLVED = 2.0**52  # cell indices that float64 still tells apart


@dataclass(frozen=True, eq=False)
class Basins:
    """Minima found among endpoints.

    Attributes:
        labels: which minimum each endpoint is, integers of the shape of the sample: 0 and above, `UNREACHED` or
            `DIVERGED`.
        points: a representative of each minimum, shape `(k, d)`: the endpoint of lowest value, or the one nearest to
            the mean where no values are given.
        values: value of each representative, shape `(k,)`, increasing; None where no values are given.
        counts: endpoints of each minimum, shape `(k,)`; decreasing where no values are given.
    """

    labels: np.ndarray
    points: np.ndarray
    values: np.ndarray | None
    counts: np.ndarray


def label_basins(points: Any, *, tol: float, values: Any = None, outcome: Any = None) -> Basins:
    """Tell the minima among endpoints apart, by single linkage in Euclidean distance.

    Two endpoints get one label if and only if a chain of endpoints leads from one to the other in steps of at most
    `tol`. Symmetric copies of a minimum (permuted units) are distinct here; see `landscape.minima` for those.

    Cells of diagonal `tol` are hashed, and only neighbouring cells are compared: about n log n for endpoints that
    gather at minima or lie in up to three dimensions, at worst quadratic in the number of occupied cells.

    Args:
        points: endpoints, shape `(*shape, d)`: of a sample `(n, d)`, or of a landscape, `landscape["end"]`.
        tol: distance at which two endpoints count as one, in units of the coordinates. It should lie between the
            scatter that the stopping rule leaves and the distance of the closest minima.
        values: the loss at each endpoint, shape `shape`. Minima are then ordered by it, the best one first; else by
            how many endpoints they have.
        outcome: how each run ended, the codes of `landscape.training.Outcome`, shape `shape`. Only runs that
            converged get a minimum; leave it out where runs had no criterion to stop at.

    Returns:
        The labels and the minima. An endpoint that is not finite is `UNREACHED`, of a run that diverged `DIVERGED`.

    Raises:
        TypeError: endpoints, values, outcomes or a `tol` that are no real numbers.
        ValueError: shapes that do not fit, or a `tol` that is not positive or that the coordinates cannot resolve.
    """
    points = reals("endpoints", points)
    if points.ndim < 2 or points.shape[-1] == 0:
        raise ValueError(
            f"endpoints must have shape (*shape, d), the coordinates last and d >= 1, got {points.shape}: "
            "give endpoints of one coordinate as points[..., None]"
        )
    shape = points.shape[:-1]
    values = _per_point("values", values, shape)
    outcome = _per_point("outcome", outcome, shape)
    flat = points.reshape(-1, points.shape[-1])
    usable = np.isfinite(flat).all(axis=1)
    labels = np.full(len(flat), UNREACHED)
    if outcome is not None:
        labels[outcome == _DIVERGED_CODE] = DIVERGED
        usable &= outcome == _CONVERGED_CODE
    check_number("tol", tol)
    if not 0 < tol < np.inf:
        raise ValueError(f"tol must be a positive distance in units of the coordinates, got {tol}")
    # in units of a power of two near the largest: squares of distances then stay within the range of a float
    exponent = -int(np.frexp(np.max(np.abs(flat[usable]), initial=tol))[1])
    scaled = np.ldexp(flat[usable], exponent)
    step = float(np.ldexp(tol, exponent))
    if len(scaled) and np.max(np.ptp(scaled, axis=0)) * np.sqrt(points.shape[-1]) > _RESOLVED * step:
        raise ValueError(f"tol={tol} is below what float64 resolves over the coordinates: increase it")
    linked = _single_linkage(scaled, step)
    best, labels[usable], counts = _ordered(scaled, linked, None if values is None else values[usable])
    chosen = np.flatnonzero(usable)[best]
    return Basins(labels.reshape(shape), flat[chosen], None if values is None else values[chosen], counts)


def _per_point(name: str, array: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    """The array flattened, or None; checked to hold one number an endpoint."""
    if array is None:
        return None
    reals(name, array)
    array = np.asarray(array)
    if array.shape != shape:
        raise ValueError(f"{name} must hold one number for each endpoint, shape {shape}, got {array.shape}")
    return array.reshape(-1)


def _ordered(
    points: np.ndarray, cluster: np.ndarray, values: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Index of each cluster's representative, the label of each point, and the counts, all in the order of labels."""
    ids, cluster, counts = np.unique(cluster, return_inverse=True, return_counts=True)
    quality = _distance_to_mean(points, cluster, counts) if values is None else values
    by_cluster = np.lexsort((quality, cluster))
    best = by_cluster[np.cumsum(counts) - counts]
    order = np.argsort(-counts if values is None else values[best], kind="stable")
    rank = np.empty(len(ids), dtype=np.int64)
    rank[order] = np.arange(len(ids))
    return best[order], rank[cluster], counts[order]


def _distance_to_mean(points: np.ndarray, cluster: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Distance of each point from the mean of its cluster."""
    mean = np.stack([np.bincount(cluster, weights=x, minlength=len(counts)) for x in points.T], axis=1)
    return np.linalg.norm(points - (mean / counts[:, None])[cluster], axis=1)


def _single_linkage(points: np.ndarray, tol: float) -> np.ndarray:
    """Cluster of each point, as any integers: exact single linkage.

    Points in one cell of diagonal `tol` are close already. Of two cells that are near, most are decided by the first
    point in each; only what that leaves open is compared point by point.
    """
    if not len(points):
        return np.empty(0, dtype=np.int64)
    cells, member, sizes = _cells(points, tol)
    groups = np.split(np.argsort(member, kind="stable"), np.cumsum(sizes)[:-1]) if len(cells) > 1 else []
    first = points[_first_of_each(member, len(cells))]
    pairs = [np.empty((0, 2), dtype=np.int64), *_near_pairs(cells, points.shape[1])]
    a, b = np.concatenate(pairs).T
    near = np.concatenate(
        [np.empty(0, dtype=bool), *(_within(first[a[s]], first[b[s]], tol) for s in _chunks(len(a), points.shape[1]))]
    )
    root = components(len(cells), a[near], b[near])
    # A cell of one point has been compared whole; in the others another pair may be closer.
    undecided = ~near & (sizes[a] * sizes[b] > 1) & (root[a] != root[b])
    links = list(root)
    for i, j in zip(a[undecided].tolist(), b[undecided].tolist()):
        low, high = find(links, i), find(links, j)
        if low != high and _any_within(points[groups[i]], points[groups[j]], tol):
            links[max(low, high)] = min(low, high)
    return np.array([find(links, i) for i in range(len(links))])[member]


def _cells(points: np.ndarray, tol: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Occupied cells of diagonal `tol` `(m, d)`, the cell of each point, and how many points each cell has."""
    side = tol / np.sqrt(points.shape[1])
    # Off the round numbers at which minima like to lie, where scatter would spread them over 2^d cells.
    origin = points.min(axis=0) - 0.382 * side
    index = np.floor((points - origin) / side).astype(np.int64)
    cells, member, sizes = np.unique(index, axis=0, return_inverse=True, return_counts=True)
    return cells, member.reshape(-1), sizes


def _first_of_each(member: np.ndarray, num: int) -> np.ndarray:
    first = np.empty(num, dtype=np.int64)
    first[member[::-1]] = np.arange(len(member))[::-1]
    return first


def _chunks(num: int, width: int) -> Iterator[slice]:
    """Slices of rows of so many numbers, none of which holds too many."""
    step = max(1, _CHUNK // width)
    return (slice(i, i + step) for i in range(0, num, step))


def _within(x: np.ndarray, y: np.ndarray, tol: float) -> np.ndarray:
    return np.linalg.norm(x - y, axis=-1) <= tol


def _any_within(x: np.ndarray, y: np.ndarray, tol: float) -> bool:
    """Whether any point of `x` is within `tol` of one of `y`."""
    x = x[_gap(x, y.min(axis=0), y.max(axis=0)) <= tol]
    if len(x):
        y = y[_gap(y, x.min(axis=0), x.max(axis=0)) <= tol]
    step = max(1, _CHUNK // max(1, y.size))
    return any(np.any(_within(x[i : i + step, None], y[None], tol)) for i in range(0, len(x), step) if len(y))


def _gap(points: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Distance of points from a box."""
    return np.linalg.norm(np.maximum(0, np.maximum(low - points, points - high)), axis=-1)


def _near_pairs(cells: np.ndarray, dim: int) -> Iterator[np.ndarray]:
    """Pairs of cells that may hold points within `tol`, each `(p, 2)`: a superset found by hashing up to 3 columns.

    Points within `tol`, the diagonal of a cell, lie at most ceil(sqrt(d)) cells apart along every axis.
    """
    widest = np.argsort(-np.ptp(cells, axis=0), kind="stable")[: 3 if len(cells) < 2_000_000 else 2]
    coarse = (cells[:, widest] - cells[:, widest].min(axis=0)) // int(np.ceil(np.sqrt(dim)))
    levels, ranks = zip(*(np.unique(x, return_inverse=True) for x in coarse.T))
    sizes = tuple(len(x) for x in levels)
    keys, block = np.unique(np.ravel_multi_index(ranks, sizes), return_inverse=True)
    order, count = np.argsort(block, kind="stable"), np.bincount(block)
    start = np.cumsum(count) - count
    for offset in _half_of_neighbours(len(widest)):
        a, b = _shifted(keys, levels, sizes, offset)
        for i, j in _products(start[a], count[a], start[b], count[b], dim):
            rows = np.stack([order[i], order[j]], axis=1)
            rows = rows[i < j] if not any(offset) else rows
            gap = np.maximum(np.abs(cells[rows[:, 0]] - cells[rows[:, 1]]) - 1, 0).astype(np.float64)
            yield rows[np.einsum("ij,ij->i", gap, gap) <= dim]


def _half_of_neighbours(dim: int) -> list[tuple[int, ...]]:
    """Offsets to the 3^dim neighbours, one of each pair of opposite ones, and to the cell itself."""
    return [o for o in product((-1, 0, 1), repeat=dim) if o >= (0,) * dim]


def _shifted(keys: np.ndarray, levels: Any, sizes: tuple[int, ...], offset: tuple[int, ...]) -> tuple[Any, Any]:
    """Indices of the blocks that have a neighbour at this offset, and of those neighbours."""
    ranks = np.unravel_index(keys, sizes)
    there, ok = [], np.ones(len(keys), dtype=bool)
    for rank, level, step in zip(ranks, levels, offset):
        wanted = level[rank] + step
        found = np.minimum(np.searchsorted(level, wanted), len(level) - 1)
        ok &= level[found] == wanted
        there.append(found)
    target = np.ravel_multi_index(tuple(there), sizes)
    place = np.minimum(np.searchsorted(keys, target), len(keys) - 1)
    ok &= keys[place] == target
    return np.flatnonzero(ok), place[ok]


def _products(
    start_a: np.ndarray, size_a: np.ndarray, start_b: np.ndarray, size_b: np.ndarray, width: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs of a member of block a and one of block b, for many pairs of blocks, a bounded number at a time."""
    ends = np.cumsum(size_a * size_b)
    total = int(ends[-1]) if len(ends) else 0
    for chunk in _chunks(total, width + 4):
        flat = np.arange(chunk.start, min(chunk.stop, total))
        k = np.searchsorted(ends, flat, side="right")
        local = flat - (ends[k] - size_a[k] * size_b[k])
        yield start_a[k] + local // size_b[k], start_b[k] + local % size_b[k]


def components(num: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Smallest member of the connected component of each of `num` nodes, for edges `(a[i], b[i])`."""
    root = np.arange(num)
    while len(a):
        low, high = np.minimum(root[a], root[b]), np.maximum(root[a], root[b])
        apart = low != high
        a, b = a[apart], b[apart]
        np.minimum.at(root, high[apart], low[apart])
        while np.any(root[root] != root):
            root = root[root]
    return root


def find(links: list[int], i: int) -> int:
    """Root of `i` in a forest of links to smaller indices, halving the way there."""
    while links[i] != i:
        links[i] = links[links[i]]
        i = links[i]
    return i


@dataclass(frozen=True, eq=False)
class BasinFractions:
    """Which share of the runs each label has, with Wilson intervals.

    A share belongs to an optimizer *and* to a distribution of starts: it is a number of neither alone.

    Attributes:
        labels: the labels that occur, increasing, shape `(k,)`; `DIVERGED` and `UNREACHED` are among them.
        counts: runs of each label.
        fractions: share of each label; they sum to 1.
        low: lower ends of the Wilson (1927) score intervals.
        high: their upper ends.
        num: number of runs.
        confidence: that each interval covers the probability of its label, for independent starts.
        optimizer: in words, with its settings.
        initialisation: in words: the distribution of the starts.
    """

    labels: np.ndarray
    counts: np.ndarray
    fractions: np.ndarray
    low: np.ndarray
    high: np.ndarray
    num: int
    confidence: float
    optimizer: str
    initialisation: str

    def __str__(self) -> str:
        names = {DIVERGED: "diverged", UNREACHED: "none reached"}
        head = (
            f"share of {self.num} runs ({self.optimizer}; {self.initialisation}), "
            f"{100 * self.confidence:g} % Wilson intervals"
        )
        width = max(5, *(len(str(names.get(k, k))) for k in self.labels.tolist()))
        rows = zip(self.labels.tolist(), self.fractions, self.low, self.high, self.counts)
        lines = [
            f"{names.get(k, k):>{width}}  {100 * p:5.1f} %  [{100 * low:.1f}, {100 * high:.1f}]  {n}"
            for k, p, low, high, n in rows
        ]
        return "\n".join([head, *lines])


def basin_fractions(
    labels: Any,
    *,
    optimizer: str | None = None,
    initialisation: str | None = None,
    name: str = "label",
    confidence: float = 0.95,
) -> BasinFractions:
    """The share of each label among runs, with Wilson score intervals (Wilson 1927; Brown, Cai and DasGupta 2001).

    The intervals are those of independent starts. The points of a grid are not drawn at random: there they are a
    guide to the resolution of the grid, usually too wide. Each interval holds by itself, not all at once.

    Args:
        labels: integers of any shape, or a basin map, of which the computed points are taken, and the predicted ones
            where the landscape states an error for them.
        optimizer: the optimizer and its settings in words; `labels.meta["optimizer"]` when None.
        initialisation: the distribution of the starts in words; `labels.meta["initialisation"]` when None.
        name: the output that holds the labels of a landscape.
        confidence: of each interval, in (0, 1).

    Raises:
        TypeError: labels that are not integers, or something else than words.
        ValueError: no labels, a confidence outside (0, 1), or nothing said of the optimizer or the initialisation.
    """
    meta = labels.meta if isinstance(labels, Landscape) else {}
    texts = {"optimizer": optimizer, "initialisation": initialisation}
    texts = {key: meta.get(key) if text is None else text for key, text in texts.items()}
    wrong = [key for key, text in texts.items() if not isinstance(text, str | None)]
    if wrong:
        raise TypeError(f"{wrong[0]} must be given in words, got {texts[wrong[0]]!r}")
    unsaid = [key for key, text in texts.items() if not text]
    if unsaid:
        raise ValueError(
            f"a share belongs to an optimizer and an initialisation, and nothing is said of the {unsaid[0]}: "
            f"give {unsaid[0]}='...', or store it with landscape.with_meta({unsaid[0]}='...')"
        )
    check_share("confidence", confidence)
    flat = shown_labels(labels, name)[1] if isinstance(labels, Landscape) else check_labels(labels).reshape(-1)
    if not flat.size:
        raise ValueError("there are no labels to take shares of")
    kinds, counts = np.unique(flat.astype(np.int64), return_counts=True)
    low, high = wilson_interval(counts, flat.size, confidence)
    said = (str(texts["optimizer"]), str(texts["initialisation"]))
    return BasinFractions(kinds, counts, counts / flat.size, low, high, flat.size, confidence, *said)


def shown_labels(landscape: Landscape, name: str = "label") -> tuple[np.ndarray, np.ndarray]:
    """Where a basin map has a label, and those labels.

    Args:
        landscape: a basin map.
        name: the output that holds the labels.

    Returns:
        A boolean mask of shape `grid.shape`: the computed points, or all where a sweep at a tolerance predicted the
        others. And the labels there, shape `(n,)`.

    Raises:
        KeyError: there is no such output.
        TypeError: it is no landscape, or the output does not hold integers.
        ValueError: it holds several numbers a point.
    """
    check_landscape(landscape)
    labels = check_labels(landscape[name])
    if labels.shape != landscape.grid.shape:
        raise ValueError(f"{name!r} must hold one label a point, shape {landscape.grid.shape}, got {labels.shape}")
    shown = np.ones_like(landscape.computed) if landscape.predicts(name) else landscape.computed
    return shown, labels[shown]


def check_labels(labels: Any) -> np.ndarray:
    """The labels as an array.

    Raises:
        TypeError: they are not integers or booleans.
        ValueError: rows of several lengths.
    """
    try:
        labels = np.asarray(labels)
    except ValueError as error:
        raise ValueError("labels must be an array of integers, rows of one length") from error
    if labels.dtype.kind not in "biu":
        raise TypeError(
            f"labels must be integers or booleans, got {labels.dtype}: compare values first, as in values > 0, "
            "or tell endpoints apart with label_basins"
        )
    return labels
