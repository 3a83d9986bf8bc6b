r"""The nudged elastic band: the path of least loss between two minima, and the saddles it goes over.

Images $R_0, .., R_n$ of the parameters are held apart by springs and pushed down by the loss, each force acting only
where the other has no say. With the unit tangent $\hat\tau_i$ of the improved estimate (Henkelman & Jonsson 2000, J.
Chem. Phys. 113, 9978, equations 8 to 11),

$$F_i = -\nabla L(R_i) + (\nabla L(R_i) \cdot \hat\tau_i)\, \hat\tau_i
      + k\,(|R_{i+1} - R_i| - |R_i - R_{i-1}|)\, \hat\tau_i$$

(equations 4, 5 and 12 there). An image that is higher than both its neighbours *climbs*: it feels no spring, and the
force along the band turned round, $F_i = -\nabla L + 2 (\nabla L \cdot \hat\tau_i)\, \hat\tau_i$, so it converges to a
saddle (Henkelman, Uberuaga & Jonsson 2000, J. Chem. Phys. 113, 9901, equation 5). They let the highest image climb; we
let every peak, so one band finds all the saddles that it goes over.
"""

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from landscape import _tree
from landscape.curvature import Flat
from landscape.minima import Minimum, check_options, polish
from landscape.moving import parted
from landscape.objective import Objective, check_means, check_objective, set_aside_of_both
from landscape.paths._curves import Chain
from landscape.point import matmul_precision
from landscape.subspace import check_pair, line
from landscape.training._descent import select

# FIRE, the fast inertial relaxation engine (Bitzek et al. 2006, Phys. Rev. Lett. 97, 170201), with its constants.
PATIENCE, FASTER, SLOWER, MIXING, LESS_MIXING = 5, 1.1, 0.5, 0.1, 0.99
REACH = 0.1  # the longest move of an image in one step, as a share of the distance between images at the start
SETTLED = 0.1  # peaks begin to climb when the largest force has fallen to this share of the first
PRECISION = 1e-4  # default tolerance of the forces, as a share of the largest gradient on the first band


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Band:
    """A relaxed band. Under `vmap` every leaf gains a leading axis.

    Attributes:
        path: the chain through the images.
        losses: the loss of each image, ends included, `(num_images,)`.
        forces: the norm of the force left on each image, in units of a gradient; 0 at the ends, which are held.
        is_peak: which images are higher than both their neighbours: those that climb.
        converged: whether all forces are within the tolerance.
        steps: steps taken.
        history: `force`, the largest force, and `loss`, the highest loss, before each step, `(num_steps,)`; after the
            end they repeat the last.
    """

    path: Chain
    losses: Float[Array, "*runs images"]
    forces: Float[Array, "*runs images"]
    is_peak: Bool[Array, "*runs images"]
    converged: Bool[Array, "*runs"]
    steps: Int[Array, "*runs"]
    history: dict[str, Array]


