"""Refinement at a tolerance against exact values of closed forms on the whole grid; SciPy for splines, quantiles."""

import dataclasses
import itertools
import json

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import BarycentricInterpolator, CubicSpline
from scipy.stats import beta, binom

from landscape import adaptive
from landscape.adaptive import Labels, Refinement, Smooth, drivers
from landscape.adaptive import _levels as nested
from landscape.grid import Axis, Grid

BFLOAT16 = np.dtype(jax.numpy.bfloat16)


@dataclasses.dataclass
class Done:
    """A finished refinement, the exact values on the whole grid, and what was asked for."""

    refinement: Refinement
    exact: dict
    asks: list

    def __post_init__(self):
        self.statement, self.values = self.refinement.statement, self.refinement.values
        self.evaluations, self.output = self.statement["evaluations"], self.statement["outputs"]

    def off(self, name="f", transform=lambda x: x):
        """Absolute error at every point: 0 where both are the same kind of not finite, infinite where only one is."""
        with np.errstate(invalid="ignore"):
            exact, found = transform(self.exact[name].astype(np.float64)), transform(self.values[name].astype(float))
            off = np.abs(exact - found)
        off[(exact == found) | (np.isnan(exact) & np.isnan(found))] = 0.0
        return np.where(np.isnan(off), np.inf, off)

    def wrong(self, name="f"):
        """Share of points with another label."""
        return np.mean(self.values[name] != self.exact[name])


def refine(grid, spec, *, dtype=None, seed=0, limit=40, **fns):
    """Run to the end; `spec` drives every function."""
    exact = {name: np.asarray(fn(*grid.points().T)) for name, fn in fns.items()}
    exact = {name: values.astype(dtype or values.dtype).reshape(grid.shape) for name, values in exact.items()}
    specs = spec if isinstance(spec, dict) else dict.fromkeys(fns, spec)
    refinement = Refinement(grid, specs, {name: exact[name].dtype for name in specs}, seed=seed)
    asks = []
    while (flat := refinement.ask()).size:
        asks.append(flat)
        refinement.tell(flat, {name: values.ravel()[flat] for name, values in exact.items()})
        assert len(asks) <= limit
    return Done(refinement, exact, asks)


def wave(x, y):
    return np.sin(3 * x) * np.exp(y) + np.cos(4 * x * y)


def pit(x, y):
    """Standard deviation 1 % of the width of [-1, 1]."""
    return 0.3 * x + 0.2 * y**2 - np.exp(-((x - 0.31) ** 2 + (y + 0.17) ** 2) / (2 * 0.02**2))


def ripples(x, y):
    return sum(np.cos(2.0**k * 5 * (x + 0.3 * y) + k) for k in range(7))


def kink(x, y):
    return np.abs(np.sin(3 * x) + y) + 0.5 * x**2


def hole(x, y):
    return np.where(np.hypot(x - 0.3, y + 0.1) < 0.4, np.nan, wave(x, y))


def steps(x, y):
    return np.round(23 * np.exp(-(x**2) - y**2 + x * y)) / 23


def newton(x, y):
    """Which root of z^3 = 1 Newton's method reaches."""
    z = x + 1j * y
    with np.errstate(all="ignore"):
        for _ in range(50):
            z = z - (z**3 - 1) / (3 * z**2)
    distance = np.abs(z[:, None] - np.exp(2j * np.pi * np.arange(3) / 3))
    return np.where(distance.min(axis=1) < 1e-6, distance.argmin(axis=1), 3).astype(np.int32)


def voronoi(x, y, seed=5, num=7):
    """Nearest of random centres."""
    centres = np.random.default_rng(seed).uniform(-1, 1, (num, 2))
    return np.argmin((x[:, None] - centres[:, 0]) ** 2 + (y[:, None] - centres[:, 1]) ** 2, axis=1)


def disc(x, y):
    return np.hypot(x - 0.2, y + 0.3) < 0.55


# --------------------------------------------------------------------------------------------- smooth functions


@pytest.mark.parametrize(("num", "tolerance", "most"), [(129, 1e-2, 0.10), (257, 1e-2, 0.03), (257, 1e-3, 0.03)])
def test_smooth_function_is_within_the_tolerance_after_few_evaluations(num, tolerance, most):
    done = refine(Grid.square(1.0, num), Smooth(tolerance), f=wave)
    spread = np.ptp(done.exact["f"].ravel()[done.asks[0]])
    assert done.output["f"]["range"] == pytest.approx(spread, rel=1e-12)
    assert done.refinement.error["f"] == pytest.approx(tolerance * spread, rel=1e-12)
    assert done.off().max() <= done.refinement.error["f"]
    assert done.evaluations == done.refinement.computed.sum() <= most * num**2
    np.testing.assert_array_equal(done.values["f"][done.refinement.computed], done.exact["f"][done.refinement.computed])


def test_evaluations_hardly_depend_on_the_number_of_points():
    counts = [refine(Grid.square(1.0, n), Smooth(1e-4), f=wave).evaluations for n in (257, 1025)]
    assert counts[1] <= 1.1 * counts[0]


def test_cubic_is_predicted_exactly_from_the_first_round_alone():
    done = refine(Grid.square(2.0, 257), Smooth(1e-6), f=lambda x, y: (x**3 - 2 * x) * (y**2 - 0.3 * y**3 + 5))
    assert [len(flat) for flat in done.asks] == [33**2, 33**2 // 4]
    assert done.off().max() <= 1e-12 * done.output["f"]["range"]


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3])
def test_narrow_pit_is_found_and_resolved(tolerance):
    done = refine(Grid.square(1.0, 257), Smooth(tolerance), f=pit)
    assert done.off().max() <= done.refinement.error["f"]
    assert done.values["f"].min() == pytest.approx(pit(*Grid.square(1.0, 257).points().T).min(), abs=1e-3)
    assert done.evaluations <= 0.06 * 257**2


