"""The small language model: its text, its decoder beside one written in NumPy, and that it learns."""

from pydoc_data.topics import topics

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special

import landscape as ls
from landscape.problems.language import decoder, help_pages, logits


def test_windows_are_the_help_pages_divided_by_topic():
    pages = help_pages(30)
    texts = {name: text.encode() for name, text in topics.items()}
    homes = {part: set() for part in pages}
    for part, windows in pages.items():
        for window in windows[::40]:
            piece = bytes(window.astype(np.uint8))
            found = {name for name, text in texts.items() if piece in text}
            assert found
            homes[part] |= found if len(found) == 1 else set()
    assert not homes["train"] & homes["test"]
    assert sum(map(len, pages.values())) == sum(len(text) // 31 for text in texts.values())
    whole = sum(windows.size for windows in pages.values())
    assert whole > 0.98 * sum(map(len, texts.values())) - 31 * len(texts)


def by_numpy(params, inputs):
    """The decoder again, one position at a time, in float64."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)

    def normed(norm, x):
        return x / np.sqrt(np.mean(x**2) + 1e-6) * norm["scale"]

    table = params["bytes"]["embedding"]
    stream = [table[b] * np.sqrt(table.shape[1]) + p for b, p in zip(inputs, params["position"]["embedding"])]
    for layer in params["layers"]:
        seen = [normed(layer["norm_1"], x) for x in stream]
        new = []
        for i, x in enumerate(stream):
            out = 0
            for head in range(layer["query"]["kernel"].shape[1]):
                q, *_ = (layer["query"]["kernel"][:, head].T @ seen[i],)
                keys = np.array([layer["key"]["kernel"][:, head].T @ s for s in seen[: i + 1]])
                values = np.array([layer["value"]["kernel"][:, head].T @ s for s in seen[: i + 1]])
                out = out + special.softmax(keys @ q / np.sqrt(len(q))) @ values @ layer["out"]["kernel"][head]
            x = x + out
            inner = normed(layer["norm_2"], x) @ layer["up"]["kernel"]
            gelu = 0.5 * inner * (1 + np.tanh(np.sqrt(2 / np.pi) * (inner + 0.044715 * inner**3)))
            new.append(x + gelu @ layer["down"]["kernel"])
        stream = new
    return np.array([table @ normed(params["norm"], x) for x in stream])


def test_decoder_beside_numpy(x64):
    params = decoder(jax.random.key(3), 12, 2, 3, 7)
    inputs = np.array([72, 101, 3, 255, 0, 72, 9])
    np.testing.assert_allclose(logits(params, jnp.asarray(inputs)[None])[0], by_numpy(params, inputs), rtol=1e-9)


def test_losses_and_accuracy_are_means_over_bytes(x64):
    problem = ls.problems.language_model(8, 1, heads=2, context=9, num_train=6, num_test=5)
    params = problem.init(jax.random.key(1))
    for objective, num in zip(problem.objectives.values(), (6, 5)):
        data = np.asarray(objective.data["bytes"])
        assert data.shape == (num, 10)
        scores = np.stack([special.log_softmax(by_numpy(params, row[:-1]), axis=-1) for row in data])
        losses = -np.take_along_axis(scores, data[:, 1:, None], -1)
        measured = jax.jit(lambda o, p: o.evaluate(p))(objective, params)
        assert float(measured["loss"]) == pytest.approx(losses.mean(), rel=1e-9)
        assert float(measured["accuracy"]) == pytest.approx(np.mean(scores.argmax(-1) == data[:, 1:]), abs=1e-7)


def test_it_learns_and_has_a_radius():
    problem = ls.problems.language_model(16, 1, heads=2, context=24, num_train=64, num_test=32)
    objective, start = problem.objectives["train"], problem.init(jax.random.key(0))
    run = ls.train(objective, optax.adam(1e-2), start, num_steps=60, record_every=60)
    assert 4 < float(run.history["loss"][0]) < 8
    assert float(run.history["loss"][-1]) < 3.2  # the frequencies of single bytes alone give about 3.1
    found = ls.radius(jax.random.key(1), objective, run.params, rise=0.5, normalization="filter", filter_axis="flax")
    assert 0 < found.interval[0] <= found.value <= found.interval[1] < np.inf


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"width": 10}, ValueError, "width must be a multiple of heads=4, got 10"),
        ({"depth": 0}, ValueError, "depth must be at least 1"),
        ({"context": 2.5}, TypeError, "context must be an integer"),
        ({"test_fraction": 1.5}, ValueError, "test_fraction must lie in"),
    ],
)
def test_wrong_options(options, error, message):
    with pytest.raises(error, match=message):
        ls.problems.language_model(**options)
