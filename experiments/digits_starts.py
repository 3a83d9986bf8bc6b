"""Ten thousand starts of a small network on real digits: which start reaches what, and does it matter?

A tanh network 64-16-10 learns 539 of scikit-learn's handwritten digits; the other 1,258 test it. The loss has a small
weight decay, cross-entropy + decay / 2 |w|^2: without it the loss of digits that are all classified rightly falls for
ever as the weights grow, and there is no minimum. Every start is trained by full-batch Adam, so the start alone decides
where a run ends. Three questions:

- what share of the starts reaches 100 % training accuracy, and what becomes of train and test loss, at three scales of
  the initial weights (start i at one scale is a multiple of start i at another);
- into how many minima, up to the order and the signs of the hidden units? A sub-sample of the ends is polished to a
  gradient norm of 1e-8 (trust-region Newton, float64) and told apart. Chao's estimate (1984) says how many there are
  at least in all; where nothing was found twice, only the birthday bound is left. Networks with one and two hidden
  units, and images of known minima with their units exchanged, show that equal minima are recognised;
- what does a plane of starts look like? It goes through the zero network and two random starts.

Expected, exactly:

- tanh is odd, so a start and its negative end alike: the plane is point symmetric, up to rounding;
- at a minimum the output weights of each hidden unit, and the output biases, sum to 0 (the softmax does not change
  when all logits move together, the decay does), and weights from pixels that are always dark are 0;
- exchanging hidden units changes no minimum: from near an image it is found again; the Hessian has no negative
  eigenvalue. (From images of the ends before polishing, which are further away, rounding may lead elsewhere.)

How many minima there are is not published; every share belongs to this optimizer and this initialisation.
This experiment has its own problem and takes no --problem.

Cost: about seven minutes on two CPU cores for the defaults, half of it 3.8 million training steps, half 630 polishes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _lab import Lab, UsageError, main
from _lab.optimizers import adam
from _networks.minima import (
    Polished,
    Richness,
    about_minima,
    digits_with_decay,
    exchanged,
    in_double,
    neighbour_correlation,
    richness,
)  # fmt: skip

import landscape as ls
from landscape.analysis import Estimate, correlation, mean_of, share_of
from landscape.plotting import dress_log_ticks
from landscape.training import Runs

COPIES = 10  # ends that are polished again with their units exchanged
SOLVED, MISSED = "#0072b2", "#d55e00"


@dataclass(frozen=True)
class Config:
    """Settings of this experiment."""

    hidden: tuple[int, ...] = (16,)
    """Widths of the hidden layers."""
    runs: int = 10_000
    """Starts at the usual scale, N(0, 1 / fan_in)."""
    scales: tuple[float, ...] = (0.1, 5.0)
    """Other scales of the initial weights, as multiples of the usual one."""
    scale_runs: int = 1000
    """Starts at each of them."""
    steps: int = 250
    """Steps of Adam, on all training digits."""
    learning_rate: float = 0.02
    """Its learning rate."""
    decay: float = 1e-3
    """Weight decay, a part of the loss."""
    test_fraction: float = 0.7
    """Share of the digits that test."""
    polished: int = 200
    """Ends to polish, for each network."""
    narrow: tuple[int, ...] = (1, 2)
    """Widths of narrower networks whose minima are counted too."""
    resolution: int = 41
    """Starts along each axis of the planes; an odd number, so that the zero network is among them."""
    extent: float = 3.0
    """Half-width of the plane, in units of a usual start."""
    zoom: float = 30.0
    """How much smaller the second plane is, about one start."""
    seed: int = 0
    """Seed of the starts."""


SMOKE = Config(
    hidden=(1,), runs=24, scales=(4.0,), scale_runs=12, steps=30, decay=0.02, test_fraction=0.9, polished=4,
    narrow=(), resolution=3,
)  # fmt: skip


@lru_cache
def scaled(init: Any, scale: float) -> Any:
    """An initialisation whose parameters are `scale` times those of another one."""
    return jax.tree_util.Partial(lambda key: jax.tree.map(lambda x: scale * x, init(key)))


def campaign(problem: ls.Problem, config: Config, num_runs: int, scale: float = 1.0) -> Runs:
    """Training from many random starts; run `i` starts in the same direction at every scale."""
    return Runs(
        objective=problem.objectives["train"],
        optimizer=adam(config.learning_rate),
        num_runs=num_runs,
        num_steps=config.steps,
        init=scaled(problem.init, scale),
        key=jax.random.key(config.seed),
        track=problem.objectives,
        record_every=config.steps,
    )


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Ends:
    """Point function: what a basin map measures at the end of a run, without the parameters there."""

    basins: ls.BasinMap

    def __call__(self, coords: jax.Array) -> dict[str, jax.Array]:
        """Losses, accuracies, outcome and steps of one run."""
        return {name: value for name, value in self.basins(coords).items() if name != "end"}

    def check_grid(self, grid: ls.Grid) -> None:
        """Raise `TypeError` or `ValueError` where the basin map cannot be swept."""
        self.basins.check_grid(grid)


# ------------------------------------------------------------------------------------------------------------- run


def run(config: Config, lab: Lab) -> dict[str, ls.Landscape]:
    """Ends at every scale, minima of every width, and two planes of starts."""
    _check(config)
    problem = digits_with_decay(config.hidden, config.decay, config.test_fraction)
    result: dict[str, Any] = {}
    for scale in dict.fromkeys((1.0, *config.scales)):
        num = config.runs if scale == 1 else config.scale_runs
        result[f"starts_{scale:g}"] = _train(problem, config, lab, f"starts_{scale:g}", num, scale)
    result["minima"] = _polish(problem, config, lab, "minima", result["starts_1"])
    for width in config.narrow:
        small = digits_with_decay((width,), config.decay, config.test_fraction)
        ends = _train(small, config, lab, f"narrow_{width}", config.polished)
        result |= {f"narrow_{width}": ends, f"minima_{width}": _polish(small, config, lab, f"minima_{width}", ends)}
    result |= _planes(problem, config, lab)
    return {name: landscape for name, landscape in result.items() if landscape is not None}


def _check(config: Config) -> None:
    if min(config.runs, config.scale_runs, config.polished) < 4 or config.polished > config.runs:
        raise UsageError("needs --runs, --scale-runs and --polished >= 4, and no more --polished than --runs")
    if config.steps < 1 or not config.learning_rate > 0 or not config.decay > 0:
        raise UsageError("needs --steps >= 1, --learning-rate and --decay > 0: without decay there is no minimum")
    if config.resolution < 3 or config.resolution % 2 == 0:
        raise UsageError(f"--resolution must be odd and at least 3, got {config.resolution}")
    if not (config.extent > 0 and config.zoom > 1 and all(scale > 0 for scale in config.scales)):
        raise UsageError("needs --extent and --scales > 0, and --zoom > 1")
    if not all(width >= 1 for width in (*config.hidden, *config.narrow)) or not config.hidden:
        raise UsageError(f"widths must be at least 1, got --hidden {config.hidden} and --narrow {config.narrow}")


def _train(problem: ls.Problem, config: Config, lab: Lab, name: str, num: int, scale: float = 1.0) -> Any:
    said = {
        "optimizer": f"Adam, rate {config.learning_rate:g}, {config.steps} steps on all digits",
        "initialisation": f"{scale:g} x N(0, 1 / fan_in)",
        "starts": {"model": problem.name, "scale": scale},
    }
    runs = campaign(problem, config, num, scale)
    return lab.sweep(name, runs, ls.Grid.of(run=np.arange(num)), lambda _: said)


def _polish(problem: ls.Problem, config: Config, lab: Lab, name: str, ends: Any) -> Any:
    """The minima below the first ends, and below copies of some of them with their units exchanged."""
    num = config.polished
    if lab.planning:
        stacked = jax.tree.map(lambda x: jnp.stack([x] * num), problem.init(jax.random.key(0)))
    elif not ends.computed.all():
        return None  # other shards still train
    else:
        stacked = jax.tree.map(lambda x: x[:num], campaign(problem, config, ends.grid.size).gather(ends).params)
    copies = exchanged(jax.tree.map(lambda x: x[:COPIES], stacked), config.seed)
    with jax.enable_x64(True):
        both = jax.tree.map(lambda a, b: jnp.asarray(np.concatenate([a, b]), jnp.float64), stacked, copies)
        objectives = in_double(dict(problem.objectives))
        point = Polished(objectives["train"], both, objectives)
        about = partial(about_minima, problem, objectives["train"], num)
        return lab.sweep(name, point, ls.Grid.of(run=np.arange(len(jax.tree.leaves(both)[0]))), about)


def _planes(problem: ls.Problem, config: Config, lab: Lab) -> dict[str, Any]:
    """A plane of starts through the zero network and two random starts, and a smaller one about the first of these."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 1))
    directions = jax.vmap(problem.init)(keys)
    plane = ls.Subspace(jax.tree.map(lambda x: jnp.zeros_like(x[0]), directions), directions)
    further = {name: other for name, other in problem.objectives.items() if name != "train"}
    basins = ls.BasinMap(plane, problem.objectives["train"], adam(config.learning_rate), config.steps, track=further)
    axes = [
        ls.Axis.linspace(name, -config.extent, config.extent, config.resolution, f"multiple of start {letter}")
        for name, letter in (("alpha", "A"), ("beta", "B"))
    ]
    wide = ls.Grid(tuple(axes))
    return {
        "plane": lab.sweep("plane", Ends(basins), wide),
        "plane_zoom": lab.sweep("plane_zoom", Ends(basins), wide.zoom((1.0, 0.0), config.zoom)),
    }


