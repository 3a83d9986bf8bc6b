r"""Where does training stop working, and how rough is that boundary?

Every point of the map is a pair of learning rates, one for each layer of a small network; every point trains the same
network from the same start on the same data, and is coloured by whether the loss came down. Sohl-Dickstein (2024,
arXiv 2402.06184) found that the boundary between the two is a fractal. Each map is followed by zooms, `--zoom` times
smaller each. The paper's were chosen by eye; here the next map is the window that holds most of the boundary, or one
about a random point of the boundary with `--toward random`.

Expected: the dimension of the boundary, as the median of the local slopes of box counts over all zooms. Published for
several configurations: 1.17 (deep linear) to 1.98. Ours are the deep linear network (1.05 to 1.35) and a single
example (1.25 to 1.6): one draw of weights and data is one sample of a quantity that varies between draws. The same
estimator is first tried on sets of known dimension: a circle (1), the Sierpinski triangle (log 3 / log 2 = 1.585) and
the basins of Newton's method on z^3 = 1 (1.42). The overview alone has a dimension near 1: structure appears on zoom.
And it appears in places: about random points both boundaries are smooth (with seed 0 at 1025 pixels 1.02 and 1.00), so
the number belongs to the rich part. Seen with the defaults: 1.43 +- .05 and 1.58 +- .12. At 257 pixels the estimator
says 1.17 of a circle, at 513 1.06, at 1025 1.01. At 513 pixels the deep linear network has 1.51 +- .07, 1.85 +- .08 and
1.85 +- .03 with the seeds 0, 1 and 2: with this rule of zooming it lies above the published value, and draws differ.

Each map is made twice. The boundary is measured on a fine grid of which only the pixels near it are trained, since the
others follow from their neighbours (`landscape.adaptive`: at most 1 in 500 is wrong, at 95 % confidence; where the
boundary is everywhere, all are trained); the picture trains every point of a coarser grid, for its shades. In double
precision. The draws are not the paper's, so pictures
agree in kind, not pixel by pixel.

Cost: two configurations of 9 maps, up to 92,000 trainings of 500 steps each: some ten minutes on two CPU cores. The
other configurations (`--configurations tanh relu minibatch`) have 272 examples and want an accelerator.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import numpy as np
import optax
from _runner import Lab, UsageError, main, say

import landscape as ls

Configuration = Literal["deep-linear", "single-datapoint", "tanh", "relu", "minibatch"]
EXPECTED = {"deep-linear": "1.05 to 1.35 (paper 1.17)", "single-datapoint": "1.25 to 1.6 (paper 1.41)"}
TITLES = {
    "deep-linear": "deep linear network",
    "single-datapoint": "tanh network, one example",
    "tanh": "tanh network",
    "relu": "ReLU network",
    "minibatch": "tanh network, minibatches",
}
KNOWN = {"circle": 1.0, "Sierpinski triangle": np.log2(3.0), "Newton's method": 1.42}
RANGE = (-3.0, 6.0)  # decimal logarithms of the learning rates
BOOTSTRAPS = 1000


@dataclass(frozen=True)
class Config:
    """Settings of this experiment."""

    configurations: tuple[Configuration, ...] = ("deep-linear", "single-datapoint")
    """Networks and data, as in the paper."""
    zooms: int = 8
    """Maps after the overview, each inside the one before."""
    toward: Literal["most", "random"] = "most"
    """Where to zoom: to the window that holds most of the boundary, or to a random point of it."""
    zoom: float = 4.0
    """How many times smaller each map is than the one before."""
    resolution: int = 257
    """Points along each axis of the maps whose boundary is measured."""
    picture: int = 161
    """Points along each axis of the maps that are drawn."""
    steps: int = 500
    """Training steps of every point."""
    width: int = 16
    """Inputs and hidden units."""
    seed: int = 0
    """Seed of the weights, the data and the zoom points."""


SMOKE = Config(configurations=("deep-linear",), zooms=1, resolution=129, picture=33, steps=40, width=4)
WRONG = 2e-3  # share of the labels of a refined map that may be wrong


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class LearningRates:
    """Coordinates are the decimal logarithms of the learning rates of the first and the second layer."""

    params: Any

    def __call__(self, coords: jax.Array) -> tuple[optax.GradientTransformation, Any]:
        """Gradient descent with these rates, and the common start."""
        first, second = 10.0 ** coords[0], 10.0 ** coords[1]

        def descend(gradient: Any, _: Any) -> Any:
            return {"w0": -first * gradient["w0"], "w1": -second * gradient["w1"]}

        return optax.stateless(descend), self.params


def run(config: Config, lab: Lab) -> dict[str, ls.Landscape]:
    """Two landscapes per map: `deep-linear_0` is the overview, `picture-deep-linear_0` what is drawn of it."""
    _check(config, lab)
    with jax.enable_x64(True):
        result = {}
        for name in config.configurations:
            result |= _zoomed(name, config, lab)
    return result


def _check(config: Config, lab: Lab) -> None:
    if lab.problem is not None:
        raise UsageError("this experiment has networks of its own; landscape.TrainabilityMap maps yours")
    least = {
        "--resolution": (config.resolution, 65),
        "--picture": (config.picture, 2),
        "--zooms": (config.zooms, 0),
        "--steps": (config.steps, 20),
    }
    for flag, (value, lowest) in least.items():
        if value < lowest:
            raise UsageError(f"{flag} must be at least {lowest}, got {value}")
    if not config.zoom > 1:
        raise UsageError(f"--zoom must be larger than 1, got {config.zoom}")


def _zoomed(name: Configuration, config: Config, lab: Lab) -> dict[str, ls.Landscape]:
    """The overview of one configuration and its zooms."""
    fn, center, result = _map(name, config), None, {}
    rng = np.random.default_rng([config.seed, *map(ord, name)])
    fine, coarse = _overview(config.resolution), _overview(config.picture)
    for level in range(config.zooms + 1):
        if level:
            fine, coarse = (grid.zoom(center, config.zoom) for grid in (fine, coarse))
        about = partial(_about, config, name, level)
        landscape = lab.sweep(f"{name}_{level}", fn, fine, about, tolerance={"converged": ls.adaptive.Labels(WRONG)})
        picture = lab.sweep(f"picture-{name}_{level}", fn, coarse)
        if landscape is None:
            say(f"{name}: {config.zooms} zooms of the same size follow, each where the one before has its boundary")
            break
        result |= {f"{name}_{level}": landscape, f"picture-{name}_{level}": picture}
        center = _next_center(landscape, config, rng)
        if center is None:
            say(f"{name}: no boundary in map {level}, so there is nothing to zoom to")
            break
    return result


def _overview(num: int) -> ls.Grid:
    """The range of learning rates of the paper."""
    labels = [rf"$\log_{{10}}$ learning rate, layer {i}" for i in (1, 2)]
    names = ("log_rate_0", "log_rate_1")
    return ls.Grid(tuple(ls.Axis.linspace(name, *RANGE, num, label) for name, label in zip(names, labels)))


def _map(name: Configuration, config: Config) -> ls.TrainabilityMap:
    """The point function of a configuration."""
    activation = {"deep-linear": "identity", "relu": "relu"}.get(name, "tanh")
    examples = 1 if name == "single-datapoint" else None
    problem = ls.problems.mean_field_net(config.width, examples, activation, config.seed)
    batch: dict[str, Any] = {}
    if name == "minibatch":
        batch = {"batch_size": min(16, config.width), "key": jax.random.key(42)}
    params = problem.init(jax.random.key(config.seed))
    return ls.TrainabilityMap(LearningRates(params), problem.objectives["train"], config.steps, **batch)


def _edges(landscape: ls.Landscape) -> np.ndarray:
    """The boundary at the corners between pixels, as in the paper's notebook."""
    return ls.analysis.boundary(landscape["converged"], kind="corners")


