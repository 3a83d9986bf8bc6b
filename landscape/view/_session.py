"""The sweeps behind a live plane: the newest request wins, coarse comes first, and everything is kept in a store."""

import dataclasses
import hashlib
import json
import math
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from landscape.grid import Axis, Grid, Landscape
from landscape.view._content import content

COARSE = 33  # points along each axis of the first picture
MOST_DRAWS = 10**6
Publish = Callable[[dict[str, Any]], None]


@dataclasses.dataclass(frozen=True)
class View:
    """What a reader wants to see: the range of both axes, how the plane is turned within the span, and what spans it.

    Attributes:
        low: lowest coordinate of each axis.
        high: highest coordinate of each axis.
        turn: two angles in radians for each direction beyond the second: how far the first, then the second axis turns
            towards it.
        draw: 0 for the directions that were given, else the number of the random one in place of the last of them.
    """

    low: tuple[float, float]
    high: tuple[float, float]
    turn: tuple[float, ...] = ()
    draw: int = 0

    @classmethod
    def read(cls, request: Any, num_angles: int, draws: bool = False) -> "View":
        """The view that a page asks for, which may have sent anything.

        Raises:
            ValueError: it is no view.
        """
        try:
            parts = [tuple(map(float, request[key])) for key in ("low", "high", "turn")]
        except (TypeError, ValueError, KeyError) as error:
            raise ValueError("a view has low, high and turn, each a list of numbers") from error
        low, high, turn = parts
        if (len(low), len(high), len(turn)) != (2, 2, num_angles) or not all(map(math.isfinite, low + high + turn)):
            raise ValueError(f"a view has two finite ends for each of 2 axes and {num_angles} angles")
        draw = request.get("draw", 0)
        if isinstance(draw, bool) or not isinstance(draw, int) or not 0 <= draw <= (MOST_DRAWS if draws else 0):
            last = f"from 0 to {MOST_DRAWS:,}" if draws else "0, as this surface has no directions to draw"
            raise ValueError(f"the number of a random direction must be {last}, got {draw!r}")
        return cls(low, high, turn, draw)  # ty: ignore[invalid-argument-type]

    def digest(self) -> str:
        """A name for what was computed of it."""
        return hashlib.sha256(json.dumps(dataclasses.astuple(self)).encode()).hexdigest()[:16]


class Session:
    """One thread that sweeps what was asked for last.

    Args:
        surface: point function of two coordinates, or of more, of which a plane is shown that can be turned.
        grid: the first view, two axes; every view has as many points.
        publish: is given every picture and every error, as plain JSON data, in the session's thread.
        num_axes: how many coordinates the point function takes.
        tolerance: as for `sweep`.
        store: folder for what is computed; a temporary one, deleted at the end, when None.
    """

    def __init__(
        self, surface: Any, grid: Grid, publish: Publish, *, num_axes: int = 2, tolerance: Any = 0.01, store: Any = None
    ) -> None:
        self.surface, self.grid, self.num_axes, self.tolerance = surface, grid, num_axes, tolerance
        self._publish = publish
        self._kept = store is not None
        self.folder = Path(store) if self._kept else Path(tempfile.mkdtemp(prefix="landscape-live-"))
        self._news, self._stop = threading.Condition(), threading.Event()
        self._wanted: dict[str, Any] | None = None
        self._closed = False
        self._strategy: Any = "auto"
        self._thread = threading.Thread(target=self._work, name="landscape-live", daemon=True)
        self._thread.start()

    @property
    def first(self) -> dict[str, Any]:
        """The view of the grid that was given."""
        low, high = zip(*((float(a.values[0]), float(a.values[-1])) for a in self.grid.axes))
        return {"low": low, "high": high, "turn": [0.0] * self.num_angles, "draw": 0}

    @property
    def draws(self) -> bool:
        """Whether there is a direction in whose place a random one can be drawn."""
        from landscape.subspace import Subspace

        return dataclasses.is_dataclass(self.surface) and isinstance(getattr(self.surface, "at", None), Subspace)

    @property
    def num_angles(self) -> int:
        """Angles by which the plane can be turned."""
        return 2 * (self.num_axes - 2)

    def ask(self, request: Mapping[str, Any]) -> None:
        """Ask for a view; what was asked for before is given up after the tile under way."""
        with self._news:
            self._wanted = dict(request)
            self._stop.set()
            self._news.notify()

    def close(self) -> None:
        """End after the tile under way. What was computed stays where a store was given."""
        with self._news:
            self._closed = True
            self._stop.set()
            self._news.notify()
        self._thread.join()
        if not self._kept:
            shutil.rmtree(self.folder, ignore_errors=True)

    # In the thread of the session.

    def _work(self) -> None:
        while (request := self._next()) is not None:
            answer = {"id": request.get("id")}
            try:
                view = View.read(request, self.num_angles, self.draws)
                self._show(answer, "final", self._computed(view, partial(self._show, answer, "coarse")))
            except KeyboardInterrupt:  # a sweep that was given up, which is `Interrupted`
                continue
            except Exception as error:
                # Whatever a user's function raises belongs on the page; the session goes on.
                self._publish({**answer, "stage": "error", "text": f"{type(error).__name__}: {error}"[:2000]})

    def _show(self, answer: dict[str, Any], stage: str, landscape: Landscape) -> None:
        """Publish a picture, unless another one is asked for."""
        if stage == "final" or not self._stop.is_set():
            shown = content(landscape, self.title, {"paths": {}, "points": {}})
            self._publish({**answer, "stage": stage, "content": shown})

    @property
    def title(self) -> str:
        """What the picture is called."""
        return type(self.surface).__name__

    def _next(self) -> dict[str, Any] | None:
        """The newest request, once there is one; None at the end."""
        with self._news:
            self._news.wait_for(lambda: self._wanted is not None or self._closed)
            request, self._wanted = self._wanted, None
            self._stop = threading.Event()
            return None if self._closed else request

    def _computed(self, view: View, show: Callable[[Landscape], None]) -> Landscape:
        """What is asked for; what is known sooner is shown.

        A sweep at a tolerance begins with few points and goes on with others. One of every point does not: few points
        come first, by a sweep of their own.
        """
        from landscape.engine import observed
        from landscape.store import is_run

        path = self._path(view, "all")
        if self.tolerance is None and max(self.grid.shape) > COARSE and not is_run(path):
            coarse = self._grid(view, tuple(min(COARSE, n) for n in self.grid.shape))
            show(self._sweep(view, coarse, self._path(view, "coarse")))
        with observed(show):
            return self._sweep(view, self._grid(view, self.grid.shape), path)

    def _sweep(self, view: View, grid: Grid, path: Path) -> Landscape:
        from landscape.engine import Strategy, stoppable, sweep

        with stoppable(self._stop):
            found = sweep(
                self._function(view), grid, tolerance=self.tolerance, store=path, batch=self._strategy, progress=False
            )
        if self._strategy == "auto":  # measured once, on the first picture
            self._strategy = Strategy(**found.meta["plan"]["batching"])
        return found

    def _function(self, view: View) -> Any:
        """The point function of the plane that is seen."""
        surface = self.surface if view.draw == 0 else redrawn(self.surface, view.draw)
        if self.num_axes == 2:
            return surface
        from landscape.point import OnPlane, coords_dtype

        directions = turned(self.num_axes, view.turn).astype(coords_dtype())
        return OnPlane(surface, np.zeros(self.num_axes, coords_dtype()), directions)

    def _grid(self, view: View, shape: tuple[int, ...]) -> Grid:
        axes = zip(self.grid.axes, view.low, view.high, shape)
        return Grid(tuple(Axis.linspace(a.name, low, high, n, a.label) for a, low, high, n in axes))

    def _path(self, view: View, stage: str) -> Path:
        return self.folder / f"view-{view.digest()}-{stage}.zarr"


