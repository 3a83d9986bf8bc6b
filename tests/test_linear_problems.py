"""Oracles for linear networks: NumPy, reduced-rank regression by SVD, Hessians by differences of the gradient."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape.problems import autoencoder, chebyshev_regression, deep_linear

SPECTRUM = (7.0, 4.1, 2.3, 1.2)


@pytest.fixture(scope="module")
def net():
    with jax.enable_x64(True):
        yield autoencoder(2, SPECTRUM, num_examples=9, seed=3)


def dense_hessian(objective, params):
    """Central differences of NumPy's own gradient of mean |x W V - x|^2."""
    x = np.asarray(objective.data["x"])
    moment = x.T @ x / len(x)
    decoder, encoder = (np.asarray(w) for w in params)

    def gradient(flat):
        w, v = flat[: decoder.size].reshape(decoder.shape), flat[decoder.size :].reshape(encoder.shape)
        miss = 2 * moment @ (w @ v - np.eye(len(moment)))
        return np.concatenate([(miss @ v.T).ravel(), (w.T @ miss).ravel()])

    flat = np.concatenate([decoder.ravel(), encoder.ravel()])
    steps = 1e-5 * np.eye(len(flat))
    rows = [(gradient(flat + e) - gradient(flat - e)) / 2e-5 for e in steps]
    return gradient(flat), np.array(rows)


def test_the_second_moment_has_the_spectrum_asked_for(net):
    x = np.asarray(net.objectives["train"].data["x"])
    np.testing.assert_allclose(np.linalg.eigvalsh(x.T @ x / len(x))[::-1], SPECTRUM, rtol=1e-12)
    assert net.total == pytest.approx(sum(SPECTRUM))
    assert net.global_minimum == pytest.approx(2.3 + 1.2)
    net.check()


@pytest.mark.parametrize("chosen", [c for k in (0, 1, 2) for c in itertools.combinations(range(4), k)])
def test_critical_points_of_the_autoencoder(net, chosen, x64):
    params = net.critical_point(chosen)
    gradient, hessian = dense_hessian(net.objectives["train"], params)
    np.testing.assert_allclose(gradient, 0, atol=1e-12)
    expected = sum(SPECTRUM) - sum(SPECTRUM[i] for i in chosen)
    assert float(net.objectives["train"](params)) == pytest.approx(expected, rel=1e-12)
    assert net.critical_value(chosen) == pytest.approx(expected, rel=1e-12)
    eigenvalues = np.linalg.eigvalsh((hessian + hessian.T) / 2)
    np.testing.assert_allclose(net.hessian_spectrum(chosen), eigenvalues, atol=1e-6)
    assert net.morse_index(chosen) == np.sum(eigenvalues < -1e-4)
    assert net.num_flat(chosen) == np.sum(np.abs(eigenvalues) < 1e-4)
    assert (net.morse_index(chosen) == 0) == (chosen == (0, 1))


def test_critical_values_are_those_of_all_subsets(net):
    values = net.critical_values()
    assert len(values) == 1 + 4 + 6
    assert values[(1, 3)] == pytest.approx(7.0 + 2.3)
    assert list(net.critical_values((2,))) == list(itertools.combinations(range(4), 2))
    assert min(values.values()) == net.global_minimum


@pytest.mark.parametrize("whiten", [True, False])
def test_global_minimum_of_a_deep_net_is_reduced_rank_regression(whiten, x64):
    problem = deep_linear((5, 4, 2, 6), 30, noise=0.4, whiten=whiten, seed=2)
    x, y = (np.asarray(problem.objectives["train"].data[k]) for k in "xy")
    if whiten:
        np.testing.assert_allclose(x.T @ x / 30, np.eye(5), atol=1e-12)
    # ordinary least squares, its fitted values cut to rank 2 (Eckart & Young)
    fitted = x @ np.linalg.lstsq(x, y)[0]
    u, s, vt = np.linalg.svd(fitted, full_matrices=False)
    best = np.sum((y - (u[:, :2] * s[:2]) @ vt[:2]) ** 2) / 30
    assert problem.global_minimum == pytest.approx(best, rel=1e-10)
    assert problem.rank == 2
    a, b, c = np.linalg.svd(np.linalg.lstsq(x, (u[:, :2] * s[:2]) @ vt[:2])[0], full_matrices=False)
    params = [jnp.asarray(np.pad(a[:, :2] * b[:2], ((0, 0), (0, 2)))), jnp.eye(4, 2), jnp.asarray(c[:2])]
    assert float(problem.objectives["train"](params)) == pytest.approx(best, rel=1e-10)


def test_linear_nets_start_at_the_scale_of_their_inputs():
    problem = deep_linear((300, 200, 100), 300)
    for kernel, fan_in in zip(problem.init(jax.random.key(1)), (300, 200)):
        assert np.std(kernel) == pytest.approx(1 / np.sqrt(fan_in), rel=0.05)
    x = jnp.linspace(-1.0, 2.0, 600).reshape(2, 300)
    params = problem.init(jax.random.key(2))
    expected = np.asarray(x) @ np.asarray(params[0]) @ np.asarray(params[1])
    np.testing.assert_allclose(problem.predict(params, x), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: autoencoder(2, (1.0, 3.0, 2.0)), r"positive and strictly decreasing, got \(1\.0, 3\.0, 2\.0\)"),
        (lambda: autoencoder(5), "rank must lie between 1 and 4, one less than the inputs, got 5"),
        (lambda: autoencoder(num_examples=3), "num_examples must be at least the 5 inputs, got 3"),
        (lambda: deep_linear((4, 3)), r"inputs, hidden layers and outputs, each at least 1, got \(4, 3\)"),
        (lambda: deep_linear((7, 3, 2), 5), "num_examples must be at least the 7 inputs, got 5"),
        (lambda: chebyshev_regression(0), "needs degree >= 1 and num_points >= 2, got 0 and 20"),
    ],
)
def test_documented_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_chebyshev_targets_and_loss_against_numpy():
    problem = chebyshev_regression(5, num_points=7, hidden=(6,))
    data = problem.objectives["train"].data
    x = np.linspace(-1, 1, 7)
    expected = np.polynomial.chebyshev.chebval(x, [0, 0, 0, 0, 0, 1.0])
    np.testing.assert_allclose(data["y"][:, 0], expected, atol=1e-6)
    params = problem.init(jax.random.key(4))
    first, last = (np.asarray(layer["kernel"]) for layer in params)
    loss = 0.5 * np.mean((np.tanh(x[:, None] @ first) @ last - expected[:, None]) ** 2)
    assert float(problem.objectives["train"](params)) == pytest.approx(loss, rel=1e-5)
    assert problem.name == "Chebyshev 5, MLP 1-6-1"
    assert sum(w.size for w in jax.tree.leaves(chebyshev_regression(3).init(jax.random.key(0)))) == 2701


def test_chebyshev_points_have_the_precision_that_is_set(x64):
    data = chebyshev_regression(5, num_points=7).objectives["train"].data
    x = np.linspace(-1, 1, 7)[:, None]
    np.testing.assert_array_equal(data["x"], x)
    np.testing.assert_allclose(data["y"], 16 * x**5 - 20 * x**3 + 5 * x, atol=1e-15)
