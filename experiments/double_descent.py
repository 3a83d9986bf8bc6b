r"""Why does a model that is too large for its data do better than one that just fits them?

The test error falls, rises to a peak where the model is just able to fit every example, and falls again (Belkin et al.
2018, arXiv 1812.11118). Two examples:

**Least squares**, 100 examples, |beta|^2 = 5, noise 1, the solution of smallest norm on 10 to 1000 features. The mean
excess risk is known exactly for any number of features (`_exact.ridgeless`; Hastie et al., arXiv 1903.08560): .253,
1.020, 5.167, 3.510, 4.084, 4.611 at 20, 50, 125, 200, 400, 1000. Expected: within 3 standard errors at every one.

**ReLU networks** 40-h-h-10 on MNIST-1D (Greydanus & Kobak 2024, arXiv 2011.14439; their notebook
`deep-double-descent`): 4,000 examples to learn from, 12,000 to test, labels as they are and with 15 % drawn anew, 500
epochs of SGD with rate .01, momentum .9, batches of 100 that are shuffled anew each epoch, PyTorch's initialisation,
no early stopping; the labels of the test are clean. Theirs is one run of each; ours are means over seeds, each with
data, start and order of its own. Expected: the test error within 2.5 points of theirs at every width that is listed
below; the test loss peaks where the training error first reaches about 0 (theirs at 47 units, 4.42, without noise, and
61, 5.79, with); all in less than three times their time for one noisy sweep, 12 min 43 s.

Seen with the defaults: least squares within 1.3 standard errors at all 15 numbers of features. Networks: 13 of the 14
test errors within 2.5 points; the other, 9 units and clean labels, is 53.5 against 49.3. One run of that size differs
from another by 3 points (--widths 9 --seeds 10: means 50.6 +- 1.0 and, with noise, 52.5 +- .8, standard errors). The
test loss is highest at 36 units (4.40; 4.2 at 47) and, with noise, at 47 (5.75; 5.43 at 61), one width before the mean
training error is below 1 %: there the last few examples are being fitted.

Widths are trained side by side, padded to a few common ones (`_networks.wide_nets`). In single precision, the least
squares in double. This experiment has data and networks of its own and takes no --problem.

Cost: about seven CPU minutes for the defaults.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from _exact.ridgeless import Ridgeless, excess_risk
from _lab import Lab, UsageError, main
from _networks.wide_nets import Nets, draw_data, padded_size, records

import landscape as ls

EXACT = (20, 50, 125, 200, 400, 1000)  # features whose risk is in the table
TOLERANCE = 2.5  # points of test error
FITTED = 0.01  # a training error below which the examples count as fitted
PUBLISHED_SECONDS = 12 * 60 + 43  # the noisy sweep, one seed
WIDTHS = (2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 47, 61, 80, 104, 135, 177, 230, 300)
NOISE = (0.0, 0.15)
# Greydanus & Kobak, output of their notebook: test error (%), test loss and training error at each width, by noise
PUBLISHED_ERROR = {
    0.0: (
        *(68.53, 66.83, 58.27, 61.37, 54.20, 49.33, 50.08, 44.55, 42.63, 41.02, 41.66, 41.01, 41.24, 39.59, 38.61),
        *(38.58, 38.09, 37.10, 37.25),
    ),
    0.15: (
        *(69.59, 67.50, 62.55, 57.45, 54.80, 48.97, 50.28, 47.24, 50.84, 50.69, 52.80, 54.05, 54.02, 52.08, 50.23),
        *(48.39, 47.88, 46.54, 45.47),
    ),
}
PUBLISHED_LOSS = {
    0.0: (
        *(1.676, 1.664, 1.448, 1.537, 1.375, 1.308, 1.357, 1.392, 1.604, 2.306, 4.161, 4.415, 3.775, 3.404, 3.070),
        *(2.835, 2.716, 2.415, 2.338),
    ),
    0.15: (
        *(1.757, 1.714, 1.654, 1.466, 1.419, 1.344, 1.371, 1.318, 1.528, 1.664, 2.505, 5.698, 5.786, 4.720, 3.919),
        *(3.494, 3.121, 2.888, 2.629),
    ),
}
PUBLISHED_TRAIN = {  # training error (%); their nets of 61 units and more make none
    0.0: (67.15, 63.88, 54.78, 57.23, 48.03, 41.28, 38.40, 28.80, 19.95, 12.05, 1.35, *[0.0] * 8),
    0.15: (71.68, 68.65, 62.75, 57.95, 54.45, 47.45, 46.47, 39.70, 38.08, 29.55, 19.02, 5.47, *[0.0] * 7),
}
LISTED = {0.0: (9, 16, 47, 300), 0.15: (9, 16, 27, 36, 47, 61, 80, 135, 230, 300)}  # widths to be met
COLORS = {0.0: "#0072b2", 0.15: "#d55e00"}


@dataclass(frozen=True)
class Config:
    """Settings of this experiment."""

    features: tuple[int, ...] = (10, 20, 35, 50, 65, 80, 90, 110, 125, 150, 200, 300, 400, 600, 1000)
    """Numbers of features of the least squares."""
    draws: int = 400
    """Draws of inputs, truth and noise for each of them."""
    widths: tuple[int, ...] = WIDTHS
    """Hidden units of the networks."""
    noise: tuple[float, ...] = NOISE
    """Shares of the labels that are drawn anew."""
    seeds: int = 3
    """Networks of each width and noise; each has data of its own."""
    epochs: int = 500
    """Passes over the training examples."""
    examples: int = 4000
    """Training examples."""
    tests: int = 12_000
    """Test examples."""
    batch_size: int = 100
    """Examples per step."""
    seed: int = 0
    """Seed of everything."""


SMOKE = Config(
    features=(20, 50, 125, 200), draws=80, widths=(4, 12), seeds=2, epochs=6, examples=300, tests=700, batch_size=20
)
NUM_EXAMPLES, SIGNAL, VARIANCE = 100, 5.0, 1.0  # of the least squares
LANES = 20  # its draws at a time


def run(config: Config, lab: Lab) -> dict[str, ls.Landscape]:
    """`ridgeless`, risk by features and draw, and `nets_48` and so on: histories by width, noise and seed."""
    _check(config)
    with jax.enable_x64(True):
        fn = Ridgeless(jax.random.key(config.seed), SIGNAL, VARIANCE, NUM_EXAMPLES, max(config.features))
        grid = ls.Grid.of(features=sorted(config.features), draw=np.arange(config.draws))
        result = {"ridgeless": _together(lab, LANES).sweep("ridgeless", fn, grid)}
    data = draw_data(config.examples, config.tests, config.noise, config.seeds, config.seed)
    for size, widths in _by_size(config.widths):
        key = jax.random.key(config.seed)
        nets = Nets(data, key, config.noise, size, config.epochs, config.batch_size)
        grid = ls.Grid.of(width=widths, noise=config.noise, seed=np.arange(config.seeds))
        about = {"epochs": records(config.epochs), "examples": config.examples}
        result[f"nets_{size}"] = _together(lab, grid.size).sweep(f"nets_{size}", nets, grid, lambda _, a=about: a)
    return {name: landscape for name, landscape in result.items() if landscape is not None}


def _check(config: Config) -> None:
    if config.draws < 2 or min(config.seeds, config.epochs) < 1 or not config.noise:
        raise UsageError(f"needs --draws >= 2, --seeds and --epochs >= 1 and a level of --noise: {config}")
    if not config.features or min(config.features) < 1 or not config.widths or min(config.widths) < 1:
        raise UsageError(f"--features and --widths must be positive, got {config.features} and {config.widths}")
    if any(abs(p - NUM_EXAMPLES) <= 1 for p in config.features):
        raise UsageError(
            f"--features {NUM_EXAMPLES - 1} to {NUM_EXAMPLES + 1} have no finite mean risk; leave them away"
        )
    if config.batch_size < 1 or config.examples % config.batch_size:
        raise UsageError(f"--batch-size must divide --examples {config.examples}, got {config.batch_size}")
    if sorted({*config.noise}) != [*config.noise]:
        raise UsageError(f"--noise must ascend, got {config.noise}")


def _by_size(widths: tuple[int, ...]) -> Iterator[tuple[int, list[int]]]:
    """The widths that are padded to each common one."""
    for size in sorted({padded_size(width) for width in widths}):
        yield size, sorted({width for width in widths if padded_size(width) == size})


def _together(lab: Lab, points: int) -> Lab:
    """So many points at a time on any device: to measure would be to train the networks twice. A plan times one."""
    points = 1 if lab.planning else points
    return lab.at_once(points, points)


# -------------------------------------------------------------------------------------------------------- findings


@dataclass(frozen=True, eq=False)
class Curves:
    """The networks of all sizes together.

    Attributes:
        widths: ascending, `(w,)`.
        noise: levels of label noise, `(l,)`.
        epochs: when they were measured, `(r,)`.
        values: `{train,test}_{loss,error}`, each `(w, l, seeds, r)`; errors in percent.
    """

    widths: np.ndarray
    noise: np.ndarray
    epochs: np.ndarray
    values: dict[str, np.ndarray]

    @classmethod
    def of(cls, result: Mapping[str, ls.Landscape]) -> "Curves":
        """From the landscapes of a run."""
        parts = [landscape for name, landscape in result.items() if name.startswith("nets_")]
        widths = np.concatenate([part.grid.axes[0].values for part in parts]).astype(int)
        order = np.argsort(widths)
        values = {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}
        percent = {name: 100 * value if name.endswith("error") else value for name, value in values.items()}
        return cls(widths[order], parts[0].grid.axes[1].values, np.asarray(parts[0].meta["epochs"]), percent)

    def mean(self, name: str, level: int) -> np.ndarray:
        """At the end, over the seeds, by width."""
        return self.values[name][:, level, :, -1].mean(axis=-1)

    def spread(self, name: str, level: int) -> np.ndarray:
        """Standard deviation of one run at the end; NaN for a single seed."""
        ends = self.values[name][:, level, :, -1]
        return ends.std(axis=-1, ddof=1) if ends.shape[-1] > 1 else np.full(len(ends), np.nan)


def findings(result: Mapping[str, ls.Landscape]) -> list[tuple[str, str, str]]:
    """Rows of `(what, expected, found)`."""
    rows = _ridgeless_rows(result["ridgeless"])
    curves = Curves.of(result)
    for level, noise in enumerate(curves.noise):
        rows += _error_rows(curves, level, round(float(noise), 6))
    rows.append(_agreement_row(curves))
    for level, noise in enumerate(curves.noise):
        rows += _peak_rows(curves, level, round(float(noise), 6))
    seconds = sum(
        call["seconds"] for name, part in result.items() if name != "ridgeless" for call in part.meta["calls"]
    )
    return [*rows, ("networks: seconds in all", f"below {3 * PUBLISHED_SECONDS}", f"{seconds:.0f}")]


def _ridgeless_rows(landscape: ls.Landscape) -> list[tuple[str, str, str]]:
    features, means, errors, exact = risks(landscape)
    rows = [
        (f"least squares, {p} features: excess risk", f"{truth:.3f}", f"{mean:.3f} +- {error:.3f}")
        for p, mean, error, truth in zip(features, means, errors, exact)
        if p in EXACT
    ]
    off = np.abs(means - exact) / errors
    found = f"{np.sum(off <= 3)} of {len(off)}, the farthest {off.max():.1f}"
    return [*rows, ("... within 3 standard errors", f"all {len(off)} numbers of features", found)]


def risks(landscape: ls.Landscape) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features, mean excess risk, its standard error, and the exact mean."""
    features, risk = landscape.grid.axes[0].values.astype(int), landscape["excess_risk"]
    errors = risk.std(axis=1, ddof=1) / np.sqrt(risk.shape[1])
    return features, risk.mean(axis=1), errors, excess_risk(features, NUM_EXAMPLES, SIGNAL, VARIANCE)


