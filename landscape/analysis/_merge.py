r"""Merge trees: at which height the valleys of a landscape join.

Raise a water level $h$: a component of $\{f \le h\}$ is born at each minimum, and two of them join at the saddle
between them. By the elder rule the one with the higher minimum ends there; its *persistence* is the height of the
saddle above its minimum (Edelsbrunner and Harer 2010, chapter VII). The tree is what a disconnectivity graph draws
(Becker and Karplus 1997).

>>> from landscape.analysis import merge_tree_of_graph
>>> tree = merge_tree_of_graph([-3.0, -2.0, -2.5], [(0, 1, -1.0), (1, 2, -0.5), (0, 2, 4.0)])
>>> tree.merges.tolist(), tree.heights.tolist()
([[0, 1], [0, 2]], [-1.0, -0.5])
>>> tree.barriers[2].tolist()
[2.0, 2.0, 0.0]
"""

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from landscape.analysis._basins import find
from landscape.checks import check_count, check_number, reals, short


@dataclass(frozen=True, eq=False)
class MergeTree:
    """Which minima join at which height. A forest where parts are never joined.

    Attributes:
        values: value of each minimum, shape `(n,)`: increasing for a grid, in the order given for a graph.
        labels: index that each minimum had before pruning, shape `(n,)`.
        merges: pairs `(survivor, absorbed)` of minima, shape `(m, 2)`, in the order in which they join: the valley of
            the second, the higher one, becomes part of the valley of the first, which may have absorbed others before.
        heights: height of each merge, shape `(m,)`, increasing.
        minima: index of each minimum on its grid, shape `(n, ndim)`; None for a graph.
        saddles: index on the grid of the highest point of the lowest pass, shape `(m, ndim)`; for a graph, which of
            the given saddles it is, shape `(m,)`.
    """

    values: np.ndarray
    labels: np.ndarray
    merges: np.ndarray
    heights: np.ndarray
    minima: np.ndarray | None
    saddles: np.ndarray

    def __len__(self) -> int:
        return len(self.values)

    @property
    def persistence(self) -> np.ndarray:
        """Depth of each minimum below the height at which it is absorbed, shape `(n,)`; infinite if it never is."""
        depth = np.full(len(self), np.inf)
        absorbed = self.merges[:, 1]
        depth[absorbed] = self.heights - self.values[absorbed]
        return depth

    @property
    def saddle_heights(self) -> np.ndarray:
        """Lowest height at which two minima are joined, shape `(n, n)`: infinite if never; values on the diagonal."""
        heights = np.full((len(self), len(self)), np.inf)
        np.fill_diagonal(heights, self.values)
        members = [[i] for i in range(len(self))]
        for (a, b), height in zip(self.merges.tolist(), self.heights):
            heights[np.ix_(members[a], members[b])] = heights[np.ix_(members[b], members[a])] = height
            members[a] += members[b]
        return heights

    @property
    def barriers(self) -> np.ndarray:
        """Climb `[i, j]` from minimum i on the lowest way to minimum j, shape `(n, n)`; 0 on the diagonal."""
        climb = self.saddle_heights - self.values[:, None]
        np.fill_diagonal(climb, 0.0)
        return climb

    def pruned(self, persistence: float) -> "MergeTree":
        """Without the minima of less persistence, whose valleys count as part of those that absorb them.

        Raises:
            TypeError, ValueError: `persistence` is no number, or NaN, of which nothing is less.
        """
        check_number("persistence", persistence)
        if np.isnan(persistence):
            raise ValueError("persistence must be a number, got nan")
        return self._restricted(self.persistence >= persistence)

    def _restricted(self, keep: np.ndarray) -> "MergeTree":
        """Without some minima that survive no merge with one that is kept."""
        kept = keep[self.merges[:, 1]]
        merges = (np.cumsum(keep) - 1)[self.merges[kept]]
        minima = None if self.minima is None else self.minima[keep]
        return MergeTree(self.values[keep], self.labels[keep], merges, self.heights[kept], minima, self.saddles[kept])


