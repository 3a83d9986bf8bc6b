r"""Permutations of hidden units: what they leave unchanged, and how one network is laid onto another.

Hidden units have no order: permuting the outputs of a layer and the inputs of the next one alike changes no output. Two
trainings end in different orders, so the line between them may cross a barrier that is a matter of order alone.
*Weight matching* looks for the permutations that bring `b` nearest to `a`, $\arg\max_P \langle a, P b \rangle$
(Ainsworth, Hayase & Srinivasa 2023, "Git Re-Basin", section 3.2 and algorithm 1): one layer at a time, given the
others, that is a linear assignment problem with an exact solution; sweeps over the layers go on until nothing is
gained. For one hidden layer the first sweep finds the optimum; for more, the last one ends in a local optimum.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from landscape import _tree
from landscape.affine._program import narrowest_float
from landscape.checks import check_choice
from landscape.paths._axes import follow, groups_of
from landscape.subspace import LAYOUTS, check_pair

Groups = tuple[str | None, ...]
Permutations = Mapping[str, Any]
IN_OUT = {"flax": (-2, -1), "haiku": (-2, -1), "torch": (1, 0), "equinox": (1, 0)}


@dataclass(frozen=True, eq=False)
class PermutationSpec:
    """Which axis of which leaf is indexed by which group of hidden units.

    A group is a set of units that are permuted together. All axes that it indexes must have its length, or a multiple
    of it where channels were flattened into the inputs of a dense layer.

    >>> import jax.numpy as jnp
    >>> from landscape.paths import PermutationSpec
    >>> params = {"first": {"kernel": jnp.ones((5, 3)), "bias": jnp.ones(3)}, "second": {"kernel": jnp.ones((3, 2))}}
    >>> PermutationSpec.sequential(params).axes
    {'first.kernel': (None, 'first'), 'first.bias': ('first',), 'second.kernel': ('first', None)}

    Attributes:
        axes: `{path of the leaf: one group or None for each axis}`, paths as in error messages: `layers.0.kernel`.
            Every leaf of the trees that are permuted must be there, those of batch statistics too.
        flatten: where the channel lies in a flattened axis: `"last"`, it changes fastest (NHWC, flax), or `"first"`,
            slowest (NCHW, PyTorch).
    """

    axes: Mapping[str, Groups]
    flatten: Literal["last", "first"] = "last"

    @classmethod
    def traced(cls, predict: Callable[..., Any], params: PyTree, inputs: PyTree = None, *, state: PyTree = None) -> Any:
        """The groups of any network, by following the axes of its parameters through its program.

        Additions, matrix products, convolutions, norms, activations, pooling, flattening, attention, skips and tied
        weights are understood. Whatever looks at the order of units, and any operation that is not known, keeps them
        where they are; what lies behind a loop (`lax.scan`) is not followed.

        >>> import jax, jax.numpy as jnp
        >>> from landscape.paths import PermutationSpec
        >>> params = {"a": jnp.ones((5, 3)), "norm": jnp.ones(3), "b": jnp.ones((3, 2))}
        >>> predict = lambda p, x: jnp.tanh(x @ p["a"]) * p["norm"] @ p["b"]
        >>> PermutationSpec.traced(predict, params, jnp.ones((7, 5))).axes
        {'a': (None, 'a'), 'b': ('a', None), 'norm': ('a',)}

        Args:
            predict: `predict(params, inputs)`, or `predict(params, inputs, state)` where `state` is given; an
                `Objective`, with no inputs, does too.
            params: the parameters of a network.
            inputs: inputs of the network; shapes will do (`jax.ShapeDtypeStruct`). With arrays, and arrays of
                parameters, the result is tried out: all groups are permuted and the outputs compared.
            state: statistics that are not trained; the spec names them too.

        Raises:
            TypeError: parameters that are not real floating-point arrays, or a `predict` that is no function.
            ValueError: nothing can be permuted; or the outputs do change, which would be an error of this library.
        """
        _tree.check_params(params)
        if not callable(predict):
            raise TypeError(f"predict must be a function (params, inputs), got {type(predict).__name__}")
        rest = () if inputs is None else (inputs,)
        both = params if state is None else (params, state)

        def outputs(both: PyTree, *rest: Any) -> Any:
            return predict(both, *rest) if state is None else predict(both[0], *rest, both[1])

        dims, axes = follow(outputs, both, rest)
        if state is not None:
            axes = _without_prefix(axes)
        groups, flatten = groups_of(dims, axes, _parent)
        spec = cls(groups, "first" if flatten == "first" else "last")
        if not spec.groups:
            raise ValueError(
                "no axis of the parameters can be permuted without changing the outputs, as far as the program can be "
                "followed: build the PermutationSpec from axes, or by sequential(params, order=...)"
            )
        leaves = jax.tree.leaves((both, rest))
        if not any(isinstance(leaf, jax.ShapeDtypeStruct) or _tree.is_traced(leaf) for leaf in leaves):
            turned = {group: np.roll(np.arange(size)[::-1], 1) for group, size in spec.sizes(params).items()}
            _check_outputs(predict, params, permute(params, turned, spec), spec, turned, inputs, state)
        return spec

    @classmethod
    def sequential(
        cls, params: PyTree, *, order: Sequence[str] | None = None, state: PyTree = None, layout: str = "flax"
    ) -> "PermutationSpec":
        """The groups of layers that follow one another: dense, convolution and normalisation, each of any number.

        A layer is what the leaves with one parent belong to. Its kernel takes the units of the layer before, one group
        named after that layer, and makes those of its own; biases, scales and statistics belong to the units of the
        kernel before them. The outputs of the last kernel are not permuted. Convolutions are `(*window, in, out)`, with
        `layout="torch"` `(out, in, *window)`.

        The order is what decides, and names say little of it: flax sorts `BatchNorm_0` before `Conv_0`. `traced` reads
        it off the program instead.

        Args:
            params: the parameters of a network.
            order: parents of the leaves, such as `("conv1", "norm1", "dense")`, in the order in which data go through;
                by default that of the tree where it is one: of a list, or of names that differ in a number alone
                (`Dense_2` comes before `Dense_10`). Dictionaries are sorted by name, which is no order; of their
                layers it has to be given, unless only one fits the shapes.
            state: statistics that are not trained; a leaf belongs to the layer of the same name.
            layout: `"flax"` or `"haiku"`, `"torch"` or `"equinox"`.

        Raises:
            ValueError: an unknown layout; an order that does not name the layers, or that is needed; a kernel whose
                inputs are not the units of the layer before it, each of them once or, in a dense layer after a
                convolution, several times; a vector that does not fit; fewer than two kernels. Read the spec of
                another architecture, such as one with skips or tied weights, off its program by `traced`.
        """
        check_choice("layout", layout, sorted(LAYOUTS))
        layers, statistics = _layers(params), _layers(state)
        known = dict.fromkeys([*layers, *statistics])
        both = {name: {**layers.get(name, {}), **statistics.get(name, {})} for name in known}
        _check_own_vectors(both, layout)
        names = _ordered(both, layers, order, layout)
        chained = _chained([(name, both[name]) for name in names], layout)
        return cls(chained, "first" if layout in ("torch", "equinox") else "last")

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of the groups, in the order in which `axes` first names them."""
        return tuple(dict.fromkeys(group for groups in self.axes.values() for group in groups if group is not None))

    def sizes(self, params: PyTree) -> dict[str, int]:
        """How many units each group has.

        Raises:
            ValueError: a leaf that `axes` does not name or that has another number of axes; a group whose axes have
                lengths that do not fit; `flatten` is unknown.
        """
        if self.flatten not in ("last", "first"):
            raise ValueError(f"flatten must be 'last' or 'first', got {self.flatten!r}")
        lengths: dict[str, dict[str, int]] = {}
        for name, leaf, groups in self._named(params):
            for axis, (group, length) in enumerate(zip(groups, jnp.shape(leaf))):
                if group is not None:
                    lengths.setdefault(group, {})[f"axis {axis} of {name}"] = length
        for group, found in lengths.items():
            if any(length % max(min(found.values()), 1) for length in found.values()):
                raise ValueError(f"the axes of group {group!r} must have one length, or multiples of it, got {found}")
        return {group: min(found.values()) for group, found in lengths.items()}

    def _named(self, params: PyTree) -> list[tuple[str, Any, Groups]]:
        """Name, leaf and groups of every leaf, checked."""
        named = []
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            name = _tree.key_name(path)
            if name not in self.axes:
                raise ValueError(f"the spec does not name the leaf {name}; it names {', '.join(self.axes) or 'none'}")
            if len(self.axes[name]) != jnp.ndim(leaf):
                raise ValueError(f"the spec gives {name} the axes {self.axes[name]}, but it is {_tree.describe(leaf)}")
            named.append((name, leaf, self.axes[name]))
        return named


