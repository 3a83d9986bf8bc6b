"""The local learning coefficient: closed forms of the discrete chain, quadrature, minibatches, errors."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape import Objective, curvature

KEY = jax.random.key(6)
local_learning_coefficient = curvature.local_learning_coefficient


def bowl(*curvatures):
    """Half the sum of `h w**2`."""
    return Objective(bowl_loss, jnp.array(curvatures)[None])


def bowl_loss(w, curvatures):
    return jnp.sum(curvatures[0] * w**2) / 2


def strength_of(n):
    """n beta."""
    return n / np.log(n)


def exact_history(curvatures, n, step_size, localization, steps):
    """The mean of `n beta L` before each step of the chain that starts at the minimum.

    In a direction of curvature h a step multiplies by `1 - a` with `a = step_size (n beta h + localization) / 2` and
    adds noise of variance `step_size`, so the variance is geometric, from 0 to `step_size / (1 - (1 - a)**2)`.
    """
    h = np.array(curvatures)[:, None]
    kept = 1 - step_size * (strength_of(n) * h + localization) / 2
    variance = step_size * (1 - kept ** (2 * np.arange(steps))) / (1 - kept**2)
    return np.sum(strength_of(n) * h * variance, axis=0) / 2


def biased_level(curvatures, n, step_size, localization):
    """Where that ends: for each direction the exact share, times the bias of the step."""
    pull = strength_of(n) * np.array(curvatures)
    return np.sum(pull / (pull + localization) / (1 - step_size * (pull + localization) / 4)) / 2


def test_a_bowl_is_sampled_as_the_discrete_chain_must_from_the_first_step():
    h, n, localization, step_size, steps = (0.02, 0.7, 3.0), 400, 1.7, 0.005, 1500
    with pytest.warns(UserWarning, match=r"step_size=0.005 is too large: the chains are 13 % too hot"):
        found = local_learning_coefficient(
            KEY, bowl(*h), jnp.zeros(3), step_size=step_size, num_examples=n, localization=localization,
            num_chains=400, num_steps=steps, num_records=30, burn_in=0.6,
        )  # fmt: skip
    history = np.asarray(found.history)
    assert history.shape == (400, 30)
    expected = exact_history(h, n, step_size, localization, steps).reshape(30, 50).mean(axis=1)
    error = history.std(axis=0, ddof=1) / 20
    assert expected[0] < expected[-1] - 3 * error[-1]  # the start is seen
    assert np.max(np.abs(history.mean(axis=0) - expected) / error) < 4
    assert found.burn_in == 18
    level = biased_level(h, n, step_size, localization)
    assert level == pytest.approx(expected[18:].mean(), rel=1e-6)
    assert abs(float(found.mean) - level) < 3 * float(found.sem)
    assert biased_level(h, n, 0, localization) < level - 10 * float(found.sem)  # the step's bias is seen
    assert abs(float(found.drift.mean)) < 3 * float(found.drift.sem)


def test_standard_errors_are_of_the_right_size():
    h, n, step_size = (0.4, 2.5), 300, 0.01
    run = partial(local_learning_coefficient, step_size=step_size, num_examples=n, num_steps=400, num_records=8)
    found = jax.jit(jax.vmap(lambda key: run(key, bowl(*h), jnp.zeros(2))))(jax.random.split(KEY, 100))
    assert found.mean.shape == found.sem.shape == found.drift.sem.shape == (100,)
    pulls = (np.asarray(found.mean) - biased_level(h, n, step_size, 1.0)) / np.asarray(found.sem)
    assert abs(pulls.mean()) < 0.35
    assert 0.8 < pulls.std() < 1.35


def crossing_level(n, step_size, localization):
    """The mean of `n beta w1**2 w2**4` by quadrature, and its bias to first order in the step.

    To that order Euler steps over a time s of `dx = -grad U dt + sqrt(2) dW` sample
    `exp(-U) (1 + s (|grad U|**2 / 4 - lap U / 2))` (Leimkuhler & Matthews 2013, Appl. Math. Res. eXpress 2013, 34-56).
    """
    t, nodes = strength_of(n), np.polynomial.hermite_e.hermegauss(20)
    w2 = np.linspace(-9, 9, 20_001)[:, None] / localization**0.5
    pull = 2 * t * w2**4 + localization
    weight = nodes[1] * np.exp(-localization * w2**2 / 2) / np.sqrt(pull)
    w1 = nodes[0] / np.sqrt(pull)
    value = t * w1**2 * w2**4
    gradient = (pull * w1) ** 2 + (4 * t * w1**2 * w2**3 + localization * w2) ** 2
    laplacian = pull + 12 * t * w1**2 * w2**2 + localization
    tilt = step_size / 2 * (gradient / 4 - laplacian / 2)
    mean = np.average(value, weights=weight)
    return mean, np.average((value - mean) * tilt, weights=weight)


def test_a_normal_crossing_agrees_with_quadrature_and_not_with_the_bowl():
    n, localization = 500, 5.0
    step_size = 0.03 / strength_of(n)
    found = local_learning_coefficient(
        KEY, Objective(lambda w, _: w["a"] ** 2 * w["b"] ** 4), {"a": jnp.zeros(()), "b": jnp.zeros(())},
        step_size=step_size, num_examples=n, localization=localization, num_chains=64, num_steps=40_000, burn_in=0.2,
    )  # fmt: skip
    exact, bias = crossing_level(n, step_size, localization)
    assert bias < 0.03 * exact
    assert abs(float(found.mean) - exact - bias) < 3 * float(found.sem)
    assert float(found.sem) < 0.04 * exact
    assert float(found.mean) < 0.25  # far from the 1 of a bowl with two parameters


def regression(num=200):
    """Least squares, and where it is least."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(num, 3)) * [0.6, 1.0, 1.7]
    y = x @ [0.5, -1.3, 2.0] + 0.5 * rng.normal(size=num)
    best = np.linalg.lstsq(x, y, rcond=None)[0]
    h = np.linalg.eigvalsh(x.T @ x / num)
    return Objective(half_square, (jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32))), best, h


