"""Losses and parameters in any units: what squares of them would do to a float changes no answer.

Oracles: NumPy in float64, closed forms of quadratics, and the same numbers times a scale.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import landscape as ls
from landscape import Objective, analysis, curvature, minima, paths
from landscape.curvature._trace import mean_and_sem
from landscape.minima import _classify

KEY = jax.random.key(5)
SCALES = [1e-22, 1e22]  # their squares are 0 and infinite in float32
SPECTRUM = np.r_[7.0, 4.0, -1.5, np.linspace(0.2, 2.3, 17)]
BASIS = np.linalg.qr(np.random.default_rng(3).normal(size=(20, 20)))[0]
MATRIX = (BASIS * SPECTRUM) @ BASIS.T
CENTRE = np.linspace(-0.7, 0.9, 20)


def quadratic(x, batch):
    matrix, centre = batch
    return 0.5 * (x - centre[0]) @ (matrix[0] @ (x - centre[0]))


def bowl(scale, matrix=MATRIX):
    """Half of (x - c)' A (x - c), in units of the scale; both scales run through one program."""
    return Objective(
        quadratic, (jnp.asarray(scale * matrix[None], jnp.float32), jnp.asarray(CENTRE[None], jnp.float32))
    )


HERE = jnp.asarray(CENTRE + 0.3, jnp.float32)
POSITIVE = (BASIS * np.abs(SPECTRUM)) @ BASIS.T


@pytest.mark.parametrize("scale", SCALES)
def test_eigenpairs_and_what_bounds_them(scale):
    found = curvature.eigenpairs(KEY, bowl(scale), HERE, 3)
    assert bool(found.converged)
    values, vectors = np.asarray(found.values, np.float64), np.asarray(found.vectors, np.float64)
    np.testing.assert_allclose(values / scale, [7, 4, 2.3], rtol=1e-4)
    true = np.linalg.norm(vectors @ MATRIX - values[:, None] / scale * vectors, axis=1)
    assert np.all(true <= np.asarray(found.residuals, np.float64) / scale + 2e-6 * 7)
    assert np.all(np.asarray(found.residuals, np.float64) / scale <= 3.5e-4 * 7)


@pytest.mark.parametrize("scale", [1e-35, 1e-37])
def test_nothing_is_converged_whose_residual_underflows(scale):
    found = curvature.eigenpairs(KEY, bowl(scale), HERE, 3)
    assert not bool(found.converged)
    off = np.abs(np.asarray(found.values, np.float64) - scale * np.array([7, 4, 2.3]))
    assert np.all(off <= np.asarray(found.residuals, np.float64))
    assert not bool(minima.polish(bowl(scale, POSITIVE), HERE).converged)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("to", ["minimum", "critical"])
def test_polish_goes_to_the_minimum(scale, to):
    end = minima.polish(bowl(scale, POSITIVE), HERE, to=to)
    assert bool(end.converged)
    assert int(end.steps) > 1
    np.testing.assert_allclose(end.params, CENTRE, atol=1e-5)
    gradient = POSITIVE @ (np.asarray(end.params, np.float64) - CENTRE.astype(np.float32))
    assert float(end.grad_norm) / scale == pytest.approx(np.linalg.norm(gradient), abs=3e-6)


def test_polish_by_conjugate_gradients(monkeypatch):
    monkeypatch.setattr(_classify, "DENSE", 10)
    for scale in SCALES:
        for to in ("minimum", "critical"):
            end = minima.polish(bowl(scale, POSITIVE), HERE, to=to)
            assert bool(end.converged)
            np.testing.assert_allclose(end.params, CENTRE, atol=1e-5)


@pytest.mark.parametrize("scale", SCALES)
def test_a_saddle_is_classified(scale):
    at = jnp.asarray(CENTRE, jnp.float32)
    verdict = minima.classify(bowl(scale), at)
    assert (verdict.kind, verdict.index) == ("saddle", 1)
    np.testing.assert_allclose(verdict.eigenvalues / scale, np.sort(SPECTRUM), atol=2e-5)


