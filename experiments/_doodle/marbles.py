"""Doodle 6, the landscape: marbles that roll into the deepest ditch, or into another one, or into none.

The surface is that of Mueller & Brown (1979), a chemical reaction in two coordinates, with one deepest ditch and two
others. Marbles are runs of plain gradient descent; where they end belongs to the learning rate and the initialisation.

Laws: the ditches are those of the published table, -146.699517, -108.166724, -80.767818, to 1e-6; a ditch holds marbles
if and only if its sharpness, the largest eigenvalue of its Hessian, is below 2 / learning rate. So the deepest ditch,
which is the sharpest too, is the first one that a larger step cannot enter. Shares carry Wilson intervals of 95 %.
"""

from collections.abc import Mapping
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import landscape as ls
from _doodle.pen import caption, finished, sheet
from landscape.plotting import ACCENT, plain
from landscape.problems import mueller_brown
from landscape.training import Runs

TITLE = "Marbles on a landscape: start and step decide the ditch"
SAYS = "Some marbles find the deepest ditch, some another."
READS = "numbers: marbles at rest; in colour: the deepest ditch"
RATES = (2e-4, 6e-4, 1e-3)
STARTS = {"anywhere": None, "near the pass": ((-0.3, 0.6), 0.35)}
DEPTHS = (-146.699517, -108.166724, -80.767818)
NEAR = 1e-3  # a marble lies in a ditch within this distance
MOST = 3000  # steps
TOP = 20.0  # heights above are not drawn
ROLLED, FRAMES = 150, 60  # marbles and frames of the animation
LOOKS = ({"color": ACCENT}, {"color": "black"}, {"color": "0.5"})
BARS = ((ACCENT, "white", ""), ("black", "white", ""), ("0.5", "white", ""), ("white", "black", "///"))
NAMES = ("deepest", "second", "shallowest")


def run(config: Any, lab: Any) -> dict[str, Any]:
    """The surface, the ends of all marbles, and the way of some of them step by step."""
    low, high = mueller_brown.box
    axes = [ls.Axis.linspace(name, a, b, 2 * config.resolution + 1) for name, a, b in zip("xy", low, high)]
    with jax.enable_x64(True):
        surface = lab.at_once(64).sweep("surface", ls.LossSurface(_same, mueller_brown.objective), ls.Grid(tuple(axes)))
        starts, rates = _starts(config), np.repeat(RATES, len(STARTS) * config.marbles)
        marbles = _runs(
            np.tile(starts.reshape(-1, 2), (len(RATES), 1)),
            rates,
            tol=1e-6,
            num_steps=MOST,
            record_every=MOST,
            check_every=50,
        )
        many = ls.Grid.of(run=np.arange(marbles.num_runs))
        ended = lab.at_once(config.marbles).sweep(
            "marbles", marbles, many, lambda done: {"starts": starts, **_ditches(done)}
        )
        some = starts[0][: min(ROLLED, config.marbles)]
        rolling = _runs(some, np.full(len(some), RATES[0]), num_steps=2 * FRAMES, record_every=2, snapshots=True)
        rolled = lab.at_once(len(some)).sweep("rolling", rolling, ls.Grid.of(run=np.arange(len(some))))
    return {"surface": surface, "marbles": ended, "rolling": rolled}


def _same(coords: Any) -> Any:
    return coords


