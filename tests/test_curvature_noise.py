"""Gradient noise scale and the share of an update in the top eigenspace, against NumPy and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import landscape as ls
from landscape import curvature

NUM, DIM = 240, 5
KEY = jax.random.key(3)
THETA = np.array([0.5, -1.5, 2.5, 0.3, -0.7])


def linear(theta, batch):
    """Half the squared error of a linear model; the gradient of an example is `(x @ theta - y) x`."""
    x, y = batch
    return 0.5 * (x @ theta["w"] - y) ** 2


def drawn(seed, num=NUM, noise=0.6):
    random = np.random.default_rng(seed)
    x = random.normal(size=(num, DIM))
    return x, x @ np.linspace(-2, 2, DIM) + noise * random.normal(size=num)


def objective(seed=7, **options):
    return ls.Objective(linear, tuple(np.float32(part) for part in drawn(seed)), **options)


PARAMS = {"w": jnp.asarray(THETA, jnp.float32)}


def numpy_noise(gradients):
    """tr(Sigma) and |G|^2 without bias, in float64, from the gradients of single examples."""
    num, mean = len(gradients), gradients.mean(axis=0)
    covariance = ((gradients - mean) ** 2).sum() / (num - 1)
    return covariance, mean @ mean - covariance / num


def numpy_gradients():
    x, y = (part.astype(np.float32).astype(np.float64) for part in drawn(7))
    return (x @ THETA.astype(np.float32).astype(np.float64) - y)[:, None] * x


def test_noise_is_that_of_the_gradients_of_all_examples_with_the_error_of_a_jackknife():
    gradients = numpy_gradients()
    covariance, square = numpy_noise(gradients)
    left = np.array([np.divide(*numpy_noise(np.delete(gradients, i, axis=0))) for i in range(NUM)])
    sem = np.sqrt((NUM - 1) * np.mean((left - left.mean()) ** 2))
    found = curvature.gradient_noise(KEY, objective(), PARAMS)
    np.testing.assert_allclose(found.covariance_trace, covariance, rtol=1e-5)
    np.testing.assert_allclose(found.squared_gradient, square, rtol=1e-5)
    np.testing.assert_allclose(found.value, covariance / square, rtol=1e-5)
    np.testing.assert_allclose(found.sem, sem, rtol=1e-3)


@pytest.mark.parametrize("group_size", [4, 7])
def test_groups_give_the_estimates_of_two_batch_sizes(group_size):
    # McCandlish et al. 2018, appendix A.1, with B_small = group_size and B_big = all that were drawn
    count = NUM // group_size
    order = np.asarray(jax.random.permutation(KEY, NUM))[: count * group_size]
    groups = numpy_gradients()[order].reshape(count, group_size, DIM).mean(axis=1)
    small, big = np.mean(np.sum(groups**2, axis=1)), np.sum(groups.mean(axis=0) ** 2)
    size = count * group_size
    square = (size * big - group_size * small) / (size - group_size)
    covariance = (small - big) / (1 / group_size - 1 / size)
    found = curvature.gradient_noise(KEY, objective(), PARAMS, group_size=group_size)
    np.testing.assert_allclose(found.squared_gradient, square, rtol=1e-4)
    np.testing.assert_allclose(found.covariance_trace, covariance, rtol=1e-4)
    np.testing.assert_allclose(found.value, covariance / square, rtol=1e-4)


def test_noise_and_its_error_are_those_of_the_distribution():
    # x normal, y = x @ a + s e: with d = theta - a, G = d and E|g|^2 = (n + 2) |d|^2 + n s^2
    noise, runs = 0.6, 400
    distance = np.sum((THETA - np.linspace(-2, 2, DIM)) ** 2)
    expected = (DIM + 1) + DIM * noise**2 / distance
    data = [drawn(100 + i, noise=noise) for i in range(runs)]
    x, y = (jnp.asarray(np.stack(part), jnp.float32) for part in zip(*data))
    found = jax.vmap(lambda *batch: curvature.gradient_noise(KEY, ls.Objective(linear, batch), PARAMS))(x, y)
    value, sem = np.asarray(found.value), np.asarray(found.sem)
    spread = value.std(ddof=1)
    # the ratio of two means is off by their covariance over the number of examples, about a standard error squared
    assert abs(value.mean() - expected) < 4 * spread / runs**0.5 + spread**2 / expected
    # of a standard deviation of 400 numbers 3.5 % are chance, and a jackknife's variance is a little too large
    assert abs(np.sqrt(np.mean(sem**2)) / spread - 1) < 0.2
    square = np.asarray(found.squared_gradient)
    assert abs(square.mean() - distance) < 4 * square.std() / runs**0.5


def test_where_all_is_noise_the_scale_is_infinite():
    x, y = drawn(7)
    best = {"w": jnp.asarray(np.linalg.lstsq(x, y, rcond=None)[0], jnp.float32)}
    found = curvature.gradient_noise(KEY, objective(), best)
    assert found.squared_gradient < 0
    assert np.isposinf(found.value)
    assert np.isposinf(found.sem)


@pytest.mark.parametrize(
    ("bad", "options", "error", "match"),
    [
        (None, {}, TypeError, "must be a landscape.Objective"),
        (ls.Objective(lambda p, _: jnp.sum(p["w"] ** 2)), {}, ValueError, "has none"),
        (objective(weight_fn=lambda batch: jnp.ones(len(batch[1]))), {}, ValueError, "weighs them"),
        (objective(), {"group_size": 100}, ValueError, "make 2 groups of 100"),
        (objective(), {"group_size": 1.5}, TypeError, "group_size"),
        (objective(), {"num_groups": 2}, ValueError, "num_groups"),
        (objective(), {"num_groups": 241}, ValueError, "there must be 241"),
    ],
)
def test_what_has_no_noise_is_refused(bad, options, error, match):
    with pytest.raises(error, match=match):
        curvature.gradient_noise(KEY, bad, PARAMS, **options)


# ------------------------------------------------------------------------------------------------- top eigenspace

VALUES = np.array([7.0, 5.0, 3.0, 0.4, 0.2])
BOWL = ls.Objective(lambda p, _: 0.5 * jnp.sum(jnp.asarray(VALUES, jnp.float32) * p["w"] ** 2))


def test_the_share_of_the_gradient_of_a_bowl_is_that_of_its_first_entries():
    gradient = VALUES * THETA
    found = curvature.eigenspace_share(KEY, BOWL, PARAMS, 2)
    assert bool(found.pairs.converged)
    np.testing.assert_allclose(found.value, np.sum(gradient[:2] ** 2) / np.sum(gradient**2), rtol=1e-4)


def test_the_share_of_an_update_is_its_own():
    update = {"w": jnp.array([0.3, 0.0, 0.0, 0.4, 0.0])}
    share = curvature.eigenspace_share(KEY, BOWL, PARAMS, 2, update=update).value
    np.testing.assert_allclose(share, 0.09 / 0.25, rtol=1e-4)


@pytest.mark.parametrize(
    ("operator", "options", "error", "match"),
    [
        (BOWL, {"k": 6}, ValueError, "number of parameters"),
        (BOWL, {"k": 2, "update": {"w": jnp.zeros(4)}}, ValueError, "update"),
        (curvature.EmpiricalFisher(objective()), {"k": 2}, TypeError, "has no gradient"),
        (None, {"k": 2}, TypeError, "Objective"),
    ],
)
def test_shares_of_nothing_are_refused(operator, options, error, match):
    with pytest.raises(error, match=match):
        curvature.eigenspace_share(KEY, operator, PARAMS, **options)
