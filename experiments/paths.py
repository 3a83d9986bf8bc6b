"""Where do five optimizers go from one start, and how much of it does one picture show?

SGD, heavy ball, Adam, Muon (Jordan et al. 2024) and SAM (Foret et al. 2021) train a tanh network on scikit-learn's
digits (or your own model by --problem) from the same start, with the same minibatches. All snapshots of all runs give
one plane, their first two principal directions through the start; train and test loss are swept over it, and the five
paths are drawn in it. A picture of the landscape over time goes with one of the runs: the slice through each of its
snapshots, parallel to that plane.

Learning rates follow a rule: of one list, the rate with the least training loss at the end of a run from another start;
the test set has no say. A step of SAM takes two gradients, so it has half the steps. Runs that were recorded elsewhere
(`landscape.Recorder`) take the place of the five by --recording.

Expected: independent random walks from one start would share the variance by the printed null (after Antognini &
Sohl-Dickstein 2018). Losses of the snapshots, evaluated again, are those of the training to rounding. What the picture
does not show is printed for each run: how far it strays from the plane, and how much the surface under its end is above
its own loss. Nothing here ranks optimizers: it is one start, one network and few rates.

Cost: about three minutes of CPU time for the defaults.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _lab import Lab, UsageError, main

import landscape as ls
from landscape.engine import function_digests
from landscape.plotting import dress_log_ticks

Name = Literal["sgd", "momentum", "adam", "muon", "sam"]
WORDS = {"sgd": "SGD", "momentum": "heavy ball", "adam": "Adam", "muon": "Muon", "sam": "SAM"}
COLORS = ("#0072b2", "#d55e00", "#e69f00", "#009e73", "#cc79a7", "#000000", "#56b4e9")
GRADIENTS = {"sam": 2}  # of a step; one of the others
RADIUS = 0.05  # of SAM's inner step


@dataclass(frozen=True)
class Config:
    """Settings of this experiment."""

    optimizers: tuple[Name, ...] = ("sgd", "momentum", "adam", "muon", "sam")
    """Optimizers to run."""
    recording: tuple[Path, ...] = ()
    """Recordings in place of these runs, of the problem's parameters; each is named after its folder."""
    steps: int = 400
    """Gradients of each run."""
    batch_size: int = 128
    """Examples of a minibatch; 0 for all."""
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
    """Learning rates to choose from."""
    snapshots: int = 50
    """Points of each path."""
    resolution: int = 81
    """Points along each axis of the plane."""
    film: Name | Literal["last", "none"] = "last"
    """The run whose landscape over time is played; the last one, or none."""
    film_resolution: int = 33
    """Points along each axis of the film."""
    frames: int = 24
    """Frames of the film at most."""
    hidden: tuple[int, ...] = (32,)
    """Widths of the hidden layers of the digits network."""
    seed: int = 0
    """Seed of the start and of the minibatches."""


SMOKE = Config(
    optimizers=("momentum", "muon", "sam"), steps=24, rates=(1e-2, 0.1), snapshots=6, resolution=9, film_resolution=7,
    frames=3, hidden=(4,),
)  # fmt: skip


@lru_cache
def build(name: Name, rate: Any) -> optax.GradientTransformation:
    """The optimizer of this name and learning rate."""
    if name == "sam":
        inner = optax.chain(optax.contrib.normalize(), optax.sgd(RADIUS))
        return optax.contrib.sam(optax.sgd(rate, momentum=0.9), inner, sync_period=2, opaque_mode=True)
    makers = {"sgd": optax.sgd, "momentum": partial(optax.sgd, momentum=0.9), "adam": optax.adam}
    return makers[name](rate) if name in makers else optax.contrib.muon(rate)


