r"""Does a 2-2-1 sigmoid network that learns the exclusive or get stuck in local minima?

For years it was the textbook example of a loss with local minima. It has none: every stationary point at finite weights
with positive error is a saddle (Sprinkhuizen-Kuyper & Boers 1999, "The local minima of the error surface of the 2-2-1
XOR network"). Runs stop all the same, on plateaus at a mean squared error of 1/8, where two examples of unlike target
are answered by 1/2, or 1/6, where three are answered by 1/3 or 2/3. There the weights grow without end.

Full-batch gradient descent, learning rate 2, 20,000 steps, from U(-1, 1). Expected:

- about 81 % solved, 18 % at 1/8, 1 % at 1/6 (an earlier sample of this problem, not a published table);
- `minima.classify` calls stalled runs plateaus, none a minimum: the gradient is not zero, the smallest eigenvalue is
  about 0, the weights grow. What it does not call a plateau is a stop that a second-order method can leave: 50 steps of
  trust-region Newton lead from there to loss 0;
- with more steps, or with Adam, the loss of each goes on falling. On a plateau the examples that are answered well have
  errors of exp(-z) for a weight z that grows by dz/dt ~ exp(-2 z): the loss above the plateau's falls as 1/steps.

This experiment has its own problem and takes no --problem. It always computes in float64.

Cost: about half a minute of one CPU core for the defaults.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _lab import Lab, UsageError, main
from jax.flatten_util import ravel_pytree

import landscape as ls
from landscape import curvature, minima, plotting
from landscape.problems import xor
from landscape.training import Runs

LANES = 250  # runs at a time on a CPU
RECORDS = 100  # entries of a run's history
SOLVED, NEAR = 0.01, 0.005  # a loss below; a loss this near to that of a plateau
OTHER = -1
PLATEAUS = {1: 1 / 8, 2: 1 / 6}
NAMES = {0: "solved", 1: "stopped at 1/8", 2: "stopped at 1/6", OTHER: "elsewhere"}
EXPECTED = {0: "about 81", 1: "about 18", 2: "about 1", OTHER: "0"}
COLORS = {0: "#56b4e9", 1: "#e69f00", 2: "#009e73", OTHER: "#3d3d3d"}


@dataclass(frozen=True)
class Config:
    """Settings of this experiment."""

    runs: int = 1000
    """Runs."""
    steps: int = 20_000
    """Steps of gradient descent, and of Adam afterwards."""
    rate: float = 2.0
    """Learning rate of gradient descent."""
    longer: int = 5
    """How many times as long the stalled runs go on."""
    resolution: int = 101
    """Points along each side of the plane."""
    seed: int = 0
    """Seed of the starts."""


SMOKE = Config(runs=48, longer=2, resolution=21)


def run(config: Config, lab: Lab) -> dict[str, ls.Landscape]:
    """The runs, the stalled ones longer and with Adam, and a plane around the end of one of them."""
    _check(config)
    lab = lab.at_once(min(LANES, config.runs), config.runs)  # as many as fit into the cache of a CPU
    with jax.enable_x64(True):
        problem = xor()
        objective = problem.objectives["train"]
        keys = jax.random.split(jax.random.key(config.seed), config.runs)
        descent = _trainings(objective, optax.sgd(config.rate), jax.vmap(problem.init)(keys), config.steps)
        everyone = ls.Grid.of(run=np.arange(config.runs))
        first = lab.sweep("runs", descent, everyone, partial(_certificates, objective, descent))
        if first is None or not first.computed.all() or not len(stalled(first)):
            return {} if first is None else {"runs": first}
        ends = jax.tree.map(jnp.asarray, descent.gather(first).params)
        grid = ls.Grid.of(run=stalled(first))
        longer = _trainings(objective, optax.sgd(config.rate), ends, config.longer * config.steps)
        adam = _trainings(objective, optax.adam(0.01), ends, config.steps)
        result = {"runs": first, "longer": lab.sweep("longer", longer, grid), "adam": lab.sweep("adam", adam, grid)}
        start = jax.tree.map(lambda leaf: leaf[stalled(first)[0]], ends)
        plane, axes, about = _plane(objective, start, config.resolution)
        result["plane"] = lab.sweep("plane", ls.LossSurface(plane, {"train": objective}), axes, lambda _: about)
    return result


def _check(config: Config) -> None:
    if min(config.runs, config.longer) < 1 or config.steps < RECORDS or config.resolution < 2 or not config.rate > 0:
        raise UsageError(
            f"needs --runs, --longer >= 1, --steps >= {RECORDS}, --resolution >= 2 and --rate > 0: {config}"
        )


def _trainings(objective: ls.Objective, optimizer: Any, inits: Any, steps: int) -> Runs:
    """Runs with the loss and the norm of the weights along them."""
    return Runs(
        objective=objective,
        optimizer=optimizer,
        num_runs=len(jax.tree.leaves(inits)[0]),
        num_steps=steps,
        inits=inits,
        record_every=max(1, steps // RECORDS),
        track={"weights": ls.Objective(_norm)},
    )


def _norm(params: Any, batch: Any) -> jax.Array:
    return optax.tree.norm(params)


def kinds(loss: np.ndarray) -> np.ndarray:
    """Where losses are: 0 solved, 1 and 2 at a plateau's, -1 elsewhere."""
    found = np.where(loss < SOLVED, 0, OTHER)
    for kind, value in PLATEAUS.items():
        found = np.where(np.abs(loss - value) < NEAR, kind, found)
    return found