def _error_rows(curves: Curves, level: int, noise: float) -> list[tuple[str, str, str]]:
    rows, mean, spread = [], curves.mean("test_error", level), curves.spread("test_error", level)
    for width in LISTED.get(noise, ()):
        if width in curves.widths:
            at = int(np.searchsorted(curves.widths, width))
            found = f"{mean[at]:.2f} (a run +- {spread[at]:.2f})"
            rows.append((f"{_words(noise)}, {width} units: test error %", f"{published(noise, width):.2f}", found))
    return rows


def _words(noise: float) -> str:
    return f"{100 * noise:.0f} % label noise" if noise else "clean labels"


def published(noise: float, width: int) -> float:
    """Their test error, in percent."""
    return PUBLISHED_ERROR[noise][WIDTHS.index(width)]


def _agreement_row(curves: Curves) -> tuple[str, str, str]:
    """How many of the listed widths are met."""
    off = {}
    for level, noise in enumerate(np.round(curves.noise, 6).tolist()):
        mean = dict(zip(curves.widths.tolist(), curves.mean("test_error", level)))
        off |= {(noise, w): mean[w] - published(noise, w) for w in LISTED.get(noise, ()) if w in mean}
    what = f"... within {TOLERANCE} points, {curves.epochs[-1]} epochs"
    if not off:
        return what, "every listed width", "none of them was trained"
    worst = max(off, key=lambda place: abs(off[place]))
    near = sum(abs(difference) <= TOLERANCE for difference in off.values())
    farthest = f"farthest {off[worst]:+.1f} at {worst[1]} units, {_words(worst[0])}"
    return what, f"all {len(off)} listed", f"{near} of {len(off)}; {farthest}"