# -------------------------------------------------------------------------------------------------------- findings


def last(starts: ls.Landscape, name: str) -> np.ndarray:
    """A quantity at the end of each run, `(runs,)`."""
    return starts[f"history.{name}"][:, -1]


def solved(starts: ls.Landscape) -> np.ndarray:
    """Which runs classify every training digit rightly."""
    return last(starts, "train_accuracy") == 1


def share_solved(starts: ls.Landscape) -> Estimate:
    """Share of the runs that classify every training digit rightly, with its Wilson interval."""
    return share_of(int(solved(starts).sum()), starts.grid.size)


def findings(result: Mapping[str, ls.Landscape]) -> list[tuple[str, str, str]]:
    """Rows of `(what, expected, found)`."""
    rows = [("optimizer", "", str(result["starts_1"].meta["optimizer"]))]
    for name, starts in result.items():
        if name.startswith("starts_"):
            rows += _start_rows(starts)
    for name, found in result.items():
        if name.startswith("minima"):
            rows += _minima_rows(found)
    return rows + _plane_rows(result)


def _start_rows(starts: ls.Landscape) -> list[tuple[str, str, str]]:
    scale, num = starts.meta["starts"]["scale"], starts.grid.size
    train, test = last(starts, "train_loss"), last(starts, "test_loss")
    accuracy, finite = last(starts, "test_accuracy"), np.isfinite(train) & np.isfinite(test)
    measured = {"train loss": train, "test loss": test, "test accuracy": accuracy}
    rows = [("reach 100 % training accuracy", f"{share_solved(starts):.2%} of {num:,}")]
    for what, x in measured.items():
        if finite.sum() > 1:
            spread = f"standard deviation {np.std(x[finite], ddof=1):.4f}"
            rows.append((f"{what}, mean", f"{mean_of(x[finite]):.5f}, {spread}"))
    rows.append(("correlation of train and test loss", f"{correlation(train[finite], test[finite]):.3f}"))
    words = f"starts {scale:g} x N(0, 1/fan_in)"
    lost = (f"{words}: runs without a finite loss, left out", "none", f"{np.sum(~finite)} of {num:,}")
    return [*((f"{words}: {what}", "not published", found) for what, found in rows), lost]


