"""The same starts under five optimizers: who decides where a start ends, the landscape or the optimizer?

Gradient descent, heavy ball, Adam, L-BFGS and stochastic gradient descent start from the same points,

- on a test function of two variables (--function himmelblau, ...), from every point of a grid over its box, where the
  gradient noise of stochastic descent is Gaussian, of a stated size and the same for all starts;
- on a tanh network 64-16-10 with weight decay on 539 of scikit-learn's digits (or your own model by --problem), from
  random starts of one initialisation, where stochastic descent draws minibatches.

Learning rates follow a rule, from one list for all. Function: of the rates with which at least 95 % of a coarser grid
of starts end at a minimum, the one with the fewest steps in the median; stochastic descent has the rate of gradient
descent, so that noise is all the difference. Network: the rate with the least median training loss at the end of a
pilot from other starts; the test set has no say. L-BFGS finds its steps by line search; it has fewer steps, since each
takes several evaluations of the loss.

Expected: were the optimizer of no account, shares would be equal, no start would change its minimum, ends of one start
would coincide, and paired differences of losses would be within two standard errors of 0. Losses at the ends also tell
which optimizer went furthest; losses at the minima below, after polishing, do not. Where a boundary of basins is
smooth, its entropy is at most log 2 (Daza et al. 2016). Nothing here is published: a share belongs to an optimizer and
an initialisation, and each is printed with both. Intervals are for 95 %; on a grid, whose points are not drawn at
random, they are wider than need be. Which minimum a network's end belongs to is told after polishing (trust-region
Newton, float64, gradient norm 1e-8), up to the order and the signs of hidden units; for your own model, as it stands.
Polishing is sensitive by itself: rounding sends about a fifth of the ends elsewhere (`digits_starts.py`). The function
is always computed in float64.

Cost: about four minutes of CPU time for the defaults, most of it the network.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import combinations
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _lab import Lab, UsageError, main, say
from _networks.minima import digits_with_decay
from _networks.optimizers import (
    Campaign,
    changed_minimum,
    end,
    flat_ends,
    other_start_distance,
    paired,
    pilot,
    polish,
    rows,
    same_start_distance,
    share_text,
)  # fmt: skip

import landscape as ls
from landscape import analysis, minima
from landscape.analysis import share_of
from landscape.plotting import dress_log_ticks
from landscape.training import Runs

Function = Literal[
    "himmelblau", "six_hump_camel", "three_hump_camel", "styblinski_tang", "goldstein_price", "mueller_brown",
    "rastrigin",
]  # fmt: skip
WORDS = {"gd": "gradient descent", "momentum": "heavy ball 0.9", "adam": "Adam", "lbfgs": "L-BFGS", "sgd": "SGD"}
COLORS = {"gd": "#0072b2", "momentum": "#d55e00", "adam": "#009e73", "lbfgs": "#000000", "sgd": "#cc79a7"}
ENOUGH = 0.95  # of the pilot's starts must end at a minimum
SETTLED = 1e-6  # of the median gradient norm of the starts counts as none
FAR = 1e10  # a loss beyond which a run on a function has diverged


@dataclass(frozen=True)
class Config:
    """Settings of this experiment."""

    function: Function = "himmelblau"
    """A test function of two variables."""
    resolution: int = 161
    """Starts along each axis of its map."""
    function_steps: int = 3000
    """Steps at most on the function."""
    noise: float = 0.1
    """Standard deviation of the gradient noise, as a share of the median gradient norm of the starts."""
    rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0)
    """Learning rates to choose from."""
    starts: int = 200
    """Starts of the network; 0 leaves the network away."""
    steps: int = 600
    """Steps at most on the network."""
    line_searches: int = 150
    """Steps at most of L-BFGS on the network."""
    batch_size: int = 32
    """Examples of a minibatch."""
    tol: float = 1e-3
    """Gradient norm at which a run on the network has converged."""
    pilot_starts: int = 8
    """Starts of the network's pilot, at each learning rate."""
    polished: int = 24
    """Starts whose ends are polished, for each optimizer; 0 for none."""
    hidden: tuple[int, ...] = (16,)
    """Widths of the hidden layers of the digits network."""
    seed: int = 0
    """Seed of the network's starts and minibatches, and of the noise."""


