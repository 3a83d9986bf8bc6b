r"""Critical points: reach them to the last digit, say what they are, tell them apart, count them all.

At a critical point, $\nabla L = 0$, the *Morse index* is the number of negative eigenvalues of the Hessian: 0 for a
minimum, `n` for a maximum, saddles between. `polish` gets there, `classify` measures the index with the evidence
for it, `distinct` tells minima apart up to a symmetry of the loss, and `census` looks for every critical point of a
function of few variables. Index and rank mean what they say only where rounding does not blur them: use float64.

>>> import jax, jax.numpy as jnp
>>> from landscape import Objective, minima
>>> well = Objective(lambda p, _: (p[0] ** 2 - 9) ** 2 / 36 + p[1] ** 2)
>>> end = minima.polish(well, jnp.array([2.0, 0.5]))
>>> [round(float(x), 4) for x in end.params]
[3.0, 0.0]
>>> verdict = minima.classify(well, end.params, global_loss=0.0)
>>> verdict.kind, verdict.index, [round(float(x), 3) for x in verdict.eigenvalues]
('global', 0, [2.0, 2.0])
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from landscape import _newton, _tree, curvature
from landscape._newton import Minimum, Target
from landscape._symmetry import Distinct, HiddenUnits, Identity, Neurons, Points, Symmetry, distinct, student_family
from landscape.curvature import Flat
from landscape.objective import Objective

__all__ = [
    "Census", "Classification", "Distinct", "HiddenUnits", "Identity", "Kind", "Minimum", "Neurons", "Points",
    "Symmetry", "census", "classify", "distinct", "polish", "student_family",
]  # fmt: skip

DENSE = 1000  # parameters up to which the Hessian is formed and diagonalised

Kind = Literal["global", "local", "saddle", "maximum", "degenerate", "plateau", "unconverged", "diverged"]


def polish(
    objective: Objective,
    params: PyTree,
    *,
    to: Target = "minimum",
    tol: float | None = None,
    max_steps: int = 200,
    radius: float | None = None,
) -> Minimum:
    """Go from `params` to a minimum, or to a critical point of any index, to the precision of the parameters.

    Trust-region Newton: exact in the eigenbasis of the Hessian for up to 1,000 parameters, truncated conjugate
    gradients beyond. Pure: jit it, or vmap it over a stack of starts.

    Args:
        objective: the loss. Its parameters should be float64; in float32 no more than its seven digits are reached.
        params: where to start.
        to: `"minimum"` lowers the loss; `"critical"` lowers the gradient norm, whatever the index.
        tol: gradient norm to stop at. By default that of rounding, `64 eps |H| max(1, |params|)`, and on for as long
            as steps still halve it.
        max_steps: Newton steps at most.
        radius: length of the first step at most; a tenth of `max(1, |params|)` by default.

    Returns:
        Where it ended, and whether that is converged. Nothing is raised for a start that is not finite.

    Raises:
        TypeError: `objective` is no Objective, or parameters are not real floating-point arrays.
        ValueError: `to` is unknown, or `tol`, `max_steps` or `radius` is not positive.
    """
    _check(objective, params)
    if to not in ("minimum", "critical"):
        raise ValueError(f"to must be 'minimum' or 'critical', got {to!r}")
    for name, value in {"tol": tol, "max_steps": max_steps, "radius": radius}.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
    params, size = jax.tree.map(jnp.asarray, params), _tree.size(params)
    settings = _newton.Settings(to, size <= DENSE, max_steps, max_inner=min(size, 500))
    return _newton.run(settings, objective, params, tol, radius)


def _check(objective: Any, params: PyTree) -> None:
    if not isinstance(objective, Objective):
        raise TypeError(f"objective must be a landscape.Objective, got {type(objective).__name__}")
    _tree.check_params(params)


@dataclass(frozen=True, eq=False)
class Classification:
    """What a point is, and the evidence. Unpacks as `index, eigenvalues = classify(...)`.

    Attributes:
        kind: `"global"` (as low as the known global loss), `"local"` minimum, `"saddle"`, `"maximum"`, `"degenerate"`
            (a critical point with an eigenvalue that is zero to its tolerance, none negative), `"plateau"` (not
            critical, yet descending further moves the weights away without lowering the loss), `"unconverged"` (not
            critical for another reason: polish it or train on), `"diverged"` (not finite).
        index: number of eigenvalues below `-eigenvalue_tol`, the Morse index at a critical point; -1 if diverged.
        eigenvalues: of the Hessian, ascending; all of them, or the smallest few of a large problem.
        residuals: `|Hv - value v|` of each: an eigenvalue lies this near.
        loss: the loss.
        grad_norm: norm of the gradient.
        newton_step: estimated distance to the critical point, `|H^+ g|`, or for a large problem `|g|` over
            the least curvature that is told from zero.
        step_tol: the distance up to which the point counts as critical.
        eigenvalue_tol: the magnitude up to which an eigenvalue counts as zero.
        complete: whether all eigenvalues are there.
    """

    kind: Kind
    index: int
    eigenvalues: Float[np.ndarray, " m"]
    residuals: Float[np.ndarray, " m"]
    loss: float
    grad_norm: float
    newton_step: float
    step_tol: float
    eigenvalue_tol: float
    complete: bool

    def __iter__(self) -> Iterator[Any]:
        return iter((self.index, self.eigenvalues))

    @property
    def is_critical(self) -> bool:
        """Whether the gradient is zero as far as can be told."""
        return self.newton_step <= self.step_tol


def classify(
    objective: Objective,
    params: PyTree,
    *,
    global_loss: float | None = None,
    loss_tol: float | None = None,
    stall: float = 0.01,
    num_eigenvalues: int = 6,
    key: Array | None = None,
) -> Classification:
    r"""Say what `params` is a point of: a minimum, a saddle, a plateau.

    *Critical* is a point whose Newton step, measured with curvatures of at least $\epsilon^{1/3} |H|$, is below
    $\epsilon^{1/3} \max(1, |\theta|)$ for the precision $\epsilon$ (6e-6 in float64): its gradient is that of a
    critical point's own neighbourhood. *Zero* is an eigenvalue that is below $\sqrt\epsilon\,|H|$, or changes by as
    much as its size when the parameters are moved by $\sqrt\epsilon$ of their norm, which also finds the
    zeros of a point such as a monkey saddle where the whole Hessian vanishes.

    *Plateau* is a point that is not critical, whose smallest curvature is below a thousandth of the largest, and
    from which 50 steps of trust-region descent lower the loss by less than `stall` of its value, do not converge,
    and make the weights grow by a quarter or more: what looks like a minimum at infinity, as in the XOR net of
    Sprinkhuizen-Kuyper & Boers (1999). Classify before polishing: a polish walks a plateau until nothing can
    be told.

    Args:
        objective: the loss.
        params: the point, in float64 for an index that means something.
        global_loss: the loss of the global minimum, if known.
        loss_tol: a loss up to `global_loss + loss_tol` is global, wherever the gradient stands; by default the
            square root of the precision, relative to `max(1, |global_loss|)`.
        stall: share of the loss that a plateau may lose at most.
        num_eigenvalues: smallest eigenvalues to compute beyond 1,000 parameters.
        key: random key of the direction in which eigenvalues are tried, and of Lanczos.

    Raises:
        TypeError: `objective` is no Objective, or parameters are not real floating-point arrays.
        ValueError: `stall` is not within 0 and 1, or `num_eigenvalues` is below 1.
    """
    _check(objective, params)
    if not 0 < stall < 1 or num_eigenvalues < 1:
        raise ValueError(f"needs 0 < stall < 1 and num_eigenvalues >= 1, got {stall} and {num_eigenvalues}")
    params = jax.tree.map(jnp.asarray, params)
    key = jax.random.key(0) if key is None else key
    if _tree.size(params) <= DENSE:
        evidence = _dense_evidence(objective, params, key)
    else:
        evidence = _sparse_evidence(key, objective, params, min(num_eigenvalues, _tree.size(params)))
    found = _unlabelled({name: np.asarray(value, np.float64) for name, value in evidence.items()}, _tree.size(params))
    reach = -np.inf if global_loss is None else global_loss + _loss_slack(loss_tol, global_loss, params)
    return _with(found, kind=_kind(found, objective, params, reach, stall))


def _with(found: Classification, **changes: Any) -> Classification:
    return Classification(**{**vars(found), **changes})


def _precision(params: PyTree) -> float:
    return float(jnp.finfo(jnp.result_type(*jax.tree.leaves(params), jnp.float32)).eps)


def _loss_slack(loss_tol: float | None, global_loss: float, params: PyTree) -> float:
    return _precision(params) ** 0.5 * max(1.0, abs(global_loss)) if loss_tol is None else loss_tol


@jax.jit
def _dense_evidence(objective: Objective, params: PyTree, key: Array) -> dict[str, Array]:
    with jax.default_matmul_precision("highest"):
        flat = Flat(objective, params)
        x = flat.start
        loss, gradient = flat.value_and_grad(x)
        matrix = flat.hessian(x)
        values, vectors = jnp.linalg.eigh(matrix)
        residuals = jnp.linalg.norm(matrix @ vectors - values * vectors, axis=0)
        moved = jnp.linalg.eigvalsh(flat.hessian(x + _nudge(key, x)))
        size, wobble = jnp.max(jnp.abs(values)), jnp.max(jnp.abs(moved - values))
        along = gradient @ vectors
        step = along / _at_least(jnp.abs(values), _third(x) * size)
        return _tolerances(x, size, wobble) | {
            "loss": loss, "grad_norm": jnp.linalg.norm(gradient), "newton_step": jnp.linalg.norm(step),
            "eigenvalues": values, "residuals": residuals,
        }  # fmt: skip


@partial(jax.jit, static_argnames="num")
def _sparse_evidence(key: Array, objective: Objective, params: PyTree, num: int) -> dict[str, Array]:
    with jax.default_matmul_precision("highest"):
        flat = Flat(objective, params)
        x, keys = flat.start, jax.random.split(key, 3)
        loss, gradient = flat.value_and_grad(x)
        low = curvature.eigenpairs(keys[0], objective, params, num, "SA")
        top = curvature.eigenpairs(keys[1], objective, params, 1, "LM")
        vectors = jax.vmap(lambda tree: Flat(objective, tree).start)(low.vectors)
        moved = x + _nudge(keys[2], x)
        changes = jax.lax.map(lambda v: v @ (flat.product(moved, v) - flat.product(x, v)), vectors)
        size, norm = jnp.abs(top.values[0]), jnp.linalg.norm(gradient)
        return _tolerances(x, size, jnp.max(jnp.abs(changes))) | {
            "loss": loss, "grad_norm": norm, "newton_step": norm / _at_least(_third(x) * size, 0),
            "eigenvalues": low.values, "residuals": low.residuals,
        }  # fmt: skip


def _nudge(key: Array, x: Array) -> Array:
    """A random vector as long as the square root of the precision, relative to the parameters."""
    direction = jax.random.normal(key, x.shape, x.dtype)
    length = float(jnp.finfo(x.dtype).eps) ** 0.5 * jnp.maximum(1, jnp.linalg.norm(x))
    return direction * length / jnp.linalg.norm(direction)


def _third(x: Array) -> float:
    return float(jnp.finfo(x.dtype).eps) ** (1 / 3)


def _at_least(values: Array, floor: Any) -> Array:
    """Curvatures to divide by: above the floor, and above zero."""
    return jnp.maximum(jnp.maximum(values, floor), jnp.finfo(values.dtype).tiny)


def _tolerances(x: Array, size: Array, wobble: Array) -> dict[str, Array]:
    root = float(jnp.finfo(x.dtype).eps) ** 0.5
    return {
        "step_tol": _third(x) * jnp.maximum(1, jnp.linalg.norm(x)),
        "eigenvalue_tol": root * size + wobble,
        "size": size,
    }


def _unlabelled(evidence: dict[str, np.ndarray], size: int) -> Classification:
    """The numbers as a classification whose kind is still open."""
    numbers = {name: float(value) for name, value in evidence.items() if value.ndim == 0 and name != "size"}
    values = evidence["eigenvalues"]
    finite = np.isfinite(numbers["loss"]) and np.isfinite(numbers["grad_norm"])
    index = int(np.sum(values < -numbers["eigenvalue_tol"])) if finite else -1
    complete = len(values) == size
    return Classification("unconverged", index, values, evidence["residuals"], complete=complete, **numbers)


def _kind(found: Classification, objective: Objective, params: PyTree, reach: float, stall: float) -> Kind:
    if found.index < 0:
        return "diverged"
    if found.loss <= reach:
        return "global"
    if not found.is_critical:
        return "plateau" if _is_plateau(found, objective, params, stall) else "unconverged"
    if found.index:
        return "maximum" if found.complete and found.index == len(found.eigenvalues) else "saddle"
    return "degenerate" if np.min(np.abs(found.eigenvalues)) <= found.eigenvalue_tol else "local"


def _is_plateau(found: Classification, objective: Objective, params: PyTree, stall: float) -> bool:
    """Whether further descent makes the weights grow and the loss hardly fall, without arriving anywhere."""
    steepest = np.max(np.abs(found.eigenvalues))
    if found.complete and np.min(np.abs(found.eigenvalues)) > 1e-3 * steepest:
        return False
    end = polish(objective, params, max_steps=50)
    before, after = (float(jnp.linalg.norm(Flat(objective, p).start)) for p in (params, end.params))
    stalled = found.loss - float(end.loss) <= stall * abs(found.loss)
    return stalled and not bool(end.converged) and after >= 1.25 * before


@dataclass(frozen=True, eq=False)
class Census:
    """Critical points of a function in a box, those of lower value first, and why they may be all.

    Attributes:
        points: `(m, d)`.
        values: of the function, `(m,)`.
        indices: Morse indices, `(m,)`: 0 for minima, `d` for maxima.
        eigenvalues: of the Hessians, ascending, `(m, d)`.
        grad_norms: gradient norms, `(m,)`.
        degenerate: points with an eigenvalue that is zero to its tolerance, whose index means nothing, `(m,)`.
        hits: starts that led to each, `(m,)`.
        starts: number of starts in all.
        new_per_round: points found first in each round of search.
        complete: whether the last two rounds, each a finer grid with as many random starts, found nothing new,
            and no point is degenerate. Evidence, not proof.
    """

    points: Float[np.ndarray, "m d"]
    values: Float[np.ndarray, " m"]
    indices: Int[np.ndarray, " m"]
    eigenvalues: Float[np.ndarray, "m d"]
    grad_norms: Float[np.ndarray, " m"]
    degenerate: Bool[np.ndarray, " m"]
    hits: Int[np.ndarray, " m"]
    starts: int
    new_per_round: tuple[int, ...]
    complete: bool

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Number of points of each index, from minima to maxima."""
        return tuple(int(np.sum(self.indices == i)) for i in range(self.points.shape[1] + 1))

    @property
    def euler(self) -> int:
        """Sum of `(-1)^index`, in two dimensions minima - saddles + maxima.

        It is 1 for a function whose gradient points out of the box all around, as that of a coercive function does in
        a box that holds all its critical points (Milnor 1963).
        """
        return int(np.sum((-1) ** self.indices))

    @property
    def found_once(self) -> int:
        """Points to which a single start led: with many of these, others will have been missed."""
        return int(np.sum(self.hits == 1))

    def __str__(self) -> str:
        rounds = " + ".join(map(str, self.new_per_round))
        return (
            f"{len(self.points)} critical points, by index {'-'.join(map(str, self.counts))}, Euler sum {self.euler}; "
            f"{self.starts} starts found {rounds} by rounds, {self.found_once} points were found once, "
            f"{int(self.degenerate.sum())} are degenerate; search {'complete' if self.complete else 'not complete'}"
        )


