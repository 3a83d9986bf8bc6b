"""`train_many` and `Runs`: many runs as rows of one sweep."""

import concurrent.futures
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from landscape import _tree
from landscape.engine import Devices, sweep
from landscape.grid import Grid, Landscape
from landscape.moving import parted, read_rows
from landscape.objective import Objective, set_aside
from landscape.point import as_number, check_numbers
from landscape.training._descent import Descent, Spec
from landscape.training._one import (
    CHECK_EVERY,
    NOT_RUN,
    Run,
    check_all_means,
    check_memory,
    check_optimizer,
    check_run,
    num_bytes,
    run,
    static,
    the_ends,
    tracked,
)

# ------------------------------------------------------------------------------------------------------- many runs


@_tree.register
@dataclass(frozen=True, eq=False, kw_only=True)
class Runs:
    """The point function behind `train_many`: the number of a run -> how it went.

    `sweep(runs, Grid.of(run=numbers))` evaluates any of the runs; `gather` puts the landscape together as a `Run`.

    Run `i` has the key `fold_in(key, i)`, split in two: the first half is for `init`, the second for its minibatches.

    Attributes:
        objective: what is minimised.
        optimizer: an optax optimizer, or a function `hyper_i -> optimizer` with `hyper`.
        num_runs: how many there are.
        num_steps: steps at most.
        inits: parameters with a leading axis, one row per run; `None` with `init`.
        init: a function `key -> params` in their place.
        hyper: pytree of arrays with a leading axis, one row per run.
        key: random key for `init` and for minibatches.
        track, batch_size, record_every, check_every, snapshots, tol, max_loss: as for `train`.
        optimizer_state: whether to keep the optimizers' states.
    """

    objective: Objective
    optimizer: Any = field(metadata=static)
    num_runs: int = field(metadata=static)
    num_steps: int = field(metadata=static)
    inits: PyTree = None
    init: Callable[[Array], PyTree] | None = None
    hyper: PyTree = None
    key: Any = None
    track: Mapping[str, Objective] = field(default_factory=dict)
    batch_size: int | None = field(default=None, metadata=static)
    record_every: int = field(default=1, metadata=static)
    check_every: int | None = field(default=None, metadata=static)
    snapshots: bool = field(default=False, metadata=static)
    tol: Any = None
    max_loss: Any = None
    optimizer_state: bool = field(default=False, metadata=static)

    def __call__(self, coords: Float[Array, " 1"]) -> dict[str, Array]:
        """Everything about one run: `outcome`, `steps`, `history.loss`, `params.dense.kernel`, ..."""
        named = _named(self.run(as_number(coords[0])))
        return {name: leaf for name, leaf in named if jnp.size(leaf)}  # an empty leaf needs no measuring

    def run(self, number: Any) -> Run:
        """Run number `number`."""
        for_init, for_batches = self._keys(number)
        params = _row(self.inits, number) if self.init is None else self.init(for_init)
        optimizer = self.optimizer if self.hyper is None else self.optimizer(_row(self.hyper, number))
        spec = self._spec(optimizer)
        objective, moving = set_aside(self.objective, params, aloud=False)
        track = tracked(self.track, self.objective, objective)
        found = run(Descent(objective, for_batches, (self.tol, self.max_loss), track, spec), moving)
        if objective is not self.objective:
            found = dataclasses.replace(found, params=objective.whole(found.params))
        return found if self.optimizer_state else dataclasses.replace(found, optimizer_state=None)

    def gather(self, landscape: Landscape) -> Run:
        """The runs of a landscape as one `Run` with a leading axis, in NumPy arrays."""
        template = self._template()
        values = {name: _gathered(landscape, name, like) for name, like in _named(template)}
        values["outcome"] = np.where(landscape.computed, values["outcome"], np.int32(NOT_RUN))
        return jax.tree.unflatten(jax.tree.structure(template), list(values.values()))

    def check_grid(self, grid: Grid) -> None:
        """Raise `TypeError` or `ValueError` where the runs cannot be carried out."""
        numbers = grid.axes[0].values
        if grid.ndim != 1 or np.any((numbers < 0) | (numbers >= self.num_runs) | (numbers != np.rint(numbers))):
            raise ValueError(f"Runs needs a grid of one axis of run numbers from 0 to {self.num_runs - 1}, got {grid}")
        check_numbers(numbers, "run numbers")
        self.check()

    def check(self) -> None:
        """Raise `TypeError` or `ValueError` where no run can be carried out, or not all of them be held."""
        check_run(self.objective, self._spec(None), self.key, self.track, (self.tol, self.max_loss))
        self._check_inits()
        self._check_optimizer()
        one = self._template()
        _named(one)  # refuses two leaves of one name
        check_memory(f"num_runs={self.num_runs}", "runs", self.num_runs, num_bytes(one))
        objective, first = set_aside(self.objective, self._first(), aloud=False)
        check_all_means(objective, tracked(self.track, self.objective, objective), lambda: first)

    def _first(self) -> PyTree:
        """The start of the first run."""
        return _row(self.inits, 0) if self.init is None else self.init(self._keys(0)[0])

    def _template(self) -> Run:
        """The shapes of one run; traced once."""
        init = None if self.init is None else _tree.static_function(self.init)
        return jax.eval_shape(_run_of, dataclasses.replace(self, init=init), jax.ShapeDtypeStruct((), jnp.int32))

    def _spec(self, optimizer: Any) -> Spec:
        return Spec(optimizer, self.num_steps, self.record_every, self.check_every, self.batch_size, self.snapshots)

    def _keys(self, number: Any) -> Any:
        return (None, None) if self.key is None else jax.random.split(jax.random.fold_in(self.key, number))

    def _check_inits(self) -> None:
        if self.init is None:
            _tree.check_params(parted(self.inits).moving, "inits")
            return _check_rows(self.inits, self.num_runs, "inits")
        if self.key is None:
            raise ValueError("inits is a function of a random key: pass key=jax.random.key(seed) too")
        one = parted(jax.eval_shape(self.init, self.key)).moving
        return _tree.check_params(one, "the result of inits(key)")

    def _check_optimizer(self) -> None:
        if self.hyper is None:
            return check_optimizer(self.optimizer)
        if not callable(self.optimizer):
            raise TypeError(
                "with hyper=, optimizer must be a function hyper_i -> optax optimizer, "
                f"got {type(self.optimizer).__name__}"
            )
        _check_rows(self.hyper, self.num_runs, "hyper")
        made: list[Any] = []
        jax.eval_shape(lambda: made.append(self.optimizer(_row(self.hyper, 0))))
        return check_optimizer(made[0], "the result of optimizer(hyper_i)")


