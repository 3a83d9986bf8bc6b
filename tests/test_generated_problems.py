"""Oracles for generated data: SciPy's filters, one example at a time; published accuracies; a network known in full."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.interpolate
import scipy.ndimage
import sklearn.linear_model

from landscape import problems
from landscape.problems.templates import templates, transformed


def resample(signal, num):
    """Linear interpolation to `num` samples, by SciPy."""
    return scipy.interpolate.interp1d(np.linspace(0, 1, len(signal)), signal)(np.linspace(0, 1, num))


def one_example(digit, draw):
    """An example as the paper describes it, step by step."""
    marked = np.concatenate([np.ones(12), np.zeros(draw["padding"])])
    signal = resample(np.concatenate([templates()[digit], np.zeros(draw["padding"])]), 72)
    from_template = np.roll(resample(marked, 72) > 0, draw["shift"])
    signal = np.roll(draw["factor"] * signal, draw["shift"])
    smooth = scipy.ndimage.gaussian_filter(draw["correlated"], 2)
    signal = np.where(from_template, signal, smooth) + draw["white"]
    return resample(signal - draw["slope"] * np.linspace(-0.5, 0.5, 72), 40)


def test_mnist1d_examples_against_scipy():
    rng = np.random.default_rng(3)
    count = 60
    draws = {
        "padding": rng.choice([36, 37, 48, 60], count),
        "factor": rng.uniform(0.8, 1.2, count),
        "shift": rng.choice([0, 1, 11, 47], count),
        "correlated": rng.normal(size=(count, 72)),
        "white": rng.normal(size=(count, 72)),
        "slope": rng.uniform(-0.4, 0.4, count),
    }
    y = rng.permutation(np.arange(count) % 10)
    singly = [one_example(digit, {name: value[i] for name, value in draws.items()}) for i, digit in enumerate(y)]
    np.testing.assert_allclose(transformed(y, draws), singly, atol=1e-12)


def test_mnist1d_templates():
    found = templates()
    np.testing.assert_allclose(found.std(axis=1), 1 / 6)
    np.testing.assert_array_equal(found[:, [0, -1]], np.zeros((10, 2)))
    # by hand: the 4 is 5 4.4 3.8 3.2 2.6 2.6 5 5 5 5 5 5, so its third sample lies 1.2 below the ends
    drawn = np.array([5, 4.4, 3.8, 3.2, 2.6, 2.6, 5, 5, 5, 5, 5, 5])
    assert found[4, 2] == pytest.approx(-1.2 / (6 * np.sqrt(np.mean(drawn**2) - np.mean(drawn) ** 2)))


def test_mnist1d_is_standardised_balanced_and_shuffled():
    training, test = problems.mnist1d(seed=2)
    assert (training["x"].shape, test["x"].shape) == ((4000, 40), (12_000, 40))
    assert (training["x"].dtype, training["y"].dtype) == (np.float32, np.int32)
    x = np.concatenate([training["x"], test["x"]]).astype(float)
    assert (x.mean(), x.std()) == (pytest.approx(0, abs=1e-6), pytest.approx(1, rel=1e-6))
    counts = np.bincount(np.concatenate([training["y"], test["y"]]))
    np.testing.assert_array_equal(counts, np.full(10, 1600))
    assert 330 < np.bincount(training["y"]).min() < np.bincount(training["y"]).max() < 470  # 400 +- 17


def test_mnist1d_seed_decides():
    one, again, other = (problems.mnist1d(300, 200, seed=seed)[0]["x"] for seed in (5, 5, 6))
    np.testing.assert_array_equal(one, again)
    assert not np.any(np.all(one == other, axis=1))


def test_mnist1d_label_noise():
    """A noisy label is drawn from all ten classes, so that nine tenths of the noisy ones are wrong."""
    (clean, test), (noisy, noisy_test) = (problems.mnist1d(label_noise=noise, seed=3) for noise in (0.0, 0.15))
    np.testing.assert_array_equal(clean["x"], noisy["x"])
    np.testing.assert_array_equal(test["y"], noisy_test["y"])
    wrong, share = np.mean(clean["y"] != noisy["y"]), 0.9 * 0.15
    assert abs(wrong - share) < 4 * np.sqrt(share * (1 - share) / 4000)
    replaced = noisy["y"][clean["y"] != noisy["y"]]
    assert np.bincount(replaced, minlength=10).min() > 25  # 54 of each are expected


def test_a_linear_classifier_does_as_badly_as_published():
    """Greydanus & Kobak 2024, section 2: logistic regression gets 32 +- 1 % of the test right."""
    training, test = problems.mnist1d()
    fitted = sklearn.linear_model.LogisticRegression(max_iter=1000, tol=1e-2).fit(training["x"], training["y"])
    assert 0.30 < fitted.score(test["x"], test["y"]) < 0.34


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_train": 35.0}, TypeError, "num_train must be an integer, got float 35.0"),
        ({"num_test": 0}, ValueError, "num_test must be at least 1, got 0"),
        ({"num_train": 33, "num_test": 34}, ValueError, "must be a multiple of the 10 classes, got 67"),
        ({"label_noise": 1.5}, ValueError, r"label_noise must lie in \[0, 1\], got 1.5"),
    ],
)
def test_mnist1d_refuses(options, error, message):
    with pytest.raises(error, match=message):
        problems.mnist1d(**options)


# addition modulo p


def test_the_table_is_divided_without_loss_or_repetition():
    problem = problems.modular_addition(11, hidden=3, train_fraction=0.4, seed=2)
    problem.check()
    train, test = (problem.objectives[part].data for part in ("train", "test"))
    assert (len(train["y"]), len(test["y"])) == (48, 73)
    assert (train["x"].dtype, train["y"].dtype) == (np.int32, np.int32)
    everything = {(a, b, (a + b) % 11) for a in range(11) for b in range(11)}
    rows = np.column_stack([np.concatenate([part[name] for part in (train, test)]) for name in ("x", "y")])
    assert {tuple(row) for row in rows.tolist()} == everything
    assert not np.array_equal(train["x"], problems.modular_addition(11, 3, 0.4, seed=3).objectives["train"].data["x"])


def cosines(p, per_frequency):
    """The rule itself (Doshi et al. 2024, eq. 2): each frequency with phases that are spread evenly.

    With phases u and v that are multiples of 2 pi / per_frequency in all combinations, what is not wanted of the
    product of cosines cancels: the output is A^3 / 2 times the sum over units of cos(2 pi s (a + b - q) / p).
    """
    number, turn = 2 * np.pi * np.arange(p) / p, 2 * np.pi * np.arange(per_frequency) / per_frequency
    frequency, u, v = (g.ravel() for g in np.meshgrid(np.arange(1, (p + 1) // 2), turn, turn))
    scale = (4 / (p * per_frequency**2)) ** (1 / 3)
    a, b = (scale * np.cos(np.outer(number, frequency) + phase) for phase in (u, v))
    return {"a": a, "b": b, "out": scale * np.cos(np.outer(frequency, number) + (u + v)[:, None])}


def test_modular_addition_knows_its_exact_solution(x64):
    """By hand: the sum over s = 1 ... (p - 1) / 2 of cos(2 pi s r / p) is (p - 1) / 2 at r = 0 and -1/2 elsewhere."""
    p = 13
    params = jax.tree.map(jnp.asarray, cosines(p, 5))
    problem = problems.modular_addition(p, hidden=params["out"].shape[0])
    for objective in problem.objectives.values():
        found = objective.evaluate(params)
        assert found["accuracy"] == 1.0
        # 1 - 1/p at the answer, -1/p at the p - 1 others: each is off by 1/p
        np.testing.assert_allclose(found["loss"], 1 / p**2, rtol=1e-9)
    a, b = 9, 7
    right = np.eye(p)[(a + b) % p] - 1 / p
    np.testing.assert_allclose(problem.predict(params, np.array([[a, b]]))[0], right, atol=1e-12)


def test_modular_addition_against_one_hot_vectors():
    problem = problems.modular_addition(9, hidden=40, seed=4)
    params = jax.jit(problem.init)(jax.random.key(3))
    u, v, w = (np.asarray(params[name], float) for name in ("a", "b", "out"))
    x, y = (problem.objectives["test"].data[name] for name in ("x", "y"))
    hot = np.eye(9)
    outputs = np.square(hot[x[:, 0]] @ u + hot[x[:, 1]] @ v) @ w
    np.testing.assert_allclose(problem.predict(params, x), outputs, rtol=1e-4, atol=1e-6)
    found = problem.objectives["test"].evaluate(params)
    np.testing.assert_allclose(found["loss"], np.mean((outputs - hot[y]) ** 2), rtol=1e-5)
    np.testing.assert_allclose(found["accuracy"], np.mean(outputs.argmax(1) == y), rtol=1e-6)


def test_modular_addition_starts_as_published():
    """Doshi et al. 2024, appendix A: N(0, (16 N)^(-2/3))."""
    params = jax.jit(problems.modular_addition(31, hidden=250).init)(jax.random.key(5))
    for leaf in params.values():
        assert np.std(leaf) == pytest.approx(4000 ** (-1 / 3), rel=0.03)
        assert abs(np.mean(leaf)) < 4 * 4000 ** (-1 / 3) / np.sqrt(leaf.size)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"modulus": 7.0}, TypeError, "modulus must be an integer, got float 7.0"),
        ({"modulus": 1}, ValueError, "modulus must be at least 2, got 1"),
        ({"hidden": 0}, ValueError, "hidden must be at least 1, got 0"),
        ({"train_fraction": 1.0}, ValueError, r"train_fraction must lie in \(0, 1\), got 1.0"),
        ({"modulus": 3, "train_fraction": 0.1}, ValueError, "of 9 pairs leaves the training part empty"),
    ],
)
def test_modular_addition_refuses(options, error, message):
    with pytest.raises(error, match=message):
        problems.modular_addition(**options)