def _minima_rows(found: ls.Landscape) -> list[tuple[str, str, str]]:
    about = found.meta["told_apart"]
    labels = np.asarray(about["labels"])
    num = len(labels)
    there, many = labels >= 0, richness(labels)
    loss, test = found["loss"][:num][there], found["test_loss"][:num][there]
    rows = [
        ("polished to a gradient norm of 1e-8", f"{num}", f"{there.sum()}"),
        ("distinct minima among them", "not published", f"{many.seen} ({many.once} found once, {many.twice} twice)"),
        ("minima in all, at least", "not published", _richness_text(many)),
        ("found again from near images of theirs", *_of_all(about["minima_again"])),
        ("ends with exchanged units polish to the same", *_of_all(about["ends_again"])),
        ("smallest Hessian eigenvalues", "> 0", ", ".join(f"{x:.2e}" for x in about["lowest_eigenvalues"]) or "none"),
    ]
    zero = about["identities"]
    rows.append(("output weights of a unit sum to", "0", f"{zero['output_sums']:.1e} at most"))
    if zero["dark_pixels"]:
        rows.append((f"weights from {zero['dark_pixels']} dark pixels", "0", f"{zero['dark_weights']:.1e} at most"))
    if len(about["distances"]):
        gaps = np.asarray(about["distances"])
        text = f"{gaps.min():.3f} to {gaps.max():.3f}, median {np.median(gaps):.3f}"
        rows.append(("distance of two minima over their norm", "not published", text))
    if there.sum() > 1:
        spread = f"{loss.min():.6f} to {loss.max():.6f}"
        rows.append(("train loss at the minima", "not published", spread))
        rows.append(("test loss at the minima, mean", "not published", f"{mean_of(test):.5f}"))
        rows.append(("correlation of train and test loss", "not published", f"{correlation(loss, test):.3f}"))
    return [(f"{about['model']}: {what}", expected, text) for what, expected, text in rows]


