"""Doodle 5, the gradient is a compass: it points down the steepest way, which need not be the way to the minimum.

Laws:

- on a quadratic of condition k the angle between -gradient and the way to the minimum is at most
  arccos(2 sqrt(k) / (1 + k)): 54.90, 78.58, 86.38 degrees for k = 10, 100, 1000 (Kantorovich), to 1e-4 degrees;
- gradient descent with step h on curvature L multiplies a miss by 1 - h L: it shrinks steadily for h < 1/L, hops over
  the minimum for 1/L < h < 2/L, and grows for h > 2/L, to rounding;
- the best rates are (k - 1) / (k + 1), and with heavy ball (sqrt k - 1) / (sqrt k + 1) (Polyak 1964), to 0.5 %: the
  heavy ball's error has a further factor t.

The plane is that of three networks trained on digits from three seeds. There the compass leads to a valley nearby, and
where it points away from the best valley of the plane, it is wrong: no law, but a count.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import landscape as ls
from _doodle.digits import classifier
from _doodle.pen import caption, finished, sheet, star
from landscape import plotting
from landscape.plotting import ACCENT, plain
from landscape.training import Runs

TITLE = "A compass that knows the slope under your feet, and nothing else"
SAYS = "The compass points down the slope, not always to the goal."
READS = "three trained networks; hatched: the arrows lead\naway from the best valley (star)"
CONDITIONS = (10, 100, 1000)
DEGREES = {10: 54.90, 100: 78.58, 1000: 86.38}
STEPS = {"shrinks": 0.5, "hops": 1.7, "grows": 2.2}  # in units of 1/L
HOPS = 6
RATE_STEPS = 4000
TINY = 1e-120  # errors are followed down to here


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Bowl:
    """A point of a bowl of a condition k -> loss, gradient, and how far -gradient is from the way to the minimum.

    Attributes:
        condition: the ratio of the two curvatures; the smaller is 1.
    """

    condition: Any

    def __call__(self, coords: Any) -> dict[str, Any]:
        """At a point (x, y)."""
        loss, gradient = jax.value_and_grad(lambda x: (self.condition * x[0] ** 2 + x[1] ** 2) / 2)(coords)
        cosine = gradient @ coords / (jnp.linalg.norm(gradient) * jnp.linalg.norm(coords))
        return {"loss": loss, "gradient": gradient, "degrees": jnp.degrees(jnp.arccos(jnp.clip(cosine, -1, 1)))}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Rim:
    """A direction from the minimum, in degrees -> the angle of the compass there, one entry for each condition."""

    conditions: Any

    def __call__(self, coords: Any) -> dict[str, Any]:
        """On the unit circle."""
        point = jnp.stack([jnp.cos(jnp.radians(coords[0])), jnp.sin(jnp.radians(coords[0]))])
        return {"degrees": jax.vmap(lambda k: Bowl(k)(point)["degrees"])(self.conditions)}


def run(config: Any, lab: Any) -> dict[str, Any]:
    """A bowl, the angles around bowls, descents on bowls, and the plane of three networks."""
    return {**bowls(lab), "plane": _plane(config, lab)}


def bowls(lab: Any) -> dict[str, Any]:
    """All that needs no network."""
    side = ls.Axis.linspace("x", -1.0, 1.0, 42)  # none of them 0, where there is no direction
    grid = ls.Grid((side, ls.Axis("y", side.values)))
    # close to 90 degrees the angle turns fast: steps in equal ratios
    turn = ls.Grid.of(direction=np.degrees(np.arctan(np.geomspace(1e-1, 1e5, 20_001))))
    with jax.enable_x64(True):
        return {
            "bowl": lab.at_once(64).sweep("bowl", Bowl(jnp.array(10.0)), grid),
            "rim": lab.at_once(500).sweep("rim", Rim(jnp.array(CONDITIONS, float)), turn),
            "hops": lab.at_once(len(STEPS)).sweep("hops", _hops(), _numbers(len(STEPS))),
            "races": lab.at_once(2 * len(CONDITIONS)).sweep("races", _races(), _numbers(2 * len(CONDITIONS))),
        }


def _numbers(count: int) -> ls.Grid:
    return ls.Grid.of(run=np.arange(count))


def _hops() -> Runs:
    """Gradient descent on x^2 / 2, whose curvature is 1, with each of the steps."""
    return Runs(
        objective=ls.Objective(lambda x, _: x**2 / 2),
        optimizer=optax.sgd,
        num_runs=len(STEPS),
        num_steps=HOPS,
        inits=jnp.ones(len(STEPS)),
        hyper=jnp.array(list(STEPS.values())),
        snapshots=True,
    )


def _races() -> Runs:
    """The best gradient descent and the best heavy ball on a quadratic of each condition, smaller curvature 1."""
    settings = []
    for k in CONDITIONS:
        root = np.sqrt(k)
        settings += [(2 / (k + 1), 0.0, k), (4 / (root + 1) ** 2, ((root - 1) / (root + 1)) ** 2, k)]
    curvature = np.array([[k, 1.0] for _, _, k in settings])
    return Runs(
        # the curvatures are parameters without a gradient, since the runs share one objective
        objective=ls.Objective(lambda p, _: jnp.sum(jax.lax.stop_gradient(p["curvature"]) * p["x"] ** 2) / 2),
        optimizer=lambda h: optax.sgd(h[0], momentum=h[1]),
        num_runs=len(settings),
        num_steps=RATE_STEPS,
        inits={"curvature": curvature, "x": np.ones((len(settings), 2))},
        hyper=np.array([s[:2] for s in settings]),
        record_every=10,
    )


def _plane(config: Any, lab: Any) -> Any:
    """Loss and gradient over the plane of three trained networks; its two directions are as long as each other."""
    problem = classifier(config, lab)[0]
    trained = [classifier(config, lab, seed)[1] for seed in range(3)]
    if lab.planning:
        trained = [problem.init(jax.random.key(seed)) for seed in range(3)]
    plane = ls.subspace.plane_through(*trained)
    axes = [ls.Axis.linspace(name, -0.6, 1.6, config.resolution) for name in ("x", "y")]
    surface = ls.LossSurface(plane, {"train": problem.objectives["train"]}, ("gradient",))
    corners = np.asarray([plane.project(p) for p in trained])
    gram = np.asarray(plane.gram())
    return lab.at_once(8).sweep("plane", surface, ls.Grid(tuple(axes)), lambda _: {"corners": corners, "gram": gram})


def downhill(plane: Any) -> tuple[np.ndarray, np.ndarray]:
    """The compass at each point, `(n, n, 2)`, in coordinates of the plane; whether it points away from the best."""
    compass = -plane["train_gradient"]
    at = np.stack(np.meshgrid(*(axis.values for axis in plane.grid.axes), indexing="ij"), axis=-1)
    way = plane.coords(plane.argmin("train_loss")) - at
    return compass, np.sum(compass * way, axis=-1) < 0


def rate(history: np.ndarray, steps: np.ndarray) -> float:
    """By how much a step shrinks the gradient, over the last half of the time in which it is above `TINY`."""
    last = int(np.sum(history > TINY)) - 1
    first = last // 2
    return float((history[last] / history[first]) ** (1 / (steps[last] - steps[first])))


def findings(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Rows of `(what, expected, found)`."""
    rows = []
    for k, found in zip(CONDITIONS, result["rim"]["degrees"].max(axis=0)):
        rows.append((f"compass off by at most, condition {k}", f"{DEGREES[k]:.2f} degrees", f"{found:.4f}"))
    for (word, step), x in zip(STEPS.items(), result["hops"]["snapshots"]):
        ratio = x[1:] / x[:-1]
        rows.append(
            (
                f"step {step}/L {word}: miss times",
                f"{1 - step:+.2f} at every step",
                f"{ratio.min():+.6f} ... {ratio.max():+.6f}",
            )
        )
    races = result["races"]
    for i, k in enumerate(CONDITIONS):
        laws = {"gradient descent": (k - 1) / (k + 1), "heavy ball": (np.sqrt(k) - 1) / (np.sqrt(k) + 1)}
        for j, (name, law) in enumerate(laws.items()):
            found = rate(races["history.grad_norm"][2 * i + j], races["history.step"][2 * i + j])
            rows.append((f"best rate of {name}, condition {k}", f"{law:.5f} (to 0.5%)", f"{found:.5f}"))
    plane = result["plane"]
    gram = plane.meta["gram"]
    skew = np.abs(gram / gram[0, 0] - np.eye(2)).max()
    rows.append(("plane of three networks: skew of its axes", "0 (angles are true)", f"{skew:.0e}"))
    rows.append(
        (
            "... compass points away from its best valley",
            "on a bowl nowhere",
            f"{downhill(plane)[1].mean():.1%} of the plane",
        )
    )
    return rows


