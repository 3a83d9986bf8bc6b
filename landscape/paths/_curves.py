r"""Curves between two sets of parameters, and how they are trained to low loss.

A curve is $\phi(t) = \sum_i w_i(t)\, \theta_i$ over nodes of which the first and the last are its ends; a Bezier curve
has the weights of Bernstein, a polygonal chain the hats of its corners. The nodes between, the *bends*, minimise
$\ell = \mathrm{E}_{t \sim U(0, 1)}\, L(\phi(t))$ (Garipov et al. 2018, "Loss surfaces, mode connectivity, and fast
ensembling of DNNs", equation 2). Since a curve is linear in its bends, the gradient for bend $i$ is
$\mathrm{E}\, w_i(t) \nabla L(\phi(t))$, which takes the memory of one gradient of the loss.
"""

import math
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from landscape import _tree
from landscape.checks import reals
from landscape.grid import Grid
from landscape.moving import join
from landscape.objective import Objective, check_means, set_aside_of_both
from landscape.point import matmul_precision
from landscape.subspace import check_pair, line
from landscape.training import check_optimizer, check_run
from landscape.training._descent import Spec, batch_of, check_loss, updated

_static: Any = {"static": True}


@dataclass(frozen=True, eq=False)
class _Curve:
    """Nodes, and how a position weighs them."""

    nodes: PyTree
    stacked: bool = field(default=False, kw_only=True, metadata=_static)
    frozen: PyTree = field(default=None, kw_only=True)

    @property
    def num_nodes(self) -> int:
        """Number of nodes, ends included."""
        return _tree.num_stacked(self._stack())

    @property
    def ends(self) -> tuple[PyTree, PyTree]:
        """The parameters at 0 and at 1."""
        nodes = self._stack()
        return jax.tree.map(lambda x: x[0], nodes), jax.tree.map(lambda x: x[-1], nodes)

    def _stack(self) -> PyTree:
        """The nodes as a stack, checked."""
        if self.stacked:
            _tree.check_params(self.nodes, "nodes")
            return self.nodes
        return _tree.read_stack(self.nodes, "nodes", otherwise="pass stacked=True")

    def weights(self, t: Any) -> Float[Array, " nodes"]:
        """The weight of each node at position `t`; they sum to 1."""
        raise NotImplementedError

    def __call__(self, coords: Float[Array, " 1"] | Float[np.ndarray, " 1"] | Float[Array, ""] | float) -> PyTree:
        """Parameters at a position, in the dtypes of the nodes; exactly the ends at 0 and 1.

        Raises:
            TypeError: a node is not a real floating-point array, or the position no number.
            ValueError: fewer than two nodes, or several positions: map over them.
        """
        nodes = self._checked_nodes()
        if not _tree.is_traced(coords) and reals("the position on a path", coords).size != 1:
            raise ValueError(f"a path takes one position at a time, got shape {np.shape(coords)}: use jax.vmap(path)")
        mixed = _tree.combine(self.weights(jnp.reshape(jnp.asarray(coords), ())), nodes)
        return self.whole(jax.tree.map(lambda x, node: x.astype(jnp.result_type(node)), mixed, nodes))

    def whole(self, node: PyTree) -> PyTree:
        """All parameters at a node: what moves, with what stays."""
        return join(node, self.frozen)

    def check_grid(self, grid: Grid) -> None:
        """Raise unless this is a curve that a float of this precision resolves on `grid`.

        Raises:
            TypeError: a node is not a real floating-point array.
            ValueError: fewer than two nodes, more than one axis, or steps of the grid smaller than the rounding of the
                parameters.
        """
        self._checked_nodes()
        if grid.ndim != 1:
            raise ValueError(f"a path has one coordinate, the grid {grid.ndim} axes: use Grid.line((0, 1), num)")
        line(*self.ends).check_grid(grid)

    def _checked_nodes(self) -> PyTree:
        nodes = self._stack()
        sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(nodes)}
        if len(sizes) != 1 or min(sizes) < (2,):
            raise ValueError(f"nodes must be a stack of at least two trees, the same number in every leaf, got {sizes}")
        return nodes


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Bezier(_Curve):
    r"""A Bezier curve, $w_i(t) = \binom{n}{i} t^i (1 - t)^{n - i}$; it goes through its ends, not through its bends.

    Attributes:
        nodes: `n + 1` parameter trees, a stack or a list, the ends first and last.
        stacked: whether `nodes` is a stack for sure. Only needed where one tree is itself a list of layers of equal
            shapes, so that a stack of it looks like a list of trees.
        frozen: parameters that are alike all along, such as integers: the other part of `subspace.split`.
    """

    def weights(self, t: Any) -> Float[Array, " nodes"]:
        """The Bernstein polynomials at `t`."""
        n = self.num_nodes - 1
        return jnp.stack([math.comb(n, i) * t**i * (1 - t) ** (n - i) for i in range(n + 1)])


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Chain(_Curve):
    """A polygonal chain whose corners are equally spaced in `t`; beyond its ends it goes straight on.

    Attributes:
        nodes: `n + 1` parameter trees, a stack or a list: the corners.
        stacked: as for `Bezier`.
        frozen: as for `Bezier`.
    """

    def weights(self, t: Any) -> Float[Array, " nodes"]:
        """The two corners of the segment that `t` lies in."""
        n = self.num_nodes - 1
        segment = jnp.clip(jnp.floor(t * n), 0, n - 1)
        share = t * n - segment
        corners = jnp.arange(n + 1, dtype=jnp.result_type(segment))
        return jnp.where(corners == segment, 1 - share, jnp.where(corners == segment + 1, share, 0))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Fit:
    """A trained curve.

    Attributes:
        path: the curve, a `Bezier` or a `Chain`. Its ends are those given, to the bit.
        history: `t`, the positions of each step, `(num_steps, num_positions)`, and `loss`, the mean loss there before
            the step, on that step's examples, `(num_steps,)`.
    """

    path: Bezier | Chain
    history: dict[str, Array]