def _next_center(landscape: ls.Landscape, config: Config, rng: np.random.Generator) -> np.ndarray | None:
    """Where the next map lies: about a point of the boundary, inside this map where there is one."""
    edges, half = _edges(landscape), int(len(landscape.grid.axes[0]) / (2 * config.zoom))
    found = np.argwhere(edges)
    if not len(found):
        return None
    inside = np.all((found >= half) & (found < np.array(edges.shape) - half), axis=1)
    chosen = rng.permutation(found[inside] if inside.any() else found)
    corner = chosen[0] if config.toward == "random" else chosen[np.argmax(_held(edges, chosen, half))]
    return np.array([0.5 * (a.values[i] + a.values[i + 1]) for a, i in zip(landscape.grid.axes, corner)])


def _held(edges: np.ndarray, corners: np.ndarray, half: int) -> np.ndarray:
    """How much of the boundary the window about each corner holds, shape `(len(corners),)`."""
    below = np.pad(edges.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))  # sums over the rectangles from the origin
    low, high = np.clip(corners - half, 0, edges.shape), np.clip(corners + half, 0, edges.shape)
    (x0, y0), (x1, y1) = low.T, high.T
    return below[x1, y1] - below[x0, y1] - below[x1, y0] + below[x0, y0]


def _about(config: Config, name: str, level: int, landscape: ls.Landscape) -> dict[str, Any]:
    """What the table needs: slopes of this map, and of the sets of known dimension at the same resolution."""
    record = {
        "configuration": name,
        "level": level,
        "steps": config.steps,
        "toward": config.toward,
        **_slopes(_edges(landscape)),
    }
    record["optimizer"], record["initialisation"] = "gradient descent", f"N(0, 1), seed {config.seed}"
    if level == 0 and name == config.configurations[0]:  # of sets, not of a map: once is enough
        record["calibration"] = {k: _slopes(mask) for k, mask in _known_sets(config.resolution)}
    return {"trainability": record}