def _without_prefix(axes: dict[str, Any]) -> dict[str, Any]:
    """The axes of parameters and state, followed as a pair, by the names that they have apart."""
    named = {name.partition(".")[2]: leaf for name, leaf in axes.items()}
    if len(named) < len(axes):
        raise ValueError("a leaf of the state has the name of a parameter, so a spec cannot tell them apart: rename it")
    return named


Layers = dict[str, dict[str, Any]]


def _layers(tree: PyTree) -> Layers:
    """Leaves by the name of their parent, in the order of the tree."""
    layers: Layers = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = _tree.key_name(path)
        layers.setdefault(_parent(name), {})[name] = leaf
    return layers


def _parent(name: str) -> str:
    """The layer that a leaf belongs to; flax nnx keeps an array under one more name, `value`."""
    return name.removesuffix(".value").rpartition(".")[0]


def _ordered(both: Layers, layers: Layers, order: Sequence[str] | None, layout: str) -> Sequence[str]:
    """The names of the layers in the order in which data go through."""
    if order is not None:
        if not isinstance(order, list | tuple) or not all(isinstance(name, str) for name in order):
            raise TypeError(f"order must be a list of names of layers, got {_tree.describe(order)}")
        if set(order) != set(both) or len(order) != len(both):
            raise ValueError(f"order must name each of the layers {sorted(both)} once, got {list(order)}")
        return order
    if set(both) - set(layers):
        raise ValueError(
            f"the state has layers that the parameters lack, {sorted(set(both) - set(layers))}: "
            "say by order= where they come, or read the spec off the program by PermutationSpec.traced"
        )
    names = list(layers)
    if names != sorted(names):
        return names
    if len({re.sub(r"\d+", "0", name) for name in names}) == 1:
        return _naturally_sorted(names)
    orders = list(itertools.islice(_orders_that_fit(both, layout), 2))
    if len(orders) == 2:
        raise ValueError(
            f"the layers {names} are sorted by name, which does not say in which order data go through them, and more "
            f"than one order fits their shapes ({', '.join(orders[0])}; {', '.join(orders[1])}): say it by order=, or "
            "read the spec off the program by PermutationSpec.traced(predict, params, inputs)"
        )
    return orders[0] if orders else _naturally_sorted(names)