def stalled(landscape: ls.Landscape) -> np.ndarray:
    """Numbers of the runs that have not solved it."""
    return np.flatnonzero(~(landscape["history.loss"][:, -1] < SOLVED))


def _certificates(objective: ls.Objective, runs: Runs, landscape: ls.Landscape) -> dict[str, Any]:
    """What `minima.classify` says of the end of each stalled run, and on what evidence."""
    if not landscape.computed.all() or "certificates" in landscape.meta:
        return {}
    ends, rows = runs.gather(landscape).params, []
    for number in stalled(landscape):
        end = jax.tree.map(lambda leaf, i=number: leaf[i], ends)
        verdict = minima.classify(objective, end, global_loss=0.0)
        eigenvalues = np.abs(verdict.eigenvalues)
        row = {name: getattr(verdict, name) for name in ("kind", "index", "grad_norm", "newton_step", "step_tol")}
        row |= {"run": int(number), "flatness": float(eigenvalues.min() / eigenvalues.max())}
        rows.append({**row, "newton_loss": float(minima.polish(objective, end, max_steps=50).loss)})
    return {"certificates": rows}


def _plane(objective: ls.Objective, end: Any, num: int) -> tuple[ls.Subspace, ls.Grid, dict[str, Any]]:
    """The plane of the way that descent is going and of the steepest curvature across it, in units of distance."""
    at, unravel = ravel_pytree(end)
    forward = -ravel_pytree(objective.value_and_grad(end)[1])[0]
    values, vectors = jnp.linalg.eigh(curvature.hessian(objective, end))
    directions = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *(unravel(v / jnp.linalg.norm(v)) for v in (forward, vectors[:, -1]))
    )
    directions = ls.subspace.orthonormalize(directions)
    low = float(jnp.linalg.norm(at))
    axes = (
        ls.Axis.linspace("along", -low, 2 * low, num, "along the way down (distance)"),
        ls.Axis.linspace("across", -low, low, num, "along the steepest curvature (distance)"),
    )
    about = {"end": {"norm": low, "loss": float(objective(end)), "steepest": float(values[-1])}}
    return ls.Subspace(end, directions), ls.Grid(axes), about


# -------------------------------------------------------------------------------------------------------- findings


