"""What does the loss look like around a trained network, on the training data and on new data?

Trains a classifier (a tanh network on scikit-learn's handwritten digits, or your own model by --problem), then sweeps
train and test loss and every metric in one pass over planes through the trained parameters:

- filter: two random directions, each filter scaled to the norm of the network's own (Li et al. 2018);
- pca: the plane in which the training path varies most, with the path drawn in it.

Expected: the loss at the centre equals the loss of the trained parameters; the test minimum lies beside the train
minimum; the path's plane explains most of the path, but a long random walk explains 76 % in two directions, so that
number is printed beside it (Antognini & Sohl-Dickstein 2018).

Cost: under a minute on two CPU cores for the defaults, 101 x 101 points in each plane.
"""

import dataclasses
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from _lab import Lab, UsageError, main, say
from _networks.planes import Directions, Settings, path_in, plane_of, train

import landscape as ls
from landscape.plotting import BOX

TITLES = {
    "filter": "random plane, filter normalised",
    "layer": "random plane, layer normalised",
    "none": "random plane",
    "pca": "plane of the training path",
    "three-point": "plane through three solutions",
    "hessian": "plane of the sharpest two eigenvectors",
}


@dataclass(frozen=True)
class Config:
    """Settings of this experiment."""

    directions: tuple[Directions, ...] | None = None
    """Planes to draw: filter and, where there is a training path, pca by default. filter, layer and none are random
    directions with that normalisation; hessian are the eigenvectors of the two largest eigenvalues."""
    resolution: int = 101
    """Points along each axis; an odd number has a point at the centre."""
    tolerance: float | None = None
    """Evaluate only as many points as it takes to know every loss to this share of its range; every point by default.
    Metrics that jump, such as accuracies, are then known only at the points evaluated."""
    extent: float | Literal["auto"] | None = None
    """Half-width of the random planes and of the hessian plane, in units of the directions. auto reaches to where the
    loss has doubled, or risen half-way to that of zero weights, in the median direction: the default for a model of
    your own, and 1 for the digits."""
    metrics: tuple[Literal["sem", "gradient", "gradient_norm", "off_plane"], ...] = ()
    """More outputs on the map, beside the losses and the model's own metrics."""
    layout: Literal["flax", "haiku", "torch", "equinox"] = "flax"
    """How kernels store their filters, for filter normalisation."""
    trainable: str | None = None
    """Move only the parameters whose names match this pattern, such as '*lora*' or 'decoder.*'; all by default."""
    recalibrate: bool = False
    """Measure batch-norm statistics anew at every point (needs Objective.update_state)."""
    steps: int = 200
    """Training steps."""
    learning_rate: float = 3e-3
    """Learning rate of Adam."""
    train_batch: int | None = None
    """Examples per training step; all by default."""
    snapshots: int = 50
    """Points of the training path to keep."""
    seed: int = 0
    """Seed of the initial parameters, the directions and the minibatches."""


SMOKE = Config(resolution=11, steps=40, snapshots=8)


def run(config: Config, lab: Lab) -> dict[str, ls.Landscape]:
    """One landscape per plane."""
    problem = _parted(config, lab.problem or ls.problems.digits_mlp())
    kinds = _kinds(config, lab, problem)
    if lab.problem is not None and {"filter"} & set(kinds):
        say(f"filters as in {config.layout} (--layout)")
    settings = Settings.of(config)
    trained = train(settings, lab, problem, config.seed)
    planes = {kind: plane_of(kind, settings, lab, problem, trained) for kind in kinds}
    result = {}
    for kind, (plane, grid, meta) in planes.items():
        surface = ls.LossSurface(plane, problem.objectives, config.metrics, config.recalibrate)
        about = partial(_about, problem, trained, surface, meta)
        landscape = lab.sweep(kind, surface, grid, about, tolerance=config.tolerance)
        if landscape is not None:
            result[kind] = landscape
    return result


def _parted(config: Config, problem: ls.Problem) -> ls.Problem:
    """The problem whose parameters are those that move; integers and booleans among them are set aside."""
    params = jax.eval_shape(problem.init, jax.random.key(0)) if problem.params is None else problem.params
    leaves = jax.tree.leaves(params)
    if config.trainable is None and all(jnp.issubdtype(jnp.result_type(x), jnp.floating) for x in leaves):
        return problem
    try:
        parted = problem.only(config.trainable)
    except ValueError as error:
        raise UsageError(f"--trainable: {error}") from None
    moving = parted.init(jax.random.key(0)) if parted.params is None else parted.params
    say(f"{_count(moving):,} of {_count(params):,} parameters move")
    return parted


