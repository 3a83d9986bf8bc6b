r"""Are two trained networks connected, and what does it take to see it?

Two networks of one architecture, trained from different starts on the same data, lie in the same loss landscape. Three
paths between them: the straight line; the line after the hidden units of one have been put into the order of the
other's (weight matching, Ainsworth et al. 2023, "Git Re-Basin", algorithm 1); a quadratic Bezier curve between the same
ends, trained to low loss (Garipov et al. 2018, "Loss surfaces, mode connectivity, and fast ensembling of DNNs"). The
barrier is the largest excess of the loss over the straight line between the losses of the ends (Entezari et al. 2022,
definition 2.1). One hidden layer of ReLU units on scikit-learn's digits and on MNIST-1D (Greydanus & Kobak 2024).

Expected:

- the line crosses a barrier; on MNIST-1D about 1.5 at width 32 and 3.0 at width 256 in the training loss, and .32 and
  .57 after matching (an earlier sample with a training of its own, not a published table): matching removes at least
  70 % of it;
- matching a network with a permuted copy of itself leaves no barrier, exactly;
- the trained curve is far below the line (Garipov et al. 2018, figure 1, on large networks, where nothing is
  permuted);
- instability analysis (Frankle et al. 2020): two children of one training that part at step k, and from there on draw
  other minibatches, end on one flat line if k is late enough. After the last step the barrier is 0.

Training: Adam, minibatches of blocks of 20 examples that stay together (drawing examples one by one without
replacement would cost more than the training). Pairs share no network, so their barriers are independent; intervals are
Student's, 95 %.

With --problem, your own network takes the place of ours, if its layers follow one another
(`paths.PermutationSpec.sequential`) and its loss is one number per example or their mean.

Cost: about two and a half minutes of CPU time for the defaults.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _lab import Lab, UsageError, main
from _lab.optimizers import adam
from _networks.connections import BLOCK, PATHS, Between, Case, Curves, barriers, cases, in_blocks, matched, num_blocks

import landscape as ls
from landscape import paths
from landscape.analysis import Estimate, mean_of, ratio_of
from landscape.training import Runs

EXPECTED = {"mnist1d_32": (1.5, 0.32), "mnist1d_256": (3.0, 0.57)}
TITLES = {"digits": "digits", "mnist1d": "MNIST-1D"}
WORDS = {"line": "line", "matched": "line, matched", "curve": "trained curve"}
COLORS = {"line": "#d55e00", "matched": "#0072b2", "curve": "#009e73"}
PARTS = {"train": "-", "test": "--"}
STABLE = 2  # points of the error rate: the threshold of Frankle et al. (2020), section 2


@dataclass(frozen=True)
class Config:
    """Settings of this experiment."""

    pairs: int = 10
    """Pairs of networks, for each width."""
    digits_widths: tuple[int, ...] = (8, 32, 128)
    """Widths of the hidden layer on the digits."""
    mnist1d_widths: tuple[int, ...] = (8, 32, 128, 256)
    """Widths of the hidden layer on MNIST-1D."""
    steps: int = 2000
    """Training steps of each network."""
    learning_rate: float = 0.005
    """Learning rate of Adam."""
    batch_size: int = 100
    """Examples in each step, of networks and of curves."""
    curve_steps: int = 2000
    """Training steps of each curve."""
    curve_rate: float = 0.01
    """Learning rate of Adam for the curves."""
    points: int = 25
    """Points along each path, ends included."""
    num_test: int = 4000
    """Test examples of MNIST-1D."""
    splits: tuple[int, ...] = (0, 10, 30, 100, 300, 1000, 2000)
    """Steps at which two children part, in the instability analysis."""
    split_width: int = 32
    """Width of its networks, on MNIST-1D."""
    split_runs: int = 6
    """Trainings that are split, for each step."""
    split_rate: float = 0.02
    """Their learning rate; the larger, the more the minibatches matter."""
    seed: int = 0
    """Seed of starts and minibatches."""


SMOKE = Config(
    pairs=2, digits_widths=(4,), mnist1d_widths=(), steps=60, curve_steps=40, points=5, num_test=200,
    splits=(0, 30, 60), split_width=4, split_runs=2,
)  # fmt: skip


def run(config: Config, lab: Lab) -> dict[str, ls.Landscape]:
    """Losses along the paths of every pair, and the lines between children."""
    _check(config, lab)
    own = Case("own", "own", 0, lab.problem) if lab.problem else None
    studied = [own] if own else cases(config.digits_widths, config.mnist1d_widths, config.num_test)
    result = {}
    for case in studied:
        result |= _pairs(case, config, lab)
    split = own or cases((), (config.split_width,), config.num_test)[0]
    result["instability"] = _instability(split, config, lab)
    return {name: landscape for name, landscape in result.items() if landscape is not None}


def _check(config: Config, lab: Lab) -> None:
    if min(config.pairs, config.split_runs) < 2 or config.points < 3:
        raise UsageError("needs --pairs and --split-runs >= 2, for an interval, and --points >= 3")
    if (
        min(config.steps, config.curve_steps) < 20
        or not min(config.learning_rate, config.curve_rate, config.split_rate) > 0
    ):
        raise UsageError("needs --steps and --curve-steps >= 20, --learning-rate, --curve-rate and --split-rate > 0")
    if config.batch_size < BLOCK or config.num_test < 10 or config.num_test % 10:
        raise UsageError(f"needs --batch-size >= {BLOCK}, a block of examples, and --num-test a multiple of 10")
    if min((*config.digits_widths, *config.mnist1d_widths, config.split_width)) < 1:
        raise UsageError(f"widths must be at least 1: {config}")
    if not config.splits or not all(0 <= split <= config.steps for split in config.splits):
        raise UsageError(f"--splits must lie within the {config.steps} training steps, got {config.splits}")
    if lab.problem is not None:
        _check_problem(lab.problem)


def _check_problem(problem: ls.Problem) -> None:
    if (problem.objectives["train"].num_examples or 0) < BLOCK:
        raise UsageError(f"connectivity draws blocks of {BLOCK} examples: --problem needs at least that many")
    try:
        paths.PermutationSpec.sequential(jax.eval_shape(problem.init, jax.random.key(0)))
    except ValueError as error:
        raise UsageError(f"connectivity needs a network of layers that follow one another: {error}") from error


def networks(case: Case, config: Config) -> Runs:
    """The trainings of a case; pair `i` is runs `2 i` and `2 i + 1`."""
    train = in_blocks(case.problem.objectives["train"])
    return Runs(
        objective=train,
        optimizer=adam(config.learning_rate),
        num_runs=2 * config.pairs,
        num_steps=config.steps,
        init=jax.tree_util.Partial(case.problem.init),
        key=jax.random.key(config.seed),
        track=case.problem.objectives,
        record_every=config.steps,
        batch_size=num_blocks(train, config.batch_size),
    )


def _pairs(case: Case, config: Config, lab: Lab) -> dict[str, Any]:
    """The trained networks of a case, the curves of its pairs, and losses along all paths."""
    runs, numbers = networks(case, config), ls.Grid.of(run=np.arange(2 * config.pairs))
    trained = lab.at_once(numbers.size, numbers.size).sweep(f"nets_{case.name}", runs, numbers)
    if trained is None:  # only planning
        keys = jax.random.split(jax.random.key(0), 2 * config.pairs)
        params = jax.vmap(case.problem.init)(keys)
    elif not trained.computed.all():
        return {f"nets_{case.name}": trained}
    else:
        params = jax.tree.map(jnp.asarray, runs.gather(trained).params)
    a, b = (jax.tree.map(lambda x, i=i: x[i::2], params) for i in (0, 1))
    objective, key = runs.objective, jax.random.fold_in(jax.random.key(config.seed), 1)
    curves = Curves(objective, a, b, key, adam(config.curve_rate), config.curve_steps, runs.batch_size or 1)
    pairs = np.arange(config.pairs)
    fitted = lab.at_once(config.pairs, config.pairs).sweep(f"curves_{case.name}", curves, ls.Grid.of(pair=pairs))
    if fitted is not None and not fitted.computed.all():
        return {f"nets_{case.name}": trained, f"curves_{case.name}": fitted}
    bends = a if fitted is None else curves.bends(fitted)
    other, distances = matched(a, b)
    said = {
        "case": {"data": case.data, "width": case.width, "name": case.problem.name},
        "distances": distances.tolist(),
    }
    said["copy"] = permuted_copy(case.problem.objectives["train"], jax.tree.map(lambda x: x[0], a), config)
    point = Between(case.problem.objectives, a, b, other, bends)
    grid = ls.Grid.of(pair=pairs, t=np.linspace(0, 1, config.points))
    losses = lab.at_once(1, 1).sweep(f"paths_{case.name}", point, grid, lambda _: said)
    return {f"nets_{case.name}": trained, f"curves_{case.name}": fitted, f"paths_{case.name}": losses}


def permuted_copy(objective: ls.Objective, params: Any, config: Config) -> list[float]:
    """The barrier between a network and a copy with its units in random order, before and after matching."""
    spec = paths.PermutationSpec.sequential(params)
    rng = np.random.default_rng(config.seed)
    orders = {group: rng.permutation(size) for group, size in spec.sizes(params).items()}
    copy = paths.permute(params, orders, spec)
    found = []
    for other in (copy, paths.match_weights(params, copy, spec).params):
        way = paths.line(params, other)
        losses = jax.lax.map(lambda t, way=way: objective(way(t)), jnp.linspace(0, 1, config.points)[:, None])
        found.append(ls.analysis.barrier(losses).above_line)
    return found


def _instability(case: Case, config: Config, lab: Lab) -> Any:
    train = in_blocks(case.problem.objectives["train"])
    tests = {name: o for name, o in case.problem.objectives.items() if name != "train"}
    point = paths.Instability(
        jax.tree_util.Partial(case.problem.init),
        train,
        adam(config.split_rate),
        config.steps,
        batch_size=num_blocks(train, config.batch_size),
        key=jax.random.fold_in(jax.random.key(config.seed), 2),
        track=tests,
        num_points=config.points,
    )
    splits = sorted(set(config.splits))
    grid = ls.Grid.of(split=splits, run=np.arange(config.split_runs))
    said = {"case": {"data": case.data, "width": case.width, "name": case.problem.name}}
    return lab.at_once(grid.size, grid.size).sweep("instability", point, grid, lambda _: said)


# -------------------------------------------------------------------------------------------------------- findings


def studied_paths(result: Mapping[str, ls.Landscape]) -> dict[str, ls.Landscape]:
    """The losses along paths, by case."""
    return {name.removeprefix("paths_"): found for name, found in result.items() if name.startswith("paths_")}


def removed(found: ls.Landscape, part: str = "train") -> Estimate:
    """The share of the mean barrier that matching removes; NaN where no pair has a barrier."""
    line, other = (barriers(found, f"{name}_{part}_loss") for name in ("line", "matched"))
    left = ratio_of(other, line)
    return Estimate(1 - left.value, 1 - left.high, 1 - left.low)


def findings(result: Mapping[str, ls.Landscape]) -> list[tuple[str, str, str]]:
    """Rows of `(what, expected, found)`."""
    rows = []
    for found in studied_paths(result).values():
        rows += _case_rows(found)
    return rows + _instability_rows(result["instability"])


def case_name(found: ls.Landscape) -> str:
    """`mnist1d_32`."""
    return "{data}_{width}".format(**found.meta["case"])


def data_title(found: ls.Landscape) -> str:
    """`MNIST-1D`, or the name of the user's problem."""
    case = found.meta["case"]
    return TITLES.get(case["data"]) or case["name"]


