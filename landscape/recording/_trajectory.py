"""`Trajectory`: a recorded path of parameters as a stack that is read leaf by leaf."""

import os
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from landscape import _tree
from landscape._tree import LazyStack
from landscape.checks import reals, short
from landscape.recording import _structure
from landscape.recording._checkpoints import Source, opened, shapes_of
from landscape.recording._disk import Recording


class Trajectory(LazyStack):
    """The path of a run: a stack of its snapshots, of which a leaf is read when it is needed.

    Goes wherever a stack of parameters goes. `subspace.pca_directions`, `subspace.gram`, `Subspace.project` and
    `Subspace.residual` read it leaf by leaf, in a memory that does not grow with its length, and compute in float64;
    other functions read it whole. A list of trajectories is the stack of all their snapshots, for a common plane.

    Args:
        source: a recording that a `Recorder` wrote, finished or not; or a list of checkpoints in order, each a tree of
            arrays or a file: of `.npz` and `.safetensors` a leaf is read at a time, of what else `bridges.load` takes
            (msgpack, orbax, shards) a checkpoint; or a stack.
        like: one tree of the kind recorded, whose containers the snapshots take. Needed where they are neither dicts
            nor lists nor tuples, such as equinox modules and named tuples: without it these come back as dicts. With
            it, names of arrays in files are those of its leaves, joined by dots.
        steps: the step of each snapshot, where `source` is no recording; 0, 1, 2, ... by default.
        scalars: numbers for each snapshot by name, where `source` is no recording.

    Attributes:
        steps: the step of each snapshot, increasing, `(len,)`.
        scalars: recorded numbers by name, float64 `(len,)`, NaN where a step had none.
        update: what the optimizer added at each snapshot, a `Trajectory` as well; `None` where it was not recorded.
        gradient: the same for the gradient.
        dtype: the type in which wider numbers were stored (`"bfloat16"`), or `None` where nothing was rounded.
        like: one snapshot, of `jax.ShapeDtypeStruct`.

    Raises:
        TypeError: `source` is none of these.
        ValueError: no snapshots, snapshots that differ in structure or shapes, or another tree than `like`.
        StoreError: nothing is there, or a file cannot be read.
    """

    def __init__(
        self,
        source: Any,
        *,
        like: PyTree = None,
        steps: Any = None,
        scalars: Mapping[str, Any] | None = None,
    ) -> None:
        if isinstance(source, Trajectory):
            raise TypeError("this is a Trajectory already; take a part of it by trajectory[2:10]")
        if isinstance(source, str | os.PathLike):
            if steps is not None or scalars is not None:
                raise ValueError("steps= and scalars= are those of the recording: leave them away")
            self._be(_recorded(Recording(source), like))
        else:
            self._be(_given(source, like, steps, scalars))

    def _be(self, snapshots: "_Snapshots") -> None:
        self._snapshots = snapshots
        self.like, self.steps, self.dtype = snapshots.like, snapshots.steps, snapshots.dtype
        self.steps.flags.writeable = False

    @property
    def scalars(self) -> Mapping[str, np.ndarray]:
        """Recorded numbers by name, `(len,)`."""
        return self._snapshots.scalars()

    @property
    def update(self) -> "Trajectory | None":
        """What the optimizer added at each snapshot."""
        return self._beside("update")

    @property
    def gradient(self) -> "Trajectory | None":
        """The gradient at each snapshot."""
        return self._beside("gradient")

    def _beside(self, tree: str) -> "Trajectory | None":
        other = self._snapshots.beside(tree)
        return None if other is None else _trajectory(other)

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: Any) -> Any:
        """One snapshot as a tree of NumPy arrays, by its number; or, by a slice, a part as a `Trajectory`."""
        if isinstance(index, slice):
            chosen = np.arange(len(self))[index]
            if not chosen.size:
                raise ValueError(f"no snapshot in {index} of {len(self)}")
            return _trajectory(self._snapshots.part(chosen))
        if isinstance(index, bool) or not isinstance(index, int | np.integer):
            raise TypeError(f"the number of a snapshot must be an integer or a slice, got {short(index)}")
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self)} snapshots, got the number {index}")
        return self._snapshots.tree(int(index) % len(self))

    def __iter__(self) -> Iterator[PyTree]:
        return (self[i] for i in range(len(self)))

    def at_step(self, step: int) -> PyTree:
        """The snapshot of a step.

        Raises:
            KeyError: that step was not recorded.
        """
        found = np.flatnonzero(self.steps == step)
        if not found.size:
            near = self.steps[np.argmin(np.abs(self.steps - step))]
            raise KeyError(f"step {step} was not recorded; the nearest one is {near}")
        return self[int(found[0])]

    def rows(self, leaf: int, start: int, stop: int) -> np.ndarray:
        """Entries of one leaf of all snapshots."""
        return self._snapshots.rows(leaf, start, stop)

    def spacing(self, leaf: int) -> float:
        """Relative spacing of the numbers that a leaf was stored in."""
        own = jax.tree.leaves(self.like)[leaf].dtype
        return max(float(jnp.finfo(own).eps), float(jnp.finfo(self.dtype).eps) if self.dtype else 0.0)

    def title(self, index: int) -> str:
        """The number and the step of a snapshot."""
        return f"snapshot {index} (step {self.steps[index]})"

    def __repr__(self) -> str:
        rounded = f", stored in {self.dtype}" if self.dtype else ""
        numbers = _tree.size(self.like)
        return (
            f"Trajectory({len(self)} snapshots of {numbers:,} parameters, steps {self.steps[0]} to {self.steps[-1]}"
            f"{rounded}; scalars: {', '.join(self.scalars) or 'none'})"
        )


