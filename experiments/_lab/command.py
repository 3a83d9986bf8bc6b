"""What every experiment script shares: flags, output folder, resuming, exit codes, and the closing table.

An experiment is a module with a frozen `Config`, a `SMOKE` config, and three functions: `run(config, lab)` computes
landscapes and writes nothing itself, `plot(result)` draws figures and animations from the landscapes alone,
`findings(result)` lists what was expected beside what was found.
"""

import contextlib
import dataclasses
import json
import math
import subprocess
import sys
import time
import traceback
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from _lab.lab import Lab, UsageError, _write, say
from _lab.problem import load_problem

EXIT_BAD_INPUT = 2
EXIT_PLAN_MISMATCH = 3
EXIT_INTERRUPTED = 130


@dataclass(frozen=True)
class Flags:
    """Flags of every experiment."""

    out: Path | None = None
    """Folder for the results; results/NAME by default, and results/NAME_smoke with --smoke."""
    problem: str | None = None
    """Your own model: module:factory or file.py:factory, where factory() returns a landscape.Problem."""
    smoke: bool = False
    """A tiny configuration that runs in seconds, to see that everything works."""
    resume: bool = True
    """Go on with what is in the folder; --no-resume deletes this experiment's earlier results first."""
    plan: bool = False
    """Print points, tiles, memory, disk and time, and write nothing."""
    x64: bool = False
    """Compute in float64."""
    devices: int | None = None
    """How many local devices to use; all of them by default."""
    batch: int | Literal["auto"] = "auto"
    """Points evaluated at a time; measured by default."""
    shard: str | None = None
    """i/n: compute only every n-th tile from the i-th, for jobs that share one folder."""
    figures: bool = True
    """Draw the figures."""
    page: bool = True
    """Write index.html, a page to look around in, beside the figures."""
    progress: bool | Literal["auto"] = "auto"
    """A progress bar: on a terminal only, always, or never."""
    compile_cache: bool = True
    """Keep compiled programs in the user's cache folder for the next run."""


def main(
    experiment: str,
    config_type: type,
    smoke: Any,
    run: Any,
    plot: Any,
    findings: Any,
    *,
    takes_problem: bool = True,
) -> None:
    """Parse the command line, run the experiment, draw, and print the table. Ends the process.

    Args:
        experiment: its name, that of the file.
        config_type: the settings; a frozen dataclass.
        smoke: the settings of `--smoke`.
        run: `run(config, lab) -> {name: landscape}`.
        plot: `plot(result) -> {name: figure or animation}`.
        findings: `findings(result) -> [(what, expected, found)]`.
        takes_problem: whether the user's own problem can take the place of those of the experiment.
    """
    defaults = smoke if "--smoke" in sys.argv else config_type()
    command: Any = dataclasses.make_dataclass("Command", [("config", config_type), ("flags", Flags)])
    parsed: Any = tyro.cli(
        command,
        default=command(defaults, Flags()),
        description=sys.modules[run.__module__].__doc__,
        prog=f"experiments/{experiment}.py",
        config=(tyro.conf.OmitArgPrefixes,),
    )
    try:
        if parsed.flags.problem and not takes_problem:
            raise UsageError(f"{experiment} has problems of its own; leave --problem away (surface.py takes it)")
        settings = settings_rows(parsed.config, smoke if parsed.flags.smoke else None)
        status = _execute(
            experiment, parsed.config, parsed.flags, run, plot, lambda result: [*settings, *findings(result)]
        )
    except BaseException as error:
        status = _exit_status(error)
    sys.stdout.flush()
    sys.exit(status)


def _execute(experiment: str, config: Any, flags: Flags, run: Any, plot: Any, findings: Any) -> int:
    import jax

    start = time.perf_counter()
    if flags.x64:
        jax.config.update("jax_enable_x64", True)
    if flags.compile_cache:
        _keep_compiled_programs()
    # a folder of its own, or the full run would be refused for the plans of the tiny one
    out = flags.out or Path("results") / (experiment + "_smoke" * flags.smoke)
    _check_folder(out)
    _check_flags(flags)
    _check_settings(config)
    options: dict[str, Any] = {"devices": flags.devices, "progress": flags.progress, "batch": flags.batch}
    options["shard"] = _parse_shard(flags.shard)
    problem = load_problem(flags.problem) if flags.problem else None
    lab = Lab(out, options, problem, flags.plan)
    say(f"devices: {', '.join(map(str, jax.local_devices()[: flags.devices]))}")
    if flags.plan:
        run(config, lab)
        return 0
    if not flags.resume:
        if flags.shard is not None:
            raise UsageError("--no-resume with --shard would delete what the other shards have done; use another --out")
        _forget(out, experiment)
    with _announced(out, experiment, config, flags):
        result = run(config, lab)
    return _finish(result, out, flags, plot, findings, start)


