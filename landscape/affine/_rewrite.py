"""The rewrite itself: products with constants pulled out of `vmap`."""

import functools
import math
import operator
from collections import ChainMap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.core
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from landscape.affine._program import num_consts_and_carry
from landscape.checks import warn

T = TypeVar("T")
Equation = Any  # jax.extend.core.JaxprEqn, whose avals are not typed

MAX_TERMS = 16  # a value of more terms is summed: sharing them costs more than it saves
LONG = 8  # a contraction at least so long costs more than summing its terms

# Operands in which a primitive is linear, jointly, where all others are constant. Unknown names are not linear.
_FIRST, _ALL, _UPDATE = slice(0, 1), slice(None), slice(0, 3, 2)
_UNARY = (
    "broadcast_in_dim conj convert_element_type copy copy_p cumsum div dynamic_slice fft gather imag name neg real "
    "reduce_sum reduce_window_sum reshape rev slice split squeeze transpose"
)
_LINEAR = {
    **dict.fromkeys(_UNARY.split(), _FIRST),
    **dict.fromkeys(["add", "add_any", "complex", "concatenate", "optimization_barrier", "pad", "sub"], _ALL),
    **dict.fromkeys(["scatter", "scatter-add", "scatter_add"], _UPDATE),
    "dynamic_update_slice": slice(0, 2),
    "select_n": slice(1, None),
    "triangular_solve": slice(1, 2),
}
# Pure, and told apart by their parameters as text: the same one on the same operands is the same number.
_ARITHMETIC = (
    "abs add add_any concatenate cos exp integer_pow log logistic max min mul pow reduce_prod select_n sign sin sqrt "
    "square stop_gradient sub tanh"
)
_REPEATABLE = {*_UNARY.split(), *_ARITHMETIC.split()}
_CONTRACTIONS = {"dot_general", "conv_general_dilated"}
_PRODUCTS = {"mul", *_CONTRACTIONS}  # linear in either operand, if the other one is constant
_COSTLY = {*_CONTRACTIONS, "cumsum", "fft", "reduce_window_sum", "triangular_solve"}
_CALLS = {"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint"}

_SAID: set[type[Exception]] = set()  # failures of the rewrite that were spoken of

_CONSTANT, _DENSE = 0, -1  # keys of the constant term, and of an array that is not split into terms
_ONE_EQUATION = jex.DebugInfo("distribute", "equation", None, None)


def affine_vmap(fn: Callable[[Any], T]) -> Callable[[Any], T]:
    """`jax.vmap(fn)` that computes once for all points whatever they share.

    Args:
        fn: maps coordinates, an array `(k,)` or a pytree of small arrays, to a pytree of arrays.

    Returns:
        The function of coordinates with a leading axis, as `jax.vmap` gives it: same structure, shapes, dtypes.
    """
    return jax.vmap(distribute(fn))


def distribute(fn: Callable[[Any], T]) -> Callable[[Any], T]:
    """The same function of one point, with sums over the coordinates moved behind the linear operations.

    Made for `jax.vmap`, which shares the terms between points; works under `jax.jit`, `jax.lax.map` and
    `jax.shard_map`, and may be differentiated. Rematerialisation (`jax.checkpoint`) keeps its effect on gradients
    taken within `fn`, not on those taken from outside. What cannot be rewritten is called as it is.

    Args:
        fn: maps coordinates, an array `(k,)` or a pytree of small arrays, to a pytree of arrays. Traced once.
    """

    @functools.wraps(fn, updated=())
    def distributed(coords: Any) -> T:
        closed, shapes = jax.make_jaxpr(fn, return_shape=True)(coords)
        try:
            leaves, _ = _evaluate(closed, coords)
        except Exception as error:  # in a version of JAX whose equations look different
            _say_once(error)
            return fn(coords)
        return jax.tree.unflatten(jax.tree.structure(shapes), leaves)

    return distributed


