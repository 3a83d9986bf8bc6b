r"""Boundaries of basins: box-counting dimension, uncertainty exponent, basin entropy.

The number of boxes of side $s$ that a boundary meets grows as $N(s) \propto s^{-D}$. A start that is known to
$\epsilon$ has an uncertain end with probability $f(\epsilon) \propto \epsilon^{\alpha}$, $D = d - \alpha$.

>>> import numpy as np
>>> from landscape.analysis import boundary, box_counting_dimension
>>> x = np.linspace(-1.5, 1.5, 512)
>>> disc = np.add.outer(x**2, x**2) < 1
>>> round(box_counting_dimension(boundary(disc)).dimension, 1)
1.0
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from landscape.adaptive._levels import disagreeing, neighbours
from landscape.analysis._basins import check_labels
from landscape.checks import check_count, reals, short

# The pixels on both sides of a boundary are marked, so boxes of 1 and 2 pixels measure that thickness rather than the
# boundary; above an eighth of the picture so few boxes are left that where they lie decides the count.
SMALLEST, LARGEST_SHARE = 4, 8


@dataclass(frozen=True, eq=False)
class DimensionEstimate:
    """A dimension from box counts.

    Attributes:
        dimension: the estimate; NaN where a count is zero or fewer than two sizes are left.
        stderr: its standard error by the scatter about the law. Counts of nested boxes are not independent and the
            law is only asymptotic, so it understates the error.
        sizes: sides of the boxes in pixels, increasing, shape `(n,)`.
        counts: boxes that the set meets, shape `(n,)`.
    """

    dimension: float
    stderr: float
    sizes: np.ndarray
    counts: np.ndarray

    @property
    def slopes(self) -> np.ndarray:
        """Local slopes -d log N / d log s by central differences, shape `(n,)`. Pool those of several pictures."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return -np.gradient(np.log(self.counts), np.log(self.sizes))


def boundary(labels: Any, *, kind: str = "pixels") -> np.ndarray:
    """Where labels change.

    Args:
        labels: integers or booleans, any number of axes. For values of two signs give `values > 0`.
        kind: `"pixels"` marks the pixels with a neighbour along an axis that has another label, on both sides;
            `"corners"` marks the corners between pixels, where the 2^d pixels around are not all of one label, as
            Sohl-Dickstein (2024) does.

    Returns:
        A boolean mask, of the shape of `labels` for pixels and one less along each axis for corners.

    Raises:
        TypeError: labels that are not integers or booleans.
        ValueError: an unknown kind.
    """
    labels = check_labels(labels)
    if not isinstance(kind, str) or kind not in ("pixels", "corners"):
        raise ValueError(f"kind must be 'pixels' or 'corners', got {kind!r}")
    if kind == "corners":
        return disagreeing(labels)
    mask = np.zeros(labels.shape, dtype=bool)
    for (near, far), (lower, upper) in zip(neighbours(labels), neighbours(mask)):
        differs = near != far
        lower |= differs  # views of the mask
        upper |= differs
    return mask


def box_counting_dimension(mask: Any, *, sizes: Any = "dyadic") -> DimensionEstimate:
    """The box-counting dimension of a set of pixels.

    Boxes start at the first pixel; those cut off by the end of the picture count too. A boundary marked at the corners
    is one pixel thick; marked by the pixels on both sides it is two, which raises the estimate: at 1024 pixels a side
    from 1.01 to 1.03 for a circle and from 1.42 to 1.47 for Newton's method on z^3 = 1.

    Args:
        mask: boolean, any number of axes: the set, for example `boundary(labels, kind="corners")`.
        sizes: `"dyadic"`: boxes of 4, 8, 16, ... pixels up to an eighth of the shortest side, and the slope by least
            squares. `"log10"`: as Sohl-Dickstein (2024) by way of `porespy.metrics.boxcount`: ten sizes equally
            spaced in the logarithm, from 10 pixels to the shortest side, boxes that the set fills not counted, and
            the median of the local slopes. Or the sizes themselves in pixels, by least squares.

    Raises:
        TypeError: a mask that is not boolean.
        ValueError: unknown sizes, sizes that are not positive integers, or a picture too small for two sizes.
    """
    if reals("the mask", mask).ndim < 1 or np.asarray(mask).dtype != bool:
        raise TypeError(f"the mask must be a boolean array, got {short(mask)}: for labels, boundary(labels) is one")
    mask = np.asarray(mask)
    logarithmic = isinstance(sizes, str) and sizes == "log10"
    sides = _sizes(sizes, mask.shape)
    counts = [_count(mask, s) - (_count_full(mask, s) if logarithmic else 0) for s in sides.tolist()]
    return fit_dimension(sides, np.array(counts), median=logarithmic)


