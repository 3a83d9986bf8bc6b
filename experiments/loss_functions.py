r"""What does the choice of the loss do to the landscape, to its minimum, and to what outliers make of both?

Laws (`landscape.losses`), exact or published, found here from the losses alone:

- the best constant prediction is the mean for the squared error, the median for the absolute error, the quantile tau
  for the pinball loss, the midrange for the largest error. One target moved by z moves the mean by z / n, and the
  median by at most one order statistic;
- efficiency on Gaussian data (Huber 1964): median 2 / pi = .6366, Huber k = 1.345 .9500, k = 1 .9031, k = 2 .9897; by
  quadrature, and by Monte Carlo from samples of 201, for which the median's exceeds the limit by less than 1 %;
- a share e of outliers at infinity moves the median by Phi^-1(1 / (2 (1 - e))), the most that any share e can: .0660
  .1397 .3186 .5659 .9674 for e = .05 .1 .2 .3 .4 (Huber 1964). They move the mean without bound;
- the slope of the absolute error is 1 however small the miss, so descent with a constant step s ends up jumping over
  the target between two points s apart. With steps s / t it arrives.

Planes, on real data that come with scikit-learn, a third of them for the test:

- progression of diabetes against body-mass index, a line of some intercept and slope (all in standard deviations);
  outliers: a tenth of the training targets raised by 8. Exact minima from SciPy: least squares, linear programs, BFGS;
- malignant or not against the radius of cells, by logistic regression; outliers: the twentieth of the training
  examples with the largest radius called benign. Cross-entropy against the error rate (0-1), whose slope is 0 wherever
  it exists: its landscape is made of steps.

Expected: outliers move the minimum of the squared error by (X'X)^-1 X' of what was added, that of the others little;
the test has no outliers, so what is lost there is the price. This experiment has its own data and takes no --problem.
It always computes in float64.

Cost: half a minute of CPU time for the defaults.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _exact import loss_planes as planes
from _lab import Lab, UsageError, main

import landscape as ls
from landscape import losses
from landscape.analysis import ratio_and_error
from landscape.point import as_number

TAUS = (0.1, 0.25, 0.75)
HUBERS = (1.345, 1.0, 2.0)
EFFICIENCY = {"median": 0.6366, 1.345: 0.9500, 1.0: 0.9031, 2.0: 0.9897}
SHARES = (0.05, 0.1, 0.2, 0.3, 0.4)
FAR = (10.0, 1e3, 1e5)  # where the outliers are, in standard deviations
SAMPLE = 201  # numbers in a sample of the Monte Carlo
BATCHES = 40  # of samples, whose spread gives the standard error
QUANTILES = 4000  # that stand for a Gaussian in the bias
DESCENT = 60  # steps
FAR_MOVE = 500.0  # how far one target is moved, beyond all others
_static: Any = {"static": True}


@dataclass(frozen=True)
class Config:
    """Settings of this experiment."""

    samples: int = 4000
    """Samples of the Monte Carlo."""
    resolution: int = 101
    """Points along each axis of the planes."""
    outliers: float = 0.1
    """Share of the training targets of the regression that are outliers."""
    distance: float = 8.0
    """How far they are raised, in standard deviations."""
    mislabelled: float = 0.05
    """Share of the training examples of the classification that are called benign though far from it."""
    seed: int = 0
    """Seed of the samples, of the division in training and test, and of which targets are outliers."""


SMOKE = Config(samples=200, resolution=15)


# --------------------------------------------------------------------------------------------------------------- laws


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Constants:
    """Point function: a constant prediction -> what the same misses are through each loss and each aggregate."""

    targets: jax.Array

    def __call__(self, coords: jax.Array) -> dict[str, jax.Array]:
        """One number for each."""
        prediction = jnp.broadcast_to(coords[0], self.targets.shape)
        squared, absolute = (loss(prediction, self.targets) for loss in (losses.squared_error, losses.absolute_error))
        return {
            **{f"{how}_absolute": losses.aggregate(absolute, how) for how in losses.AGGREGATES},
            "mean_squared": losses.aggregate(squared),
            "mean_pinball": losses.aggregate(losses.pinball(TAUS[0])(prediction, self.targets)),
        }


def efficiency(coords: jax.Array) -> dict[str, jax.Array]:
    """Point function: Huber's constant -> the efficiency on Gaussian data, by quadrature."""
    return {"efficiency": losses.gaussian_efficiency(losses.huber(coords[0]))}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Estimates:
    """Point function: the number of a Gaussian sample -> its mean, its median and Huber's estimates."""

    key: jax.Array
    size: int = field(metadata=_static)

    def __call__(self, coords: jax.Array) -> dict[str, jax.Array]:
        """The estimates of one sample."""
        sample = jax.random.normal(jax.random.fold_in(self.key, as_number(coords[0])), (self.size,))
        huber = jnp.stack([losses.best_constant(losses.huber(k), sample) for k in HUBERS])
        best = losses.best_constant
        return {"mean": jnp.mean(sample), "median": best(losses.absolute_error, sample), "huber": huber}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Contaminated:
    """Point function: a share of outliers and where they are -> mean, median and Huber's estimate of a Gaussian.

    The Gaussian is represented by its quantiles, so the answer is exact to about the distance between two of them.
    """

    count: int = field(metadata=_static)

    def __call__(self, coords: jax.Array) -> dict[str, jax.Array]:
        """The three estimates."""
        rank, bad = jnp.arange(self.count), jnp.round(coords[0] * self.count)
        good = jax.scipy.special.ndtri(jnp.maximum(rank - bad + 0.5, 0.5) / (self.count - bad))
        targets = jnp.where(rank < bad, coords[1], good)
        found = {"mean": losses.squared_error, "median": losses.absolute_error, "huber": losses.huber()}
        return {name: losses.best_constant(loss, targets) for name, loss in found.items()}


