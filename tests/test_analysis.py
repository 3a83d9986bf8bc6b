"""Numbers from landscapes against closed forms, theorems, brute force and SciPy."""

import doctest
import importlib
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage, stats
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.stats import binomtest

from landscape import analysis
from landscape.grid import Grid, Landscape
from landscape.training import Outcome


@pytest.mark.parametrize("module", ["", "._losses", "._boundaries", "._merge"])
def test_examples_in_the_docstrings(module):
    assert doctest.testmod(importlib.import_module(f"landscape.analysis{module}")).failed == 0


# Barriers


def test_barrier_has_the_three_definitions():
    # Over t = 0, 1/4, .., 1 the line between the ends is 3, 2.75, 2.5, 2.25, 2.
    found = analysis.barrier([3.0, 3.5, 2.0, 3.25, 2.0])
    assert (found.above_line, found.line_position) == (1.0, 0.75)
    assert (found.above_mean, found.above_higher_end, found.position) == (1.0, 0.5, 0.25)
    assert found.ends == (3.0, 2.0)


def test_barrier_of_a_parabola_over_a_slope():
    t = np.linspace(2.0, 6.0, 4001)
    losses = 0.5 + 0.3 * (t - 2) + 0.7 * (t - 2) * (6 - t)  # slope and bump: the excess is 0.7 * 2^2 at t = 4
    found = analysis.barrier(losses, t)
    assert found.above_line == pytest.approx(2.8, rel=1e-6)
    assert found.line_position == pytest.approx(4.0, abs=1e-3)
    top = 4 + 0.3 / 1.4  # where the derivative 0.3 + 0.7 (8 - 2 t) vanishes
    assert found.position == pytest.approx(top, abs=1e-3)
    assert found.above_higher_end == pytest.approx(losses.max() - losses[-1])


def test_a_convex_path_has_no_barrier_and_what_is_not_finite_stays():
    assert analysis.barrier(np.linspace(-1.5, 2.5, 41) ** 2).above_line == 0.0
    assert analysis.barrier(np.linspace(-1.5, 2.5, 41) ** 2).above_higher_end == 0.0
    assert np.isnan(analysis.barrier([0.5, np.nan, 0.25]).above_line)
    assert analysis.barrier([0.5, np.inf, 0.25]).above_mean == np.inf
    assert np.isnan(analysis.barrier([np.inf, 2.0, np.inf]).above_line)


def test_errors_of_barrier():
    with pytest.raises(ValueError, match=r"shape \(n,\) with n >= 2, got \(1,\)"):
        analysis.barrier([0.5])
    with pytest.raises(ValueError, match="strictly increasing"):
        analysis.barrier([0.5, 2.0, 3.0], [0.0, 0.5, 0.5])


# Labels


def same_partition(a, b):
    pairs = set(zip(np.ravel(a).tolist(), np.ravel(b).tolist()))
    return len(pairs) == len({p[0] for p in pairs}) == len({p[1] for p in pairs})


@pytest.mark.parametrize("dim", [1, 2, 3, 5, 20])
@given(seed=st.integers(0, 2**32 - 1), tol=st.floats(0.01, 0.6))
def test_labels_are_those_of_single_linkage(dim, seed, tol):
    rng = np.random.default_rng(seed)
    centres = rng.uniform(-2, 3, (7, dim))
    points = centres[rng.integers(7, size=150)] + rng.normal(size=(150, dim)) * rng.choice([1e-4, 0.05, 0.3], (150, 1))
    expected = fcluster(linkage(points, "single"), tol, "distance")
    assert same_partition(analysis.label_basins(points, tol=tol).labels, expected)


def test_crowded_neighbouring_cells_are_compared_point_by_point():
    # Two discs of 300 points, closest at 0.9 and at 1.1 times the tolerance: only the closest pair decides.
    rng = np.random.default_rng(4)
    angle, radius = rng.uniform(0, 2 * np.pi, 300), 0.3 * np.sqrt(rng.uniform(0, 1, 300))
    disc = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    right = disc[np.argmax(disc[:, 0])]
    for share, num in ((0.9, 1), (1.1, 2)):
        other = right + [share * 0.5, 0.0] + (disc - disc[np.argmin(disc[:, 0])])
        assert len(analysis.label_basins(np.concatenate([disc, other]), tol=0.5).counts) == num