def _peak_rows(curves: Curves, level: int, noise: float) -> list[tuple[str, str, str]]:
    loss, train = curves.mean("test_loss", level), curves.mean("train_error", level)
    top = int(np.argmax(loss))
    theirs = PUBLISHED_LOSS.get(noise)
    expected = f"{max(theirs):.2f} at {WIDTHS[int(np.argmax(theirs))]}" if theirs else "not published"
    fits = np.flatnonzero(train < 100 * FITTED)
    first = f"{curves.widths[fits[0]]}, {train[fits[0]]:.2f} %" if len(fits) else "at no width"
    return [
        (f"{_words(noise)}: highest test loss, at units", expected, f"{loss[top]:.2f} at {curves.widths[top]}"),
        (f"... training error first below {100 * FITTED:.0f} %, at units", f"the peak, {curves.widths[top]}", first),
        (f"... epoch of the lowest test loss at {curves.widths[top]} units", "early", _turn(curves, level, top)),
    ]


def _turn(curves: Curves, level: int, at: int) -> str:
    """Where the test loss of one width turns up while the training loss goes on falling."""
    test, train = (curves.values[name][at, level].mean(axis=0) for name in ("test_loss", "train_loss"))
    low = int(np.argmin(test))
    return (
        f"{curves.epochs[low]}: test {test[low]:.2f} -> {test[-1]:.2f}, train {train[low]:.2f} -> {train[-1]:.3f}, "
        f"{curves.epochs[-1]} epochs"
    )


