"""Do the basins of language models grow with their size, and what of them does a second text leave?

Small decoders (two layers, bytes of Python's help pages, split by topic) of several widths, some seeds each: how far
the loss stays under a rise of half a nat in 95 % of filter-normalised random directions (most-case), in the worst
direction that an ascent finds, and along the gradient's own step (critical sharpness); before and after fine-tuning on
topics that were held out.

Expected, before it was run: the most-case radius in norms of the filters grows with width (the claim of Chen et al.
2025, arXiv 2505.17646, for language models of different sizes); the worst radius is at least ten times smaller;
fine-tuning on other topics moves by less than the most-case radius and raises the loss on the first text all the same,
since it does not move in a random direction; low-rank directions of one length are no flatter than full ones.

A run that was stopped keeps its trained models and measures them anew. --problem takes your own model in place of
the widths, without fine-tuning.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _lab import Lab, UsageError, main, say
from _lab.optimizers import adam

import landscape as ls

NAMES = (
    "train_loss", "test_loss", "radius", "lower", "upper", "low_rank", "worst", "worst_predicted", "critical",
    "filters", "moved", "forgotten", "relative", "radius_after", "lower_after", "upper_after",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Settings of this experiment."""

    widths: tuple[int, ...] = (16, 24, 32, 48, 64, 96)
    """Widths of the residual stream, multiples of 4."""
    seeds: int = 3
    """Models of each width."""
    depth: int = 2
    """Layers."""
    context: int = 48
    """Bytes in an example."""
    examples: int = 384
    """Examples of the first text; a third as many of the second."""
    steps: int = 600
    """Training steps, on all examples."""
    tuning_steps: int = 60
    """Steps of fine-tuning on the second text."""
    learning_rate: float = 3e-3
    """Learning rate of Adam."""
    rise: float = 0.5
    """Of the loss, in nats."""
    evaluations: int = 1000
    """Of the loss, for each radius."""
    rank: int = 4
    """Of the low-rank directions."""


SMOKE = Config(widths=(8, 12), seeds=2, depth=1, context=16, examples=24, steps=30, tuning_steps=5, evaluations=800)


def run(config: Config, lab: Lab) -> dict[str, ls.Landscape]:
    """One landscape over widths and seeds."""
    if config.seeds < 1 or config.steps < 1 or not config.widths or config.rise <= 0:
        raise UsageError("needs --widths, --seeds, --steps of at least 1 and --rise above 0")
    if lab.options.get("shard") is not None:
        raise UsageError("these models are measured one after the other: leave --shard away")
    widths = (0,) if lab.problem is not None else config.widths
    if lab.planning:
        print(f"{len(widths) * config.seeds} models, about {3 * config.evaluations} evaluations and a training each")
        return {}
    values = {name: np.full((len(widths), config.seeds), np.nan, np.float32) for name in NAMES}
    for i, width in enumerate(widths):
        for seed in range(config.seeds):
            say(f"width {width}, seed {seed}")
            for name, value in _measured(config, lab, width, seed).items():
                values[name][i, seed] = value
    model = lab.problem.name if lab.problem is not None else f"{config.depth} layers, {config.examples} examples"
    grid = ls.Grid.of(width=widths, seed=range(config.seeds))
    landscape = ls.Landscape(grid, values, np.ones(grid.shape, bool))
    return {"basins": landscape.with_meta(about={"model": model, "rise": config.rise, "rank": config.rank})}


def _measured(config: Config, lab: Lab, width: int, seed: int) -> dict[str, Any]:
    key = jax.random.key(seed)
    problem = lab.problem or ls.problems.language_model(
        width, config.depth, context=config.context, num_train=config.examples, num_test=config.examples // 3
    )
    first = problem.objectives["train"]
    settings = [problem.name, seed, config.steps, config.learning_rate, config.examples, config.context, config.depth]
    params = lab.remember(
        f"training_{width}_{seed}", settings, lambda: _trained(first, problem.init(key), config), "training"
    )
    if lab.problem is not None and problem.params is not None:
        params = problem.params
    before = _reach(config, first, params, key)
    found = {"train_loss": first(params), **before, **_in_detail(config, first, params, key)}
    if lab.problem is not None or "test" not in problem.objectives:
        return found
    second = problem.objectives["test"]
    found |= {"test_loss": second(params), "relative": _critical(config, first, params, second)}
    tuned = _trained(second, params, config, config.tuning_steps)
    away = jax.tree.map(jnp.subtract, tuned, params)
    after = _reach(config, first, tuned, key)
    moved = np.sqrt(sum(float(jnp.sum(jnp.square(x))) for x in jax.tree.leaves(away)))
    return found | {
        "moved": moved, "forgotten": first(tuned) - first(params),
        **{f"{name}_after": after[name] for name in ("radius", "lower", "upper")},
    }  # fmt: skip


def _trained(objective: ls.Objective, start: Any, config: Config, steps: int | None = None) -> Any:
    steps = config.steps if steps is None else steps
    return ls.train(objective, adam(config.learning_rate), start, num_steps=steps, record_every=steps).params