def num_hoisted(fn: Callable[[Any], Any], coords: PyTree) -> int:
    """Number of contractions (matrix products and convolutions) of `fn` that `affine_vmap` shares between points.

    Where it is 0, `affine_vmap` saves nothing that matters. Traces `fn`, does not run it.

    Args:
        fn: the function of one point.
        coords: coordinates of one point, or their `jax.ShapeDtypeStruct`.
    """
    counts = [0]
    closed = jax.make_jaxpr(fn)(coords)
    try:
        jax.eval_shape(lambda c: counts.append(_evaluate(closed, c)[1]), coords)
    except Exception as error:  # as in `distribute`
        _say_once(error)
        return 0
    return counts[-1]


def _say_once(error: Exception) -> None:
    """Warn that points are not going to share their linear parts: it costs speed, not the answer."""
    if type(error) in _SAID:
        return
    _SAID.add(type(error))
    warn(
        f"affine_vmap could not rewrite this function for jax {jax.__version__} and takes it as it is: the "
        f"same values, without the speed of what points could share ({type(error).__name__}: {error})",
        RuntimeWarning,
    )


def _evaluate(closed: jex.ClosedJaxpr, coords: PyTree) -> tuple[list[jax.Array], int]:
    """The outputs at one point, and how many contractions went term by term."""
    scope = _Scope()
    inputs = [_enter(scope, jnp.asarray(leaf)) for leaf in jax.tree.leaves(coords)]
    values = _run(scope, closed, inputs)
    return [_pin(scope.dense(x), aval) for x, aval in zip(values, closed.out_avals)], len(scope.hoisted)


def _enter(scope: "_Scope", leaf: jax.Array) -> Any:
    small = 0 < leaf.size <= MAX_TERMS and jnp.issubdtype(leaf.dtype, jnp.floating)
    return scope.seed(leaf) if small else _Dependent(leaf)


# ------------------------------------------------------------------------------------------------------ values


@dataclass(frozen=True, eq=False)
class _Dependent:
    """An array that depends on the coordinates. One that does not is kept bare."""

    array: jax.Array


@dataclass(frozen=True, eq=False)
class _Affine:
    """The array `terms[0] + sum_key coordinate[key] * terms[key]`, whose terms do not depend on the coordinates.

    Attributes:
        aval: shape and dtype.
        terms: arrays of that shape; the constant one may be missing.
        is_seed: the entries are coordinates themselves, and the terms the unit arrays.
        recipe: `(equation, operands, which output)` that makes the array from smaller ones, where that is cheaper
            than summing the terms: a bias is summed before it is broadcast over the examples.
        width: how many numbers are summed to make the array.
    """

    aval: Any
    terms: dict[int, Any]
    is_seed: bool = False
    recipe: tuple[Equation, Sequence[Any], int] | None = None
    width: int = 0


