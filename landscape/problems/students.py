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
from jaxtyping import Array, Float

from landscape.objective import Objective, Problem
from landscape.problems.functions import check_count


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
    check_count("k", k)
    check_count("n", num_neurons)
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


def _from_pairs(w: Float[Array, "n d"], teacher: Float[Array, "k d"]) -> Float[Array, ""]:
    """The part of the loss that depends on the student.

    Finite, with finite first and second derivatives, also where neurons are parallel or opposite. At a neuron that
    is 0 the loss has a cone; its derivatives there are reported as 0.
    """
    (norms, units), (teacher_norms, teacher_units) = _polar(w), _polar(teacher)
    cosines = units @ jnp.concatenate([units, teacher_units]).T
    lengths = jnp.outer(norms, jnp.concatenate([norms, teacher_norms]))
    # students meet each other twice in the table, and themselves, for which E relu(w.x)^2 = |w|^2 / 2 is exact
    weights = np.concatenate([(1 - np.eye(len(w))) / 2, -np.ones((len(w), len(teacher)))], axis=1)
    pairs = jnp.sum(jnp.asarray(weights, w.dtype) * lengths * kernel(cosines))
    return jnp.sum(w**2) / 4 + pairs / (2 * np.pi)


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
def _supplement(cosine: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""$\pi - \theta$, the derivative of the kernel: $J_0$ of Cho & Saul 2009.

    Its own slope, $1 / \sin\theta$, enters the Hessian of the loss times the square of the change of the cosine,
    which is of order $\sin^2\theta$. The product vanishes at parallel neurons, so the slope may be 0 there.
    """
    return _arccos(jnp.clip(-cosine, -1.0, 1.0))


@_supplement.defjvp
def _supplement_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    square = (1 - primals[0]) * (1 + primals[0])
    apart = square > 0
    return _supplement(primals[0]), jnp.where(apart, jax.lax.rsqrt(jnp.where(apart, square, 1.0)), 0.0) * tangents[0]


# arcsin(s) / s = sum of these times s^(2m); the 24 terms are exact to the last bit of a double for |s| <= 1/2
_ARCSINE_SERIES = tuple(math.comb(2 * m, m) / (4**m * (2 * m + 1)) for m in range(24))


def _arccos(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Inverse cosine on [-1, 1], to two units in the last place.

    Training a student does little else. XLA's own calls `atan2` on one number at a time on a CPU; this is additions
    and multiplications on whole registers. Beyond 1/2 it uses arccos x = 2 arcsin sqrt((1 - x) / 2).
    """
    far = jnp.abs(x) > 0.5
    square = jnp.where(far, (1 - jnp.abs(x)) / 2, x**2)
    series = jnp.full_like(x, _ARCSINE_SERIES[-1])
    for coefficient in _ARCSINE_SERIES[-2::-1]:
        series = series * square + coefficient
    arcsine = jnp.where(far, jnp.sqrt(square), x) * series
    return jnp.where(far, jnp.where(x < 0, math.pi - 2 * arcsine, 2 * arcsine), math.pi / 2 - arcsine)
