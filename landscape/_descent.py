"""One training run as a loop that stops: what `train`, `train_many` and `BasinMap` have in common.

A run is frozen when it has ended, and the loop ends when all runs of a batch have. Under `vmap` the condition of a
JAX `while_loop` differs from run to run, and JAX then copies the whole carry, history and all, at every turn.
`anyone` avoids that: its rule for `vmap` reduces over the batch, so the condition stays one boolean and every run
keeps its own mask.

Whether a step stayed finite costs a reduction over gradient and parameters, which for a tiny network is a third of
the step (`benchmarks/training.py`). So small runs *speculate*: they take a whole chunk of steps unwatched, and
where a chunk ends in something that is not finite, it is taken again step by step, to find the last finite
parameters.
"""

import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, PyTree

from landscape import _tree
from landscape._lanes import anyone
from landscape.objective import Objective, drawn, joined

GOING = -1
CHUNK = (16, 100)  # fewest and most steps between two looks at whether all runs have ended
SMALL = 2**14  # with more parameters than this, watching every step costs nothing that one would notice


class Outcome(IntEnum):
    """How a run ended."""

    CONVERGED = 0
    MAX_STEPS = 1
    DIVERGED = 2


@dataclass(frozen=True)
class Spec:
    """The static side of a run; `check_every=None` looks at the limits only where an entry is recorded."""

    optimizer: optax.GradientTransformation
    num_steps: int
    record_every: int
    check_every: int | None = None
    batch_size: int | None = None
    snapshots: bool = False

    def __post_init__(self) -> None:
        """Make integers of NumPy those of Python: they would widen the step that they are added to."""
        for name in ("num_steps", "record_every", "check_every", "batch_size"):
            if isinstance(getattr(self, name), np.integer):
                object.__setattr__(self, name, int(getattr(self, name)))

    @property
    def num_records(self) -> int:
        """Entries of the history after the first."""
        return -(-self.num_steps // self.record_every)

    @property
    def checks(self) -> bool:
        """Whether the limits are looked at between two entries."""
        return self.check_every is not None and self.check_every < self.record_every

    @property
    def chunk(self) -> int:
        """Steps taken in one go."""
        if self.check_every is not None and self.checks:
            return self.check_every
        return chunk_length(self.record_every, self.num_steps % self.record_every)

    @property
    def ragged(self) -> bool:
        """Whether some chunk is shorter; the others then have no length that the compiler knows."""
        return bool(self.record_every % self.chunk or self.num_steps % self.record_every % self.chunk)


def chunk_length(*lengths: int) -> int:
    """A number of steps that divides all `lengths`, if there is one that is neither short nor long."""
    longest = max(*lengths, 1)
    choices = range(min(CHUNK[0], longest), min(CHUNK[1], longest) + 1)
    return min(choices, key=lambda k: (any(n % k for n in lengths), -k))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class State:
    """A run under way. `loss` and `gradient` are those of the full objective at `params`, `None` with minibatches."""

    params: PyTree
    optimizer_state: PyTree
    loss: Any
    gradient: PyTree
    step: Array
    outcome_code: Array

    @property
    def going(self) -> Array:
        """Whether the run has not ended."""
        return self.outcome_code < 0


@_tree.register
@dataclass(frozen=True, eq=False)
class Descent:
    """One run's objective, key and limits, and how it is run."""

    objective: Objective
    key: Any
    limits: tuple[Any, Any]  # tol, max_loss
    track: Mapping[str, Objective]
    spec: Spec = dataclasses.field(metadata={"static": True})

    def run(self, params: PyTree) -> tuple[State, dict[str, Array], PyTree]:
        """The state at the end, the history and the snapshots."""
        spec = self.spec
        params = jax.tree.map(jnp.asarray, params)
        start = State(params, spec.optimizer.init(params), *self._carried(params), jnp.int32(0), jnp.int32(GOING))
        state, first = self._record(start)
        blank = jax.tree.map(lambda x: jnp.zeros((spec.num_records + 1, *x.shape), x.dtype), first)

        def advance(carry: Any) -> Any:
            number, state, last, kept = carry
            going = state.going
            state, entry = self._record(self._segment(state, number))
            entry = select(going, entry, last)
            return number + 1, state, entry, _write(kept, entry, number)

        def more(carry: Any) -> Array:
            return (carry[0] <= spec.num_records) & anyone(carry[1].going)

        number, state, last, kept = jax.lax.while_loop(more, advance, (1, state, first, _write(blank, first, 0)))
        history, snapshots = jax.tree.map(partial(_repeat_last, number), kept, last)
        code = jnp.where(state.going, Outcome.MAX_STEPS, state.outcome_code).astype(jnp.int32)
        return dataclasses.replace(state, outcome_code=code), history, snapshots

    def _segment(self, state: State, number: Any) -> State:
        """The steps up to record `number`."""
        spec = self.spec
        start = (number - 1) * spec.record_every
        stop = jnp.minimum(start + spec.record_every, spec.num_steps)

        def advance(carry: Any) -> Any:
            done, state = carry
            state = self._chunk(state, jnp.minimum(spec.chunk, stop - done) if spec.ragged else spec.chunk)
            return done + spec.chunk, self._judge(state, *self._measure(state)) if spec.checks else state

        def more(carry: Any) -> Array:
            return (carry[0] < stop) & anyone(carry[1].going)

        if spec.chunk == spec.record_every:
            return advance((start, state))[1]
        return jax.lax.while_loop(more, advance, (start, state))[1]

    def _chunk(self, state: State, length: Any) -> State:
        """`length` steps, each watched, or all taken unwatched and looked at in the end."""
        if self.spec.chunk < CHUNK[0] or _tree.size(state.params) > SMALL:
            return self._watched(state, length)
        new = self._unwatched(state, length)
        clean = all_finite((new.params, new.loss, new.gradient))
        again = anyone(state.going & ~clean)
        slow = jax.lax.cond(again, lambda: self._watched(state, length), lambda: new)
        return select(state.going, select(clean, new, slow), state)

    def _unwatched(self, state: State, length: Any) -> State:
        """`length` steps; the loop carries nothing but what a loop written by hand would."""

        def advance(i: Any, carry: Any) -> Any:
            params, memory = carry
            part = self._part(state.step + i)
            return updated(self.spec.optimizer, part, params, memory, *part.value_and_grad(params))

        params, memory = jax.lax.fori_loop(0, length, advance, (state.params, state.optimizer_state))
        return State(params, memory, *self._carried(params), state.step + length, state.outcome_code)

    def _watched(self, state: State, length: Any) -> State:
        """`length` steps that stop before the first that is not finite."""

        def advance(_: Any, state: State) -> State:
            new, used = self._step(state)
            finite = all_finite((used, new.params))
            code = jnp.where(state.going & ~finite, Outcome.DIVERGED, state.outcome_code).astype(jnp.int32)
            return dataclasses.replace(select(state.going & finite, new, state), outcome_code=code)

        return jax.lax.fori_loop(0, length, advance, state)

    def _step(self, state: State) -> tuple[State, Any]:
        """One step of the optimizer, and the loss and the gradient that it used."""
        part = self._part(state.step)
        used = self._measure(state) if part is self.objective else part.value_and_grad(state.params)
        params, memory = updated(self.spec.optimizer, part, state.params, state.optimizer_state, *used)
        return State(params, memory, *self._carried(params), state.step + 1, state.outcome_code), used

    def _part(self, step: Any) -> Objective:
        """What this step goes down on."""
        return batch_of(self.objective, self.spec.batch_size, self.key, step)

    def _carried(self, params: PyTree) -> tuple[Any, PyTree]:
        """The loss and the gradient that the next step and the next entry share, where they do."""
        return self.objective.value_and_grad(params) if self.spec.batch_size is None else (None, None)

    def _measure(self, state: State) -> tuple[Array, PyTree]:
        """Loss and gradient of the full objective."""
        if state.loss is None:
            return self.objective.value_and_grad(state.params)
        return state.loss, state.gradient

    def _judge(self, state: State, loss: Array, gradient: PyTree) -> State:
        """End the run where it has converged or diverged."""
        tol, max_loss = self.limits
        diverged = ~all_finite((loss, gradient)) | (loss > max_loss)
        code = jnp.where(_tree.norm(gradient) <= tol, Outcome.CONVERGED, GOING)
        code = jnp.where(diverged, Outcome.DIVERGED, code)
        return dataclasses.replace(state, outcome_code=jnp.where(state.going, code, state.outcome_code))

    def _record(self, state: State) -> tuple[State, Any]:
        """Judge the run, and measure what goes into the history."""
        loss, gradient = self._measure(state)
        entry = {"step": state.step, "loss": loss, "grad_norm": _tree.norm(gradient)}
        for name, other in self.track.items():
            measured = other.evaluate(state.params)
            entry = joined(entry, {f"{name}_{metric}": value for metric, value in measured.items()})
        return self._judge(state, loss, gradient), (entry, state.params if self.spec.snapshots else None)


def batch_of(objective: Objective, size: int | None, key: Any, step: Any) -> Objective:
    """The objective itself, or over `size` examples drawn without replacement for this step."""
    if size is None:
        return objective
    num: Any = objective.num_examples
    return objective.take(drawn(jax.random.fold_in(key, step), num, size))


def updated(
    optimizer: optax.GradientTransformation, part: Objective, params: PyTree, memory: PyTree, loss: Any, gradient: Any
) -> tuple[PyTree, PyTree]:
    """Parameters and optimizer state after one update; optimizers that ask for the objective get it."""

    def value_fn(p: PyTree, grad_fn: Any = None) -> Array:  # the line searches of optax hand it what they do not know
        return part(p)

    def grad_fn(p: PyTree, *_: Any) -> PyTree:
        return cast_like(part.value_and_grad(p)[1], p)

    gradient = cast_like(gradient, params)
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


def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether every number is."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]))


def select(condition: Any, a: PyTree, b: PyTree) -> PyTree:
    """`jnp.where` on trees."""
    return jax.tree.map(partial(jnp.where, condition), a, b)


def _write(kept: PyTree, entry: PyTree, number: Any) -> PyTree:
    return jax.tree.map(lambda k, e: jax.lax.dynamic_update_index_in_dim(k, e, number, 0), kept, entry)


def _repeat_last(number: Any, kept: Array, last: Array) -> Array:
    written = jnp.arange(kept.shape[0]) < number
    return jnp.where(written.reshape(-1, *(1,) * last.ndim), kept, last)
