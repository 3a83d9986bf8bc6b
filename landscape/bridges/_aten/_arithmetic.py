"""Operators that go element by element, and products of matrices."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy import special

from landscape.bridges._aten._table import OPERATORS, aligned, as_dtype, operator

_UNARY = {
    "abs": jnp.abs, "acos": jnp.arccos, "acosh": jnp.arccosh, "asin": jnp.arcsin, "asinh": jnp.arcsinh,
    "atan": jnp.arctan, "atanh": jnp.arctanh, "bitwise_not": jnp.bitwise_not, "ceil": jnp.ceil, "cos": jnp.cos,
    "cosh": jnp.cosh, "digamma": special.digamma, "erf": special.erf, "erfc": special.erfc, "erfinv": special.erfinv,
    "exp": jnp.exp, "exp2": jnp.exp2, "expm1": jnp.expm1, "floor": jnp.floor, "isfinite": jnp.isfinite,
    "isinf": jnp.isinf, "isnan": jnp.isnan, "lgamma": special.gammaln, "log": jnp.log, "log10": jnp.log10,
    "log1p": jnp.log1p, "log2": jnp.log2, "logical_not": jnp.logical_not, "mish": jax.nn.mish, "neg": jnp.negative,
    "reciprocal": jnp.reciprocal, "relu": jax.nn.relu, "relu6": jax.nn.relu6, "round": jnp.round,
    "rsqrt": jax.lax.rsqrt, "sigmoid": jax.nn.sigmoid, "sign": jnp.sign, "silu": jax.nn.silu, "sin": jnp.sin,
    "sinh": jnp.sinh, "sqrt": jnp.sqrt, "square": jnp.square, "tan": jnp.tan, "tanh": jnp.tanh, "trunc": jnp.trunc,
    "log_sigmoid_forward": lambda x: (jax.nn.log_sigmoid(x), None), "hardswish": jax.nn.hard_swish,
    "hardsigmoid": jax.nn.hard_sigmoid, "_conj": jnp.conj,
}  # fmt: skip
_BINARY = {
    "atan2": jnp.arctan2, "bitwise_and": jnp.bitwise_and, "bitwise_left_shift": jnp.left_shift,
    "bitwise_or": jnp.bitwise_or, "bitwise_right_shift": jnp.right_shift, "bitwise_xor": jnp.bitwise_xor,
    "eq": jnp.equal, "floor_divide": jnp.floor_divide, "fmax": jnp.fmax, "fmin": jnp.fmin, "fmod": jnp.fmod,
    "ge": jnp.greater_equal, "gt": jnp.greater, "hypot": jnp.hypot, "le": jnp.less_equal,
    "logical_and": jnp.logical_and, "logical_or": jnp.logical_or, "logical_xor": jnp.logical_xor, "lt": jnp.less,
    "max.other": jnp.maximum, "maximum": jnp.maximum, "min.other": jnp.minimum, "minimum": jnp.minimum,
    "mul": jnp.multiply, "ne": jnp.not_equal, "remainder": jnp.remainder,
}  # fmt: skip

OPERATORS.update(_UNARY)
OPERATORS.update({name: lambda x, y, fn=fn: fn(*aligned(x, y)) for name, fn in _BINARY.items()})


# ----------------------------------------------------------------------------------------------------- with options


@operator("add")
def add(x: Any, y: Any, alpha: Any = 1) -> Any:
    x, y = aligned(x, y)
    return jnp.logical_or(x, y) if x.dtype == jnp.bool_ else x + _times(alpha, y)


@operator("sub")
def sub(x: Any, y: Any, alpha: Any = 1) -> Any:
    x, y = aligned(x, y)
    return x - _times(alpha, y)


@operator("rsub")
def rsub(x: Any, y: Any, alpha: Any = 1) -> Any:
    return sub(y, x, alpha)


def _times(factor: Any, x: Any) -> Any:
    return x if factor == 1 else jnp.asarray(factor, x.dtype) * x


@operator("div")
def div(x: Any, y: Any, rounding_mode: str | None = None) -> Any:
    x, y = aligned(x, y)
    if rounding_mode == "floor":
        return jnp.floor_divide(x, y)
    quotient = jnp.true_divide(x, y)
    return quotient if rounding_mode is None else jnp.trunc(quotient).astype(x.dtype)


@operator("pow")
def power(x: Any, exponent: Any) -> Any:
    if isinstance(exponent, int | float) and float(exponent).is_integer() and abs(exponent) < 64:
        return jnp.power(x, int(exponent))
    if exponent == 0.5 if isinstance(exponent, float) else False:
        return jnp.sqrt(x)
    return jnp.power(*aligned(x, exponent))


@operator("clamp", "hardtanh", "clip")
def clamp(x: Any, low: Any = None, high: Any = None) -> Any:
    if low is not None:
        x = jnp.maximum(*aligned(x, low))
    return x if high is None else jnp.minimum(*aligned(x, high))


@operator("clamp_min")
def clamp_min(x: Any, low: Any) -> Any:
    return clamp(x, low)


@operator("clamp_max")
def clamp_max(x: Any, high: Any) -> Any:
    return clamp(x, None, high)


@operator("where")
def where(condition: Any, x: Any, y: Any) -> Any:
    x, y = aligned(x, y)
    most = max(condition.ndim, x.ndim)
    parts = (part.reshape((1,) * (most - part.ndim) + part.shape) for part in (condition, x, y))
    return jnp.where(*parts)


@operator("masked_fill")
def masked_fill(x: Any, mask: Any, value: Any) -> Any:
    return where(mask, jnp.asarray(value, x.dtype), x)


@operator("addcmul")
def addcmul(x: Any, a: Any, b: Any, value: Any = 1) -> Any:
    return add(x, jnp.multiply(*aligned(a, b)), value)


@operator("addcdiv")
def addcdiv(x: Any, a: Any, b: Any, value: Any = 1) -> Any:
    return add(x, div(a, b), value)


@operator("lerp")
def lerp(x: Any, y: Any, weight: Any) -> Any:
    return add(x, jnp.multiply(*aligned(weight, sub(y, x))))


@operator("round.decimals")
def round_decimals(x: Any, decimals: int = 0) -> Any:
    return jnp.round(x, decimals)


@operator("nan_to_num")
def nan_to_num(x: Any, nan: Any = None, posinf: Any = None, neginf: Any = None) -> Any:
    return jnp.nan_to_num(x, nan=nan or 0.0, posinf=posinf, neginf=neginf)


# ------------------------------------------------------------------------------------------------------ activations


@operator("gelu")
def gelu(x: Any, approximate: str = "none") -> Any:
    return jax.nn.gelu(x, approximate=approximate == "tanh")


@operator("leaky_relu")
def leaky_relu(x: Any, slope: Any = 0.01) -> Any:
    return jnp.where(x > 0, x, jnp.asarray(slope, x.dtype) * x)


@operator("elu")
def elu(x: Any, alpha: Any = 1, scale: Any = 1, input_scale: Any = 1) -> Any:
    negative = alpha * jnp.expm1(jnp.minimum(x, 0) * input_scale)
    return (scale * jnp.where(x > 0, x, negative)).astype(x.dtype)


@operator("softplus")
def softplus(x: Any, beta: Any = 1, threshold: Any = 20) -> Any:
    return jnp.where(x * beta > threshold, x, jax.nn.softplus(jnp.minimum(x * beta, threshold)) / beta)


@operator("threshold")
def threshold(x: Any, level: Any, value: Any) -> Any:
    return jnp.where(x > level, x, jnp.asarray(value, x.dtype))


@operator("_prelu_kernel", "prelu")
def prelu(x: Any, weight: Any) -> Any:
    if weight.ndim == 1 and x.ndim > 1:
        weight = weight.reshape((1, -1) + (1,) * (x.ndim - 2))
    return jnp.where(x > 0, x, weight * x)


@operator("glu")
def glu(x: Any, dim: int = -1) -> Any:
    value, gate = jnp.split(x, 2, dim)
    return value * jax.nn.sigmoid(gate)


@operator("logit")
def logit(x: Any, eps: float | None = None) -> Any:
    return special.logit(x if eps is None else jnp.clip(x, eps, 1 - eps))


@operator("_softmax", "softmax")
def softmax(x: Any, dim: int, half_to_float: Any = False) -> Any:
    return jax.nn.softmax(_as_single(x, half_to_float), axis=dim)


@operator("_log_softmax", "log_softmax")
def log_softmax(x: Any, dim: int, half_to_float: Any = False) -> Any:
    return jax.nn.log_softmax(_as_single(x, half_to_float), axis=dim)


def _as_single(x: Any, half_to_float: Any) -> Any:
    return x.astype(as_dtype("float32")) if half_to_float is True else x


# ------------------------------------------------------------------------------------------------ products of matrices


@operator("mm", "bmm", "matmul", "dot", "mv")
def matmul(x: Any, y: Any) -> Any:
    return jnp.matmul(x, y)


@operator("addmm", "baddbmm", "addmv")
def addmm(bias: Any, x: Any, y: Any, beta: Any = 1, alpha: Any = 1) -> Any:
    return jnp.add(*aligned(_times(beta, bias), _times(alpha, jnp.matmul(x, y))))


@operator("linear")
def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    product = jnp.matmul(x, weight.T)
    return product if bias is None else jnp.add(*aligned(product, bias))


@operator("_cdist_forward")
def cdist(x: Any, y: Any, p: float, compute_mode: Any = None) -> Any:
    difference = x[..., :, None, :] - y[..., None, :, :]
    return jnp.linalg.norm(difference, ord=p, axis=-1)