# --------------------------------------------------------------------------------------------------------- figures


def plot(result: Mapping[str, ls.Landscape]) -> dict[str, Any]:
    """The two curves, and train and test loss as they part."""
    from matplotlib import pyplot

    curves = Curves.of(result)
    figure, axes = pyplot.subplots(2, 2, figsize=(7.6, 6.0))
    _draw_ridgeless(axes[0, 0], result["ridgeless"])
    _draw_ends(axes[0, 1], curves, "test_error", "test error (%)", PUBLISHED_ERROR)
    _draw_ends(axes[1, 0], curves, "test_loss", "test loss (nats)", PUBLISHED_LOSS)
    _draw_ends(axes[1, 1], curves, "train_error", "training error (%)", PUBLISHED_TRAIN)
    axes[0, 1].legend(loc="best")
    return {"double_descent": figure, "parting": _parting(curves)}


def _draw_ridgeless(ax: Any, landscape: ls.Landscape) -> None:
    features, means, errors, _ = risks(landscape)
    for low, high in ((features.min(), NUM_EXAMPLES - 1.01), (NUM_EXAMPLES + 1.01, features.max())):
        p = np.geomspace(low, high, 400) if low < high else np.array([])
        exact = excess_risk(p, NUM_EXAMPLES, SIGNAL, VARIANCE)
        ax.plot(p, exact, color="0.5", linewidth=1.0, label="exact mean" if low < NUM_EXAMPLES else None)
    ax.errorbar(features, means, 3 * errors, fmt="o", markersize=3, color="black", label="draws, 3 standard errors")
    ax.axvline(NUM_EXAMPLES, color="0.7", linewidth=0.6, linestyle=":")
    ax.axhline(SIGNAL, color="0.7", linewidth=0.6, linestyle="--")
    ax.text(features.min(), 1.1 * SIGNAL, "risk of always answering 0", color="0.4", va="bottom")
    ax.set(yscale="log", xlabel="features", ylabel="excess risk", ylim=(0.08, 40))
    _logarithmic(ax, features.min(), features.max())
    ax.set_title(f"least squares on {NUM_EXAMPLES} examples", loc="left")
    ax.legend(loc="lower right")