def _slopes(mask: np.ndarray) -> dict[str, Any]:
    """Local slopes by the paper's sizes, and the dimension by dyadic boxes."""
    if not mask.any():
        return {"slopes": [], "dyadic": np.nan}
    published = ls.analysis.box_counting_dimension(mask, sizes="log10")
    return {
        "slopes": published.slopes[np.isfinite(published.slopes)],
        "dyadic": ls.analysis.box_counting_dimension(mask).dimension,
    }


def _known_sets(num: int) -> Iterator[tuple[str, np.ndarray]]:
    """Sets of known dimension on `num` x `num` pixels, the triangle on the largest power of two."""
    x, y = np.meshgrid(*2 * [np.linspace(-1.2, 1.2, num)], indexing="ij")
    yield "circle", ls.analysis.boundary(x**2 + y**2 < 1, kind="corners")
    i, j = np.meshgrid(*2 * [np.arange(2 ** int(np.log2(num)))], indexing="ij")
    yield "Sierpinski triangle", (i & j) == 0
    z = x + 1j * y + 1e-9
    for _ in range(60):
        z = z - (z**3 - 1) / (3 * z**2)
    roots = np.exp(2j * np.pi * np.arange(3) / 3)
    yield "Newton's method", ls.analysis.boundary(np.argmin(np.abs(z[..., None] - roots), -1), kind="corners")


def _levels(result: Mapping[str, ls.Landscape], name: str) -> list[ls.Landscape]:
    return [landscape for key, landscape in result.items() if key.rpartition("_")[0] == name]


def _names(result: Mapping[str, ls.Landscape]) -> list[str]:
    """The configurations."""
    return [name for name in dict.fromkeys(key.rpartition("_")[0] for key in result) if not name.startswith("picture-")]


def dimension(slopes: list[Any], seed: int = 0) -> tuple[float, float]:
    """The median of the slopes of several maps and its standard error, by drawing whole maps with replacement."""
    slopes = [np.asarray(s) for s in slopes if len(s)]
    if not slopes:
        return np.nan, np.nan
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(slopes), size=(BOOTSTRAPS, len(slopes)))
    medians = [np.median(np.concatenate([slopes[i] for i in draw])) for draw in draws]
    return float(np.median(np.concatenate(slopes))), float(np.std(medians))