def _check_folder(out: Path) -> None:
    """Raise `UsageError` unless results can be written to a folder, which need not be there yet."""
    import os

    for path in (out, *out.parents):
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise UsageError(f"--out {out}: {error.strerror}; give another folder") from error
        if not path.is_dir():
            what = "is a file" if path == out else f"lies under {path}, which is a file"
            raise UsageError(f"--out {out} {what}; give a folder")
        if not os.access(path, os.W_OK | os.X_OK):
            raise UsageError(f"--out {out}: no permission to write in {path}; give another folder")
        return


def _check_flags(flags: Flags) -> None:
    """Raise `UsageError` for what no machine, or not this one, can do."""
    import jax

    local = len(jax.local_devices())
    if flags.devices is not None and not 1 <= flags.devices <= local:
        raise UsageError(f"--devices must be between 1 and {local}, the number of local devices, got {flags.devices}")
    if flags.batch != "auto" and flags.batch < 1:
        raise UsageError(f"--batch must be at least 1 point at a time, or auto, got {flags.batch}")


def _check_settings(config: Any) -> None:
    """Raise `UsageError` for numbers that are not finite, and for negative counts."""
    for item in dataclasses.fields(config):
        given = getattr(config, item.name)
        flag = "--" + item.name.replace("_", "-")
        for value in given if isinstance(given, tuple) else (given,):
            if isinstance(value, float) and not math.isfinite(value):
                raise UsageError(f"{flag} must be finite, got {value}")
            if isinstance(value, int) and value < 0 and not _may_be_negative(item.default):
                raise UsageError(f"{flag} must not be negative, got {value}")


def _may_be_negative(default: Any) -> bool:
    """Whether a setting is no count: none of these is negative by default, and a float is no count."""
    values = default if isinstance(default, tuple) else (default,)
    return not values or any(not isinstance(value, int) or value < 0 for value in values)


def _keep_compiled_programs() -> None:
    """Let JAX find the programs of earlier runs; a folder that the user has set stays."""
    import os

    import jax

    if jax.config.values["jax_compilation_cache_dir"] is None:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "landscape" / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def _finish(result: Mapping[str, Any], out: Path, flags: Flags, plot: Any, findings: Any, start: float) -> int:
    missing = {name: _missing(landscape) for name, landscape in result.items()}
    if any(missing.values()):
        say("waiting for the other shards: " + ", ".join(f"{n} points of {k}" for k, n in missing.items() if n))
        return 0
    rows = findings(result)
    record = [dict(zip(("what", "expected", "found"), row)) for row in rows]
    _write(out / "findings.json", json.dumps(record, indent=1).encode())
    if flags.figures:  # after the findings, which an error in a figure must not lose
        _draw(result, out, plot)
    if flags.page:
        _write_page(result, out)
    print(table(rows))
    say(f"results in {out}, {time.perf_counter() - start:.1f} s")
    return 0


def _missing(landscape: Any) -> int:
    """Points that are left to other shards; those that a tolerance made unnecessary are not missing."""
    return 0 if landscape.promise is not None else int((~landscape.computed).sum())


def _draw(result: Mapping[str, Any], out: Path, plot: Any) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.animation import Animation

    from landscape import plotting

    with plotting.style("paper"):
        meta = {"Experiment": out.name, **_flat_provenance(result)}
        for name, figure in plot(result).items():
            if isinstance(figure, Animation):
                plotting.save_animation(figure, out / name, formats=["gif"], fps=12)
            else:
                plotting.save_figure(figure, out / name, meta)
        pyplot.close("all")


def _write_page(result: Mapping[str, Any], out: Path) -> None:
    """One page of all landscapes; where none can be made it is left away, and why is said."""
    from landscape import view

    try:
        text = view.page(dict(result), title=out.name.replace("_", " "))
    except (ImportError, ValueError) as reason:
        say(f"no page: {reason}")
        return
    _write(out / "index.html", text.encode("utf-8"))


def _flat_provenance(result: Mapping[str, Any]) -> dict[str, str]:
    first = next(iter(result.values()))
    return {k: str(v) for k, v in first.meta.get("provenance", {}).items()}


