"""Does a network that has learned its examples by heart have to stay ignorant of the rule?

Addition modulo 97, half of the 9,409 sums shown, 500 quadratic units, full-batch AdamW with a large weight decay
(Gromov 2023, arXiv 2301.02679; setting of Doshi et al. 2024, arXiv 2310.13061, appendix A: rate .01, decay 5, mean
squared error). The network answers every training example rightly while the test is at chance or below, and some steps
later, all at once, it answers the test too: it *groks* (Power et al. 2022, arXiv 2201.02177).

How long it takes is counted in steps, by a definition that was fixed beforehand: the *delay* of a run is the number of
steps between the first at which the training accuracy is at least .99 and the first at which the test accuracy is. A
run whose test accuracy never gets there within the steps has no delay, and among the runs it counts as one that missed.

Expected (the first two from one earlier run, not a published table):

- training accuracy 1.0 by step 30; test accuracy about .03 at step 25 and .99 at step 40;
- a delay of at least 15 steps in 9 of 10 runs. Each has a division of the table and a start of its own.

Where we differ from Doshi et al.: the decay of Adam's mean of squares is its usual .999; theirs is .98 (`--b2 0.98`).
This experiment has a problem of its own and takes no --problem.

Seen with the defaults: delays of 20 to 22 steps in 10 of 10 runs (20 to 23 with --b2 0.98).

Cost: about half a minute of CPU time for the defaults.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _lab import Lab, UsageError, main

import landscape as ls
from landscape.point import as_number
from landscape.problems import modular_addition

KNOWN = 0.99  # an accuracy from which a part of the table counts as known
DELAY = 15  # steps that the test comes later, at least
SHARE = 0.9  # of the runs
LOOKS = {"train": (30, "1.0"), "test": (25, "about .03"), "later": (40, "about .99")}
COLORS = {"train": "#0072b2", "test": "#d55e00"}
_static: Any = {"static": True}


@dataclass(frozen=True)
class Config:
    """Settings of this experiment."""

    runs: int = 10
    """Runs, each with its own division of the table and its own start."""
    steps: int = 100
    """Steps of AdamW on all training examples."""
    modulus: int = 97
    """Numbers are added modulo this."""
    hidden: int = 500
    """Quadratic units."""
    fraction: float = 0.5
    """Share of the table that is shown."""
    rate: float = 0.01
    """Learning rate."""
    decay: float = 5.0
    """Weight decay; each step takes away rate times decay of the weights."""
    b2: float = 0.999
    """Decay of Adam's mean of squares."""
    seed: int = 0
    """Seed of the divisions and the starts."""


SMOKE = Config(runs=3, steps=60, modulus=31, hidden=200, fraction=0.7)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Grokking:
    """The coordinate is the number of a run; the values are its history.

    Attributes:
        train, test: objectives whose data have a leading axis of runs.
        init: `init(key) -> params`.
        key: random key of the starts; run `i` has `fold_in(key, i)`.
        num_steps: of the optimizer.
        rate, decay, b2: of AdamW.
    """

    train: ls.Objective
    test: ls.Objective
    init: Any
    key: jax.Array
    num_steps: int = field(metadata=_static)
    rate: float = 0.01
    decay: float = 5.0
    b2: float = 0.999

    @classmethod
    def of(cls, config: Config) -> "Grokking":
        """The runs that a configuration asks for."""
        problems = [
            modular_addition(config.modulus, config.hidden, config.fraction, seed=config.seed + number)
            for number in range(config.runs)
        ]
        parts = {}
        for name, first in problems[0].objectives.items():
            data = [problem.objectives[name].data for problem in problems]
            parts[name] = replace(first, data=jax.tree.map(lambda *leaves: jnp.stack(leaves), *data))
        return cls(
            **parts,
            init=jax.tree_util.Partial(problems[0].init),
            key=jax.random.key(config.seed),
            num_steps=config.steps,
            rate=config.rate,
            decay=config.decay,
            b2=config.b2,
        )

    def __call__(self, coords: jax.Array) -> dict[str, jax.Array]:
        """`{train,test}_{loss,accuracy}` before each step and after the last, `(num_steps + 1,)`."""
        number = as_number(coords[0])
        parts = {name: _of_run(part, number) for name, part in (("train", self.train), ("test", self.test))}
        optimizer = optax.adamw(self.rate, b2=self.b2, weight_decay=self.decay)
        params = self.init(jax.random.fold_in(self.key, number))
        history = ls.train(parts["train"], optimizer, params, num_steps=self.num_steps, track=parts).history
        return {f"{part}_{name}": history[f"{part}_{name}"] for part in parts for name in ("loss", "accuracy")}


def _of_run(objective: ls.Objective, number: jax.Array) -> ls.Objective:
    return replace(objective, data=jax.tree.map(lambda leaf: leaf[number], objective.data))


def run(config: Config, lab: Lab) -> dict[str, ls.Landscape]:
    """The histories of all runs."""
    _check(config)
    # one run at a time on a CPU, whose caches its matrices fill
    runs = lab.at_once(1).sweep("runs", Grokking.of(config), ls.Grid.of(run=np.arange(config.runs)))
    return {} if runs is None else {"runs": runs}


def _check(config: Config) -> None:
    if min(config.runs, config.steps) < 1 or not config.rate > 0 or not config.decay >= 0 or not 0 < config.b2 < 1:
        raise UsageError(f"needs --runs, --steps >= 1, --rate > 0, --decay >= 0 and --b2 in (0, 1): {config}")