def title(found: ls.Landscape) -> str:
    """`MNIST-1D, width 32`."""
    width = found.meta["case"]["width"]
    return data_title(found) + (f", width {width}" if width else "")


def _case_rows(found: ls.Landscape) -> list[tuple[str, str, str]]:
    name, parts = title(found), [part for part in PARTS if f"line_{part}_loss" in found]
    told = dict(zip(("line", "matched"), EXPECTED.get(case_name(found), ())))
    hopes = {way: f"about {told[way]}" if way in told else "not published" for way in PATHS}
    hopes["curve"] = "far below the line"
    rows = []
    for part in parts:
        for way in PATHS:
            expected, heights = (
                hopes[way] if part == "train" else "not published",
                barriers(found, f"{way}_{part}_loss"),
            )
            rows.append((f"{part} barrier, {WORDS[way]}", expected, f"{mean_of(heights):.3f}"))
    for part in parts:
        expected = "at least 0.7" if told and part == "train" else "not published"
        share = removed(found, part)
        text = "no barrier" if np.isnan(share.value) else f"{share:.3f}"
        rows.append((f"share of the mean {part} barrier that matching removes", expected, text))
    top = {way: found[f"{way}_train_loss"].max(axis=-1) for way in PATHS}
    below = int(np.sum(top["curve"] < top["line"]))
    rows.append(("pairs whose curve stays below the top of their line", f"all {len(top['line'])}", str(below)))
    moved = max(np.max(np.abs(found[f"curve_{p}_loss"] - found[f"line_{p}_loss"])[:, [0, -1]]) for p in parts)
    before, after = found.meta["copy"]
    rows.append(("loss at the ends of the curve minus that of the line", "0 (rounding)", f"{moved:.0e} at most"))
    rows.append(
        ("barrier to a permuted copy, before, after matching", "> 0, 0 (rounding)", f"{before:.3g}, {after:.1g}")
    )
    return [(f"{name}: {what}", expected, text) for what, expected, text in rows]


