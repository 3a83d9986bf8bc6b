r"""A ReLU student that imitates a ReLU teacher on Gaussian inputs: `student_teacher`.

Student $\sum_i [w_i \cdot x]_+$, teacher $\sum_j [v_j \cdot x]_+$, inputs $x \sim N(0, I_d)$. The population loss

$L(W) = \frac12 E_x (\sum_i [w_i \cdot x]_+ - \sum_j [v_j \cdot x]_+)^2$

needs no samples: with the arc-cosine kernel of degree 1 (Cho & Saul 2009, eq. 3 and 6; Safran & Shamir 2018)
$E [w \cdot x]_+ [v \cdot x]_+ = \frac{1}{2\pi} |w| |v| (\sin\theta + (\pi - \theta) \cos\theta)$ it is a sum over
pairs of neurons. Bad local minima appear at k = 6 orthonormal teacher neurons and stop more than half of the runs
from k = 12 on (Safran & Shamir 2018, arXiv 1712.08968, table 1). At the global minimum of an orthonormal teacher the
smallest eigenvalue of the Hessian is 1/4 - 1/(2 pi).

>>> import jax, jax.numpy as jnp
>>> from landscape.problems import student_teacher
>>> problem = student_teacher(4)
>>> at_the_teacher = {"w": jnp.eye(4)}
>>> abs(float(problem.objectives["train"](at_the_teacher))) < 1e-6
True
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from landscape import _tree
from landscape.objective import Objective, Problem


def student_teacher(k: int, n: int | None = None, teacher: Any = None, scale: float = 1.0) -> Problem:
    """A student of `n` ReLU neurons for a teacher of `k`, with the exact population loss.

    Args:
        k: teacher neurons.
        n: student neurons; as many as the teacher by default.
        teacher: the teacher's weights `(k, d)`; by default the rows of the identity, `d = k`. The loss only knows
            angles and norms, so any orthonormal rows in `d = k` give the same landscape, turned.
        scale: initial entries are N(0, scale^2 / d). Safran & Shamir 2018 take 1.

    Returns:
        Problem with parameters `{"w": (n, d)}`. The data are one example, the whole task: `teacher`, `(1, k, d)`,
        and `half_square`, `(1,)`, half the teacher's mean squared output, in double precision; the loss follows the
        precision of the parameters. `predict(params, x)` is the network, `(..., d) -> (...)`.

    Raises:
        TypeError: `k` or `n` is not an integer.
        ValueError: they or `scale` are not positive; a teacher of another shape, or with a row that is 0 or not
            finite.
    """
    num_neurons = k if n is None else n
    _tree.check_count("k", k, 1)
    _tree.check_count("n", num_neurons, 1)
    weights = np.eye(k) if teacher is None else _checked_teacher(teacher, k)
    dim = weights.shape[1]
    if not (np.ndim(scale) == 0 and 0 < scale < np.inf):
        raise ValueError(f"scale must be a positive number, got {scale!r}")

    def init(key: Array) -> dict[str, Array]:
        return {"w": jax.random.normal(key, (num_neurons, dim)) * (scale / np.sqrt(dim))}

    objective = Objective(_loss, {"teacher": weights[None], "half_square": _half_mean_square(weights)[None]})
    return Problem(init, {"train": objective}, predict=_predict, name=f"student-teacher k={k}, n={num_neurons}")


def _checked_teacher(teacher: Any, k: int) -> np.ndarray:
    weights = np.asarray(teacher, float)
    if weights.ndim != 2 or weights.shape[0] != k or weights.shape[1] < 1:
        raise ValueError(f"teacher must have shape (k, d) with k={k} rows, got {weights.shape}")
    if not np.isfinite(weights).all() or not weights.any(axis=1).all():
        raise ValueError("every row of teacher, the weights of a neuron, must be finite and not 0")
    return weights


def _loss(params: Mapping[str, Array], batch: Mapping[str, Array]) -> Array:
    """Loss on the one example of the batch, a teacher (indexed, not mapped over, which would be slower by half)."""
    w = params["w"]
    teacher, half_square = (jnp.asarray(batch[name], w.dtype)[0] for name in ("teacher", "half_square"))
    return (_from_pairs(w, teacher) + half_square)[None]


def _predict(params: Mapping[str, Array], x: Float[Array, "*n d"]) -> Float[Array, "*n"]:
    return jnp.sum(jax.nn.relu(x @ params["w"].T), axis=-1)


def _half_mean_square(weights: np.ndarray) -> np.ndarray:
    """Half the mean squared output of a network, in NumPy: what a student that is 0 loses."""
    norms = np.linalg.norm(weights, axis=1)
    cosines = np.clip(weights @ weights.T / np.outer(norms, norms), -1.0, 1.0)
    angles = np.arccos(cosines)
    return np.sum(np.outer(norms, norms) * (np.sin(angles) + (np.pi - angles) * cosines)) / (4 * np.pi)


@jax.custom_jvp
def _from_pairs(w: Float[Array, "n d"], teacher: Float[Array, "k d"]) -> Float[Array, ""]:
    """The part of the loss that depends on the student.

    Finite, with finite first and second derivatives, also where neurons are parallel or opposite. At a neuron that
    is 0 the loss has a cone; its derivatives there are reported as 0. The gradient is written out (`_slope`), which
    shares the table of angles between value and derivative.
    """
    (norms, units), (teacher_norms, teacher_units) = _polar(w), _polar(teacher)
    cosines = units @ jnp.concatenate([units, teacher_units]).T
    lengths = jnp.outer(norms, jnp.concatenate([norms, teacher_norms]))
    # students meet each other twice in the table, and themselves, for which E relu(w.x)^2 = |w|^2 / 2 is exact
    weights = np.concatenate([(1 - np.eye(len(w))) / 2, -np.ones((len(w), len(teacher)))], axis=1)
    pairs = jnp.sum(jnp.asarray(weights, w.dtype) * lengths * kernel(cosines))
    return jnp.sum(w**2) / 4 + pairs / (2 * np.pi)


def _from_pairs_jvp(primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Array]:
    """The tangent; a teacher that is constant costs nothing."""
    (w, teacher), (dw, dteacher) = primals, tangents
    slope = jnp.zeros((), w.dtype)
    if not isinstance(dw, SymbolicZero):
        signs = np.concatenate([1 - np.eye(len(w)), -np.ones((len(w), len(teacher)))], axis=1)
        slope += jnp.vdot(w / 2 + _pull(w, jnp.concatenate([w, teacher]), signs), dw)
    if not isinstance(dteacher, SymbolicZero):
        slope += jnp.vdot(_pull(teacher, w, -1.0), dteacher)
    return _from_pairs(w, teacher), slope


_from_pairs.defjvp(_from_pairs_jvp, symbolic_zeros=True)


def _pull(w: Float[Array, "n d"], others: Float[Array, "m d"], signs: Any) -> Float[Array, "n d"]:
    r"""Derivative after `w` of the sum of signed $E [w_i \cdot x]_+ [v_j \cdot x]_+$ over all pairs.

    For one pair $\frac{1}{2\pi} (|v| \sin\theta\, w / |w| + (\pi - \theta) v)$ (Safran & Shamir 2018, section 3).
    """
    (_, units), (norms, other_units) = _polar(w), _polar(others)
    cosines = units @ other_units.T
    reach = jnp.asarray(signs, w.dtype) * norms[None] / (2 * np.pi)
    return jnp.sum(reach * _sine(cosines), axis=1)[:, None] * units + (reach * _supplement(cosines)) @ other_units


def _polar(w: Float[Array, "n d"]) -> tuple[Float[Array, " n"], Float[Array, "n d"]]:
    """Norms and directions of the rows; both 0, with derivative 0, for a row that is 0."""
    square = jnp.sum(w**2, axis=1)
    alive = square > 0
    norms = jnp.sqrt(jnp.where(alive, square, 1.0))
    return jnp.where(alive, norms, 0.0), w / norms[:, None]


@jax.custom_jvp
def kernel(cosine: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""$\sin\theta + (\pi - \theta) \cos\theta$ as a function of the cosine: $J_1$ of Cho & Saul 2009, eq. 6.

    Its derivative is $\pi - \theta$, where differentiating term by term meets 0/0 at $\theta = 0$ and $\pi$.
    """
    bounded = jnp.clip(cosine, -1.0, 1.0)
    return jnp.sqrt((1 - bounded) * (1 + bounded)) + bounded * _supplement(cosine)


