r"""How far apart are training and test loss: on the same plane, on the same path, and over the same runs?

A ReLU network of two layers without biases learns 900 of scikit-learn's digits, or 900 of 5,000 MNIST digits (2 x 2
pixels averaged), with 0, 20 and 40 % of the training labels replaced by uniform draws (Zhang et al. 2017; one draw in
ten happens to be right). The test labels stay. Your own model by --problem, with objectives `train` and `test`, is
trained from its own `init`; its labels are its own, so there is one noise level, and no rescaling.

- The gap compares like with like: the training loss, on noisy labels, with the test loss expected under the same noise,
  (1 - s) l + s u for the share s, the loss l on the test labels and its mean u over all labels. Without that, a noisy
  training loss may exceed a clean test loss.
- Runs: 64 seeds in one program. Curves, the epoch with the least test loss, the epoch from which the gap exceeds two
  standard errors of the test loss for good, and the sharpness (largest eigenvalue of the Hessian) at the end.
- Plane: filter-normalised, through the end of the first run. Both losses, their standard errors over the examples, the
  gap, and the way from the train minimum to the test minimum, with a 95 % bootstrap interval over test examples.
- Path: the straight line from the start of that run through its end.
- Sharpness and gap over seeds, by Spearman's rank correlation with a 95 % interval (Fisher's z, the variance of Bonett
  & Wright 2000). Seeds of one noise level differ in little but chance; levels differ in what is learned.
- The counter-example of Dinh et al. (2017, `_rescaling.py`): (a W1, W2 / a) is the same function.

Expected: the test minimum lies beside the train minimum, on a random plane perhaps by less than a cell. Noise makes the
curves part earlier and the gap wider. For the rescaled network: loss equal to rounding, the eigenvalues of
D^-1 H D^-1, and the filter-normalised surface equal to rounding. For the correlation nothing: any that is found is one
of these runs, since rescaling the weights of each changes their sharpness at will and their gap not at all. Flatness
does not by itself mean generalisation, and nothing is claimed beyond that (see also Andriushchenko et al. 2023).

The rescaled network is computed in float64.

Cost: about three minutes of CPU time for the defaults.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from _lab import Lab, UsageError, main
from _lab.optimizers import adam
from _networks import rescaling as _rescaling
from _networks.label_noise import Trainings, standard_error, with_squares

import landscape as ls
from landscape import analysis

Data = Literal["digits", "mnist5k"]
WORDS = {"digits": "digits", "mnist5k": "MNIST-5k", "own": "own model"}
LEAST_RUNS = 4  # for a correlation with an interval
MARGIN = 2  # standard errors of the test loss: a gap within them is none


@dataclass(frozen=True)
class Config:
    """Settings of this experiment."""

    data: tuple[Data, ...] = ("digits", "mnist5k")
    """Which data to learn."""
    noise: tuple[float, ...] = (0.0, 0.2, 0.4)
    """Shares of the training labels that are random."""
    seeds: int = 64
    """Runs for each share."""
    epochs: int = 40
    """Epochs of each run."""
    examples: int = 900
    """Training examples; all others are for the test."""
    hidden: int = 32
    """Hidden units."""
    learning_rate: float = 0.01
    """Learning rate of Adam."""
    batch_size: int = 64
    """Examples of a minibatch."""
    resolution: int = 41
    """Points along each axis of the planes."""
    extent: float = 1.0
    """Half-width of the planes, in units of the directions."""
    resamples: int = 200
    """Bootstrap resamples of the test examples."""
    scales: tuple[float, ...] = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
    """Factors a of the rescaled network."""
    seed: int = 0
    """Seed of the starts, the minibatches, the random labels, the directions and the resamples."""


SMOKE = Config(
    data=("digits",), noise=(0.0, 0.4), seeds=5, epochs=6, examples=200, hidden=8, resolution=9, resamples=20,
    scales=(0.3, 1.0, 4.0),
)  # fmt: skip


def run(config: Config, lab: Lab) -> dict[str, ls.Landscape]:
    """Runs, planes and lines for each data set and share of noise, and the rescaled network."""
    _check(config, lab)
    result: dict[str, Any] = {}
    for name in ("own",) if lab.problem is not None else config.data:
        trainings = _trainings(name, config, lab)
        shares = (0.0,) if name == "own" else tuple(sorted(config.noise))
        runs = _runs(name, trainings, shares, config, lab)
        result[f"runs_{name}"] = runs
        ends = _ends(trainings, runs, shares)
        if ends is None:
            break  # the planes go through what other shards still compute
        for share, end in zip(shares, ends):
            result |= _surfaces(f"{name}_{_percent(share)}", trainings, share, end, config, lab)
        if name == config.data[0] and name != "own":
            result |= _rescale(trainings, ends[0], config, lab)
    return {name: landscape for name, landscape in result.items() if landscape is not None}


def _check(config: Config, lab: Lab) -> None:
    if not config.data or len(set(config.data)) < len(config.data):
        raise UsageError(f"--data wants digits, mnist5k or both, got {config.data}")
    if not config.noise or not all(0 <= share <= 1 for share in config.noise):
        raise UsageError(f"--noise wants shares between 0 and 1, got {config.noise}")
    if len({_percent(share) for share in config.noise}) < len(config.noise):  # which name the results
        raise UsageError(f"--noise wants shares of different whole percentages, got {config.noise}")
    if config.seeds < LEAST_RUNS or min(config.epochs, config.hidden, config.resamples, config.batch_size) < 1:
        raise UsageError(
            f"needs --seeds >= {LEAST_RUNS}, and --epochs, --hidden, --resamples and --batch-size >= 1: {config}"
        )
    if config.resolution < 3 or not config.extent > 0 or not config.learning_rate > 0:
        raise UsageError("needs --resolution >= 3, --extent > 0 and --learning-rate > 0")
    if not all(a > 0 for a in config.scales) or not min(config.scales, default=1) < 1 < max(config.scales, default=1):
        raise UsageError(f"--scales wants positive factors below and above 1, got {config.scales}")
    if lab.problem is not None and "test" not in lab.problem.objectives:
        raise UsageError("--problem: this experiment compares training with test: give Problem.objectives['test'] too")


def _percent(share: float) -> int:
    return round(100 * share)


# ---------------------------------------------------------------------------------------------------------- trainings


def problem_of(name: str, config: Config) -> ls.Problem:
    """The data, divided, and the network."""
    train, test = _split(name, config)
    init, predict = _rescaling.relu_net(train["x"].shape[1], config.hidden, 10)

    def loss_fn(params: Any, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
        logits = predict(params, batch["x"])
        losses, metrics = ls.problems.cross_entropy(logits, batch["y"])
        return losses, {**metrics, "uniform_loss": -jnp.mean(jax.nn.log_softmax(logits), axis=-1)}

    data = {"train": train, "test": test}
    objectives = {part: ls.Objective(loss_fn, jax.tree.map(jnp.asarray, d), has_aux=True) for part, d in data.items()}
    return ls.Problem(init, objectives, predict, name=WORDS[name])


def _split(name: str, config: Config) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    count = {"digits": 1797, "mnist5k": 5000}[name]
    if not config.batch_size <= config.examples < count:
        raise UsageError(f"--examples of {name} must be from the --batch-size up to {count - 1}, got {config.examples}")
    try:
        load = ls.problems.digits if name == "digits" else ls.problems.mnist5k
        train, test = load(1 - config.examples / count, config.seed)
    except ImportError as error:
        raise UsageError(f"{error}; or leave {name} out of --data") from error
    return (train, test) if name == "digits" else (_pooled(train), _pooled(test))


def _pooled(data: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """MNIST with 2 x 2 pixels averaged, as vectors of 196."""
    images = data["x"].reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4))
    return {"x": images.reshape(len(images), -1), "y": data["y"]}


def _trainings(name: str, config: Config, lab: Lab) -> Trainings:
    problem = lab.problem if name == "own" else problem_of(name, config)
    train, test = problem.objectives["train"], problem.objectives["test"]
    if not config.batch_size <= (train.num_examples or 0):
        raise UsageError(f"--batch-size must be at most the {train.num_examples} training examples")
    shapes = jax.eval_shape(problem.init, jax.random.key(config.seed))
    for objective in (train, test):
        jax.eval_shape(lambda p, o=objective: o.per_example(p), shapes)  # refuses losses without a standard error
    per_epoch = max(1, (train.num_examples or 0) // config.batch_size)
    return Trainings(
        init=problem.init,
        optimizer=adam(config.learning_rate),
        train=train,
        track={"test": with_squares(test)},
        num_steps=config.epochs * per_epoch,
        batch_size=config.batch_size,
        record_every=per_epoch,
        key=jax.random.key(config.seed),
        num_classes=None if name == "own" else 10,
        sharpness=True,
    )


def _runs(name: str, trainings: Trainings, shares: tuple[float, ...], config: Config, lab: Lab) -> ls.Landscape | None:
    grid = ls.Grid.of(noise=shares, run=np.arange(config.seeds))
    about = {
        "model": (lab.problem.name if name == "own" else WORDS[name]),
        "per_epoch": trainings.record_every,
        "num_train": trainings.train.num_examples,
        "num_test": trainings.track["test"].num_examples,
    }
    return lab.at_once(config.seeds, config.seeds).sweep(f"runs_{name}", trainings, grid, lambda _: {"runs": about})


def _ends(trainings: Trainings, runs: ls.Landscape | None, shares: tuple[float, ...]) -> list[Any] | None:
    """Where the first run of each share ends; where it starts when only planning; None while it is not known."""
    if runs is None:
        return [trainings.start(0) for _ in shares]
    if not runs.computed.all():
        return None
    return [trainings.params(runs["params"][i, 0]) for i in range(len(shares))]


# ----------------------------------------------------------------------------------------------------------- surfaces


def _surfaces(name: str, trainings: Trainings, share: float, end: Any, config: Config, lab: Lab) -> dict[str, Any]:
    """Both losses over a plane through the end, and along the line from the start."""
    objectives = {"train": trainings.objective(jnp.float32(share)), "test": trainings.track["test"]}
    key = jax.random.fold_in(jax.random.key(config.seed), 2)
    directions = ls.subspace.filter_normalize(ls.subspace.random_directions(key, end), end)
    labels = ("direction 1 (filter normalised)", "direction 2 (filter normalised)")
    axes = (
        ls.Axis.linspace(axis, -config.extent, config.extent, config.resolution, label)
        for axis, label in zip(("alpha", "beta"), labels)
    )
    resampled = Resampled(objectives, _resamples(objectives["test"].num_examples or 0, config))
    plane = dataclasses.replace(resampled, at=ls.Subspace(end, directions))
    line = dataclasses.replace(resampled, at=ls.subspace.line(trainings.start(0), end))
    along = ls.Axis.linspace("alpha", -0.25, 1.75, 2 * config.resolution - 1, "from the start (0) to the end (1)")
    about = {"share": share, "gram": np.asarray(ls.Subspace(end, directions).gram())}
    return {
        f"plane_{name}": lab.sweep(f"plane_{name}", plane, ls.Grid(tuple(axes)), lambda _: {"surface": about}),
        f"line_{name}": lab.sweep(f"line_{name}", line, ls.Grid((along,))),
    }


def _resamples(count: int, config: Config) -> jax.Array:
    """How often each test example is drawn, divided by their number, for each resample; `(b, n)`."""
    rng = np.random.default_rng([config.seed, 3])
    return jnp.asarray(rng.multinomial(count, np.full(count, 1 / count), config.resamples) / count, jnp.float32)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Resampled:
    """Point function: train and test loss with standard errors, and the test loss over resamples of its examples."""

    objectives: Mapping[str, ls.Objective]
    weights: jax.Array
    at: Any = None

    def __call__(self, coords: jax.Array) -> dict[str, jax.Array]:
        """All losses at one point."""
        values = ls.LossSurface(self.at, self.objectives, ("sem",))(coords)
        losses = self.objectives["test"].per_example(self.at(coords))
        keep = {name: value for name, value in values.items() if "squared" not in name}
        return keep | {"test_resampled": jnp.matmul(self.weights, losses)}


def _rescale(trainings: Trainings, end: Any, config: Config, lab: Lab) -> dict[str, Any]:
    objectives = {"train": trainings.objective(jnp.float32(min(config.noise))), "test": trainings.track["test"]}
    return _rescaling.sweeps(lab, end, objectives, config.scales, config.resolution, config.seed)


# ----------------------------------------------------------------------------------------------------------- findings


def findings(result: Mapping[str, ls.Landscape]) -> list[tuple[str, str, str]]:
    """Rows of `(what, expected, found)`."""
    rows = []
    for name, runs in _campaigns(result):
        for i, share in enumerate(runs.grid.axes[0].values):
            prefix = f"{runs.meta['runs']['model']}, {share:.0%} noise"
            rows += _curve_rows(prefix, runs.slice(noise=i), share, runs.meta["runs"])
            plane, line = (result.get(f"{kind}_{name}_{_percent(share)}") for kind in ("plane", "line"))
            rows += [] if plane is None else _offset_rows(prefix, plane)
            rows += [] if line is None else [_path_row(prefix, line)]
        rows += list(_correlation_rows(runs))
    return rows + (_rescaling.rows(result) if "rescaled_fixed" in result else [])


def same_noise(values: Any, share: float, prefix: str = "") -> np.ndarray:
    """The test loss expected under label noise of this share, from the test loss and its mean over all labels."""
    clean = values[f"{prefix}test_loss"]
    return clean if share == 0 else (1 - share) * clean + share * values[f"{prefix}test_uniform_loss"]


def final_gap(runs: ls.Landscape) -> np.ndarray:
    """Test minus training loss under one noise at the end of each run, `(shares, runs)`."""
    rows = [
        same_noise(runs.slice(noise=i), share, "history.")[:, -1] for i, share in enumerate(runs.grid.axes[0].values)
    ]
    return np.stack(rows) - runs["history.loss"][..., -1]


def _campaigns(result: Mapping[str, ls.Landscape]) -> Iterator[tuple[str, ls.Landscape]]:
    return ((key[5:], landscape) for key, landscape in result.items() if key.startswith("runs_"))


def margin(runs: ls.Landscape, about: Mapping[str, Any]) -> np.ndarray:
    """Two standard errors of the test loss at each epoch of each run."""
    mean, square = runs["history.test_loss"], runs["history.test_loss_squared"]
    return MARGIN * standard_error(mean, square, about["num_test"])


def _curve_rows(prefix: str, runs: ls.Landscape, share: float, about: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    train, clean, test = runs["history.loss"], runs["history.test_loss"], same_noise(runs, share, "history.")
    epochs = runs["history.step"].max(axis=0) / about["per_epoch"]
    parted = analysis.divergence_epoch(train, test, epochs, margin=margin(runs, about))
    never = int(np.sum(np.isnan(parted)))
    apart = "never" if never == len(parted) else _range(parted) + (f", {never} runs never" if never else "")
    sem = np.median(margin(runs, about)[:, -1]) / MARGIN
    rows = [
        (
            f"{prefix}: epoch with the least test loss (clean labels)",
            "earlier with noise",
            _range(analysis.best_epoch(clean, epochs)),
        ),
        (f"{prefix}: what the test loss rises after it", "more with noise", _range(clean[:, -1] - clean.min(axis=1))),
        (f"{prefix}: curves part at epoch", "earlier with noise", apart),
        (f"{prefix}: gap at the end", "wider with noise", f"{_range((test - train)[:, -1])}; test s.e. {sem:.2g}"),
    ]
    if "history.test_accuracy" in runs:
        right = [runs[f"history.{part}_accuracy"][:, -1] for part in ("train", "test")]
        rows.append((f"{prefix}: accuracy at the end, train; test", "", "; ".join(map(_range, right))))
    return rows


def _range(values: np.ndarray) -> str:
    """Median and range of the middle 90 % of the runs."""
    low, middle, high = np.nanpercentile(values, [5, 50, 95])
    return f"{middle:.3g} ({low:.3g} ... {high:.3g})"


def _offset_rows(prefix: str, plane: ls.Landscape) -> list[tuple[str, str, str]]:
    found = analysis.minimum_offset(plane, resampled="test_resampled")
    low, high = found.interval
    text = f"{found.distance:.3f} (95 % {low:.3f} ... {high:.3f}; half a cell {found.resolution:.3f})"
    train, test = (plane[f"{part}_loss_sem"][plane.grid.index(found.train)] for part in ("train", "test"))
    return [
        (
            f"{prefix}: test minimum from train minimum",
            "beside it",
            text + (", at the border" if found.on_border else ""),
        ),
        (f"{prefix}: test loss at the train minimum, above its own", "small", f"{found.excess:.4f}"),
        (f"{prefix}: standard errors there, train; test", "", f"{train:.4f}; {test:.4f}"),
    ]


def _path_row(prefix: str, line: ls.Landscape) -> tuple[str, str, str]:
    """Where both losses are least on the line from the start (0) to the end (1)."""
    found = analysis.minimum_offset(line, resampled="test_resampled")
    low, high = found.interval
    text = f"{found.train[0]:.3f}; {found.test[0]:.3f} (apart by 95 % {low:.3f} ... {high:.3f})"
    return f"{prefix}: train; test minimum on the path", "1 if training is over; beside it", text


def _correlation_rows(runs: ls.Landscape) -> Iterator[tuple[str, str, str]]:
    gap, model = final_gap(runs), runs.meta["runs"]["model"]
    for share, x, y in zip(runs.grid.axes[0].values, runs["sharpness"], gap):
        yield (
            f"{model}, {share:.0%} noise: rank correlation of sharpness and gap",
            "none implied",
            correlation_text(x, y),
        )
    if len(gap) > 1:
        yield f"{model}, all runs together", "none implied", correlation_text(runs["sharpness"].ravel(), gap.ravel())
    worst = np.max(runs["sharpness_residual"] / np.abs(runs["sharpness"]))
    yield f"{model}: largest relative residual of a sharpness", "below 0.01", f"{worst:.1e}"


def rank_correlation(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Spearman's rank correlation with a 95 % interval; pairs that are not finite are left out.

    Fisher's z with the variance (1 + r^2 / 2) / (n - 3) of Bonett & Wright (2000, equation 3).
    """
    from scipy.stats import spearmanr

    keep = np.isfinite(x) & np.isfinite(y)
    count = int(np.sum(keep))
    if count < LEAST_RUNS or np.ptp(x[keep]) == 0 or np.ptp(y[keep]) == 0:
        return np.nan, np.nan, np.nan
    rho = float(np.clip(spearmanr(x[keep], y[keep]).statistic, -1 + 1e-12, 1 - 1e-12))
    half = 1.959964 * np.sqrt((1 + rho**2 / 2) / (count - 3))
    low, high = np.tanh(np.arctanh(rho) + np.array([-half, half]))
    return rho, float(low), float(high)


