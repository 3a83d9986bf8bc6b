"""What can be read off the program of a function: its jaxpr, and only what JAX promises of its structure."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

LOOPS = {"scan", "while"}


def is_program(value: Any) -> bool:
    """Whether a parameter of an equation is a jaxpr, closed or not."""
    return hasattr(value, "eqns") or (hasattr(value, "jaxpr") and hasattr(value, "consts"))


def num_consts_and_carry(eqn: Any) -> tuple[int, int]:
    """How many of a scan's operands are constants, and how many after those its carry.

    JAX versions write these numbers down in different ways, so they are read off the variables: what is sliced or
    stacked has one axis fewer inside the body, constants and carry have the same.
    """
    body = getattr(eqn.params["jaxpr"], "jaxpr", eqn.params["jaxpr"])
    num_carry = sum(outer.aval.ndim == inner.aval.ndim for outer, inner in zip(eqn.outvars, body.outvars))
    num_fixed = sum(outer.aval.ndim == inner.aval.ndim for outer, inner in zip(eqn.invars, body.invars))
    return num_fixed - num_carry, num_carry


def inner_programs(eqn: Any) -> Iterator[Any]:
    """The jaxprs that an equation calls, loops over or chooses from."""
    for value in eqn.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, jex.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, jex.Jaxpr):
                yield item


def narrowest_float(fn: Callable[..., Any], *args: Any) -> np.dtype | None:
    """The coarsest type to which `fn` rounds anything that depends on its arguments; `None` where it rounds nothing."""
    program = jax.make_jaxpr(fn)(*args).jaxpr
    rounded = _rounded(program, [True] * len(program.invars))
    return max(rounded, key=lambda dtype: float(jnp.finfo(dtype).eps), default=None)


def _rounded(program: Any, depends: Sequence[bool]) -> set[np.dtype]:
    known = {var for var, own in zip(program.invars, depends) if own}
    found: set[np.dtype] = set()
    for eqn in program.eqns:
        inputs = [not isinstance(atom, jex.Literal) and atom in known for atom in eqn.invars]
        if not any(inputs):
            continue
        known.update(eqn.outvars)
        if eqn.primitive.name == "convert_element_type" and _narrows(eqn.invars[0].aval, eqn.outvars[0].aval):
            found.add(np.dtype(eqn.outvars[0].aval.dtype))
        for inner in inner_programs(eqn):
            same = len(inner.invars) == len(inputs) and eqn.primitive.name not in LOOPS
            found |= _rounded(inner, inputs if same else [True] * len(inner.invars))
    return found


def _narrows(before: Any, after: Any) -> bool:
    floats = all(jnp.issubdtype(x.dtype, jnp.floating) for x in (before, after))
    return floats and bool(jnp.finfo(after.dtype).eps > jnp.finfo(before.dtype).eps)