def _forget(out: Path, experiment: str) -> None:
    """Delete what an earlier run of this experiment left in its folder, and nothing else."""
    import shutil

    from landscape.store import is_run

    if not out.exists():
        return
    config = out / "config.json"
    if _experiment_of(config) != experiment:
        raise UsageError(
            f"--no-resume: {out} does not hold results of this experiment; delete it yourself or use --out"
        )
    for run in filter(is_run, out.glob("*.zarr")):
        shutil.rmtree(run)
    for remembered in (*out.glob("training_*.npz"), *out.glob("findings.json")):
        remembered.unlink()


def _experiment_of(config: Path) -> str | None:
    """The experiment to which a file of settings belongs."""
    try:
        return json.loads(config.read_bytes())["experiment"] if config.is_file() else None
    except (ValueError, KeyError, TypeError):  # not a file of ours, or damaged
        return None


def _parse_shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.split("/")
    if len(parts) != 2 or not all(p.isdigit() for p in parts) or int(parts[0]) >= int(parts[1]):
        raise UsageError(f"--shard wants i/n with 0 <= i < n, for example 0/2, got {text!r}")
    return int(parts[0]), int(parts[1])


@contextlib.contextmanager
def _announced(out: Path, experiment: str, config: Any, flags: Flags) -> Generator[None]:
    """Settings in the folder that belong to its findings, and no findings of an earlier run beside them.

    A run that is refused leaves both files as they were: so it leaves the results.
    """
    from landscape.store import PlanMismatch

    files = (out / "config.json", out / "findings.json")
    before = {file: file.read_bytes() for file in files if file.is_file()}
    _write_config(out, experiment, config, flags)
    files[1].unlink(missing_ok=True)
    try:
        yield
    except (UsageError, PlanMismatch):
        for file, content in before.items():
            _write(file, content)
        raise


def _write_config(out: Path, experiment: str, config: Any, flags: Flags) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out}: {error.strerror}; give another folder") from error
    record = {
        "experiment": experiment,
        "config": dataclasses.asdict(config),
        "flags": dataclasses.asdict(flags),
    }
    record["commit"] = _commit()
    _write(out / "config.json", json.dumps(record, indent=1, default=str).encode())


def _commit() -> str | None:
    """The commit of the checkout this script lies in, with a mark for uncommitted changes."""
    here = Path(__file__).parent
    try:
        args = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(args, cwd=here, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _exit_status(error: BaseException) -> int:
    """The exit status for what stopped an experiment, after saying on stderr what it was."""
    from landscape.store import PlanMismatch, StoreError

    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else EXIT_BAD_INPUT
    if isinstance(error, KeyboardInterrupt):
        say(f"interrupted: {error or 'nothing was lost that was stored; the same command resumes'}")
        return EXIT_INTERRUPTED
    if isinstance(error, PlanMismatch):
        say(f"{error}\n(--out takes another folder, --no-resume replaces the results in this one)")
        return EXIT_PLAN_MISMATCH
    if isinstance(error, UsageError | StoreError) or (isinstance(error, TypeError | ValueError) and _is_ours(error)):
        say(f"error: {error}")
    else:
        traceback.print_exception(error)
    return EXIT_BAD_INPUT if not isinstance(error, OSError) or isinstance(error, StoreError) else 1


def _is_ours(error: BaseException) -> bool:
    """Whether a check of this project raised the error, rather than the user's own model."""
    import landscape

    frames = traceback.extract_tb(error.__traceback__)
    homes = (Path(__file__).parent, Path(landscape.__file__).parent)
    return bool(frames) and any(Path(frames[-1].filename).is_relative_to(home) for home in homes)


def table(rows: Sequence[tuple[str, str, str]]) -> str:
    """Rows of `(what, expected, found)` in aligned columns."""
    head = [("", "expected", "found"), *rows]
    widths = [max(len(row[i]) for row in head) for i in range(3)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in head)


def settings_rows(config: Any, smoke: Any = None) -> list[tuple[str, str, str]]:
    """A row that names the settings which are not the defaults, since published values belong to those; or none.

    Args:
        config: the settings of a run.
        smoke: those of `--smoke`, where the run has this flag; then they are not named one by one.
    """
    usual, words = (type(config)(), []) if smoke is None else (smoke, ["those of --smoke"])
    both = [(f.name, getattr(config, f.name), getattr(usual, f.name)) for f in dataclasses.fields(config)]
    words += [f"{name} = {value}" for name, value, other in both if value != other]
    return [("settings other than those the expected values belong to", "none", ", ".join(words))] if words else []
