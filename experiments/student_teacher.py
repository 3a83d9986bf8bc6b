r"""How often does gradient descent end in a bad local minimum, and which minima are there?

A ReLU student of n neurons learns a teacher of k orthonormal ones from the exact loss under Gaussian input, by gradient
descent with step 0.1 from N(0, 1/d) until the gradient norm is below 1e-9. A run is bad if its loss is at least 1e-3
(Safran & Shamir 2018, arXiv 1712.08968, table 1, from 1,000 runs each, and the authors' raw results).

Expected:

- shares of bad runs of n = k in %: 0.3, 5.5, 12.6, 21.8, 34.6, 45.5, 58.5, 73.0, 73.6 for k = 6 ... 14; of n = k + 1:
  0.1, 1.5, 5.5 for k = 8, 13, 14; none for n = k + 2. Test: a share agrees when the two-proportion z test with pooled
  variance does not refuse it at 1 %, |z| <= 2.576; the band holds the shares that it lets pass. The largest |z| of all
  has the limit of so many tests (Bonferroni). k = 13 counts as 73 of 100 runs: the raw results seem to hold each ten
  times (see `_published_shares.py`);
- shares of the families of n = k: the same distribution as in the raw results, by the chi-square test of two samples at
  1 % over all k. Runs are listed for the global minimum first, then for families by rising loss;
- the smallest Hessian eigenvalue at the global minimum is 1/4 - 1/(2 pi) = .0908451;
- bad minima form families (p, k - p), p neurons of one kind and k - p of another; loss and smallest eigenvalue of those
  that are listed in `FAMILIES`. They are told apart here by `minima.distinct`, which knows neither teacher nor basis;
- the best of m runs is good with probability 1 - share^m: the share of every second run beside blocks of the others.

Runs of one case are trained in stages: those that have not ended go on from where they were, so that a batch never
waits long for its slowest. Descent with this step never raises the loss, so a run below 1e-3 stays good; with n > k,
where the global minima are no longer isolated and gradients die slowly, it is not followed any further.

This experiment has its own problem and takes no --problem. It always computes in float64.

Cost: minutes on two CPU cores for the defaults.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _lab import Lab, UsageError, main
from _students.published import beside_published, compare_families, published
from scipy import special

import landscape as ls
from landscape import curvature, minima, plotting
from landscape.analysis import z_of_shares
from landscape.point import as_number
from landscape.problems import student_teacher
from landscape.training import Runs

BAD = 1e-3  # loss
TOL = 1e-9  # gradient norm
OPTIMIZER = optax.sgd(0.1)
MANY = (2000, 64)  # steps of a stage, and runs at a time on a CPU: more leave its cache
FEW = (20_000, 16)  # the same when no more than so many runs are left
LOWEST = 1 / 4 - 1 / (2 * math.pi)

FAMILIES = {
    (6, 1): (0.02508, 0.0047),
    (7, 1): (0.02320, 0.0141),
    (8, 1): (0.02151, 0.0213),
    (10, 1): (0.01870, 0.0320),
    (12, 1): (0.01652, 0.0393),
    (16, 1): (0.01340, 0.0490),
    (20, 1): (0.01128, 0.0551),
    (10, 2): (0.03533, 0.0160),
    (12, 2): (0.03155, 0.0253),
    (16, 2): (0.02588, 0.0379),
    (12, 3): (0.04546, None),
    (16, 3): (0.03774, None),
}
"""Loss and smallest Hessian eigenvalue of the family (p, k - p) of n = k, by (k, p)."""


@dataclass(frozen=True)
class Config:
    """Settings of this experiment."""

    ks: tuple[int, ...] = (6, 7, 8, 9, 10, 11, 12, 13, 14)
    """Numbers of teacher neurons, up to 20."""
    extra: int = 0
    """Student neurons beyond those of the teacher, 0 or 1."""
    more: tuple[tuple[int, int], ...] = ((8, 9), (13, 14), (14, 15), (10, 12), (14, 16))
    """Further pairs of teacher and student neurons."""
    runs: int = 1000
    """Runs of each pair."""
    max_steps: int = 200_000
    """Steps of gradient descent at most."""
    rotate: bool = False
    """Teach in a random orthogonal basis."""
    seed: int = 0
    """Seed of starts and basis."""


SMOKE = Config(ks=(8,), more=((4, 6),), runs=32, max_steps=60_000)


def run(config: Config, lab: Lab) -> dict[str, ls.Landscape]:
    """Where the runs of each pair of sizes end, and the distinct minima among their ends."""
    _check(config)
    result = {}
    with jax.enable_x64(True):
        for k, n in cases(config):
            problem = student_teacher(k, n, _teacher(k, config))
            stages = _descend(config, lab, problem, k, n)
            result |= stages
            if stages and all(stage.computed.all() for stage in stages.values()):
                result |= _distinct(lab, problem, k, n, ends(stages, k, n))
    return result


def _check(config: Config) -> None:
    if config.extra not in (0, 1):
        raise UsageError(f"--extra must be 0 or 1, got {config.extra}; --more takes any pair of sizes")
    if not cases(config) or not all(2 <= k <= 20 and k <= n <= k + 10 for k, n in cases(config)):
        raise UsageError(f"--ks must lie within 2 and 20, and --more hold pairs k n with k <= n <= k + 10: {config}")
    if min(config.runs, config.max_steps) < 1:
        raise UsageError("needs --runs and --max-steps >= 1")


def cases(config: Config) -> list[tuple[int, int]]:
    """Pairs (k, n) of teacher and student neurons, each once."""
    return list(dict.fromkeys([(k, k + config.extra) for k in config.ks] + [tuple(pair) for pair in config.more]))


def _teacher(k: int, config: Config) -> np.ndarray | None:
    """The rows of a random orthogonal matrix (Mezzadri 2007), or None for the standard basis."""
    if not config.rotate:
        return None
    q, r = np.linalg.qr(np.random.default_rng(config.seed + k).normal(size=(k, k)))
    return (q * np.sign(np.diagonal(r))).T


# ------------------------------------------------------------------------------------------------------ descending


def _descend(config: Config, lab: Lab, problem: ls.Problem, k: int, n: int) -> dict[str, ls.Landscape]:
    """Gradient descent in stages, each of the runs that are still under way."""
    key = jax.random.fold_in(jax.random.key(config.seed), 100 * k + n)
    w = np.array(jax.vmap(problem.init)(jax.random.split(key, config.runs))["w"])
    stages, under_way, done = {}, np.arange(config.runs), 0
    while len(under_way) and done < config.max_steps:
        steps, lanes = FEW if len(under_way) <= FEW[1] else MANY
        steps, grid = min(steps, config.max_steps - done), ls.Grid.of(run=under_way)
        name = f"ends_{k}_{n}_{len(stages)}"
        about = {"case": {"k": k, "n": n, "done": done}}
        here = lab.at_once(lanes, config.runs)
        landscape = here.sweep(name, _stage(problem, w, steps), grid, lambda _, a=about: a)
        if landscape is None:
            return stages
        stages[name] = landscape
        if not landscape.computed.all():
            return stages  # the next stage depends on what other shards still compute
        found, done = ends(stages, k, n), done + steps
        w, under_way = found.w, np.flatnonzero(found.under_way)
    return stages


def _stage(problem: ls.Problem, w: np.ndarray, steps: int) -> Runs:
    return Runs(
        objective=problem.objectives["train"],
        optimizer=OPTIMIZER,
        num_runs=len(w),
        num_steps=steps,
        inits={"w": w},
        record_every=steps,
        check_every=100,
        tol=TOL,
    )


@dataclass(frozen=True, eq=False)
class Ends:
    """Where the runs of a case are: parameters `(runs, n, d)`, and for each its loss, steps and outcome."""

    w: np.ndarray
    loss: np.ndarray
    steps: np.ndarray
    outcome: np.ndarray

    @property
    def bad(self) -> np.ndarray:
        """Runs that ended at a loss of at least 1e-3; a diverged one would be."""
        return ~(self.loss < BAD)

    @property
    def under_way(self) -> np.ndarray:
        """Runs whose verdict or end is open: all below 1e-3 are good, but those of n = k are followed to the end."""
        settled = ~self.bad & (self.w.shape[1] > self.w.shape[2])
        return (self.outcome == ls.Outcome.MAX_STEPS) & ~settled

    @property
    def converged(self) -> np.ndarray:
        """Runs whose gradient has vanished."""
        return self.outcome == ls.Outcome.CONVERGED


def ends(result: Mapping[str, ls.Landscape], k: int, n: int) -> Ends:
    """The last known state of each run, from the stages of a case."""
    names = [name for name in result if name.startswith(f"ends_{k}_{n}_")]
    stages = [result[name] for name in sorted(names, key=lambda name: int(name.rsplit("_")[-1]))]
    first = stages[0]
    w, loss, outcome = (np.array(first[name]) for name in ("params.w", "history.loss", "outcome"))
    loss, steps = loss[:, -1], np.array(first["steps"])
    for stage in stages[1:]:
        at = stage.grid.axes[0].values.astype(int)
        w[at], loss[at], outcome[at] = stage["params.w"], stage["history.loss"][:, -1], stage["outcome"]
        steps[at] += stage["steps"]
    return Ends(w, loss, steps, outcome)


# ---------------------------------------------------------------------------------------------------------- minima


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Minima:
    """Point function: minimum number `coords[0]`, polished, with all eigenvalues of its Hessian."""

    objective: ls.Objective
    starts: Any

    def __call__(self, coords: jax.Array) -> dict[str, jax.Array]:
        """Parameters, loss, gradient norm, eigenvalues."""
        start = jax.tree.map(lambda w: w[as_number(coords[0])], self.starts)
        end = minima.polish(self.objective, start)
        eigenvalues = jnp.linalg.eigvalsh(curvature.hessian(self.objective, end.params))
        return {"w": end.params["w"], "loss": end.loss, "grad_norm": end.grad_norm, "eigenvalues": eigenvalues}


def _distinct(lab: Lab, problem: ls.Problem, k: int, n: int, found: Ends) -> dict[str, ls.Landscape]:
    """The distinct minima among converged ends, without the teacher: by loss and by how neurons lie to each other."""
    converged = np.flatnonzero(found.converged)
    if not len(converged):
        return {}
    kinds = minima.distinct({"w": found.w[converged]}, found.loss[converged], symmetry=minima.Neurons())
    labels = np.full(len(found.loss), -1)
    labels[converged] = kinds.labels
    objective, name = problem.objectives["train"], f"minima_{k}_{n}"
    fn = Minima(objective, jax.tree.map(jnp.asarray, kinds.representatives))
    about = partial(_about, objective, {"labels": labels.tolist(), "counts": kinds.counts.tolist()})
    return {name: lab.at_once(1, 1).sweep(name, fn, ls.Grid.of(minimum=np.arange(len(kinds.counts))), about)}


def _about(objective: ls.Objective, entries: Mapping[str, Any], landscape: ls.Landscape) -> dict[str, Any]:
    """What each minimum is, and which neurons are of one kind."""
    if not landscape.computed.all() or "minima" in landscape.meta:
        return {}
    verdicts = [minima.classify(objective, {"w": jnp.asarray(w)}, global_loss=0.0) for w in landscape["w"]]
    families = [list(minima.student_family(w)) for w in landscape["w"]]
    return {"minima": {**entries, "kinds": [verdict.kind for verdict in verdicts], "families": families}}


@dataclass(frozen=True)
class Found:
    """A distinct minimum: its family, what it is, how many runs ended there."""

    family: tuple[int, ...]
    kind: str
    runs: int
    loss: float
    lowest: float
    number: int = 0  # among several minima of its family, from 1

    @property
    def name(self) -> str:
        """Its family in print."""
        which = f" no. {self.number}" if self.number else ""
        return "global" if self.kind == "global" else f"({', '.join(map(str, self.family))}){which}"


def found_minima(result: Mapping[str, ls.Landscape], k: int, n: int) -> list[Found]:
    """The distinct minima of a case, those of lower loss first."""
    if f"minima_{k}_{n}" not in result:
        return []
    landscape = result[f"minima_{k}_{n}"]
    meta = landscape.meta["minima"]
    families = [tuple(f) for f in meta["families"]]
    numbers = [families[: i + 1].count(f) if families.count(f) > 1 else 0 for i, f in enumerate(families)]
    rows = zip(families, meta["kinds"], meta["counts"], landscape["loss"], landscape["eigenvalues"][:, 0], numbers)
    return [Found(f, kind, int(c), float(x), float(e), number) for f, kind, c, x, e, number in rows]


# -------------------------------------------------------------------------------------------------------- findings


def sizes(result: Mapping[str, ls.Landscape]) -> list[tuple[int, int]]:
    """The pairs (k, n) of a result, in its order."""
    named = [name.split("_") for name in result if name.startswith("ends_")]
    return list(dict.fromkeys((int(k), int(n)) for _, k, n, _ in named))


def findings(result: Mapping[str, ls.Landscape]) -> list[tuple[str, str, str]]:
    """Rows of `(what, expected, found)`."""
    every = {pair: ends(result, *pair) for pair in sizes(result)}
    rows = [
        (f"k = {k}, n = {n}: bad runs, %", *beside_published(published(k, n), found.bad, found.under_way))
        for (k, n), found in every.items()
    ]
    rows += _largest_z_row(every) + _shares_of_families(result)
    under_way = sum(int(found.under_way.sum()) for found in every.values())
    diverged = sum(int(np.sum(found.outcome == ls.Outcome.DIVERGED)) for found in every.values())
    rows.append(("runs of unknown end (steps used up), diverged", "0, 0", f"{under_way}, {diverged}"))
    for k, n in sizes(result):
        rows += _family_rows(result, k, n)
    return rows + _restart_rows(result)


def _largest_z_row(every: Mapping[tuple[int, int], Ends]) -> list[tuple[str, str, str]]:
    """All shares together: of so many tests at 1 %, one may well refuse a share that agrees."""
    z = {}
    for (k, n), found in every.items():
        if (listed := published(k, n)) is not None:
            z[k, n] = abs(z_of_shares((int(found.bad.sum()), len(found.bad)), (listed.bad, listed.runs)))
    if not z:
        return []
    (k, n), limit = max(z, key=z.__getitem__), special.ndtri(1 - 0.005 / len(z))
    found = f"{z[k, n]:.2f} (k = {k}, n = {n}): {'inside' if z[k, n] <= limit else 'OUTSIDE'}"
    return [("largest |z| of these shares", f"at most {limit:.2f} (1 % over {len(z)} looks)", found)]


def _shares_of_families(result: Mapping[str, ls.Landscape]) -> list[tuple[str, str, str]]:
    """Where runs end, beside the published families; all k together are refused in 1 % of cases (Bonferroni)."""
    tests = {}
    for k in (k for k, n in sizes(result) if k == n):
        kinds = [(one.loss, one.runs) for one in found_minima(result, k, k)]
        tests[k] = compare_families(k, kinds, len(ends(result, k, k).loss))
    rows, limit = [], 0.01 / max(sum(test is not None for test in tests.values()), 1)
    for k, test in ((k, test) for k, test in tests.items() if test is not None):
        found = f"{test.in_print(1)}: p = {test.p:.2g}, {'agree' if test.p >= limit else 'DIFFER'}"
        rows.append((f"k = {k}: shares of the families", f"{test.in_print(0)} (p at least {limit:.2g})", found))
    return rows


def _family_rows(result: Mapping[str, ls.Landscape], k: int, n: int) -> list[tuple[str, str, str]]:
    rows, seen, kinds = [], set(), found_minima(result, k, n)
    for one in kinds:
        expected = _expected(k, n, one, kinds)
        text = f"{one.loss:z.6f}, {one.lowest:z.5f} {_verdict(one, expected)}({one.kind}, {one.runs} runs)"
        rows.append((f"k = {k}, n = {n}: {one.name} loss, lowest eigenvalue", _in_print(expected), text))
        seen.add(one.family)
    missing = sorted(p for size, p in FAMILIES if size == k == n and (p, k - p) not in seen)
    what = "k = {}, n = {}: ({}, {}) loss, lowest eigenvalue"
    return rows + [(what.format(k, n, p, k - p), _in_print(FAMILIES[k, p]), "no run ended there") for p in missing]


def _expected(k: int, n: int, one: Found, kinds: Sequence[Found]) -> tuple[float, float | None] | None:
    """What is listed of a minimum; of several that divide the neurons alike, it belongs to the one nearest to it."""
    if one.kind == "global":
        return (0.0, LOWEST) if n == k else (0.0, None)
    listed = FAMILIES.get((k, one.family[0])) if n == k and len(one.family) == 2 else None
    if listed is None:
        return None
    nearest = min((o for o in kinds if o.family == one.family), key=lambda o: abs(o.loss - listed[0]))
    return listed if one is nearest else None


def _in_print(expected: tuple[float, float | None] | None) -> str:
    if expected is None:
        return "not listed"
    loss, lowest = expected
    return f"{loss:.5f}, {'?' if lowest is None else '.0908451' if lowest == LOWEST else f'{lowest:.4f}'}"


def _verdict(one: Found, expected: tuple[float, float | None] | None) -> str:
    """Whether loss and eigenvalue agree to 1e-5 and 1e-3."""
    if expected is None:
        return ""
    loss, lowest = expected
    same = abs(one.loss - loss) <= 1e-5 and (lowest is None or abs(one.lowest - lowest) <= 1e-3)
    return "agree " if same else "DIFFER "


def restarts(bad: np.ndarray, m: int) -> tuple[int, int]:
    """Blocks of `m` runs, in the order of the runs, whose best is good; and the number of blocks."""
    blocks = len(bad) // m
    best = np.all(bad[: blocks * m].reshape(blocks, m), axis=1)
    return int(np.sum(~best)), blocks


def _restart_rows(result: Mapping[str, ls.Landscape]) -> list[tuple[str, str, str]]:
    rows = []
    for k, n in _showing_restarts(result):
        bad = ends(result, k, n).bad
        for m in (2, 4, 8):
            good, blocks = restarts(bad[1::2], m)  # the share comes from the other half
            low, high = ls.analysis.wilson_interval(good, blocks)
            text = f"{good / blocks:.3f} (95 % {low:.3f} ... {high:.3f})"
            expected = f"{1 - np.mean(bad[::2]) ** m:.3f} = 1 - share^{m}"
            rows.append((f"k = {k}: best of {m} is good", expected, text))
    return rows


def _showing_restarts(result: Mapping[str, ls.Landscape]) -> list[tuple[int, int]]:
    """Up to three cases from few to many bad runs, with enough runs for blocks of 8."""
    pairs = [(k, n) for k, n in sizes(result) if n == k and len(ends(result, k, n).bad) >= 16]
    pairs = sorted((pair for pair in pairs if ends(result, *pair).bad.any()), key=lambda p: ends(result, *p).bad.mean())
    return [pairs[i] for i in sorted({len(pairs) // 3, 2 * len(pairs) // 3, len(pairs) - 1})] if pairs else []


# --------------------------------------------------------------------------------------------------------- figures


def plot(result: Mapping[str, ls.Landscape]) -> dict[str, Any]:
    """Shares of bad runs, where runs end, the law of restarts, and curvature at the minima."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(7.6, 6.2))
    chosen = max(sizes(result), key=lambda pair: (len(found_minima(result, *pair)), pair[0]))
    _draw_shares(axes[0, 0], result)
    _draw_ends(axes[0, 1], result, *chosen)
    _draw_restarts(axes[1, 0], result)
    _draw_spectra(axes[1, 1], result, *chosen)
    for ax, letter in zip(axes.flat, "abcd"):
        ax.set_title(f"({letter}) {ax.get_title(loc='left')}", loc="left")
        ax.spines[["top", "right"]].set_visible(False)
    return {"student_teacher": figure}


