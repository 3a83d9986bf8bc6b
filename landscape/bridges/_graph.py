"""A model as a list of operators, and its evaluation in JAX: plain data that need no PyTorch to run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from landscape.bridges import _aten


@dataclass(frozen=True)
class Ref:
    """The value of that number."""

    index: int


@dataclass(frozen=True)
class Instruction:
    """One operator, its arguments by the schema, and where in the model it stands."""

    operator: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    result: int
    where: str


@dataclass(frozen=True, eq=False)
class Graph:
    """Instructions in order over numbered values.

    Attributes:
        weights: name of each parameter and buffer that is used, with the number of its value.
        shapes: of these weights, by name.
        constants: arrays that the model makes itself, by number.
        inputs: the number of each input, `None` for one that is not used.
        instructions: what to do.
        outputs: what comes out: references, or plain values.
        updates: buffers that running the model changes, by name.
    """

    weights: dict[str, int]
    shapes: dict[str, tuple[int, ...]]
    constants: dict[int, np.ndarray]
    inputs: tuple[int | None, ...]
    instructions: tuple[Instruction, ...]
    outputs: tuple[Any, ...]
    updates: dict[str, Any]

    def __call__(self, weights: Mapping[str, Any], inputs: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        """The outputs, and the buffers as they are after."""
        values: dict[int, Any] = {number: jnp.asarray(array) for number, array in self.constants.items()}
        values |= {number: weights[name] for name, number in self.weights.items()}
        values |= {number: value for number, value in zip(self.inputs, inputs) if number is not None}
        for one in self.instructions:
            values[one.result] = _apply(one, values)
        outputs = _filled(self.outputs, values)
        return list(outputs), {name: _filled(value, values) for name, value in self.updates.items()}


def _apply(one: Instruction, values: Mapping[int, Any]) -> Any:
    arguments, options = _filled(one.arguments, values), _filled(one.options, values)
    if one.operator == "getitem":
        return arguments[0][arguments[1]]
    fn = _aten.find(one.operator)
    if fn is None:
        raise NotImplementedError(f"{one.operator} in {one.where} is not in the table of operators of this process")
    try:
        return fn(*arguments, **options)
    except Exception as error:
        error.add_note(f"while computing the operator {one.operator} of {one.where}")
        raise


def _filled(value: Any, values: Mapping[int, Any]) -> Any:
    """References replaced by what they stand for."""
    if isinstance(value, Ref):
        return values[value.index]
    if isinstance(value, list | tuple):
        return type(value)(_filled(part, values) for part in value)
    if isinstance(value, dict):
        return {name: _filled(part, values) for name, part in value.items()}
    return value
