"""Doodle 3, from many errors to one: the same misses through mean, sum, median and max are different landscapes.

The parameters are a shift of all guesses of doodle 1, by x and y pixels; the error of a guess is its distance from the
truth after the shift.

Law: along a line, the mean squared miss is least at the mean, the mean absolute one at the median, the pinball loss of
tau at the tau-quantile, the largest at the midrange. To a step of the grid, 0.0012 pixels: next to the minimum of a
convex function lies the lowest point of any grid.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.patches import Rectangle

import landscape as ls
from _doodle.digits import guesses, halves, least_squares
from _doodle.pen import PALE, bare, caption, finished, note, sheet, star
from landscape import losses, plotting
from landscape.plotting import ACCENT, plain

TITLE = "One score from a pile of misses: how you add decides where you end"
SAYS = "A bucket of misses, one score: mean, median and max disagree."
READS = "one cube for each of 359 misses"
SIDE = 0.6  # pixels: half the side of the map of shifts
LINE = 2001  # points of the line, over twice the side
TAU = 0.9
HOWS = ("mean", "sum", "median", "max")
LAWS = {"squared": "mean", "absolute": "median", "pinball": f"{TAU:g}-quantile", "largest": "midrange"}
NAMES = {"squared": "mean squared", "absolute": "mean absolute", "pinball": f"pinball {TAU:g}", "largest": "largest"}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Shift:
    """A shift (x, y) of all guesses -> their distances from the truth as one number, in four ways.

    Attributes:
        miss: `(n, 2)`, pixels.
    """

    miss: Any

    def __call__(self, coords: Any) -> dict[str, Any]:
        """All aggregates at one shift."""
        distance = jnp.linalg.norm(jnp.asarray(self.miss) + coords, axis=1)
        return {how: losses.aggregate(distance, how) for how in HOWS}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Constant:
    """One guess for all targets -> four losses of it.

    Attributes:
        targets: `(n,)`, pixels.
    """

    targets: Any

    def __call__(self, coords: Any) -> dict[str, Any]:
        """All losses of one guess."""
        targets = jnp.asarray(self.targets)
        guess = jnp.broadcast_to(coords[0], targets.shape)
        means = {"squared": losses.squared_error, "absolute": losses.absolute_error, "pinball": losses.pinball(TAU)}
        values = {name: losses.aggregate(loss(guess, targets)) for name, loss in means.items()}
        return {**values, "largest": losses.aggregate(losses.absolute_error(guess, targets), "max")}


def run(config: Any, lab: Any) -> dict[str, Any]:
    """The map of shifts, and a line of single guesses for the first coordinate of the misses."""
    with jax.enable_x64(True):
        inputs, truth, _ = halves()["train"]
        told = guesses(lab, "guesses_test", least_squares(inputs, truth), "test")
        if told is None:
            return {"guesses_test": told}
        axes = [
            ls.Axis.linspace(name, -SIDE, SIDE, config.resolution, f"shift all guesses {to} (px)")
            for name, to in (("x", "sideways"), ("y", "down"))
        ]
        shift = lab.at_once(64).sweep("shift", Shift(told["miss"]), ls.Grid(tuple(axes)))
        line = ls.Grid((ls.Axis.linspace("guess", -2 * SIDE, 2 * SIDE, LINE, "one guess for all (px)"),))
        constant = lab.at_once(64).sweep("constant", Constant(told["miss"][:, 0]), line)
    return {"guesses_test": told, "shift": shift, "constant": constant}


def expected(targets: np.ndarray) -> dict[str, float]:
    """Where each loss is least, by its law."""
    # any point between two order statistics is least; the inverted distribution function is one of them
    quantile = np.quantile(targets, TAU, method="inverted_cdf")
    midrange = (targets.min() + targets.max()) / 2
    return {"squared": targets.mean(), "absolute": np.median(targets), "pinball": quantile, "largest": midrange}


def least(constant: Any) -> dict[str, float]:
    """Where each loss is least on the line."""
    return {name: float(constant.coords(constant.argmin(name))[0]) for name in LAWS}


def findings(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Rows of `(what, expected, found)`."""
    line, targets = result["constant"], result["guesses_test"]["miss"][:, 0]
    step = np.diff(line.grid.axes[0].values)[0]
    laws, found = expected(targets), least(line)
    rows = [
        (f"{NAMES[name]} is least at the {law}, px", f"{laws[name]:+.4f} (to {step:.4f})", f"{found[name]:+.4f}")
        for name, law in LAWS.items()
    ]
    shift = result["shift"]
    ratio = shift["sum"] / shift["mean"]
    return [
        *rows,
        ("sum / mean over the map", f"{len(targets)} everywhere", f"{ratio.min():.6g} ... {ratio.max():.6g}"),
    ]


