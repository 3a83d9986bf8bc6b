"""Losses against their laws: what each is least at, how well it uses Gaussian data, how far outliers move it."""

import doctest
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, optimize, stats

from landscape import losses

NORMAL = statistics.NormalDist()
EFFICIENCIES = {"median": 0.6366, 1.345: 0.9500, 1.0: 0.9031, 2.0: 0.9897}  # Huber 1964; 2 / pi for the median
BIASES = {0.05: 0.0660, 0.1: 0.1397, 0.2: 0.3186, 0.3: 0.5659, 0.4: 0.9674}  # SCIENCE: Phi^-1(1 / (2 (1 - e)))


def loss_of(name):
    return losses.absolute_error if name == "median" else losses.huber(name)


@pytest.fixture
def skewed(x64):
    """331 targets, skewed and with a long tail, so that no two laws agree on them."""
    return jnp.asarray(np.random.default_rng(3).gamma(2.0, 1.5, 331) - 0.7)


def test_examples_in_the_docstrings():
    assert doctest.testmod(losses).failed == 0


# ------------------------------------------------------------------------------------------------- the losses


def test_losses_are_those_of_torch(torch):
    rng = np.random.default_rng(1)
    prediction, target = (rng.normal(size=40).astype(np.float32) for _ in range(2))
    logits, labels = rng.normal(size=(40, 7)).astype(np.float32), rng.integers(7, size=40)
    p, t, z, y = map(torch.from_numpy, (prediction, target, logits, labels))
    F = torch.nn.functional
    for ours, theirs in (
        (losses.squared_error(prediction, target), F.mse_loss(p, t, reduction="none")),
        (losses.absolute_error(prediction, target), F.l1_loss(p, t, reduction="none")),
        (losses.huber(0.6)(prediction, target), F.huber_loss(p, t, reduction="none", delta=0.6)),
        (losses.cross_entropy(logits, labels), F.cross_entropy(z, y, reduction="none")),
        (losses.zero_one(logits, jnp.asarray(labels)), (z.argmax(1) != y).float()),
    ):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=2e-5, atol=1e-6)


def test_the_quantile_loss_is_that_of_scikit_learn():
    from sklearn.metrics import mean_pinball_loss

    rng = np.random.default_rng(2)
    prediction, target = rng.normal(size=30), rng.normal(size=30)
    ours = losses.aggregate(losses.pinball(0.3)(jnp.asarray(prediction), jnp.asarray(target)))
    assert float(ours) == pytest.approx(mean_pinball_loss(target, prediction, alpha=0.3), rel=1e-6)


def test_aggregates_are_those_of_numpy():
    values = np.random.default_rng(4).gamma(1.5, 2.0, 24).astype(np.float32)
    for how in ("mean", "sum", "median", "max"):
        assert float(losses.aggregate(values, how)) == pytest.approx(float(getattr(np, how)(values)), rel=1e-6)


def test_what_is_not_a_number_stays():
    prediction = jnp.array([jnp.nan, 2.0])
    for loss in (losses.squared_error, losses.absolute_error, losses.huber(1.5), losses.pinball(0.3)):
        assert np.isnan(loss(prediction, jnp.array([3.0, 4.0]))).tolist() == [True, False]
    assert np.isnan(losses.zero_one(jnp.array([[jnp.nan, 2.0], [3.0, 2.0]]), jnp.array([0, 1]))).tolist() == [
        True,
        False,
    ]


def test_equal_constants_share_a_compiled_program():
    assert losses.huber(1.5) == losses.huber(1.5) != losses.huber(1.6)
    assert hash(losses.pinball(0.3)) == hash(losses.pinball(0.3))


def test_the_constant_may_be_traced():
    def loss(k):
        return losses.huber(k)(jnp.float32(3.0), jnp.float32(0.5))

    # k (2.5 - k / 2) has the slope 2.5 - k
    assert float(jax.jit(jax.grad(loss))(0.7)) == pytest.approx(1.8, rel=1e-6)
    targets = jnp.array([2.0, 3.0, 4.0, 9.0])
    found = jax.vmap(lambda k: losses.best_constant(losses.huber(k), targets))(jnp.array([0.75, 99.0]))
    assert found[1] == pytest.approx(4.5, rel=1e-6)
    assert found[0] == losses.best_constant(losses.huber(0.75), targets)


# --------------------------------------------------------------------------------------------- what they are least at


def test_mean_median_quantile_midrange(skewed):
    y = np.asarray(skewed)
    best = losses.best_constant
    np.testing.assert_allclose(best(losses.squared_error, skewed), y.mean(), rtol=1e-14)
    np.testing.assert_allclose(best(losses.absolute_error, skewed), np.median(y), rtol=1e-14)
    for loss in (losses.squared_error, losses.absolute_error):
        np.testing.assert_allclose(best(loss, skewed, "max"), (y.min() + y.max()) / 2, rtol=1e-14)
    for tau in (0.1, 0.35, 0.8):  # 331 tau is not whole, so one order statistic is least
        expected = np.sort(y)[int(np.ceil(tau * len(y))) - 1]
        np.testing.assert_allclose(best(losses.pinball(tau), skewed), expected, rtol=1e-13)