def merge_tree(values: Any, *, connectivity: int | None = None) -> MergeTree:
    """The merge tree of the values on a grid of any dimension.

    Every pixel is led down the steepest way to its minimum, and the basins found are joined by their lowest passes, in
    order (Kruskal). That gives the tree of all pixels: within a sublevel set each pixel reaches its minimum, so what
    connects two basins is a pair of neighbours below the level. A level plateau counts as one minimum.

    Args:
        values: real numbers, any number of axes. NaN and infinity are walls; for part of a landscape set the rest to
            NaN.
        connectivity: how many coordinates may change from a pixel to its neighbours, from 1 (faces only) to the number
            of axes (corners too, the default), as in `scipy.ndimage.generate_binary_structure`. With faces only, a
            narrow diagonal valley breaks up into many minima.

    Returns:
        The tree, minima in the order of their values. Rough values have many shallow minima: see `MergeTree.pruned`.

    Raises:
        TypeError: values that are not real.
        ValueError: a single number, or another connectivity.
    """
    heights = values = reals("the values of a merge tree", values)
    connectivity = values.ndim if connectivity is None else connectivity
    check_count("connectivity", connectivity)
    if not 1 <= connectivity <= values.ndim:
        raise ValueError(f"connectivity must be from 1 to the number of axes, {values.ndim}, got {connectivity}")
    flat = heights.reshape(-1)
    open_ = np.isfinite(flat)
    order = np.argsort(np.where(open_, flat, np.inf), kind="stable")
    rank = np.empty(flat.size, dtype=np.int64)
    rank[order] = np.arange(flat.size)
    offsets = list(_half_neighbourhood(values.ndim, connectivity))
    lowest = _lowest_points(rank.reshape(values.shape), open_.reshape(values.shape), offsets)
    pixels = order[lowest[order] == order]
    pixels = pixels[open_[pixels]]
    basin = np.empty(flat.size, dtype=np.int64)
    basin[pixels] = np.arange(len(pixels))
    basin = np.where(open_, basin[lowest], -1).reshape(values.shape)
    pairs, passes = _passes(basin, rank.reshape(values.shape), offsets, len(pixels))
    kept, merges = _kruskal(np.arange(len(pixels)), pairs)
    tops = order[passes[kept]]
    where = np.stack(np.unravel_index(pixels, values.shape), axis=1)
    saddles = np.stack(np.unravel_index(tops, values.shape), axis=1)
    labels = np.arange(len(pixels))
    return _without_plateaus(MergeTree(flat[pixels], labels, merges, flat[tops], where, saddles))


def _half_neighbourhood(ndim: int, connectivity: int) -> Iterator[tuple[int, ...]]:
    """Offsets to the neighbours, one of each pair of opposite ones."""
    return (o for o in product((-1, 0, 1), repeat=ndim) if o > (0,) * ndim and sum(map(abs, o)) <= connectivity)


def _facing(shape: tuple[int, ...], offset: tuple[int, ...]) -> tuple[Any, Any]:
    """Index of all pixels with a neighbour at this offset, and of those neighbours."""
    here = tuple(slice(max(0, -o), n - max(0, o)) for n, o in zip(shape, offset))
    there = tuple(slice(max(0, o), n - max(0, -o)) for n, o in zip(shape, offset))
    return here, there


def _lowest_points(rank: np.ndarray, open_: np.ndarray, offsets: list[tuple[int, ...]]) -> np.ndarray:
    """Flat index of the minimum that the steepest descent from each pixel ends in."""
    best, target = rank.copy(), np.arange(rank.size).reshape(rank.shape)
    flat = target.copy()
    for offset in offsets:
        here, there = _facing(rank.shape, offset)
        for a, b in ((here, there), (there, here)):
            lower = (rank[b] < best[a]) & open_[a] & open_[b]
            best[a] = np.where(lower, rank[b], best[a])
            target[a] = np.where(lower, flat[b], target[a])
    down = target.reshape(-1)
    while True:
        further = down[down]
        if np.array_equal(further, down):
            return down
        down = further