def _draw_shares(ax: Any, result: Mapping[str, ls.Landscape]) -> None:
    for extra, color in ((0, "#0072b2"), (1, "#d55e00"), (2, "#009e73")):
        pairs = sorted(pair for pair in sizes(result) if pair[1] - pair[0] == extra)
        if not pairs:
            continue
        ours = [(int(ends(result, *pair).bad.sum()), len(ends(result, *pair).bad)) for pair in pairs]
        listed = [(k, one) for k, n in pairs if (one := published(k, n)) is not None]
        name = "n = k" + (f" + {extra}" if extra else "")
        _draw_bars(ax, [(k + 0.1, *counts) for (k, _), counts in zip(pairs, ours)], color, "o", f"{name}, found")
        _draw_bars(ax, [(k - 0.1, one.bad, one.runs) for k, one in listed], "0.35", "_", None)
    ax.plot([], [], "_", color="0.35", markersize=8, label="Safran & Shamir 2018")
    ax.set(xlabel="teacher neurons k", ylabel="bad runs, %")
    ax.locator_params(axis="x", integer=True)
    ax.legend(loc="upper left")
    ax.set_title("runs that end in a bad minimum", loc="left")


def _draw_bars(ax: Any, rows: Sequence[tuple[float, int, int]], color: str, marker: str, label: Any) -> None:
    x, hits, count = np.array(rows).reshape(-1, 3).T
    bounds = np.array([ls.analysis.wilson_interval(int(h), int(c)) for h, c in zip(hits, count)]).reshape(-1, 2).T
    errors = np.abs(bounds - hits / count) * 100
    size = 8 if marker == "_" else 4
    ax.errorbar(x, 100 * hits / count, errors, color=color, fmt=marker, ms=size, elinewidth=0.8, label=label)


