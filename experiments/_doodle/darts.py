"""Doodle 1, reality and prediction: the guesses of a model as darts around the truth.

Law: what least squares leaves over is orthogonal to every input, X'r = 0; with a constant among the inputs the darts
balance on the bullseye. To rounding, 1e-12 as a cosine.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from matplotlib.patches import Rectangle

from _doodle.digits import answers, guesses, halves, least_squares
from _doodle.pen import bare, board, bullseye, caption, darts, finished, note, picture, sheet
from landscape.plotting import ACCENT, plain

TITLE = "A guess, the truth, and the miss between them"
SAYS = "Loss is how far each guess lands from the truth."
READS = "359 guesses of a real model on new digits"
RINGS = (0.25, 0.5, 0.75, 1.0)  # pixels
SHOWN = 3  # the digit of the first panel


def run(config: Any, lab: Any) -> dict[str, Any]:
    """The guesses of least squares for both parts, and the answers of the classifier."""
    return {**boards(lab), "answers": answers(config, lab)}


def boards(lab: Any) -> dict[str, Any]:
    """The guesses of least squares for both parts."""
    with jax.enable_x64(True):
        inputs, truth, _ = halves()["train"]
        weights = least_squares(inputs, truth)
        return {f"guesses_{part}": guesses(lab, f"guesses_{part}", weights, part) for part in ("train", "test")}


def cosines(result: Mapping[str, Any]) -> np.ndarray:
    """Cosine of the angle between each input that is not 0 everywhere and each coordinate of the misses."""
    train = result["guesses_train"]
    inputs, miss = train["inputs"], train["miss"]
    norms = np.outer(np.linalg.norm(inputs, axis=0), np.linalg.norm(miss, axis=0))
    return (inputs.T @ miss)[norms[:, 0] > 0] / norms[norms[:, 0] > 0]


def confusion(result: Mapping[str, Any]) -> np.ndarray:
    """How many test digits of each class (rows) were taken for each class (columns), `(10, 10)`."""
    told = result["answers"]
    table = np.zeros((10, 10), int)
    np.add.at(table, (told["label"], np.argmax(told["chances"], axis=1)), 1)
    return table


def findings(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Rows of `(what, expected, found)`."""
    miss, other = result["guesses_train"]["miss"], result["guesses_test"]["miss"]
    table, accuracy = confusion(result), result["answers"].meta["objective"]["accuracy"]
    found = np.max(np.abs(cosines(result)))
    rms = [np.sqrt(np.mean(np.sum(m**2, axis=1))) for m in (miss, other)]
    return [
        (
            "misses against inputs, largest |cosine|",
            "0 (below 1e-12)",
            f"{found:.1e} over {len(cosines(result))} inputs",
        ),
        (
            "centre of the darts on training digits, px",
            "0, 0 (below 1e-12)",
            ", ".join(f"{x:.0e}" for x in miss.mean(0)),
        ),
        ("miss on new digits, px (root mean square)", f"near {rms[0]:.3f}, that of training", f"{rms[1]:.3f}"),
        (
            "test digits told rightly, of 359",
            f"{accuracy:.4%} (the library)",
            f"{np.trace(table)} = {np.trace(table) / table.sum():.4%}",
        ),
    ]


def draw(result: Mapping[str, Any]) -> dict[str, Any]:
    """One guess, all guesses, and a classifier's."""
    figure, axes = sheet([["one", "board", "told"]], (11.5, 4.6), f"1   {TITLE}")
    _draw_one(axes["one"], result["guesses_test"])
    key_panel(axes["board"], result)
    caption(
        axes["board"],
        f"All {len(result['guesses_test']['miss'])} guesses on digits it never saw: a board of misses, in pixels.",
    )
    _draw_confusion(axes["told"], confusion(result))
    return {"doodle_1_darts": finished(figure)}


def key_panel(ax: Any, result: Mapping[str, Any]) -> None:
    """The board of the test digits."""
    board(ax, RINGS, "px")
    darts(ax, result["guesses_test"]["miss"])
    bullseye(ax)
    note(ax, "truth", (0.03, -0.03), (0.62, -0.98), color=ACCENT, fontweight="bold")


def _draw_one(ax: Any, guessed: Any) -> None:
    """Upper half seen, lower half hidden, where its ink was guessed and where it is."""
    number = _telling(guessed)
    picture(ax, guessed["image"][number])
    bare(ax)
    cover = Rectangle((-0.5, 3.5), 8, 4, facecolor=(1, 1, 1, 0.72), edgecolor="0.4", hatch="///", linewidth=0)
    ax.add_patch(cover)
    plain(cover)
    ax.plot([-0.5, 7.5], [3.5, 3.5], color="black")
    (gx, gy), (tx, ty) = guessed["guess"][number], guessed["truth"][number]
    ax.plot([gx, tx], [gy, ty], color=ACCENT, linewidth=2.2)
    plain(ax.scatter(tx, ty, marker="x", s=90, color=ACCENT, linewidths=2.5, zorder=5))
    plain(ax.scatter(gx, gy, marker="o", s=60, color="black", edgecolors="white", zorder=5))
    side = 1 if gx > tx else -1
    note(ax, "guess", (gx, gy), (gx + 1.7 * side, gy - 1.3), fontweight="bold")
    note(ax, "truth", (tx, ty), (tx - 1.7 * side, ty + 1.2), color=ACCENT, fontweight="bold")
    length = np.hypot(gx - tx, gy - ty)
    ax.text(3.5, 7.95, f"miss: {length:.2f} pixels", ha="center", va="top", fontweight="bold")
    ax.set(xlim=(-0.6, 7.6), ylim=(8.6, -0.6))
    caption(ax, "From the upper half of a digit, guess where the ink of the lower half is centred.")


def _telling(guessed: Any) -> int:
    """A digit with a miss that can be seen: the first between 0.8 and 0.9 pixels, or the largest miss."""
    length = np.linalg.norm(guessed["miss"], axis=1)
    good = np.flatnonzero((length > 0.8) & (length < 0.9))
    return int(good[0]) if len(good) else int(np.argmax(length))


def _draw_confusion(ax: Any, table: np.ndarray) -> None:
    truth, guess = np.nonzero(table)
    right = truth == guess
    count = table[truth, guess]
    plain(ax.scatter(guess[right], truth[right], s=7 * count[right], color="black"))
    plain(
        ax.scatter(guess[~right], truth[~right], s=60 * count[~right], color=ACCENT, edgecolors="black", linewidths=0.6)
    )
    for x, y, n in zip(guess, truth, count):
        if x == y:
            plain(ax.text(x, y, n, color="white", ha="center", va="center", fontsize=7))
        else:
            ax.text(x + 0.33, y - 0.33, n, color=ACCENT, ha="center", va="center", fontsize=8)
    ax.set(xlim=(-0.7, 9.7), ylim=(9.7, -0.7), xlabel="guess", ylabel="truth", aspect="equal")
    ax.set_xticks(range(10))
    ax.set_yticks(range(10))
    caption(
        ax, f"A network that names the digit: {np.trace(table)} of {table.sum()} on the diagonal, where guess = truth."
    )
