"""Recording while it trains: what it costs the loop, and the plane of a path that does not fit into memory.

- *Overhead*: a loop of donated steps of about 50 ms over 1 M and 25 M parameters, with a recorder of `every=100` and
  without, in turn. Targets: at most 2 % more wall time, no call longer than a step, and at most three snapshots more at
  the peak of the memory. The time includes writing what the recorder has been given.
- *Plane*: principal directions, coordinates and residuals of 200 snapshots of 25 M parameters (20 GB on the disk,
  deleted afterwards) in a process of its own. Target: at most 2 GiB more than that process had. `LANDSCAPE_SCRATCH`
  names the folder for it.
- *Angle*: the same plane of a path that fits into memory beside LAPACK's singular value decomposition in float64.
  Target: 0.1 degree.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import landscape as ls
from benchmarks._harness import Report

STEP, EVERY = 0.05, 100
MIB = 2**20
Step = Callable[[Any, Any], Any]


def run(report: Report) -> None:
    """All of it."""
    for millions in (1, 25):
        overhead(report, (20_000 if report.quick else 1_000_000) * millions, 10 if report.quick else EVERY)
    num, length = (200_000, 20) if report.quick else (25_000_000, 200)
    plane(report, num, length)
    angle(report, 20_000 if report.quick else 400_000)


def parameters(num: int) -> Any:
    """Twenty matrices of about so many numbers in all."""
    side = int((num / 20) ** 0.5)
    return {f"layer_{i}": jnp.full((side, side), 0.01 * (i + 1), jnp.float32) for i in range(20)}


def step_of(params: Any) -> Step:
    """A training step that takes about 50 ms: every parameter changes, the rest of the time goes into products."""
    work = jnp.eye(256) * 0.5

    def step(params: Any, times: Any) -> Any:
        busy = jax.lax.fori_loop(0, times, lambda _, x: jnp.tanh(x @ work + 0.1), work)
        return jax.tree.map(lambda p: p * 0.999 + 1e-6 * busy[0, 0], params), busy[0, 0]

    compiled: Any = jax.jit(step, donate_argnums=0)
    return compiled


def calibrated(step: Step, num: int) -> int:
    """How many products make a step last 50 ms."""
    times = 1
    jax.block_until_ready(step(parameters(num), times))  # compiles
    while True:
        params, _ = step(parameters(num), times)
        jax.block_until_ready(params)
        start = time.perf_counter()
        jax.block_until_ready(step(params, times))
        taken = time.perf_counter() - start
        if taken >= STEP or times > 2**16:
            return times
        times = max(times + 1, int(times * min(4.0, STEP / taken)))


def overhead(report: Report, num: int, every: int) -> None:
    """The loop with a recorder beside the loop without."""
    report.section(f"recorder: {num:,} parameters, every={every}")
    params = parameters(num)
    step, size = step_of(params), sum(x.nbytes for x in jax.tree.leaves(params))
    times, stalls, folders = calibrated(step, num), [], []
    steps = 2 * every
    loop(step, times, num, steps)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def recorded() -> None:
        folders.append(tempfile.mkdtemp(dir=os.environ.get("LANDSCAPE_SCRATCH")))
        with ls.Recorder(Path(folders[-1]) / "run.zarr", every=every) as recorder:
            loop(step, times, num, steps, recorder, stalls)
        shutil.rmtree(folders[-1])

    recorded()
    stalls.clear()
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    pair = {"plain loop": lambda: loop(step, times, num, steps), "with the recorder": recorded}
    found = report.compare(pair, repeats=5)
    ratio = "with the recorder / plain loop"
    report.finding(ratio, found, lambda t: t["with the recorder"] / t["plain loop"], show="{:.3f}", target=1.02)
    a_step = float(np.median(found.seconds("plain loop"))) / steps
    report.note(
        f"  longest call {1e3 * max(stalls):.1f} ms, a step {1e3 * a_step:.1f} ms", stall=max(stalls), step=a_step
    )
    report.note(f"  peak of memory: {peak / size:.2f} snapshots more ({peak / MIB:.0f} MiB)", snapshots=peak / size)


def loop(step: Step, times: int, num: int, steps: int, recorder: Any = None, stalls: list[float] | None = None) -> None:
    """Donated steps; the host waits for each, as a loop does that prints its loss."""
    params = parameters(num)
    for i in range(steps):
        params, loss = step(params, times)
        loss.block_until_ready()
        if recorder is not None:
            start = time.perf_counter()
            recorder(i, params, train_loss=loss)
            if stalls is not None:
                stalls.append(time.perf_counter() - start)
    jax.block_until_ready(params)


def plane(report: Report, num: int, length: int) -> None:
    """The plane of a long path of many parameters, in a process of its own."""
    report.section(f"recorder: the plane of {length} snapshots of {num:,} parameters")
    folder = Path(tempfile.mkdtemp(dir=os.environ.get("LANDSCAPE_SCRATCH")))
    try:
        report.once("write the recording", lambda: write_walk(folder / "run.zarr", num, length))
        command = [sys.executable, "-m", "benchmarks.recorder", str(folder / "run.zarr")]
        done = report.once("directions, coordinates and residuals", lambda: subprocess.run(
            command, capture_output=True, text=True, check=True))  # fmt: skip
    finally:
        shutil.rmtree(folder)
    taken = json.loads(done.stdout)
    text = f"  memory {taken['more'] / MIB:.0f} MiB beyond the process (target <= 2048) of {taken['path'] / MIB:.0f}"
    report.note(f"{text} MiB; explained {taken['explained']}, a random walk {taken['null']}", **taken)


def write_walk(path: Path, num: int, length: int) -> None:
    """A random walk of float32 numbers in leaves of a million."""
    rng, leaf = np.random.default_rng(0), min(num, 1_000_000)
    params = {f"{i:02}": np.zeros(leaf, np.float32) for i in range(num // leaf)}
    with ls.Recorder(path) as recorder:
        for step in range(length):
            for x in params.values():
                x += rng.standard_normal(leaf, np.float32)
            recorder(step, params)


def analyse(path: str) -> None:
    """What the process of its own does and prints."""
    run = ls.Trajectory(path)
    ls.subspace.pca_directions(run[:3])  # what is loaded once belongs to the process
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    directions, explained = ls.subspace.pca_directions(run)
    plane = ls.Subspace(run[0], directions)
    plane.residual(run)
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    size = len(run) * sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(run.like))
    null = ls.subspace.random_walk_explained(len(run))
    shares = {"explained": np.round(explained, 4).tolist(), "null": np.round(null, 4).tolist()}
    print(json.dumps({"more": more, "path": size, **shares}))


def angle(report: Report, num: int) -> None:
    """The plane beside the exact one, of a path far from zero whose steps are small."""
    report.section(f"recorder: the plane of 60 snapshots of {num:,} parameters beside the exact one")
    rng = np.random.default_rng(1)
    walk = np.cumsum(rng.standard_normal((60, num), np.float32) * 1e-3, axis=0, dtype=np.float64)
    rows = np.float32(walk + rng.standard_normal(num))
    directions, _ = ls.subspace.pca_directions(ls.Trajectory([{"w": row} for row in rows]))
    exact = np.linalg.svd(rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64), full_matrices=False)[2][:2]
    found = np.linalg.qr(np.asarray(directions["w"], np.float64).T)[0]
    off = np.degrees(np.arcsin(min(1.0, np.linalg.norm(found - exact.T @ (exact @ found), 2))))
    report.note(f"  largest angle {off:.2e} degrees (target <= 0.1)", degrees=float(off))


if __name__ == "__main__":
    analyse(sys.argv[1])
