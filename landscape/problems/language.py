"""A small decoder on the text of Python's own help: `language_model`, trained in minutes on two cores.

The text is `pydoc_data.topics`, half a million bytes that come with every Python; train and test part hold different
topics. The decoder is a plain pytree: byte embeddings that are the head too (Press & Wolf 2017), learned positions,
layers of causal attention and of a perceptron with root-mean-square norms before each (Zhang & Sennrich 2019).
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from landscape.checks import check_count, check_share
from landscape.objective import Objective, Problem

BYTES = 256
EPSILON = 1e-6


def language_model(
    width: int = 64,
    depth: int = 2,
    *,
    heads: int = 4,
    context: int = 64,
    num_train: int = 512,
    num_test: int = 256,
    test_fraction: float = 0.2,
    batch_size: int | None = None,
    seed: int = 0,
) -> Problem:
    """A decoder that predicts the next byte of the help pages of Python.

    The loss of an example is the mean cross-entropy over its `context` bytes, in nats (5.55 for a uniform guess), and
    all examples are of one length, so the mean over examples is the mean over bytes. Metric: `accuracy`.

    Args:
        width: of the residual stream, a multiple of `heads`.
        depth: number of layers.
        heads: of attention in each layer.
        context: bytes that are predicted in each example.
        num_train: examples of the train part, spread evenly over its text; at most as many as there are.
        num_test: the same of the test part.
        test_fraction: share of the topics in the test part, in (0, 1).
        batch_size: examples per pass, which bounds the memory; all at once by default.
        seed: of the shuffle that divides the topics.

    Raises:
        TypeError: a count is no integer.
        ValueError: a count below 1, or a width that is no multiple of the heads.
    """
    counts = {"width": width, "depth": depth, "heads": heads, "context": context}
    for name, value in (counts | {"num_train": num_train, "num_test": num_test}).items():
        check_count(name, value, 1)
    check_share("test_fraction", test_fraction)
    if width % heads:
        raise ValueError(f"width must be a multiple of heads={heads}, got {width}")
    splits = help_pages(context, test_fraction, seed)
    data = {name: _spread(splits[name], num) for name, num in (("train", num_train), ("test", num_test))}
    objectives = {
        name: Objective(byte_losses, {"bytes": jnp.asarray(windows)}, has_aux=True, batch_size=batch_size)
        for name, windows in data.items()
    }
    name = f"language model {depth} x {width}"
    return Problem(lambda key: decoder(key, width, depth, heads, context), objectives, predict=logits, name=name)


@lru_cache
def help_pages(context: int, test_fraction: float = 0.2, seed: int = 0) -> Mapping[str, Int[np.ndarray, "n c"]]:
    """Windows of `context + 1` bytes of the help pages, `{"train": (n, c + 1), "test": (m, c + 1)}`, by topic.

    Windows do not overlap and do not cross topics; what is left at the end of a topic is left out.
    """
    from pydoc_data.topics import topics

    names = sorted(topics)
    order = np.random.default_rng(seed).permutation(len(names))
    held = set(order[: max(1, round(test_fraction * len(names)))].tolist())
    parts: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    for i, name in enumerate(names):
        text = np.frombuffer(topics[name].encode(), np.uint8)
        whole = len(text) // (context + 1)
        parts["test" if i in held else "train"].append(text[: whole * (context + 1)].reshape(whole, context + 1))
    return {part: np.concatenate(windows).astype(np.int32) for part, windows in parts.items()}


def _spread(windows: np.ndarray, num: int) -> np.ndarray:
    """At most `num` of the windows, spread evenly."""
    return windows[np.linspace(0, len(windows) - 1, min(num, len(windows))).astype(int)]


def decoder(key: Array, width: int, depth: int, heads: int, context: int) -> PyTree:
    """Parameters at the start: normal with variance one over the inputs, the output of each layer over its depth."""
    keys = iter(jax.random.split(key, 2 + 6 * depth))

    def kernel(inputs: int, *shape: int, scale: float = 1.0) -> dict[str, Array]:
        return {"kernel": scale * jax.random.normal(next(keys), shape) / inputs**0.5}

    def layer() -> dict[str, Any]:
        inner, out = (width, heads, width // heads), (2 * depth) ** -0.5
        return {
            "norm_1": {"scale": jnp.ones(width)},
            **{name: kernel(width, *inner) for name in ("query", "key", "value")},
            "out": kernel(width, heads, width // heads, width, scale=out),
            "norm_2": {"scale": jnp.ones(width)},
            "up": kernel(width, width, 4 * width),
            "down": kernel(4 * width, 4 * width, width, scale=out),
        }

    embedding = {"embedding": jax.random.normal(next(keys), (BYTES, width)) / width**0.5}
    position = {"embedding": 0.1 * jax.random.normal(next(keys), (context, width)) / width**0.5}
    layers = [layer() for _ in range(depth)]
    return {"bytes": embedding, "position": position, "layers": layers, "norm": {"scale": jnp.ones(width)}}


def logits(params: PyTree, inputs: Int[Array, "n c"]) -> Float[Array, "n c b"]:
    """Logits of the next byte after each of the inputs."""
    table = params["bytes"]["embedding"]
    x = table[inputs] * table.shape[1] ** 0.5 + params["position"]["embedding"]
    for layer in params["layers"]:
        x = x + _attention(layer, _normed(layer["norm_1"], x))
        inner = jax.nn.gelu(_normed(layer["norm_2"], x) @ layer["up"]["kernel"])
        x = x + inner @ layer["down"]["kernel"]
    return _normed(params["norm"], x) @ table.T


def _normed(norm: Mapping[str, Array], x: Array) -> Array:
    size = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(size + EPSILON) * norm["scale"]


def _attention(layer: Mapping[str, Any], x: Array) -> Array:
    """Each position looks at itself and those before it."""
    q, k, v = (jnp.einsum("ncw,whd->nhcd", x, layer[name]["kernel"]) for name in ("query", "key", "value"))
    scores = jnp.einsum("nhcd,nhed->nhce", q, k) / q.shape[-1] ** 0.5
    seen = jnp.tril(jnp.ones(scores.shape[-2:], bool))
    shares = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1)
    return jnp.einsum("nhce,nhed,hdw->ncw", shares, v, layer["out"]["kernel"])


def byte_losses(params: PyTree, batch: Mapping[str, Array]) -> tuple[Float[Array, " n"], dict[str, Float[Array, " n"]]]:
    """Mean cross-entropy over the bytes of each example, and the share that is the likeliest."""
    inputs, targets = batch["bytes"][:, :-1], batch["bytes"][:, 1:]
    scores = jax.nn.log_softmax(logits(params, inputs))
    losses = -jnp.take_along_axis(scores, targets[..., None], axis=-1)[..., 0]
    right = jnp.argmax(scores, axis=-1) == targets
    return jnp.mean(losses, axis=-1), {"accuracy": jnp.mean(right.astype(losses.dtype), axis=-1)}
