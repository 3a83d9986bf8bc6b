"""The task of `hints.py`: pictures of several shapes, a question about all of them, and hints about each one.

A picture has `m` fields of 5 x 5 pixels. Each shows one of four pentominoes (T, U, V, P; five pixels each, so that
counting them tells nothing), turned, mirrored and shifted at random, with Gaussian noise on every pixel. The *concepts*
are the shapes. U and P make one family, T and V the other, and the question is: is the number of U's and P's odd?

For m = 1 it asks for the family, for m = 2 whether two shapes are of different families, the same-or-different of
Gulcehre & Bengio (2016). Given any m - 1 of the fields the answer is a fair coin, so for m > 1 nothing that looks at
fewer than all fields is correlated with it. It is a parity; on how little the gradient tells of parities see
Shalev-Shwartz, Shamir & Shammah (2017), arXiv 1703.07950.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

import landscape as ls
from landscape.point import as_number

_static: Any = {"static": True}
SIDE = 5  # pixels along a field
SHAPES = "TUVP"
_DRAWN = {
    "T": ("###", ".#.", ".#."),
    "U": ("#.#", "###", "..."),
    "V": ("#..", "#..", "###"),
    "P": ("##.", "##.", "#.."),
}
RIGHT, WRONG, RENAMED, BESIDE = range(4)
SILENT = -1


def sprites() -> Float[np.ndarray, "shapes turns places pixels"]:
    """Every pentomino in its 8 turned and mirrored versions at the 9 places of its 3 x 3 box; ink is 1."""
    corners = [(i, j) for i in range(SIDE - 2) for j in range(SIDE - 2)]
    table = np.zeros((len(SHAPES), 8, len(corners), SIDE, SIDE), np.float32)
    for number, name in enumerate(SHAPES):
        box = np.array([[pixel == "#" for pixel in row] for row in _DRAWN[name]])
        for turn in range(8):
            for place, (i, j) in enumerate(corners):
                table[number, turn, place, i : i + 3, j : j + 3] = np.rot90(box.T if turn >= 4 else box, turn)
    return table.reshape(len(SHAPES), 8, len(corners), SIDE**2)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures, their shapes and turns, and the answer; further axes may lead.

    Attributes:
        pixels: `(n, fields, 25)`.
        shape: which pentomino, `(n, fields)`, 0 to 3.
        turn: which quarter turn, `(n, fields)`, 0 to 3: a concept that has nothing to do with the question.
        answer: 0 or 1, `(n,)`.
    """

    pixels: Any
    shape: Any
    turn: Any
    answer: Any


def draw(rng: np.random.Generator, num: int, fields: int, noise: float) -> Pictures:
    """Independent pictures; shapes, turns and places are uniform."""
    table = sprites()
    shape, turn, place = (rng.integers(0, size, (num, fields)) for size in table.shape[:3])
    pixels = table[shape, turn, place] + noise * rng.standard_normal((num, fields, SIDE**2))
    return Pictures(pixels.astype(np.float32), shape.astype(np.int32), (turn % 4).astype(np.int32), answer(shape))


def answer(shape: Int[np.ndarray, "*n fields"]) -> Int[np.ndarray, "*n"]:
    """Whether the number of shapes of the second family is odd."""
    return (np.sum(shape % 2, axis=-1) % 2).astype(np.int32)


# ----------------------------------------------------------------------------------------------------------- hints


@dataclass(frozen=True)
class Arm:
    """What is said of the concepts.

    Attributes:
        name: for tables and legends.
        dose: share of the training pictures that carry hints.
        noise: share of the hints that are replaced by one of the four at random.
        kind: `RIGHT`; `WRONG`, those of another picture; `RENAMED`, each shape by the name of the next one;
            `BESIDE`, the turn in place of the shape.
    """

    name: str
    dose: float = 1.0
    noise: float = 0.0
    kind: int = RIGHT


NONE = Arm("no hints", dose=0.0)
ALL = Arm("right hints")


def hints(rng: np.random.Generator, pictures: Pictures, arm: Arm) -> Int[np.ndarray, "n fields"]:
    """What the hints of an arm say of each field; -1 where they say nothing."""
    shape, num = pictures.shape, len(pictures.shape)
    others = shape[rng.permutation(num)]
    said = {RIGHT: shape, WRONG: others, RENAMED: (shape + 1) % len(SHAPES), BESIDE: pictures.turn}[arm.kind]
    drawn = rng.integers(0, len(SHAPES), shape.shape)
    said = np.where(rng.random(shape.shape) < arm.noise, drawn, said)
    return np.where(np.arange(num)[:, None] < round(arm.dose * num), said, SILENT).astype(np.int32)


# --------------------------------------------------------------------------------------------------------- network