def run(config: Config, lab: Lab) -> dict[str, ls.Landscape]:
    """Train and test loss over the common plane, and the landscape over time of one run."""
    problem = lab.problem or ls.problems.digits_mlp(hidden=config.hidden)
    _check(config, problem)
    runs, rates = (_recorded(config, problem), {}) if config.recording else _trained(config, lab, problem)
    plane, about = _common_plane(runs)
    paths = {label: _path(problem, plane, path) for label, path in runs.items()}
    grid = ls.Grid(_axes(np.concatenate([path["coords"] for path in paths.values()]), config.resolution, about))
    surface = ls.LossSurface(plane, problem.objectives)
    meta = {"model": problem.name, "num_params": sum(x.size for x in jax.tree.leaves(plane.origin)), **about}
    meta |= {"rates": rates}
    meta["unit"] = "step" if config.recording else "gradient"
    result = {"plane": lab.sweep("plane", surface, grid, lambda _: {"paths": paths, "common": meta})}
    if config.film != "none":
        result["film"] = _film(config, lab, problem, plane, runs)
    return {name: landscape for name, landscape in result.items() if landscape is not None}


def _check(config: Config, problem: ls.Problem) -> None:
    """Refuse, before any work, what cannot be done."""
    least = {"steps": 2, "snapshots": 2, "resolution": 3, "film_resolution": 3, "frames": 1}
    for name, count in least.items():
        if getattr(config, name) < count:
            raise UsageError(f"--{name.replace('_', '-')} must be at least {count}, got {getattr(config, name)}")
    if not config.optimizers or len(set(config.optimizers)) < len(config.optimizers):
        raise UsageError("--optimizers must be at least one, each once")
    if not config.rates or min(config.rates) <= 0:
        raise UsageError("--rates must be positive learning rates")
    if config.film not in ("last", "none", *config.optimizers) or (config.recording and config.film in WORDS):
        raise UsageError(f"--film must be last, none or one of the runs, got {config.film}")
    if config.batch_size > (problem.objectives["train"].num_examples or config.batch_size):
        raise UsageError(f"--batch-size must be at most the examples, got {config.batch_size}")


def _recorded(config: Config, problem: ls.Problem) -> dict[str, ls.Trajectory]:
    """Runs that were recorded elsewhere."""
    like = jax.eval_shape(problem.init, jax.random.key(0))
    labels = [path.name.removesuffix(".zarr") for path in config.recording]
    if len(set(labels)) < len(labels):
        raise UsageError("--recording: two folders have the same name, by which runs are told apart; rename one")
    return {label: ls.Trajectory(path, like=like) for label, path in zip(labels, config.recording)}


def _trained(config: Config, lab: Lab, problem: ls.Problem) -> tuple[dict[str, ls.Trajectory], dict[str, float]]:
    """The path of each optimizer from one start, by the name that it has in the picture, and its learning rate."""
    objective, key = problem.objectives["train"], jax.random.key(config.seed)
    start, other = problem.init(key), problem.init(jax.random.fold_in(key, 7))
    program = function_digests(jax.make_jaxpr(lambda o, p: o(p))(objective, start), (objective, start))
    runs, rates = {}, {}
    for name in config.optimizers:
        if lab.planning:
            runs[WORDS[name]] = _stand_in(start, config)
            continue
        recipe = [problem.name, name, config.steps, config.batch_size, config.rates, config.snapshots, config.seed]
        kept: Any = lab.remember(
            f"training_{name}",
            [*recipe, program],
            partial(_train, name, config, problem, start, other),
            f"training by {WORDS[name]}",
        )
        rate, snapshots, history = kept
        rates[WORDS[name]] = float(rate)
        gradients = np.asarray(history.pop("step")) * GRADIENTS.get(name, 1)
        runs[WORDS[name]] = ls.Trajectory(snapshots, like=start, steps=gradients, scalars=history)
    return runs, rates


def _stand_in(start: Any, config: Config) -> ls.Trajectory:
    """Something of the right shape to plan with."""
    scatter = ls.subspace.random_directions(jax.random.key(0), start, config.snapshots + 1)
    return ls.Trajectory(jax.tree.map(lambda p, d: p + d, start, scatter), like=start)


