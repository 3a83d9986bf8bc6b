"""Oracles for radii: quadratics, a double well and other landscapes whose crossings are known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import landscape as ls
from landscape import analysis, maps, reach, subspace
from landscape.maps import Fall, Radius, Reached, Rise

RISE = 0.3


def bowl(params, batch):
    """Loss 3 + g'x + x'Hx/2 with a diagonal H; the data hold both, so that one program serves all of a dimension."""
    x = params.astype(batch["h"].dtype)
    return 3 + jnp.sum(batch["g"][0] * x) + jnp.sum(batch["h"][0] * x**2) / 2


def quadratic(eigenvalues, gradient=0.0):
    h = jnp.asarray(eigenvalues, jnp.result_type(float))
    return ls.Objective(bowl, {"h": h[None], "g": jnp.broadcast_to(jnp.asarray(gradient, h.dtype), h.shape)[None]})


def units(draw, numbers):
    rows = np.stack([np.asarray(draw(i), np.float64) for i in numbers])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def along(fn, rise, *, origin=0.0, direction=1.0, **options):
    """What a Radius finds on a line."""
    objective = ls.Objective(lambda p, _: fn(p[0]))
    given = jnp.full((1, 1), direction)
    found = Radius(jnp.full(1, origin), objective, given, rise=rise, **options)
    values = sweep(found, 1)
    return {name: values[name][0] for name in values}


def sweep(found, num):
    return ls.sweep(found, ls.Grid.of(direction=range(num)), batch=1, progress=False)


@pytest.mark.parametrize("dim", [2, 40, 3000])
def test_radius_of_a_quadratic_along_each_direction(dim):
    h = np.geomspace(0.05, 40, dim)
    draw = subspace.Draws(jax.random.key(5), jnp.zeros(dim))
    found = sweep(Radius(jnp.zeros(dim), quadratic(h), draw, rise=RISE), 12)
    expected = np.sqrt(2 * RISE / (units(draw, range(12)) ** 2 @ h))
    np.testing.assert_allclose(found["radius"], expected, rtol=1e-3)
    assert np.all(found["below"] <= expected * (1 + 1e-5))
    assert np.all(found["above"] >= expected * (1 - 1e-5))
    assert np.all(found["above"] / found["below"] <= 1.0011)
    np.testing.assert_array_equal(found["status"], Reached.RISEN)
    np.testing.assert_array_equal(found["crossings"], 1)
    np.testing.assert_array_equal(found["last"], found["radius"])


def test_precision_is_that_asked_for(x64):
    h = np.linspace(0.5, 9, 30)
    draw = subspace.Draws(jax.random.key(6), jnp.zeros(30))
    found = sweep(Radius(jnp.zeros(30), quadratic(h), draw, rise=RISE, precision=1e-9), 7)
    np.testing.assert_allclose(found["radius"], np.sqrt(2 * RISE / (units(draw, range(7)) ** 2 @ h)), rtol=1e-9)


def test_away_from_a_minimum_the_radius_is_the_first_root(x64):
    rng = np.random.default_rng(7)
    h, g = np.linspace(0.5, 9, 30), rng.normal(size=30)
    draw = subspace.Draws(jax.random.key(8), jnp.zeros(30))
    found = sweep(Radius(jnp.zeros(30), quadratic(h, g), draw, rise=RISE), 20)
    u = units(draw, range(20))
    slope, curved = u @ g, u**2 @ h
    np.testing.assert_allclose(found["radius"], (-slope + np.sqrt(slope**2 + 2 * RISE * curved)) / curved, rtol=1e-3)
    falls = slope < -0.5  # the lowest point is -slope / curved away, by slope^2 / (2 curved) lower
    assert 2 < falls.sum() < 18
    assert np.all(found["fall"][falls] > 0.5 * slope[falls] ** 2 / (2 * curved[falls]))
    assert np.all(found["fall"][slope > 0] == 0)
    assert np.all(found["fall"] <= slope**2 / (2 * curved) * (1 + 1e-9))


def test_double_well_outward_inward_and_back(x64):
    def well(x):
        return (x**2 - 1) ** 2 / 4

    rise = 0.09
    outward = along(well, rise, origin=1.0)
    assert outward["radius"] == pytest.approx(np.sqrt(1 + 2 * np.sqrt(rise)) - 1, rel=1e-3)
    assert outward["crossings"] == 1
    inward = along(well, rise, origin=1.0, direction=-2.5, distances=maps.geometric(0.01, 4, 1.3))
    assert inward["radius"] == pytest.approx(1 - np.sqrt(1 - 2 * np.sqrt(rise)), rel=1e-3)
    assert inward["length"] == pytest.approx(2.5)
    # it comes back into the other well, and leaves that on the far side
    assert inward["crossings"] == 3
    assert inward["last"] == pytest.approx(1 + np.sqrt(1 + 2 * np.sqrt(rise)), rel=1e-3)


def test_student_teacher_at_its_global_minimum(x64):
    objective, origin = ls.problems.student_teacher(4).objectives["train"], {"w": jnp.eye(4)}
    draw = subspace.Draws(jax.random.key(2), origin)
    found = sweep(Radius(origin, objective, draw, rise=0.05), 5)
    loss = jax.jit(jax.vmap(lambda r, d: objective(jax.tree.map(lambda o, x: o + r * x, origin, d)), (0, None)))
    for i in range(5):
        direction = np.asarray(draw(i)["w"])
        unit = {"w": direction / np.linalg.norm(direction)}
        fine = np.linspace(0, 2 * found["radius"][i], 4001)
        expected = fine[np.argmax(np.asarray(loss(fine, unit)) >= 0.05)]
        assert found["radius"][i] == pytest.approx(expected, rel=2e-3)


def test_a_shell_of_nan_ends_the_radius_and_is_said():
    shell = along(
        lambda x: jnp.where((x > 1.7) & (x < 2.9), jnp.nan, x**2), 25.0, distances=maps.geometric(0.1, 9, 1.4)
    )
    assert shell["status"] == Reached.NOT_FINITE
    assert shell["radius"] == pytest.approx(1.7, rel=1e-3)
    assert shell["last"] == pytest.approx(5.0, rel=1e-3)
    assert shell["crossings"] == 3


def test_an_infinite_loss_has_risen():
    wall = along(lambda x: jnp.where(x > 1.7, jnp.inf, x**2), 25.0)
    assert (wall["status"], wall["radius"]) == (Reached.RISEN, pytest.approx(1.7, rel=1e-3))


def test_a_loss_that_never_rises_is_infinitely_far():
    flat = along(lambda x: 2 + x**2 / (1 + x**2), 1.5)
    assert (flat["status"], flat["radius"], flat["above"], flat["crossings"]) == (Reached.BEYOND, np.inf, np.inf, 0)
    assert flat["below"] == 16.0


def test_a_loss_that_rises_before_the_first_look():
    steep = along(lambda x: 1e6 * x**2, 0.25, distances=[0.2, 0.4])
    assert (steep["status"], steep["radius"]) == (Reached.WITHIN, pytest.approx(5e-4, rel=1e-3))


@pytest.mark.parametrize(("level", "rise"), [(300.0, 1e-4), (1e-3, 1e-10)])
def test_a_rise_below_rounding_is_said_to_be(level, rise):
    assert along(lambda x: level + x**2, rise)["status"] == Reached.UNRESOLVED
    assert along(lambda x: level + x**2, 0.04 * level)["status"] == Reached.RISEN


def test_distances_below_the_rounding_of_the_parameters_are_said_to_be():
    """The loss is large compared with its rounding, but the parameters do not resolve the way."""
    sharp = along(lambda x: 1e14 * (x - 1000.0) ** 2, 0.5, origin=1000.0)
    assert sharp["status"] == Reached.UNRESOLVED


def test_relative_rise_and_fall_of_a_metric():
    relative = along(lambda x: 2 + x**2, Rise(0.08, relative=True))
    assert relative["radius"] == pytest.approx(0.4, rel=1e-3)
    thresholds = jnp.linspace(0.02, 2, 100)

    def loss(params, batch):  # an example is right until its threshold is passed
        return 0 * batch, {"accuracy": params[0] < batch}

    found = Radius(jnp.zeros(1), ls.Objective(loss, thresholds, has_aux=True), jnp.ones((1, 1)), rise=Fall(0.245))
    values = sweep(found, 1)
    assert values["radius"][0] == pytest.approx(0.5, rel=1e-3)  # 25 of 100 are wrong from .5 on
    assert values["base"][0] == -1.0


def test_norm_of_the_parameters_sets_the_default_distances():
    far = along(lambda x: (x - 5000) ** 2, 9.0, origin=5000.0)
    assert far["radius"] == pytest.approx(3.0, rel=1e-3)


PARAMS = {
    "dense": {"kernel": jnp.full((6, 4), 0.5), "bias": jnp.full(4, 0.3)},
    "head": {"kernel": jnp.full((4, 3), 2.0)},
}


def test_draws_are_independent_of_each_other_and_normal():
    draw = subspace.Draws(jax.random.key(3), {"a": jnp.zeros((40, 50)), "b": jnp.zeros(700)})
    values = np.stack([np.concatenate([np.ravel(x) for x in jax.tree.leaves(draw(i))]) for i in (4, 9, 4)])
    np.testing.assert_array_equal(values[0], values[2])
    assert stats.kstest(values[0], "norm").pvalue > 1e-3
    assert stats.kstest(values[1], "norm").pvalue > 1e-3
    assert abs(np.corrcoef(values[:2])[0, 1]) < 4 / np.sqrt(values.shape[1])


@pytest.mark.parametrize("kind", ["filter", "layer"])
def test_draws_are_normalised_as_directions_are(kind):
    draw = subspace.Draws(
        jax.random.key(3), PARAMS, normalization=kind, filter_axis="flax" if kind == "filter" else None
    )
    direction = draw(11)
    axis = 0 if kind == "filter" else None
    for layer in ("dense", "head"):
        norms = [np.linalg.norm(tree[layer]["kernel"], axis=axis) for tree in (direction, PARAMS)]
        np.testing.assert_allclose(*norms, rtol=1e-6)
    np.testing.assert_array_equal(direction["dense"]["bias"], 0)


def test_draws_are_restricted_by_name_and_of_low_rank():
    direction = subspace.Draws(jax.random.key(3), PARAMS, where="dense", rank=2)(7)
    assert np.linalg.matrix_rank(np.asarray(direction["dense"]["kernel"])) == 2
    np.testing.assert_array_equal(direction["head"]["kernel"], 0)
    assert np.any(direction["dense"]["bias"] != 0)
    draw = subspace.Draws(jax.random.key(3), jnp.zeros((30, 20)), rank=3)
    assert np.var(np.stack([draw(i) for i in range(40)])) == pytest.approx(1.0, abs=0.05)


def test_quantile_interval_is_that_of_the_binomial_distribution():
    values = np.random.default_rng(1).permutation(np.arange(1.0, 201.0))
    value, low, high = analysis.quantile_interval(values, 0.1, 0.9)
    below = stats.binom(200, 0.1)  # the true quantile lies above the k-th number where at least k lie below it
    assert value == 20.0
    assert analysis.quantile_interval(np.arange(1.0, 81.0), 1 - 0.95).value == 4.0
    assert below.cdf(low - 1) <= 0.05 < below.cdf(low)
    assert below.sf(high - 1) <= 0.05 < below.sf(high - 2)
    assert analysis.quantile_interval([3.0, 4.0], 0.1) == (3.0, -np.inf, 4.0)


def test_quantile_interval_covers():
    rng, q = np.random.default_rng(4), 0.05
    drawn = rng.exponential(size=(2000, 90))
    ends = [analysis.quantile_interval(row, q)[1:] for row in drawn]
    covered = np.mean([low <= -np.log1p(-q) <= high for low, high in ends])
    assert 0.95 - 3 * np.sqrt(0.95 * 0.05 / 2000) <= covered <= 0.995


def one_outlier(dim, share, large=50.0, small=0.7):
    """One large eigenvalue, and the quantile of the radius: u'Hu = b + (a - b) Beta(1/2, (n - 1) / 2)."""
    beta = stats.beta(0.5, (dim - 1) / 2).ppf(share)
    spectrum = np.concatenate([[large], np.full(dim - 1, small)])
    return spectrum, np.sqrt(2 * RISE / (small + (large - small) * beta))


