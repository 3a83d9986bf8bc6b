"""Point functions: what is evaluated at each coordinate of a grid.

A point function is a callable pytree `coords -> {name: array}`. `sweep` evaluates it; anything that can be
computed from a loss surface's parameters is one more entry of its dictionary, measured in the same pass.

- `LossSurface`: losses and metrics of several objectives over a subspace of weights.
- `BasinMap`: where a training run ends, over its starts.
- `TrainabilityMap`: whether training succeeds, over its hyper-parameters.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from landscape import _tree
from landscape._descent import (
    Descent,
    Outcome,
    Spec,
    anyone,
    batch_of,
    cast_like,
    check_loss,
    chunk_length,
    fast,
    initial,
    select,
    slope_of,
    slow,
    updated,
)
from landscape._kernel import checked_value, coords_dtype
from landscape.grid import Grid
from landscape.objective import Objective, check_means, check_named, check_objective, joined
from landscape.subspace import Subspace, least_squares
from landscape.training import CHECK_EVERY, check_all_means, check_optimizer, check_run, the_ends
from landscape.training import run as carry_out

_static: Any = {"static": True}
BUILT_IN = ("sem", "gradient", "gradient_norm", "off_plane")
NOT_REACHED, DIVERGED = -1, -2
LAST = 20  # losses whose mean is compared with the first


@_tree.register
@dataclass(frozen=True, eq=False)
class LossSurface:
    """Losses and metrics of several objectives over a subspace: `coords -> {"train_loss": .., "test_loss": ..}`.

    All objectives are measured in one pass, on the same data at every point.

    Attributes:
        at: maps coordinates to parameters, usually a `Subspace`.
        objectives: `{"train": .., "test": ..}`, whose names prefix the outputs, or one `Objective` without prefix.
        outputs: what else to measure, each of
            `"sem"`: standard error over the examples of each loss and metric (`train_loss_sem`); refused where the loss
            of an example depends on the others of its batch;
            `"gradient"`: exact gradient with respect to the coordinates (`train_gradient`, `(k,)`), by forward mode, or
            by reverse mode for losses that have no other (`jax.custom_vjp`);
            `"gradient_norm"`: Euclidean norm of the gradient with respect to all parameters;
            `"off_plane"`: share of the squared gradient norm that points out of the plane, in [0, 1]
            (NaN where the gradient is 0);
            a function `params -> array`, named by its `__name__`, or a pair `(name, function)`.
        recalibrate: measure the model state anew at every point before evaluating, on the objective called `train`
            (the first one where none is), and use it for all: test data are never normalised by themselves. See
            `Objective.recalibrated`. Gradients hold the state fixed.

    The three treatments of batch norm: leave `recalibrate` off and the stored statistics stay as they are
    (*frozen*); switch it on (*recalibrated*); or let `loss_fn` normalise by the batch it is given (*batch
    statistics*: the answer depends on the size of the batches, so make batches the examples, by the recipe in
    `docs/your_own_model.md`; `sweep` warns where `Objective.batch_size` would decide). Running statistics are never
    part of the parameters, so they are never perturbed.
    """

    at: Callable[[Array], PyTree]
    objectives: Objective | Mapping[str, Objective]
    outputs: tuple[Any, ...] = field(default=(), metadata=_static)
    recalibrate: bool = field(default=False, metadata=_static)

    def __call__(self, coords: Float[Array, " k"] | Float[np.ndarray, " k"]) -> dict[str, Array]:
        """All outputs at one point."""
        coords = jnp.asarray(coords)
        params = self.at(coords)
        values = {}
        for prefix, objective in self._calibrated(params):
            measured = self._measure(objective, params, coords)
            values = joined(values, {prefix + name: value for name, value in measured.items()})
        for name, fn in self._functions():
            values = joined(values, {name: checked_value(fn(params), f"the output {name!r}")})
        return values

    def check_grid(self, grid: Grid) -> None:
        """Raise `TypeError` or `ValueError` where the outputs, the objectives or the subspace are not usable."""
        self._check_fields()
        _check_at(self.at, grid)
        _check_returned(self.at, grid)
        if isinstance(self.at, Subspace):
            self.at.check_rounding(grid, lambda params: [objective(params) for _, objective in self._named()])
        params = partial(self.at, _middle(grid))
        for prefix, objective in self._named():
            name = f"objectives[{prefix[:-1]!r}]" if prefix else "objectives"
            check_means(objective, params, name, per_example="sem" in self.outputs)

    def _check_fields(self) -> None:
        _tree.check_takes(self.at, "LossSurface.at", "coords")
        if not isinstance(self.objectives, Objective | Mapping):
            raise TypeError(f"objectives must be an Objective or a dict of them, got {type(self.objectives).__name__}")
        if isinstance(self.objectives, Mapping):
            check_named(self.objectives, "objectives", at_least=1)
        else:
            check_objective(self.objectives, "objectives")
        if not isinstance(self.outputs, tuple):
            raise TypeError(f"outputs must be a tuple of names and functions, got {type(self.outputs).__name__}")
        for output in self.outputs:
            _check_output(output)
        if not isinstance(self.recalibrate, bool):
            raise TypeError(f"recalibrate must be True or False, got {_tree.describe(self.recalibrate)}")
        if self.recalibrate and self._source().update_state is None:
            raise ValueError("recalibrate=True needs update_state in the objective 'train' (the first, where none is)")

    @property
    def refined(self) -> tuple[str, ...]:
        """The outputs that a plain `tolerance` applies to: the losses. Metrics may jump, gradients have kinks."""
        return tuple(f"{prefix}loss" for prefix, _ in self._named())

    def _named(self) -> Iterator[tuple[str, Objective]]:
        if isinstance(self.objectives, Objective):
            return iter([("", self.objectives)])
        return ((f"{name}_", objective) for name, objective in self.objectives.items())

    def _calibrated(self, params: PyTree) -> list[tuple[str, Objective]]:
        named = list(self._named())
        if not self.recalibrate:
            return named
        state = self._source().recalibrated(params).state
        return [(prefix, dataclasses.replace(objective, state=state)) for prefix, objective in named]

    def _source(self) -> Objective:
        """The objective on whose data the state is measured."""
        named = dict(self._named())
        return named.get("train_", next(iter(named.values())))

    def _functions(self) -> Iterator[tuple[str, Callable[[PyTree], Any]]]:
        for output in self.outputs:
            if isinstance(output, tuple):
                yield output
            elif callable(output):
                yield output.__name__, output

    def _measure(self, objective: Objective, params: PyTree, coords: Array) -> dict[str, Array]:
        values = self._means(objective, params)
        if "gradient" in self.outputs:
            values = joined(values, {"gradient": self._gradient(objective, params, coords)})
        if "gradient_norm" in self.outputs or "off_plane" in self.outputs:
            values = joined(values, self._gradient_shares(objective, params, coords))
        return values

    def _means(self, objective: Objective, params: PyTree) -> dict[str, Array]:
        """Loss and metrics, with their standard errors where asked for."""
        if "sem" not in self.outputs:
            return objective.evaluate(params)
        examples = objective.examples(params)
        values = _with_standard_errors(examples)
        if jax.eval_shape(objective.evaluate, params).keys() <= examples.keys():
            return values
        means = objective.evaluate(params)  # metrics that are means of a batch have no examples
        return joined({name: mean for name, mean in means.items() if name not in examples}, values)

    def _gradient(self, objective: Objective, params: PyTree, coords: Array) -> Array:
        """By forward mode, which takes a pass for each coordinate and no memory; else by reverse mode."""
        try:
            return jax.jacfwd(lambda c: objective(self.at(c)))(coords)
        except (TypeError, ValueError, NotImplementedError):  # the loss itself was evaluated: it has no tangents
            gradient = _backward(objective, params, "gradient")
        _, pull = jax.vjp(self.at, coords)
        return pull(cast_like(gradient, params))[0]

    def _gradient_shares(self, objective: Objective, params: PyTree, coords: Array) -> dict[str, Array]:
        asked = [name for name in ("gradient_norm", "off_plane") if name in self.outputs]
        gradient = _backward(objective, params, asked[0])
        squared = _tree.inner(_tree.as_stack(gradient), _tree.as_stack(gradient))[0, 0]
        shares = {"gradient_norm": jnp.sqrt(squared)}
        if "off_plane" in self.outputs:
            tangents = jax.vmap(lambda e: jax.jvp(self.at, (coords,), (e,))[1])(
                jnp.eye(len(coords), dtype=coords.dtype)
            )
            within = _tree.combine(least_squares(tangents, gradient), tangents)
            outside = _tree.as_stack(jax.tree.map(jnp.subtract, gradient, within))
            shares["off_plane"] = _tree.inner(outside, outside)[0, 0] / squared
        return {name: value for name, value in shares.items() if name in self.outputs}


def _check_track(track: Any) -> None:
    if not isinstance(track, Mapping):
        raise TypeError(f"track must be a dict of objectives by name, got {_tree.describe(track)}")


def _backward(objective: Objective, params: PyTree, output: str) -> PyTree:
    """The gradient for the parameters."""
    try:
        return objective.value_and_grad(params)[1]
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(
            f"the output {output!r} needs the gradient of the loss, and JAX has none: {str(error).splitlines()[0]} "
            "Give loops a length that is known beforehand, give functions of your own a jax.custom_vjp, or leave the "
            "output away"
        ) from error


def _point_like(grid: Grid) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((grid.ndim,), coords_dtype())


def _middle(grid: Grid) -> Array:
    """The coordinates of a point about the middle, to look at."""
    return jnp.asarray(grid.points_at(np.array([grid.size // 2]))[0], coords_dtype())


def _same(coords: Array) -> Array:
    return coords


def _check_returned(at: Any, grid: Grid) -> None:
    """Raise `TypeError` unless `at` returns arrays; functions may be among them, as in a whole equinox model."""
    made: list[Any] = []
    jax.eval_shape(lambda coords: made.append(at(coords)), _point_like(grid))
    leaves = jax.tree.leaves(made)
    if not any(isinstance(leaf, jax.Array | np.ndarray | np.generic | float) for leaf in leaves):
        advice = ": is a `return` missing?" if made == [None] else ""
        raise TypeError(f"at(coords) must return parameters, a pytree of arrays, got {made[0]!r}{advice}")


def _check_at(at: Any, grid: Grid) -> None:
    check = getattr(at, "check_grid", None)
    if check is not None:
        check(grid)


def _check_output(output: Any) -> None:
    if isinstance(output, str):
        if output not in BUILT_IN:
            raise ValueError(f"unknown output {output!r}; built in are {', '.join(BUILT_IN)}, or pass a function")
        return
    name, fn = output if isinstance(output, tuple) and len(output) == 2 else (None, output)
    name = getattr(fn, "__name__", None) if name is None else name
    if not callable(fn) or not isinstance(name, str) or not name.isidentifier():
        raise TypeError(
            f"an output must be one of {', '.join(BUILT_IN)}, a function with a name, or a pair (name, function), "
            f"got {output!r}"
        )
    _tree.check_takes(fn, f"outputs.{name}", "params")


def _with_standard_errors(examples: dict[str, Array]) -> dict[str, Array]:
    """Mean and standard error of the mean, s / sqrt(n), of each per-example quantity."""
    means = {name: jnp.mean(x) for name, x in examples.items()}
    errors = {f"{name}_sem": jnp.std(x, ddof=1) / jnp.sqrt(x.shape[0]) for name, x in examples.items()}
    return joined(means, errors)


@_tree.register
@dataclass(frozen=True, eq=False)
class BasinMap:
    """Which minimum a training run from each point ends in: `coords -> {"outcome": .., "label": .., ..}`.

    A basin belongs to an optimizer: another one draws another map of the same loss. With `tol`, a run stops where
    the gradient has vanished; minibatches, if any, are drawn alike at all points. Where the coordinates are the
    parameters, `BasinMap(None, Objective(lambda p, _: f(p)), optax.sgd(0.01), 5000, tol=1e-6)` is all.

    Outputs: `outcome` (an `Outcome`) and `steps`, `int32`; `train_loss` and `grad_norm` at the end; `{name}_{metric}`
    of each tracked objective there; and where the run ended:

    - with `minima` or `labels`, `label`, `int32`: the number of the minimum, -1 for a run that reached none (or, with
      `tol`, did not converge), -2 for one that diverged;
    - otherwise `end`, the parameters at the end as one vector, from which `analysis.label_basins` finds the minima.

    Attributes:
        at: maps coordinates to the parameters where a run starts, usually a `Subspace`; `None` where the coordinates
            are the parameters.
        objective: what is minimised.
        optimizer: any optax optimizer.
        num_steps: steps at most.
        minima: known minima, as parameters with a leading axis, or a list of parameters. The nearest one counts, by
            the Euclidean distance over all parameters.
        radius: a minimum is reached within this distance.
        labels: in place of `minima`, a function `params -> int`, for minima that are alike up to a symmetry.
        track: further objectives to measure at the end, for example `{"test": objective}`.
        tol, max_loss, batch_size, key: as for `landscape.train`.
        check_every: steps between two looks at `tol` and `max_loss`; `steps` of converged runs are multiples of it, or
            `num_steps`.
    """

    at: Any
    objective: Objective
    optimizer: optax.GradientTransformation = field(metadata=_static)
    num_steps: int = field(metadata=_static)
    minima: PyTree = field(default=None, kw_only=True)
    radius: Any = field(default=None, kw_only=True)
    labels: Callable[[PyTree], Any] | None = field(default=None, kw_only=True, metadata=_static)
    track: Mapping[str, Objective] = field(default_factory=dict, kw_only=True)
    tol: Any = field(default=None, kw_only=True)
    max_loss: Any = field(default=None, kw_only=True)
    check_every: int = field(default=CHECK_EVERY, kw_only=True, metadata=_static)
    batch_size: int | None = field(default=None, kw_only=True, metadata=_static)
    key: Any = field(default=None, kw_only=True)

    def __call__(self, coords: Float[Array, " k"] | Float[np.ndarray, " k"]) -> dict[str, Array]:
        """One run."""
        descent = Descent(self.objective, self.key, (self.tol, self.max_loss), dict(self.track), self._spec())
        run = carry_out(descent, self._start(jnp.asarray(coords)))
        last = {name: value[-1] for name, value in run.history.items() if name != "step"}
        values = {"outcome": run.outcome_code, "steps": run.steps, "train_loss": last.pop("loss")}
        if self.minima is None and self.labels is None:
            return joined(values, last, {"end": ravel_pytree(run.params)[0]})
        return joined(values, last, {"label": self._label(run.params, run.outcome_code)})

    def check_grid(self, grid: Grid) -> None:
        """Raise `TypeError` or `ValueError` where the start, the training or the minima are not usable."""
        _check_track(self.track)
        check_run(self.objective, self._spec(), self.key, self.track, (self.tol, self.max_loss))
        check_optimizer(self.optimizer)
        at = _same if self.at is None else self.at
        _tree.check_takes(at, "BasinMap.at", "coords", advice="; None where the coordinates are the parameters")
        _check_at(self.at, grid)
        params = jax.eval_shape(self._start, _point_like(grid))
        _tree.check_params(params, "the result of at(coords)")
        check_loss(self.objective, fast(params))
        self._check_minima(params)
        check_all_means(self.objective, self.track, partial(at, _middle(grid)))

    @property
    def refined(self) -> tuple[str, ...]:
        """A plain `tolerance` applies to no output: name those that are labels, `tolerance={'label': 0.01}`."""
        return ()

    def _check_minima(self, params: PyTree) -> None:
        if self.labels is not None:
            _tree.check_takes(self.labels, "labels", "params")
            if self.minima is not None:
                raise ValueError("minima= and labels= both say what a minimum is: give one of them")
            label = jax.eval_shape(self.labels, params)
            if getattr(label, "shape", None) != () or np.dtype(label.dtype).kind not in "biu":
                raise TypeError(f"labels(params) must return one integer, got {_tree.describe(label)}")
            return
        if (self.minima is None) != (self.radius is None):
            raise ValueError("minima= and radius= belong together: a minimum is reached within the radius")
        if self.minima is not None:
            self._stacked_minima(params)
            if np.ndim(self.radius) or np.asarray(self.radius).dtype.kind not in "iuf":
                raise TypeError(f"radius must be one distance, got {_tree.describe(self.radius)}")
            if not self.radius > 0:
                raise ValueError(f"radius must be a positive distance, got {self.radius}")

    def _spec(self) -> Spec:
        return Spec(self.optimizer, self.num_steps, the_ends(self.num_steps), self.check_every, self.batch_size)

    def _start(self, coords: Array) -> PyTree:
        return coords if self.at is None else self.at(coords)

    def _label(self, params: PyTree, outcome: Array) -> Array:
        found = self._nearest(params) if self.labels is None else jnp.asarray(self.labels(params), jnp.int32)
        unsettled = (outcome != Outcome.CONVERGED) & (self.tol is not None)
        label = jnp.where(unsettled, NOT_REACHED, found)
        return jnp.where(outcome == Outcome.DIVERGED, DIVERGED, label).astype(jnp.int32)

    def _stacked_minima(self, params: PyTree) -> PyTree:
        return _tree.read_stack(self.minima, "minima", params, "the parameters", one="minimum")

    def _nearest(self, params: PyTree) -> Array:
        stacked = self._stacked_minima(params)
        away = jax.tree.map(lambda minima, p: minima - jnp.expand_dims(p, 0), stacked, params)
        distances = jax.vmap(_tree.norm)(away)
        distances = jnp.where(jnp.isnan(distances), jnp.inf, distances)  # a minimum that is not known is not reached
        return jnp.where(jnp.min(distances) <= self.radius, jnp.argmin(distances), NOT_REACHED)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class TrainabilityMap:
    r"""Whether training succeeds, over hyper-parameters: `coords -> {"value": .., "converged": .., ..}`.

    Of the losses $\ell_0, .., \ell_{n-1}$ before each of the $n$ steps, $v_t = \ell_t / \ell_0$ is kept in running sums
    (Sohl-Dickstein 2024, arXiv 2402.06184, and his notebook). Outputs:

    - `converged`, boolean: the mean of the last 20 losses is below the first;
    - `value`: $\sum_t v_t$ where it converged, $-\sum_t 1/v_t$ where not. The sign is the paper's colour; the notebook
      computes the negative and turns it when drawing. NaN where the first loss is not positive, since ratios to it mean
      nothing then;
    - `diverged`, boolean: some loss was not finite, or beyond `max_loss`;
    - `train_loss`, and `{name}_{metric}` of each tracked objective: after the last step, or where it diverged.

    As in the notebook, $v_t$ is at most `max_ratio`. A diverged run is over: from there on $v_t$ is `max_ratio`. The
    notebook goes on, with `max_ratio` in place of each loss that is not finite. It draws minibatches with
    replacement; here they are drawn without.

    Attributes:
        setup: `setup(coords) -> (optimizer, params)`, or `(optimizer, params, objective)` where the objective depends
            on them too. Called inside the compiled program: the numbers of the optimizer may depend on the coordinates.
        objective: what is minimised; `None` where `setup` gives it.
        num_steps: steps of every run.
        max_ratio: the largest $v_t$ that counts.
        max_loss: call a run diverged from the first loss beyond this.
        track: further objectives to measure at the end.
        batch_size, key: as for `landscape.train`; the losses are those of all examples all the same.
    """

    setup: Any
    objective: Objective | None
    num_steps: int = field(metadata=_static)
    max_ratio: Any = field(default=1e6, kw_only=True)
    max_loss: Any = field(default=None, kw_only=True)
    track: Mapping[str, Objective] = field(default_factory=dict, kw_only=True)
    batch_size: int | None = field(default=None, kw_only=True, metadata=_static)
    key: Any = field(default=None, kw_only=True)

    def __call__(self, coords: Float[Array, " k"] | Float[np.ndarray, " k"]) -> dict[str, Array]:
        """One run."""
        optimizer, params, objective = self._made(jnp.asarray(coords))
        params, curve = self._descend(optimizer, jax.tree.map(jnp.asarray, params), objective)
        converged, value = curve.verdict(self.num_steps, self.max_ratio)
        values = {"value": value, "converged": converged, "diverged": curve.over}
        values["train_loss"] = objective(fast(params))
        for name, other in self.track.items():
            measured = other.evaluate(slow(params))
            values = joined(values, {f"{name}_{metric}": value for metric, value in measured.items()})
        return values

    def check_grid(self, grid: Grid) -> None:
        """Raise `TypeError` or `ValueError` where the setup or the training is not usable."""
        _tree.check_takes(self.setup, "setup", "coords")
        _tree.check_count("num_steps", self.num_steps, 1)
        _tree.check_number("max_ratio", self.max_ratio)
        if not self.max_ratio > 1:
            raise ValueError(f"max_ratio must be larger than 1, got {self.max_ratio}")
        jax.eval_shape(lambda c: self._checked(c), _point_like(grid))
        objective = self.objective or self._made(_middle(grid))[2]
        check_all_means(objective, self.track, lambda: self._made(_middle(grid))[1])

    @property
    def refined(self) -> tuple[str, ...]:
        """A plain `tolerance` applies to no output: name those that are labels, `tolerance={'converged': 0.01}`."""
        return ()

    def _checked(self, coords: Array) -> None:
        made = self.setup(coords)
        if not isinstance(made, tuple) or len(made) not in (2, 3) or isinstance(made, optax.GradientTransformation):
            raise TypeError(
                "setup(coords) must return (optimizer, params) or (optimizer, params, objective), "
                f"got {type(made).__name__}"
            )
        optimizer, params, objective = self._made(coords)
        check_optimizer(optimizer, "the optimizer of setup(coords)")
        _tree.check_params(params, "the params of setup(coords)")
        spec = Spec(optimizer, self.num_steps, 1, batch_size=self.batch_size)
        _check_track(self.track)
        check_run(objective, spec, self.key, self.track, (None, self.max_loss))
        check_loss(objective, fast(params))

    def _made(self, coords: Array) -> Any:
        made = self.setup(coords)
        return made if len(made) == 3 else (*made, self.objective)

    def _descend(self, optimizer: Any, params: PyTree, objective: Any) -> tuple[PyTree, "_Curve"]:
        """Parameters at the end, running sums."""
        num_steps, length = int(self.num_steps), chunk_length(self.num_steps)

        def step(t: Any, carry: Any) -> Any:
            params, memory, curve = carry
            part = batch_of(objective, self.batch_size, self.key, t)
            used = slope_of(part, params)
            loss = used[0] if part is objective else objective(fast(params))
            curve = curve.with_loss(loss, t, self)
            new, memory = updated(optimizer, part, params, memory, *used)
            return select(curve.over, params, new), memory, curve

        def advance(carry: Any) -> Any:
            done, inner = carry
            stop = done + length if num_steps % length == 0 else jnp.minimum(done + length, num_steps)
            return stop, jax.lax.fori_loop(0, stop - done, lambda i, c: step(done + i, c), inner)

        def more(carry: Any) -> Array:
            return (carry[0] < num_steps) & anyone(~carry[1][2].over)

        start = (params, initial(optimizer, params), _Curve.blank(jax.eval_shape(objective, fast(params)).dtype))
        _, (params, _, curve) = jax.lax.while_loop(more, advance, (0, start))
        return params, curve


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class _Curve:
    """Sums over a loss curve while it was finite: of `v`, of `1 / v`, of the last losses; and how long that was."""

    first: Array
    total: Array
    inverse: Array
    last: Array
    counted: Array
    over: Array

    @classmethod
    def blank(cls, dtype: Any) -> "_Curve":
        zero = jnp.zeros((), dtype)
        return cls(zero, zero, zero, zero, jnp.int32(0), jnp.bool_(False))

    def with_loss(self, loss: Array, t: Any, options: TrainabilityMap) -> "_Curve":
        """The sums with the loss before step `t`."""
        limit = jnp.inf if options.max_loss is None else options.max_loss
        first = jnp.where(t == 0, loss, self.first)
        over = self.over | ~jnp.isfinite(loss) | (loss > limit)
        v = jnp.where(over, options.max_ratio, jnp.minimum(loss / first, options.max_ratio))
        late = jnp.where(over | (t < options.num_steps - LAST), 0, loss)
        sums = (first, self.total + jnp.where(over, 0, v), self.inverse + jnp.where(over, 0, 1 / v), self.last + late)
        return _Curve(*(x.astype(first.dtype) for x in sums), self.counted + jnp.where(over, 0, 1), over)

    def verdict(self, num_steps: int, max_ratio: Any) -> tuple[Array, Array]:
        """Whether the run converged, and its value; a run that is over has `max_ratio` from there on."""
        converged = (self.last / min(LAST, num_steps) < self.first) & ~self.over
        left = (num_steps - self.counted).astype(self.inverse.dtype)
        value = jnp.where(converged, self.total, -(self.inverse + left / max_ratio))
        return converged, jnp.where(self.over | (self.first > 0), value, jnp.nan)
