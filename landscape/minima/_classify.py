"""Polishing a point to the critical point beside it, and saying what kind of point it is."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from landscape import _tree
from landscape.checks import check_share
from landscape.curvature import Flat
from landscape.minima import _evidence, _newton
from landscape.minima._newton import Minimum, Target
from landscape.objective import Objective, check_means, check_objective, set_aside

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
    gradients beyond. Pure: jit it, or vmap it over a stack of starts. Near its end, where a step changes the loss by
    less than its rounding (at a loss of 0 that is the difference of large numbers, say), the gradient is the judge.

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
        TypeError: `objective` is no Objective, parameters are not real floating-point arrays, or an option is no
            number.
        ValueError: `to` is unknown, or `tol`, `max_steps` or `radius` is not positive and finite.
    """
    given = objective
    objective, params = set_aside(objective, params)
    _check(objective, params)
    check_options(to=to, tol=tol, max_steps=max_steps, radius=radius)
    params, size = jax.tree.map(jnp.asarray, params), _tree.size(params)
    settings = _newton.Settings(to, size <= DENSE, max_steps, max_inner=min(size, 500))
    found = _newton.run(settings, objective, params, tol, radius)
    return found if objective is given else dataclasses.replace(found, params=objective.whole(found.params))


def check_options(*, to: Any = "minimum", tol: Any = None, max_steps: Any = 200, radius: Any = None) -> None:
    """Raise `TypeError` or `ValueError` for options that `polish` cannot use."""
    if not isinstance(to, str) or to not in ("minimum", "critical"):
        raise ValueError(f"to must be 'minimum' or 'critical', got {to!r}")
    _tree.check_count("max_steps", max_steps, 1)
    for name, value in {"tol": tol, "radius": radius}.items():
        if value is not None:
            _tree.check_positive(name, value)


def _check(objective: Any, params: PyTree) -> None:
    check_objective(objective)
    _tree.check_params(params)
    check_means(objective, lambda: params)


@dataclass(frozen=True, eq=False)
class Classification:
    """What a point is, and the evidence. Unpacks as `index, eigenvalues = classify(...)`.

    Attributes:
        kind: `"global"` (as low as the known global loss), `"local"` minimum, `"saddle"`, `"maximum"`, `"degenerate"`
            (a critical point with an eigenvalue that is zero to its tolerance, none negative), `"plateau"` (not
            critical, yet descending further moves the weights away without lowering the loss), `"unconverged"` (not
            critical for another reason: polish it or train on; or, of a large problem, the first of `residuals` is
            above `eigenvalue_tol`, so that a negative eigenvalue may have been missed), `"diverged"` (not finite).
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
            square root of the precision, relative to `max(1, |global_loss|)`. For losses in small units the 1 is
            `|H| max(1, |params|^2)` where that is less, and for large ones it is at least the rounding of
            `|H| |params|^2`.
        stall: share of the loss that a plateau may lose at most.
        num_eigenvalues: smallest eigenvalues to compute beyond 1,000 parameters.
        key: random key of the direction in which eigenvalues are tried, and of Lanczos.

    Raises:
        TypeError: `objective` is no Objective, parameters are not real floating-point arrays, or an option is no number
            or no key.
        ValueError: `stall` is not within 0 and 1, `num_eigenvalues` is below 1, `global_loss` is not finite, or
            `loss_tol` is negative or not finite.
    """
    objective, params = set_aside(objective, params)
    _check(objective, params)
    check_share("stall", stall)
    _tree.check_count("num_eigenvalues", num_eigenvalues, 1)
    _check_losses(global_loss, loss_tol)
    params = jax.tree.map(jnp.asarray, params)
    key = jax.random.key(0) if key is None else key
    _tree.check_key(key)
    if _tree.size(params) <= DENSE:
        evidence = _evidence.dense(objective, params, key)
    else:
        evidence = _evidence.sparse(key, objective, params, min(num_eigenvalues, _tree.size(params)))
    found = _unlabelled({name: np.asarray(value, np.float64) for name, value in evidence.items()}, _tree.size(params))
    reach = (
        -np.inf
        if global_loss is None
        else global_loss + _loss_slack(loss_tol, global_loss, params, float(evidence["size"]))
    )
    return _with(found, kind=_kind(found, objective, params, reach, stall))


def _check_losses(global_loss: Any, loss_tol: Any) -> None:
    for name, value, least in (("global_loss", global_loss, -np.inf), ("loss_tol", loss_tol, 0)):
        if value is not None:
            _tree.check_number(name, value)
            if not (np.isfinite(value) and value >= least):
                raise ValueError(f"{name} must be finite{' and not negative' if least == 0 else ''}, got {value!r}")


def _with(found: Classification, **changes: Any) -> Classification:
    return Classification(**{**vars(found), **changes})


def _precision(params: PyTree) -> float:
    return float(jnp.finfo(_tree.wide_dtype(*jax.tree.leaves(params))).eps)


def _loss_slack(loss_tol: float | None, global_loss: float, params: PyTree, steepest: float) -> float:
    """How far above the global loss still counts as it. `steepest` is the largest curvature, which tells the unit."""
    if loss_tol is not None:
        return loss_tol
    precision, length = _precision(params), float(_tree.norm(params))
    unit = min(1.0, steepest * max(1.0, length) ** 2)
    return max(precision**0.5 * max(unit, abs(global_loss)), precision * steepest * length**2)


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
    # Lanczos comes down to the smallest eigenvalue from above. A pair that met its tolerance has a residual of at most
    # sqrt(eps) times the largest product met, and eigenvalue_tol is that of the largest eigenvalue found.
    if found.residuals[0] > 2 * found.eigenvalue_tol:
        return "unconverged"
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
