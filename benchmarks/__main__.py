"""Command line: `python -m benchmarks [NAME ...] [--json FILE] [--quick] [--allow-load]`.

`NAME:PART` runs one part of a benchmark that has parts, such as `compile:train_many` or `tolerance:use`.

Exit status 1 says that something was not reported because other processes kept the machine busy. A missed target
is printed and changes nothing.
"""

import argparse
import importlib
import json
import sys
from pathlib import Path

from benchmarks import _harness

# those that load torch and its threads come last
NAMES = (
    "basins",
    "batching",
    "compile",
    "engine",
    "hoisting",
    "imports",
    "live",
    "page",
    "recorder",
    "scaling",
    "tolerance",
    "curvature",
    "convolutions",
    "gpu",
    "training",
    "bridges",
    "transformer",
    "peers",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure landscape.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(NAMES)}; all by default")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured to FILE")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: a test of the code, not a measurement")
    parser.add_argument("--allow-load", action="store_true", help="report ratios on a busy machine too, marked")
    options = parser.parse_args()
    unknown = sorted({name.partition(":")[0] for name in options.names} - set(NAMES))
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}; there are {', '.join(NAMES)}")
    report = _harness.Report(options.quick, options.allow_load)
    describe(report)
    for name in options.names or NAMES:
        module, _, part = name.partition(":")
        getattr(importlib.import_module(f"benchmarks.{module}"), part or "run")(report)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report.document(), indent=1) + "\n")
    if report.withheld:
        print(f"\n{report.withheld} findings withheld or marked: other processes kept the machine busy")
    return int(report.withheld > 0)


def describe(report: _harness.Report) -> None:
    here = _harness.machine()
    versions = ", ".join(f"{k} {v}" for k, v in here["versions"].items() if v)
    report.note(f"{here['cpu']}, {here['cores']} cores, {here['memory_gib']} GiB; {versions}; commit {here['commit']}")
    if report.quick:
        report.note("--quick: tiny sizes, two rounds. This tests the code; the numbers mean nothing.")


if __name__ == "__main__":
    sys.exit(main())