def _rare(kinds: Sequence[Found], runs: int) -> list[int]:
    """Numbers of the minima in which fewer than a hundredth of the runs end."""
    return [number for number, one in enumerate(kinds) if one.runs < 0.01 * runs]


def _draw_ends(ax: Any, result: Mapping[str, ls.Landscape], k: int, n: int) -> None:
    kinds = found_minima(result, k, n)
    loss = ends(result, k, n).loss
    labels = np.asarray(result[f"minima_{k}_{n}"].meta["minima"]["labels"]) if kinds else np.full(len(loss), -1)
    rare = _rare(kinds, len(loss))
    labels = np.where(np.isin(labels, rare), len(kinds), labels)
    plotting.endpoints(loss, labels=labels, ax=ax, scale="linear", bins=70, legend=False)
    handles, texts = ax.get_legend_handles_labels()
    for number, name in enumerate([*(one.name for one in kinds), f"others ({len(rare)})"]):
        texts = [text.replace(f"minimum {number}:", f"{name}:") for text in texts]
    ax.legend(handles, texts, loc="upper right")
    ax.set_title(f"where {len(loss)} runs end, k = {k}, n = {n}", loc="left")


def _draw_restarts(ax: Any, result: Mapping[str, ls.Landscape]) -> None:
    for (k, n), color in zip(_showing_restarts(result), ("#56b4e9", "#009e73", "#d55e00")):
        bad = ends(result, k, n).bad
        m = np.arange(1, 33)
        ax.plot(m, 100 * (1 - np.mean(bad[::2]) ** m), color=color, linewidth=1)
        lengths = [length for length in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32) if len(bad) >= 8 * length]
        rows = [(length, *restarts(bad[1::2], length)) for length in lengths]
        _draw_bars(ax, rows, color, "o", f"k = {k}")
    ax.set(xlabel="runs m, the best of which counts", ylabel="good, %", xscale="log")
    ax.set_xticks([1, 2, 4, 8, 16, 32], ["1", "2", "4", "8", "16", "32"])
    ax.minorticks_off()
    if ax.lines:
        ax.legend(loc="lower right", title="lines: 1 $-$ share$^m$,\nfrom the other half")
    ax.set_title("restarting", loc="left")