def _of_all(again: list[int]) -> tuple[str, str]:
    return f"all {again[1]}", str(again[0])


def _richness_text(many: Richness) -> str:
    if many.once == many.num:
        return f"{many.at_least:,.0f} (95 %, all {many.num} differ)"
    return f"{many.estimate:.0f} ± {many.stderr:.0f} [{many.low:.0f}, {many.high:.0f}] (Chao1)"


def _plane_rows(result: Mapping[str, ls.Landscape]) -> list[tuple[str, str, str]]:
    rows = []
    if "plane" in result:
        test = result["plane"]["test_loss"]
        gap = np.max(np.abs(test - test[::-1, ::-1]))
        rows.append(("plane: test loss of a start minus that of its negative", "0 (rounding)", f"{gap:.1e} at most"))
    for name, words in (("plane", "plane"), ("plane_zoom", "small plane")):
        if name in result:
            values = result[name]["test_loss"]
            step = np.diff(result[name].grid.axes[0].values)[0]
            text = f"{neighbour_correlation(values):.3f} at a spacing of {step:.2g}"
            rows.append((f"{words}: rank correlation of neighbours' test loss", "1 inside wide basins", text))
    return rows


# ------------------------------------------------------------------------------------------------------------ plot


def plot(result: Mapping[str, ls.Landscape]) -> dict[str, Any]:
    """Where the starts end, how many minima there are, and the planes of starts."""
    figures = {"starts": _draw_starts(result)}
    if any(name.startswith("minima") for name in result):
        figures["minima"] = _draw_minima(result)
    return figures | ({"plane": _draw_planes(result)} if "plane_zoom" in result else {})


