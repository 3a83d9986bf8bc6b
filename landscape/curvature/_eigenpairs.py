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
from landscape.curvature._products import Flat, Operator, check, on_host
from landscape.objective import Objective, set_aside
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
    tol: float | None = None,
    max_products: int = 1000,
) -> Eigenpairs:
    """The `k` most extreme eigenpairs of the Hessian.

    Copies of a repeated eigenvalue count as many. Two vectors are multiplied at a time, so that a double eigenvalue
    is met as such; where more copies may exist, the search goes on from fresh starts. Memory: about 80 vectors of
    the size of the parameters, for more than ten pairs 7 a pair.

    Args:
        key: random key of the start vectors.
        objective: the loss whose Hessian it is, or a `GaussNewton`, `Fisher` or `EmpiricalFisher`.
        params: where.
        k: number of pairs.
        which: `"LA"` largest, `"SA"` smallest algebraic, `"LM"` largest magnitude.
        tol: bound asked of the residuals, relative to the largest eigenvalue magnitude met; by default the square
            root of the precision (1.5e-8 in float64, 3.5e-4 in float32). The error of a separated eigenvalue is of
            the order of its square.
        max_products: Hessian-vector products at most, rounded up to pairs of them.

    Returns:
        The pairs, sorted by what was asked for. `converged` says whether the tolerance was met.

    Raises:
        TypeError: `objective` is no Objective, or parameters are not real floating-point arrays.
        ValueError: `k` is not within 1 and the number of parameters, `which` is unknown, `tol` is not positive and
            finite, or `max_products` is below `k`.
    """
    _tree.check_key(key)
    objective, params = set_aside(objective, params)
    check(objective, params)
    check_request(_tree.size(params), k, which, tol, max_products)
    params = jax.tree.map(jnp.asarray, params)
    tol = float(jnp.finfo(Flat(objective, params).dtype).eps) ** 0.5 if tol is None else tol
    with on_host(objective):
        return _eigenpairs(key, objective, params, tol, max_products, k=k, which=which)


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