def _orders_that_fit(both: Layers, layout: str, most: int = 10_000) -> Iterator[list[str]]:
    """Orders of the layers in which each kernel takes what the one before it makes, and each vector has a place.

    Of vectors at one place, one order is as good as another. Beyond so many attempts, it is given up.
    """
    kernels = {name: jnp.shape(leaves[kernel]) for name, leaves in both.items() if (kernel := _kernel(leaves, layout))}
    vectors = [name for name in both if name not in kernels]
    tried = itertools.count()

    def extended(done: list[str]) -> Iterator[list[str]]:
        if len(done) == len(kernels):
            yield from _placed(done, kernels, {name: both[name] for name in vectors}, layout)
        for name in _naturally_sorted(list(kernels)):
            if (
                name not in done
                and next(tried) < most
                and _fits(kernels[name], kernels[done[-1]] if done else (), layout)
            ):
                yield from extended([*done, name])

    return extended([])


def _placed(done: list[str], kernels: Mapping[str, Any], vectors: Layers, layout: str) -> Iterator[list[str]]:
    """A row of kernels, with vectors at every place that fits them."""
    into, out = IN_OUT[layout]
    widths = [kernels[done[0]][into], *(kernels[name][out] for name in done)] if done else []
    places = []
    for leaves in vectors.values():
        lengths = {max(jnp.shape(leaf), default=1) for leaf in leaves.values()} - {1}
        places.append([i for i, width in enumerate(widths) if lengths <= {width}])
    for chosen in itertools.product(*places):
        at = dict(zip(vectors, chosen))
        rows = [[*done[i - 1 : i], *(name for name in vectors if at[name] == i)] for i in range(len(widths))]
        yield [name for row in rows for name in row]