def test_kink_is_followed():
    done = refine(Grid.square(1.0, 257), Smooth(1e-3), f=kink)
    assert done.off().max() <= done.refinement.error["f"]
    assert done.evaluations <= 0.3 * 257**2


def test_ripples_end_fully_computed_and_exact():
    done = refine(Grid.square(1.0, 129), Smooth(1e-2), f=ripples)
    assert done.refinement.computed.all()
    np.testing.assert_array_equal(done.values["f"], done.exact["f"])
    assert done.refinement.error == {"f": 0.0}
    assert done.output["f"]["fraction"] == 0.0


def test_noise_fails_no_promise():
    noise = np.random.default_rng(3).normal(size=129**2)
    done = refine(Grid.square(1.0, 129), Smooth(0.3), f=lambda x, y: noise)
    assert done.refinement.computed.all()


def test_what_the_first_round_cannot_see_is_bounded_by_the_fraction():
    # 13 x 13 of 257 x 257 points, between the nodes of the first round: no sample of 272 points need find it
    def island(x, y):
        return wave(x, y) + 50.0 * ((np.abs(x - 0.03) < 0.024) & (np.abs(y - 0.03) < 0.024))

    missed = 0
    for seed in range(20):
        done = refine(Grid.square(1.0, 257), Smooth(1e-2), seed=seed, f=island)
        beyond = done.off() > done.refinement.error["f"]
        assert beyond.mean() <= done.output["f"]["fraction"]
        missed += beyond.any()
    assert missed  # otherwise this tests nothing


# -------------------------------------------------------------------------------------- what is not finite, logs


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_disc_that_is_not_finite_is_reproduced(bad):
    def fn(x, y):
        return np.where(np.isnan(hole(x, y)), bad, hole(x, y))

    done = refine(Grid.square(1.0, 257), Smooth(1e-3), f=fn)
    outside = np.isfinite(done.exact["f"])
    np.testing.assert_array_equal(np.isfinite(done.values["f"]), outside)
    np.testing.assert_array_equal(done.values["f"][~outside], np.full((~outside).sum(), bad))
    assert done.off().max() <= done.refinement.error["f"]
    assert done.evaluations <= 0.2 * 257**2
    assert not done.refinement.computed[~outside].all()


def test_nan_and_infinity_side_by_side_are_told_apart():
    def fn(x, y):
        return np.select([x + y > 0.9, x - y > 1.1], [np.nan, np.inf], wave(x, y))

    done = refine(Grid.square(1.0, 129), Smooth(1e-3), f=fn)
    np.testing.assert_array_equal(np.isnan(done.values["f"]), np.isnan(done.exact["f"]))
    np.testing.assert_array_equal(np.isposinf(done.values["f"]), np.isposinf(done.exact["f"]))


def test_nothing_finite_at_all():
    done = refine(Grid.square(1.0, 129), Smooth(1e-3), f=lambda x, y: np.full(x.shape, np.nan))
    assert np.isnan(done.values["f"]).all()
    assert done.evaluations == 33**2 + 33**2 // 4
    assert done.statement["warnings"] == ["'f' has no finite value in the first round"]


def test_blow_up_in_decades():
    def fn(x, y):
        return 1e-3 + (3.1 + 2.9 * x) ** 26 * (1.5 + np.sin(2 * y))

    done = refine(Grid.square(1.0, 257), Smooth(1e-3, transform="log"), f=fn)
    first = np.log10(done.exact["f"].ravel()[done.asks[0]])
    assert done.output["f"]["range"] == pytest.approx(np.ptp(first), rel=1e-12)
    assert done.off(transform=np.log10).max() <= done.refinement.error["f"]
    assert done.evaluations <= 0.2 * 257**2
    assert done.statement["warnings"] == []


def test_logarithm_of_zeros_and_negative_values():
    def fn(x, y):
        return np.select([x < -0.52, x > 0.61], [0.0, -2.0 - y**2], np.exp(3 * wave(x, y)))

    done = refine(Grid.square(1.0, 129), Smooth(1e-2, absolute=True, transform="log"), f=fn)
    zero, negative = done.exact["f"] == 0, done.exact["f"] < 0
    np.testing.assert_array_equal(done.values["f"] == 0, zero)
    np.testing.assert_array_equal(done.values["f"][negative], done.exact["f"][negative])
    positive = np.where(zero | negative, 1.0, done.exact["f"])
    np.testing.assert_array_less(np.abs(np.log10(np.where(zero | negative, 1.0, done.values["f"]) / positive)), 1e-2)
    assert "'f' has negative values, of which there is no logarithm" in done.statement["warnings"][0]


def test_one_spike_draws_a_warning():
    done = refine(Grid.square(1.0, 129), Smooth(1e-2), f=lambda x, y: wave(x, y) + 1e7 * np.exp(9 * (x + y - 2)) ** 4)
    assert "'f' has a range of more than 10,000 times its median" in done.statement["warnings"][0]
    assert "transform='log'" in done.statement["warnings"][0]