def _passes(
    basin: np.ndarray, rank: np.ndarray, offsets: list[tuple[int, ...]], num: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of basins that touch, shape `(p, 2)`, with the rank of their lowest pass, in the order of rank."""
    keys, tops = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    for offset in offsets:
        here, there = _facing(basin.shape, offset)
        a, b = basin[here], basin[there]
        across = (a != b) & (a >= 0) & (b >= 0)
        low, high = np.minimum(a, b)[across], np.maximum(a, b)[across]
        keys.append(low * num + high)
        tops.append(np.maximum(rank[here], rank[there])[across])
    key, top = np.concatenate(keys), np.concatenate(tops)
    by_top = np.argsort(top, kind="stable")
    _, first = np.unique(key[by_top], return_index=True)
    lowest = by_top[np.sort(first)]
    return np.stack([key[lowest] // max(1, num), key[lowest] % max(1, num)], axis=1), top[lowest]


def _kruskal(age: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which of the pairs, given in the order of height, join two trees; and those trees `(survivor, absorbed)`.

    `age[i]` is the place of minimum i in the order of values: the lowest one of a tree stands for it.
    """
    oldest = np.argsort(age, kind="stable")
    links, kept, merges = list(range(len(age))), [], []
    for k, (i, j) in enumerate(age[pairs].tolist() if len(pairs) else []):
        a, b = find(links, i), find(links, j)
        if a != b:
            links[max(a, b)] = min(a, b)
            kept.append(k)
            merges.append((min(a, b), max(a, b)))
    return np.array(kept, dtype=np.int64), oldest[np.array(merges, dtype=np.int64).reshape(-1, 2)]


def _without_plateaus(tree: MergeTree) -> MergeTree:
    """Without minima that are absorbed at their own height: parts of a level stretch."""
    level = tree.heights == tree.values[tree.merges[:, 1]]
    if not level.any():
        return tree
    keep = np.ones(len(tree), dtype=bool)
    keep[tree.merges[level, 1]] = False
    return dataclasses.replace(tree._restricted(keep), labels=np.arange(keep.sum()))


def merge_tree_of_graph(values: Any, saddles: Iterable[tuple[int, int, float]]) -> MergeTree:
    """The merge tree of minima joined by saddles, as a search for critical points finds them.

    Args:
        values: value of each minimum, shape `(n,)`.
        saddles: `(i, j, value)` for each saddle: the minima that it joins and its value. Several may join one pair,
            and one that joins a minimum to itself is passed over.

    Returns:
        The tree, minima in the order given.

    Raises:
        TypeError: values that are no real numbers, saddles that are no triples, or indices that are not integers.
        ValueError: values that are not finite numbers, an index without a minimum, or a saddle below a minimum that
            it joins (by more than a relative 1e-5, which rounding may cause).
    """
    values = reals("the values of the minima", values)
    if values.ndim != 1 or not np.all(np.isfinite(values)):
        raise ValueError(f"the values of the minima must be finite, shape (n,), got {values}")
    if not isinstance(saddles, Iterable):
        raise TypeError(f"saddles must be a list of (i, j, value), got {short(saddles)}")
    rows = [_checked_saddle(values, saddle) for saddle in saddles]
    pairs = np.array([row[:2] for row in rows], dtype=np.int64).reshape(-1, 2)
    heights = np.array([row[2] for row in rows], dtype=np.float64)
    order = np.argsort(heights, kind="stable")
    age = np.empty(len(values), dtype=np.int64)
    age[np.argsort(values, kind="stable")] = np.arange(len(values))
    kept, merges = _kruskal(age, pairs[order])
    return MergeTree(values, np.arange(len(values)), merges, heights[order[kept]], None, order[kept])


def _checked_saddle(values: np.ndarray, saddle: Any) -> tuple[int, int, float]:
    if not isinstance(saddle, tuple | list) or len(saddle) != 3:
        raise TypeError(f"a saddle is (i, j, value) with the indices of two minima, got {short(saddle)}")
    i, j, value = saddle
    check_number("the value of a saddle", value)
    for index in (i, j):
        if isinstance(index, bool) or not isinstance(index, int | np.integer):
            raise TypeError(f"a saddle is (i, j, value) with the indices of two minima, got {(i, j, value)}")
        if not 0 <= index < len(values):
            raise ValueError(f"the saddle {(i, j, value)} names a minimum outside 0..{len(values) - 1}")
    higher = max(values[i], values[j])
    if not np.isfinite(value) or (value < higher and not np.isclose(value, higher, rtol=1e-5)):
        raise ValueError(
            f"the saddle {(i, j, value)} must lie above both minima that it joins, {values[i]:g} and {values[j]:g}"
        )
    return int(i), int(j), float(value)