def _naturally_sorted(names: list[str]) -> list[str]:
    """Names that come sorted as text, as from a dictionary, with their numbers in order; others as they are."""
    if names != sorted(names):
        return names
    return sorted(names, key=lambda name: [int(x) if x.isdecimal() else x for x in re.split(r"(\d+)", name)])


def _chained(layers: Sequence[tuple[str, dict[str, Any]]], layout: str) -> dict[str, Groups]:
    """The groups of every leaf of layers that follow one another."""
    kernels = [kernel for _, leaves in layers if (kernel := _kernel(leaves, layout)) is not None]
    shapes = {name: jnp.shape(leaf) for _, leaves in layers for name, leaf in leaves.items()}
    if len(kernels) < 2:
        raise ValueError(
            f"a spec needs hidden units between two kernels, got {len(kernels)}: of a network that uses one kernel "
            "twice, such as an autoencoder with tied weights, read it off the program by PermutationSpec.traced"
        )
    into, out = IN_OUT[layout]
    group, before, axes = None, (), {}
    size = shapes[kernels[0]][into]
    for layer, leaves in layers:
        kernel = _kernel(leaves, layout)
        if kernel is not None:
            shape = shapes[kernel]
            _check_inputs(kernel, shape, before, layout)
            along = {into % len(shape): group, out % len(shape): None if kernel == kernels[-1] else layer}
            axes[kernel] = tuple(along.get(axis) for axis in range(len(shape)))
            group, before, size = along[out % len(shape)], shape, shape[out]
        vectors = {name: leaf for name, leaf in leaves.items() if name != kernel}
        axes |= {name: _vector(name, leaf, group, size) for name, leaf in vectors.items()}
    return axes


def _check_own_vectors(both: Layers, layout: str) -> None:
    """Raise `ValueError` unless the vectors of a layer with a kernel have one number for each of its units."""
    for leaves in both.values():
        kernel = _kernel(leaves, layout)
        if kernel is not None:
            size = jnp.shape(leaves[kernel])[IN_OUT[layout][1]]
            _ = [_vector(name, leaf, None, size) for name, leaf in leaves.items() if name != kernel]


def _fits(shape: tuple[int, ...], before: tuple[int, ...], layout: str) -> bool:
    """Whether a kernel of this shape takes the units of the one before it."""
    into, out = IN_OUT[layout]
    if not before or shape[into] == before[out]:
        return True
    return len(shape) == 2 < len(before) and shape[into] % before[out] == 0  # flattened


def _check_inputs(kernel: str, shape: tuple[int, ...], before: tuple[int, ...], layout: str) -> None:
    """Raise `ValueError` unless a kernel of this shape takes the units of the one before it."""
    into, out = IN_OUT[layout]
    if not _fits(shape, before, layout):
        raise ValueError(
            f"{kernel} takes {shape[into]} inputs, but the layer before it has {before[out]} units: say by order= in "
            "which order data go through the layers, or read the spec off the program by PermutationSpec.traced"
        )