def _count(params: Any) -> int:
    """Numbers in a tree."""
    return sum(int(np.prod(jnp.shape(x))) for x in jax.tree.leaves(params))


def _kinds(config: Config, lab: Lab, problem: ls.Problem) -> tuple[Directions, ...]:
    """The planes to draw; what cannot be done is refused before any work."""
    positive = {
        "--resolution": (config.resolution, 3),
        "--steps": (config.steps, 0),
        "--snapshots": (config.snapshots, 1),
    }
    for flag, (value, least) in positive.items():
        if value < least:
            raise UsageError(f"{flag} must be at least {least}, got {value}")
    if config.tolerance is not None and not 0 < config.tolerance < 1:
        raise UsageError(f"--tolerance is a share of the range of a loss, between 0 and 1; got {config.tolerance}")
    if config.tolerance is not None and lab.options.get("shard") is not None:
        raise UsageError("--tolerance cannot be divided by --shard: each round depends on the one before")
    for flag, size in (("--extent", config.extent), ("--learning-rate", config.learning_rate)):
        if not isinstance(size, str | None) and not 0 < size < float("inf"):
            raise UsageError(f"{flag} must be positive and finite, got {size}")
    examples = problem.objectives["train"].num_examples
    if config.train_batch is not None and not 1 <= config.train_batch <= (examples or 0):
        raise UsageError(f"--train-batch must be between 1 and the {examples} examples, got {config.train_batch}")
    path = (problem.params is None and config.steps > 2) or problem.snapshots is not None
    kinds = config.directions or (("filter", "pca") if path else ("filter",))
    if "pca" in kinds and not path:
        raise UsageError(
            "--directions pca needs a training path of some steps, and there is none: give Problem(snapshots=...), "
            "leave Problem.params away so that it is trained here (--steps), or use --directions filter"
        )
    return kinds


def _about(problem: ls.Problem, trained: ls.Run, surface: ls.LossSurface, meta: Any, landscape: ls.Landscape) -> Any:
    """What the findings and the figures need beside the values, to be stored with them."""
    plane: Any = surface.at
    unperturbed = _unperturbed(surface, trained.params, landscape)
    path = path_in(plane, trained.snapshots) | {"loss": trained.history["train_loss"]}
    about = {
        **meta,
        "model": problem.name,
        "num_params": sum(x.size for x in jax.tree.leaves(trained.params)),
        "trained": {name: unperturbed[f"{name}_loss"] for name in problem.objectives},
        "gram": plane.gram(),
        "path_length": float(np.max(path.pop("distance"))),
        "path_residual": float(np.max(path["residual"])),
        "gradient_share": _gradient_share(problem.objectives["train"], plane.directions, trained.snapshots),
    }
    # a random plane holds nothing of the path: drawn there, it would be a dot that looks like a standstill
    paths = {"training path": path} if "explained" in meta or "corners" in meta else {}
    return {"surface": about, "paths": paths}


def _unperturbed(surface: ls.LossSurface, params: Any, landscape: ls.Landscape) -> dict[str, float]:
    """The losses of the trained parameters, by the program that made the map, with all directions set to zero.

    The same losses by another program, such as the one that trained, may differ in the last bit.
    """
    plane: Any = surface.at
    still = ls.Subspace(params, jax.tree.map(jnp.zeros_like, plane.directions))
    strategy = ls.Strategy(**landscape.meta["plan"]["batching"])
    point = ls.Grid.of(alpha=[0.0], beta=[0.0])
    values = ls.sweep(dataclasses.replace(surface, at=still), point, batch=strategy, progress=False)
    return {name: float(values[name][0, 0]) for name in values if name.endswith("_loss")}


@jax.jit
def _gradient_share(objective: ls.Objective, directions: Any, snapshots: Any) -> jax.Array:
    """Share of the squared gradient that lies in the plane of the directions, at each snapshot of a path."""

    def share(params: Any) -> jax.Array:
        plane = ls.Subspace(params, directions)
        return 1 - ls.LossSurface(plane, objective, ("off_plane",))(jnp.zeros(plane.dim))["off_plane"]

    return jax.lax.map(share, snapshots)