def turned(num_axes: int, angles: tuple[float, ...]) -> np.ndarray:
    """Two orthonormal directions in the span of several, shape `(2, num_axes)`: the first two, each turned by an angle
    towards each further one, by Givens rotations in order."""
    turn = np.eye(num_axes)
    for number, angle in enumerate(angles):
        further, axis = 2 + number // 2, number % 2
        plane = np.eye(num_axes)
        plane[[axis, further], [axis, further]] = math.cos(angle)
        plane[axis, further], plane[further, axis] = math.sin(angle), -math.sin(angle)
        turn = plane @ turn
    return turn[:2]


def redrawn(surface: Any, number: int) -> Any:
    """The surface with a random direction, known by its number, in place of the last one, of its norm leaf by leaf."""
    import jax
    import jax.numpy as jnp

    from landscape import _tree
    from landscape.subspace import random_directions

    at = surface.at
    drawn = random_directions(jax.random.key(number), at.origin, 1)

    def placed(old: Any, new: Any) -> Any:
        old, new = jnp.asarray(old), jnp.asarray(new)[0]
        size = jnp.linalg.norm(new)
        new = new * (jnp.linalg.norm(old[-1]) / jnp.where(size > 0, size, 1))
        return old.at[-1].set(new.astype(old.dtype))

    given = _tree.read_stack(at.directions, "directions", at.origin, "the origin")
    directions = jax.tree.map(placed, given, drawn)
    return dataclasses.replace(surface, at=dataclasses.replace(at, directions=directions))


def check_live(surface: Any, grid: Any) -> int:
    """How many coordinates the point function takes: those of its subspace where it has one, else two.

    Raises:
        TypeError: the surface is no point function, or the grid no grid.
        ValueError: the grid has not two axes with several points, equally spaced.
    """
    if isinstance(surface, Landscape):
        raise TypeError("a live plane sweeps a point function, such as a LossSurface; look at a Landscape with page")
    if not callable(surface):
        raise TypeError(f"a live plane sweeps a point function, such as a LossSurface, got {type(surface).__name__}")
    if not isinstance(grid, Grid):
        raise TypeError(f"the first view must be a Grid, got {type(grid).__name__}")
    grid.check()
    if grid.ndim != 2 or min(grid.shape) < 2:
        raise ValueError(f"a live plane has two axes of at least 2 points, this grid has shape {grid.shape}")
    for axis in grid.axes:
        if not np.allclose(np.diff(axis.values), np.diff(axis.values).mean(), rtol=1e-6):
            raise ValueError(f"a live plane has equal steps, and those of {axis.name!r} are not")
    return max(2, int(getattr(getattr(surface, "at", None), "dim", 2)))
