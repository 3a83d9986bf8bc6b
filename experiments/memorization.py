r"""Can a network learn labels that mean nothing, and what does it know afterwards?

A ReLU network of two layers learns 500 of scikit-learn's digits with Adam, with a share of the training labels replaced
by uniform draws over the ten classes (Zhang et al. 2017, section 2.1 and figure 1, who did it with CIFAR10 and
ImageNet). Each run has random labels of its own, a start and minibatches of its own. The test labels stay.

Expected:

- every run of every share fits its training labels: accuracy 1. The more labels are random, the later;
- at a share of 1 the labels say nothing, so each test example is answered rightly with probability 1/10, exactly: from
  the first epoch to the last the mean test accuracy over runs lies no farther from 10 % than Student's t allows, the
  5 % divided among all looks (Bonferroni). (One run may lie off it by more than counting allows: its answers to similar
  images are the same, right or wrong together.);
- between the two the test accuracy falls with the share, while the training accuracy does not.

So the training loss alone says nothing of the test, and neither does the size of the network. This experiment has its
own problem and takes no --problem.

Cost: half a minute of CPU time for the defaults.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import jax
import numpy as np
from _lab import Lab, UsageError, main
from _lab.optimizers import adam
from _networks.label_noise import Trainings
from scipy import special

import landscape as ls
from landscape.analysis import Estimate, mean_of
from landscape.problems import classifier, digits, mlp

CHANCE = 0.1
COLORS = ("#0072b2", "#56b4e9", "#009e73", "#e69f00", "#d55e00", "#cc79a7", "#000000")
TOTAL = 1797  # digits


@dataclass(frozen=True)
class Config:
    """Settings of this experiment."""

    shares: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Shares of the training labels that are random."""
    runs: int = 12
    """Runs for each share."""
    examples: int = 500
    """Training examples; all other digits are for the test."""
    hidden: int = 128
    """Hidden units."""
    epochs: int = 200
    """Epochs of each run."""
    record: int = 4
    """Epochs between two entries of the curves."""
    learning_rate: float = 0.01
    """Learning rate of Adam."""
    batch_size: int = 100
    """Examples of a minibatch."""
    seed: int = 0
    """Seed of everything that is drawn."""


SMOKE = Config(shares=(0.0, 1.0), runs=4, examples=60, hidden=64, epochs=120, record=20, batch_size=30)


def run(config: Config, lab: Lab) -> dict[str, ls.Landscape]:
    """All runs of all shares, in one sweep."""
    _check(config)
    train, test = digits(1 - config.examples / TOTAL, config.seed)
    problem = classifier(*mlp((64, config.hidden, 10), jax.nn.relu), {"train": train, "test": test})
    per_epoch = config.examples // config.batch_size
    trainings = Trainings(
        init=problem.init,
        optimizer=adam(config.learning_rate),
        train=problem.objectives["train"],
        track={"test": problem.objectives["test"]},
        num_steps=config.epochs * per_epoch,
        batch_size=config.batch_size,
        record_every=config.record * per_epoch,
        key=jax.random.key(config.seed),
        per_run=True,
    )
    about = {"per_epoch": per_epoch, "num_train": config.examples, "num_test": len(test["y"])}
    grid = ls.Grid.of(noise=np.sort(config.shares), run=np.arange(config.runs))
    found = lab.at_once(config.runs, config.runs).sweep("runs", trainings, grid, lambda _: {"runs": about})
    return {} if found is None else {"runs": found}


def _check(config: Config) -> None:
    if not config.shares or len({*config.shares}) < len(config.shares) or not all(0 <= s <= 1 for s in config.shares):
        raise UsageError(f"--shares wants different shares between 0 and 1, got {config.shares}")
    if config.runs < 3 or min(config.hidden, config.epochs, config.record) < 1 or not config.learning_rate > 0:
        raise UsageError("needs --runs >= 3, --hidden, --epochs and --record >= 1, and --learning-rate > 0")
    if not 1 <= config.batch_size <= config.examples < TOTAL:
        raise UsageError(f"needs --batch-size <= --examples < {TOTAL}, got {config.batch_size} and {config.examples}")


# ----------------------------------------------------------------------------------------------------------- findings


def fitted(runs: ls.Landscape) -> np.ndarray:
    """The first recorded epoch with a training accuracy of 1, for each run; NaN where there is none."""
    right, step = runs["history.train_accuracy"] >= 1, runs["history.step"]
    first = np.argmax(right, axis=-1)
    epoch = np.take_along_axis(step, first[..., None], axis=-1)[..., 0] / runs.meta["runs"]["per_epoch"]
    return np.where(right.any(axis=-1), epoch, np.nan)


