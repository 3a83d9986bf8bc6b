"""Twenty kinds of wrong value in the place of each argument of each public function: refused by us, in words, or taken.

A refusal is *clear* when it was raised by a check of this package (or by Python itself, for a missing attribute of a
path and the like never), is a `TypeError`, `ValueError` or one of our own errors, and says something. What NumPy, JAX,
matplotlib or zarr raise from inside is *unclear*: their words speak of shapes and dtypes that the user never wrote.
"""

import collections
import functools
import itertools
import traceback
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
import pytest

matplotlib.use("Agg")

from matplotlib import pyplot as plt

import landscape as ls

PACKAGE = str(Path(ls.__file__).parent)
ALLOWED = 20  # unclear refusals


class Thing:
    """An object of no use to anyone."""


WRONG = {
    "None": None,
    "an integer": 3,
    "a negative integer": -7,
    "a fraction": 2.5,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "True": True,
    "text": "no such thing",
    "bytes": b"bytes",
    "a huge integer": 10**30,
    "an empty list": [],
    "a dict": {"a": 1},
    "a set": {2, 5},
    "an empty array": np.zeros(0),
    "a vector": np.array([0.5, -2.0, 3.0]),
    "a matrix of integers": np.arange(6).reshape(2, 3),
    "complex numbers": np.array([1.0 + 2.0j, 3.0]),
    "an array of text": np.array(["a", "b"]),
    "an array of objects": np.array([Thing(), None], dtype=object),
    "a ragged list": [[1.0, 2.0], [3.0]],
    "a function": lambda *_: None,
    "a class": Thing,
    "an object": Thing(),
}


@functools.cache
def good():
    """Arguments of the right kind, as small as they come."""
    key = jax.random.key(3)
    params = {"w": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "b": jnp.array([0.25, -0.5])}
    data = {"x": np.array([[1.0, 2.0], [0.5, -1.0], [2.0, 0.25], [-1.0, 1.5]], np.float32)}
    objective = ls.Objective(lambda p, d: jnp.sum((d["x"] @ p["w"] + p["b"]) ** 2, axis=1), data)
    bowl = ls.Objective(lambda p, _: jnp.sum(jnp.array([2.0, 3.0]) * p**2))
    well = ls.Objective(lambda p, _: (p[0] ** 2 - 1) ** 2 + p[1] ** 2)
    dirs = ls.subspace.random_directions(key, params)
    grid, line = ls.Grid.square(1.0, 5), ls.Grid.line((-1.0, 1.0), 5)
    x, y = np.meshgrid(*(axis.values for axis in grid.axes), indexing="ij")
    values = {"train_loss": x**2 + 2 * y**2 + 0.5, "test_loss": (x - 0.5) ** 2 + y**2 + 1, "label": (x > 0).astype(int)}
    values |= {"value": np.where(x > 0, 3.0 + y, -2.0 - y), "converged": x > 0}
    plane = ls.Landscape(grid, values, np.ones(grid.shape, bool))
    profile = ls.Landscape(line, {"train_loss": line.axes[0].values ** 2}, np.ones(line.shape, bool))
    return {name: value for name, value in locals().items() if name not in ("x", "y", "values", "data")}