class _Snapshots(Protocol):
    """Where the snapshots of a trajectory are."""

    like: PyTree
    steps: np.ndarray
    dtype: str | None

    def tree(self, index: int) -> PyTree: ...
    def rows(self, leaf: int, start: int, stop: int) -> np.ndarray: ...
    def part(self, chosen: np.ndarray) -> "_Snapshots": ...
    def beside(self, tree: str) -> "_Snapshots | None": ...
    def scalars(self) -> Mapping[str, np.ndarray]: ...


def _trajectory(snapshots: _Snapshots) -> Trajectory:
    trajectory = Trajectory.__new__(Trajectory)
    trajectory._be(snapshots)
    return trajectory


class _Recorded:
    """Snapshots of a recording; `numbers` are the recorded leaves in the order of the leaves of `like`."""

    def __init__(self, recording: Recording, tree: str, like: PyTree, numbers: list[int], steps: np.ndarray) -> None:
        self._recording, self._tree, self.like, self._numbers = recording, tree, like, numbers
        self.steps, leaves = steps, recording.trees[tree]
        self._dtypes = [jnp.dtype(leaves[number].dtype) for number in numbers]
        self.dtype = next((leaf.stored for leaf in leaves if leaf.stored != leaf.dtype), None)
        self._scalars: Mapping[str, np.ndarray] | None = None

    def tree(self, index: int) -> PyTree:
        step = int(self.steps[index])
        read = [self._recording.read_leaf(self._tree, number, step) for number in self._numbers]
        leaves = [leaf.astype(dtype, copy=False) for leaf, dtype in zip(read, self._dtypes)]
        return jax.tree.unflatten(jax.tree.structure(self.like), leaves)

    def rows(self, leaf: int, start: int, stop: int) -> np.ndarray:
        rows = np.empty((len(self.steps), stop - start), self._dtypes[leaf])
        for row, step in zip(rows, self.steps):
            row[:] = self._recording.read_part(self._tree, self._numbers[leaf], int(step), start, stop)
        return rows

    def part(self, chosen: np.ndarray) -> "_Recorded":
        return _Recorded(self._recording, self._tree, self.like, self._numbers, self.steps[chosen])

    def beside(self, tree: str) -> "_Recorded | None":
        if tree not in self._recording.trees:
            return None
        return _Recorded(self._recording, tree, self.like, self._numbers, self.steps)

    def scalars(self) -> Mapping[str, np.ndarray]:
        if self._scalars is None:
            names, steps = self._recording.scalar_names(), self.steps.tolist()
            self._scalars = MappingProxyType({name: self._recording.scalars(name, steps) for name in names})
        return self._scalars


def _recorded(recording: Recording, like: PyTree) -> _Recorded:
    steps = np.asarray(recording.steps(), np.int64)
    if not steps.size:
        raise ValueError(f"{recording.path} holds no snapshot that is committed")
    leaves = recording.trees["params"]
    if like is None:
        numbered = _structure.made(recording.description["structure"], list(range(len(leaves))))
    else:
        numbered = _numbered(recording, like)
    shapes = [jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(leaf.dtype)) for leaf in leaves]
    return _Recorded(recording, "params", jax.tree.map(shapes.__getitem__, numbered), jax.tree.leaves(numbered), steps)