def test_order_representatives_and_counts():
    points = np.array([[2.0], [5.0], [5.001], [2.002], [2.001], [9.0]])
    by_count = analysis.label_basins(points, tol=0.01)
    assert by_count.labels.tolist() == [0, 1, 1, 0, 0, 2]
    assert by_count.counts.tolist() == [3, 2, 1]
    np.testing.assert_array_equal(by_count.points[[0, 2]], [[2.001], [9.0]])  # nearest to the mean
    values = np.array([3.5, 0.75, 0.5, 3.25, 3.75, 2.5])
    by_value = analysis.label_basins(points, tol=0.01, values=values)
    assert by_value.labels.tolist() == [2, 0, 0, 2, 2, 1]
    np.testing.assert_array_equal(by_value.points, [[5.001], [9.0], [2.002]])
    np.testing.assert_array_equal(by_value.values, [0.5, 2.5, 3.25])


def test_runs_without_a_minimum_keep_their_own_labels():
    points = np.array([[[2.0, 3.0], [np.nan, 3.0], [2.0, 3.0]], [[7.0, 3.0], [np.inf, 2.0], [7.5, 3.0]]])
    outcome = np.array([[Outcome.CONVERGED, Outcome.CONVERGED, Outcome.MAX_STEPS], [0, Outcome.DIVERGED, 2]])
    found = analysis.label_basins(points, tol=0.1, outcome=outcome)
    assert found.labels.tolist() == [[0, -1, -1], [1, -2, -2]]
    assert (analysis.UNREACHED, analysis.DIVERGED) == (-1, -2)
    nothing = analysis.label_basins(points, tol=0.1, outcome=np.full((2, 3), Outcome.MAX_STEPS))
    assert nothing.points.shape == (0, 2)
    assert set(nothing.labels.flat) == {-1}


def test_errors_of_labels():
    points = np.array([[2.0, 3.0], [5.0, 3.0]])
    with pytest.raises(ValueError, match=r"shape \(\*shape, d\).*got \(2,\)"):
        analysis.label_basins(points[:, 0], tol=0.1)
    with pytest.raises(ValueError, match=r"values must hold one number for each endpoint, shape \(2,\), got \(3,\)"):
        analysis.label_basins(points, tol=0.1, values=np.ones(3))
    for tol in (0.0, np.nan, -2.0):
        with pytest.raises(ValueError, match="tol must be a positive distance"):
            analysis.label_basins(points, tol=tol)
    with pytest.raises(ValueError, match="below what float64 resolves"):
        analysis.label_basins(points, tol=1e-17)


# Shares

SAID = {"optimizer": "adam(0.02)", "initialisation": "N(0, 1/12)"}


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_shares_have_the_intervals_of_wilson(confidence):
    labels = np.repeat([3, -2, 7, -1], [41, 12, 1, 6])
    found = analysis.basin_fractions(labels, confidence=confidence, **SAID)
    assert found.labels.tolist() == [-2, -1, 3, 7]
    assert found.counts.tolist() == [12, 6, 41, 1]
    np.testing.assert_allclose(found.fractions, found.counts / 60)
    for count, low, high in zip(found.counts, found.low, found.high):
        expected = binomtest(int(count), 60).proportion_ci(confidence, method="wilson")
        np.testing.assert_allclose((low, high), (expected.low, expected.high), atol=1e-14)
    assert (found.num, found.optimizer, found.initialisation) == (60, "adam(0.02)", "N(0, 1/12)")
    assert "diverged   20.0 %" in str(found)


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_means_have_the_intervals_of_student(confidence):
    values = np.random.default_rng(3).normal(2.0, 3.0, size=(4, 7)).astype(np.float32)
    mean, low, high = analysis.mean_interval(values, confidence)
    wide = values.astype(np.float64)
    expected = stats.t.interval(confidence, 6, wide.mean(axis=1), stats.sem(wide, axis=1))
    np.testing.assert_allclose((low, high), expected, rtol=1e-12)
    np.testing.assert_allclose(mean, wide.mean(axis=1), rtol=1e-14)


def test_one_number_has_no_interval():
    mean, low, high = analysis.mean_interval([3.0])
    assert mean == 3.0
    assert np.isnan([low, high]).all()


def test_all_runs_in_one_basin_end_at_one():
    found = analysis.basin_fractions(np.full(30, 4), **SAID)
    assert found.high.tolist() == [1.0]
    assert found.low[0] == pytest.approx(binomtest(30, 30).proportion_ci(0.95, "wilson").low)


def basin_map(labels, **fields):
    labels = np.asarray(labels)
    grid = Grid.of(**{f"x{k}": np.arange(n) * 0.5 for k, n in enumerate(labels.shape)})
    return replace(Landscape(grid, {"label": labels}, np.ones(labels.shape, dtype=bool)), **fields)


def test_shares_of_a_map_count_what_has_a_label():
    computed = np.array([[True, True, True], [True, False, False]])
    partial = basin_map([[3, 3, 2], [3, 0, 0]], computed=computed, meta=SAID)
    assert analysis.basin_fractions(partial).labels.tolist() == [2, 3]
    predicted = analysis.basin_fractions(replace(partial, error={"label": 0.01}))
    assert (predicted.labels.tolist(), predicted.num) == ([0, 2, 3], 6)
    assert analysis.basin_fractions(partial, optimizer="sgd").optimizer == "sgd"


