"""One training run as a loop that stops: what `train`, `train_many` and `BasinMap` have in common.

A run is frozen when it has ended, and the loop ends when all runs of a batch have. Under `vmap` the condition of a
JAX `while_loop` differs from run to run, and JAX then copies the whole carry, history and all, at every turn.
`anyone` avoids that: its rule for `vmap` reduces over the batch, so the condition stays one boolean and every run
keeps its own mask.

**Diverged** is a run whose next update would make a parameter infinite or NaN; it stays where it is. What an update is
made of does not count: an optimizer may clip or skip a gradient that is not finite. Since a parameter that is not
finite stays so whatever is added to it, the end of a chunk of steps tells exactly whether all of them were sound. So
runs *speculate*: they take a chunk unwatched, which for a tiny network is a third faster (`benchmarks/training.py`),
and where it ends in such parameters, the batch takes it again step by step. That is why nothing about a run depends
on the length of chunks. A run also counts as diverged whose loss or gradient is not finite after the last step.

Programs are small, since they are compiled anew for each loss (`benchmarks/compile.py`). Where parameters have many
leaves, one loop takes step after step and looks at each, with one gradient that the step, the history and the limits
share. A chunk within it would save the looks, and cost a copy of every leaf and half as long again to compile.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from landscape import _tree
from landscape.affine._lanes import anyone
from landscape.objective import Objective, drawn, joined

GOING, LEAVING = -1, -2  # of runs that have not ended; the next update of the second would leave the finite numbers
CHUNK = (16, 100)  # fewest and most steps between two looks at whether all runs have ended
PASSES = 10  # over the data, between two measurements of all of them by a run of minibatches


class Outcome(IntEnum):
    """How a run ended."""

    CONVERGED = 0
    MAX_STEPS = 1
    DIVERGED = 2


@dataclass(frozen=True)
class Spec:
    """The static side of a run; an interval of `None` is the `usual_interval`."""

    optimizer: Any
    num_steps: int
    record_every: int | None
    check_every: int | None = None
    batch_size: int | None = None
    snapshots: bool = False

    def __post_init__(self) -> None:
        """Make integers of NumPy those of Python: they would widen the step that they are added to."""
        for name in ("num_steps", "record_every", "check_every", "batch_size"):
            if isinstance(getattr(self, name), np.integer):
                object.__setattr__(self, name, int(getattr(self, name)))

    def settled(self, objective: Objective) -> "Spec":
        """With both intervals given, and neither longer than the run."""
        longest, usual = max(self.num_steps, 1), usual_interval(objective, self.batch_size)
        record_every, check_every = (min(every or usual, longest) for every in (self.record_every, self.check_every))
        return dataclasses.replace(self, record_every=record_every, check_every=check_every)

    def num_rows(self, objective: Objective) -> int:
        """Entries of the history."""
        return -(-self.num_steps // (self.settled(objective).record_every or 1)) + 1


def usual_interval(objective: Objective, batch_size: int | None) -> int:
    """Steps between two measurements of the full objective, such that they add a tenth to the work at most."""
    return 1 if batch_size is None else PASSES * -(-int(objective.num_examples or 1) // batch_size)


def chunk_length(*lengths: int) -> int:
    """A number of steps that divides all `lengths`, if there is one that is neither short nor long."""
    longest = max(*lengths, 1)
    choices = range(min(CHUNK[0], longest), min(CHUNK[1], longest) + 1)
    return min(choices, key=lambda k: (any(n % k for n in lengths), -k))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class State:
    """A run under way: where it is, and the newest entry of its history, which is the last one when it has ended."""

    params: PyTree
    optimizer_state: PyTree
    step: Array
    outcome_code: Array
    entry: dict[str, Array]

    @property
    def going(self) -> Array:
        """Whether the run takes further steps."""
        return self.outcome_code == GOING


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Turn:
    """What all runs of a batch do next: measure where they are, or not, and take `length` steps."""

    step: Array
    length: Array
    last: Array
    recorded: Array
    looked: Array
    measured: Array


@_tree.register
@dataclass(frozen=True, eq=False)
class Descent:
    """One run's objective, key and limits, and how it is run."""

    objective: Objective
    key: Any
    limits: tuple[Any, Any]  # tol, max_loss; None where there is none
    track: Mapping[str, Objective]
    spec: Spec = dataclasses.field(metadata={"static": True})

    def run(self, params: PyTree) -> tuple[State, dict[str, Array], PyTree]:
        """The state at the end, the history and the snapshots."""
        check_loss(self.objective, fast(params))
        spec = self.spec.settled(self.objective)
        slope = jax.jit(partial(slope_of, self.objective))  # traced once: for its shapes, and in the loop
        few = len(jax.tree.leaves(params)) <= _tree.FEW
        return _Loop(dataclasses.replace(self, spec=spec), slope, jax.jit(_tree.norm), few).run(params)


