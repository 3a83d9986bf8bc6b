r"""Test functions whose critical points are all known: `himmelblau`, `mueller_brown`, `rastrigin(dim)`, ...

A search is only as good as what it missed, so each `KnownFunction` carries its whole *census*: every critical point
with its Morse index, the number of negative eigenvalues of the Hessian. Where the gradient points outward on a sphere
around all of them (a function that grows at infinity), the Poincare-Hopf theorem ties the counts $n_k$ of index $k$
together, $\sum_k (-1)^k n_k = 1$; in two dimensions minima - saddles + maxima = 1.

>>> import jax, jax.numpy as jnp
>>> from landscape.problems import himmelblau
>>> himmelblau.counts                                   # 4 minima, 4 saddles, 1 maximum
(4, 4, 1)
>>> float(himmelblau(jnp.array([3.0, 2.0])))
0.0
>>> turned = himmelblau.moved(shift=[10.0, -4.0], scale=2.0)
>>> [round(float(c), 3) for c in turned.minima[0]]
[16.0, 0.0]
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from landscape import _tree
from landscape.objective import Objective, Problem

_static: Any = {"static": True}


@dataclass(frozen=True, eq=False)
class _Table:
    """Critical points one by one: rows of coordinates, Morse index and value."""

    rows: Sequence[tuple[tuple[float, ...], int, float]]

    @cached_property
    def points(self) -> np.ndarray:
        return np.array([point for point, _, _ in self.rows])

    @cached_property
    def indices(self) -> np.ndarray:
        return np.array([index for _, index, _ in self.rows])

    @cached_property
    def values(self) -> np.ndarray:
        return np.array([value for _, _, value in self.rows])

    @property
    def minima(self) -> np.ndarray:
        return self.points[self.indices == 0]

    @property
    def counts(self) -> tuple[int, ...]:
        return tuple(np.bincount(self.indices, minlength=self.points.shape[1] + 1).tolist())


@dataclass(frozen=True)  # equal where the line is the same object, so that equal functions share compiled programs
class _Separable:
    """Critical points of a sum of equal functions of one coordinate each: all combinations of those on the line.

    Nothing is built before it is asked for: the points number (minima + maxima on the line)^dim.
    """

    line: _Table
    dim: int

    @cached_property
    def points(self) -> np.ndarray:
        return _combinations(self.line.points[:, 0], self.dim)

    @cached_property
    def indices(self) -> np.ndarray:
        return _combinations(self.line.indices, self.dim).sum(axis=1)

    @cached_property
    def values(self) -> np.ndarray:
        return _combinations(self.line.values, self.dim).sum(axis=1)

    @cached_property
    def minima(self) -> np.ndarray:
        return _combinations(self.line.minima[:, 0], self.dim)

    @property
    def counts(self) -> tuple[int, ...]:
        minima, maxima = self.line.counts
        return tuple(math.comb(self.dim, k) * minima ** (self.dim - k) * maxima**k for k in range(self.dim + 1))


def _combinations(numbers: np.ndarray, dim: int) -> np.ndarray:
    """All tuples of `dim` of the numbers, shape `(len(numbers) ** dim, dim)`, the last one changing fastest."""
    return np.stack(np.meshgrid(*[numbers] * dim, indexing="ij"), axis=-1).reshape(-1, dim)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class _Frame:
    """Where a moved function lies: `x = shift + scale * rotation @ z`, with `z` the original coordinates."""

    rotation: Any
    shift: Any
    scale: Any

    def forward(self, points: Any) -> Any:
        """Original to moved coordinates, `(..., d)`."""
        return self.shift + self.scale * (points @ self.rotation.T)

    def inverse(self, points: Any) -> Any:
        """Moved to original coordinates, `(..., d)`."""
        return ((points - self.shift) @ self.rotation) / self.scale


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class KnownFunction:
    """A function `f(x: (d,)) -> scalar` with all its critical points.

    A pytree: only the place and the turn of a `moved` function are leaves, so moved copies share their compiled
    program.

    Attributes:
        formula: the function in its original coordinates.
        name: for titles and tables.
        source: where the formula comes from, and how the critical points were found.
        coercive: whether the gradient points outward all around the critical points, so that the alternating sum
            of `counts` is 1.
    """

    formula: Callable[[Array], Array] = field(metadata=_static)
    name: str = field(metadata=_static)
    source: str = field(metadata=_static)
    coercive: bool = field(metadata=_static)
    _low: tuple[float, ...] = field(metadata=_static, repr=False)
    _high: tuple[float, ...] = field(metadata=_static, repr=False)
    _census: _Table | _Separable = field(metadata=_static, repr=False)
    _frame: _Frame | None = field(default=None, repr=False)

    def __call__(self, x: Float[Array, " d"] | Float[np.ndarray, " d"]) -> Float[Array, ""]:
        """The value at one point."""
        x = jnp.asarray(x)
        return self.formula(x if self._frame is None else self._frame.inverse(x))

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return len(self._low)

    @property
    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest coordinates of the usual search domain, `(d,)` each.

        Of a moved function the smallest box around the moved domain: turned, its corners may hold further critical
        points of a function that has infinitely many (`rastrigin`).
        """
        low, high = np.array(self._low), np.array(self._high)
        if self._frame is None:
            return low, high
        centre = self._frame.forward((low + high) / 2)
        half = self._frame.scale * (np.abs(self._frame.rotation) @ ((high - low) / 2))
        return centre - half, centre + half

    @property
    def critical_points(self) -> np.ndarray:
        """All points where the gradient is 0, `(m, d)`, to double precision."""
        return self._placed(self._census.points)

    @property
    def indices(self) -> np.ndarray:
        """Morse index of each critical point, `(m,)`: 0 a minimum, `d` a maximum, saddles between."""
        return self._census.indices.copy()

    @property
    def values(self) -> np.ndarray:
        """The value at each critical point, `(m,)`."""
        return self._census.values.copy()

    @property
    def minima(self) -> np.ndarray:
        """The critical points of index 0, `(number of minima, d)`."""
        return self._placed(self._census.minima)

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of critical points of each index, `d + 1` of them."""
        return self._census.counts

    @property
    def objective(self) -> Objective:
        """The function as an `Objective` without data, whose parameters are the coordinates `(d,)`."""
        return Objective(_value, state=self)

    @property
    def problem(self) -> Problem:
        """The function as a `Problem` that starts uniformly in the search domain."""

        def init(key: Array) -> Array:
            low, high = jnp.asarray(self._low), jnp.asarray(self._high)
            start = jax.random.uniform(key, (self.dim,), minval=low, maxval=high)
            return start if self._frame is None else self._frame.forward(start)

        return Problem(init=init, objectives={"train": self.objective}, name=self.name)

    def moved(self, rotation: Any = None, shift: Any = None, scale: float = 1.0) -> "KnownFunction":
        """The same function elsewhere: `g(shift + scale * rotation @ x) = f(x)`; its critical points move along.

        Args:
            rotation: orthogonal matrix `(d, d)`; reflections are welcome.
            shift: where the origin goes, `(d,)`.
            scale: factor of all lengths, positive.

        Raises:
            ValueError: a matrix that is not orthogonal, a wrong shape, or a scale that is not positive.
        """
        turn = _orthogonal(np.eye(self.dim) if rotation is None else rotation, self.dim)
        step = _vector(np.zeros(self.dim) if shift is None else shift, self.dim)
        if not (np.ndim(scale) == 0 and 0 < scale < math.inf):
            raise ValueError(f"scale must be a positive number, got {scale!r}")
        new = _Frame(turn, step, np.asarray(scale, float))
        if self._frame is not None:
            old = self._frame
            new = _Frame(turn @ old.rotation, new.forward(old.shift), new.scale * old.scale)
        return dataclasses.replace(self, _frame=new)

    def in_dimensions(self, dim: int) -> "KnownFunction":
        """The same function in `dim` dimensions, where it is a sum of equal functions of one coordinate each.

        Raises:
            TypeError: `dim` is not an integer.
            ValueError: `dim` is not positive; the function is not such a sum, or has been moved.
        """
        _tree.check_count("dim", dim, 1)
        if not isinstance(self._census, _Separable) or self._frame is not None:
            raise ValueError(f"only separable functions that were not moved exist in any dimension, not {self.name!r}")
        low, high = self._low[:1] * dim, self._high[:1] * dim
        return dataclasses.replace(self, _low=low, _high=high, _census=_Separable(self._census.line, dim))

    def _placed(self, points: np.ndarray) -> np.ndarray:
        return points.copy() if self._frame is None else self._frame.forward(points)


def _value(params: Array, _: None, function: KnownFunction) -> Array:
    return function(params)


def _orthogonal(matrix: Any, dim: int) -> np.ndarray:
    matrix = np.asarray(matrix, float)
    if matrix.shape != (dim, dim):
        raise ValueError(f"rotation must have shape ({dim}, {dim}), got {matrix.shape}")
    error = float(np.abs(matrix @ matrix.T - np.eye(dim)).max())
    if not error < 1e-6:
        raise ValueError(f"rotation must be orthogonal, but its rows are off by {error:.1g}; take np.linalg.qr of it")
    return matrix


def _vector(vector: Any, dim: int) -> np.ndarray:
    vector = np.asarray(vector, float)
    if vector.shape != (dim,) or not np.isfinite(vector).all():
        raise ValueError(f"shift must be {dim} finite numbers, got shape {vector.shape}: {vector}")
    return vector


def _known(
    formula: Callable[[Array], Array],
    name: str,
    source: str,
    box: Sequence[tuple[float, float]],
    rows: Sequence[tuple[float, float, int, float]],
) -> KnownFunction:
    """A function of two coordinates from the range of each and rows of `x, y, index, value`."""
    census = _Table([((x, y), index, value) for x, y, index, value in rows])
    (low0, high0), (low1, high1) = box
    return KnownFunction(formula, name, source, True, (low0, low1), (high0, high1), census)


def _himmelblau(z: Array) -> Array:
    x, y = z
    return (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2


himmelblau = _known(
    _himmelblau,
    "Himmelblau",
    "Himmelblau 1972, Applied Nonlinear Programming. Critical points: real roots of the resultant in x of the two "
    "cubic equations, of degree 9.",
    [(-5.0, 5.0), (-5.0, 5.0)],
    [
        (3.0, 2.0, 0, 0.0),
        (-3.779310253377747, -3.2831859912861696, 0, 0.0),
        (3.5844283403304917, -1.8481265269644036, 0, 0.0),
        (-2.805118086952745, 3.131312518250573, 0, 0.0),
        (3.385154183607021, 0.07385187983774928, 1, 13.31192627040559),
        (0.08667750455539636, 2.884254701174776, 1, 67.71915008752615),
        (-3.0730257507643897, -0.08135304428796751, 1, 104.0151629175581),
        (-0.12796134673068008, -1.9537149802445763, 1, 178.33723920192747),
        (-0.2708445906673476, -0.9230385564799815, 2, 181.6165215225827),
    ],
)


def _six_hump_camel(z: Array) -> Array:
    x, y = z
    return (4 - 2.1 * x**2 + x**4 / 3) * x**2 + x * y + (4 * y**2 - 4) * y**2


six_hump_camel = _known(
    _six_hump_camel,
    "six-hump camel",
    "Dixon & Szego 1978, Towards Global Optimisation 2. Critical points: x = 8y - 16y^3 leaves an equation of degree "
    "15 in y, whose roots are all real.",
    [(-3.0, 3.0), (-2.0, 2.0)],
    [
        (-0.08984201310031806, 0.7126564030207396, 0, -1.0316284534898774),
        (0.08984201310031806, -0.7126564030207396, 0, -1.0316284534898774),
        (-1.703606714969981, 0.7960835686726251, 0, -0.21546382438371764),
        (1.703606714969981, -0.7960835686726251, 0, -0.21546382438371764),
        (-1.6071047529201972, -0.5686514548841314, 0, 2.1042503103112584),
        (1.6071047529201972, 0.5686514548841314, 0, 2.1042503103112584),
        (0.0, 0.0, 1, 0.0),
        (-1.1092053368047865, 0.7682680925095399, 1, 0.5437186009781851),
        (1.1092053368047865, -0.7682680925095399, 1, 0.5437186009781851),
        (-1.6380679841897785, -0.22867406904439408, 1, 2.2293571975307147),
        (1.6380679841897785, 0.22867406904439408, 1, 2.2293571975307147),
        (-1.2960702671671092, -0.6050843880386585, 1, 2.22947081802986),
        (1.2960702671671092, 0.6050843880386585, 1, 2.22947081802986),
        (-1.2302298765166526, -0.16233458445899496, 2, 2.496295351023577),
        (1.2302298765166526, 0.16233458445899496, 2, 2.496295351023577),
    ],
)


def _three_hump_camel(z: Array) -> Array:
    x, y = z
    return 2 * x**2 - 1.05 * x**4 + x**6 / 6 + x * y + y**2


three_hump_camel = _known(
    _three_hump_camel,
    "three-hump camel",
    "Branin 1972. Critical points: y = -x/2 and x (x^4 - 4.2 x^2 + 3.5) = 0, in closed form.",
    [(-5.0, 5.0), (-5.0, 5.0)],
    [
        (0.0, 0.0, 0, 0.0),
        (-1.7475523458302888, 0.8737761729151444, 0, 0.2986384422368598),
        (1.7475523458302888, -0.8737761729151444, 0, 0.2986384422368598),
        (-1.07054229182366, 0.53527114591183, 1, 0.8773615577631402),
        (1.07054229182366, -0.53527114591183, 1, 0.8773615577631402),
    ],
)


def _goldstein_price(z: Array) -> Array:
    x, y = z
    first = 1 + (x + y + 1) ** 2 * (19 - 14 * x + 3 * x**2 - 14 * y + 6 * x * y + 3 * y**2)
    second = 30 + (2 * x - 3 * y) ** 2 * (18 - 32 * x + 12 * x**2 + 48 * y - 36 * x * y + 27 * y**2)
    return first * second


goldstein_price = _known(
    _goldstein_price,
    "Goldstein-Price",
    "Goldstein & Price 1971. Critical points: the function is g(s) h(t) of s = x + y and t = 2x - 3y with g, h > 0, "
    "g' = 12 (s-2)(s-1)(s+1) and h' = 12 t (t-1)(t-3), which leaves exactly nine, all rational.",
    [(-2.0, 2.0), (-2.0, 2.0)],
    [
        (0.0, -1.0, 0, 3.0),
        (-0.6, -0.4, 0, 30.0),
        (1.8, 0.2, 0, 84.0),
        (1.2, 0.8, 0, 840.0),
        (-0.4, -0.6, 1, 35.0),
        (1.4, 0.6, 1, 980.0),
        (1.2, -0.2, 1, 99.0),
        (0.6, 0.4, 1, 990.0),
        (0.8, 0.2, 2, 1155.0),
    ],
)


def _mueller_brown(z: Array) -> Array:
    x, y = z
    dx = x - jnp.array([1.0, 0.0, -0.5, -1.0])
    dy = y - jnp.array([0.0, 0.5, 1.5, 1.0])
    a, b, c = jnp.array([-1.0, -1.0, -6.5, 0.7]), jnp.array([0.0, 0.0, 11.0, 0.6]), jnp.array([-10.0, -10.0, -6.5, 0.7])
    height = jnp.array([-200.0, -100.0, -170.0, 15.0])
    return jnp.sum(height * jnp.exp(a * dx**2 + b * dx * dy + c * dy**2))


mueller_brown = _known(
    _mueller_brown,
    "Mueller-Brown",
    "Mueller & Brown 1979, Theor. Chim. Acta 53, 75. Critical points: Newton's method with 40 digits from where "
    "3,600 searches of [-2.5, 2.5] x [-2, 3.5] ended, five in all.",
    [(-1.5, 1.2), (-0.2, 2.0)],
    [
        (-0.5582236346330243, 1.4417258418046686, 0, -146.69951720995402),
        (0.6234994049308765, 0.028037758528685664, 0, -108.16672411685235),
        (-0.050010822998206056, 0.4666941048719721, 0, -80.76781812965903),
        (0.212486582000662, 0.2929883251073678, 1, -72.24894011232522),
        (-0.8220015587327321, 0.6243128028148713, 1, -40.664843508657405),
    ],
)


def _styblinski_tang(z: Array) -> Array:
    return jnp.sum(z**4 - 16 * z**2 + 5 * z) / 2


styblinski_tang = KnownFunction(
    _styblinski_tang,
    "Styblinski-Tang",
    "Styblinski & Tang 1990, Neural Networks 3, 467. Critical points: combinations of the roots of 4x^3 - 32x + 5.",
    True,
    (-5.0,) * 2,
    (5.0,) * 2,
    _Separable(
        _Table(
            [
                ((-2.903534027771177,), 0, -39.16616570377141),
                ((2.746802770990837,), 0, -25.02944665528394),
                ((0.1567312567803401,), 1, 0.19561235905535806),
            ]
        ),
        2,
    ),
)


def _rastrigin(z: Array) -> Array:
    return jnp.sum(z**2 + 10 - 10 * jnp.cos(2 * jnp.pi * z))


@cache
def _rastrigin_line() -> _Table:
    r"""Critical points of $x^2 + 10 - 10 \cos 2 \pi x$ in [-5.12, 5.12]: roots of $x + 10 \pi \sin 2 \pi x$.

    Between two odd quarters there is one root, and the sine changes sign there: bisection finds it to the last bit.
    """
    quarters = np.arange(-21, 22, 2) / 4

    def slope(x: np.ndarray) -> np.ndarray:
        return x + 10 * np.pi * np.sin(2 * np.pi * x)

    low, high = quarters[:-1], quarters[1:]
    sign = np.sign(slope(high))
    for _ in range(60):
        middle = (low + high) / 2
        above = sign * slope(middle) > 0
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    x = np.where(np.abs(low + high) < 1e-12, 0.0, (low + high) / 2)
    values = x**2 + 20 * np.sin(np.pi * x) ** 2
    return _Table([((float(a),), int(s < 0), float(v)) for a, s, v in zip(x, sign, values)])


def rastrigin(dim: int = 2) -> KnownFunction:
    """Rastrigin's function in `dim` dimensions: 11^dim minima among the 21^dim critical points in [-5.12, 5.12]^dim.

    Rastrigin 1974; Muhlenbein et al. 1991 for `dim > 2`. Critical points outside the box are not listed: there are
    some out to |x| = 10 pi. The gradient points outward on the faces of the box, so those inside satisfy the Euler
    check by themselves. The list is built when it is asked for; `counts` and `minima` do without it.

    Raises:
        TypeError: `dim` is not an integer.
        ValueError: `dim` is not positive.
    """
    _tree.check_count("dim", dim, 1)
    source = "Rastrigin 1974. Critical points: combinations of the roots of x + 10 pi sin(2 pi x), by bisection."
    census = _Separable(_rastrigin_line(), dim)
    return KnownFunction(_rastrigin, f"Rastrigin {dim}-D", source, True, (-5.12,) * dim, (5.12,) * dim, census)
