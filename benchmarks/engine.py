"""What the engine adds to the compiled program: time per sweep, and memory beside the result.

*Time.* A function of about 10 microseconds a point over 1000 x 1000 points. Three programs run in turn: the
compiled program alone (the tiles of the sweep, their coordinates already on the device, waiting for each), the
sweep, and the sweep into a store. What the sweep takes beyond the program alone is the engine: checking and hashing
the arguments, tiles and coordinates, copies to and from the device, assembling the result, writing and reading
back the store. Target: less than 20 % of the whole. Tuning and compiling happen once per function and process,
are stated apart, and are *not* in the 20 %; a function that costs next to nothing shows the engine's own seconds.

*Memory.* Peak resident memory of a fresh process that sweeps n points, less that of one that sweeps 10,000 with the
same compiled program, less the difference of the results (values and mask). Target: nothing, to within 8 MiB. Linux
keeps the peak of the parent in a child's `ru_maxrss`, so the peak is read from `/proc/self/status` there.
"""

import functools
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

import landscape as ls
from benchmarks._harness import Report
from landscape.engine import Kernel, forgotten

TARGET = 0.20
SLACK_MIB = 8.0
SIDES = (1000, 2000, 4000)  # 1e6 points (the base: buffers and tiles have their full size), 4e6 and 1.6e7
ALONE, SWEEP, STORED = "compiled program alone", "sweep", "sweep with a store"


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Chain:
    """A point function of adjustable cost: a vector of 128 through `length` rounds of tanh."""

    start: jax.Array
    length: int = field(metadata={"static": True})

    def __call__(self, coords: jax.Array) -> dict[str, jax.Array]:
        """One number at one point."""
        end = jax.lax.fori_loop(0, self.length, lambda _, x: jnp.tanh(x * coords[0] + coords[1]), self.start)
        return {"value": jnp.mean(end)}


def chain(length: int) -> Chain:
    return Chain(jnp.linspace(-1.0, 1.0, 128), length)


def run(report: Report) -> None:
    """Time, then memory."""
    side = 100 if report.quick else 1000
    overhead(report, "about 10 us a point", chain(128), side, TARGET)
    overhead(report, "next to nothing a point: the engine's own seconds", chain(0), side, None)
    memory(report)


def overhead(report: Report, name: str, fn: Chain, side: int, target: float | None) -> None:
    """One function."""
    grid = ls.Grid.square(1.0, side)
    report.section(f"engine: {name}, {grid.size:,} points")
    jax.clear_caches()
    with forgotten(), tempfile.TemporaryDirectory() as folder:
        report.once("first sweep: tuning and compiling included", lambda: sweep(fn, grid))
        contenders = {ALONE: alone(report, fn, grid), SWEEP: lambda: sweep(fn, grid), STORED: stored(fn, grid, folder)}
        for contender in contenders.values():
            contender()
        times = report.compare(contenders, repeats=5)
    report.finding("in compiled code, us a point", times, lambda t: 1e6 * t[ALONE] / grid.size, "{:.3f}")
    for one in (SWEEP, STORED):
        share = f"{one}: share outside compiled code"
        report.finding(share, times, lambda t, one=one: 1 - t[ALONE] / t[one], "{:.1%}", target)
        report.finding(f"{one}: seconds outside", times, lambda t, one=one: t[one] - t[ALONE], "{:.3f} s")


def sweep(fn: Any, grid: ls.Grid, **options: Any) -> ls.Landscape:
    return ls.sweep(fn, grid, progress=False, **options)


def stored(fn: Any, grid: ls.Grid, folder: str) -> Callable[[], Any]:
    """A sweep into a new store each time."""
    numbers = iter(range(10**6))
    return lambda: sweep(fn, grid, store=Path(folder) / f"{next(numbers)}.zarr")


def alone(report: Report, fn: Any, grid: ls.Grid) -> Callable[[], None]:
    """The compiled program of a tuned sweep on the very tiles of that sweep, without the engine."""
    calls: list[tuple[Any, np.ndarray]] = []
    start = Kernel.__call__

    def recorded(kernel: Any, points: np.ndarray) -> Any:
        calls.append((kernel, points))
        return start(kernel, points)

    with mock.patch.object(Kernel, "__call__", recorded):
        sweep(fn, grid)
    tiles = [(kernel, kernel.shares(points)) for kernel, points in calls]
    steps = sum(-(-len(points) // kernel.width) * kernel.width for kernel, points in calls)
    report.note(f"  width {calls[0][0].width}, {len(calls)} tiles of {len(calls[0][1])} points, {steps:,} with padding")

    def run() -> None:
        for pending in [kernel.start(shares) for kernel, shares in tiles]:
            for result in pending.results:
                jax.block_until_ready(result())

    return run


def memory(report: Report) -> None:
    """Peak memory by the number of points, with and without a store."""
    sides = SIDES[:3] if report.quick else SIDES
    for store in (False, True):
        report.section(f"engine: peak memory{' with a store' if store else ''}")
        base, *others = (peak_of(side, store) for side in sides)
        report.note(f"  {base['points']:>9,} points: peak {base['peak']:.1f} MiB (the base)", **base)
        for one in others:
            result = one["result"] - base["result"]
            growth = one["peak"] - base["peak"] - result
            verdict = "met" if growth <= SLACK_MIB else "MISSED"
            report.note(
                f"  {one['points']:>9,} points: peak {one['peak']:.1f} MiB, {growth:+.1f} MiB beyond the base and "
                f"{result:.1f} MiB of result  target <= {SLACK_MIB:g} MiB: {verdict}",
                **one,
                growth=growth,
            )


def peak_of(side: int, store: bool) -> dict[str, Any]:
    """What a fresh process reports of one sweep."""
    command = [sys.executable, "-m", "benchmarks.engine", str(side), str(int(store))]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measure_peak(side: int, store: bool) -> dict[str, Any]:
    """Peak resident memory (MiB) of this process after one sweep, and the size of the result."""
    grid, run = ls.Grid.square(1.0, side), functools.partial(sweep, chain(1), batch=256)
    with tempfile.TemporaryDirectory() as folder:
        result = run(grid, store=Path(folder) / "run.zarr") if store else run(grid)
    size = result["value"].nbytes + result.computed.nbytes
    return {"points": grid.size, "peak": peak_mib(), "result": size / 2**20, "store": store}


def peak_mib() -> float:
    """Highest resident memory of this process so far."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        scale = 2**20 if sys.platform == "darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10


if __name__ == "__main__":
    print(json.dumps(measure_peak(int(sys.argv[1]), sys.argv[2] == "1")))