def plot(result: Mapping[str, ls.Landscape]) -> dict[str, Any]:
    """Figures of every plane from above and in 3-D, and a summary of the first and the last."""
    figures = {}
    for kind, landscape in result.items():
        about = landscape.meta["surface"]
        title = f"{about['model']}, {TITLES[kind]}"
        if "extent" in about:
            title += "\n" + "\n".join(textwrap.wrap(about["extent"], 70))
        figures[kind] = ls.plotting.overview(landscape)
        figures[kind].suptitle(title)
        figures[f"{kind}_3d"] = _view(landscape, title)
        names = _further_outputs(landscape)
        if names:
            figures[f"{kind}_outputs"] = ls.plotting.overview(landscape, names, minimum=False)
            figures[f"{kind}_outputs"].suptitle(title)
    figures["summary"] = _summary(list(result.items()))
    return figures


def _further_outputs(landscape: ls.Landscape) -> list[str]:
    """What --metrics added: outputs of one number a point beside losses and the model's own metrics."""
    asked = ("_sem", "_gradient_norm", "_off_plane")
    names = [name for name in landscape if name.endswith(asked) and landscape[name].shape == landscape.grid.shape]
    return sorted(names, key=lambda name: not name.startswith("train"))


def _view(landscape: ls.Landscape, title: str) -> Any:
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(5.2, 4.4))
    axes = ls.plotting.surface3d(landscape, "train_loss", ax=figure.add_subplot(projection="3d"))
    axes.set_title(title)
    return figure


def _summary(planes: list[tuple[str, ls.Landscape]]) -> Any:
    """Four panels: the first plane from above and in 3-D, its gap, and the last plane with its path."""
    from matplotlib import pyplot

    (_, first), (kind, last) = planes[0], planes[-1]

    figure = pyplot.figure(figsize=(9.6, 7.4))
    axes = [figure.add_subplot(2, 2, i + 1, projection="3d" if i == 1 else None) for i in range(4)]
    ls.plotting.heatmap(first, "train_loss", ax=axes[0], contours=True, minimum=not _at_border(first, "train_loss"))
    ls.plotting.surface3d(first, "train_loss", ax=axes[1])
    _fill_panel(axes[1])
    titles = [
        "training loss",
        "the same in 3-D",
        "test loss minus training loss",
        f"training loss, {TITLES[kind]}",
    ]
    if "test_loss" in first:
        gap = ls.analysis.generalization_gap(first)
        ls.plotting.heatmap(first.assign(gap=gap), "gap", ax=axes[2], minimum=False, contours=True, center=0.0)
    else:
        axes[2].set_axis_off()
        titles[2] = ""
    if len(planes) > 1:
        inside = not _at_border(last, "train_loss")
        ls.plotting.heatmap(last, "train_loss", ax=axes[3], contours=True, aspect="auto", minimum=inside)
        if last.meta["paths"]:
            ls.plotting.trajectory(last, ax=axes[3])
    else:
        axes[3].set_axis_off()
        titles[3] = ""
    for axis, letter, title in zip(axes, "abcd", titles):
        if title:
            axis.set_title(f"({letter}) {title}", loc="left")
    if "extent" in first.meta["surface"]:
        figure.suptitle(f"(a) - (c) {first.meta['surface']['extent']}", fontsize="medium")
    return figure


def _fill_panel(solid: Any) -> None:
    """A larger box than in a figure of its own, since the panel is wider than high; names clear of the ticks."""
    solid.set_box_aspect(BOX, zoom=1.15)
    for axis in (solid.xaxis, solid.yaxis):
        axis.labelpad = 3.0


def _at_border(landscape: ls.Landscape, name: str) -> bool:
    """Whether the lowest point lies on the edge of the grid, where the loss may go on falling: no minimum then."""
    if not np.any(np.isfinite(landscape[name])):
        return False
    return any(i in (0, n - 1) for i, n in zip(landscape.argmin(name), landscape.grid.shape))


def findings(result: Mapping[str, ls.Landscape]) -> list[tuple[str, str, str]]:
    """Rows of `(what, expected, found)`."""
    rows = []
    for kind, landscape in result.items():
        rows += [(f"{kind}: {what}", expected, found) for what, expected, found in _rows(landscape)]
    return rows


