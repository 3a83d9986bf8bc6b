"""Trace and spectral density: exact answers, dense spectra, and whether the error bars are honest over seeds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.stats import norm, wasserstein_distance
from scipy.stats import t as student

from landscape import Objective, curvature

KEY = jax.random.key(5)
DECAYING = np.r_[20.0, 13.0, 11.0, -4.0, 5 * 0.97 ** np.arange(196)]  # a few outliers over a decaying bulk


def quadratic(spectrum, dtype=np.float64, seed=0):
    """Half of x' A x for a symmetric A with these eigenvalues in a random basis."""
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(spectrum), len(spectrum))))
    return Objective(quadratic_loss, jnp.asarray(basis @ np.diag(spectrum) @ basis.T, dtype)[None])


def quadratic_loss(x, matrix):
    return 0.5 * x @ (matrix[0] @ x)


def net(batch_size=None):
    """A tanh net with 1,250 parameters."""
    rng = np.random.default_rng(4)
    params = [{"kernel": rng.normal(size=s) / 5, "bias": rng.normal(size=s[1])} for s in ((20, 40), (40, 10))]
    data = jnp.asarray(rng.normal(size=(50, 20))), jnp.asarray(rng.integers(0, 10, 50))
    return Objective(net_loss, data, batch_size=batch_size), jax.tree.map(jnp.asarray, params)


def net_loss(params, batch):
    x, y = batch
    hidden = jnp.tanh(x @ params[0]["kernel"] + params[0]["bias"])
    logits = hidden @ params[1]["kernel"] + params[1]["bias"]
    return -jax.nn.log_softmax(logits)[jnp.arange(len(y)), y]


@pytest.fixture(scope="module")
def dense():
    """The Hessian of the net by jax.hessian in one batch, and its eigenvalues."""
    with jax.enable_x64(True):
        objective, params = net()
        x, unravel = ravel_pytree(params)
        matrix = np.asarray(jax.jit(jax.hessian(lambda x: objective(unravel(x))))(x))
    return matrix, np.linalg.eigvalsh(matrix)


# ------------------------------------------------------------------------------------------------------------ trace


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("method", ["hutch++", pytest.param("hutchinson", marks=pytest.mark.slow)])
def test_the_trace_is_within_three_standard_errors_and_they_are_of_the_right_size(method):
    objective, x = quadratic(DECAYING), jnp.zeros(200)
    keys = jax.random.split(KEY, 200)
    mean, sem = jax.jit(lambda k: jax.lax.map(lambda k: curvature.trace(k, objective, x, method=method), k))(keys)
    pulls = (np.asarray(mean) - DECAYING.sum()) / np.asarray(sem)
    assert np.mean(np.abs(pulls) <= 3) >= 0.95
    # the spread of the pulls is 1.05 for 20 samples (Student's t with 19 degrees of freedom), known to 7 % from 200
    assert np.std(pulls) == pytest.approx(1.05, abs=0.2)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_trace_of_a_net_in_batches_in_nineteen_of_twenty_seeds(dense):
    objective, params = net(batch_size=20)
    estimate = jax.jit(lambda k: jax.lax.map(lambda k: curvature.trace(k, objective, params), k))
    mean, sem = estimate(jax.random.split(KEY, 20))
    exact = np.trace(dense[0])
    assert np.sum(np.abs(np.asarray(mean) - exact) <= 3 * np.asarray(sem)) >= 19


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_the_methods_that_project_are_more_accurate_where_the_spectrum_decays():
    objective, x = quadratic(np.r_[90.0, 70, -40, 30, np.full(196, 0.5)]), jnp.zeros(200)
    exact = 150 + 98
    error = {m: curvature.trace(KEY, objective, x, method=m) for m in ("hutch++", "xtrace", "hutchinson")}
    assert error["hutch++"].sem < error["hutchinson"].sem / 5
    assert error["xtrace"].sem < error["hutchinson"].sem / 5
    for estimate in error.values():
        assert abs(estimate.mean - exact) < 5 * estimate.sem + 1e-9


