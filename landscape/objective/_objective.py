"""`Objective`: a loss and its data as one function of the parameters."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from landscape import _tree
from landscape.checks import check_flag
from landscape.moving import join, split
from landscape.objective._batches import Batches
from landscape.objective._derivatives import differentiated
from landscape.objective._inputs import (
    check_data,
    check_weights,
    checked,
    checked_weights,
    is_float,
    promote,
    split_aux,
    tree_as_jax,
)

_static: Any = {"static": True}


@_tree.register
@dataclass(frozen=True, eq=False)
class Objective:
    r"""A mean loss over data, callable as `objective(params)`.

    A pytree: the data and the state are leaves, never closures, so another data set of the same shape runs
    through the same compiled program.

    Attributes:
        loss_fn: `loss_fn(params, batch)`, or `loss_fn(params, batch, state)` when `state` is given. Returns the
            per-example losses, shape `(n,)`, or their mean, a scalar (with `weight_fn` the weighted one); with
            `has_aux` a pair of that and a dict of metrics, each per example `(n,)` or a scalar mean. Always given JAX
            arrays. It may be any callable, a method or an object with arrays in it too; by the rule of `jax.jit` these
            are part of the compiled program, so they must not change after.
        data: pytree whose leaves share their leading axis, the examples; `Batches` for data larger than memory. `None`
            for a plain function.
        has_aux: whether `loss_fn` also returns metrics.
        batch_size: examples per pass; `None` takes all at once. Bounds the memory and leaves the answer as it is, to
            rounding, where the loss of an example has nothing to do with the others of its batch. Where it has, as
            under batch norm in training mode, the mean is one over batches of this size, and the tools warn.
        state: pytree of model state that is not trained, such as batch-norm statistics.
        update_state: `update_state(params, batch, state) -> state` *as measured on that batch alone* (a running
            average with momentum 0). `recalibrated` averages it over all batches.
        weight_fn: `weight_fn(batch) -> (n,)`, the weight of each example: its number of tokens, or that of its class.
            The loss is then $\sum_i w_i \ell_i / \sum_i w_i$, and so is each metric, whatever `batch_size` is. Weights
            are finite and not negative, and depend on an example alone. An example of weight 0 does not count, whatever
            its loss is. Where a weight is negative or NaN or all are 0, entries raise, and compiled code gives NaN.
        batched: whether the data divide into examples, along the leading axis of every leaf. `False` for a loss of all
            data at once, a graph, a contrastive loss, sets of unequal sizes: it returns a scalar, the leaves of the
            data may have any shapes, and whatever would divide the data (`batch_size`, `weight_fn`, the loss of each
            example) is refused.
        frozen: parameters that stay, the other part of `subspace.split(params, trainable)`. Parameters are then those
            that move, and `loss_fn` and `update_state` get the whole. An argument
            of every compiled program, no constant in it.
    """

    loss_fn: Callable[..., Any] = field(metadata=_static)
    data: PyTree = None
    has_aux: bool = field(default=False, metadata=_static)
    batch_size: int | None = field(default=None, metadata=_static)
    state: PyTree = None
    update_state: Callable[..., PyTree] | None = field(default=None, metadata=_static)
    weight_fn: Callable[[PyTree], Any] | None = field(default=None, metadata=_static)
    batched: bool = field(default=True, metadata=_static)
    frozen: PyTree = None

    @property
    def num_examples(self) -> int | None:
        """Length of the leading axis of the data, `None` without data and where they have none (`batched=False`).

        Raises:
            TypeError: a leaf is no array of numbers, of NumPy or JAX.
            ValueError: the leaves disagree, one has no leading axis, or there are no examples.
        """
        if isinstance(self.data, Batches):
            return self.data.survey.num_examples
        sizes = {}
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.data, is_leaf=lambda x: isinstance(x, Iterator)):
            check_data(f"Objective.data.{_tree.key_name(path)}" if path else "Objective.data", leaf)
            sizes[_tree.key_name(path)] = jnp.shape(leaf)[0] if jnp.ndim(leaf) else None
        if not sizes or not self.batched:
            return None
        if len(set(sizes.values())) > 1 or None in sizes.values():
            advice = "; make arrays of numbers, np.asarray(..)" if None in sizes.values() else ""
            raise ValueError(f"all leaves of Objective.data need the same leading axis (examples), got {sizes}{advice}")
        count = next(iter(sizes.values()))
        if count == 0:  # the mean over none is NaN, which would look like a loss that diverged
            raise ValueError(f"Objective.data holds no examples, its leaves have the leading axes {sizes}")
        return count

    def check(self, name: str = "objective") -> None:
        """Raise `TypeError` or `ValueError` for fields that are not what they should be; `name` is for the message."""
        self._check_loss_fn(f"{name}.loss_fn")
        check_flag(f"{name}.has_aux", self.has_aux)
        if self.update_state is not None:
            _tree.check_takes(self.update_state, f"{name}.update_state", "params", "batch", "state")
        check_flag(f"{name}.batched", self.batched)
        self._count_and_size()
        _tree.check_whole(self.data, f"{name}.data")
        _tree.check_whole(self.state, f"{name}.state")
        if self.weight_fn is not None:
            _tree.check_takes(self.weight_fn, f"{name}.weight_fn", "batch")
            if isinstance(self.data, Batches):
                self.block_shares()
            else:
                check_weights(*_extremes_of(self), f"{name}.weight_fn")

    def __call__(self, params: PyTree) -> Float[Array, ""]:
        """Mean loss."""
        return self._mean_of(_loss, params)

    def evaluate(self, params: PyTree) -> dict[str, Float[Array, ""]]:
        """Mean loss and mean metrics: `{"loss": .., **metrics}`."""
        return self._mean_of(_means, params)

    def value_and_grad(self, params: PyTree) -> tuple[Float[Array, ""], PyTree]:
        """Mean loss and its gradient, with the memory of one batch.

        Raises:
            ValueError: JAX can evaluate the loss and has no gradient of it.
        """
        need = "going down on a loss needs its gradient"
        return differentiated(lambda: self._mean_of(_slope, params), lambda: self(params), need)

    def per_example(self, params: PyTree) -> Float[Array, " n"]:
        """The loss of each example.

        Raises:
            ValueError: `loss_fn` returns a scalar mean.
        """
        return self.examples(params)["loss"]

    def examples(self, params: PyTree) -> dict[str, Float[Array, " n"]]:
        """Loss and metrics of each example; metrics that are scalar means are left out.

        Raises:
            ValueError: `loss_fn` returns a scalar mean.
        """

        def of_batch(batch: PyTree) -> dict[str, Array]:
            named = self._named(params, batch)
            if jnp.ndim(named["loss"]) == 0:
                raise ValueError(
                    "this needs the loss of each example, but loss_fn returns a scalar: "
                    "return the losses before averaging, shape (n,)"
                )
            return {name: promote(value) for name, value in named.items() if jnp.ndim(value) == 1}

        if not self.batched:
            raise ValueError("this needs the loss of each example, but the objective has none: batched=False")
        return self._each(of_batch)

    def weights(self) -> Float[Array, " n"]:
        """The weight of each example; NaN for negative ones.

        Raises:
            ValueError: there is no `weight_fn`, or it does not return one number per example.
        """
        return self._each(self._weights)

    def _each(self, of_batch: Callable[[PyTree], Any]) -> Any:
        """What every example has, of all batches."""
        if isinstance(self.data, Batches):
            parts = [jax.jit(of_batch)(block) for block in self.data.blocks()]
            return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
        count, size = self._count_and_size()
        if count is None or size is None or size >= count:
            return of_batch(self._whole())
        full, rest = divmod(count, size)
        parts = jax.lax.map(lambda i: of_batch(self._slice(i * size, size)), jnp.arange(full))
        flat = jax.tree.map(lambda x: x.reshape(-1), parts)
        if not rest:
            return flat
        last = of_batch(self._slice(full * size, rest))
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), flat, last)

    def mean(self, fn: Callable[[PyTree], PyTree]) -> PyTree:
        """Mean of `fn(batch)` over all batches, each by its examples or their weights: exact for a ragged last one.

        Args:
            fn: maps a batch to a pytree of real numbers, each a *mean over that batch*, with `weight_fn` a weighted
                one. The gradient of the batch loss is one, so is a Hessian-vector product.

        Raises:
            TypeError: `fn` is no function, or the data are no arrays of numbers.
            ValueError: the data have no common axis of examples, or the batch size makes no sense.
        """
        _tree.check_takes(fn, "fn", "batch")
        if isinstance(self.data, Batches):
            return self.over_blocks(jax.jit(fn))
        count, size = self._count_and_size()
        if count is None or size is None or size >= count:
            return self._defined(self._whole(), fn(self._whole()))
        full, rest = divmod(count, size)
        share = self._shares(count)

        def add(total: PyTree, batch: PyTree) -> PyTree:
            part, of_all = jax.tree.map(promote, fn(batch)), share(batch)
            part = jax.lax.optimization_barrier(part)  # else XLA rounds it otherwise than `Batches` do
            return jax.tree.map(lambda t, p: t + shared(of_all, p), total, part)

        def step(total: PyTree, index: Array) -> tuple[PyTree, None]:
            return add(total, self._slice(index * size, size)), None

        shapes = jax.eval_shape(lambda: jax.tree.map(promote, fn(self._slice(0, size))))
        zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        total, _ = jax.lax.scan(step, zero, jnp.arange(full))
        return add(total, self._slice(full * size, rest)) if rest else total

    def over(self, batch: PyTree) -> "Objective":
        """This objective over one batch alone."""
        return dataclasses.replace(self, data=batch, batch_size=None)

    def _mean_of(self, measure: Callable[..., PyTree], *arguments: Any) -> PyTree:
        """Mean over all batches of `measure(objective over a batch, *arguments)`, a function of a module."""
        if isinstance(self.data, Batches):
            return self.over_blocks(lambda block: _compiled(self.over(block), *arguments, measure=measure))
        return self.mean(lambda batch: measure(self.over(batch), *arguments))

    def over_blocks(self, fn: Callable[[PyTree], PyTree]) -> PyTree:
        """`mean` over `Batches`: a loop on the host, one block after the other, by a function that was compiled."""
        self._count_and_size()
        shares, total = self.block_shares(), None
        with jax.disable_jit(False):
            for index, block in enumerate(self.data.blocks()):
                part = jax.tree.map(promote, fn(block))
                if any(map(_tree.is_traced, jax.tree.leaves(part))):
                    raise TypeError(_NOT_TRACED)
                total = added(total, part, shares[index])
        return total

    def block_shares(self) -> list[Any]:
        """What share of the whole each block of `Batches` has."""
        if self.weight_fn is None:
            survey = self.data.survey
            return [size / survey.num_examples for size in survey.sizes]
        known, key = self.data.weights, _tree.fixed(self.weight_fn)
        if key not in known:
            bare = Objective(_nothing, weight_fn=self.weight_fn)
            extremes = [tuple(map(np.asarray, _extremes(bare.over(block)))) for block in self.data.blocks()]
            check_weights(min(x[0] for x in extremes), sum(x[1] for x in extremes), "weight_fn")
            known[key] = tuple(x[1] for x in extremes)
        whole = sum(known[key])
        return [jnp.asarray(weight / whole) for weight in known[key]]

    def _shares(self, count: int) -> Callable[[PyTree], Any]:
        """What share of the whole a batch has."""
        if self.weight_fn is None:
            return lambda batch: len(jax.tree.leaves(batch)[0]) / count
        whole = jnp.sum(self.weights())
        return lambda batch: jnp.sum(self._weights(batch)) / whole

    def _defined(self, batch: PyTree, means: PyTree) -> PyTree:
        """Means over one batch that is all there is: NaN where it weighs nothing."""
        means = jax.tree.map(promote, means)
        if self.weight_fn is None:
            return means
        defined = jnp.sum(self._weights(batch)) > 0
        return jax.tree.map(lambda x: jnp.where(defined, x, jnp.nan), means)

    def whole(self, params: PyTree) -> PyTree:
        """All parameters of the model: those that move with those that are frozen."""
        return params if self.frozen is None else join(params, self.frozen)

    def take(self, indices: Int[Array, " b"] | Int[np.ndarray, " b"]) -> "Objective":
        """The objective over some of the examples, as one batch.

        Raises:
            TypeError: indices that are not integers.
            ValueError: there are no data.
        """
        if self.num_examples is None:
            why = "" if self.batched else ": batched=False says that they do not divide into examples"
            raise ValueError(f"this objective has no data to take examples from{why}")
        if not jnp.issubdtype(getattr(indices, "dtype", type(indices)), jnp.integer):
            raise TypeError(f"indices must be an array of integers, got {_tree.describe(indices)}")
        data = jax.tree.map(lambda x: jnp.take(x, indices, axis=0), self.data)
        return dataclasses.replace(self, data=data, batch_size=None)

    def recalibrated(self, params: PyTree) -> "Objective":
        """This objective with its state measured anew at `params`, averaged over all batches.

        What batch norm needs away from the trained weights (Izmailov et al. 2018, section 3.2; Garipov et al.
        2018, appendix): statistics stored at one point mean nothing at another. The mean over batches is weighted
        by their size, never by `weight_fn`. Leaves that are not floating point are kept.

        Raises:
            ValueError: there is no `update_state`, or it returns a state of another structure.
        """
        if self.update_state is None:
            raise ValueError("recalibrating needs Objective(update_state=...), the state as measured on one batch")
        update = self.update_state
        _tree.check_takes(update, "Objective.update_state", "params", "batch", "state")
        params, old_state = tree_as_jax((self.whole(params), self.state))
        leaves, treedef = jax.tree.flatten(old_state)

        def floats(batch: PyTree) -> list[Array]:
            state = update(params, batch, old_state)
            _tree.check_like(state, self.state, "the result of update_state", "Objective.state")
            return [new for new, old in zip(jax.tree.leaves(state), leaves) if is_float(old)]

        measured = iter(dataclasses.replace(self, weight_fn=None).mean(floats))
        new = [next(measured).astype(jnp.result_type(x)) if is_float(x) else x for x in leaves]
        return dataclasses.replace(self, state=jax.tree.unflatten(treedef, new))

    def _count_and_size(self) -> tuple[int | None, int | None]:
        if not self.batched:
            self._refuse_division()
        if isinstance(self.data, Batches) and (self.batch_size is not None or not self.batched):
            option = "batched=False" if not self.batched else f"batch_size={self.batch_size}"
            raise ValueError(
                f"{option} does not go with Batches: what they give is taken batch by batch; leave it away"
            )
        if self.batch_size is None:
            return self.num_examples, None
        _tree.check_count("Objective.batch_size", self.batch_size, 1)
        return self.num_examples, int(self.batch_size)  # an integer of NumPy would widen what it multiplies

    def _refuse_division(self) -> None:
        """With `batched=False`, raise for what would divide the data."""
        for option in ("batch_size", "weight_fn"):
            if getattr(self, option) is not None:
                raise ValueError(
                    f"Objective({option}=) divides the data into examples, and batched=False says that the loss takes "
                    "them all at once: leave one of the two away"
                )

    def _slice(self, start: Any, size: int) -> PyTree:
        return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(jnp.asarray(x), start, size), self.data)

    def _whole(self) -> PyTree:
        return tree_as_jax(self.data)

    def _named(self, params: PyTree, batch: PyTree) -> dict[str, Any]:
        """Loss and metrics of a batch as returned by `loss_fn`, checked."""
        leaves = jax.tree.leaves(batch)
        count = jnp.shape(leaves[0])[0] if leaves and self.batched else None
        return {name: checked(name, value, count) for name, value in self._returned(params, batch).items()}

    def _returned(self, params: PyTree, batch: PyTree) -> dict[str, Any]:
        """Loss and metrics of a batch by name."""
        self._check_loss_fn("Objective.loss_fn")
        params = self.whole(params)
        arguments = (params, batch) if self.state is None else (params, batch, self.state)
        result = self.loss_fn(*tree_as_jax(arguments))
        check_flag("Objective.has_aux", self.has_aux)
        if not self.has_aux:
            return {"loss": result}
        loss, metrics = split_aux(result)
        return {"loss": loss, **metrics}

    def _check_loss_fn(self, name: str) -> None:
        arguments = ("params", "batch") if self.state is None else ("params", "batch", "state")
        _tree.check_takes(self.loss_fn, name, *arguments, advice=_WRAP)

    def _batch_means(self, params: PyTree, batch: PyTree) -> dict[str, Array]:
        named = self._named(params, batch)
        if self.weight_fn is None:
            return {name: jnp.mean(promote(value)) for name, value in named.items()}
        weights = self._weights(batch)
        whole = jnp.sum(weights)
        shares = weights / jnp.where(whole == 0, 1, whole)  # finite, so that slopes of batches that do not count are 0
        return {name: jnp.sum(shared(shares, value)) if value.ndim else value for name, value in _wide(named)}

    def _weights(self, batch: PyTree) -> Float[Array, " n"]:
        """The weights of a batch, NaN where there can be none."""
        if self.weight_fn is None:
            raise ValueError("this objective has no weight_fn: its examples weigh the same")
        weights = checked_weights(self.weight_fn(batch), jnp.shape(jax.tree.leaves(batch)[0])[0])
        return jnp.where(weights >= 0, weights, jnp.nan)


def _means(part: Objective, params: PyTree) -> dict[str, Array]:
    return part._batch_means(params, part.data)


def _loss(part: Objective, params: PyTree) -> Array:
    return _means(part, params)["loss"]


def _slope(part: Objective, params: PyTree) -> tuple[Array, PyTree]:
    return jax.value_and_grad(lambda p: _loss(part, p))(params)


@partial(jax.jit, static_argnames="measure")
def _compiled(part: Objective, *arguments: Any, measure: Callable[..., PyTree]) -> PyTree:
    """What is measured on one block, compiled once for its shape."""
    return measure(part, *arguments)


@partial(jax.jit, static_argnames="share")
def _plus(total: PyTree, part: PyTree, weight: Any = None, *, share: float | None = None) -> PyTree:
    """The term of one block added, in the arithmetic of `Objective.mean`: there too numbers are part of the program."""
    return jax.tree.map(lambda t, p: t + shared(weight if share is None else share, p), total, part)


def added(total: PyTree, part: PyTree, share: Any) -> PyTree:
    """The sum over blocks with one more: `total + share * part`, from `None` on."""
    total = jax.tree.map(jnp.zeros_like, part) if total is None else total
    return _plus(total, part, share=share) if type(share) is float else _plus(total, part, share)


_NOT_TRACED = (
    "Batches are read by a loop on the host, so an objective over them cannot be part of jax.jit, grad or vmap; call "
    "objective.value_and_grad, curvature.hvp or sweep, or hold the data in memory as arrays"
)


def shared(share: Any, value: Array) -> Array:
    """A value times its share of the whole; what has none does not count, whatever its value."""
    if type(share) is float:
        return share * value
    return jnp.where(share == 0, 0, share.astype(value.dtype) * value)


def _wide(named: Mapping[str, Any]) -> Iterator[tuple[str, Array]]:
    return ((name, promote(value)) for name, value in named.items())


def _extremes_of(objective: Objective) -> tuple[Any, Any]:
    """The least of all weights and their sum, `None` where they cannot be looked at yet."""
    leaves = jax.tree.leaves(objective.data)
    if not leaves or any(_tree.is_traced(x) or isinstance(x, jax.ShapeDtypeStruct) for x in leaves):
        return None, None
    weightless = Objective(_nothing, objective.data, batch_size=objective.batch_size, weight_fn=objective.weight_fn)
    return _extremes(weightless)


@jax.jit
def _extremes(objective: Objective) -> tuple[Array, Array]:
    weights = objective.weights()
    return jnp.min(weights), jnp.sum(weights)


def _nothing(params: PyTree, batch: PyTree) -> Array:
    return jnp.zeros(())


_WRAP = "; wrap a function of the parameters alone as Objective(lambda params, _: fn(params))"


def drawn(key: Array, num: int, size: int) -> Int[Array, " size"]:
    """`size` of `num` examples without replacement: those with the largest of `num` uniform numbers.

    `jax.random.choice` sorts all of them, several times, which on a CPU took twelve times as long for 100 of 4,000.
    """
    return jax.lax.top_k(jax.random.uniform(key, (num,)), size)[1]


def check_objective(value: Any, name: str = "objective", otherwise: str = "", streams: bool = False) -> None:
    """Raise unless it is an objective whose fields are what they should be.

    Args:
        value: what was given.
        name: what it is called in messages.
        otherwise: what else would do.
        streams: whether its data may come as `Batches`.
    """
    if not isinstance(value, Objective):
        raise TypeError(
            f"{name} must be a landscape.Objective, got {type(value).__name__}; "
            f"wrap a plain function as Objective(lambda params, _: fn(params)){otherwise}"
        )
    if isinstance(value.data, Batches) and not streams:
        raise TypeError(
            f"{name} has its data in Batches, which LossSurface and the curvature functions take; here they are needed "
            "in memory: collect them, data = jax.tree.map(lambda *parts: np.concatenate(parts), *batches.blocks())"
        )
    value.check(name)


def set_aside(objective: Any, params: PyTree) -> tuple[Any, PyTree]:
    """The objective and what moves of the parameters, where there are integers or booleans among them, with a warning.

    For entries that take one model's parameters with an objective: integers then stay (`Objective.frozen`). Where there
    is nothing that could move, or something else that cannot, all is as it was, for checks to refuse.
    """
    leaves = jax.tree.leaves(params)
    kinds, arrays = (jnp.integer, jnp.bool_), jax.Array | np.ndarray | np.generic
    whole = [isinstance(x, arrays) and any(jnp.issubdtype(x.dtype, kind) for kind in kinds) for x in leaves]
    able = [_tree.is_real(x) for x in leaves]
    mixed = any(whole) and any(able) and all(a or b for a, b in zip(whole, able))
    if not mixed or not isinstance(objective, Objective) or objective.frozen is not None:
        return objective, params
    parts = split(params)
    return dataclasses.replace(objective, frozen=parts.frozen), parts.moving


def check_named(objectives: Mapping[Any, Any], what: str, at_least: int = 0, streams: bool = False) -> None:
    """Raise unless they are objectives by name."""
    if len(objectives) < at_least:
        raise ValueError(f"{what} must hold at least one Objective, got none")
    for name, objective in objectives.items():
        if not isinstance(name, str) or not name:
            raise TypeError(f"{what} must be named by strings, got {name!r}")
        check_objective(objective, f"{what}[{name!r}]", streams=streams)


def joined(*measured: Mapping[str, Any]) -> dict[str, Any]:
    """Several dicts of outputs as one.

    Raises:
        ValueError: two outputs have one name, so that one of them would be lost.
    """
    everything: dict[str, Any] = {}
    for outputs in measured:
        twice = sorted(everything.keys() & outputs.keys())
        if twice:
            raise ValueError(
                f"two outputs are called {twice[0]!r}; rename a metric or an objective (what it measures is called "
                "{objective}_{metric}), or name a function by a pair (name, function)"
            )
        everything |= outputs
    return everything