class _Scope:
    """What is known while one trace runs: coordinates by key, arrays already made, equations already done on seeds.

    The body of a loop gets a child. It sees what its parent has, but what it makes itself ends with its trace.
    """

    def __init__(self, parent: "_Scope | None" = None) -> None:
        self.coordinates: ChainMap[int, jax.Array] = parent.coordinates.new_child() if parent else ChainMap()
        self.arrays: ChainMap[_Affine, jax.Array] = parent.arrays.new_child() if parent else ChainMap()
        self.done: ChainMap[Any, Any] = parent.done.new_child() if parent else ChainMap()
        self.hoisted: list[str] = parent.hoisted if parent else []

    def behind_barrier(self) -> "_Scope":
        """A scope that makes all arrays anew, from coordinates that XLA does not recognise as the same."""
        inner = _Scope()
        barred = jax.lax.optimization_barrier(list(self.coordinates.values()))
        inner.coordinates, inner.hoisted = ChainMap({}, dict(zip(self.coordinates, barred))), self.hoisted
        return inner

    def seed(self, array: jax.Array) -> _Affine:
        """A small array as a linear function of its own entries, which become coordinates."""
        entries = [array.reshape(-1)[i] for i in range(array.size)] if array.ndim else [array]
        keys = range(1 + len(self.coordinates), 1 + len(self.coordinates) + array.size)
        self.coordinates.update(zip(keys, entries))
        units = np.eye(array.size, dtype=array.dtype).reshape(array.size, *array.shape)
        value = _Affine(jax.typeof(array), dict(zip(keys, units)), is_seed=True, width=array.size)
        self.arrays[value] = array
        return value

    def dense(self, value: Any) -> Any:
        """The value as one array; made once in a scope."""
        if isinstance(value, _Dependent):
            return value.array
        if not isinstance(value, _Affine):
            return value
        if value not in self.arrays:
            self.arrays[value] = self._sum(value)
        return self.arrays[value]

    def _sum(self, value: _Affine) -> jax.Array:
        if value.recipe is not None:
            eqn, operands, index = value.recipe
            return _bind(eqn, [self.dense(x) for x in operands])[index]
        real, terms = jnp.finfo(value.aval.dtype).dtype, sorted(value.terms.items())
        return functools.reduce(operator.add, (self.coordinates[k].astype(real) * t if k else t for k, t in terms))


def _varies(value: Any) -> bool:
    return isinstance(value, _Affine | _Dependent)


def _terms(value: Any) -> dict[int, Any]:
    return value.terms if isinstance(value, _Affine) else {_CONSTANT: value}


def _term(value: Any, key: int) -> Any:
    """One term of an affine or constant value, zeros where it has none."""
    terms, like = _terms(value), value.aval if isinstance(value, _Affine) else value
    return terms[key] if key in terms else jnp.zeros(like.shape, like.dtype)


def _pin(array: Any, aval: Any, weak: bool | None = None) -> jax.Array:
    """The array with the dtype and the weak type that its variable has, or `weak`."""
    weak = getattr(aval, "weak_type", False) if weak is None else weak
    array = array if isinstance(array, jax.Array) else jnp.asarray(array)
    have = jax.typeof(array)
    if have.dtype == aval.dtype and getattr(have, "weak_type", False) == weak:
        return array
    convert = jex.primitives.convert_element_type_p
    return convert.bind(array, new_dtype=aval.dtype, weak_type=weak, sharding=None)


# --------------------------------------------------------------------------------------------------- equations


def _run(scope: _Scope, body: Any, inputs: Sequence[Any]) -> list[Any]:
    """The values of the outputs of a jaxpr, closed or not."""
    jaxpr, consts = (body.jaxpr, body.consts) if isinstance(body, jex.ClosedJaxpr) else (body, ())
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs]))

    def read(atom: Any) -> Any:
        return np.asarray(atom.val, atom.aval.dtype) if isinstance(atom, jex.Literal) else env[atom]

    for eqn in jaxpr.eqns:
        env.update(zip(eqn.outvars, _equation(scope, eqn, [read(atom) for atom in eqn.invars])))
    return [read(atom) for atom in jaxpr.outvars]


def _equation(scope: _Scope, eqn: Equation, inputs: list[Any]) -> list[Any]:
    if not any(isinstance(x, _Affine) for x in inputs):
        return _whole(scope, eqn, inputs)
    if eqn.primitive.name in _CALLS:
        return _call(scope, eqn, inputs)
    if eqn.primitive.name == "scan":
        return _Loop(scope, eqn, inputs).run()
    if _makes_seeds(eqn, inputs):
        return _seeds(scope, eqn, inputs)
    slots = _linear_slots(eqn, inputs)
    return _term_by_term(scope, eqn, inputs, slots) if slots else _whole(scope, eqn, inputs)