@kernel.defjvp
def _kernel_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return kernel(primals[0]), _supplement(primals[0]) * tangents[0]


@jax.custom_jvp
def _sine(cosine: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""$\sin\theta$; its slope, $-\cot\theta$, is taken as 0 at parallel neurons, for the same reason as below."""
    bounded = jnp.clip(cosine, -1.0, 1.0)
    return jnp.sqrt((1 - bounded) * (1 + bounded))


@_sine.defjvp
def _sine_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return _sine(primals[0]), -primals[0] * _cosecant(primals[0]) * tangents[0]


@jax.custom_jvp
def _supplement(cosine: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""$\pi - \theta$, the derivative of the kernel: $J_0$ of Cho & Saul 2009.

    Its own slope, $1 / \sin\theta$, enters the Hessian of the loss times the square of the change of the cosine,
    which is of order $\sin^2\theta$. The product vanishes at parallel neurons, so the slope may be 0 there.
    """
    return _arccos(jnp.clip(-cosine, -1.0, 1.0))


@_supplement.defjvp
def _supplement_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return _supplement(primals[0]), _cosecant(primals[0]) * tangents[0]


def _cosecant(cosine: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""$1 / \sin\theta$, or 0 where $\theta$ is 0 or $\pi$."""
    square = (1 - cosine) * (1 + cosine)
    apart = square > 0
    return jnp.where(apart, jax.lax.rsqrt(jnp.where(apart, square, 1.0)), 0.0)


# Rational approximation of (arcsin(s) / s - 1) / s^2 in s^2 on [0, 1/4], from fdlibm's e_asin.c (Sun Microsystems 1993)
_ABOVE = (
    1.66666666666666657415e-01, -3.25565818622400915405e-01, 2.01212532134862925881e-01,
    -4.00555345006794114027e-02, 7.91534994289814532176e-04, 3.47933107596021167570e-05,
)  # fmt: skip
_BELOW = (
    1.0, -2.40339491173441421878, 2.02094576023350569471, -6.88283971605453293030e-01, 7.70381505559019352791e-02,
)  # fmt: skip


def _arccos(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Inverse cosine on [-1, 1], to two units in the last place.

    Training a student does little else. XLA's own calls `atan2` on one number at a time on a CPU; this is additions
    and multiplications on whole registers. Beyond 1/2 it uses arccos x = 2 arcsin sqrt((1 - x) / 2).
    """
    far = jnp.abs(x) > 0.5
    square = jnp.where(far, (1 - jnp.abs(x)) / 2, x**2)
    ratio = square * _polynomial(_ABOVE, square) / _polynomial(_BELOW, square)
    sine = jnp.where(far, jnp.sqrt(square), x)
    arcsine = sine + sine * ratio
    return jnp.where(far, jnp.where(x < 0, math.pi - 2 * arcsine, 2 * arcsine), math.pi / 2 - arcsine)


def _polynomial(coefficients: tuple[float, ...], x: Float[Array, "..."]) -> Float[Array, "..."]:
    """By Horner's rule, the constant first."""
    value = jnp.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * x + coefficient
    return value