def fit_bezier(
    key: Array,
    objective: Objective,
    a: PyTree,
    b: PyTree,
    *,
    optimizer: optax.GradientTransformation | None = None,
    num_steps: int = 1000,
    num_bends: int = 1,
    num_positions: int = 1,
    batch_size: int | None = None,
) -> Fit:
    """Train the bends of a Bezier curve from `a` to `b` to low loss.

    Each step draws positions `t` from U(0, 1), one in each of `num_positions` equal parts of [0, 1], and goes down on
    the mean loss there (Garipov et al. 2018, section 3.2, with one position a step). The curve starts as the line.
    Pure: jit it, or vmap it over pairs of ends.

    Args:
        key: random key of the positions and of the minibatches.
        objective: what is low along the curve. Its state, if any, stays as it is.
        a: parameters at `t = 0`.
        b: parameters at `t = 1`.
        optimizer: any optax optimizer, for the bends; Adam with rate 0.01 by default.
        num_steps: steps.
        num_bends: nodes between the ends; one is the quadratic curve of the paper.
        num_positions: positions in each step.
        batch_size: examples in each step, drawn anew without replacement; all of them by default.

    Returns:
        The curve and the losses met on the way. Nothing is raised for a training that diverges: its losses say so.

    Raises:
        TypeError: parameters that are not real floating-point arrays, or something that is no key, objective,
            optimizer or integer.
        ValueError: `b` does not look like `a`; no bend or no position; `batch_size` beyond the examples.
    """
    spec = _Spec(Bezier, _or_adam(optimizer), num_steps, num_bends, num_positions, batch_size)
    return _checked_fit(spec, key, objective, a, b)


def fit_chain(
    key: Array,
    objective: Objective,
    a: PyTree,
    b: PyTree,
    *,
    optimizer: optax.GradientTransformation | None = None,
    num_steps: int = 1000,
    num_bends: int = 1,
    num_positions: int = 1,
    batch_size: int | None = None,
) -> Fit:
    """Train the corners of a polygonal chain from `a` to `b` to low loss (Garipov et al. 2018, equation 3).

    Everything else is as for `fit_bezier`.

    Raises:
        TypeError, ValueError: as for `fit_bezier`.
    """
    spec = _Spec(Chain, _or_adam(optimizer), num_steps, num_bends, num_positions, batch_size)
    return _checked_fit(spec, key, objective, a, b)


@dataclass(frozen=True)
class _Spec:
    """The static side of a fit."""

    curve: Any
    optimizer: optax.GradientTransformation
    num_steps: int
    num_bends: int
    num_positions: int
    batch_size: int | None


def _or_adam(optimizer: optax.GradientTransformation | None) -> optax.GradientTransformation:
    return _adam() if optimizer is None else optimizer


@lru_cache
def _adam() -> optax.GradientTransformation:
    """One object, so that calls share a compiled program."""
    return optax.adam(0.01)