def _gathered(landscape: Landscape, name: str, like: Any) -> np.ndarray:
    """All runs' values of one leaf; those without entries were not measured."""
    if like.size:
        return landscape[name]
    return np.zeros((*landscape.grid.shape, *like.shape), like.dtype)


@jax.jit
def _run_of(runs: Runs, number: Array) -> Run:
    return runs.run(number)


def _row(stacked: PyTree, number: Any) -> PyTree:
    # as leaf[number], which JAX takes ten times as long to trace
    return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(jnp.asarray(leaf), number, keepdims=False), stacked)


def _check_rows(stacked: PyTree, num: int, what: str) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(stacked):
        if jnp.shape(leaf)[:1] != (num,):
            name = f"{what}.{_tree.key_name(path)}" if path else what
            raise ValueError(f"{name} must have a leading axis of the {num} runs, got {_tree.describe(leaf)}")


def _named(result: Run) -> list[tuple[str, Any]]:
    """The leaves of a `Run` by name, in their order."""
    parts = {"params": result.params, "history": result.history, "snapshots": result.snapshots}
    named = [pair for name, tree in parts.items() for pair in _paths(name, tree)]
    named += [("outcome", result.outcome_code), ("steps", result.steps)]
    named += _paths("optimizer_state", result.optimizer_state)
    if len(dict(named)) < len(named):
        raise ValueError(f"two parameters have the same name among {[name for name, _ in named]}; rename one")
    return named