def _bind(eqn: Equation, arrays: Sequence[Any]) -> list[Any]:
    """Do one equation in its own context; with new variables, as an operand given twice may be two terms now."""
    invars, outvars = ([jex.Var(atom.aval) for atom in atoms] for atoms in (eqn.invars, eqn.outvars))
    eqn = eqn.replace(invars=invars, outvars=outvars)
    return jax.core.eval_jaxpr(jex.Jaxpr((), invars, outvars, [eqn], eqn.effects, _ONE_EQUATION), (), *arrays)


def _whole(scope: _Scope, eqn: Equation, inputs: list[Any]) -> list[Any]:
    """The equation as it is, on arrays."""
    outs = _bind(eqn, [scope.dense(x) for x in inputs])
    return [_Dependent(x) for x in outs] if any(_varies(x) for x in inputs) else outs


def _makes_seeds(eqn: Equation, inputs: list[Any]) -> bool:
    """Whether the outputs are a few numbers that depend on nothing but the coordinates."""
    if eqn.effects or not eqn.outvars:
        return False
    varying = [x for x in inputs if _varies(x)]
    if not all(isinstance(x, _Affine) and x.is_seed for x in varying):
        return False
    few = min(MAX_TERMS, 1 + len({key for x in varying for key in x.terms}))
    return all(jnp.issubdtype(v.aval.dtype, jnp.floating) and 0 < v.aval.size <= few for v in eqn.outvars)


def _seeds(scope: _Scope, eqn: Equation, inputs: list[Any]) -> list[Any]:
    """New coordinates; the same ones for the same equation, as `c[0]` is written anew for every parameter."""
    key = (eqn.primitive, repr(sorted(eqn.params.items())), tuple(map(_identity, inputs)))
    if key in scope.done:
        return scope.done[key][1]
    outs = [scope.seed(x) for x in _bind(eqn, [scope.dense(x) for x in inputs])]
    if eqn.primitive.name in _REPEATABLE:
        scope.done[key] = inputs, outs  # the inputs are kept, so that nothing else gets their ids
    return outs


def _identity(operand: Any) -> Any:
    """What tells an operand from others; a literal by its bits, since 0.0 and -0.0 are equal."""
    scalar = isinstance(operand, np.ndarray) and not operand.ndim
    return (str(operand.dtype), operand.tobytes()) if scalar else id(operand)


def _linear_slots(eqn: Equation, inputs: list[Any]) -> list[int]:
    """The operands to go through term by term; none where that would not be exact or would not pay."""
    affine = [i for i, x in enumerate(inputs) if isinstance(x, _Affine)]
    if eqn.primitive.name in _PRODUCTS:
        slots = affine if len(affine) == 1 and _pays(eqn, inputs[affine[0]]) else []
    else:
        slots = list(range(len(inputs)))[_LINEAR.get(eqn.primitive.name, slice(0))]
    fits = all(isinstance(x, _Affine) and i in slots for i, x in enumerate(inputs) if _varies(x))
    return slots if fits and _is_linear(eqn, [inputs[i] for i in affine]) else []


def _is_linear(eqn: Equation, affine: list[_Affine]) -> bool:
    """Whether these parameters and dtypes make the equation exactly linear, with few enough terms."""
    fill = eqn.params.get("fill_value")
    if not (fill is None or fill == 0 or np.isnan(fill)):
        return False
    if eqn.primitive.name == "scatter" and not eqn.params.get("unique_indices"):
        return False  # which of two values stays is undefined, so need not be the same one for each term
    if len({key for x in affine for key in x.terms}) > MAX_TERMS:
        return False
    return all(_holds(var.aval.dtype, x.aval.dtype) for var in eqn.outvars for x in affine)


def _holds(wide: Any, narrow: Any) -> bool:
    """Whether one floating-point dtype has all numbers of the other, so that nothing is rounded."""
    if not jnp.issubdtype(wide, jnp.inexact):
        return False
    w, n = jnp.finfo(wide), jnp.finfo(narrow)
    return bool(w.eps <= n.eps and w.max >= n.max)


