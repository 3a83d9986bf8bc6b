"""Keras models through the bridge, beside what Keras itself evaluates."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "jax")
keras = pytest.importorskip("keras", reason="needs the extra [keras]")

import landscape as ls  # noqa: E402

bridge = ls.bridges.keras
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
CLOSE = 1e-5


@pytest.fixture(scope="module")
def trained():
    """A network with batch norm and dropout after one pass of training, its data and its problem."""
    keras.utils.set_random_seed(4)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)), layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU(),
            layers.Dropout(0.5), layers.Flatten(), layers.Dense(3),
        ]
    )  # fmt: skip
    rng = np.random.default_rng(2)
    x, y = rng.normal(0.4, 1.3, (15, 6, 6, 1)).astype(np.float32), rng.integers(0, 3, 15)
    model.compile("sgd", LOSS)
    model.fit(x, y, epochs=1, verbose=0)
    return model, (x, y), bridge.problem(model, LOSS, (x, y), (x[:5], y[:5]), batch_size=4)


def test_values_are_those_of_keras(trained):
    model, (x, y), problem = trained
    assert 0 <= problem.difference <= CLOSE
    assert list(problem.params) == [v.path for v in model.trainable_variables]
    np.testing.assert_allclose(problem.objectives["train"](problem.params), model.evaluate(x, y, verbose=0), rtol=CLOSE)
    moved = jax.tree.map(lambda w: 0.8 * w + 0.1, problem.params)  # evaluate gives buffers away: ours are copies
    ours = problem.objectives["test"](moved)
    predicted = problem.predict(moved, x)
    bridge.to_model(moved, model)
    np.testing.assert_allclose(ours, model.evaluate(x[:5], y[:5], verbose=0), rtol=CLOSE)
    np.testing.assert_allclose(predicted, model(x, training=False), atol=CLOSE)
    bridge.to_model(problem.params, model)


def test_statistics_are_those_of_the_data(trained):
    model, (x, _), problem = trained
    state = problem.objectives["train"].recalibrated(problem.params).state
    before = np.asarray(model.layers[0](x))
    path = model.layers[1].moving_mean.path
    np.testing.assert_allclose(state[path], before.mean((0, 1, 2)), atol=CLOSE)
    assert model.layers[1].momentum == 0.99
    assert model.layers[3].rate == 0.5


def test_filters_are_known_without_being_told(trained):
    _, _, problem = trained
    directions = ls.subspace.random_directions(jax.random.key(1), problem.params)
    scaled = ls.subspace.filter_normalize(directions, problem.params)
    for name, others in (("sequential/conv2d/kernel", (0, 1, 2)), ("sequential/dense/kernel", (0,))):
        theirs = problem.params[name]
        np.testing.assert_allclose(jnp.sum(scaled[name][0] ** 2, others), jnp.sum(theirs**2, others), rtol=1e-4)


def test_frozen_variables_and_new_weights(trained):
    model, (x, y), _ = trained
    problem = bridge.problem(model, "mse", (x, np.eye(3, dtype=np.float32)[y]), trainable="*/dense/*")
    assert list(problem.params) == ["sequential/dense/kernel", "sequential/dense/bias"]
    assert "sequential/conv2d/kernel" in problem.frozen
    one, other = (problem.init(jax.random.key(i)) for i in (3, 4))
    assert jax.tree.structure(one) == jax.tree.structure(problem.params)
    assert not np.allclose(one["sequential/dense/kernel"], other["sequential/dense/kernel"])


def test_wrong_arguments(trained):
    model, (x, y), problem = trained
    for arguments, error, match in (
        ((None, LOSS, (x, y)), TypeError, "must be a keras.Model"),
        ((model, "no_such_loss", (x, y)), ValueError, "knows no loss"),
        ((model, lambda t, o: 3.5, (x, y)), ValueError, r"one number for each of 8 examples, got shape \(\)"),
        ((model, LOSS, {"x": x}), TypeError, r"must be a pair \(inputs, targets\)"),
        ((model, LOSS, (x, y[:3])), ValueError, "same first axis"),
        ((keras.Sequential([keras.layers.Dense(2)]), LOSS, (x, y)), ValueError, "is not built"),
    ):
        with pytest.raises(error, match=match):
            bridge.problem(*arguments)
    with pytest.raises(ValueError, match="'head' matches no parameter"):
        bridge.problem(model, LOSS, (x, y), trainable="head")
    with pytest.raises(ValueError, match=r"has no variables other; it has sequential/conv2d/kernel"):
        bridge.to_model({"other": x}, model)
    with pytest.raises(ValueError, match="the parameters lack"):
        problem.objectives["train"]({"sequential/dense/bias": problem.params["sequential/dense/bias"]})


def test_another_backend_is_said():
    code = "import keras, landscape as ls; ls.bridges.keras.problem(None, None, None)"
    backend = os.environ | {"KERAS_BACKEND": "numpy"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=backend, check=False)
    assert "Keras runs on numpy: set the environment variable KERAS_BACKEND=jax before" in done.stderr
