"""Parameters by the names of another framework, which carry what their filters are."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from landscape import subspace

Axes = int | tuple[int, ...] | None


@jax.tree_util.register_pytree_with_keys_class
class Parameters(dict[str, Any]):
    """A dict of arrays by name that also knows the axis of the filters of each, so that nobody has to be told.

    A pytree: `jax.tree.map` gives one like it. What takes a `filter_axis` and is given none, asks it.

    Attributes:
        axes: the axes of the filters of each parameter, `None` for one without.
    """

    def __init__(
        self, values: Mapping[str, Any] | Iterable[tuple[str, Any]] = (), axes: Mapping[str, Axes] = {}
    ) -> None:
        super().__init__(values)
        self.axes = {name: axes.get(name) for name in self}

    def filter_axis(self, name: str, leaf: Any) -> Axes:
        """The axes of the filters of a parameter."""
        return self.axes.get(name)

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], Any]:
        leaves = [(jax.tree_util.DictKey(name), value) for name, value in self.items()]
        return leaves, tuple(self.axes.items())

    def tree_flatten(self) -> tuple[list[Any], Any]:
        return list(self.values()), tuple(self.axes.items())

    @classmethod
    def tree_unflatten(cls, axes: Any, leaves: Iterable[Any]) -> "Parameters":
        names = dict(axes)
        return cls(zip(names, leaves), names)


def axes_by_layout(shapes: Mapping[str, tuple[int, ...]], layout: str) -> dict[str, Axes]:
    """The axes of the filters as names and shapes tell, by a layout of `filter_normalize`."""
    empty = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    stack = {name: array[None] for name, array in empty.items()}
    return {row.name: row.axes for row in subspace.describe(stack, empty, filter_axis=layout)}
