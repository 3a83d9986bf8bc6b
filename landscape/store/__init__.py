"""The run store: a zarr v3 directory that holds a landscape while it is computed and after.

Layout of `run.zarr`: one array per output and one per axis, with dimension names, so
`xarray.open_zarr(path, consolidated=False)` reads it without this package. A chunk is a tile. `computed` is
written last of each tile: its chunk is the commit mark, and finished tiles are found by listing those keys. Every
file appears by an atomic rename, and a chunk is complete before the commit mark, so a process may be killed at any
moment. While a sweep at a tolerance is under way, `run.zarr/evaluations` is a run store of its own with the points
evaluated so far; the map is written at the end.

What was damaged on the disk is noticed: chunks carry a checksum, and end with the place that they were written for (a
frame that other readers of zstd pass over), so intact chunks in each other's places are noticed too; the record in
`zarr.json` holds the digests of the coordinates and the shapes and types of the arrays, and is sealed by a checksum
itself. Only what is absent, out of place or cannot be decoded counts as damage and is computed again. Whatever else
keeps a file from being read (permissions, a failing disk, too many open files, too little memory) raises `StoreError`,
and nothing is discarded.

A store is a folder of a local or mounted file system, since all of this rests on atomic renames.
"""

from landscape.store._files import DONE as DONE
from landscape.store._files import INDEX as INDEX
from landscape.store._files import JOURNAL as JOURNAL
from landscape.store._files import RESTORE as RESTORE
from landscape.store._files import STALE_SECONDS as STALE_SECONDS
from landscape.store._files import StoreError, is_run
from landscape.store._files import being_built as being_built
from landscape.store._files import beside as beside
from landscape.store._files import check_place as check_place
from landscape.store._files import local_path as local_path
from landscape.store._files import readable as readable
from landscape.store._files import rename_unless_made as rename_unless_made
from landscape.store._files import writable as writable
from landscape.store._layout import METADATA as METADATA
from landscape.store._layout import PARTIAL as PARTIAL
from landscape.store._layout import Layout as Layout
from landscape.store._record import check_plain as check_plain
from landscape.store._record import decode as decode
from landscape.store._record import encode as encode
from landscape.store._record import flatten as flatten
from landscape.store._record import plan_differences as plan_differences
from landscape.store._run import PlanMismatch, RunStore, annotate, load, save
from landscape.store._run import open_run as open_run

__all__ = ["PlanMismatch", "RunStore", "StoreError", "annotate", "is_run", "load", "save"]
