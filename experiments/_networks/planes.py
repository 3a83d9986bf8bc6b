"""Planes through trained parameters: random, along a path, along eigenvectors, through three solutions; their grids."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _lab import Lab, UsageError, say
from _lab.optimizers import adam

import landscape as ls
from landscape.engine import function_digests

Directions = Literal["filter", "layer", "none", "pca", "three-point", "hessian"]


@dataclass(frozen=True)
class Settings:
    """How the networks are trained through which a plane goes, and how far it reaches."""

    resolution: int = 101
    extent: float | Literal["auto"] | None = 1.0
    layout: Literal["flax", "haiku", "torch", "equinox"] = "flax"
    steps: int = 200
    learning_rate: float = 3e-3
    train_batch: int | None = None
    snapshots: int = 50
    seed: int = 0

    @classmethod
    def of(cls, config: Any) -> "Settings":
        """Those of an experiment that has settings of the same names among its own."""
        return cls(*(getattr(config, field.name) for field in dataclasses.fields(cls)))


def train(config: Settings, lab: Lab, problem: ls.Problem, seed: int) -> ls.Run:
    """The problem's own parameters, or a training run from a random start."""
    key = jax.random.key(seed)
    if lab.planning:
        return _stand_in(problem.init(key), config)
    if problem.params is not None and seed == config.seed:
        return _given(problem)
    every = max(1, config.steps // config.snapshots)

    def compute() -> ls.Run:
        return ls.train(
            problem.objectives["train"],
            adam(config.learning_rate),
            problem.init(key),
            num_steps=config.steps,
            key=jax.random.fold_in(key, 1),
            batch_size=config.train_batch,
            record_every=every,
            snapshots=True,
            track=problem.objectives,
        )

    recipe = [problem.name, seed, config.steps, config.learning_rate, config.train_batch, every]
    settings = [*recipe, _what_is_trained(problem.objectives["train"], problem.init(key))]
    if problem.objectives["train"].state is not None:
        say(
            "note: the model state (such as batch-norm statistics) is held fixed in this training; where that is not "
            "what you want, train it yourself and give Problem(params=...)"
        )
    doing = f"training {problem.name} for {config.steps} steps (seed {seed})"
    run = lab.remember(f"training_{seed}", settings, compute, doing)
    if run.outcome == ls.Outcome.DIVERGED:
        say(f"note: the training diverged at step {int(run.steps)}; the map is drawn around the last finite parameters")
    return run


def _what_is_trained(objective: ls.Objective, params: Any) -> dict[str, Any]:
    """What tells this model, its data and its start from others of the same name."""
    program = jax.make_jaxpr(lambda o, p: o(p))(objective, params)
    return function_digests(program, (objective, params))


def _given(problem: ls.Problem) -> ls.Run:
    """A run that consists of parameters trained elsewhere."""
    snapshots = [problem.params] if problem.snapshots is None else problem.snapshots
    snapshots = ls.subspace.as_stack(snapshots, problem.params, "Problem.snapshots", "Problem.params")
    losses = {name: _along(objective, snapshots) for name, objective in problem.objectives.items()}
    history = {f"{name}_loss": values for name, values in losses.items()}
    return ls.Run(problem.params, history, snapshots, jnp.int32(ls.Outcome.MAX_STEPS), jnp.int32(0))


def _stand_in(params: Any, config: Settings) -> ls.Run:
    """Something of the right shape to plan with: points scattered around untrained parameters."""
    scatter = ls.subspace.random_directions(jax.random.key(0), params, config.snapshots + 1)
    snapshots = jax.tree.map(lambda p, d: p + d, params, scatter)
    return ls.Run(params, {}, snapshots, jnp.int32(0), jnp.int32(0))


def _along(objective: ls.Objective, snapshots: Any) -> jax.Array:
    return jax.jit(lambda o, s: jax.lax.map(o, s))(objective, snapshots)


def plane_of(
    kind: Directions, config: Settings, lab: Lab, problem: ls.Problem, trained: ls.Run
) -> tuple[Any, Any, Any]:
    """The plane through the trained parameters, its grid, and what is to be said about it."""
    if kind == "pca":
        return _pca_plane(config, trained)
    if kind == "three-point":
        return _three_point_plane(config, lab, problem, trained)
    if kind == "hessian":
        return _hessian_plane(config, lab, problem, trained)
    params = trained.params
    directions = ls.subspace.random_directions(jax.random.fold_in(jax.random.key(config.seed), 2), params)
    if kind == "filter":
        directions = ls.subspace.filter_normalize(directions, params, filter_axis=config.layout)
        if lab.problem is not None:  # how a stranger's parameters were read is for them to check
            say(str(ls.subspace.describe(directions, params, filter_axis=config.layout)))
    elif kind == "layer":
        directions = ls.subspace.layer_normalize(directions, params)
    labels = [f"direction {i} ({kind} normalised)" if kind != "none" else f"direction {i}" for i in (1, 2)]
    return _about_the_middle(kind, ls.Subspace(params, directions), config, lab, problem, labels)


def _about_the_middle(
    kind: str, plane: ls.Subspace, config: Settings, lab: Lab, problem: ls.Problem, labels: list[str]
) -> tuple[Any, Any, Any]:
    """A plane with a grid of the asked extent about the trained parameters, and why it reaches so far."""
    extent, why = config.extent or ("auto" if lab.problem is not None else 1.0), ""
    if extent == "auto":
        extent, why = (1.0, "") if lab.planning else _auto_extent(kind, plane, problem, config.extent == "auto")
    axes = zip(("alpha", "beta"), labels)
    grid = ls.Grid(tuple(ls.Axis.linspace(name, -extent, extent, config.resolution, label) for name, label in axes))
    return plane, grid, {"extent": why} if why else {}


def _auto_extent(kind: str, plane: ls.Subspace, problem: ls.Problem, asked: bool) -> tuple[float, str]:
    """The extent, and the rule as the figure says it; 1 where there is none and none was asked for."""
    try:
        found = ls.auto_extent(problem.objectives["train"], plane)
    except ValueError as error:
        if asked:
            raise UsageError(f"--extent auto: {error} (--extent 1, say)") from error
        say(f"{kind}: drawn to 1, since {error}")
        return 1.0, ""
    why = f"drawn to {found.value:g}, where the training loss {found.why}, in the median direction"
    say(f"{kind}: {why}")
    return found.value, why


def _hessian_plane(config: Settings, lab: Lab, problem: ls.Problem, trained: ls.Run) -> tuple[Any, Any, Any]:
    """Through the two eigenvectors of the largest eigenvalues of the training loss; they have unit length."""
    key = jax.random.fold_in(jax.random.key(config.seed), 3)
    if lab.planning:
        drawn = ls.subspace.random_directions(key, trained.params)
        stand_in = ls.subspace.orthonormalize(drawn, like=trained.params)
        plane = ls.Subspace(trained.params, stand_in)
        return _about_the_middle("hessian", plane, config, lab, problem, ["eigenvector 1", "eigenvector 2"])
    say("two largest eigenvalues of the Hessian of the training loss")
    pairs = ls.curvature.eigenpairs(key, problem.objectives["train"], trained.params, 2)
    values, residuals = np.asarray(pairs.values), np.asarray(pairs.residuals)
    labels = [f"eigenvector {i}, eigenvalue {value:.4g}" for i, value in enumerate(values, 1)]
    plane = ls.Subspace(trained.params, ls.subspace.orthonormalize(pairs.vectors, like=trained.params))
    plane, grid, about = _about_the_middle("hessian", plane, config, lab, problem, labels)
    return plane, grid, about | {"eigenvalues": values, "residuals": residuals}


def _pca_plane(config: Settings, trained: ls.Run) -> tuple[Any, Any, Any]:
    length = jax.tree.leaves(trained.snapshots)[0].shape[0]
    directions, explained = ls.subspace.pca_directions(trained.snapshots, like=trained.params)
    plane = ls.Subspace(trained.params, directions)
    path = np.asarray(path_in(plane, trained.snapshots)["coords"])
    labels = [f"PC {i + 1}: {share:.1%} of the path's variance" for i, share in enumerate(explained)]
    grid = _covering(path, config.resolution, labels)
    null = ls.subspace.random_walk_explained(length)
    return plane, grid, {"explained": np.asarray(explained), "random_walk": null}


def _three_point_plane(config: Settings, lab: Lab, problem: ls.Problem, trained: ls.Run) -> tuple[Any, Any, Any]:
    """Through the solutions of three seeds."""
    others = [train(config, lab, problem, config.seed + i).params for i in (1, 2)]
    plane = ls.subspace.plane_through(trained.params, *others)
    corners = np.asarray([np.zeros(2), *(plane.project(p) for p in others)])
    grid = _covering(corners, config.resolution, ["from seed A to seed B", "towards seed C"])
    return plane, grid, {"corners": corners}


def _covering(points: np.ndarray, num: int, labels: list[str], margin: float = 0.3) -> ls.Grid:
    """A grid around points and the origin, which is on the grid."""
    low, high = np.minimum(points.min(axis=0), 0), np.maximum(points.max(axis=0), 0)
    pad = margin * (high - low)
    axes = zip(("alpha", "beta"), low - pad, high + pad, labels)
    return ls.Grid(tuple(ls.Axis.covering(name, a, b, num, label) for name, a, b, label in axes))


@jax.jit
def path_in(plane: ls.Subspace, snapshots: Any) -> dict[str, jax.Array]:
    """Coordinates of a path's points in a plane, and their distances from the plane and from its origin."""
    steps = jax.tree.map(lambda x, origin: x - origin, snapshots, plane.origin)
    distance = jax.vmap(optax.tree.norm)(steps)
    coords, residual = jax.vmap(plane.project)(snapshots), jax.vmap(plane.residual)(snapshots)
    return {"coords": coords, "residual": residual, "distance": distance}
