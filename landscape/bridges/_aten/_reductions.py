"""Operators that reduce, sort and count along axes."""

from typing import Any

import jax
import jax.numpy as jnp

from landscape.bridges._aten._table import as_dtype, at_least_single, operator


def _axes(dim: Any) -> Any:
    """Axes for NumPy: none given, or an empty list of them, stands for all."""
    if dim is None or (isinstance(dim, list | tuple) and not dim):
        return None
    return tuple(dim) if isinstance(dim, list | tuple) else dim


@operator("sum", "sum.dim_IntList")
def total(x: Any, dim: Any = None, keepdim: bool = False, dtype: str | None = None) -> Any:
    integral = as_dtype("int64") if not jnp.issubdtype(x.dtype, jnp.floating) else x.dtype
    return jnp.sum(x, _axes(dim), dtype=as_dtype(dtype, integral), keepdims=keepdim)


@operator("mean")
def mean(x: Any, dim: Any = None, keepdim: bool = False, dtype: str | None = None) -> Any:
    return jnp.mean(x, _axes(dim), dtype=as_dtype(dtype, x.dtype), keepdims=keepdim)


@operator("prod")
def product(x: Any, dim: Any = None, keepdim: bool = False, dtype: str | None = None) -> Any:
    return jnp.prod(x, _axes(dim), dtype=as_dtype(dtype) if dtype else None, keepdims=keepdim)


@operator("var")
def variance(x: Any, dim: Any = None, correction: Any = 1, keepdim: bool = False) -> Any:
    return jnp.var(x, _axes(dim), ddof=1 if correction is None else correction, keepdims=keepdim)


@operator("var_mean")
def variance_and_mean(x: Any, dim: Any = None, correction: Any = 1, keepdim: bool = False) -> Any:
    return variance(x, dim, correction, keepdim), jnp.mean(x, _axes(dim), keepdims=keepdim)


@operator("amax", "max.default")
def amax(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    return jnp.max(x, _axes(dim), keepdims=keepdim)


@operator("amin", "min.default")
def amin(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    return jnp.min(x, _axes(dim), keepdims=keepdim)


@operator("max.dim")
def max_along(x: Any, dim: int, keepdim: bool = False) -> Any:
    return jnp.max(x, dim, keepdims=keepdim), argmax(x, dim, keepdim)


@operator("min.dim")
def min_along(x: Any, dim: int, keepdim: bool = False) -> Any:
    return jnp.min(x, dim, keepdims=keepdim), argmin(x, dim, keepdim)


@operator("argmax")
def argmax(x: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    return jnp.argmax(x, dim, keepdims=keepdim)


@operator("argmin")
def argmin(x: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    return jnp.argmin(x, dim, keepdims=keepdim)


@operator("any")
def anywhere(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    return jnp.any(x, _axes(dim), keepdims=keepdim)


@operator("all")
def everywhere(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    return jnp.all(x, _axes(dim), keepdims=keepdim)


@operator("logsumexp")
def logsumexp(x: Any, dim: Any, keepdim: bool = False) -> Any:
    return jax.nn.logsumexp(x, _axes(dim), keepdims=keepdim)


@operator("linalg_vector_norm", "norm")
def vector_norm(x: Any, order: Any = 2, dim: Any = None, keepdim: bool = False, dtype: str | None = None) -> Any:
    x = at_least_single(x) if dtype is None else x.astype(as_dtype(dtype))
    axes = _axes(dim)
    if order == 2:
        return jnp.sqrt(jnp.sum(x * x, axes, keepdims=keepdim))
    if order in (float("inf"), float("-inf")):
        return (jnp.max if order > 0 else jnp.min)(jnp.abs(x), axes, keepdims=keepdim)
    if order == 0:
        return jnp.sum(x != 0, axes, dtype=x.dtype, keepdims=keepdim)
    return jnp.sum(jnp.abs(x) ** order, axes, keepdims=keepdim) ** (1 / order)


@operator("cumsum")
def cumsum(x: Any, dim: int, dtype: str | None = None) -> Any:
    integral = x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else as_dtype("int64")
    return jnp.cumsum(x, dim, dtype=as_dtype(dtype, integral)) if x.ndim else x


@operator("cumprod")
def cumprod(x: Any, dim: int, dtype: str | None = None) -> Any:
    return jnp.cumprod(x, dim, dtype=as_dtype(dtype) if dtype else None)


@operator("cummax")
def cummax(x: Any, dim: int) -> Any:
    return jax.lax.cummax(x, dim % x.ndim), None


@operator("cummin")
def cummin(x: Any, dim: int) -> Any:
    return jax.lax.cummin(x, dim % x.ndim), None


@operator("logcumsumexp")
def logcumsumexp(x: Any, dim: int) -> Any:
    return jax.lax.cumlogsumexp(x, dim % x.ndim)


@operator("topk")
def topk(x: Any, k: int, dim: int = -1, largest: bool = True, is_sorted: bool = True) -> Any:
    last = jnp.moveaxis(x, dim, -1)
    values, indices = jax.lax.top_k(last if largest else -last, k)
    return jnp.moveaxis(values if largest else -values, -1, dim), jnp.moveaxis(indices, -1, dim)


@operator("sort.default")
def sort(x: Any, dim: int = -1, descending: bool = False) -> Any:
    indices = jnp.argsort(x, dim, descending=descending)
    return jnp.take_along_axis(x, indices, dim), indices


@operator("sort.stable")
def sort_stable(x: Any, dim: int = -1, descending: bool = False, stable: Any = True) -> Any:
    return sort(x, dim, descending)


@operator("argsort")
def argsort(x: Any, dim: int = -1, descending: bool = False, stable: Any = True) -> Any:
    return jnp.argsort(x, dim, descending=descending)


@operator("median.default")
def median(x: Any) -> Any:
    return jnp.sort(x.reshape(-1))[(x.size - 1) // 2]


@operator("searchsorted")
def searchsorted(sorted_values: Any, x: Any, out_int32: Any = False, right: bool = False, side: Any = None) -> Any:
    return jnp.searchsorted(sorted_values, x, side="right" if right or side == "right" else "left")


@operator("bucketize")
def bucketize(x: Any, boundaries: Any, out_int32: Any = False, right: bool = False) -> Any:
    return jnp.searchsorted(boundaries, x, side="right" if right else "left")