def findings(result: Mapping[str, ls.Landscape]) -> list[tuple[str, str, str]]:
    """Rows of `(what, expected, found)`."""
    rows = []
    first = next(iter(result.values())).meta["trainability"]
    of_circle = float(np.median(first["calibration"]["circle"]["slopes"]))
    for name, one in first["calibration"].items():
        found = f"{np.median(one['slopes']):.2f}, by dyadic boxes {one['dyadic']:.2f}"
        rows.append((f"estimator: {name}", f"{KNOWN[name]:.2f}", found))
    for name in _names(result):
        rows += _configuration_rows(name, _levels(result, name), of_circle)
    return rows


def _configuration_rows(name: str, maps: list[ls.Landscape], of_circle: float) -> list[tuple[str, str, str]]:
    """Rows of one configuration; `of_circle` is what the estimator reads of a circle, a bias that +- leaves out."""
    records = [landscape.meta["trainability"] for landscape in maps]
    overview, zooms = records[0], records[1:]
    rows = [(f"{name}: overview alone", "about 1", f"{np.median(overview['slopes']):.2f}")]
    if zooms:
        value, error = dimension([record["slopes"] for record in zooms])
        dyadic = np.array([record["dyadic"] for record in zooms])
        found = f"{value:.2f} +- {error:.2f}, by dyadic boxes {np.nanmedian(dyadic):.2f}"
        found += f"; this estimator reads {of_circle:.2f} of a circle, whose dimension is 1"
        what = f"{name}: dimension over {len(zooms)} zooms, {overview['toward']}"
        rows.append((what, EXPECTED.get(name, "1.17 to 1.98 (paper)"), found))
        width = np.ptp(maps[-1].grid.axes[0].values)
        rows.append((f"{name}: finest map", f"of {RANGE[1] - RANGE[0]:g} decades", f"{width:.2g} decades wide"))
    rows.append((f"{name}: share of the overview that trains", "some of it", f"{np.mean(maps[0]['converged']):.1%}"))
    trained = np.mean([landscape.computed.mean() for landscape in maps])
    rows.append((f"{name}: share of the pixels that were trained", "those near the boundary", f"{trained:.1%}"))
    return rows


def plot(result: Mapping[str, ls.Landscape]) -> dict[str, Any]:
    """The maps of each configuration in a row, a zoom as an animation, and the box counts."""
    figures: dict[str, Any] = {}
    for name in _names(result):
        maps = _levels(result, f"picture-{name}")
        figures[name] = _gallery(name, maps)
        if len(maps) > 1:
            figures[f"{name}_zoom"] = _animation(name, maps)
    figures["dimension"] = _counts(result)
    return figures


