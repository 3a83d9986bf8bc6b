"""Doodle 7, the last test: two dartboards, the one that was trained on and the one that counts.

The regression of doodle 1, once from all 1,438 training digits and once from `FEW` of them, fewer than it takes.

Laws: for ridgeless least squares on n Gaussian examples of p inputs, |b|^2 = r2 and noise s2, the expected excess loss
on new data is known exactly (`_exact.ridgeless`; Hastie et al., arXiv 1903.08560): n = 100, r2 = 5, s2 = 1 gives .253,
1.020, 5.167, 3.510, 4.084 for p = 20, 50, 125, 200, 400; the loss on the training data is s2 (1 - p / n), and 0 from
p = n on. Measured with standard errors, three of which are the stated accuracy.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _exact.ridgeless import excess_risk

import landscape as ls
from _doodle.darts import RINGS
from _doodle.digits import guesses, halves, least_squares
from _doodle.pen import board, bullseye, caption, darts, finished, note, open_frame, sheet, star
from landscape.plotting import ACCENT, plain
from landscape.point import as_number

TITLE = "Two boards: the one you practised on, and the one that counts"
SAYS = "A tight cluster in practice proves nothing yet."
READS = "a model that learned from 36 digits only"
FEW = 36
SHOWN = 359  # darts on a board
SIZES = (20, 50, 80, 125, 200, 400)
EXAMPLES, SIGNAL, NOISE = 100, 5.0, 1.0


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Ridgeless:
    """Number of a data set -> loss on the training data and excess loss on new ones, one entry a number of inputs.

    Attributes:
        key: random key.
    """

    key: Any

    def __call__(self, coords: Any) -> dict[str, Any]:
        """Least squares of least norm on `EXAMPLES` Gaussian examples, for each number of inputs in `SIZES`."""
        key = jax.random.fold_in(self.key, as_number(coords[0]))
        losses = [self._fit(jax.random.fold_in(key, p), p) for p in SIZES]
        return {"train": jnp.stack([a for a, _ in losses]), "excess": jnp.stack([b for _, b in losses])}

    def _fit(self, key: Any, p: int) -> tuple[Any, Any]:
        for_inputs, for_noise = jax.random.split(key)
        inputs = jax.random.normal(for_inputs, (EXAMPLES, p))
        truth = jnp.full(p, np.sqrt(SIGNAL / p))  # any direction is as good, since the inputs have none
        targets = inputs @ truth + np.sqrt(NOISE) * jax.random.normal(for_noise, (EXAMPLES,))
        # the normal equations of the smaller side, by conjugate gradients: no condition here is above 400
        if p < EXAMPLES:
            weights = _solve(inputs.T @ inputs, inputs.T @ targets)
        else:
            weights = inputs.T @ _solve(inputs @ inputs.T, targets)
        return jnp.mean((inputs @ weights - targets) ** 2), jnp.sum((weights - truth) ** 2)


def _solve(matrix: Any, right: Any) -> Any:
    return jax.scipy.sparse.linalg.cg(lambda v: matrix @ v, right, tol=1e-9, maxiter=1000)[0]


def law(p: Any) -> tuple[Any, Any]:
    """Expected loss on the training data and expected excess loss, for `p` inputs."""
    train = NOISE * np.maximum(0, 1 - np.asarray(p) / EXAMPLES)
    return train, excess_risk(p, EXAMPLES, SIGNAL, NOISE)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Miss:
    """A point of a plane of weights -> mean squared miss in px^2 on the few examples of training and on new ones.

    Attributes:
        plane: a `Subspace` of weights.
        parts: `{name: (inputs, truth)}`.
    """

    plane: Any
    parts: Any

    def __call__(self, coords: Any) -> dict[str, Any]:
        """Both losses."""
        weights = self.plane(coords)
        return {name: jnp.mean(jnp.sum((x @ weights - y) ** 2, axis=1)) for name, (x, y) in self.parts.items()}


def run(config: Any, lab: Any) -> dict[str, Any]:
    """Boards of both models for both parts, the plane of their weights, and the law of least squares."""
    with jax.enable_x64(True):
        inputs, truth, _ = halves()["train"]
        models = {"good": least_squares(inputs, truth), "overfitted": least_squares(inputs[:FEW], truth[:FEW])}
        other = least_squares(inputs[FEW : 2 * FEW], truth[FEW : 2 * FEW])
        result = {}
        for name, weights in models.items():
            for part, count in (("train", FEW if name == "overfitted" else None), ("test", None)):
                result[f"board_{name}_{part}"] = guesses(lab, f"board_{name}_{part}", weights, part, count)
        plane = ls.subspace.plane_through(*(jnp.asarray(w) for w in (models["overfitted"], models["good"], other)))
        known = {"train": (inputs[:FEW], truth[:FEW]), "test": halves()["test"][:2]}
        axes = [
            ls.Axis.linspace("x", -0.35, 1.5, config.resolution),
            ls.Axis.linspace("y", -0.55, 0.75, config.resolution),
        ]
        good = np.asarray(plane.project(jnp.asarray(models["good"])))
        result["plane"] = lab.at_once(64).sweep(
            "board_plane", Miss(plane, known), ls.Grid(tuple(axes)), lambda _: {"good": good}
        )
        sets = ls.Grid.of(data_set=np.arange(max(20, config.replicates // 10)))
        key = jax.random.fold_in(jax.random.key(config.seed), 7)
        result["ridgeless"] = lab.at_once(20).sweep("ridgeless", Ridgeless(key), sets)
    return result


def rms(landscape: Any) -> float:
    """Root mean square miss of a board, in pixels."""
    return float(np.sqrt(np.mean(np.sum(landscape["miss"] ** 2, axis=1))))


def measured(ridgeless: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the data sets for each number of inputs, and its standard error."""
    values = ridgeless[name]
    return values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(len(values))


