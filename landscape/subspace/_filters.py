"""What the filters of a parameter are: rules by layout, what the shapes of a layer tell, and a table that says so.

A *filter* is what makes one unit of a layer: a column of a dense kernel `(in, out)`, a row of a weight `(out, in)`. Its
axis is known by the name of a parameter, or by the shapes of those beside it: a bias has one number for each unit.
"""

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from landscape import _tree
from landscape.checks import warn

FilterAxis = int | tuple[int, ...] | None

_BIASES = {"b", "scale", "offset", "gamma", "beta"}
_PROJECTIONS = re.compile(
    r"(?:^|_)(?:w?(?:q|k|v|qk|kv|qkv)|query|key|value|query_key_value|in_proj|c_attn)(?:_|\d|proj|$)", re.IGNORECASE
)
_KERNELS = re.compile(r"(?:.*_)?kernel|w(?:\d+|_.*)?", re.IGNORECASE)
_RECURRENT = re.compile(r"(?:^|_)(ih|hh)(?=_|\d|$)", re.IGNORECASE)
_CONV1D = {"c_attn", "c_fc", "c_proj", "q_attn"}  # Hugging Face's Conv1D (in, out); others have dense layers so called


class Rule(NamedTuple):
    """The axes of a parameter's filters, `None` for one without, and how that is known; no `why` where it is not."""

    axes: FilterAxis
    why: str = ""


def flax_filter_axis(name: str, leaf: Any) -> FilterAxis:
    """Axes that index the filters of a flax (linen, nnx), keras or haiku parameter, `None` for one without filters.

    Kernels of dense and convolution layers hold their filters on the last axis; an embedding is one filter per
    row; the query, key and value kernels of attention, apart `(features, heads, head_dim)` or fused
    `(features, 3, heads, head_dim)`, on all axes but the first.
    """
    return _by_flax(name, leaf).axes


def torch_filter_axis(name: str, leaf: Any) -> FilterAxis:
    """Axes that index the filters of a PyTorch or equinox parameter: the first, for every kind of weight.

    So does the paper's code. In a transposed convolution of PyTorch, `(in, out, *kernel)`, that is the input channel.
    """
    return _by_torch(name, leaf).axes


LAYOUTS: dict[str, Callable[[str, Any], FilterAxis]] = {
    "flax": flax_filter_axis,
    "haiku": flax_filter_axis,
    "torch": torch_filter_axis,
    "equinox": torch_filter_axis,
}


def _by_flax(name: str, leaf: Any) -> Rule:
    """What names tell of flax, haiku and keras; the last axis where they tell nothing."""
    *modules, last = words(name)
    shape = jnp.shape(leaf)
    if is_vector(name, leaf):
        return Rule(None, VECTOR)
    if "embed" in last and (len(shape) == 2 or shape[0] == 1):
        return Rule(tuple(range(len(shape) - 1)) if len(shape) > 2 else 0, "embedding: one filter per row")
    window = _is_window(modules, shape)
    if len(shape) >= 3 and not window and any(_PROJECTIONS.search(word) for word in (*modules, last)):
        return _projection(modules, shape)
    if _KERNELS.fullmatch(last) and not _RECURRENT.search(last) and (len(shape) == 2 or window):
        return Rule(-1, "kernel (.., in, out)")
    return Rule(-1)


def _projection(modules: list[str], shape: tuple[int, ...]) -> Rule:
    """Query, key and value of attention: heads and their dimensions count filters, and which of the three it is."""
    apart = len(shape) == 3 and (shape[0] >= shape[1] or bool({"query", "key", "value"} & {*modules}))
    fused = len(shape) > 3 and shape[1] in (2, 3) and shape[0] > 3
    if apart or fused:
        return Rule(tuple(range(1, len(shape))), "projection of attention: all axes but the first")
    return Rule(-1)


def _is_window(modules: list[str], shape: tuple[int, ...]) -> bool:
    """Whether a kernel of three axes or more is a convolution, or the last projection of attention."""
    told = any(re.search("conv", word, re.IGNORECASE) or word == "out" for word in modules)
    window = shape[:-2]
    return told or (len(window) > 1 and len(set(window)) == 1)