def stable_from(found: ls.Landscape, part: str) -> str:
    """The first split from which on the error rate rises by less than 2 points between children, on average."""
    errors = 100 * (1 - found[f"{part}_accuracy"])
    rise = errors.max(axis=-1) - errors[..., [0, -1]].mean(
        axis=-1
    )  # the paper's definition: above the mean of the ends
    unstable = np.flatnonzero(rise.mean(axis=1) >= STABLE)
    splits = found.grid.axes[0].values.astype(int)
    first = unstable[-1] + 1 if len(unstable) else 0
    return str(splits[first]) if first < len(splits) else "none of these"


def _instability_rows(found: ls.Landscape) -> list[tuple[str, str, str]]:
    splits = found.grid.axes[0].values.astype(int)
    rows = []
    for part in [part for part in PARTS if f"{part}_loss" in found]:
        heights = barriers(found, f"{part}_loss")
        for split, row in zip(splits, heights):
            done = split == splits[-1] and not found["distance"][-1].any()
            expected = "0 (the same network)" if done else "not published"
            rows.append((f"{part} barrier of children that part at step {split}", expected, f"{mean_of(row):.3f}"))
        if f"{part}_accuracy" in found:
            what = f"stable (mean {part} error barrier below {STABLE} points) from step"
            rows.append((what, "not published", stable_from(found, part)))
    return [(f"{title(found)}: {what}", expected, text) for what, expected, text in rows]


