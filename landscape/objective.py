r"""A loss and its data as one function of the parameters: `Objective` and `Problem`.

The empirical risk is the mean over `n` examples, $L(\theta) = \frac1n \sum_i \ell(\theta; z_i)$. Everything that
is a mean of per-batch quantities (loss, metrics, gradient, Hessian products, batch-norm statistics) goes through
one method, `Objective.mean`, so batches, and the ragged last one, are dealt with in one place.

>>> import jax.numpy as jnp
>>> from landscape import Objective
>>> def squared_error(params, batch):
...     return (batch["x"] @ params["w"] - batch["y"]) ** 2          # one number per example
>>> data = {"x": jnp.array([[1.0], [2.0], [4.0]]), "y": jnp.array([1.0, 2.0, 5.0])}
>>> objective = Objective(squared_error, data, batch_size=2)         # batches of 2 and 1
>>> float(objective({"w": jnp.array([1.0])}))                        # (0 + 0 + 1) / 3
0.3333333432674408
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from landscape import _tree

_static: Any = {"static": True}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Objective:
    """A mean loss over data, callable as `objective(params)`.

    A pytree: the data and the state are leaves, never closures, so another data set of the same shape runs
    through the same compiled program.

    Attributes:
        loss_fn: `loss_fn(params, batch)`, or `loss_fn(params, batch, state)` when `state` is given. Returns the
            per-example losses, shape `(n,)`, or their mean, a scalar; with `has_aux` a pair of that and a dict
            of metrics, each per example `(n,)` or a scalar mean.
        data: pytree whose leaves share their leading axis, the examples. `None` for a plain function.
        has_aux: whether `loss_fn` also returns metrics.
        batch_size: examples per pass; `None` takes all at once. Bounds the memory, never the answer.
        state: pytree of model state that is not trained, such as batch-norm statistics.
        update_state: `update_state(params, batch, state) -> state` *as measured on that batch alone* (a running
            average with momentum 0). `recalibrated` averages it over all batches.
    """

    loss_fn: Callable[..., Any] = field(metadata=_static)
    data: PyTree = None
    has_aux: bool = field(default=False, metadata=_static)
    batch_size: int | None = field(default=None, metadata=_static)
    state: PyTree = None
    update_state: Callable[..., PyTree] | None = field(default=None, metadata=_static)

    @property
    def num_examples(self) -> int | None:
        """Length of the leading axis of the data, `None` without data.

        Raises:
            ValueError: the leaves disagree, one has no leading axis, or there are no examples.
        """
        sizes = {
            _tree.key_name(path): jnp.shape(leaf)[0] if jnp.ndim(leaf) else None
            for path, leaf in jax.tree_util.tree_leaves_with_path(self.data)
        }
        if not sizes:
            return None
        if len(set(sizes.values())) > 1 or None in sizes.values():
            raise ValueError(f"all leaves of Objective.data need the same leading axis (examples), got {sizes}")
        count = next(iter(sizes.values()))
        if count == 0:  # the mean over none is NaN, which would look like a loss that diverged
            raise ValueError(f"Objective.data holds no examples, its leaves have the leading axes {sizes}")
        return count

    def __call__(self, params: PyTree) -> Float[Array, ""]:
        """Mean loss."""
        return self.mean(lambda batch: self._batch_means(params, batch)["loss"])

    def evaluate(self, params: PyTree) -> dict[str, Float[Array, ""]]:
        """Mean loss and mean metrics: `{"loss": .., **metrics}`."""
        return self.mean(lambda batch: self._batch_means(params, batch))

    def value_and_grad(self, params: PyTree) -> tuple[Float[Array, ""], PyTree]:
        """Mean loss and its gradient, with the memory of one batch."""

        def loss(p: PyTree, batch: PyTree) -> Array:
            return self._batch_means(p, batch)["loss"]

        return self.mean(lambda batch: jax.value_and_grad(loss)(params, batch))

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
            return {name: _promote(value) for name, value in named.items() if jnp.ndim(value) == 1}

        count, size = self._count_and_size()
        if count is None or size is None or size >= count:
            return of_batch(self.data)
        full, rest = divmod(count, size)
        parts = jax.lax.map(lambda i: of_batch(self._slice(i * size, size)), jnp.arange(full))
        flat = jax.tree.map(lambda x: x.reshape(-1), parts)
        if not rest:
            return flat
        last = of_batch(self._slice(full * size, rest))
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), flat, last)

    def mean(self, fn: Callable[[PyTree], PyTree]) -> PyTree:
        """Example-weighted mean of `fn(batch)` over all batches, exact for a ragged last one.

        Args:
            fn: maps a batch to a pytree of real numbers, each a *mean over that batch*. The gradient of the
                batch loss is one, so is a Hessian-vector product.
        """
        count, size = self._count_and_size()
        if count is None or size is None or size >= count:
            return jax.tree.map(_promote, fn(self.data))
        full, rest = divmod(count, size)

        def add(total: PyTree, part: PyTree, share: float) -> PyTree:
            return jax.tree.map(lambda t, p: t + share * _promote(p), total, part)

        def step(total: PyTree, index: Array) -> tuple[PyTree, None]:
            return add(total, fn(self._slice(index * size, size)), size / count), None

        shapes = jax.eval_shape(lambda: jax.tree.map(_promote, fn(self._slice(0, size))))
        zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        total, _ = jax.lax.scan(step, zero, jnp.arange(full))
        return add(total, fn(self._slice(full * size, rest)), rest / count) if rest else total

    def take(self, indices: Int[Array, " b"]) -> "Objective":
        """The objective over some of the examples, as one batch."""
        data = jax.tree.map(lambda x: jnp.take(x, indices, axis=0), self.data)
        return dataclasses.replace(self, data=data, batch_size=None)

    def recalibrated(self, params: PyTree) -> "Objective":
        """This objective with its state measured anew at `params`, averaged over all batches.

        What batch norm needs away from the trained weights (Izmailov et al. 2018, section 3.2; Garipov et al.
        2018, appendix): statistics stored at one point mean nothing at another. The mean over batches is weighted
        by their size. Leaves that are not floating point are kept.

        Raises:
            ValueError: there is no `update_state`, or it returns a state of another structure.
        """
        if self.update_state is None:
            raise ValueError("recalibrating needs Objective(update_state=...), the state as measured on one batch")
        update = self.update_state

        leaves, treedef = jax.tree.flatten(self.state)

        def floats(batch: PyTree) -> list[Array]:
            state = update(params, batch, self.state)
            _tree.check_like(state, self.state, "the result of update_state", "Objective.state")
            return [new for new, old in zip(jax.tree.leaves(state), leaves) if _is_float(old)]

        measured = iter(self.mean(floats))
        new = [next(measured).astype(jnp.result_type(x)) if _is_float(x) else x for x in leaves]
        return dataclasses.replace(self, state=jax.tree.unflatten(treedef, new))

    def _count_and_size(self) -> tuple[int | None, int | None]:
        if self.batch_size is None:
            return self.num_examples, None
        _tree.check_count("Objective.batch_size", self.batch_size, 1)
        return self.num_examples, int(self.batch_size)  # an integer of NumPy would widen what it multiplies

    def _slice(self, start: Any, size: int) -> PyTree:
        return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(jnp.asarray(x), start, size), self.data)

    def _named(self, params: PyTree, batch: PyTree) -> dict[str, Any]:
        """Loss and metrics of a batch as returned by `loss_fn`, checked."""
        arguments = (params, batch) if self.state is None else (params, batch, self.state)
        result = self.loss_fn(*arguments)
        if self.has_aux:
            loss, metrics = _split_aux(result)
        else:
            loss, metrics = result, {}
        leaves = jax.tree.leaves(batch)
        count = jnp.shape(leaves[0])[0] if leaves else None
        return {name: _checked(name, value, count) for name, value in {"loss": loss, **metrics}.items()}

    def _batch_means(self, params: PyTree, batch: PyTree) -> dict[str, Array]:
        return {name: jnp.mean(_promote(value)) for name, value in self._named(params, batch).items()}


def _split_aux(result: Any) -> tuple[Any, Mapping[str, Any]]:
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping)):
        raise TypeError(f"with has_aux=True, loss_fn must return (loss, {{name: metric}}), got {type(result).__name__}")
    if "loss" in result[1]:
        raise ValueError("a metric cannot be called 'loss': the loss itself has that name")
    return result


def _checked(name: str, value: Any, count: int | None) -> Any:
    """Raise unless `value` is one real number per example or one in all."""
    if isinstance(value, tuple):
        raise TypeError(f"loss_fn returned a tuple as its {name}; pass has_aux=True for (loss, {{name: metric}})")
    if not isinstance(value, int | float | complex) and not hasattr(value, "dtype"):
        raise TypeError(f"loss_fn must return real numbers, got {_tree.describe(value)} as its {name}")
    if jnp.iscomplexobj(value):
        raise TypeError(
            f"loss_fn must return real numbers, got complex {_tree.describe(value)} as its {name}; "
            "take jnp.abs or jnp.real of it"
        )
    shape = jnp.shape(value)
    if shape != () and (count is None or shape != (count,)):
        wanted = "a scalar" if count is None else f"shape ({count},), one number per example, or a scalar mean"
        raise ValueError(f"loss_fn must return {wanted} as its {name}, got shape {shape}")
    return value


def _is_float(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def _promote(value: Any) -> Array:
    """At least float32: means of bfloat16 losses and of booleans are taken in single precision."""
    value = jnp.asarray(value)
    return value.astype(_tree.wide_dtype(value))


def drawn(key: Array, num: int, size: int) -> Int[Array, " size"]:
    """`size` of `num` examples without replacement: those with the largest of `num` uniform numbers.

    `jax.random.choice` sorts all of them, several times, which on a CPU took twelve times as long for 100 of 4,000.
    """
    return jax.lax.top_k(jax.random.uniform(key, (num,)), size)[1]


def check_objective(value: Any, name: str = "objective", otherwise: str = "") -> None:
    """Raise `TypeError` unless it is an objective; `otherwise` says what else would do."""
    if not isinstance(value, Objective):
        raise TypeError(
            f"{name} must be a landscape.Objective, got {type(value).__name__}; "
            f"wrap a plain function as Objective(lambda params, _: fn(params)){otherwise}"
        )


@dataclass(frozen=True, eq=False)
class Problem:
    """What an experiment needs to know of a model: how to start it and what to measure.

    Attributes:
        init: `init(key) -> params`, a pytree of floating-point arrays.
        objectives: `{"train": .., "test": ..}`; `train` is the one that is minimised, others are only measured.
        predict: `predict(params, inputs)`, where an experiment shows predictions.
        params: parameters that are already trained; experiments then skip the training.
        snapshots: a stack of parameters along a training path, where there is one.
        name: for titles and tables.
    """

    init: Callable[[Array], PyTree]
    objectives: Mapping[str, Objective]
    predict: Callable[..., Any] | None = None
    params: PyTree = None
    snapshots: PyTree = None
    name: str = "problem"

    def check(self) -> None:
        """Raise `TypeError` or `ValueError` naming the field that is not what it should be."""
        if not callable(self.init):
            raise TypeError(f"Problem.init must be a function of a random key, got {type(self.init).__name__}")
        if not isinstance(self.objectives, Mapping) or "train" not in self.objectives:
            names = list(self.objectives) if isinstance(self.objectives, Mapping) else type(self.objectives).__name__
            raise ValueError(f"Problem.objectives must be a dict with the key 'train', got {names}")
        for name, objective in self.objectives.items():
            if not isinstance(objective, Objective):
                raise TypeError(f"Problem.objectives[{name!r}] must be an Objective, got {type(objective).__name__}")