SMOKE = Config(
    resolution=15, function_steps=400, rates=(1e-3, 1e-2, 0.1), starts=6, steps=20, line_searches=5, pilot_starts=2,
    polished=2, hidden=(2,),
)  # fmt: skip


def build(name: str, noise: float, seed: int, rate: Any) -> optax.GradientTransformation:
    """The optimizer of this name and learning rate, with gradient noise of this standard deviation for `sgd`."""
    if name == "lbfgs":
        return optax.lbfgs()
    if name == "sgd" and noise > 0:
        return optax.chain(optax.add_noise(noise**2, 0.0, jax.random.key(seed)), optax.sgd(rate))
    return {"momentum": partial(optax.sgd, momentum=0.9), "adam": optax.adam}.get(name, optax.sgd)(rate)


fixed = lru_cache(build)  # one object for equal settings, so that they share a compiled program


def run(config: Config, lab: Lab) -> dict[str, ls.Landscape]:
    """A map of the function for each optimizer, the ends of the network for each, and the minima below some of them."""
    _check(config, lab)
    result = _on_function(config, lab) | (_on_network(config, lab) if config.starts else {})
    return {name: landscape for name, landscape in result.items() if landscape is not None}


def _check(config: Config, lab: Lab) -> None:
    if config.resolution < 5 or min(config.function_steps, config.steps, config.line_searches) < 1:
        raise UsageError("needs --resolution >= 5, and --function-steps, --steps and --line-searches >= 1")
    if not config.rates or not all(rate > 0 for rate in config.rates) or not (config.tol > 0 and config.noise >= 0):
        raise UsageError("needs --rates and --tol > 0 and --noise >= 0")
    if config.starts and (config.starts < 4 or config.pilot_starts < 1):
        raise UsageError("needs --starts >= 4 (or 0, for no network) and --pilot-starts >= 1")
    if not 0 <= config.polished <= config.starts or not all(width >= 1 for width in config.hidden):
        raise UsageError("needs --polished from 0 to --starts, and --hidden >= 1")
    if lab.problem is not None and config.starts:
        examples = lab.problem.objectives["train"].num_examples
        if not 1 <= config.batch_size <= (examples or 0):
            raise UsageError(f"--batch-size must be between 1 and the {examples} examples, got {config.batch_size}")


# -------------------------------------------------------------------------------------------------------- function


class Ground(NamedTuple):
    """A test function, its starts, and what counts as a minimum.

    Attributes:
        known: the function.
        minima: its minima, the lowest first, `(m, 2)`.
        radius: within which one is reached.
        tol: gradient norm at which a run has converged.
        noise: standard deviation of the gradient noise.
    """

    known: Any
    minima: np.ndarray
    radius: float
    tol: float
    noise: float

    def grid(self, num: int) -> ls.Grid:
        """Starts over the box."""
        low, high = self.known.box
        return ls.Grid(tuple(ls.Axis.linspace(name, a, b, num, f"${name}$") for name, a, b in zip("xy", low, high)))


def ground_of(config: Config) -> Ground:
    """The function, and scales from the gradient norms over a coarse grid."""
    known: Any = getattr(ls.problems, config.function)
    known = known(2) if config.function == "rastrigin" else known
    order = np.argsort(known.values[known.indices == 0], kind="stable")
    points = known.minima[order]
    gaps = np.linalg.norm(points[:, None] - points, axis=-1)[~np.eye(len(points), dtype=bool)]
    ground = Ground(known, points, float(gaps.min()) / 4, 0.0, 0.0)
    gradients = jax.vmap(jax.grad(known))(jnp.asarray(ground.grid(PILOT).points()))
    typical = float(np.median(np.linalg.norm(gradients, axis=1)))
    return ground._replace(tol=SETTLED * typical, noise=config.noise * typical)


PILOT = 15  # starts along each axis of the function's pilot