def test_rounding_is_not_refined():
    done = refine(Grid.square(1.0, 257), Smooth(1e-3), dtype=np.float32, f=lambda x, y: 700.0 + 1e-3 * wave(x, y))
    floor = 20 * np.finfo(np.float32).eps * np.abs(done.exact["f"]).max()
    assert done.refinement.error["f"] == pytest.approx(floor, rel=1e-3)
    assert done.off().max() <= done.refinement.error["f"]
    assert done.evaluations <= 0.03 * 257**2
    assert "below that it is rounding (float32)" in done.statement["warnings"][0]


def test_narrow_types():
    done = refine(Grid.square(1.0, 129), Smooth(1e-2), dtype=BFLOAT16, f=wave)
    assert done.values["f"].dtype == BFLOAT16
    assert done.refinement.error["f"] == pytest.approx(20 * 2.0**-7 * np.abs(done.exact["f"]).max(), rel=0.05)
    assert done.off().max() <= done.refinement.error["f"]


def test_values_beyond_all_arithmetic_are_not_lost():
    def fn(x, y):
        return np.where(x > 0.3, 1.7e308, -1.7e308) * (0.5 + 0.5 * y)

    done = refine(Grid.square(1.0, 129), Smooth(1e-2), f=fn)
    assert np.isfinite(done.refinement.error["f"])
    assert np.isfinite(done.values["f"]).all()
    half = [0.5 * values["f"] for values in (done.values, done.exact)]  # their difference may overflow
    assert np.abs(half[0] - half[1]).max() <= 0.5 * done.refinement.error["f"]


# -------------------------------------------------------------------------------------------------- any grid


def irregular(num, seed):
    """Coordinates with spacings that differ by up to 3."""
    return np.cumsum(np.random.default_rng(seed).uniform(0.01, 0.03, num))


@pytest.mark.parametrize(
    "grid",
    [
        Grid.of(x=np.linspace(-1, 1, 200), y=np.linspace(-1, 1, 131)),
        Grid.of(x=np.linspace(-1, 1, 258), y=np.linspace(-1, 1, 259)),
        Grid.of(x=np.linspace(-1, 1, 700), y=np.linspace(-1, 1, 5)),
        Grid.of(x=np.linspace(-1, 1, 3), y=np.linspace(-1, 1, 1025)),
        Grid.of(x=irregular(150, 1) - 1, y=irregular(190, 2) - 2),
        Grid.of(x=np.linspace(-1, 1, 300), y=[0.4], z=np.linspace(-1, 1, 100)),
    ],
    ids=["not dyadic", "one more", "long and narrow", "three rows", "irregular", "an axis of one"],
)
def test_grids_of_any_shape_and_spacing(grid):
    done = refine(grid, Smooth(1e-3), f=lambda *c: wave(c[0], c[-1]))
    assert done.off().max() <= done.refinement.error["f"]
    assert done.evaluations < 0.35 * grid.size


def test_lines_and_volumes():
    line = refine(Grid.line((-1, 2), 2001), Smooth(1e-4), f=lambda x: np.sin(5 * x) / (1.3 + x**2))
    assert line.off().max() <= line.refinement.error["f"]
    assert line.evaluations <= 300
    volume = Grid.of(**{axis: np.linspace(-1, 1, 65) for axis in "xyz"})
    solid = refine(volume, Smooth(1e-3), f=lambda x, y, z: wave(x, y) * (z + 2) ** 2 + wave(z, x))
    assert solid.off().max() <= solid.refinement.error["f"]
    assert solid.evaluations < 0.2 * volume.size


@pytest.mark.parametrize("shape", [(1,), (2,), (150,), (33, 33), (51, 51), (1, 1), (9, 2, 5), (5, 4, 3, 40)])
def test_small_grids_and_many_axes_are_evaluated_wholly_at_once(shape):
    grid = Grid.of(**{f"c{i}": np.linspace(0.5, 2.0 + i, n) for i, n in enumerate(shape)})
    done = refine(grid, Smooth(1e-2), f=lambda *c: sum((i + 2) * x**2 for i, x in enumerate(c)))
    assert len(done.asks) == 1
    assert done.refinement.computed.all()
    assert done.refinement.error == {"f": 0.0}
    np.testing.assert_array_equal(done.values["f"], done.exact["f"])


# ------------------------------------------------------------------------------------------------ the course


@pytest.mark.parametrize("fn", [wave, pit, kink, hole, ripples, steps])
def test_no_point_is_asked_for_twice_and_asks_are_in_order(fn):
    done = refine(Grid.square(1.0, 129), Smooth(1e-3), f=fn)
    asked = np.concatenate(done.asks)
    assert len(np.unique(asked)) == len(asked) == done.evaluations
    assert all(np.all(np.diff(flat) > 0) for flat in done.asks)
    assert np.array_equal(np.sort(asked), np.flatnonzero(done.refinement.computed))
    assert done.statement["rounds"] == len(done.asks)


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_telling_again_resumes(stop):
    grid = Grid.square(1.0, 257)
    whole = refine(grid, Smooth(1e-3), seed=7, f=kink)
    again = Refinement(grid, {"f": Smooth(1e-3)}, {"f": np.dtype(float)}, seed=7)
    for flat in whole.asks[:stop]:
        again.tell(flat, {"f": whole.exact["f"].ravel()[flat]})
    for flat in whole.asks[stop:]:
        np.testing.assert_array_equal(again.ask(), flat)
        again.tell(flat, {"f": whole.exact["f"].ravel()[flat]})
    assert again.ask().size == 0
    np.testing.assert_array_equal(again.values["f"], whole.values["f"])
    assert again.statement == whole.statement