def _rows(landscape: ls.Landscape) -> list[tuple[str, str, str]]:
    about = landscape.meta["surface"]
    centre = landscape.grid.index(0.0)
    rows = []
    for name, loss in about["trained"].items():
        at = landscape.coords(centre)
        found = float(landscape[f"{name}_loss"][centre])
        note = "" if found == loss else f" ({found - loss:+.1e})"
        if np.any(at != 0):
            note = f" (no grid point at the centre; this is at {_coords(at)})"
        rows.append((f"{name} loss at the centre", f"{loss:.7g} (trained parameters)", f"{found:.7g}{note}"))
    rows += [_minimum_row(landscape, name) for name in about["trained"]]
    rows += _tolerance_rows(landscape)
    if "explained" in about:
        null = " + ".join(f"{s:.1%}" for s in about["random_walk"])
        found = " + ".join(f"{s:.1%}" for s in about["explained"])
        rows.append(("variance of the path explained", f"{null} (random walk)", found))
    if "eigenvalues" in about and landscape.computed.all():
        rows += [_eigenvalue_row(landscape, i) for i in (0, 1)]
    residual, length = about["path_residual"], about["path_length"]
    if length > 0:
        share = f"{residual:.3g} = {residual / length:.0%} of its length"
        rows.append(("largest distance of the path from the plane", "0 if the plane held it", share))
    shares = about["gradient_share"]
    chance = f"{landscape.grid.ndim / about['num_params']:.2g} (random plane)"
    rows.append(("gradient in the plane, along the path", chance, f"mean {np.mean(shares):.2g}, end {shares[-1]:.2g}"))
    return rows


def _eigenvalue_row(landscape: ls.Landscape, axis: int) -> tuple[str, str, str]:
    """The curvature of the map itself at its centre, by second differences, beside the eigenvalue."""
    about, centre = landscape.meta["surface"], landscape.grid.index(0.0)
    step = float(landscape.grid.axes[axis].values[1] - landscape.grid.axes[axis].values[0])
    near = [tuple(n + by * (i == axis) for i, n in enumerate(centre)) for by in (-1, 0, 1)]
    below, here, above = (float(landscape["train_loss"][index]) for index in near)
    value, residual = about["eigenvalues"][axis], about["residuals"][axis]
    curved = (above - 2 * here + below) / step**2
    found = f"{curved:.5g} (second difference, step {step:.2g})"
    return f"curvature along axis {axis + 1}", f"{value:.5g} (eigenvalue, within {residual:.1g})", found


def _tolerance_rows(landscape: ls.Landscape) -> list[tuple[str, str, str]]:
    """What a sweep at a tolerance evaluated, and what it promises."""
    promise = landscape.promise
    if promise is None:
        return []
    share = promise.evaluations / promise.points
    evaluated = f"{promise.evaluations:,} of {promise.points:,} ({share:.2%}) in {promise.rounds} rounds"
    rows = [("points evaluated", "few where it is smooth", evaluated)]
    for name, one in promise.outputs.items():
        wanted = f"{one.asked['tolerance']:g} of the range {one.asked['range']:.4g}"
        bound = f"{one.error:.3g} estimated; beyond it at most {one.fraction:.2%} of the points (95 %)"
        rows.append((f"{name}, largest error", wanted, bound))
    return rows


def _minimum_row(landscape: ls.Landscape, name: str) -> tuple[str, str, str]:
    if not np.any(np.isfinite(landscape[f"{name}_loss"])):
        return f"{name} minimum on the grid", "a finite loss", "none is finite"
    index = landscape.argmin(f"{name}_loss")
    edge = " (at the border)" if _at_border(landscape, f"{name}_loss") else ""
    found = f"{landscape[f'{name}_loss'][index]:.7g} at {_coords(landscape.coords(index))}{edge}"
    return (
        f"{name} minimum on the grid" if landscape.computed.all() else f"{name} minimum of the points evaluated",
        "at (0, 0) if training is over" if name == "train" else "beside it",
        found,
    )


def _coords(coords: np.ndarray) -> str:
    return "(" + ", ".join(f"{c:.3g}" for c in coords) + ")"


if __name__ == "__main__":
    main("surface", Config, SMOKE, run, plot, findings)