def _pays(eqn: Equation, value: _Affine) -> bool:
    """Whether sharing a product saves more than summing its terms costs at each point."""
    if eqn.primitive.name not in _CONTRACTIONS or value.is_seed:
        return True
    return _contraction_length(eqn) >= LONG or eqn.outvars[0].aval.size <= value.aval.size


def _contraction_length(eqn: Equation) -> int:
    numbers = eqn.params["dimension_numbers"]
    if eqn.primitive.name == "dot_general":
        return math.prod(eqn.invars[0].aval.shape[axis] for axis in numbers[0][0])
    kernel = eqn.invars[1].aval
    return kernel.size // max(1, kernel.shape[numbers.rhs_spec[0]])


def _term_by_term(scope: _Scope, eqn: Equation, inputs: list[Any], slots: list[int]) -> list[Any]:
    """A linear equation, on each coefficient by itself."""
    linear = [inputs[i] for i in slots]
    keys = sorted({key for x in linear for key in _terms(x) if not _is_zero(x)})
    outs = {key: _coefficient(eqn, inputs, slots, key) for key in keys}
    affine = [x for x in linear if isinstance(x, _Affine)]
    if eqn.primitive.name in _CONTRACTIONS and not affine[0].is_seed:
        scope.hoisted.append(eqn.primitive.name)
    terms = [{key: out[index] for key, out in outs.items()} for index in range(len(eqn.outvars))]
    return [_described(eqn, inputs, affine, index, t) for index, t in enumerate(terms)]


def _is_zero(value: Any) -> bool:
    """Whether a value is known to be 0 while tracing."""
    return isinstance(value, np.ndarray) and not value.ndim and not value


def _coefficient(eqn: Equation, inputs: list[Any], slots: list[int], key: int) -> list[Any]:
    """One term of the outputs; most sums have one operand with this term, most products a coordinate: no work."""
    name, aval, parts = eqn.primitive.name, eqn.outvars[0].aval, []
    if name in ("add", "add_any"):
        parts = [_terms(x)[key] for x in inputs if key in _terms(x)]
    elif name == "mul" and inputs[slots[0]].is_seed and not inputs[slots[0]].aval.shape:
        parts = [inputs[1 - slots[0]]]
    if len(parts) == 1 and (parts[0].shape, parts[0].dtype) == (aval.shape, aval.dtype):
        return parts
    return _bind(eqn, [_term(x, key) if i in slots else x for i, x in enumerate(inputs)])


def _described(eqn: Equation, inputs: list[Any], affine: list[_Affine], index: int, terms: dict) -> _Affine:
    """The affine value; with the recipe for it where its operands are smaller and the operation is cheap."""
    aval, width = eqn.outvars[index].aval, sum(x.width for x in affine)
    if eqn.primitive.name in _COSTLY or width >= aval.size or any(x.aval.size > aval.size for x in affine):
        return _Affine(aval, terms, width=aval.size)
    return _Affine(aval, terms, recipe=(eqn, inputs, index), width=width)


# --------------------------------------------------------------------------------------------- calls and loops


def _call(scope: _Scope, eqn: Equation, inputs: list[Any]) -> list[Any]:
    """A call, inline. What a gradient recomputes stays apart from what it would otherwise be merged with."""
    body = eqn.params["jaxpr"] if "jaxpr" in eqn.params else eqn.params["call_jaxpr"]
    if not (eqn.params.get("differentiated") and eqn.params.get("prevent_cse")):
        return _run(scope, body, inputs)
    arrays = iter(jax.lax.optimization_barrier([x.array for x in inputs if isinstance(x, _Dependent)]))
    inner = scope.behind_barrier()
    outs = _run(inner, body, [_Dependent(next(arrays)) if isinstance(x, _Dependent) else x for x in inputs])
    return [_Dependent(inner.dense(x)) if _varies(x) else x for x in outs]