def _kernel(leaves: dict[str, Any], layout: str) -> str | None:
    """The name of the one leaf of a layer that has inputs and outputs, if any."""
    found = {name: axis for name, leaf in leaves.items() if (axis := LAYOUTS[layout](name, leaf)) is not None}
    if len(found) > 1 or any(axis != IN_OUT[layout][1] for axis in found.values()):
        raise ValueError(
            f"a layer must have one kernel of a dense layer or a convolution, got {', '.join(found)}: build the "
            "PermutationSpec of other layers from axes"
        )
    return next(iter(found), None)


def _vector(name: str, leaf: Any, group: str | None, size: int) -> Groups:
    """The groups of a bias, a scale or a statistic: its one axis is that of the units."""
    shape = jnp.shape(leaf)
    where = [axis for axis, length in enumerate(shape) if length == size]
    if max(shape, default=1) == 1:
        return (None,) * len(shape)
    if not where:
        raise ValueError(
            f"{name} must have one number for each of the {size} units before it, got {_tree.describe(leaf)}: say by "
            "order= in which order data go through the layers, or read the spec off the program by "
            "PermutationSpec.traced"
        )
    return tuple(group if axis == where[0] else None for axis in range(len(shape)))


# ----------------------------------------------------------------------------------------------------- permutations


def permute(params: PyTree, permutations: Permutations, spec: PermutationSpec) -> PyTree:
    """Parameters, or statistics, with their hidden units in another order.

    Unit `i` of the result is unit `permutations[group][i]` of `params`. Groups that are not given stay as they are.
    Permuting is indexing: no number changes, and a network computes the same up to the order in which sums are taken.
    Pure: jit it with the permutations as arguments, or vmap it.

    Args:
        params: any tree whose leaves the spec names. The shortest axis of a group says how many units it has, so a
            tree must not hold only axes into which its channels were flattened.
        permutations: `{group: (n,) integers}`, each of 0 .. n-1 once.
        spec: which axes they apply to.

    Raises:
        TypeError: a permutation is not of integers.
        ValueError: a group that the spec does not have; a permutation of the wrong length, or that is none; a leaf
            that the spec does not name or that has another number of axes.
    """
    if not isinstance(spec, PermutationSpec):
        raise TypeError(f"spec must be a PermutationSpec, got {_tree.describe(spec)}")
    if not isinstance(permutations, Mapping):
        raise TypeError(f"permutations must be a dict of integers by group, got {_tree.describe(permutations)}")
    sizes = spec.sizes(params)
    orders = {group: _checked(group, order, spec, sizes) for group, order in permutations.items()}
    named = {name: groups for name, _, groups in spec._named(params)}

    def moved(name: str, leaf: Any) -> Array:
        leaf = jnp.asarray(leaf)
        for axis, group in enumerate(named[name]):
            if group in orders:
                leaf = jnp.take(leaf, _spread(orders[group], leaf.shape[axis], spec.flatten), axis=axis)
        return leaf

    return _tree.map_with_name(moved, params)


def _checked(group: str, order: Any, spec: PermutationSpec, sizes: Mapping[str, int]) -> Array:
    if group not in spec.groups:
        raise ValueError(f"the spec has no group {group!r}; its groups are {', '.join(spec.groups) or 'none'}")
    order = jnp.asarray(order)
    if not jnp.issubdtype(order.dtype, jnp.integer):
        raise TypeError(f"the permutation of group {group!r} must hold integers, got {_tree.describe(order)}")
    known = not _tree.is_traced(order)
    if order.ndim != 1 or (known and not np.array_equal(np.sort(order), np.arange(len(order)))):
        raise ValueError(f"the permutation of group {group!r} must hold each of 0 .. n-1 once, got {order}")
    size = sizes.get(group, len(order))  # a tree may hold nothing of a group, as statistics do
    if len(order) != size:
        raise ValueError(
            f"the permutation of group {group!r} must have one entry for each of its {size} units, got {len(order)}"
        )
    return order