def test_trace_density_and_ascent_scale_with_the_loss():
    one, small, large = (bowl(scale) for scale in (1.0, *SCALES))

    def measured(objective, scale):
        density = curvature.spectral_density(KEY, objective, HERE, num_probes=4)
        mean, sem = density.average(lambda nodes: nodes)
        estimates = [curvature.trace(KEY, objective, HERE, num_products=12, method=m) for m in ("hutch++", "xtrace")]
        ascent = curvature.ascent_sharpness(objective, HERE, 0.5)
        scaled = np.array([mean, sem, *np.ravel(estimates), ascent], np.float64) / scale
        return scaled, np.sort(np.asarray(density.nodes, np.float64)[0]) / scale

    expected, nodes = measured(one, 1)
    np.testing.assert_allclose(nodes, np.sort(SPECTRUM), atol=1e-4)
    gradient = 0.3 * MATRIX.sum(axis=1)
    step = 0.5 * gradient / np.linalg.norm(gradient)
    assert expected[-1] == pytest.approx(gradient @ step + step @ MATRIX @ step / 2, rel=1e-4)
    for objective, scale in ((small, 1e-22), (large, 1e22)):
        found, found_nodes = measured(objective, scale)
        np.testing.assert_allclose(found, expected, rtol=1e-3)
        np.testing.assert_allclose(found_nodes, nodes, atol=1e-4)


def test_adaptive_ascent_has_no_units():
    """A relative step of a loss that is linear in log parameters raises it by that step, whatever they measure."""
    slopes = np.array([0.6, 0.8], np.float32)  # of length 1
    powers = Objective(lambda p, _: jnp.sum(slopes * jnp.log(p)))
    for size in (1e-22, 1e22):
        rise = curvature.ascent_sharpness(powers, jnp.array([3.0, 5.0]) * size, 0.01, adaptive=True)
        assert float(rise) == pytest.approx(float(np.sum(slopes * np.log1p(0.01 * slopes))), rel=2e-2)


@pytest.mark.parametrize("scale", SCALES)
def test_training_does_not_converge_where_the_square_of_the_gradient_vanishes(scale):
    run = ls.train(
        bowl(scale, POSITIVE), optax.sgd(0.1 / scale), HERE, num_steps=400, record_every=50, tol=1e-3 * scale
    )
    first = 0.3 * np.linalg.norm(POSITIVE.sum(axis=1))
    assert float(run.history["grad_norm"][0]) / scale == pytest.approx(first, rel=1e-5)
    assert run.outcome == ls.Outcome.CONVERGED
    assert int(run.steps) > 0
    np.testing.assert_allclose(run.params, CENTRE, atol=1e-2)


def wells(p, scale):
    return scale[0] * ((p[0] ** 2 - 9) ** 2 / 81 + (p[1] - 0.5 - p[0] ** 2 / 9) ** 2)


@pytest.mark.parametrize(
    ("scale", "options"), [(1e-22, {}), (1e22, {"tol": 1e20, "spring": 1e22})], ids=["its own units", "given ones"]
)
def test_a_band_relaxes_over_its_saddle(scale, options):
    valley = Objective(wells, jnp.array([scale], jnp.float32))
    left, right = jnp.array([-3.0, 1.5]), jnp.array([3.0, 1.5])
    band = paths.elastic_band(valley, left, right, num_images=7, num_steps=2000, **options)
    assert bool(band.converged)
    assert int(band.steps) > 3
    assert float(band.losses.max()) / scale == pytest.approx(1, abs=1e-4)  # at (0, 0.5)
    assert 0 < float(band.forces.max()) <= options.get("tol", 1e-3 * scale)
    assert 1e-2 < float(band.history["force"][0]) / scale < 10


def test_the_nearest_minimum_of_parameters_of_any_size():
    for size in (1e-22, 1e22):
        known = size * jnp.array([[1.0, 2.0], [-3.0, 0.5]])
        still = Objective(lambda p, _: jnp.sum(0 * p))
        basins = ls.BasinMap(None, still, optax.sgd(0.1), 1, minima=known, radius=0.5 * size)
        labels = [int(basins(size * jnp.array(at))["label"]) for at in ([1.1, 1.8], [-3.1, 0.8], [0.0, 0.0])]
        assert labels == [0, 1, -1]


def test_children_of_any_size_lie_apart():
    size, data = 1e-22, jnp.arange(1.0, 9.0)
    pull = Objective(lambda p, x: x * p * size, data)
    instability = paths.Instability(
        lambda key: jnp.zeros(()), pull, optax.sgd(1.0), 1, batch_size=1, key=KEY, num_points=3
    )
    apart = float(instability(jnp.zeros(1))["distance"]) / size  # each child took one step down on one number
    assert round(apart) in range(1, 8)
    assert apart == pytest.approx(round(apart), rel=1e-5)