def descent(coords: jax.Array) -> dict[str, jax.Array]:
    """Point function: a step size -> the misses along gradient descent on an absolute error, by steps s and s / t."""
    target = jnp.asarray(0.0, coords.dtype)
    slope = jax.grad(lambda x: losses.absolute_error(x, target))

    def path(shrinks: bool) -> jax.Array:
        def step(x: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
            new = x - coords[0] / (t if shrinks else 1.0) * slope(x)
            return new, new

        return jax.lax.scan(step, jnp.asarray(0.5, coords.dtype), jnp.arange(1.0, DESCENT + 1))[1]

    return {"constant": path(False), "shrinking": path(True)}


def run(config: Config, lab: Lab) -> dict[str, ls.Landscape]:
    """The laws over their own axes, and the two planes."""
    _check(config)
    with jax.enable_x64(True):
        regression = planes.regression(config.outliers, config.distance, config.seed)
        targets = jnp.asarray(planes.load("load_diabetes").target, jnp.float64)
        constants = ls.Axis.linspace("constant", float(targets.min()), float(targets.max()), 401, "prediction for all")
        shares = ls.Grid.of(share=SHARES, distance=FAR)
        steps = ls.Grid.of(step=(0.3, 0.7, 1.1))
        found = {
            "constants": lab.sweep("constants", Constants(targets), ls.Grid((constants,)), lambda _: _minima(targets)),
            "efficiency": lab.sweep("efficiency", efficiency, ls.Grid.of(k=np.geomspace(0.02, 4, 60)), _tabulated),
            "samples": lab.sweep(
                "samples", Estimates(jax.random.key(config.seed), SAMPLE), ls.Grid.of(sample=np.arange(config.samples))
            ),
            "bias": lab.sweep("bias", Contaminated(QUANTILES), shares),
            "descent": lab.sweep("descent", descent, steps),
            "regression": planes.sweep_regression(lab, regression, config.resolution),
            "classes": planes.sweep_classes(lab, planes.classes(config.mislabelled, config.seed), config.resolution),
        }
    return {name: landscape for name, landscape in found.items() if landscape is not None}


def _check(config: Config) -> None:
    if config.samples < 2 * BATCHES or config.resolution < 5:
        raise UsageError(f"needs --samples >= {2 * BATCHES} and --resolution >= 5: {config}")
    if not (0 < config.outliers < 0.5 and 0 < config.mislabelled < 0.5 and config.distance > 0):
        raise UsageError("needs --outliers and --mislabelled between 0 and 0.5, and --distance > 0")


def _minima(targets: jax.Array) -> dict[str, Any]:
    """The best constants found from the losses, and how far one moved target moves two of them."""
    moved = targets.at[jnp.argmin(targets)].add(FAR_MOVE)
    best = losses.best_constant
    found = {
        "mean": best(losses.squared_error, targets),
        "median": best(losses.absolute_error, targets),
        "midrange": best(losses.squared_error, targets, "max"),
        **{f"quantile {tau:g}": best(losses.pinball(tau), targets) for tau in TAUS},
        "mean, moved": best(losses.squared_error, moved),
        "median, moved": best(losses.absolute_error, moved),
    }
    return {"targets": np.asarray(targets), "best": {name: float(value) for name, value in found.items()}}


def _tabulated(_: ls.Landscape) -> dict[str, Any]:
    """The efficiencies that are published, by quadrature."""
    found = {"median": float(losses.gaussian_efficiency(losses.absolute_error))}
    return {"found": found | {f"{k:g}": float(losses.gaussian_efficiency(losses.huber(k))) for k in HUBERS}}


# ----------------------------------------------------------------------------------------------------------- findings


def findings(result: Mapping[str, ls.Landscape]) -> list[tuple[str, str, str]]:
    """Rows of `(what, expected, found)`."""
    return [
        *_constant_rows(result["constants"]),
        *_efficiency_rows(result["efficiency"], result["samples"]),
        *_bias_rows(result["bias"]),
        *_descent_rows(result["descent"]),
        *planes.regression_rows(result["regression"]),
        *planes.class_rows(result["classes"]),
    ]


def _constant_rows(landscape: ls.Landscape) -> list[tuple[str, str, str]]:
    y, best = np.sort(landscape.meta["targets"]), landscape.meta["best"]
    exact = {"mean": np.mean(y), "median": np.median(y), "midrange": (y[0] + y[-1]) / 2}
    exact |= {f"quantile {tau:g}": y[int(np.ceil(tau * len(y))) - 1] for tau in TAUS}
    laws = {"mean": "squared", "median": "absolute", "midrange": "largest"}
    rows = [
        (f"best constant, {laws.get(name, 'pinball')} error: the {name}", f"{value:.12f}", f"{best[name]:.12f}")
        for name, value in exact.items()
    ]
    shift, middle = best["mean, moved"] - best["mean"], len(y) // 2
    exact_shift = f"{FAR_MOVE:g} / {len(y)} = {FAR_MOVE / len(y):.12f}"
    rows.append((f"one target moved by {FAR_MOVE:g} moves the mean by", exact_shift, f"{shift:.12f}"))
    # an even number: the median is the middle of two, and each of them may move on to the next
    bounds = [np.mean(y[[middle - 1 + i, middle + i]]) for i in (-1, 1)]
    found = f"{best['median, moved']:g}, from {best['median']:g}"
    rows.append(("... and the median to", f"{bounds[0]:g} ... {bounds[1]:g}, one order statistic", found))
    return rows


def monte_carlo(samples: ls.Landscape, name: str, index: int | None = None) -> tuple[float, float]:
    """The variance of the means over that of an estimate, with its standard error from batches of samples."""
    other = samples[name] if index is None else samples[name][:, index]
    parts = [
        (np.var(a, ddof=1), np.var(b, ddof=1))
        for a, b in zip(*(np.array_split(x, BATCHES) for x in (samples["mean"], other)))
    ]
    return ratio_and_error(*np.array(parts).T)


def _efficiency_rows(quadrature: ls.Landscape, samples: ls.Landscape) -> list[tuple[str, str, str]]:
    rows = []
    for name, expected in EFFICIENCY.items():
        words = "median" if name == "median" else f"Huber k = {name:g}"
        found = quadrature.meta["found"]["median" if name == "median" else f"{name:g}"]
        index = None if name == "median" else HUBERS.index(name)
        ratio, error = monte_carlo(samples, "median" if index is None else "huber", index)
        rows.append((f"efficiency of {words}, quadrature", f"{expected:.4f}", f"{found:.6f}"))
        text = f"{ratio:.4f} ± {error:.4f} (s.e., {len(samples['mean'])} samples of {SAMPLE})"
        rows.append((f"efficiency of {words}, Monte Carlo", f"{expected:.4f}", text))
    return rows


def _bias_rows(bias: ls.Landscape) -> list[tuple[str, str, str]]:
    rows = []
    for share, median in zip(bias.grid.axes[0].values, bias["median"][:, -1]):
        exact = NormalDist().inv_cdf(1 / (2 * (1 - share)))
        rows.append((f"bias of the median, {share:.0%} outliers at infinity", f"{exact:.4f}", f"{median:.4f}"))
    for where, distance in enumerate(bias.grid.axes[1].values):
        expected = SHARES[1] * distance
        rows.append(
            (f"bias of the mean, 10% outliers at {distance:g}", f"{expected:g}", f"{bias['mean'][1, where]:.6g}")
        )
    huber = ", ".join(f"{x:.4f}" for x in bias["huber"][1])
    rows.append((f"bias of Huber k = 1.345, 10% outliers at {', '.join(f'{x:g}' for x in FAR)}", "bounded", huber))
    return rows


def _descent_rows(landscape: ls.Landscape) -> list[tuple[str, str, str]]:
    rows = []
    for step, constant, shrinking in zip(landscape.grid.axes[0].values, landscape["constant"], landscape["shrinking"]):
        gap = float(np.abs(constant[-1] - constant[-2]))
        rows.append((f"absolute error, step {step:g}: last two points are apart by", f"{step:g}", f"{gap:.12g}"))
        last = f"{abs(shrinking[-1]):.4f}"
        rows.append((f"... and with steps {step:g} / t: miss after {DESCENT}", f"<= {step / DESCENT:.4f}", last))
    return rows


# ------------------------------------------------------------------------------------------------------------ figures


def plot(result: Mapping[str, ls.Landscape]) -> dict[str, Any]:
    """The laws; the same misses through each aggregate; the two planes."""
    return {
        "laws": _draw_laws(result),
        "aggregates": _draw_aggregates(result["constants"], result["descent"]),
        "regression": planes.draw_regression(result["regression"]),
        "classes": planes.draw_classes(result["classes"]),
    }


def _draw_laws(result: Mapping[str, ls.Landscape]) -> Any:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(7.4, 5.8))
    miss = np.linspace(-4, 4, 401)
    shapes = {
        "squared": miss**2,
        "absolute": np.abs(miss),
        "Huber, k = 1.345": np.where(np.abs(miss) < 1.345, miss**2 / 2, 1.345 * np.abs(miss) - 1.345**2 / 2),
        "pinball, τ = 0.1": np.where(miss < 0, -0.1 * miss, 0.9 * miss),
    }
    for name, values in shapes.items():
        axes[0, 0].plot(miss, values, label=name)
        axes[0, 1].plot(miss[:-1] + 0.01, np.diff(values) / np.diff(miss), label=name)
    axes[0, 0].set(ylim=(0, 5), xlabel="prediction − target", ylabel="loss of one example")
    axes[0, 1].set(ylim=(-3, 3), xlabel="prediction − target", ylabel="its slope")
    axes[0, 0].set_title("(a) hills", loc="left")
    axes[0, 1].set_title("(b) what one example pulls with", loc="left")
    _draw_efficiency(axes[1, 0], result["efficiency"], result["samples"])
    _draw_bias(axes[1, 1], result["bias"])
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
    axes[0, 0].legend(loc="upper center", fontsize=7)
    return figure


