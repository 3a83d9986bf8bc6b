"""The same starts of a network under several optimizers: what `optimizers.py` runs and measures on a network."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from _lab import Lab, say
from jax.flatten_util import ravel_pytree

import landscape as ls
from _networks.minima import SYMMETRY, Polished, in_double
from landscape import minima
from landscape.analysis import Estimate, mean_of, share_of
from landscape.training import Runs

MAX_LOSS = 1e6
Build = Callable[[Any], Any]  # learning rate -> optax optimizer


class Campaign(NamedTuple):
    """What all runs of the network have in common.

    Attributes:
        problem: the network and its data.
        num: starts.
        steps: steps at most.
        line_searches: steps at most of optimizers that search along a line.
        batch_size: examples of a minibatch.
        tol: gradient norm to stop at.
        seed: of the starts.
        symmetry: what leaves the loss as it is.
    """

    problem: ls.Problem
    num: int
    steps: int
    line_searches: int
    batch_size: int
    tol: float
    seed: int
    symmetry: minima.Symmetry = SYMMETRY

    def runs(self, name: str, optimizer: Any, num: int, hyper: Any = None, stream: int = 0) -> Runs:
        """Training of every start; start `i` is the same for every optimizer."""
        steps = self.line_searches if name == "lbfgs" else self.steps
        return Runs(
            objective=self.problem.objectives["train"],
            optimizer=optimizer,
            num_runs=num,
            num_steps=steps,
            init=jax.tree_util.Partial(self.problem.init),
            hyper=hyper,
            key=jax.random.fold_in(jax.random.key(self.seed), stream),
            track=self.problem.objectives,
            batch_size=self.batch_size if name == "sgd" else None,
            record_every=steps,
            check_every=min(50, steps),
            tol=self.tol,
            max_loss=MAX_LOSS,
        )


def best_rate(losses: np.ndarray, rates: np.ndarray) -> float:
    """The rate whose runs have the least median training loss; runs that are not finite count as infinite.

    Args:
        losses: at the end of a pilot, `(rates, starts)`.
        rates: `(rates,)`.
    """
    medians = np.median(np.where(np.isfinite(losses), losses, np.inf), axis=1)
    return float(rates[np.argmin(medians)])


def pilot(
    campaign: Campaign, name: str, build: Build, rates: Sequence[float], num: int, lab: Lab
) -> tuple[ls.Landscape | None, float | None]:
    """A pilot with other starts, and the learning rate that it decides on; None while other shards compute it."""
    hyper = np.repeat(np.asarray(rates, np.float32), num)
    runs = campaign.runs(name, build, len(hyper), hyper, stream=1)
    found = lab.sweep(f"pilot_network_{name}", runs, ls.Grid.of(run=np.arange(len(hyper))))
    if found is None:
        return None, float(np.median(rates))
    if not found.computed.all():
        return found, None
    diverged = found["outcome"] == ls.Outcome.DIVERGED
    losses = np.where(diverged, np.inf, found["history.train_loss"][:, -1])
    return found, best_rate(losses.reshape(len(rates), num), np.asarray(rates))


def polish(
    campaign: Campaign, runs: Mapping[str, Runs], ended: Mapping[str, ls.Landscape], num: int, lab: Lab
) -> ls.Landscape | None:
    """The minima below the ends of the first starts, for every optimizer: run `k * num + i` is optimizer k, start i."""
    if lab.planning:
        params = campaign.problem.init(jax.random.key(0))
        stacked = jax.tree.map(lambda x: jnp.stack([x] * num * 5), params)
    elif not all(landscape.computed.all() for landscape in ended.values()):
        return None
    else:
        stacked = first_ends(runs, ended, num)
    with jax.enable_x64(True):
        objectives = in_double(dict(campaign.problem.objectives))
        point = Polished(objectives["train"], in_double(stacked), objectives)
        count = jax.tree.leaves(stacked)[0].shape[0]
        about = partial(_about, campaign, list(ended), num)
        return lab.sweep("network_minima", point, ls.Grid.of(run=np.arange(count)), about)


def first_ends(runs: Mapping[str, Runs], ended: Mapping[str, ls.Landscape], num: int) -> Any:
    """The parameters at the end of the first `num` starts, stacked: of one optimizer after the other."""
    parts = [runs[name].gather(landscape).params for name, landscape in ended.items()]
    return jax.tree.map(lambda *leaves: np.concatenate([leaf[:num] for leaf in leaves]), *parts)


def flat_ends(landscape: ls.Landscape) -> np.ndarray:
    """The parameters at the end of each run, as vectors in float64, `(runs, d)`."""
    leaves = [landscape[name] for name in landscape if name.startswith("params")]
    return np.concatenate([np.asarray(x, np.float64).reshape(len(x), -1) for x in leaves], axis=1)


def _about(campaign: Campaign, names: list[str], num: int, found: ls.Landscape) -> dict[str, Any]:
    """Which minimum each optimizer reaches from each start; as stored, if it was."""
    if "labels" in found.meta or not found.computed.all():
        return {}
    say("telling the minima apart")
    unravel = ravel_pytree(in_double(campaign.problem.init(jax.random.key(0))))[1]
    losses = np.where(found["converged"], found["loss"], np.nan)
    told = minima.distinct(jax.vmap(unravel)(jnp.asarray(found["end"])), losses, symmetry=campaign.symmetry)
    return {"optimizers": names, "labels": told.labels.reshape(len(names), num)}


# ------------------------------------------------------------------------------------------------------ statistics


def end(landscape: ls.Landscape, name: str) -> np.ndarray:
    """A quantity at the end of each run, `(runs,)`."""
    return landscape[f"history.{name}"][:, -1].astype(np.float64)


def paired(a: np.ndarray, b: np.ndarray) -> tuple[Estimate, float]:
    """Mean of `a - b` over the starts with its 95 % interval, and its distance from 0 in standard errors."""
    finite = np.isfinite(a) & np.isfinite(b)
    difference = (a - b)[finite]
    if len(difference) < 2:
        return Estimate(np.nan, np.nan, np.nan), np.nan
    error = float(np.std(difference, ddof=1) / np.sqrt(len(difference)))
    mean = mean_of(difference)
    return mean, mean.value / error if error > 0 else np.nan


def paired_text(a: np.ndarray, b: np.ndarray) -> str:
    """A paired difference in print."""
    mean, errors = paired(a, b)
    return f"{mean:+.5f}, {errors:+.1f} standard errors"


def same_start_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Median distance of the ends that two optimizers reach from the same start, each `(runs, d)`."""
    return float(np.nanmedian(np.linalg.norm(a - b, axis=1)))