def _ditches(marbles: Any) -> dict[str, Any]:
    """What the marbles of the smallest step found, deepest first: place, depth and sharpness, after Newton's method."""
    if not marbles.computed.all():
        return {}
    gentle = slice(0, len(marbles["outcome"]) // len(RATES))
    found = ls.analysis.label_basins(
        marbles["params"][gentle],
        tol=10 * NEAR,
        values=marbles["history.loss"][gentle, -1],
        outcome=marbles["outcome"][gentle],
    )
    polished = [ls.minima.polish(mueller_brown.objective, jnp.asarray(point)) for point in found.points]
    hessian = jax.hessian(mueller_brown)
    return {
        "ditches": {
            "points": np.array([m.params for m in polished]),
            "depths": [float(m.loss) for m in polished],
            "sharpness": [float(jnp.linalg.eigvalsh(hessian(m.params))[-1]) for m in polished],
        }
    }


def _starts(config: Any) -> np.ndarray:
    """Uniform in the box, or normal about a point, `(len(STARTS), marbles, 2)`."""
    low, high = mueller_brown.box
    key = jax.random.key(config.seed)
    clouds = []
    for i, where in enumerate(STARTS.values()):
        shape, one = (config.marbles, 2), jax.random.fold_in(key, i)
        if where is None:
            clouds.append(jax.random.uniform(one, shape, minval=low, maxval=high))
        else:
            clouds.append(np.array(where[0]) + where[1] * jax.random.normal(one, shape))
    return np.asarray(jnp.stack(clouds))


def _runs(starts: np.ndarray, rates: np.ndarray, **options: Any) -> Runs:
    return Runs(
        objective=mueller_brown.objective,
        optimizer=optax.sgd,
        num_runs=len(starts),
        inits=starts,
        hyper=rates,
        max_loss=1e4,
        **options,
    )


def labels(result: Mapping[str, Any]) -> np.ndarray:
    """The ditch in which each marble lies, deepest 0, or -1 for none: `(rates, starts, marbles)`."""
    ends = result["marbles"]["params"]
    ditches = np.asarray(result["marbles"].meta["ditches"]["points"])
    apart = np.linalg.norm(ends[:, None] - ditches, axis=-1)
    found = np.where(apart.min(axis=1) < NEAR, apart.argmin(axis=1), -1)
    return found.reshape(len(RATES), len(STARTS), -1)


def held(result: Mapping[str, Any]) -> list[tuple[float, list[bool], list[bool]]]:
    """For each learning rate: which ditches may hold marbles by the law, and which ones do."""
    sharp, found = np.array(result["marbles"].meta["ditches"]["sharpness"]), labels(result)
    return [
        (rate, (sharp < 2 / rate).tolist(), [bool(np.any(found[i] == k)) for k in range(len(sharp))])
        for i, rate in enumerate(RATES)
    ]


def findings(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Rows of `(what, expected, found)`."""
    ditches, found = result["marbles"].meta["ditches"], labels(result)
    rows = [("ditches found", str(len(DEPTHS)), str(len(ditches["depths"])))]
    for name, value, depth, sharp in zip(NAMES, DEPTHS, ditches["depths"], ditches["sharpness"]):
        rows.append((f"{name} ditch", f"{value:.6f}", f"{depth:.6f}, sharpness {sharp:.1f}"))
    for rate, law, seen in held(result):
        said, was = (", ".join(n for n, yes in zip(NAMES, which) if yes) or "none" for which in (law, seen))
        rows.append((f"ditches that hold marbles, rate {rate:g}", f"{said} (sharpness < {2 / rate:.0f})", was))
    for (i, rate), (j, start) in product(enumerate(RATES), enumerate(STARTS)):
        count = found.shape[2]
        shares = []
        for k in range(len(DEPTHS)):
            hits = int(np.sum(found[i, j] == k))
            low, high = (100 * float(b) for b in ls.analysis.wilson_interval(hits, count))
            shares.append(f"{100 * hits / count:.1f} ({low:.1f} ... {high:.1f})")
        rows.append(
            (f"gradient descent {rate:g}, started {start}: % in each", "deepest, second, shallowest", ", ".join(shares))
        )
    return rows


def draw(result: Mapping[str, Any]) -> dict[str, Any]:
    """Marbles at rest for a small and a large step, shares, and an animation."""
    figure, axes = sheet([["small", "large", "shares"]], (13.0, 4.9), f"6   {TITLE}")
    found = labels(result)
    key_panel(axes["small"], result)
    percent = np.mean(found[0, 0] == 0)
    caption(
        axes["small"],
        f"Small steps: {percent:.0%} of {found.shape[2]} marbles roll into the deepest ditch, the others elsewhere.",
    )
    _draw_map(axes["large"], result, len(RATES) - 1)
    sharp = result["marbles"].meta["ditches"]["sharpness"]
    caption(
        axes["large"],
        f"Steps {RATES[-1] / RATES[0]:.0f} times as long: no rest in a ditch sharper than {2 / RATES[-1]:.0f}; "
        f"the deepest is {sharp[0]:.0f}.",
    )
    _draw_shares(axes["shares"], found)
    return {"doodle_6_marbles": finished(figure), "doodle_6_rolling": _animation(result)}


def key_panel(ax: Any, result: Mapping[str, Any]) -> None:
    """Marbles at rest after small steps, with their ways."""
    _draw_map(ax, result, 0, np.asarray(result["rolling"]["snapshots"]))


def _draw_surface(ax: Any, surface: Any) -> None:
    x, y = (axis.values for axis in surface.grid.axes)
    heights = np.ma.masked_greater(surface["loss"], TOP)
    levels = np.arange(-140.0, TOP + 1, 20)
    plain(ax.contourf(x, y, heights.T, levels, cmap="Greys_r", alpha=0.35, extend="min"))
    ax.contour(x, y, heights.T, levels, colors="0.45", linewidths=0.9)
    ax.set(xlim=x[[0, -1]], ylim=y[[0, -1]], xticks=[], yticks=[], aspect="equal")


def _draw_map(ax: Any, result: Mapping[str, Any], which: int, ways: np.ndarray | None = None) -> None:
    """Starts as dots in the colour of the ditch that the marble found, and how many each ditch holds."""
    surface, found = result["surface"], labels(result)[which, 0]
    _draw_surface(ax, surface)
    starts = np.asarray(result["marbles"].meta["starts"])[0]
    for k, look in enumerate(LOOKS):
        here = found == k
        plain(ax.scatter(*starts[here].T, s=9, zorder=3, edgecolors="white", linewidths=0.3, **look))
        for way in () if ways is None else ways[found[: len(ways)] == k][:14]:
            plain(*ax.plot(*way.T, linewidth=0.9, alpha=0.8, zorder=2, **look))
    lost = found < 0
    plain(ax.scatter(*starts[lost].T, s=9, zorder=3, facecolors="white", edgecolors="black", linewidths=0.6))
    _number(ax, result["marbles"].meta["ditches"]["points"], found)


def _number(ax: Any, points: Any, found: np.ndarray) -> None:
    """How many marbles lie in each ditch, on a large marble."""
    for k, (point, look) in enumerate(zip(np.asarray(points), LOOKS)):
        count = int(np.sum(found == k))
        face = look["color"] if count else "white"
        ink = "white" if count else "black"
        plain(
            ax.scatter(
                *point, s=430, facecolors=face, edgecolors="white" if count else look["color"], linewidths=1.6, zorder=5
            )
        )
        plain(
            ax.text(*point, str(count), color=ink, ha="center", va="center", fontweight="bold", fontsize=8.5, zorder=6)
        )


def _draw_shares(ax: Any, found: np.ndarray) -> None:
    """One bar for each learning rate and initialisation."""
    heights = {}
    for place, (j, i) in enumerate(product(range(len(STARTS)), range(len(RATES)))):
        heights[place + 0.6 * j] = f"{RATES[i]:g}"
        _draw_bar(ax, place + 0.6 * j, found[i, j])
    for j, start in enumerate(STARTS):
        ax.text(0, (len(RATES) + 0.6) * j - 0.5, f"started {start}", fontweight="bold", va="bottom")
    ax.set_yticks(list(heights), list(heights.values()))
    ax.set(xlim=(0, 1), ylim=(2 * len(RATES) + 0.9, -1.0), xticks=[], ylabel="learning rate")
    for name, (face, _, hatch) in zip([*NAMES, "none"], BARS):
        plain(*ax.fill([], [], facecolor=face, edgecolor="black", linewidth=0.8, hatch=hatch, label=name))
    place = {"loc": "lower center", "bbox_to_anchor": (0.45, -0.02), "borderaxespad": 0}
    ax.legend(ncols=4, handlelength=1.0, columnspacing=0.9, **place)
    ax.spines[:].set_visible(False)
    caption(ax, "Which ditch: it takes the start and the step to tell.")


def _draw_bar(ax: Any, y: float, found: np.ndarray) -> None:
    """The share of marbles in each ditch, and in none."""
    left = 0.0
    for k, (face, ink, hatch) in enumerate(BARS):
        share = np.mean(found == (k if k < len(LOOKS) else -1))
        (bar,) = ax.barh(y, share, 0.72, left, facecolor=face, edgecolor="black", linewidth=1.0, hatch=hatch)
        bar.set_sketch_params(None)
        if share > 0.09:
            paper = {"facecolor": face, "edgecolor": "none", "pad": 1}
            look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8, "fontweight": "bold"}
            plain(ax.text(left + share / 2, y, f"{share:.0%}", color=ink, bbox=paper, **look))
        left += share


def _animation(result: Mapping[str, Any]) -> Any:
    """Marbles rolling, one frame every two steps."""
    from matplotlib import pyplot
    from matplotlib.animation import FuncAnimation

    figure, ax = pyplot.subplots(figsize=(4.4, 4.2))
    _draw_surface(ax, result["surface"])
    ways = np.asarray(result["rolling"]["snapshots"])
    found = labels(result)[0, 0][: len(ways)]
    colors = [LOOKS[k]["color"] if k >= 0 else "white" for k in found]
    dots = ax.scatter(*ways[:, 0].T, s=26, c=colors, edgecolors="black", linewidths=0.6, zorder=4)
    plain(dots)
    ax.set_title("Marbles roll downhill; not all find the deepest ditch", fontsize=9)
    words = ax.text(0.98, 0.97, "", transform=ax.transAxes, ha="right", va="top", fontsize=9)
    ditches = np.asarray(result["marbles"].meta["ditches"]["points"])
    finished(figure)

    def show(frame: int) -> tuple[Any, ...]:
        frame = min(frame, ways.shape[1] - 1)  # stands still for a while at the end
        dots.set_offsets(ways[:, frame])
        there = np.linalg.norm(ways[:, frame][:, None] - ditches, axis=-1) < 0.05
        words.set_text(f"step {2 * frame}: {int(there[:, 0].sum())} of {len(ways)} in the deepest")
        return dots, words

    return FuncAnimation(figure, show, frames=ways.shape[1] + 12, interval=83)