class _Loop:
    """A scan whose constants, carry, slices and outputs stay factored where they are affine in every iteration.

    The *kind* of a value is the set of the keys of its terms: that of a constant, or of an array that is dense.
    """

    def __init__(self, scope: _Scope, eqn: Equation, inputs: list[Any]) -> None:
        self.scope, self.eqn, self.body = scope, eqn, eqn.params["jaxpr"]
        num_consts, self.num_carry = num_consts_and_carry(eqn)
        self.consts, self.values = inputs[:num_consts], inputs[num_consts:]
        self.in_avals = self.body.in_avals[num_consts:]
        self.kinds = [_kind(scope, x) for x in self.values]

    def run(self) -> list[Any]:
        """The outputs."""
        split, params = self.num_carry, self.eqn.params
        out_kinds = self._settle()

        def step(carry: list[Any], xs: list[Any]) -> tuple[list[Any], list[Any]]:
            inner = _Scope(self.scope)
            values = self._iterate(inner, [*carry, *xs])
            new = [_pack(inner, *item) for item in zip(out_kinds, values, self.body.out_avals)]
            return new[:split], new[split:]

        first = [_pack(self.scope, *item) for item in zip(self.kinds, self.values, self.in_avals)]
        options = {name: params[name] for name in ("length", "reverse", "unroll")}
        last, ys = jax.lax.scan(step, first[:split], first[split:], **options)
        return [_unpack(packed, var.aval) for packed, var in zip([*last, *ys], self.eqn.outvars)]

    def _iterate(self, inner: _Scope, packed: list[Any]) -> list[Any]:
        values = [_unpack(*item) for item in zip(packed, self.in_avals)]
        return _run(inner, self.body, [*self.consts, *values])

    def _settle(self) -> list[Any]:
        """Find the least kinds that the carry keeps, which ends as they only grow; returns those of the outputs.

        A constant of the loop that its body turns into an array is one outside already, once.
        """
        split, before, outs, inner = self.num_carry, None, [], self.scope
        while before != self.kinds:
            before, inner = list(self.kinds), _Scope(self.scope)
            outs = self._probe(inner)
            self.kinds[:split] = [_join(a, b) for a, b in zip(before[:split], outs)]
        for value in self.consts:
            if isinstance(value, _Affine) and value in inner.arrays.maps[0]:
                self.scope.dense(value)
        return [*self.kinds[:split], *outs[split:]]

    def _probe(self, inner: _Scope) -> list[Any]:
        """Kinds of the outputs of the body, which is traced for that."""
        kinds: list[Any] = []
        inner.hoisted = []

        def trace(packed: list[Any]) -> None:
            kinds.extend(_kind(self.scope, x) for x in self._iterate(inner, packed))

        structs = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in self.in_avals]
        jax.eval_shape(trace, [dict.fromkeys(sorted(kind), s) for kind, s in zip(self.kinds, structs)])
        return kinds


def _kind(scope: _Scope, value: Any) -> frozenset[int]:
    """What a value is in a scope; the coordinates that only a loop's body has mean nothing outside."""
    if isinstance(value, _Dependent) or not all(not key or key in scope.coordinates for key in _terms(value)):
        return frozenset([_DENSE])
    return frozenset(_terms(value))


def _join(a: frozenset[int], b: frozenset[int]) -> frozenset[int]:
    return frozenset([_DENSE]) if _DENSE in a | b else a | b


def _pack(scope: _Scope, kind: frozenset[int], value: Any, aval: Any) -> dict[int, jax.Array]:
    """A value as arrays for a loop to carry."""
    if _DENSE in kind:
        return {_DENSE: _pin(scope.dense(value), aval, weak=False)}
    return {key: _pin(_term(value, key), aval, weak=False) for key in sorted(kind)}


def _unpack(packed: dict[int, Any], aval: Any) -> Any:
    if _DENSE in packed:
        return _Dependent(packed[_DENSE])
    return packed[_CONSTANT] if set(packed) == {_CONSTANT} else _Affine(aval, packed, width=aval.size)
