"""Are there bad local minima in networks without non-linearities, and what are their other critical points?

The loss of a linear network is not convex, yet all its critical values are known: those of the rank-p autoencoder are
tr(S) minus a choice of at most p eigenvalues, and only the p largest make a minimum (Baldi & Hornik 1989); depth adds
no bad minimum (Kawaguchi 2016, arXiv 1605.07110).

- critical: Newton's method on the gradient, from random points, ends at critical points of every kind;
- slow: gradient descent from small weights passes the saddles one eigenvalue at a time, with plateaus at their values;
- shallow, deep: random trainings of the autoencoder and of a deep network end at the global value, all of them.

Expected (exact, see `landscape.problems.linear`): the value of every point found is that of a subset; its Hessian has
as many negative eigenvalues as there are exchanges for a larger eigenvalue, and as many zeros as the orbit of GL(p) has
dimensions; minima all have the global value.

This experiment has its own problems and takes no --problem. It always computes in float64.

Cost: about a minute on one CPU core for the defaults.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _lab import Lab, UsageError, main

import landscape as ls
from landscape import curvature, minima
from landscape.point import as_number
from landscape.problems.linear import Autoencoder, LinearProblem, autoencoder, deep_linear

ZERO = 1e-7  # of the largest Hessian eigenvalue
EVERY, SLOW_EVERY = 50, 5  # steps between two records of the loss
REACHED = 1e-6  # of the loss of the zero map: a training that ends this close to a value has reached it


@dataclass(frozen=True)
class Config:
    """Settings of this experiment."""

    starts: int = 2000
    """Random points from which critical points are sought."""
    runs: int = 500
    """Random trainings of each network."""
    steps: int = 20_000
    """Training steps at most."""
    rank: int = 2
    """Hidden units of the autoencoder."""
    spectrum: tuple[float, ...] = (5.0, 3.2, 2.0, 1.1, 0.5)
    """Eigenvalues of the autoencoder's data, largest first."""
    widths: tuple[int, ...] = (6, 5, 3, 5, 6)
    """Widths of the deep network."""
    slow_runs: int = 12
    """Trainings from small weights."""
    small: float = 1e-6
    """Their weights, as a share of those of an ordinary start."""
    seed: int = 0
    """Seed of data and starts."""


SMOKE = Config(starts=40, runs=16, steps=4000, slow_runs=2)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Critical:
    """Point function: the critical point that Newton's method on the gradient reaches from start number `coords[0]`."""

    problem: Any = field(metadata={"static": True})
    objective: ls.Objective
    seed: int = field(metadata={"static": True})

    def __call__(self, coords: jax.Array) -> dict[str, jax.Array]:
        """Loss, gradient norm and all Hessian eigenvalues."""
        key = jax.random.fold_in(jax.random.key(self.seed), as_number(coords[0]))
        found = minima.polish(self.objective, self.problem.init(key), to="critical")
        eigenvalues = jnp.linalg.eigvalsh(curvature.hessian(self.objective, found.params))
        return {
            "loss": found.loss,
            "grad_norm": found.grad_norm,
            "converged": found.converged.astype(jnp.int32),
            "eigenvalues": eigenvalues,
        }


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Training:
    """Point function: gradient descent from start number `coords[0]`, with the loss along it."""

    problem: Any = field(metadata={"static": True})
    objective: ls.Objective
    scale: Any
    optimizer: Any = field(metadata={"static": True})
    steps: int = field(metadata={"static": True})
    every: int = field(metadata={"static": True})
    seed: int = field(metadata={"static": True})

    def __call__(self, coords: jax.Array) -> dict[str, jax.Array]:
        """The loss at the end and along the run."""
        key = jax.random.fold_in(jax.random.key(self.seed + 1), as_number(coords[0]))
        start = jax.tree.map(lambda w: self.scale * w, self.problem.init(key))
        run = ls.train(
            self.objective, self.optimizer, start,
            num_steps=self.steps, tol=1e-9, record_every=self.every, check_every=self.every,
        )  # fmt: skip
        return {"loss": run.history["loss"][-1], "history": run.history["loss"]}


def run(config: Config, lab: Lab) -> dict[str, ls.Landscape]:
    """Critical points, slow trainings, and many random trainings of a shallow and a deep network."""
    _check(config)
    with jax.enable_x64(True):
        shallow = autoencoder(config.rank, config.spectrum, seed=config.seed)
        deep = deep_linear(config.widths, seed=config.seed)
        seekers = {
            "critical": (Critical(shallow, shallow.objectives["train"], config.seed), config.starts, shallow),
            "slow": (_training(shallow, config, config.small, SLOW_EVERY), config.slow_runs, shallow),
            "shallow": (_training(shallow, config, 1.0, EVERY), config.runs, shallow),
            "deep": (_training(deep, config, 1.0, EVERY), config.runs, deep),
        }
        result = {}
        for name, (fn, count, problem) in seekers.items():
            facts = _facts(problem)
            result[name] = lab.sweep(name, fn, ls.Grid.of(start=np.arange(count)), lambda _, facts=facts: facts)
    return {name: landscape for name, landscape in result.items() if landscape is not None}


