"""Oracles for the one-dimensional functions: NumPy to the bit, finite differences, the inverse of a step, SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from landscape.problems import double_well, rippled_parabola
from landscape.problems.ripples import CONVEX_ROUGHNESS, descend

EPS, LAM = 0.23, 0.17
X = np.random.default_rng(7).uniform(-30, 30, 20_000)


def plain(kind, x, eps=EPS, lam=LAM):
    """Value and derivative as anybody would write them (the order of operations is that of Liu's code)."""
    cosine, sine = np.cos(2 * np.pi * x / lam), np.sin(2 * np.pi * x / lam)
    if kind == "additive":
        return x**2 + eps * cosine, 2 * x - 2 * np.pi * eps * sine / lam
    return x**2 * (1 + eps * cosine), 2 * x * (1 + eps * cosine) - 2 * np.pi * x**2 * eps * sine / lam


@pytest.mark.parametrize("kind", ["multiplicative", "additive"])
def test_value_and_gradient_against_numpy(kind, x64):
    function = rippled_parabola(kind, EPS, LAM)
    value, gradient = jax.jit(lambda f, x: (f(x), f.gradient(x)))(function, X)
    expected, slope = plain(kind, X)
    np.testing.assert_allclose(value, expected, rtol=1e-14)
    np.testing.assert_allclose(gradient, slope, rtol=1e-11, atol=1e-10)
    np.testing.assert_allclose(jax.vmap(jax.grad(function))(X), slope, rtol=1e-9, atol=1e-9)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other devices have their own sine")
@pytest.mark.parametrize("kind", ["multiplicative", "additive"])
def test_a_step_is_that_of_numpy_to_the_bit(kind, x64):
    rate = np.linspace(0.01, 1.5, len(X))
    function = rippled_parabola(kind, EPS, LAM)

    def step(function, rate, x):
        return descend(function, rate, x, num_steps=1, max_loss=1e12)[0]

    found = jax.jit(jax.vmap(step, (None, 0, 0)))(function, rate, X)
    np.testing.assert_array_equal(found, X - rate * plain(kind, X)[1])


@pytest.mark.parametrize(("factor", "convex"), [(0.97, True), (1.03, False)])
def test_added_ripples_are_convex_up_to_their_threshold(factor, convex):
    eps = factor * CONVEX_ROUGHNESS * LAM**2
    assert bool(rippled_parabola("additive", eps, LAM).is_convex) is convex
    slope = plain("additive", np.linspace(-LAM, LAM, 20_001), eps)[1]
    assert bool(np.all(np.diff(slope) > 0)) is convex


def test_roughness():
    assert rippled_parabola("additive", 0.3, 0.5).roughness == pytest.approx(0.3 / 0.25)
    assert rippled_parabola("multiplicative", 0.3, 0.5).roughness == 0.3
    assert not rippled_parabola("multiplicative", 0.3, 0.5).is_convex


def test_descent_reports_the_step_after_which_it_diverged(x64):
    well = double_well()

    def plain_descent(rate, x):
        for step in range(40):
            if not (x * x - 1) ** 2 / 4 <= 1e6:
                return x, step
            x = x - rate * x * (x * x - 1)
        return x, -1

    for rate, start in ((0.3, 2.9), (0.3, 2.5), (0.7, 40.0), (0.7, 1.7)):
        x, step = descend(well, jnp.asarray(rate), jnp.asarray(start), num_steps=40, max_loss=1e6)
        expected = plain_descent(rate, start)
        assert int(step) == expected[1]
        assert float(x) == pytest.approx(expected[0], rel=1e-9)


def test_a_loss_that_is_not_a_number_counts_as_diverged():
    x, step = descend(double_well(), jnp.asarray(0.3), jnp.asarray(jnp.nan), num_steps=5, max_loss=1e6)
    assert int(step) == 0
    assert jnp.isnan(x)


@pytest.mark.parametrize("rate", [0.15, 0.6, 1.2])
def test_double_well_switches_against_scipy(rate):
    well = double_well()

    def step(x):
        return x - rate * x * (x * x - 1)

    limit = scipy.optimize.brentq(lambda x: step(x) + x, 1.1, 9.0, xtol=1e-14)
    assert well.bounded_limit(rate) == pytest.approx(limit, abs=1e-12)
    expected = [scipy.optimize.brentq(step, 1.1, limit, xtol=1e-15)]
    for _ in range(4):
        before = expected[-1]
        expected.append(scipy.optimize.brentq(lambda x, s=before: step(x) + s, before, limit, xtol=1e-15))
    np.testing.assert_allclose(well.switches(rate, 5), expected, atol=1e-12)
    slope = (step(limit + 1e-6) - step(limit - 1e-6)) / 2e-6
    assert well.shrink_factor(rate) == pytest.approx(-slope, rel=1e-8)
    assert float(well.gradient(jnp.float32(1.7))) == pytest.approx(1.7**3 - 1.7, rel=1e-6)
    assert float(well(jnp.float32(1.7))) == pytest.approx((1.7**2 - 1) ** 2 / 4, rel=1e-6)


def test_up_to_which_rate_the_inner_starts_stay_on_their_side():
    # g(x) = x (1 + eta - eta x^2) has its largest value on (0, s0) where g' = 0; it must not exceed s0
    for factor, stays in ((0.99, True), (1.01, False)):
        rate = factor * double_well().SAME_SIDE_RATE
        x = np.linspace(0, double_well().first_switch(rate), 100_001)
        assert (np.max(x * (1 + rate - rate * x * x)) < x[-1]) is np.bool_(stays)


def test_documented_errors():
    with pytest.raises(ValueError, match="kind must be 'multiplicative' or 'additive', got 'sum'"):
        rippled_parabola("sum")
    with pytest.raises(ValueError, match=r"wavelength lam must be positive, got -0\.1"):
        rippled_parabola(lam=-0.1)