@pytest.mark.usefixtures("x64")
def test_a_low_rank_and_a_small_matrix_have_their_exact_trace():
    low = quadratic(np.r_[9.0, 4, 4, -3, np.zeros(196)])
    for method in ("hutch++", "xtrace"):
        assert float(curvature.trace(KEY, low, jnp.zeros(200), method=method).mean) == pytest.approx(14, abs=1e-9)
    mean, sem = curvature.trace(KEY, quadratic(np.array([3.0, -2, 4])), jnp.zeros(3))
    assert float(mean) == pytest.approx(5, abs=1e-13)
    assert float(sem) == 0


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_traces_of_layers_are_those_of_the_diagonal_blocks(dense):
    objective, params = net(batch_size=20)
    exact = jax.tree.map(np.sum, ravel_pytree(params)[1](jnp.asarray(np.diag(dense[0]))))
    estimate = jax.jit(lambda k: jax.lax.map(lambda k: curvature.layer_traces(k, objective, params, num_samples=40), k))
    mean, sem = estimate(jax.random.split(KEY, 20))
    assert jax.tree.structure(mean) == jax.tree.structure(sem) == jax.tree.structure(params)
    inside = jax.tree.map(lambda m, s, e: int(np.sum(np.abs(m - e) <= 3 * s)), mean, sem, exact)
    assert min(jax.tree.leaves(inside)) >= 19
    total = sum(jax.tree.leaves(jax.tree.map(np.mean, mean)))
    assert total == pytest.approx(np.trace(dense[0]), rel=0.1)


@pytest.mark.usefixtures("x64")
def test_a_hessian_that_is_not_finite_has_neither_trace_nor_density():
    broken = quadratic(np.r_[np.nan, DECAYING[1:]])
    for method in ("hutch++", "xtrace", "hutchinson"):
        assert all(np.isnan(x) for x in curvature.trace(KEY, broken, jnp.zeros(200), method=method))
    found = curvature.spectral_density(KEY, broken, jnp.zeros(200), num_probes=400, num_steps=12)
    assert np.all(np.isnan(found.weights))


# ---------------------------------------------------------------------------------------------------------- density


@pytest.mark.usefixtures("x64")
def test_the_density_of_a_net_against_its_dense_spectrum(dense):
    objective, params = net(batch_size=20)
    found = curvature.spectral_density(KEY, objective, params, num_probes=6, num_steps=40)
    values = dense[1]
    distance = wasserstein_distance(np.ravel(found.nodes), values, np.ravel(found.weights))
    assert distance < 0.02 * np.ptp(values)
    np.testing.assert_allclose(found.weights.sum(axis=1), 1, rtol=1e-12)
    assert float(found.nodes.min()) >= values[0] - 1e-12
    assert float(found.nodes.max()) <= values[-1] + 1e-12
    mean, sem = found.average(lambda t: t**2)
    assert abs(mean - np.mean(values**2)) <= 4 * sem


@pytest.mark.usefixtures("x64")
def test_shares_lie_between_their_bounds_for_each_probe_by_itself():
    values = np.sort(DECAYING)
    objective = quadratic(values)
    found = curvature.spectral_density(KEY, objective, jnp.zeros(200), num_probes=400, num_steps=12)
    at = np.r_[-5.0, -1, 0.1, 0.7, 2.2, 4.5, 12, 15, 25]
    lower, upper = found.cdf(jnp.asarray(at))
    exact = (values <= at[:, None]).mean(axis=1)
    assert np.all(lower.mean - 4 * lower.sem <= exact + 1e-12)
    assert np.all(exact <= upper.mean + 4 * upper.sem + 1e-12)
    assert np.max(lower.mean) > 0.9  # so neither bound is an empty one
    assert np.min(upper.mean) < 0.1