def _spread(order: Any, length: int, flatten: str) -> Any:
    """A permutation of units as one of an axis, where each unit may have several entries."""
    repeats = length // max(len(order), 1)
    several = np.arange(repeats, dtype=order.dtype)
    blocks = several[:, None] * len(order) + order[None]
    if flatten == "first":
        blocks = order[:, None] * repeats + several[None]
    return blocks.reshape(-1)


# --------------------------------------------------------------------------------------------------------- matching


@dataclass(frozen=True, eq=False)
class Matching:
    """How one network was laid onto another.

    Attributes:
        permutations: `{group: (n,) int}`, for `permute`; statistics that are not trained need them too.
        params: the permuted network.
        distances: the Euclidean distance of the two before the first sweep and after each; never rising.
    """

    permutations: dict[str, np.ndarray]
    params: PyTree
    distances: Float[np.ndarray, " sweeps"]


def match_weights(
    a: PyTree,
    b: PyTree,
    spec: PermutationSpec,
    *,
    key: Array | None = None,
    max_sweeps: int = 100,
    predict: Callable[..., Any] | None = None,
    inputs: PyTree = None,
    state: PyTree = None,
) -> Matching:
    """Permute the hidden units of `b` to bring its weights nearest to those of `a`.

    Coordinate descent over the groups (Ainsworth et al. 2023, algorithm 1), each step an exact linear assignment
    (`scipy.optimize.linear_sum_assignment`), in float64 on the host. A step is taken only if it shortens the distance,
    so the distances never rise, also where one group indexes two axes of a leaf, as with skip connections, and the
    assignment is no longer exact.

    Args:
        a: the network that stays.
        b: the network whose units are permuted.
        spec: the groups of units.
        key: random key of the order in which each sweep goes through the groups, as in the paper; by default they are
            taken as the spec names them. For networks with several hidden layers, keys may end in different optima.
        max_sweeps: sweeps over all groups at most.
        predict: `predict(params, inputs)`, or `predict(params, inputs, state)` where `state` is given. With it, the
            outputs of `b` before and after are compared: a spec that fits the shapes may still be that of another
            network.
        inputs: what to compare them on; without, `predict(params)` is called, as suits an `Objective`.
        state: statistics of `b` that are not trained, permuted along.

    Raises:
        TypeError: parameters that are not real floating-point arrays, or something that is no spec, key or function.
        ValueError: `b` does not look like `a`, the spec does not fit, `max_sweeps` is below 1, or the outputs change.
    """
    if not isinstance(spec, PermutationSpec):
        raise TypeError(f"spec must be a PermutationSpec, got {type(spec).__name__}")
    check_pair(a, b)
    if key is not None:
        _tree.check_key(key)
    _tree.check_count("max_sweeps", max_sweeps, 1)
    if predict is not None and not callable(predict):
        raise TypeError(f"predict must be a function (params, inputs), got {type(predict).__name__}")
    sizes = spec.sizes(a)
    rng = None if key is None else np.random.default_rng(np.asarray(jax.random.bits(key, (4,), jnp.uint32)))
    pair = _Pair(spec, _doubles(a), _doubles(b), {group: np.arange(size) for group, size in sizes.items()})
    distances = [pair.distance()]
    for _ in range(max_sweeps):
        order = list(sizes) if rng is None else [list(sizes)[i] for i in rng.permutation(len(sizes))]
        improved = [pair.improve(group) for group in order]
        distances.append(pair.distance())
        if not any(improved):
            break
    moved = permute(b, pair.orders, spec)
    if predict is not None:
        _check_outputs(predict, b, moved, spec, pair.orders, inputs, state)
    return Matching(pair.orders, moved, np.asarray(distances))


