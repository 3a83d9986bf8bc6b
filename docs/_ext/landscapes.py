"""The small landscapes of `docs/landscapes/`, of which a build makes pages to look around in.

`python docs/_ext/landscapes.py [NAME ...]` computes them anew, in seconds to a minute each.
"""

import dataclasses
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

import landscape as ls

FOLDER = Path(__file__).parents[1] / "landscapes"
POINTS = 65


def surface() -> ls.Landscape:
    """The loss of a small network on the digits, on a random plane through its weights."""
    problem, run = _digits(optax.adam(3e-3))
    directions = ls.subspace.random_directions(jax.random.key(1), run.params)
    directions = ls.subspace.filter_normalize(directions, run.params)
    grid = ls.Grid.square(1.0, POINTS)
    return ls.sweep(ls.LossSurface(ls.Subspace(run.params, directions), problem.objectives, ("sem",)), grid)


def paths() -> ls.Landscape:
    """Adam and gradient descent from one start, in the plane that shows most of both."""
    problem, runs = None, {}
    for name, optimizer in (("Adam", optax.adam(3e-3)), ("SGD", optax.sgd(0.3))):
        problem, run = _digits(optimizer)
        runs[name] = ls.Trajectory(run.snapshots, like=run.params, steps=run.history["step"])
    plane = _common(list(runs.values()))
    extent = 1.3 * float(abs(plane.project(list(runs.values()))).max())
    found = ls.sweep(ls.LossSurface(plane, problem.objectives), ls.Grid.square(extent, POINTS))
    objective = problem.objectives["train"]
    drawn = {name: _drawn(plane, path, objective) for name, path in runs.items()}
    return dataclasses.replace(found, meta={**found.meta, "paths": drawn})


def over_time() -> ls.Landscape:
    """The plane through each step of a training: the step has a slider."""
    problem, run = _digits(optax.adam(3e-3))
    path = ls.Trajectory(run.snapshots, like=run.params, steps=run.history["step"])
    plane = _common([path])
    extent = 1.3 * float(abs(plane.project(path)).max())
    side = [ls.Axis.linspace(name, -extent, extent, 33) for name in ("alpha", "beta")]
    at = ls.recording.along(path, plane)
    return ls.sweep(ls.LossSurface(at, {"train": problem.objectives["train"]}), ls.Grid((*side, at.axis(num=7))))


def _digits(optimizer: optax.GradientTransformation) -> tuple[ls.Problem, ls.Run]:
    problem = ls.problems.digits_mlp(hidden=(16,))
    start = problem.init(jax.random.key(0))
    return problem, ls.train(
        problem.objectives["train"], optimizer, start, num_steps=120, record_every=10, snapshots=True
    )


def _common(paths: list[ls.Trajectory]) -> ls.Subspace:
    directions, _ = ls.subspace.pca_directions(paths)
    return ls.Subspace(paths[0][0], directions)


def _drawn(plane: ls.Subspace, path: ls.Trajectory, objective: ls.Objective) -> dict[str, list[float]]:
    """A path for `view.page`; the directions are orthonormal, so distances from the origin are those of Pythagoras."""
    coords, residual = np.asarray(plane.project(path)), np.asarray(plane.residual(path))
    found = {
        "coords": coords,
        "loss": np.array([float(objective(one)) for one in path]),
        "residual": residual,
        "distance": np.sqrt(residual**2 + np.sum(coords**2, axis=1)),
        "step": path.steps,
    }
    return {name: values.tolist() for name, values in found.items()}


def basins() -> ls.Landscape:
    """Which minimum of Himmelblau's function gradient descent reaches from each start."""
    function = ls.problems.himmelblau
    minima = function.critical_points[function.indices == 0]
    descent = ls.BasinMap(None, function.objective, optax.sgd(0.01), 2000, minima=minima, radius=0.1, tol=1e-3)
    side = np.linspace(-5, 5, 129)
    return ls.sweep(descent, ls.Grid.of(x=side, y=side), tolerance={"label": 0.01})


def himmelblau() -> ls.Landscape:
    """Himmelblau's function: four minima of value 0."""
    side = np.linspace(-5, 5, 129)
    return ls.sweep(ls.problems.himmelblau, ls.Grid.of(x=side, y=side))


def learning_rates() -> ls.Landscape:
    """At which learning rates a small network trains, from weights of which size."""
    problem = ls.problems.mean_field_net(width=8)
    params = problem.init(jax.random.key(1))

    def setup(coords: jax.Array) -> tuple[optax.GradientTransformation, Any]:
        return optax.sgd(10.0 ** coords[0]), jax.tree.map(lambda w: w * 10.0 ** coords[1], params)

    trainability = ls.TrainabilityMap(setup, problem.objectives["train"], 100)
    return ls.sweep(trainability, ls.Grid.of(log_rate=np.linspace(-2, 4, 129), log_scale=np.linspace(-1, 1, 97)))


MADE: tuple[Callable[[], ls.Landscape], ...] = (surface, paths, over_time, basins, learning_rates, himmelblau)

if __name__ == "__main__":
    for make in MADE:
        if make.__name__ in (sys.argv[1:] or [each.__name__ for each in MADE]):
            shutil.rmtree(FOLDER / f"{make.__name__}.zarr", ignore_errors=True)
            ls.save(make(), FOLDER / f"{make.__name__}.zarr")