def _sizes(sizes: Any, shape: tuple[int, ...]) -> np.ndarray:
    side = min(shape, default=0)
    if isinstance(sizes, str):
        if sizes not in ("dyadic", "log10"):
            raise ValueError(f"sizes must be 'dyadic', 'log10' or integers, got {sizes!r}")
        if side < SMALLEST * 2 * LARGEST_SHARE:
            raise ValueError(
                f"a dimension needs boxes of at least two sizes, so pictures of at least "
                f"{SMALLEST * 2 * LARGEST_SHARE} pixels a side, got {shape}: give sizes=[...]"
            )
        return _dyadic(side) if sizes == "dyadic" else np.unique(np.logspace(1, np.log10(side), 10).astype(np.int64))
    return _integers("sizes", sizes)


def _integers(name: str, values: Any) -> np.ndarray:
    """At least two distinct positive integers, ascending."""
    reals(name, values)
    numbers = np.unique(np.asarray(values))
    if np.ndim(values) != 1 or numbers.dtype.kind not in "iu" or len(numbers) < 2 or numbers[0] < 1:
        raise ValueError(f"{name} must be at least two distinct positive integers, got {short(values)}")
    return numbers


def _dyadic(side: int) -> np.ndarray:
    return 2 ** np.arange(np.log2(SMALLEST), np.floor(np.log2(side / LARGEST_SHARE)) + 1).astype(np.int64)


def _count(mask: np.ndarray, side: int) -> int:
    """How many boxes the set meets."""
    return int(_reduced(np.logical_or, mask, side).sum())


def _count_full(mask: np.ndarray, side: int) -> int:
    """How many boxes the set fills."""
    return int(_reduced(np.logical_and, mask, side).sum())


def _reduced(ufunc: np.ufunc, mask: np.ndarray, side: int) -> np.ndarray:
    for axis in range(mask.ndim):
        mask = ufunc.reduceat(mask, np.arange(0, mask.shape[axis], side), axis=axis)
    return mask


def fit_dimension(sizes: Any, counts: Any, *, median: bool = False) -> DimensionEstimate:
    """The dimension D of a law N(s) ~ s^-D, from counts at several sizes, whatever counted them.

    Args:
        sizes: positive, increasing, shape `(n,)`, n >= 2.
        counts: not negative, shape `(n,)`.
        median: take the median of the local slopes rather than the slope by least squares in the logarithms. Its
            standard error is the one for normal scatter, sqrt(pi / 2 n) times the standard deviation.

    Raises:
        TypeError: arrays that are no real numbers.
        ValueError: arrays that do not fit, sizes that do not increase, or a count that is negative or NaN.
    """
    sizes, numbers = reals("sizes", sizes), reals("counts", counts)
    counts = np.asarray(counts)
    if sizes.ndim != 1 or len(sizes) < 2 or counts.shape != sizes.shape:
        raise ValueError(f"sizes and counts must both have shape (n,), n >= 2, got {sizes.shape} and {counts.shape}")
    if not (sizes[0] > 0 and np.all(np.diff(sizes) > 0)):
        raise ValueError(f"sizes must be positive and increasing, got {sizes}")
    if not np.all(numbers >= 0):
        raise ValueError(f"counts must not be negative, got {counts}")
    if np.any(counts == 0):
        return DimensionEstimate(np.nan, np.nan, sizes, counts)
    if median:
        slopes = DimensionEstimate(np.nan, np.nan, sizes, counts).slopes
        spread = np.sqrt(np.pi / (2 * len(slopes))) * np.std(slopes, ddof=1)
        return DimensionEstimate(float(np.median(slopes)), float(spread), sizes, counts)
    slope, stderr = _slope(np.log(sizes), np.log(counts))
    return DimensionEstimate(-slope, stderr, sizes, counts)