# -------------------------------------------------------------------------------------------------------- findings


def known_from(accuracy: np.ndarray) -> np.ndarray:
    """The first step at which each run's accuracy is at least .99, or NaN; `(runs, steps + 1) -> (runs,)`."""
    enough = accuracy >= KNOWN
    return np.where(enough.any(axis=1), enough.argmax(axis=1), np.nan)


def delays(runs: ls.Landscape) -> np.ndarray:
    """Steps by which the test is known later than the examples; NaN where one of them never is."""
    train, test = (known_from(runs[f"{part}_accuracy"]) for part in ("train", "test"))
    return test - train


def findings(result: Mapping[str, ls.Landscape]) -> list[tuple[str, str, str]]:
    """Rows of `(what, expected, found)`."""
    runs = result["runs"]
    rows = []
    for what, (step, expected) in LOOKS.items():
        accuracy = runs["train_accuracy" if what == "train" else "test_accuracy"]
        if step < accuracy.shape[1]:
            part = "training" if what == "train" else "test"
            rows.append((f"{part} accuracy at step {step}", expected, _range(accuracy[:, step], ".3f")))
    delay = delays(runs)
    long = int(np.sum(delay >= DELAY))
    low, high = ls.analysis.wilson_interval(long, len(delay))
    return [
        *rows,
        *_when_rows(runs),
        (f"delay at {KNOWN}, steps", f"at least {DELAY}", _range(delay, ".0f")),
        (
            f"... of at least {DELAY} steps, runs",
            f"{np.ceil(SHARE * len(delay)):.0f} of {len(delay)}",
            f"{long} (95 % {len(delay) * low:.1f} ... {len(delay) * high:.1f})",
        ),
        *_parting_rows(runs),
    ]


def _when_rows(runs: ls.Landscape) -> list[tuple[str, str, str]]:
    steps = {part: known_from(runs[f"{part}_accuracy"]) for part in ("train", "test")}
    return [
        (f"training accuracy {KNOWN} from step", "below 30", _range(steps["train"], ".0f")),
        (f"test accuracy {KNOWN} from step", "about 40", _range(steps["test"], ".0f")),
    ]


def _parting_rows(runs: ls.Landscape) -> list[tuple[str, str, str]]:
    """How far the test loss rises while the training loss falls, and how low the test accuracy is meanwhile."""
    test, train = runs["test_loss"], runs["train_loss"]
    high = test.argmax(axis=1)
    everyone = np.arange(len(test))
    ratio, fallen = test[everyone, high] / test[:, 0], train[everyone, high] / train[:, 0]
    return [
        ("test loss at its highest, at step", "after the start", _range(high, ".0f")),
        ("... relative to the start", "above 1", _range(ratio, ".3f")),
        ("... training loss then, relative to the start", "below 1", _range(fallen, ".3f")),
    ]


def _range(values: np.ndarray, spec: str) -> str:
    """Median and range of the values that there are."""
    there = np.asarray(values, float)[~np.isnan(values)]
    if not len(there):
        return "in no run"
    missing = f", in {len(there)} of {len(values)} runs" if len(there) < len(values) else ""
    return f"{np.median(there):{spec}} ({there.min():{spec}} ... {there.max():{spec}}){missing}"


# --------------------------------------------------------------------------------------------------------- figures


def plot(result: Mapping[str, ls.Landscape]) -> dict[str, Any]:
    """Accuracy and loss of all runs, and their delays."""
    from matplotlib import pyplot

    runs = result["runs"]
    figure, axes = pyplot.subplots(1, 3, figsize=(7.6, 2.7), width_ratios=(3, 3, 2))
    for ax, name, label in ((axes[0], "accuracy", "accuracy"), (axes[1], "loss", "mean squared error")):
        for part, text in (("train", "training"), ("test", "test")):
            for number, curve in enumerate(runs[f"{part}_{name}"]):
                ax.plot(curve, color=COLORS[part], linewidth=0.8, alpha=0.7, label=None if number else text)
        ax.set(xlabel="steps", xlim=(0, runs["train_loss"].shape[1] - 1))
        ax.set_title(label, loc="left")
    axes[0].axhline(KNOWN, color="0.6", linewidth=0.6, linestyle=":")
    axes[0].set(ylim=(-0.03, 1.03))
    axes[1].set(yscale="log")
    axes[0].legend(loc="center right")
    _draw_delays(axes[2], runs)
    return {"grokking": figure}


def _draw_delays(ax: Any, runs: ls.Landscape) -> None:
    """From knowing the examples to knowing the rule, one line for each run."""
    train, test = (known_from(runs[f"{part}_accuracy"]) for part in ("train", "test"))
    rows = np.arange(len(train))
    ax.hlines(rows, train, test, color="0.6", linewidth=1.0)
    for part, steps in (("train", train), ("test", test)):
        ax.plot(steps, rows, "o", color=COLORS[part], markersize=4)
    ax.set(xlabel=f"first step at {KNOWN}", ylabel="run", yticks=rows, ylim=(len(rows) - 0.5, -0.5))
    delay = delays(runs)
    known = delay[~np.isnan(delay)]
    ax.set_title(f"delay {np.median(known):.0f} steps" if len(known) else "no run groks", loc="left")


if __name__ == "__main__":
    main("grokking", Config, SMOKE, run, plot, findings, takes_problem=False)
