r"""What does the Hessian of a classifier look like along training, and which part of it does the training use?

A tanh network 64-16-10 (1,210 parameters) on 600 of scikit-learn's digits, cross-entropy, and 16-16-10
(442 parameters) on 2 to 10 classes. Four questions:

- *the spectrum* at the start, in the middle and at the end of minibatch SGD: a bulk at zero and a few outliers. The
  density is estimated by stochastic Lanczos quadrature, the trace by Hutch++, the outliers by Lanczos; all eigenvalues
  of the dense Hessian lie beside them;
- *the number of outliers* is the number of classes C, or C - 1 (Sagun et al. 2017, arXiv 1706.04454; Papyan 2020, arXiv
  2008.11865: C). An outlier is an eigenvalue above the largest gap, in the logarithm, among the first 3 C. Seen on C
  Gaussian clusters in 16 dimensions and on the first C digits at 4 x 4 pixels, both with inputs of unit variance and
  with those of pixels, mean and deviation about .3. A number drawn from 1 ... 3 C would be C - 1 or C in 2 / (3 C) of
  all cases. The second scale of each was added after plain clusters had shown no gap at C and pixels had. With all
  classes equally likely, the curvature of the last layer is (1 - 11'/C) / C times E hh' of its inputs h, the constant
  of the bias among them: C - 1 equal eigenvalues for each of E hh', so a gap at C - 1 needs one that is far above the
  next. With small inputs the constant is that one;
- *the share of the squared gradient* in the span of the top C eigenvectors: most of it soon after the start (Gur-Ari,
  Roberts & Dyer 2018, arXiv 1812.04754); a random space of that dimension has C / n on average, exactly;
- *projected training*: is that the part that learns? SGD whose steps are projected onto the top space stalls, SGD
  without that part lowers the loss as well as before (Song, Ahn & Yun 2024, arXiv 2405.16002). They say too that the
  gradient of gradient descent at a small rate leaves the top space: minibatch noise, or a rate at the edge of
  stability, is what puts it there. So gradient descent is seen at the rate of SGD and at a larger one.

The size of the gradient's share depends on the rate, so no number is expected, only on which side of a half it is.
Where the definition of an outlier finds another number than C - 1 or C, the table says so.

With --problem, your own loss takes the place of the digits; say by --top how many classes it has. What is seen against
the number of classes needs data of our own and is left out then.

Intervals are 95 %, Student's over the runs. So are those of shares of cases: the cases of one run have its centres,
examples and start in common.

Cost: two to four minutes of CPU time for the defaults, most of it for the dense Hessians of 108 small networks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _lab import Lab, UsageError, main
from _lab.optimizers import sgd
from _networks.curvature import (
    ARMS,
    MOMENTS,
    Along,
    ByClasses,
    Projected,
    Spectra,
    by_gap,
    clusters_by_class,
    digits_by_class,
    subset,
)

import landscape as ls
from landscape import plotting
from landscape.analysis import Estimate, mean_of
from landscape.problems import digits_mlp
from landscape.training import Runs

DENSE = 2000  # parameters up to which the whole spectrum is taken too
MOST = 10  # classes
EDGE = 0.9  # sharpness, in units of 2 / rate, from which a training counts as at the edge of stability
DIM = 16  # of the clusters: that of the small digits, so that one network does for both
TRAININGS = {"sgd": "SGD", "descent": "gradient descent", "edge": "gradient descent, large rate"}
COLORS = {"sgd": "#d55e00", "descent": "#0072b2", "edge": "#009e73"}
ARM_COLORS = {"full": "#3d3d3d", "dominant": "#d55e00", "bulk": "#0072b2"}
ARM_NAMES = {"full": "whole gradient", "dominant": "top space only", "bulk": "without the top space"}
COUNT = "C - 1 or C"


@dataclass(frozen=True)
class Config:
    """Settings of this experiment."""

    seeds: int = 3
    """Runs of everything."""
    hidden: int = 16
    """Units of the hidden layer."""
    examples: int = 600
    """Training examples of the digits."""
    steps: int = 600
    """Training steps."""
    rate: float = 0.5
    """Learning rate of SGD, of gradient descent and of the projected training."""
    large_rate: float = 2.0
    """Learning rate of gradient descent at the edge of stability."""
    batch_size: int = 50
    """Examples in a step of SGD."""
    records: int = 12
    """Looks at the gradient along each training, after the first."""
    top: int = 10
    """Dimension of the top space: the number of classes."""
    probes: int = 30
    """Random vectors of the spectral density."""
    depth: int = 60
    """Lanczos steps from each."""
    classes: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8, 9, 10)
    """Numbers of classes, up to 10."""
    per_case: int = 240
    """Examples for each number of classes, spread evenly over them."""
    separation: float = 3.0
    """Standard deviation of the clusters' centres, in each coordinate; that of a cluster is 1."""
    switch: int = 3
    """Record of SGD from which the projected training starts."""
    projected_steps: int = 400
    """Steps of the projected training."""
    refresh: int = 5
    """Steps between two computations of its top space."""
    seed: int = 0
    """Seed of starts, data and minibatches."""