def _draw_ends(ax: Any, curves: Curves, name: str, label: str, theirs: Mapping[float, Any]) -> None:
    """Where the runs end, by width: their mean, each of them, and the published run."""
    for level, noise in enumerate(np.round(curves.noise, 6).tolist()):
        color = COLORS.get(noise, f"C{level + 2}")
        ax.plot(
            curves.widths, curves.mean(name, level), color=color, linewidth=1.2, label=f"{_words(noise)}: runs, mean"
        )
        ends = curves.values[name][:, level, :, -1]
        ax.plot(np.repeat(curves.widths, ends.shape[1]), ends.ravel(), ".", color=color, markersize=3, alpha=0.6)
        if noise in theirs:
            ax.plot(WIDTHS, theirs[noise], "s", color=color, markersize=4, fillstyle="none", label="... published run")
    ax.set(xlabel="hidden units", ylabel=label)
    both = [*curves.widths, *(WIDTHS if theirs else ())]
    _logarithmic(ax, min(both), max(both))
    ax.set_title(f"MNIST-1D: {label.split(' (')[0]}", loc="left")


def _logarithmic(ax: Any, low: float, high: float) -> None:
    """A logarithmic axis with plain numbers at 1, 2, 5, 10, ..."""
    from matplotlib import ticker

    ax.set_xscale("log")
    ticks = [digit * 10**power for power in range(5) for digit in (1, 2, 5) if low <= digit * 10**power <= high]
    ax.set_xticks(ticks, map(str, ticks))
    ax.xaxis.set_minor_formatter(ticker.NullFormatter())


def _parting(curves: Curves) -> Any:
    """Train and test loss along the training, at three widths, with the most label noise."""
    from matplotlib import pyplot

    level, count = len(curves.noise) - 1, len(curves.widths)
    peak = int(np.argmax(curves.mean("test_loss", level)))
    chosen = sorted({0 if count < 3 else int(np.searchsorted(curves.widths, 9)) % count, peak, count - 1})
    figure, axes = pyplot.subplots(1, len(chosen), figsize=(7.6, 2.8), sharey=True, squeeze=False)
    for ax, at in zip(axes[0], chosen):
        for name, color in (("test_loss", "#d55e00"), ("train_loss", "#0072b2")):
            for number, curve in enumerate(curves.values[name][at, level]):
                label = name.replace("_", " ").replace("train", "training") if number == 0 else None
                ax.plot(curves.epochs[1:], curve[1:], color=color, linewidth=0.9, alpha=0.8, label=label)
        ax.set(yscale="log", xlabel="epochs")
        _logarithmic(ax, 1, curves.epochs[-1])
        ax.set_title(f"{curves.widths[at]} units", loc="left")
    axes[0, 0].set_ylabel(f"loss (nats), {_words(float(curves.noise[level]))}")
    axes[0, 0].legend(loc="best")
    return figure


if __name__ == "__main__":
    main("double_descent", Config, SMOKE, run, plot, findings, takes_problem=False)
