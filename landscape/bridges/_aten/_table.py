"""The table of operators: which function of JAX stands for which operator of PyTorch, and its rules of promotion."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Lowering = Callable[..., Any]

OPERATORS: dict[str, Lowering] = {}


def operator(*names: str) -> Callable[[Lowering], Lowering]:
    """Enter a function under names of ATen, `add` for all overloads or `max.dim` for one.

    It is called with the arguments of the operator's schema, in order, defaults filled in.
    """

    def enter(fn: Lowering) -> Lowering:
        OPERATORS.update(dict.fromkeys(names, fn))
        return fn

    return enter


def find(name: str) -> Lowering | None:
    """The function for `add.Tensor`: its own, or that of all overloads."""
    return OPERATORS.get(name) or OPERATORS.get(name.rpartition(".")[0])


def as_dtype(name: str | None, otherwise: Any = None) -> Any:
    """A type by its name as this process has it: 64 bits only where JAX has them."""
    return jax.dtypes.canonicalize_dtype(jnp.dtype(name) if name else otherwise)


def aligned(*values: Any) -> tuple[jax.Array, ...]:
    """Operands in their common type and with equally many axes, by the rules of PyTorch."""
    dtype = common_dtype(*values)
    arrays = [jnp.asarray(value, dtype) for value in values]
    most = max(array.ndim for array in arrays)
    return tuple(array.reshape((1,) * (most - array.ndim) + array.shape) for array in arrays)


def common_dtype(*values: Any) -> Any:
    """The type in which operands meet: arrays before scalars of the same kind, wider before narrower."""
    ranked = [(_kind(value), _priority(value), _dtype(value)) for value in values]
    kind = max(rank for rank, _, _ in ranked)
    of_kind = [(priority, dtype) for rank, priority, dtype in ranked if rank == kind]
    best = max(priority for priority, _ in of_kind)
    dtypes = {dtype for priority, dtype in of_kind if priority == best}
    widest = max(dtypes, key=lambda dtype: dtype.itemsize)
    halves = {dtype for dtype in dtypes if dtype.itemsize == widest.itemsize}
    return widest if len(halves) == 1 else jnp.promote_types(*halves)


def _dtype(value: Any) -> Any:
    if isinstance(value, bool | int | float):
        return as_dtype(None, {bool: np.bool_, int: np.int64, float: np.float32}[type(value)])
    return jnp.dtype(value.dtype)


def _kind(value: Any) -> int:
    """Booleans before integers before floats."""
    dtype = _dtype(value)
    if dtype == np.bool_:
        return 0
    return 1 if jnp.issubdtype(dtype, jnp.integer) else 2


def _priority(value: Any) -> int:
    """Of what decides the width: numbers, then arrays without axes, then arrays."""
    if isinstance(value, bool | int | float):
        return 0
    return 2 if value.ndim else 1


def at_least_single(x: Any) -> Any:
    """Half precision widened, in which sums would drown."""
    return x.astype(jnp.float32) if x.dtype in (jnp.bfloat16, jnp.float16) else x