def test_seed_moves_the_validation_points_alone():
    one, two = (refine(Grid.square(1.0, 129), Smooth(1e-3), seed=seed, f=wave) for seed in (2, 3))
    assert all(np.array_equal(a, b) for a, b in zip(one.asks[:-1], two.asks[:-1]))
    assert not np.array_equal(one.asks[-1], two.asks[-1])


def test_validation_finds_what_refinement_missed_and_then_asks_for_all_about_it():
    # a block of 14 x 14 points between nodes of the first round, 8 apart
    def block(x, y):
        i, j = np.rint((x + 1) * 128), np.rint((y + 1) * 128)
        inside = (i % 8 != 0) & (j % 8 != 0) & (np.abs(i - 100) < 24) & (np.abs(j - 60) < 24)
        return wave(x, y) + 9.0 * inside

    done = refine(Grid.square(1.0, 257), Smooth(1e-2), f=block)
    assert done.statement["validation"]["rounds"] > 1
    assert done.statement["validation"]["failures"]["f"] > 0
    assert done.off().max() <= done.refinement.error["f"]


def test_failing_again_and_again_ends_with_everything():
    def dust(x, y):  # never at a node of the first round
        i, j = np.rint((x + 1) * 128).astype(int), np.rint((y + 1) * 128).astype(int)
        return wave(x, y) + 30.0 * ((i * 5 + j * 3) % 97 == 1) * ((i % 8 > 0) & (j % 8 > 0))

    done = refine(Grid.square(1.0, 257), Smooth(1e-2), f=dust)
    assert done.refinement.computed.all()
    assert done.statement["validation"]["rounds"] <= 6
    assert done.refinement.error == {"f": 0.0}


def test_unknown_before_the_end():
    refinement = Refinement(Grid.square(1.0, 129), {"f": Smooth(0.02), "b": Labels()}, {"f": np.float32, "b": np.int8})
    assert not refinement.computed.any()
    assert np.isnan(refinement.values["f"]).all()
    assert refinement.values["f"].dtype == np.float32
    assert not refinement.values["b"].any()
    assert refinement.error == {"f": None, "b": None}
    assert refinement.statement["outputs"]["f"]["fraction"] == 1.0


def test_several_drivers_refine_the_union():
    grid = Grid.square(1.0, 257)
    one, other = refine(grid, Smooth(1e-3), f=pit), refine(grid, Labels(), b=disc)
    both = refine(grid, {"f": Smooth(1e-3), "b": Labels()}, f=pit, b=disc)
    assert max(one.evaluations, other.evaluations) < both.evaluations <= one.evaluations + other.evaluations
    assert both.off("f").max() <= both.refinement.error["f"]
    assert both.wrong("b") == 0
    assert both.refinement.error["b"] is None


# ------------------------------------------------------------------------------------------------------ steps


def test_steps_take_no_part_unless_named():
    grid = Grid.square(1.0, 257)
    outputs = {"f": ((), np.dtype(float)), "accuracy": ((), np.dtype(float))}
    both = refine(grid, drivers(1e-2, outputs), f=wave, accuracy=steps)
    alone = refine(grid, Smooth(1e-2), f=wave)
    assert list(both.values) == list(both.refinement.error) == ["f"]
    assert "looks piecewise constant in the first round" in both.statement["left_out"]["accuracy"]
    assert both.evaluations == alone.evaluations
    named = refine(grid, drivers({"accuracy": 1e-2}, outputs), f=wave, accuracy=steps)
    assert named.evaluations > 0.5 * grid.size
    assert named.off("accuracy").max() <= named.refinement.error["accuracy"]