def test_densities_of_several_runs_at_points_of_any_shape():
    rng = np.random.default_rng(7)
    nodes, weights = np.sort(rng.normal(size=(2, 5, 6)), axis=-1), rng.dirichlet(np.ones(6), size=(2, 5))
    runs = curvature.SpectralDensity(jnp.asarray(nodes), jnp.asarray(weights))
    points = np.array([[-1.5, -0.2, 0.3], [0.7, 1.1, 3.0]])
    for at in (0.3, points[0], points):
        spread = np.reshape(at, (*np.shape(at), 1, 1))
        for r in range(2):
            one = curvature.SpectralDensity(runs.nodes[r], runs.weights[r])
            bell = np.sum(weights[r] * norm.pdf(spread, nodes[r], 0.4), axis=-1)
            below = np.sum(np.where(nodes[r] <= spread, weights[r], 0), axis=-1)
            for density in (runs.density(at, 0.4).mean[r], one.density(at, 0.4).mean):
                assert density.shape == np.shape(at)
                np.testing.assert_allclose(density, bell.mean(axis=-1), rtol=1e-4, atol=1e-6)
            for lower, upper in (jax.tree.map(lambda x, r=r: x[r], runs.cdf(at)), one.cdf(at)):
                assert lower.mean.shape == upper.sem.shape == np.shape(at)
                assert np.all(lower.mean <= below.mean(axis=-1) + 1e-6)
                assert np.all(below.mean(axis=-1) <= upper.mean + 1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_error_bars_of_a_density_cover_over_seeds():
    objective, x, at, width = quadratic(DECAYING), jnp.zeros(200), np.array([0.5, 2.0, 4.0]), 0.8
    exact = np.exp(-(((at[:, None] - DECAYING) / width) ** 2) / 2).mean(axis=1) / (width * np.sqrt(2 * np.pi))

    def pulls(key):
        mean, sem = curvature.spectral_density(key, objective, x, num_probes=20, num_steps=30).density(at, width)
        return (mean - exact) / sem

    found = jax.jit(lambda k: jax.lax.map(pulls, k))(jax.random.split(KEY, 60))
    assert np.mean(np.abs(found) <= 3) >= 0.95
    assert np.std(found) == pytest.approx(1.05, abs=0.2)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("spectrum", [np.full(30, 2.5), np.zeros(30), np.r_[7.0, 7, 3, np.zeros(27)]])
def test_a_krylov_space_that_ends_early_keeps_all_weight_on_eigenvalues(spectrum):
    found = curvature.spectral_density(KEY, quadratic(spectrum), jnp.zeros(30), num_probes=4, num_steps=20)
    nodes, weights = np.asarray(found.nodes), np.asarray(found.weights)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-12)
    far = np.abs(nodes[..., None] - spectrum).min(axis=-1) > 1e-8
    assert np.all(weights[far] < 1e-12)


def test_programs_lower_for_an_accelerator():
    objective, x = quadratic(DECAYING, np.float32), jnp.zeros(200)
    for fn in (curvature.trace, curvature.spectral_density):
        text = jax.jit(lambda k, fn=fn: fn(k, objective, x)).trace(KEY).lower(lowering_platforms=("cuda",)).as_text()
        assert "stablehlo" in text


def test_errors():
    objective, x = quadratic(DECAYING, np.float32), jnp.zeros(200)
    with pytest.raises(TypeError, match=r"key must be a random key, got int 3: pass jax.random.key\(3\)"):
        curvature.trace(3, objective, x)
    with pytest.raises(ValueError, match="num_products must be at least 6, got 4"):
        curvature.trace(KEY, objective, x, num_products=4)
    with pytest.raises(ValueError, match=r"method must be one of 'hutch\+\+', 'xtrace', 'hutchinson', got 'hutch'"):
        curvature.trace(KEY, objective, x, method="hutch")
    with pytest.raises(ValueError, match="num_samples must be at least 2, got 1"):
        curvature.layer_traces(KEY, objective, x, num_samples=1)
    with pytest.raises(ValueError, match="num_probes must be at least 2, got 1"):
        curvature.spectral_density(KEY, objective, x, num_probes=1)
    with pytest.raises(TypeError, match=r"num_steps must be an integer, got float 2\.5"):
        curvature.spectral_density(KEY, objective, x, num_steps=2.5)
    with pytest.raises(TypeError, match="objective must be a landscape.Objective, got int"):
        curvature.spectral_density(KEY, 7, x)