def _draw_efficiency(ax: Any, quadrature: ls.Landscape, samples: ls.Landscape) -> None:
    ax.plot(quadrature.grid.axes[0].values, quadrature["efficiency"], color="black", label="quadrature")
    found = [monte_carlo(samples, "huber", i) for i in range(len(HUBERS))]
    points = [(0.0, *monte_carlo(samples, "median")), *((k, *pair) for k, pair in zip(HUBERS, found))]
    x, y, error = np.array(points).T
    look: dict[str, Any] = {"fmt": "o", "markersize": 4, "capsize": 3, "linewidth": 1}
    ax.errorbar(x, y, yerr=2 * error, color="#d55e00", label="Monte Carlo, ± 2 s.e.", **look)
    ax.plot(0, 2 / np.pi, "D", color="white", markeredgecolor="black", markersize=6, zorder=1, label="median: 2 / π")
    ax.set(xlabel="Huber's k (standard deviations)", ylabel="efficiency on Gaussian data", ylim=(0.55, 1.03))
    ax.set_title("(c) the price without outliers", loc="left")
    ax.legend(loc="lower right")


def _draw_bias(ax: Any, bias: ls.Landscape) -> None:
    share, distance = (axis.values for axis in bias.grid.axes)
    fine = np.linspace(0, 0.45, 200)
    exact = [NormalDist().inv_cdf(1 / (2 * (1 - e))) for e in fine]
    ax.plot(fine, exact, color="black", label=r"median: $\Phi^{-1}(1/(2(1-e)))$")
    ax.plot(share, bias["median"][:, -1], "o", color="#d55e00", label="median found")
    ax.plot(share, bias["huber"][:, -1], "s", color="#009e73", markersize=4, label="Huber, k = 1.345")
    ax.plot(share, bias["mean"][:, 0], "^--", color="#0072b2", markersize=4, label=f"mean, outliers at {distance[0]:g}")
    ax.set(xlabel="share e of outliers", ylabel="bias (standard deviations)", ylim=(0, 4.3), xlim=(0, 0.46))
    ax.set_title("(d) the price with outliers at infinity", loc="left")
    ax.legend(loc="upper left")