def _by_torch(name: str, leaf: Any) -> Rule:
    """What names tell of PyTorch and equinox; the first axis where they tell nothing."""
    *modules, last = words(name)
    if is_vector(name, leaf):
        return Rule(None, VECTOR)
    uncertain = {*_CONV1D} & {*modules} or any(re.search("transpose|deconv|upconv", m, re.IGNORECASE) for m in modules)
    if "weight" in (word for part in (*modules[-1:], last) for word in part.split("_")) and not uncertain:
        return Rule(0, _WEIGHT)
    return Rule(0)


_WEIGHT = "weight (out, in, ..)"
VECTOR = "bias or scale of a norm layer: no filters"


def is_vector(name: str, leaf: Any) -> bool:
    """Biases and norm scales have no filters. By name too, since some carry more than one axis.

    A `bias` always is one: that of flax attention is `(heads, head_dim)`. The other names also stand for matrices (the
    `b` of a low-rank product), so they count only where all entries lie along one axis: the scale of a haiku batch norm
    is `(1, 1, 1, out)`.
    """
    last, shape = words(name)[-1], jnp.shape(leaf)
    along_one = math.prod(shape) == max(shape, default=1)
    return len(shape) <= 1 or last == "bias" or (along_one and (last in _BIASES or last.startswith("bias_")))


def words(name: str) -> list[str]:
    """The path of a parameter; flax nnx keeps the array under one more name, `value`, which is left out."""
    path = name.split(".")
    return path[:-1] if path[-1] == "value" and len(path) > 1 else path


# ---------------------------------------------------------------------------------------------- what the shapes tell


class _Layers:
    """The parameters of a model by name, to look at those beside one of them."""

    def __init__(self, params: PyTree) -> None:
        self.shapes = {
            _tree.key_name(path): tuple(jnp.shape(leaf)) for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        }
        self.layers: dict[str, dict[str, tuple[int, ...]]] = {}
        for name, shape in self.shapes.items():
            *modules, last = words(name)
            self.layers.setdefault(".".join(modules), {})[last] = shape

    def beside(self, name: str) -> tuple[str, dict[str, tuple[int, ...]]]:
        """The last word of a name, and the shapes of the parameters of the same layer by theirs."""
        *modules, last = words(name)
        return last, self.layers[".".join(modules)]

    def vector(self, name: str, leaf: Any) -> str:
        """Why a parameter has no filters, or nothing where it has some."""
        shape, (last, beside) = self.shapes[name], self.beside(name)
        if is_vector(name, leaf):
            return "" if last in _BIASES and _is_factor(shape, beside) else VECTOR
        if _bias_of(last, beside) == shape:
            return "as large as its bias: scale of a norm layer, no filters"
        return ""

    def rule(self, name: str, by_name: Rule) -> Rule:
        """What is known of a parameter with filters: by the shapes of its layer, then by its name."""
        shape, (last, beside) = self.shapes[name], self.beside(name)
        expected = _positions(by_name.axes, len(shape))
        by_bias = _by_bias(shape, _bias_of(last, beside), expected)
        told = self._by_conv1d(name) or by_bias or _by_gates(last, beside)
        if told is None:
            return Rule(by_name.axes) if by_name.why == _WEIGHT and self._may_be_transposed(shape) else by_name
        agrees = _positions(told.axes, len(shape)) == expected
        return Rule(by_name.axes, by_name.why or told.why) if agrees else told

    @cached_property
    def _is_conv1d(self) -> bool | None:
        """Whether layers called as in GPT-2 are (in, out): the wider axis of two of them is that of the outputs."""
        wide = [s for name, s in self.shapes.items() if len(s) == 2 and {"c_attn", "c_fc"} & {*words(name)}]
        votes = {s[1] > s[0] for s in wide if s[0] != s[1]}
        return votes.pop() if len(votes) == 1 else None

    def _may_be_transposed(self, shape: tuple[int, ...]) -> bool:
        """Whether a weight of PyTorch may be that of a transposed convolution, (in, out, *kernel), as far as is known.

        With as many inputs as outputs neither its shape nor its bias tells. Taken for one are those of a model that has
        others, and those with windows of even length, which convolutions hardly have.
        """
        square = len(shape) > 2 and shape[0] == shape[1] > 1
        return square and (self._has_transposed or any(n % 2 == 0 for n in shape[2:]))

    @cached_property
    def _has_transposed(self) -> bool:
        """Whether the bias of some convolution counts its second axis."""
        found = ((shape, *self.beside(name)) for name, shape in self.shapes.items() if len(shape) > 2)
        told = (_by_bias(shape, _bias_of(last, beside), {0}) for shape, last, beside in found if last == "weight")
        return any(rule is not None and rule.axes == 1 for rule in told)

    def _by_conv1d(self, name: str) -> Rule | None:
        *modules, last = words(name)
        named = last in ("weight", "kernel") and len(self.shapes[name]) == 2 and bool(_CONV1D & {*modules})
        if not named or self._is_conv1d is None:
            return None
        return Rule(1, "(in, out), as c_attn and c_fc") if self._is_conv1d else Rule(0, "(out, in), as c_attn and c_fc")


