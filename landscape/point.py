r"""Point functions: the one idea of this package. A landscape is a function of coordinates.

Whatever can be computed from a few coordinates is a point function: the loss on a plane of weights, where training
ends that starts there, whether it converges with these hyperparameters. `sweep` evaluates it over a `Grid`.

A plain function is one:

>>> import jax.numpy as jnp
>>> from landscape import Grid, sweep
>>> def wells(coords):                       # a vector, an entry for each axis of the grid
...     x, y = coords
...     return {"loss": (x**2 - 3) ** 2 + y**2, "slope": 4 * jnp.abs(x) * jnp.abs(x**2 - 3)}
>>> landscape = sweep(wells, Grid.square(2.0, 5))
>>> landscape["loss"].shape, float(landscape["loss"][4, 2])
((5, 5), 1.0)

So is a *pytree* with `__call__` (a registered dataclass, a module of equinox): its arrays are arguments of the compiled
program and no constants in it, and `store=` knows by them what was computed. Where an axis numbers things (run 17,
direction 8), `Numbered` hands over whole numbers.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from landscape import _tree
from landscape.grid import Grid


@runtime_checkable
class PointFunction(Protocol):
    """What `sweep` evaluates: `coords -> {name: array}`.

    Called with the coordinates of one point, float `(k,)` for a grid of `k` axes, inside a compiled program: written
    with `jax.numpy`, no branches in Python on their values. It returns a dict of arrays of any shapes, the same at
    every point, or a single array, which is then called `value`.

    Two more attributes are used where they are there:

    `check_grid(grid)` is called before anything is compiled, and raises `TypeError` or `ValueError` for a grid that
    makes no sense for this function (the wrong number of axes, say).

    `refined`, names of outputs: those to which a plain number as `tolerance=` applies.
    """

    def __call__(self, coords: Float[Array, " k"], /) -> Any:
        """The outputs at one point."""
        ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Numbered:
    """A point function whose coordinates number things: `Numbered(fn)(coords)` is `fn(*numbers)`, int32 scalars.

    A grid holds real numbers, float32 unless JAX runs in double precision, and those are whole only up to 2**24
    (16,777,216): 16,777,217 would come as its neighbour. `check_grid` refuses axes whose coordinates are not whole,
    negative, or beyond that.

    >>> from landscape import Grid, sweep
    >>> from landscape.point import Numbered
    >>> widths = jnp.array([4, 16, 64])
    >>> sizes = Numbered(lambda run, width: {"size": widths[width] * 10 + run})
    >>> found = sweep(sizes, Grid.of(run=range(2), width=range(3)))
    >>> found["size"].tolist()
    [[40, 160, 640], [41, 161, 641]]

    Attributes:
        fn: takes a number for each axis of the grid, in their order.
    """

    fn: Callable[..., Any]

    def __call__(self, coords: Float[Array, " k"]) -> Any:
        """`fn` of the numbers that the coordinates stand for."""
        return self.fn(*(as_number(c) for c in coords))

    @property
    def refined(self) -> Any:
        """The outputs that `fn` would have refined, if it says so."""
        return getattr(self.fn, "refined", None)

    def check_grid(self, grid: Grid) -> None:
        """All axes must number things."""
        for axis in grid.axes:
            check_numbers(axis.values, f"the coordinates of {axis.name!r}")


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class OnPlane:
    """A point function of `k` coordinates on a plane through their space: `coords -> fn(origin + coords @ directions)`.

    The plane is data, so that another one of the same function does not compile anew.

    Attributes:
        fn: the point function of `k` coordinates.
        origin: where the plane's own coordinates are 0, shape `(k,)`.
        directions: what its coordinates move along, shape `(m, k)`.
    """

    fn: Any
    origin: Float[Array, " k"] | Float[np.ndarray, " k"]
    directions: Float[Array, "m k"] | Float[np.ndarray, "m k"]

    def __call__(self, coords: Float[Array, " m"]) -> Any:
        """The outputs at one point of the plane."""
        return self.fn(self.origin + coords @ self.directions)

    @property
    def refined(self) -> Any:
        """The outputs that `fn` would have refined, if it says so."""
        return getattr(self.fn, "refined", None)


def as_number(coordinate: Float[Array, "..."]) -> Array:
    """Coordinates that number something, as int32."""
    return jnp.round(coordinate).astype(jnp.int32)


def check_numbers(values: np.ndarray, what: str) -> None:
    """Refuse coordinates that are no numbers of things, or that would come as other ones.

    Raises:
        ValueError: they are negative, not whole, or not exact in the precision of the coordinates.
    """
    values, dtype = np.asarray(values), coords_dtype()
    odd = values[(values < 0) | (values != np.round(values))]
    if odd.size:
        raise ValueError(f"{what} must be whole numbers from 0 on, got {odd[0]:g}")
    lost = values[(values.astype(dtype) != values) | (values > np.iinfo(np.int32).max)]
    if lost.size:
        raise ValueError(
            f"{what} go up to {lost[-1]:.0f}, which is not exact in {dtype}, so others would be computed; use "
            "float64 (jax.config.update('jax_enable_x64', True)) and numbers below 2**31"
        )


class SumOverBlocks(Protocol):
    """What a point function is over data that come in blocks: a sum to which each block adds its part.

    `batches` gives the blocks. `over(block)` is an ordinary point function, of one block alone; all have one program.
    `add(total, index, part)` takes its values `(points, ...)` at all points of a tile, from block `index`, into the
    total, which is `None` before the first; `finish(total)` makes the outputs of it.
    """

    @property
    def batches(self) -> Any:
        """The data, `objective.Batches`."""
        ...

    def over(self, block: Any) -> Any:
        """A point function over one block."""
        ...

    def add(self, total: Any, index: int, part: dict[str, np.ndarray]) -> Any:
        """The total with one more block."""
        ...

    def finish(self, total: Any) -> dict[str, np.ndarray]:
        """The outputs."""
        ...


@dataclass(frozen=True, eq=False)
class Prepared:
    """A point function that was looked at once: what it returns, before anything is compiled.

    Attributes:
        fn: the point function, a pytree.
        outputs: shape and type of each output at one point.
        batches: data that come in blocks, `objective.Batches`; `fn` then holds the first block of each.
        sums: the parts of the point function that are summed over blocks.
        rest: the part that is not, or `None`.
    """

    fn: Any
    outputs: Mapping[str, jax.ShapeDtypeStruct]
    batches: Sequence[Any] = ()
    sums: Sequence[SumOverBlocks] = ()
    rest: Any = None

    @property
    def types(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """`{output: (shape at a point, dtype)}` in NumPy's terms, for those who need no JAX."""
        return {name: (tuple(s.shape), np.dtype(s.dtype)) for name, s in self.outputs.items()}


