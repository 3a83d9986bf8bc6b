"""`Lab`: the run that an experiment sees. It sweeps, trains once and keeps what was trained, and speaks."""

import dataclasses
import json
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class UsageError(Exception):
    """Something the user asked for cannot be done; the message says what to do instead."""


@dataclass(frozen=True)
class Lab:
    """Where an experiment computes: the store, the devices, the user's problem."""

    out: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    problem: Any = None
    planning: bool = False

    def sweep(
        self, name: str, fn: Any, grid: Any, about: Callable[[Any], Mapping[str, Any]] | None = None, **options: Any
    ) -> Any:
        """`landscape.sweep` into the store `name.zarr`, or only its plan.

        Args:
            name: name of the store.
            fn: point function.
            grid: where to evaluate it.
            about: `about(landscape)` gives entries for the landscape's meta, which are stored with it.
            options: further options of `landscape.sweep`, such as `tolerance`.
        """
        import landscape as ls
        from landscape.store import annotate

        if options.get("tolerance") and self.options.get("shard"):
            raise UsageError(f"--shard needs every point computed, and {name} computes as many as its tolerance takes")
        if self.planning:
            keep = {k: v for k, v in self.options.items() if k in ("batch", "devices")}
            fewer = "at most, as --tolerance evaluates fewer points:\n" if options.get("tolerance") else ""
            print(f"{name}\n{fewer}{ls.plan(fn, grid, **keep)}\n")
            return None
        say(f"sweep {name}: {' x '.join(map(str, grid.shape))} points")
        store = self.out and self.out / f"{name}.zarr"
        landscape = ls.sweep(fn, grid, store=store, **self.options, **options)
        entries = about(landscape) if about is not None else {}
        if store is not None and entries:
            annotate(store, **entries)
        return landscape.with_meta(**entries)

    def at_once(self, cpu: int, elsewhere: int | None = None) -> "Lab":
        """So many points at a time on a CPU; `elsewhere` (measured where None) on other devices; --batch overrules."""
        import jax

        count = cpu if jax.default_backend() == "cpu" else elsewhere
        if count is None or self.options.get("batch", "auto") != "auto":
            return self
        return dataclasses.replace(self, options={**self.options, "batch": count})

    def remember(self, name: str, key: Any, compute: Callable[[], Any], doing: str) -> Any:
        """A pytree of arrays from an earlier run with the same `key`, or computed and kept for the next one.

        Processes that share a folder all get the arrays of the one that was first.
        """
        import jax

        if self.out is None:
            return compute()
        file = self.out / f"{name}.npz"
        if file.exists():  # what the arrays should be takes a while to find out, so only where there are some
            wanted, treedef = jax.tree.flatten(jax.eval_shape(compute))
            leaves = _recall(file, key, wanted)
            if leaves is not None:
                return jax.tree.unflatten(treedef, leaves)
        say(doing)
        leaves, treedef = jax.tree.flatten(compute())
        self.out.mkdir(parents=True, exist_ok=True)
        return jax.tree.unflatten(treedef, _publish(file, key, leaves))


def _recall(file: Path, key: Any, wanted: Sequence[Any]) -> list[Any] | None:
    """The arrays in a file, of the shapes and dtypes that are wanted; None if it holds others, or is damaged."""
    import jax

    try:
        stored = _read(file, len(wanted))
    except OSError:  # the disk's trouble is not damage
        raise
    except Exception as error:  # whatever the decoders of NumPy and of the archive raise
        say(f"note: {file} is damaged and not used ({error})")
        return None
    if stored is None or stored[0] != json.dumps(key, default=str):
        return None
    if unlike := [(x, s) for x, s in zip(stored[1], wanted) if not _is_like(x, s)]:
        x, s = unlike[0]
        say(f"note: {file} is not used: it holds {x.dtype}{list(x.shape)} where {s.dtype}{list(s.shape)} belongs")
        return None
    # a view, since the file knows bfloat16 only as raw bytes
    return [jax.numpy.asarray(x.view(s.dtype)) for x, s in zip(stored[1], wanted)]


def _read(file: Path, num: int) -> tuple[str, list[Any]] | None:
    """The key and the arrays in a file; None if there is no file, or it holds another number of arrays."""
    import zipfile

    import numpy as np

    if not file.exists():
        return None
    if not zipfile.is_zipfile(file):
        raise ValueError("no archive of arrays")
    with zipfile.ZipFile(file) as archive:  # before a damaged header asks for more memory than there is
        if (bad := archive.testzip()) is not None:
            raise ValueError(f"the checksum of {bad} is wrong")
    with np.load(file) as stored:
        leaves = [name for name in stored.files if name.startswith("leaf_")]
        return (str(stored["key"]), [stored[f"leaf_{i}"] for i in range(num)]) if len(leaves) == num else None


def _is_like(x: Any, wanted: Any) -> bool:
    raw = x.dtype.kind == "V" and x.dtype.itemsize == wanted.dtype.itemsize
    return x.shape == wanted.shape and (x.dtype == wanted.dtype or raw)


def _publish(file: Path, key: Any, leaves: Sequence[Any]) -> list[Any]:
    """Write arrays whole or not at all, and return those that are in the file.

    Where another process was first with the same key, its file stays.
    """
    import os

    import jax
    import numpy as np

    temporary = file.with_name(f"{file.stem}.{uuid.uuid4().hex}.partial.npz")
    arrays: dict[str, Any] = {f"leaf_{i}": np.asarray(x) for i, x in enumerate(leaves)}
    try:
        np.savez(temporary, key=json.dumps(key, default=str), **arrays)
        try:
            os.link(temporary, file)
        except FileExistsError:
            if (theirs := _recall(file, key, leaves)) is not None:
                return theirs
            temporary.replace(file)
        except OSError:  # a file system without links
            temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    return [jax.numpy.asarray(x) for x in arrays.values()]  # as a later run has them: no dtype is weak


def say(text: str) -> None:
    """One line of progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, whoever else writes it."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
