r"""Curvature of a loss without its Hessian matrix: products, extreme eigenvalues, sharpness.

The Hessian of a mean is the mean of the Hessians, $H = \frac1n \sum_i \nabla^2 \ell(\theta; z_i)$, so a product
$Hv = \frac{d}{d\epsilon} \nabla L(\theta + \epsilon v)|_0$ is a forward derivative of the gradient, batch by batch
(Pearlmutter 1994). Eigenpairs come from Lanczos with full reorthogonalisation (matfree), restarted with the best
Ritz vectors (Wu & Simon 2000, "Thick-restart Lanczos method"). A pair is worth what its residual says: for a
symmetric $H$ and $|v| = 1$ some eigenvalue lies within $|Hv - \lambda v|$ of $\lambda$ (Parlett 1998, theorem 4.5.1).

>>> import jax, jax.numpy as jnp
>>> from landscape import Objective, curvature
>>> bowl = Objective(lambda p, _: 0.5 * jnp.sum(jnp.array([2.0, 3.0, 7.0]) * p**2))
>>> curvature.hvp(bowl, jnp.ones(3), jnp.array([0.0, 2.0, 0.0]))
Array([0., 6., 0.], dtype=float32)
>>> pairs = curvature.eigenpairs(jax.random.key(1), bowl, jnp.ones(3), k=2)
>>> [round(float(x), 4) for x in pairs.values]
[7.0, 3.0]
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree
from matfree import decomp

from landscape import _tree
from landscape.objective import Objective

MAX_DENSE = 4096  # parameters; the matrix then takes 128 MiB in float64
COLUMNS = 128  # Hessian-vector products at a time in a dense Hessian
MIN_STEPS = 30  # products in a round of Lanczos: shorter loops XLA unrolls on a CPU, and takes seconds to compile

Which = Literal["LA", "SA", "LM"]
_SCORES: dict[str, Callable[[Array], Array]] = {"LA": lambda x: x, "SA": lambda x: -x, "LM": jnp.abs}


def hvp(objective: Objective, params: PyTree, vector: PyTree) -> PyTree:
    """Hessian-vector product, forward over reverse, with the memory of one batch.

    Args:
        objective: the loss whose Hessian it is.
        params: where.
        vector: pytree like `params`.

    Returns:
        A pytree like `params`, in at least float32.

    Raises:
        TypeError: `objective` is no Objective, or parameters are not real floating-point arrays.
        ValueError: `vector` does not look like `params`.
    """
    _check(objective, params)
    _tree.check_like(vector, params, "vector", "params")
    return _product(objective, jax.tree.map(jnp.asarray, params), vector)


def _check(objective: Any, params: PyTree) -> None:
    if not isinstance(objective, Objective):
        raise TypeError(
            f"objective must be a landscape.Objective, got {type(objective).__name__}; "
            "wrap a plain function as Objective(lambda params, _: fn(params))"
        )
    _tree.check_params(params)


def _product(objective: Objective, params: PyTree, vector: PyTree) -> PyTree:
    vector = jax.tree.map(lambda v, p: jnp.asarray(v, p.dtype), vector, params)

    def of_batch(batch: PyTree) -> PyTree:
        part = dataclasses.replace(objective, data=batch, batch_size=None)
        return jax.jvp(jax.grad(lambda p: part(p)), (params,), (vector,))[1]

    return objective.mean(of_batch)


@dataclass(frozen=True, eq=False)
class Flat:
    """A loss as a function of one vector of at least float32, the ravelled parameters."""

    objective: Objective
    params: PyTree

    @property
    def start(self) -> Float[Array, " n"]:
        """The parameters as a vector."""
        return ravel_pytree(jax.tree.map(_tree.at_least_single, self.params))[0]

    def tree(self, x: Float[Array, " n"]) -> PyTree:
        """A vector as parameters, in their dtypes."""
        wide = jax.tree.map(_tree.at_least_single, self.params)
        return jax.tree.map(lambda v, p: v.astype(jnp.result_type(p)), ravel_pytree(wide)[1](x), self.params)

    def value_and_grad(self, x: Float[Array, " n"]) -> tuple[Float[Array, ""], Float[Array, " n"]]:
        """Loss and gradient."""
        loss, gradient = self.objective.value_and_grad(self.tree(x))
        return loss, ravel_pytree(gradient)[0]

    def product(self, x: Float[Array, " n"], v: Float[Array, " n"]) -> Float[Array, " n"]:
        """Hessian at `x` times `v`."""
        return ravel_pytree(_product(self.objective, self.tree(x), self.tree(v)))[0]

    def hessian(self, x: Float[Array, " n"]) -> Float[Array, "n n"]:
        """The dense Hessian at `x`, symmetric to the bit."""
        units = jnp.eye(len(x), dtype=x.dtype)
        column = partial(self.product, x)
        many = jax.vmap(column)(units) if len(x) <= COLUMNS else jax.lax.map(column, units, batch_size=COLUMNS)
        return (many + many.T) / 2


def hessian(objective: Objective, params: PyTree) -> Float[Array, "n n"]:
    """The whole Hessian over the ravelled parameters (in the order of `jax.flatten_util.ravel_pytree`).

    Raises:
        TypeError: `objective` is no Objective, or parameters are not real floating-point arrays.
        ValueError: more than 4,096 parameters.
    """
    _check(objective, params)
    size = _tree.size(params)
    if size > MAX_DENSE:
        raise ValueError(
            f"a dense Hessian of {size} parameters has {size**2:.2g} entries; up to {MAX_DENSE} parameters are taken: "
            "use eigenpairs (extreme eigenvalues) or hvp (products) instead"
        )
    return _hessian(objective, jax.tree.map(jnp.asarray, params))


@jax.jit
def _hessian(objective: Objective, params: PyTree) -> Array:
    with jax.default_matmul_precision("highest"):
        flat = Flat(objective, params)
        return flat.hessian(flat.start)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Eigenpairs:
    """Some eigenpairs of a Hessian, the most wanted first. Under `vmap` every leaf gains a leading axis.

    Attributes:
        values: eigenvalues, `(k,)`; NaN where none was found, as where the Hessian is not finite.
        vectors: eigenvectors of unit length, a stack of `k` parameter trees.
        residuals: `|Hv - value v|` from a fresh product, `(k,)`: at least one eigenvalue lies this near.
        converged: whether all residuals meet the tolerance, and a second Lanczos run from an independent start,
            orthogonal to the pairs, met no further eigenvalue that belongs among them.
        num_products: Hessian-vector products spent.
    """

    values: Float[Array, "*runs k"]
    vectors: PyTree
    residuals: Float[Array, "*runs k"]
    converged: Bool[Array, "*runs"]
    num_products: Int[Array, "*runs"]


def eigenpairs(
    key: Array,
    objective: Objective,
    params: PyTree,
    k: int,
    which: Which = "LA",
    *,
    tol: float | None = None,
    max_products: int = 1000,
) -> Eigenpairs:
    """The `k` most extreme eigenpairs of the Hessian.

    Copies of a repeated eigenvalue count as many; one Krylov space holds only one of them, so a run from a fresh
    start, orthogonal to the pairs found, must come back empty before the search ends. Memory: about
    `6 k + 50` vectors of the size of the parameters.

    Args:
        key: random key of the start vectors.
        objective: the loss whose Hessian it is.
        params: where.
        k: number of pairs.
        which: `"LA"` largest, `"SA"` smallest algebraic, `"LM"` largest magnitude.
        tol: bound asked of the residuals, relative to the largest eigenvalue magnitude met; by default the square
            root of the precision (1.5e-8 in float64, 3.5e-4 in float32). The error of a separated eigenvalue is of
            the order of its square.
        max_products: Hessian-vector products at most, not counting the `k` of the residuals.

    Returns:
        The pairs, sorted by what was asked for. `converged` says whether the tolerance was met.

    Raises:
        TypeError: `objective` is no Objective, or parameters are not real floating-point arrays.
        ValueError: `k` is not within 1 and the number of parameters, `which` is unknown, `tol` is not positive, or
            `max_products` is below `k`.
    """
    _tree.check_key(key)
    _check(objective, params)
    _check_request(_tree.size(params), k, which, tol, max_products)
    params = jax.tree.map(jnp.asarray, params)
    steps = min(max(2 * k + 10, MIN_STEPS), _tree.size(params), max_products)
    return _eigenpairs(key, objective, params, tol, max_products, k=k, which=which, steps=steps)


def _check_request(size: int, k: int, which: str, tol: float | None, max_products: int) -> None:
    if which not in _SCORES:
        raise ValueError(f"which must be one of {list(_SCORES)}, got {which!r}")
    if not 1 <= k <= size:
        raise ValueError(f"k must be from 1 to the number of parameters, {size}, got {k}")
    if tol is not None and not tol > 0:
        raise ValueError(f"tol must be positive, relative to the largest eigenvalue magnitude, got {tol}")
    if max_products < k:
        raise ValueError(f"max_products must be at least k={k}, one product for each pair, got {max_products}")


class Sharpness(NamedTuple):
    """The largest eigenvalue of a Hessian, and how near to it an eigenvalue is known to lie."""

    value: Float[Array, "*runs"]
    residual: Float[Array, "*runs"]


def sharpness(key: Array, objective: Objective, params: PyTree, **options: Any) -> Sharpness:
    """The largest eigenvalue of the Hessian, with its residual; gradient descent is stable below `2 / step`.

    Args:
        key: random key of the start vector.
        objective: the loss whose Hessian it is.
        params: where.
        options: `tol` and `max_products` of `eigenpairs`.

    Raises:
        TypeError: as in `eigenpairs`.
        ValueError: as in `eigenpairs`.
    """
    top = eigenpairs(key, objective, params, 1, "LA", **options)
    return Sharpness(top.values[0], top.residuals[0])


@partial(jax.jit, static_argnames=("k", "which", "steps"))
def _eigenpairs(
    key: Array, objective: Objective, params: PyTree, tol: Any, max_products: Any, *, k: int, which: Which, steps: int
) -> Eigenpairs:
    with jax.default_matmul_precision("highest"):
        flat = Flat(objective, params)
        x = flat.start
        tol = float(jnp.finfo(x.dtype).eps) ** 0.5 if tol is None else tol
        search = _Search(partial(flat.product, x), x, k, which, tol, steps)
        state = search.run(key, max_products)
        values, vectors, residuals = search.pairs(state)
    trees = jax.vmap(flat.tree)(vectors)
    return Eigenpairs(values, trees, residuals, state.verified, state.products + k)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class _Ritz:
    """Orthonormal rows `basis`, their `images` under the operator, what they are worth, and where the search is."""

    basis: Array
    images: Array
    values: Array
    residuals: Array
    valid: Array
    scale: Array
    centre: Array
    settled: Array
    verified: Array
    products: Array
    key: Array


@dataclass(frozen=True, eq=False)
class _Search:
    """Thick-restart Lanczos: keep the best Ritz vectors, go on from a residual in their orthogonal complement.

    That is the Krylov space of an unrestarted run as long as all kept vectors come from one (Wu & Simon 2000).
    """

    product: Callable[[Array], Array]
    like: Array
    k: int
    which: Which
    tol: Any
    steps: int

    @property
    def eps(self) -> float:
        return float(jnp.finfo(self.like.dtype).eps)

    def run(self, key: Array, max_products: Any) -> _Ritz:
        """Rounds of `steps` products until verified or spent."""
        keep, n = min(self.k + max(self.k // 2, 5), len(self.like)), len(self.like)
        rows, numbers = jnp.zeros((keep, n), self.like.dtype), jnp.zeros(keep, self.like.dtype)
        no, zero = jnp.bool_(False), jnp.zeros_like(numbers[0])
        start = _Ritz(rows, rows, numbers, numbers, numbers > 0, zero, zero, no, no, jnp.int32(0), key)

        def going(state: _Ritz) -> Array:
            return ~state.verified & (state.products + self.steps <= max_products)

        return jax.lax.while_loop(going, self._round, start)

    def _round(self, state: _Ritz) -> _Ritz:
        key, here = jax.random.split(state.key)
        basis, images, alive, size, centre = self._lanczos(state, self._start(here, state))
        basis, images = jnp.concatenate([state.basis, basis]), jnp.concatenate([state.images, images])
        scale = jnp.maximum(state.scale, size)
        new = self._rayleigh_ritz(basis, images, jnp.concatenate([state.valid, alive]), len(state.values))
        basis, images, values, valid = new
        residuals = jnp.linalg.norm(images - values[:, None] * basis, axis=1)
        met = valid[: self.k] & (residuals[: self.k] <= self.tol * scale)
        still = jnp.abs(values - state.values)[: self.k] <= self.tol * scale
        settled = jnp.all(met)
        verified = state.settled & settled & jnp.all(still)
        products = state.products + self.steps
        return _Ritz(basis, images, values, residuals, valid, scale, centre, settled, verified, products, key)

    def _start(self, key: Array, state: _Ritz) -> Array:
        """The residual of the wanted pair that has the largest; a random vector where all are small."""
        sizes = jnp.where(state.valid, state.residuals, 0)[: self.k]
        worst = jnp.argmax(sizes)
        residual = state.images[worst] - state.values[worst] * state.basis[worst]
        anew = sizes[worst] <= self.tol * state.scale
        start = jnp.where(anew, jax.random.normal(key, self.like.shape, self.like.dtype), residual)
        start = start / jnp.linalg.norm(start)
        for _ in range(2):
            start = _outside(state.basis, start)
        return start

    def _lanczos(self, state: _Ritz, start: Array) -> tuple[Array, Array, Array, Array, Array]:
        """Krylov vectors of the operator in the complement of the basis, their images, and which of them count.

        A small off-diagonal ends the Krylov space: what comes after it is noise, and NaN after an exact zero. So does
        a trace of the basis that is more than rounding.
        """
        length = jnp.linalg.norm(start)
        full = length <= self.eps**0.5  # nothing is left outside the basis
        start = jnp.where(full, jnp.ones_like(start), start)
        run = decomp.tridiag_sym(self.steps, materialize=False, reortho="full", custom_vjp=False)
        rows, (diagonal, beside), rest, _ = run(partial(self._deflated, state), start)
        size = jnp.maximum(_largest(diagonal), _largest(beside))
        linked = beside > self.eps**0.5 * jnp.maximum(size, state.scale)
        trace = jnp.linalg.norm(jnp.matmul(rows, state.basis.T), axis=1)
        sound = jnp.isfinite(diagonal) & (trace <= self.eps**0.5) & ~full
        alive = jnp.cumprod(sound & jnp.concatenate([sound[:1], linked])) > 0
        rows, images = self._cleaned(state, _finite(rows), _finite(diagonal), _finite(beside), _finite(rest))
        centre = _finite(
            jnp.sort(jnp.where(alive, diagonal, jnp.inf))[jnp.sum(alive) // 2]
        )  # median: most of the spectrum
        return _only(alive, rows), _only(alive, images), alive, jnp.where(full, 0, size), centre

    def _deflated(self, state: _Ritz, vector: Array) -> Array:
        """`P H P + centre (1 - P)` for the projection `P` off the basis.

        Rounding leaves a trace of the basis in each Krylov vector. The recurrence multiplies it by the distance of
        its eigenvalue here from a diagonal entry over an off-diagonal one, step after step: a zero instead of the
        centre would let it grow a billionfold in one round where the spectrum lies far from zero.
        """
        within = jnp.matmul(jnp.matmul(state.basis, vector), state.basis)
        return _outside(state.basis, self.product(vector - within)) + state.centre * within

    def _cleaned(self, state: _Ritz, rows: Array, diagonal: Array, beside: Array, rest: Array) -> tuple[Array, Array]:
        """Krylov vectors without their trace of the basis, and their products with the operator.

        The products follow from the three-term recurrence and those of the basis: none is computed again.
        """
        images = diagonal[:, None] * rows
        images = images.at[:-1].add(beside[:, None] * rows[1:]).at[1:].add(beside[:, None] * rows[:-1])
        images = images.at[-1].add(rest)
        within = jnp.matmul(rows, state.basis.T)
        rows = rows - within @ state.basis
        return rows, images + (rows @ state.images.T - state.centre * within) @ state.basis

    def _rayleigh_ritz(self, basis: Array, images: Array, valid: Array, keep: int) -> tuple[Array, ...]:
        """The `keep` most wanted Ritz pairs of a space; rows that do not count are moved out of the spectrum."""
        small = jnp.matmul(basis, images.T)
        small = (small + small.T) / 2
        beyond = 1 + 4 * jnp.max(jnp.sum(jnp.abs(small), axis=1))
        small = jnp.where(jnp.diag(~valid), beyond, small)
        values, turn = jnp.linalg.eigh(small)
        real = jnp.sum(jnp.where(valid[:, None], turn**2, 0), axis=0) > 0.5
        order = jnp.argsort(jnp.where(real, -_SCORES[self.which](values), jnp.inf))[:keep]
        turn, real = turn[:, order].T, real[order]
        return _only(real, turn @ basis), _only(real, turn @ images), jnp.where(real, values[order], 0), real

    def pairs(self, state: _Ritz) -> tuple[Array, Array, Array]:
        """Values, vectors and residuals of the wanted pairs from fresh products."""
        vectors = state.basis[: self.k]
        vectors = vectors / jnp.linalg.norm(vectors, axis=1, keepdims=True)  # NaN where there is none
        images = jax.lax.map(self.product, vectors)
        values = jnp.sum(vectors * images, axis=1)
        residuals = jnp.linalg.norm(images - values[:, None] * vectors, axis=1)
        order = jnp.argsort(-_SCORES[self.which](values))
        return values[order], vectors[order], residuals[order]


def _outside(basis: Array, vector: Array) -> Array:
    """The part of a vector that is orthogonal to the rows of the basis."""
    return vector - jnp.matmul(jnp.matmul(basis, vector), basis)


def _finite(x: Array) -> Array:
    return jnp.where(jnp.isfinite(x), x, 0)


def _largest(x: Array) -> Array:
    """Largest magnitude among the finite entries, 0 without any."""
    return jnp.max(jnp.abs(_finite(x)), initial=0)


def _only(keep: Array, rows: Array) -> Array:
    return jnp.where(keep[:, None], rows, 0)
