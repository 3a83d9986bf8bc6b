"""What importing costs: `import landscape` beside `import jax`, names on first use, and `landscape --help`.

Every run is a fresh interpreter. Targets (DESIGN 6): `import landscape` at most 100 ms more than `import jax`,
neither matplotlib, zarr, sklearn nor pandas loaded, `landscape --help` in 0.3 s.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks._harness import Report

NAMES = "from landscape import sweep, LossSurface, Objective, Subspace, Grid"
STATEMENTS = {"python": "pass", "import jax": "import jax", "import landscape": "import landscape", "names": NAMES}
HEAVY = ("matplotlib", "zarr", "sklearn", "pandas", "torch")


def run(report: Report) -> None:
    """Time the statements and the command line in turn."""
    report.section("imports: fresh interpreters")
    report.note(f"  'names' is: {NAMES}")
    for label, statement in STATEMENTS.items():
        report.note(f"  {label} loads of {', '.join(HEAVY)}: {heavy_modules(statement) or 'none'}")
    commands = {label: [sys.executable, "-c", statement] for label, statement in STATEMENTS.items()}
    command_line = help_command()
    if command_line is None:
        report.note("  landscape --help: no command line is installed, or it fails; not measured")
    else:
        commands["landscape --help"] = command_line
    contenders = {label: lambda command=command: call(command) for label, command in commands.items()}
    times = report.compare(contenders, repeats=15)
    added = "{:+.3f} s"
    for name in ("import landscape", "names"):
        report.finding(f"{name} - import jax", times, lambda t, name=name: t[name] - t["import jax"], added, 0.1)
    if command_line is not None:
        report.finding("landscape --help", times, lambda t: t["landscape --help"], "{:.3f} s", 0.3)


def call(command: list[str]) -> str:
    """Run to the end; what it printed."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def heavy_modules(statement: str) -> str:
    """Which of the heavy packages a statement loads; also writes the byte code for the runs to come."""
    code = f"{statement}\nimport sys\nprint(*(m for m in {HEAVY!r} if m in sys.modules))"
    return call([sys.executable, "-c", code]).strip()


def help_command() -> list[str] | None:
    """The installed command, as a user starts it, if it works."""
    script = shutil.which("landscape", path=str(Path(sys.executable).parent))
    if script is None:
        return None
    try:
        call([script, "--help"])
    except subprocess.CalledProcessError:
        return None
    return [script, "--help"]