def findings(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Rows of `(what, expected, found)`."""
    rows = []
    for name, count in (("good", "all"), ("overfitted", f"{FEW}")):
        train, test = (rms(result[f"board_{name}_{part}"]) for part in ("train", "test"))
        wanted = "near 1" if name == "good" else "far above 1"
        rows.append(
            (
                f"{name} model ({count} digits): test / train miss",
                wanted,
                f"{test:.3f} / {train:.3f} px = {test / train:.2f}",
            )
        )
    for name, laws in zip(("train", "excess"), law(SIZES)):
        for p, value, found, error in zip(SIZES, laws, *measured(result["ridgeless"], name)):
            what = "loss on training data" if name == "train" else "excess loss on new data"
            rows.append((f"{what}, {p} inputs, {EXAMPLES} examples", f"{value:.3f}", f"{found:.3f} +- {error:.3f}"))
    return rows


def draw(result: Mapping[str, Any]) -> dict[str, Any]:
    """Four boards, the plane between the models, and the law."""
    mosaic = [["overfitted_train", "overfitted_test", "plane"], ["good_train", "good_test", "law"]]
    figure, axes = sheet(mosaic, (12.0, 8.2), f"7   {TITLE}")
    for name, learned in (("overfitted", f"{FEW}"), ("good", "1,438")):
        for part in ("train", "test"):
            ax = axes[f"{name}_{part}"]
            miss = rms(result[f"board_{name}_{part}"])
            _draw_board(ax, result, name, part)
            where = f"Practice, {learned} digits" if part == "train" else f"New digits, after {learned}"
            caption(ax, f"{where}: {miss:.2f} px off")
    _draw_plane(axes["plane"], result["plane"])
    _draw_law(axes["law"], result["ridgeless"])
    return {"doodle_7_boards": finished(figure)}


def _draw_board(ax: Any, result: Mapping[str, Any], name: str, part: str) -> None:
    board(ax, RINGS, "px")
    darts(ax, result[f"board_{name}_{part}"]["miss"][:SHOWN], color="black" if part == "train" else ACCENT, size=11)
    bullseye(ax)
    if np.max(np.abs(result[f"board_{name}_{part}"]["miss"][:SHOWN])) > ax.get_xlim()[1]:
        ax.text(0, 1.16, "triangles: off the board", ha="center", va="center", fontsize=8, color=ACCENT)


def key_panel(ax: Any, result: Mapping[str, Any]) -> None:
    """The overfitted model: darts of practice in black, those of new digits in the accent."""
    board(ax, RINGS, "px")
    darts(ax, result["board_overfitted_test"]["miss"][:120], color=ACCENT, size=11)
    darts(ax, result["board_overfitted_train"]["miss"], color="black", size=13)
    note(ax, "practice", (0.1, -0.1), (-0.75, -1.0), fontweight="bold")
    ax.text(0.72, -1.02, "new digits", color=ACCENT, fontweight="bold", ha="center", va="center")


def _draw_plane(ax: Any, plane: Any) -> None:
    """Both losses on the same plane of weights, with their minima."""
    x, y = (axis.values for axis in plane.grid.axes)
    for name, color in (("train", "black"), ("test", ACCENT)):
        low = plane[name].min()
        levels = low + np.ptp(plane[name]) * np.array([0.004, 0.02, 0.06, 0.14, 0.3])
        ax.contour(x, y, plane[name].T, levels, colors=color, linewidths=1.4)
        star(ax, *plane.coords(plane.argmin(name)), color=color)
    ax.set(xticks=[], yticks=[])
    ax.plot([], [], color="black", label=f"loss in practice ({FEW} digits)")
    ax.plot([], [], color=ACCENT, label="loss on new digits")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.02))
    caption(ax, "Two landscapes over the same weights. Their lowest points (stars) differ.")


def _draw_law(ax: Any, ridgeless: Any) -> None:
    """Loss in practice and on new data against the number of inputs: dots measured, lines the law."""
    p = np.concatenate([np.arange(10, 98), np.arange(103, 420)])
    for i, (name, color) in enumerate((("train", "black"), ("excess", ACCENT))):
        for side in (p < EXAMPLES, p > EXAMPLES):
            curve = law(p[side])[i]
            ax.plot(p[side][curve < 8], curve[curve < 8], color=color)
        found, error = measured(ridgeless, name)
        line, caps, _ = ax.errorbar(SIZES, found, 2 * error, fmt="o", color=color, markersize=5, capsize=2)
        plain(line, *caps)
    note(ax, "on new data", (140, law(140)[1]), (270, 6.3), color=ACCENT, fontweight="bold")
    note(ax, "in practice: 0", (230, 0), (300, 1.3), fontweight="bold")
    ax.axvline(EXAMPLES, color="0.6", linewidth=1.0, linestyle=":")
    ax.set(xlabel=f"inputs, for {EXAMPLES} examples", ylabel="loss", ylim=(-0.3, 8), xlim=(0, 420))
    open_frame(ax)
    caption(ax, "As many inputs as examples: perfect in practice, worst on new data. Lines: the law.", 50)
