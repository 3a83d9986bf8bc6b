r"""Where does training stop working, and how rough is that boundary?

Every point of a map is a pair of learning rates, one for each layer of a small network; every point trains the same
network from the same start on the same data, and is coloured by whether the loss came down. Sohl-Dickstein (2024,
arXiv 2402.06184, notebook `github.com/Sohl-Dickstein/fractal`) found that the boundary between the two is a fractal.

As there, all frames lie about one point, each half as wide as the one before, over ten decades; the dimension of the
boundary is the median of the local slopes of box counts, pooled over all frames. Seed 0 draws the paper's own weights,
inputs and targets, and the notebook's code, run at 41 x 41 points of the overview and of four windows down to 5e-10
decades, gives the same verdicts one by one. Two things differ: the resolution (4096 pixels there, `--resolution` here)
and the point. The author went down to his by hand, and it is not known to us. Here windows `--zoom` times smaller
follow one another on coarse maps. Up to eight of them cover the boundary in the last window, each is mapped, and the
one goes on in which the boundary is roughest: where it grows most as boxes shrink from four pixels to one.

Expected: 1.17 for the deep linear network (1.05 to 1.35 would do), 1.41 for one example (1.25 to 1.6); over all
configurations of the paper 1.17 to 1.98. Seen with the defaults: 1.345 +- .047, at the upper edge, and 1.292 +- .036;
at 257 pixels 1.382 +- .043, above, and 1.327 +- .038. The widest frame alone has a dimension near 1: structure appears
on zoom, and in places. So the number belongs to the point as much as to the network: where the next window holds most
of the boundary (`--toward most`) it is 1.627 +- .018 for the deep linear network and 1.007 +- .003 for one example, of
which that rule finds a smooth stretch that runs diagonally; about random points (`--toward random`, 257 pixels) it is
1.019 +- .005 and .972 +- .011.

The estimator is first tried on sets of known dimension: a circle (1), the Sierpinski triangle (log 3 / log 2 = 1.585)
and the basins of Newton's method on z^3 = 1 (1.42). Of a circle it says 1.17 at 257 pixels, 1.06 at 513, 1.01 at 1025
and 1.02 at 4097; of a straight line .96 to 1.03 at 257.

Each frame is mapped twice. The boundary is measured on a fine grid of which only the pixels near it are trained, since
the others follow from their neighbours (`landscape.adaptive`: at most 1 in 500 is wrong, at 95 % confidence; where the
boundary is everywhere, all are trained); the picture trains every point of a coarser grid, for its shades. In double
precision. Minibatches are drawn without replacement, in the paper with.

Cost: for each of two configurations some 120 maps on the way down and 35 frames: ten minutes on two CPU cores. The
other configurations (`--configurations tanh relu minibatch`) have 272 examples and want an accelerator.
It has networks of its own and takes no --problem; `landscape.TrainabilityMap` maps yours.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import jax
import numpy as np
import optax
from _exact.trainability_figures import dimension, levels, names, plot
from _lab import Lab, UsageError, main, say

import landscape as ls

Configuration = Literal["deep-linear", "single-datapoint", "tanh", "relu", "minibatch"]
EXPECTED = {
    "deep-linear": "1.05 to 1.35 (paper 1.17, about a point chosen by hand)",
    "single-datapoint": "1.25 to 1.6 (paper 1.41, about a point chosen by hand)",
}
KNOWN = {"circle": 1.0, "Sierpinski triangle": np.log2(3.0), "Newton's method": 1.42}
RANGE = (-3.0, 6.0)  # decimal logarithms of the learning rates
LABELS = [rf"$\log_{{10}}$ learning rate, layer {i}" for i in (1, 2)]
WIDEST = 6.0  # decades that the widest frame has at least, as in the notebook
WRONG = 2e-3  # share of the labels of a refined map that may be wrong
CANDIDATES = 8  # windows that are looked at on each step of the way down to where the boundary is rough
RESOLVED = 2e-15  # decades between two points that doubles can tell apart


@dataclass(frozen=True)
class Config:
    """Settings of this experiment."""

    configurations: tuple[Configuration, ...] = ("deep-linear", "single-datapoint")
    """Networks and data, as in the paper."""
    toward: Literal["rough", "most", "random"] = "rough"
    """Which point to go down to: where the boundary is roughest, where there is most of it, or at random on it."""
    zoom: float = 4.0
    """How many times smaller each window of the way down is than the one before."""
    finest: float = 6e-10
    """Decades that the finest window is wide at most."""
    search: int = 129
    """Points along each axis of the maps on the way down."""
    resolution: int = 513
    """Points along each axis of the frames whose boundary is measured."""
    picture: int = 161
    """Points along each axis of the frames that are drawn."""
    steps: int = 500
    """Training steps of every point."""
    width: int = 16
    """Inputs and hidden units."""
    seed: int = 0
    """Seed of the weights, the data and random points; 0 draws the paper's network."""


