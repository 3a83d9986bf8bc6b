"""Repeats taken in turn, guarded by the load that other processes put on the machine.

Two programs are compared by running them alternately (A B A B ...) and taking the median of the ratios of each
round, so a machine that slows down slows both. Before and during every run the *other load* is measured: the
share of all cores that processes outside this one's tree keep busy (with what the hypervisor steals). A round in
which it passes 10 % is taken again; when too few quiet rounds come, times are printed but nothing is derived from
them. OpenMP threads (torch) spin while they wait and collapse when another process wants their core: on a busy
machine a ratio says more about the neighbours than about the programs.
"""

import datetime
import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import psutil

from landscape.engine import choices

MAX_LOAD = 0.10
MAX_CALLS = 64
SHORT_SECONDS = 0.25  # runs that are shorter are repeated
PAUSE_SECONDS = 0.25  # before each run: other load is measured, and threads that spin fall asleep
DISTRIBUTIONS = ("loss-atlas", "jax", "jaxlib", "numpy", "torch", "transformers", "loss-landscapes", "zarr", "psutil")

Times = dict[str, float]


class LoadMeter:
    """The share of all cores that other processes kept busy since the meter was made, in [0, 1]."""

    def __init__(self) -> None:
        self._start = _clocks()

    def read(self) -> float:
        """Other load so far. Clocks tick every 10 ms, so a window of a second is good to about 2 %."""
        wall, busy, own = (now - then for now, then in zip(_clocks(), self._start))
        return float(np.clip((busy - own) / (wall * (psutil.cpu_count() or 1)), 0.0, 1.0))


def _clocks() -> tuple[float, float, float]:
    """Wall time, CPU seconds of the whole machine (stolen ones too), CPU seconds of this process and its children."""
    tree = [psutil.Process(), *psutil.Process().children(recursive=True)]
    own = sum(map(_cpu_seconds, tree))
    machine = psutil.cpu_times()
    busy = sum(getattr(machine, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))
    return time.perf_counter(), busy, own


def _cpu_seconds(process: psutil.Process) -> float:
    """Of the process and of the children that it has waited for."""
    try:
        return sum(process.cpu_times()[:4])
    except psutil.Error:
        return 0.0


@dataclass(frozen=True)
class Run:
    """One timed run: seconds, and the other load in the pause before it and during it."""

    seconds: float
    before: float
    during: float

    @property
    def load(self) -> float:
        """The worse of the two loads."""
        return max(self.before, self.during)


def timed(fn: Callable[[], Any], at_least: float = 0.0) -> Run:
    """Pause, then run once, or where a run takes less than `at_least` seconds so often that all take as long.

    The time is then the median. A processor that has slept needs some tens of milliseconds to get up to speed: what a
    single short run after the pause takes, says more of that than of the program.
    """
    meter = LoadMeter()
    time.sleep(PAUSE_SECONDS)
    before, meter, seconds = meter.read(), LoadMeter(), [_seconds_of(fn)]
    while sum(seconds) < at_least:
        seconds.append(_seconds_of(fn))
    if sum(seconds) < PAUSE_SECONDS:  # too short a window to see a load in
        time.sleep(PAUSE_SECONDS)
    return Run(statistics.median(seconds), before, meter.read())


def _seconds_of(fn: Callable[[], Any]) -> float:
    start = time.perf_counter()
    fn()
    return time.perf_counter() - start


@dataclass(frozen=True)
class Comparison:
    """Rounds in which every contender ran once, in turn."""

    rounds: list[dict[str, Run]]
    discarded: int

    @property
    def load(self) -> float:
        """Worst other load of any run that counts."""
        return max(run.load for one in self.rounds for run in one.values())

    def seconds(self, name: str) -> list[float]:
        """Times of one contender."""
        return [one[name].seconds for one in self.rounds]

    def each(self, statistic: Callable[[Times], float]) -> list[float]:
        """A statistic of the times of each round."""
        return [statistic({name: run.seconds for name, run in one.items()}) for one in self.rounds]

    def fastest(self, names: list[str]) -> str:
        """The contender with the smallest median."""
        return min(names, key=lambda name: statistics.median(self.seconds(name)))


def in_turn(contenders: Mapping[str, Callable[[], Any]], repeats: int, retake: bool = True) -> Comparison:
    """Run all contenders in turn, `repeats` times; noisy rounds are taken again, up to `repeats` of them."""
    rounds: list[dict[str, Run]] = []
    quiet: list[dict[str, Run]] = []
    while len(quiet) < repeats and len(rounds) < (2 * repeats if retake else repeats):
        rounds.append({name: timed(fn, SHORT_SECONDS) for name, fn in contenders.items()})
        if max(run.load for run in rounds[-1].values()) <= MAX_LOAD:
            quiet.append(rounds[-1])
    enough = len(quiet) >= repeats
    return Comparison(quiet if enough else rounds, len(rounds) - len(quiet) if enough else 0)


def settle(program: Callable[[], Any], max_calls: int = MAX_CALLS) -> int:
    """Call until our search for strategies has ended, since it goes on in later calls; how many calls that took."""
    for call in range(1, max_calls + 1):
        program()
        if all(timing.settled for timing in choices()):
            return call
    return max_calls


