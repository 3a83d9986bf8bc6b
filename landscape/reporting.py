"""`report`: what a newcomer wants to know of a minimum, measured in one call.

The numbers are kept in the meta of the landscape of one plane, so that a saved report is a saved landscape:
`analysis.report_table` and `analysis.report_text` read them, `plotting.report` draws them, none of them with JAX.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from landscape import _tree
from landscape.analysis import report_table, report_text
from landscape.checks import check_count, check_share
from landscape.curvature import eigenpairs, spectral_density, trace
from landscape.engine import sweep
from landscape.grid import Axis, Grid, Landscape
from landscape.maps import LossSurface, Rise
from landscape.moving import parted
from landscape.objective import Problem
from landscape.reach import auto_extent, radius, typical, worst_radius
from landscape.reach._extent import Extent
from landscape.store import annotate
from landscape.subspace import Subspace, filter_normalize, random_directions, units_of
from landscape.training import train

STEPS, RATE = 200, 3e-3  # of the training where there are no trained parameters
TOP, PROBES, LANCZOS, LOWEST = 5, 5, 30, 120  # pairs, probes and their steps, products for the smallest eigenvalue
PLANES, EVALUATIONS = 20, 800


@dataclass(frozen=True, eq=False, repr=False)
class Report:
    """What was measured. Printed, it is a table and a paragraph.

    Attributes:
        landscape: the losses over one plane; everything else is in `landscape.meta["report"]`.
    """

    landscape: Landscape

    @property
    def table(self) -> list[tuple[str, str]]:
        """Rows of what was measured and what was found."""
        return report_table(self.landscape)

    @property
    def text(self) -> str:
        """What was found, and what was not looked at, in plain words."""
        return report_text(self.landscape)

    def figure(self) -> Any:
        """The plane, the radial profile, the radii and the spectrum in one figure."""
        from landscape import plotting  # not at the top: matplotlib takes longer to import than most reports to print

        return plotting.report(self.landscape)

    def __repr__(self) -> str:
        width = max(len(what) for what, _ in self.table)
        return "\n".join([*(f"{what.ljust(width)}  {found}" for what, found in self.table), "", self.text])

    __str__ = __repr__


def report(
    problem: Problem,
    *,
    key: Array | None = None,
    resolution: int = 31,
    share: float = 0.95,
    filter_axis: Any = "flax",
    store: Any = None,
    say: Callable[[str], None] | None = None,
    **options: Any,
) -> Report:
    """One plane with an automatic extent, radii, curvature, and how typical the plane is: a first look at a minimum.

    Every random direction is filter-normalised where the parameters have filters. The rise that radii are about is the
    one at which the picture ends (`auto_extent`).

    Args:
        problem: the model; where it has no trained `params`, 200 steps of Adam make some.
        key: random key, `jax.random.key(0)` by default.
        resolution: points along each axis of the plane.
        share: of directions that the radius is for.
        filter_axis: as for `subspace.filter_normalize`.
        store: folder to keep the landscape in, with all numbers.
        say: called with a line of text before each part.
        options: of `sweep`, for the plane.

    Raises:
        TypeError: no Problem, or an option of the wrong kind.
        ValueError: as for the parts: a loss that is not finite, or that rises nowhere.
    """
    if not isinstance(problem, Problem):
        raise TypeError(f"problem must be a landscape.Problem, got {_tree.describe(problem)}")
    problem.check()
    if problem.params is not None and parted(problem.params).frozen is not None:
        problem = problem.only()
    check_count("resolution", resolution, 3)
    check_share("share", share)
    start, say = time.perf_counter(), say or (lambda _: None)
    key = jax.random.key(0) if key is None else key
    _tree.check_key(key)
    parts = _Parts(problem, key, filter_axis, share, say)
    landscape = parts.surface(resolution, store, {"progress": False} | options)
    found = parts.measured() | {"seconds": round(time.perf_counter() - start, 1)}
    if store is not None:
        annotate(store, report=found)
    return Report(landscape.with_meta(report=found))


class _Parts:
    """The parts of a report, each measured once."""

    def __init__(
        self, problem: Problem, key: Array, filter_axis: Any, share: float, say: Callable[[str], None]
    ) -> None:
        self.problem, self.objective, self.key, self.share, self.say = (
            problem,
            problem.objectives["train"],
            key,
            share,
            say,
        )
        self.filter_axis = filter_axis
        self.trained = problem.params is None
        self.params = self._params()
        self.moving, filters = units_of(self.params, filter_axis)
        self.normalization = "filter" if filters > 0 else None
        self.kind: dict[str, Any] = {"normalization": self.normalization}
        self.kind |= {"filter_axis": filter_axis} if self.normalization else {}
        self.plane = Subspace(self.params, self._directions())
        say("extent of the picture")
        self.extent: Extent = auto_extent(self.objective, self.plane)

    def _params(self) -> PyTree:
        if not self.trained:
            return jax.tree.map(jnp.asarray, self.problem.params)
        self.say(f"training, {STEPS} steps of Adam")
        start = self.problem.init(jax.random.fold_in(self.key, 0))
        run = train(self.objective, optax.adam(RATE), start, num_steps=STEPS, record_every=STEPS)
        return run.params

    def _directions(self) -> PyTree:
        drawn = random_directions(jax.random.fold_in(self.key, 1), self.params)
        if self.normalization is None:
            return drawn
        return filter_normalize(drawn, self.params, filter_axis=self.filter_axis)

    def surface(self, resolution: int, store: Any, options: dict[str, Any]) -> Landscape:
        """The losses over the plane."""
        self.say(f"plane of {resolution} x {resolution} points")
        kind = " (filter normalised)" if self.normalization else ""
        names = {"alpha": f"direction 1{kind}", "beta": f"direction 2{kind}"}
        reach = self.extent.value
        axes = (Axis.linspace(name, -reach, reach, resolution, label) for name, label in names.items())
        return sweep(LossSurface(self.plane, self.problem.objectives), Grid(tuple(axes)), store=store, **options)

    def measured(self) -> dict[str, Any]:
        """All numbers, as plain data."""
        parts = {
            "model": self._model, "extent": self.extent._asdict, "radius": self._radius, "worst": self._worst,
            "curvature": self._curvature, "typical": self._typical,
        }  # fmt: skip
        return {name: jax.tree.map(_plain, part()) for name, part in parts.items()}

    def _model(self) -> dict[str, Any]:
        losses = {name: objective(self.params) for name, objective in self.problem.objectives.items()}
        return {
            "name": self.problem.name, "num_params": _tree.size(self.params), "norm": self.moving, "losses": losses,
            "trained_here": f"{STEPS} steps of Adam" if self.trained else "", "kind": self.normalization or "Gaussian",
        }  # fmt: skip

    def _radius(self) -> dict[str, Any]:
        self.say("radii of random directions")
        rise = Rise(self.extent.rise)
        found = radius(
            jax.random.fold_in(self.key, 2),
            self.objective,
            self.params,
            rise=rise,
            share=self.share,
            max_evaluations=EVALUATIONS,
            **self.kind,
        )
        names = ("value", "interval", "median", "median_interval", "radii", "share", "rise", "evaluations", "notes")
        return {name: getattr(found, name) for name in names} | {"units": dict(found.units)}

    def _worst(self) -> dict[str, Any]:
        self.say("worst direction")
        found = worst_radius(
            jax.random.fold_in(self.key, 3),
            self.objective,
            self.params,
            rise=self.extent.rise,
            starts=4,
            rounds=3,
            steps=8,
        )
        predicted = found.quadratic
        return {
            "value": found.value,
            "radii": found.radii,
            "before": found.before,
            "quadratic": predicted._asdict() if predicted else None,
        }

    def _curvature(self) -> dict[str, Any]:
        self.say("eigenvalues, trace and spectral density")
        keys = jax.random.split(jax.random.fold_in(self.key, 4), 4)
        size = _tree.size(self.params)
        top = eigenpairs(keys[0], self.objective, self.params, min(TOP, size))
        low = eigenpairs(keys[1], self.objective, self.params, 1, "SA", max_products=LOWEST)
        whole = trace(keys[2], self.objective, self.params)
        density = spectral_density(keys[3], self.objective, self.params, num_probes=PROBES, num_steps=LANCZOS)
        _, gradient = jax.jit(lambda o, p: o.value_and_grad(p))(self.objective, self.params)
        return {
            "eigenvalues": top.values, "residuals": top.residuals, "lowest": low.values[0],
            "lowest_residual": low.residuals[0], "trace": whole.mean, "trace_sem": whole.sem,
            "nodes": density.nodes, "weights": density.weights, "gradient_norm": jax.jit(_tree.norm)(gradient),
        }  # fmt: skip

    def _typical(self) -> dict[str, Any]:
        self.say(f"{PLANES} random planes to compare with")
        lengths = np.sqrt(np.diagonal(np.asarray(self.plane.gram(), np.float64)))
        distances = self.extent.value * lengths.mean() * np.linspace(0.25, 1, 4)
        found = typical(
            jax.random.fold_in(self.key, 5),
            self.objective,
            self.plane,
            num_planes=PLANES,
            distances=distances,
            **self.kind,
        )
        return {
            "curvature": found.curvature, "percentile": found.curvature_percentile._asdict(),
            "mean": found.mean.mean, "sem": found.mean.sem, "distances": found.distances, "rise": found.rise,
            "rises": found.rises, "curvatures": found.curvatures,
        }  # fmt: skip


def _plain(value: Any) -> Any:
    """Numbers and arrays as the store keeps them."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    array = np.asarray(value)
    return array.item() if array.ndim == 0 else array