def _check(config: Config) -> None:
    if min(config.starts, config.runs, config.slow_runs) < 1 or config.steps < 400 or not config.small > 0:
        raise UsageError("needs --starts, --runs and --slow-runs >= 1, --steps >= 400 and --small > 0")


def _training(problem: LinearProblem, config: Config, scale: float, every: int) -> Training:
    """Gradient descent with about a twentieth of the rate that a balanced global minimum could stand."""
    rate = 0.1 / (2 * len(problem.init(jax.random.key(0))) * problem.eigenvalues[0])
    optimizer = optax.sgd(float(rate))
    return Training(problem, problem.objectives["train"], scale, optimizer, config.steps, every, config.seed)


def _facts(problem: LinearProblem) -> dict[str, Any]:
    """What is known of the problem, for the findings and the figures."""
    values = problem.critical_values()
    facts: dict[str, Any] = {
        "name": problem.name,
        "total": problem.total,
        "global": problem.global_minimum,
        "subsets": [list(chosen) for chosen in values],
        "values": list(values.values()),
    }
    if isinstance(problem, Autoencoder):
        facts["index"] = [problem.morse_index(chosen) for chosen in values]
        facts["flat"] = [problem.num_flat(chosen) for chosen in values]
    return {"linear": facts}


def census(landscape: ls.Landscape) -> dict[str, np.ndarray]:
    """The converged points: value, nearest subset, distance from its value, Morse index, number of zeros."""
    facts, kept = landscape.meta["linear"], landscape["converged"] == 1
    value, spectrum = landscape["loss"][kept], landscape["eigenvalues"][kept]
    distance = np.abs(value[:, None] - np.array(facts["values"])[None])
    size = ZERO * np.abs(spectrum).max(axis=1, keepdims=True)
    return {
        "value": value,
        "subset": distance.argmin(axis=1),
        "distance": distance.min(axis=1),
        "index": np.sum(spectrum < -size, axis=1),
        "flat": np.sum(np.abs(spectrum) <= size, axis=1),
    }


def findings(result: Mapping[str, ls.Landscape]) -> list[tuple[str, str, str]]:
    """Rows of `(what, expected, found)`."""
    rows = _census_rows(result["critical"])
    for name in ("shallow", "deep"):
        landscape = result[name]
        facts, loss = landscape.meta["linear"], landscape["loss"]
        excess = (loss - facts["global"]) / facts["total"]
        hits = int(np.sum(np.abs(excess) < REACHED))
        low, high = ls.analysis.wilson_interval(hits, len(loss))
        found = f"{hits} of {len(loss)}, share {hits / len(loss):.3f} (95 % {low:.3f} ... {high:.3f})"
        rows.append((f"{facts['name']}: trainings at the global value", "all", found))
        rows.append((f"{facts['name']}: lowest end below the global value", "rounding", f"{-min(excess.min(), 0):.1e}"))
    return rows


def _census_rows(landscape: ls.Landscape) -> list[tuple[str, str, str]]:
    facts, points = landscape.meta["linear"], census(landscape)
    count, subset = len(points["value"]), points["subset"]
    if not count:
        return [("critical points", "some", "none")]
    minima_at = facts["values"][int(np.argmin(facts["values"]))]
    off = points["value"][points["index"] == 0] - minima_at
    index, flat = (np.sum(points[key] == np.array(facts[key])[subset]) for key in ("index", "flat"))
    kinds = f"{len(set(subset))} of {len(facts['values'])}"
    return [
        (f"{facts['name']}: converged to a critical point", "", f"{count} of {landscape.grid.size} starts"),
        ("values of subsets that were found", f"all {len(facts['values'])}", kinds),
        ("largest distance from the value of a subset", "rounding", f"{points['distance'].max():.1e}"),
        ("negative eigenvalues as predicted", f"{count}", f"{index}"),
        ("zero eigenvalues as predicted (orbit of GL)", f"{count}", f"{flat}"),
        ("minima, and how far above the global value", "rounding", f"{len(off)}, {np.abs(off).max(initial=0):.1e}"),
    ]


