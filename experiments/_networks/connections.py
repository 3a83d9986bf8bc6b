"""What `connectivity.py` sweeps: networks in pairs, curves between them, and losses along every path of a pair."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

import landscape as ls
from landscape import paths
from landscape.point import as_number
from landscape.problems import classifier, digits, mlp, mnist1d
from landscape.problems.classification import Split

BLOCK = 20  # examples that always go together: minibatches are drawn as blocks, which is far cheaper than one by one
PATHS = ("line", "matched", "curve")
_static: Any = {"static": True}


class Case(NamedTuple):
    """A network on a data set: `name` is that of its results."""

    name: str
    data: str
    width: int
    problem: ls.Problem


def cases(digits_widths: tuple[int, ...], mnist1d_widths: tuple[int, ...], num_test: int) -> list[Case]:
    """One hidden layer of ReLU units of each width, on the digits and on MNIST-1D."""
    found = []
    for width in digits_widths:
        found.append(_case("digits", width, digits()))
    for width in mnist1d_widths:
        found.append(_case("mnist1d", width, mnist1d(num_test=num_test)))
    return found


def _case(data: str, width: int, splits: tuple[Split, Split]) -> Case:
    init, predict = mlp((splits[0]["x"].shape[1], width, 10), jax.nn.relu)
    problem = classifier(init, predict, {"train": splits[0], "test": splits[1]}, name=f"{data}, width {width}")
    return Case(f"{data}_{width}", data, width, problem)


@dataclass(frozen=True)
class Blocked:
    """A loss whose examples are blocks of `size` examples of another loss."""

    loss_fn: Any
    size: int

    def __call__(self, params: Any, batch: Any, *state: Any) -> Any:
        """The mean loss of each block, and the means of the metrics."""
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)
        return jax.tree.map(self._means, self.loss_fn(params, flat, *state))

    def _means(self, values: Any) -> Any:
        return values if jnp.ndim(values) == 0 else values.reshape(-1, self.size).mean(axis=1)


def in_blocks(objective: ls.Objective, size: int = BLOCK) -> ls.Objective:
    """The objective over blocks of examples; the few that do not fill the last block are left out."""
    count = (objective.num_examples or 0) // size

    def blocks(x: Any) -> jax.Array:
        x = jnp.asarray(x)
        return x[: count * size].reshape(count, size, *x.shape[1:])

    data = jax.tree.map(blocks, objective.data)
    return dataclasses.replace(objective, loss_fn=Blocked(objective.loss_fn, size), data=data, batch_size=None)


def num_blocks(objective: ls.Objective, batch_size: int) -> int:
    """Blocks in a minibatch of about `batch_size` examples."""
    return max(1, min(batch_size // BLOCK, objective.num_examples or 1))


def matched(a: Any, b: Any) -> tuple[Any, np.ndarray]:
    """Stacked networks `b` with their hidden units in the order of those of `a`; distances before and after."""
    num = len(jax.tree.leaves(a)[0])
    rows = [jax.tree.map(lambda x, i=i: x[i], (a, b)) for i in range(num)]
    spec = paths.PermutationSpec.sequential(rows[0][0])
    found = [paths.match_weights(*row, spec) for row in rows]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(one.params for one in found))
    return stacked, np.array([one.distances[[0, -1]] for one in found])


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Curves:
    """Point function: the Bezier curve between the networks of pair number `coords[0]`, trained to low loss."""

    objective: ls.Objective
    a: Any
    b: Any
    key: Any
    optimizer: optax.GradientTransformation = field(metadata=_static)
    num_steps: int = field(metadata=_static)
    batch_size: int = field(metadata=_static)

    def __call__(self, coords: jax.Array) -> dict[str, jax.Array]:
        """The bend of the curve as one vector, and the losses met in training in 20 parts of it."""
        pair = as_number(coords[0])
        a, b = jax.tree.map(lambda x: x[pair], (self.a, self.b))
        options: dict[str, Any] = {"num_steps": self.num_steps, "batch_size": self.batch_size}
        key = jax.random.fold_in(self.key, pair)
        fit = paths.fit_bezier(key, self.objective, a, b, optimizer=self.optimizer, **options)
        bend = ravel_pytree(jax.tree.map(lambda x: x[1], fit.path.nodes))[0]
        parts = jnp.array_split(fit.history["loss"], 20)
        return {"bend": bend, "history": jnp.stack([part.mean() for part in parts])}

    def bends(self, landscape: ls.Landscape) -> Any:
        """The bends of all pairs as stacked parameters."""
        like = jax.tree.map(lambda x: x[0], self.a)
        return jax.vmap(ravel_pytree(like)[1])(jnp.asarray(landscape["bend"]))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Between:
    """Point function: losses and metrics at position `coords[1]` of each path of pair number `coords[0]`.

    Outputs are called `{path}_{objective}_{metric}`, `matched_test_loss`.
    """

    objectives: Mapping[str, ls.Objective]
    a: Any
    b: Any
    b_matched: Any
    bends: Any

    def __call__(self, coords: jax.Array) -> dict[str, jax.Array]:
        """All paths at one position."""
        values = {}
        for name, params in self._at(as_number(coords[0]), coords[1]).items():
            for part, objective in self.objectives.items():
                values |= {f"{name}_{part}_{metric}": v for metric, v in objective.evaluate(params).items()}
        return values

    def _at(self, pair: jax.Array, t: jax.Array) -> dict[str, Any]:
        a, b, other, bend = jax.tree.map(lambda x: x[pair], (self.a, self.b, self.b_matched, self.bends))
        ways = {
            "line": paths.line(a, b),
            "matched": paths.line(a, other),
            "curve": paths.Bezier(jax.tree.map(lambda *nodes: jnp.stack(nodes), a, bend, b)),
        }
        return {name: way(t[None]) for name, way in ways.items()}


def barriers(landscape: ls.Landscape, name: str) -> np.ndarray:
    """The barrier of each line of an output, its last axis, above the straight line between the losses of the ends."""
    lines = landscape[name]
    flat = [ls.analysis.barrier(line).above_line for line in lines.reshape(-1, lines.shape[-1])]
    return np.array(flat).reshape(lines.shape[:-1])