def half_square(w, batch):
    x, y = batch
    return (x @ w - y) ** 2 / 2


def test_minibatches_agree_with_the_full_batch_and_with_the_normal_equations():
    objective, best, h = regression()
    step_size = 0.05 / strength_of(200)
    run = partial(local_learning_coefficient, KEY, objective, jnp.asarray(best, jnp.float32), step_size=step_size)
    run = partial(run, num_chains=64, num_steps=2000, burn_in=0.25)
    full, part = run(), run(batch_size=50)
    expected = biased_level(h, 200, step_size, 1.0)
    for found in (full, part):
        assert abs(float(found.mean) - expected) < 3 * float(found.sem)
        assert float(found.sem) < 0.03 * expected
    np.testing.assert_array_equal(run(batch_size=200).history, full.history)


def test_vmap_over_the_number_of_examples_is_a_loop():
    def run(n):
        return local_learning_coefficient(
            KEY, bowl(0.3, 1.4), jnp.zeros(2), step_size=0.05 * jnp.log(n) / n, num_examples=n, localization=0.7,
            num_chains=3, num_steps=60, num_records=6,
        )  # fmt: skip

    counts = jnp.array([50.0, 700.0, 8000.0])
    many = jax.jit(jax.vmap(run))(counts)
    assert many.history.shape == (3, 3, 6)
    assert many.burn_in == 3
    for i, n in enumerate(counts):
        one = run(float(n))
        for field in ("mean", "sem", "history"):
            np.testing.assert_allclose(getattr(many, field)[i], getattr(one, field), rtol=1e-4)
        np.testing.assert_allclose(many.drift.mean[i], one.drift.mean, rtol=1e-3)


def test_a_chain_that_diverges_says_so_in_numbers():
    step_size = 4.5 / (3.0 * strength_of(1000))  # the step overshoots by a factor of 1.25
    with pytest.warns(UserWarning, match=r"step_size=0.0104 is too large: 4 of 4 chains diverged"):
        found = local_learning_coefficient(
            KEY, bowl(0.2, 3.0), jnp.zeros(2), step_size=step_size, num_examples=1000, num_chains=4, num_steps=2000
        )
    assert not np.isfinite(found.mean)
    assert not np.isfinite(found.sem)
    assert np.all(np.isfinite(found.history[:, 0]))
    assert not np.any(np.isfinite(found.history[:, -1]))