def test_errors_of_shares():
    with pytest.raises(ValueError, match="nothing is said of the initialisation: give initialisation="):
        analysis.basin_fractions([3, 2], optimizer="adam")
    with pytest.raises(ValueError, match="nothing is said of the optimizer"):
        analysis.basin_fractions(basin_map([[3, 2], [3, 2]]))
    with pytest.raises(TypeError, match="labels must be integers or booleans, got float64"):
        analysis.basin_fractions([3.0, 2.0], **SAID)
    with pytest.raises(ValueError, match=r"confidence must lie in \(0, 1\), got 95"):
        analysis.basin_fractions([3, 2], confidence=95, **SAID)
    with pytest.raises(ValueError, match="no labels"):
        analysis.basin_fractions(np.empty(0, dtype=int), **SAID)
    with pytest.raises(ValueError, match=r"one label a point, shape \(2, 2\), got \(2, 2, 5\)"):
        analysis.basin_fractions(basin_map(np.full((2, 2), 3)).assign(label=np.ones((2, 2, 5), dtype=int)), **SAID)
    with pytest.raises(KeyError, match="no output 'verdict'"):
        analysis.basin_fractions(basin_map([[3, 2], [3, 2]]), name="verdict", **SAID)


# Boundaries


def test_boundary_marks_both_sides_and_corners_between():
    labels = np.array([[4, 4, 2], [4, 4, 2], [7, 4, 4]])
    expected = [[0, 1, 1], [1, 1, 1], [1, 1, 1]]
    np.testing.assert_array_equal(analysis.boundary(labels), np.array(expected, dtype=bool))
    np.testing.assert_array_equal(analysis.boundary(labels, kind="corners"), [[False, True], [True, True]])
    assert not analysis.boundary(np.full((3, 4, 5), -2)).any()
    np.testing.assert_array_equal(analysis.boundary(np.array([3, 3, 5])), [False, True, True])


@given(seed=st.integers(0, 2**32 - 1), shape=st.sampled_from([(17,), (9, 12), (5, 6, 7)]))
def test_corners_are_those_of_brute_force(seed, shape):
    labels = np.random.default_rng(seed).integers(-2, 1, shape)
    windows = np.lib.stride_tricks.sliding_window_view(labels, (2,) * len(shape))
    flat = windows.reshape(*windows.shape[: len(shape)], -1)
    mixed = np.any(flat != flat[..., :1], axis=-1)
    np.testing.assert_array_equal(analysis.boundary(labels, kind="corners"), mixed)


