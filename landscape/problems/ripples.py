r"""One-dimensional functions on which gradient descent already draws fractals, with their exact facts.

A parabola with ripples of amplitude $\varepsilon$ and wavelength $\lambda$ (Liu 2024, arXiv 2406.13971),

$$ f_\times(x) = x^2 (1 + \varepsilon \cos(2\pi x/\lambda)), \qquad f_+(x) = x^2 + \varepsilon \cos(2\pi x/\lambda), $$

and the double well $f(x) = (x^2 - 1)^2 / 4$, whose map from a start to a minimum is known in closed form.

>>> from landscape.problems import double_well, rippled_parabola
>>> well = double_well()
>>> round(well.first_switch(0.5), 6), round(well.bounded_limit(0.5), 6), well.shrink_factor(0.5)
(1.732051, 2.236068, 6.0)
>>> rippled_parabola("additive", eps=0.2, lam=0.1).is_convex
False
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

Kind = Literal["multiplicative", "additive"]
TWO_PI = 2 * math.pi
CONVEX_ROUGHNESS = 1 / (2 * math.pi**2)
"""Added ripples are convex up to this eps / lam^2, since f''(x) = 2 - 4 pi^2 (eps / lam^2) cos(2 pi x / lam)."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class RippledParabola:
    """A parabola with ripples; a pytree whose leaves are `eps` and `lam`.

    Attributes:
        eps: amplitude of the ripples.
        lam: their wavelength.
        kind: `"multiplicative"` or `"additive"`.
    """

    eps: Any
    lam: Any
    kind: Kind = field(metadata={"static": True})

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """The value at `x`."""
        ripples = _rounded(self.eps * jnp.cos(self._phase(x)))
        return x * x + ripples if self.kind == "additive" else x * x * (1 + ripples)

    def gradient(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """The derivative at `x`, in the order of operations of Liu's code, each of them rounded once.

        Where descent is chaotic, a label may hang on the last bit; see `descend`.
        """
        sine, two_pi = jnp.sin(self._phase(x)), jnp.asarray(TWO_PI, x.dtype)
        if self.kind == "additive":
            return 2 * x - _rounded(_rounded(two_pi * self.eps) * sine) / self.lam
        slope = _rounded(2 * x * (1 + _rounded(self.eps * jnp.cos(self._phase(x)))))
        return slope - _rounded(_rounded(_rounded(two_pi * _rounded(x * x)) * self.eps) * sine) / self.lam

    def _phase(self, x: Array) -> Array:
        return _rounded(TWO_PI * x) / self.lam

    @property
    def roughness(self) -> Any:
        r"""What the fractal dimension depends on (Liu): $\varepsilon/\lambda^2$, or $\varepsilon$ if multiplied."""
        return self.eps / self.lam**2 if self.kind == "additive" else self.eps

    @property
    def is_convex(self) -> Any:
        r"""Whether $f'' \ge 0$ everywhere: roughness at most $1/(2\pi^2)$ (additive), no ripples (multiplicative)."""
        limit = CONVEX_ROUGHNESS if self.kind == "additive" else 0.0
        return abs(self.roughness) <= limit


def _rounded(product: Array) -> Array:
    """The product itself, kept from being merged with what follows.

    Compilers contract a product and a sum to one rounding and move scalar factors together. Both change the last
    bit, and with it the label of a chaotic orbit. Neither is done across a selection.
    """
    return jnp.where(jnp.isnan(product), jnp.nan, product)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class DoubleWell:
    r"""$f(x) = (x^2 - 1)^2 / 4$, with minima at -1 and 1 and a maximum at 0.

    A step of gradient descent is the odd cubic $g(x) = x (1 + \eta - \eta x^2)$. All facts below follow from it:

    - $g(b) = -b$ at $b = \sqrt{1 + 2/\eta}$; beyond it $|g(x)| > |x|$, so descent is bounded iff $|x_0| < b$
      (at $b$ itself it jumps between $b$ and $-b$ for ever).
    - $g(s_0) = 0$ at $s_0 = \sqrt{1 + 1/\eta}$. For $\eta < 3\sqrt3/2 - 1$ the interval $(0, s_0)$ is mapped into
      itself, so all its starts end on the right: the label first switches at $s_0$.
    - It switches next where $g(s_{n+1}) = -s_n$ in $(s_n, b)$, and so on towards $b$.
    - $g'(b) = 1 + \eta - 3\eta b^2 = -(5 + 2\eta)$: intervals between switches shrink by $5 + 2\eta$ in the limit.
    """

    SAME_SIDE_RATE = 1.5 * math.sqrt(3) - 1
    """Up to this rate, what starts in (0, s_0) stays on the right."""

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """The value at `x`."""
        return (x * x - 1) ** 2 / 4

    def gradient(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """The derivative at `x`."""
        return x * (x * x - 1)

    def bounded_limit(self, rate: float) -> float:
        """Descent with this rate stays bounded iff it starts closer to 0 than this."""
        return math.sqrt(1 + 2 / rate)

    def first_switch(self, rate: float) -> float:
        """The smallest positive start from which a step with this rate leads to 0."""
        return math.sqrt(1 + 1 / rate)

    def shrink_factor(self, rate: float) -> float:
        """By how much each interval between switches is shorter than the last one, in the limit."""
        return 5 + 2 * rate

    def switches(self, rate: float, num: int) -> Float[np.ndarray, " num"]:
        """The first `num` positive starts at which the label switches, by inverting the step."""
        found = [self.first_switch(rate)]
        while len(found) < num:
            found.append(self._start_before(found[-1], rate))
        return np.array(found)

    def _start_before(self, switch: float, rate: float) -> float:
        """The start beyond `switch` that a step leads to `-switch`: the largest root of a cubic, by Newton's method.

        From `bounded_limit` the iterates fall monotonically to it, since the cubic is convex there.
        """
        x = self.bounded_limit(rate)
        for _ in range(60):
            x -= (x**3 - (1 + 1 / rate) * x - switch / rate) / (3 * x * x - (1 + 1 / rate))
        return x


def rippled_parabola(kind: Kind = "multiplicative", eps: float = 0.2, lam: float = 0.1) -> RippledParabola:
    """A parabola with ripples (Liu 2024, arXiv 2406.13971); the defaults are those of its figure 1.

    Args:
        kind: `"multiplicative"` for `x^2 (1 + eps cos(2 pi x / lam))`, `"additive"` for `x^2 + eps cos(2 pi x / lam)`.
        eps: amplitude of the ripples.
        lam: their wavelength, positive.

    Raises:
        ValueError: there is no such kind, or the wavelength is not positive.
    """
    if kind not in ("multiplicative", "additive"):
        raise ValueError(f"kind must be 'multiplicative' or 'additive', got {kind!r}")
    if not lam > 0:
        raise ValueError(f"the wavelength lam must be positive, got {lam}")
    return RippledParabola(eps, lam, kind)


def double_well() -> DoubleWell:
    """The double well `(x^2 - 1)^2 / 4` and the exact facts of gradient descent on it."""
    return DoubleWell()


def descend(
    function: Any, rate: Float[Array, ""], start: Float[Array, ""], *, num_steps: int, max_loss: float
) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """Gradient descent in one dimension until the loss exceeds `max_loss`.

    Args:
        function: has a value, `function(x)`, and a derivative, `function.gradient(x)`.
        rate: learning rate.
        start: where to start; its precision is that of the iteration.
        num_steps: steps at most.
        max_loss: a loss beyond this, or NaN, ends the run as diverged.

    Returns:
        The last position, and the number of the step after which the loss was beyond `max_loss`, -1 for never.

    The product of rate and gradient is rounded before it is subtracted, as in the loop that one would write in NumPy
    or Julia, and not merged with the difference. Labels of chaotic orbits depend on that.
    """

    def going(state: tuple[Array, Array]) -> Array:
        x, step = state
        return (step < num_steps) & (function(x) <= max_loss)

    def advance(state: tuple[Array, Array]) -> tuple[Array, Array]:
        x, step = state
        return x - _rounded(rate * function.gradient(x)), step + 1

    x, step = jax.lax.while_loop(going, advance, (jnp.asarray(start), jnp.int32(0)))
    return x, jnp.where(function(x) <= max_loss, -1, step)
