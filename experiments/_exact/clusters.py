"""Clusters of particles whose stable arrangements are all known: descent from random starts, and how it is counted."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _lab import Lab

import landscape as ls
from landscape import minima
from landscape.point import as_number
from landscape.problems.clusters import LENNARD_JONES_MINIMA, THOMSON_MINIMA
from landscape.training import Runs

SHOWN = 9  # numbers in a row of the table


@dataclass(frozen=True)
class Cluster:
    """Particles whose stable arrangements are looked for, and how."""

    make: Callable[[], ls.Problem]
    published: tuple[float, ...]
    free: int  # motions that change nothing, at a minimum
    on_sphere: bool
    starts: str
    optimizer: str
    rate: float
    clip: float | None = None


CLUSTERS = {
    "lennard-jones": Cluster(
        partial(ls.problems.lennard_jones, 7), LENNARD_JONES_MINIMA[7], 6, False,
        "atoms uniform in a ball of radius 1.53, none nearer than 0.8",
        "gradient descent, rate 0.002, gradient clipped at norm 10", 0.002, 10.0,
    ),
    "thomson": Cluster(
        partial(ls.problems.thomson, 16), THOMSON_MINIMA[16], 19, True,
        "uniform on the sphere", "gradient descent, rate 0.1, gradient clipped at norm 1", 0.1, 1.0,
    ),
}  # fmt: skip
STEPS, TOL = 40_000, 1e-4


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Arrangements:
    """Point function: the number of a run -> where descent ends, polished to the last digit.

    The polish moves by at most a hundredth at first: it sharpens the minimum that descent has reached.
    """

    runs: Runs
    on_sphere: bool = field(metadata={"static": True})

    def __call__(self, coords: jax.Array) -> dict[str, jax.Array]:
        """One run."""
        run = self.runs.run(as_number(coords[0]))
        end = minima.polish(self.runs.objective, run.params, radius=0.01)
        x = end.params["x"]
        x = x / jnp.linalg.norm(x, axis=-1, keepdims=True) if self.on_sphere else x
        reached = end.converged & (run.outcome_code == ls.Outcome.CONVERGED)
        return {"energy": end.loss, "x": x, "reached": reached, "steps": run.steps}


@lru_cache
def _descent(rate: float, clip: float | None) -> optax.GradientTransformation:
    """One optimizer object for all runs, so that they share a compiled program."""
    steps = optax.sgd(rate)
    return steps if clip is None else optax.chain(optax.clip_by_global_norm(clip), steps)


def relaxed(name: str, num_runs: int, seed: int, lab: Lab) -> ls.Landscape | None:
    """All runs of a cluster, with the distinct minima in the meta."""
    cluster = CLUSTERS[name]
    problem = cluster.make()
    runs = Runs(
        objective=problem.objectives["train"],
        optimizer=_descent(cluster.rate, cluster.clip),
        init=jax.tree_util.Partial(problem.init),
        num_runs=num_runs,
        num_steps=STEPS,
        record_every=STEPS,
        check_every=100,
        key=jax.random.key(seed),
        tol=TOL,
    )
    grid = ls.Grid.of(run=np.arange(num_runs))
    store = name.replace("-", "_")
    return lab.sweep(store, Arrangements(runs, cluster.on_sphere), grid, partial(_told_apart, problem))


def _told_apart(problem: ls.Problem, landscape: ls.Landscape) -> dict[str, Any]:
    """The distinct minima, which run reached which, and the Hessian of each; as stored, if it was."""
    if "minima" in landscape.meta or not landscape.computed.all():
        return {}
    reached = landscape["reached"]
    found = minima.distinct(landscape["x"][reached], landscape["energy"][reached], symmetry=minima.Points())
    labels = np.full(reached.shape, ls.analysis.UNREACHED)
    labels[reached] = found.labels
    verdicts = [minima.classify(problem.objectives["train"], {"x": jnp.asarray(x)}) for x in found.representatives]
    about = {
        "energies": found.losses,
        "labels": labels,
        "indices": [one.index for one in verdicts],
        "zeros": [int(np.sum(np.abs(one.eigenvalues) <= one.eigenvalue_tol)) for one in verdicts],
    }
    return {"minima": about, "function": problem.name}


def cluster_rows(name: str, landscape: ls.Landscape) -> list[tuple[str, str, str]]:
    cluster, about, title = CLUSTERS[name], landscape.meta["minima"], landscape.meta["function"]
    energies, published = np.asarray(about["energies"]), cluster.published
    kinds = f"{sum(i == 0 for i in about['indices'])} of index 0, zeros {dashed(about['zeros'])}"
    shares = shares_of(name, landscape)
    rows = [
        (f"{title}: distinct minima", str(len(published)), str(len(energies))),
        (f"{title}: energies", numbers(published), numbers(energies)),
        (f"{title}: Hessians", f"{len(published)} of index 0, {cluster.free} zeros each", kinds),
    ]
    for label, share, low, high in zip(shares.labels, shares.fractions, shares.low, shares.high):
        what = "that reaches none" if label < 0 else f"that reaches {energies[label]:.6f}"
        rows.append((f"{title}: share of starts {what}", "not published", f"{share:.1%} [{low:.1%}, {high:.1%}]"))
    return [
        *rows,
        (f"{title}: these shares are of", "", f"{shares.num:,} runs: {shares.optimizer}; {shares.initialisation}"),
    ]


def shares_of(name: str, landscape: ls.Landscape) -> ls.analysis.BasinFractions:
    """The share of the runs that reaches each minimum, with 95 % Wilson intervals."""
    labels = np.asarray(landscape.meta["minima"]["labels"])
    cluster = CLUSTERS[name]
    return ls.analysis.basin_fractions(labels, optimizer=cluster.optimizer, initialisation=cluster.starts)


def draw_clusters(clusters: Mapping[str, ls.Landscape]) -> Any:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(clusters), figsize=(3.5 * len(clusters), 3.1), squeeze=False)
    for ax, (name, landscape) in zip(axes.flat, clusters.items()):
        labels = np.asarray(landscape.meta["minima"]["labels"])
        ls.plotting.endpoints(landscape["energy"], labels=labels, ax=ax, scale="linear", label="energy at the end")
        ax.ticklabel_format(axis="x", useOffset=False)
        ax.set_title(f"{landscape.meta['function']}, {len(labels):,} random starts\n{CLUSTERS[name].optimizer}")
    return figure


def numbers(values: Any) -> str:
    """The first few of some numbers, without a minus before zero."""
    texts = [f"{value:.6f}".replace("-0.000000", "0.000000") for value in values[:SHOWN]]
    return " ".join([*texts, f"... ({len(values)})"] if len(values) > SHOWN else texts)


def dashed(counts: Any) -> str:
    return "-".join(map(str, counts))
