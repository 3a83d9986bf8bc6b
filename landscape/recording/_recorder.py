"""`Recorder`: takes snapshots out of any training loop, copies them off the device and commits them one by one."""

import os
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from landscape import _tree
from landscape.checks import check_choice, check_count, short
from landscape.recording import _copies, _structure
from landscape.recording._copies import NARROW, Snapshot
from landscape.recording._disk import Recording
from landscape.recording._format import MOST_STEPS, create
from landscape.recording._schedule import due, too_many
from landscape.recording._writer import Writer
from landscape.store import check_place, is_run

LEAST_KEPT = 3


class Recorder:
    """Records the parameters of a run while it trains, in any loop, for `Trajectory` to read.

    ```python
    with ls.Recorder("run.zarr", every=100) as recorder:
        for step in range(num_steps):
            params, opt_state, loss = train_step(params, opt_state, batch)
            recorder(step, params, train_loss=loss)
    ```

    A call copies the parameters where they are, on their devices, and returns: it waits neither for the program that
    computes them nor for the disk. A thread writes the copies. Arrays may be donated to the next step. At most two
    snapshots are under way; a call that comes sooner than the disk can write waits until one of them is done.

    What was committed stays, however the run ends: an exception, Ctrl-C, `kill -9`. A recorder on the same path goes on
    there. Under several processes each calls it with the same steps and writes its own shards.

    Args:
        path: the recording, a folder that is made; or one of the same parameters, to go on with.
        every: record each step that this number divides; or the steps themselves; or `"log"`, the steps with at most
            four leading binary digits: each up to 16, then eight in each doubling.
        keep: at most so many snapshots remain. Those that leave the smallest gaps are given up, the oldest first; with
            `every="log"` gaps are ratios. The first and the last one stay.
        dtype: store in this type what is wider: `"bfloat16"` halves the size of float32, and rounds by 0.4 % at most,
            `"float32"` halves that of float64. `Trajectory.dtype` says so, and gives back the dtypes of the run.

    Attributes:
        path: the recording.

    Raises:
        TypeError, ValueError: an argument of a wrong kind or value.
        StoreError: the path cannot be written, or holds something else.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        every: Any = 1,
        keep: int | None = None,
        dtype: str | None = None,
    ) -> None:
        self._due, self._relative = due(every), isinstance(every, str)
        if keep is not None:
            check_count("keep", keep, LEAST_KEPT)
        if dtype is not None:
            check_choice("dtype", dtype, NARROW)
        self.path = check_place(path)
        self._keep, self._dtype = keep, dtype
        self._recording = Recording(self.path) if is_run(self.path) else None
        self._committed = set(self._recording.steps()) if self._recording is not None else set()
        self._likes: dict[str, PyTree] = {}
        self._writer = Writer()

    @property
    def steps(self) -> list[int]:
        """Steps that are committed so far, in order: where to go on."""
        return sorted(self._committed.copy())  # the writer adds to it

    def __call__(
        self, step: Any, params: PyTree, /, *, update: PyTree = None, gradient: PyTree = None, **scalars: Any
    ) -> None:
        """Record this step if `every` says so.

        Args:
            step: number of the step, at least 0. A number on a device is waited for: count in Python.
            params: pytree of real floating-point arrays of JAX, NumPy or PyTorch, alike at all steps.
            update: what the optimizer adds, a tree like the parameters, recorded beside them; at all steps or at none.
            gradient: the same for the gradient.
            scalars: real numbers, such as losses; they may still be computed on a device.

        Raises:
            TypeError: something of a wrong kind, or that is being traced by JAX.
            ValueError: another tree than before; a donated array; a step that was recorded with other values.
            PlanMismatch: the recording that is there is one of other parameters.
            StoreError: an earlier snapshot could not be written.
        """
        self._writer.check()
        step = _checked_step(step)
        if self._due(step):
            self._record(step, {"params": params, "update": update, "gradient": gradient}, scalars)

    def record(
        self, step: Any, params: PyTree, /, *, update: PyTree = None, gradient: PyTree = None, **scalars: Any
    ) -> None:
        """Record this step whatever `every` says, for example the last one. Arguments and errors as in a call."""
        self._writer.check()
        self._record(_checked_step(step), {"params": params, "update": update, "gradient": gradient}, scalars)

    def close(self) -> None:
        """Write what was recorded so far, and raise what could not be written. `with` does it."""
        self._writer.finish()
        self._writer.check()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.finish()
        if error is None:
            self._writer.check()
            return
        try:
            self._writer.check()
        except BaseException as ours:
            if ours is not error:
                error.add_note(f"the recording {self.path} is not complete either: {ours}")

    def _record(self, step: int, trees: dict[str, PyTree], scalars: Mapping[str, Any]) -> None:
        given = {name: _copies.from_torch(tree) for name, tree in trees.items() if tree is not None or name == "params"}
        self._check(given)
        numbers = {_checked_name(name): _copies.number_later(name, value) for name, value in scalars.items()}
        if self._recording is None or not self._likes:
            self._recording = self._begin(given, list(numbers))
        recording = self._recording
        self._writer.reserve()
        try:
            copies = {name: _copies.copied(jax.tree.leaves(tree), self._dtype) for name, tree in given.items()}
        except BaseException:
            self._writer.release()
            raise
        snapshot = Snapshot(step, copies, numbers)
        del copies  # the writer frees each leaf as soon as it is written
        self._writer.submit(lambda: self._write(recording, snapshot))

    def _check(self, trees: dict[str, PyTree]) -> None:
        """Raise unless these trees can be recorded here, and are like those before."""
        for name, tree in trees.items():
            if hasattr(tree, "named_parameters"):
                raise TypeError(f"{name} is a module of PyTorch: give dict(module.named_parameters())")
            _copies.check_concrete(name, tree)
            _tree.check_params(tree, name)
            _tree.check_like(tree, self._likes.get(name, trees["params"]), name, "the first snapshot's" if name in
                             self._likes else "params")  # fmt: skip
        if self._likes and (missing := trees.keys() ^ self._likes.keys()):
            raise ValueError(f"{' and '.join(sorted(missing))} must be recorded at all steps or at none")

    def _begin(self, trees: dict[str, PyTree], scalars: Sequence[str]) -> Recording:
        """What the first call fixes: the leaves, and that the recording which may be there is one of such."""
        description = _described(trees, self._dtype)
        if not is_run(self.path):
            create(self.path, description, scalars)
        recording = Recording(self.path)
        recording.check_same(description)
        recording.sweep_up()
        self._likes = {
            name: jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), _copies.stored_dtype(leaf, None)), t)
            for name, t in trees.items()
        }
        return recording

    def _write(self, recording: Recording, snapshot: Snapshot) -> None:
        """In the writer's thread: all of a snapshot, then its mark, then those that are too many go."""
        scalars = {name: number() for name, number in snapshot.scalars.items()}
        if snapshot.step in self._committed:
            return _check_again(recording, snapshot, scalars)
        for tree, copies in snapshot.trees.items():
            for number, leaf in enumerate(recording.trees[tree]):
                for block, values in _copies.chunks(leaf, copies[number]):
                    recording.put(f"{tree}/{number}", (snapshot.step, *block), values)
                copies[number] = None
        if jax.process_index() == 0:
            for name, value in scalars.items():
                recording.put_scalar(snapshot.step, name, value)
        recording.commit(snapshot.step, jax.process_index())
        self._committed.add(snapshot.step)
        return self._thin(recording)

    def _thin(self, recording: Recording) -> None:
        if self._keep is None or len(self._committed) <= self._keep:
            return
        surplus = too_many(sorted(self._committed), self._keep, self._relative)
        self._committed -= set(surplus)
        if jax.process_index() == 0:
            recording.discard(surplus)


