"""Which axes of a network's parameters are one axis of hidden units: the program of the network, followed axis by axis.

Every axis of every array is a product of *dimensions*. An addition makes the axes of its operands the same, a matrix
product those that it sums over, a reshape takes an axis apart or merges several. Units may be permuted along a
dimension unless something looks at their order: the inputs and outputs of the network, a convolution along its window,
a slice, a concatenation, and any operation that is not known here, all of which *pin* the dimensions that they touch.
So what is not understood is never permuted.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.extend.core as jex
from jaxtyping import PyTree

from landscape import _tree
from landscape.affine._program import LOOPS, inner_programs

Dim = int
Axis = tuple[Dim, ...]  # the dimensions that an axis is a product of, the slowest first; none for an axis of length 1

_WORDS = (
    "abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp convert_element_type copy copy_p cos "
    "cosh device_put digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt imag integer_pow is_finite le lgamma "
    "log log1p logistic lt max min mul name ne neg nextafter not optimization_barrier or pow real reduce_precision rem "
    "round rsqrt select_n sharding_constraint sign sin sinh sqrt square stop_gradient sub tan tanh xor"
)
_ELEMENTWISE = frozenset(_WORDS.split())
_REDUCTIONS = {"reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or"}
_ALONG_ONE_AXIS = {"cumsum": "axis", "cumprod": "axis", "cummax": "axis", "cummin": "axis", "cumlogsumexp": "axis"}


def follow(fn: Callable[..., Any], params: PyTree, rest: Sequence[Any]) -> tuple["Dims", dict[str, list[Axis]]]:
    """Follow the axes of `params` through `fn(params, *rest)`.

    Returns:
        The dimensions, and the axes of each leaf of `params` by its name.
    """
    program = jax.make_jaxpr(fn)(params, *rest).jaxpr
    dims = Dims()
    named = jax.tree_util.tree_leaves_with_path(params)
    used = {atom for eqn in program.eqns for atom in eqn.invars if not isinstance(atom, jex.Literal)}
    env: dict[Any, list[Axis]] = {}
    for i, var in enumerate(program.invars):
        env[var] = dims.axes(var.aval.shape, pinned=i >= len(named) or var not in used)
    followed = _Followed(dims)
    for axes in followed.run(program, [env[var] for var in program.invars]):
        dims.pin(axes)
    return dims, {_tree.key_name(path): env[var] for (path, _), var in zip(named, program.invars)}


class Dims:
    """Dimensions, which of them are the same, and which are pinned."""

    def __init__(self) -> None:
        self._same: list[Dim] = []
        self._size: list[int] = []
        self._pinned: list[bool] = []
        self._parts: dict[Dim, Axis] = {}

    def axes(self, shape: Iterable[int], pinned: bool = False) -> list[Axis]:
        """New dimensions for the axes of an array."""
        return [() if n == 1 else (self._new(n, pinned),) for n in shape]

    def _new(self, size: int, pinned: bool) -> Dim:
        self._same.append(len(self._same))
        self._size.append(size)
        self._pinned.append(pinned)
        return len(self._same) - 1

    def factors(self, axis: Axis) -> Axis:
        """The dimensions of an axis as they are known by now."""
        roots = [self._root(dim) for dim in axis]
        return tuple(f for root in roots for f in (self.factors(self._parts[root]) if root in self._parts else (root,)))

    def _root(self, dim: Dim) -> Dim:
        while self._same[dim] != dim:
            dim = self._same[dim]
        return dim

    def size(self, axis: Axis) -> int:
        """The length of an axis."""
        return math.prod(self._size[self._root(dim)] for dim in axis)

    def is_pinned(self, dim: Dim) -> bool:
        """Whether the units of a dimension must stay where they are."""
        return self._pinned[self._root(dim)]

    def pin(self, axes: Iterable[Axis]) -> None:
        """Let the units along these axes stay where they are."""
        for axis in axes:
            for dim in self.factors(axis):
                self._pinned[dim] = True

    def join(self, one: Axis, other: Axis) -> None:
        """Let two axes be the same: what one of them takes apart is taken apart in the other as well."""
        left, right = list(self.factors(one)), list(self.factors(other))
        while left and right:
            taken = _matched(left, right, self._size)
            if taken is None:
                return self.pin([(*left, *right)])
            first, second = taken
            if len(first) == len(second) == 1:
                self._merge(first[0], second[0])
            else:
                whole, parts = (first[0], second) if len(first) == 1 else (second[0], first)
                self._split(whole, tuple(parts))
            left, right = ([f for dim in side for f in self.factors((dim,))] for side in (left, right))
        return self.pin([(*left, *right)])

    def _merge(self, a: Dim, b: Dim) -> None:
        a, b = self._root(a), self._root(b)
        if a == b:
            return
        self._pinned[a] = self._pinned[a] or self._pinned[b]
        self._same[b] = a

    def _split(self, whole: Dim, parts: Axis) -> None:
        if self._pinned[whole] or whole in parts:
            self.pin([parts])
        if whole in parts:
            self._pinned[whole] = True
        else:
            self._parts[whole] = parts


def _matched(left: list[Dim], right: list[Dim], size: list[int]) -> tuple[list[Dim], list[Dim]] | None:
    """Take from the front of both the fewest dimensions of equal product, one of them alone on its side."""
    first, second = [left.pop(0)], [right.pop(0)]
    while (a := math.prod(size[d] for d in first)) != (b := math.prod(size[d] for d in second)):
        short, source = (first, left) if a < b else (second, right)
        if not source:
            left[:0], right[:0] = first, second
            return None
        short.append(source.pop(0))
    if len(first) > 1 and len(second) > 1:
        left[:0], right[:0] = first, second
        return None
    return first, second


class _Followed:
    """One pass through a program."""

    def __init__(self, dims: Dims) -> None:
        self.dims = dims

    def run(self, program: Any, inputs: Sequence[list[Axis]]) -> list[list[Axis]]:
        """The axes of the outputs."""
        env: dict[Any, list[Axis]] = dict(zip(program.invars, inputs))
        env |= {var: self.dims.axes(var.aval.shape, pinned=True) for var in program.constvars}

        def read(atom: Any) -> list[Axis]:
            return self.dims.axes(atom.aval.shape, pinned=True) if isinstance(atom, jex.Literal) else env[atom]

        for eqn in program.eqns:
            outputs = self.equation(eqn, [read(atom) for atom in eqn.invars])
            env.update(zip(eqn.outvars, outputs))
        return [read(atom) for atom in program.outvars]

    def equation(self, eqn: Any, inputs: list[list[Axis]]) -> list[list[Axis]]:
        """The axes of the outputs of one equation."""
        name = eqn.primitive.name
        if name in _ELEMENTWISE:
            return self._elementwise(eqn, inputs)
        if name in _REDUCTIONS:
            return [[axis for i, axis in enumerate(inputs[0]) if i not in eqn.params["axes"]]]
        rule = getattr(self, f"_{name}", None)
        if rule is not None:
            return rule(eqn, inputs)
        if name in _ALONG_ONE_AXIS:
            return self._kept(eqn, inputs, {eqn.params[_ALONG_ONE_AXIS[name]]})
        if name.startswith("reduce_window") and len(inputs[0]) == len(eqn.outvars[0].aval.shape):
            return self._kept(eqn, inputs, {i for i, n in enumerate(eqn.params["window_dimensions"]) if n != 1})
        if name not in LOOPS and name != "cond":
            for program in inner_programs(eqn):
                if len(program.invars) == len(inputs) and len(program.outvars) == len(eqn.outvars):
                    return self.run(program, inputs)
        return self._unknown(eqn, inputs)

    def _unknown(self, eqn: Any, inputs: list[list[Axis]]) -> list[list[Axis]]:
        for axes in inputs:
            self.dims.pin(axes)
        return [self.dims.axes(getattr(var.aval, "shape", ()), pinned=True) for var in eqn.outvars]

    def _kept(self, eqn: Any, inputs: list[list[Axis]], pinned: set[int]) -> list[list[Axis]]:
        """One operand, and any others of no axes: its axes go through, but some whose order matters."""
        shape = eqn.outvars[0].aval.shape
        changed = {i for i, n in enumerate(eqn.invars[0].aval.shape) if n != shape[i]} | pinned
        self.dims.pin(inputs[0][i] for i in changed)
        new = self.dims.axes(shape, pinned=True)
        return [[new[i] if i in changed else axis for i, axis in enumerate(inputs[0])] for _ in eqn.outvars]

    def _elementwise(self, eqn: Any, inputs: list[list[Axis]]) -> list[list[Axis]]:
        if len(eqn.outvars) > 1:  # several arrays go through side by side
            return inputs
        shape = eqn.outvars[0].aval.shape
        out: list[Axis] = [()] * len(shape)
        for atom, axes in zip(eqn.invars, inputs):
            for i, axis in enumerate(axes):  # an operand is a scalar, or has axes of length 1 where it is stretched
                if atom.aval.shape[i] == shape[i] and axis:
                    out[i] = out[i] or axis
                    self.dims.join(out[i], axis)
        return [out]

    def _broadcast_in_dim(self, eqn: Any, inputs: list[list[Axis]]) -> list[list[Axis]]:
        shape, places = eqn.params["shape"], eqn.params["broadcast_dimensions"]
        out = self.dims.axes(shape)  # the same number all along: any order of it is the same
        for axis, place, length in zip(inputs[0], places, eqn.invars[0].aval.shape):
            if length == shape[place]:
                out[place] = axis
        return [out]

    def _reshape(self, eqn: Any, inputs: list[list[Axis]]) -> list[list[Axis]]:
        out = self.dims.axes(eqn.outvars[0].aval.shape)
        if eqn.params.get("dimensions") is not None:
            return self._unknown(eqn, inputs)
        self.dims.join(sum(inputs[0], ()), sum(out, ()))
        return [out]

    def _transpose(self, eqn: Any, inputs: list[list[Axis]]) -> list[list[Axis]]:
        return [[inputs[0][i] for i in eqn.params["permutation"]]]

    def _squeeze(self, eqn: Any, inputs: list[list[Axis]]) -> list[list[Axis]]:
        gone = {i % len(inputs[0]) for i in eqn.params["dimensions"]}
        return [[axis for i, axis in enumerate(inputs[0]) if i not in gone]]

    def _dot_general(self, eqn: Any, inputs: list[list[Axis]]) -> list[list[Axis]]:
        summed, batch = eqn.params["dimension_numbers"]
        left, right = inputs
        for pairs in (summed, batch):
            for i, j in zip(*pairs):
                self.dims.join(left[i], right[j])
        rest = [
            [axis for i, axis in enumerate(axes) if i not in (*summed[side], *batch[side])]
            for side, axes in enumerate((left, right))
        ]
        return [[left[i] for i in batch[0]] + rest[0] + rest[1]]

    def _conv_general_dilated(self, eqn: Any, inputs: list[list[Axis]]) -> list[list[Axis]]:
        numbers, groups = eqn.params["dimension_numbers"], eqn.params["feature_group_count"]
        (batch, channel, *space), (made, taken, *window) = numbers.lhs_spec, numbers.rhs_spec
        left, right = inputs
        depthwise = groups > 1 and groups == self.dims.size(left[channel]) == self.dims.size(right[made])
        if eqn.params["batch_group_count"] != 1 or not (groups == 1 or depthwise):
            return self._unknown(eqn, inputs)
        self.dims.join(left[channel], right[made if depthwise else taken])
        self.dims.pin([*(left[i] for i in space), *(right[i] for i in window)])
        out = self.dims.axes(eqn.outvars[0].aval.shape, pinned=True)
        out[numbers.out_spec[0]], out[numbers.out_spec[1]] = left[batch], right[made]
        return [out]

    def _argmax(self, eqn: Any, inputs: list[list[Axis]]) -> list[list[Axis]]:
        self.dims.pin(inputs[0][i] for i in eqn.params["axes"])
        return [[axis for i, axis in enumerate(inputs[0]) if i not in eqn.params["axes"]]]

    _argmin = _argmax

    def _slice(self, eqn: Any, inputs: list[list[Axis]]) -> list[list[Axis]]:
        return self._kept(eqn, inputs, set())  # what keeps its length is whole

    _dynamic_slice = _slice

    def _pad(self, eqn: Any, inputs: list[list[Axis]]) -> list[list[Axis]]:
        padded = {i for i, widths in enumerate(eqn.params["padding_config"]) if any(widths)}
        return self._kept(eqn, inputs, padded)

    def _rev(self, eqn: Any, inputs: list[list[Axis]]) -> list[list[Axis]]:
        return self._kept(eqn, inputs, set(eqn.params["dimensions"]))

    def _concatenate(self, eqn: Any, inputs: list[list[Axis]]) -> list[list[Axis]]:
        along = eqn.params["dimension"]
        out = self.dims.axes(eqn.outvars[0].aval.shape, pinned=True)
        for axes in inputs:
            self.dims.pin([axes[along]])
            for i, (one, other) in enumerate(zip(inputs[0], axes)):
                if i != along:
                    self.dims.join(one, other)
        return [[out[i] if i == along else axis for i, axis in enumerate(inputs[0])]]

    def _gather(self, eqn: Any, inputs: list[list[Axis]]) -> list[list[Axis]]:
        """A look-up in a table: the axes that are taken whole go through."""
        numbers, sizes, shape = eqn.params["dimension_numbers"], eqn.params["slice_sizes"], eqn.invars[0].aval.shape
        batching = getattr(numbers, "operand_batching_dims", ())
        out = self.dims.axes(eqn.outvars[0].aval.shape, pinned=True)
        self.dims.pin(inputs[1])
        kept = [i for i in range(len(shape)) if i not in (*numbers.collapsed_slice_dims, *batching)]
        for i, axis in enumerate(inputs[0]):
            if i in kept and sizes[i] == shape[i]:
                out[numbers.offset_dims[kept.index(i)]] = axis
            else:
                self.dims.pin([axis])
        return [out]


def groups_of(dims: Dims, axes: dict[str, list[Axis]], parent: Callable[[str], str]) -> tuple[dict[str, Any], str]:
    """The group of each axis of each leaf, and where a channel lies in an axis that it was flattened into.

    A dimension that no group can stand for is pinned: two that may be permuted in one axis, or a channel in the middle
    of a flattened axis, or at another end than others.
    """
    flatten = ""
    changed = True
    while changed:
        changed = False
        for axis in (dims.factors(axis) for leaf in axes.values() for axis in leaf):
            free = [i for i, dim in enumerate(axis) if not dims.is_pinned(dim)]
            if not free or len(axis) == 1:
                continue
            ends = {0: "first", len(axis) - 1: "last"}
            flatten = flatten or ends.get(free[0], "")
            if len(free) > 1 or ends.get(free[0]) != flatten:
                dims.pin([tuple(axis[i] for i in free)])
                changed = True
    free = {
        name: [next((dim for dim in dims.factors(axis) if not dims.is_pinned(dim)), None) for axis in leaf]
        for name, leaf in axes.items()
    }
    names: dict[Dim, str] = {}
    made = [(leaf[-1], name) for name, leaf in free.items() if len(leaf) > 1]  # by a kernel (.., in, out)
    for dim, name in [*made, *((dim, name) for name, leaf in free.items() for dim in leaf)]:
        if dim is not None and dim not in names:
            names[dim] = _unused(parent(name) or name, set(names.values()))
    return {name: tuple(None if dim is None else names[dim] for dim in leaf) for name, leaf in free.items()}, (
        flatten or "last"
    )


def _unused(wanted: str, taken: set[str]) -> str:
    """A name for a group that no other has."""
    others = (f"{wanted}_{i}" for i in range(2, len(taken) + 3))
    return next(name for name in (wanted, *others) if name not in taken)
