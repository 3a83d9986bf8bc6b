"""What a sweep at a tolerance costs, and whether it keeps what it promises.

*Honesty.* For each of many planes the exact grid is swept, then a `Refinement` is told values from it; so the true
errors are known. Loss surfaces of trained nets, and closed forms that are harder: a pit of 1 % of the width, ripples
over seven octaves, edges that diverge to 1e20 and beyond (swept as a logarithm), a disc of NaN. Targets: on loss
surfaces the largest error is within the tolerance in 98 % of the runs; on all families the true fraction of points
beyond it is within the stated bound in 95 %.

*Use.* How often anything is predicted at all. Losses in float32 as people have them: digits nets of 4 to 256 hidden
units, tanh and ReLU, untrained and after 30 and 300 steps, over large and small planes; random smooth and kinked
surfaces at levels of 0.1 to 10 with ranges of 1e-3 to 10. Evaluations and honesty as above, and the share of runs that
predicted something; the target is 98 %. Against them outputs that do jump, and are to be told from these: accuracies of
the same nets and of 3 to 9,000 random half-planes, and losses rounded to 2 to 3,000 levels; the target is 98 % too.

*Counts.* Evaluations for the loss of a digits net 64-128-128-10 on 1025 x 1025 points (1,050,625), at 1e-2 and 1e-3 of
its range, and the largest error at fresh random points.

*Labels.* Basins of Newton's method for z^3 = 1 and of gradient descent on Himmelblau's function, 1025 x 1025 points:
the share computed and the share wrong, against the exact map.

*Bookkeeping.* Seconds that choosing and predicting take in all, evaluations excluded.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import landscape as ls
from benchmarks._harness import Report
from landscape.adaptive import Labels, Refinement, Smooth, drivers

TOLERANCES = (1e-2, 1e-3)
PLANES = 20
SIDE, FINE_SIDE = 257, 1025
COUNTS = {1e-2: 2500, 1e-3: 5000}
SHARE_COMPUTED, SHARE_WRONG = 0.15, 1e-4
WITHIN, HELD = 0.98, 0.95
USED, TOLD = 0.98, 0.98
USE_SIDE, SURFACES = 129, 10
LEVELS, RANGES, ROUNDED = (
    (0.1, 2.3, 10.0),
    (1e-3, 1e-2, 0.1, 0.3, 1.0, 10.0),
    (2, 3, 5, 10, 20, 50, 100, 300, 1000, 3000),
)
NETS = {4: (1.0, 0.3, 0.01), 16: (1.0, 0.3, 0.01), 64: (0.3,), 256: (1.0,)}  # hidden units: extents
FRESH = 2000  # points at which predictions are compared where there is no exact grid
CHUNK = 256


def run(report: Report) -> None:
    """All five."""
    honesty(report)
    use(report)
    counts(report)
    labels(report)


def verdict(met: bool) -> str:
    return "met" if met else "MISSED"


# ---------------------------------------------------------------------------------------------------------- surfaces


def trained(activation: Callable[..., Any], examples: int, hidden: tuple[int, ...], seed: int) -> ls.LossSurface:
    """The training loss about a trained digits net, over a filter-normalised random plane."""
    init, predict = ls.problems.mlp((64, *hidden, 10), activation)
    data, _ = ls.problems.digits()
    objective = ls.problems.classifier(init, predict, {"train": {k: v[:examples] for k, v in data.items()}})
    objective = objective.objectives["train"]
    keys = jax.random.split(jax.random.key(seed))
    net = ls.train(objective, optax.adam(1e-2), init(keys[0]), num_steps=200, record_every=200).params
    directions = ls.subspace.filter_normalize(ls.subspace.random_directions(keys[1], net), net)
    return ls.LossSurface(ls.Subspace(net, directions), objective)


def bowl(coords: jax.Array, numbers: jax.Array) -> jax.Array:
    """A smooth bowl with a ripple, of about unit range."""
    x, y = coords
    return 0.3 * (x - numbers[0]) ** 2 + 0.5 * (y + numbers[1]) ** 2 + 0.2 * jnp.sin(2 * x + 3 * numbers[2] * y)


def pit(coords: jax.Array, numbers: jax.Array) -> jax.Array:
    """A pit with a standard deviation of 1 % of the width, somewhere in a bowl."""
    squared = jnp.sum((coords - 0.8 * (2 * numbers[3:5] - 1)) ** 2)
    return bowl(coords, numbers) - jnp.exp(-squared / (2 * 0.02**2))


def ripples(coords: jax.Array, numbers: jax.Array) -> jax.Array:
    """Seven octaves of waves of the same height, in random directions."""
    octave = 2.0 ** jnp.arange(7)
    angles, phases = 6.28 * numbers[:7], 6.28 * numbers[7:14]
    along = coords[0] * jnp.cos(angles) + coords[1] * jnp.sin(angles)
    return jnp.sum(jnp.cos(3.0 * octave * along + phases))


def edges(coords: jax.Array, numbers: jax.Array) -> jax.Array:
    """Loss after 20 steps of gradient descent on a quadratic, over learning rate and curvature: diverges."""
    curvatures = jnp.linspace(0.3, 1.0, 4) * (1 + 0.5 * coords[1] * (2 * numbers[:4] - 1))
    return 1e-3 + jnp.sum(numbers[4:8] * (1 - (2.5 + 2 * coords[0]) * curvatures) ** 40)


def hole(coords: jax.Array, numbers: jax.Array) -> jax.Array:
    """A bowl with a disc of NaN."""
    inside = jnp.sum((coords - 0.5 * (2 * numbers[3:5] - 1)) ** 2) < (0.1 + 0.3 * numbers[5]) ** 2
    return jnp.where(inside, jnp.nan, bowl(coords, numbers))


def closed_form(fn: Callable[..., Any], seed: int) -> Callable[..., Any]:
    """A closed form with random numbers in [0, 1)."""
    numbers = jax.random.uniform(jax.random.key(seed), 14)
    return jax.tree_util.Partial(lambda numbers, c: {"loss": fn(c, numbers)}, numbers)


@dataclass(frozen=True)
class Family:
    """Surfaces of one kind, by seed."""

    surface: Callable[[int], Any]
    trained: bool = False
    transform: Any = None


FAMILIES = {
    "digits net, tanh, 360 examples": Family(lambda seed: trained(jnp.tanh, 360, (24, 24), seed), True),
    "digits net, relu, 360 examples": Family(lambda seed: trained(jax.nn.relu, 360, (24, 24), seed), True),
    "digits net, relu, 64 examples": Family(lambda seed: trained(jax.nn.relu, 64, (24, 24), seed), True),
    "narrow pit": Family(lambda seed: closed_form(pit, seed)),
    "ripples over seven octaves": Family(lambda seed: closed_form(ripples, seed)),
    "diverging edges, log": Family(lambda seed: closed_form(edges, seed), transform="log"),
    "disc of NaN": Family(lambda seed: closed_form(hole, seed)),
}


# ----------------------------------------------------------------------------------------------------------- honesty


@dataclass(frozen=True)
class Outcome:
    """One refinement against the truth."""

    evaluated: float  # share of all points
    error: float  # largest true error, in units of what was stated
    wrong: float  # true share of points beyond it
    bound: float  # what was stated of that
    seconds: float  # in the refinement itself
    statement: Mapping[str, Any]

    @property
    def held(self) -> bool:
        """Whether the stated bound on the fraction is true."""
        return self.wrong <= self.bound


def refine(grid: ls.Grid, driver: Any, dtype: Any, evaluate: Callable[[np.ndarray], np.ndarray]) -> Any:
    """Run a refinement to its end; it, and the seconds that it took apart from evaluating."""
    start, evaluating = time.perf_counter(), 0.0
    refinement = Refinement(grid, {"loss": driver}, {"loss": dtype})
    while (flat := refinement.ask()).size:
        before = time.perf_counter()
        values = evaluate(flat)
        evaluating += time.perf_counter() - before
        refinement.tell(flat, {"loss": values})
    return refinement, time.perf_counter() - start - evaluating


def against(exact: np.ndarray, grid: ls.Grid, driver: Any) -> Outcome:
    """Refine by looking values up in the exact grid, and compare."""
    flat = exact.ravel()
    refinement, seconds = refine(grid, driver, exact.dtype, lambda index: flat[index])
    statement, predicted = refinement.statement, refinement.values["loss"]
    if isinstance(driver, Labels):
        error, beyond = 0.0, predicted != exact
    else:
        error, beyond = errors(exact, predicted, driver, refinement.error["loss"])
    share = statement["evaluations"] / statement["points"]
    return Outcome(share, error, beyond.mean(), statement["outputs"]["loss"]["fraction"], seconds, statement)


def errors(exact: np.ndarray, predicted: np.ndarray, driver: Smooth, stated: float) -> tuple[float, np.ndarray]:
    """The largest error over that stated (infinite where only one of the two is finite), and the points beyond it."""
    if driver.transform == "log":
        exact, predicted = np.log10(exact), np.log10(predicted)
    with np.errstate(invalid="ignore"):
        off = np.abs(exact.astype(np.float64) - predicted)
    off[~np.isfinite(exact) & ~np.isfinite(predicted)] = 0.0
    off[np.isnan(off)] = np.inf
    return float(off.max() / stated) if off.any() else 0.0, off > stated


def honesty(report: Report) -> None:
    """All families."""
    side, planes = (65, 1) if report.quick else (SIDE, PLANES)
    grid = ls.Grid.square(1.0, side)
    report.section(f"tolerance: kept or not, {planes} planes of {side} x {side} points each")
    outcomes: dict[tuple[str, float], list[Outcome]] = {}
    for name, family in FAMILIES.items():
        for seed in range(planes):
            exact = ls.sweep(family.surface(seed), grid, progress=False)["loss"]
            for tolerance in TOLERANCES:
                outcome = against(exact, grid, Smooth(tolerance, transform=family.transform))
                outcomes.setdefault((name, tolerance), []).append(outcome)
        for tolerance in TOLERANCES:
            describe(report, f"{name}, {tolerance:g}", outcomes[name, tolerance])
    summarise(report, outcomes)


def describe(report: Report, name: str, runs: list[Outcome]) -> None:
    """One family at one tolerance."""
    share, worst = statistics.median(run.evaluated for run in runs), max(run.error for run in runs)
    beyond, untrue = sum(run.error > 1 for run in runs), sum(not run.held for run in runs)
    report.note(
        f"  {name:<40} evaluated {share:6.1%}  beyond the tolerance {beyond} of {len(runs)}, worst {worst:.2f}x  "
        f"fraction beyond its bound {untrue}",
        family=name,
        share=share,
        beyond=beyond,
        worst=worst,
        bound_missed=untrue,
        runs=len(runs),
    )


def summarise(report: Report, outcomes: Mapping[tuple[str, float], list[Outcome]]) -> None:
    """The two targets."""
    trained_nets = [run for (name, _), runs in outcomes.items() if FAMILIES[name].trained for run in runs]
    every = [run for runs in outcomes.values() for run in runs]
    judge(report, "loss surfaces within the tolerance", [run.error <= 1 for run in trained_nets], WITHIN)
    judge(report, "bound on the fraction held", [run.held for run in every], HELD)


# --------------------------------------------------------------------------------------------------------------- use


def nets(activation: Callable[..., Any], quick: bool) -> Iterator[dict[str, np.ndarray]]:
    """Losses and accuracies of digits nets, at three stages of training."""
    for hidden, extents in ({4: (1.0,)} if quick else NETS).items():
        problem = ls.problems.digits_mlp((hidden,), activation)
        for num_steps in (0, 30) if quick else (0, 30, 300):
            keys = jax.random.split(jax.random.key(hidden + num_steps))
            params = problem.init(keys[0])
            if num_steps:
                run = ls.train(problem.objectives["train"], optax.adam(1e-2), params, num_steps=num_steps)
                params = run.params
            directions = ls.subspace.filter_normalize(ls.subspace.random_directions(keys[1], params), params)
            surface = ls.LossSurface(ls.Subspace(params, directions), problem.objectives)
            if hidden < 256 or num_steps == 30:
                for extent in extents:
                    grid = ls.Grid.square(extent, 65 if quick else USE_SIDE)
                    yield dict(ls.sweep(surface, grid, progress=False).values)


def waves(grid: ls.Grid, rng: np.random.Generator) -> np.ndarray:
    """Six waves in random directions, scaled to [0, 1]."""
    x, y = grid.points().T
    return scaled(sum(d * np.sin(2 * a * x + 2 * b * y + 3 * c) for a, b, c, d in rng.normal(size=(6, 4))))


def kinks(grid: ls.Grid, rng: np.random.Generator) -> np.ndarray:
    """A ReLU network of 20 units, random, scaled to [0, 1]."""
    x, y = grid.points().T
    return scaled(sum(d * np.maximum(a * x + b * y + c, 0) for a, b, c, d in rng.normal(size=(20, 4))))


def scaled(values: Any) -> np.ndarray:
    return (values - values.min()) / np.ptp(values)


def half_planes(grid: ls.Grid, rng: np.random.Generator, count: int) -> np.ndarray:
    """The share of random half-planes that hold a point."""
    x, y = grid.points().T
    return sum(a * x + b * y + 0.5 * c > 0 for a, b, c in rng.normal(size=(count, 3))) / count


def random_surfaces(fn: Callable[..., Any], grid: ls.Grid, number: int) -> Iterator[dict[str, np.ndarray]]:
    """At every level and range, in float32."""
    for seed in range(number):
        values = fn(grid, np.random.default_rng(seed)).reshape(grid.shape)
        for level in LEVELS:
            for span in RANGES:
                yield {"loss": (level + span * values).astype(np.float32)}


def jumping(grid: ls.Grid, number: int) -> Iterator[dict[str, np.ndarray]]:
    """Accuracies and rounded losses, in float32."""
    for seed in range(number):
        rng = np.random.default_rng(seed)
        for count in (3, 10, 30, 100, 360, 1437, 9000):
            yield {"accuracy": half_planes(grid, rng, count).reshape(grid.shape).astype(np.float32)}
        values = waves(grid, rng).reshape(grid.shape)
        for levels in ROUNDED:
            rounded = np.rint(values * levels) / levels
            yield {"rounded": (2.3 + 0.3 * rounded).astype(np.float32), "count": (levels * rounded).astype(np.float32)}


def use(report: Report) -> None:
    """All of these."""
    grid, number = ls.Grid.square(1.0, 65 if report.quick else USE_SIDE), 1 if report.quick else SURFACES
    report.section(f"tolerance: how often it is of use, {grid.shape[0]} x {grid.shape[1]} points each, float32")
    surfaces = {
        f"digits nets, {name}": list(nets(activation, report.quick))
        for name, activation in {"tanh": jnp.tanh, "relu": jax.nn.relu}.items()
    }
    accuracies = [
        {name: values for name, values in surface.items() if "accuracy" in name}
        for family in surfaces.values()
        for surface in family
    ]
    losses = {
        name: [{key: values for key, values in surface.items() if "loss" in key} for surface in family]
        for name, family in surfaces.items()
    }
    losses |= {
        "random smooth surfaces": list(random_surfaces(waves, grid, number)),
        "random kinked surfaces": list(random_surfaces(kinks, grid, number)),
    }
    outcomes = []
    for name, family in losses.items():
        for tolerance in TOLERANCES:
            runs = [refined(surface, grid, tolerance) for surface in family]
            describe_use(report, f"{name}, {tolerance:g}", runs)
            outcomes += runs
    judge(report, "runs that predicted something", [run.evaluated < 1 for run in outcomes], USED)
    judge(report, "losses not left out", [not run.left_out for run in outcomes], USED)
    judge(report, "runs within what was stated", [run.error <= 1 for run in outcomes], WITHIN)
    judge(report, "bound on the fraction held", [run.held for run in outcomes], HELD)
    told = [
        name in refined({name: values}, grid, 1e-2).left_out
        for surface in [*accuracies, *jumping(grid, number)]
        for name, values in surface.items()
        if np.ptp(values) > 0
    ]
    judge(report, "outputs that jump and were told", told, TOLD)


@dataclass(frozen=True)
class Used:
    """A refinement of several outputs by a plain number against the truth."""

    evaluated: float
    error: float  # largest true error of any output, in units of what was stated
    held: bool
    left_out: tuple[str, ...]
    raised: bool  # whether the tolerance asked for was below rounding


def refined(exact: Mapping[str, np.ndarray], grid: ls.Grid, tolerance: float) -> Used:
    """Refine outputs of a function that does not say which are losses, by looking values up."""
    types = {name: values.dtype for name, values in exact.items()}
    refinement = Refinement(grid, drivers(tolerance, {name: ((), dtype) for name, dtype in types.items()}), types)
    while (flat := refinement.ask()).size:
        refinement.tell(flat, {name: values.ravel()[flat] for name, values in exact.items()})
    said, worst, held = refinement.statement, 0.0, True
    for name, stated in refinement.error.items():
        error, beyond = errors(exact[name], refinement.values[name], Smooth(tolerance), stated)
        worst, held = max(worst, error), held and beyond.mean() <= said["outputs"][name]["fraction"]
    share = said["evaluations"] / said["points"]
    return Used(share, worst, held, tuple(said["left_out"]), any("rounding" in text for text in said["warnings"]))


def describe_use(report: Report, name: str, runs: list[Used]) -> None:
    """One family at one tolerance."""
    share, most = statistics.median(run.evaluated for run in runs), max(run.evaluated for run in runs)
    used, worst = np.mean([run.evaluated < 1 for run in runs]), max(run.error for run in runs)
    left_out, raised = sum(bool(run.left_out) for run in runs), sum(run.raised for run in runs)
    report.note(
        f"  {name:<36} used in {used:6.1%} of {len(runs)}  evaluated {share:6.1%} (most {most:.1%})"
        f"  left out {left_out}  below rounding {raised}  worst error {worst:.2f}x",
        family=name,
        used=float(used),
        share=share,
        left_out=left_out,
        raised=raised,
        worst=worst,
        runs=len(runs),
    )


def judge(report: Report, label: str, met: list[bool], target: float) -> None:
    """One target."""
    share = float(np.mean(met))
    report.note(
        f"  => {label} ({len(met)}): {share:.1%}  target >= {target:.0%}: {verdict(share >= target)}",
        finding=label,
        share=share,
        target=target,
    )


# ------------------------------------------------------------------------------------------------------------ counts


def at(fn: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Evaluate the loss at any coordinates, `CHUNK` at a time."""
    compiled = jax.jit(lambda coords: jax.lax.map(lambda c: fn(c)["loss"], coords, batch_size=16))

    def evaluate(coords: np.ndarray) -> np.ndarray:
        padded = np.resize(coords, (-(-len(coords) // CHUNK) * CHUNK, coords.shape[1])).astype(np.float32)
        return np.concatenate([compiled(padded[i : i + CHUNK]) for i in range(0, len(padded), CHUNK)])[: len(coords)]

    return evaluate


def counts(report: Report) -> None:
    """Evaluations on a large grid."""
    side = 129 if report.quick else FINE_SIDE
    grid = ls.Grid.square(1.0, side)
    report.section(f"tolerance: evaluations, digits net 64-128-128-10, {grid.size:,} points")
    fresh = np.random.default_rng(1).choice(grid.size, 50 if report.quick else FRESH, replace=False)
    for name, activation in {"tanh": jnp.tanh, "relu": jax.nn.relu}.items():
        evaluate = at(trained(activation, 1437, (128, 128), 0))
        for tolerance, most in COUNTS.items():
            count(report, f"{name} at {tolerance:g}", grid, Smooth(tolerance), evaluate, fresh=fresh, target=most)


def count(
    report: Report, name: str, grid: ls.Grid, driver: Smooth, evaluate: Any, *, fresh: np.ndarray, target: int
) -> None:
    """One net at one tolerance."""
    truth = evaluate(grid.points_at(fresh))
    refinement, seconds = refine(grid, driver, truth.dtype, lambda flat: evaluate(grid.points_at(flat)))
    off = float(np.abs(refinement.values["loss"].ravel()[fresh] - truth).max() / refinement.error["loss"])
    evaluations, rounds = (refinement.statement[key] for key in ("evaluations", "rounds"))
    report.note(
        f"  {name}: {evaluations:,} evaluations ({evaluations / grid.size:.2%}) in {rounds} rounds, target <= "
        f"{target:,}: {verdict(evaluations <= target)}; largest error at {fresh.size} fresh points {off:.2f}x; "
        f"bookkeeping {seconds:.2f} s",
        surface=name,
        evaluations=evaluations,
        target=target,
        error=off,
        seconds=seconds,
    )


# ------------------------------------------------------------------------------------------------------------ labels

MINIMA = np.array([[3.0, 2.0], [-2.805118, 3.131312], [-3.779310, -3.283186], [3.584428, -1.848126]])


def newton(coords: jax.Array) -> dict[str, jax.Array]:
    """Which root of z^3 = 1 Newton's method reaches in 60 steps; 3 for none."""
    roots = jnp.exp(2j * jnp.pi * jnp.arange(3) / 3)
    z = jax.lax.fori_loop(0, 60, lambda _, z: z - (z**3 - 1) / (3 * z**2), coords[0] + 1j * coords[1])
    return {"loss": nearest(jnp.abs(z - roots), 1e-3)}


def descent(coords: jax.Array) -> dict[str, jax.Array]:
    """Which minimum of Himmelblau's function gradient descent reaches in 1,000 steps of 0.01; 4 for none."""
    gradient = jax.grad(lambda p: (p[0] ** 2 + p[1] - 11) ** 2 + (p[0] + p[1] ** 2 - 7) ** 2)
    end = jax.lax.fori_loop(0, 1000, lambda _, p: p - 0.01 * gradient(p), coords)
    return {"loss": nearest(jnp.linalg.norm(end - MINIMA, axis=1), 1e-2)}


def nearest(distances: jax.Array, within: float) -> jax.Array:
    """Index of the smallest distance, or their number where none is small."""
    return jnp.where(jnp.min(distances) < within, jnp.argmin(distances), distances.size)


def labels(report: Report) -> None:
    """Label maps."""
    side = 129 if report.quick else FINE_SIDE
    report.section(f"tolerance: label maps, {side} x {side} points")
    for name, fn, extent in (
        ("Newton, z^3 = 1", newton, 2.0),
        ("Himmelblau, gradient descent", descent, 5.0),
    ):
        grid = ls.Grid.square(extent, side)
        exact = ls.sweep(fn, grid, progress=False)["loss"]
        found = against(exact, grid, Labels())
        met = verdict(found.evaluated <= SHARE_COMPUTED and found.wrong <= SHARE_WRONG)
        report.note(
            f"  {name}: computed {found.evaluated:.1%}, wrong {found.wrong:.1e} (stated: at most {found.bound:.1e})  "
            f"target <= {SHARE_COMPUTED:.0%} and {SHARE_WRONG:g}: {met}; bookkeeping {found.seconds:.2f} s",
            map=name,
            computed=found.evaluated,
            wrong=float(found.wrong),
            bound=found.bound,
            seconds=found.seconds,
        )