def _draw_spectra(ax: Any, result: Mapping[str, ls.Landscape], k: int, n: int) -> None:
    from landscape.plotting import label_color

    kinds = found_minima(result, k, n)
    rare = _rare(kinds, len(ends(result, k, n).loss))
    for number in [number for number in range(len(kinds)) if number not in rare][:6]:
        values, one = result[f"minima_{k}_{n}"]["eigenvalues"][number], kinds[number]
        at = np.flatnonzero(values > 0)
        ax.plot(at + 1, values[at], color=label_color(number), ds="steps-mid", label=one.name)
    ax.axhline(LOWEST, color="0.4", linestyle="--", linewidth=0.7)
    place = {"xytext": (-2, -3), "textcoords": "offset points", "ha": "right", "va": "top", "fontsize": 8}
    ax.annotate("1/4 $-$ 1/2π", (1, LOWEST), xycoords=ax.get_yaxis_transform(), **place)
    ax.set(yscale="log", xlabel="number of the eigenvalue", ylabel="eigenvalue of the Hessian")
    if kinds:
        ax.legend(loc="upper left")
    ax.set_title(f"curvature at the minima, k = {k}, n = {n}", loc="left")


if __name__ == "__main__":
    main("student_teacher", Config, SMOKE, run, plot, findings, takes_problem=False)
