"""What a problem computes with the graphs of a module: losses of examples or batches, statistics, predictions."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from landscape.bridges import _export, _module
from landscape.bridges._graph import Graph
from landscape.moving import listed


def joined(graph: Graph, params: Any, state: Any) -> dict[str, Any]:
    """All weights that a graph needs.

    Raises:
        TypeError: the parameters are no dict.
        ValueError: some are missing or of another shape, as in the parameters of another model.
    """
    if not isinstance(params, dict):
        raise TypeError(f"parameters are a dict by PyTorch's names, got {type(params).__name__}")
    weights = {**(state or {}), **params}
    missing = [name for name in graph.weights if name not in weights]
    if missing:
        raise ValueError(f"the parameters lack {listed(missing)}; they hold {listed(list(params))}: of another model?")
    shapes = {name: jnp.shape(weights[name]) for name in graph.shapes}
    other = [f"{name} {shape} and not {graph.shapes[name]}" for name, shape in shapes.items()
             if shape != graph.shapes[name]]  # fmt: skip
    if other:
        raise ValueError(f"the parameters have other shapes than the module's: {listed(other)}: of another model?")
    return weights


@dataclass(frozen=True, eq=False)
class PerExample:
    """The loss of each example, by a graph for a batch of one."""

    graph: Graph

    def __call__(self, params: Any, batch: Any, state: Any = None) -> Any:
        return self.all_outputs(params, batch, state)[0].reshape(-1)

    def all_outputs(self, params: Any, batch: Any, state: Any = None) -> list[Any]:
        """Loss and outputs of each example, stacked."""
        weights = joined(self.graph, params, state)
        leaves = jax.tree.leaves(batch)
        return jax.vmap(lambda *one: self.graph(weights, [x[None] for x in one])[0])(*leaves)


@dataclass(frozen=True, eq=False)
class ByBatch:
    """A module whose batch norm goes by the batch, with a graph for each size of a batch."""

    wrapped: _module.Wrapped
    names: dict[str, str]
    graphs: dict[int, Graph] = field(default_factory=dict)

    def graph(self, batch: Any) -> Graph:
        """The graph for batches as large as this one; only its shapes are looked at."""
        leaves = jax.tree.leaves(batch)
        count = len(leaves[0])
        if count not in self.graphs:
            examples = [self._example(leaf) for leaf in leaves]
            with _module.evaluating(self.wrapped.module, norms=True):
                self.graphs[count] = _export.export(self.wrapped, examples, self.names)
        return self.graphs[count]

    def _example(self, leaf: Any) -> Any:
        return _module.to_tensors(np.zeros(leaf.shape, leaf.dtype), self.wrapped.module)[0]

    def statistics(self, params: Any, batch: Any, state: Any) -> Any:
        """The state with running statistics as measured on this batch alone."""
        graph = self.graph(batch)
        updates = graph(joined(graph, params, state), jax.tree.leaves(batch))[1]
        return {name: updates.get(name, old) for name, old in state.items()}

    def losses(self, params: Any, batches: Any, state: Any = None) -> Any:
        """The loss of each of several batches, `(batches,)`."""

        def one(batch: Any) -> Any:
            graph = self.graph(batch)
            return jnp.mean(graph(joined(graph, params, state), jax.tree.leaves(batch))[0][0])

        return jax.lax.map(one, batches)


@dataclass(frozen=True, eq=False)
class Predict:
    """The module's first output for inputs, without targets; its graph is made at the first call."""

    module: Any
    names: dict[str, str]
    state: Any
    graphs: dict[Any, Graph] = field(default_factory=dict)

    def __call__(self, params: Any, inputs: Any) -> Any:
        """Outputs for `(n, ..)` inputs: an array, a tuple or a dict of arguments by name."""
        leaves, structure = jax.tree.flatten(inputs)
        key = structure, *((x.shape[1:], str(x.dtype)) for x in leaves)
        if key not in self.graphs:
            self.graphs[key] = self._exported(inputs)
        graph = self.graphs[key]
        weights = joined(graph, params, self.state)
        return jax.vmap(lambda *one: graph(weights, [jnp.asarray(x)[None] for x in one])[0][0][0])(*leaves)

    def _exported(self, inputs: Any) -> Graph:
        examples = jax.tree.map(lambda x: np.zeros((1, *x.shape[1:]), x.dtype), inputs)
        alone = _module.Alone(self.module, jax.tree.structure(inputs))
        with _module.evaluating(self.module):
            return _export.export(alone, _module.to_tensors(examples, self.module), self.names)