def _numbered(recording: Recording, like: PyTree) -> PyTree:
    """The containers of `like` with the numbers of the recorded leaves, which have the names and shapes of its own."""
    stored = {leaf.name: leaf.shape for leaf in recording.trees["params"]}
    given = {_tree.key_name(path): np.shape(x) for path, x in jax.tree_util.tree_leaves_with_path(like)}
    if differing := sorted(name for name in stored.keys() | given.keys() if stored.get(name) != given.get(name)):
        name = differing[0]
        ours, theirs = (shapes.get(name, "no such leaf") for shapes in (given, stored))
        raise ValueError(
            f"like must be a tree like those in {recording.path}: of {name} it has {ours}, the recording {theirs}"
        )
    numbers = {name: number for number, name in enumerate(stored)}
    return _tree.map_with_name(lambda name, _: numbers[name], like)


class _Given:
    """Snapshots that are checkpoints, or a stack in memory."""

    dtype = None

    def __init__(self, sources: Sequence[Source], steps: np.ndarray, scalars: Mapping[str, np.ndarray]) -> None:
        self._sources, self.steps, self._scalars = sources, steps, scalars
        self.like = sources[0].like

    def tree(self, index: int) -> PyTree:
        leaves = [self._sources[index].leaf(i) for i in range(len(jax.tree.leaves(self.like)))]
        return jax.tree.unflatten(jax.tree.structure(self.like), leaves)

    def rows(self, leaf: int, start: int, stop: int) -> np.ndarray:
        return np.stack([source.leaf(leaf).reshape(-1)[start:stop] for source in self._sources])

    def part(self, chosen: np.ndarray) -> "_Given":
        scalars = {name: values[chosen] for name, values in self._scalars.items()}
        return _Given([self._sources[i] for i in chosen], self.steps[chosen], MappingProxyType(scalars))

    def beside(self, tree: str) -> None:
        return None

    def scalars(self) -> Mapping[str, np.ndarray]:
        return self._scalars


class _Row:
    """One tree of a stack in memory."""

    def __init__(self, leaves: list[Any], like: PyTree, index: int) -> None:
        self._leaves, self.like, self._index = leaves, like, index

    def leaf(self, number: int) -> np.ndarray:
        return np.asarray(self._leaves[number][self._index])


def _given(source: Any, like: PyTree, steps: Any, scalars: Mapping[str, Any] | None) -> _Given:
    if hasattr(source, "snapshots") and hasattr(source, "history"):
        raise TypeError("this is a Run: give run.snapshots, steps=run.history['step'] and scalars=")
    sources = _sources(source, like)
    length = len(sources)
    taken = np.arange(length) if steps is None else reals("steps", steps, finite=True)
    if taken.shape != (length,) or np.any(np.diff(taken) <= 0) or np.any(taken != np.round(taken)):
        raise ValueError(
            f"steps must be {length} whole numbers that increase, one for each snapshot, got {short(steps)}"
        )
    if not isinstance(scalars, Mapping | None):
        raise TypeError(f"scalars must be a dict of numbers for each snapshot by name, got {short(scalars)}")
    numbers = {name: reals(f"scalars[{name!r}]", values) for name, values in (scalars or {}).items()}
    for name, values in numbers.items():
        if values.shape != (length,):
            raise ValueError(f"scalars[{name!r}] must have shape ({length},), one number for each snapshot")
    return _Given(sources, taken.astype(np.int64), MappingProxyType(numbers))


def _sources(source: Any, like: PyTree) -> list[Source]:
    if type(source) in (list, tuple) and not _is_stack_like(source, like):
        if not source:
            raise ValueError("a Trajectory needs at least one checkpoint, got an empty list")
        sources = [opened(checkpoint, f"checkpoint {i}", like) for i, checkpoint in enumerate(source)]
        for i, one in enumerate(sources):
            _tree.check_like(one.like, sources[0].like if like is None else like, f"checkpoint {i}",
                             "checkpoint 0" if like is None else "like")  # fmt: skip
        return sources
    stack = _tree.read_stack(source, "source", like, "like")
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), shapes_of(stack))
    leaves = jax.tree.leaves(stack)
    return [_Row(leaves, one, i) for i in range(_tree.num_stacked(stack))]


def _is_stack_like(source: Any, like: PyTree) -> bool:
    """Whether a list is a stack of trees that are lists themselves, as only `like` can tell."""
    return like is not None and jax.tree.structure(source) == jax.tree.structure(like)
