"""Which start rolls into which minimum, and who decides: the landscape, or the optimizer?

Every point of a map is a start of a training run and has the colour of the minimum where that run ends. The starts
cover the box of a test function of two variables (--function himmelblau, ...), or a plane in the weight space of a
network (--function digits, or your own model by --problem). Several optax optimizers start from the same points, so a
share of starts is never the landscape's alone: each is printed with its optimizer and its starts.

The minima come first: those of a function from a census, those of a network from the ends of a coarse sweep, polished
and told apart. Then each run is followed until its gradient has vanished, and labelled by the minimum that it is at.
Only as many starts are computed as it takes to know all labels: at most --max-wrong of them are wrong (95 %), or none
with --exact.

Expected: as many basins as the function has minima (Himmelblau 4, six-hump camel 6, ...); if the optimizer did not
matter, equal shares and no change of verdict; where a boundary is smooth, its dimension is 1, its uncertainty exponent
1 and the boundary entropy at most log 2 (Daza et al. 2016), while fractal boundaries pass these. Shares themselves are
not published.

Cost: a few seconds an optimizer on one CPU core for a function on 513 x 513 starts; about three minutes in all for
--function digits on 33 x 33.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import combinations
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _lab import Lab, UsageError, main, say
from _networks.basins import (
    MAX_LOSS,
    basin_maps,
    ends_of,
    minima_among,
    plane_of,
    scatter,
    small_digits,
    smallest_gap,
    solutions_of,
)

import landscape as ls
from landscape import analysis, minima
from landscape.adaptive import Labels
from landscape.plotting import MOST_ENTRIES, label_color, label_name

Function = Literal[
    "himmelblau", "six_hump_camel", "three_hump_camel", "styblinski_tang", "goldstein_price", "mueller_brown",
    "rastrigin", "digits",
]  # fmt: skip
# Gradient descent goes at half to three quarters of the rate at which it could not stay in the sharpest minimum, or
# lower where far starts would all diverge; heavy ball at a fifth of that rate; Adam at 0.2 to 1 % of the box.
RATES: dict[str, dict[str, float]] = {
    "himmelblau": {"gd": 0.01, "momentum": 0.002, "adam": 0.05},
    "six_hump_camel": {"gd": 0.01, "momentum": 0.002, "adam": 0.02},
    "three_hump_camel": {"gd": 0.01, "momentum": 0.002, "adam": 0.02},
    "styblinski_tang": {"gd": 0.01, "momentum": 0.002, "adam": 0.05},
    "goldstein_price": {"gd": 2e-6, "momentum": 4e-7, "adam": 0.02},
    "mueller_brown": {"gd": 1e-4, "momentum": 2e-5, "adam": 0.01},
    "rastrigin": {"gd": 0.002, "momentum": 5e-4, "adam": 0.02},
    "network": {"gd": 0.3, "momentum": 0.03, "adam": 0.01},
}
Z2 = 1.96**2  # of the 95 % Wilson interval: none of n gives [0, Z2 / (n + Z2)]
WORDS = {"gd": "gradient descent", "momentum": "heavy ball 0.9", "adam": "Adam"}
SETTLES = 0.5  # share of the coarse runs that must converge, or else labels say where runs are, not where they settle
UNSETTLED = (
    "only {converged:.0%} of the runs converge in {steps:,} steps (without weight decay, a network has valleys rather "
    "than minima; --steps gives it more), so a label says which solution a run is nearest to after its last step"
)
LEAST = 5e-4  # share of unreached or divergent starts that has a place among the bars
HATCHES = (None, "////", "....", "xxxx")
SETTLED = 1e-5  # a gradient that the sharpest minimum has at this share of the box's diagonal counts as none


@dataclass(frozen=True)
class Config:
    """Settings of this experiment."""

    function: Function = "himmelblau"
    """A test function, or digits: a small network with weight decay on handwritten digits."""
    optimizers: str = "gd,momentum,adam"
    """Optimizers with commas between: gd, momentum (heavy ball), adam, or any other of optax with its rate, and rates
    of your own: gd:0.005,lion:0.001."""
    resolution: int | None = None
    """Starts along each axis: 513 for a function, 33 for a network by default."""
    exact: bool = False
    """Compute every start."""
    max_wrong: float = 1e-3
    """Largest share of wrong labels, at 95 % confidence."""
    steps: int | None = None
    """Steps of a run at most: 20,000 for a function, 10,000 for a network by default."""
    tol: float | None = None
    """Gradient norm at which a run has converged: 1e-4 for a network, fitted to the curvature for a function."""
    directions: Literal["three-point", "filter"] = "three-point"
    """Plane of a network: through three trained solutions, or random and filter normalised about one of them."""
    extent: float = 2.0
    """Half-width of the random plane, in units of its directions."""
    layout: Literal["flax", "haiku", "torch", "equinox"] = "flax"
    """How kernels store their filters, for filter normalisation."""
    coarse: int = 9
    """Starts along each axis of the sweep that looks for the minima of a network."""
    train_steps: int = 1000
    """Training steps of Adam to each trained solution."""
    train_rate: float = 0.02
    """Its learning rate."""
    seed: int = 0
    """Seed of the trained solutions and of the random plane."""


SMOKE = Config(resolution=65)


@dataclass(frozen=True)
class Ground:
    """What runs roll over: where they start, what they minimise, and the minima that they may reach."""

    name: str
    objective: ls.Objective
    at: Any
    grid: ls.Grid
    starts: str
    rates: str  # key of RATES
    steps: int
    tol: float | None
    minima: Any  # parameters, stacked
    values: np.ndarray
    radius: float
    marks: Mapping[str, np.ndarray]
    about: Mapping[str, Any] = field(default_factory=dict)


def run(config: Config, lab: Lab) -> dict[str, ls.Landscape]:
    """One map for each optimizer."""
    _check(config, lab)
    function = config.function != "digits" and lab.problem is None
    ground = _of_function(config) if function else _of_network(config, lab)
    result = {}
    for key, (words, optimizer) in _optimizers(config, ground.rates).items():
        point = basin_maps(
            ground.at, ground.objective, {key: optimizer}, ground.steps, minima=ground.minima, radius=ground.radius,
            tol=ground.tol, max_loss=MAX_LOSS if not function else 1e10, check_every=20 if function else 50,
        )[key]  # fmt: skip
        tolerance = None if config.exact else {"label": Labels(config.max_wrong)}
        about = partial(_about, ground, words)
        result[key] = lab.sweep(f"{ground.name}_{key}", point, ground.grid, about, tolerance=tolerance)
    return {key: landscape for key, landscape in result.items() if landscape is not None}


def _check(config: Config, lab: Lab) -> None:
    if config.resolution is not None and config.resolution < 5:
        raise UsageError(f"--resolution must be at least 5, got {config.resolution}")
    if not 0 < config.max_wrong < 1:
        raise UsageError(f"--max-wrong is a share of the starts, between 0 and 1; got {config.max_wrong}")
    if lab.options.get("shard") and not config.exact:
        raise UsageError("--shard needs every point computed (--exact)")
    if config.coarse < 2 or (config.steps is not None and config.steps < 1) or config.train_steps < 1:
        raise UsageError("needs --coarse >= 2, --steps and --train-steps >= 1")
    if config.tol is not None and not config.tol > 0:
        raise UsageError(f"--tol is a gradient norm and must be positive, got {config.tol}")
    _optimizers(config, "himmelblau")


def _optimizers(config: Config, rates: str) -> dict[str, tuple[str, optax.GradientTransformation]]:
    """`{name: (in words, optimizer)}` of what was asked for."""
    asked = [one.strip().partition(":") for one in config.optimizers.split(",")]
    if len({name for name, _, _ in asked}) < len(asked):
        raise UsageError(f"--optimizers names one twice: {config.optimizers}")
    chosen = {}
    for name, _, text in asked:
        if name not in WORDS and not callable(getattr(optax, name, None)):
            raise UsageError(f"--optimizers: {name!r} is none of {', '.join(WORDS)} and no optimizer of optax")
        try:
            rate = float(text) if text else RATES[rates][name]
        except KeyError:
            raise UsageError(f"--optimizers: {name} needs a learning rate, as in {name}:0.01") from None
        except ValueError:
            raise UsageError(f"--optimizers: the rate of {name} must be a number, got {text!r}") from None
        chosen[name] = (f"{WORDS.get(name, name)}, rate {rate:g}", _optimizer(name, rate))
    return chosen


@lru_cache
def _optimizer(name: str, rate: float) -> optax.GradientTransformation:
    """One optimizer object for all maps, so that they share a compiled program."""
    own = {"gd": optax.sgd, "momentum": partial(optax.sgd, momentum=0.9)}
    return own.get(name, getattr(optax, name, None))(rate)


def _about(ground: Ground, optimizer: str, landscape: ls.Landscape) -> dict[str, Any]:
    """What the findings and the figures need beside the labels."""
    basins = {
        "function": ground.name,
        "values": ground.values,
        "marks": dict(ground.marks),
        "radius": ground.radius,
        "tol": ground.tol,
        "steps": ground.steps,
        **ground.about,
    }
    return {"optimizer": optimizer, "initialisation": ground.starts, "basins": basins}


# --------------------------------------------------------------------------------------------------------- grounds


def _of_function(config: Config) -> Ground:
    """A test function in its box, with the minima that a census finds."""
    known: Any = getattr(ls.problems, config.function)
    known = known(2) if config.function == "rastrigin" else known
    low, high = known.box
    say(f"census of {config.function}")
    with jax.enable_x64(True):
        census = minima.census(known.objective, np.stack([low, high], axis=1), key=jax.random.key(config.seed))
    ends = [census.points[census.indices == index] for index in (0, 1, 2)]
    diagonal = float(np.linalg.norm(high - low))
    sharpest = float(census.eigenvalues[census.indices == 0].max())
    axes = zip(("x", "y"), low, high)
    return Ground(
        name=config.function,
        objective=known.objective,
        at=None,
        grid=ls.Grid(tuple(ls.Axis.linspace(name, a, b, config.resolution or 513) for name, a, b in axes)),
        starts=f"uniform on [{low[0]:g}, {high[0]:g}] x [{low[1]:g}, {high[1]:g}]",
        rates=config.function,
        steps=config.steps or 20_000,
        tol=config.tol or SETTLED * sharpest * diagonal,
        minima=jnp.asarray(ends[0]),
        values=census.values[census.indices == 0],
        radius=smallest_gap(ends[0]) / 4,
        marks=dict(zip(("minima", "saddles", "maxima"), ends)),
        about={"known": int(known.counts[0]), "places": ends[0]},
    )


def _of_network(config: Config, lab: Lab) -> Ground:
    """A plane of a network, with the minima among the ends of a coarse sweep."""
    problem = lab.problem or small_digits()
    plane, grid, solutions = plane_of(config, lab, problem, config.resolution or 33)
    objective, steps, tol = problem.objectives["train"], config.steps or 10_000, config.tol or 1e-4
    name = "digits" if lab.problem is None else "problem"
    if lab.planning:  # any minimum costs the same
        found, converged, off = minima.distinct(jax.tree.map(lambda x: x[None], plane.origin), [0.0]), 1.0, 0.0
    else:
        optimizers = {key: one for key, (_, one) in _optimizers(config, "network").items()}
        options: dict[str, Any] = {"tol": tol, "max_loss": MAX_LOSS, "check_every": 50}
        ends = ends_of(basin_maps(plane, objective, optimizers, steps, **options), grid, config.coarse, name, lab)
        found, converged = minima_among(ends, objective, plane.origin), float(ends.converged.mean())
        off = scatter(ends, found)
        if converged < SETTLES and len(solutions) > 1:
            found = solutions_of(plane, solutions, objective)
    about = {"model": problem.name, "converged": converged, "coarse": config.coarse, "scatter": off}
    if converged < SETTLES:
        say(f"note: {UNSETTLED.format(converged=converged, steps=steps)}")
    kind = "through three solutions" if config.directions == "three-point" else "random, filter normalised"
    return Ground(
        name=name,
        objective=objective,
        at=plane,
        grid=grid,
        starts=f"uniform on a plane, {kind}",
        rates="network",
        steps=steps,
        tol=tol if converged >= SETTLES else None,
        minima=jax.tree.map(jnp.asarray, found.representatives),
        values=found.losses,
        radius=smallest_gap(found.representatives) / 2 if converged >= SETTLES else float("inf"),
        marks={"minima": solutions},
        about=about,
    )


# -------------------------------------------------------------------------------------------------------- findings


def stated(landscape: ls.Landscape) -> ls.Landscape:
    """The map with the bound on the share of wrong labels as its error, where labels were predicted."""
    bound = wrong_share(landscape)
    return landscape if bound is None else dataclasses.replace(landscape, error={**landscape.error, "label": bound})


def wrong_share(landscape: ls.Landscape) -> float | None:
    """Largest share of wrong labels at 95 % confidence; None where every start was computed."""
    promised = _promised(landscape)
    return None if promised is None else promised.fraction


def _promised(landscape: ls.Landscape) -> Any:
    if landscape.promise is None or landscape.computed.all():
        return None
    return landscape.promise.outputs.get("label")


def findings(result: Mapping[str, ls.Landscape]) -> list[tuple[str, str, str]]:
    """Rows of `(what, expected, found)`."""
    maps = {key: stated(landscape) for key, landscape in result.items()}
    first, labels = next(iter(maps.values())), shown_labels(maps)
    rows = _minima_rows(first)
    for key, landscape in maps.items():
        said = _map_rows(landscape, first, [*labels, analysis.UNREACHED, analysis.DIVERGED])
        rows += [(f"{key}: {what}", expected, found) for what, expected, found in said]
    for a, b in combinations(maps, 2):
        share, slack = verdict_change(maps[a], maps[b])
        rows.append((f"{a} and {b}: starts that change their minimum", "0 if it did not matter", _share(share, slack)))
    return rows


def _minima_rows(landscape: ls.Landscape) -> list[tuple[str, str, str]]:
    about = landscape.meta["basins"]
    values = np.asarray(about["values"])
    known = str(about["known"]) if "known" in about else "as many as there are"
    what = "minima found" if about.get("converged", 1) >= SETTLES else "solutions that stand for minima"
    rows = [(what, known, f"{len(values)}, of value {_value(values.min())} to {_value(values.max())}")]
    if "converged" in about:
        rows.append(("runs of the coarse sweep that converge", "all", f"{about['converged']:.1%}"))
    if about.get("converged", 0) >= SETTLES:
        wanted = f"less than {about['radius']:.3g}, half the distance of the closest two"
        rows.append(("nine in ten of these end within this distance of a minimum", wanted, f"{about['scatter']:.3g}"))
    return [*rows, ("starts", "", landscape.meta["initialisation"])]


def _map_rows(landscape: ls.Landscape, first: ls.Landscape, labels: Sequence[int]) -> Iterator[tuple[str, str, str]]:
    """What is to be said of one optimizer."""
    yield "optimizer", "", landscape.meta["optimizer"]
    bound = wrong_share(landscape)
    evaluated = f"{landscape.computed.mean():.2%} of {landscape.grid.size:,}"
    yield "starts computed", "all" if bound is None else "few", evaluated
    if bound is not None:
        wanted = _promised(landscape).asked["max_wrong"]
        yield "wrong labels, at most", f"{wanted:.2%} (95 %)", f"{bound:.3%}"
    shares, others = shares_of(landscape), shares_of(first)
    for label in labels:
        share, low, high = shares[label]
        there = "no published value" if landscape is first else f"{others[label][0]:.2%} (the first optimizer)"
        yield f"share of {place(landscape, label)}", there, f"{share:.2%} [{low:.2%}, {high:.2%}]"
    yield from _boundary_rows(landscape["label"])


def shares_of(landscape: ls.Landscape) -> Mapping[int, tuple[float, float, float]]:
    """`{label: (share, low, high)}`, also of labels that do not occur.

    The interval is the 95 % Wilson interval, wider by what the predicted labels may be wrong.
    """
    found = analysis.basin_fractions(landscape)
    slack = wrong_share(landscape) or 0.0
    low, high = np.maximum(found.low - slack, 0), np.minimum(found.high + slack, 1)
    nothing = (0.0, 0.0, min(1.0, Z2 / (found.num + Z2) + slack))
    shares = zip(found.labels.tolist(), found.fractions.tolist(), low.tolist(), high.tolist())
    return defaultdict(lambda: nothing, {label: (share, a, b) for label, share, a, b in shares})


def shown_labels(maps: Mapping[str, ls.Landscape]) -> list[int]:
    """The minima with the largest shares on any of the maps."""
    shares = [shares_of(landscape) for landscape in maps.values()]
    largest = {label: max(one[label][0] for one in shares) for one in shares for label in [*one] if label >= 0}
    return sorted(sorted(largest, key=lambda label: -largest[label])[:MOST_ENTRIES])


def place(landscape: ls.Landscape, label: int) -> str:
    """A label in words."""
    about = landscape.meta["basins"]
    if label < 0:
        return {analysis.UNREACHED: "starts that reach none of them", analysis.DIVERGED: "starts that diverge"}[label]
    where = f" at ({', '.join(f'{c:.3f}' for c in about['places'][label])})" if "places" in about else ""
    return f"{label_name(label)}{where}, value {_value(about['values'][label])}"


def _value(value: float) -> str:
    """Rounded to what a census leaves of zero."""
    return f"{round(float(value), 9) + 0.0:.6g}"


def _boundary_rows(labels: np.ndarray) -> Iterator[tuple[str, str, str]]:
    entropy = analysis.basin_entropy(labels)
    yield "basin entropy", "0 for one basin", f"{entropy.entropy:.4f}"
    yield "boundary entropy", "at most 0.693 where smooth", f"{entropy.boundary_entropy:.4f}"
    if min(labels.shape) < 64:
        yield "boundary dimension", "1 where smooth", "needs 64 starts along each axis"
        return
    edge = analysis.boundary(labels, kind="corners")
    box, exponent = analysis.box_counting_dimension(edge), analysis.uncertainty_exponent(labels)
    yield "boundary dimension, box counting", "1 where smooth", _plus_minus(box.dimension, box.stderr)
    yield "uncertainty exponent", "1 where smooth", _plus_minus(exponent.exponent, exponent.stderr)


def _plus_minus(value: float, stderr: float) -> str:
    return f"{value:.3f}" + (f" ± {stderr:.3f}" if np.isfinite(stderr) else " (from two sizes)")


def verdict_change(before: ls.Landscape, after: ls.Landscape) -> tuple[float, float]:
    """Share of the starts whose label differs, and by how much that may be wrong at most."""
    slack = (wrong_share(before) or 0.0) + (wrong_share(after) or 0.0)
    return float(np.mean(before["label"] != after["label"])), slack


def _share(share: float, slack: float) -> str:
    return f"{share:.2%}" + (f" ± {slack:.2%}" if slack else "")


# ------------------------------------------------------------------------------------------------------------ plot


def plot(result: Mapping[str, ls.Landscape]) -> dict[str, Any]:
    """The maps side by side, where verdicts change, and the shares."""
    maps = {key: stated(landscape) for key, landscape in result.items()}
    figures = {"basins": _draw_maps(maps), "shares": _draw_shares(maps)}
    return figures | ({"verdicts": _draw_verdicts(maps)} if len(maps) > 1 else {})


def _panels(num: int, height: float) -> tuple[Any, Any]:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, num, figsize=(3.4 * num + 0.4, height), squeeze=False, layout="compressed")
    return figure, axes[0]


def _draw_maps(maps: Mapping[str, ls.Landscape]) -> Any:
    figure, axes = _panels(len(maps), 4.4)
    for ax, landscape in zip(axes, maps.values()):
        marks = {kind: np.asarray(points) for kind, points in landscape.meta["basins"]["marks"].items()}
        few = {kind: points for kind, points in marks.items() if len(points) <= 40}
        shade: dict[str, Any] = {} if landscape.computed.all() else {"shade": None}  # steps are known in places only
        ls.plotting.basins(landscape, ax=ax, points=few or None, **shade)
        ax.set_title(landscape.meta["optimizer"])
    return figure


def _draw_verdicts(maps: Mapping[str, ls.Landscape]) -> Any:
    """The first optimizer against each other one."""
    (_, first), *others = maps.items()
    figure, axes = _panels(len(others), 4.6)
    for ax, (_, other) in zip(axes, others):
        ls.plotting.verdict_change(first, other, ax=ax)
    return figure


def _draw_shares(maps: Mapping[str, ls.Landscape]) -> Any:
    """Bars with their intervals: a group and a colour for each minimum, a hatch for each optimizer."""
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    shares = {key: shares_of(landscape) for key, landscape in maps.items()}
    ends = [k for k in (analysis.UNREACHED, analysis.DIVERGED) if any(one[k][0] > LEAST for one in shares.values())]
    labels = [*shown_labels(maps), *ends]
    figure, ax = pyplot.subplots(figsize=(max(4.2, 0.75 * len(labels) + 1.5), 2.9))
    width, handles = 0.8 / len(maps), []
    for i, (key, landscape) in enumerate(maps.items()):
        values = np.array([shares[key][k] for k in labels])
        x = np.arange(len(labels)) + (i - (len(maps) - 1) / 2) * width
        reach = np.abs(values[:, 1:] - values[:, :1]).T
        look: dict[str, Any] = {"hatch": HATCHES[i % len(HATCHES)], "edgecolor": "0.15", "linewidth": 0.5}
        colors = [label_color(k) for k in labels]
        ax.bar(x, 100 * values[:, 0], width, color=colors, yerr=100 * reach, error_kw={"linewidth": 0.9}, **look)
        handles.append(Patch(facecolor="white", label=landscape.meta["optimizer"], **look))
    names = {analysis.UNREACHED: "none", analysis.DIVERGED: "diverge"}
    ax.set_xticks(range(len(labels)), [names.get(k, str(k)) for k in labels])
    starts = next(iter(maps.values())).meta["initialisation"]
    ax.set(xlabel="minimum", ylabel="share of the starts in %", title=f"starts {starts}")
    ax.spines[["top", "right"]].set_visible(False)
    figure.legend(handles=handles, loc="outside lower center", ncols=min(3, len(maps)))
    return figure


if __name__ == "__main__":
    main("basins", Config, SMOKE, run, plot, findings)