def _check_outputs(
    predict: Callable[..., Any],
    params: PyTree,
    moved: PyTree,
    spec: PermutationSpec,
    orders: Permutations,
    inputs: PyTree,
    state: PyTree,
) -> None:
    """Raise `ValueError` unless a network computes the same with permuted units, up to the order of its sums."""
    given = () if inputs is None else (inputs,)
    rest = (*given, state) if state is not None else given
    rest_moved = (*given, permute(state, orders, spec)) if state is not None else given
    before, after = (jax.tree.leaves(predict(p, *r)) for p, r in ((params, rest), (moved, rest_moved)))
    types = [jnp.result_type(x) for x in (*jax.tree.leaves(params), *before)]
    types += [] if (narrow := narrowest_float(predict, params, *rest)) is None else [narrow]
    precision = max(float(jnp.finfo(t).eps) for t in types if jnp.issubdtype(t, jnp.floating))
    for x, y in zip(before, after):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        size, change = (float(np.max(np.abs(z), initial=0, where=np.isfinite(x))) for z in (x, x - y))
        if not change <= precision**0.5 * size or np.any(np.isfinite(x) != np.isfinite(y)):
            raise ValueError(
                f"permuting the units as the spec says changes the outputs by {change:.3g} (their size is {size:.3g}), "
                "so it is not the spec of this network: read it off the program by PermutationSpec.traced(predict, "
                "params, inputs), or give sequential the order= in which data go through the layers"
            )


def _doubles(tree: PyTree) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {_tree.key_name(path): np.asarray(leaf, np.float64) for path, leaf in leaves}


@dataclass(eq=False)
class _Pair:
    """Two networks, and the permutations that lay the second onto the first so far."""

    spec: PermutationSpec
    a: dict[str, np.ndarray]
    b: dict[str, np.ndarray]
    orders: dict[str, np.ndarray]

    def improve(self, group: str) -> bool:
        """Match one group given the others; whether that brought the networks nearer."""
        from scipy.optimize import linear_sum_assignment

        touched = [name for name, groups in self.spec.axes.items() if group in groups and name in self.a]
        before, old = self.inner(touched), self.orders[group]
        self.orders[group] = linear_sum_assignment(self._gains(group, touched), maximize=True)[1]
        size = sum(float(np.sum(np.abs(self.a[name] * self.b[name]))) for name in touched)
        better = self.inner(touched) > before + 64 * np.finfo(np.float64).eps * size
        if not better:
            self.orders[group] = old
        return better

    def _gains(self, group: str, touched: Sequence[str]) -> np.ndarray:
        """`<unit i of a, unit j of b>` over everything that a unit touches, the other groups as they are."""
        size = len(self.orders[group])
        gains = np.zeros((size, size))
        for name in touched:
            for axis in (k for k, g in enumerate(self.spec.axes[name]) if g == group):
                u = _units(self.a[name], axis, size, self.spec.flatten)
                v = _units(self._laid(name, skip=axis), axis, size, self.spec.flatten)
                gains += u @ v.T
        return gains

    def _laid(self, name: str, skip: int | None = None) -> np.ndarray:
        """A leaf of the second network in its present order, along all axes but one."""
        leaf = self.b[name]
        for axis, group in enumerate(self.spec.axes[name]):
            if group is not None and axis != skip:
                leaf = np.take(leaf, _spread(self.orders[group], leaf.shape[axis], self.spec.flatten), axis=axis)
        return leaf

    def inner(self, names: Sequence[str]) -> float:
        """What is maximised: the inner product of the networks, here over the leaves of these names."""
        return sum(float(np.sum(self.a[name] * self._laid(name))) for name in names)

    def distance(self) -> float:
        """Euclidean."""
        return float(np.sqrt(sum(np.sum((x - self._laid(name)) ** 2) for name, x in self.a.items())))


def _units(leaf: np.ndarray, axis: int, size: int, flatten: str) -> np.ndarray:
    """One row per unit: everything in a leaf that belongs to it along an axis."""
    shape = leaf.shape
    split = (-1, size) if flatten == "last" else (size, -1)
    parts = leaf.reshape(*shape[:axis], *split, *shape[axis + 1 :])
    return np.moveaxis(parts, axis + split.index(size), 0).reshape(size, -1)