SMOKE = Config(
    seeds=2, hidden=4, examples=80, steps=40, records=4, top=4, probes=2, depth=12, classes=(2, 4), per_case=60,
    switch=2, projected_steps=20, refresh=10, batch_size=20,
)  # fmt: skip


def run(config: Config, lab: Lab) -> dict[str, ls.Landscape]:
    """Trainings, the curvature along them, spectra, projected trainings, and spectra against the number of classes."""
    lab = lab.at_once(1, 1)  # one point after another on any device: they are searches of different lengths
    problem = lab.problem or digits_mlp((config.hidden,))
    _check(config)
    _check_problem(config, problem, lab.problem is not None)
    objective = problem.objectives["train"]
    objective = objective if lab.problem else subset(objective, config.examples)
    result, snapshots = _trained(problem, objective, config, lab)
    if snapshots is not None:
        result |= _studied(problem.name, objective, snapshots, config, lab)
    if lab.problem is None:
        result |= _by_classes(config, lab)
    return {name: landscape for name, landscape in result.items() if landscape is not None}


def _check(config: Config) -> None:
    if config.seeds < 2:
        raise UsageError(f"needs --seeds >= 2, for an interval, got {config.seeds}")
    if config.records < 2 or config.steps % (2 * config.records) or not config.steps:
        raise UsageError(f"--steps must be a multiple of twice --records >= 2, got {config.steps}, {config.records}")
    if not 0 <= config.switch <= config.records:
        raise UsageError(f"--switch must be one of the {config.records} records, got {config.switch}")
    if config.refresh < 1 or config.projected_steps < 1 or config.projected_steps % config.refresh:
        raise UsageError(
            f"--projected-steps must be a multiple of --refresh, got {config.projected_steps}, {config.refresh}"
        )
    if not min(config.rate, config.large_rate, config.separation) > 0:
        raise UsageError("needs --rate, --large-rate and --separation > 0")
    if min(config.probes, config.depth) < 2 or config.hidden < 1:
        raise UsageError("needs --probes, --depth >= 2 and --hidden >= 1")
    if not config.classes or not all(2 <= c <= MOST for c in config.classes):
        raise UsageError(f"--classes must lie within 2 and {MOST}, got {config.classes}")
    if not MOST <= config.per_case <= 348:
        raise UsageError(f"--per-case must be {MOST} to 348, twice as many as there are of the rarest digit")


def _check_problem(config: Config, problem: ls.Problem, own: bool) -> None:
    count, size = problem.objectives["train"].num_examples, _size(problem)
    if count is None:
        raise UsageError("curvature draws minibatches: the training objective of --problem needs data")
    if not own and not 1 <= config.examples <= count:
        raise UsageError(f"--examples must be 1 to {count}, all that there are for training, got {config.examples}")
    most = count if own else config.examples
    if not 1 <= config.batch_size <= most:
        raise UsageError(f"--batch-size must be 1 to {most} examples, got {config.batch_size}")
    if not 1 <= config.top < size:
        raise UsageError(f"--top must be at least 1 and below the {size} parameters, got {config.top}")


def _size(problem: ls.Problem) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(problem.init, jax.random.key(0))))


def _keys(config: Config, number: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(config.seed), number)


