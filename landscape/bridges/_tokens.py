"""How many labels of an example count, by which means over the tokens of a batch are weighted."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

IGNORED = -100  # the label that PyTorch's cross-entropy leaves out


@dataclass(frozen=True)
class LabelCount:
    """The number of labels of each example that are not left out: `(n,)`.

    Attributes:
        shift: how many labels at the start have no prediction: 1 for a language model, each of whose outputs predicts
            the next token.
    """

    shift: int

    def __call__(self, batch: Any) -> Any:
        labels = _labels(batch)[:, self.shift :]
        return jnp.sum(labels != IGNORED, tuple(range(1, labels.ndim)))


def _labels(batch: Any) -> Any:
    return batch.get("labels") if isinstance(batch, dict) else batch[1] if isinstance(batch, tuple) else None


def label_counts(data: Any) -> dict[LabelCount, np.ndarray]:
    """Where the labels of examples are several integers: how many count, read in two ways."""
    labels = _labels(data)
    if getattr(labels, "ndim", 0) < 2 or labels.dtype.kind not in "iu":
        return {}
    return {fn: np.asarray(fn(data)) for fn in (LabelCount(1), LabelCount(0))}


def extremes(data: Any) -> list[int]:
    """Examples with the fewest and the most labels, which tell a mean over tokens from one over examples."""
    return [int(find(counts)) for counts in label_counts(data).values() for find in (np.argmin, np.argmax)]
