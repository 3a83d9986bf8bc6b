"""What the data of an objective and the results of its loss may be, said before JAX trips over them."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from landscape import _tree


def tree_as_jax(tree: PyTree) -> PyTree:
    """Numbers and arrays of NumPy as arrays of JAX."""
    return jax.tree.map(_tree.as_jax, tree)


def check_data(name: str, leaf: Any) -> None:
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


def split_aux(result: Any) -> tuple[Any, Mapping[str, Any]]:
    """Loss and metrics of a loss with `has_aux`."""
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping)):
        raise TypeError(f"with has_aux=True, loss_fn must return (loss, {{name: metric}}), got {type(result).__name__}")
    if not all(isinstance(name, str) and name for name in result[1]):
        raise TypeError(f"metrics must be named by strings, got {list(result[1])}")
    if "loss" in result[1]:
        raise ValueError("a metric cannot be called 'loss': the loss itself has that name")
    return result


def checked(name: str, value: Any, count: int | None) -> Any:
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


def is_float(leaf: Any) -> bool:
    """Whether it is of floating-point numbers."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def promote(value: Any) -> Array:
    """At least float32: means of bfloat16 losses and of booleans are taken in single precision."""
    value = jnp.asarray(value)
    return value.astype(_tree.wide_dtype(value))


def checked_weights(value: Any, count: int) -> Array:
    """Weights in at least the precision of coordinates.

    Raises:
        TypeError: they are no real numbers.
        ValueError: they are not one number per example.
    """
    if isinstance(value, bool | int | float) or not hasattr(value, "dtype") or jnp.iscomplexobj(value):
        what = "a real array, one weight for each example"
        raise TypeError(f"weight_fn(batch) must return {what}, shape ({count},), got {_tree.describe(value)}")
    if jnp.shape(value) != (count,):
        raise ValueError(
            f"weight_fn(batch) must return shape ({count},), one weight for each example, got {_tree.describe(value)}; "
            "sum the mask of tokens over all axes but the first"
        )
    return jnp.asarray(value, _tree.wide_dtype(value, jnp.zeros(())))  # shares of them are used in any precision


def check_weights(least: Any, total: Any, name: str) -> None:
    """Raise `ValueError` for weights of which there is no mean; those that are traced are let pass."""
    if least is None or _tree.is_traced(least):
        return
    if not np.isfinite(total):
        raise ValueError(f"{name} gives a weight that is negative, NaN or infinite; weights are finite and at least 0")
    if total == 0:
        raise ValueError(f"{name} gives every example the weight 0, so there is nothing to take a mean over")