def elastic_band(
    objective: Objective,
    a: PyTree,
    b: PyTree,
    *,
    start: Any = None,
    num_images: int = 21,
    climb: bool = True,
    spring: float | None = None,
    tol: float | None = None,
    num_steps: int = 10_000,
) -> Band:
    """Relax a band of images between two minima, and let its peaks climb to the saddles.

    The band is moved by FIRE (Bitzek et al. 2006), whose time step adapts itself; no image moves by more than a tenth
    of the first spacing in one step. Peaks are as many as the images resolve: more images, more saddles. Pure: jit it,
    or vmap it over ends.

    Args:
        objective: the loss, of any number of parameters.
        a: one minimum; it is held where it is.
        b: another one.
        start: a path, `[t] -> parameters`, from `a` to `b` to start from; the line by default.
        num_images: images, the ends included.
        climb: whether peaks climb.
        spring: the springs' constant `k`, in units of a curvature. It decides how soon the images are evenly spaced,
            not where the band lies. By default the largest curvature along the band at the start.
        tol: largest force to stop at; by default 1e-4 of the largest gradient on the band at the start.
        num_steps: steps at most; each takes one gradient per image.

    Returns:
        The band. `saddles` takes its peaks to the last digit. Nothing is raised for a band that does not converge or
        meets a loss that is not finite: it is returned as it last was, with `converged` false.

    Raises:
        TypeError: `objective` is no Objective, parameters are not real floating-point arrays, or an option is of the
            wrong kind.
        ValueError: `b` or a point of `start` does not look like `a`; fewer than 3 images; `tol`, `spring` or
            `num_steps` is not positive and finite.
    """
    given = objective
    objective, a, b = set_aside_of_both(objective, a, b)
    start = start if start is None or objective is given else _Moving(start)
    _check(objective, a, b, start, num_images, num_steps)
    if not isinstance(climb, bool | np.bool_):
        raise TypeError(f"climb must be True or False, got {climb!r}")
    for name, value in {"tol": tol, "spring": spring}.items():
        if value is not None:
            _tree.check_positive(name, value)
    path = line(a, b) if start is None else start
    images = jax.vmap(path)(jnp.linspace(0, 1, num_images)[:, None])
    images = jax.tree.map(lambda x, p, q: x.at[0].set(p).at[-1].set(q), images, a, b)
    band = _relax((bool(climb), int(num_steps)), objective, images, spring, tol)
    if objective is given:
        return band
    return dataclasses.replace(band, path=dataclasses.replace(band.path, frozen=objective.frozen))


@dataclass(frozen=True, eq=False)
class _Moving:
    """What moves of the parameters along a path."""

    path: Any

    def __call__(self, coords: Array) -> PyTree:
        return parted(self.path(coords)).moving


def saddles(objective: Objective, band: Band, **options: Any) -> list[Minimum]:
    """The critical points at the peaks of a band, in the order of the band, to the last digit.

    Newton's method on the gradient from each peak (`minima.polish` with `to="critical"`). `minima.classify` says
    whether it is a saddle of index 1.

    Args:
        objective: the loss that the band was relaxed on.
        band: one band.
        options: further options of `minima.polish`.

    Raises:
        TypeError: `objective` is no Objective, or `band` no band.
        ValueError: these are many bands, or an option makes no sense.
    """
    check_objective(objective)
    if not isinstance(band, Band):
        raise TypeError(f"band must be a Band, as elastic_band returns it, got {type(band).__name__}")
    check_options(to="critical", **options)
    if np.ndim(band.converged):
        raise ValueError(f"these are {np.size(band.converged)} bands: take one, jax.tree.map(lambda x: x[i], bands)")
    peaks = np.flatnonzero(np.asarray(band.is_peak))
    at = [band.path.whole(jax.tree.map(lambda x, i=i: x[i], band.path.nodes)) for i in peaks]
    return [polish(objective, params, to="critical", **options) for params in at]


def _check(objective: Any, a: PyTree, b: PyTree, start: Any, num_images: Any, num_steps: Any) -> None:
    check_objective(objective)
    check_pair(a, b)
    check_means(objective, lambda: a)
    _tree.check_count("num_images", num_images, 3)
    _tree.check_count("num_steps", num_steps, 1)
    if start is not None:
        if not callable(start):
            raise TypeError(f"start must be a path, a function of [t], got {type(start).__name__}")
        _tree.check_takes(start, "start", "[t]")
        _tree.check_like(jax.eval_shape(start, jax.ShapeDtypeStruct((1,), jnp.float32)), a, "start([t])", "a")


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class _State:
    """A band under way, images as rows; gradients, and the forces of them, in units of the largest one at the start.

    Their squares then stay within the range of the precision, whatever the units of the loss.
    """

    x: Array
    losses: Array
    gradients: Array
    velocity: Array
    dt: Array
    mixing: Array
    downhill: Array  # steps in a row in which the forces did work
    climbing: Array
    step: Array
    over: Array
    history: dict[str, Array]