def findings(result: Mapping[str, ls.Landscape]) -> list[tuple[str, str, str]]:
    """Rows of `(what, expected, found)`."""
    runs = result["runs"]
    ended = kinds(runs["history.loss"][:, -1])
    rows = []
    for kind, name in NAMES.items():
        hits, count = int(np.sum(ended == kind)), len(ended)
        low, high = (100 * bound for bound in ls.analysis.wilson_interval(hits, count))
        share = f"{100 * hits / count:.1f} (95 % {low:.1f} ... {high:.1f}), {hits} of {count}"
        rows.append((f"{name}, % of runs", EXPECTED[kind], share))
    if len(stalled(runs)):
        rows += _certificate_rows(runs)
    if "longer" in result:
        rows += _further_rows(runs, result["longer"], result["adam"])
    return rows


def _certificate_rows(runs: ls.Landscape) -> list[tuple[str, str, str]]:
    rows = runs.meta["certificates"]
    called = [row["kind"] for row in rows]
    left = [row["newton_loss"] < SOLVED for row in rows if row["kind"] != "plateau"]
    grad, way, flat = (np.array([row[name] for row in rows]) for name in ("grad_norm", "newton_step", "flatness"))
    reach = max(row["step_tol"] for row in rows)
    weights = runs["history.weights_loss"][stalled(runs)]
    half = weights.shape[1] // 2
    growing = int(np.sum(np.all(np.diff(weights[:, half:], axis=1) > 0, axis=1)))
    growth = np.median(weights[:, -1] / weights[:, half])
    others = ", ".join(f"{called.count(kind)} {kind}" for kind in sorted({*called} - {"plateau"}))
    return [
        ("stalled runs that are called a plateau", f"all {len(rows)}", f"{called.count('plateau')}"),
        ("... a minimum", "0", f"{sum(kind in ('local', 'global', 'degenerate') for kind in called)}"),
        ("... something else, which 50 Newton steps solve", "all of them", f"{sum(left)} of {others or 0}"),
        ("their gradient norm", "not 0", f"{grad.min():.1e} ... {grad.max():.1e}"),
        ("distance to a critical point (Newton step)", f"> {reach:.0e}", f"{way.min():.2g} ... {way.max():.2g}"),
        ("smallest over largest eigenvalue, magnitudes", "about 0", f"at most {flat.max():.1e}"),
        ("weights that grow all through the last half", f"all {len(rows)}", f"{growing}, by a factor of {growth:.3f}"),
    ]


def _further_rows(runs: ls.Landscape, longer: ls.Landscape, adam: ls.Landscape) -> list[tuple[str, str, str]]:
    rows = []
    for name, landscape in (("gradient descent", longer), ("Adam", adam)):
        loss = landscape["history.loss"]
        fell, solved = int(np.sum(loss[:, -1] < loss[:, 0])), int(np.sum(loss[:, -1] < SOLVED))
        steps = int(landscape["history.step"][0, -1])
        found = f"{fell}, {solved} of them solved it"
        rows.append((f"loss fell further in {steps} more steps of {name}", f"all {len(loss)}", found))
    gap, more = gaps(longer)
    if len(gap):
        before, after = int(runs["history.step"][0, -1]), int(longer["history.step"][0, -1])
        power = np.log(more / gap) / np.log((before + after) / before)
        found = f"{np.median(power):.3f} ({power.min():.3f} ... {power.max():.3f})"
        rows.append(("power of the steps with which loss - plateau falls", "-1", found))
    gap, more = gaps(adam)
    if len(gap):
        rows.append(("... and with Adam from, to (median)", "falls", f"{np.median(gap):.1e}, {np.median(more):.1e}"))
    return rows


def gaps(landscape: ls.Landscape) -> tuple[np.ndarray, np.ndarray]:
    """The loss above the plateau's at the start and at the end, of the runs that are still on theirs."""
    loss = landscape["history.loss"][:, [0, -1]]
    start, end = kinds(loss[:, 0]), kinds(loss[:, 1])
    stays = (start == end) & (start > 0)
    above = loss[stays] - np.array([PLATEAUS.get(kind, np.nan) for kind in start[stays]])[:, None]
    above = above[np.all(above > 0, axis=1)]  # a run that has found a way off is below
    return above[:, 0], above[:, 1]