def other_start_distance(a: np.ndarray) -> float:
    """Median distance of the ends of one start and the next, under one optimizer."""
    return float(np.nanmedian(np.linalg.norm(a[1:] - a[:-1], axis=1)))


def rows(ended: Mapping[str, ls.Landscape], polished: ls.Landscape | None) -> list[tuple[str, str, str]]:
    """What is to be said of the network: `(what, expected, found)`."""
    found = [row for landscape in ended.values() for row in _end_rows(landscape)]
    quantities = [
        q for q in ("train_loss", "test_loss", "test_accuracy") if all(f"history.{q}" in x for x in ended.values())
    ]
    for a, b in combinations(ended, 2):
        for quantity in quantities:
            text = paired_text(end(ended[a], quantity), end(ended[b], quantity))
            found.append((f"network, {a} minus {b}: {quantity.replace('_', ' ')}", "0 if it did not matter", text))
        distance = same_start_distance(flat_ends(ended[a]), flat_ends(ended[b]))
        other = other_start_distance(flat_ends(ended[a]))
        text = f"{distance:.3g}; ends of different starts under {a}: {other:.3g}"
        found.append((f"network, {a} and {b}: distance of the ends of a start", "0 if it did not matter", text))
    return found + (_minima_rows(polished) if polished is not None else [])


def _end_rows(landscape: ls.Landscape) -> list[tuple[str, str, str]]:
    name = landscape.meta["optimizer"]
    outcomes = [f"{int(np.sum(landscape['outcome'] == code))} {code.name.lower()}" for code in ls.Outcome]
    said = [("optimizer", f"{name}; {landscape.meta['initialisation']}")]
    said.append(("ends", f"{', '.join(outcomes)}; median of {np.median(landscape['steps']):.0f} steps"))
    for history in landscape:
        quantity = history.removeprefix("history.")
        if quantity != history and quantity not in ("step", "loss", "grad_norm"):
            x = end(landscape, quantity)
            x = x[np.isfinite(x)]
            if len(x) > 1:
                text = f"{mean_of(x):.5f}, standard deviation {np.std(x, ddof=1):.5f}"
                said.append((f"{quantity.replace('_', ' ')}, mean", text))
    return [(f"network, {landscape.meta['key']}: {what}", "", text) for what, text in said]


def changed_minimum(labels: np.ndarray) -> tuple[int, int]:
    """How many starts have another minimum under the second optimizer, of those where both reach one.

    Args:
        labels: of two optimizers, `(2, starts)`; negative where no minimum was reached.
    """
    both = np.all(labels >= 0, axis=0)
    return int(np.sum(both & (labels[0] != labels[1]))), int(both.sum())


def _minima_rows(polished: ls.Landscape) -> list[tuple[str, str, str]]:
    labels, names = np.asarray(polished.meta["labels"]), polished.meta["optimizers"]
    there = labels >= 0
    text = f"{len(np.unique(labels[there]))} among {there.sum()} polished ends of {labels.shape[1]} starts"
    rows = [("network: distinct minima", f"at most {labels.shape[1]} if it did not matter", text)]
    for a, b in combinations(range(len(names)), 2):
        changed, num = changed_minimum(labels[[a, b]])
        what = f"network, {names[a]} and {names[b]}: starts that change their minimum"
        rows.append((what, "0 if it did not matter", share_text(changed, num)))
    for a, b in combinations(range(len(names)), 2):
        for quantity in ("loss", "test_loss"):
            if quantity in polished:
                words = "train loss" if quantity == "loss" else "test loss"
                text = paired_text(*(minima_of(polished, quantity)[[a, b]]))
                rows.append((f"network, {names[a]} minus {names[b]}: {words} at the minima below", "0", text))
    return rows


def minima_of(polished: ls.Landscape, quantity: str) -> np.ndarray:
    """A quantity at the polished ends, `(optimizers, starts)`; NaN where no minimum was reached."""
    labels = np.asarray(polished.meta["labels"])
    return np.where(labels >= 0, polished[quantity].reshape(labels.shape), np.nan)


def share_text(count: int, num: int) -> str:
    """A share of independent starts with its Wilson interval."""
    if not num:
        return "no start to compare"
    return f"{share_of(count, num):.2%} of {num:,}"