SMOKE = Config(configurations=("deep-linear",), finest=2.0, search=65, resolution=129, picture=33, steps=40, width=4)


@dataclass(frozen=True)
class Window:
    """A square of learning rates: the decimal logarithms of its centre, and its width in decades."""

    center: tuple[float, ...]
    width: float

    def grid(self, num: int) -> ls.Grid:
        """`num` x `num` points over the window, from edge to edge."""
        return ls.Grid(
            tuple(
                ls.Axis.linspace(f"log_rate_{i}", middle - self.width / 2, middle + self.width / 2, num, label)
                for i, (middle, label) in enumerate(zip(self.center, LABELS))
            )
        )


OVERVIEW = Window(2 * (sum(RANGE) / 2,), RANGE[1] - RANGE[0])


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
    """Two landscapes per frame: `deep-linear_0` is the widest, `picture-deep-linear_0` what is drawn of it."""
    _check(config)
    with jax.enable_x64(True):
        result = {}
        for name in config.configurations:
            fn = _map(name, config)
            result |= _framed(name, fn, config, lab, _frames(_search(name, fn, config, lab)))
    return result


def _check(config: Config) -> None:
    least = {
        "--search": (config.search, 33),
        "--resolution": (config.resolution, 65),
        "--picture": (config.picture, 2),
        "--steps": (config.steps, 20),
    }
    for flag, (value, lowest) in least.items():
        if value < lowest:
            raise UsageError(f"{flag} must be at least {lowest}, got {value}")
    if not config.zoom > 1:
        raise UsageError(f"--zoom must be larger than 1, got {config.zoom}")
    lowest = RESOLVED * config.zoom * max(config.resolution, config.search, config.picture)
    if not lowest <= config.finest <= np.ptp(RANGE):
        raise UsageError(f"--finest must lie between {lowest:.1g}, where doubles end, and 9, got {config.finest}")


def _map(name: Configuration, config: Config) -> ls.TrainabilityMap:
    """The point function of a configuration."""
    activation = {"deep-linear": "identity", "relu": "relu"}.get(name, "tanh")
    examples = 1 if name == "single-datapoint" else None
    objective = ls.problems.mean_field_net(config.width, examples, activation).objectives["train"]
    params, data = draw(config.seed, config.width, objective.num_examples)
    batch: dict[str, Any] = {}
    if name == "minibatch":
        batch = {"batch_size": min(16, config.width), "key": jax.random.key(42)}
    return ls.TrainabilityMap(LearningRates(params), replace(objective, data=data), config.steps, **batch)


