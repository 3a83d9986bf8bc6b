"""What the values of a sweep depend on, as text that can be stored and compared: the plan of a run."""

import hashlib
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from landscape import _tree
from landscape.affine._program import is_program
from landscape.checks import warn
from landscape.grid import Grid
from landscape.point import Prepared, coords_dtype, evaluate_point, matmul_precision, precision_now


def fingerprint(point: Prepared, grid: Grid) -> dict[str, Any]:
    """Everything that the values depend on: grid, program, arrays, precision and versions."""
    coords = jax.ShapeDtypeStruct((grid.ndim,), coords_dtype())
    with matmul_precision():
        program = jax.make_jaxpr(evaluate_point)(point.fn, coords)
    if "callback" in str(program.jaxpr):
        warn("the function calls back to Python; a store cannot tell whether that code has changed")
    data = {"data": [batches.survey.digest for batches in point.batches]} if point.batches else {}
    outputs = {name: f"{s.dtype}{list(s.shape)}" for name, s in point.outputs.items()}
    return {
        "axes": list(grid.names),
        "grid": {axis.name: digest(axis.values) for axis in grid.axes},
        "outputs": outputs,
        "function": function_digests(program, point.fn),
        "precision": str(coords_dtype()),
        **({} if precision_now() == "highest" else {"matmul_precision": precision_now()}),  # stores of before have none
        "versions": {"jax": jax.__version__, "platform": jax.default_backend()},
    } | data


def function_digests(program: Any, arrays: Any) -> dict[str, Any]:
    """Hashes of a traced program, of the constants in it and of the pytree of arrays that it is given."""
    text = re.sub(r"0x[0-9a-f]+", "", str(program.jaxpr))
    leaves = jax.tree_util.tree_leaves_with_path(arrays)
    digests = [digest(leaf) for _, leaf in leaves]
    return {
        "program": hashlib.sha256(text.encode()).hexdigest()[:16],
        "constants": [digest(c) for c in _constants(program)],
        "arrays": {_tree.key_name(path): one for (path, _), one in zip(leaves, digests)},
        "all_arrays": hashlib.sha256("".join(digests).encode()).hexdigest()[:16],
    }


def _constants(program: Any) -> Iterator[Any]:
    """Arrays that a program closes over, also those inside the user's own `jit`, which its text does not show."""
    if hasattr(program, "jaxpr"):
        yield from program.consts
        program = program.jaxpr
    for equation in program.eqns:
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=is_program):
            if is_program(value):
                yield from _constants(value)


def digest(array: Any) -> str:
    """Shape, type and a hash of the contents."""
    if isinstance(array, jax.Array) and jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    host = np.ascontiguousarray(array)
    return f"{host.dtype}{list(host.shape)} {hashlib.sha256(host.tobytes()).hexdigest()[:16]}"
