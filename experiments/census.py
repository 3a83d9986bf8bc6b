"""Can all critical points of a landscape be found without knowing where they are?

Seven test functions of two variables, in their usual box and once more rotated, mirrored, shifted and scaled at random:
`landscape.minima.census` looks for every minimum, saddle and maximum, and what it finds is compared with what is known.
Two clusters of particles, whose minima are many-dimensional: descent from random starts, then the minima are told
apart up to translation, rotation, reflection and exchange of particles.

Expected (sources in `landscape.problems`; a coercive function has minima - saddles + maxima = 1):

- minima-saddles-maxima: Himmelblau 4-4-1, six-hump camel 6-7-2, three-hump camel 3-2-0, Styblinski-Tang 4-4-1,
  Goldstein-Price 4-4-1, Mueller-Brown 3-2-0, Rastrigin 121-220-100 in its box; every known point to 1e-6;
- Lennard-Jones, 7 atoms: four minima, -16.505384, -15.935043, -15.593211, -15.533060 (Hoare & McInnes 1976; Tsai &
  Jordan 1993);
- Thomson, 16 electrons on a sphere: two minima, 92.911655, 92.920354 (Erber & Hockney 1991).

The share of starts that reaches each cluster minimum belongs to the optimizer and to the starts named beside it; there
is no published value.

--problem takes your own function of two variables: a problem whose parameters are one vector of length 2, with --box.
It always computes in float64.

Cost: about a minute of one CPU core for the defaults.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from _exact.clusters import CLUSTERS, cluster_rows, dashed, draw_clusters, numbers, relaxed
from _lab import Lab, UsageError, main, say

import landscape as ls
from landscape import minima
from landscape.plotting import label_color

Function = Literal[
    "himmelblau", "six_hump_camel", "three_hump_camel", "styblinski_tang", "goldstein_price", "mueller_brown",
    "rastrigin",
]  # fmt: skip
FUNCTIONS: tuple[Function, ...] = Function.__args__
CLOSE = 1e-6
MARKS = (("minimum", "*", 9.0, "white"), ("saddle", "X", 5.5, "#ffb000"), ("maximum", "^", 5.5, "#ff8fd0"))
EDGE: Any = {"markeredgecolor": "black", "markeredgewidth": 0.6, "zorder": 4}
TREES = ("mueller_brown", "himmelblau")


@dataclass(frozen=True)
class Config:
    """Settings of this experiment."""

    functions: tuple[Function, ...] = FUNCTIONS
    """Test functions to search."""
    moved: bool = True
    """Search each of them a second time, rotated, mirrored, shifted and scaled at random."""
    starts: int = 400
    """Starts of the first round of search, on a grid; later rounds have more."""
    clusters: tuple[Literal["lennard-jones", "thomson"], ...] = ("lennard-jones", "thomson")
    """Clusters of particles."""
    runs: int = 2000
    """Random starts of each cluster."""
    box: tuple[float, float, float, float] | None = None
    """With --problem: lowest and highest first coordinate, lowest and highest second one."""
    resolution: int = 201
    """Points along each axis of the maps that are drawn."""
    seed: int = 0
    """Seed of random starts and of the random motion."""


SMOKE = Config(functions=("mueller_brown",), starts=100, clusters=("lennard-jones",), runs=40, resolution=41)


def run(config: Config, lab: Lab) -> dict[str, ls.Landscape]:
    """A map of each function with its census, and the runs of each cluster with their minima."""
    _check(config, lab)
    result = {}
    with jax.enable_x64(True):
        for name, subject in _subjects(config, lab).items():
            result[name] = _surveyed(name, subject, config, lab)
        for name in config.clusters if lab.problem is None else ():
            result[name] = relaxed(name, config.runs, config.seed, lab)
    return {name: landscape for name, landscape in result.items() if landscape is not None}


def _check(config: Config, lab: Lab) -> None:
    if config.starts < 1 or config.runs < 1 or config.resolution < 3:
        raise UsageError("needs --starts and --runs >= 1 and --resolution >= 3")
    if (lab.problem is None) != (config.box is None):
        raise UsageError("--box says where to search your own --problem; the test functions have a box each")
    if lab.problem is None:
        return
    shapes = jax.tree.leaves(jax.eval_shape(lab.problem.init, jax.random.key(0)))
    if [x.shape for x in shapes] != [(2,)]:
        raise UsageError(
            "a census needs a function of two variables: parameters that are one vector of length 2, got "
            f"{', '.join(str(x.shape) for x in shapes)}; for larger models use basins.py"
        )


# ------------------------------------------------------------------------------------------------------- functions


@dataclass(frozen=True)
class Subject:
    """A function to search, and what is known of it."""

    objective: ls.Objective
    box: np.ndarray  # (2, 2): low and high of each variable
    known: ls.problems.KnownFunction | None = None


def _subjects(config: Config, lab: Lab) -> dict[str, Subject]:
    if lab.problem is not None:
        return {"problem": Subject(lab.problem.objectives["train"], np.array(config.box).reshape(2, 2))}
    known = {name: getattr(ls.problems, name) for name in config.functions}
    return {name: _subject(f(2) if name == "rastrigin" else f) for name, f in known.items()}


def _subject(function: ls.problems.KnownFunction) -> Subject:
    """The function where it is published, as the moved copies are written, so that all share one compiled program."""
    here = function.moved()
    return Subject(here.objective, np.stack(here.box, axis=1), here)


def _coordinates(coords: jax.Array) -> jax.Array:
    """The parameters are the coordinates."""
    return coords


def _surveyed(name: str, subject: Subject, config: Config, lab: Lab) -> ls.Landscape | None:
    """The function over its box, with the census in its meta."""
    axes = zip(("x", "y"), subject.box.tolist())
    grid = ls.Grid(tuple(ls.Axis.linspace(axis, low, high, config.resolution) for axis, (low, high) in axes))
    surface = ls.LossSurface(_coordinates, subject.objective)
    return lab.sweep(name, surface, grid, partial(_about, name, subject, config))


def _about(name: str, subject: Subject, config: Config, landscape: ls.Landscape) -> dict[str, Any]:
    """The census where the function is published, and where it was moved to; as stored, if it was."""
    settings = {"starts": config.starts, "seed": config.seed, "moved": config.moved}
    if landscape.meta.get("census", {}).get("settings") == settings:
        return {}
    say(f"census of {name}")
    here = survey(subject, config.starts, config.seed)
    census = {"settings": settings, "here": here, "passes": passes(subject, here)}
    if subject.known is not None and config.moved:
        census["moved"] = _moved_survey(subject.known, config)
    return {"census": census, "function": subject.known.name if subject.known is not None else "your function"}


def survey(subject: Subject, starts: int, seed: int, inside: Callable[[np.ndarray], np.ndarray] | None = None) -> dict:
    """Every critical point found in the box, and how it compares with what is known.

    Args:
        subject: the function.
        starts: starts of the first round.
        seed: of the random starts.
        inside: which of the points `(m, 2)` belong to the domain, where that is smaller than the box.
    """
    found = minima.census(subject.objective, subject.box, key=jax.random.key(seed), num_starts=starts)
    if inside is not None:
        keep = inside(found.points)
        rows = ("points", "values", "indices", "eigenvalues", "grad_norms", "degenerate", "hits")
        found = dataclasses.replace(found, **{row: getattr(found, row)[keep] for row in rows})
    names = ("points", "values", "indices", "counts", "euler", "starts", "new_per_round", "complete")
    record = {name: getattr(found, name) for name in names}
    return record | ({} if subject.known is None else compared(found.points, found.indices, subject.known))


def compared(points: np.ndarray, indices: np.ndarray, known: ls.problems.KnownFunction) -> dict[str, Any]:
    """How the points found fit those known: the largest distance, equal indices, and points that are not known.

    Args:
        points: found, `(m, 2)`.
        indices: their Morse indices, `(m,)`.
        known: the function with its own list.
    """
    low, high = known.box
    near = 1e-3 * np.linalg.norm(high - low)
    gaps = np.linalg.norm(known.critical_points[:, None] - points, axis=2)
    gaps = np.append(gaps, np.full((len(gaps), 1), np.inf), axis=1)  # where nothing was found, nothing is near
    nearest, distance = np.argmin(gaps, axis=1), np.min(gaps, axis=1)
    hit = distance <= near
    return {
        "known": {"counts": known.counts, "minima": np.sort(known.values[known.indices == 0])},
        "distance": float(distance.max()),
        "right_index": int(np.sum(hit & (np.append(indices, -1)[nearest] == known.indices))),
        "unknown": len(points) - len(np.unique(nearest[hit])),
    }


def _moved_survey(known: ls.problems.KnownFunction, config: Config) -> dict[str, Any]:
    """The census of a rotated, mirrored, shifted and scaled copy.

    The box around a turned domain has corners that the domain has not, with further critical points of Rastrigin's
    function: these are left out.
    """
    random = np.random.default_rng([config.seed, 7])
    angle, shift, scale = random.uniform(0, 2 * np.pi), random.normal(0, 3, 2), np.exp(random.uniform(-1, 1))
    turn = np.array([[np.cos(angle), np.sin(angle)], [np.sin(angle), -np.cos(angle)]])
    moved = known.moved(turn, shift, scale)
    low, high = known.box

    def inside(points: np.ndarray) -> np.ndarray:
        original = (points - shift) @ turn / scale
        return np.all((original >= low) & (original <= high), axis=1)

    subject = Subject(moved.objective, np.stack(moved.box, axis=1), moved)
    return survey(subject, config.starts, config.seed, inside) | {"angle": angle, "shift": shift, "scale": scale}


def passes(subject: Subject, found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Which minima each saddle joins: where descent ends on both sides of it, along its unstable direction.

    Returns:
        For each saddle its number among the points, the two minima by their place among the minima (-1: neither), and
        the two paths, `(k, 2)`.
    """
    points, indices = np.asarray(found["points"]), np.asarray(found["indices"])
    saddles, ends = np.flatnonzero(indices == 1), points[indices == 0]
    if not len(saddles) or not len(ends):
        return []
    diagonal = float(np.linalg.norm(subject.box[:, 1] - subject.box[:, 0]))
    paths = np.asarray(_both_sides(subject.objective, jnp.asarray(points[saddles]), diagonal))
    gaps = np.linalg.norm(paths[:, :, -1, None] - ends, axis=-1)
    joined = np.where(gaps.min(axis=-1) <= 1e-3 * diagonal, gaps.argmin(axis=-1), -1)
    rows = zip(saddles.tolist(), joined.tolist(), paths)
    return [{"saddle": saddle, "minima": pair, "paths": path} for saddle, pair, path in rows]


