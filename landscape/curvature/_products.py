"""Products with a curvature matrix, batch by batch: Hessian, Gauss-Newton, Fisher, empirical Fisher."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from landscape import _tree
from landscape.moving import divided, join, moves
from landscape.objective import (
    Objective,
    batches_in,
    check_means,
    check_objective,
    differentiated,
    filled,
    set_aside,
    shared,
)
from landscape.placement import Places, by_compiler, kept, places_of
from landscape.point import matmul_precision

MAX_DENSE = 4096  # parameters; the matrix then takes 128 MiB in float64
COLUMNS = 128  # products at a time in a dense matrix

Linear = Callable[[PyTree], PyTree]
Family = Literal["categorical", "gaussian"]
_static: Any = {"static": True}


@runtime_checkable
class Operator(Protocol):
    """A symmetric matrix over the parameters that depends on where they are, known by its products."""

    def products(self, params: PyTree) -> Linear:
        """The linear map `vector -> matrix @ vector` at `params`, ready to be used many times."""
        ...


@_tree.register
@dataclass(frozen=True, eq=False)
class GaussNewton:
    r"""The generalised Gauss-Newton matrix $G = \frac1n \sum_i J_i' \, \nabla^2_z \ell_i \, J_i$ (Schraudolph 2002).

    $J_i$ is the Jacobian of the model's output for example $i$, $\nabla^2_z \ell_i$ the Hessian of its loss with
    respect to that output. Exact for any loss; positive semi-definite where the loss is convex in the output; of rank
    at most (examples x outputs). It is the Hessian without the curvature of the model itself.

    Attributes:
        predict: `predict(params, batch) -> outputs`.
        output_loss: `output_loss(outputs, batch)`, per-example losses `(n,)` or their mean, a scalar.
        data: pytree whose leaves share their leading axis, the examples.
        batch_size: examples per pass; `None` takes all at once.
        weight_fn: weights as of an `Objective`: $\sum_i w_i$ in place of $n$, and $w_i$ times each term.
    """

    predict: Callable[[PyTree, PyTree], PyTree] = field(metadata=_static)
    output_loss: Callable[[PyTree, PyTree], Any] = field(metadata=_static)
    data: PyTree
    batch_size: int | None = field(default=None, metadata=_static)
    weight_fn: Callable[[PyTree], Any] | None = field(default=None, metadata=_static)

    @property
    def objective(self) -> Objective:
        """The loss whose Gauss-Newton matrix it is."""
        loss = _Composed(self.predict, self.output_loss)
        return Objective(loss, self.data, batch_size=self.batch_size, weight_fn=self.weight_fn)

    def products(self, params: PyTree) -> Linear:
        """Products at `params`.

        Raises:
            ValueError: `output_loss` returns neither one number for each example nor a scalar.
        """

        def curve(outputs: PyTree, batch: PyTree) -> Linear:
            # refuses losses (n, c), whose mean would be c times too small
            loss = Objective(self.output_loss, batch, weight_fn=self.weight_fn)
            return differentiated(
                lambda: jax.linearize(jax.grad(lambda z: loss(z)), outputs)[1], lambda: loss(outputs),
                "a GaussNewton needs second derivatives of output_loss", _BOTH_WAYS,
            )  # fmt: skip

        return _sandwich("GaussNewton", self.predict, curve, self.objective, params)


@dataclass(frozen=True)
class _Composed:
    """The loss of a model; equal for equal parts, so that it shares its compiled program."""

    predict: Callable[[PyTree, PyTree], PyTree]
    output_loss: Callable[[PyTree, PyTree], Any]

    def __call__(self, params: PyTree, batch: PyTree) -> Any:
        return self.output_loss(self.predict(params, batch), batch)


@_tree.register
@dataclass(frozen=True, eq=False)
class Fisher:
    r"""The Fisher information $F = \frac1n \sum_i J_i' \, F_z \, J_i$ of the model's own distribution over labels.

    No label enters. For a family in its natural parameters it equals the Gauss-Newton matrix of the negative
    log-likelihood (Martens 2020, "New insights and perspectives on the natural gradient method", section 9.2).

    Attributes:
        predict: `predict(params, batch) -> outputs`, shape `(n, c)`, or `(n,)` for `"gaussian"`.
        data: pytree whose leaves share their leading axis, the examples.
        family: `"categorical"`: outputs are logits, $F_z = \mathrm{diag}\,p - p p'$; `"gaussian"`: outputs are means
            of unit variance, $F_z = 1$ (for the loss $\frac12 |z - y|^2$).
        batch_size: examples per pass; `None` takes all at once.
        weight_fn: weights as of an `Objective`: $\sum_i w_i$ in place of $n$, and $w_i$ times each term.
    """

    predict: Callable[[PyTree, PyTree], PyTree] = field(metadata=_static)
    data: PyTree
    family: Family = field(default="categorical", metadata=_static)
    batch_size: int | None = field(default=None, metadata=_static)
    weight_fn: Callable[[PyTree], Any] | None = field(default=None, metadata=_static)

    def products(self, params: PyTree) -> Linear:
        """Products at `params`.

        Raises:
            ValueError: the outputs of a `"categorical"` one are not `(n, c)` with at least two classes.
        """

        def curve(outputs: PyTree, batch: PyTree) -> Linear:
            if self.family == "categorical" and (jnp.ndim(outputs) < 2 or jnp.shape(outputs)[-1] < 2):
                raise ValueError(
                    f"a categorical Fisher needs logits (n, c), two classes two logits, got {_tree.describe(outputs)}"
                )
            return lambda u: averaged(_output_fisher(self.family, outputs, u), batch)

        data = _data_only(self.data, self.batch_size, self.weight_fn)
        averaged = partial(_over_examples, data)
        return _sandwich("Fisher", self.predict, curve, data, params)


def _output_fisher(family: Family, outputs: Array, u: Array) -> Array:
    if family == "gaussian":
        return u
    p = jax.nn.softmax(outputs, axis=-1)
    return p * (u - jnp.sum(p * u, axis=-1, keepdims=True))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class EmpiricalFisher:
    r"""The mean outer product of the gradients of the examples, $\frac1n \sum_i \nabla\ell_i \nabla\ell_i'$.

    Taken at the true labels: not the Fisher information, and no approximation of the Hessian away from a perfect fit
    (Kunstner, Balles & Hennig 2019, arXiv 1905.12558). Its trace is the mean squared norm of those gradients. With
    `Objective.weight_fn` it is $\sum_i w_i \nabla\ell_i \nabla\ell_i' / \sum_i w_i$: a weight says how often an
    example counts, so it is not squared.

    Attributes:
        objective: whose `loss_fn` returns the loss of each example.
    """

    objective: Objective

    def products(self, params: PyTree) -> Linear:
        """Products at `params`.

        Raises:
            ValueError: `loss_fn` returns a scalar mean.
        """

        def losses(p: PyTree, batch: PyTree) -> Array:
            return replace(self.objective, data=batch, batch_size=None).per_example(p)

        def curve(outputs: Array, batch: PyTree) -> Linear:
            return lambda u: _over_examples(self.objective, u, batch)

        return _sandwich("EmpiricalFisher", losses, curve, self.objective, params)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Adaptive:
    """A matrix `A` between parameters measured in units of their own magnitude: `|w| A |w|`, element by element."""

    inner: Any

    def products(self, params: PyTree) -> Linear:
        """Products at `params`."""
        product, size = products(self.inner, params), jax.tree.map(jnp.abs, params)

        def scaled(vector: PyTree) -> PyTree:
            return jax.tree.map(lambda s, u: _tree.at_least_single(s) * _tree.at_least_single(u), size, vector)

        return lambda vector: scaled(product(scaled(vector)))


@_tree.register
@dataclass(frozen=True, eq=False)
class Block:
    """The diagonal block of a matrix that belongs to the parameters that move.

    Attributes:
        inner: the operator, over all parameters.
        frozen: the parameters that stay, the other part of the tree that moves.
    """

    inner: Any
    frozen: PyTree

    def products(self, params: PyTree) -> Linear:
        """Products at what moves of the parameters."""
        whole = products(self.inner, join(params, self.frozen))
        still = jax.tree.map(jnp.zeros_like, self.frozen)

        def product(vector: PyTree) -> PyTree:
            image = whole(join(vector, still))
            return jax.tree.map(lambda p, x: None if p is None else x, params, image, is_leaf=lambda p: p is None)

        return product


def prepared(operator: Any, params: PyTree, where: Any = None) -> tuple[Any, PyTree]:
    """An operator and parameters, checked, with the rows and columns alone of what is asked for.

    What stays goes the way of frozen parameters: `Objective.frozen` of an objective, `Block` of another matrix.

    Args:
        operator: as given by the user.
        params: where, integers and booleans among them as `Objective` allows.
        where: what the matrix is restricted to, as `trainable` of `subspace.split`; `None` for all.

    Raises:
        TypeError, ValueError: as for `check`, and as for `subspace.split`.
    """
    operator, params = set_aside(operator, params)
    check(operator, params)
    operator, params = by_compiler(operator), jax.tree.map(jnp.asarray, by_compiler(params))
    if where is None:
        return operator, params
    parts = divided(params, moves(params, where, "where"))
    if not isinstance(operator, Objective):
        return Block(operator, parts.frozen), parts.moving
    frozen = parts.frozen if operator.frozen is None else join(parts.frozen, operator.frozen)
    return replace(operator, frozen=frozen), parts.moving


def _data_only(data: PyTree, batch_size: int | None, weight_fn: Any) -> Objective:
    """Data without a loss: what knows how to take a mean over batches."""
    return Objective(lambda params, batch: jnp.zeros(()), data, batch_size=batch_size, weight_fn=weight_fn)


def _over_examples(data: Objective, u: Array, batch: PyTree) -> Array:
    """What every example of a batch has, times its share of the mean."""
    if data.weight_fn is None:
        return u / len(u)
    weights = replace(data, data=batch, batch_size=None).weights()
    return shared((weights / jnp.sum(weights)).reshape(-1, *(1,) * (u.ndim - 1)), u)


_BOTH_WAYS = (
    "give loops a length that is known beforehand (jax.lax.scan or fori_loop in place of while_loop), and functions of "
    "your own a jax.custom_jvp, which JAX differentiates in both directions, in place of a jax.custom_vjp"
)


def _sandwich(
    name: str, outputs_fn: Callable[..., PyTree], curve: Callable[..., Linear], data: Objective, at: PyTree
) -> Linear:
    """`J' C J` with the Jacobian of `outputs_fn` and `C = curve(outputs, batch)`, averaged over the batches."""

    def of_batch(batch: PyTree) -> Linear:
        def outputs_of(p: PyTree) -> PyTree:
            return outputs_fn(p, batch)

        def attempt(take: Callable[[], Any]) -> Any:
            need = f"the products of {name} need derivatives of the outputs, forwards and backwards"
            return differentiated(take, lambda: outputs_of(at), need, _BOTH_WAYS)

        outputs, push = attempt(lambda: jax.linearize(outputs_of, at))
        pull = jax.linear_transpose(push, at)
        middle = curve(outputs, batch)
        return lambda vector: attempt(lambda: pull(middle(push(vector))))[0]

    return _averaged(of_batch, data, at)


def _hessian_products(objective: Objective, params: PyTree) -> Linear:
    def of_batch(batch: PyTree) -> Linear:
        part = replace(objective, data=batch, batch_size=None)
        return differentiated(
            lambda: jax.linearize(jax.grad(lambda p: part(p)), params)[1], lambda: part(params),
            "the Hessian needs second derivatives of the loss", _BOTH_WAYS,
        )  # fmt: skip

    return _averaged(of_batch, objective, params)


def _averaged(of_batch: Callable[[PyTree], Linear], data: Objective, params: PyTree) -> Linear:
    """The mean over batches of linear maps; with one batch its forward pass is shared by all products."""

    def like_params(vector: PyTree) -> PyTree:
        return jax.tree.map(lambda v, p: jnp.asarray(v, jnp.result_type(p)), vector, params)

    count, size = data.num_examples, data.batch_size
    if count is None or size is None or size >= count:
        only = of_batch(data.data)
        return lambda vector: data.mean(lambda _: only(like_params(vector)))
    return lambda vector: data.mean(lambda batch: of_batch(batch)(like_params(vector)))


def products(operator: Objective | Operator, params: PyTree) -> Linear:
    """`vector -> matrix @ vector` for an operator, or for the Hessian of an objective, in at least float32."""
    if not isinstance(operator, Adaptive | Block) and batches_in(operator):
        return _products_over_blocks(operator, params)
    operator, params = widened(operator, params)
    if isinstance(operator, Objective):
        return _hessian_products(operator, params)
    return operator.products(params)


def _products_over_blocks(operator: Any, params: PyTree) -> Linear:
    """Products whose terms are summed over `Batches` on the host; a pass over the data for each."""
    if isinstance(operator, Objective):
        data = operator
    elif isinstance(operator, Fisher):
        data = _data_only(operator.data, operator.batch_size, operator.weight_fn)
    else:
        data = operator.objective
    return lambda vector: data.over_blocks(lambda block: _block_product(filled(operator, block), params, vector))


@jax.jit
def _block_product(operator: Any, params: PyTree, vector: PyTree) -> PyTree:
    return products(operator, params)(vector)


def on_host(operator: Any) -> contextlib.AbstractContextManager[Any]:
    """Where the loops of an algorithm run, so that each product can be a pass over `Batches`."""
    return jax.disable_jit() if batches_in(operator) else contextlib.nullcontext()


def widened(operator: Any, params: PyTree) -> tuple[Any, PyTree]:
    """Both in at least float32, where a leaf of the parameters is of half precision.

    Such a leaf rounds every vector that goes through it to two or three digits, so that a product is none with one
    matrix any more, and a residual bounds nothing. The data go along, since some operations take no mixed precisions.
    """
    if all(jnp.finfo(jnp.result_type(leaf)).bits >= 32 for leaf in jax.tree.leaves(params)):
        return operator, params
    return jax.tree.map(_wide, operator), jax.tree.map(_tree.at_least_single, params)


def _wide(leaf: Any) -> Any:
    is_float = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
    return _tree.at_least_single(leaf) if is_float else leaf


def product(operator: Objective | Operator, params: PyTree, vector: PyTree, *, where: Any = None) -> PyTree:
    """A curvature matrix times a vector, with the memory of one batch.

    Args:
        operator: an objective for its Hessian, or a `GaussNewton`, `Fisher` or `EmpiricalFisher`.
        params: where. Of an objective, arrays of integers and booleans are set aside, with a warning.
        vector: pytree like `params`, or like what moves of them.
        where: the parameters whose diagonal block it is, as `trainable` of `subspace.split`; by default all.

    Returns:
        A pytree like what moves of `params` (`None` in place of the rest), in at least float32, spread over devices as
        `params` are.

    Raises:
        TypeError: `operator` is neither, or parameters are not real floating-point arrays.
        ValueError: `vector` does not look like `params`; a `Fisher` has an unknown family or no logits of classes; a
            loss is neither one number for each example nor a scalar; `where` matches nothing.
    """
    operator, moving = prepared(operator, params, where)
    if jax.tree.structure(vector) == jax.tree.structure(params) != jax.tree.structure(moving):
        vector = jax.tree.map(lambda m, v: None if m is None else v, moving, vector, is_leaf=lambda x: x is None)
    for path, leaf in jax.tree_util.tree_leaves_with_path(vector):
        text = isinstance(leaf, np.ndarray) and leaf.dtype.kind in _tree.NO_NUMBERS
        if text or (not isinstance(leaf, int | float) and not hasattr(leaf, "shape")):
            raise TypeError(f"vector.{_tree.key_name(path)} must be an array, got {_tree.describe(leaf)}")
    _tree.check_like(vector, moving, "vector", "params")
    places, vector = places_of(moving), by_compiler(vector)
    with matmul_precision():
        if any(places) and not batches_in(operator):
            return _spread_product(operator, moving, vector, places=places)
        return products(operator, moving)(vector)


@partial(jax.jit, static_argnames="places")
def _spread_product(operator: Any, params: PyTree, vector: PyTree, *, places: Places) -> PyTree:
    """As one program, in which nothing has to be whole on one device on its way."""
    return kept(products(operator, params)(vector), places)


def hvp(objective: Objective, params: PyTree, vector: PyTree, *, where: Any = None) -> PyTree:
    """Hessian-vector product, forward over reverse, with the memory of one batch.

    Args:
        objective: the loss whose Hessian it is.
        params: where.
        vector: pytree like `params`, or like what moves of them.
        where: the parameters whose diagonal block it is, as `trainable` of `subspace.split`; by default all.

    Returns:
        A pytree like what moves of `params`, in at least float32.

    Raises:
        TypeError: `objective` is no Objective, or parameters are not real floating-point arrays.
        ValueError: `vector` does not look like `params`, or `where` matches nothing.
    """
    return product(objective, params, vector, where=where)


def check(operator: Any, params: PyTree) -> None:
    """Raise unless it is an objective or an operator, and parameters are real floating-point arrays."""
    if isinstance(operator, type) or not isinstance(operator, Operator):  # an operator itself, not its class
        check_objective(operator, otherwise=", or pass a GaussNewton, Fisher or EmpiricalFisher", streams=True)
    if isinstance(operator, EmpiricalFisher):
        check_objective(operator.objective, "EmpiricalFisher.objective", streams=True)
    if isinstance(operator, Fisher) and operator.family not in ("categorical", "gaussian"):
        raise ValueError(f"Fisher.family must be 'categorical' or 'gaussian', got {operator.family!r}")
    _tree.check_params(params)
    if isinstance(operator, Objective):
        check_means(operator, lambda: params)
    if isinstance(operator, EmpiricalFisher):
        check_means(operator.objective, lambda: params, "EmpiricalFisher.objective", per_example=True)


@dataclass(frozen=True, eq=False)
class Flat:
    """A loss, or an operator, as a function of one vector of at least float32, the ravelled parameters.

    Points are rounded to the precision of the parameters; what is measured there is measured in at least float32.
    """

    objective: Any
    params: PyTree

    @property
    def dtype(self) -> Any:
        """That of the vector."""
        leaves = jax.tree.leaves(self.params)
        return _tree.wide_dtype(*leaves)

    @property
    def start(self) -> Float[Array, " n"]:
        """The parameters as a vector."""
        return ravel_pytree(jax.tree.map(_tree.at_least_single, self.params))[0]

    def tree(self, x: Float[Array, " n"]) -> PyTree:
        """A vector as parameters, in their dtypes."""
        return jax.tree.map(lambda v, p: v.astype(jnp.result_type(p)), self.direction(x), self.params)

    def direction(self, v: Float[Array, " n"]) -> PyTree:
        """A vector as a tree like the parameters, in at least float32."""
        return ravel_pytree(jax.tree.map(_tree.at_least_single, self.params))[1](v)

    def value_and_grad(self, x: Float[Array, " n"]) -> tuple[Float[Array, ""], Float[Array, " n"]]:
        """Loss and gradient."""
        objective, params = widened(self.objective, self.tree(x))
        loss, gradient = objective.value_and_grad(params)
        return loss, ravel_pytree(gradient)[0]

    def products(self, x: Float[Array, " n"]) -> Callable[[Array], Array]:
        """The linear map `v -> H v` at `x`, for many products."""
        linear = products(self.objective, self.tree(x))
        return lambda v: ravel_pytree(jax.tree.map(_tree.at_least_single, linear(self.direction(v))))[0]

    def hessian(self, x: Float[Array, " n"]) -> Float[Array, "n n"]:
        """The dense Hessian at `x`, symmetric to the bit."""
        units = jnp.eye(len(x), dtype=x.dtype)
        column = self.products(x)
        if batches_in(self.objective):
            many = jnp.stack([column(unit) for unit in units])
            return (many + many.T) / 2
        many = jax.vmap(column)(units) if len(x) <= COLUMNS else jax.lax.map(column, units, batch_size=COLUMNS)
        return (many + many.T) / 2


def hessian(objective: Objective | Operator, params: PyTree, *, where: Any = None) -> Float[Array, "n n"]:
    """The whole Hessian over the ravelled parameters (in the order of `jax.flatten_util.ravel_pytree`).

    Args:
        objective: the loss whose Hessian it is, or an operator whose matrix it is.
        params: where.
        where: the parameters whose diagonal block it is, as `trainable` of `subspace.split`; by default all.

    Raises:
        TypeError: `objective` is no Objective, or parameters are not real floating-point arrays.
        ValueError: more than 4,096 parameters, or `where` matches nothing.
    """
    objective, params = prepared(objective, params, where)
    size = _tree.size(params)
    if size > MAX_DENSE:
        raise ValueError(
            f"a dense Hessian of {size} parameters has {size**2:.2g} entries; up to {MAX_DENSE} parameters are taken: "
            "use eigenpairs (extreme eigenvalues) or hvp (products) instead"
        )
    with on_host(objective):
        return _hessian(objective, params)


@jax.jit
def _hessian(objective: Any, params: PyTree) -> Array:
    with matmul_precision():
        flat = Flat(objective, params)
        return flat.hessian(flat.start)
