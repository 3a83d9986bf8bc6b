"""Operators of layers: convolutions, norms and attention.

Convolutions are computed channels last, which is what XLA is made for on a CPU: channels first inside a loop cost many
times as much there.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from landscape.bridges._aten._table import at_least_single, operator

# ------------------------------------------------------------------------------------------------------ convolutions


def each(values: Any, num: int) -> tuple[int, ...]:
    """One number for each spatial axis; one alone stands for all."""
    values = tuple(values) if isinstance(values, list | tuple) else (values,)
    return values * num if len(values) == 1 else values


@operator("convolution")
def convolution(
    x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, turned: bool, extra: Any, groups: int
) -> Any:
    num = weight.ndim - 2
    unbatched = x.ndim == num + 1
    x = x[None] if unbatched else x
    stride, padding, dilation, extra = (each(v, num) for v in (stride, padding, dilation, extra))
    if turned:
        out = _transposed(x, weight, stride, padding, dilation, extra, groups)
    else:
        pairs = [(p, p) for p in padding]
        out = _channels_last(x, weight, groups, window_strides=stride, padding=pairs, rhs_dilation=dilation)
    if bias is not None:
        out = out + bias.reshape((1, -1) + (1,) * num)
    return out[0] if unbatched else out


def _transposed(x: Any, weight: Any, stride: Any, padding: Any, dilation: Any, extra: Any, groups: int) -> Any:
    """The transpose of a convolution as one over an input with gaps; its weight is `(in, out / groups, ..)`."""
    size = weight.shape[2:]
    weight = jnp.flip(weight, tuple(range(2, weight.ndim)))
    weight = weight.reshape(groups, -1, *weight.shape[1:]).swapaxes(1, 2)
    weight = weight.reshape(-1, *weight.shape[2:])
    reach = [d * (k - 1) for d, k in zip(dilation, size)]
    pairs = [(r - p, r - p + e) for r, p, e in zip(reach, padding, extra)]
    ones = (1,) * len(size)
    options = {"window_strides": ones, "padding": pairs, "lhs_dilation": stride, "rhs_dilation": dilation}
    return _channels_last(x, weight, groups, **options)


def _channels_last(x: Any, weight: Any, groups: int, **options: Any) -> Any:
    """A convolution of `(n, in, ..)` and `(out, in / groups, ..)` to `(n, out, ..)`, computed with channels last."""
    names = "DHW"[-(x.ndim - 2) :]
    layout = (f"N{names}C", f"{names}IO", f"N{names}C")
    weight = jnp.transpose(weight, (*range(2, weight.ndim), 1, 0))
    out = jax.lax.conv_general_dilated(last(x), weight, dimension_numbers=layout, feature_group_count=groups, **options)
    return first(out)


def last(x: Any) -> Any:
    """Channels moved from the second axis to the last."""
    return jnp.moveaxis(x, 1, -1)


def first(x: Any) -> Any:
    """Channels moved from the last axis to the second."""
    return jnp.moveaxis(x, -1, 1)


# ------------------------------------------------------------------------------------------------------------- norms


@operator("native_layer_norm")
def layer_norm(x: Any, shape: Any, weight: Any, bias: Any, eps: float) -> Any:
    axes = tuple(range(x.ndim - len(shape), x.ndim))
    out, mean, scale = _normalized(x, axes, eps)
    return _affine(out, weight, bias).astype(x.dtype), mean, scale


@operator("_fused_rms_norm")
def rms_norm(x: Any, shape: Any, weight: Any, eps: float | None) -> Any:
    wide = at_least_single(x)
    axes = tuple(range(x.ndim - len(shape), x.ndim))
    eps = float(jnp.finfo(x.dtype).eps) if eps is None else eps
    scale = jax.lax.rsqrt(jnp.mean(wide * wide, axes, keepdims=True) + eps)
    return _affine(wide * scale, weight, None).astype(x.dtype), scale


@operator("native_group_norm")
def group_norm(x: Any, weight: Any, bias: Any, n: int, c: int, size: int, groups: int, eps: float) -> Any:
    out, mean, scale = _normalized(x.reshape(n, groups, -1), (2,), eps)
    out = out.reshape(x.shape)
    along = (1, c) + (1,) * (x.ndim - 2)
    weight, bias = (None if part is None else part.reshape(along) for part in (weight, bias))
    return _affine(out, weight, bias).astype(x.dtype), mean[..., 0], scale[..., 0]


def _normalized(x: Any, axes: tuple[int, ...], eps: float) -> tuple[Any, Any, Any]:
    """Zero mean and unit variance over some axes, by the variance with `n`."""
    wide = at_least_single(x)
    mean = jnp.mean(wide, axes, keepdims=True)
    centred = wide - mean
    scale = jax.lax.rsqrt(jnp.mean(centred * centred, axes, keepdims=True) + eps)
    return centred * scale, mean, scale


def _affine(x: Any, weight: Any, bias: Any) -> Any:
    for part, combine in ((weight, jnp.multiply), (bias, jnp.add)):
        if part is not None:
            x = combine(x, part.reshape((1,) * (x.ndim - part.ndim) + part.shape))
    return x


@operator("_native_batch_norm_legit_no_training")
def batch_norm_stored(x: Any, weight: Any, bias: Any, mean: Any, var: Any, momentum: float, eps: float) -> Any:
    along = (1, -1) + (1,) * (x.ndim - 2)
    scale = jax.lax.rsqrt(at_least_single(var) + eps)
    scale = scale if weight is None else scale * weight
    out = (x - mean.reshape(along)) * scale.reshape(along)
    out = out if bias is None else out + bias.reshape(along)
    return out.astype(x.dtype), mean[:0], mean[:0]


@operator("_native_batch_norm_legit.no_stats")
def batch_norm(x: Any, weight: Any, bias: Any, training: bool, momentum: float, eps: float) -> Any:
    axes = (0, *range(2, x.ndim))
    out, mean, scale = _normalized(x, axes, eps)
    along = (1, -1) + (1,) * (x.ndim - 2)
    weight, bias = (None if part is None else part.reshape(along) for part in (weight, bias))
    return _affine(out, weight, bias).astype(x.dtype), mean.reshape(-1), scale.reshape(-1)


@operator("_native_batch_norm_legit_functional")
def batch_norm_tracked(
    x: Any, weight: Any, bias: Any, mean: Any, var: Any, training: bool, momentum: float, eps: float
) -> Any:
    """With statistics that run along; the variance that is kept has `n - 1`."""
    if not training:
        return *batch_norm_stored(x, weight, bias, mean, var, momentum, eps), mean, var
    out, own_mean, scale = batch_norm(x, weight, bias, True, momentum, eps)
    count = x.size // x.shape[1]
    own_var = jnp.var(at_least_single(x), (0, *range(2, x.ndim)), ddof=1 if count > 1 else 0)
    kept = [(1 - momentum) * old + momentum * new for old, new in ((mean, own_mean), (var, own_var))]
    return out, own_mean, scale, *(new.astype(old.dtype) for new, old in zip(kept, (mean, var)))


# --------------------------------------------------------------------------------------------------------- attention


@operator("scaled_dot_product_attention")
def attention(
    query: Any,
    key: Any,
    value: Any,
    mask: Any = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    if enable_gqa:
        key, value = (jnp.repeat(part, query.shape[-3] // part.shape[-3], -3) for part in (key, value))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = at_least_single(jnp.einsum("...ld,...sd->...ls", query * jnp.asarray(scale, query.dtype), key))
    if is_causal:
        scores = jnp.where(np.tri(*scores.shape[-2:], dtype=bool), scores, -jnp.inf)
    weights = jax.nn.softmax(scores, -1) if mask is None else _masked(scores, mask)
    return jnp.einsum("...ls,...sd->...ld", weights.astype(value.dtype), value)


def _masked(scores: Any, mask: Any) -> Any:
    """Softmax under a mask; a row in which everything is masked is 0, as in PyTorch, and not NaN."""
    mask = mask.reshape((1,) * (scores.ndim - mask.ndim) + mask.shape)
    if mask.dtype != jnp.bool_:
        return jax.nn.softmax(scores + mask.astype(scores.dtype), -1)
    alive = jnp.any(mask, -1, keepdims=True)
    weights = jax.nn.softmax(jnp.where(mask | ~alive, scores, -jnp.inf), -1)
    return jnp.where(alive, weights, 0)