def _draw_starts(result: Mapping[str, ls.Landscape]) -> Any:
    """Histogram by verdict, test against train loss, and both shares and test loss by scale."""
    from matplotlib import pyplot

    starts = {name: landscape for name, landscape in result.items() if name.startswith("starts_")}
    scales = sorted(starts.values(), key=lambda landscape: landscape.meta["starts"]["scale"])
    figure, axes = pyplot.subplots(2, 2, figsize=(7.0, 5.6))
    _draw_histogram(axes[0, 0], scales)
    _draw_density(axes[0, 1], result)
    _draw_shares(axes[1, 0], scales)
    _draw_spread(axes[1, 1], scales)
    model = result["starts_1"].meta["starts"]["model"]
    figure.suptitle(f"{model}; {result['starts_1'].meta['optimizer']}")
    for ax, letter in zip(axes.flat, "abcd"):
        ax.set_title(f"({letter}) {ax.get_title()}", loc="left")
        ax.set_title("")
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_histogram(ax: Any, scales: list[ls.Landscape]) -> None:
    """Train losses of all runs; the runs of each scale in their own row of bins, divided by verdict."""
    losses = [last(starts, "train_loss") for starts in scales]
    finite = np.concatenate([x[np.isfinite(x)] for x in losses])
    edges = np.geomspace(finite.min(), finite.max() * 1.001, 70)
    for row, (starts, loss) in enumerate(zip(scales, losses)):
        top = max(np.histogram(loss, edges)[0].max(), 1)
        for mask, color in ((np.ones_like(solved(starts)), MISSED), (solved(starts), SOLVED)):
            heights = np.histogram(loss[mask], edges)[0] / top * 0.85
            ax.stairs(row + heights, edges, baseline=row, fill=True, color=color, linewidth=0)
    ax.set(xscale="log", xlabel="training loss at the end (log scale)", title="ends of the runs")
    ax.set_yticks(range(len(scales)), [f"{s.meta['starts']['scale']:g} x" for s in scales])
    ax.set(ylabel="scale of the initial weights", ylim=(0, len(scales) + 0.35))
    dress_log_ticks(ax.xaxis, edges[0], edges[-1])
    _legend(ax, {"100 % training accuracy": SOLVED, "less": MISSED})


def _legend(ax: Any, colors: Mapping[str, str]) -> None:
    for label, color in colors.items():
        ax.plot([], [], "s", color=color, markersize=6, label=label)
    ax.legend(loc="upper right", ncols=2, columnspacing=1.0, handletextpad=0.2)


def _draw_density(ax: Any, result: Mapping[str, ls.Landscape]) -> None:
    """Test against train loss of the usual starts as a density, and of their polished minima as dots."""
    starts = result["starts_1"]
    train, test = last(starts, "train_loss"), last(starts, "test_loss")
    finite = np.isfinite(train) & np.isfinite(test)
    found = ax.hexbin(train[finite], test[finite], gridsize=45, bins="log", mincnt=1, cmap="viridis", linewidths=0.1)
    bar = ax.figure.colorbar(found, ax=ax, pad=0.02)
    bar.set_label("runs in a cell (log scale)")
    if "minima" in result:
        there = np.asarray(result["minima"].meta["told_apart"]["labels"]) >= 0
        loss, after = (result["minima"][name][: len(there)][there] for name in ("loss", "test_loss"))
        ax.plot(loss, after, ".", markersize=3, color=MISSED, label="minima below some of them")
        ax.legend(loc="upper left", handletextpad=0.2)
    ax.set(xlabel="training loss", ylabel="test loss", title=f"{len(train):,} starts, 1 x")
    ax.margins(0.06)


def _draw_shares(ax: Any, scales: list[ls.Landscape]) -> None:
    x = [starts.meta["starts"]["scale"] for starts in scales]
    found = 100 * np.array([share_solved(starts) for starts in scales])
    _bars(ax, x, found, SOLVED)
    ax.set(ylabel="share of the starts in %", title="100 % training accuracy", ylim=(-4, 106))


def _draw_spread(ax: Any, scales: list[ls.Landscape]) -> None:
    """Quantiles of the test loss, and its mean, over the runs where it is finite."""
    x, rows = [starts.meta["starts"]["scale"] for starts in scales], []
    for starts in scales:
        loss = last(starts, "test_loss")
        loss = loss[np.isfinite(loss)]
        rows.append([np.mean(loss), *np.quantile(loss, (0.05, 0.95))] if len(loss) else [np.nan] * 3)
    _bars(ax, x, np.array(rows), "0.25")
    ax.set(ylabel="test loss", title="mean, 5 % and 95 % quantile")