def correlation_text(x: np.ndarray, y: np.ndarray) -> str:
    """The correlation with its interval and the number of runs."""
    rho, low, high = rank_correlation(x, y)
    count = int(np.sum(np.isfinite(x) & np.isfinite(y)))
    return f"{round(rho, 2) + 0.0:+.2f} (95 % {low:+.2f} ... {high:+.2f}), {count} runs"


# ------------------------------------------------------------------------------------------------------------ figures


def plot(result: Mapping[str, ls.Landscape]) -> dict[str, Any]:
    """Curves, planes and lines of each data set, gap against sharpness, and the rescaled network."""
    from _networks import generalization_figures as figures

    drawn = {}
    for name, runs in _campaigns(result):
        shares = runs.grid.axes[0].values
        parts = [runs.slice(noise=i) for i in range(len(shares))]
        alike = [part.assign(same_noise=same_noise(part, share, "history.")) for part, share in zip(parts, shares)]
        margins = [margin(part, runs.meta["runs"]) for part in parts]
        drawn[f"curves_{name}"] = figures.curves(runs, alike, margins)
        planes = [result.get(f"plane_{name}_{_percent(share)}") for share in shares]
        planes = [p.assign(same_noise=same_noise(p, p.meta["surface"]["share"])) for p in planes if p is not None]
        lines = [result[f"line_{name}_{_percent(p.meta['surface']['share'])}"] for p in planes]
        if planes:
            drawn[f"surfaces_{name}"] = figures.surfaces(runs.meta["runs"]["model"], planes, lines)
    groups = [(runs, final_gap(runs)) for _, runs in _campaigns(result)]
    drawn["sharpness"] = figures.sharpness(groups, result.get("rescaled"), correlation_text)
    if "rescaled_fixed" in result:
        drawn["rescaled"] = _rescaling.draw(result)
    return drawn


if __name__ == "__main__":
    main("generalization", Config, SMOKE, run, plot, findings)
