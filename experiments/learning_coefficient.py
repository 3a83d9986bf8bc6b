r"""How singular is a minimum, and do chains that start there measure it?

About a minimum the volume of {loss < e} shrinks as e^lambda. With a regular Hessian the learning coefficient lambda is
half the number of parameters; where the loss is flat along a variety, as in every neural network, it is less: so many
parameters count (Watanabe 2009). Chains of Langevin dynamics estimate it (Lau et al. 2023, arXiv 2308.12108) as
n beta E L with beta = 1 / log n, under exp(-n beta L - gamma |w|^2 / 2). Here at minima where lambda is known.

Expected:

- lambda = 2 for a quadratic of 4 parameters, 1/2 for w1^2 w2^2 (multiplicity m = 2), 1/4 for w1^2 w2^4;
- 6.5, 8 and 6 for linear networks 5-3-5, 5-4-5 and 4-3-8 at the zero matrix (Aoyagi & Watanabe 2005), which have 30,
  40 and 36 parameters;
- at a finite n less: by (m - 1) / log(n beta) to leading order, and exactly by an integral over one variable for every
  minimum here. The estimates agree with these within 3 standard errors, and at the largest n with lambda within 15 %,
  but for w1^2 w2^2, whose exact value is still 18 % below.

All chains of a minimum take the same steps: as long as the curvature allows at its largest n, and as many as forget the
flat directions. The step's bias is therefore largest there: up to 1 % by default, up to 4 % with --step 0.04.

It has its own minima and takes no --problem.

Cost: about 3 minutes on two CPU cores for the defaults.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from _exact.singular_minima import Crossing, Quadratic, ReducedRank
from _lab import Lab, UsageError, main

import landscape as ls
from landscape import curvature
from landscape.point import as_number

CLOSE = 0.15  # of lambda, at the largest n
RECORDS = 48
SMALLEST = 2  # decades of examples


@dataclass(frozen=True)
class Config:
    """Settings of this experiment."""

    curvatures: tuple[float, ...] = (0.5, 0.8, 1.3, 2.0)
    """Those of the quadratic."""
    powers: tuple[int, ...] = (2, 4)
    """Of the second factor in w1^2 w2^power, even."""
    networks: tuple[tuple[int, int, int], ...] = ((5, 3, 5), (5, 4, 5), (4, 3, 8))
    """Inputs, hidden units and outputs of linear networks."""
    decades: float = 4.0
    """Logarithm to base 10 of the largest n."""
    crossing_decades: float = 5.0
    """The same for the crossings, which have two parameters and cost less."""
    per_decade: int = 2
    """Numbers of examples in a decade."""
    chains: int = 16
    """Chains at each n."""
    step: float = 0.01
    """Step size times n beta, at the largest n."""
    length: float = 3.0
    """How often each chain could forget a flat direction: steps times step size times localization."""
    localization: float = 1.0
    """Gamma, the pull back to the minimum."""
    seed: int = 0
    """Of the chains."""


SMOKE = Config(networks=((5, 3, 5),), decades=2.5, crossing_decades=3.0, chains=6, step=0.05, length=1.0)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Coefficient:
    """Point function: the estimate with `10**coords[0]` examples, by chains of its own."""

    key: jax.Array
    objective: ls.Objective
    params: Any
    step_size: float
    localization: float
    steps: int = field(metadata={"static": True})
    chains: int = field(metadata={"static": True})

    def __call__(self, coords: jax.Array) -> dict[str, jax.Array]:
        """Estimate, drift, their standard errors, and the history `(chains, records)`."""
        key = jax.random.fold_in(self.key, as_number(1000 * coords[0]))
        found = curvature.local_learning_coefficient(
            key, self.objective, self.params,
            num_examples=10 ** coords[0], step_size=self.step_size, localization=self.localization,
            num_chains=self.chains, num_steps=self.steps, num_records=RECORDS,
        )  # fmt: skip
        drift = found.drift
        estimates = {"estimate": found.mean, "sem": found.sem, "drift": drift.mean, "drift_sem": drift.sem}
        return estimates | {"history": found.history}


def run(config: Config, lab: Lab) -> dict[str, ls.Landscape]:
    """One landscape over the number of examples for each minimum."""
    _check(config)
    lab = lab.at_once(1)  # a few numbers a step: on a CPU, more chains at a time only leave the cache
    result = {}
    for number, (name, (minimum, decades)) in enumerate(minima(config).items()):
        num = 1 + max(1, round(config.per_decade * (decades - SMALLEST)))
        axis = ls.Axis.linspace("log_n", SMALLEST, decades, num, "$\\log_{10} n$")
        step_size = config.step / strength_of(decades)
        steps = int(np.ceil(config.length / (step_size * config.localization)))
        objective = ls.Objective(minimum)
        key = jax.random.fold_in(jax.random.key(config.seed), number)
        fn = Coefficient(key, objective, minimum.params, step_size, config.localization, steps, config.chains)
        about = _about(minimum, axis.values, config.localization) | {"steps": steps, "step_size": step_size}
        landscape = lab.sweep(name, fn, ls.Grid((axis,)), lambda _, about=about: {"minimum": about})
        if landscape is not None:
            result[name] = landscape
    return result


def strength_of(decades: Any) -> Any:
    """n beta, for the logarithm to base 10 of n."""
    return 10**decades / (decades * np.log(10))


def minima(config: Config) -> dict[str, tuple[Any, float]]:
    """Minima by name, with the logarithm of the largest number of examples."""
    few = {f"crossing_{power}": Crossing(power) for power in config.powers}
    many: dict[str, Any] = {"network_" + "_".join(map(str, sizes)): ReducedRank(*sizes) for sizes in config.networks}
    if config.curvatures:
        many["quadratic"] = Quadratic(config.curvatures)
    return {k: (m, config.crossing_decades) for k, m in few.items()} | {k: (m, config.decades) for k, m in many.items()}


def _check(config: Config) -> None:
    if not all(power >= 2 and power % 2 == 0 for power in config.powers):
        raise UsageError(f"--powers must be even, and at least 2, got {config.powers}")
    if not all(size >= 1 for sizes in config.networks for size in sizes):
        raise UsageError(f"--networks must have at least one unit in each layer, got {config.networks}")
    if not all(h > 0 for h in config.curvatures):
        raise UsageError(f"--curvatures must be positive, got {config.curvatures}")
    if not minima(config):
        raise UsageError("needs --curvatures, --powers or --networks")
    if not min(config.decades, config.crossing_decades) > SMALLEST or config.per_decade < 1:
        raise UsageError(f"--decades and --crossing-decades must exceed {SMALLEST}, and --per-decade be at least 1")
    if not min(config.step, config.length, config.localization) > 0 or config.chains < 2:
        raise UsageError("--step, --length and --localization must be positive, and --chains at least 2")


def _about(minimum: Any, decades: np.ndarray, localization: float) -> dict[str, Any]:
    coefficient, multiplicity = minimum.coefficient
    exact = [minimum.expectation(float(strength_of(d)), localization) for d in decades]
    num_parameters = sum(np.size(leaf) for leaf in jax.tree.leaves(minimum.params))
    return {
        "text": minimum.text, "coefficient": coefficient, "multiplicity": multiplicity, "exact": exact,
        "parameters": num_parameters,
    }  # fmt: skip


def findings(result: Mapping[str, ls.Landscape]) -> list[tuple[str, str, str]]:
    """Rows of `(what, expected, found)`."""
    rows, close = [], []
    for landscape in result.values():
        rows += _rows(landscape)
        value, exact = (landscape.meta["minimum"][name] for name in ("coefficient", "exact"))
        close.append([abs(x / value - 1) <= CLOSE for x in (exact[-1], landscape["estimate"][-1])])
    exact, found = np.sum(close, axis=0)
    rows.append((f"minima within {CLOSE:.0%} of λ at their largest n", f"{exact} of {len(close)}", f"{found}"))
    lost = sum(int(np.sum(~np.isfinite(landscape["history"][..., -1]))) for landscape in result.values())
    return [*rows, ("chains that diverged", "0", f"{lost}")]


def _rows(landscape: ls.Landscape) -> list[tuple[str, str, str]]:
    """What was found at one minimum."""
    about, decades = landscape.meta["minimum"], landscape.grid.axes[0].values
    value, multiplicity, text = (about[name] for name in ("coefficient", "multiplicity", "text"))
    exact, found, sem = (np.asarray(x, float) for x in (about["exact"], landscape["estimate"], landscape["sem"]))
    estimate = f"{found[-1]:.3f} ± {sem[-1]:.3f} ({found[-1] / value - 1:+.1%} from λ)"
    rows = [(f"{text}: at n = {_count(decades[-1])}", f"{exact[-1]:.3f} (λ = {value:g})", estimate)]
    if multiplicity > 1:
        law = value - (multiplicity - 1) / np.log(strength_of(decades[-1]))
        rows.append((f"{text}: the same to leading order, λ - (m - 1) / log(nβ)", f"{law:.3f}", f"{found[-1]:.3f}"))
    scores = ", ".join(f"{z:+.1f}" for z in (found - exact) / sem)
    drift = f"{landscape['drift'][-1]:+.3f} ± {landscape['drift_sem'][-1]:.3f}"
    return [
        *rows,
        (f"{text}: standard errors from exact, n = {_count(decades[0])} ...", "within 3", scores),
        (f"{text}: second half less first half of what is kept", "0", drift),
    ]


def _count(decades: float) -> str:
    """A number of examples."""
    return f"1e{decades:g}" if decades == round(decades) else f"{10**decades:.0f}"


def plot(result: Mapping[str, ls.Landscape]) -> dict[str, Any]:
    """Estimates against n beside theory, and whether the chains have levelled off."""
    from matplotlib import pyplot

    crossings = [name for name in result if name.startswith("crossing")]
    groups = [names for names in (crossings, [name for name in result if name not in crossings]) if names]
    figure, axes = pyplot.subplots(1, len(groups) + 1, figsize=(3.4 * (len(groups) + 1), 3.6), squeeze=False)
    colors = {name: f"C{number}" for number, name in enumerate(result)}
    for ax, names in zip(axes[0], groups):
        for name in names:
            _draw_estimates(ax, result[name], colors[name])
        top = max(result[name].meta["minimum"]["coefficient"] for name in names)
        ax.set(xlabel="examples $n$", ylabel="learning coefficient", xscale="log", ylim=(0, 1.13 * top))
        ax.xaxis.set_minor_formatter("")
    _draw_histories(axes[0, -1], result, colors)
    figure.legend(handles=_legend(), loc="outside lower center", ncols=3)
    return {"coefficients": figure}


def _draw_estimates(ax: Any, landscape: ls.Landscape, color: str) -> None:
    about, count = landscape.meta["minimum"], 10 ** landscape.grid.axes[0].values
    ax.axhline(about["coefficient"], color=color, linestyle="--", linewidth=0.8)
    ax.plot(count, about["exact"], color=color, linewidth=0.9)
    ax.errorbar(count, landscape["estimate"], landscape["sem"], color=color, fmt="o", markersize=3, capsize=2)
    text = f"{_title(about['text'])}: λ = {about['coefficient']:g}"
    place = {"xytext": (3, 2), "textcoords": "offset points", "ha": "left", "va": "bottom", "color": color, "size": 8}
    ax.annotate(text, (0, about["coefficient"]), xycoords=ax.get_yaxis_transform(), **place)


def _title(text: str) -> str:
    """The crossings in the letters of mathematics."""
    return f"${text.replace('w', 'w_')}$" if text.startswith("w") else text


def _draw_histories(ax: Any, result: Mapping[str, ls.Landscape], colors: Mapping[str, str]) -> None:
    """The mean of the chains through the run, at the largest n."""
    for name, landscape in result.items():
        level = landscape["history"][-1].mean(axis=0) / landscape.meta["minimum"]["exact"][-1]
        ax.plot((np.arange(RECORDS) + 0.5) / RECORDS, level, color=colors[name], linewidth=0.9)
    ax.axvspan(0, 0.5, color="0.93", zorder=0)
    ax.axhline(1, color="black", linewidth=0.8)
    ax.set(xlabel="share of the steps (grey: left out)", xlim=(0, 1), ylim=(0, None))
    ax.set_ylabel("chains / exact, at the largest $n$")


def _legend() -> list[Any]:
    from matplotlib.lines import Line2D

    dots = Line2D([], [], color="0.3", marker="o", markersize=3, linestyle="", label="chains, ± one standard error")
    exact = Line2D([], [], color="0.3", linewidth=0.9, label="exact at this $n$")
    return [dots, exact, Line2D([], [], color="0.3", linewidth=0.9, linestyle="--", label="λ, the limit")]


if __name__ == "__main__":
    main("learning_coefficient", Config, SMOKE, run, plot, findings, takes_problem=False)