def _gallery(name: str, maps: list[ls.Landscape]) -> Any:
    """All maps, the next one framed in each."""
    from matplotlib import pyplot
    from matplotlib.patches import Rectangle

    columns = min(3, len(maps))
    rows = -(-len(maps) // columns)
    figure, grid = pyplot.subplots(rows, columns, figsize=(2.9 * columns, 2.9 * rows + 0.3), squeeze=False)
    for axes in grid.flat[len(maps) :]:
        axes.set_axis_off()
    for level, (axes, landscape) in enumerate(zip(grid.flat, maps)):
        ls.plotting.trainability(landscape, ax=axes, colorbar=False, legend=False)
        axes.set_title("overview" if level == 0 else f"zoom {level}", loc="left")
        _tidy(axes, landscape)
        if level + 1 < len(maps):
            x, y = (axis.values for axis in maps[level + 1].grid.axes)
            box = Rectangle((x[0], y[0]), np.ptp(x), np.ptp(y), fill=False, edgecolor="black", linewidth=0.8)
            axes.add_patch(box)
    figure.suptitle(f"{TITLES[name]}: blue trains, red does not; the darker, the slower")
    figure.supxlabel(maps[0].grid.axes[0].text, fontsize="medium")
    figure.supylabel(maps[0].grid.axes[1].text, fontsize="medium")
    return figure


def _tidy(axes: Any, landscape: ls.Landscape) -> None:
    """Ticks at the ends of the axes, with as many digits as the window needs; labels are common to all panels."""
    axes.set(xlabel="", ylabel="")
    for axis, ends in ((axes.xaxis, landscape.grid.axes[0].values), (axes.yaxis, landscape.grid.axes[1].values)):
        digits = max(0, int(np.ceil(1 - np.log10(np.ptp(ends)))))
        axis.set_ticks(ends[[0, -1]], [f"{end:.{digits}f}" for end in ends[[0, -1]]])
    axes.tick_params(labelsize=6.5)
    for labels, first, last in ((axes.get_xticklabels(), "left", "right"), (axes.get_yticklabels(), "bottom", "top")):
        for label, side in zip(labels, (first, last)):
            label.set(ha=side) if first == "left" else label.set(va=side)


def _animation(name: str, maps: list[ls.Landscape], frames_per_zoom: int = 12) -> Any:
    """A smooth zoom: every finer map lies on the coarser ones, and the limits close in."""
    from matplotlib import pyplot
    from matplotlib.animation import FuncAnimation

    figure, axes = pyplot.subplots(figsize=(4, 4), layout="none")
    axes.set_position((0, 0, 1, 1))
    layers = []
    for landscape in maps:
        before = set(axes.collections)
        ls.plotting.trainability(landscape, ax=axes, colorbar=False, legend=False)
        layers.append([c for c in axes.collections if c not in before])
    axes.set_axis_off()
    windows = np.array([[(a.values[0], a.values[-1]) for a in landscape.grid.axes] for landscape in maps])
    times = np.linspace(0, len(maps) - 1, frames_per_zoom * (len(maps) - 1) + 1)

    def draw(time: float) -> list[Any]:
        window, level = _window(windows, time), int(time)
        for i, layer in enumerate(layers):
            for artist in layer:
                artist.set_visible(i in (level, level + 1))
        axes.set(xlim=window[0], ylim=window[1])
        return []

    return FuncAnimation(figure, draw, frames=[*times, *[times[-1]] * frames_per_zoom], interval=80)


def _window(windows: np.ndarray, time: float) -> np.ndarray:
    """Limits at a time between two maps: the size shrinks by equal ratios, about the point that stays in place."""
    level = min(int(time), len(windows) - 2)
    outer, inner = windows[level], windows[level + 1]
    ratio = np.ptp(inner[0]) / np.ptp(outer[0])
    share = (1 - ratio ** (time - level)) / (1 - ratio)
    return outer + share * (inner - outer)


def _counts(result: Mapping[str, ls.Landscape]) -> Any:
    """Local slopes of every map against its level, and their median over the zooms."""
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    figure, axes = pyplot.subplots(figsize=(4.6, 3.2))
    for color, name in enumerate(_names(result)):
        records = [landscape.meta["trainability"] for landscape in _levels(result, name)]
        medians = [np.median(r["slopes"]) if len(r["slopes"]) else np.nan for r in records]
        axes.plot(range(len(records)), medians, "o-", color=f"C{color}", label=TITLES[name])
        for level, record in enumerate(records):
            axes.plot(np.full(len(record["slopes"]), level), record["slopes"], ".", color=f"C{color}", alpha=0.3, ms=3)
        if len(records) > 1:
            value, _ = dimension([record["slopes"] for record in records[1:]])
            axes.axhline(value, color=f"C{color}", linestyle=":", linewidth=0.8)
            axes.annotate(f"{value:.2f}", (len(records) - 1, value), xytext=(4, 3), textcoords="offset points", size=7)
    axes.set(xlabel="zoom (0: overview)", ylabel="local slope of the box counts", ylim=(0.5, 2.1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="upper left")
    return figure


if __name__ == "__main__":
    main("trainability", Config, SMOKE, run, plot, findings, small_programs=True)
