"""What every experiment script shares: flags, output folder, resuming, exit codes, and the closing table.

An experiment is a module with a frozen `Config`, a `SMOKE` config, and three functions: `run(config, lab)` computes
landscapes and writes nothing itself, `plot(result)` draws figures and animations from the landscapes alone,
`findings(result)` lists what was expected beside what was found.
"""

import contextlib
import dataclasses
import importlib
import importlib.util
import json
import math
import subprocess
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro

EXIT_BAD_INPUT = 2
EXIT_PLAN_MISMATCH = 3
EXIT_INTERRUPTED = 130


class UsageError(Exception):
    """Something the user asked for cannot be done; the message says what to do instead."""


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
    progress: bool | Literal["auto"] = "auto"
    """A progress bar: on a terminal only, always, or never."""
    compile_cache: bool = True
    """Keep compiled programs in the user's cache folder for the next run."""


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


def load_problem(target: str) -> Any:
    """The `Problem` that `module:factory` or `file.py:factory` makes.

    Raises:
        UsageError: no such module, file or factory, or it returns something else.
    """
    import landscape as ls

    source, separator, name = target.rpartition(":")
    if not separator or not source or not name:
        raise UsageError(f"--problem wants module:factory or file.py:factory, got {target!r}")
    factory = getattr(_import(source, target), name, None)
    if not callable(factory):
        raise UsageError(f"--problem {target}: {source} has no function {name!r}")
    problem = factory()
    if not isinstance(problem, ls.Problem):
        raise UsageError(f"--problem {target}: {name}() must return a landscape.Problem, got {type(problem).__name__}")
    problem.check()
    return problem


def _import(source: str, target: str) -> Any:
    if source.endswith(".py"):
        path = Path(source)
        if not path.is_file():
            raise UsageError(f"--problem {target}: there is no file {path.resolve()}")
        spec: Any = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
        return module
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(source)
    except ModuleNotFoundError as error:
        if error.name is not None and not f"{source}.".startswith(f"{error.name}."):
            raise
        raise UsageError(
            f"--problem {target}: there is no module {error.name!r} here or on the Python path; "
            "give module:factory or file.py:factory"
        ) from error


def main(experiment: str, config_type: type, smoke: Any, run: Any, plot: Any, findings: Any) -> None:
    """Parse the command line, run the experiment, draw, and print the table. Ends the process.

    Args:
        experiment: its name, that of the file.
        config_type: the settings; a frozen dataclass.
        smoke: the settings of `--smoke`.
        run: `run(config, lab) -> {name: landscape}`.
        plot: `plot(result) -> {name: figure or animation}`.
        findings: `findings(result) -> [(what, expected, found)]`.
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
    print(table(rows))
    say(f"results in {out}, {time.perf_counter() - start:.1f} s")
    return 0


def _missing(landscape: Any) -> int:
    """Points that are left to other shards; those that a tolerance made unnecessary are not missing."""
    return 0 if "refinement" in landscape.meta else int((~landscape.computed).sum())


def _draw(result: Mapping[str, Any], out: Path, plot: Any) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.animation import Animation, PillowWriter

    from landscape import plotting
    from landscape.plotting._style import whole_files

    with plotting.style("paper"):
        meta = {"Experiment": out.name, **_flat_provenance(result)}
        for name, figure in plot(result).items():
            if isinstance(figure, Animation):
                with whole_files([out / f"{name}.gif"]) as (path,):
                    figure.save(path, writer=PillowWriter(fps=12), dpi=100)
            else:
                plotting.save_figure(figure, out / name, meta)
        pyplot.close("all")


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


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, whoever else writes it."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