@dataclass(frozen=True, eq=False)
class _Relaxation:
    """What stays the same while a band relaxes."""

    flat: Flat
    climb: bool
    num_steps: int
    spring: Array
    tol: Array
    reach: Array
    first: Array  # the largest force at the start
    unit: Array  # of the gradients, a power of two

    def advance(self, state: _State) -> _State:
        """One step, or the end where nothing is left to do or a step leads to what is not finite."""
        forces = _forces(state, self.spring)
        worst = jnp.max(_norms(forces))
        ready = (worst <= SETTLED * self.first) | (state.step >= self.num_steps // 4)
        settled = (worst <= self.tol) & (state.climbing | (not self.climb))
        new = self._moved(state, forces)
        finite = jnp.all(jnp.isfinite(new.losses)) & jnp.all(jnp.isfinite(new.gradients))
        over = settled | ~finite
        entry = {"force": worst * self.unit, "loss": jnp.max(state.losses)}
        return dataclasses.replace(
            select(over, state, new),
            climbing=state.climbing | (self.climb & ready),
            over=over,
            history={name: state.history[name].at[state.step].set(value) for name, value in entry.items()},
        )

    def _moved(self, state: _State, forces: Array) -> _State:
        """A step of FIRE; semi-implicit Euler between its rules (Bitzek et al. 2006)."""
        down = jnp.vdot(forces, state.velocity) > 0
        size = _tree.norm(state.velocity) / jnp.maximum(_tree.norm(forces), jnp.finfo(forces.dtype).tiny)
        steered = (1 - state.mixing) * state.velocity + state.mixing * size * forces
        downhill = jnp.where(down, state.downhill + 1, 0)
        faster = downhill > PATIENCE
        dt = state.dt * jnp.where(down, jnp.where(faster, FASTER, 1), SLOWER)
        mixing = jnp.where(down, state.mixing * jnp.where(faster, LESS_MIXING, 1), MIXING)
        moves = _shortened(dt * (jnp.where(down, steered, 0) + dt * forces), self.reach)
        losses, gradients = _measure(self.flat, state.x + moves, self.unit)
        return dataclasses.replace(
            state,
            x=state.x + moves,
            losses=losses,
            gradients=gradients,
            velocity=moves / dt,  # what was not moved leaves no momentum behind
            dt=dt,
            mixing=mixing,
            downhill=downhill,
            step=state.step + 1,
        )


@partial(jax.jit, static_argnums=0)
def _relax(settings: tuple[bool, int], objective: Objective, images: PyTree, spring: Any, tol: Any) -> Band:
    with matmul_precision():
        flat = Flat(objective, jax.tree.map(lambda x: x[0], images))
        state, relaxation = _prepared(settings, flat, images, spring, tol)

        def going(state: _State) -> Array:
            return ~state.over & (state.step < relaxation.num_steps)

        state = jax.lax.while_loop(going, relaxation.advance, state)
        forces = _norms(_forces(state, relaxation.spring))
        converged = jnp.max(forces) <= relaxation.tol
        forces = forces * relaxation.unit
    late = jnp.arange(relaxation.num_steps, dtype=state.step.dtype) >= state.step
    last = {"force": jnp.max(forces), "loss": jnp.max(state.losses)}
    history = {name: jnp.where(late, last[name], kept) for name, kept in state.history.items()}
    finite = jnp.all(jnp.isfinite(state.losses)) & jnp.all(jnp.isfinite(state.gradients))
    converged = converged & finite & jnp.all(jnp.isfinite(forces))
    path = Chain(jax.vmap(flat.tree)(state.x), stacked=True)
    return Band(path, state.losses, forces, _peaks(state.losses), converged, state.step, history)


def _prepared(settings: Any, flat: Flat, images: PyTree, spring: Any, tol: Any) -> tuple[_State, _Relaxation]:
    """The band at rest, and the scales of what it moves in."""
    climb, num_steps = settings
    x = jax.vmap(lambda image: Flat(flat.objective, image).start)(images)
    losses, gradients = _measure(flat, x, 1)
    unit = _tree.power_of_two_near(gradients)
    gradients = gradients / unit
    spacing = _norms(jnp.diff(x, axis=0))
    turns = _norms(jnp.diff(gradients, axis=0)) / jnp.maximum(spacing, jnp.finfo(x.dtype).tiny)
    spring = jnp.max(turns) if spring is None else jnp.asarray(spring, x.dtype) / unit
    tol = PRECISION * jnp.max(_norms(gradients)) if tol is None else jnp.asarray(tol, x.dtype) / unit
    reach = REACH * jnp.mean(spacing)
    blank = jnp.zeros(num_steps, x.dtype)
    zero = jnp.zeros((), x.dtype)
    state = _State(
        x, losses, gradients, jnp.zeros_like(x), zero, zero + MIXING, jnp.int32(0), jnp.bool_(False), jnp.int32(0),
        ~(jnp.all(jnp.isfinite(losses)) & jnp.all(jnp.isfinite(gradients))), {"force": blank, "loss": blank},
    )  # fmt: skip
    first = jnp.max(_norms(_forces(state, spring)))
    # The first step moves the image that is pushed most by a tenth of what is allowed.
    dt = jnp.sqrt(0.1 * reach / jnp.maximum(first, jnp.finfo(x.dtype).tiny))
    return dataclasses.replace(state, dt=dt), _Relaxation(flat, climb, num_steps, spring, tol, reach, first, unit)


def _measure(flat: Flat, x: Array, unit: Any) -> tuple[Array, Array]:
    """Losses, and gradients in units of `unit`."""
    losses, gradients = jax.vmap(flat.value_and_grad)(x)
    return losses, gradients / unit


def _norms(rows: Array) -> Array:
    return jax.vmap(_tree.norm)(rows)


def _shortened(moves: Array, longest: Array) -> Array:
    """Rows no longer than `longest`."""
    lengths = _norms(moves)[:, None]
    return moves * jnp.where(lengths > longest, longest / jnp.where(lengths > 0, lengths, 1), 1)


def _peaks(losses: Array) -> Array:
    """Which images are higher than both their neighbours; never the ends."""
    inner = (losses[1:-1] > losses[:-2]) & (losses[1:-1] > losses[2:])
    return jnp.zeros(len(losses), bool).at[1:-1].set(inner)


def _forces(state: _State, spring: Array) -> Array:
    """The nudged force on each image; none on the ends."""
    before, after = state.x[1:-1] - state.x[:-2], state.x[2:] - state.x[1:-1]
    tangents = _tangents(state.losses, before, after)
    down = -state.gradients[1:-1]
    along = jnp.sum(down * tangents, axis=1, keepdims=True) * tangents
    springs = spring * (_norms(after) - _norms(before))[:, None] * tangents
    climbs = state.climbing & _peaks(state.losses)[1:-1, None]
    inner = jnp.where(climbs, down - 2 * along, down - along + springs)
    return jnp.zeros_like(state.x).at[1:-1].set(inner)


def _tangents(losses: Array, before: Array, after: Array) -> Array:
    """Unit tangents: towards the higher neighbour, and at peaks and valleys both, weighted by the rise to each."""
    rise, fall = losses[2:] - losses[1:-1], losses[:-2] - losses[1:-1]
    more, less = jnp.maximum(abs(rise), abs(fall)), jnp.minimum(abs(rise), abs(fall))
    upwards = losses[2:] > losses[:-2]
    ahead = jnp.where((rise > 0) & (fall < 0), 1, jnp.where((rise < 0) & (fall > 0), 0, jnp.where(upwards, more, less)))
    behind = jnp.where(
        (rise > 0) & (fall < 0), 0, jnp.where((rise < 0) & (fall > 0), 1, jnp.where(upwards, less, more))
    )
    total = ahead + behind
    ahead, behind = (jnp.where(total > 0, share / jnp.where(total > 0, total, 1), 1) for share in (ahead, behind))
    tangents = ahead[:, None] * after + behind[:, None] * before
    lengths = _norms(tangents)[:, None]
    return tangents / jnp.where(lengths > 0, lengths, 1)
