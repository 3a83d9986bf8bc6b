"""Doodle 4, two hills: squared against absolute error, what an outlier does to each, and what each costs.

Laws:

- one outlier of n moves the mean by z / n for any z; the median stays between its neighbours;
- efficiency at the Gaussian, the variance of the mean over that of the estimate: median 2 / pi = .6366, Huber k = 1.345
  .9500, k = 1 .9031, k = 2 .9897 (Huber 1964). By quadrature, to 1e-4, and measured on samples of `SIZE`, where a
  standard error is given; 3 of them are the stated accuracy;
- a share e of outliers at infinity moves the median to Phi^-1(1 / (2 (1 - e))): .0660 .1397 .3186 .5659 .9674 for
  e = .05 .1 .2 .3 .4, while the mean has no bound. Measured on samples of `MANY`, to 3 standard errors or 0.002;
- the slope of the absolute error has the same size everywhere, so a constant step ends in hops of that size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import landscape as ls
from _doodle.pen import PALE, caption, finished, note, open_frame, sheet, star
from landscape import losses
from landscape.analysis import ratio_and_error
from landscape.plotting import ACCENT, plain
from landscape.point import as_number

TITLE = "Two hills: square the miss, or take it as it is"
SAYS = "Squares chase the outlier; absolute misses shrug."
READS = "dashed without, solid with the outlier; stars: minima"
FITS = {
    "median": losses.absolute_error,
    "Huber 1": losses.huber(1.0),
    "Huber 1.345": losses.huber(1.345),
    "Huber 2": losses.huber(2.0),
}
EFFICIENCY = {"median": 0.6366, "Huber 1": 0.9031, "Huber 1.345": 0.9500, "Huber 2": 0.9897}
BIAS = {0.05: 0.0660, 0.1: 0.1397, 0.2: 0.3186, 0.3: 0.5659, 0.4: 0.9674}
SIZE = 301  # of a sample whose mean, median and Huber estimates are compared
MANY = 4001  # of a sample with outliers: in smaller ones the median of few is biased itself
FAR = 1e6  # where outliers are
CROWD = (-1.2, -0.7, -0.4, -0.1, 0.2, 0.5, 0.9)
OUTLIER = 6.0
STEP = 0.3  # of descent on the absolute error


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Hills:
    """One guess -> two losses of it, and their slopes, with and without an outlier among the targets.

    Attributes:
        targets: `(n,)`; the last one is the outlier.
    """

    targets: Any

    def __call__(self, coords: Any) -> dict[str, Any]:
        """Losses and slopes of one guess."""
        values = {}
        for name, loss in (("squared", losses.squared_error), ("absolute", losses.absolute_error)):
            for which, targets in (("one", jnp.zeros(1)), ("crowd", self.targets[:-1]), ("all", self.targets)):
                mean = jax.value_and_grad(
                    lambda c, loss=loss, t=targets: jnp.mean(loss(jnp.broadcast_to(c, t.shape), t))
                )
                values[f"{name}_{which}"], values[f"{name}_{which}_slope"] = mean(coords[0])
        return values


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Samples:
    """Number of a Gaussian sample -> its mean and the constants that fit it best under other losses.

    Attributes:
        key: random key.
    """

    key: Any

    def __call__(self, coords: Any) -> dict[str, Any]:
        """All estimates from one sample; the truth is 0."""
        sample = jax.random.normal(jax.random.fold_in(self.key, as_number(coords[0])), (SIZE,))
        fits = {_plain(name): losses.best_constant(loss, sample) for name, loss in FITS.items()}
        return {"mean": jnp.mean(sample), **fits}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Contaminated:
    """Number of a sample -> its median and mean, for each share of outliers at `FAR`.

    Attributes:
        key: random key.
    """

    key: Any

    def __call__(self, coords: Any) -> dict[str, Any]:
        """Arrays with one entry a share."""
        sample = jax.random.normal(jax.random.fold_in(self.key, as_number(coords[0])), (MANY,))
        place = jnp.arange(MANY)
        spoilt = jnp.stack([jnp.where(place < round(share * MANY), FAR, sample) for share in BIAS])
        return {"median": jnp.median(spoilt, axis=1), "mean": jnp.mean(spoilt, axis=1)}


def _plain(name: str) -> str:
    return name.replace(" ", "_").replace(".", "_").lower()


def run(config: Any, lab: Any) -> dict[str, Any]:
    """The hills, the samples, the samples with outliers, and a descent on the absolute error."""
    key = jax.random.key(config.seed)
    with jax.enable_x64(True):
        line = ls.Grid((ls.Axis.linspace("guess", -3.0, OUTLIER + 1.0, 1001, "one guess for all"),))
        hills = lab.at_once(64).sweep("hills", Hills(jnp.array([*CROWD, OUTLIER])), line)
        many = ls.Grid.of(sample=np.arange(config.replicates))
        samples = lab.at_once(min(200, config.replicates)).sweep(
            "samples", Samples(key), many, lambda _: {"exact": _exact()}
        )
        fewer = ls.Grid.of(sample=np.arange(max(2, config.replicates // 10)))
        spoilt = lab.at_once(50).sweep(
            "contaminated", Contaminated(jax.random.fold_in(key, 1)), fewer, lambda _: _descent()
        )
    return {"hills": hills, "samples": samples, "contaminated": spoilt}


def _exact() -> dict[str, float]:
    return {name: float(losses.gaussian_efficiency(loss)) for name, loss in FITS.items()}


def _descent() -> dict[str, Any]:
    """The last distances from the median under a constant step, and under one that shrinks as 1 / sqrt(t)."""
    targets = jnp.array(CROWD)
    objective = ls.Objective(lambda c, t: losses.absolute_error(jnp.broadcast_to(c, t.shape), t), targets)
    ends = {}
    for name, rate in (("constant", STEP), ("shrinking", lambda t: STEP / jnp.sqrt(1.0 + t))):
        run = ls.train(objective, optax.sgd(rate), jnp.array(2.2), num_steps=2000, record_every=1, snapshots=True)
        ends[name] = float(np.max(np.abs(np.asarray(run.snapshots)[-50:] - np.median(CROWD))))
    return {"descent": ends}


def efficiency(samples: Any, name: str) -> tuple[float, float]:
    """Variance of the mean over that of another estimate, whose truth is 0, and its standard error (delta method)."""
    return ratio_and_error(samples["mean"] ** 2, samples[_plain(name)] ** 2)


def bias_law(share: Any) -> Any:
    """Where a share of outliers at infinity moves the median of a standard Gaussian."""
    return np.vectorize(lambda e: NormalDist().inv_cdf(1 / (2 * (1 - e))))(share)


def bias(spoilt: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the medians for each share of outliers, and its standard error."""
    medians = spoilt["median"]
    return medians.mean(axis=0), medians.std(axis=0, ddof=1) / np.sqrt(len(medians))