# -------------------------------------------------------------------------------------------------------- intervals


def probed(spectrum, num_probes, runs=2000, seed=0):
    """Densities as probes see them that resolve every eigenvalue: squares of the entries of random unit vectors."""
    z = np.random.default_rng(seed).normal(size=(runs, num_probes, len(spectrum))) ** 2
    weights = z / z.sum(axis=-1, keepdims=True)
    return curvature.SpectralDensity(jnp.broadcast_to(jnp.asarray(spectrum), z.shape), jnp.asarray(weights))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("spectrum", "num_probes", "plain"),
    [
        (np.r_[5.0, np.zeros(60)], 10, (0.80, 0.86)),  # an isolated eigenvalue: chi-squared weights
        (np.r_[5.0, np.zeros(60)], 4, (0.68, 0.78)),
        (np.r_[5.0, 5.0, np.zeros(60)], 10, (0.84, 0.90)),
        (np.linspace(0, 5, 60), 10, (0.89, 0.93)),
        (np.linspace(0, 5, 60), 40, (0.92, 0.96)),
    ],
    ids=["isolated", "isolated, few probes", "pair", "bulk", "bulk, many probes"],
)
def test_intervals_cover_as_often_as_they_say_where_standard_errors_do_not(spectrum, num_probes, plain):
    density = probed(spectrum, num_probes)
    exact = np.mean(spectrum)
    mean, sem = density.average(lambda nodes: nodes)
    covered = np.mean(np.abs(mean - exact) <= 1.96 * sem)
    assert plain[0] < covered < plain[1]
    found = density.interval(lambda nodes: nodes)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-12)
    covered = np.mean((found.lower <= exact) & (exact <= found.upper))
    assert 0.94 <= covered <= 0.985
    half = density.interval(lambda nodes: nodes, confidence=0.5)
    assert np.all((found.lower <= half.lower) & (half.upper <= found.upper))


@pytest.mark.usefixtures("x64")
def test_the_interval_of_a_density_at_points_and_of_what_has_a_sign_or_no_spread():
    density = probed(np.r_[5.0, np.zeros(60)], 10, runs=1)
    one = curvature.SpectralDensity(density.nodes[0], density.weights[0])
    found = one.density_interval([0.0, 5.0], 0.1, confidence=0.9)
    np.testing.assert_allclose(found.mean, one.density(np.array([0.0, 5.0]), 0.1).mean, rtol=1e-12)
    assert np.all((found.lower > 0) & (found.lower < found.mean) & (found.mean < found.upper))
    # where samples are negative it is Student's, by SciPy
    values = np.sum(one.weights * (one.nodes - 4), axis=-1)
    low, high = student.interval(0.95, 9, values.mean(), values.std(ddof=1) / 10**0.5)
    signed = one.interval(lambda nodes: nodes - 4)
    np.testing.assert_allclose([signed.lower, signed.upper], [low, high], rtol=1e-12)
    still = one.interval(lambda nodes: 3 + 0 * nodes)
    np.testing.assert_allclose([still.lower, still.upper], 3, rtol=1e-12)


def test_points_widths_and_confidences_are_checked():
    density = probed(np.array([1.0, 2.0]), 3, runs=1)
    with pytest.raises(TypeError, match="at must be an array of real numbers, got str 'zero'"):
        density.density("zero", 0.1)
    with pytest.raises(ValueError, match="at must be .* rows of one length"):
        density.cdf([[1], [1, 2]])
    for width in (0.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="width must be positive and finite, in units of the eigenvalues"):
            density.density(0.0, width)
    for confidence in (0, 1.0, -0.5, np.nan):
        with pytest.raises(ValueError, match=r"confidence must lie in \(0, 1\), got"):
            density.interval(jnp.sin, confidence)
