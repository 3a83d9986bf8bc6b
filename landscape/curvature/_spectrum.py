"""The spectral density by stochastic Lanczos quadrature, with the spread over its probes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from landscape import _tree
from landscape.checks import check_flag, check_share, reals
from landscape.curvature._products import Operator, on_host, prepared, products
from landscape.curvature._trace import Estimate, mean_and_sem
from landscape.curvature._vectors import Stack, Vector, Vectors, combined, less, over, put, times, unit
from landscape.objective import Objective
from landscape.placement import Places, places_of
from landscape.point import matmul_precision

MAX_BASIS = 2**28  # bytes of a basis that is held unasked

Points = Float[Array, "*q"] | Float[np.ndarray, "*q"] | float


class Interval(NamedTuple):
    """A mean over the probes, and what its expectation lies between at a stated confidence."""

    mean: Float[np.ndarray, "*q"]
    lower: Float[np.ndarray, "*q"]
    upper: Float[np.ndarray, "*q"]


class Bounds(NamedTuple):
    """What a number lies between, each end an estimate."""

    lower: Estimate
    upper: Estimate


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class SpectralDensity:
    r"""A quadrature of the spectral density $\frac1n \sum_i \delta(t - \lambda_i)$ for each probe.

    Attributes:
        nodes: Ritz values, `(num_probes, num_steps)`, ascending.
        weights: their shares of the spectrum, `(num_probes, num_steps)`; each row sums to 1. NaN where the Hessian is
            not finite.
    """

    nodes: Float[Array, "*runs p m"]
    weights: Float[Array, "*runs p m"]

    def average(self, fn: Callable[[Array], Array]) -> Estimate:
        r"""$\frac1n \sum_i f(\lambda_i)$, the mean of a function over the spectrum, with its standard error.

        From few probes an interval takes more than 1.96 standard errors on either side, see `interval`.

        Args:
            fn: maps eigenvalues, `(*runs, p, m)`, to numbers of shape `(..., *runs, p, m)`.
        """
        return mean_and_sem(self._each(fn), axis=-1)

    def interval(self, fn: Callable[[Array], Array], confidence: float = 0.95) -> Interval:
        r"""The average of a function over the spectrum with its confidence interval, in NumPy.

        Plus and minus 1.96 standard errors cover less than 95 % where probes are few: at 10 of them 92 % for a smooth
        function of a broad bulk, and 83 % where one isolated eigenvalue counts, since its weight in a probe is that of
        a chi-squared variable of one degree of freedom. So this is Student's interval (Student 1908), together with,
        where no probe is negative, that of a multiple of a chi-squared variable with the same mean and spread
        (Satterthwaite 1946), its degrees of freedom reduced by as much as Student widens a normal interval. For 3 to 50
        probes of such variables, of 1 to 200 degrees of freedom, both together cover 95 to 97 %.

        Args:
            fn: as for `average`.
            confidence: chance that the interval covers, in (0, 1).

        Raises:
            TypeError, ValueError: `confidence` is no number in (0, 1).
        """
        check_share("confidence", confidence)
        return _interval(np.asarray(self._each(fn), np.float64), confidence)

    def cdf(self, at: Points) -> "Bounds":
        """The share of the eigenvalues that is at most `at`: between two estimates, `(*runs, *q)` each.

        A quadrature says of a probe's own distribution, for certain, how much lies beyond the nodes on either side of
        a point (the inequalities of Chebyshev, Markov and Stieltjes; Golub & Meurant 2010, section 6), and no more.

        Args:
            at: one point, or an array of them of any shape.

        Raises:
            TypeError, ValueError: `at` is no array of real numbers.
        """
        spread, at = self._spread(at)
        below = spread.nodes <= at
        lower = below & jnp.roll(below, -1, axis=-1).at[..., -1].set(False)  # without the last node below
        upper = jnp.roll(below, 1, axis=-1).at[..., 0].set(True)  # with the first node above
        return Bounds(spread.average(lambda _: lower), spread.average(lambda _: upper))

    def density(self, at: Points, width: float) -> Estimate:
        """The density broadened by a Gaussian, with its standard error, `(*runs, *q)` each.

        Near an isolated eigenvalue an interval of 1.96 standard errors covers no more than 83 % from 10 probes: see
        `density_interval`.

        Args:
            at: one point, or an array of them of any shape.
            width: standard deviation of the Gaussian.

        Raises:
            TypeError, ValueError: `at` is no array of real numbers, or `width` no positive finite number.
        """
        spread, bell = self._bell(at, width)
        return spread.average(bell)

    def density_interval(self, at: Points, width: float, confidence: float = 0.95) -> Interval:
        """The density broadened by a Gaussian, with the confidence interval of `interval`, `(*runs, *q)` each.

        Args:
            at: one point, or an array of them of any shape.
            width: standard deviation of the Gaussian.
            confidence: chance that the interval at one point covers, in (0, 1).

        Raises:
            TypeError, ValueError: as for `density`, or `confidence` is no number in (0, 1).
        """
        spread, bell = self._bell(at, width)
        return spread.interval(bell, confidence)

    def _each(self, fn: Callable[[Array], Array]) -> Array:
        """The average of a function as each probe sees it."""
        return jnp.sum(self.weights * fn(self.nodes), axis=-1)

    def _bell(self, at: Any, width: Any) -> tuple["SpectralDensity", Callable[[Array], Array]]:
        _tree.check_positive("width", width, "in units of the eigenvalues")
        spread, at = self._spread(at)
        return spread, lambda nodes: jnp.exp(-(((nodes - at) / width) ** 2) / 2) / (width * jnp.sqrt(2 * jnp.pi))

    def _spread(self, at: Any) -> tuple["SpectralDensity", Array]:
        """The quadrature and points such that they go together as `(*runs, *q, p, m)`."""
        at = jnp.asarray(at if _tree.is_traced(at) else reals("at", at), self.nodes.dtype)
        new = tuple(range(self.nodes.ndim - 2, self.nodes.ndim - 2 + at.ndim))
        nodes, weights = (jnp.expand_dims(x, new) for x in (self.nodes, self.weights))
        return SpectralDensity(nodes, weights), at[..., None, None]


def _interval(samples: Float[np.ndarray, "*q p"], confidence: float) -> Interval:
    """Student's interval, and Satterthwaite's where no sample is negative: the lower and the upper of their ends."""
    from scipy.special import gammaincinv, ndtri, stdtrit

    num, tail = samples.shape[-1], 0.5 - 0.5 * confidence
    mean, sem = samples.mean(axis=-1), samples.std(axis=-1, ddof=1) / num**0.5
    student = stdtrit(num - 1, 1 - tail)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        half = (mean / (sem * student / ndtri(1 - tail))) ** 2  # the degrees of freedom of the sum
        skewed = [mean * (half / gammaincinv(half, share)) for share in (1 - tail, tail)]
        positive = np.all(samples >= 0, axis=-1) & (half < 1e8)  # with more it is a normal variable
    low, high = mean - student * sem, mean + student * sem
    return Interval(
        mean, np.where(positive, np.minimum(low, skewed[0]), low), np.where(positive, np.maximum(high, skewed[1]), high)
    )


def spectral_density(
    key: Array,
    objective: Objective | Operator,
    params: PyTree,
    *,
    where: Any = None,
    num_probes: int = 10,
    num_steps: int = 60,
    reorthogonalize: bool | None = None,
) -> SpectralDensity:
    """The density of the eigenvalues of the Hessian, by Lanczos from random vectors (Lin, Saad & Yang 2016).

    Lanczos from one unit vector gives the Gauss quadrature of the spectrum as that vector sees it (Golub & Welsch
    1969), exact for polynomials up to degree `2 num_steps - 1`; the mean over random directions sees every
    eigenvalue alike. So each probe is an independent measurement of the mean of a smooth function, and their spread
    is the error bar (`average`, `density`; as confidence intervals `interval`, `density_interval`); the share below a
    point lies within bounds (`cdf`). Costs `num_probes * num_steps + 1` products.

    Where the basis of `num_steps` vectors takes more than 256 MiB, three vectors are held and none of the basis. In the
    arithmetic of a computer an eigenvalue that stands apart is then found again after some steps: nodes at one place,
    ghosts, which share its weight. The rule stays a Gauss rule of a spectrum that is equal to rounding (Greenbaum
    1989), so averages are as exact as before (Knizhnerman 1996; Chen, Trogdon & Ubaru 2021, arXiv 2105.06595); a step
    spent on a ghost adds nothing to the resolution. Do not count nodes.

    Args:
        key: random key of the probes.
        objective: the loss whose Hessian it is, or a `GaussNewton`, `Fisher` or `EmpiricalFisher`.
        params: where.
        where: the parameters whose diagonal block it is, as `trainable` of `subspace.split`; by default all.
        num_probes: random vectors; at least 2, so that there is a spread.
        num_steps: Lanczos steps from each; at most the number of parameters are taken.
        reorthogonalize: whether to hold the basis, `num_steps` vectors, and keep it orthogonal: no ghosts. By default
            where it takes at most 256 MiB.

    Raises:
        TypeError: `objective` is no Objective, parameters are not real floating-point arrays, a count is no integer, or
            `reorthogonalize` is neither a bool nor `None`.
        ValueError: fewer than 2 probes, or fewer than 1 step; `where` matches nothing.
    """
    _tree.check_key(key)
    objective, params = prepared(objective, params, where)
    _tree.check_count("num_probes", num_probes, 2)
    _tree.check_count("num_steps", num_steps, 1)
    steps, whole = min(num_steps, _tree.size(params)), reorthogonalize
    if whole is None:
        whole = steps * _tree.size(params) * jnp.dtype(jnp.float32).itemsize <= MAX_BASIS
    check_flag("reorthogonalize", whole)
    options = {"steps": steps, "whole": whole, "places": places_of(params)}
    with on_host(objective):
        return _spectral_density(key, objective, params, num=num_probes, **options)


@partial(jax.jit, static_argnames=("num", "steps", "whole", "places"))
def _spectral_density(
    key: Array, objective: Any, params: PyTree, *, num: int, steps: int, whole: bool, places: Places
) -> SpectralDensity:
    with matmul_precision():
        space = Vectors(params, places)
        product = space.map(products(objective, params))
        keys = jax.random.split(key, num)
        # Lanczos squares what it is given, so it is given a matrix of size one.
        size = _tree.power_of_two_near(product(space.normal(keys[0])))

        def probe(key: Array) -> tuple[Array, Array]:
            basis = space.zeros(steps) if whole else None
            return _quadrature(*_lanczos(space, lambda v: over(product(v), size), space.normal(key), steps, basis))

        nodes, weights = jax.lax.map(probe, keys)
        return SpectralDensity(nodes * size, weights)


def _lanczos(
    space: Vectors, product: Callable[[Vector], Vector], start: Vector, steps: int, basis: Stack | None
) -> tuple[Array, Array]:
    """Diagonal and its neighbours (Golub & Van Loan 2013, algorithm 10.1.1); with a basis, fully reorthogonalised."""

    def step(carry: Any, i: Array) -> Any:
        before, here, beside, basis = carry
        image = less(product(here), times(beside, before))
        diagonal = space.inner(here, image)
        image = less(image, times(diagonal, here))
        if basis is None:
            image = less(image, times(space.inner(here, image), here))
        else:
            basis = put(basis, here, i)
            for _ in range(2):
                image = less(image, combined(space.along(basis, image), basis))
        size = space.norm(image)
        return (here, unit(image, size), size, basis), (diagonal, size)

    first = unit(start, space.norm(start))
    carry = [jnp.zeros_like(x) for x in first], first, jnp.zeros((), space.dtype), basis
    _, (diagonal, beside) = jax.lax.scan(step, carry, jnp.arange(steps))
    return diagonal, beside[:-1]


def _quadrature(diagonal: Array, beside: Array) -> tuple[Array, Array]:
    """Nodes and weights of a tridiagonal matrix, cut where its Krylov space ends: what follows is noise, or NaN."""
    finite = jnp.isfinite(diagonal[0])
    eps = jnp.finfo(diagonal.dtype).eps
    size = jnp.max(jnp.abs(jnp.concatenate([jnp.nan_to_num(diagonal), jnp.nan_to_num(beside)])))
    linked = jnp.isfinite(diagonal[1:]) & (beside > 10 * eps * size)
    alive = jnp.concatenate([finite[None], jnp.cumprod(linked) > 0])
    beside = jnp.where(alive[1:], beside, 0)
    # the rest is decoupled from the start vector, so it has no weight; it repeats a value that is there
    diagonal = jnp.where(alive, diagonal, diagonal[0])
    nodes, vectors = jnp.linalg.eigh(jnp.diag(diagonal) + jnp.diag(beside, 1) + jnp.diag(beside, -1))
    return nodes, jnp.where(finite, vectors[0] ** 2, jnp.nan)