def brute_counts(mask, side):
    """Boxes that the set meets, and those of them that it does not fill."""
    corners = np.ndindex(*(-(-n // side) for n in mask.shape))
    boxes = [mask[tuple(slice(side * i, side * (i + 1)) for i in corner)] for corner in corners]
    return sum(b.any() for b in boxes), sum(b.any() and not b.all() for b in boxes)


@pytest.mark.parametrize("shape", [(103,), (70, 91), (66, 70, 67)])
def test_counts_are_those_of_brute_force(shape):
    mask = ndimage.binary_dilation(np.random.default_rng(6).uniform(size=shape) < 0.01, iterations=3)
    found = analysis.box_counting_dimension(mask, sizes=[3, 7, 11])
    assert found.counts.tolist() == [brute_counts(mask, s)[0] for s in (3, 7, 11)]
    found = analysis.box_counting_dimension(mask, sizes="log10")
    assert found.counts.tolist() == [brute_counts(mask, int(s))[1] for s in found.sizes]
    # The sizes that porespy.metrics.boxcount documents: ten, equally spaced in the logarithm, cut to integers.
    assert found.sizes.tolist() == sorted({int(s) for s in np.logspace(1, np.log10(min(shape)), 10)})


def disc(num, radius=0.83):
    x = (np.arange(num) + 0.5) / num * 2 - 1
    return np.add.outer(x**2, x**2) < radius**2


def sierpinski(num):
    """Pascal's triangle modulo 2: the right-angled gasket, exact at every power of two."""
    i = np.arange(num)
    return (i[:, None] & i) == 0


def koch(num):
    """The pixels of the Koch curve, its segments subdivided to less than a quarter of a pixel."""
    points, turn = np.array([0, 1], dtype=complex), np.exp(1j * np.pi / 3)
    for _ in range(int(np.ceil(np.log(4 * num) / np.log(3)))):
        a, third = points[:-1], np.diff(points) / 3
        points = np.append(
            np.stack([a, a + third, a + third + third * turn, a + 2 * third], axis=1).ravel(), points[-1]
        )
    mask = np.zeros((num, num), dtype=bool)
    mask[tuple(np.minimum(num - 1, (num * (points + 0.3j).view(float).reshape(-1, 2)).astype(int)).T)] = True
    return mask


def newton(num, extent=2.0, steps=60):
    """Which root of z^3 = 1 Newton's method reaches from each pixel of a square."""
    x = ((np.arange(num) + 0.5) / num * 2 - 1) * extent
    z = np.add.outer(x, 1j * x)
    for _ in range(steps):
        z = z - (z**3 - 1) / (3 * z**2)
    return np.stack([np.abs(z - root) for root in np.exp(2j * np.pi * np.arange(3) / 3)]).argmin(axis=0)


# The error of a slope over r octaves of box sizes is about (change of log2 N at the ends) / r. At the small end, a set
# one pixel thick adds at most 1/4 of a box to each box of 4 pixels. At the large end, some 8 boxes a side cover the
# set, and where they happen to lie changes their number by 1/8 or so. With r = log2(1024 / 8 / 4) = 5 the sum,
# log2(1.25) + log2(1.125), gives 0.10; with 7 octaves at 4096, 0.07. Sierpinski's gasket falls on the boxes exactly.
OCTAVE_ERROR = np.log2(1.25) + np.log2(1.125)
CURVES = {
    "circle": (lambda n: analysis.boundary(disc(n), kind="corners"), 1.0),
    "koch": (koch, np.log(4) / np.log(3)),
    "newton": (lambda n: analysis.boundary(newton(n), kind="corners"), 1.42),
}


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("num", [1024, pytest.param(4096, marks=pytest.mark.slow)])
def test_dimension_of_known_curves(name, num):
    curve, dimension = CURVES[name]
    found = analysis.box_counting_dimension(curve(num))
    assert found.sizes.tolist() == [2**k for k in range(2, int(np.log2(found.sizes[-1])) + 1)]
    assert found.dimension == pytest.approx(dimension, abs=OCTAVE_ERROR / np.log2(num / 32))


def test_dimension_of_sets_that_fall_on_the_boxes_is_exact():
    found = analysis.box_counting_dimension(sierpinski(1024))
    assert found.dimension == pytest.approx(np.log2(3), abs=1e-12)
    assert found.stderr < 1e-12
    assert analysis.box_counting_dimension(np.ones((128, 256), dtype=bool)).dimension == pytest.approx(2)
    cantor = np.array([True])
    for _ in range(9):
        cantor = np.concatenate([cantor, np.zeros_like(cantor), cantor])
    thirds = analysis.box_counting_dimension(cantor, sizes=3 ** np.arange(1, 8))
    assert thirds.dimension == pytest.approx(np.log(2) / np.log(3), abs=1e-12)
    plane = np.zeros((64, 64, 64), dtype=bool)
    plane[:, 13] = True
    assert analysis.box_counting_dimension(plane).dimension == pytest.approx(2, abs=1e-12)


@pytest.mark.parametrize("name", CURVES)
def test_the_sizes_of_sohl_dickstein_scatter_more(name):
    # Sizes up to the whole picture, of which the last count is one box: the median discards such slopes. It is meant
    # to be pooled over many pictures; of one, it is good to about a tenth.
    curve, dimension = CURVES[name]
    found = analysis.box_counting_dimension(curve(1024), sizes="log10")
    assert found.dimension == np.median(found.slopes)
    assert found.dimension == pytest.approx(dimension, abs=0.1)
    assert len(found.sizes) == 10


def test_dimension_of_a_law_is_its_exponent():
    sizes = np.array([2, 3, 5, 11, 20])
    found = analysis.fit_dimension(sizes, 700 * sizes**-1.37)
    assert found.dimension == pytest.approx(1.37)
    assert found.stderr < 1e-12
    np.testing.assert_allclose(found.slopes, 1.37)
    assert analysis.fit_dimension(sizes, 700 * sizes**-1.37, median=True).dimension == pytest.approx(1.37)
    off = analysis.fit_dimension(sizes, [350.0, 260, 101, 60, 25])
    x, y = np.log(sizes), np.log([350.0, 260, 101, 60, 25])
    (slope, _), cov = np.polyfit(x, y, 1, cov=True)
    assert (off.dimension, off.stderr) == pytest.approx((-slope, np.sqrt(cov[0, 0])))


def test_nothing_to_count_is_nan():
    assert np.isnan(analysis.box_counting_dimension(np.zeros((90, 90), dtype=bool)).dimension)
    assert np.isnan(analysis.uncertainty_exponent(np.full((64, 64), 3)).dimension)


def test_uncertainty_of_a_straight_boundary_has_exponent_one():
    labels = np.full((96, 80), 5)
    labels[37:] = 2
    found = analysis.uncertainty_exponent(labels, radii=[2, 3, 8])
    # Of the 96 - 2 * 8 rows off the rim, 2 r are within r of the change; none along the other axis.
    np.testing.assert_allclose(found.fractions, 0.5 * 2 * np.array([2, 3, 8]) / 80)
    assert (found.exponent, found.dimension) == pytest.approx((1.0, 1.0))


def test_uncertainty_is_that_of_brute_force():
    labels = np.random.default_rng(8).integers(3, size=(31, 34))
    labels[:20] = 5
    found = analysis.uncertainty_exponent(labels, radii=[1, 4])
    inner = [(i, j) for i in range(4, 27) for j in range(4, 30)]
    for r, fraction in zip((1, 4), found.fractions):
        rows = [len({labels[i, j], labels[i - r, j], labels[i + r, j]}) > 1 for i, j in inner]
        columns = [len({labels[i, j], labels[i, j - r], labels[i, j + r]}) > 1 for i, j in inner]
        assert fraction == pytest.approx(np.mean([rows, columns]))


def test_uncertainty_of_known_boundaries():
    # Over r octaves, as for boxes: the share of a smooth curve departs from proportional by at most 1/8 at the largest
    # radius, of a sixteenth of the picture, and by the one pixel in which the boundary is known at the smallest.
    error = (np.log2(1.125) + np.log2(1.25)) / np.log2(1024 / 16)
    assert analysis.uncertainty_exponent(disc(1024)).dimension == pytest.approx(1.0, abs=error)
    assert analysis.uncertainty_exponent(newton(1024)).dimension == pytest.approx(1.42, abs=error)


def test_entropy_of_a_straight_boundary():
    # Boxes of 5: the change lies in the second box, 2 rows to 3.
    labels = np.full((23, 31), 4)
    labels[7:] = -1
    found = analysis.basin_entropy(labels)
    share = 0.4 * np.log(1 / 0.4) + 0.6 * np.log(1 / 0.6)
    assert (found.num_boxes, found.num_boundary_boxes) == (4 * 6, 6)
    assert found.boundary_entropy == pytest.approx(share)
    assert found.entropy == pytest.approx(share / 4)
    assert not found.is_fractal


def test_entropy_is_that_of_brute_force():
    labels = np.random.default_rng(9).integers(-2, 3, (13, 9, 7))
    labels[:6] = 1
    found = analysis.basin_entropy(labels, box=3)
    terms = []
    for corner in np.ndindex(4, 3, 2):
        block = labels[tuple(slice(3 * i, 3 * i + 3) for i in corner)]
        p = np.unique(block, return_counts=True)[1] / 27
        terms.append(-np.sum(p * np.log(p)))
    assert found.entropy == pytest.approx(np.mean(terms))
    assert found.boundary_entropy == pytest.approx(np.mean([t for t in terms if t > 0]))


def test_entropy_of_basins_mixed_everywhere_is_the_log_of_their_number():
    # The mean entropy of N draws among k falls short of log k by (k - 1) / 2 N (Miller 1955).
    labels = np.random.default_rng(10).integers(4, size=(400, 400))
    found = analysis.basin_entropy(labels, box=20)
    assert found.entropy == pytest.approx(np.log(4) - 3 / 800, abs=1e-3)
    assert found.is_fractal


def test_log_2_criterion_tells_newton_from_a_circle():
    assert analysis.basin_entropy(newton(1024)).is_fractal
    assert not analysis.basin_entropy(disc(1024)).is_fractal
    assert np.isnan(analysis.basin_entropy(np.full((9, 9), 2)).boundary_entropy)


def test_errors_of_boundaries():
    with pytest.raises(TypeError, match=r"got float64: compare values first, as in values > 0"):
        analysis.boundary(np.ones((3, 3)))
    with pytest.raises(ValueError, match="kind must be 'pixels' or 'corners', got 'edges'"):
        analysis.boundary(np.ones((3, 3), dtype=int), kind="edges")
    with pytest.raises(TypeError, match="the mask must be a boolean array, got int64 array"):
        analysis.box_counting_dimension(np.ones((90, 90), dtype=int))
    mask = np.ones((60, 90), dtype=bool)
    with pytest.raises(ValueError, match=r"at least 64 pixels a side, got \(60, 90\)"):
        analysis.box_counting_dimension(mask)
    for sizes in ([4], [0, 4], [2.0, 4.0]):
        with pytest.raises(ValueError, match="at least two distinct positive integers"):
            analysis.box_counting_dimension(mask, sizes=sizes)
    with pytest.raises(ValueError, match="'dyadic', 'log10' or integers, got 'log2'"):
        analysis.box_counting_dimension(mask, sizes="log2")
    with pytest.raises(ValueError, match=r"n >= 2, got \(3,\) and \(2,\)"):
        analysis.fit_dimension([2, 3, 5], [7, 5])
    with pytest.raises(ValueError, match="positive and increasing"):
        analysis.fit_dimension([3, 2], [7, 5])
    with pytest.raises(ValueError, match=r"below half the shortest side \(60\), got \[ 2 30\]"):
        analysis.uncertainty_exponent(mask, radii=[2, 30])
    with pytest.raises(ValueError, match=r"from 2 to the shortest side of the map, \(60, 90\), got 61"):
        analysis.basin_entropy(mask, box=61)


# Merge trees


def joined_by_labelling(values, connectivity, threshold):
    """The components of a sublevel set, by SciPy."""
    structure = ndimage.generate_binary_structure(values.ndim, connectivity)
    with np.errstate(invalid="ignore"):
        return ndimage.label((values <= threshold) & np.isfinite(values), structure)


@pytest.mark.parametrize(
    ("shape", "connectivity"), [((25,), 1), ((9, 11), 1), ((9, 11), 2), ((5, 4, 6), 1), ((5, 4, 6), 2), ((5, 4, 6), 3)]
)
@given(seed=st.integers(0, 2**32 - 1))
def test_tree_is_that_of_all_sublevel_sets(shape, connectivity, seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(2, 13, shape).astype(float)  # many ties and plateaus
    values[rng.uniform(size=shape) < 0.15] = np.nan
    tree = analysis.merge_tree(values, connectivity=connectivity)
    joined = tree.saddle_heights
    for threshold in np.unique(values[np.isfinite(values)]):
        regions, num = joined_by_labelling(values, connectivity, threshold)
        born = tree.values <= threshold
        assert num == born.sum() - np.sum(tree.heights <= threshold)
        mine = regions[tuple(tree.minima[born].T)]
        np.testing.assert_array_equal(joined[np.ix_(born, born)] <= threshold, mine[:, None] == mine)


def test_passes_lie_where_the_tree_says():
    values = np.random.default_rng(11).normal(size=(40, 30))
    tree = analysis.merge_tree(values)
    np.testing.assert_array_equal(values[tuple(tree.minima.T)], tree.values)
    np.testing.assert_array_equal(values[tuple(tree.saddles.T)], tree.heights)
    assert np.all(np.diff(tree.heights) >= 0)
    assert np.all(np.diff(tree.values) >= 0)
    assert np.isinf(tree.persistence).tolist() == [True] + [False] * (len(tree) - 1)
    assert len(tree.merges) == len(tree) - 1


def test_barriers_are_minimax_heights():
    values, saddles = random_graph(np.random.default_rng(12))
    tree = analysis.merge_tree_of_graph(values, saddles)
    n = len(values)
    height = np.where(np.eye(n, dtype=bool), values, np.inf)
    for i, j, value in saddles:
        height[i, j] = height[j, i] = min(height[i, j], value) if i != j else height[i, j]
    for k in range(n):  # Floyd and Warshall, with maximum for the sum
        height = np.minimum(height, np.maximum(height[:, k : k + 1], height[k : k + 1]))
    np.testing.assert_array_equal(tree.saddle_heights, height)
    expected = height - values[:, None]
    np.fill_diagonal(expected, 0)
    np.testing.assert_array_equal(tree.barriers, expected)
    lower = np.where(values[None] < values[:, None], expected, np.inf)
    np.testing.assert_array_equal(tree.persistence, lower.min(axis=1))  # the climb to the nearest lower minimum


def random_graph(rng, n=15):
    values = rng.normal(size=n) - 5
    pairs = rng.integers(n, size=(22, 2)).tolist()
    return values, [(i, j, float(rng.uniform(1, 9))) for i, j in pairs]


def mueller_brown(x, y):
    rows = (
        (-200, -1, 0, -10, 1, 0),
        (-100, -1, 0, -10, 0, 0.5),
        (-170, -6.5, 11, -6.5, -0.5, 1.5),
        (15, 0.7, 0.6, 0.7, -1, 1),
    )
    return sum(k * np.exp(a * (x - p) ** 2 + b * (x - p) * (y - q) + c * (y - q) ** 2) for k, a, b, c, p, q in rows)


def test_mueller_brown_by_its_graph_and_by_its_grid():
    # Published values: minima A, B, C and the saddles A-C and C-B.
    minima, (low, high) = np.array([-146.699517, -108.166724, -80.767818]), (-72.248940, -40.664844)
    graph = analysis.merge_tree_of_graph(minima, [(0, 2, high), (1, 2, low)])
    assert graph.merges.tolist() == [[1, 2], [0, 1]]
    np.testing.assert_allclose(graph.heights, [low, high])
    assert graph.barriers[1, 0] == pytest.approx(high - minima[1])
    assert graph.saddles.tolist() == [1, 0]
    x, y = np.linspace(-1.5, 1.2, 541), np.linspace(-0.3, 2.1, 481)
    grid = analysis.merge_tree(mueller_brown(x[:, None], y))
    assert grid.merges.tolist() == graph.merges.tolist()
    # Half a step of 0.005 off the point, at curvatures of at most about 3e3: 3e3 * 2 * 0.0025^2 / 2.
    np.testing.assert_allclose(grid.values, minima, atol=0.02)
    np.testing.assert_allclose(grid.heights, [low, high], atol=0.02)
    np.testing.assert_allclose([x[grid.minima[0, 0]], y[grid.minima[0, 1]]], (-0.558224, 1.441726), atol=0.005)


def test_pruning_keeps_what_persists():
    values = np.array([9.0, 2.0, 3.0, 2.5, 7.0, 4.0, 6.0, 5.0, 8.0])
    tree = analysis.merge_tree(values)
    assert tree.values.tolist() == [2.0, 2.5, 4.0, 5.0]
    np.testing.assert_array_equal(tree.persistence, [np.inf, 0.5, 3.0, 1.0])
    pruned = tree.pruned(1.0)
    assert pruned.labels.tolist() == [0, 2, 3]
    assert pruned.merges.tolist() == [[1, 2], [0, 1]]
    assert pruned.heights.tolist() == [6.0, 7.0]
    np.testing.assert_array_equal(pruned.minima, [[1], [5], [7]])
    np.testing.assert_array_equal(pruned.saddles, [[6], [4]])


def test_walls_part_a_forest_and_integers_do_not_overflow():
    tree = analysis.merge_tree(np.array([3.0, np.inf, 2.0, np.nan, 5.0]))
    assert tree.values.tolist() == [2.0, 3.0, 5.0]
    assert len(tree.merges) == 0
    assert np.isinf(tree.saddle_heights[0, 2])
    empty = analysis.merge_tree(np.full((3, 4), np.nan))
    assert (len(empty), empty.saddle_heights.shape) == (0, (0, 0))
    small = analysis.merge_tree(np.array([-120, 120, -100], dtype=np.int8))
    assert small.persistence.tolist() == [np.inf, 220.0]


def test_errors_of_merge_trees():
    with pytest.raises(
        TypeError, match="the values of a merge tree must be an array of real numbers, got complex128 array"
    ):
        analysis.merge_tree(np.ones((3, 3)) * 1j)
    with pytest.raises(ValueError, match="from 1 to the number of axes, 2, got 3"):
        analysis.merge_tree(np.ones((3, 3)), connectivity=3)
    with pytest.raises(ValueError, match=r"must be finite, shape \(n,\)"):
        analysis.merge_tree_of_graph([2.0, np.nan], [])
    with pytest.raises(TypeError, match="indices of two minima, got"):
        analysis.merge_tree_of_graph([2.0, 3.0], [(0, 1.0, 5.0)])
    with pytest.raises(ValueError, match=r"names a minimum outside 0\.\.1"):
        analysis.merge_tree_of_graph([2.0, 3.0], [(0, 2, 5.0)])
    with pytest.raises(ValueError, match="must lie above both minima that it joins, 2 and 3"):
        analysis.merge_tree_of_graph([2.0, 3.0], [(0, 1, 2.5)])


RAGGED, OBJECTS = [[1, 2], [3]], np.array([1.5, None], object)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: analysis.wilson_interval(11, 10), ValueError, "counts must lie between 0 and num=10, .* got int 11"),
        (lambda: analysis.wilson_interval(-1, 10), ValueError, "counts must lie between 0 and num=10"),
        (lambda: analysis.wilson_interval([3, np.nan], 10), ValueError, "counts must lie between 0 and num=10"),
        (lambda: analysis.wilson_interval("3", 10), TypeError, "counts must be an array of real numbers, got str '3'"),
        (lambda: analysis.wilson_interval(0, 0), ValueError, "num must be positive and finite"),
        (lambda: analysis.wilson_interval(3, None), TypeError, "num must be a number, got None"),
        (lambda: analysis.wilson_interval(3, 10, -0.5), ValueError, r"confidence must lie in \(0, 1\), got -0.5"),
        (lambda: analysis.wilson_interval(3, 10, True), TypeError, "confidence must be a number, got True"),
        (lambda: analysis.mean_interval(3.0), ValueError, r"values must have shape \(\*shape, n\) with n >= 1"),
        (lambda: analysis.mean_interval([]), ValueError, r"values must have shape"),
        (
            lambda: analysis.mean_interval(OBJECTS),
            TypeError,
            "values must be an array of real numbers, got object array",
        ),
        (lambda: analysis.mean_interval([1.0, 2.0], 1.5), ValueError, r"confidence must lie in \(0, 1\), got 1.5"),
        (lambda: analysis.barrier(OBJECTS), TypeError, "the losses of a path must be an array of real numbers"),
        (lambda: analysis.barrier(["a", "b"]), TypeError, "the losses of a path must be an array of real numbers"),
        (lambda: analysis.barrier([1.0, 2.0], positions="01"), TypeError, "positions must be an array of real numbers"),
        (
            lambda: analysis.best_epoch(RAGGED),
            ValueError,
            "curves must be an array of real numbers, rows of one length",
        ),
        (lambda: analysis.best_epoch([1j, 2]), TypeError, "curves must be an array of real numbers"),
        (lambda: analysis.divergence_epoch([1.0], [2.0], margin=np.nan), ValueError, "margin must be numbers"),
        (lambda: analysis.divergence_epoch([1.0], [2.0], margin=[1, 2, 3]), ValueError, "margin must be broadcast"),
        (
            lambda: analysis.generalization_gap({"train_loss": 1}),
            TypeError,
            "must be a Landscape, .* got dict",
        ),
        (lambda: analysis.minimum_offset(None), TypeError, "landscape must be a Landscape, .* got NoneType"),
        (lambda: analysis.shown_labels(np.ones(3)), TypeError, "landscape must be a Landscape, .* got ndarray"),
        (lambda: analysis.label_basins(RAGGED, tol=1), ValueError, "endpoints must be .* rows of one length"),
        (lambda: analysis.label_basins(OBJECTS[:, None], tol=1), TypeError, "endpoints must be an array of real"),
        (lambda: analysis.label_basins(np.eye(2), tol=True), TypeError, "tol must be a number, got True"),
        (lambda: analysis.label_basins(np.eye(2), tol="1"), TypeError, "tol must be a number, got '1'"),
        (lambda: analysis.label_basins(np.eye(2), tol=1, values=OBJECTS), TypeError, "values must be an array of real"),
        (lambda: analysis.basin_fractions(RAGGED, optimizer="a", initialisation="b"), ValueError, "labels must be an"),
        (
            lambda: analysis.basin_fractions([1], optimizer=3, initialisation="b"),
            TypeError,
            "optimizer must be given",
        ),
        (lambda: analysis.boundary(RAGGED), ValueError, "labels must be an array of integers, rows of one length"),
        (lambda: analysis.boundary(np.eye(3, dtype=int), kind=None), ValueError, "kind must be 'pixels' or 'corners'"),
        (lambda: analysis.box_counting_dimension(RAGGED), ValueError, "the mask must be .* rows of one length"),
        (lambda: analysis.box_counting_dimension(np.eye(64, dtype=bool), sizes=RAGGED), ValueError, "sizes must be an"),
        (lambda: analysis.fit_dimension([1, 2, 4], [4, np.nan, 1]), ValueError, "counts must not be negative"),
        (lambda: analysis.fit_dimension([1, 2], "ab"), TypeError, "counts must be an array of real numbers"),
        (lambda: analysis.uncertainty_exponent(np.eye(64, dtype=int), radii="ab"), TypeError, "radii must be an array"),
        (lambda: analysis.basin_entropy(np.eye(8, dtype=int), box=2.5), TypeError, "box must be an integer, got float"),
        (lambda: analysis.merge_tree(RAGGED), ValueError, "the values of a merge tree must be .* rows of one length"),
        (lambda: analysis.merge_tree(np.eye(3), connectivity=1.5), TypeError, "connectivity must be an integer"),
        (lambda: analysis.merge_tree(np.eye(3)).pruned("deep"), TypeError, "persistence must be a number, got 'deep'"),
        (lambda: analysis.merge_tree(np.eye(3)).pruned(np.nan), ValueError, "persistence must be a number, got nan"),
        (lambda: analysis.merge_tree_of_graph([1.0, 2.0], [3]), TypeError, r"a saddle is \(i, j, value\)"),
        (lambda: analysis.merge_tree_of_graph([1.0, 2.0], 3), TypeError, r"saddles must be a list of \(i, j, value\)"),
        (
            lambda: analysis.merge_tree_of_graph([1.0, 2.0], [(0, 1, "high")]),
            TypeError,
            "the value of a saddle",
        ),
    ],
)
def test_what_makes_no_sense_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_numbers_of_half_precision_are_numbers():
    losses = np.asarray([0.5, 2.0, 0.25], ml_dtypes.bfloat16)
    assert analysis.barrier(losses).above_line == 1.625
