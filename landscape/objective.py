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
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from landscape import _tree
from landscape.checks import check_flag, warn

_static: Any = {"static": True}
UNLIKE, LIKE = 0.25, 0.02  # of a loss: how far from a mean, and how near to a sum, what is no mean has to be
MAX_KNOWN = 256

_DIVIDE: dict[Any, None] = {}  # what was found to divide into examples, the oldest first


@_tree.register
@dataclass(frozen=True, eq=False)
class Objective:
    """A mean loss over data, callable as `objective(params)`.

    A pytree: the data and the state are leaves, never closures, so another data set of the same shape runs
    through the same compiled program.

    Attributes:
        loss_fn: `loss_fn(params, batch)`, or `loss_fn(params, batch, state)` when `state` is given. Returns the
            per-example losses, shape `(n,)`, or their mean, a scalar; with `has_aux` a pair of that and a dict
            of metrics, each per example `(n,)` or a scalar mean. Always given JAX arrays. It may be any callable,
            a method or an object with arrays in it too; by the rule of `jax.jit` these are part of the compiled
            program, so they must not change after.
        data: pytree whose leaves share their leading axis, the examples. `None` for a plain function.
        has_aux: whether `loss_fn` also returns metrics.
        batch_size: examples per pass; `None` takes all at once. Bounds the memory and leaves the answer as it is, to
            rounding, where the loss of an example has nothing to do with the others of its batch. Where it has, as
            under batch norm in training mode, the mean is one over batches of this size, and the tools warn.
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
            TypeError: a leaf is no array of numbers, of NumPy or JAX.
            ValueError: the leaves disagree, one has no leading axis, or there are no examples.
        """
        sizes = {}
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.data, is_leaf=lambda x: isinstance(x, Iterator)):
            _check_data(f"Objective.data.{_tree.key_name(path)}" if path else "Objective.data", leaf)
            sizes[_tree.key_name(path)] = jnp.shape(leaf)[0] if jnp.ndim(leaf) else None
        if not sizes:
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
        _tree.check_whole(self.data, f"{name}.data")
        _tree.check_whole(self.state, f"{name}.state")
        self._count_and_size()

    def __call__(self, params: PyTree) -> Float[Array, ""]:
        """Mean loss."""
        return self.mean(lambda batch: self._batch_means(params, batch)["loss"])

    def evaluate(self, params: PyTree) -> dict[str, Float[Array, ""]]:
        """Mean loss and mean metrics: `{"loss": .., **metrics}`."""
        return self.mean(lambda batch: self._batch_means(params, batch))

    def value_and_grad(self, params: PyTree) -> tuple[Float[Array, ""], PyTree]:
        """Mean loss and its gradient, with the memory of one batch.

        Raises:
            ValueError: JAX can evaluate the loss and has no gradient of it.
        """

        def loss(p: PyTree, batch: PyTree) -> Array:
            return self._batch_means(p, batch)["loss"]

        def slope() -> Any:
            return self.mean(lambda batch: jax.value_and_grad(loss)(params, batch))

        return differentiated(slope, lambda: self(params), "going down on a loss needs its gradient", _BACKWARDS)

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
            return of_batch(self._whole())
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

        Raises:
            TypeError: `fn` is no function, or the data are no arrays of numbers.
            ValueError: the data have no common axis of examples, or the batch size makes no sense.
        """
        _tree.check_takes(fn, "fn", "batch")
        count, size = self._count_and_size()
        if count is None or size is None or size >= count:
            return jax.tree.map(_promote, fn(self._whole()))
        full, rest = divmod(count, size)

        def add(total: PyTree, part: PyTree, share: float) -> PyTree:
            return jax.tree.map(lambda t, p: t + share * _promote(p), total, part)

        def step(total: PyTree, index: Array) -> tuple[PyTree, None]:
            return add(total, fn(self._slice(index * size, size)), size / count), None

        shapes = jax.eval_shape(lambda: jax.tree.map(_promote, fn(self._slice(0, size))))
        zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        total, _ = jax.lax.scan(step, zero, jnp.arange(full))
        return add(total, fn(self._slice(full * size, rest)), rest / count) if rest else total

    def take(self, indices: Int[Array, " b"] | Int[np.ndarray, " b"]) -> "Objective":
        """The objective over some of the examples, as one batch.

        Raises:
            TypeError: indices that are not integers.
            ValueError: there are no data.
        """
        if self.num_examples is None:
            raise ValueError("this objective has no data to take examples from")
        if not jnp.issubdtype(getattr(indices, "dtype", type(indices)), jnp.integer):
            raise TypeError(f"indices must be an array of integers, got {_tree.describe(indices)}")
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
        _tree.check_takes(update, "Objective.update_state", "params", "batch", "state")
        params, old_state = _tree_as_jax((params, self.state))
        leaves, treedef = jax.tree.flatten(old_state)

        def floats(batch: PyTree) -> list[Array]:
            state = update(params, batch, old_state)
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

    def _whole(self) -> PyTree:
        return _tree_as_jax(self.data)

    def _named(self, params: PyTree, batch: PyTree) -> dict[str, Any]:
        """Loss and metrics of a batch as returned by `loss_fn`, checked."""
        leaves = jax.tree.leaves(batch)
        count = jnp.shape(leaves[0])[0] if leaves else None
        return {name: _checked(name, value, count) for name, value in self._returned(params, batch).items()}

    def _returned(self, params: PyTree, batch: PyTree) -> dict[str, Any]:
        """Loss and metrics of a batch by name."""
        self._check_loss_fn("Objective.loss_fn")
        arguments = (params, batch) if self.state is None else (params, batch, self.state)
        result = self.loss_fn(*_tree_as_jax(arguments))
        check_flag("Objective.has_aux", self.has_aux)
        if not self.has_aux:
            return {"loss": result}
        loss, metrics = _split_aux(result)
        return {"loss": loss, **metrics}

    def _check_loss_fn(self, name: str) -> None:
        arguments = ("params", "batch") if self.state is None else ("params", "batch", "state")
        _tree.check_takes(self.loss_fn, name, *arguments, advice=_WRAP)

    def _batch_means(self, params: PyTree, batch: PyTree) -> dict[str, Array]:
        return {name: jnp.mean(_promote(value)) for name, value in self._named(params, batch).items()}


_WRAP = "; wrap a function of the parameters alone as Objective(lambda params, _: fn(params))"


_BACKWARDS = (
    "give loops a length that is known beforehand (jax.lax.scan or fori_loop in place of while_loop), and functions "
    "that JAX cannot see into a jax.custom_vjp"
)


class NoDerivative(ValueError):
    """JAX can evaluate a function, and not differentiate it."""


def differentiated(take: Callable[[], Any], plain: Callable[[], Any], need: str, remedy: str = _BACKWARDS) -> Any:
    """What `take()` gives, by differentiating what `plain()` evaluates.

    Raises:
        NoDerivative: JAX has no such derivative; the message begins with the `need` and ends with the `remedy`. What
            `plain()` itself raises comes through as it is.
    """
    try:
        return take()
    except (TypeError, ValueError, NotImplementedError) as error:
        if not (isinstance(error, NoDerivative) or _can(plain)):
            raise
        cause = error.__cause__ if isinstance(error, NoDerivative) else error
        said = str(cause).strip().splitlines()[0]
        raise NoDerivative(f"{need}, and JAX has none: {said} What helps: {remedy}") from cause


def _can(plain: Callable[[], Any]) -> bool:
    try:
        jax.eval_shape(plain)
    except Exception:
        return False
    return True


def _tree_as_jax(tree: PyTree) -> PyTree:
    return jax.tree.map(_tree.as_jax, tree)


def _check_data(name: str, leaf: Any) -> None:
    """Raise `TypeError` unless it is an array of numbers, or a number."""
    dtype = getattr(leaf, "dtype", None)
    if isinstance(leaf, np.ndarray | np.generic) and np.dtype(dtype).kind in _tree.NO_NUMBERS:
        raise TypeError(
            f"{name} must hold numbers, got an array of {np.dtype(dtype)}: encode text and dates, pad ragged rows"
        )
    known = isinstance(leaf, np.ndarray | np.generic | jax.Array | jax.ShapeDtypeStruct | bool | int | float | complex)
    if not known and not hasattr(leaf, "__jax_array__"):
        raise TypeError(f"{name} must be an array of NumPy or JAX, got {_tree.describe(leaf)}; {_data_advice(leaf)}")


def _data_advice(leaf: Any) -> str:
    """How to make an array of it."""
    if isinstance(leaf, str | bytes):
        return "encode text as numbers"
    if _tree.is_of_torch(leaf) and hasattr(leaf, "numpy"):
        return "this is a torch tensor: pass tensor.detach().cpu().numpy()"
    if hasattr(leaf, "__array__"):
        return "pass np.asarray(..) of it"
    if hasattr(leaf, "__iter__") or hasattr(leaf, "__getitem__"):
        return (
            "an Objective holds all examples, and batch_size= bounds the memory of a pass: collect what comes in "
            "batches by data = jax.tree.map(lambda *parts: np.concatenate(parts), *batches)"
        )
    return "a pytree of arrays whose first axis counts the examples is what it takes"


def _split_aux(result: Any) -> tuple[Any, Mapping[str, Any]]:
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping)):
        raise TypeError(f"with has_aux=True, loss_fn must return (loss, {{name: metric}}), got {type(result).__name__}")
    if not all(isinstance(name, str) and name for name in result[1]):
        raise TypeError(f"metrics must be named by strings, got {list(result[1])}")
    if "loss" in result[1]:
        raise ValueError("a metric cannot be called 'loss': the loss itself has that name")
    return result


def _checked(name: str, value: Any, count: int | None) -> Any:
    """Raise unless `value` is one real number per example or one in all."""
    if isinstance(value, tuple):
        raise TypeError(f"loss_fn returned a tuple as its {name}; pass has_aux=True for (loss, {{name: metric}})")
    if value is None:
        raise TypeError(f"loss_fn must return real numbers, got None as its {name}: is a `return` missing?")
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
    """Raise unless it is an objective whose fields are what they should be; `otherwise` says what else would do."""
    if not isinstance(value, Objective):
        raise TypeError(
            f"{name} must be a landscape.Objective, got {type(value).__name__}; "
            f"wrap a plain function as Objective(lambda params, _: fn(params)){otherwise}"
        )
    value.check(name)


def check_named(objectives: Mapping[Any, Any], what: str, at_least: int = 0) -> None:
    """Raise unless they are objectives by name."""
    if len(objectives) < at_least:
        raise ValueError(f"{what} must hold at least one Objective, got none")
    for name, objective in objectives.items():
        if not isinstance(name, str) or not name:
            raise TypeError(f"{what} must be named by strings, got {name!r}")
        check_objective(objective, f"{what}[{name!r}]")


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


# ------------------------------------------------------------------------------------------ what makes it a mean


def check_means(
    objective: Objective, params: Callable[[], PyTree], name: str = "objective", *, per_example: bool = False
) -> None:
    """Warn where the mean of what an objective measures depends on `batch_size`, since rows of a batch interact.

    Looks once, before anything is compiled, at a few batches of the objective's own size: two halves of one are
    exchanged for others, by one program, so what is added up over examples adds up again to the last digits. What
    cannot be looked at, for it is traced, not finite or raises, is let pass.

    Args:
        objective: a checked objective.
        params: gives parameters to look at it; called only where there is something to find.
        name: the objective's name in messages.
        per_example: whether what is asked for needs the loss of each example.

    Raises:
        ValueError: `per_example`, and examples interact; or a metric has the shape `(n,)` of per-example numbers by
            chance, as it keeps it for another number of examples.
    """
    count, size = objective._count_and_size()
    if count is None or count < 2:
        return
    batched = size is not None and size < count
    if not batched and not per_example and not objective.has_aux:
        return
    rows = max(2, min(size or count, count))
    at = params()
    _check_axes(objective, at, rows, name)
    if not (batched or per_example) or any(map(_tree.is_traced, jax.tree.leaves((objective, at)))):
        return
    for said, of_rows in _interactions(objective, at, rows):
        if per_example and of_rows:
            raise ValueError(f"{name}: {said}, so there are no independent examples to measure; {_INSTEAD}")
        if batched:
            warn(f"{name}: {said}, so the answer depends on batch_size={size}; leave it away, or {_INSTEAD}")


_INSTEAD = (
    "use what does not depend on the batch (stored statistics of batch norm, Objective(state=..)), or make batches the "
    "examples, as under 'Batches as examples' in docs/your_own_model.md"
)


def _check_axes(objective: Objective, params: PyTree, rows: int, name: str) -> None:
    """Raise where a result of `rows` numbers keeps that number for half as many examples."""

    def shapes(num: int) -> dict[str, Any]:
        data = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((num, *jnp.shape(x)[1:]), jnp.result_type(x)), objective.data
        )
        values = jax.eval_shape(objective._returned, params, data)
        return {metric: getattr(value, "shape", None) for metric, value in values.items()}

    try:
        whole, half = shapes(rows), shapes(rows // 2)
    except Exception:  # for one batch size only; what the loss itself raises, it will raise again
        return
    for metric, shape in whole.items():
        if shape == half[metric] == (rows,):
            raise ValueError(
                f"{name}: loss_fn returns {rows} numbers as its {metric} for {rows} examples and for {rows // 2}: one "
                "for each class or output, not for each example; average them, or return one scalar metric for each"
            )


def _interactions(objective: Objective, params: PyTree, rows: int) -> list[tuple[str, bool]]:
    """What is no mean over examples, and why; and whether there is a number for each row. Remembers what is one."""
    bare = dataclasses.replace(objective, data=None, batch_size=None)
    shapes = [jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree) for tree in (params, objective.data)]
    key = jax.tree.structure((bare, params)), str(shapes), rows
    if key in _DIVIDE:
        return []
    count = int(objective.num_examples or 0)
    few = np.random.default_rng(0).choice(count, min(count, 2 * rows), replace=False)
    pool = np.resize(np.concatenate([few, few[::-1]]), 2 * rows)
    try:
        said = _compare(bare, params, jax.tree.map(lambda x: x[pool], objective.data), rows)
    except Exception:  # what is wrong with the loss, it will raise where it is used
        return []
    if not said:
        _DIVIDE[key] = None
        while len(_DIVIDE) > MAX_KNOWN:
            del _DIVIDE[next(iter(_DIVIDE))]
    return said


def _compare(bare: Objective, params: PyTree, data: PyTree, rows: int) -> list[tuple[str, bool]]:
    """Exchange rows of two batches in several ways, then take the halves of one as batches of their own."""

    def measure(index: np.ndarray, nudge: float = 0.0) -> dict[str, np.ndarray]:
        values = _measured(bare, params, data, index, nudge)
        return {name: np.asarray(value) for name, value in values.items()}

    x, y, half = *np.split(np.arange(2 * rows), 2), rows // 2
    masks = [x < half, x % 2 == 0, x == 0]
    mixed = [(measure(np.where(mask, y, x)), measure(np.where(mask, x, y))) for mask in masks]
    both, nudged = (measure(x), measure(y)), measure(x, nudge=2.0)
    low = _lowest_precision(jax.make_jaxpr(_measured)(bare, params, data, x, 0.0))
    try:
        halves = measure(x[:half]), measure(x[half:])
    except Exception:  # a loss for batches of one size
        halves = None
    said = []
    with np.errstate(all="ignore"):
        for name, value in nudged.items():
            first, second = both[0][name], both[1][name]
            off = max(_mismatch(m, first, second, u[name], v[name]) for m, (u, v) in zip(masks, mixed))
            if off > _rounding(first, second, value, low):
                text = f"the {name} of an example depends on the others of its batch, as by batch norm in training mode"
                said.append((text, bool(value.ndim)))
            elif halves and _is_other(half / rows, *(float(np.mean(z[name])) for z in (both[0], *halves))):
                text = f"the {name} of a batch is not the mean over its examples (is it a sum, or a maximum?)"
                said.append((text, bool(value.ndim)))
    return said


@jax.jit
def _measured(bare: Objective, params: PyTree, data: PyTree, index: Array, nudge: Any) -> dict[str, Array]:
    """What is measured on some rows, with parameters off by `nudge` units in the last place."""

    def nudged(x: Any) -> Any:
        return x * (1 + nudge * jnp.finfo(x.dtype).eps).astype(x.dtype) if _is_float(x) else x

    batch = jax.tree.map(lambda x: x[index], data)
    values = bare._named(jax.tree.map(nudged, _tree_as_jax(params)), batch)
    return jax.tree.map(jnp.asarray, values)


def _mismatch(mask: np.ndarray, first: np.ndarray, second: np.ndarray, mixed: np.ndarray, rest: np.ndarray) -> float:
    """By how much what two batches give does not add up when the rows of a mask change sides.

    Each row keeps its place in the batch, so in one and the same program it is rounded alike.
    """
    first, second, mixed, rest = (np.asarray(x, np.float64) for x in (first, second, mixed, rest))
    off = mixed - np.where(mask, second, first) if first.ndim else (first - mixed) + (second - rest)
    return float(np.max(np.abs(off)))


def _rounding(first: np.ndarray, second: np.ndarray, nudged: np.ndarray, low: float) -> float:
    """What sums over a batch may lose to rounding: by the type, and by what the last places of the parameters do."""
    eps = float(jnp.finfo(first.dtype).eps) if jnp.issubdtype(first.dtype, jnp.floating) else 0.0
    first, second, nudged = (np.asarray(x, np.float64) for x in (first, second, nudged))
    share = max(eps**0.5 / 4, 0.0 if first.ndim else 4 * low)
    return max(share * float(np.max(np.abs([first, second]))), 8 * float(np.max(np.abs(nudged - first))))


def _is_other(share: float, whole: float, first: float, second: float) -> bool:
    """Whether a batch gives the sum or the largest of what its parts give, or each example over their number.

    Coarsely, as the parts are computed by another program, which rounds otherwise, and that may be all of a small loss.
    """
    size = max(abs(whole), abs(first), abs(second))
    mean, over_number = share * first + (1 - share) * second, share**2 * first + (1 - share) ** 2 * second
    if not abs(whole - mean) > UNLIKE * size:
        return False
    return any(abs(whole - other) <= LIKE * size for other in (first + second, over_number, max(first, second)))


def _lowest_precision(program: Any) -> float:
    """The coarsest rounding in a program, as far as it is below single precision."""
    kinds = set(re.findall(r"\b(bf16|f16|f8_\w+)\[", str(program)))
    steps = {"bf16": 2.0**-7, "f16": 2.0**-10}
    return max((steps.get(kind, 0.25) for kind in kinds), default=0.0)


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
            check_objective(objective, f"Problem.objectives[{name!r}]")