@partial(jax.jit, static_argnames=("k", "which"))
def _eigenpairs(
    key: Array, objective: Any, params: PyTree, tol: Any, max_products: Any, *, k: int, which: Which
) -> Eigenpairs:
    with matmul_precision():
        flat = Flat(objective, params)
        x = flat.start
        search = _Search(flat.products(x), x, k, which, tol)
        space = search.run(key, max_products)
        values, vectors, residuals = search.pairs(space)
    met = space.done & jnp.all(residuals <= tol * space.scale)
    values, size = values * space.unit, space.scale * space.unit
    # Terms of a product that are smaller than the smallest number are lost: in a dense one, up to this much.
    lost = float(jnp.finfo(x.dtype).tiny) * len(x)
    least = jnp.where((residuals > 0) & (search.eps * size < lost), lost, 0)
    residuals = jnp.maximum(residuals * space.unit, least)
    measured = jnp.all(jnp.isfinite(values) & jnp.isfinite(residuals)) & ((tol * size > lost) | (space.scale == 0))
    return Eigenpairs(values, jax.vmap(flat.direction)(vectors), residuals, met & measured, space.products)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class _Space:
    """Orthonormal rows `basis`, their `images`, and the block that comes next; rows from `count` on are zero.

    Images, and what is made of them, are in units of `unit`: their squares then stay within the range of the precision.
    """

    unit: Array  # a power of two near the first product
    basis: Array
    images: Array
    small: Array  # basis @ images.T
    valid: Array  # which rows count: where nothing is left outside the space, a new row is zero
    count: Array
    block: Array
    alive: Array  # which rows of the block count
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
    product: Callable[[Array], Array]
    like: Array
    k: int
    which: Which
    tol: Any

    @property
    def eps(self) -> float:
        return float(jnp.finfo(self.like.dtype).eps)

    @property
    def width(self) -> int:
        """Vectors in a block: a hidden copy of the one value that is wanted would change nothing."""
        return 1 if self.k == 1 else min(2, len(self.like))

    @property
    def keep(self) -> int:
        """Ritz vectors that survive a restart."""
        return min(self.k + max(self.k // 2, 5), len(self.like))

    @property
    def rows(self) -> int:
        """Largest dimension of the space."""
        whole = len(self.like) + -len(self.like) % self.width
        return min(self.keep + max(2 * self.k + 10, DEPTH), whole)

    def run(self, key: Array, max_products: Any) -> _Space:
        """Blocks until done or spent."""
        rows = jnp.zeros((self.rows, len(self.like)), self.like.dtype)
        small, zero, no = jnp.zeros((self.rows, self.rows), rows.dtype), jnp.int32(0), jnp.bool_(False)
        key, here = jax.random.split(key)
        block, _ = _orthonormal(jax.random.normal(here, (self.width, len(self.like)), rows.dtype))
        alive = jnp.ones(self.width, bool)
        start = _Space(
            jnp.ones_like(small[0, 0]), rows, rows, small, small[0] > 0, zero, block, alive, small[0, 0],
            small[0, : self.k], zero, no, zero, key, no, no,
        )  # fmt: skip

        def going(space: _Space) -> Array:
            return ~space.done & ~space.broken & (space.products < max_products)

        return jax.lax.while_loop(going, self._step, start)

    def _step(self, space: _Space) -> _Space:
        space, rest = self._grown(space)
        key, here = jax.random.split(space.key)
        values, turn, real = self._ritz(space)
        last = jax.lax.dynamic_slice_in_dim(turn, space.count - self.width, self.width)[:, : self.k]
        residuals = jnp.linalg.norm(rest.T @ last, axis=0)  # that of a Ritz pair lies in what the last block left
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
        space = jax.lax.cond(full | afresh, lambda s: self._restarted(s, values, turn, real), lambda s: s, space)
        block, alive = self._outside(space.basis, rest, jnp.full(self.width, afresh), here, space.scale)
        return dataclasses.replace(
            space,
            block=block,
            alive=alive,
            key=key,
            done=done | ~jnp.any(alive),
            values=jnp.where(afresh, values[: self.k], space.values),
            fresh=jnp.where(afresh, 0, space.fresh),
            again=space.again | afresh,
        )

    def _grown(self, space: _Space) -> tuple[_Space, Array]:
        """The space with the block in it, and what the images of the block have outside it."""
        images = self._images(space.block)
        broken = ~jnp.all(jnp.isfinite(images))
        unit = jnp.where(space.scale > 0, space.unit, _tree.power_of_two_near(images))
        images = images / unit
        put = partial(jax.lax.dynamic_update_slice_in_dim, start_index=space.count)
        basis, stored = put(space.basis, space.block, axis=0), put(space.images, images, axis=0)
        cross = images @ basis.T
        small = put(put(space.small, cross, axis=0), cross.T, axis=1)
        new = dataclasses.replace(
            space,
            unit=unit,
            basis=basis,
            images=stored,
            small=small,
            valid=put(space.valid, space.alive, axis=0),
            count=space.count + self.width,
            scale=jnp.maximum(space.scale, jnp.max(jnp.linalg.norm(images, axis=1))),
            fresh=space.fresh + self.width,
            products=space.products + self.width,
            broken=broken,
        )
        return new, images - cross @ basis

    def _images(self, block: Array) -> Array:
        """Products with the rows: one after the other on a CPU, where `vmap` makes slower ones of their matmuls."""

        def together(rows: Array) -> Array:
            return jax.vmap(self.product)(rows)

        def in_turn(rows: Array) -> Array:
            return jax.lax.map(self.product, rows)

        return jax.lax.platform_dependent(block, cpu=in_turn, default=together)

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

    def _outside(self, basis: Array, candidates: Array, afresh: Array, key: Array, scale: Array) -> tuple[Array, Array]:
        """Orthonormal rows outside the space from the candidates, or from random vectors, and which of them count.

        A candidate that is mere rounding ends its Krylov space; a random vector then starts another.
        """
        block, sizes = _orthonormal(candidates)
        block, left = _orthonormal(_off(basis, block))
        afresh = afresh | ~((sizes > LOSS_OF_DIGITS * self.eps * scale) & (left > 0.5))

        def drawn(block: Array) -> tuple[Array, Array]:
            noise = jax.random.normal(key, block.shape, block.dtype) / len(self.like) ** 0.5
            mixed = jnp.where(afresh[:, None], _off(basis, noise), block)
            mixed, sizes = _orthonormal(mixed)
            alive = sizes > self.eps**0.5
            mixed, _ = _orthonormal(_off(basis, _only(alive, mixed)))
            return _only(alive, mixed), alive

        def kept(block: Array) -> tuple[Array, Array]:
            return block, jnp.ones(self.width, bool)

        return jax.lax.cond(jnp.any(afresh), drawn, kept, block)

    def _restarted(self, space: _Space, values: Array, turn: Array, real: Array) -> _Space:
        """Only the best Ritz vectors of the space."""
        real = real[: self.keep]

        def turned(rows: Array) -> Array:
            best = _only(real, turn[:, : self.keep].T @ rows)
            return jnp.concatenate([best, jnp.zeros_like(rows[self.keep :])])

        rest = self.rows - self.keep
        return dataclasses.replace(
            space,
            basis=turned(space.basis),
            images=turned(space.images),
            small=jnp.diag(jnp.pad(jnp.where(real, values[: self.keep], 0), (0, rest))),
            valid=jnp.pad(real, (0, rest)),
            count=jnp.int32(self.keep),
        )

    def pairs(self, space: _Space) -> tuple[Array, Array, Array]:
        """Values, vectors and residuals of the wanted pairs, in units of `unit`."""
        _, turn, real = self._ritz(space)
        turn = turn[:, : self.k].T
        vectors, images = turn @ space.basis, turn @ space.images
        size = jnp.where(real[: self.k] & ~space.broken, jnp.linalg.norm(vectors, axis=1), jnp.nan)[:, None]
        vectors, images = vectors / size, images / size
        values = jnp.sum(vectors * images, axis=1)
        residuals = jnp.linalg.norm(images - values[:, None] * vectors, axis=1)
        order = jnp.argsort(-_SCORES[self.which](values))
        return values[order], vectors[order], residuals[order]


def _off(basis: Array, rows: Array) -> Array:
    """The part of the rows that is orthogonal to those of the basis."""
    return rows - (rows @ basis.T) @ basis


def _orthonormal(rows: Array) -> tuple[Array, Array]:
    """Gram-Schmidt on a few rows, and their lengths before they were made unit vectors; a row of zeros stays one."""
    done, sizes = [], []
    for row in rows:
        for other in done:
            row = row - (other @ row) * other
        size = jnp.linalg.norm(row)
        done.append(row / jnp.where(size > 0, size, 1))
        sizes.append(size)
    return jnp.stack(done), jnp.stack(sizes)


def _only(keep: Array, rows: Array) -> Array:
    return jnp.where(keep[:, None], rows, 0)