@dataclass(frozen=True)
class _Plain:
    """A function of the parameters as a loss that takes no data; equal for equal functions, so compiled once."""

    fn: Callable[[Any], Any]

    def __call__(self, params: PyTree, batch: PyTree) -> Any:
        return self.fn(params)


CHUNK = 1024  # starts at a time


def census(
    fn: Callable[[Any], Any] | Objective,
    box: Any,
    *,
    key: Array | None = None,
    num_starts: int = 400,
    tol: float = 1e-6,
    max_rounds: int = 6,
) -> Census:
    """Find all critical points of a smooth function of few variables in a box.

    Newton on the gradient from every cell of a grid and from as many random points, then again from grids with twice
    the starts, until two rounds in turn find nothing new. Runs in the default precision: use float64.

    Args:
        fn: function of a vector `(d,)`, or an Objective over one.
        box: lower and upper bound of each variable, `(d, 2)`.
        key: random key of the random starts.
        num_starts: points of the first grid, at least: it should be finer than the features of the function.
        tol: points nearer than this share of the box's diagonal are one; at least 1,000 times the precision.
        max_rounds: rounds of search at most.

    Raises:
        TypeError: `fn` is not callable.
        ValueError: `box` is no list of ascending finite bounds, or a count or `tol` is out of range.
    """
    if not callable(fn):
        raise TypeError(f"fn must be a function of a vector or a landscape.Objective, got {type(fn).__name__}")
    box = np.asarray(box, np.float64)
    if box.ndim != 2 or box.shape[1] != 2 or not np.all(np.isfinite(box)) or not np.all(box[:, 0] < box[:, 1]):
        raise ValueError(f"box must be (low, high) of each variable, finite and ascending, got {box.tolist()}")
    if num_starts < 1 or max_rounds < 1 or not 0 < tol < 1:
        raise ValueError(f"needs num_starts, max_rounds >= 1 and 0 < tol < 1, got {num_starts}, {max_rounds}, {tol}")
    objective = fn if isinstance(fn, Objective) else Objective(_Plain(fn))
    search = _Census(objective, box, num_starts, tol)
    return search.run(jax.random.key(0) if key is None else key, max_rounds)