def _paths(prefix: str, tree: PyTree) -> Iterator[tuple[str, Any]]:
    """`params.dense.kernel`; a slash would be a folder in a store."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield f"{prefix}.{_tree.key_name(path)}".replace("/", ".") if path else prefix, leaf


def train_many(
    objective: Objective,
    optimizer: Any,
    inits: PyTree,
    *,
    num_steps: int,
    num_runs: int | None = None,
    hyper: PyTree = None,
    key: Array | None = None,
    batch_size: int | None = None,
    record_every: int | None = None,
    check_every: int | None = CHECK_EVERY,
    snapshots: bool = False,
    tol: float | None = None,
    max_loss: float | None = None,
    optimizer_state: bool = False,
    track: Mapping[str, Objective] | None = None,
    batch: int | Literal["auto"] = "auto",
    devices: Devices = None,
    store: str | os.PathLike[str] | None = None,
    executor: concurrent.futures.Executor | None = None,
    shard: tuple[int, int] | None = None,
    max_memory: int | None = None,
    progress: bool | Literal["auto"] = "auto",
) -> Run:
    """Train from many starts, or with many hyper-parameters, through the engine of `sweep`.

    The runs are the points of a grid with the one axis `run`, so they are batched, distributed, stored and resumed
    like any landscape. Run `i` is what `train` gives for the same start, optimizer, options and key, to rounding.

    Args:
        objective: what is minimised.
        optimizer: an optax optimizer, or with `hyper` a function `hyper_i -> optimizer`, such as `optax.sgd` itself
            for an array of learning rates. It is called inside the compiled program: its numbers may be traced.
        inits: parameters with a leading axis, one row per run, or a list of parameters, one for each run; or a
            function `key -> params` with `num_runs=`, so that the starts need not all be held.
        num_steps: steps at most.
        num_runs: how many runs; needed where `inits` is a function, and where one tree of parameters is a list of
            layers of equal shapes, so that a stack of it looks like a list of starts.
        hyper: pytree of arrays with a leading axis, one row per run.
        key: random key for `inits` and for minibatches. Run `i` has `fold_in(key, i)`, split in two: the first half
            goes to `inits`, the second is the `key` of `train`.
        batch_size: examples per step; all of them by default.
        record_every: steps between two entries of the history; by default only the first and the last are kept.
        check_every: as for `train`, but 100 by default; `None` for the default there.
        snapshots: whether to keep the parameters at every entry.
        tol: as for `train`.
        max_loss: as for `train`.
        optimizer_state: whether to keep the state of each run's optimizer; it must be of numbers.
        track: further objectives to record.
        batch: as for `sweep`, with runs for points.
        devices: as for `sweep`.
        store: as for `sweep`.
        executor: as for `sweep`.
        shard: as for `sweep`; runs left to others have `outcome_code` -1.
        max_memory: as for `sweep`.
        progress: as for `sweep`.

    Returns:
        The runs, with a leading axis, in NumPy arrays on the host. `run.counts` says how many converged.

    Raises:
        TypeError, ValueError: as for `train`; rows that do not match; a function without `num_runs` or `key`; more runs
            than the machine's memory holds.
        PlanMismatch, StoreError, Interrupted: as for `sweep`.
    """
    rows = _rows(inits, num_runs)
    count = _count(rows if num_runs is None else inits, num_runs)
    made = num_runs is not None and callable(inits)
    runs = Runs(
        objective=objective,
        optimizer=optimizer,
        inits=None if made else rows,
        init=_tree.static_function(inits) if made else None,
        num_runs=count,
        num_steps=num_steps,
        hyper=hyper,
        key=key,
        track=dict(track or {}),
        batch_size=batch_size,
        record_every=the_ends(num_steps) if record_every is None else record_every,
        check_every=check_every,
        snapshots=snapshots,
        tol=tol,
        max_loss=max_loss,
        optimizer_state=optimizer_state,
    )
    check_numbers(
        np.array([max(count - 2.0, 0.0), count - 1.0]), "run numbers"
    )  # the largest; of two neighbours one is odd
    runs.check()
    parted(rows if runs.init is None else jax.eval_shape(runs.init, key), aloud=True)  # says what is set aside, once
    across: dict[str, Any] = {"batch": batch, "devices": devices, "executor": executor, "max_memory": max_memory}
    grid = Grid.of(run=np.arange(runs.num_runs))
    return runs.gather(sweep(runs, grid, store=store, shard=shard, progress=progress, **across))


def _count(inits: Any, num_runs: int | None) -> int:
    """The number of runs. A model can be callable too, so that alone does not make it a function of a key."""
    if num_runs is not None:
        if not callable(inits) and not isinstance(inits, list | tuple):
            raise TypeError(f"num_runs= goes with a function inits(key) -> params, got {type(inits).__name__}")
        _tree.check_count("num_runs", num_runs, 1)
        return int(num_runs)
    if callable(inits) and all(map(callable, jax.tree.leaves(inits))):
        raise ValueError("inits is a function: say how many runs by num_runs=")
    _tree.check_params(parted(inits).moving, "inits")
    shape = jnp.shape(jax.tree.leaves(inits)[0])
    if not shape or not shape[0]:
        raise ValueError(
            f"inits must have a leading axis, one row per run, got {_tree.describe(jax.tree.leaves(inits)[0])}"
        )
    return shape[0]


def _rows(inits: Any, num_runs: int | None) -> PyTree:
    """Starts as a stack: lists of them are stacked."""
    if not isinstance(inits, list | tuple):
        return inits
    return read_rows(inits, "inits", num=num_runs, otherwise="say how many runs there are by num_runs=")