def bottoms(hills: Any) -> dict[str, float]:
    """Where each hill is least; the middle, where that is an interval."""
    x = hills.grid.axes[0].values
    best = {}
    for name in ("squared_crowd", "squared_all", "absolute_crowd", "absolute_all"):
        low = hills[name] <= hills[name].min() + 1e-12
        best[name] = float(x[low].mean())
    return best


def findings(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Rows of `(what, expected, found)`."""
    hills, samples, spoilt = (result[name] for name in ("hills", "samples", "contaminated"))
    where, full = bottoms(hills), [*CROWD, OUTLIER]
    moved = where["squared_all"] - where["squared_crowd"]
    rows = [
        ("outlier moves the least squared error by", f"{np.mean(full) - np.mean(CROWD):.3f} (to 0.01)", f"{moved:.3f}")
    ]
    moved = where["absolute_all"] - where["absolute_crowd"]
    rows.append(
        ("... the least absolute error by", f"{np.median(full) - np.median(CROWD):.3f} (to 0.01)", f"{moved:.3f}")
    )
    for name, value in EFFICIENCY.items():
        found, error = efficiency(samples, name)
        exact = samples.meta["exact"][name]
        rows.append(
            (f"efficiency of {name}", f"{value:.4f}", f"{exact:.4f} by quadrature, {found:.4f} +- {error:.4f} sampled")
        )
    for (share, value), found, error in zip(BIAS.items(), *bias(spoilt)):
        rows.append((f"median with {share:.0%} outliers", f"{value:.4f}", f"{found:.4f} +- {error:.4f}"))
    means = spoilt["mean"].mean(axis=0)
    rows.append((f"mean with 5% outliers at {FAR:.0e}", f"{0.05 * FAR:.3g}: no bound", f"{means[0]:.3g}"))
    slopes = np.abs(hills["absolute_one_slope"])
    rows.append(("slope of one absolute error", "1 everywhere", f"{np.unique(slopes[slopes > 0])}"))
    ends = spoilt.meta["descent"]
    hop = STEP / len(CROWD)  # next to the median of an odd number the slope is 1 / n
    rows.append((f"distance from the median, step {STEP}", f"stays, up to {hop:.3f}", f"{ends['constant']:.3f}"))
    rows.append(("... step shrinking as 1 / sqrt(t)", f"up to {hop / np.sqrt(1950):.5f}", f"{ends['shrinking']:.5f}"))
    return rows


def draw(result: Mapping[str, Any]) -> dict[str, Any]:
    """Two hills, what an outlier moves, what robustness costs, and what it buys."""
    figure, axes = sheet([["hills", "outlier"], ["cost", "bias"]], (10.5, 7.6), f"4   {TITLE}")
    _draw_hills(axes["hills"], result["hills"])
    key_panel(axes["outlier"], result)
    caption(axes["outlier"], "One outlier drags the squared minimum (stars); the absolute one hardly moves.", 50)
    _draw_cost(axes["cost"], result["samples"])
    _draw_bias(axes["bias"], result["contaminated"])
    return {"doodle_4_hills": finished(figure)}


def _draw_hills(ax: Any, hills: Any) -> None:
    x = hills.grid.axes[0].values
    near = np.abs(x) <= 3
    ax.plot(x[near], hills["squared_one"][near], color=ACCENT)
    ax.plot(x[near], hills["absolute_one"][near], color="black")
    for at in (0.8, 2.4):
        i = np.argmin(np.abs(x - at))
        for name, color in (("squared_one", ACCENT), ("absolute_one", "black")):
            slope, y = hills[f"{name}_slope"][i], hills[name][i]
            half = 0.45 / np.hypot(1, slope / 2)
            ax.plot([x[i] - half, x[i] + half], [y - slope * half, y + slope * half], color=color, linewidth=3.2)
            side = 1 if name == "absolute_one" else -1
            ax.text(
                x[i] + 0.25 * side,
                y - 0.25 * side,
                f"slope {slope:.1f}",
                color=color,
                ha="left" if side > 0 else "right",
                va="top" if side > 0 else "bottom",
                fontsize=8,
            )
    ax.text(-2.2, 5.9, "squared:\nsteep far out,\nflat at the bottom", color=ACCENT, fontweight="bold", ha="left")
    ax.text(-2.9, 0.2, "absolute: one\nslope everywhere", fontweight="bold")
    ax.set(xlabel="miss", ylabel="loss of one miss", xlim=(-3, 3.4), ylim=(-0.3, 9.2))
    open_frame(ax)
    caption(ax, "Both grow with the miss; only one grows faster and faster.", 50)


def key_panel(ax: Any, result: Mapping[str, Any]) -> None:
    """The two hills of a crowd, with and without an outlier, each from 0 to 1."""
    hills = result["hills"]
    x = hills.grid.axes[0].values
    lift = {"squared": 1.25, "absolute": 0.0}
    for name, color in (("squared", ACCENT), ("absolute", "black")):
        for which, dash in (("crowd", (0, (2, 2))), ("all", "-")):
            loss = hills[f"{name}_{which}"]
            height = (loss - loss.min()) / (loss[0] - loss.min())
            shown = height <= 1.02
            ax.plot(x[shown], height[shown] + lift[name], color=color, linestyle=dash)
            star(
                ax, bottoms(hills)[f"{name}_{which}"], lift[name], color=color, markersize=9 if which == "crowd" else 13
            )
    where = bottoms(hills)
    y = lift["squared"] - 0.1
    ax.annotate(
        "",
        (where["squared_all"], y),
        (where["squared_crowd"], y),
        arrowprops={"arrowstyle": "->", "color": ACCENT, "linewidth": 2.0},
    )
    floor = -0.25
    plain(ax.scatter(CROWD, np.full(len(CROWD), floor), s=26, color="black", zorder=4))
    plain(ax.scatter(OUTLIER, floor, s=46, color=ACCENT, edgecolors="black", zorder=4))
    ax.text(np.mean(CROWD), floor - 0.12, "the crowd", ha="center", va="top", fontsize=8.5)
    ax.text(OUTLIER, floor - 0.12, "an outlier", ha="center", va="top", color=ACCENT, fontsize=8.5)
    ax.text(6.9, lift["squared"] + 0.12, "squared", color=ACCENT, fontweight="bold", ha="right")
    ax.text(6.9, lift["absolute"] + 0.12, "absolute", fontweight="bold", ha="right")
    ax.set(xlim=(-3, 7), ylim=(-0.62, 2.35), yticks=[], xlabel="one guess for all")
    ax.spines[["top", "right", "left"]].set_visible(False)


def _draw_cost(ax: Any, samples: Any) -> None:
    names = ["mean", *sorted(EFFICIENCY, key=lambda name: -EFFICIENCY[name])]
    for i, name in enumerate(names):
        value, law = (1.0, 1.0) if name == "mean" else (efficiency(samples, name)[0], EFFICIENCY[name])
        ax.bar(i, value, 0.62, facecolor=ACCENT if name == "median" else PALE, edgecolor="black", linewidth=1.2)
        if name != "mean":
            plain(ax.errorbar(i, value, 2 * efficiency(samples, name)[1], color="black", capsize=3, linewidth=1.2)[0])
        ax.text(i, value + 0.05, f"{law:.2%}".replace("100.00%", "100%"), ha="center", fontweight="bold", fontsize=8.5)
    ax.set_xticks(range(len(names)), names)
    ax.set(ylim=(0, 1.2), yticks=[0, 0.5, 1], ylabel="efficiency")
    open_frame(ax)
    caption(ax, f"What calm costs on clean data: numbers are the law, bars {len(samples['mean']):,} samples.", 50)


def _draw_bias(ax: Any, spoilt: Any) -> None:
    share = np.linspace(0, 0.45, 91)
    ax.plot(share, bias_law(share), color="black")
    found, error = bias(spoilt)
    plain(ax.errorbar(list(BIAS), found, 2 * error, fmt="o", color="black", markersize=6, capsize=3)[0])
    ax.plot([0, 0.012], [0, 1.5], color=ACCENT)
    note(ax, "the mean: gone with\nthe first outlier", (0.013, 1.25), (0.14, 1.2), color=ACCENT, fontweight="bold")
    note(ax, "the median:\nonly so far", (0.3, 0.566), (0.2, 0.78), fontweight="bold")
    ax.set(xlabel="share of outliers at infinity", ylabel="estimate (truth: 0)", xlim=(-0.01, 0.46), ylim=(-0.03, 1.5))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    open_frame(ax)
    caption(ax, "What calm buys: dots are measured, the line is the law.", 50)
