"""Extreme eigenpairs by block Lanczos with thick restarts.

The space grows by a block of products at a time and is kept orthonormal to rounding; a full one is replaced by its
best Ritz vectors and goes on from the same block, which in exact arithmetic is the block Krylov space of an
unrestarted run (Wu & Simon 2000, "Thick-restart Lanczos method"). matfree's Lanczos has neither blocks nor restarts.

A block of `b` random starts meets up to `b` copies of each eigenvalue (Golub & Underwood 1977, "The block Lanczos
method for computing eigenvalues"). So copies can be hidden only behind an eigenvalue of which `b` were found. Only
then the search goes on from a fresh block outside the space, and until it comes back with nothing new.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from landscape import _tree
from landscape.curvature._products import Operator, on_host, prepared, products
from landscape.curvature._vectors import Stack, Vector, Vectors, combined, less, over, put, row, times, turned, unit
from landscape.objective import Objective
from landscape.placement import Places, places_of
from landscape.point import matmul_precision

DEPTH = 30  # products of a search for hidden copies
LOSS_OF_DIGITS = 50  # in units of the precision: what a new direction must exceed to be more than rounding
NEAR = 20  # in units of the residuals: eigenvalues that are nearer count as copies

Which = Literal["LA", "SA", "LM"]
_SCORES: dict[str, Callable[[Array], Array]] = {"LA": lambda x: x, "SA": lambda x: -x, "LM": jnp.abs}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Eigenpairs:
    """Some eigenpairs of a Hessian, the most wanted first. Under `vmap` every leaf gains a leading axis.

    Attributes:
        values: eigenvalues, `(k,)`; NaN where none was found, as where the Hessian is not finite.
        vectors: eigenvectors of unit length, a stack of `k` parameter trees, in at least float32.
        residuals: `|Hv - value v|`, `(k,)`: at least one eigenvalue lies this near. From products with the Hessian,
            not from a recurrence. A network that computes in half precision inside has products that are linear only
            to two or three digits: there they bound nothing.
        converged: whether all residuals are finite and meet the tolerance, no further copy of an eigenvalue can be
            hidden that belongs among them (up to the chance of random starts), and the tolerance is above what
            underflow may hide: in float32 1e-38 for each parameter.
        num_products: Hessian-vector products spent.
    """

    values: Float[Array, "*runs k"]
    vectors: PyTree
    residuals: Float[Array, "*runs k"]
    converged: Bool[Array, "*runs"]
    num_products: Int[Array, "*runs"]


def eigenpairs(
    key: Array,
    objective: Objective | Operator,
    params: PyTree,
    k: int,
    which: Which = "LA",
    *,
    where: Any = None,
    tol: float | None = None,
    max_products: int = 1000,
    max_vectors: int | None = None,
) -> Eigenpairs:
    """The `k` most extreme eigenpairs of the Hessian, or of its block for the parameters of some names.

    Copies of a repeated eigenvalue count as many. Two vectors are multiplied at a time, so that a double eigenvalue
    is met as such; where more copies may exist, the search goes on from fresh starts. Vectors are trees like the
    parameters, spread over devices as they are. Memory: about 80 of them, for more than ten pairs 7 a pair, unless
    `max_vectors` bounds it.

    Args:
        key: random key of the start vectors.
        objective: the loss whose Hessian it is, or a `GaussNewton`, `Fisher` or `EmpiricalFisher`.
        params: where.
        k: number of pairs.
        which: `"LA"` largest, `"SA"` smallest algebraic, `"LM"` largest magnitude.
        where: the parameters whose diagonal block is searched, as `trainable` of `subspace.split`: a pattern of names
            such as `"layers.0.*"`, a tree of booleans, a function `(name, leaf) -> bool`; by default all.
        tol: bound asked of the residuals, relative to the largest eigenvalue magnitude met; by default the square
            root of the precision (1.5e-8 in float64, 3.5e-4 in float32). The error of a separated eigenvalue is of
            the order of its square.
        max_products: Hessian-vector products at most, rounded up to pairs of them.
        max_vectors: vectors that the search holds at a time, the basis and the block that comes next; a product needs
            two or three more. The fewer, the sooner it restarts, and the more products it takes; `k` of them measure
            the residuals at the end, as the products of the basis are not kept then. By default as many as are of use.

    Returns:
        The pairs, sorted by what was asked for. `converged` says whether the tolerance was met. With `where`, vectors
        hold the parameters asked for, and `None` in place of the others.

    Raises:
        TypeError: `objective` is no Objective, or parameters are not real floating-point arrays.
        ValueError: `k` is not within 1 and the number of parameters, `which` is unknown, `tol` is not positive and
            finite, `max_products` is below `k`, `max_vectors` is too small for `k`, or `where` matches nothing.
    """
    _tree.check_key(key)
    objective, params = prepared(objective, params, where)
    size = _tree.size(params)
    check_request(size, k, which, tol, max_products)
    if max_vectors is not None:
        _check_vectors(size, k, max_products, max_vectors)
    tol = float(jnp.finfo(_tree.wide_dtype(*jax.tree.leaves(params))).eps) ** 0.5 if tol is None else tol
    options = {"k": k, "which": which, "most": max_vectors, "places": places_of(params)}
    with on_host(objective):
        return _eigenpairs(key, objective, params, tol, max_products, **options)


def check_request(size: int, k: int, which: str, tol: float | None, max_products: int) -> None:
    """Raise `TypeError` or `ValueError` for a request that makes no sense."""
    if not isinstance(which, str) or which not in _SCORES:
        raise ValueError(f"which must be one of {list(_SCORES)}, got {which!r}")
    _tree.check_count("k", k)
    if not 1 <= k <= size:
        raise ValueError(f"k must be from 1 to the number of parameters, {size}, got {k}")
    if tol is not None:
        _tree.check_positive("tol", tol, "relative to the largest eigenvalue magnitude")
    _tree.check_count("max_products", max_products)
    if max_products < k:
        raise ValueError(f"max_products must be at least k={k}, one product for each pair, got {max_products}")


def _check_vectors(size: int, k: int, max_products: int, max_vectors: Any) -> None:
    """Raise for a bound within which `k` pairs cannot be found."""
    _tree.check_count("max_vectors", max_vectors)
    width = _width(k, size)
    least = min(k + 2 * width, _whole(size, width) + width)
    if max_vectors < least:
        raise ValueError(
            f"max_vectors must be at least {least} for k={k}: {least - 2 * width} to keep when the search restarts, "
            f"{width} to go on with and {width} that come next; got {max_vectors}"
        )
    if max_products < 2 * k:
        raise ValueError(
            f"max_products must be at least 2k={2 * k} with max_vectors, since k products measure the residuals, got "
            f"{max_products}"
        )


def _width(k: int, size: int) -> int:
    """Vectors in a block: a hidden copy of the one value that is wanted would change nothing."""
    return 1 if k == 1 else min(2, size)


def _whole(size: int, width: int) -> int:
    """Rows that hold all dimensions, in whole blocks."""
    return size + -size % width


@partial(jax.jit, static_argnames=("k", "which", "most", "places"))
def _eigenpairs(
    key: Array,
    objective: Any,
    params: PyTree,
    tol: Any,
    max_products: Any,
    *,
    k: int,
    which: Which,
    most: int | None,
    places: Places,
) -> Eigenpairs:
    with matmul_precision():
        vectors = Vectors(params, places)
        search = _Search(vectors.map(products(objective, params)), vectors, k, which, tol, most)
        space = search.run(key, max_products)
        values, stack, residuals = search.pairs(space)
    met = space.done & jnp.all(residuals <= tol * space.scale)
    values, size = values * space.unit, space.scale * space.unit
    # Terms of a product that are smaller than the smallest number are lost: in a dense one, up to this much.
    lost = float(jnp.finfo(vectors.dtype).tiny) * vectors.size
    least = jnp.where((residuals > 0) & (vectors.eps * size < lost), lost, 0)
    residuals = jnp.maximum(residuals * space.unit, least)
    measured = jnp.all(jnp.isfinite(values) & jnp.isfinite(residuals)) & ((tol * size > lost) | (space.scale == 0))
    return Eigenpairs(values, stack, residuals, met & measured, space.products + search.measuring)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class _Space:
    """Orthonormal vectors `basis`, their `images` where they are kept, and the block that comes next.

    The block is the first rows of `ahead`, which has room for the vectors that are asked for, too.

    Rows that are not `valid` do not count. Images, and what is made of them, are in units of `unit`: their squares then
    stay within the range of the precision.
    """

    unit: Array  # a power of two near the first product
    basis: Stack
    images: Stack | None
    small: Array  # inner products of the basis with its images
    valid: Array  # which rows count: where nothing is left outside the space, a new row is zero
    count: Array
    ahead: Stack
    sound: Array  # which rows of the block are more than rounding
    scale: Array  # largest product of a unit vector so far
    values: Array  # wanted ones, where the search last started afresh
    fresh: Array  # products since then
    again: Array  # whether it did
    products: Array
    key: Array
    done: Array
    broken: Array


@dataclass(frozen=True, eq=False)
class _Search:
    product: Callable[[Vector], Vector]
    vectors: Vectors
    k: int
    which: Which
    tol: Any
    most: int | None

    @property
    def eps(self) -> float:
        return self.vectors.eps

    @property
    def width(self) -> int:
        return _width(self.k, self.vectors.size)

    @property
    def keep(self) -> int:
        """Ritz vectors that survive a restart; what follows them must find room."""
        return min(self._survivors, max(self.rows - self.width, self.k))

    @property
    def _survivors(self) -> int:
        return min(self.k + max(self.k // 2, 5), self.vectors.size)

    @property
    def rows(self) -> int:
        """Largest dimension of the space."""
        useful = min(self._survivors + max(2 * self.k + 10, DEPTH), _whole(self.vectors.size, self.width))
        return useful if self.most is None else min(useful, self.most - self.width)

    @property
    def measuring(self) -> int:
        """Products that measure the residuals, where those of the basis are not kept."""
        return 0 if self.most is None else self.k

    def run(self, key: Array, max_products: Any) -> _Space:
        """Blocks until done or spent."""
        basis, ahead = self.vectors.zeros(self.rows), self.vectors.zeros(max(self.k, self.width))
        small, zero, no = jnp.zeros((self.rows, self.rows), self.vectors.dtype), jnp.int32(0), jnp.bool_(False)
        start = _Space(
            jnp.ones_like(small[0, 0]), basis, basis if self.most is None else None, small, small[0] > 0, zero, ahead,
            jnp.zeros(self.width, bool), small[0, 0], small[0, : self.k], zero, no, zero, key, no, no,
        )  # fmt: skip

        def going(space: _Space) -> Array:
            return ~space.done & ~space.broken & (space.products < max_products - self.measuring)

        return jax.lax.while_loop(going, self._step, start)

    def _step(self, space: _Space) -> _Space:
        key, here = jax.random.split(space.key)
        ahead, alive = self._outside(space, here)
        space, triangle = self._grown(dataclasses.replace(space, ahead=ahead, key=key), alive)
        values, turn, real = self._ritz(space)
        last = jax.lax.dynamic_slice_in_dim(turn, space.count - self.width, self.width)[:, : self.k]
        residuals = jnp.linalg.norm(triangle.T @ last, axis=0)  # that of a Ritz pair lies in what the last block left
        hidden = self._may_hide(values, real, jnp.max(residuals), space.scale)
        # what is left outside the space when the search starts afresh is lost, each time
        share = jnp.where(hidden | space.again, 0.05, 0.5)
        settled = jnp.all(real[: self.k] & (residuals <= share * self.tol * space.scale))
        same = jnp.all(jnp.abs(values[: self.k] - space.values) <= self.tol * space.scale)
        deep = ~space.again | (space.fresh >= DEPTH)
        done = settled & (~hidden | (space.again & deep & same))
        afresh = settled & hidden & deep & ~done
        # a search that starts afresh leaves behind what is not settled: its residuals would be lost
        real = real & (~afresh | (jnp.arange(self.rows) < self.k))
        full = (space.count + self.width > self.rows) & ~done
        space = self._restarted(space, values, turn, real, full | afresh)
        return dataclasses.replace(
            space,
            sound=~afresh & (jnp.diagonal(triangle) > LOSS_OF_DIGITS * self.eps * space.scale),
            done=done | ~jnp.any(alive),
            values=jnp.where(afresh, values[: self.k], space.values),
            fresh=jnp.where(afresh, 0, space.fresh),
            again=space.again | afresh,
        )

    def _grown(self, space: _Space, alive: Array) -> tuple[_Space, Array]:
        """The space with the block in it; ahead, what its images have outside: unit vectors, and the triangle of them.

        One row after the other, so that the memory is that of one product; none where the block is empty.
        """
        width = jnp.where(jnp.any(alive), self.width, 0)

        def added(j: Any, space: _Space) -> _Space:
            at = space.count + j
            return dataclasses.replace(
                space, basis=put(space.basis, row(space.ahead, j), at), valid=space.valid.at[at].set(alive[j])
            )

        space = jax.lax.fori_loop(0, width, added, space)
        space = jax.lax.fori_loop(0, width, self._multiplied, space)
        ahead, triangle = self._orthonormal(space.ahead)
        counts = {name: getattr(space, name) + width for name in ("count", "fresh", "products")}
        return dataclasses.replace(space, ahead=ahead, **counts), triangle

    def _multiplied(self, j: Any, space: _Space) -> _Space:
        """With the image of one row of the block: what lies in the space, and ahead the rest."""
        at = space.count + j
        image = self.product(row(space.basis, at))
        scale = jnp.where(space.scale > 0, space.unit, _tree.power_of_two_near(image))
        image = over(image, scale)
        cross = jnp.where(space.valid, self.vectors.along(space.basis, image), 0)
        rest = less(image, combined(cross, space.basis))
        size = jnp.sqrt(jnp.sum(cross**2) + self.vectors.inner(rest, rest))
        return dataclasses.replace(
            space,
            unit=scale,
            ahead=put(space.ahead, rest, j),
            images=None if space.images is None else put(space.images, image, at),
            small=space.small.at[at].set(cross).at[:, at].set(cross),
            scale=jnp.maximum(space.scale, size),
            broken=space.broken | ~jnp.all(jnp.isfinite(cross)) | ~jnp.isfinite(size),
        )

    def _orthonormal(self, stack: Stack) -> tuple[Stack, Array]:
        """Gram-Schmidt on the block, and the triangle that makes it of the result."""

        def next_row(j: Any, carry: tuple[Stack, Array]) -> tuple[Stack, Array]:
            stack, triangle = carry
            part = jnp.where(self._ahead < j, self.vectors.along(stack, row(stack, j)), 0)
            rest = less(row(stack, j), combined(part, stack))
            size = self.vectors.norm(rest)
            return put(stack, unit(rest, size), j), triangle.at[j].set(part[: self.width].at[j].set(size))

        return jax.lax.fori_loop(0, self.width, next_row, (stack, jnp.zeros((self.width,) * 2, self.vectors.dtype)))

    @property
    def _ahead(self) -> Array:
        return jnp.arange(max(self.k, self.width))

    def _ritz(self, space: _Space) -> tuple[Array, Array, Array]:
        """All Ritz values, the most wanted first, their coefficients as columns, and which of them are real.

        Rows that do not count are moved out of the spectrum.
        """
        small = (space.small + space.small.T) / 2
        beyond = 1 + 4 * jnp.max(jnp.sum(jnp.abs(small), axis=1))
        values, turn = jnp.linalg.eigh(jnp.where(jnp.diag(~space.valid), beyond, small))
        real = jnp.sum(jnp.where(space.valid[:, None], turn**2, 0), axis=0) > 0.5
        order = jnp.argsort(jnp.where(real, -_SCORES[self.which](values), jnp.inf))
        return values[order], turn[:, order], real[order]

    def _may_hide(self, values: Array, real: Array, residual: Array, scale: Array) -> Array:
        """Whether as many copies of a wanted value were found as the block has vectors, and one more would count.

        One more of the least wanted value would change nothing.
        """
        near = NEAR * residual + 100 * self.eps * scale
        wanted = values[: self.k]
        copies = jnp.sum(real[None] & (jnp.abs(values[None] - wanted[:, None]) <= near), axis=1)
        score = _SCORES[self.which](wanted)
        return jnp.any((copies >= self.width) & (score - score[-1] > near))

    def _outside(self, space: _Space, key: Array) -> tuple[Stack, Array]:
        """The block ahead made orthonormal to the space to rounding, and which of its rows count.

        A candidate that is mere rounding ends its Krylov space; a random vector then starts another.
        """
        kind = self.vectors

        def candidate(j: Any, carry: tuple[Stack, Array]) -> tuple[Stack, Array]:
            ahead, alive = carry

            def attempt(state: Any) -> Any:
                vector, good, number, _ = state
                noise = partial(self._noise, jax.random.fold_in(key, j))
                vector = jax.lax.cond(~good & (number == 0), lambda _: noise(), lambda v: v, vector)
                vector = less(vector, combined(jnp.where(space.valid, kind.along(space.basis, vector), 0), space.basis))
                vector = less(vector, combined(jnp.where(self._ahead < j, kind.along(ahead, vector), 0), ahead))
                size = kind.norm(vector)
                # a candidate must have lain outside already; noise is cleared twice, and there may be none left
                found = jnp.where(good, size > 0.5, (number > 0) | (size > self.eps**0.5))
                number = jnp.where(good, jnp.where(found, 2, 0), jnp.where(found, number + 1, 2))
                return unit(vector, size), good & found, number, found

            start = row(ahead, j), space.sound[j], jnp.int32(0), jnp.bool_(False)
            vector, _, _, found = jax.lax.while_loop(lambda state: state[2] < 2, attempt, start)
            vector = jax.tree.map(lambda x: jnp.where(found, x, 0), vector)
            return put(ahead, vector, j), alive.at[j].set(found)

        return jax.lax.fori_loop(0, self.width, candidate, (space.ahead, jnp.zeros(self.width, bool)))

    def _noise(self, key: Array) -> Vector:
        return over(self.vectors.normal(key), jnp.asarray(self.vectors.size**0.5, self.vectors.dtype))

    def _restarted(self, space: _Space, values: Array, turn: Array, real: Array, now: Array) -> _Space:
        """Only the best Ritz vectors of the space, if now; in place."""
        best = jnp.arange(self.rows) < self.keep
        steps = jnp.where(now, self.keep, 0)
        basis, images = turned((space.basis, space.images), turn[:, : self.keep], steps)
        return dataclasses.replace(
            space,
            basis=basis,
            images=images,
            small=jnp.where(now, jnp.diag(jnp.where(best & real, values, 0)), space.small),
            valid=jnp.where(now, best & real, space.valid),
            count=jnp.where(now, self.keep, space.count),
        )

    def pairs(self, space: _Space) -> tuple[Array, PyTree, Array]:
        """Values, vectors and residuals of the wanted pairs, in units of `unit`."""
        kind = self.vectors
        _, turn, real = self._ritz(space)

        def vector(i: Any, stack: Stack) -> Stack:
            found = combined(turn[:, i], space.basis)
            return put(stack, over(found, jnp.where(real[i] & ~space.broken, kind.norm(found), jnp.nan)), i)

        def measured(i: Any, numbers: tuple[Array, Array]) -> tuple[Array, Array]:
            if space.images is None:
                image = over(self.product(row(stack, i)), space.unit)
            else:
                image = combined(turn[:, i], space.images)
            value = kind.inner(row(stack, i), image)
            residual = kind.norm(less(image, times(value, row(stack, i))))
            return tuple(all_of.at[i].set(one) for all_of, one in zip(numbers, (value, residual)))

        stack = jax.lax.fori_loop(0, self.k, vector, space.ahead)
        values, residuals = jax.lax.fori_loop(0, self.k, measured, (space.values, space.values))
        order = jnp.argsort(-_SCORES[self.which](values))
        return values[order], kind.tree([x[order] for x in stack], lead=1), residuals[order]