# --------------------------------------------------------------------------------------------------------- figures


def plot(result: Mapping[str, ls.Landscape]) -> dict[str, Any]:
    """Loss and weights along the runs, where they end, and a plane around a plateau."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(7.6, 6.0))
    _draw_curves(axes[0, 0], result, "history.loss")
    axes[0, 0].set(ylabel="mean squared error", ylim=(0, 0.3))
    axes[0, 0].set_title("loss", loc="left")
    _draw_curves(axes[0, 1], result, "history.weights_loss")
    axes[0, 1].set(ylabel="norm of the weights")
    axes[0, 1].set_title("weights grow without end", loc="left")
    _draw_ends(axes[1, 0], result["runs"])
    if "plane" in result:
        _draw_plane(axes[1, 1], result["plane"])
    else:
        axes[1, 1].axis("off")
    for ax, letter in zip(axes.flat, "abcd"):
        ax.set_title(f"({letter}) {ax.get_title(loc='left')}", loc="left")
    return {"xor": figure}


def _draw_curves(ax: Any, result: Mapping[str, ls.Landscape], name: str, most: int = 60) -> None:
    """Some of the runs of each kind; the stalled ones go on, paler, where they were continued."""
    runs = result["runs"]
    ended, step, curve = kinds(runs["history.loss"][:, -1]), runs["history.step"][0], runs[name]
    for kind, color in COLORS.items():
        for number, one in enumerate(np.flatnonzero(ended == kind)[:most]):
            ax.plot(step[1:], curve[one, 1:], color=color, linewidth=0.6, alpha=0.6, zorder=2 if kind else 1)
            if not number:
                ax.plot([], [], color=color, label=NAMES[kind])
    if "longer" in result:
        longer = result["longer"]
        further = step[-1] + longer["history.step"][0]
        for one, curve in zip(longer.grid.axes[0].values.astype(int)[:most], longer[name]):
            ax.plot(further, curve, color=COLORS[int(ended[one])], linewidth=0.6, alpha=0.3)
        ax.axvline(step[-1], color="0.5", linewidth=0.6, linestyle=":")
    ax.set(xscale="log", xlabel="steps of gradient descent", xlim=(step[1], None))
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(loc="best")


def _draw_ends(ax: Any, runs: ls.Landscape) -> None:
    loss = runs["history.loss"][:, -1]
    plotting.endpoints(loss, labels=kinds(loss), ax=ax, bins=np.linspace(0, 0.2, 81), scale="linear", legend=False)
    handles, texts = ax.get_legend_handles_labels()
    words = {f"minimum {kind}": name for kind, name in NAMES.items()} | {"not converged": NAMES[OTHER]}
    for old, new in words.items():
        texts = [text.replace(old, new) for text in texts]
    ax.legend(handles, texts, loc="upper center")
    ax.set_yscale("log")
    ax.set_xticks([0, 1 / 8, 1 / 6], ["0", "1/8", "1/6"])
    ax.set(ylim=(0.7, None), xlim=(-0.01, 0.21))
    ax.set_title(f"where {len(loss)} runs end", loc="left")


def _draw_plane(ax: Any, plane: ls.Landscape) -> None:
    plotting.heatmap(plane, "train_loss", ax=ax, minimum=False, label="mean squared error", scale="linear")
    ax.plot(0, 0, "o", color="white", markeredgecolor="black", markersize=5)
    ahead = 0.35 * plane.grid.axes[0].values[-1]
    ax.annotate("", (ahead, 0), (0, 0), arrowprops={"arrowstyle": "->", "color": "white"})
    loss = plane.meta["end"]["loss"]
    ax.annotate(f"{loss:.5f}, still falling", (0, 0), xytext=(0, 7), textcoords="offset points", color="white")
    ax.set_title("around the end of a stalled run", loc="left")


if __name__ == "__main__":
    main("xor", Config, SMOKE, run, plot, findings, takes_problem=False)
