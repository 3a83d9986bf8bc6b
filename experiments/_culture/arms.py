"""Who is compared with whom in `culture.py`: arms at equal cost, one factor at a time, and children of the stuck."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from _culture.dynamics import BLUR, Rules

ARMS = ("isolated", "exchange", "mutation", "restart", "copy")
CHILDREN = ("exchange", "mutation")
MORE_CHILDREN = ("tie", "blurred", "turned", "shuffled", "copy")  # of the k of the doses only
TIE = 1e-6
RESTARTS = 3  # tries of an arm that starts anew


def arms(k: int, blocks: int) -> dict[str, Rules]:
    """The arms of populations, all of which keep an idea only if it helped.

    `exchange` hears half of its units from a random partner, `mutation` draws as many at random at the same times,
    `restart` draws all, `copy` takes over the best network. `isolated` hears nobody.
    """
    exchange = Rules(bandwidth=k // 2)
    return {
        "isolated": dataclasses.replace(exchange, topology="isolated"),
        "exchange": exchange,
        "mutation": dataclasses.replace(exchange, passed="fresh"),
        "restart": dataclasses.replace(exchange, passed="fresh", bandwidth=k, period=max(1, blocks // RESTARTS)),
        "copy": dataclasses.replace(exchange, topology="best", bandwidth=k, noise=0.0),
    }


@dataclass(frozen=True)
class Dose:
    """One factor changed in the arm `exchange`, or in `mutation`."""

    factor: str
    value: Any
    rules: Rules

    @property
    def name(self) -> str:
        """Name of its store."""
        return f"dose_{self.factor}_{self.value}_{self.rules.passed}"


def doses(k: int) -> Iterator[Dose]:
    """Bandwidth and period, each also of mutation, noise, topology, selection, and what is passed on."""
    start = Rules(bandwidth=k // 2)
    for factor, values in (("bandwidth", (1, max(2, k // 4), max(3, 3 * k // 4))), ("period", (3, 5, 20))):
        for value in values:
            for passed in ("units", "fresh"):
                yield Dose(factor, value, dataclasses.replace(start, passed=passed, **{factor: value}))
    changes: dict[str, tuple[Any, ...]] = {
        "bandwidth": (0,),
        "noise": (0.0, 0.1, 0.3, 1.0),
        "passed": ("behaviour", "outputs"),
    }
    changes |= {"topology": ("ring", "star", "all"), "selection": ("none", "better")}
    for factor, values in changes.items():
        for value in values:
            yield Dose(factor, value, dataclasses.replace(start, **{factor: value}))
    yield Dose("selection", "none", dataclasses.replace(start, passed="fresh", selection="none"))


def recombine(mother: np.ndarray, father: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """The mother's units, but where `taken` the father's in the same place; nothing is aligned.

    Args:
        mother: networks, `(children, n, d)`.
        father: as many.
        taken: places, `(children, n)`.
    """
    return np.where(taken[..., None], father, mother)


def children(seed: int, stuck: np.ndarray, loss: np.ndarray, count: int) -> dict[str, np.ndarray]:
    """Children of two different stuck learners, and their controls with the same mothers and the same places.

    Args:
        seed: of the pairs, the places and the new units.
        stuck: learners, `(learners, n, d)`, at least two.
        loss: their losses.
        count: children of each kind.

    Returns:
        `exchange`: half of the units are the father's. `mutation`: these are new, N(0, 1/d). `turned`: the father's,
        each turned to a random direction, so that only its length is his. `shuffled`: the father's with the entries of
        each in a random order; as the teacher's units are the axes, each is still about one of them, but not about the
        one that it was, so they no longer fit together. `copy`: the better parent. `tie` and `blurred`: `exchange` with
        noise of 1e-6 and of 1e-2 in all units.
    """
    draw = np.random.default_rng(seed)
    num, (n, d) = len(stuck), stuck.shape[1:]
    mothers = draw.integers(num, size=count)
    fathers = (mothers + draw.integers(1, num, size=count)) % num
    taken = np.argsort(np.argsort(draw.random((count, n)), axis=1), axis=1) < n // 2
    mother, father = stuck[mothers], stuck[fathers]
    new, turned = draw.normal(size=father.shape) / np.sqrt(d), draw.normal(size=father.shape)
    turned *= np.linalg.norm(father, axis=2, keepdims=True) / np.linalg.norm(turned, axis=2, keepdims=True)
    better = np.where((loss[mothers] <= loss[fathers])[:, None, None], mother, father)
    halves = {"exchange": father, "mutation": new, "turned": turned, "shuffled": draw.permuted(father, axis=2)}
    found = {name: recombine(mother, half, taken) for name, half in halves.items()}
    noise = draw.normal(size=father.shape) / np.sqrt(d)
    noisy = {name: found["exchange"] + size * noise for name, size in (("tie", TIE), ("blurred", BLUR))}
    return found | noisy | {"copy": better}