def test_huber_is_least_where_scipy_says(skewed):
    y = np.asarray(skewed)
    for k in (0.3, 1.345):
        root = optimize.brentq(lambda c, k=k: np.sum(np.clip(c - y, -k, k)), y.min(), y.max(), xtol=1e-14)
        np.testing.assert_allclose(losses.best_constant(losses.huber(k), skewed), root, rtol=1e-12)


def test_huber_lies_between_mean_and_median(skewed):
    near, far = (float(losses.best_constant(losses.huber(k), skewed)) for k in (1e-4, 1e4))
    assert near == pytest.approx(float(np.median(skewed)), abs=1e-3)
    assert far == pytest.approx(float(np.mean(skewed)), rel=1e-12)


def test_between_the_two_middle_targets_all_are_least(x64):
    targets = jnp.array([5.0, 2.0, 3.5, 9.0])
    assert float(losses.best_constant(losses.absolute_error, targets)) == pytest.approx(4.25, rel=1e-14)


def test_influence_of_one_target(skewed):
    # Moving one target by z moves the mean by z / n, and the median by at most one order statistic.
    y, z = np.asarray(skewed), 55.5
    moved = jnp.asarray(np.where(np.arange(len(y)) == np.argmin(y), y + z, y))
    shift = losses.best_constant(losses.squared_error, moved) - losses.best_constant(losses.squared_error, skewed)
    np.testing.assert_allclose(shift, z / len(y), rtol=1e-10)
    middle = np.sort(y)[len(y) // 2 : len(y) // 2 + 2]
    np.testing.assert_allclose(losses.best_constant(losses.absolute_error, moved), middle[1], rtol=1e-14)


# -------------------------------------------------------------------------------------------- efficiency and bias


@pytest.mark.parametrize("name", EFFICIENCIES)
def test_efficiency_by_quadrature(x64, name):
    found = float(losses.gaussian_efficiency(loss_of(name)))
    assert found == pytest.approx(EFFICIENCIES[name], abs=5e-5)
    if name == "median":
        assert found == pytest.approx(2 / np.pi, rel=1e-6)
        return
    # Huber's own form: (2 Phi(k) - 1)^2 over the variance of a clipped normal number.
    square = 2 * integrate.quad(lambda z: min(z, name) ** 2 * stats.norm.pdf(z), 0, 12, points=[name])[0]
    assert found == pytest.approx((2 * NORMAL.cdf(name) - 1) ** 2 / square, rel=1e-6)


def test_the_squared_error_is_fully_efficient_in_single_precision_too():
    assert float(losses.gaussian_efficiency(losses.squared_error)) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("name", ["median", 1.345])
def test_efficiency_by_monte_carlo(x64, name):
    # 201 numbers a sample: the median's efficiency at n exceeds its limit by less than 1 % (Kenney & Keeping: n odd).
    rng = np.random.default_rng(7)
    samples = jnp.asarray(rng.normal(size=(3000, 201)))
    mean = np.asarray(samples.mean(axis=1))
    found = np.asarray(jax.jit(jax.vmap(lambda y: losses.best_constant(loss_of(name), y)))(samples))
    ratios = [mean[part].var() / found[part].var() for part in np.array_split(np.arange(3000), 30)]
    sem = np.std(ratios, ddof=1) / np.sqrt(30)
    assert sem < 0.03
    assert abs(np.mean(ratios) - EFFICIENCIES[name]) < 4 * sem + 0.006


@pytest.mark.parametrize("share", BIASES)
def test_bias_of_the_median_under_contamination(x64, share):
    count = 4000
    good = np.array([NORMAL.inv_cdf(p) for p in (np.arange(count) + 0.5) / count])
    bad = np.full(round(count * share / (1 - share)), 1e9)
    found = float(losses.best_constant(losses.absolute_error, jnp.asarray(np.concatenate([good, bad]))))
    assert NORMAL.inv_cdf(1 / (2 * (1 - share))) == pytest.approx(BIASES[share], abs=5e-5)
    assert found == pytest.approx(BIASES[share], abs=2e-3)  # one of 4000 quantiles more or less


def test_the_bias_of_the_mean_has_no_bound_and_that_of_huber_has(x64):
    good = stats.norm.ppf((np.arange(1900) + 0.5) / 1900)
    means, hubers = [], []
    for far in (30.0, 3e3, 3e5):
        targets = jnp.asarray(np.concatenate([good, np.full(100, far)]))
        means.append(float(losses.best_constant(losses.squared_error, targets)))
        hubers.append(float(losses.best_constant(losses.huber(), targets)))
    np.testing.assert_allclose(means, 0.05 * np.array([30.0, 3e3, 3e5]), rtol=1e-10)
    np.testing.assert_allclose(hubers, hubers[0], atol=2 * 2.0**-60 * 3e5)
    # (1 - e) E psi(c - z) = e k at the bias c of Huber's estimate
    k = 1.345
    c = hubers[0]
    pull = integrate.quad(lambda z: np.clip(c - z, -k, k) * stats.norm.pdf(z), -12, 12, points=[c - k, c + k])[0]
    assert 0.95 * pull == pytest.approx(0.05 * k, rel=2e-3)


def test_the_slope_of_the_absolute_error_has_constant_size():
    # One target at 3: from 10.3 in steps of 0.7 descent ends up jumping over it for ever, unless the steps shrink.
    slope = jax.grad(lambda c: losses.absolute_error(c, jnp.float32(3.0)))
    at = jnp.float32(10.3)
    for _ in range(40):
        assert abs(float(slope(at))) == 1.0
        at = at - 0.7 * slope(at)
    pair = sorted(abs(float(x) - 3.0) for x in (at, at - 0.7 * slope(at)))
    assert sum(pair) == pytest.approx(0.7, abs=1e-5)
    for t in range(40):
        at = at - 0.7 / (t + 1) * slope(at)
    assert abs(float(at) - 3.0) <= 0.7 / 40


# ------------------------------------------------------------------------------------------------------ errors


def test_errors_of_the_constants():
    with pytest.raises(TypeError, match=r"k must be a number, got '2' \(str\)"):
        losses.huber("2")
    with pytest.raises(ValueError, match="k must be positive, got -1.5"):
        losses.huber(-1.5)
    with pytest.raises(TypeError, match=r"tau must be a number, got \[0.3\] \(list\)"):
        losses.pinball([0.3])
    with pytest.raises(ValueError, match="tau must be positive and below 1, got 1.5"):
        losses.pinball(1.5)


def test_errors_of_the_arguments():
    three = jnp.arange(3.0)
    for loss in (losses.absolute_error, losses.huber(2.0), losses.pinball(0.3)):
        with pytest.raises(ValueError, match=r"one shape, got \(3,\) and \(3, 1\)"):
            loss(three, three[:, None])
        with pytest.raises(TypeError, match="predictions must be real floating-point numbers, got int32"):
            loss(jnp.arange(3), three)
    with pytest.raises(TypeError, match="integer labels, got float32"):
        losses.zero_one(jnp.ones((3, 2)), three)
    with pytest.raises(ValueError, match=r"one label for each row, \(n,\), got \(3, 2\) and \(3, 1\)"):
        losses.zero_one(jnp.ones((3, 2)), jnp.zeros((3, 1), int))
    with pytest.raises(ValueError, match="best_constant needs at least one target, got none"):
        losses.best_constant(losses.squared_error, jnp.zeros(0))
    with pytest.raises(ValueError, match="unknown aggregate 'mode'; there are mean, sum, median, max"):
        losses.aggregate(three, "mode")
    with pytest.raises(ValueError, match="convex aggregate, 'mean', 'sum' or 'max', got 'median'"):
        losses.best_constant(losses.squared_error, three, "median")
    with pytest.raises(TypeError, match="targets must be real floating-point numbers, got int32"):
        losses.best_constant(losses.squared_error, jnp.arange(3))


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: losses.aggregate("abc"), TypeError, "values must be an array of numbers, got str 'abc'"),
        (lambda: losses.aggregate([[1], [1, 2]]), TypeError, "values must be an array of numbers, got list"),
        (lambda: losses.aggregate([2.0], []), ValueError, r"unknown aggregate \[\]; there are mean"),
        (lambda: losses.aggregate([2j]), TypeError, "values must be real numbers, got complex64"),
        (lambda: losses.aggregate([]), ValueError, "aggregate needs at least one value, got none"),
        (
            lambda: losses.best_constant(None, jnp.ones(3)),
            TypeError,
            r"called as loss\(prediction, target\), got NoneT",
        ),
        (lambda: losses.best_constant(losses.huber(), "x"), TypeError, "targets must be an array of numbers, got str"),
        (lambda: losses.gaussian_efficiency(lambda r: r), TypeError, r"loss\(prediction, target\), but it takes \(r\)"),
        (lambda: losses.zero_one(None, jnp.array([1])), TypeError, "logits must be an array of numbers, got NoneType"),
        (lambda: losses.absolute_error(1.5, None), TypeError, "targets must be an array of numbers, got NoneType"),
        (lambda: losses.huber([[2], [3, 4]]), TypeError, r"k must be a number, got \[\[2\], \[3, 4\]\] \(list\)"),
    ],
)
def test_arguments_of_the_wrong_kind(call, error, said):
    with pytest.raises(error, match=said):
        call()
