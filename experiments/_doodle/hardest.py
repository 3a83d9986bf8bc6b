"""Doodle 2, one error for each example: a tape measure for every guess, and the guesses that it finds worst.

Laws: the losses of the examples sum to n times the mean that training sees, to 1e-5 in single precision; moving one
target by z moves the mean of n targets by exactly z / n, and the median by at most one order statistic.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import landscape as ls
from _doodle.digits import answers, halves
from _doodle.pen import caption, finished, note, open_frame, picture, sheet
from landscape import losses
from landscape.plotting import ACCENT, plain

TITLE = "Every example has a number of its own"
SAYS = "One guess, one miss, one number: the hardest digits stand out."
READS = "the losses of 359 digits, largest first"
WORST = 6
MOVED = np.linspace(-6.0, 6.0, 49)  # pixels, by which one target is moved
FEW = 9  # targets of the third panel


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Moved:
    """Distance z -> the constants that fit targets best once the largest of them has been moved by z.

    Attributes:
        targets: `(n,)`.
    """

    targets: Any

    def __call__(self, coords: Any) -> dict[str, Any]:
        """The targets, and the best constants under the squared and the absolute error."""
        targets = jnp.asarray(self.targets)
        moved = targets.at[jnp.argmax(targets)].add(coords[0])
        fits = {"mean": losses.squared_error, "median": losses.absolute_error}
        return {"targets": moved, **{name: losses.best_constant(loss, moved) for name, loss in fits.items()}}


def run(config: Any, lab: Any) -> dict[str, Any]:
    """The classifier's answers, and where mean and median go as one of a few targets is moved."""
    return {"moved": moving(lab), "answers": answers(config, lab)}


def moving(lab: Any) -> Any:
    """Mean and median of a few targets against the distance by which one is moved."""
    with jax.enable_x64(True):
        grid = ls.Grid((ls.Axis("z", MOVED, "one target moved by z (px)"),))
        return lab.at_once(len(MOVED)).sweep("moved", Moved(halves()["test"][1][:FEW, 0]), grid)


def findings(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Rows of `(what, expected, found)`."""
    told, moved = result["answers"], result["moved"]
    loss, mean = told["loss"].astype(np.float64), told.meta["objective"]["loss"]
    ratio = (moved["mean"] - _still(moved)["mean"])[MOVED != 0] / MOVED[MOVED != 0]
    worst = np.argsort(-loss)[:WORST]
    share = loss[worst].sum() / loss.sum()
    return [
        ("losses of all test digits, their sum", f"{mean * len(loss):.5f} (n times the mean)", f"{loss.sum():.5f}"),
        (f"share of the {WORST} hardest of {len(loss)}", "", f"{share:.1%}"),
        (
            "mean moved / z, one target moved by z",
            f"1/{FEW} = {1 / FEW:.6f}",
            f"{ratio.min():.6f} ... {ratio.max():.6f}",
        ),
        ("median moved, order statistics", "at most 1", f"at most {ranks(moved)}"),
    ]


def _still(moved: Any) -> dict[str, Any]:
    """Everything at z = 0."""
    here = moved.grid.index(0.0)
    return {name: moved[name][here] for name in moved}


def ranks(moved: Any) -> int:
    """By how many order statistics of the unmoved targets the median moves at most."""
    still = np.sort(_still(moved)["targets"])
    middle = len(still) // 2
    low, high = moved["median"].min(), moved["median"].max()
    tight = 1e-9 * np.ptp(still)
    return max(
        int(np.sum((still >= low - tight) & (still < still[middle] - tight))),
        int(np.sum((still <= high + tight) & (still > still[middle] + tight))),
    )


def draw(result: Mapping[str, Any]) -> dict[str, Any]:
    """The losses in order, the hardest digits, and what one of them does to the mean and the median."""
    tiles = [f"digit {i}" for i in range(WORST)]
    mosaic = [["losses", "losses", *tiles[:3], "moved", "moved"], ["losses", "losses", *tiles[3:], "moved", "moved"]]
    figure, axes = sheet(mosaic, (12.5, 4.4), f"2   {TITLE}")
    key_panel(axes["losses"], result)
    told = result["answers"]
    for tile, number in zip(tiles, np.argsort(-told["loss"])):
        _draw_digit(axes[tile], told, number)
    _draw_moved(axes["moved"], result["moved"])
    return {"doodle_2_hardest": finished(figure)}


def key_panel(ax: Any, result: Mapping[str, Any]) -> None:
    """All losses, from the largest to the smallest."""
    loss = np.sort(result["answers"]["loss"])[::-1]
    place = np.arange(1, len(loss) + 1)
    plain(ax.vlines(place, 0, loss, color="black", linewidth=1.0))
    plain(ax.vlines(place[:WORST], 0, loss[:WORST], color=ACCENT, linewidth=2.4))
    ax.set(
        xlim=(0.7, 1.2 * len(loss)),
        ylim=(0, 1.12 * loss[0]),
        xscale="log",
        xlabel="test digits, hardest first",
        ylabel="loss of one digit (nats)",
    )
    ax.set_xticks([1, 10, 100], ["1", "10", "100"])
    ax.minorticks_off()
    open_frame(ax)
    share = loss[:WORST].sum() / loss.sum()
    note(
        ax,
        f"{WORST} digits hold\n{share:.0%} of the loss",
        (WORST, 0.6 * loss[WORST - 1]),
        (35, 0.72 * loss[0]),
        color=ACCENT,
        fontweight="bold",
    )
    caption(ax, f"{len(loss)} digits, {len(loss)} numbers; their sum is the loss.")


def _draw_digit(ax: Any, told: Any, number: int) -> None:
    picture(ax, told["image"][number])
    ax.spines[:].set_linewidth(1.0)
    guess, loss = int(np.argmax(told["chances"][number])), told["loss"][number]
    label = int(told["label"][number])
    verdict = f"said {guess}" if guess != label else "right, unsure"
    ax.set_title(f"a {label}, {verdict}", fontsize=8.5, color=ACCENT if guess != label else "black", pad=4)
    ax.set_xlabel(f"loss {loss:.2f}", fontsize=8.5)


def _draw_moved(ax: Any, moved: Any) -> None:
    """The best constants against the distance of one target: a line and a step."""
    z = moved.grid.axes[0].values
    ax.plot(z, moved["mean"], color=ACCENT)
    ax.plot(z, moved["median"], color="black")
    still = np.sort(_still(moved)["targets"])
    plain(ax.scatter(np.full(len(still), z[0] - 0.8), still, s=14, color="black"))
    ax.set(xlabel=moved.grid.axes[0].text, ylabel="best single guess (px)", xlim=(z[0] - 1.3, z[-1] + 0.3))
    open_frame(ax)
    ax.text(z[-2], moved["mean"][-1], "mean: z / n ", color=ACCENT, ha="right", va="bottom", fontweight="bold")
    place: dict[str, Any] = {"xytext": (0, -6), "textcoords": "offset points", "ha": "right", "va": "top"}
    ax.annotate("median: one step, no more", (z[-1], moved["median"][-1]), fontweight="bold", **place)
    caption(ax, f"Drag one of {len(still)} targets (dots) away: the mean follows, the median hardly.")
