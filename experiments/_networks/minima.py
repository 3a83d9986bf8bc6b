"""Minima of digit networks: the problem, polishing, telling minima apart, and how many there are in all.

What `digits_starts.py` and `optimizers.py` share.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from _lab import say
from jax.flatten_util import ravel_pytree

import landscape as ls
from landscape import curvature, minima
from landscape.analysis import NORMAL, correlation
from landscape.point import as_number

POLISH_TOL, POLISH_STEPS = 1e-8, 300
NEAR = 1e-4  # share by which weights are moved before a minimum is looked for again
SPECTRA, PAIRS = 5, 100  # Hessians diagonalised, minima compared in pairs
SYMMETRY = minima.HiddenUnits("odd")


def digits_with_decay(
    hidden: tuple[int, ...], decay: float, test_fraction: float, examples: int | None = None
) -> ls.Problem:
    """A tanh network on digits whose training loss has minima: `train` is penalised, `test` is plain cross-entropy.

    Args:
        hidden: widths of the hidden layers.
        decay: the penalty is `decay / 2` times the sum of all squared parameters.
        test_fraction: share of the digits that test.
        examples: how many of the others to learn from; all by default.

    Returns:
        A problem; its `train` objective measures `accuracy` and, without the penalty, `cross_entropy`.
    """
    plain = ls.problems.digits_mlp(hidden, test_fraction=test_fraction)
    train = plain.objectives["train"]

    def loss_fn(params: Any, batch: Any) -> Any:
        losses, metrics = train.loss_fn(params, batch)
        penalty = decay / 2 * sum(jnp.sum(x**2) for x in jax.tree.leaves(params))
        return losses + penalty, {**metrics, "cross_entropy": losses}

    data = jax.tree.map(lambda x: x[:examples], train.data)
    objectives = {**plain.objectives, "train": ls.Objective(loss_fn, data, has_aux=True)}
    name = f"digits MLP {'-'.join(map(str, (64, *hidden, 10)))}, weight decay {decay:g}"
    return ls.Problem(plain.init, objectives, plain.predict, name=name)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Polished:
    """Point function: the minimum that trust-region Newton finds from parameters number `coords[0]`.

    Attributes:
        objective: what is minimised.
        params: stacked parameters.
        track: further objectives to measure at the end.
    """

    objective: ls.Objective
    params: Any
    track: Mapping[str, ls.Objective] = field(default_factory=dict)

    def __call__(self, coords: jax.Array) -> dict[str, jax.Array]:
        """The minimum as a vector, its losses, and the evidence for it."""
        start = jax.tree.map(lambda x: x[as_number(coords[0])], self.params)
        end = minima.polish(self.objective, start, tol=POLISH_TOL, max_steps=POLISH_STEPS)
        values = {"end": ravel_pytree(end.params)[0], "loss": end.loss, "grad_norm": end.grad_norm}
        for name, other in self.track.items():
            values |= {f"{name}_{metric}": value for metric, value in other.evaluate(end.params).items()}
        return values | {"converged": end.converged}


def in_double(tree: Any) -> Any:
    """Floating-point leaves in float64."""

    def wide(x: Any) -> Any:
        return jnp.asarray(x, jnp.float64) if jnp.issubdtype(jnp.result_type(x), jnp.floating) else jnp.asarray(x)

    return jax.tree.map(wide, tree)


def exchanged(params: Any, seed: int) -> Any:
    """Stacked networks with the units of each hidden layer in another order and with other signs: the same functions.

    Args:
        params: a list of layers `{"kernel": (k, in, out), "bias": (k, out)}`.
        seed: of the orders and the signs.
    """
    random = np.random.default_rng(seed)
    layers = [{name: np.array(x) for name, x in layer.items()} for layer in params]
    for k in range(len(layers[0]["bias"])):
        for here, after in itertools.pairwise(layers):
            order = random.permutation(here["bias"].shape[1])
            sign = random.choice([-1.0, 1.0], len(order)).astype(here["bias"].dtype)
            here["kernel"][k], here["bias"][k] = here["kernel"][k][:, order] * sign, here["bias"][k][order] * sign
            after["kernel"][k] = after["kernel"][k][order] * sign[:, None]
    return layers


def about_minima(problem: ls.Problem, objective: ls.Objective, num: int, found: ls.Landscape) -> dict[str, Any]:
    """Which of the polished points are the same minimum, and what holds at them; as stored, if it was.

    Args:
        problem: the network.
        objective: its training objective in float64.
        num: ends that were polished; the points after these are from copies of the first ends with units exchanged.
        found: the polished points.
    """
    if "told_apart" in found.meta or not found.computed.all():
        return {}
    say(f"telling the minima of {problem.name} apart")
    stacked = jax.vmap(_unravel(problem))(jnp.asarray(found["end"]))
    told = minima.distinct(stacked, np.where(found["converged"], found["loss"], np.nan), symmetry=SYMMETRY)
    first, copies = told.labels[:num], told.labels[num:]
    which = np.flatnonzero(first >= 0)
    entries = {
        "model": problem.name,
        "num_params": int(found["end"].shape[1]),
        "labels": first,
        "ends_again": [int(np.sum((copies == first[: len(copies)]) & (copies >= 0))), len(copies)],
        "minima_again": _found_again(objective, _rows(stacked, which[: len(copies)])),
        "distances": pair_distances(told.representatives, PAIRS),
        "lowest_eigenvalues": _lowest_eigenvalues(objective, stacked, which[:SPECTRA]),
        "identities": identities(stacked, np.asarray(problem.objectives["train"].data["x"]), told.labels >= 0),
    }
    return {"told_apart": entries}


def _rows(stacked: Any, which: np.ndarray) -> Any:
    return jax.tree.map(lambda x: np.asarray(x)[which], stacked)


def _found_again(objective: ls.Objective, stacked: Any) -> list[int]:
    """How many minima are found again from near an image of theirs: units exchanged, all weights moved by a 1e-4th."""
    num = len(jax.tree.leaves(stacked)[0])
    random = np.random.default_rng(5)
    moved = jax.tree.map(lambda x: x * (1 + NEAR * random.standard_normal(x.shape)), exchanged(stacked, 7))
    again = jax.jit(_polished_all)(objective, jax.tree.map(jnp.asarray, moved))
    both = jax.tree.map(lambda a, b: np.concatenate([a, np.asarray(b)]), stacked, again.params)
    losses = np.asarray(jax.jit(lambda o, p: jax.lax.map(o, p))(objective, jax.tree.map(jnp.asarray, both)))
    labels = minima.distinct(both, losses, symmetry=SYMMETRY).labels
    return [int(np.sum(labels[:num] == labels[num:])), num]


def _polished_all(objective: ls.Objective, stacked: Any) -> minima.Minimum:
    return jax.lax.map(lambda p: minima.polish(objective, p, tol=POLISH_TOL, max_steps=POLISH_STEPS), stacked)


def _unravel(problem: ls.Problem) -> Any:
    return ravel_pytree(in_double(problem.init(jax.random.key(0))))[1]


def _lowest_eigenvalues(objective: ls.Objective, stacked: Any, which: np.ndarray) -> list[float]:
    """Smallest Hessian eigenvalue of some of the points, of the whole matrix."""
    matrix = jax.jit(curvature.hessian)
    points = [jax.tree.map(lambda x, i=i: x[i], stacked) for i in which.tolist()]
    return [float(np.linalg.eigvalsh(matrix(objective, point))[0]) for point in points]


def pair_distances(points: Any, most: int) -> np.ndarray:
    """Distances after the best matching of units between all pairs of the first points, over their root-mean norm."""
    num = min(most, len(jax.tree.leaves(points)[0]))
    trees = [jax.tree.map(lambda x, i=i: np.asarray(x[i]), points) for i in range(num)]
    squares = [sum(float(np.sum(x**2)) for x in jax.tree.leaves(tree)) for tree in trees]
    gaps = [SYMMETRY.distance(trees[i], trees[j]) for i in range(num) for j in range(i)]
    return np.asarray(gaps) / np.sqrt(np.mean(squares)) if gaps else np.zeros(0)


def identities(stacked: Any, inputs: np.ndarray, which: np.ndarray) -> dict[str, float]:
    """What must be 0 at a minimum of a softmax network with decay: the largest of each that is found."""
    first, last = stacked[0], stacked[-1]
    sums = [np.abs(np.sum(np.asarray(last[name])[which], axis=-1)).max(initial=0) for name in ("kernel", "bias")]
    dark = np.all(inputs == 0, axis=0)
    unused = np.abs(np.asarray(first["kernel"])[which][:, dark]).max(initial=0)
    return {"output_sums": float(max(sums)), "dark_weights": float(unused), "dark_pixels": int(dark.sum())}


# ------------------------------------------------------------------------------------------------------ statistics


class Richness(NamedTuple):
    """How many kinds a sample shows, and how many there are at least.

    Attributes:
        num: size of the sample.
        seen: kinds in it.
        once: kinds seen once.
        twice: kinds seen twice.
        estimate: Chao1, a lower bound in expectation on the number of kinds.
        stderr: its standard error.
        low: lower end of its 95 % log-normal interval (Chao 1987).
        high: the upper end.
        at_least: where no kind was seen twice, the number of kinds below which that would have happened with less than
            5 %; else the kinds seen.
    """

    num: int
    seen: int
    once: int
    twice: int
    estimate: float
    stderr: float
    low: float
    high: float
    at_least: float


def richness(labels: Any) -> Richness:
    r"""Chao's estimate of the number of kinds from a sample with replacement, whatever their probabilities.

    With $f_1$ kinds seen once and $f_2$ twice among $n$, it is $S + \frac{n-1}{n} f_1^2 / (2 f_2)$ (Chao 1984, Scand.
    J. Stat. 11, 265), or, for $f_2 = 0$, $S + \frac{n-1}{n} f_1 (f_1 - 1) / 2$; standard errors by Chao (1987,
    Biometrics 43, 783), the interval is log-normal in the number of unseen kinds. Where all $n$ are different, equal
    probabilities make that likeliest, and $\prod_i (1 - i / N) \le \exp(-n (n-1) / 2N)$ leaves $N \ge n (n-1) /
    (2 \ln 20)$ at 95 %.

    Args:
        labels: the kind of each member of the sample, integers of 0 and above; negative ones are left out.
    """
    labels = np.asarray(labels)
    counts = np.bincount(labels[labels >= 0])
    counts = counts[counts > 0]
    n, seen, once, twice = int(counts.sum()), len(counts), int(np.sum(counts == 1)), int(np.sum(counts == 2))
    share = (n - 1) / n if n else 0.0
    if twice:
        ratio = once / twice
        unseen = share * once**2 / (2 * twice)
        variance = twice * (share / 2 * ratio**2 + share**2 * ratio**3 + share**2 / 4 * ratio**4)
    else:
        unseen = share * once * (once - 1) / 2
        total = max(seen + unseen, 1)
        variance = unseen + share**2 * (once * (2 * once - 1) ** 2 / 4 - once**4 / (4 * total))
    low, high = _lognormal(unseen, variance)
    bound = max(seen, n * (n - 1) / (2 * np.log(20))) if once == n else seen
    return Richness(n, seen, once, twice, seen + unseen, max(variance, 0.0) ** 0.5, seen + low, seen + high, bound)


def _lognormal(unseen: float, variance: float) -> tuple[float, float]:
    if unseen <= 0 or variance <= 0:
        return unseen, unseen
    factor = float(np.exp(NORMAL * np.sqrt(np.log1p(variance / unseen**2))))
    return unseen / factor, unseen * factor


def neighbour_correlation(values: np.ndarray) -> float:
    """Rank correlation (Spearman 1904) between a cell and the next one along either axis."""
    from scipy.stats import rankdata

    pairs = [(values[1:].ravel(), values[:-1].ravel()), (values[:, 1:].ravel(), values[:, :-1].ravel())]
    x, y = (np.concatenate(side) for side in zip(*pairs))
    finite = np.isfinite(x) & np.isfinite(y)
    return correlation(rankdata(x[finite]), rankdata(y[finite])).value