def _on_function(config: Config, lab: Lab) -> dict[str, Any]:
    result, rates = {}, {}
    with jax.enable_x64(True):
        ground = ground_of(config)
        for name in WORDS:
            if name in ("gd", "momentum", "adam"):
                result[f"pilot_function_{name}"], rates[name] = _function_rate(name, ground, config, lab)
            rate = rates["gd"] if name == "sgd" else rates.get(name)
            if rate is None and name != "lbfgs":
                continue  # other shards compute the pilot
            basins = ls.BasinMap(
                None, ground.known.objective, fixed(name, ground.noise, config.seed, rate), config.function_steps,
                minima=jnp.asarray(ground.minima), radius=ground.radius, tol=None if name == "sgd" else ground.tol,
                max_loss=FAR, check_every=20,
            )  # fmt: skip
            about = partial(_about_function, name, rate, ground)
            key = f"function_{name}"
            result[key] = lab.sweep(key, basins, ground.grid(config.resolution), about)
    return result


def _about_function(name: str, rate: float | None, ground: Ground, _: ls.Landscape) -> dict[str, Any]:
    low, high = ground.known.box
    noise = f", gradient noise {ground.noise:.3g}" if name == "sgd" and ground.noise > 0 else ""
    return {
        "key": name,
        "optimizer": words(name, rate) + noise,
        "initialisation": f"uniform on [{low[0]:g}, {high[0]:g}] x [{low[1]:g}, {high[1]:g}]",
        "function": {"name": ground.known.name, "minima": ground.minima, "tol": ground.tol, "radius": ground.radius},
    }


def words(name: str, rate: float | None) -> str:
    """An optimizer with its rate."""
    return WORDS[name] if rate is None else f"{WORDS[name]}, rate {rate:g}"


def _function_rate(name: str, ground: Ground, config: Config, lab: Lab) -> tuple[Any, float | None]:
    """A pilot from a coarse grid of starts, and the rate that it decides on; None while other shards compute it."""
    points = ground.grid(PILOT).points()
    rates = np.asarray(config.rates)
    runs = Runs(
        objective=ground.known.objective,
        optimizer=partial(build, name, 0.0, config.seed),
        num_runs=len(points) * len(rates),
        num_steps=config.function_steps,
        inits=jnp.asarray(np.tile(points, (len(rates), 1))),
        hyper=jnp.asarray(np.repeat(rates, len(points))),
        record_every=config.function_steps,
        check_every=20,
        tol=ground.tol,
        max_loss=FAR,
    )
    found = lab.sweep(f"pilot_function_{name}", runs, ls.Grid.of(run=np.arange(runs.num_runs)))
    if found is None:
        return None, float(np.median(rates))
    if not found.computed.all():
        return found, None
    ends = found["params"].reshape(len(rates), len(points), 2)
    with np.errstate(over="ignore"):  # runs that diverged are far away
        nearest = np.linalg.norm(ends[:, :, None] - ground.minima, axis=-1).min(axis=-1)
    steps = np.median(found["steps"].reshape(len(rates), len(points)), axis=1)
    chosen, arrived = fastest_rate(np.mean(nearest <= ground.radius, axis=1), steps, rates)
    if arrived < ENOUGH:
        say(f"note: no rate brings {ENOUGH:.0%} of {name}'s pilot to a minimum; {chosen:g} does best ({arrived:.0%})")
    return found, chosen


def fastest_rate(arrived: np.ndarray, steps: np.ndarray, rates: np.ndarray) -> tuple[float, float]:
    """Of the rates with which enough of a pilot arrives, that with the fewest steps; or that with which most does.

    Args:
        arrived: share of the pilot that ends at a minimum, `(rates,)`.
        steps: median number of steps, `(rates,)`.
        rates: `(rates,)`.

    Returns:
        The rate, and the share that arrives with it.
    """
    enough = np.flatnonzero(arrived >= ENOUGH)
    best = enough[np.argmin(steps[enough])] if len(enough) else int(np.argmax(arrived))
    return float(rates[best]), float(arrived[best])


# --------------------------------------------------------------------------------------------------------- network