def trainings(problem: ls.Problem, objective: ls.Objective, config: Config) -> dict[str, Runs]:
    """SGD, and gradient descent at two rates: runs `0 ... seeds - 1` at the first, the others at the second.

    All three go out from the same starts.
    """
    starts = jax.vmap(problem.init)(jax.random.split(_keys(config, 0), config.seeds))
    both = jax.tree.map(lambda x: jnp.concatenate([x, x]), starts)
    common: dict[str, Any] = {"objective": objective, "num_steps": config.steps, "snapshots": True}
    common["record_every"] = config.steps // config.records
    rates = jnp.repeat(jnp.array([config.rate, config.large_rate]), config.seeds)
    drawn: dict[str, Any] = {"batch_size": config.batch_size, "key": _keys(config, 1)}
    return {
        "sgd": Runs(optimizer=sgd(config.rate), num_runs=config.seeds, inits=starts, **drawn, **common),
        "descent": Runs(optimizer=optax.sgd, hyper=rates, num_runs=2 * config.seeds, inits=both, **common),
    }


def _trained(problem: Any, objective: ls.Objective, config: Config, lab: Lab) -> tuple[dict[str, Any], Any]:
    """The trainings, and their snapshots with leading axes (training, run, record), once all are there."""
    result, found = {}, []
    for name, runs in trainings(problem, objective, config).items():
        trained = lab.sweep(f"nets_{name}", runs, ls.Grid.of(run=np.arange(runs.num_runs)))
        result[f"nets_{name}"] = trained
        if trained is None:  # only planning
            found += [jax.tree.map(lambda x: jnp.stack([x] * (config.records + 1), 1), runs.inits)]
        elif trained.computed.all():
            found += [runs.gather(trained).snapshots]
    if len(found) < 2:
        return result, None
    shape = len(TRAININGS), config.seeds
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b]).reshape(*shape, *a.shape[1:]), *found)
    return result, joined