def _draw_aggregates(constants: ls.Landscape, path: ls.Landscape) -> Any:
    """The same misses through each aggregate, as shares of their range, and descent on an absolute error."""
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(7.4, 3.4))
    x = constants.grid.axes[0].values
    words = {
        "mean_squared": "mean squared",
        "mean_absolute": "mean (and sum) absolute",
        "median_absolute": "median absolute",
        "max_absolute": "largest",
        "mean_pinball": f"mean pinball, τ = {TAUS[0]:g}",
    }
    for name, text in words.items():
        y = (constants[name] - constants[name].min()) / np.ptp(constants[name])
        (line,) = left.plot(x, y, label=text)
        left.plot(x[np.argmin(y)], 0, "v", color=line.get_color(), markersize=5, clip_on=False, zorder=5)
    y = constants.meta["targets"]
    left.plot(y, np.full(len(y), -0.055), "|", color="0.4", markersize=5, markeredgewidth=0.4)
    left.set(
        xlabel="one prediction for all (progression of diabetes; ticks: targets)",
        ylabel="loss, share of its range",
        ylim=(-0.1, 1),
    )
    left.set_title("(a) the same misses, aggregated", loc="left")
    left.legend(loc="upper center", fontsize=7)
    steps = np.arange(1, path["constant"].shape[1] + 1)
    right.plot(steps, path["constant"][1], ".-", linewidth=0.7, markersize=3, label="steps of 0.7")
    right.plot(steps, path["shrinking"][1], ".-", linewidth=0.7, markersize=3, label="steps of 0.7 / t")
    right.axhline(0, color="0.6", linewidth=0.6)
    right.set(xlabel="steps of descent on one absolute error", ylabel="prediction − target", ylim=(-0.3, 0.75))
    right.set_title("(b) a slope that never shrinks", loc="left")
    right.legend(loc="upper center", ncols=2)
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    main("loss_functions", Config, SMOKE, run, plot, findings, takes_problem=False)
