"""How a grid is cut into tiles: blocks in C order that are computed, stored and resumed as a whole."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from landscape.grid import Grid

METADATA = "zarr.json"
PARTIAL = ".partial"  # ends the names of what is being written
MAX_NAME = 255  # bytes
STORABLE = {"bool", "float16", "float32", "float64", "complex64", "complex128"} | {
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}


@dataclass(frozen=True, eq=False)
class Layout:
    """What a store is made of: the grid, `{output: (trailing shape, dtype)}` and the shape of a tile."""

    grid: Grid
    outputs: Mapping[str, tuple[tuple[int, ...], np.dtype]]
    tile: tuple[int, ...]

    @property
    def num_tiles(self) -> int:
        """Number of tiles."""
        return int(np.prod(self.blocks))

    @property
    def blocks(self) -> tuple[int, ...]:
        """Number of tiles along each axis."""
        return tuple(-(-n // t) for n, t in zip(self.grid.shape, self.tile))

    def region(self, tile: int) -> tuple[slice, ...]:
        """The part of the grid that a tile covers, trimmed at the edges."""
        block = np.unravel_index(tile, self.blocks)
        return tuple(slice(int(b) * t, min((int(b) + 1) * t, n)) for b, t, n in zip(block, self.tile, self.grid.shape))

    def points(self, tile: int) -> np.ndarray:
        """Coordinates of a tile's points in C order, float64, shape `(n, ndim)`."""
        parts = [axis.values[s] for axis, s in zip(self.grid.axes, self.region(tile))]
        return np.stack(np.meshgrid(*parts, indexing="ij"), axis=-1).reshape(-1, self.grid.ndim)

    def shape(self, tile: int) -> tuple[int, ...]:
        """Shape of the part of the grid that a tile covers."""
        return tuple(s.stop - s.start for s in self.region(tile))

    def size(self, tile: int) -> int:
        """Number of points of a tile."""
        return int(np.prod(self.shape(tile)))

    def empty(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Arrays for all values, filled as not computed, and the mask."""
        values = {n: np.full(self.grid.shape + s, fill_value(d), dtype=d) for n, (s, d) in self.outputs.items()}
        return values, np.zeros(self.grid.shape, dtype=bool)


def row_tile(shape: tuple[int, ...], target: int, step: int = 1) -> tuple[int, ...]:
    """A tile of at most about `target` points: whole trailing axes, a share of one, one of each leading axis.

    Of the shares from half the largest that fits, the one is taken that wastes least when a tile is computed in whole
    steps of `step` points.
    """
    tile: list[int] = []
    inner, room = 1, max(1, target)
    for n in reversed(shape):
        largest = min(n, room)
        share = n if n <= room else min(range(largest, largest // 2, -1), key=lambda k: _computed(n, k, inner, step))
        tile.insert(0, share)
        inner, room = inner * share, room // share if share == n else 1
    return tuple(tile)


def _computed(n: int, share: int, inner: int, step: int) -> int:
    """Points computed along an axis of `n` times `inner` points in tiles of `share` rows, padding included."""
    full, rest = divmod(n, share)
    return step * (full * -(-share * inner // step) + -(-rest * inner // step))


def fill_value(dtype: np.dtype) -> Any:
    """What a point that was not computed holds: NaN, or 0 where the type has none."""
    small_float = dtype.kind == "V"  # bfloat16 and its like
    return np.nan if np.issubdtype(dtype, np.inexact) or small_float else np.zeros((), dtype)[()]


def check_storable(outputs: Mapping[str, tuple[tuple[int, ...], np.dtype]], axes: Iterable[str] = ()) -> None:
    """Raise unless a store can hold these outputs and axes, each in a folder of its name.

    Raises:
        TypeError: a type that zarr does not know, or a name that is no text.
        ValueError: a name that is no name of a folder or that the store needs itself, or an output without entries.
    """
    for name in [*axes, *outputs]:
        _check_name(name)
    for name, (shape, dtype) in outputs.items():
        if dtype.kind == "V":
            raise TypeError(f"a store cannot hold {dtype}: cast the output {name!r} to float32")
        if dtype.name not in STORABLE:
            raise TypeError(f"a store holds numbers, the output {name!r} holds {dtype}: leave it out or cast it")
        if 0 in shape:
            raise ValueError(f"the output {name!r} holds no entry a point, its shape is {shape}: leave it out")


def _check_name(name: Any) -> None:
    if not isinstance(name, str):
        raise TypeError(f"the names of outputs and axes must be text, got {name!r}")
    odd = {c for c in name if c == "\0" or "\ud800" <= c <= "\udfff"}
    if not name.strip(".") or set("/\\") & set(name) or odd:
        words = "".join("_" if c in odd else c for c in name).replace("\\", "/").split("/")
        safe = "_".join(word for word in words if word.strip(".")) or "value"
        raise ValueError(
            f"a store keeps every output in a folder of its name, and {name!r} cannot name one: rename the output, "
            f"for example to {safe!r}"
        )
    if name == METADATA or name.endswith(PARTIAL):
        raise ValueError(f"{name!r} is a name that the store needs itself ({METADATA}, *{PARTIAL}); rename the output")
    if len(name.encode()) > MAX_NAME:
        raise ValueError(
            f"the name {name[:24]!r}... has {len(name.encode())} bytes, and file systems hold names of up to "
            f"{MAX_NAME}; shorten it"
        )