def table(folder):
    """Rows of a function, its arguments of the right kind, and the names of those to spoil."""
    g = good()
    key, params, objective, bowl, well, dirs = (g[n] for n in ("key", "params", "objective", "bowl", "well", "dirs"))
    plane, profile, grid, line = g["plane"], g["profile"], g["grid"], g["line"]
    point, stack = jnp.array([0.5, -0.25]), jax.tree.map(lambda x: jnp.stack([x, 2 * x, -x, x + 1]), params)
    subspace, surface = ls.Subspace(params, dirs), ls.LossSurface(ls.Subspace(params, dirs), {"train": objective})
    sgd, quick = optax.sgd(0.125), {"batch": 1, "progress": False}
    labels, losses = np.array([[0, 0, 1], [0, 1, 1], [2, 2, 1]]), np.array([3.0, 1.0, 0.5, 0.75])
    net = {
        name: {"kernel": jnp.ones(shape), "bias": jnp.ones(shape[1])}
        for name, shape in {"a": (2, 3), "b": (3, 2)}.items()
    }
    spec = ls.paths.PermutationSpec.sequential(net, order=("a", "b"))
    stored = folder / "stored.zarr"
    ls.save(plane, stored)
    s, c, m, p, a, v = ls.subspace, ls.curvature, ls.minima, ls.paths, ls.analysis, ls.plotting

    def swept(**options):
        return ls.sweep(options.pop("fn", surface), options.pop("grid", grid), **{**quick, **options})

    def made_objective(**fields):
        return ls.Objective(**{"loss_fn": objective.loss_fn, "data": objective.data, **fields})(params)

    def made_surface(**fields):
        fields = {"at": subspace, "objectives": {"train": objective}, **fields}
        return ls.sweep(ls.LossSurface(fields.pop("at"), fields.pop("objectives"), **fields), grid, **quick)

    def basin_map(**fields):
        fields = {"at": None, "objective": well, "optimizer": sgd, "num_steps": 3, **fields}
        positional = [fields.pop(name) for name in ("at", "objective", "optimizer", "num_steps")]
        return ls.sweep(ls.BasinMap(*positional, **fields), grid, **quick)

    def trainability(**fields):
        fields = {"setup": lambda z: (optax.sgd(jnp.abs(z[0])), point), "objective": well, "num_steps": 3, **fields}
        return ls.sweep(
            ls.TrainabilityMap(fields.pop("setup"), fields.pop("objective"), fields.pop("num_steps"), **fields),
            line,
            **quick,
        )

    def exported(**options):
        return ls.export.export(**{"landscape": plane, "path": folder / "plane.csv", "overwrite": True, **options})

    numbers = iter(range(10_000))

    def recorder(**options):
        ls.Recorder(**{"path": folder / f"{next(numbers)}.zarr", **options})

    def recorded(**options):
        options = {"step": 3, "params": params, "update": None, "gradient": None, "loss": 0.5, **options}
        with ls.Recorder(folder / f"{next(numbers)}.zarr") as recorder:
            recorder(options.pop("step"), options.pop("params"), **options)

    run = ls.Trajectory([jax.tree.map(lambda x, i=i: x * np.cos(i) + i, params) for i in range(4)])
    film = ls.Landscape(
        ls.Grid((*grid.axes, ls.Axis("step", [1.0, 4.0]))), {"loss": np.ones((5, 5, 2))}, np.ones((5, 5, 2), bool)
    )

    def animated(**options):
        v.animate(**{"landscape": film, "name": "loss", **options})._draw_was_started = True

    return [
        ("Recorder", recorder, {}, "path every keep dtype"),
        ("Recorder.__call__", recorded, {}, "step params update gradient loss"),
        ("Trajectory", ls.Trajectory, {"source": [params, params]}, "source like steps scalars"),
        ("gram", s.gram, {"snapshots": stack}, "snapshots like"),
        ("random_walks_explained", s.random_walks_explained, {"steps": [0, 1, 3, 4], "num": 2}, "steps num"),
        ("osculating_plane", ls.recording.osculating_plane, {"snapshots": run, "index": 1},
         "snapshots index steps like"),
        ("along", ls.recording.along, {"snapshots": run, "plane": subspace}, "snapshots plane steps follow"),
        ("animate", animated, {}, "landscape name axis paths scale vmin vmax cmap contours aspect interval hold style"),
        ("Axis.linspace", ls.Axis.linspace, {"name": "a", "low": 0.0, "high": 1.0, "num": 3}, "name low high num"),
        ("Grid.line", ls.Grid.line, {"extent": 1.0, "num": 3, "name": "a"}, "extent num name"),
        ("Grid.square", ls.Grid.square, {"extent": 1.0, "num": 3}, "extent num names"),
        ("Grid.of", ls.Grid.of, {"a": [1.0, 2.0]}, "a"),
        ("Grid.zoom", grid.zoom, {"center": [0.0, 0.5], "factor": 2.0}, "center factor"),
        ("Grid.refined", grid.refined, {"factor": 2}, "factor"),
        ("Grid.index", grid.index, {"coords": [0.0, 0.5]}, "coords"),
        ("Landscape.slice", plane.slice, {"alpha": 2}, "alpha"),
        ("Landscape.assign", plane.assign, {"gap": np.zeros((5, 5))}, "gap"),
        ("Landscape.argmin", plane.argmin, {"name": "train_loss"}, "name"),
        ("Landscape.coords", plane.coords, {"index": (1, 2)}, "index"),
        ("save", ls.save, {"landscape": plane, "path": folder / "s.zarr"}, "landscape path"),
        ("load", ls.load, {"path": stored}, "path"),
        ("annotate", ls.store.annotate, {"path": stored, "note": "seen"}, "path note"),
        ("export", exported, {}, "landscape path format"),
        ("Objective", made_objective, {}, "loss_fn data has_aux batch_size state"),
        ("LossSurface", made_surface, {}, "at objectives outputs recalibrate"),
        ("BasinMap", basin_map, {}, "at objective optimizer num_steps minima radius labels track tol max_loss "
         "check_every batch_size key"),
        ("TrainabilityMap", trainability, {}, "setup objective num_steps max_ratio max_loss track batch_size key"),
        ("sweep", swept, {}, "fn grid tolerance batch devices store executor shard max_memory progress"),
        ("plan", ls.plan, {"fn": surface, "grid": grid, "batch": 1}, "fn grid batch devices max_memory"),
        ("Subspace.project", subspace.project, {"params": params}, "params"),
        ("Subspace.residual", subspace.residual, {"params": params}, "params"),
        ("random_directions", s.random_directions, {"key": key, "params": params, "num": 2}, "key params num"),
        ("filter_normalize", s.filter_normalize, {"dirs": dirs, "params": params, "filter_axis": -1},
         "dirs params filter_axis include_vectors"),
        ("layer_normalize", s.layer_normalize, {"dirs": dirs, "params": params}, "dirs params include_vectors"),
        ("orthonormalize", s.orthonormalize, {"dirs": dirs}, "dirs"),
        ("pca_directions", s.pca_directions, {"snapshots": stack, "num": 2}, "snapshots num"),
        ("random_walk_explained", s.random_walk_explained, {"num_snapshots": 5, "num": 2}, "num_snapshots num"),
        ("line", s.line, {"a": params, "b": jax.tree.map(lambda x: x + 1, params)}, "a b"),
        ("plane_through", s.plane_through, {"a": params, "b": jax.tree.map(lambda x: x + 1, params),
                                            "c": jax.tree.map(lambda x: x * x, params)}, "a b c"),
        ("mask", s.mask, {"dirs": dirs, "keep": "w"}, "dirs keep"),
        ("train", ls.train, {"objective": bowl, "optimizer": sgd, "params": point, "num_steps": 3},
         "objective optimizer params num_steps key batch_size record_every check_every snapshots tol max_loss track"),
        ("train_many", functools.partial(ls.train_many, batch=1, progress=False),
         {"objective": bowl, "optimizer": sgd, "inits": jnp.ones((3, 2)), "num_steps": 3},
         "objective optimizer inits num_steps num_runs hyper key batch_size record_every tol max_loss"),
        ("hvp", c.hvp, {"objective": bowl, "params": point, "vector": point}, "objective params vector"),
        ("hessian", c.hessian, {"objective": bowl, "params": point}, "objective params"),
        ("eigenpairs", c.eigenpairs, {"key": key, "objective": bowl, "params": point, "k": 1},
         "key objective params k which tol max_products"),
        ("trace", c.trace, {"key": key, "objective": bowl, "params": point, "num_products": 6},
         "key objective params num_products method"),
        ("layer_traces", c.layer_traces, {"key": key, "objective": bowl, "params": point, "num_samples": 4},
         "key objective params num_samples"),
        ("spectral_density", c.spectral_density,
         {"key": key, "objective": bowl, "params": point, "num_probes": 2, "num_steps": 2},
         "key objective params num_probes num_steps"),
        ("sharpness", c.sharpness, {"key": key, "objective": bowl, "params": point}, "key objective params adaptive"),
        ("ascent_sharpness", c.ascent_sharpness, {"objective": bowl, "params": point, "rho": 0.1},
         "objective params rho adaptive"),
        ("local_learning_coefficient", c.local_learning_coefficient,
         {"key": key, "objective": bowl, "params": point, "step_size": 1e-4, "num_examples": 100.0, "num_chains": 2,
          "num_steps": 20, "num_records": 4},
         "key objective params step_size num_examples localization num_chains num_steps burn_in num_records"),
        ("polish", m.polish, {"objective": bowl, "params": point}, "objective params to tol max_steps radius"),
        ("classify", m.classify, {"objective": bowl, "params": jnp.zeros(2)},
         "objective params global_loss loss_tol stall num_eigenvalues key"),
        ("distinct", m.distinct, {"minima": jnp.array([[1.0, 2.0], [1.0, 2.0], [3.0, 0.5]]),
                                  "losses": jnp.array([0.5, 0.5, 2.0])}, "minima losses symmetry eigenvalues tol"),
        ("census", m.census, {"fn": well, "box": [(-2.0, 2.0), (-1.0, 1.0)], "num_starts": 8},
         "fn box key num_starts tol max_rounds"),
        ("fit_bezier", functools.partial(p.fit_bezier, num_steps=2),
         {"key": key, "objective": well, "a": -point, "b": point}, "key objective a b optimizer num_bends batch_size"),
        ("elastic_band", functools.partial(p.elastic_band, num_steps=3),
         {"objective": well, "a": jnp.array([-1.0, 0.0]), "b": jnp.array([1.0, 0.0]), "num_images": 5},
         "objective a b start num_images spring tol num_steps"),
        ("PermutationSpec.sequential", p.PermutationSpec.sequential, {"params": net, "order": ("a", "b")},
         "params order layout"),
        ("permute", p.permute,
         {"params": net, "permutations": {name: np.arange(3) for name in spec.groups}, "spec": spec},
         "params permutations spec"),
        ("match_weights", p.match_weights, {"a": net, "b": net, "spec": spec}, "a b spec key max_sweeps"),
        ("label_basins", a.label_basins, {"points": np.array([[1.0, 2.0], [1.0, 2.0]]), "tol": 0.1},
         "points tol values outcome"),
        ("basin_fractions", a.basin_fractions,
         {"labels": labels, "optimizer": "sgd", "initialisation": "uniform"}, "labels confidence"),
        ("boundary", a.boundary, {"labels": labels}, "labels kind"),
        ("box_counting_dimension", a.box_counting_dimension, {"mask": np.eye(64, dtype=bool)}, "mask sizes"),
        ("basin_entropy", a.basin_entropy, {"labels": np.tile(labels, (3, 3)), "box": 3}, "labels box"),
        ("uncertainty_exponent", a.uncertainty_exponent, {"labels": np.tile(labels, (15, 15))}, "labels radii"),
        ("wilson_interval", a.wilson_interval, {"counts": 3, "num": 7}, "counts num confidence"),
        ("mean_interval", a.mean_interval, {"values": losses}, "values confidence"),
        ("generalization_gap", a.generalization_gap, {"landscape": plane}, "landscape train test"),
        ("minimum_offset", a.minimum_offset, {"landscape": plane}, "landscape train test"),
        ("best_epoch", a.best_epoch, {"test": losses}, "test epochs"),
        ("divergence_epoch", a.divergence_epoch, {"train": losses, "test": losses + 1}, "train test epochs margin"),
        ("barrier", a.barrier, {"losses": losses}, "losses positions"),
        ("merge_tree", a.merge_tree, {"values": losses}, "values connectivity"),
        ("huber", ls.losses.huber, {"k": 1.0}, "k"),
        ("pinball", ls.losses.pinball, {"tau": 0.25}, "tau"),
        ("aggregate", ls.losses.aggregate, {"values": losses, "how": "mean"}, "values how"),
        ("heatmap", v.heatmap, {"landscape": plane, "name": "train_loss"},
         "landscape name ax scale vmin vmax center cmap contours aspect"),
        ("contours", v.contours, {"landscape": plane, "name": "train_loss"}, "landscape name ax levels scale vmin"),
        ("surface3d", v.surface3d, {"landscape": plane, "name": "train_loss"}, "landscape name ax scale zmin elev"),
        ("profile", v.profile, {"landscape": profile, "names": "train_loss"}, "landscape names ax scale twin"),
        ("trajectory", v.trajectory, {"landscape": plane, "paths": {"sgd": np.array([[0.5, 0.5], [0.0, 0.25]])}},
         "landscape paths ax aspect"),
        ("basins", v.basins, {"landscape": plane, "name": "label"}, "landscape name ax shade points aspect"),
        ("trainability", v.trainability, {"landscape": plane, "name": "value"}, "landscape name ax reference cmap"),
        ("endpoints", v.endpoints, {"losses": losses}, "losses ax labels scale bins"),
        ("disconnectivity", v.disconnectivity, {"tree": a.merge_tree(losses)}, "tree ax names top"),
        ("overview", v.overview, {"landscape": plane}, "landscape names"),
        ("style", v.style, {"name": "paper"}, "name"),
        ("save_figure", v.save_figure, {"fig": plt.figure(), "path": folder / "figure"}, "fig path meta formats"),
    ]  # fmt: skip


