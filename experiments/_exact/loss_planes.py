"""The two planes of `loss_functions.py`: a line through real data, and a logistic curve, with and without outliers."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from _lab import Lab, UsageError
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

import landscape as ls
from landscape import analysis, losses, plotting
from landscape.plotting import thin_labels

LOSSES: dict[str, Any] = {
    "squared": losses.squared_error,
    "absolute": losses.absolute_error,
    "huber": losses.huber(0.7),
    "pinball": losses.pinball(0.75),
}
TITLES = {
    "squared": "squared error",
    "absolute": "absolute error",
    "huber": "Huber, k = 0.7",
    "pinball": "pinball, τ = 0.75",
    "cross_entropy": "cross-entropy",
    "zero_one": "0-1 (error rate)",
}
PARTS = ("clean", "outliers", "test")
Split = dict[str, Any]


class Data(NamedTuple):
    """Training data without and with outliers, and test data without: `{"x": (n,), "y": (n,)}` each."""

    train: Split
    spoilt: Split
    test: Split


def load(name: str) -> Any:
    """A data set of scikit-learn; those used here come with it."""
    try:
        from sklearn import datasets
    except ImportError as error:
        raise UsageError("the data come with scikit-learn: pip install 'loss-atlas[data]'") from error
    return getattr(datasets, name)()


def _divided(x: np.ndarray, y: np.ndarray, seed: int) -> tuple[Split, Split]:
    """Two thirds and one third, the inputs in standard deviations of the first."""
    order = np.random.default_rng(seed).permutation(len(y))
    train, test = order[: 2 * len(y) // 3], order[2 * len(y) // 3 :]
    x = (x - x[train].mean()) / x[train].std()
    return {"x": x[train], "y": y[train]}, {"x": x[test], "y": y[test]}


def regression(share: float, distance: float, seed: int) -> Data:
    """Progression of diabetes against body-mass index (Efron et al. 2004), in standard deviations."""
    raw = load("load_diabetes")
    train, test = _divided(raw.data[:, 2], raw.target, seed)
    centre, scale = train["y"].mean(), train["y"].std()
    train, test = ({"x": part["x"], "y": (part["y"] - centre) / scale} for part in (train, test))
    chosen = np.random.default_rng([seed, 1]).permutation(len(train["y"]))[: round(share * len(train["y"]))]
    raised = train["y"].copy()
    raised[chosen] += distance
    return Data(*(jax.tree.map(jnp.asarray, part) for part in (train, {**train, "y": raised}, test)))


def classes(share: float, seed: int) -> Data:
    """Malignant (1) or benign (0) against the worst radius of the cells (Wolberg et al. 1995)."""
    raw = load("load_breast_cancer")
    train, test = _divided(raw.data[:, 20], 1 - raw.target, seed)
    chosen = np.argsort(-train["x"])[: round(share * len(train["y"]))]
    called = train["y"].copy()
    called[chosen] = 0
    return Data(*(jax.tree.map(jnp.asarray, part) for part in (train, {**train, "y": called}, test)))


def _predicted(params: jax.Array, x: jax.Array) -> jax.Array:
    return params[0] + params[1] * x


def _logits(params: jax.Array, x: jax.Array) -> jax.Array:
    z = _predicted(params, x)
    return jnp.stack([jnp.zeros_like(z), z], axis=-1)


def _objectives(data: Data, fns: Mapping[str, Any], predict: Callable[..., Any]) -> dict[str, ls.Objective]:
    """`{loss}_{part}` for each loss and each part of the data."""

    def of(loss: Any) -> Callable[..., Any]:
        return lambda params, batch: loss(predict(params, batch["x"]), batch["y"])

    made = {name: of(loss) for name, loss in fns.items()}
    return {f"{name}_{part}": ls.Objective(fn, d) for name, fn in made.items() for part, d in zip(PARTS, data)}


def _sweep(name: str, lab: Lab, objectives: Any, ranges: Any, num: int, about: Callable[[], Mapping[str, Any]]) -> Any:
    """All losses in one pass over intercept and slope."""
    plane = ls.Subspace(jnp.zeros(2), jnp.eye(2))
    axes = tuple(ls.Axis.linspace(axis, low, high, num) for axis, (low, high) in zip(("intercept", "slope"), ranges))
    surface = ls.LossSurface(plane, objectives, ("sem",))
    return lab.sweep(name, surface, ls.Grid(axes), lambda _: about())


def sweep_regression(lab: Lab, data: Data, num: int) -> Any:
    """The plane of lines."""
    objectives = _objectives(data, LOSSES, _predicted)
    return _sweep("regression", lab, objectives, ((-1.0, 1.5), (-0.5, 1.5)), num, lambda: {"exact": exact_lines(data)})


def sweep_classes(lab: Lab, data: Data, num: int) -> Any:
    """The plane of logistic curves."""
    objectives = _objectives(data, {"cross_entropy": losses.cross_entropy, "zero_one": losses.zero_one}, _logits)
    return _sweep("classes", lab, objectives, ((-6.0, 3.0), (-2.0, 9.0)), num, lambda: {"exact": exact_curves(data)})


def exact_lines(data: Data) -> dict[str, Any]:
    """Intercept and slope at the minimum of each loss, from SciPy: `{loss}_{part}`."""
    return {f"{name}_{part}": fit_line(name, d["x"], d["y"]) for name in LOSSES for part, d in zip(PARTS, data)}


def fit_line(name: str, x: Any, y: Any) -> np.ndarray:
    """The line of least loss: least squares, a linear program, or BFGS."""
    from scipy import optimize

    design, y = np.stack([np.ones(len(x)), np.asarray(x)], axis=1), np.asarray(y)
    if name == "squared":
        return np.linalg.lstsq(design, y, rcond=None)[0]
    if name == "huber":
        k = LOSSES["huber"].k

        def value_and_slope(line: np.ndarray) -> tuple[float, np.ndarray]:
            miss = design @ line - y
            pull = np.clip(miss, -k, k)
            return float(np.sum(pull * (miss - pull / 2))), design.T @ pull

        return optimize.minimize(value_and_slope, np.zeros(2), jac=True, method="BFGS", options={"gtol": 1e-9}).x
    tau, n = (LOSSES["pinball"].tau if name == "pinball" else 0.5), len(y)
    # y = line + over - under, both at least 0 (Koenker & Bassett 1978)
    cost = np.concatenate([np.zeros(2), np.full(n, tau), np.full(n, 1 - tau)])
    equal = np.hstack([design, np.eye(n), -np.eye(n)])
    bounds = [(None, None)] * 2 + [(0, None)] * (2 * n)
    return optimize.linprog(cost, A_eq=equal, b_eq=y, bounds=bounds, method="highs").x[:2]


def exact_curves(data: Data) -> dict[str, Any]:
    """Intercept and slope of least cross-entropy from SciPy, and the least error rate of any threshold."""
    found = {}
    for part, d in zip(PARTS, data):
        x, y = np.asarray(d["x"]), np.asarray(d["y"])
        found[f"cross_entropy_{part}"] = _logistic(x, y)
        found[f"zero_one_{part}"] = least_error(x, y)
    return found


def _logistic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    from scipy import optimize, special

    def value_and_slope(line: np.ndarray) -> tuple[float, np.ndarray]:
        z = line[0] + line[1] * x
        pull = special.expit(z) - y
        return float(np.sum(np.logaddexp(0, z) - y * z)), np.array([pull.sum(), pull @ x])

    return optimize.minimize(value_and_slope, np.zeros(2), jac=True, method="BFGS", options={"gtol": 1e-9}).x


def least_error(x: np.ndarray, y: np.ndarray) -> float:
    """The least error rate of a threshold on x, in either direction; brute force over all cuts."""
    order = np.argsort(x, kind="stable")
    x, y = x[order], y[order]
    cuts = np.flatnonzero(np.concatenate([[True], np.diff(x) > 0, [True]]))  # between unequal neighbours, and outside
    below = np.concatenate([[0], np.cumsum(y)])[cuts]  # of class 1 below the cut
    wrong = below + (len(y) - cuts) - (y.sum() - below)
    return float(min(wrong.min(), (len(y) - wrong).min()) / len(y))


# ----------------------------------------------------------------------------------------------------------- findings


def minimum(landscape: ls.Landscape, name: str) -> np.ndarray:
    """Intercept and slope of the least loss on the grid."""
    return landscape.coords(landscape.argmin(f"{name}_loss"))


def _text(point: Any) -> str:
    return f"({point[0]:.3f}, {point[1]:.3f})"


def regression_rows(landscape: ls.Landscape) -> list[tuple[str, str, str]]:
    """Where the minima are, how far outliers move them, and what that costs on the test data."""
    exact, rows = landscape.meta["exact"], []
    steps = [float(np.diff(axis.values)[0]) for axis in landscape.grid.axes]
    rows.append(("regression: steps of the grid in intercept and slope", "", _text(steps)))
    for name in LOSSES:
        for part, words in zip(PARTS[:2], ("no outliers", "with outliers")):
            found = minimum(landscape, f"{name}_{part}")
            what = f"{TITLES[name]}, {words}: minimum (intercept, slope)"
            rows.append((what, f"{_text(exact[f'{name}_{part}'])} (SciPy)", _text(found)))
        moved = np.linalg.norm(np.subtract(exact[f"{name}_outliers"], exact[f"{name}_clean"]))
        offset = analysis.minimum_offset(landscape, train=f"{name}_clean_loss", test=f"{name}_outliers_loss")
        found = f"{offset.distance:.3f} (half a cell {offset.resolution:.3f})"
        rows.append((f"{TITLES[name]}: outliers move the minimum by", f"{moved:.3f} (SciPy)", found))
        rows.append((f"{TITLES[name]}: test loss at the train minimum, without; with", "", _price(landscape, name)))
    return rows


def _price(landscape: ls.Landscape, name: str) -> str:
    """The test loss at the minimum of the training loss without and with outliers, and what it is above its least."""
    test, error = landscape[f"{name}_test_loss"], landscape[f"{name}_test_loss_sem"]
    found = []
    for part in PARTS[:2]:
        at = landscape.argmin(f"{name}_{part}_loss")
        found.append(f"{test[at]:.3f} ± {error[at]:.3f} ({test[at] / test.min() - 1:+.1%})")
    return "; ".join(found)


def class_rows(landscape: ls.Landscape) -> list[tuple[str, str, str]]:
    """Where cross-entropy and error rate are least, and the threshold that each stands for."""
    exact, rows = landscape.meta["exact"], []
    for part, words in zip(PARTS[:2], ("clean labels", "with outliers")):
        found = minimum(landscape, f"cross_entropy_{part}")
        line = exact[f"cross_entropy_{part}"]
        rows.append((f"cross-entropy, {words}: minimum (intercept, slope)", f"{_text(line)} (SciPy)", _text(found)))
        at = landscape.argmin(f"cross_entropy_{part}_loss")
        text = f"{-line[0] / line[1]:.3f}"
        rows.append((f"cross-entropy, {words}: threshold", f"{text} (SciPy)", f"{-found[0] / found[1]:.3f}"))
        rows.append(("... and the test error there", "", f"{landscape['zero_one_test_loss'][at]:.3f}"))
        least = landscape[f"zero_one_{part}_loss"]
        best = least == least.min()
        test = landscape["zero_one_test_loss"][best]
        rows.append(
            (
                f"0-1, {words}: least error rate",
                f"{exact[f'zero_one_{part}']:.4f} (all thresholds)",
                f"{least.min():.4f}",
            )
        )
        rows.append(
            (
                "... and the test error where it is least",
                "",
                f"{test.min():.3f} ... {test.max():.3f} ({best.sum()} points)",
            )
        )
    return rows


# ------------------------------------------------------------------------------------------------------------ figures


MARKS = {
    "clean": ("o", "least without outliers"),
    "outliers": ("X", "least with outliers"),
    "test": ("*", "least on test"),
}


def _mark(ax: Any, landscape: ls.Landscape, name: str) -> None:
    """The three minima of a loss, and the way that outliers lead."""
    ends = [minimum(landscape, f"{name}_{part}") for part in PARTS[:2]]
    arrow = {"arrowstyle": "->", "color": "white", "linewidth": 1.0, "shrinkA": 3, "shrinkB": 3}
    ax.annotate("", ends[1], ends[0], arrowprops=arrow)
    for part, (marker, text) in MARKS.items():
        look = {"color": "white", "markeredgecolor": "black", "markeredgewidth": 0.6}
        point = minimum(landscape, f"{name}_{part}")
        size = 9 if marker == "*" else 6
        ax.plot(*point, marker, linestyle="none", label=text, zorder=6, markersize=size, **look)


def _shade_least(ax: Any, landscape: ls.Landscape, name: str) -> None:
    """All cells where an error rate is least: many are, and any one of them would be arbitrary."""
    cells = np.ma.masked_where(~least(landscape, name), np.ones(landscape.grid.shape))
    x, y = (axis.values for axis in landscape.grid.axes)
    ax.pcolormesh(x, y, cells.T, cmap=ListedColormap(["white"]), rasterized=True)


def least(landscape: ls.Landscape, name: str) -> np.ndarray:
    """Where on the grid a loss is least, of the shape of the grid."""
    values = landscape[f"{name}_loss"]
    return values == np.min(values)


def _panels(landscape: ls.Landscape, names: Any, parts: Any, titles: Any, size: tuple[float, float]) -> Any:
    """A column for each loss, a row for each part, one scale in a column."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(parts), len(names), figsize=size, squeeze=False, layout="compressed")
    for column, name in enumerate(names):
        values = np.concatenate([landscape[f"{name}_{part}_loss"].ravel() for part in parts])
        values = values[np.isfinite(values)]
        limits: dict[str, Any] = {"vmin": float(values.min()), "vmax": float(values.max())}
        for row, part in enumerate(parts):
            ax = axes[row, column]
            scale = "linear" if name == "zero_one" else "log"
            plotting.heatmap(
                landscape, f"{name}_{part}_loss", ax=ax, minimum=False, scale=scale, label=titles[part], aspect="auto",
                contours=False if name == "zero_one" else 6, **limits,
            )  # fmt: skip
            if name == "zero_one":
                _shade_least(ax, landscape, f"{name}_{part}")
            else:
                _mark(ax, landscape, name)
            if not row:
                ax.set_title(TITLES[name])
            ax.set(xlabel="intercept" if row == len(parts) - 1 else "", ylabel="slope" if not column else "")
    handles, texts = axes[0, 0].get_legend_handles_labels()
    if "zero_one" in names:
        handles.append(Patch(facecolor="white", edgecolor="black", linewidth=0.6))
        texts.append("0-1: all that are least")
    figure.legend(handles, texts, loc="outside lower center", ncols=len(names))
    figure.draw_without_rendering()  # where the numbers of contours are depends on the layout
    for ax in axes.flat:
        thin_labels(ax)  # some were written before the marks that they would cover
    return figure


def draw_regression(landscape: ls.Landscape) -> Any:
    """Training loss with outliers above, test loss below, for each loss."""
    titles = {"clean": "train, no outliers", "outliers": "train, outliers", "test": "test"}
    return _panels(landscape, list(LOSSES), PARTS, titles, (10.4, 7.2))


def draw_classes(landscape: ls.Landscape) -> Any:
    """Cross-entropy and error rate, without and with outliers, and on the test."""
    titles = {"clean": "train, clean", "outliers": "train, outliers", "test": "test"}
    return _panels(landscape, ["cross_entropy", "zero_one"], PARTS, titles, (6.2, 7.6))
