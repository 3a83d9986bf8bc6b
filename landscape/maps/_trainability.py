"""`TrainabilityMap`: whether training with these hyperparameters converges."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from landscape import _tree
from landscape.grid import Grid
from landscape.maps._surface import check_track, middle, point_like, static
from landscape.objective import Objective, joined
from landscape.training import check_all_means, check_optimizer, check_run
from landscape.training._descent import (
    Spec,
    anyone,
    batch_of,
    check_loss,
    chunk_length,
    fast,
    initial,
    select,
    slope_of,
    slow,
    updated,
)

LAST = 20  # losses whose mean is compared with the first


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
    num_steps: int = field(metadata=static)
    max_ratio: Any = field(default=1e6, kw_only=True)
    max_loss: Any = field(default=None, kw_only=True)
    track: Mapping[str, Objective] = field(default_factory=dict, kw_only=True)
    batch_size: int | None = field(default=None, kw_only=True, metadata=static)
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
        jax.eval_shape(lambda c: self._checked(c), point_like(grid))
        objective = self.objective or self._made(middle(grid))[2]
        check_all_means(objective, self.track, lambda: self._made(middle(grid))[1])

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
        check_track(self.track)
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