def findings(result: Mapping[str, ls.Landscape]) -> list[tuple[str, str, str]]:
    """Rows of `(what, expected, found)`."""
    runs, rows = result["runs"], []
    train, test = (runs[f"history.{part}_accuracy"] for part in ("train", "test"))
    epochs = fitted(runs)
    for i, share in enumerate(runs.grid.axes[0].values):
        every, count = int(np.sum(train[i, :, -1] >= 1)), train.shape[1]
        name = f"{share:.0%} random labels"
        rows.append((f"{name}: runs that fit all training labels in the end", f"all {count}", f"{every}"))
        known = epochs[i][~np.isnan(epochs[i])]
        when = f"{np.median(known):g} ({known.min():g} ... {known.max():g})" if len(known) else "never"
        rows.append((f"{name}: epoch at which they first do", "later with the share", when))
        expected = f"{CHANCE:.3f} (exact)" if share == 1 else ("high" if share == 0 else "falls with the share")
        rows.append((f"{name}: test accuracy at the end", expected, _text(mean_of(test[i, :, -1]))))
        if share == 1:
            rows.append((f"{name}: largest |t| of the mean curve against chance", *_against_chance(test[i])))
    loss = runs["history.test_loss"][..., -1]
    rows += [
        (f"{share:.0%} random labels: test loss at the end (chance {np.log(10):.3f})", "", f"{np.median(x):.2f}")
        for share, x in zip(runs.grid.axes[0].values, loss)
    ]
    return rows


def _against_chance(curves: np.ndarray) -> tuple[str, str]:
    """The limit for the largest |t| of `(runs, looks)` if all means are chance, and that |t| with its distance."""
    count, looks = curves.shape
    off, error = curves.mean(axis=0) - CHANCE, np.std(curves, axis=0, ddof=1) / np.sqrt(count)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(np.isclose(off, 0, atol=1e-7), 0.0, np.abs(off) / error)  # 0 / 0 where all runs are at chance
    limit, at = special.stdtrit(count - 1, 1 - 0.025 / looks), int(np.argmax(t))
    return f"at most {limit:.2f} (5 % over {looks} looks)", f"{t[at]:.2f}, where the mean is {CHANCE + off[at]:.3f}"


def _text(found: Estimate) -> str:
    return "{:.3f} (95 % {:.3f} ... {:.3f})".format(*found)


# ------------------------------------------------------------------------------------------------------------ figures


def plot(result: Mapping[str, ls.Landscape]) -> dict[str, Any]:
    """Training and test accuracy along the runs, and at their ends against the share."""
    from matplotlib import pyplot

    runs = result["runs"]
    figure, axes = pyplot.subplots(1, 3, figsize=(9.6, 3.3))
    shares, epochs = runs.grid.axes[0].values, runs["history.step"][0, 0] / runs.meta["runs"]["per_epoch"]
    for ax, part in zip(axes, ("train", "test")):
        for share, curves, color in zip(shares, runs[f"history.{part}_accuracy"], cycle(COLORS)):
            ax.plot(epochs, curves.T, color=color, linewidth=0.4, alpha=0.35)
            ax.plot(epochs, np.median(curves, axis=0), color=color, linewidth=1.5, label=f"{share:.0%} random")
        ax.set(xlabel="epochs", ylabel=f"{part} accuracy", ylim=(0, 1.03), xlim=epochs[[0, -1]])
    axes[0].set_title("(a) every label is learned", loc="left")
    axes[1].set_title("(b) what is known afterwards", loc="left")
    axes[0].legend(loc="lower right", fontsize=7)
    for part, marker, color in (("train", "o", "#0072b2"), ("test", "s", "#d55e00")):
        ends = [ls.analysis.mean_interval(curves[:, -1]) for curves in runs[f"history.{part}_accuracy"]]
        middle, low, high = np.array(ends).T
        look: dict[str, Any] = {"fmt": f"{marker}-", "color": color, "markersize": 4, "capsize": 3, "linewidth": 1}
        axes[2].errorbar(shares, middle, yerr=[middle - low, high - middle], label=f"{part}, mean and 95 %", **look)
    axes[2].set(xlabel="share of random training labels", ylabel="accuracy at the end", ylim=(0, 1.03))
    axes[2].set_title("(c) one training accuracy, any test accuracy", loc="left")
    for ax in axes[1:]:
        ax.axhline(CHANCE, color="0.35", linewidth=0.9, linestyle=":", label="chance" if ax is axes[2] else None)
    axes[2].legend(loc="center left", fontsize=7)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return {"memorization": figure}


if __name__ == "__main__":
    main("memorization", Config, SMOKE, run, plot, findings, takes_problem=False)
