"""The local learning coefficient: how fast the volume of low loss about a minimum shrinks, by Langevin chains."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from landscape import _tree
from landscape.checks import warn
from landscape.curvature._products import Flat, check, widened
from landscape.curvature._trace import Estimate, mean_and_sem
from landscape.objective import Objective, check_objective, drawn
from landscape.point import matmul_precision

HOT = 0.05  # by how much the temperature may exceed 1 before a warning


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class LearningCoefficient:
    r"""An estimate of the local learning coefficient.

    Attributes:
        mean: the estimate.
        sem: its standard error, from the spread between the chains, which are independent. It knows nothing of what
            all chains have in common: a start that is not forgotten (`drift`), a step that is too large
            (`temperature`). An interval of 95 % from few chains takes Student's factor, 2.13 for 16, in place of 1.96.
        temperature: mean and standard error of $(w - w^*) \cdot \nabla U / d$ for $d$ parameters, where $e^{-U}$ is the
            distribution asked for. There it is 1, whatever the loss (integrate by parts; the virial theorem). A step
            that is too large, or the noise of minibatches, heats the chains, and the estimate is too large by about as
            much; below 1 they have not spread over all directions yet.
        history: the estimate of each chain in each stretch of its run, `(chains, records)`, those of the burn-in
            included. It must have levelled off where the burn-in ends. NaN or infinite where a chain diverged.
        burn_in: stretches that were left out.
    """

    mean: Float[Array, "*runs"]
    sem: Float[Array, "*runs"]
    temperature: Estimate
    history: Float[Array, "*runs chains records"]
    burn_in: int = field(metadata={"static": True})

    @property
    def drift(self) -> Estimate:
        """Second half less first half of what was kept: where it is not 0 within its error, run longer."""
        kept = self.history[..., self.burn_in :]
        half = kept.shape[-1] // 2
        return mean_and_sem(kept[..., -half:].mean(axis=-1) - kept[..., :half].mean(axis=-1), axis=-1)


def local_learning_coefficient(
    key: Array,
    objective: Objective,
    params: PyTree,
    *,
    step_size: float | Array,
    num_examples: float | Array | None = None,
    localization: float | Array = 1.0,
    num_chains: int = 16,
    num_steps: int = 10_000,
    burn_in: float = 0.5,
    num_records: int = 50,
    batch_size: int | None = None,
) -> LearningCoefficient:
    r"""The local learning coefficient of a minimum (Lau et al. 2023, arXiv 2308.12108, equation 8).

    $\hat\lambda = n \beta \, (\mathbb{E}\,L(w) - L(w^*))$ with $\beta = 1 / \log n$, over the distribution
    $\propto \exp(-n \beta L(w) - \frac\gamma2 |w - w^*|^2)$. The volume of $\{L(w) < L(w^*) + \epsilon\}$ near $w^*$
    shrinks as $\epsilon^\lambda$ (Watanabe 2009). At a minimum with a regular Hessian $\lambda$ is half the number of
    parameters; the flatter in more directions, the smaller. Sampled by stochastic gradient Langevin dynamics (Welling
    & Teh 2011)

    $w \leftarrow w - \frac\epsilon2 (n \beta \nabla L_B(w) + \gamma (w - w^*)) + N(0, \epsilon)$.

    Unlike there, $L(w^*)$ is taken on the same minibatch $B$ as $L(w)$, which keeps the mean and takes away most of the
    noise of the batches.

    At finite $n$ it differs from $\lambda$ by terms that fall as $1 / \log n$ where the multiplicity of $\lambda$ is
    above one, and, for each of the regular directions, by the share $\gamma / (n \beta h + \gamma)$ of curvature $h$.

    Args:
        key: random key of the chains.
        objective: the loss, a mean negative log-likelihood where the theory is to apply.
        params: the minimum $w^*$; elsewhere the number can be negative.
        step_size: $\epsilon$. Half of it times $n \beta$ times the largest curvature that the chains meet should stay
            well below one: it biases a direction of curvature $h$ by the factor
            $1 / (1 - \epsilon (n \beta h + \gamma) / 4)$, and the chain diverges where that is infinite or negative.
            A flat direction is explored in $1 / (\epsilon \gamma)$ steps. The `temperature` of the result says what the
            step did.
        num_examples: $n$, larger than 2; by default those of the data, whatever their weights. Needed where the
            objective has none.
        localization: $\gamma$, strength of the pull back to $w^*$.
        num_chains: independent chains, all started at $w^*$; at least 2. Memory: those of the
            parameters and of the activations, for each.
        num_steps: steps of each chain, rounded up to a multiple of `num_records`.
        burn_in: share of the steps that is left out, in [0, 1).
        num_records: stretches whose means are kept; at least 4.
        batch_size: examples of a step, drawn without replacement; by default all. Not with `Objective.weight_fn`.

    Warns:
        UserWarning: a chain diverged, or the temperature exceeds 1 by more than 5 % and three standard errors; not
            where JAX traces the call.

    Raises:
        TypeError: `objective` is no Objective, parameters are not real floating-point arrays, or a number is none.
        ValueError: a number makes no sense, or the objective has no data and `num_examples` is not given.
    """
    _tree.check_key(key)
    check_objective(objective)  # a loss, where `check` takes other operators too
    check(objective, params)
    count = objective.num_examples
    num_examples = count if num_examples is None else num_examples
    if num_examples is None:
        raise ValueError("the objective has no data: give num_examples, which sets the temperature")
    numbers = {"num_examples": num_examples, "localization": localization, "step_size": step_size}
    _check(numbers, num_chains, num_records, num_steps, burn_in)
    if batch_size is not None:
        _tree.check_count("batch_size", batch_size, 1)
    if batch_size is not None and objective.weight_fn is not None:
        raise ValueError(
            "batch_size= takes steps along the slopes of minibatches, biased for a weighted mean: leave it away "
            "(Objective(batch_size=) bounds the memory of a pass)"
        )
    if batch_size is not None and not (count and batch_size <= count):
        raise ValueError(f"batch_size must be from 1 to the number of examples, {count}, got {batch_size!r}")
    history, heat = _histories(
        key, objective, jax.tree.map(jnp.asarray, params), numbers,
        chains=num_chains, records=num_records, steps=-(-num_steps // num_records),
        size=None if batch_size == count else batch_size,
    )  # fmt: skip
    left_out = min(int(np.ceil(burn_in * num_records)), num_records - 2)
    estimate, temperature = (mean_and_sem(kept[:, left_out:].mean(axis=1)) for kept in (history, heat))
    _warn_if_too_large(history, temperature, step_size)
    return LearningCoefficient(*estimate, temperature, history, left_out)


def _warn_if_too_large(history: Array, temperature: Estimate, step_size: Any) -> None:
    """Say that a step is too large. What it heats falls with the step, in a quadratic well as `1 - 1 / temperature`."""
    if _tree.is_traced(history) or _tree.is_traced(step_size):
        return
    lost = int(np.sum(~np.all(np.isfinite(history), axis=1)))
    mean, sem = (float(x) for x in temperature)
    if lost:
        what = f"{lost} of {len(history)} chains diverged; try a tenth of it"
    elif mean > 1 + HOT + 3 * sem:
        better = float(step_size) * (HOT / 2) / (1 - 1 / mean)
        what = (
            f"the chains are {100 * (mean - 1):.0f} % too hot, and the estimate is too large by about as much; "
            f"{better:.1g} would leave about {50 * HOT:.1f} % (with more steps, as many times as the step is smaller)"
        )
    else:
        return
    warn(f"step_size={float(step_size):.3g} is too large: {what}")


def _check(numbers: dict[str, Any], num_chains: Any, num_records: Any, num_steps: Any, burn_in: float) -> None:
    """Raise `ValueError` for numbers that make no sense; those that are traced are let pass."""
    least = {"num_examples": 2.0, "localization": 0.0, "step_size": 0.0}
    for name, value in numbers.items():
        if _tree.is_traced(value):
            continue
        _tree.check_number(name, value)
        if not least[name] < value < np.inf:
            raise ValueError(f"{name} must be larger than {least[name]:g} and finite, got {value!r}")
    _tree.check_count("num_chains", num_chains, 2)
    _tree.check_count("num_records", num_records, 4)
    _tree.check_count("num_steps", num_steps, num_records)
    _tree.check_number("burn_in", burn_in)
    if not 0 <= burn_in < 1:
        raise ValueError(f"burn_in must be a share of the steps, in [0, 1), got {burn_in!r}")


@partial(jax.jit, static_argnames=("chains", "records", "steps", "size"))
def _histories(
    key: Array, objective: Objective, params: PyTree, numbers: Any, *, chains: int, records: int, steps: int, size: Any
) -> tuple[Array, Array]:
    """Mean of the estimate and of the temperature in each stretch of each chain."""
    with matmul_precision():  # of all losses: their small differences are multiplied by n / log n
        objective, params = widened(objective, params)
        flat = Flat(objective, params)
        start, lowest, num = flat.start, objective(params), objective.num_examples or 0
        numbers = {name: jnp.asarray(x, start.dtype) for name, x in numbers.items()}
        count, localization, step_size = (numbers[name] for name in ("num_examples", "localization", "step_size"))
        strength = count / jnp.log(count)

        def excess(key: Array, x: Array) -> tuple[Array, Array]:
            """What the loss is above that of the start, and its gradient."""
            part, base = objective, lowest
            if size:
                part = objective.take(drawn(key, num, size))
                base = part(params)
            loss, gradient = Flat(part, params).value_and_grad(x)
            return loss - base, gradient

        def step(key: Array, index: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            x, total, heat = carry
            for_batch, for_noise = jax.random.split(jax.random.fold_in(key, index))
            above, gradient = excess(for_batch, x)
            pull = strength * gradient + localization * (x - start)
            noise = jax.random.normal(for_noise, x.shape, x.dtype)
            heat = heat + pull @ (x - start) / len(x)
            return x - step_size / 2 * pull + jnp.sqrt(step_size) * noise, total + above, heat

        def chain(key: Array) -> tuple[Array, Array]:
            def stretch(x: Array, index: Array) -> tuple[Array, tuple[Array, Array]]:
                first, zero = index * steps, jnp.zeros((), x.dtype)
                x, total, heat = jax.lax.fori_loop(first, first + steps, partial(step, key), (x, zero, zero))
                return x, (strength * total / steps, heat / steps)

            return jax.lax.scan(stretch, start, jnp.arange(records))[1]

        return jax.vmap(chain)(jax.random.split(key, chains))