def draw(result: Mapping[str, Any]) -> dict[str, Any]:
    """The pile of misses, four landscapes of them, and the law."""
    figure, axes = sheet([["pile", "mean", "sum"], ["line", "median", "max"]], (11.5, 7.6), f"3   {TITLE}")
    key_panel(axes["pile"], result)
    length = np.linalg.norm(result["guesses_test"]["miss"], axis=1)
    caption(axes["pile"], f"A bucket of {len(length)} misses, one cube each; the sum is {length.sum():.0f} px.")
    _draw_line(axes["line"], result)
    says = {
        "mean": "The mean: every miss pulls alike.",
        "sum": "The sum: the same shape, n times as high.",
        "median": "The median: blind to half the misses, rough.",
        "max": "The max: only the worst miss counts.",
    }
    for how in HOWS:
        _draw_map(axes[how], result["shift"], how)
        caption(axes[how], says[how])
    return {"doodle_3_buckets": finished(figure)}


def key_panel(ax: Any, result: Mapping[str, Any]) -> None:
    """The bucket."""
    _draw_pile(ax, result["guesses_test"])


def _draw_map(ax: Any, shift: Any, how: str) -> None:
    plotting.heatmap(shift, how, ax=ax, colorbar=False, minimum=False, contours=7, scale="linear", aspect="equal")
    x, y = shift.coords(shift.argmin(how))
    star(ax, x, y)
    ax.invert_yaxis()


def _draw_pile(ax: Any, told: Any, cube: float = 0.05) -> None:
    """Every miss as a cube, stacked by its length, in a bucket."""
    length = np.linalg.norm(told["miss"], axis=1)
    column = (length / cube).astype(int)
    height = np.zeros(column.max() + 1, int)
    for place in column:
        block = Rectangle((place * cube, height[place]), cube, 1, facecolor=PALE, edgecolor="white", linewidth=0.5)
        ax.add_patch(block)
        plain(block)
        height[place] += 1
    low, high = -0.02, (column.max() + 1) * cube + 0.02
    top = 1.05 * height.max()
    ax.plot([low, low, high, high], [top, 0, 0, top], color="black", linewidth=2.4)
    ax.set(xlim=(low - 0.02, high + 0.02), ylim=(-0.02 * top, 1.12 * top), xlabel="length of the miss (px)", yticks=[])
    ax.spines[:].set_visible(False)
    marks = {"mean": length.mean(), "median": np.median(length), "max": length.max()}
    for (name, at), level in zip(marks.items(), (0.97, 0.8, 0.45)):
        color = "black" if name == "median" else ACCENT
        note(
            ax,
            f"{name} {at:.2f}",
            (at, 0),
            (max(at, 0.62) + (0.18 if name != "max" else -0.14), level * top),
            color=color,
            fontweight="bold",
        )


def _draw_line(ax: Any, result: Mapping[str, Any]) -> None:
    """Four losses of one guess for all, each from 0 to 1, and where the law puts their minima."""
    line, targets = result["constant"], result["guesses_test"]["miss"][:, 0]
    x, laws = line.grid.axes[0].values, expected(targets)
    styles = {"squared": "-", "absolute": "--", "pinball": ":", "largest": "-"}
    for i, (name, law) in enumerate(LAWS.items()):
        color = ACCENT if name == "largest" else "black"
        curve = (line[name] - line[name].min()) / np.ptp(line[name])
        ax.plot(x, curve + 0.35 * i, color=color, linestyle=styles[name])
        star(ax, laws[name], 0.35 * i, markersize=11)
        ax.text(x[0], curve[0] + 0.35 * i, f"{NAMES[name]}:\n{law} ", ha="right", va="center", color=color, fontsize=8)
    bare(ax)
    ax.spines["bottom"].set_visible(True)
    ax.set_xticks([-1, -0.5, 0, 0.5, 1])
    ax.set(xlabel="one guess for all (px)", xlim=(-2.1 * SIDE - 1.0, 2.05 * SIDE))
    caption(ax, "Along a line: each loss is least (star) where its law says.")