def _on_network(config: Config, lab: Lab) -> dict[str, Any]:
    own = lab.problem is None
    problem = digits_with_decay(config.hidden, 1e-3, 0.7) if own else lab.problem
    campaign = Campaign(
        problem, config.starts, config.steps, config.line_searches, config.batch_size, config.tol, config.seed
    )
    if not own:
        campaign = campaign._replace(symmetry=minima.Identity())
    result, runs, ended = {}, {}, {}
    for name in WORDS:
        rate = None
        if name != "lbfgs":
            rule = partial(build, name, 0.0, config.seed)
            found, rate = pilot(campaign, name, rule, config.rates, config.pilot_starts, lab)
            result[f"pilot_network_{name}"] = found
            if rate is None:
                return result  # other shards compute the pilot
        runs[name] = campaign.runs(name, fixed(name, 0.0, config.seed, rate), config.starts)
        batch = f", minibatches of {config.batch_size}" if name == "sgd" else ""
        initialisation = "N(0, 1 / fan_in)" if own else "the problem's own initialisation"
        about = {"key": name, "optimizer": words(name, rate) + batch, "initialisation": initialisation}
        about |= {"model": problem.name}
        grid = ls.Grid.of(run=np.arange(config.starts))
        ended[name] = lab.sweep(f"network_{name}", runs[name], grid, lambda _, a=about: a)
    result |= {f"network_{name}": landscape for name, landscape in ended.items()}
    if config.polished:
        result["network_minima"] = polish(campaign, runs, ended, config.polished, lab)
    return result


# -------------------------------------------------------------------------------------------------------- findings


def part(result: Mapping[str, ls.Landscape], prefix: str) -> dict[str, ls.Landscape]:
    """`{optimizer: landscape}` of the function or of the network."""
    return {name: result[f"{prefix}_{name}"] for name in WORDS if f"{prefix}_{name}" in result}


def findings(result: Mapping[str, ls.Landscape]) -> list[tuple[str, str, str]]:
    """Rows of `(what, expected, found)`."""
    maps, ended = part(result, "function"), part(result, "network")
    found = [row for landscape in maps.values() for row in _map_rows(landscape, next(iter(maps.values())))]
    for a, b in combinations(maps, 2):
        changed, num = changed_verdicts(maps[a], maps[b])
        what = f"function, {a} and {b}: starts that change their verdict"
        found.append((what, "0 if it did not matter", share_text(changed, num)))
    return found + (rows(ended, result.get("network_minima")) if ended else [])


def changed_verdicts(a: ls.Landscape, b: ls.Landscape) -> tuple[int, int]:
    """How many starts of two maps have different labels, of how many."""
    return int(np.sum(a["label"] != b["label"])), a["label"].size


def _map_rows(landscape: ls.Landscape, first: ls.Landscape) -> Iterator[tuple[str, str, str]]:
    key, labels = landscape.meta["key"], landscape["label"]
    function = landscape.meta["function"]
    yield f"function, {key}: optimizer", "", f"{landscape.meta['optimizer']}; {landscape.meta['initialisation']}"
    for label in (*range(len(function["minima"])), analysis.UNREACHED, analysis.DIVERGED):
        count = int(np.sum(labels == label))
        if count or label >= 0:
            there = np.mean(first["label"] == label)
            expected = "no published value" if landscape is first else f"{there:.2%} ({first.meta['key']})"
            yield f"function, {key}: share of {_place(label, function)}", expected, share_text(count, labels.size)
    entropy = analysis.basin_entropy(labels)
    edge = f"{entropy.boundary_entropy:.4f}"
    yield f"function, {key}: basin entropy", "0 for one basin", f"{entropy.entropy:.4f}"
    yield f"function, {key}: boundary entropy", "at most 0.6931 where smooth", edge


def _place(label: int, function: Mapping[str, Any]) -> str:
    if label < 0:
        return {analysis.UNREACHED: "starts that reach none", analysis.DIVERGED: "starts that diverge"}[label]
    return f"minimum {label} at ({', '.join(f'{c:.3f}' for c in function['minima'][label])})"


# ------------------------------------------------------------------------------------------------------------ plot


