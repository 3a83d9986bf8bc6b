r"""Training as a pure function: one run of an optax optimizer, recorded as it goes.

$\theta_{t+1} = \theta_t + u(\nabla L(\theta_t))$ for an optimizer's update $u$. Numerics never raise: a run says by
its `Outcome` how it ended, and a diverged run is frozen where it was last finite.

>>> import jax.numpy as jnp, optax
>>> from landscape import Objective, train
>>> bowl = Objective(lambda p, _: jnp.sum((p - 3.0) ** 2))
>>> run = train(bowl, optax.sgd(0.25), jnp.zeros(2), num_steps=60, record_every=20, tol=1e-4)
>>> run.outcome.name, [round(float(p), 3) for p in run.params]
('CONVERGED', [3.0, 3.0])
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from landscape import _tree
from landscape.objective import Objective


class Outcome(IntEnum):
    """How a run ended."""

    CONVERGED = 0
    MAX_STEPS = 1
    DIVERGED = 2


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Run:
    """What a training run left behind. Under `vmap` every leaf gains a leading axis.

    Attributes:
        params: parameters at the end: where it converged, the last finite ones (the loss there may be infinite, or
            beyond `max_loss`: it is the last entry of the history), or after the last step.
        history: `{name: (num_records,)}`: `step`, `loss` and `grad_norm` of the full training objective, and
            `{name}_{metric}` of each tracked objective, recorded before the first step, every `record_every` steps
            and at the end.
        snapshots: parameters at the recorded steps, stacked, or `None`.
        outcome_code: an `Outcome` as an integer array.
        steps: steps taken until the run ended.
    """

    params: PyTree
    history: dict[str, Array]
    snapshots: PyTree
    outcome_code: Array
    steps: Array

    @property
    def outcome(self) -> Outcome:
        """How this run ended (of a single run)."""
        return Outcome(int(self.outcome_code))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class _State:
    params: PyTree
    optimizer_state: PyTree
    key: Array
    step: Array
    outcome_code: Array


def train(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    params: PyTree,
    *,
    num_steps: int,
    key: Array | None = None,
    batch_size: int | None = None,
    record_every: int = 1,
    snapshots: bool = False,
    tol: float | None = None,
    max_loss: float | None = None,
    track: Mapping[str, Objective] | None = None,
) -> Run:
    """Minimise `objective` from `params`.

    Args:
        objective: what is minimised. Its state, if any, stays as it is.
        optimizer: any optax optimizer; those that need the value (`optax.lbfgs`) get it.
        params: starting point.
        num_steps: steps at most.
        key: random key for minibatches; needed with `batch_size`.
        batch_size: examples per step, drawn anew without replacement each step; all of them by default.
        record_every: steps between two entries of the history.
        snapshots: whether to keep the parameters at every entry.
        tol: stop when the norm of the full gradient, looked at when an entry is recorded, is at most this.
        max_loss: call the run diverged when the full loss, looked at when an entry is recorded, exceeds this;
            a loss or a gradient that is not finite always counts.
        track: further objectives to record, for example `{"test": objective}`.

    Returns:
        The run. The history has `ceil(num_steps / record_every) + 1` entries; after the end it repeats the last.

    Raises:
        TypeError: parameters that are not real floating-point arrays.
        ValueError: `batch_size` without `key`, or beyond the examples; a non-positive count.
    """
    _check(objective, params, num_steps, record_every, batch_size, key)
    params = jax.tree.map(jnp.asarray, params)
    spec = _Spec(optimizer, num_steps, record_every, batch_size, snapshots)
    limits = (-1.0 if tol is None else tol, jnp.inf if max_loss is None else max_loss)
    key = jax.random.key(0) if key is None else key
    return _train(spec, objective, params, key, limits, dict(track or {}))


def _check(objective: Any, params: Any, num_steps: int, record_every: int, batch_size: Any, key: Any) -> None:
    if not isinstance(objective, Objective):
        raise TypeError(f"objective must be a landscape.Objective, got {type(objective).__name__}")
    _tree.check_params(params)
    if num_steps < 0 or record_every < 1:
        raise ValueError(f"needs num_steps >= 0 and record_every >= 1, got {num_steps} and {record_every}")
    if batch_size is not None:
        if key is None:
            raise ValueError("batch_size= draws minibatches at random: pass key=jax.random.key(seed) too")
        if not 1 <= batch_size <= (objective.num_examples or 0):
            raise ValueError(f"batch_size={batch_size}, but the objective has {objective.num_examples} examples")


@dataclass(frozen=True)
class _Spec:
    """The static side of a run."""

    optimizer: optax.GradientTransformation
    num_steps: int
    record_every: int
    batch_size: int | None
    snapshots: bool


@partial(jax.jit, static_argnums=0)
def _train(spec: _Spec, objective: Objective, params: PyTree, key: Array, limits: Any, track: Any) -> Run:
    start = _State(params, spec.optimizer.init(params), key, jnp.int32(0), jnp.int32(-1))
    record = partial(_record, spec, objective, track, limits)

    def advance(state: _State, _: None) -> tuple[_State, Any]:
        state = jax.lax.fori_loop(0, spec.record_every, lambda i, s: _step(spec, objective, s), state)
        return record(state)

    state, first = record(start)
    state, rest = jax.lax.scan(advance, state, length=-(-spec.num_steps // spec.record_every))
    history, kept = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rest)
    code = jnp.where(state.outcome_code < 0, Outcome.MAX_STEPS, state.outcome_code)
    return Run(state.params, history, kept, code, state.step)


def _record(spec: _Spec, objective: Objective, track: Any, limits: Any, state: _State) -> tuple[_State, Any]:
    """Measure the full objective, and end the run where it converged or diverged."""
    tol, max_loss = limits
    loss, gradient = objective.value_and_grad(state.params)
    norm = optax.tree.norm(gradient)
    entry = {"step": state.step, "loss": loss, "grad_norm": norm}
    for name, other in track.items():
        entry |= {f"{name}_{metric}": value for metric, value in other.evaluate(state.params).items()}
    diverged = ~jnp.isfinite(loss) | ~jnp.isfinite(norm) | (loss > max_loss)
    code = jnp.where(diverged, Outcome.DIVERGED, jnp.where(norm <= tol, Outcome.CONVERGED, -1))
    code = jnp.where(state.outcome_code < 0, code, state.outcome_code).astype(jnp.int32)
    kept = state.params if spec.snapshots else None
    return dataclasses.replace(state, outcome_code=code), (entry, kept)


def _step(spec: _Spec, objective: Objective, state: _State) -> _State:
    """One step of the optimizer; a run that has ended stays where it is."""
    key, here = jax.random.split(state.key)
    part = objective if spec.batch_size is None else _minibatch(objective, here, spec.batch_size)
    loss, gradient = part.value_and_grad(state.params)
    gradient = jax.tree.map(lambda g, p: g.astype(p.dtype), gradient, state.params)
    update = optax.with_extra_args_support(spec.optimizer).update
    updates, optimizer_state = update(
        gradient, state.optimizer_state, state.params, value=loss, grad=gradient, value_fn=part
    )
    params = optax.apply_updates(state.params, updates)
    finite = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(gradient)) & jnp.isfinite(optax.tree.norm(params))
    active = (state.outcome_code < 0) & (state.step < spec.num_steps)
    code = jnp.where(active & ~finite, Outcome.DIVERGED, state.outcome_code).astype(jnp.int32)
    going = active & finite
    new = _State(params, optimizer_state, key, state.step + 1, code)
    old = dataclasses.replace(state, outcome_code=code)
    return jax.tree.map(partial(_choose, going), new, old)


def _choose(condition: Array, a: Any, b: Any) -> Any:
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(
            jnp.where(condition, jax.random.key_data(a), jax.random.key_data(b)), impl=jax.random.key_impl(a)
        )
    return jnp.where(condition, a, b)


def _minibatch(objective: Objective, key: Array, size: int) -> Objective:
    indices = jax.random.choice(key, objective.num_examples, (size,), replace=False)  # ty: ignore
    return objective.take(indices)