def _is_factor(shape: tuple[int, ...], beside: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether a matrix with one axis of length 1 is a factor of a low-rank product with a matrix of its layer."""
    if len(shape) != 2:
        return False
    matrices = (other for other in beside.values() if len(other) == 2 and other != shape)
    return any(inner != max(shape) and inner == own for other in matrices for inner, own in zip(other[::-1], shape))


_PARTNERS = (
    (r"weight|kernel", "bias"), (r"(?:^|(?<=_))[wW](?=_|\d|$)", "b"), (r"scale", "bias"), (r"scale", "offset"),
    (r"gamma", "beta"),
)  # fmt: skip


def _bias_of(last: str, beside: Mapping[str, tuple[int, ...]]) -> tuple[int, ...] | None:
    """The shape of the bias that belongs to a parameter, without axes of length 1."""
    for pattern, bias in _PARTNERS:
        partner = re.sub(pattern, bias, last, count=1)
        if partner != last and partner in beside:
            return _squeezed(beside[partner])
    rest = [word for word, shape in beside.items() if len(shape) > 1]
    vectors = {word: shape for word, shape in beside.items() if len(shape) == 1}
    if rest == [last] and len(vectors) == 1:
        return next(iter(vectors.values()))
    if all(_RECURRENT.search(word) for word in rest):
        return next((vectors[word] for word in ("bias", "b") if word in vectors), None)
    return None


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (max(shape),) if shape and math.prod(shape) == max(shape) else shape


def _by_bias(shape: tuple[int, ...], bias: Any, expected: set[int]) -> Rule | None:
    """The axes that a bias has numbers for, where only these fit; of several, those with the expected ones."""
    if not bias or math.prod(bias) == 1:
        return None
    fitting = [
        axes
        for axes in itertools.combinations(range(len(shape)), len(bias))
        if tuple(shape[axis] for axis in axes) == bias
    ]
    if len(fitting) > 1 and len(bias) > 1:
        fitting = [axes for axes in fitting if expected.issubset(axes)]
    if len(fitting) != 1:
        return None
    axes = fitting[0][0] if len(bias) == 1 else fitting[0]
    return Rule(axes, f"its bias has {' x '.join(map(str, bias))} numbers")


def _by_gates(last: str, beside: Mapping[str, tuple[int, ...]]) -> Rule | None:
    """The axis of the gates of a recurrent weight: that of `hh` is 3 or 4 times as long as its other one."""
    kind = _RECURRENT.search(last)
    if kind is None:
        return None
    pair = {word: beside.get(last[: kind.start(1)] + word + last[kind.end(1) :], ()) for word in ("ih", "hh")}
    own, hidden = pair[kind.group(1).lower()], pair["hh"]
    if len(own) != 2 or len(hidden) != 2:
        return None
    gates = max(hidden)
    along = [axis for axis in (0, 1) if own[axis] == gates]
    if hidden[0] != hidden[1] and len(along) == 2:  # as many inputs as gates: stored like hh
        along = [hidden.index(gates)]
    elif len(along) == 2 and len(pair["ih"]) == 2:  # one gate, hh is square: stored like ih
        along = [axis for axis in (0, 1) if pair["ih"][axis] == gates]
    return Rule(along[0], "recurrent: the axis of the gates") if len(along) == 1 else None


def _positions(axes: FilterAxis, ndim: int) -> set[int]:
    if axes is None:
        return set()
    return {axis % ndim if ndim else axis for axis in (axes if isinstance(axes, tuple) else (axes,))}


# ------------------------------------------------------------------------------------------------- all of a model's


class Filters(NamedTuple):
    """The filters of one parameter, as a row of a `Description`.

    Attributes:
        name: the path of the parameter.
        shape: its shape.
        axes: the axes that count its filters, `None` for one without.
        num_filters: how many there are; 1 for one without.
        why: how the axes are known; empty where no rule knows them.
    """

    name: str
    shape: tuple[int, ...]
    axes: tuple[int, ...] | None
    num_filters: int
    why: str


def filters_of(params: PyTree, filter_axis: Any) -> list[Filters]:
    """The filters of every leaf of `params`, by the `filter_axis` of `filter_normalize`, in the order of the leaves."""
    filter_axis = _known(params, filter_axis)
    layers = _Layers(params)
    named = [(_tree.key_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]
    return [_filters(name, leaf, _rule_for(name, leaf, layers, filter_axis)) for name, leaf in named]


def _known(params: PyTree, filter_axis: Any) -> Any:
    """What parameters that know their filters themselves say, where nothing else is asked for."""
    return getattr(params, "filter_axis", None) if filter_axis is None else filter_axis


def _rule_for(name: str, leaf: Any, layers: _Layers, filter_axis: Any) -> Rule:
    if callable(filter_axis):
        return Rule(filter_axis(name, leaf), "as filter_axis says")
    vector = layers.vector(name, leaf)
    if vector:
        return Rule(None, vector)
    if not isinstance(filter_axis, str):
        return Rule(-1 if filter_axis is None else filter_axis, "as filter_axis says")
    by_name = _by_torch(name, leaf) if LAYOUTS[filter_axis] is torch_filter_axis else _by_flax(name, leaf)
    if by_name.axes is None:  # a factor that is called like a bias
        by_name = Rule(LAYOUTS[filter_axis]("factor", leaf), "factor of a low-rank product")
    return layers.rule(name, by_name)


def _filters(name: str, leaf: Any, rule: Rule) -> Filters:
    shape = jnp.shape(leaf)
    if rule.axes is None:
        return Filters(name, shape, None, 1, rule.why)
    axes = rule.axes if isinstance(rule.axes, tuple) else (rule.axes,)
    if not all(-len(shape) <= axis < len(shape) for axis in axes):
        raise ValueError(f"filter_axis {axes} does not exist in {name}, {_tree.describe(leaf)}")
    axes = tuple(sorted(axis % len(shape) for axis in axes))
    return Filters(name, shape, axes, math.prod(shape[axis] for axis in axes), rule.why)


def check_filter_axis(filter_axis: Any) -> None:
    """Raise unless it is a layout, a function, an axis or some, or `None`."""
    if isinstance(filter_axis, str) and filter_axis not in LAYOUTS:
        raise ValueError(f"filter_axis must be an axis, a function or one of {sorted(LAYOUTS)}, got {filter_axis!r}")
    if callable(filter_axis):
        _tree.check_takes(filter_axis, "filter_axis", "name", "leaf")
    whole = filter_axis if isinstance(filter_axis, tuple) else (filter_axis,)
    if not (filter_axis is None or isinstance(filter_axis, str) or callable(filter_axis)):
        for axis in whole:
            _tree.check_count("filter_axis", axis)


def doubts(params: PyTree, filter_axis: Any) -> str:
    """What to say of the leaves of two axes or more whose filters are not known; nothing where all are."""
    filter_axis = _known(params, filter_axis)
    if filter_axis is None:
        return _doubts_of_last_axis(params)
    if not isinstance(filter_axis, str):
        return ""
    unknown = [row for row in filters_of(params, filter_axis) if not row.why]
    if not unknown:
        return ""
    taken = "; ".join(f"{row.name} {list(row.shape)}, axis {_text(row.axes)} taken" for row in unknown)
    return (
        f"filter_axis={filter_axis!r} has no rule for the filters of {taken}: give a function (name, leaf) -> axis, "
        "axes or None (subspace.describe prints what is taken of every leaf)"
    )


def warn_of(params: PyTree, filter_axis: Any) -> None:
    """Warn of filters that are not known, and of matrices that are zero: directions of their norm do not move them."""
    said = doubts(params, filter_axis)
    if said:
        warn(said)
    leaves = [(_tree.key_name(p), x) for p, x in jax.tree_util.tree_leaves_with_path(params) if jnp.ndim(x) > 1]
    nonzero = [(name, jnp.any(jnp.asarray(x) != 0)) for name, x in leaves]
    zero = [name for name, some in nonzero if not _tree.is_traced(some) and not some]
    if zero:
        warn(
            f"{', '.join(zero[:3])}{f' and {len(zero) - 3} more' if len(zero) > 3 else ''} of params are all zero, and "
            "directions of the norm of zero move nothing: with one factor of a low-rank adapter zero, as before its "
            "training, the picture is blank. Train it first, or leave out filter_normalize"
        )


def _doubts_of_last_axis(params: PyTree) -> str:
    """Where the last axis, taken for want of another, may count the inputs of a layer and not its filters."""
    said = []
    for row in filters_of(params, "flax"):
        rows = row.axes == (0,) or not row.why
        if row.axes is None or (row.why and row.axes == (len(row.shape) - 1,)):
            continue
        if words(row.name)[-1] == "weight" and rows and not (_CONV1D & {*words(row.name)}):
            said.append(
                f"{row.name} looks like a PyTorch or equinox weight, whose filters are on its first axis (pass "
                'filter_axis="torch")'
            )
        elif row.why:
            said.append(f"the filters of {row.name} {list(row.shape)} are on axis {_text(row.axes)} ({row.why})")
        else:
            said.append(f"no rule knows the filters of {row.name} {list(row.shape)}")
    if not said:
        return ""
    return (
        f"filter_axis was left at -1, but {'; '.join(said)}: pass filter_axis={'|'.join(sorted(LAYOUTS))}, a function, "
        "or -1 if the last axis it is (subspace.describe prints what is taken of every leaf)"
    )


def _text(axes: tuple[int, ...] | None) -> str:
    return "-" if axes is None else ", ".join(map(str, axes))


# --------------------------------------------------------------------------------------------------------- the table


class Row(NamedTuple):
    """One parameter of a `Description`: its filters, and whether the directions move it.

    Attributes:
        name: the path of the parameter.
        shape: its shape.
        axes: the axes that count its filters, `None` for one without.
        num_filters: how many there are; 1 for one without.
        moved: whether any direction moves it.
        why: how the axes are known, or why it is not moved.
    """

    name: str
    shape: tuple[int, ...]
    axes: tuple[int, ...] | None
    num_filters: int
    moved: bool
    why: str


@dataclass(frozen=True, repr=False)
class Description:
    """A table of what directions do to each parameter; printed, it is text.

    Attributes:
        rows: one for each leaf of the parameters.
    """

    rows: tuple[Row, ...]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        cells = [("leaf", "shape", "axis", "filters", "moved", "why")]
        for row in self.rows:
            shape = "x".join(map(str, row.shape)) or "scalar"
            moved = "yes" if row.moved else "no"
            cells.append((row.name, shape, _text(row.axes), f"{row.num_filters:,}", moved, row.why))
        widths = [max(map(len, column)) for column in zip(*cells)]
        lines = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in cells)
        return "\n".join(lines)

    __repr__ = __str__


def described(dirs: PyTree, params: PyTree, filter_axis: Any) -> Description:
    """The table; `dirs` is a stack of trees like `params`."""
    filters = filters_of(params, filter_axis)
    both = zip(filters, _tree.stacked_leaves(dirs), jax.tree.leaves(params))
    return Description(tuple(_row(row, *_any_nonzero(d, w)) for row, d, w in both))


def _any_nonzero(direction: Any, weights: Any) -> tuple[bool, bool]:
    return bool(jnp.any(direction != 0)), bool(jnp.any(jnp.asarray(weights) != 0))


def _row(filters: Filters, moved: bool, has_weights: bool) -> Row:
    why = filters.why or "no rule knows it: this axis is taken for want of another"
    if not moved and filters.axes is not None:
        why = f"0 in the directions; {why}" if has_weights else "0 in the parameters"
    return Row(*filters[:4], moved, why)