class _Census:
    """The points known so far, and the search for more."""

    def __init__(self, objective: Objective, box: np.ndarray, num_starts: int, tol: float) -> None:
        self.objective, self.box, self.dim = objective, box, len(box)
        self.diagonal = float(np.linalg.norm(box[:, 1] - box[:, 0]))
        self.num_starts, self.tol = num_starts, max(tol, 1e3 * float(jnp.finfo(jnp.zeros(()).dtype).eps))
        self.radius = self.diagonal / math.ceil(num_starts ** (1 / self.dim)) / 2
        self.found: dict[str, np.ndarray] = {}
        self.hits = np.zeros(0, int)
        self.starts, self.new = 0, []

    def run(self, key: Array, max_rounds: int) -> Census:
        while len(self.new) < max_rounds and not self._quiet():
            key, here = jax.random.split(key)
            self._round(here, self.num_starts * 2 ** len(self.new))
        order = np.argsort(self.found["loss"], kind="stable")
        found = {name: value[order] for name, value in self.found.items()}
        values, tols = found["eigenvalues"], found["eigenvalue_tol"][:, None]
        degenerate = np.any(np.abs(values) <= tols, axis=1)
        return Census(
            found["x"], found["loss"], np.sum(values < -tols, axis=1), values, found["grad_norm"], degenerate,
            self.hits[order], self.starts, tuple(self.new), self._quiet() and not degenerate.any(),
        )  # fmt: skip

    def _quiet(self) -> bool:
        return len(self.new) >= 3 and self.new[-2:] == [0, 0]

    def _round(self, key: Array, num: int) -> None:
        low, width = self.box[:, 0], self.box[:, 1] - self.box[:, 0]
        side = math.ceil(num ** (1 / self.dim))
        cells = np.stack(np.meshgrid(*[(np.arange(side) + 0.5) / side] * self.dim, indexing="ij"), axis=-1)
        anywhere = np.asarray(jax.random.uniform(key, (side**self.dim, self.dim)), np.float64)
        starts = low + width * np.concatenate([cells.reshape(-1, self.dim), anywhere])
        ends = self._ends(starts)
        inside = np.all(np.abs(ends["x"] - low - width / 2) <= width * (0.5 + self.tol), axis=1)
        kept = ends["converged"].astype(bool) & inside
        self.starts += len(starts)
        self.new.append(self._merge({name: value[kept] for name, value in ends.items()}))

    def _ends(self, starts: np.ndarray) -> dict[str, np.ndarray]:
        """Where Newton leads from each start, in chunks of one shape."""
        padded = np.concatenate([starts, np.repeat(starts[-1:], -len(starts) % CHUNK, axis=0)])
        parts = [
            jax.device_get(_critical(self.objective, jnp.asarray(part), self.radius))
            for part in padded.reshape(-1, CHUNK, self.dim)
        ]
        return {name: np.concatenate([part[name] for part in parts])[: len(starts)] for name in parts[0]}

    def _merge(self, ends: dict[str, np.ndarray]) -> int:
        """Count the ends at known points, add the others as new ones; those of least gradient stand for the rest."""
        before = len(self.hits)
        order = np.argsort(ends["grad_norm"], kind="stable")
        if not self.found:
            self.found = {name: value[:0] for name, value in ends.items()}
        for i in order:
            gaps = np.linalg.norm(self.found["x"] - ends["x"][i], axis=1)
            known = np.flatnonzero(gaps <= self._reach(ends, i))
            if len(known):
                self.hits[known[np.argmin(gaps[known])]] += 1
                continue
            self.found = {name: np.concatenate([value, ends[name][i : i + 1]]) for name, value in self.found.items()}
            self.hits = np.append(self.hits, 1)
        return len(self.hits) - before

    def _reach(self, ends: dict[str, np.ndarray], i: Any) -> float:
        """How far ends may lie apart: a zero eigenvalue leaves the position open to about the third root of rounding."""
        degenerate = np.min(np.abs(ends["eigenvalues"][i])) <= ends["eigenvalue_tol"][i]
        return self.diagonal * (max(self.tol, 1e-3) if degenerate else self.tol)


@jax.jit
def _critical(objective: Objective, starts: Array, radius: Any) -> dict[str, Array]:
    settings = _newton.Settings("critical", True, 100, 0)

    def one(x: Array) -> dict[str, Array]:
        end = _newton.run(settings, objective, x, None, radius)
        evidence = _dense_evidence(objective, end.params, jax.random.key(0))
        return {"x": end.params, "converged": end.converged} | {
            name: evidence[name] for name in ("loss", "grad_norm", "eigenvalues", "eigenvalue_tol")
        }

    return jax.vmap(one)(starts)
