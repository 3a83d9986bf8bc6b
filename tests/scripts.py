"""Scripts run inside the test process: what they print and how they end, without the cost of a new interpreter."""

import contextlib
import io
import runpy
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import jax

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Done:
    """What a script left behind, under the names of `subprocess.CompletedProcess`."""

    returncode: int
    stdout: str
    stderr: str


def run_script(name, *arguments):
    """Run `experiments/NAME.py` as from the shell; settings of JAX that it changes are put back."""
    path = ROOT / "experiments" / f"{name}.py"
    before = {option: jax.config.values[option] for option in ("jax_enable_x64", "jax_compilation_cache_dir")}
    argv, out, err, status = sys.argv, io.StringIO(), io.StringIO(), 0
    sys.argv = [str(path), *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            warnings.simplefilter("default")  # a warning is a line on stderr, as from the shell
            runpy.run_path(str(path), run_name="__main__")
    except SystemExit as stop:
        status = stop.code
    finally:
        sys.argv = argv
        for option, value in before.items():
            jax.config.update(option, value)
    return Done(status or 0, out.getvalue(), err.getvalue())