def plot(result: Mapping[str, ls.Landscape]) -> dict[str, Any]:
    """The maps and where they disagree; where the network ends."""
    maps, ended = part(result, "function"), part(result, "network")
    figures = {}
    if maps:
        figures |= {"maps": _draw_maps(maps), "verdicts": _draw_verdicts(maps)}
    return figures | ({"network": _draw_network(ended, result.get("network_minima"))} if ended else {})


def _panels(num: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    from matplotlib import pyplot

    lines = -(-num // columns)
    size = (width * columns + 0.3, height * lines + 0.3)
    figure, axes = pyplot.subplots(lines, columns, figsize=size, squeeze=False, layout="compressed")
    for ax in axes.flat[num:]:
        ax.set_axis_off()
    return figure, axes.flat


def _draw_maps(maps: Mapping[str, ls.Landscape]) -> Any:
    """A map for each optimizer, and the share of starts that change their verdict between any two."""
    figure, axes = _panels(len(maps) + 1, 3, 3.2, 3.55)
    for ax, (name, landscape) in zip(axes, maps.items()):
        points = np.asarray(landscape.meta["function"]["minima"])
        few = {"minima": points} if len(points) <= 40 else None
        ls.plotting.basins(landscape, ax=ax, points=few, shade=None if name == "sgd" else "steps")
        ax.set_title(_broken(landscape.meta["optimizer"]))
    shares = {(a, b): share_of(*changed_verdicts(maps[a], maps[b])) for a, b in combinations(maps, 2)}
    _draw_matrix(axes[len(maps)], list(maps), shares)
    axes[len(maps)].set_title("starts that change their verdict, %")
    return figure


def _broken(text: str) -> str:
    """A long title on two lines, at its last comma."""
    head, comma, tail = text.rpartition(", ")
    return f"{head},\n{tail}" if comma and len(text) > 34 else text


def _draw_matrix(ax: Any, names: Sequence[str], shares: Mapping[tuple[str, str], Any]) -> None:
    """Shares with their intervals in the cells below the diagonal."""
    values = np.full((len(names), len(names)), np.nan)
    for (a, b), found in shares.items():
        values[names.index(b), names.index(a)] = 100 * found.value
    ax.imshow(np.ma.masked_invalid(values[1:, :-1]), cmap="Blues", vmin=0, vmax=max(np.nanmax(values) * 1.4, 1e-3))
    for (a, b), found in shares.items():
        text = f"{100 * found.value:.1f}\n[{100 * found.low:.1f}, {100 * found.high:.1f}]"
        color = "white" if 100 * found.value > 0.85 * np.nanmax(values) else "black"
        ax.text(names.index(a), names.index(b) - 1, text, ha="center", va="center", color=color, fontsize=6.5)
    ax.set_xticks(range(len(names) - 1), names[:-1])
    ax.set_yticks(range(len(names) - 1), names[1:])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def _draw_verdicts(maps: Mapping[str, ls.Landscape]) -> Any:
    """Gradient descent against each other optimizer."""
    (first, before), *others = maps.items()
    figure, axes = _panels(len(others), 2, 3.4, 4.0)
    for ax, (name, after) in zip(axes, others):
        ls.plotting.verdict_change(before, after, ax=ax, names=(WORDS[first], WORDS[name]))
    return figure


def _draw_network(ended: Mapping[str, ls.Landscape], polished: ls.Landscape | None) -> Any:
    """Training losses at the end, test against training loss, paired differences, distances between ends."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(7.4, 6.0))
    _draw_histograms(axes[0, 0], ended)
    quantity = "test_loss" if all("history.test_loss" in one for one in ended.values()) else "train_loss"
    _draw_losses(axes[0, 1], ended, quantity)
    _draw_differences(axes[1, 0], ended, quantity)
    _draw_distances(axes[1, 1], ended, polished)
    for ax, letter in zip(axes.flat, "abcd"):
        ax.set_title(f"({letter}) {ax.get_title()}", loc="left")
        ax.set_title("")
    for ax in axes.flat[:3]:
        ax.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{next(iter(ended.values())).meta['model']}: the same starts under every optimizer")
    return figure


def _draw_histograms(ax: Any, ended: Mapping[str, ls.Landscape]) -> None:
    losses = {name: end(landscape, "train_loss") for name, landscape in ended.items()}
    finite = np.concatenate([x[np.isfinite(x)] for x in losses.values()])
    edges = np.geomspace(max(finite.min(), 1e-12), max(finite.max(), 1e-11) * 1.001, 80)
    for row, (name, loss) in enumerate(reversed(losses.items())):
        heights = np.histogram(loss, edges)[0]
        top = max(heights.max(), 1)
        ax.stairs(row + 0.85 * heights / top, edges, baseline=row, fill=True, color=COLORS[name], linewidth=0)
    ax.set_yticks(range(len(losses)), [WORDS[name] for name in reversed(losses)])
    ax.set(xscale="log", xlabel="training loss (log scale)", title="where the runs end", ylim=(0, len(losses) + 0.1))
    dress_log_ticks(ax.xaxis, edges[0], edges[-1])


def _draw_losses(ax: Any, ended: Mapping[str, ls.Landscape], quantity: str) -> None:
    for name, landscape in ended.items():
        x, y = end(landscape, "train_loss"), end(landscape, quantity)
        ax.plot(x, y, ".", markersize=2.5, color=COLORS[name], label=WORDS[name], alpha=0.7)
    ax.set(xscale="log", xlabel="training loss (log scale)", ylabel=quantity.replace("_", " "))
    ax.set_title("what they are worth on new data" if quantity == "test_loss" else "training loss")
    dress_log_ticks(ax.xaxis, *ax.get_xlim())
    ax.legend(loc="best", handletextpad=0.1, markerscale=2.5)


def _draw_differences(ax: Any, ended: Mapping[str, ls.Landscape], quantity: str) -> None:
    """Each optimizer minus the first, start by start."""
    first, *others = ended
    for row, name in enumerate(reversed(others)):
        mean, _ = paired(end(ended[name], quantity), end(ended[first], quantity))
        ends = [[mean.value - mean.low], [mean.high - mean.value]]
        ax.errorbar(mean.value, row, xerr=ends, fmt="o", markersize=4, color=COLORS[name], capsize=3, linewidth=1)
    ax.axvline(0, color="0.5", linewidth=0.8, linestyle=":")
    ax.set_yticks(range(len(others)), [WORDS[name] for name in reversed(others)])
    ax.set(xlabel=f"difference of the {quantity.replace('_', ' ')} (mean, 95 %)", ylim=(-0.6, len(others) - 0.4))
    ax.set_title(f"the same starts, minus {WORDS[first]}")
    ax.locator_params(axis="x", nbins=5)


def _draw_distances(ax: Any, ended: Mapping[str, ls.Landscape], polished: ls.Landscape | None) -> None:
    """Distances of the ends of one start, those of different starts on the diagonal; starts that share a minimum."""
    names = list(ended)
    flat = {name: flat_ends(landscape) for name, landscape in ended.items()}
    values = np.full((len(names), len(names)), np.nan)
    labels = None if polished is None else np.asarray(polished.meta["labels"])
    for i, j in zip(*np.tril_indices(len(names))):
        a, b = flat[names[i]], flat[names[j]]
        values[i, j] = other_start_distance(a) if i == j else same_start_distance(a, b)
        text = f"{values[i, j]:.3g}"
        if labels is not None and i != j:
            changed, num = changed_minimum(labels[[i, j]])
            text += f"\n{num - changed} of {num}"
        ax.text(j, i, text, ha="center", va="center", fontsize=7.5)
    ax.imshow(np.ma.masked_invalid(values), cmap="Blues", vmin=0, vmax=2.2 * np.nanmax(values))
    ax.set_xticks(range(len(names)), names)
    ax.set_yticks(range(len(names)), names)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title("distance of the ends of a start")
    below = "" if labels is None else "\nbelow: how many starts keep their minimum"
    ax.set_xlabel(f"diagonal: ends of different starts{below}")


if __name__ == "__main__":
    main("optimizers", Config, SMOKE, run, plot, findings)