def _checked_fit(spec: _Spec, key: Any, objective: Any, a: PyTree, b: PyTree) -> Fit:
    _tree.check_key(key)
    given = objective
    objective, a, b = set_aside_of_both(objective, a, b)
    check_pair(a, b)
    _tree.check_count("num_bends", spec.num_bends, 1)
    _tree.check_count("num_positions", spec.num_positions, 1)
    check_optimizer(spec.optimizer)
    check_run(objective, Spec(spec.optimizer, spec.num_steps, 1, batch_size=spec.batch_size), key, None)
    check_means(objective, lambda: a)
    with matmul_precision():
        found = _fit(_tree.Fixed(spec), key, objective, a, b)
    return found if objective is given else Fit(replace(found.path, frozen=objective.frozen), found.history)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class _Along:
    """The mean loss at some positions of a curve, as a function of its bends."""

    objective: Objective
    ends: tuple[PyTree, PyTree]
    t: Float[Array, " positions"]
    curve: Any = field(metadata=_static)

    def through(self, bends: PyTree) -> Any:
        """The curve with these bends."""
        a, b = self.ends
        nodes = jax.tree.map(lambda x, m, y: jnp.concatenate([x[None], m, y[None]]), a, bends, b)
        return self.curve(nodes, stacked=True)

    def __call__(self, bends: PyTree) -> Float[Array, ""]:
        path = self.through(bends)
        return jnp.mean(jax.vmap(lambda t: self.objective(path(t)))(self.t))

    def value_and_grad(self, bends: PyTree) -> tuple[Float[Array, ""], PyTree]:
        """The loss and its gradient for each bend."""
        path = self.through(bends)
        if len(self.t) == 1:
            return self._one(path.weights(self.t[0]), bends)
        losses, gradients = jax.vmap(lambda t: self.objective.value_and_grad(path(t)))(self.t)
        shares = jax.vmap(path.weights)(self.t)[:, 1:-1] / len(self.t)
        return jnp.mean(losses), jax.vmap(_tree.combine, in_axes=(1, None))(shares, gradients)

    def _one(self, weights: Array, bends: PyTree) -> tuple[Float[Array, ""], PyTree]:
        """The same at the only position, by plain sums; products and maps of every leaf take longer to compile."""

        def mixed(a: Array, middle: Array, b: Array) -> Array:
            dtype = _tree.wide_dtype(a)
            w, nodes = weights.astype(dtype), [x.astype(dtype) for x in (a, *middle, b)]
            return sum((w[i] * x for i, x in enumerate(nodes[1:], 1)), start=w[0] * nodes[0]).astype(a.dtype)

        a, b = self.ends
        loss, gradient = self.objective.value_and_grad(jax.tree.map(mixed, a, bends, b))
        return loss, jax.tree.map(lambda x: jnp.stack([w.astype(x.dtype) * x for w in weights[1:-1]]), gradient)


@partial(jax.jit, static_argnums=0)
def _fit(fixed: _tree.Fixed, key: Array, objective: Objective, a: PyTree, b: PyTree) -> Fit:
    spec: _Spec = fixed.value
    check_loss(objective, a)
    ends = jax.tree.map(jnp.asarray, (a, b))
    for_positions, for_batches = jax.random.split(key)

    def step(carry: Any, number: Array) -> Any:
        bends, memory = carry
        t = _positions(jax.random.fold_in(for_positions, number), spec.num_positions)
        part = batch_of(objective, spec.batch_size, for_batches, number)
        along: Any = _Along(part, ends, t, spec.curve)
        loss, gradient = along.value_and_grad(bends)
        return updated(spec.optimizer, along, bends, memory, loss, gradient), {"t": t, "loss": loss}

    bends = _on_the_line(*ends, spec.num_bends)
    (bends, _), history = jax.lax.scan(step, (bends, spec.optimizer.init(bends)), jnp.arange(spec.num_steps))
    return Fit(_Along(objective, ends, jnp.zeros(0), spec.curve).through(bends), history)


def _positions(key: Array, num: int) -> Float[Array, " num"]:
    """One uniform position in each of `num` equal parts of [0, 1]."""
    within = jax.random.uniform(key, (num,))
    return (jnp.arange(num, dtype=within.dtype) + within) / num


def _on_the_line(a: PyTree, b: PyTree, num: int) -> PyTree:
    """`num` equally spaced points between `a` and `b`, stacked."""
    straight = line(a, b)
    return jax.vmap(straight)(jnp.linspace(0, 1, num + 2)[1:-1, None])
