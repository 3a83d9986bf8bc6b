r"""MNIST-1D, a generated stand-in for MNIST: ten lines on a page that are stretched, moved, tilted and made noisy.

Greydanus & Kobak 2024, "Scaling Down Deep Learning with MNIST-1D" (arXiv 2011.14439, section 2; constants as in their
package `mnist1d`). A template of 12 samples is padded with 36 to 60 zeros and resampled to 72, scaled by .8 to 1.2
and shifted round the ends by 0 to 47 samples; the padding is filled with correlated noise, everything gets white noise
and a linear tilt, and what comes out is resampled to 40. Last, the whole set is brought to mean 0 and standard
deviation 1. A linear classifier gets about 32 % of the test right, a fully connected network about 68 %, a
convolutional one about 94 %.

Where we differ: all examples are drawn side by side, from another stream of random numbers, so a seed gives other
examples of the same distribution than theirs.

>>> from landscape.problems import mnist1d
>>> train, test = mnist1d(num_train=400, num_test=100)
>>> train["x"].shape, test["x"].shape
((400, 40), (100, 40))
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from landscape import _tree
from landscape.problems.classification import Split

# the ten digits as drawn on a line, `get_templates` of their package; each starts and ends at 5
_DRAWN = np.array(
    [
        [5, 6, 6.5, 6.75, 7, 7, 7, 7, 6.75, 6.5, 6, 5],
        [5, 3, 3, 3.4, 3.8, 4.2, 4.6, 5, 5.4, 5.8, 5, 5],
        [5, 6, 6.5, 6.5, 6, 5.25, 4.75, 4, 3.5, 3.5, 4, 5],
        [5, 6, 6.5, 6.5, 6, 5, 5, 6, 6.5, 6.5, 6, 5],
        [5, 4.4, 3.8, 3.2, 2.6, 2.6, 5, 5, 5, 5, 5, 5],
        [5, 3, 3, 3, 3, 5, 6, 6.5, 6.5, 6, 4.5, 5],
        [5, 4, 3.5, 3.25, 3, 3, 3, 3, 3.25, 3.5, 4, 5],
        [5, 7, 7, 6.6, 6.2, 5.8, 5.4, 5, 4.6, 4.2, 5, 5],
        [5, 4, 3.5, 3.5, 4, 5, 5, 4, 3.5, 3.5, 4, 5],
        [5, 4, 3.5, 3.5, 4, 5, 5, 5, 5, 4.7, 4.3, 5],
    ]
)
CLASSES, TEMPLATE_LENGTH = _DRAWN.shape
PADDING = (36, 60)  # fewest and most zeros behind the template
LENGTH = TEMPLATE_LENGTH + PADDING[1]  # samples while it is transformed
FINAL_LENGTH = 40
SCALE = 0.4  # width of the range of factors around 1
TRANSLATIONS = 48  # shifts 0 ... 47
CORRELATED, WIDTH = 0.25, 2.0  # standard deviation of the noise before it is smoothed, and of the Gaussian window
WHITE = 0.02
SHEAR = 0.75  # width of the range of slopes around 0


def mnist1d(
    num_train: int = 4000, num_test: int = 12_000, *, label_noise: float = 0.0, seed: int = 0
) -> tuple[Split, Split]:
    """Train and test part: `{"x": (n, 40) float32, "y": (n,) int32}` each, ten classes.

    Both together have equally many examples of each class; the two parts are drawn from them at random. Their frozen
    data set has 4,000 and 1,000 examples, their double descent 4,000 and 12,000.

    Args:
        num_train: examples in the training part.
        num_test: examples in the test part.
        label_noise: probability with which a training label is drawn anew from all ten classes, the right one included.
            It changes neither the inputs nor the test part: the same seed gives the same data with other labels.
        seed: seed of the data. Label noise has a stream of its own.

    Raises:
        TypeError: a number of examples is not an integer.
        ValueError: they are not positive or not a multiple of ten together; `label_noise` is outside [0, 1].
    """
    _tree.check_count("num_train", num_train, 1)
    _tree.check_count("num_test", num_test, 1)
    total = num_train + num_test
    if total % CLASSES:
        raise ValueError(f"num_train + num_test must be a multiple of the {CLASSES} classes, got {total}")
    if not 0 <= label_noise <= 1:
        raise ValueError(f"label_noise must lie in [0, 1], got {label_noise}")
    for_data, for_labels = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2))
    y = for_data.permutation(np.repeat(np.arange(CLASSES, dtype=np.int32), total // CLASSES))
    x = transformed(y, _draw(for_data, total))
    x = ((x - x.mean()) / x.std()).astype(np.float32)
    noisy = _with_noise(for_labels, y[:num_train], label_noise)
    return {"x": x[:num_train], "y": noisy}, {"x": x[num_train:], "y": y[num_train:]}


def _with_noise(rng: np.random.Generator, y: Int[np.ndarray, " n"], share: float) -> Int[np.ndarray, " n"]:
    """Labels of which about `share` are drawn anew. A larger share redraws the same ones, to the same, and more."""
    chosen, labels = rng.random(len(y)), rng.integers(CLASSES, size=len(y), dtype=np.int32)
    return np.where(chosen < share, labels, y)


def templates() -> Float[np.ndarray, "10 12"]:
    """The templates as they are used: standard deviation 1/6, starting and ending at 0."""
    scaled = _DRAWN / _DRAWN.std(axis=1, keepdims=True) / 6
    return scaled - scaled[:, :1]


def _draw(rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """All random numbers of `count` examples."""
    return {
        "padding": rng.integers(PADDING[0], PADDING[1], size=count, endpoint=True),
        "factor": 1 + SCALE * (rng.random(count) - 0.5),
        "shift": rng.integers(TRANSLATIONS, size=count),
        "correlated": CORRELATED * rng.standard_normal((count, LENGTH)),
        "white": WHITE * rng.standard_normal((count, LENGTH)),
        "slope": SHEAR * (rng.random(count) - 0.5),
    }


def transformed(y: Int[np.ndarray, " n"], draws: dict[str, Any]) -> Float[np.ndarray, "n 40"]:
    """Examples of the classes `y`, before they are brought to mean 0 and standard deviation 1."""
    signal, inside = _stretched(y, draws["padding"])
    columns = (np.arange(LENGTH) - draws["shift"][:, None]) % LENGTH
    signal = np.take_along_axis(draws["factor"][:, None] * signal, columns, axis=1)
    inside = np.take_along_axis(inside, columns, axis=1)
    signal = np.where(inside, signal, draws["correlated"] @ _smoothing().T) + draws["white"]
    signal -= draws["slope"][:, None] * np.linspace(-0.5, 0.5, LENGTH)
    return signal @ _resampling().T


def _stretched(y: np.ndarray, padding: np.ndarray) -> tuple[Float[np.ndarray, "n 72"], np.ndarray]:
    """Padded templates resampled to a common length, and which samples belong to the template.

    The sample between the last of the template and the first zero behind it still does.
    """
    at = np.arange(LENGTH) * ((TEMPLATE_LENGTH - 1 + padding[:, None]) / (LENGTH - 1))
    knots, signal = np.arange(TEMPLATE_LENGTH), np.empty(at.shape)
    for digit, template in enumerate(templates()):
        signal[y == digit] = np.interp(at[y == digit], knots, template)  # behind its end, that end: 0
    return signal, at < TEMPLATE_LENGTH


def _smoothing() -> Float[np.ndarray, "72 72"]:
    """A Gaussian window, cut off at 4 standard deviations, over a signal that is mirrored at its ends."""
    radius = int(4 * WIDTH)
    window = np.exp(-0.5 * (np.arange(-radius, radius + 1) / WIDTH) ** 2)
    mirrored = np.pad(np.eye(LENGTH), ((radius, radius), (0, 0)), mode="symmetric")
    return sum(w / window.sum() * mirrored[i : i + LENGTH] for i, w in enumerate(window))


def _resampling() -> Float[np.ndarray, "40 72"]:
    """Linear interpolation to the final length."""
    at = np.linspace(0, LENGTH - 1, FINAL_LENGTH)
    return np.stack([np.interp(at, np.arange(LENGTH), unit) for unit in np.eye(LENGTH)], axis=1)