@pytest.mark.parametrize("num", [16, 360, 1437, 9000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_accuracy_over_so_many_examples_is_steps(num, dtype):
    slopes = np.random.default_rng(num).normal(size=(3, num))

    def accuracy(x, y):
        return sum(a * x + b * y + 0.5 * c > 0 for a, b, c in slopes.T) / num

    done = refine(Grid.square(1.0, 129), Smooth(1e-2, unless_stepped=True), dtype=dtype, f=accuracy)
    assert list(done.statement["left_out"]) == ["f"]


def test_nothing_but_steps_is_evaluated_wholly():
    done = refine(Grid.square(1.0, 129), Smooth(1e-2, unless_stepped=True), f=steps)
    assert done.refinement.computed.all()
    assert [len(flat) for flat in done.asks] == [33**2, 129**2 - 33**2]


@pytest.mark.parametrize(
    "fn",
    [
        lambda x, y: x**2,
        lambda x, y: x**2 + 3 * y**2,
        lambda x, y: np.abs(x) + np.abs(y),
        lambda x, y: (25 * x**2 + 5 * y - 11) ** 2 + (5 * x + 25 * y**2 - 7) ** 2,
        lambda x, y: (700 + 1e-3 * wave(x, y)).astype(np.float32),
        lambda x, y: np.maximum(np.hypot(x, y) - 0.5, 0),
        lambda x, y: np.full(x.shape, 3.0),
        lambda x, y: np.abs(y),
    ],
    ids=["one axis", "symmetric", "kinks", "Himmelblau", "rounding", "plateau", "constant", "even"],
)
@pytest.mark.parametrize("num", [129, 130])
def test_symmetry_and_plateaus_are_not_steps(fn, num):
    assert refine(Grid.square(1.0, num), Smooth(1e-2, unless_stepped=True), f=fn).statement["left_out"] == {}


def waves(seed, level, span, side=129):
    """A random smooth surface: six waves, from `level` to `level + span`."""
    grid, rng = Grid.square(1.0, side), np.random.default_rng(seed)
    (x, y), numbers = grid.points().T, rng.normal(size=(6, 4))
    total = sum(d * np.sin(2 * a * x + 2 * b * y + 3 * c) for a, b, c, d in numbers)
    return level + span * (total - total.min()) / np.ptp(total)


@pytest.mark.parametrize(("level", "span"), [(2.3, 0.3), (2.3, 0.1), (2.3, 3.0), (0.1, 10.0), (10.0, 1e-2)])
def test_a_smooth_loss_in_float32_is_predicted(level, span):
    grid = Grid.square(1.0, 129)
    for seed in range(25):
        values = waves(seed, level, span)
        spec = drivers(1e-2, {"f": ((), np.dtype(np.float32))})
        done = refine(grid, spec, dtype=np.float32, f=lambda x, y, values=values: values)
        assert done.statement["left_out"] == {}
        assert done.evaluations < 0.3 * grid.size
        assert done.off().max() <= done.refinement.error["f"]


PROFILES = {
    "gaussian": lambda u: np.exp(-(u**2) / 0.02),
    "narrow": lambda u: np.exp(-(u**2) / 0.001),
    "quartic": lambda u: u**4,
    "kink": np.abs,
    "relu": lambda u: np.maximum(u - 0.1, 0),
    "cliff": lambda u: np.tanh(5 * u),
}


def looks_stepped(values, grid=None):
    """Whether values are left out after the first round."""
    grid = grid or Grid.square(1.0, 129)
    refinement = Refinement(grid, {"f": Smooth(1e-2, unless_stepped=True)}, {"f": values.dtype})
    flat = refinement.ask()
    refinement.tell(flat, {"f": values.ravel()[flat]})
    return list(refinement.statement["left_out"]) == ["f"]


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("level", [0.0, 2.3])
def test_a_ridge_at_any_angle_is_not_steps(profile, dtype, level):
    x, y = Grid.square(1.0, 129).points().T
    for degrees in (0, 10, 15, 20, 26.565, 30, 36.87, 37, 40, 45, 53.13, 75):
        along = np.cos(np.deg2rad(degrees)) * x + np.sin(np.deg2rad(degrees)) * y
        assert not looks_stepped((level + profile(along)).astype(dtype)), degrees


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("degree", range(1, 12))
def test_polynomials_on_a_lattice_are_not_steps(degree, dtype):
    (x, y), rng = Grid.square(1.0, 129).points().T, np.random.default_rng(degree)
    for coefficients in rng.integers(-3, 4, (4, degree + 1, degree + 1)):
        total = sum(c * x**i * y**j for (i, j), c in np.ndenumerate(coefficients) if i + j <= degree)
        assert not looks_stepped(total.astype(dtype))
    assert not looks_stepped((np.abs(x) ** degree + np.abs(y) ** degree).astype(dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("edge", [-1.0, 0.0, 0.5, 0.9])
def test_a_direction_on_which_little_depends_makes_no_steps(edge, dtype):
    x, y = Grid.square(1.0, 129).points().T
    for dead in (x**2 + np.maximum(y - edge, 0) ** 2, 2.3 + np.sin(3 * x) + 3e-7 * y):
        assert not looks_stepped(dead.astype(dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("levels", [1, 2, 5, 20, 100, 500, 3000])
def test_a_loss_rounded_to_so_many_levels_is_steps(levels, dtype):
    for seed, (level, span) in enumerate([(0.0, 1.0), (2.3, 0.3), (0.1, 10.0), (0.0, float(levels))]):
        share = waves(seed, 0.0, 1.0)
        assert looks_stepped((level + span * np.rint(share * levels) / levels).astype(dtype))


def test_steps_of_the_size_of_rounding_are_predicted():
    values = np.rint(waves(3, 0.0, 1e6)).astype(np.float32)  # a unit is 1e-6 of the values: 8 units in the last place
    done = refine(Grid.square(1.0, 129), Smooth(1e-2, unless_stepped=True), f=lambda x, y: values)
    assert done.statement["left_out"] == {}
    assert done.off().max() <= done.refinement.error["f"]


def test_outputs_that_are_to_be_known_everywhere_are_never_left_out():
    outputs = {"f": ((), np.dtype(float)), "error": ((), np.dtype(float))}
    done = refine(Grid.square(1.0, 129), drivers(1e-2, outputs, ["f", "error"]), f=wave, error=steps)
    assert done.statement["left_out"] == {}
    for name in outputs:
        assert done.off(name).max() <= done.refinement.error[name]


# ------------------------------------------------------------------------------------------- noise, and no savings


@pytest.mark.parametrize("deviation", [3e-6, 1e-5, 3e-5])
def test_noise_of_the_size_of_rounding_is_not_refined(deviation):
    grid, noise = Grid.square(1.0, 129), np.random.default_rng(4).normal(size=129**2)
    values = (waves(5, 2.3, 0.3) + deviation * noise).astype(np.float32)
    done = refine(grid, Smooth(1e-5), f=lambda x, y: values)
    assert done.refinement.error["f"] == pytest.approx(26 * deviation, rel=0.15)
    assert done.evaluations < 0.3 * grid.size
    assert done.off().max() <= done.refinement.error["f"]
    assert "below that it is rounding (float32)" in done.statement["warnings"][0]
    assert done.statement["reason"] == ""


def test_what_is_not_rounding_is_never_taken_for_it():
    grid, rng = Grid.square(1.0, 129), np.random.default_rng(4)
    x, y = grid.points().T
    kinks = sum(np.abs(a * x + b * y + c) for a, b, c in rng.normal(size=(40, 3))) / 40
    for values in (kinks, waves(5, 2.3, 0.3) + 1e-3 * rng.normal(size=129**2)):
        done = refine(grid, Smooth(1e-4), dtype=np.float32, f=lambda x, y, values=values: values)
        assert done.statement["warnings"] == []
        assert done.refinement.error["f"] <= 1e-4 * done.output["f"]["range"]
        assert done.off().max() <= done.refinement.error["f"]


def test_why_all_was_evaluated_is_said():
    grid, noise = Grid.square(1.0, 129), np.random.default_rng(3).normal(size=129**2)
    rough = refine(grid, Smooth(0.3), f=lambda x, y: noise)
    assert "'f' cannot be known to" in rough.statement["reason"]
    labels = refine(grid, Labels(), b=lambda x, y: np.random.default_rng(1).integers(2, 5, x.shape))
    assert "'b' changes in" in labels.statement["reason"]
    stepped = refine(grid, Smooth(1e-2, unless_stepped=True), f=steps)
    assert stepped.statement["reason"] == "'f': piecewise constant, and nothing else is left to refine"
    small = refine(Grid.square(1.0, 33), Smooth(1e-2), f=wave)
    assert "so small that" in small.statement["reason"]
    assert small.statement["warnings"] == []
    deep = refine(Grid.of(**{axis: np.linspace(-1, 1, 9) for axis in "abcd"}), Smooth(1e-2), f=lambda *c: sum(c))
    assert deep.statement["reason"] == "the grid has more than 3 axes"
    assert refine(grid, Smooth(1e-2), f=wave).statement["reason"] == ""


# ----------------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize(("fn", "extent", "most"), [(newton, 2.0, 0.3), (disc, 1.0, 0.15), (voronoi, 1.0, 0.2)])
def test_label_maps_are_exact_at_a_share_of_the_evaluations(fn, extent, most):
    done = refine(Grid.square(extent, 257), Labels(), b=fn)
    assert done.wrong("b") == 0
    assert done.evaluations <= most * 257**2
    assert done.output["b"]["fraction"] <= 0.01
    assert done.values["b"].dtype == done.exact["b"].dtype
    assert done.refinement.error == {"b": None}


def test_label_maps_of_other_grids():
    line = refine(Grid.line((-1, 1), 3001), Labels(), b=lambda x: np.floor(4 * np.sin(3 * x)).astype(np.int8))
    uneven = refine(Grid.of(x=irregular(150, 1) - 1, y=np.linspace(-1, 1, 300)), Labels(), b=voronoi)
    assert line.wrong("b") == uneven.wrong("b") == 0
    assert max(line.evaluations / 3001, uneven.evaluations / 45000) < 0.25


@pytest.mark.parametrize("seed", range(12))
def test_wrong_labels_are_within_the_bound(seed):
    rng = np.random.default_rng(seed)
    centres, radii = rng.uniform(-1, 1, (60, 2)), rng.uniform(0.005, 0.03, 60)

    def specks(x, y):
        return (np.hypot(x[:, None] - centres[:, 0], y[:, None] - centres[:, 1]) < radii).any(axis=1)

    done = refine(Grid.square(1.0, 257), Labels(0.02), seed=seed, b=specks)
    assert done.wrong("b") <= done.output["b"]["fraction"] <= 0.02


def test_smaller_bound_takes_more_validation_points():
    done = refine(Grid.square(1.0, 257), Labels(2e-3), b=disc)
    assert done.output["b"]["fraction"] <= 2e-3
    assert done.statement["validation"]["points"] > 2000


def test_labels_without_structure_are_evaluated_wholly():
    done = refine(Grid.square(1.0, 257), Labels(), b=lambda x, y: np.random.default_rng(1).integers(2, 5, x.shape))
    assert done.refinement.computed.all()
    assert len(done.asks) == 4  # 33, 65 and 129 nodes along each axis, then the rest


# ------------------------------------------------------------------------------------------------ the guarantee


def test_bound_on_the_fraction_holds_for_random_functions():
    """Surfaces with random waves, kinks, pits and cliffs of all widths, some below the spacing of the first round."""
    grid, beyond, missed, runs = Grid.square(1.0, 129), 0, 0, 60
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        a, b, c = rng.normal(size=(3, 4)) * 2
        width = 10 ** rng.uniform(-2.3, -0.5)

        def fn(x, y, a=a, b=b, c=c, width=width):
            smooth = a[0] * np.sin(b[0] * x + c[0] * y) + np.abs(a[1] * x + b[1] * y + c[1]) * (a[2] > 0)
            narrow = b[2] * np.exp(-((x - 0.3 * c[2]) ** 2 + (y - 0.3 * a[3]) ** 2) / width**2)
            return smooth + narrow + 0.3 * (np.hypot(x - 0.2 * b[3], y - 0.2 * c[3]) < width)

        done = refine(grid, Smooth(10 ** rng.uniform(-3, -1)), seed=seed, f=fn)
        share = np.mean(done.off() > done.refinement.error["f"])
        beyond += share > 0
        missed += share > done.output["f"]["fraction"]
    assert missed <= 0.05 * runs
    assert beyond  # some have an error beyond the tolerance, or this tests nothing


@pytest.mark.parametrize(("failures", "trials"), [(0, 512), (3, 512), (17, 128), (500, 512), (0, 1)])
@pytest.mark.parametrize("alpha", [0.05, 0.05 / 6])
def test_upper_bound_is_the_beta_quantile(failures, trials, alpha):
    found = adaptive.upper_bound(failures, trials, alpha)
    assert found == pytest.approx(beta.ppf(1 - alpha, failures + 1, trials - failures), rel=1e-9)
    assert binom.cdf(failures, trials, found) == pytest.approx(alpha, rel=1e-6)


def test_upper_bound_of_all_failures_is_one():
    assert adaptive.upper_bound(4, 4, 0.05) == 1.0


def test_stated_fraction_is_that_of_a_sample_without_failures():
    done = refine(Grid.square(1.0, 257), Smooth(1e-2), f=wave)
    points = done.statement["validation"]["points"]
    left = 257**2 - done.evaluations + points
    assert done.output["f"]["fraction"] == pytest.approx((1 - (0.05 / 6) ** (1 / points)) * left / 257**2, rel=1e-9)


def test_statement_is_plain_json():
    outputs = {"f": ((), np.dtype(np.float32)), "b": ((), np.dtype(np.int32)), "a": ((), np.dtype(np.float64))}
    wanted = drivers({"f": np.float32(0.02), "b": Labels(np.float64(0.03)), "a": Smooth(1e-2, True, "log")}, outputs)
    done = refine(Grid.square(1.0, 129), wanted, f=wave, b=voronoi, a=lambda x, y: np.exp(wave(x, y)))
    assert json.loads(json.dumps(done.statement, allow_nan=False)) == done.statement
    assert done.statement["points"] == 129**2
    assert done.statement["confidence"] == 0.95
    assert done.output["a"]["error"] == done.output["a"]["tolerance"] == 1e-2
    assert done.output["a"]["transform"] == "log"
    assert done.output["b"]["max_wrong"] == 0.03
    assert done.statement["validation"]["failures"] == {"f": 0, "b": 0, "a": 0}


# ---------------------------------------------------------------------------------------------------- levels


@pytest.mark.parametrize("order", [2, 7, 12])
def test_differences_vanish_on_polynomials_and_keep_the_deviation_of_noise(order):
    x = irregular(33, 6)
    levels = nested.Levels(Grid.of(x=x, y=x + 2))
    level = levels.last
    y = (x - x[0]) / np.ptp(x)
    flat = levels.differences(level, np.add.outer(y ** (order - 1), 3 * y ** (order - 1)), order)
    assert np.abs(flat).max() < 1e-12
    noise = np.random.default_rng(2).normal(size=(33, 33)) * 0.7
    assert levels.differences(level, noise, order).std() == pytest.approx(0.7, rel=0.1)
    assert np.isnan(levels.differences(level, np.full((33, 33), 2.3), order)).all()


@given(st.integers(2, 400))
def test_nodes_are_nested_and_as_equal_as_can_be(num):
    levels = nested.Levels(Grid.line(1.0, num))
    everything = np.arange(num)
    nodes = [levels.pick(level, everything) for level in range(levels.last + 1)]
    for level, (coarse, fine) in enumerate(itertools.pairwise(nodes)):
        assert np.isin(coarse, fine).all()
        assert len(coarse) == 8 * 2**level + 1
    for index in nodes:
        gaps = np.diff(index)
        assert gaps.max() - gaps.min() <= 1
        assert (index[0], index[-1]) == (0, num - 1)
    np.testing.assert_array_equal(nodes[-1], everything)


@pytest.mark.parametrize("num", [129, 173])
def test_predictors_are_the_spline_of_scipy_and_the_cubic_through_four_points(num):
    x = irregular(num, 4)
    levels = nested.Levels(Grid.of(x=x, y=x[:5]))
    values = np.random.default_rng(8).normal(size=(17, 5))
    coarse, fine = (levels.pick(k, np.broadcast_to(x[:, None], (num, 5)))[:, 0] for k in (1, 2))
    np.testing.assert_allclose(levels.spline(1, values), CubicSpline(coarse, values)(fine), atol=1e-12)
    for at, found in zip(fine, levels.lagrange(1, values)):
        start = np.clip(np.searchsorted(coarse, at, side="right") - 2, 0, 13)
        expected = BarycentricInterpolator(coarse[start : start + 4], values[start : start + 4])(at)
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_predictors_are_tensor_products_in_the_order_of_the_axes():
    grid = Grid.of(x=irregular(70, 1), y=irregular(100, 2), z=irregular(30, 3))
    levels = nested.Levels(grid)
    x, y, z = grid.points().T
    exact = (2 - x + 3 * x**3) * (1 + y**2) * z
    for method in (levels.spline, levels.lagrange):
        np.testing.assert_allclose(method(1, levels.pick(1, exact).copy()), levels.pick(2, exact), rtol=1e-10)


def test_cells_and_their_corners():
    cells = np.zeros((4, 5), dtype=bool)
    cells[1, 2] = True
    nodes = nested.corners(cells)
    assert list(zip(*np.nonzero(nodes))) == [(1, 2), (1, 3), (2, 2), (2, 3)]
    np.testing.assert_array_equal(nested.touching(nodes), nested.widened(cells))
    labels = np.zeros((5, 6), dtype=int)
    labels[2, 3] = 4
    assert list(zip(*np.nonzero(nested.disagreeing(labels)))) == [(1, 2), (1, 3), (2, 2), (2, 3)]


# ----------------------------------------------------------------------------------------------------- drivers

OUTPUTS = {
    "loss": ((), np.dtype(np.float32)),
    "sem": ((), BFLOAT16),
    "gradient": ((2,), np.dtype(np.float32)),
    "basin": ((), np.dtype(np.int32)),
    "alive": ((), np.dtype(bool)),
    "phase": ((), np.dtype(np.complex64)),
}


def test_number_drives_every_floating_output_of_one_number():
    assert drivers(0.02, OUTPUTS) == dict.fromkeys(("loss", "sem"), Smooth(0.02, unless_stepped=True))
    assert drivers(0.02, OUTPUTS, ["loss", "gradient", "basin"]) == {"loss": Smooth(0.02)}


def test_mapping_drives_what_it_names():
    wanted = {"sem": 0.02, "basin": 0.03, "alive": Labels(0.04), "loss": Smooth(5, absolute=True)}
    assert drivers(wanted, OUTPUTS) == {
        "sem": Smooth(0.02),
        "basin": Labels(0.03),
        "alive": Labels(0.04),
        "loss": Smooth(5.0, absolute=True),
    }


@pytest.mark.parametrize(
    ("tolerance", "error", "said"),
    [
        ("0.1", TypeError, "tolerance must be a number, Smooth or Labels, or a mapping of these by output, got '0.1'"),
        (True, TypeError, "tolerance must be a number"),
        (Smooth(0.1), TypeError, "tolerance must be a number"),
        (0.0, ValueError, "tolerance must be positive and finite, got 0.0"),
        (-0.5, ValueError, "tolerance must be positive and finite"),
        (np.nan, ValueError, "tolerance must be positive and finite"),
        (np.inf, ValueError, "tolerance must be positive and finite"),
        ({}, ValueError, "drives nothing"),
        ({"los": 0.1}, ValueError, "tolerance names 'los', which is not an output; there are loss, sem"),
        ({"loss": None}, TypeError, "the tolerance of 'loss' must be a number"),
        ({"loss": -2.0}, ValueError, "the tolerance of 'loss' must be positive and finite, got -2.0"),
        ({"loss": Smooth(np.inf)}, ValueError, "the tolerance of 'loss' must be positive and finite"),
        ({"loss": Smooth(0.1, transform="log10")}, ValueError, "the transform of 'loss' must be None or 'log'"),
        ({"loss": Labels(0.1)}, TypeError, "'loss' has dtype float32, and Labels is for integers and booleans"),
        ({"basin": Smooth(0.1)}, TypeError, "'basin' has dtype int32, and Smooth is for floating point; use Labels"),
        ({"basin": 1.5}, ValueError, "max_wrong of 'basin' is a fraction and must lie between 0 and 1, got 1.5"),
        ({"alive": Labels(-0.5)}, ValueError, "max_wrong of 'alive' must be positive"),
        ({"alive": "all"}, TypeError, "max_wrong of 'alive' must be a number"),
        ({"gradient": 0.1}, TypeError, r"needs one real number a point, but 'gradient' has shape \(2,\)"),
        ({"phase": 0.1}, TypeError, r"but 'phase' has shape \(\) and dtype complex64"),
    ],
)
def test_drivers_refuse(tolerance, error, said):
    with pytest.raises(error, match=said):
        drivers(tolerance, OUTPUTS)


def test_drivers_refuse_candidates_that_cannot_drive():
    with pytest.raises(ValueError, match=r"drives nothing: .* name integer outputs in a mapping"):
        drivers(0.1, OUTPUTS, ["basin", "gradient"])
    with pytest.raises(ValueError, match="tolerance names 'test_loss', which is not an output"):
        drivers(0.1, OUTPUTS, ["test_loss"])


def test_tell_refuses_other_points_and_missing_values():
    grid = Grid((Axis.linspace("x", 2.0, 3.0, 7),))
    refinement = Refinement(grid, {"f": Smooth(0.1)}, {"f": np.dtype(float)})
    flat = refinement.ask()
    with pytest.raises(ValueError, match="tell takes the 7 points that ask returned, got 6 others"):
        refinement.tell(flat[1:], {"f": np.full(6, 2.0)})
    with pytest.raises(ValueError, match=r"tell needs values of shape \(7,\) for 'f', got nothing"):
        refinement.tell(flat, {"g": np.full(7, 2.0)})
    with pytest.raises(ValueError, match=r"for 'f', got \(7, 2\)"):
        refinement.tell(flat, {"f": np.full((7, 2), 2.0)})
    refinement.tell(flat, {"f": np.full(7, 2.0)})
    with pytest.raises(ValueError, match="tell takes the 0 points that ask returned, got 7 others"):
        refinement.tell(flat, {"f": np.full(7, 2.0)})


def test_a_gradual_refinement_asks_for_the_same_points_and_previews_what_it_knows():
    grid = Grid.square(1.0, 129)
    x, y = grid.points().T
    wave = np.sin(2 * x) * np.exp(y)

    def course(gradual):
        one = Refinement(grid, {"loss": Smooth(1e-3)}, {"loss": np.dtype(np.float64)}, gradual=gradual)
        rounds, off = [], []
        while (flat := one.ask()).size:
            one.tell(flat, {"loss": wave[flat]})
            rounds.append(flat.size)
            off.append(np.abs(one.preview()["loss"].ravel() - wave).max())
        return one, rounds, off

    (at_once, whole, _), (gradual, rounds, off) = course(False), course(True)
    np.testing.assert_array_equal(gradual.computed, at_once.computed)
    np.testing.assert_array_equal(gradual.values["loss"], at_once.values["loss"])
    assert rounds[:3] == [9**2, 17**2 - 9**2, 33**2 - 17**2]
    assert sum(rounds[:3]) == whole[0]
    # halving the spacing of a cubic interpolation divides its error by 16
    assert off[1] < off[0] / 4
    assert off[2] < off[1] / 4