@dataclass(frozen=True, eq=False)
class _Loop:
    """The turns of a descent."""

    descent: Descent
    slope: Callable[[PyTree], tuple[Array, PyTree]]
    norm: Callable[[PyTree], Array]
    few: bool  # leaves

    @property
    def spec(self) -> Any:
        """The static side; both intervals are given."""
        return self.descent.spec

    @property
    def limited(self) -> bool:
        """Whether there is anything to look at between two entries."""
        return any(limit is not None for limit in self.descent.limits)

    @property
    def shares(self) -> bool:
        """Whether a turn is a step, and what is measured is what it goes down on.

        Otherwise it is measured apart, by a second copy of the gradient: for minibatches it must be, and where chunks
        are long and leaves few, it is no work to speak of.
        """
        return self.spec.batch_size is None and (not self.few or self._longest < CHUNK[0])

    @property
    def chunk(self) -> int:
        """Most steps taken in one go."""
        return 1 if self.shares else self._longest

    @property
    def _longest(self) -> int:
        """Most steps that could be taken in one go."""
        intervals = (self.spec.record_every, self.spec.check_every)[: 1 + self.limited]
        if min(intervals) <= CHUNK[1]:
            return min(intervals)
        return chunk_length(*intervals, *(self.spec.num_steps % every for every in intervals))

    def run(self, params: PyTree) -> tuple[State, dict[str, Array], PyTree]:
        """The state at the end, the history and the snapshots."""
        spec, state = self.spec, self._start(jax.tree.map(jnp.asarray, params))
        num_rows = spec.num_rows(self.descent.objective)
        kept = jax.tree.map(lambda x: jnp.zeros((num_rows, *x.shape), x.dtype), self._row(state))
        kept = _one_of(params, kept)

        def advance(carry: Any) -> Any:
            step, careful, _, state, kept = carry
            turn, slope = self._turn(step, careful, state), self.slope(state.params) if self.shares else None
            state = self._judged(turn, state, *self._measured(turn, state, slope))
            number = -(-step // spec.record_every)  # of the row that comes next, if not of this turn
            kept = _write(kept, self._row(state), number)
            move = self._speculated if slope is None else partial(self._moved, slope)
            step, careful, state = move(turn, careful, state)
            return step, careful, number + 1, state, kept

        def more(carry: Any) -> Array:
            return anyone(carry[3].outcome_code < 0)

        zero = jnp.int32(0)
        *_, number, state, kept = jax.lax.while_loop(more, advance, (zero, zero, zero, state, kept))
        history, snapshots = jax.tree.map(partial(_repeat_last, number), kept, self._row(state))
        return state, history, snapshots

    def _start(self, params: PyTree) -> State:
        """The state before anything is measured."""
        shapes = jax.eval_shape(self.slope, params)
        entry = {"step": jnp.int32(0), "loss": shapes[0], "grad_norm": jax.eval_shape(self.norm, shapes[1])}
        entry = _blank(joined(entry, jax.eval_shape(self._tracked, params)))
        memory = initial(self.spec.optimizer, params)
        return _one_of(params, State(params, memory, jnp.int32(0), jnp.int32(GOING), entry))

    def _row(self, state: State) -> tuple[dict[str, Array], PyTree]:
        """What is kept of an entry."""
        return state.entry, state.params if self.spec.snapshots else None

    def _turn(self, step: Array, careful: Array, state: State) -> Turn:
        """What comes next; until the step `careful`, one step at a time."""
        spec = self.spec
        last = step == spec.num_steps
        length = jnp.minimum(self.chunk, spec.num_steps - step)
        for every in (spec.record_every, spec.check_every)[: 1 + self.limited]:
            length = jnp.minimum(length, every - step % every)
        recorded = last | (step % spec.record_every == 0)
        looked = last | (step % spec.check_every == 0) if self.limited else last
        measured = recorded | looked | anyone(state.outcome_code == LEAVING)
        return Turn(step, jnp.where(step < careful, 1, length), last, recorded, looked, measured)

    def _moved(self, slope: Any, turn: Turn, careful: Array, state: State) -> tuple[Array, Array, State]:
        """The next step of the batch, its state there, and `careful` as it came."""
        new = updated(self.spec.optimizer, self.descent.objective, state.params, state.optimizer_state, *slope)
        moving = _tree.all_finite(new[0], state.going)
        params, memory = select(moving, new, (state.params, state.optimizer_state))
        code = jnp.where(state.going & ~moving, LEAVING, state.outcome_code).astype(jnp.int32)
        step = jnp.where(moving, turn.step + 1, state.step)
        # where a run leaves, the next turn measures it where it stands, and the others of the batch go on
        return turn.step + 1, careful, State(params, memory, step, code, state.entry)

    def _speculated(self, turn: Turn, careful: Array, state: State) -> tuple[Array, Array, State]:
        """The step that the batch reaches, up to where it must be careful, and the state there.

        Where a run would leave the finite numbers, none of the batch moves.
        """
        length = jnp.where(anyone(state.going), turn.length, 0)
        before = state.params, state.optimizer_state
        after = self._stepped(state, turn.step, length)
        leaving = state.going & ~_tree.all_finite(after[0])
        sound = ~anyone(leaving)
        params, memory = jax.lax.cond(sound, lambda: after, lambda: before)
        reached = jnp.where(sound, turn.step + length, turn.step)
        careful = jnp.where(sound, careful, jnp.maximum(careful, turn.step + length))
        code = jnp.where(leaving & (length == 1), LEAVING, state.outcome_code).astype(jnp.int32)
        step = jnp.where(state.going, reached, state.step)
        return reached, careful, State(params, memory, step, code, state.entry)

    def _stepped(self, state: State, step: Array, length: Array) -> Any:
        """Parameters and optimizer state after `length` steps from `step` on that nothing watches."""
        descent, spec = self.descent, self.spec

        def advance(i: Any, before: Any) -> Any:
            part = batch_of(descent.objective, spec.batch_size, descent.key, step + i)
            slope = slope_of(part, before[0]) if spec.batch_size else self.slope(before[0])
            return select(state.going, updated(spec.optimizer, part, *before, *slope), before)

        start = (state.params, state.optimizer_state)
        loop = partial(jax.lax.fori_loop, 0, body_fun=advance, init_val=start)
        if not self.few or self.chunk < CHUNK[0]:
            return loop(length)
        # of a loop whose length it knows, a GPU need not ask for the end at each step
        return jax.lax.cond(length == self.chunk, lambda: loop(self.chunk), lambda: loop(length))

    def _measured(self, turn: Turn, state: State, slope: Any) -> tuple[Array, Array]:
        """The loss and the norm of its gradient; anything in a turn that measures nothing."""

        def measure() -> tuple[Array, Array]:
            loss, gradient = self.slope(state.params) if slope is None else slope
            return loss, self.norm(gradient)

        if slope is not None and self.spec.record_every == 1:
            return measure()
        return jax.lax.cond(turn.measured, measure, lambda: (state.entry["loss"], state.entry["grad_norm"]))

    def _judged(self, turn: Turn, state: State, loss: Array, norm: Array) -> State:
        """End the run where it has converged or diverged, and note what was measured."""
        tol, max_loss = self.descent.limits
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        if self.spec.num_steps == 0:  # no update will tell
            finite &= _tree.all_finite(state.params)
        code = jnp.where(turn.last, jnp.where(finite, Outcome.MAX_STEPS, Outcome.DIVERGED), GOING)
        if tol is not None:
            code = jnp.where(turn.looked & finite & (norm <= tol), Outcome.CONVERGED, code)
        if max_loss is not None:
            code = jnp.where(turn.looked & ~(loss <= max_loss), Outcome.DIVERGED, code)
        code = jnp.where(state.outcome_code == LEAVING, Outcome.DIVERGED, code)
        noted = turn.measured & (state.outcome_code < 0)
        code = jnp.where(noted, code, state.outcome_code).astype(jnp.int32)
        entry = self._entry_if(turn.recorded | anyone(noted & (code >= 0)), state, loss, norm)
        return dataclasses.replace(state, outcome_code=code, entry=select(noted, entry, state.entry))

    def _entry_if(self, wanted: Array, state: State, loss: Array, norm: Array) -> dict[str, Array]:
        """What goes into the history; further objectives are evaluated only where it will."""
        entry = {"step": state.step, "loss": loss, "grad_norm": norm}
        if not self.descent.track:
            return entry
        kept = {name: value for name, value in state.entry.items() if name not in entry}
        return entry | jax.lax.cond(wanted, lambda: self._tracked(state.params), lambda: kept)

    def _tracked(self, params: PyTree) -> dict[str, Array]:
        """Loss and metrics of the other objectives."""
        track, params = self.descent.track, slow(params)
        measured = {name: other.evaluate(params) for name, other in track.items()}
        return joined(*({f"{name}_{m}": value for m, value in values.items()} for name, values in measured.items()))


def slope_of(objective: Any, params: PyTree) -> tuple[Array, PyTree]:
    """The loss and its gradient where a step goes down from."""
    return objective.value_and_grad(fast(params))


def fast(params: PyTree) -> PyTree:
    """Where losses are taken: at the parameters, or at the fast ones of `optax.lookahead`."""
    return params.fast if isinstance(params, optax.LookaheadParams) else params


def slow(params: PyTree) -> PyTree:
    """What a training is for: the parameters, or the slow ones of `optax.lookahead`."""
    return params.slow if isinstance(params, optax.LookaheadParams) else params


def initial(optimizer: Any, params: PyTree) -> PyTree:
    """The state that an optimizer starts with.

    Raises:
        TypeError: `optax.lookahead` without its pair of parameters.
    """
    memory = optimizer.init(params)
    states = jax.tree.leaves(memory, is_leaf=lambda x: isinstance(x, optax.LookaheadState))
    if any(isinstance(x, optax.LookaheadState) for x in states) and not isinstance(params, optax.LookaheadParams):
        raise TypeError(
            "optax.lookahead trains fast and slow parameters: start from optax.LookaheadParams.init_synced(params); "
            f"got {type(params).__name__}"
        )
    return memory


def check_loss(objective: Any, params: PyTree, name: str = "objective") -> None:
    """Raise `TypeError` where the loss is a boolean or an integer, whose gradient is zero everywhere."""
    kinds: list[Any] = []

    def look(params: PyTree, batch: PyTree) -> Array:
        given = (objective.whole(params), batch, *(() if objective.state is None else (objective.state,)))
        result = objective.loss_fn(*given)
        loss = result[0] if objective.has_aux and isinstance(result, tuple) and result else result
        kinds.append(getattr(loss, "dtype", None))
        return jnp.zeros(())

    jax.eval_shape(lambda p: objective.mean(lambda batch: look(p, batch)), params)
    for dtype in kinds:
        if dtype is not None and not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(
                f"{name} cannot be minimised: its loss is of {dtype}, which has no slope; return a floating-point loss "
                "to train on, and measure this one by track= or as a metric"
            )


def batch_of(objective: Objective, size: int | None, key: Any, step: Any) -> Objective:
    """The objective itself, or over `size` examples drawn without replacement for this step."""
    if size is None:
        return objective
    num: Any = objective.num_examples
    return objective.take(drawn(jax.random.fold_in(key, step), num, size))


def updated(
    optimizer: Any, part: Any, params: PyTree, memory: PyTree, loss: Any, gradient: Any
) -> tuple[PyTree, PyTree]:
    """Parameters and optimizer state after one update; optimizers that ask for the objective get it."""

    def value_fn(p: PyTree, grad_fn: Any = None) -> Array:  # the line searches of optax hand it what they do not know
        return part(fast(p))

    def grad_fn(p: PyTree, *_: Any) -> PyTree:
        return cast_like(part.value_and_grad(fast(p))[1], fast(p))

    gradient = cast_like(gradient, fast(params))
    update = optimizer.update
    if not isinstance(optimizer, optax.MultiSteps):  # which is no GradientTransformation, and takes all of them
        update = optax.with_extra_args_support(optimizer).update
    extra = {"value": loss, "grad": gradient, "value_fn": value_fn, "grad_fn": grad_fn}
    updates, memory = update(gradient, memory, params, **_accepted(update, extra))
    return optax.apply_updates(params, updates), memory


def _accepted(fn: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Those keywords that a function takes: `optax.contrib.sam` refuses others, most optimizers take any."""
    parameters = inspect.signature(fn).parameters
    if any(p.kind == inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return options
    return {name: value for name, value in options.items() if name in parameters}


def cast_like(gradient: PyTree, params: PyTree) -> PyTree:
    """The gradient in the precision of the parameters."""
    return jax.tree.map(lambda g, p: g.astype(p.dtype), gradient, params)


def select(condition: Any, a: PyTree, b: PyTree) -> PyTree:
    """`jnp.where` on trees of the same shapes, in the dtypes of `b`; a third of the time to trace."""
    return jax.tree.map(lambda x, y: jax.lax.select(condition, x if x.dtype == y.dtype else x.astype(y.dtype), y), a, b)


def _one_of(params: PyTree, tree: PyTree) -> Any:
    """The tree, all of which differs from run to run where the parameters do.

    Under `vmap` JAX traces a loop again for each part of its carry that turns out to do so, and loops within as often.
    """
    first = jnp.asarray(jax.tree.leaves(params)[0])
    batched = jax.lax.reduce_and(jax.lax.is_finite(first), range(first.ndim))
    return jax.tree.map(lambda x: jax.lax.select(batched, jnp.asarray(x), jnp.asarray(x)), tree)


def _blank(shapes: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def _write(kept: PyTree, entry: PyTree, number: Any) -> PyTree:
    return jax.tree.map(lambda k, e: jax.lax.dynamic_update_index_in_dim(k, e, number, 0), kept, entry)


def _repeat_last(number: Any, kept: Array, last: Array) -> Array:
    written = jnp.arange(kept.shape[0], dtype=number.dtype) < number
    return jnp.where(written.reshape(-1, *(1,) * last.ndim), kept, last)