# --------------------------------------------------------------------------------------------------------- figures


def plot(result: Mapping[str, ls.Landscape]) -> dict[str, Any]:
    """Losses along the paths of one case, barriers against the width, and against the step of the split."""
    from matplotlib import pyplot

    found = studied_paths(result)
    if not found:
        return {}
    data = list(dict.fromkeys(one.meta["case"]["data"] for one in reversed(found.values())))
    count = len(data) + 2
    rows, columns = (1, 3) if count == 3 else (2, 2)
    figure, axes = pyplot.subplots(rows, columns, figsize=(3.6 * columns, 3.0 * rows))
    panels = list(axes.flat)
    _draw_paths(panels[0], list(found.values())[-1])
    for ax, name in zip(panels[1:], data):
        _draw_widths(ax, [one for one in found.values() if one.meta["case"]["data"] == name])
    _draw_splits(panels[-1], result["instability"])
    for ax, letter in zip(panels, "abcd"):
        ax.set_title(f"({letter}) {ax.get_title(loc='left')}", loc="left")
        ax.spines[["top", "right"]].set_visible(False)
    return {"connectivity": figure}


def unit(found: ls.Landscape) -> str:
    """Cross-entropies are in nats; the user's loss is in units of its own."""
    return " (nats)" if found.meta["case"]["data"] in TITLES else ""