@pytest.mark.parametrize("share", [0.95, 0.7])
def test_the_share_of_a_spectrum_with_one_outlier(share):
    spectrum, expected = one_outlier(5000, share)
    found = ls.radius(jax.random.key(1), quadratic(spectrum), jnp.zeros(5000), rise=RISE, share=share)
    assert found.interval[0] <= expected <= found.interval[1]
    assert found.width <= 0.05
    assert found.evaluations <= 1000
    assert found.rise == (pytest.approx(RISE), 3.0)


def coverage(dims, repeats):
    """Cases of which the interval covers, and of those in many dimensions the widths."""
    covers, widths = [], []
    for dim in dims:
        for i in range(repeats):
            spectrum, expected = one_outlier(dim, 0.95, large=3.0 + i)
            found = ls.radius(jax.random.key(100 + i), quadratic(spectrum), jnp.zeros(dim), rise=RISE)
            covers.append(found.interval[0] <= expected <= found.interval[1])
            assert found.evaluations <= 1000
            widths += [found.width] * (dim >= 3000)
    return np.array(covers), np.array(widths)


def test_intervals_cover():
    covers, widths = coverage((30, 3000), 12)
    assert covers.sum() >= stats.binom(24, 0.95).ppf(1e-3)
    assert np.all(widths <= 0.05)