@dataclass(frozen=True)
class Net:
    """Two multilayer perceptrons, one on top of the other, or a single one.

    The lower one looks at each field with the same weights and has four outputs, whose softmax are the inputs of the
    upper one (as in the paper). Hints are about these outputs. A `plain` net is one perceptron on all pixels.

    Attributes:
        fields: fields of a picture.
        below: hidden layers of the lower perceptron, or of the plain one.
        above: hidden layers of the upper one.
        width: units of a hidden layer.
        plain: whether it is a single perceptron.
    """

    fields: int
    below: int = 1
    above: int = 1
    width: int = 32
    plain: bool = False

    def init(self, key: Array) -> dict[str, Any]:
        """Weights from N(0, 2 / fan_in) (He et al. 2015), biases 0."""
        for_below, for_above = jax.random.split(key)
        hidden, inputs = [self.width] * self.below, SIDE**2
        if self.plain:
            return {"below": _layers(for_below, [self.fields * inputs, *hidden, 1])}
        upper = [self.fields * len(SHAPES), *[self.width] * self.above, 1]
        return {
            "below": _layers(for_below, [inputs, *hidden, len(SHAPES)]),
            "above": _layers(for_above, upper),
        }

    def __call__(self, params: Mapping[str, Any], pixels: Float[Array, "n fields pixels"]) -> tuple[Array, Array]:
        """The logit of the answer, `(n,)`, and the logits of the concepts, `(n, fields, 4)`, 0 for a plain net."""
        num = len(pixels)
        if self.plain:
            logit = _perceptron(params["below"], pixels.reshape(num, -1))
            return logit[:, 0], jnp.zeros((num, self.fields, len(SHAPES)))
        concepts = _perceptron(params["below"], pixels)
        logit = _perceptron(params["above"], jax.nn.softmax(concepts).reshape(num, -1))
        return logit[:, 0], concepts


def _layers(key: Array, sizes: Sequence[int]) -> list[dict[str, Array]]:
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        {"kernel": jax.random.normal(k, (n, m)) * jnp.sqrt(2 / n), "bias": jnp.zeros(m)}
        for k, (n, m) in zip(keys, pairwise(sizes), strict=True)
    ]


def _perceptron(layers: Sequence[Mapping[str, Array]], x: Array) -> Array:
    for number, layer in enumerate(layers):
        x = x @ layer["kernel"] + layer["bias"]
        x = jax.nn.relu(x) if number < len(layers) - 1 else x
    return x


def loss(net: Net, params: Any, batch: Mapping[str, Any]) -> tuple[Array, dict[str, Array]]:
    """Cross-entropy of the answer, plus `weight` times the mean one of the concepts where a picture carries hints.

    Metrics: `error`, wrong answers; `concept_error`, shapes that the lower network takes for others, whatever was said.
    """
    pictures, said = batch["pictures"], batch["hints"]
    logit, concepts = net(params, pictures.pixels)
    hinted = optax.softmax_cross_entropy_with_integer_labels(concepts, jnp.maximum(said, 0))
    hinted = jnp.mean(jnp.where(said == SILENT, 0.0, hinted), axis=1)
    task = optax.sigmoid_binary_cross_entropy(logit, pictures.answer.astype(logit.dtype))
    wrong = jnp.argmax(concepts, axis=-1) != pictures.shape
    metrics = {"error": (logit > 0) != pictures.answer, "concept_error": wrong.mean(axis=1)}
    return task + batch["weight"] * hinted, metrics


# ---------------------------------------------------------------------------------------------------------- lessons


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Lessons:
    """Point function `(arm, seed) -> how training went`. A seed has the same pictures and start in every arm.

    Attributes:
        net: the network.
        optimizer: an optax optimizer; every step takes all training pictures.
        steps: of the optimizer.
        records: entries of a curve after the first.
        train, test: pictures of each seed.
        hints: what is said in each arm and seed, `(arms, seeds, n, fields)`.
        weight: of the hints in the loss.
        key: random key of the starts.
    """

    net: Net = field(metadata=_static)
    optimizer: Any = field(metadata=_static)
    steps: int = field(metadata=_static)
    records: int = field(metadata=_static)
    train: Pictures
    test: Pictures
    hints: Any
    weight: Any
    key: Any

    def __call__(self, coords: Float[Array, " 2"]) -> dict[str, Array]:
        """`step`, and train and test `error`, `concept_error` and `loss`, each `(records + 1,)`; `outcome`."""
        arm, seed = as_number(coords)
        train, test = jax.tree.map(lambda x: jnp.asarray(x)[seed], (self.train, self.test))
        lesson = self._objective(train, jnp.asarray(self.hints)[arm, seed])
        exam = self._objective(test, jnp.full(test.shape.shape, SILENT))
        run = ls.train(
            lesson,
            self.optimizer,
            self.net.init(jax.random.fold_in(self.key, seed)),
            num_steps=self.steps,
            record_every=self.steps // self.records,
            track={"train": lesson, "test": exam},
        )
        kept = [f"{part}_{name}" for part in ("train", "test") for name in ("error", "concept_error", "loss")]
        return {name: run.history[name] for name in ("step", *kept)} | {"outcome": run.outcome_code}

    def _objective(self, pictures: Pictures, said: Array) -> ls.Objective:
        weight = jnp.full(len(said), self.weight)  # the leaves of an objective are per picture
        data = {"pictures": pictures, "hints": said, "weight": weight}
        return ls.Objective(partial(loss, self.net), data, has_aux=True)


def lessons(net: Net, arms: Sequence[Arm], seeds: Sequence[int], sizes: tuple[int, int, float], **how: Any) -> Lessons:
    """The lessons of some arms; `sizes` are the training and test pictures and the noise on a pixel.

    A seed is all that its pictures depend on. Arms draw from the same stream: where two of them say something of a
    picture, they say the same but for what sets them apart.
    """
    num_train, num_test, noise = sizes
    train = [draw(np.random.default_rng([seed, 0]), num_train, net.fields, noise) for seed in seeds]
    test = [draw(np.random.default_rng([seed, 1]), num_test, net.fields, noise) for seed in seeds]
    said = [[hints(np.random.default_rng([s, 2]), t, arm) for s, t in zip(seeds, train, strict=True)] for arm in arms]
    stacked = (jax.tree.map(lambda *leaves: np.stack(leaves), *part) for part in (train, test))
    return Lessons(net, how.pop("optimizer"), how.pop("steps"), how.pop("records"), *stacked, np.array(said), **how)