def draw(result: Mapping[str, Any]) -> dict[str, Any]:
    """The compass on a bowl, three steps, and the compass on the plane of three networks."""
    figure, axes = sheet([["bowl", "hops", "plane"]], (13.0, 4.7), f"5   {TITLE}")
    _draw_bowl(axes["bowl"], result["bowl"])
    _draw_hops(axes["hops"], result["hops"])
    key_panel(axes["plane"], result)
    share = downhill(result["plane"])[1].mean()
    caption(
        axes["plane"],
        f"Three trained networks. Hatched ({share:.0%}): the compass points away from the best valley.",
    )
    return {"doodle_5_compass": finished(figure)}


def _arrows(ax: Any, grid: Any, compass: np.ndarray, every: int, **options: Any) -> None:
    """Directions only, one arrow every few points."""
    unit = compass / np.linalg.norm(compass, axis=-1, keepdims=True)
    x, y = (axis.values[every // 2 :: every] for axis in grid.axes)
    u, v = (unit[every // 2 :: every, every // 2 :: every, i].T for i in (0, 1))
    look: dict[str, Any] = {"pivot": "mid", "scale": 17, "width": 0.006, "headwidth": 4.5, "zorder": 3, **options}
    plain(ax.quiver(x, y, u, v, **look))


def _draw_bowl(ax: Any, bowl: Any) -> None:
    x, y = (axis.values for axis in bowl.grid.axes)
    ax.contour(x, y, bowl["loss"].T, [0.05, 0.2, 0.45, 0.8, 1.6, 3.2], colors="0.55", linewidths=1.2)
    _arrows(ax, bowl.grid, -bowl["gradient"], 6)
    star(ax, 0, 0)
    slope = np.sqrt(10.0)  # the direction in which the compass is worst
    at = np.array([0.28, 0.28 * slope])
    for way, color, text in ((-at, ACCENT, "way to the\nminimum"), (-at * [10, 1], "black", "compass")):
        tip = at + 0.55 * way / np.linalg.norm(way)
        ax.annotate("", tip, at, arrowprops={"arrowstyle": "-|>", "color": color, "linewidth": 2.6}, zorder=6)
        place = tip + (np.array([0.1, 0.05]) if color == ACCENT else np.array([-0.03, 0.1]))
        ax.text(*place, text, color=color, fontweight="bold", ha="left" if color == ACCENT else "center", zorder=7)
    ax.set(xlim=(-1, 1), ylim=(-1, 1), xticks=[], yticks=[], aspect="equal")
    worst = bowl["degrees"].max()
    caption(ax, f"A bowl ten times as steep across as along: the compass is off by up to {worst:.0f} degrees.")


def _draw_hops(ax: Any, hops: Any) -> None:
    """Three descents in one bowl each, side by side."""
    curve = np.linspace(-1.5, 1.5, 101)
    words = {"shrinks": "small step:\ncalm", "hops": "large step:\nhops across", "grows": "too large:\nout of the bowl"}
    for i, ((word, step), x) in enumerate(zip(STEPS.items(), hops["snapshots"])):
        shift = 3.6 * i
        ax.plot(curve + shift, curve**2 / 2, color="0.55", linewidth=1.2)
        shown = x[np.abs(x) <= 1.55]
        color = ACCENT if word == "grows" else "black"
        for a, b in pairwise(shown):
            ax.annotate(
                "",
                (b + shift, b**2 / 2),
                (a + shift, a**2 / 2),
                arrowprops={
                    "arrowstyle": "->",
                    "color": color,
                    "linewidth": 1.3,
                    "connectionstyle": f"arc3,rad={0.35 if b < a else -0.35}",
                },
            )
        plain(ax.scatter(shown + shift, shown**2 / 2, s=24, color=color, zorder=4))
        ax.text(shift, -0.16, words[word], ha="center", va="top", color=color, fontweight="bold", fontsize=8.5)
        ax.text(shift, -0.45, f"step {step:g} / L", ha="center", va="top", fontsize=8.5)
    ax.set(xlim=(-1.8, 9.0), ylim=(-0.75, 1.3), xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    caption(ax, "The compass gives the direction; the step decides. L is the curvature.")


def key_panel(ax: Any, result: Mapping[str, Any]) -> None:
    """The plane of three networks with the compass, hatched where it is wrong."""
    plane = result["plane"]
    plotting.heatmap(plane, "train_loss", ax=ax, scale="log", colorbar=False, minimum=False)
    x, y = (axis.values for axis in plane.grid.axes)
    ax.contour(x, y, plane["train_loss"].T, np.geomspace(0.03, 3.0, 8), colors="0.45", linewidths=0.9)
    compass, wrong = downhill(plane)
    area = ax.contourf(x, y, wrong.T.astype(float), [0.5, 1.5], colors="none", hatches=["///"])
    area.set_edgecolor(ACCENT)
    plain(area)
    plain(ax.contour(x, y, wrong.T.astype(float), [0.5], colors=ACCENT, linewidths=1.2))
    _arrows(ax, plane.grid, compass, max(2, len(x) // 11))
    best = plane.coords(plane.argmin("train_loss"))
    star(ax, *best)
    for letter, corner in zip("ABC", plane.meta["corners"]):
        plain(
            ax.text(
                *corner,
                letter,
                ha="center",
                va="center",
                fontweight="bold",
                fontsize=9,
                zorder=6,
                bbox={"boxstyle": "circle,pad=0.25", "facecolor": "white", "edgecolor": "black"},
            )
        )
    ax.set(xlabel="", ylabel="", xticks=[], yticks=[], xlim=x[[0, -1]], ylim=y[[0, -1]])
    if ax.get_legend():
        ax.get_legend().remove()