def _studied(name: str, objective: ls.Objective, snapshots: Any, config: Config, lab: Lab) -> dict[str, Any]:
    """Curvature along the trainings, spectra along the first run of SGD, and projected trainings."""
    records = np.arange(config.records + 1)
    size = sum(x[0, 0, 0].size for x in jax.tree.leaves(snapshots))
    every = config.steps // config.records
    said = {"model": name, "size": size, "top": config.top, "every": every, "batch_size": config.batch_size}
    said |= {"rates": {"sgd": config.rate, "descent": config.rate, "edge": config.large_rate}}
    along = Along(objective, snapshots, _keys(config, 2), config.top, config.batch_size)
    grid = ls.Grid.of(training=np.arange(len(TRAININGS)), run=np.arange(config.seeds), record=records)
    moments = np.array([0, config.records // 2, config.records])
    points = jax.tree.map(lambda x: x[0, 0, moments], snapshots)
    count = min(3 * config.top + 1, size)
    spectra = Spectra(objective, points, _keys(config, 3), count, config.probes, config.depth, size <= DENSE)
    starts = jax.tree.map(lambda x: x[0, :, config.switch], snapshots)
    options = (config.rate, config.top, config.batch_size, config.projected_steps, config.refresh)
    projected = Projected(objective, starts, _keys(config, 4), *options)
    arms = ls.Grid.of(arm=np.arange(len(ARMS)), run=np.arange(config.seeds))
    about = {**said, "steps": (moments * every).tolist(), "switch": config.switch * every, "refresh": config.refresh}
    return {
        "along": lab.sweep("along", along, grid, lambda _: {"study": about}),
        "spectra": lab.sweep("spectra", spectra, ls.Grid.of(moment=np.arange(3)), lambda _: {"study": about}),
        "projected": lab.sweep("projected", projected, arms, lambda _: {"study": about}),
    }


def _by_classes(config: Config, lab: Lab) -> dict[str, Any]:
    """Largest eigenvalues against the number of classes, for clusters and for digits."""
    kinds = _kinds(config)
    titles, inputs = list(kinds), np.stack(list(kinds.values()))
    point = ByClasses(inputs, _keys(config, 5), sgd(config.rate), config.per_case, config.hidden, config.steps)  # ty: ignore[invalid-argument-type]
    axes: dict[str, Any] = {"classes": sorted(set(config.classes)), "run": np.arange(config.seeds)}
    grid = ls.Grid.of(data=np.arange(len(titles)), **axes)
    return {"classes": lab.sweep("classes", point, grid, lambda _: {"titles": titles})}


def _kinds(config: Config) -> dict[str, np.ndarray]:
    """The examples of every run on each kind of data, `(run, class, example, dim)`."""
    num, rngs = -(-config.per_case // 2), [np.random.default_rng([config.seed, i]) for i in range(config.seeds)]
    clusters = np.stack([clusters_by_class(rng, config.separation, num, DIM, MOST) for rng in rngs])
    pixels = np.stack([digits_by_class(rng, num) for rng in rngs])
    mean, deviation = pixels.mean(axis=(0, 1, 2)), np.maximum(pixels.std(axis=(0, 1, 2)), 1e-3)
    return {
        "clusters": clusters,
        "clusters at the scale of pixels": pixels.mean() + pixels.std() * clusters,
        "digits": pixels,
        "digits, unit variance": (pixels - mean) / deviation,
    }


# -------------------------------------------------------------------------------------------------------- findings


def counts(found: ls.Landscape) -> np.ndarray:
    """The number of outliers, `(data, classes, run, moment)`."""
    classes = found.grid.axes[1].values.astype(int)
    values = found["values"]
    numbers = np.empty(values.shape[:-1], int)
    for place in np.ndindex(*numbers.shape):
        numbers[place] = by_gap(values[place], classes[place[1]])
    return numbers


def late(found: ls.Landscape, name: str) -> np.ndarray:
    """Means over the second half of each training, `(training, run)`."""
    values = found[name]
    values = values.reshape(*values.shape[:3], -1).mean(axis=-1)
    return values[..., values.shape[-1] // 2 :].mean(axis=-1)


def findings(result: Mapping[str, ls.Landscape]) -> list[tuple[str, str, str]]:
    """Rows of `(what, expected, found)`."""
    rows = _spectrum_rows(result["spectra"])
    rows += _classes_rows(result["classes"]) if "classes" in result else []
    return rows + _share_rows(result["along"]) + _projected_rows(result["projected"])


def _spectrum_rows(found: ls.Landscape) -> list[tuple[str, str, str]]:
    rows, top = [], found.meta["study"]["top"]
    for i, moment in enumerate(MOMENTS):
        values, trace, sem = found["values"][i], found["trace"][i], found["trace_sem"][i]
        squares = np.sum(found["weights"][i] * found["nodes"][i] ** 2, axis=-1)
        spread = squares.std(ddof=1) / len(squares) ** 0.5
        exact, mean_square, error = "not taken", "not taken", f"residual {found['residuals'][i].max():.0e}"
        if "dense" in found:
            dense = found["dense"][i].astype(np.float64)
            exact, mean_square = f"{dense.sum():.3f} (dense)", f"{np.mean(dense**2):.3e} (dense)"
            error = f"{np.abs(values - dense[::-1][: len(values)]).max() / values[0]:.0e}, {error}"
        rows += [
            ("trace", exact, f"{trace:.3f} ± {sem:.3f}"),
            ("mean squared eigenvalue, of the density", mean_square, f"{squares.mean():.3e} ± {spread:.1e}"),
            (f"{len(values)} largest against the dense, relative to the first", "0 (rounding)", error),
            ("outliers above the largest gap", f"{top - 1} or {top}", str(by_gap(values, top))),
        ]
        rows[-4:] = [(f"{moment} of training: {what}", expected, text) for what, expected, text in rows[-4:]]
    return rows


def _classes_rows(found: ls.Landscape) -> list[tuple[str, str, str]]:
    classes = found.grid.axes[1].values.astype(int)
    numbers, rows = counts(found), []
    chance = float(np.mean(2 / (3 * classes)))
    for data, title in enumerate(found.meta["titles"]):
        for i, moment in enumerate(MOMENTS):
            off = numbers[data, :, :, i] - classes[:, None]
            right = (off == 0) | (off == -1)
            share = mean_of(right.mean(axis=0))  # only runs are independent: their cases share centres and a start
            text = f"{right.sum()} of {right.size} (95 % over {right.shape[1]} runs {_percent(share)})"
            rows.append((f"{title}, {moment}: cases with {COUNT} outliers", f"all; {chance:.0%} by chance", text))
        each = "; ".join(f"{c}: {' '.join(map(str, row))}" for c, row in zip(classes, numbers[data, :, :, -1]))
        rows.append((f"{title}, end: outliers of each run, by C", COUNT, each))
    return rows


def _percent(share: Estimate) -> str:
    """The interval of a share; Student's for a few runs knows no bounds, a share does."""
    return f"{100 * max(share.low, 0):.0f} ... {100 * min(share.high, 1):.0f} %"


def _share_rows(found: ls.Landscape) -> list[tuple[str, str, str]]:
    study, rows = found.meta["study"], []
    hopes = {"sgd": "most (> 0.5)", "descent": "leaves the top space (< 0.5)", "edge": "most at the edge (> 0.5)"}
    for i, name in enumerate(TRAININGS):
        title = f"{TRAININGS[name]}, rate {study['rates'][name]:g}, second half"
        whole, drawn = mean_of(late(found, "share")[i]), mean_of(late(found, "batch_share")[i])
        rows.append((f"{title}: share of the full gradient in the top {study['top']}", hopes[name], f"{whole:.3f}"))
        rows.append((f"{title}: share of minibatch gradients", "most (> 0.5)", f"{drawn:.3f}"))
    null = mean_of(found["random_share"].mean(axis=(0, 2)))
    rows.append((f"share in a random {study['top']}-space", f"{study['top'] / study['size']:.4f}", f"{null:.4f}"))
    rows += _edge_rows(found)
    worst = np.max(found["residuals"] / found["values"][..., :1])
    rows.append(("largest residual of an eigenvalue, relative to the first", "small", f"{worst:.0e}"))
    return rows


def _edge_rows(found: ls.Landscape) -> list[tuple[str, str, str]]:
    """Where gradient descent at the large rate is at the edge of stability, and where it has fallen below."""
    rate, rows = found.meta["study"]["rates"]["edge"], []
    at_edge = found["values"][2, :, 1:, 0] * rate / 2 > EDGE
    seen = found["share"][2, :, 1:]
    for where, hope, word in ((at_edge, "> 0.5", "above"), (~at_edge, "< 0.5", "below")):
        part = seen[where]
        text = (
            f"{part.mean():.3f} ({part.min():.3f} ... {part.max():.3f}), {part.size} records" if part.size else "none"
        )
        rows.append((f"large rate, sharpness {word} {EDGE:g} of 2 / rate: share of the full gradient", hope, text))
    return rows


def _projected_rows(found: ls.Landscape) -> list[tuple[str, str, str]]:
    hopes = {"full": "falls", "dominant": "stalls (about 1)", "bulk": "falls like the whole"}
    left = found["loss"][..., -1] / found["loss"][..., 0]
    rows = []
    for arm, ratio in zip(ARMS, left):
        rows.append((f"loss after projected training / before, {ARM_NAMES[arm]}", hopes[arm], f"{mean_of(ratio):.3f}"))
    fall = np.log(found["loss"][..., -1] / found["loss"][..., 0])
    for i, hope in ((1, "0"), (2, "1")):
        what = f"fall of the log loss relative to that with the whole gradient, {ARM_NAMES[list(ARMS)[i]]}"
        rows.append((what, hope, f"{mean_of(fall[i] / fall[0]):.3f}"))
    inside = mean_of(found["share"][0].mean(axis=-1))
    rows.append(("share of its steps' squared gradients in the top space, whole gradient", "> 0.5", f"{inside:.3f}"))
    return rows


# --------------------------------------------------------------------------------------------------------- figures


def plot(result: Mapping[str, ls.Landscape]) -> dict[str, Any]:
    """The spectrum at three moments, and what is seen against classes and steps."""
    return {"spectrum": _draw_spectra(result["spectra"]), "curvature": _draw_laws(result)}


def _draw_spectra(found: ls.Landscape) -> Any:
    from matplotlib import pyplot

    study = found.meta["study"]
    figure, axes = pyplot.subplots(1, 3, figsize=(10.2, 3.6))
    for i, (ax, letter) in enumerate(zip(axes, "abc")):
        density = type("Density", (), {name: found[name][i] for name in ("nodes", "weights")})
        outliers = found["values"][i][: by_gap(found["values"][i], study["top"])]
        width = float(np.ptp(found["nodes"][i])) / 200
        if "dense" in found:
            look: dict[str, Any] = {"color": "black", "linewidth": 0.8, "linestyle": "--", "zorder": 4}
            plotting.spectrum(found["dense"][i], ax=ax, width=width, legend=False, **look)
        plotting.spectrum(density, ax=ax, width=width, outliers=outliers, legend=False)
        trace = f"trace {found['trace'][i]:.1f} ± {found['trace_sem'][i]:.1f}"
        exact = f" (dense {found['dense'][i].sum():.1f})" if "dense" in found else ""
        ax.set_title(f"({letter}) step {study['steps'][i]}, loss {found['loss'][i]:.2g}\n{trace}{exact}", loc="left")
        ax.set(xlabel="eigenvalue", ylabel="density (log scale)" if not i else "")
        _name_curves(ax)
    return figure


def _name_curves(ax: Any) -> None:
    """A short legend."""
    words = {"all eigenvalues": "dense Hessian", "probes": "Lanczos, ± 2 s.e.", "eigenvalue": "above the gap"}
    handles, texts = ax.get_legend_handles_labels()
    for i, text in enumerate(texts):
        word = next(word for part, word in words.items() if part in text)
        texts[i] = f"{text.split()[0]} {word}" if word == "above the gap" and text[0].isdigit() else word
    ax.legend(handles, texts, loc="upper right")


def _draw_laws(result: Mapping[str, ls.Landscape]) -> Any:
    from matplotlib import pyplot

    columns = 3 if "classes" in result else 2
    figure, axes = pyplot.subplots(1, columns, figsize=(3.5 * columns, 4.2))
    panels = list(axes)
    if "classes" in result:
        _draw_classes(panels.pop(0), result["classes"])
    _draw_shares(panels[0], result["along"])
    _draw_projected(panels[1], result["projected"])
    for ax, letter in zip(axes, "abc"):
        ax.set_title(f"({letter}) {ax.get_title(loc='left')}", loc="left")
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16))  # below, so that it covers nothing
    return figure


def _draw_classes(ax: Any, found: ls.Landscape) -> None:
    """Counts of every run at the end, a little apart, and the band from C - 1 to C."""
    classes, numbers = found.grid.axes[1].values, counts(found)[..., -1]
    ax.fill_between(classes, classes - 1, classes, color="0.8", linewidth=0, label="C − 1 ... C")
    for i, (title, color) in enumerate(zip(found.meta["titles"], ("#009e73", "#0072b2", "#d55e00", "#cc79a7"))):
        at = classes + 0.16 * (i - (len(numbers) - 1) / 2)
        for column in numbers[i].T:
            ax.plot(at, column, "o", color=color, markersize=3, alpha=0.7, linewidth=0)
        ax.plot([], [], "o", color=color, markersize=3, label=title)
    ax.set(xlabel="number of classes C", ylabel="outliers above the largest gap")
    ax.set_ylim(0, max(classes.max(), numbers.max()) + 1)
    ax.set_title("outliers, end of training", loc="left")


def _draw_shares(ax: Any, found: ls.Landscape) -> None:
    """The share of the full gradient, run by run, and the mean share of minibatch gradients."""
    study = found.meta["study"]
    steps = study["every"] * found.grid.axes[2].values
    for i, (name, color) in enumerate(COLORS.items()):
        label = f"{TRAININGS[name].split(',')[0]}, rate {study['rates'][name]:g}"
        ax.plot(steps, found["share"][i].T, color=color, linewidth=0.5, alpha=0.5)
        ax.plot(steps, found["share"][i].mean(axis=0), color=color, label=label)
        ax.plot(steps, found["batch_share"][i].mean(axis=(0, -1)), "--", color=color, linewidth=0.9)
    ax.plot([], [], "--", color="0.4", linewidth=0.9, label="minibatch gradients there")
    ax.axhline(study["top"] / study["size"], color="black", linestyle=":", linewidth=0.9, label="random space")
    ax.set(xlabel="training step", ylabel="share of the squared gradient", xlim=steps[[0, -1]], ylim=(-0.02, 1.02))
    ax.set_title(f"gradient in the top {study['top']} directions", loc="left")


def _draw_projected(ax: Any, found: ls.Landscape) -> None:
    """Loss of each arm, run by run and geometric mean."""
    from matplotlib import ticker

    study = found.meta["study"]
    steps = study["switch"] + study["refresh"] * np.arange(found["loss"].shape[-1])
    for i, arm in enumerate(ARMS):
        ax.plot(steps, found["loss"][i].T, color=ARM_COLORS[arm], linewidth=0.4, alpha=0.5)
        middle = np.exp(np.log(found["loss"][i]).mean(axis=0))
        ax.plot(steps, middle, color=ARM_COLORS[arm], label=ARM_NAMES[arm])
    ax.set(xlabel="training step", ylabel="training loss (log scale)", yscale="log", xlim=steps[[0, -1]])
    ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
    ax.set_title("SGD with projected steps", loc="left")


if __name__ == "__main__":
    main("curvature", Config, SMOKE, run, plot, findings)
