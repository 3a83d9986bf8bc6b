r"""Training as a pure function: one run of an optax optimizer, recorded as it goes, or thousands of them side by side.

$\theta_{t+1} = \theta_t + u(\nabla L(\theta_t))$ for an optimizer's update $u$. Numerics never raise: a run says by
its `Outcome` how it ended, and a diverged run is frozen where it was last finite. A run that has ended costs nothing
more; a batch of runs ends with its last one.

>>> import jax, jax.numpy as jnp, optax
>>> from landscape import Objective, train, train_many
>>> bowl = Objective(lambda p, _: jnp.sum((p - 3.0) ** 2))
>>> run = train(bowl, optax.sgd(0.25), jnp.zeros(2), num_steps=60, record_every=20, tol=1e-4)
>>> run.outcome.name, [round(float(p), 3) for p in run.params]
('CONVERGED', [3.0, 3.0])
>>> rates = jnp.array([0.25, 0.9, 1.1])                          # beyond 1 the iteration grows
>>> runs = train_many(bowl, optax.sgd, jnp.zeros((3, 2)), num_steps=200, hyper=rates, tol=1e-4, max_loss=1e6)
>>> {outcome.name: count for outcome, count in runs.counts.items()}
{'CONVERGED': 2, 'MAX_STEPS': 0, 'DIVERGED': 1}
"""

import concurrent.futures
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from landscape import _tree
from landscape._descent import Descent, Outcome, Spec
from landscape._kernel import coords_dtype, machine_memory
from landscape._numbers import check_flag
from landscape.engine import Devices, sweep
from landscape.grid import Grid, Landscape
from landscape.objective import Objective, check_means, check_named, check_objective

_static: Any = {"static": True}
CHECK_EVERY = 100
NOT_RUN = -1
ENTRY = 12  # bytes of step, loss and norm