@pytest.mark.slow
def test_intervals_cover_in_280_cases():
    covers, widths = coverage((2, 5, 12, 30, 300, 3000, 10_000), 40)
    assert covers.mean() >= 0.92
    assert np.all(widths <= 0.05)


def test_units_and_restriction_by_name():
    params = {"w": jnp.full((30, 20), 0.5), "b": jnp.full(20, 2.0)}
    objective = ls.Objective(lambda p, _: jnp.sum((p["w"] - 0.5) ** 2) + 100 * jnp.sum((p["b"] - 2.0) ** 2))
    found = ls.radius(jax.random.key(0), objective, params, rise=0.04, where="^w$", filter_axis=-1)
    assert found.value == pytest.approx(0.2, rel=1e-3)  # in w the loss is the squared distance
    assert found.in_units("parameters")[0] == pytest.approx(0.2 / (0.5 * np.sqrt(600)), rel=1e-3)
    assert found.units["filters"] == pytest.approx(0.5 * np.sqrt(600))
    whole = ls.radius(jax.random.key(0), objective, params, rise=0.04)
    assert whole.units["parameters"] == pytest.approx(np.sqrt(150 + 80))
    assert whole.value < 0.15
    with pytest.raises(ValueError, match="'distance', 'parameters', 'filters', got 'metres'"):
        found.in_units("metres")