def _slope(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope of the line of least squares and its standard error; NaN for the error of a line through two points."""
    x, y = x - x.mean(), y - y.mean()
    slope = x @ y / (x @ x)
    rest = y - slope * x
    return float(slope), float(np.sqrt(rest @ rest / (len(x) - 2) / (x @ x))) if len(x) > 2 else np.nan


@dataclass(frozen=True, eq=False)
class UncertaintyExponent:
    """How fast the share of uncertain starts falls with the precision of the start.

    Attributes:
        exponent: alpha of f(eps) ~ eps^alpha; NaN where a fraction is zero. 1 for a smooth boundary.
        stderr: its standard error by least squares; it understates, since the radii share their points.
        dimension: of the boundary, the number of axes minus alpha.
        radii: eps in pixels, shape `(n,)`.
        fractions: share of the starts of which another one within eps along an axis has another label, shape `(n,)`.
    """

    exponent: float
    stderr: float
    dimension: float
    radii: np.ndarray
    fractions: np.ndarray


def uncertainty_exponent(labels: Any, *, radii: Any = None) -> UncertaintyExponent:
    """The uncertainty exponent of a basin map (Grebogi, McDonald, Ott and Yorke 1983).

    A point is uncertain at eps if moving it by +eps or -eps along one axis changes the label; the fractions are means
    over the axes. Grebogi et al. draw random points and move them along one axis; here every point of the grid
    farther than the largest eps from its rim is one, so the fractions are exact for the grid.

    Args:
        labels: integers or booleans, any number of axes.
        radii: eps in pixels; 1, 2, 4, ... up to a sixteenth of the shortest side when None.

    Raises:
        TypeError: labels that are not integers or booleans.
        ValueError: radii that are not at least two distinct positive integers, or too large for the grid.
    """
    labels = check_labels(labels)
    side = min(labels.shape, default=0)
    dyadic = 2 ** np.arange(max(0, int(np.log2(max(1, side // 16))) + 1))
    radii = dyadic if radii is None else _integers("radii", radii)
    if len(radii) < 2 or 2 * radii[-1] >= side:
        raise ValueError(
            f"radii must be at least two distinct positive integers below half the shortest side ({side}), got {radii}"
        )
    fractions = np.array([_uncertain(labels, int(r), int(radii[-1])) for r in radii])
    if np.any(fractions == 0):
        return UncertaintyExponent(np.nan, np.nan, np.nan, radii, fractions)
    alpha, stderr = _slope(np.log(radii), np.log(fractions))
    return UncertaintyExponent(alpha, stderr, labels.ndim - alpha, radii, fractions)


def _uncertain(labels: np.ndarray, radius: int, margin: int) -> float:
    """Mean over the axes of the share of the points off the rim whose label changes at this distance."""
    inner = labels[(slice(margin, -margin),) * labels.ndim]
    shares = []
    for axis in range(labels.ndim):
        moved = [np.roll(labels, s, axis)[(slice(margin, -margin),) * labels.ndim] for s in (-radius, radius)]
        shares.append(np.mean((inner != moved[0]) | (inner != moved[1])))
    return float(np.mean(shares))


@dataclass(frozen=True, eq=False)
class BasinEntropy:
    """How uncertain the label is within small boxes, in nats.

    Attributes:
        entropy: S_b, the mean Gibbs entropy over all boxes: 0 for one basin, log k for k basins mixed everywhere.
        boundary_entropy: S_bb, the mean over the boxes with more than one label; NaN where there is none.
        box: side of the boxes in pixels.
        num_boxes: boxes.
        num_boundary_boxes: boxes with more than one label.
    """

    entropy: float
    boundary_entropy: float
    box: int
    num_boxes: int
    num_boundary_boxes: int

    @property
    def is_fractal(self) -> bool:
        """The log 2 criterion: S_bb > log 2 implies a fractal boundary; the converse does not hold."""
        return bool(self.boundary_entropy > np.log(2))


def basin_entropy(labels: Any, *, box: int = 5) -> BasinEntropy:
    """The basin entropy of a map (Daza, Wagemakers, Georgeot, Guery-Odelin and Sanjuan 2016, equations 4 to 6).

    The map is tiled by boxes of `box` pixels a side (5 in the paper, which also draws its boxes at random); what the
    last whole box leaves over is not used. Every label counts as a basin, `UNREACHED` and `DIVERGED` too.

    The log 2 criterion takes it that the boxes of a smooth boundary hold more than two basins only at isolated
    points, which is so for small boxes and a fine map.

    Raises:
        TypeError: labels that are not integers or booleans, or a box that is no integer.
        ValueError: a box below 2 pixels or larger than the map.
    """
    labels = check_labels(labels)
    check_count("box", box)
    if not 2 <= box <= min(labels.shape, default=0):
        raise ValueError(f"box must be from 2 to the shortest side of the map, {labels.shape}, got {box}")
    num = tuple(n // box for n in labels.shape)
    trimmed = labels[tuple(slice(0, n * box) for n in num)]
    # (n0, box, n1, box, ...) -> one row a box
    split = trimmed.reshape([k for n in num for k in (n, box)])
    rows = np.moveaxis(split, range(1, 2 * labels.ndim, 2), range(labels.ndim, 2 * labels.ndim))
    entropy = _row_entropies(rows.reshape(int(np.prod(num)), -1))
    mixed = entropy > 0
    inside = float(entropy[mixed].mean()) if mixed.any() else np.nan
    return BasinEntropy(float(entropy.mean()), inside, box, len(entropy), int(mixed.sum()))


def _row_entropies(rows: np.ndarray) -> np.ndarray:
    """Gibbs entropy of the labels in each row: the mean over its members of -log of the share of their label."""
    rows = np.sort(rows, axis=1)
    num, width = rows.shape
    first = np.ones((num, width), dtype=bool)
    first[:, 1:] = rows[:, 1:] != rows[:, :-1]
    starts = np.flatnonzero(first)
    share = np.diff(starts, append=num * width) / width
    return np.bincount(starts // width, weights=np.where(share < 1, -share * np.log(share), 0.0), minlength=num)