def prepare(fn: Any, grid: Grid) -> Prepared:
    """Trace the point function and check what it returns.

    Raises:
        TypeError: an output holds no numbers.
        ValueError: there is no output, or its name is that of an axis.
    """
    outputs = output_shapes(fn, grid.ndim)
    if not outputs:
        raise ValueError("fn returned an empty dict: there is nothing to map")
    for name, shape in outputs.items():
        if jnp.issubdtype(shape.dtype, jax.dtypes.extended) or 0 in shape.shape:
            raise TypeError(f"the output {name!r} must hold numbers at every point, got {_tree.describe(shape)}")
    grid.check_outputs(outputs)
    return Prepared(fn, outputs)


@partial(jax.jit, inline=True)
def evaluate_point(fn: Any, coords: jax.Array) -> dict[str, jax.Array]:
    """The point function, traced once for whatever uses it."""
    values = fn(coords)
    if not isinstance(values, Mapping):
        return {"value": checked_value(values, "fn(coords)")}
    for name in values:
        if not isinstance(name, str):
            raise TypeError(f"the names of outputs must be strings, got {name!r}")
    return {name: checked_value(value, f"the output {name!r}") for name, value in values.items()}


def checked_value(value: Any, what: str) -> jax.Array:
    """An output as an array.

    Raises:
        TypeError: it is no number and no array of numbers.
    """
    known = isinstance(value, jax.Array | np.ndarray | np.generic | bool | int | float | complex)
    known = known or hasattr(value, "__jax_array__")  # such as a variable of flax
    if known and not (isinstance(value, np.ndarray | np.generic) and value.dtype.kind in _tree.NO_NUMBERS):
        return jnp.asarray(value)
    advice = ""
    if value is None:
        advice = ": is a `return` missing?"
    elif isinstance(value, Mapping):
        advice = ": the dict of outputs holds arrays, no further dicts"
    elif isinstance(value, tuple | list):
        advice = ': return {"loss": .., "accuracy": ..}, or jnp.stack(..) for one output of several numbers'
    got = _tree.describe(value)
    raise TypeError(f"{what} must be an array of numbers, or a dict of them by name, got {got}{advice}")


def output_shapes(fn: Any, num_coords: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of what the point function returns; traces it, in the precision that it will run in."""
    try:
        with matmul_precision():
            return jax.eval_shape(evaluate_point, fn, jax.ShapeDtypeStruct((num_coords,), coords_dtype()))
    except jax.errors.JAXTypeError as error:
        error.add_note(
            "The point function is compiled: compute with jax.numpy and jnp.where in it, not NumPy, float() and if; "
            "what cannot be traced goes through jax.pure_callback."
        )
        raise


def refusal(fn: Any, num_coords: int) -> Exception | None:
    """What `jax.vmap` says against the point function, `None` where it takes it; traces alone."""
    coords = jax.ShapeDtypeStruct((2, num_coords), coords_dtype())
    try:
        with matmul_precision():
            jax.eval_shape(jax.vmap(partial(evaluate_point, fn)), coords)
    except Exception as error:  # each primitive complains in its own way
        return error
    return None


def precision_now() -> str:
    """The precision of matrix products: JAX's own setting where the user has made one, else `"highest"`."""
    return getattr(jax.config, "jax_default_matmul_precision", None) or "highest"


def matmul_precision(asked: str | None = None) -> contextlib.AbstractContextManager[Any]:
    """Matrix products traced inside have the precision asked for, else that of `precision_now`.

    Every public function of this package traces inside it: a loss that is perturbed by a little must not be known to
    three digits, as it is at the speed that accelerators prefer.
    """
    return jax.default_matmul_precision(precision_now() if asked is None else asked)


def check_precision(asked: Any) -> None:
    """Refuse what JAX does not know as a precision of matrix products.

    Raises:
        TypeError: no text.
        ValueError: no such precision.
    """
    if asked is None:
        return
    if not isinstance(asked, str):
        raise TypeError(f'precision must be the name of one, such as "highest" or "bfloat16", got {asked!r}')
    try:
        with jax.default_matmul_precision(asked):
            pass
    except ValueError as error:
        raise ValueError(f'precision={asked!r}: JAX has "highest", "high", "default", .. ({error})') from None


def coords_dtype() -> Any:
    """The precision in which coordinates reach the point function: float64 under `jax_enable_x64`."""
    return jnp.zeros(()).dtype