def test_filter_normalised_directions_reach_one_filter_norm():
    params = {"kernel": jnp.full((30, 20), 0.5)}
    objective = ls.Objective(lambda p, _: jnp.sum((p["kernel"] - 0.5) ** 2))
    found = ls.radius(jax.random.key(0), objective, params, rise=0.25 * 600, normalization="filter", filter_axis="flax")
    assert found.in_units("filters")[0] == pytest.approx(1.0, rel=1e-3)


def test_what_was_met_is_said():
    back = ls.Objective(lambda p, _: jnp.where(jnp.abs(p[0]) < 2.0, 1.0, 0.01) * p[0] ** 2)
    found = ls.radius(jax.random.key(0), back, jnp.zeros(1), rise=0.5, width=0.9)
    assert found.value == pytest.approx(np.sqrt(0.5), rel=1e-3)
    assert any("comes back" in note for note in found.notes)
    slope = ls.Objective(lambda p, _: p[0] + p[0] ** 2)
    assert any(
        "falls before it rises" in note for note in ls.radius(jax.random.key(0), slope, jnp.zeros(1), rise=0.5).notes
    )
    shell = ls.Objective(lambda p, _: jnp.where(jnp.linalg.norm(p) > 0.25, jnp.nan, 0.0) + jnp.sum(p**2))
    found = ls.radius(jax.random.key(0), shell, jnp.zeros(9), rise=0.5)
    assert found.value == pytest.approx(0.25, rel=1e-3)
    assert np.all(found.status == Reached.NOT_FINITE)
    assert "NaN" in str(found)
    flat = ls.radius(jax.random.key(0), ls.Objective(lambda p, _: 1 + 0 * p[0]), jnp.zeros(3), rise=0.5)
    assert flat.value == np.inf
    assert "has not risen" in str(flat)


def test_an_unresolved_rise_warns():
    with pytest.warns(UserWarning, match="within the rounding of this precision"):
        ls.radius(jax.random.key(0), quadratic(np.full(3, 2.0)), jnp.zeros(3), rise=1e-7)