__all__ = ["Outcome", "Run", "Runs", "train", "train_many"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Run:
    """What a training run left behind. Under `vmap`, and from `train_many`, every leaf gains a leading axis.

    Attributes:
        params: parameters at the end: where it converged, the last finite ones (the loss there may be infinite, or
            beyond `max_loss`: it is the last entry of the history), or after the last step.
        history: `{name: (num_records,)}`: `step`, `loss` and `grad_norm` of the full training objective, and
            `{name}_{metric}` of each tracked objective, recorded before the first step, every `record_every` steps
            and at the end.
        snapshots: parameters at the recorded steps, stacked, or `None`.
        outcome_code: an `Outcome` as an integer array; -1 for runs that were left to other shards.
        steps: steps taken until the run ended.
        optimizer_state: what the optimizer held at the end, such as averages of the parameters; from `train_many` only
            where asked for, `None` otherwise.
    """

    params: PyTree
    history: dict[str, Array]
    snapshots: PyTree
    outcome_code: Array
    steps: Array
    optimizer_state: PyTree = None

    @property
    def outcome(self) -> Any:
        """How this run ended, an `Outcome`; of many runs an array of them, with `None` for those left to other shards.

        Raises:
            ValueError: this one run was left to another shard.
        """
        if np.ndim(self.outcome_code):
            codes = np.asarray(self.outcome_code)
            outcomes = [None if code == NOT_RUN else Outcome(code) for code in codes.ravel().tolist()]
            return np.array(outcomes, dtype=object).reshape(codes.shape)
        if self.outcome_code == NOT_RUN:
            raise ValueError("this run was left to another shard: it has no outcome here")
        return Outcome(int(self.outcome_code))

    @property
    def counts(self) -> dict[Outcome, int]:
        """How many runs ended in each way."""
        codes = np.asarray(self.outcome_code)
        return {outcome: int(np.sum(codes == outcome)) for outcome in Outcome}

    def __getitem__(self, index: Any) -> "Run":
        """One of many runs, or some of them."""
        return jax.tree.map(lambda leaf: leaf[index], self)


def train(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    params: PyTree,
    *,
    num_steps: int,
    key: Array | None = None,
    batch_size: int | None = None,
    record_every: int | None = None,
    check_every: int | None = None,
    snapshots: bool = False,
    tol: float | None = None,
    max_loss: float | None = None,
    track: Mapping[str, Objective] | None = None,
) -> Run:
    """Minimise `objective` from `params`.

    A run has diverged when an update would make a parameter infinite or NaN; it stays where it is. A loss or a gradient
    that is not finite does not end it, since the optimizer may clip or skip it (`optax.apply_if_finite`) and the next
    may be finite again; but with such a loss or gradient after the last step the run counts as diverged, too, and none
    has converged. So outcome, steps and parameters are those of a plain loop, however the run is recorded.

    Forward-mode differentiation goes through; reverse mode does not, since the loop ends when the run has. Matrix
    products are taken at the highest precision, as in `sweep`, unless the loss asks for another.

    Args:
        objective: what is minimised. Its state, if any, stays as it is.
        optimizer: any optax optimizer, `optax.MultiSteps` included. Those that need more than the gradient get it:
            `value`, `grad`, `value_fn` (`optax.lbfgs`) and `grad_fn` (`optax.contrib.sam`).
        params: starting point. For `optax.lookahead`, `optax.LookaheadParams.init_synced(params)`: the loss is that
            of the fast ones, and `track` measures the slow ones.
        num_steps: steps at most.
        key: random key for minibatches; needed with `batch_size`. Step `t` draws with `fold_in(key, t)`.
        batch_size: examples per step, drawn anew without replacement each step; all of them by default.
        record_every: steps between two entries of the history. By default 1; with `batch_size`, where an entry costs
            a pass over all examples, as many steps as take ten passes.
        check_every: steps between two looks at `tol` and `max_loss`, which is at its multiples and after the last
            step, whatever is recorded. By default as for `record_every`.
        snapshots: whether to keep the parameters at every entry.
        tol: stop at a look where the norm of the full gradient is at most this: of all parameters, those too that the
            optimizer leaves alone. What is frozen belongs into `Objective.state` or the data, where it has no gradient.
        max_loss: call the run diverged at a look where the full loss exceeds this or is NaN.
        track: further objectives to record, for example `{"test": objective}`.

    Returns:
        The run. The history has `ceil(num_steps / record_every) + 1` entries; after the end it repeats the last.

    Raises:
        TypeError: parameters that are not real floating-point arrays; a loss that is a boolean or an integer; something
            that is no objective, optimizer, number or integer.
        ValueError: `batch_size` without `key`, or beyond the examples; a non-positive count; a `tol` or `max_loss` that
            nothing can be compared with; a history that the machine's memory cannot hold.
    """
    spec = Spec(optimizer, num_steps, record_every, check_every, batch_size, snapshots)
    check_run(objective, spec, key, track, (tol, max_loss))
    check_optimizer(optimizer)
    _tree.check_params(params)
    check_all_means(objective, track, lambda: params)
    check_memory(f"num_steps={num_steps}", "entries", spec.num_rows(objective), ENTRY + snapshots * _bytes(params))
    return _train(Descent(objective, key, (tol, max_loss), dict(track or {}), spec), params)


@jax.jit
def _train(descent: Descent, params: PyTree) -> Run:
    return run(descent, params)


def run(descent: Descent, params: PyTree) -> Run:
    """Carry a training out."""
    with jax.default_matmul_precision("highest"):
        state, history, snapshots = descent.run(params)
    return Run(state.params, history, snapshots, state.outcome_code, state.step, state.optimizer_state)


def check_run(objective: Any, spec: Spec, key: Any, track: Any, limits: tuple[Any, Any] = (None, None)) -> None:
    """Raise `TypeError` or `ValueError` for what no training can do."""
    track = {} if track is None else track
    if not isinstance(track, Mapping):
        raise TypeError(f"track must be a dict of objectives by name, got {type(track).__name__}")
    check_objective(objective)
    check_named(track, "track")
    if key is not None:
        _tree.check_key(key)
    check_limits(*limits)
    check_flag("snapshots", spec.snapshots)
    _tree.check_count("num_steps", spec.num_steps, 0)
    for name in ("record_every", "check_every"):
        if getattr(spec, name) is not None:
            _tree.check_count(name, getattr(spec, name), 1)
    if spec.batch_size is not None:
        _tree.check_count("batch_size", spec.batch_size)
        if key is None:
            raise ValueError("batch_size= draws minibatches at random: pass key=jax.random.key(seed) too")
        if not 1 <= spec.batch_size <= (objective.num_examples or 0):
            raise ValueError(f"batch_size={spec.batch_size}, but the objective has {objective.num_examples} examples")


def check_all_means(objective: Objective, track: Mapping[str, Objective] | None, params: Callable[[], PyTree]) -> None:
    """Warn where what is recorded of the objectives depends on their batch sizes (`check_means`)."""
    check_means(objective, params)
    for name, other in (track or {}).items():
        check_means(other, params, f"track[{name!r}]")


def check_limits(tol: Any, max_loss: Any) -> None:
    """Raise `TypeError` or `ValueError` for limits that nothing can be compared with."""
    for name, value in {"tol": tol, "max_loss": max_loss}.items():
        if value is not None and not _tree.is_traced(value):
            _tree.check_number(name, value)
    if tol is not None and not _tree.is_traced(tol) and not 0 <= tol < np.inf:
        raise ValueError(f"tol must be a norm of the gradient, finite and at least 0, got {tol}")
    if max_loss is not None and not _tree.is_traced(max_loss) and not max_loss > -np.inf:
        raise ValueError(f"max_loss must be a loss that others can exceed, got {max_loss}")


def check_memory(cause: str, what: str, num: int, size: int) -> None:
    """Raise `ValueError` where `num` results of `size` bytes are more than the machine's memory."""
    there = machine_memory()
    if num * size > there:
        raise ValueError(
            f"{cause} asks for {num:,} {what} of {size:,} bytes, {num * size / 2**30:,.0f} GiB in all, "
            f"and this machine has {there / 2**30:,.0f} GiB: record or run less at a time"
        )


def _bytes(tree: PyTree) -> int:
    """Of all leaves."""
    leaves = [x if hasattr(x, "dtype") else np.asarray(x) for x in jax.tree.leaves(tree)]
    return sum(int(np.prod(x.shape, dtype=np.int64)) * x.dtype.itemsize for x in leaves)


def check_optimizer(optimizer: Any, what: str = "optimizer") -> None:
    """Raise `TypeError` unless it is an optax optimizer."""
    if not isinstance(optimizer, optax.GradientTransformation | optax.MultiSteps):
        raise TypeError(f"{what} must be an optax optimizer such as optax.sgd(0.1), got {type(optimizer).__name__}")


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
    optimizer: Any = field(metadata=_static)
    num_runs: int = field(metadata=_static)
    num_steps: int = field(metadata=_static)
    inits: PyTree = None
    init: Callable[[Array], PyTree] | None = None
    hyper: PyTree = None
    key: Any = None
    track: Mapping[str, Objective] = field(default_factory=dict)
    batch_size: int | None = field(default=None, metadata=_static)
    record_every: int = field(default=1, metadata=_static)
    check_every: int | None = field(default=None, metadata=_static)
    snapshots: bool = field(default=False, metadata=_static)
    tol: Any = None
    max_loss: Any = None
    optimizer_state: bool = field(default=False, metadata=_static)

    def __call__(self, coords: Float[Array, " 1"]) -> dict[str, Array]:
        """Everything about one run: `outcome`, `steps`, `history.loss`, `params.dense.kernel`, ..."""
        named = _named(self.run(coords[0].astype(jnp.int32)))
        return {name: leaf for name, leaf in named if jnp.size(leaf)}  # an empty leaf needs no measuring

    def run(self, number: Any) -> Run:
        """Run number `number`."""
        for_init, for_batches = self._keys(number)
        params = _row(self.inits, number) if self.init is None else self.init(for_init)
        optimizer = self.optimizer if self.hyper is None else self.optimizer(_row(self.hyper, number))
        spec = self._spec(optimizer)
        bounds = (self.tol, self.max_loss)
        found = run(Descent(self.objective, for_batches, bounds, dict(self.track), spec), params)
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
        _check_exact(numbers)
        self.check()

    def check(self) -> None:
        """Raise `TypeError` or `ValueError` where no run can be carried out, or not all of them be held."""
        check_run(self.objective, self._spec(None), self.key, self.track, (self.tol, self.max_loss))
        self._check_inits()
        self._check_optimizer()
        one = self._template()
        _named(one)  # refuses two leaves of one name
        check_memory(f"num_runs={self.num_runs}", "runs", self.num_runs, _bytes(one))
        check_all_means(self.objective, self.track, self._first)

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
            _tree.check_params(self.inits, "inits")
            return _check_rows(self.inits, self.num_runs, "inits")
        if self.key is None:
            raise ValueError("inits is a function of a random key: pass key=jax.random.key(seed) too")
        return _tree.check_params(jax.eval_shape(self.init, self.key), "the result of inits(key)")

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


def _check_exact(numbers: np.ndarray) -> None:
    """Raise `ValueError` for run numbers that coordinates round."""
    if np.any(numbers.astype(coords_dtype()) != numbers):
        raise ValueError(
            f"run numbers up to {int(numbers.max())} are not exact in {coords_dtype()}, so other runs would be "
            "carried out: train fewer runs in one sweep, or use float64 (jax.config.update('jax_enable_x64', True))"
        )


@jax.jit
def _run_of(runs: Runs, number: Array) -> Run:
    return runs.run(number)


def _row(stacked: PyTree, number: Any) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[number], stacked)


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
    _check_exact(np.array([count - 1, count - 2.0]))  # the largest; of two neighbours one is odd
    runs.check()
    across: dict[str, Any] = {"batch": batch, "devices": devices, "executor": executor, "max_memory": max_memory}
    grid = Grid.of(run=np.arange(runs.num_runs))
    return runs.gather(sweep(runs, grid, store=store, shard=shard, progress=progress, **across))


def the_ends(num_steps: Any) -> Any:
    """The interval at which only the first and the last entry are recorded; what is no number is refused later."""
    return max(num_steps, 1) if isinstance(num_steps, int | np.integer) else 1


def _count(inits: Any, num_runs: int | None) -> int:
    """The number of runs. A model can be callable too, so that alone does not make it a function of a key."""
    if num_runs is not None:
        if not callable(inits) and not isinstance(inits, list | tuple):
            raise TypeError(f"num_runs= goes with a function inits(key) -> params, got {type(inits).__name__}")
        _tree.check_count("num_runs", num_runs, 1)
        return int(num_runs)
    if callable(inits) and all(map(callable, jax.tree.leaves(inits))):
        raise ValueError("inits is a function: say how many runs by num_runs=")
    _tree.check_params(inits, "inits")
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
    return _tree.read_stack(inits, "inits", num=num_runs, otherwise="say how many runs there are by num_runs=")