def _reach(config: Config, objective: ls.Objective, params: Any, key: jax.Array, rank: int | None = None) -> Any:
    """Radius of 95 % of the directions with its interval, and what a filter norm is."""
    found = ls.radius(
        jax.random.fold_in(key, 1), objective, params, rise=config.rise, normalization="filter", filter_axis="flax",
        rank=rank, max_evaluations=config.evaluations,
    )  # fmt: skip
    low, high = found.interval
    return {"radius": found.value, "lower": low, "upper": high, "filters": found.units["filters"]}


def _in_detail(config: Config, objective: ls.Objective, params: Any, key: jax.Array) -> dict[str, Any]:
    """Low-rank directions, the worst one, and the gradient's own."""
    worst = ls.reach.worst_radius(
        jax.random.fold_in(key, 2), objective, params, rise=config.rise, starts=3, rounds=2, steps=8
    )
    predicted = worst.quadratic.value if worst.quadratic is not None else np.nan
    return {
        "low_rank": _reach(config, objective, params, key, config.rank)["radius"],
        "worst": worst.value,
        "worst_predicted": predicted,
        "critical": _critical(config, objective, params, objective),
    }


def _critical(config: Config, objective: ls.Objective, params: Any, of: ls.Objective) -> Any:
    return ls.reach.critical_sharpness(objective, params, learning_rate=config.learning_rate, of=of).value


def findings(result: Mapping[str, ls.Landscape]) -> list[tuple[str, str, str]]:
    """Rows of `(what, expected, found)`."""
    rows = []
    for landscape in result.values():
        means = {name: np.nanmean(landscape[name], axis=1) for name in landscape if np.isfinite(landscape[name]).any()}
        most = means["radius"] / means["filters"]
        ratio = landscape["radius"] / landscape["worst"]
        rows += [
            ("widths", "", ", ".join(f"{w:g}" for w in landscape.grid.axes[0].values)),
            ("training loss", "", _row(means["train_loss"])),
            ("most-case radius, norms of the filters", "grows with width", _row(most)),
            ("interval of each, width over value", "5 %", f"largest {_largest_width(landscape):.1%}"),
            ("most-case over worst-case radius", "above 10", f"{np.min(ratio):.3g} ... {np.max(ratio):.3g}"),
            ("worst radius over the quadratic's", "1, or below", _row(means["worst"] / means["worst_predicted"])),
            ("low-rank over full radius", "1", _row(means["low_rank"] / means["radius"])),
            ("critical sharpness along the gradient", "", _row(means["critical"])),
        ]
        if "moved" in means:
            rows += _tuning_rows(means)
    return rows


def _tuning_rows(means: Mapping[str, np.ndarray]) -> list[tuple[str, str, str]]:
    return [
        ("fine-tuning moves by, most-case radii", "below 1", _row(means["moved"] / means["radius"])),
        ("and raises the first loss by", "above 0", _row(means["forgotten"])),
        ("most-case radius after over before", "about 1", _row(means["radius_after"] / means["radius"])),
        ("critical sharpness along the second text", "below its own", _row(means["relative"] / means["critical"])),
    ]


def _row(values: np.ndarray) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


def _largest_width(landscape: ls.Landscape) -> float:
    return float(np.max((landscape["upper"] - landscape["lower"]) / landscape["radius"]))


def plot(result: Mapping[str, ls.Landscape]) -> dict[str, Any]:
    """Radii against width, each seed with its interval, and their ratio to the worst."""
    from matplotlib import pyplot

    figures = {}
    for name, landscape in result.items():
        figure, (left, right) = pyplot.subplots(1, 2, figsize=(8.4, 3.4), layout="constrained")
        widths = landscape.grid.axes[0].values
        for ends, label in (("", "trained"), ("_after", "fine-tuned on other topics")):
            _draw_radii(left, landscape, widths, ends, label)
        left.set(xlabel="width", ylabel="most-case radius, norms of the filters", title="95 % of directions")
        shown = (
            ("radius", "95 % of directions", "o"),
            ("moved", "fine-tuning moves", "s"),
            ("worst", "worst found", "v"),
        )
        for output, label, marker in shown:
            if np.isfinite(landscape[output]).any():
                right.plot(widths, np.nanmean(landscape[output], axis=1), marker=marker, label=label)
        right.set(xlabel="width", ylabel="distance", yscale="log", title="distances, mean over seeds")
        for ax in (left, right):
            ax.legend(fontsize="small")
        about = landscape.meta["about"]
        figure.suptitle(f"rise of {about['rise']:g} nats, {about['model']}", fontsize="medium")
        figures[name] = figure
    return figures


def _draw_radii(ax: Any, landscape: ls.Landscape, widths: np.ndarray, ends: str, label: str) -> None:
    values = {name: landscape[name + ends] / landscape["filters"] for name in ("radius", "lower", "upper")}
    if not np.isfinite(values["radius"]).any():
        return
    shift = 1.02 if ends else 1 / 1.02
    for seed in range(values["radius"].shape[1]):
        value, low, high = (values[name][:, seed] for name in ("radius", "lower", "upper"))
        style = {"fmt": "s" if ends else "o", "color": "C1" if ends else "C0", "markersize": 4}
        ax.errorbar(widths * shift, value, [value - low, high - value], label=None if seed else label, **style)


if __name__ == "__main__":
    main("basins_of_language", Config, SMOKE, run, plot, findings)