GOOD = {"rise": 0.5}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rise": -1.0}, ValueError, "rise must be positive and finite"),
        ({"rise": None}, TypeError, "rise must be a number"),
        ({"rise": "much"}, TypeError, "rise must be a number"),
        ({"rise": Fall(0.1)}, ValueError, "the objective has no metric 'accuracy'"),
        ({"share": 1.0}, ValueError, "share must lie in"),
        ({"share": "most"}, TypeError, "share must be a number"),
        ({"max_evaluations": 20}, ValueError, "max_evaluations must be at least"),
        ({"max_evaluations": 1e3}, TypeError, "max_evaluations must be an integer"),
        ({"normalization": "filters"}, ValueError, "normalization must be one of 'filter', 'layer'"),
        ({"rank": 0}, ValueError, "rank must be at least 1"),
        ({"where": "nothing"}, ValueError, "mask keeps no leaf"),
        ({"precision": 0.0}, ValueError, "precision must be positive"),
        ({"precision": 1e-9}, ValueError, "precision must lie between"),
        ({"width": np.nan}, ValueError, "width must be positive"),
    ],
)
def test_wrong_options_of_radius(options, error, message):
    with pytest.raises(error, match=message):
        ls.radius(jax.random.key(0), quadratic(np.ones(3)), jnp.zeros(3), **(GOOD | options))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((3, quadratic([2.0]), jnp.zeros(1)), TypeError, "key must be a random key"),
        ((jax.random.key(0), None, jnp.zeros(1)), TypeError, "objective"),
        ((jax.random.key(0), quadratic([2.0]), None), ValueError, "params holds no arrays"),
        ((jax.random.key(0), quadratic([2.0]), jnp.zeros(1, int)), TypeError, "real floating-point array"),
        ((jax.random.key(0), quadratic([jnp.nan]), jnp.ones(1)), ValueError, "the loss at the parameters is nan"),
    ],
)
def test_wrong_arguments_of_radius(arguments, error, message):
    with pytest.raises(error, match=message):
        ls.radius(*arguments, rise=0.5)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"draw": jnp.zeros((1, 4))}, ValueError, "draw must have shape"),
        ({"draw": jnp.ones((2, 3))}, ValueError, "draw holds 2 directions, and number 2 is asked for"),
        ({"draw": lambda: None}, TypeError, "draw is called as draw"),
        ({"draw": lambda number: jnp.zeros(4)}, ValueError, r"draw\(number\) must have shape"),
        ({"distances": [1.0, 0.5]}, ValueError, "distances must be positive and growing"),
        ({"distances": "far"}, TypeError, "distances must be an array of real numbers"),
    ],
)
def test_wrong_fields_of_radius(change, error, message):
    fields = {"origin": jnp.zeros(3), "objective": quadratic(np.ones(3)), "draw": jnp.ones((3, 3)), "rise": 0.5}
    with pytest.raises(error, match=message):
        sweep(Radius(**(fields | change)), 3)


def test_a_radius_is_swept_over_the_numbers_of_directions():
    found = Radius(jnp.zeros(3), quadratic(np.ones(3)), jnp.ones((3, 3)), rise=0.5)
    with pytest.raises(ValueError, match="a Radius takes one coordinate"):
        ls.sweep(found, ls.Grid.square(1.0, 3))
    with pytest.raises(ValueError, match="must be whole numbers"):
        ls.sweep(found, ls.Grid.of(direction=[0.5]))


def test_the_same_radii_however_they_are_swept(tmp_path):
    draw = subspace.Draws(jax.random.key(5), jnp.zeros(9))
    found = Radius(jnp.zeros(9), quadratic(np.linspace(1, 4, 9)), draw, rise=RISE)
    grid = ls.Grid.of(direction=range(20))
    whole = ls.sweep(found, grid, batch=7, progress=False)
    for i in range(2):
        ls.sweep(found, grid, batch=7, store=tmp_path / "run", shard=(i, 2), progress=False)
    np.testing.assert_array_equal(ls.load(tmp_path / "run")["radius"], whole["radius"])
    np.testing.assert_allclose(ls.sweep(found, grid, batch=1, progress=False)["radius"], whole["radius"], rtol=1e-5)


def test_planes_by_number():
    draw = subspace.Draws(jax.random.key(5), jnp.zeros(9))
    planes = subspace.Planes(jnp.ones(9), draw)
    point = planes(jnp.array([3.0, 0.5, -2.0]))
    np.testing.assert_allclose(point, 1 + 0.5 * np.asarray(draw(6)) - 2 * np.asarray(draw(7)), rtol=1e-6)
    surface = ls.LossSurface(planes, quadratic(np.ones(9)))
    many = ls.sweep(surface, ls.Grid.of(plane=range(3), a=[-0.5, 0.5], b=[0.25, 1.0, 2.0]), batch=1, progress=False)
    at = 1 - 0.5 * np.asarray(draw(4), np.float64) + 2 * np.asarray(draw(5), np.float64)
    assert many["loss"][2, 0, 2] == pytest.approx(3 + np.sum(at**2) / 2, rel=1e-5)
    with pytest.raises(ValueError, match="the number of the plane first"):
        ls.sweep(surface, ls.Grid.square(1.0, 3))


def test_reach_prints_what_it_found():
    found = ls.radius(jax.random.key(1), quadratic(np.full(500, 2.0)), jnp.zeros(500), rise=RISE)
    assert isinstance(found, reach.Reach)
    assert "95% of directions stay under a rise of 0.3 (from 3) within 0.54" in str(found)