def test_standard_errors_of_samples_of_any_size():
    samples = np.random.default_rng(1).normal(2, 3, size=(5, 8))
    scales = np.array([1e-30, 1e-12, 1.0, 1e12, 1e30])
    mean, sem = mean_and_sem(jnp.asarray(samples * scales[:, None], jnp.float32), axis=1)
    np.testing.assert_allclose(np.asarray(mean, np.float64) / scales, samples.mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(np.asarray(sem, np.float64) / scales, samples.std(axis=1, ddof=1) / 8**0.5, rtol=1e-5)


NET = [{"kernel": np.arange(6.0).reshape(2, 3) - 2.2, "bias": np.array([0.3, 1.0, -0.4])}, {"kernel": np.ones((3, 1))}]
SWAPPED = [
    {"kernel": NET[0]["kernel"][:, ::-1], "bias": NET[0]["bias"][::-1]},
    {"kernel": np.array([[1.0], [1.5], [1.0]])},
]
NEURONS = np.random.default_rng(2).normal(size=(3, 3))


@pytest.mark.parametrize(
    ("symmetry", "a", "b"),
    [
        (minima.Identity(), NET, SWAPPED),
        (minima.HiddenUnits(), NET, SWAPPED),
        (minima.Neurons(), NEURONS, NEURONS[::-1] * [1, 1, 1.25]),
        (minima.Neurons(np.eye(3)), NEURONS, NEURONS[::-1] * [1, 1, 1.25]),
        (minima.Points(), NEURONS, NEURONS[::-1] * [1, 1, 1.25]),
    ],
    ids=lambda x: type(x).__name__,
)
def test_distances_and_invariants_scale_with_the_parameters(symmetry, a, b):
    distance, invariants = symmetry.distance(a, b), symmetry.invariants(a)
    assert distance > 0.1
    for scale in (1e-200, 1e200):
        larger = [jax.tree.map(lambda x, scale=scale: scale * x, tree) for tree in (a, b)]
        assert symmetry.distance(*larger) / scale == pytest.approx(distance, rel=1e-9)
        np.testing.assert_allclose(symmetry.invariants(larger[0]) / scale, invariants, rtol=1e-9)


def test_basins_and_families_of_any_size():
    points = np.array([[0.0, 1.0], [3.0, 4.0], [0.1, 1.0], [3.0, 4.05], [9.0, 0.0]])
    for scale in (1e-200, 1e200):
        found = analysis.label_basins(scale * points, tol=0.2 * scale)
        assert found.labels.tolist() == [0, 1, 0, 1, 2]
        np.testing.assert_array_equal(found.points, scale * points[[0, 1, 4]])
        assert minima.student_family(scale * np.diag([1.0, 1.0, 2.0])) == (1, 2)


UNITS = [1e-12, 1e-6, 1.0, 1e6, 1e12]


@pytest.mark.parametrize("unit", UNITS)
def test_minima_are_told_apart_in_any_unit_of_their_parameters(unit):
    points = np.array([[3.0, -2.0], [3.0, -2.0 + 1e-7], [3.0, 2.0], [-0.5, 0.25], [3.0 + 1e-7, -2.0]])
    found = minima.distinct(jnp.asarray(unit * points), np.full(5, 0.25))
    assert found.labels.tolist() == [0, 0, 1, 2, 0]


@pytest.mark.parametrize("unit", UNITS)
def test_units_of_a_net_with_symmetries(unit):
    shuffled = [{"kernel": NET[0]["kernel"][:, ::-1], "bias": NET[0]["bias"][::-1]}, {**NET[1]}]
    shuffled[1]["kernel"] = NET[1]["kernel"][::-1]
    trees = [jax.tree.map(lambda x: unit * np.asarray(x, np.float64), net) for net in (NET, shuffled, SWAPPED)]
    stacked = jax.tree.map(lambda *x: np.stack(x), *trees)
    found = minima.distinct(stacked, np.full(3, 0.5), symmetry=minima.HiddenUnits())
    assert found.labels.tolist() == [0, 0, 1]


@pytest.mark.parametrize("unit", UNITS)
def test_losses_of_any_unit_join_one_minimum(unit):
    """The losses differ by what is left of numbers of that unit after rounding."""
    points = np.array([[3.0, -2.0], [3.0, -2.0], [1.0, 2.0]])
    found = minima.distinct(points, unit * np.array([1e-16, 3e-12, 7.0]))
    assert found.labels.tolist() == [0, 0, 1]


def test_what_is_left_of_a_minimum_at_zero_is_one_and_said_to_be():
    points = 1e-9 * np.array([[3.0, -2.0], [0.5, 1.5], [-2.5, 0.75]])
    with pytest.warns(UserWarning, match=r"within 3.61e-09 of 0, and no two agree.*multiply them up"):
        found = minima.distinct(points, np.array([2e-18, 3e-18, 5e-18]))
    assert found.labels.tolist() == [0, 0, 0]


def _two_wells(p, unit):
    """Minima at 1 with loss 0 and near -1 with loss 2 tilt, written out so that it is rounded."""
    x = p["x"]
    return unit[0] * (x**4 - 2 * x**2 + 1 + 0.125 * (1 - x))


@pytest.mark.parametrize("unit", UNITS)
def test_only_the_global_minimum_is_global_in_any_unit_of_the_loss(unit):
    with jax.enable_x64(True):
        objective = Objective(_two_wells, jnp.full(1, unit))
        slope = [4.0, 0.0, -4.0, -0.125]
        kinds = []
        for x in np.sort(np.roots(slope)):
            lowest = unit * np.polyval([1.0, 0.0, -2.0, -0.125, 1.125], np.max(np.roots(slope)))
            kinds.append(minima.classify(objective, {"x": jnp.asarray(x)}, global_loss=float(lowest)).kind)
    assert kinds == ["local", "maximum", "global"]


@pytest.mark.parametrize("unit", [1e6, 1e12])
def test_the_rounding_of_a_large_loss_does_not_hide_the_global_minimum(unit):
    with jax.enable_x64(True):
        objective = Objective(lambda p, u: u[0] * (p["x"] ** 4 / 3 - 6 * p["x"] ** 2 + 27), jnp.full(1, unit))
        at = {"x": jnp.asarray(3.0 + 1e-9)}  # (x^2 - 9)^2 / 3 written out
        assert abs(float(objective(at))) < unit * 1e-13
        assert minima.classify(objective, at, global_loss=-unit * 2e-14).kind == "global"


# ------------------------------------------------------------------------------------------------- half precision


def test_residuals_bound_where_leaves_are_of_half_precision():
    """The Hessian of the loss at these parameters, from NumPy: leaves that round vectors made residuals no bound."""
    objective = Objective(quartic, jnp.asarray(POSITIVE[None], jnp.bfloat16))
    params = jnp.asarray(CENTRE, jnp.bfloat16)
    matrix, x = (np.asarray(leaf.astype(jnp.float32), np.float64) for leaf in (objective.data[0], params))
    dense = (matrix + matrix.T) / 2 + np.diag(3 * x**2)
    exact = np.linalg.eigvalsh(dense)[::-1]
    found = curvature.eigenpairs(KEY, objective, params, 3)
    assert bool(found.converged)
    np.testing.assert_allclose(found.values, exact[:3], rtol=1e-5)
    vectors, values = np.asarray(found.vectors, np.float64), np.asarray(found.values, np.float64)
    true = np.linalg.norm(vectors @ dense - values[:, None] * vectors, axis=1)
    assert np.all(true <= np.asarray(found.residuals, np.float64) + 5e-6 * exact[0])
    product = curvature.hvp(objective, params, jnp.asarray(BASIS[0], jnp.float32))
    np.testing.assert_allclose(product, dense @ BASIS[0], atol=1e-5)


def quartic(x, matrix):
    return 0.5 * x @ (matrix[0] @ x) + jnp.sum(x**4) / 4


def test_convolutions_that_take_one_precision_only():
    def loss(kernel, x):
        y = jax.lax.conv_general_dilated(x, kernel, (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC"))
        return jnp.sum(y**2, axis=(1, 2))

    rng = np.random.default_rng(0)
    x, kernel = jnp.asarray(rng.normal(size=(4, 6, 1)), jnp.bfloat16), jnp.ones((3, 1, 1), jnp.bfloat16)
    wide = np.asarray(x.astype(jnp.float32), np.float64)[..., 0]
    windows = np.stack([wide[:, i : i + 4] for i in range(3)], axis=-1).reshape(-1, 3)
    product = curvature.hvp(Objective(loss, x), kernel, jnp.ones((3, 1, 1)))
    np.testing.assert_allclose(np.ravel(product), 2 * windows.T @ windows @ np.ones(3) / 4, rtol=1e-5)