def verdict(function, arguments):
    """How a call ends: accepted, clear or unclear; and its words."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            function(**arguments)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        if any(frame.filename == __file__ and frame.name == "<lambda>" for frame in frames):
            return "accepted", "the loss of this test itself cannot do it"
        last = frames[-1]
        ours = last.filename.startswith(PACKAGE) and "raise" in (last.line or "")
        kind = isinstance(error, TypeError | ValueError | ls.StoreError | FileNotFoundError | KeyError)
        words = f"{type(error).__name__}: {error}".replace("\n", " ")[:160]
        return (
            "clear" if ours and kind and len(str(error)) > 15 else "unclear"
        ), f"{words} [{Path(last.filename).name}:{last.lineno}]"
    finally:
        plt.close("all")
    return "accepted", ""


def tally(folder, kinds):
    """How many calls ended in each way, and the unclear ones in words."""
    counts, unclear, rows = collections.Counter(), [], table(folder)
    usual = {name: verdict(function, arguments) for name, function, arguments, _ in rows}
    assert not {name: ended for name, ended in usual.items() if ended[0] != "accepted"}
    for name, function, arguments, spoiled in rows:
        for argument, kind in itertools.product(spoiled.split(), kinds):
            outcome, words = verdict(function, {**arguments, argument: WRONG[kind]})
            counts[outcome] += 1
            unclear += [f"{name}({argument}={kind}): {words}"] * (outcome == "unclear")
    print(f"tried {sum(counts.values())}, {dict(counts)}", *unclear, sep="\n")
    return counts, unclear


def test_the_commonest_wrong_values_are_refused_in_our_own_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # for the paths that some of the values are
    counts, unclear = tally(tmp_path, ["None", "NaN", "a vector"])
    assert len(unclear) <= 4
    assert counts["clear"] > 4 * counts["accepted"]


@pytest.mark.slow
def test_all_wrong_values_are_refused_in_our_own_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(tally(tmp_path, WRONG)[1]) <= ALLOWED


# ------------------------------------------------------------------------------------------------- global arrays


class _Global(np.ndarray):
    """An array of which another process of `jax.distributed` holds some."""

    is_fully_addressable, is_fully_replicated = False, False


def _of_all_processes(params, objective):
    """Calls of each kind of entry, by name."""
    key, stack = jax.random.key(3), {"w": np.stack([params["w"], 2 * params["w"]]).view(_Global)}
    sgd, here = optax.sgd(0.125), {"w": np.array([0.5, -2.0], np.float32)}
    other = ls.Objective(objective.loss_fn, {"x": np.ones((4, 2), np.float32).view(_Global)})
    return {
        "train": lambda: ls.train(objective, sgd, params, num_steps=2),
        "train on data": lambda: ls.train(other, sgd, here, num_steps=2),
        "train_many": lambda: ls.train_many(objective, sgd, stack, num_steps=2),
        "hvp": lambda: ls.curvature.hvp(objective, params, params),
        "eigenpairs": lambda: ls.curvature.eigenpairs(key, objective, params, 1),
        "eigenpairs on data": lambda: ls.curvature.eigenpairs(key, other, here, 1),
        "trace": lambda: ls.curvature.trace(key, objective, params, num_products=6),
        "spectral_density": lambda: ls.curvature.spectral_density(key, objective, params),
        "sharpness": lambda: ls.curvature.sharpness(key, objective, params),
        "polish": lambda: ls.minima.polish(objective, params),
        "classify": lambda: ls.minima.classify(objective, params),
        "distinct": lambda: ls.minima.distinct(stack, np.array([0.5, 2.0])),
        "random_directions": lambda: ls.subspace.random_directions(key, params),
        "filter_normalize": lambda: ls.subspace.filter_normalize(stack, params),
        "orthonormalize": lambda: ls.subspace.orthonormalize(stack),
        "pca_directions": lambda: ls.subspace.pca_directions(stack, 1),
        "line": lambda: ls.subspace.line(params, here),
        "fit_bezier": lambda: ls.paths.fit_bezier(key, objective, params, here, num_steps=2),
    }


_NAMES = list(_of_all_processes({"w": np.ones(2, np.float32)}, ls.Objective(lambda p, _: jnp.sum(p["w"] ** 2))))


@pytest.mark.parametrize("name", _NAMES)
def test_arrays_that_other_processes_hold_some_of_are_refused_everywhere(name):
    params = {"w": np.array([0.5, -2.0], np.float32).view(_Global)}
    objective = ls.Objective(lambda p, d: jnp.sum(p["w"] ** 2) * (1.0 if d is None else jnp.mean(d["x"])))
    call = _of_all_processes(params, objective)[name]
    with pytest.raises(ValueError, match=r"float32\[.*\] is a global array: other processes.*process_allgather"):
        call()