def on_threads(num: int, program: Callable[[], Any]) -> Callable[[], Any]:
    """The same program where a sweep may use so many threads."""

    def run() -> Any:
        with mock.patch("landscape.engine._kernel.threads_for", return_value=num):
            return program()

    return run


class Report:
    """Prints findings as they come and keeps them for the JSON file.

    Args:
        quick: tiny sizes and two repeats: a test that the benchmark runs, not a measurement.
        allow_load: derive numbers on a busy machine too, marked as untrustworthy.
    """

    def __init__(self, quick: bool = False, allow_load: bool = False) -> None:
        self.quick, self.allow_load = quick, allow_load
        self.withheld = 0
        self.entries: list[dict[str, Any]] = []

    def section(self, title: str) -> None:
        """A heading; what follows belongs to it."""
        print(f"\n{title}\n{'-' * len(title)}", flush=True)
        self.entries.append({"section": title})

    def note(self, text: str, **values: Any) -> None:
        """A line of text, with numbers for the record."""
        print(text, flush=True)
        self.entries.append({"note": text, **values})

    def repeats(self, full: int) -> int:
        """Number of rounds."""
        return 2 if self.quick else full

    def once(self, label: str, fn: Callable[[], Any]) -> Any:
        """Time something that can only happen once, such as compiling; returns what it returned."""
        results: list[Any] = []
        run = timed(lambda: results.append(fn()))
        noisy = run.load > MAX_LOAD
        self.withheld += noisy and not self.allow_load
        mark = f"   (untrustworthy: other load {run.load:.0%})" if noisy else ""
        print(f"  {label:<44} {_seconds(run.seconds)}{mark}", flush=True)
        self.entries.append({"once": label, "seconds": run.seconds, "load": run.load})
        return results[0]

    def compare(self, contenders: Mapping[str, Callable[[], Any]], repeats: int) -> Comparison:
        """Run contenders in turn and print the median and range of each."""
        comparison = in_turn(contenders, self.repeats(repeats), retake=not (self.allow_load or self.quick))
        for name in contenders:
            times = comparison.seconds(name)
            spread = f"{_seconds(min(times))} ..{_seconds(max(times))}"
            print(f"  {name:<44} {_seconds(statistics.median(times))}  {spread}", flush=True)
        runs = [run for one in comparison.rounds for run in one.values()]
        print(
            f"  [{len(comparison.rounds)} rounds in turn, {comparison.discarded} noisy ones left out; other load "
            f"before {max(r.before for r in runs):.0%}, during {max(r.during for r in runs):.0%} at worst]",
            flush=True,
        )
        rounds = [{n: vars(run) for n, run in one.items()} for one in comparison.rounds]
        self.entries.append({"rounds": rounds, "discarded": comparison.discarded, "load": comparison.load})
        return comparison

    def finding(
        self,
        label: str,
        comparison: Comparison,
        statistic: Callable[[Times], float],
        show: str = "{:.2f}",
        target: float | None = None,
    ) -> None:
        """The median over the rounds of a statistic of the times, unless other processes were in the way.

        Args:
            label: what it is.
            comparison: the times.
            statistic: a function of `{contender: seconds}`, for example a ratio.
            show: how to print it.
            target: the value it should not pass.
        """
        values = comparison.each(statistic)
        entry: dict[str, Any] = {"finding": label, "load": comparison.load, "target": target}
        if comparison.load > MAX_LOAD and not self.allow_load:
            self.withheld += 1
            text = f"not reported: other load {comparison.load:.0%}"
        else:
            median = statistics.median(values)
            entry |= {"median": median, "min": min(values), "max": max(values)}
            text = f"{show.format(median)}  ({show.format(min(values))} .. {show.format(max(values))})"
            text += "" if target is None else f"  target <= {show.format(target)}: {_verdict(median, target)}"
            if comparison.load > MAX_LOAD:
                entry["untrustworthy"] = True
                text += f"  UNTRUSTWORTHY: other load {comparison.load:.0%}"
        print(f"  => {label}: {text}", flush=True)
        self.entries.append(entry)

    def document(self) -> dict[str, Any]:
        """Everything, as plain JSON data."""
        return {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "quick": self.quick,
            "allow_load": self.allow_load,
            "withheld": self.withheld,
            "machine": machine(),
            "entries": self.entries,
        }


def _verdict(value: float, target: float) -> str:
    return "met" if value <= target else "MISSED"


def _seconds(value: float) -> str:
    return f"{value:8.3f} s" if value >= 0.1 else f"{1e3 * value:7.2f} ms"


def machine() -> dict[str, Any]:
    """What was measured on: processor, cores, memory, devices, versions, commit."""
    versions = {name: _version(name) for name in DISTRIBUTIONS}
    return {
        "cpu": _cpu_model(),
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "devices": _devices(),
        "versions": {"python": platform.python_version(), **versions},
        "commit": _commit(),
    }


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo") as lines:  # noqa: PTH123
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _devices() -> list[str]:
    if "jax" not in sys.modules:
        return []
    return [f"{d.platform}:{d.id} {d.device_kind}" for d in sys.modules["jax"].devices()]


def _commit() -> str | None:
    try:
        git = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=os.path.dirname(__file__),  # noqa: PTH120
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return git.stdout.strip()