def _bars(ax: Any, x: list[float], found: np.ndarray, color: str) -> None:
    """Points with the ends of their intervals over the scales."""
    ends = np.abs(found[:, 1:] - found[:, :1]).T
    ax.errorbar(x, found[:, 0], yerr=ends, fmt="o", markersize=4, color=color, capsize=3, linewidth=1)
    ax.set(xscale="log", xlabel="scale of the initial weights (log scale)")
    ax.set_xticks(x, [f"{scale:g} x" for scale in x])
    ax.minorticks_off()
    ax.set_xlim(min(x) / 1.6, max(x) * 1.6)


def _draw_minima(result: Mapping[str, ls.Landscape]) -> Any:
    """How many minima the first k polished ends show, and how many of the ends belong to each."""
    from matplotlib import pyplot

    found = [landscape for name, landscape in result.items() if name.startswith("minima")]
    found = sorted(found, key=lambda landscape: landscape.meta["told_apart"]["num_params"])
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(7.0, 3.1))
    for number, landscape in enumerate(found):
        about = landscape.meta["told_apart"]
        labels = np.asarray(about["labels"])
        labels = labels[labels >= 0]
        first = np.unique(labels, return_index=True)[1]
        curve = np.searchsorted(np.sort(first), np.arange(len(labels)), side="right")
        name, many = about["model"].split(",")[0].removeprefix("digits MLP "), richness(labels)
        left.plot(1 + np.arange(len(labels)), curve, color=f"C{number}", label=f"{name}: {_in_all(many)}")
        hits = np.sort(np.unique(labels, return_counts=True)[1])[::-1]
        share = 100 * hits / len(labels)
        right.plot(1 + np.arange(len(hits)), share, ".-", markersize=3, linewidth=0.6, color=f"C{number}", label=name)
    longest = max(len(landscape.meta["told_apart"]["labels"]) for landscape in found)
    left.plot([1, longest], [1, longest], color="black", linewidth=0.9, linestyle=":")
    left.set(xlabel="starts", ylabel="distinct minima", title="minima found (dotted: every start another)")
    left.legend(loc="upper left")
    right.set(xscale="log", yscale="log", xlabel="minimum, by rank (log scale)", title="how many starts reach each")
    right.set(ylabel="share of the starts in % (log scale)")
    for axis, limits in ((right.xaxis, right.get_xlim()), (right.yaxis, right.get_ylim())):
        dress_log_ticks(axis, *limits)
    right.legend(loc="upper right", handletextpad=0.4)
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def _in_all(many: Any) -> str:
    if many.once == many.num:
        return f"at least {many.at_least:,.0f}"
    return f"{many.estimate:.0f} [{many.low:.0f}, {many.high:.0f}] in all"


def _draw_planes(result: Mapping[str, ls.Landscape]) -> Any:
    """Test loss at the end over the starts; the frame of the small plane in the large one."""
    from matplotlib import pyplot
    from matplotlib.patches import Rectangle

    figure, axes = pyplot.subplots(1, 2, figsize=(7.4, 3.3), layout="compressed")
    for ax, name in zip(axes, ("plane", "plane_zoom")):
        ls.plotting.heatmap(
            result[name], "test_loss", ax=ax, minimum=False, robust=name == "plane", label="test loss at the end"
        )
    (a, b), zoomed = (axis.values for axis in result["plane_zoom"].grid.axes), result["plane_zoom"].grid
    axes[0].add_patch(Rectangle((a[0], b[0]), np.ptp(a), np.ptp(b), fill=False, color="white", linewidth=1.0))
    factor = np.ptp(result["plane"].grid.axes[0].values) / np.ptp(zoomed.axes[0].values)
    axes[0].set_title("(a) a start and its negative end alike", loc="left")
    axes[1].set_title(f"(b) {factor:g} x nearer, about start A", loc="left")
    return figure


if __name__ == "__main__":
    main("digits_starts", Config, SMOKE, run, plot, findings, takes_problem=False)