def plot(result: Mapping[str, ls.Landscape]) -> dict[str, Any]:
    """Trainings past the saddles, the critical points by value and index, and where trainings end."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(10.4, 3.3), width_ratios=[1.25, 1.25, 1])
    _draw_slow(axes[0], result["slow"])
    _draw_census(axes[1], result["critical"])
    _draw_ends(axes[2], result)
    for ax, letter in zip(axes, "abc"):
        ax.set_title(f"({letter}) {ax.get_title(loc='left')}", loc="left")
    return {"linear": figure}


def _draw_slow(ax: Any, landscape: ls.Landscape) -> None:
    facts = landscape.meta["linear"]
    for value in facts["values"]:
        ax.axhline(value, color="0.85", linewidth=0.5, zorder=0)
    largest = [list(range(size)) for size in range(max(map(len, facts["subsets"])) + 1)]
    for chosen in largest:
        value = facts["values"][facts["subsets"].index(chosen)]
        ax.axhline(value, color="0.25", linestyle="--", linewidth=0.7, zorder=1)
        text = f"${_name(chosen)}$ explained: {value:.3g}" if chosen else f"nothing explained: {value:.3g}"
        # the curves come from above, so the text of the lowest value goes below
        below = value == facts["global"]
        place: dict[str, Any] = {"xytext": (-3, -3 if below else 2), "va": "top" if below else "bottom"}
        place |= {"textcoords": "offset points", "ha": "right", "fontsize": 8}
        ax.annotate(text, (1, value), xycoords=ax.get_yaxis_transform(), **place)
    steps = SLOW_EVERY * np.arange(landscape["history"].shape[1])
    ax.plot(steps, landscape["history"].T, color="#0072b2", linewidth=0.7, alpha=0.7)
    unsettled = np.abs(landscape["history"] - facts["global"]).max(axis=0) > 1e-3 * facts["total"]
    ax.set(xlabel="step of gradient descent", ylabel="loss", xlim=(0, 1.3 * steps[unsettled].max(initial=1)))
    ax.margins(y=0.11)
    ax.set_title("from small weights", loc="left")


def _name(chosen: list[int]) -> str:
    return ", ".join(rf"\lambda_{i + 1}" for i in chosen)


def _draw_census(ax: Any, landscape: ls.Landscape) -> None:
    facts, points = landscape.meta["linear"], census(landscape)
    ax.plot(facts["values"], facts["index"], "o", mfc="none", mec="0.3", ms=9, mew=0.8, label="predicted")
    seen = Counter(zip(np.round(points["value"], 6), points["index"]))
    place, number = np.array(list(seen)).T, np.array(list(seen.values()))
    dots = ax.scatter(*place, s=18, c=number, cmap="viridis_r", norm="log", zorder=3, label="found")
    for chosen, value, index in zip(facts["subsets"], facts["values"], facts["index"]):
        text = "".join(str(i + 1) for i in chosen) or "none"
        ax.annotate(text, (value, index), xytext=(0, 6), textcoords="offset points", ha="center", fontsize=7)
    bar = ax.figure.colorbar(dots, ax=ax, label="starts that ended there", pad=0.02)
    ticks = [t for t in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if number.min() <= t <= number.max()]
    bar.set_ticks(ticks, labels=[str(t) for t in ticks])
    bar.ax.minorticks_off()
    ax.set(xlabel="loss", ylabel="negative Hessian eigenvalues", ylim=(-0.7, max(facts["index"]) + 1.2))
    ax.locator_params(axis="y", integer=True)
    ax.legend(loc="upper left")
    ax.set_title("critical points, by the eigenvalues explained", loc="left")


def _draw_ends(ax: Any, result: Mapping[str, ls.Landscape]) -> None:
    for name, color in (("shallow", "#0072b2"), ("deep", "#d55e00")):
        landscape = result[name]
        facts = landscape.meta["linear"]
        excess = np.abs(landscape["history"] - facts["global"]) / facts["total"]
        steps = EVERY * np.arange(excess.shape[1])
        ax.plot(steps[1:], np.median(excess, axis=0)[1:], color=color, linewidth=0.8, label=f"{facts['name']}, median")
        ax.plot(steps[1:], excess.max(axis=0)[1:], color=color, linewidth=1.6, label="the worst run")
        saddle = (np.sort(facts["values"])[1] - facts["global"]) / facts["total"]
        ax.axhline(saddle, color=color, linestyle="--", linewidth=0.8)
    ax.plot([], [], "--", color="0.4", linewidth=0.8, label="lowest saddle")
    ax.set(xscale="log", yscale="log", xlabel="step of gradient descent", ylabel="above the global minimum")
    ax.set(xlim=steps[[1, -1]], ylim=(1e-17, 1e8))
    ax.set_yticks([1e-15, 1e-10, 1e-5, 1])
    ax.minorticks_off()
    ax.legend(loc="upper right", fontsize=7)
    ax.set_title("random trainings", loc="left")


if __name__ == "__main__":
    main("deep_linear", Config, SMOKE, run, plot, findings, takes_problem=False)