def draw(seed: int, width: int, num_examples: int | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Start and data in the order of the paper's notebook; seed 0 gives its very numbers.

    Args:
        seed: seed of JAX's generator.
        width: inputs and hidden units.
        num_examples: random examples, `n`.

    Returns:
        Parameters `{"w0": (width, width), "w1": (width,)}` and data `{"x": (n, width), "y": (n,)}`, all from N(0, 1),
        in double precision where that is switched on.
    """
    with jax.threefry_partitionable(False):  # how JAX before 0.5 split keys and drew, as when the paper was made
        rest, weights = jax.random.split(jax.random.key(seed, impl="threefry2x32"))
        first, second = jax.random.split(weights)
        rest, inputs = jax.random.split(rest)
        _, targets = jax.random.split(rest)
        params = {"w0": _normal(first, width, width), "w1": _normal(second, width)}
        return params, {"x": _normal(inputs, num_examples, width), "y": _normal(targets, num_examples)}


def _normal(key: jax.Array, *shape: Any) -> np.ndarray:
    return np.asarray(jax.random.normal(key, shape))


def _search(name: Configuration, fn: Any, config: Config, lab: Lab) -> Window:
    """The finest window: down from the overview, each time to a window about a point of the boundary.

    Nothing is measured on these maps, which are only the way to the point.
    """
    rng = np.random.default_rng([config.seed, *map(ord, name)])
    tolerance = {"converged": ls.adaptive.Labels(WRONG)}
    window, level = OVERVIEW, 0
    landscape = lab.sweep(f"search-{name}", fn, window.grid(config.search), tolerance=tolerance)
    while window.width > config.finest and landscape is not None:
        inner = [Window(center, window.width / config.zoom) for center in _centers(landscape, config, rng)]
        if not inner:
            say(f"{name}: no boundary in window {level}, so there is nothing to zoom to")
            return window
        keys = [f"search-{name}_{level}_{number}" for number in range(len(inner))]
        maps = [lab.sweep(key, fn, w.grid(config.search), tolerance=tolerance) for key, w in zip(keys, inner)]
        if any(one is None for one in maps):
            break
        best = int(np.argmax([_roughness(_edges(one)) for one in maps]))
        window, landscape, level = inner[best], maps[best], level + 1
    if landscape is None or window.width > config.finest:
        say(f"{name}: as many again for each window on the way down, {config.zoom:g} times smaller each")
    return Window(window.center, min(window.width, config.finest))


def _frames(finest: Window) -> list[Window]:
    """The windows that are measured, the widest first: all about one point, each half as wide as the one before.

    As `zoom_out_sequence` of the notebook makes them: twice as wide until the width is at least 6.
    """
    frames = [finest]
    while frames[0].width < WIDEST:
        frames.insert(0, Window(finest.center, 2 * frames[0].width))
    return frames


def _framed(name: Configuration, fn: Any, config: Config, lab: Lab, frames: list[Window]) -> dict[str, ls.Landscape]:
    """The maps of one configuration: of each frame a fine one, whose boundary is measured, and one to be drawn."""
    result = {}
    for level, window in enumerate(frames):
        fine, coarse = (window.grid(num) for num in (config.resolution, config.picture))
        about = partial(_about, config, name, level, window)
        landscape = lab.sweep(f"{name}_{level}", fn, fine, about, tolerance={"converged": ls.adaptive.Labels(WRONG)})
        picture = lab.sweep(f"picture-{name}_{level}", fn, coarse)
        if landscape is None:
            say(f"{name}: some {len(frames)} frames of this size in all, each half as wide as the one before")
            break
        result |= {f"{name}_{level}": landscape, f"picture-{name}_{level}": picture}
    return result


def _edges(landscape: ls.Landscape) -> np.ndarray:
    """The boundary at the corners between pixels, as in the paper's notebook."""
    return ls.analysis.boundary(landscape["converged"], kind="corners")


def _centers(landscape: ls.Landscape, config: Config, rng: np.random.Generator) -> list[tuple[float, ...]]:
    """Points of the boundary about which the next window may lie, inside this map where there are such.

    One at random; the one whose window holds most of the boundary; or up to `CANDIDATES` whose windows cover it, each
    the one that holds most of what those before it leave.
    """
    edges, half = _edges(landscape), int(len(landscape.grid.axes[0]) / (2 * config.zoom))
    found = np.argwhere(edges)
    inside = np.all((found >= half) & (found < np.array(edges.shape) - half), axis=1)
    found = rng.permutation(found[inside] if inside.any() else found)
    if config.toward == "random":
        corners = list(found[:1])
    else:
        corners = _cover(edges, found, half, CANDIDATES if config.toward == "rough" else 1)
    return [
        tuple(float(0.5 * (a.values[i] + a.values[i + 1])) for a, i in zip(landscape.grid.axes, c)) for c in corners
    ]


def _cover(edges: np.ndarray, corners: np.ndarray, half: int, num: int) -> list[np.ndarray]:
    """Corners whose windows cover the boundary, at most `num`, greedily."""
    left, chosen = edges.copy(), []
    while len(chosen) < num and len(corners) and np.any(held := _held(left, corners, half)):
        chosen.append(corners[np.argmax(held)])
        left[tuple(slice(max(0, c - half), c + half) for c in chosen[-1])] = False
        corners = corners[left[tuple(corners.T)]]
    return chosen


def _roughness(edges: np.ndarray) -> float:
    """How fast the boundary grows as boxes shrink from 4 pixels to 1: about 1 where it is a line; none is the least."""
    return ls.analysis.box_counting_dimension(edges, sizes=[1, 4]).dimension if edges.any() else -np.inf


def _held(edges: np.ndarray, corners: np.ndarray, half: int) -> np.ndarray:
    """How much of the boundary the window about each corner holds, shape `(len(corners),)`."""
    below = np.pad(edges.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))  # sums over the rectangles from the origin
    low, high = np.clip(corners - half, 0, edges.shape), np.clip(corners + half, 0, edges.shape)
    (x0, y0), (x1, y1) = low.T, high.T
    return below[x1, y1] - below[x0, y1] - below[x1, y0] + below[x0, y0]