def _described(trees: dict[str, PyTree], dtype: str | None) -> dict[str, Any]:
    """What a recording holds, as JSON data."""
    leaves = {
        name: [
            vars(_copies.record_of(_tree.key_name(path), leaf, dtype))
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        ]
        for name, tree in trees.items()
    }
    structure = _structure.described(trees["params"])
    return {"trees": leaves, "structure": structure, "processes": jax.process_count()}


def _check_again(recording: Recording, snapshot: Snapshot, scalars: Mapping[str, float]) -> None:
    """Raise `ValueError` unless a step that was recorded before had the same values, to the bit."""
    step = snapshot.step
    for tree, copies in snapshot.trees.items():
        for number, leaf in enumerate(recording.trees[tree]):
            for block, values in _copies.chunks(leaf, copies[number]):
                stored = recording.read_block(tree, number, step, block)
                if np.ascontiguousarray(values).tobytes() != stored.tobytes():
                    raise ValueError(_other(recording, step, f"{tree}.{leaf.name}"))
    for name in {*scalars, *recording.scalar_names()}:
        stored = recording.scalars(name, [step])[0] if name in recording.scalar_names() else np.nan
        if np.float64(scalars.get(name, np.nan)).tobytes() != np.float64(stored).tobytes():
            raise ValueError(_other(recording, step, name))


def _other(recording: Recording, step: int, what: str) -> str:
    return (
        f"step {step} is in {recording.path} already, with another {what}. A run that goes on must repeat what it "
        f"did: go on after the last step recorded ({recording.steps()[-1]}), or record another run elsewhere"
    )


def _checked_step(step: Any) -> int:
    if _tree.is_traced(step):
        raise TypeError(_copies._inside("step"))
    value = _copies.from_torch(step)
    if hasattr(value, "dtype") and np.shape(value) == () and jnp.issubdtype(value.dtype, np.integer):
        value = int(value)
    if not isinstance(value, int):
        raise TypeError(f"step must be an integer, got {short(step)}")
    check_count("step", value, 0)
    if value >= MOST_STEPS:
        raise ValueError(f"step must be below {MOST_STEPS}, got {value}")
    return value


def _checked_name(name: str) -> str:
    if not name.isidentifier():
        raise ValueError(f"the name of a scalar must be a word, such as train_loss, got {name!r}")
    return name