def test_a_step_that_is_too_large_is_said_and_what_it_heats_is_measured():
    """Seven directions of one curvature: in each the variance is that of the exact chain over 1 - step (a + g) / 4."""
    n, step_size = 10_000, 1e-3
    run = partial(local_learning_coefficient, KEY, bowl(*[1.0] * 7), jnp.zeros(7), num_examples=n, num_steps=2000)
    with pytest.warns(UserWarning, match=r"chains are 3\d % too hot, and the estimate .*; 9e-05 would leave about 2.5"):
        hot = run(step_size=step_size)
    exact = 1 / (1 - step_size * (strength_of(n) + 1) / 4)
    assert abs(float(hot.temperature.mean) - exact) < 4 * float(hot.temperature.sem)
    assert float(hot.mean) == pytest.approx(4.785, abs=0.1)  # for 3.5
    cool = run(step_size=9e-5)
    assert float(cool.temperature.mean) == pytest.approx(1.025, abs=4 * float(cool.temperature.sem))
    assert float(cool.mean) == pytest.approx(3.5 * 1.025, abs=4 * float(cool.sem))


def test_a_run_that_is_too_short_drifts_as_much_as_it_must():
    h, n = (0.01,) * 20 + (1.1,), 20_000
    step_size = 0.02 / strength_of(n)

    def run(steps, burn_in):
        found = local_learning_coefficient(
            KEY, bowl(*h), jnp.zeros(21), step_size=step_size, num_examples=n,
            num_chains=50, num_steps=steps, burn_in=burn_in, num_records=20,
        )  # fmt: skip
        kept = exact_history(h, n, step_size, 1.0, steps)[round(burn_in * steps) :]
        expected = kept[len(kept) // 2 :].mean() - kept[: len(kept) // 2].mean()
        assert abs(float(found.drift.mean) - expected) < 3 * float(found.drift.sem)
        return expected / float(found.drift.sem)

    assert run(2000, 0.2) > 5
    assert run(40_000, 0.6) < 1


GOOD = {"step_size": 0.01, "num_examples": 90, "num_steps": 100}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"key": 3}, TypeError, r"key must be a random key, got int.*pass jax.random.key\(3\)"),
        ({"objective": bowl_loss}, TypeError, "objective must be a landscape.Objective, got function"),
        ({"params": jnp.arange(2)}, TypeError, "params.*must be a real floating-point array, got int32"),
        ({"objective": Objective(lambda w, _: w @ w), "num_examples": None}, ValueError, "no data: give num_examples"),
        ({"num_examples": None}, ValueError, "num_examples must be larger than 2 and finite, got 1"),
        ({"num_examples": np.inf}, ValueError, "num_examples must be larger than 2 and finite, got inf"),
        ({"num_examples": "many"}, TypeError, "num_examples must be a number, got 'many'"),
        ({"step_size": 0.0}, ValueError, "step_size must be larger than 0 and finite, got 0.0"),
        ({"step_size": jnp.ones(3)}, TypeError, "step_size must be a number, got Array"),
        ({"localization": -2.0}, ValueError, "localization must be larger than 0 and finite, got -2.0"),
        ({"localization": np.nan}, ValueError, "localization must be larger than 0 and finite, got nan"),
        ({"num_chains": 1}, ValueError, "num_chains must be at least 2, got 1"),
        ({"num_chains": 2.0}, TypeError, "num_chains must be an integer, got float"),
        ({"num_records": 3}, ValueError, "num_records must be at least 4, got 3"),
        ({"num_steps": 49}, ValueError, "num_steps must be at least 50, got 49"),
        ({"burn_in": 1.0}, ValueError, r"burn_in must be a share of the steps, in \[0, 1\), got 1.0"),
        ({"batch_size": 201}, ValueError, "batch_size must be from 1 to the number of examples, 1, got 201"),
        ({"batch_size": 1.0}, TypeError, "batch_size must be an integer, got float"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, error, message):
    arguments = {"key": KEY, "objective": bowl(0.5, 3.0), "params": jnp.zeros(2)} | GOOD | changes
    with pytest.raises(error, match=message):
        local_learning_coefficient(**arguments)