def _train(name: Name, config: Config, problem: ls.Problem, start: Any, other: Any) -> Any:
    """The learning rate chosen, the snapshots and the history of one run."""
    objective, steps = problem.objectives["train"], max(1, config.steps // GRADIENTS.get(name, 1))
    options: Any = {"num_steps": steps}
    if config.batch_size:
        options |= {"batch_size": config.batch_size, "key": jax.random.key(config.seed + 1)}
    rates = jnp.asarray(config.rates)
    inits = jax.tree.map(lambda x: jnp.stack([x] * len(rates)), other)
    pilot = ls.train_many(objective, partial(_built, name), inits, hyper=rates, progress=False, **options)
    losses = np.asarray(jax.lax.map(objective, pilot.params))
    rate = float(config.rates[int(np.argmin(np.where(np.isfinite(losses), losses, np.inf)))])
    run = ls.train(
        objective,
        build(name, rate),
        start,
        record_every=max(1, steps // config.snapshots),
        snapshots=True,
        track=problem.objectives,
        **options,
    )
    history = {key: value for key, value in run.history.items() if key == "step" or key.endswith("_loss")}
    num = int(np.argmax(history["step"])) + 1  # after the end, entries repeat the last
    return jnp.asarray(rate), jax.tree.map(lambda x: x[:num], run.snapshots), {k: v[:num] for k, v in history.items()}


def _built(name: Name, rate: Any) -> optax.GradientTransformation:
    """With a rate that the compiled program is given."""
    return build.__wrapped__(name, rate)


def _common_plane(runs: Mapping[str, ls.Trajectory]) -> tuple[ls.Subspace, dict[str, Any]]:
    """The plane through the start along the first two principal directions of all snapshots."""
    paths = list(runs.values())
    directions, explained = ls.subspace.pca_directions(paths)
    null = ls.subspace.random_walks_explained([path.steps for path in paths])
    start = paths[0][0]
    moved = {label: jax.tree.map(np.subtract, path[-1], path[0]) for label, path in runs.items()}
    gram = ls.subspace.gram(list(moved.values()), like=start)
    cosines = gram / np.sqrt(np.outer(np.diagonal(gram), np.diagonal(gram)))
    pairs = {f"{a} and {b}": cosines[i, j] for (i, a), (j, b) in combinations(enumerate(moved), 2)}
    about = {"explained": np.asarray(explained), "null": null, "cosines": pairs}
    return ls.Subspace(start, directions), about


def _path(problem: ls.Problem, plane: ls.Subspace, path: ls.Trajectory) -> dict[str, Any]:
    """Where a run is in the plane, its distances from the plane and from its start, and its losses."""
    entry = {"coords": plane.project(path), "residual": plane.residual(path), "step": path.steps}
    squares = np.diagonal(gram := ls.subspace.gram(path))
    entry["distance"] = np.sqrt(np.maximum(squares + squares[0] - 2 * gram[0], 0))
    evaluate = jax.jit(lambda objective, params: objective(params))
    for name, objective in problem.objectives.items():
        entry[f"{name}_loss"] = np.asarray([float(evaluate(objective, params)) for params in path])
    if "train_loss" in path.scalars:
        entry["recorded"] = path.scalars["train_loss"]
    return {"loss": entry["train_loss"], **entry}


def _axes(coords: np.ndarray, num: int, about: Mapping[str, Any]) -> tuple[ls.Axis, ls.Axis]:
    """A square around all paths: equal scales, so that distances in the picture are distances in the plane."""
    low, high = coords.min(axis=0), coords.max(axis=0)
    half, middle = 0.65 * float(np.max(high - low)), (low + high) / 2
    names = zip(("alpha", "beta"), middle, about["explained"])
    return tuple(ls.Axis.linspace(name, at - half, at + half, num, f"direction {i}: {share:.0%} of the variance")
                 for i, (name, at, share) in enumerate(names, 1))  # ty: ignore[invalid-explicit-return]  # fmt: skip


def _film(config: Config, lab: Lab, problem: ls.Problem, plane: ls.Subspace, runs: Mapping[str, Any]) -> Any:
    """The landscape over time of one run."""
    label = list(runs)[-1] if config.film == "last" else WORDS[config.film]
    path = runs[label]
    chosen = np.unique(np.linspace(0, len(path) - 1, min(config.frames, len(path))).round().astype(int))
    at = ls.recording.along(path, plane)
    coords = np.asarray(plane.project(path))
    about = {"explained": (np.nan, np.nan)}
    alpha, beta = (ls.Axis(a.name, a.values, f"direction {i}") for i, a in enumerate(
        _axes(coords, config.film_resolution, about), 1))  # fmt: skip
    step = ls.Axis("step", path.steps[chosen].astype(float), "step" if config.recording else "gradient")
    surface = ls.LossSurface(at, {"train": problem.objectives["train"]})
    meta = {"paths": {label: {"coords": coords, "step": path.steps}}, "model": problem.name}
    return lab.sweep("film", surface, ls.Grid((alpha, beta, step)), lambda _: meta)


def plot(result: Mapping[str, ls.Landscape]) -> dict[str, Any]:
    """The poster, train beside test, and the film."""
    figures = {"paths": _poster(result["plane"])}
    if "test_loss" in result["plane"]:
        figures["train_test"] = _both(result["plane"])
    if "film" in result:
        film = result["film"]
        figures["film"] = ls.plotting.animate(film, "train_loss", cmap=CMAP)
    return figures


CMAP = "bone"


def _poster(landscape: ls.Landscape) -> Any:
    """The plane with all paths, and beside it what it does not show."""
    from matplotlib import pyplot

    about, paths = landscape.meta["common"], landscape.meta["paths"]
    figure = pyplot.figure(figsize=(10.4, 6.2), layout="constrained")
    parts: Any = figure.subfigures(1, 2, width_ratios=(1.75, 1))
    left, right = parts
    ax = left.subplots()
    _map(ax, landscape, "train_loss", paths, "training loss")
    loss, distance, shares = right.subplots(3, 1, height_ratios=(1.25, 1, 0.75))
    for path, color in zip(paths.values(), COLORS):
        step = np.asarray(path["step"])
        loss.plot(step, path["loss"], color=color)
        loss.plot(step, _under(landscape, path), color=color, linestyle=(0, (1, 1.5)), linewidth=1.0)
        away = np.divide(
            path["residual"], path["distance"], out=np.zeros(len(step)), where=np.asarray(path["distance"]) > 0
        )
        distance.plot(step[1:], away[1:], color=color)
    loss.set(yscale="log", title="own loss (line), surface under the path (dots)", ylabel="training loss")
    dress_log_ticks(loss.yaxis, *loss.get_ylim())
    title = "distance from the plane / distance from the start"
    distance.set(title=title, ylim=(0, 1), xlabel=f"{about['unit']}s", ylabel="share")
    _shares(shares, about)
    figure.suptitle(
        f"{len(paths)} runs from one start in one plane: {about['model']}, {about['num_params']:,} parameters"
    )
    return figure


def _map(ax: Any, landscape: ls.Landscape, name: str, paths: Mapping[str, Any], title: str, **limits: Any) -> None:
    """One loss over the plane with all paths in it."""
    ls.plotting.heatmap(landscape, name, ax=ax, contours=12, minimum=False, cmap=CMAP, aspect="equal", **limits)
    for (label, path), color in zip(paths.items(), COLORS):
        loss = path.get(name, path["loss"])
        entry = {"coords": path["coords"], "loss": loss, "residual": path["residual"]}
        ls.plotting.trajectory(landscape, {label: entry}, ax=ax, color=color, linewidth=2.2, describe=False)
    _name_ends(ax, paths)
    ax.set_title(title)


def _name_ends(ax: Any, paths: Mapping[str, Any]) -> None:
    """The name of each run beside its end, towards the middle of the picture, clear of those below it."""
    from matplotlib.patheffects import withStroke

    named = [(label, np.asarray(path["coords"])[-1], color) for (label, path), color in zip(paths.items(), COLORS)]
    middle, width, gap = np.mean(ax.get_xlim()), 0.025 * np.ptp(ax.get_xlim()), 0.048 * np.ptp(ax.get_ylim())
    taken = {1: -np.inf, -1: -np.inf}
    for label, (x, y), color in sorted(named, key=lambda run: run[1][1]):
        side = 1 if x < middle else -1
        taken[side] = max(y, taken[side] + gap)
        words = ax.text(x + side * width, taken[side], label, ha="left" if side > 0 else "right", va="center", zorder=9)
        words.set(color=color, fontsize="large", fontweight="bold")
        words.set_path_effects([withStroke(linewidth=2.6, foreground="white")])


def _under(landscape: ls.Landscape, path: Mapping[str, Any], name: str = "train_loss") -> np.ndarray:
    """The loss of the plane at the grid point that is nearest to each point of a path."""
    index = [np.argmin(np.abs(axis.values[:, None] - column), axis=0)
             for axis, column in zip(landscape.grid.axes, np.asarray(path["coords"]).T)]  # fmt: skip
    return landscape[name][tuple(index)]


def _shares(ax: Any, about: Mapping[str, Any]) -> None:
    """Shares of variance beside those of random walks."""
    place = np.arange(2)
    ax.barh(place - 0.2, about["explained"], 0.36, color="0.25", label="these runs")
    ax.barh(place + 0.2, about["null"], 0.36, color="0.75", label="random walks from one start")
    ax.set(yticks=place, yticklabels=["direction 1", "direction 2"], xlim=(0, 1), xlabel="share of the variance")
    ax.invert_yaxis()
    ax.legend(frameon=False, loc="lower right")


def _both(landscape: ls.Landscape) -> Any:
    """Training and test loss with the paths, in one scale."""
    from matplotlib import pyplot

    paths = landscape.meta["paths"]
    figure, axes = pyplot.subplots(1, 2, figsize=(10.4, 5.6), layout="constrained")
    both = np.concatenate([landscape[name][np.isfinite(landscape[name])] for name in ("train_loss", "test_loss")])
    limits = {"vmin": float(both.min()), "vmax": float(both.max()), "scale": "log" if both.min() > 0 else "linear"}
    for ax, name, title in zip(axes, ("train_loss", "test_loss"), ("training loss", "test loss")):
        _map(ax, landscape, name, paths, title, **limits)
    return figure


def findings(result: Mapping[str, ls.Landscape]) -> list[tuple[str, str, str]]:
    """Rows of `(what, expected, found)`."""
    landscape = result["plane"]
    about, paths = landscape.meta["common"], landscape.meta["paths"]
    shares = " + ".join(f"{share:.1%}" for share in about["explained"])
    null = " + ".join(f"{share:.1%}" for share in about["null"])
    rows = [("variance of all snapshots in the plane", f"{null} (random walks)", shares)]
    if about["rates"]:
        chosen = ", ".join(f"{label} {rate:g}" for label, rate in about["rates"].items())
        rows.insert(0, ("learning rates chosen", "inside the list", chosen))
    for label, path in paths.items():
        rows += _rows_of(label, path, landscape)
    if about["cosines"]:
        ends = sorted(about["cosines"].items(), key=lambda pair: pair[1])
        for what, (pair, cosine) in (("least", ends[0]), ("most", ends[-1])):
            rows.append((f"ways that are {what} alike: {pair}", "1 if they went one way", f"cosine {cosine:.2f}"))
    return rows


def _rows_of(label: str, path: Mapping[str, Any], landscape: ls.Landscape) -> list[tuple[str, str, str]]:
    ends = ", ".join(f"{name} {path[f'{name}_loss'][-1]:.4g}" for name in ("train", "test") if f"{name}_loss" in path)
    largest, length = float(np.max(path["residual"])), float(np.max(path["distance"]))
    off = f"{largest:.3g} = {largest / length:.0%} of its way" if length > 0 else f"{largest:.3g}"
    under = float(_under(landscape, path)[-1])
    rows = [
        (f"{label}: loss at the end", "-", ends),
        (f"{label}: largest distance from the plane", "0 if the plane held it", off),
        (f"{label}: surface under its end", f"{path['loss'][-1]:.4g} if the plane held it", f"{under:.4g}"),
    ]
    if "recorded" in path:
        loss, recorded = np.asarray(path["loss"]), np.asarray(path["recorded"])
        error = float(np.nanmax(np.abs(loss - recorded) / np.maximum(np.abs(recorded), 1e-30)))
        rows.append((f"{label}: recorded loss, evaluated again", "0, to rounding", f"largest difference {error:.1e}"))
    return rows


if __name__ == "__main__":
    main("paths", Config, SMOKE, run, plot, findings)
