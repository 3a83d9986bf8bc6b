"""`train`: one run, and the checks that every kind of training shares."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import Array, PyTree

from landscape import _tree
from landscape.checks import check_flag
from landscape.engine._kernel import machine_memory
from landscape.objective import Objective, check_means, check_named, check_objective, set_aside
from landscape.point import matmul_precision
from landscape.training._descent import Descent, Outcome, Spec

static: Any = {"static": True}
CHECK_EVERY = 100

NOT_RUN = -1
ENTRY = 12  # bytes of step, loss and norm


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
            of the fast ones, and `track` measures the slow ones. Arrays of integers and booleans stay as they are, with
            a warning; snapshots are then of what moves. `Objective.frozen` holds what else is to stay.
        num_steps: steps at most.
        key: random key for minibatches; needed with `batch_size`. Step `t` draws with `fold_in(key, t)`.
        batch_size: examples per step, drawn anew without replacement each step; all of them by default. With
            `Objective.weight_fn` a step goes down the weighted mean of its own examples, a ratio of two sums, as the
            weighted losses of other libraries do: on average over the draws its slope is that of the whole but for a
            bias of the order of one over `batch_size`. A step whose examples all have weight 0 has the loss NaN. For
            slopes without bias put `w_i / mean(w)` into the loss, and leave `weight_fn` away.
        record_every: steps between two entries of the history. By default 1; with `batch_size`, where an entry costs
            a pass over all examples, as many steps as take ten passes.
        check_every: steps between two looks at `tol` and `max_loss`, which is at its multiples and after the last
            step, whatever is recorded. By default as for `record_every`.
        snapshots: whether to keep the parameters at every entry.
        tol: stop at a look where the norm of the full gradient is at most this: of all parameters, those too that the
            optimizer leaves alone. What is frozen belongs into `Objective.frozen`, where it has no gradient.
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
    given = objective
    objective, moving = set_aside(objective, params)
    track = tracked(track or {}, given, objective)
    _tree.check_params(moving)
    check_all_means(objective, track, lambda: moving)
    check_memory(f"num_steps={num_steps}", "entries", spec.num_rows(objective), ENTRY + snapshots * num_bytes(moving))
    done = _train(Descent(objective, key, (tol, max_loss), track, spec), moving)
    return done if objective is given else replace(done, params=objective.whole(done.params))


def tracked(track: Mapping[str, Objective], given: Objective, objective: Objective) -> dict[str, Objective]:
    """Further objectives, with what was set aside where `objective` has it and the `given` one had not."""
    if objective is given:
        return dict(track)
    return {name: replace(other, frozen=objective.frozen) for name, other in track.items()}


@jax.jit
def _train(descent: Descent, params: PyTree) -> Run:
    return run(descent, params)


def run(descent: Descent, params: PyTree) -> Run:
    """Carry a training out."""
    with matmul_precision():
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
            if not objective.batched:
                raise ValueError("batch_size= draws examples, and the objective has none: batched=False")
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


def check_optimizer(optimizer: Any, what: str = "optimizer") -> None:
    """Raise `TypeError` unless it is an optax optimizer."""
    if not isinstance(optimizer, optax.GradientTransformation | optax.MultiSteps):
        raise TypeError(f"{what} must be an optax optimizer such as optax.sgd(0.1), got {type(optimizer).__name__}")


def the_ends(num_steps: Any) -> Any:
    """The interval at which only the first and the last entry are recorded; what is no number is refused later."""
    return max(num_steps, 1) if isinstance(num_steps, int | np.integer) else 1


def check_memory(cause: str, what: str, num: int, size: int) -> None:
    """Raise `ValueError` where `num` results of `size` bytes are more than the machine's memory."""
    there = machine_memory()
    if num * size > there:
        raise ValueError(
            f"{cause} asks for {num:,} {what} of {size:,} bytes, {num * size / 2**30:,.0f} GiB in all, "
            f"and this machine has {there / 2**30:,.0f} GiB: record or run less at a time"
        )


def num_bytes(tree: PyTree) -> int:
    """Of all leaves."""
    leaves = [x if hasattr(x, "dtype") else np.asarray(x) for x in jax.tree.leaves(tree)]
    return sum(int(np.prod(x.shape, dtype=np.int64)) * x.dtype.itemsize for x in leaves)
