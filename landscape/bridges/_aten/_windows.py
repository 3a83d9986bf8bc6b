"""Operators that pool and resize: what goes over windows of spatial axes."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from landscape.bridges._aten._layers import each
from landscape.bridges._aten._table import operator

# ------------------------------------------------------------------------------------------------------------ pooling


def _geometry(x: Any, num: int, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool) -> tuple[Any, ...]:
    """Sizes of windows, steps, padding on both sides and gaps of all axes, the leading ones untouched."""
    kernel, padding, dilation = (each(v, num) for v in (kernel, padding, dilation))
    stride = each(stride, num) if stride else kernel
    pairs = []
    for length, k, s, p, d in zip(x.shape[-num:], kernel, stride, padding, dilation):
        out = _num_windows(length, k, s, p, d, ceil)
        pairs.append((p, max(p, (out - 1) * s + d * (k - 1) + 1 - length - p)))
    lead = x.ndim - num
    ones, none = (1,) * lead, ((0, 0),) * lead
    return ones + kernel, ones + stride, none + tuple(pairs), ones + dilation


def _num_windows(length: int, k: int, s: int, p: int, d: int, ceil: bool) -> int:
    """None begins in the padding on the right."""
    rest = length + 2 * p - d * (k - 1) - 1
    out = (-(-rest // s) if ceil else rest // s) + 1
    return out - 1 if ceil and (out - 1) * s >= length + p else out


def _lowest(dtype: Any) -> Any:
    return -np.inf if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype).min


def _max_pool(num: int) -> Any:
    def pool(x: Any, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil: bool = False) -> Any:
        return _folded(
            x, jnp.maximum, _lowest(x.dtype), _geometry(x, num, kernel, stride, padding, dilation, ceil)
        ), None

    return pool


def _folded(x: Any, combine: Any, start: Any, geometry: tuple[Any, ...]) -> Any:
    """All places of each window combined, one array for each place: XLA has no second derivative of `reduce_window`.

    With channels last, as convolutions have them.
    """
    order = (0, *range(2, x.ndim), 1) if x.ndim > 3 else tuple(range(x.ndim))
    windows, strides, pairs, gaps = (tuple(part[i] for i in order) for part in geometry)
    padded = jax.lax.pad(jnp.transpose(x, order), jnp.asarray(start, x.dtype), [(*pair, 0) for pair in pairs])
    reach = [gap * (window - 1) for window, gap in zip(windows, gaps)]
    counts = [(length - r - 1) // step + 1 for length, r, step in zip(padded.shape, reach, strides)]
    parts = []
    for place in np.ndindex(*windows):
        begin = [gap * offset for gap, offset in zip(gaps, place)]
        end = [b + (count - 1) * step + 1 for b, count, step in zip(begin, counts, strides)]
        parts.append(jax.lax.slice(padded, begin, end, strides))
    return jnp.transpose(functools.reduce(combine, parts), np.argsort(order).tolist())


def _avg_pool(num: int) -> Any:
    def pool(
        x: Any,
        kernel: Any,
        stride: Any = (),
        padding: Any = 0,
        ceil: bool = False,
        count_include_pad: bool = True,
        divisor: int | None = None,
    ) -> Any:
        geometry = _geometry(x, num, kernel, stride, padding, 1, ceil)
        total = _folded(x, jnp.add, 0, geometry)
        if divisor is not None:
            return total / divisor
        sizes = zip(x.shape[-num:], total.shape[-num:], *(part[-num:] for part in geometry[:2]), each(padding, num))
        counts = functools.reduce(np.multiply.outer, (_counts(*size, count_include_pad) for size in sizes))
        return total / jnp.asarray(counts, x.dtype).reshape((1,) * (x.ndim - num) + counts.shape)

    return pool


def _counts(length: int, out: int, k: int, s: int, p: int, padded: bool) -> np.ndarray:
    """How many places each window has along one axis, padding counted or not."""
    begin = np.arange(out) * s - p
    end = np.minimum(begin + k, length + p)
    return end - begin if padded else np.minimum(end, length) - np.maximum(begin, 0)


for _num in (1, 2, 3):
    operator(f"max_pool{_num}d_with_indices", *(["max_pool1d_with_indices"] if _num == 1 else []))(_max_pool(_num))
    operator(f"avg_pool{_num}d")(_avg_pool(_num))


@operator("max_pool1d", "max_pool2d", "max_pool3d")
def max_pool(x: Any, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil: bool = False) -> Any:
    return _max_pool(len(kernel))(x, kernel, stride, padding, dilation, ceil)[0]


# ------------------------------------------------------------------------------------------- pooling to a given size


def _bounds(length: int, out: int) -> list[tuple[int, int]]:
    return [(i * length // out, -(-(i + 1) * length // out)) for i in range(out)]


@operator("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_avg_pool1d")
def adaptive_avg_pool(x: Any, size: Any) -> Any:
    num = len(size)
    if set(size) == {1}:
        return jnp.mean(x, tuple(range(x.ndim - num, x.ndim)), keepdims=True)
    for axis, out in zip(range(x.ndim - num, x.ndim), size):
        shares = np.zeros((out, x.shape[axis]), np.float32)
        for row, (begin, end) in zip(shares, _bounds(x.shape[axis], out)):
            row[begin:end] = 1 / (end - begin)
        x = _combined(x, axis, shares)
    return x


@operator("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
def adaptive_max_pool(x: Any, size: Any) -> Any:
    for axis, out in zip(range(x.ndim - len(size), x.ndim), size):
        parts = [jax.lax.slice_in_dim(x, *bounds, axis=axis) for bounds in _bounds(x.shape[axis], out)]
        x = jnp.concatenate([jnp.max(part, axis, keepdims=True) for part in parts], axis)
    return x, None


# ----------------------------------------------------------------------------------------------------------- resizing


def _combined(x: Any, axis: int, weights: np.ndarray) -> Any:
    """Combinations `(out, in)` of the places along an axis."""
    moved = jnp.moveaxis(x, axis, -1)
    return jnp.moveaxis(jnp.matmul(moved, jnp.asarray(weights.T, x.dtype)), -1, axis)


def _steps(x: Any, size: Any, scales: Any) -> list[tuple[int, int, int, float]]:
    """For each spatial axis: which it is, its lengths before and after, and how far one place of the output reaches."""
    num = x.ndim - 2
    given = [None] * num if scales is None else list(scales)
    lengths = x.shape[-num:]
    sizes = size or [math.floor(length * scale) for length, scale in zip(lengths, given)]
    steps = [1 / scale if scale else length / out for length, out, scale in zip(lengths, sizes, given)]
    return [(2 + i, *one) for i, one in enumerate(zip(lengths, sizes, steps))]


def _nearest(x: Any, size: Any, scales: Any, shift: float) -> Any:
    for axis, length, out, step in _steps(x, size, scales):
        places = np.floor((np.arange(out) + shift) * np.float32(step)).astype(int)
        x = jnp.take(x, np.clip(places, 0, length - 1), axis)
    return x


def _centres(length: int, out: int, step: float, align_corners: bool) -> np.ndarray:
    """Where the places of the output lie in the input."""
    if align_corners:
        return np.arange(out) * ((length - 1) / max(out - 1, 1))
    return (np.arange(out) + 0.5) * step - 0.5


def _linear(x: Any, size: Any, align_corners: bool, scales: Any) -> Any:
    for axis, length, out, step in _steps(x, size, scales):
        at = np.clip(_centres(length, out, step, align_corners), 0, length - 1)
        x = _combined(x, axis, np.maximum(0, 1 - np.abs(at[:, None] - np.arange(length))))
    return x


def _cubic(x: Any, size: Any, align_corners: bool, scales: Any) -> Any:
    for axis, length, out, step in _steps(x, size, scales):
        at = _centres(length, out, step, align_corners)
        weights = np.zeros((out, length))
        for offset in range(-1, 3):
            places = np.floor(at).astype(int) + offset
            np.add.at(weights, (np.arange(out), np.clip(places, 0, length - 1)), _keys(np.abs(at - places)))
        x = _combined(x, axis, weights)
    return x


def _antialiased(x: Any, size: Any, align_corners: bool, scales: Any) -> Any:
    """Linear, with a triangle as wide as the step where the output is smaller."""
    for axis, length, out, step in _steps(x, size, scales):
        away = (np.arange(length) - _centres(length, out, step, align_corners)[:, None]) / max(step, 1.0)
        weights = np.maximum(0, 1 - np.abs(away))
        x = _combined(x, axis, weights / weights.sum(1, keepdims=True))
    return x


def _keys(t: np.ndarray, a: float = -0.75) -> np.ndarray:
    """The cubic kernel of Keys (1981) with the parameter that PyTorch takes."""
    near = (a + 2) * t**3 - (a + 3) * t**2 + 1
    far = a * (t**3 - 5 * t**2 + 8 * t - 4)
    return np.where(t <= 1, near, np.where(t < 2, far, 0))


def _enter_resizing() -> None:
    """`.vec` takes the scales as a list, `.default` one for each axis."""
    for name in ("nearest1d", "nearest2d", "nearest3d", "_exact1d", "_exact2d", "_exact3d"):
        shift = 0.5 if "exact" in name else 0.0
        full = f"_upsample_nearest{name}" if "exact" in name else f"upsample_{name}"
        operator(f"{full}.vec")(lambda x, size, scales=None, shift=shift: _nearest(x, size, scales, shift))
        operator(f"{full}.default")(lambda x, size, *scales, shift=shift: _nearest(x, size, scales, shift))
    smooth = dict.fromkeys(("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d"), _linear)
    smooth |= {"upsample_bicubic2d": _cubic, "_upsample_bilinear2d_aa": _antialiased}
    for name, fn in smooth.items():
        operator(f"{name}.vec")(lambda x, size, align, scales=None, fn=fn: fn(x, size, align, scales))
        operator(f"{name}.default")(lambda x, size, align, *scales, fn=fn: fn(x, size, align, scales))


_enter_resizing()