def _draw_paths(ax: Any, found: ls.Landscape) -> None:
    """Mean loss over the pairs, with its interval."""
    t = found.grid.axes[1].values
    for way in PATHS:
        for part, style in PARTS.items():
            if (name := f"{way}_{part}_loss") in found:
                means = np.array([mean_of(column) for column in found[name].T])
                ax.plot(t, means[:, 0], style, color=COLORS[way], label=WORDS[way] if part == "train" else None)
                ax.fill_between(t, means[:, 1], means[:, 2], color=COLORS[way], alpha=0.15, linewidth=0)
    ax.plot([], [], "--", color="0.4", label="test loss")
    ax.set(xlabel="position on the path, t", ylabel=f"loss{unit(found)}", xlim=(0, 1))
    ax.set_ylim(0, 1.3 * ax.get_ylim()[1])  # room for the legend above the bands
    ax.legend(loc="upper center", ncols=2)
    ax.set_title(f"{title(found)}, {found.grid.shape[0]} pairs", loc="left")


def _draw_widths(ax: Any, found: list[ls.Landscape]) -> None:
    """Barriers against the width on a log scale, intervals side by side; what was expected as crosses."""
    parts = [part for part in PARTS if f"line_{part}_loss" in found[0]]
    found = sorted(found, key=lambda one: one.meta["case"]["width"])
    widths = [one.meta["case"]["width"] for one in found]
    places = np.array([width or 1 for width in widths])  # a network as given has no width
    for i, way in enumerate(PATHS):
        for j, part in enumerate(parts):
            means = np.array([mean_of(barriers(one, f"{way}_{part}_loss")) for one in found])
            errors = np.abs(means[:, 1:] - means[:, :1]).T
            face = COLORS[way] if part == "train" else "white"
            look: dict[str, Any] = {"color": COLORS[way], "linestyle": PARTS[part], "markerfacecolor": face}
            aside = 0.12 * (i - 1) + 0.04 * (j - 0.5)
            look |= {"marker": "o", "markersize": 4, "capsize": 2, "linewidth": 0.9}
            ax.errorbar(places * 2.0**aside, means[:, 0], errors, **look)
    crosses = [(at, value) for at, one in zip(places, found) for value in EXPECTED.get(case_name(one), ())]
    for part in parts:
        ax.plot([], [], "o", color="0.4", markerfacecolor="0.4" if part == "train" else "white", label=part)
    if crosses:
        ax.plot(*np.array(crosses).T, "x", color="black", markersize=5, zorder=4, label="earlier sample, train")
    ax.set_xscale("log", base=2)
    ax.set_xticks(places, [str(width) if width else "as given" for width in widths])
    ax.minorticks_off()
    ax.set(xlabel="width of the hidden layer" + " (log scale)" * all(widths), ylabel=f"barrier{unit(found[0])}")
    ax.set_xlim(places.min() / 1.4, places.max() * 1.4)
    ax.axhline(0, color="0.8", linewidth=0.6, zorder=0)
    ax.set_ylim(top=1.3 * ax.get_ylim()[1])  # room for the legend
    ax.legend(loc="upper left")
    ax.set_title(data_title(found[0]), loc="left")


def _draw_splits(ax: Any, found: ls.Landscape) -> None:
    """The barrier between two children against the step at which they part, run by run and on average."""
    splits = found.grid.axes[0].values
    for part, color in (("train", "#0072b2"), ("test", "#d55e00")):
        if f"{part}_loss" in found:
            heights = barriers(found, f"{part}_loss")
            ax.plot(splits, heights, ".", color=color, markersize=3, alpha=0.5)
            ax.plot(splits, heights.mean(axis=1), PARTS[part], color=color, label=f"{part} loss")
    ax.set_xscale("symlog", linthresh=max(splits[splits > 0].min(initial=splits.max()), 1.0), linscale=0.4)
    ax.set_xticks(splits, [f"{split:g}" for split in splits], rotation=45 if len(splits) > 6 else 0)
    ax.minorticks_off()
    ax.set(xlabel="step at which two children part", ylabel=f"barrier between them{unit(found)}")
    ax.axhline(0, color="0.8", linewidth=0.6, zorder=0)
    ax.legend(loc="upper right")
    ax.set_title(f"instability, {title(found)}", loc="left")


if __name__ == "__main__":
    main("connectivity", Config, SMOKE, run, plot, findings)