@jax.jit
def _both_sides(objective: ls.Objective, saddles: jax.Array, diagonal: Any) -> jax.Array:
    """Paths of steepest descent, `(saddles, 2, k, 2)`.

    Gradient descent whose step follows the curvature where it stands and is short beside the box: near enough to the
    continuous flow that it does not jump over a ridge.
    """
    hessian = jax.hessian(objective)

    def step(_: Any, x: jax.Array) -> jax.Array:
        gradient = objective.value_and_grad(x)[1]
        steepest = jnp.max(jnp.abs(jnp.linalg.eigvalsh(hessian(x))))
        longest = diagonal / 1000 / jnp.maximum(jnp.linalg.norm(gradient), jnp.finfo(x.dtype).tiny)
        return x - gradient * jnp.minimum(0.3 / steepest, longest)

    def descend(start: jax.Array) -> jax.Array:
        def advance(x: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
            return jax.lax.fori_loop(0, 10, step, x), x

        end, path = jax.lax.scan(advance, start, length=500)
        return jnp.concatenate([path, end[None]])

    def sides(saddle: jax.Array) -> jax.Array:
        away = 1e-4 * diagonal * jnp.linalg.eigh(hessian(saddle))[1][:, 0]
        return jax.vmap(descend)(jnp.stack([saddle - away, saddle + away]))

    return jax.vmap(sides)(saddles)


def tree_of(census: Mapping[str, Any]) -> ls.analysis.MergeTree:
    """The merge tree of the minima and of those saddles that join two of them."""
    values, indices = np.asarray(census["here"]["values"]), np.asarray(census["here"]["indices"])
    joined = [(*one["minima"], float(values[one["saddle"]])) for one in census["passes"] if min(one["minima"]) >= 0]
    return ls.analysis.merge_tree_of_graph(values[indices == 0], joined)


# -------------------------------------------------------------------------------------------------------- findings


def findings(result: Mapping[str, ls.Landscape]) -> list[tuple[str, str, str]]:
    """Rows of `(what, expected, found)`."""
    rows = []
    for name, landscape in result.items():
        rows += cluster_rows(name, landscape) if name in CLUSTERS else _function_rows(name, landscape)
    return rows


def _function_rows(name: str, landscape: ls.Landscape) -> list[tuple[str, str, str]]:
    census, title = landscape.meta["census"], landscape.meta["function"]
    rows = _copy_rows(title, census["here"])
    if "moved" in census:
        rows += _copy_rows(f"{title}, moved", census["moved"])
    values, indices = np.asarray(census["here"]["values"]), np.asarray(census["here"]["indices"])
    known = census["here"].get("known", {}).get("minima", ())
    rows.append((f"{title}: minima", numbers(known) or "?", numbers(values[indices == 0])))
    if name == "mueller_brown":
        rows.append((f"{title}: saddles", "-72.248940 -40.664844", numbers(values[indices == 1])))
        rows.append((f"{title}: passes of the merge tree", "the same", numbers(tree_of(census).heights)))
    return rows


def _copy_rows(title: str, found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    known = found.get("known")
    search = f"{found['starts']:,} starts, search {'complete' if found['complete'] else 'not complete'}"
    counts = dashed(known["counts"]) if known else "?"
    euler = "1" if known else "1 where it grows at infinity"
    rows = [
        (f"{title}: minima-saddles-maxima", counts, f"{dashed(found['counts'])} ({search})"),
        (f"{title}: minima - saddles + maxima", euler, str(found["euler"])),
    ]
    if not known:
        return rows
    total, extra = sum(known["counts"]), f", {found['unknown']} unknown points" if found["unknown"] else ""
    return [
        *rows,
        (f"{title}: largest distance from a known point", f"< {CLOSE:g}", f"{found['distance']:.1e}"),
        (f"{title}: Morse indices right", f"{total} of {total}", f"{found['right_index']}{extra}"),
    ]


# ------------------------------------------------------------------------------------------------------------ plot


def plot(result: Mapping[str, ls.Landscape]) -> dict[str, Any]:
    """Every function with its critical points; which minima join where; at which energies the clusters end."""
    maps = {name: landscape for name, landscape in result.items() if name not in CLUSTERS}
    clusters = {name: landscape for name, landscape in result.items() if name in CLUSTERS}
    figures = {"functions": _draw_maps(maps)} if maps else {}
    for name in (*TREES, "problem"):
        if name in maps and maps[name].meta["census"]["passes"]:
            figures[f"tree_{name}"] = _draw_tree(maps[name])
    return figures | ({"clusters": draw_clusters(clusters)} if clusters else {})


def _draw_maps(maps: Mapping[str, ls.Landscape]) -> Any:
    from matplotlib import pyplot

    columns = min(4, len(maps))
    rows = -(-len(maps) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(2.5 * columns + 0.4, 2.5 * rows + 0.4), squeeze=False)
    for ax, landscape in zip(axes.flat, maps.values()):
        found = landscape.meta["census"]["here"]
        _draw_ground(ax, landscape)
        _draw_points(ax, np.asarray(found["points"]), np.asarray(found["indices"]))
        ax.set_title(f"{landscape.meta['function']}: {dashed(found['counts'])}")
    for ax in axes.flat[len(maps) :]:
        ax.set_axis_off()
    for name, marker, size, color in MARKS:
        axes.flat[0].plot([], [], marker, markersize=size, color=color, label=name, **EDGE)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def _draw_ground(ax: Any, landscape: ls.Landscape) -> None:
    """Filled contours at the quantiles of the values: as much of the picture between any two of them."""
    x, y = (axis.values for axis in landscape.grid.axes)
    values = landscape["loss"]
    levels = np.unique(np.quantile(values[np.isfinite(values)], np.linspace(0, 1, 25)))
    if len(levels) > 2:
        ax.contourf(x, y, values.T, levels=levels, colors=[_blue(s) for s in np.linspace(0.35, 0.95, len(levels) - 1)])
        ax.contour(x, y, values.T, levels=levels[1:-1], colors="white", linewidths=0.25, linestyles="solid")
    ax.set(xlim=x[[0, -1]], ylim=y[[0, -1]], xlabel="$x$", ylabel="$y$")


def _blue(light: float) -> tuple[float, float, float]:
    return 0.75 * light**1.5 + 0.2 * light, 0.95 * light, 0.35 + 0.6 * light


def _draw_points(ax: Any, points: np.ndarray, indices: np.ndarray) -> None:
    shrink = 1.0 if len(points) < 40 else 0.4
    for index, (_, marker, size, color) in enumerate(MARKS):
        ax.plot(*points[indices == index].T, marker, markersize=shrink * size, color=color, **EDGE)


def _draw_tree(landscape: ls.Landscape) -> Any:
    """The map with the ways down from every saddle, and the disconnectivity graph beside it."""
    from matplotlib import pyplot

    census = landscape.meta["census"]
    points, indices = (np.asarray(census["here"][key]) for key in ("points", "indices"))
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(6.8, 3.2))
    _draw_ground(left, landscape)
    for one in census["passes"]:
        for path in np.asarray(one["paths"]):
            left.plot(*path.T, color="black", linewidth=1.1, zorder=3)
    _draw_points(left, points[indices > 0], indices[indices > 0])
    for number, point in enumerate(points[indices == 0]):
        left.plot(*point, "o", markersize=10, color=label_color(number), **EDGE)
        left.annotate(str(number), point, ha="center", va="center", fontsize=6.5, zorder=6)
    left.set_title(f"{landscape.meta['function']}: ways down from the saddles")
    ls.plotting.disconnectivity(tree_of(census), ax=right, label="value")
    right.set_title("which minima join at which height")
    return figure


if __name__ == "__main__":
    main("census", Config, SMOKE, run, plot, findings)