def _about(config: Config, name: str, level: int, window: Window, landscape: ls.Landscape) -> dict[str, Any]:
    """What the table needs: slopes of this frame, and of the sets of known dimension at the same resolution."""
    record = {
        "configuration": name,
        "level": level,
        "steps": config.steps,
        "toward": config.toward,
        "center": window.center,
        "width": window.width,
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


def findings(result: Mapping[str, ls.Landscape]) -> list[tuple[str, str, str]]:
    """Rows of `(what, expected, found)`."""
    rows = []
    first = next(iter(result.values())).meta["trainability"]
    of_circle = float(np.median(first["calibration"]["circle"]["slopes"]))
    for name, one in first["calibration"].items():
        found = f"{np.median(one['slopes']):.2f}, by dyadic boxes {one['dyadic']:.2f}"
        rows.append((f"estimator: {name}", f"{KNOWN[name]:.2f}", found))
    for name in names(result):
        rows += _configuration_rows(name, levels(result, name), of_circle)
    return rows


def _configuration_rows(name: str, maps: list[ls.Landscape], of_circle: float) -> list[tuple[str, str, str]]:
    """Rows of one configuration; `of_circle` is what the estimator reads of a circle, a bias that +- leaves out."""
    records = [landscape.meta["trainability"] for landscape in maps]
    widest, finest = records[0], records[-1]
    value, error = dimension([record["slopes"] for record in records])
    dyadic = np.array([record["dyadic"] for record in records])
    known = dyadic[np.isfinite(dyadic)]
    found = f"{value:.3f} +- {error:.3f}, by dyadic boxes {np.median(known) if known.size else np.nan:.2f}"
    found += f"; this estimator reads {of_circle:.2f} of a circle, whose dimension is 1"
    decades = np.log10(widest["width"] / finest["width"])
    spanned = f"{len(maps)} frames over {decades:.1f} decades, {widest['width']:.3g} to {finest['width']:.2g} wide"
    alone = np.median(widest["slopes"]) if len(widest["slopes"]) else np.nan
    trained = np.mean([landscape.computed.mean() for landscape in maps])
    return [
        (
            f"{name}: dimension, toward {widest['toward']}",
            EXPECTED.get(name, "1.17 to 1.98 (paper, other points)"),
            found,
        ),
        (f"{name}: frames", "more than ten decades (paper)", spanned),
        (f"{name}: their centre", "chosen by hand (paper)", ", ".join(map(repr, map(float, widest["center"])))),
        (f"{name}: widest frame alone", "about 1", f"{alone:.2f}"),
        (f"{name}: share of the widest frame that trains", "some of it", f"{np.mean(maps[0]['converged']):.1%}"),
        (f"{name}: share of the pixels that were trained", "those near the boundary", f"{trained:.1%}"),
    ]


if __name__ == "__main__":
    main("trainability", Config, SMOKE, run, plot, findings, takes_problem=False)
