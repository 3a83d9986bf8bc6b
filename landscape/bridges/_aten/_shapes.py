"""Operators that make, move, cut and index arrays."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from landscape.bridges._aten._table import OPERATORS, as_dtype, operator

for _same in (
    "alias", "clone", "contiguous", "detach", "lift_fresh", "lift_fresh_copy", "positive",
    "_assert_tensor_metadata", "_assert_scalar", "_assert_async", "sym_constrain_range_for_size",
):  # fmt: skip
    OPERATORS[_same] = lambda x, *rest, **options: x


# ------------------------------------------------------------------------------------------------------------- made


@operator("full")
def full(size: Any, value: Any, dtype: str | None = None) -> Any:
    return jnp.full(tuple(size), value, as_dtype(dtype) if dtype else None)


@operator("full_like")
def full_like(x: Any, value: Any, dtype: str | None = None) -> Any:
    return jnp.full(x.shape, value, as_dtype(dtype, x.dtype))


@operator("zeros", "empty", "empty_permuted", "empty_strided")
def zeros(size: Any, *rest: Any, dtype: str | None = None) -> Any:
    return jnp.zeros(tuple(size), as_dtype(dtype, np.float32))


@operator("ones")
def ones(size: Any, dtype: str | None = None) -> Any:
    return jnp.ones(tuple(size), as_dtype(dtype, np.float32))


@operator("zeros_like", "empty_like")
def zeros_like(x: Any, dtype: str | None = None) -> Any:
    return full_like(x, 0, dtype)


@operator("ones_like")
def ones_like(x: Any, dtype: str | None = None) -> Any:
    return full_like(x, 1, dtype)


@operator("new_zeros", "new_empty")
def new_zeros(x: Any, size: Any, dtype: str | None = None) -> Any:
    return jnp.zeros(tuple(size), as_dtype(dtype, x.dtype))


@operator("new_ones")
def new_ones(x: Any, size: Any, dtype: str | None = None) -> Any:
    return jnp.ones(tuple(size), as_dtype(dtype, x.dtype))


@operator("new_full")
def new_full(x: Any, size: Any, value: Any, dtype: str | None = None) -> Any:
    return jnp.full(tuple(size), value, as_dtype(dtype, x.dtype))


@operator("scalar_tensor")
def scalar_tensor(value: Any, dtype: str | None = None) -> Any:
    return jnp.asarray(value, as_dtype(dtype, np.float32))


@operator("arange.start_step")
def arange(start: Any, end: Any, step: Any = 1, dtype: str | None = None) -> Any:
    return jnp.asarray(np.arange(start, end, step), as_dtype(dtype) if dtype else None)


@operator("arange.start")
def arange_from(start: Any, end: Any, dtype: str | None = None) -> Any:
    return arange(start, end, 1, dtype)


@operator("arange.default")
def arange_to(end: Any, dtype: str | None = None) -> Any:
    return arange(0, end, 1, dtype)


@operator("linspace")
def linspace(start: Any, end: Any, steps: int, dtype: str | None = None) -> Any:
    return jnp.linspace(start, end, steps, dtype=as_dtype(dtype, np.float32))


@operator("eye")
def eye(n: int, m: int | None = None, dtype: str | None = None) -> Any:
    return jnp.eye(n, m, dtype=as_dtype(dtype, np.float32))


@operator("_to_copy", "to")
def cast(x: Any, dtype: str | None = None) -> Any:
    return x if dtype is None else x.astype(as_dtype(dtype))


@operator("copy")
def copy(x: Any, source: Any, non_blocking: Any = False) -> Any:
    return jnp.broadcast_to(source, x.shape).astype(x.dtype)


# ------------------------------------------------------------------------------------------------------------ moved


@operator("view.default", "reshape", "_unsafe_view")
def view(x: Any, size: Any) -> Any:
    return x.reshape(tuple(size))


@operator("permute")
def permute(x: Any, dims: Any) -> Any:
    return jnp.transpose(x, tuple(dims))


@operator("transpose.int")
def transpose(x: Any, first: int, second: int) -> Any:
    return jnp.swapaxes(x, first, second) if x.ndim else x


@operator("t")
def transposed(x: Any) -> Any:
    return x.T


@operator("expand")
def expand(x: Any, size: Any, implicit: Any = False) -> Any:
    lead = len(size) - x.ndim
    kept = [x.shape[i - lead] if length == -1 else length for i, length in enumerate(size)]
    return jnp.broadcast_to(x.reshape((1,) * lead + x.shape), kept)


@operator("squeeze")
def squeeze(x: Any, dim: Any = None) -> Any:
    given = range(x.ndim) if dim is None else dim if isinstance(dim, list | tuple) else (dim,)
    return jnp.squeeze(x, tuple(axis for axis in given if x.ndim and x.shape[axis] == 1))


@operator("unsqueeze")
def unsqueeze(x: Any, dim: int) -> Any:
    return jnp.expand_dims(x, dim)


@operator("flip")
def flip(x: Any, dims: Any) -> Any:
    return jnp.flip(x, tuple(dims))


@operator("roll")
def roll(x: Any, shifts: Any, dims: Any = ()) -> Any:
    return jnp.roll(x, tuple(shifts), tuple(dims)) if dims else jnp.roll(x.reshape(-1), shifts[0]).reshape(x.shape)


@operator("repeat")
def repeat(x: Any, repeats: Any) -> Any:
    return jnp.tile(x, tuple(repeats))


@operator("repeat_interleave.self_int")
def repeat_interleave(x: Any, repeats: int, dim: int | None = None, output_size: Any = None) -> Any:
    return jnp.repeat(x, repeats, dim)


@operator("as_strided")
def as_strided(x: Any, size: Any, stride: Any, offset: Any = None) -> Any:
    index = np.full(tuple(size), offset or 0)
    for axis, (length, step) in enumerate(zip(size, stride)):
        index += step * np.arange(length).reshape([-1 if i == axis else 1 for i in range(len(size))])
    return x.reshape(-1)[index]


@operator("unfold")
def unfold(x: Any, dim: int, size: int, step: int) -> Any:
    starts = np.arange(0, x.shape[dim] - size + 1, step)
    last = jnp.moveaxis(x, dim, -1)[..., starts[:, None] + np.arange(size)]
    return jnp.moveaxis(last, -2, dim % x.ndim)


@operator("pixel_shuffle")
def pixel_shuffle(x: Any, factor: int) -> Any:
    *lead, c, h, w = x.shape
    parts = x.reshape(*lead, c // factor**2, factor, factor, h, w)
    n = len(lead)
    order = (*range(n + 1), n + 3, n + 1, n + 4, n + 2)
    return parts.transpose(order).reshape(*lead, c // factor**2, h * factor, w * factor)


@operator("pixel_unshuffle")
def pixel_unshuffle(x: Any, factor: int) -> Any:
    *lead, c, h, w = x.shape
    parts = x.reshape(*lead, c, h // factor, factor, w // factor, factor)
    n = len(lead)
    order = (*range(n + 1), n + 2, n + 4, n + 1, n + 3)
    return parts.transpose(order).reshape(*lead, c * factor**2, h // factor, w // factor)


# -------------------------------------------------------------------------------------------------------------- cut


@operator("cat")
def cat(parts: Any, dim: int = 0) -> Any:
    return jnp.concatenate([part for part in parts if part.shape != (0,)], dim)


@operator("stack")
def stack(parts: Any, dim: int = 0) -> Any:
    return jnp.stack(parts, dim)


@operator("split_with_sizes")
def split_with_sizes(x: Any, sizes: Any, dim: int = 0) -> Any:
    return jnp.split(x, np.cumsum(sizes)[:-1], dim)


@operator("split.Tensor")
def split(x: Any, size: int, dim: int = 0) -> Any:
    return jnp.split(x, range(size, x.shape[dim], size), dim)


@operator("chunk")
def chunk(x: Any, chunks: int, dim: int = 0) -> Any:
    return split(x, -(-x.shape[dim] // chunks), dim)


@operator("unbind")
def unbind(x: Any, dim: int = 0) -> Any:
    return [jax.lax.index_in_dim(x, i, dim, keepdims=False) for i in range(x.shape[dim])]


@operator("select.int")
def select(x: Any, dim: int, index: int) -> Any:
    return jax.lax.index_in_dim(x, index, dim, keepdims=False)


@operator("slice")
def cut(x: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    return x[_along(x, dim, slice(start, end, step))]


def _along(x: Any, dim: int, index: Any) -> tuple[Any, ...]:
    whole: list[Any] = [slice(None)] * x.ndim
    whole[dim] = index
    return tuple(whole)


@operator("slice_scatter")
def slice_scatter(x: Any, source: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    return x.at[_along(x, dim, slice(start, end, step))].set(source)


@operator("select_scatter")
def select_scatter(x: Any, source: Any, dim: int, index: int) -> Any:
    return x.at[_along(x, dim, index)].set(source)


@operator("narrow")
def narrow(x: Any, dim: int, start: int, length: int) -> Any:
    return cut(x, dim, start, start + length)


@operator("tril")
def tril(x: Any, diagonal: int = 0) -> Any:
    return jnp.tril(x, diagonal)


@operator("triu")
def triu(x: Any, diagonal: int = 0) -> Any:
    return jnp.triu(x, diagonal)


@operator("diagonal")
def diagonal(x: Any, offset: int = 0, first: int = 0, second: int = 1) -> Any:
    return jnp.diagonal(x, offset, first, second)


def _padding(x: Any, pad: Any) -> list[tuple[int, int]]:
    """PyTorch counts from the last axis."""
    pairs = list(zip(pad[::2], pad[1::2]))
    return [(0, 0)] * (x.ndim - len(pairs)) + pairs[::-1]


@operator("constant_pad_nd")
def constant_pad(x: Any, pad: Any, value: Any = 0) -> Any:
    return jax.lax.pad(x, jnp.asarray(value, x.dtype), [(low, high, 0) for low, high in _padding(x, pad)])


@operator("reflection_pad1d", "reflection_pad2d", "reflection_pad3d")
def reflection_pad(x: Any, pad: Any) -> Any:
    return jnp.pad(x, _padding(x, pad), mode="reflect")


@operator("replication_pad1d", "replication_pad2d", "replication_pad3d")
def replication_pad(x: Any, pad: Any) -> Any:
    return jnp.pad(x, _padding(x, pad), mode="edge")


# ---------------------------------------------------------------------------------------------------------- indexed


@operator("index.Tensor", "_unsafe_index")
def index(x: Any, indices: Any) -> Any:
    return x[_indices(x, indices)]


def _indices(x: Any, indices: Any) -> tuple[Any, ...]:
    if any(i is not None and i.dtype == jnp.bool_ for i in indices):
        raise NotImplementedError("indexing by a boolean array, whose result has no fixed shape: use torch.where")
    return tuple(slice(None) if i is None else i for i in indices)


@operator("index_put", "_unsafe_index_put")
def index_put(x: Any, indices: Any, values: Any, accumulate: bool = False) -> Any:
    if len(indices) == 1 and indices[0].dtype == jnp.bool_ and values.ndim == 0:
        mask = indices[0].reshape(indices[0].shape + (1,) * (x.ndim - indices[0].ndim))
        return jnp.where(mask, x + values if accumulate else values, x)
    place = x.at[_indices(x, indices)]
    return place.add(values) if accumulate else place.set(values)


@operator("index_select")
def index_select(x: Any, dim: int, index: Any) -> Any:
    return x[_along(x, dim, index)] if x.ndim else x


@operator("embedding")
def embedding(weight: Any, indices: Any, *rest: Any) -> Any:
    return weight[indices]


@operator("gather")
def gather(x: Any, dim: int, index: Any, sparse_grad: Any = False) -> Any:
    return x[_places(index, dim)]


def _places(index: Any, dim: int) -> tuple[Any, ...]:
    """For each axis the index of each element of `index`, which itself says it along `dim`."""
    places = list(np.ogrid[tuple(slice(length) for length in index.shape)])
    places[dim] = index
    return tuple(places)


@operator("scatter.src")
def scatter(x: Any, dim: int, index: Any, source: Any) -> Any:
    return x.at[_places(index, dim)].set(_as_large(source, index))


@operator("scatter.value")
def scatter_value(x: Any, dim: int, index: Any, value: Any) -> Any:
    return x.at[_places(index, dim)].set(jnp.asarray(value, x.dtype))


@operator("scatter_add")
def scatter_add(x: Any, dim: int, index: Any, source: Any) -> Any:
    return x.at[_places(index, dim)].add(_as_large(source, index))


@operator("index_add")
def index_add(x: Any, dim: int, index: Any, source: Any, alpha: Any = 1) -> Any:
    return x.at[_along(x, dim, index)].add(alpha * source)


@operator("scatter_reduce")
def scatter_reduce(x: Any, dim: int, index: Any, source: Any, how: str, include_self: bool = True) -> Any:
    methods = {"sum": "add", "amax": "max", "amin": "min", "prod": "multiply"}
    if how not in methods or not include_self:
        raise NotImplementedError(f"scatter_reduce with reduce={how!r}, include_self={include_self}")
    return getattr(x.at[_places(index, dim)], methods[how])(_as_large(source, index))


def _as_large(source: Any, index: Any) -> Any:
    return source[tuple(slice(length) for length in index.shape)]


@operator("one_hot")
def one_hot(x: Any, num_classes: int = -1) -> Any:
    return jax.nn.one_hot(x, num_classes, dtype=as_dtype("int64"))


@operator("numel")
def numel(x: Any) -> int:
    return math.prod(x.shape)
