"""`Course`: what is measured along a path, a table with a row for each step that was recorded."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
from jaxtyping import Array, Float

from landscape import _tree
from landscape.grid import Axis, Grid
from landscape.objective import joined
from landscape.recording._planes import PathSubspace


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Course:
    """Measures of a path, a point function of the step: `(step,) -> {name: number}`.

    >>> import jax.numpy as jnp
    >>> import landscape as ls
    >>> path = ls.recording.along([{"w": jnp.full(2, x)} for x in (2.0, 3.0, 5.0)])
    >>> lengths = ls.recording.Course(path, {"size": lambda params, update: jnp.sum(update["w"])})
    >>> ls.sweep(lengths, ls.Grid((lengths.axis(),)))["size"].tolist()
    [2.0, 4.0]

    Attributes:
        path: the path itself, `along(snapshots)` without a plane.
        measures: `{name: measure}`; `measure(params, update)` is given a snapshot and the way to the next one, and
            returns a number, an array, a dictionary of them by names of their own, or a named tuple, whose fields
            become `name_field` (a field `value` becomes `name`). A pytree with `__call__` hands its arrays to the
            compiled program; what a plain function closes over is compiled into it.
    """

    path: PathSubspace
    measures: Mapping[str, Any]

    def __call__(self, coords: Float[Array, " 1"]) -> dict[str, Array]:
        """All measures at a step."""
        params, update = self.path(coords), self.path.update(coords)
        named = (_named(name, measure(params, update)) for name, measure in self.measures.items())
        return joined(*(dict(one) for one in named))

    def axis(self, num: int | None = None, name: str = "step") -> Axis:
        """The axis of the steps but the last, from which no update goes on; of all of them or of `num`."""
        return self.path.before_last.axis(num, name)

    def check_grid(self, grid: Grid) -> None:
        """Raise unless there are measures of a path, and the only axis has steps with a next one.

        Raises:
            TypeError: no path, no dictionary of functions.
            ValueError: no measure, a path in a plane or of one snapshot, or another step.
        """
        if not isinstance(self.path, PathSubspace):
            raise TypeError(f"path must be that of recording.along(snapshots), got {_tree.describe(self.path)}")
        if self.path.directions is not None:
            raise ValueError("a course has no plane: take recording.along(snapshots) without one")
        if not isinstance(self.measures, Mapping):
            raise TypeError(f"measures must be {{name: function}}, got {_tree.describe(self.measures)}")
        if not self.measures:
            raise ValueError("there is nothing to measure: measures is empty")
        for name, measure in self.measures.items():
            _tree.check_takes(measure, f"the measure {name!r}", "params", "update")
        self.path.before_last.check_grid(grid)


def _named(name: str, found: Any) -> Iterator[tuple[str, Any]]:
    """What a measure returns, by the names of outputs; what is no array in a named tuple stays out."""
    if isinstance(found, Mapping):
        yield from found.items()
        return
    if not hasattr(found, "_fields"):
        yield name, found
        return
    for field, value in found._asdict().items():
        if hasattr(value, "dtype"):
            yield (name if field == "value" else f"{name}_{field}"), value
