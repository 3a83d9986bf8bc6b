"""The command line on saved runs, `landscape info | plot | view | export | report`, and live ones: `landscape serve`.

Help must answer at once, so this module imports the standard library only; each command imports what it needs.

The command is also called `loss-atlas`, as the package is to pip: another distribution brings a `landscape` too.

Exit status: 0 done, 2 bad input (the reason is on stderr), 130 stopped by Ctrl-C, 141 the reader of a pipe left.
"""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from landscape import __version__, other_landscape

if TYPE_CHECKING:
    import numpy as np

    from landscape.grid import Landscape

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
KINDS = ("heatmap", "contours", "surface3d", "profile", "overview", "basins", "trainability")
VERDICTS = {"basins": "label", "trainability": "value"}  # views with colours of their own, and what they draw
PICTURES = (".png", ".pdf", ".svg")
PAGES = (".html", ".htm")
PANEL = (4.2, 3.4)  # inches
WIDTH = 88  # characters of a value in `info` before it is cut

EXAMPLES = """examples:
  landscape info results/surface/filter.zarr
  landscape plot results/surface/filter.zarr --output train_loss --scale log --out loss.pdf
  landscape plot cube.zarr --slice c=0.5
  landscape view results/surface/filter.zarr --open
  landscape export results/surface/filter.zarr loss.vti
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after `landscape`, by default those of this process.

    Returns:
        The exit status.

    Raises:
        SystemExit: status 2 for wrong usage, 0 after `--help` or `--version`.
    """
    try:
        return _run(argv)
    except BrokenPipeError:
        _silence_stdout()
        return EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        print("landscape: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except (OSError, ValueError, KeyError, ImportError, MemoryError) as error:
        # Names are checked before use, so a key that is missing is missing in the run.
        reason = f"the run is incomplete, it lacks {error}" if isinstance(error, KeyError) else error
        reason = f"too little memory ({error})" if isinstance(error, MemoryError) else reason
        print(f"landscape: {reason}", file=sys.stderr)
        return EXIT_BAD_INPUT


def _run(argv: Sequence[str] | None) -> int:
    try:
        args = _parser().parse_args(argv)
        if warning := other_landscape():
            print(f"landscape: {warning}", file=sys.stderr)
        args.command(args)
    finally:
        sys.stdout.flush()  # here, where a pipe that broke is noticed, and not when the interpreter ends
    return 0


def _silence_stdout() -> None:
    """Nobody reads any more: let the interpreter flush into nothing when it ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# ----------------------------------------------------------------------------------------------------- usage


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="loss-atlas" if Path(sys.argv[0]).stem == "loss-atlas" else "landscape",
        description="Look at saved loss landscapes, draw them, and hand them to other programs.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"landscape {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_info(commands)
    _add_plot(commands)
    _add_view(commands)
    _add_export(commands)
    _add_serve(commands)
    _add_command(
        commands, _report_of, "report", "Print the table and the paragraph of a run that `landscape.report` made."
    )
    return parser


def _add_command(commands: Any, run: Any, name: str, summary: str, **runs: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=summary, description=summary)
    parser.add_argument("run", type=Path, metavar="RUN.zarr", help="directory that a sweep or `save` wrote", **runs)
    parser.set_defaults(command=run)
    return parser


def _add_slice(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--slice",
        nargs="+",
        action="extend",
        type=_parse_slice,
        default=[],
        metavar="AXIS=AT",
        help="fix axes: c=0.5 at that coordinate (a number with a point or an exponent), c=3 at that index",
    )


def _parse_slice(text: str) -> tuple[str, int | float]:
    """An axis and where to cut it: digits are an index, other numbers a coordinate, as in Python."""
    name, _, at = text.partition("=")
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return name, kind(at)
    raise argparse.ArgumentTypeError(f"wants AXIS=NUMBER, such as c=0.5 (a coordinate) or c=3 (an index), got {text!r}")


def _add_force(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="replace a file that is there")


def _add_info(commands: Any) -> None:
    summary = "Print axes, outputs with their extremes, and how the run was made; also of an unfinished run."
    parser = _add_command(commands, _info, "info", summary)
    parser.add_argument("--json", action="store_true", help='print JSON; NaN is {"float": "nan"}')


def _add_plot(commands: Any) -> None:
    summary = "Draw one picture. By default: an overview, maps of the losses (2-D) or their profile (1-D)."
    parser = _add_command(commands, _plot, "plot", summary)
    add = parser.add_argument
    add("--output", nargs="+", action="extend", metavar="NAME", help="outputs to draw; the losses by default")
    add("--kind", choices=KINDS, help="the view")
    add("--out", type=Path, metavar="FILE", help=f"picture to write ({', '.join(PICTURES)}); RUN.png by default")
    add("--scale", choices=("auto", "log", "linear"), default="auto", help="of the values (default: auto)")
    add("--vmin", type=float, help="lowest value of the colour scale")
    add("--vmax", type=float, help="highest value of the colour scale")
    add("--style", choices=("paper", "doodle"), default="paper", help="how it looks; paper by default")
    _add_slice(parser)
    _add_force(parser)


def _add_view(commands: Any) -> None:
    summary = "Write one HTML page to look around in; of several runs with one grid side by side."
    parser = _add_command(commands, _view, "view", summary, nargs="+")
    add = parser.add_argument
    add("--output", metavar="NAME", help="the output that is shown first")
    add("--out", type=Path, metavar="FILE", help="page to write; RUN.html by default")
    add("--title", metavar="TEXT", help="title of the page; the name of the run by default")
    add("--open", action="store_true", help="show it in the browser")
    _add_slice(parser)
    _add_force(parser)


def _add_export(commands: Any) -> None:
    summary = "Write a file for other programs; its suffix says which: json npz csv nc h5 vti vtr glb ply stl."
    parser = _add_command(commands, _export, "export", summary)
    parser.add_argument("out", type=Path, metavar="OUT", help="file to write, for example loss.nc")
    parser.add_argument("--output", metavar="NAME", help="the output of which a mesh (glb, ply, stl) is made")
    _add_slice(parser)
    _add_force(parser)


def _add_serve(commands: Any) -> None:
    summary = "Serve a plane that moves to your own browser, until Ctrl-C: what is zoomed to is swept."
    parser = commands.add_parser("serve", help=summary, description=summary)
    parser.set_defaults(command=_serve)
    add = parser.add_argument
    add("target", metavar="FILE.py:FACTORY", help="or MODULE:FACTORY, a function that returns (surface, grid)")
    add("--store", type=Path, metavar="DIR", help="folder to keep the views in; a temporary one by default")
    add("--port", type=int, default=0, help="one that is free by default")
    add("--tolerance", type=float, default=0.01, help="share of the range by which values may be off; 0 for none")
    add("--open", action="store_true", help="show it in the browser")


def _load(args: argparse.Namespace, run: Path | None = None) -> "Landscape":
    """The run that was asked for, cut as asked for."""
    from landscape.store import load

    landscape = load(run or args.run)
    twice = sorted({name for name, _ in args.slice if [n for n, _ in args.slice].count(name) > 1})
    if twice:
        raise ValueError(f"--slice cuts {twice[0]!r} twice; cut every axis once")
    return landscape.slice(**dict(args.slice)) if args.slice else landscape


def _target(path: Path, force: bool) -> Path:
    """The file to write, refused before any work where it cannot be."""
    from landscape.export import refuse_existing
    from landscape.store import local_path

    path = local_path(path)
    if not force or path.is_dir():
        refuse_existing(path, "give --force")
    return path


# ---------------------------------------------------------------------------------------------------- export


def _export(args: argparse.Namespace) -> None:
    from landscape.export import export

    out = _target(args.out, args.force)
    landscape = _load(args)
    if args.output is not None and args.output not in landscape:
        raise ValueError(f"no output {args.output!r} in this landscape; it has {', '.join(landscape)}")
    print(f"wrote {export(landscape, out, overwrite=args.force, output=args.output)}")


# ---------------------------------------------------------------------------------------------------- report


def _report_of(args: argparse.Namespace) -> None:
    from landscape.analysis import report_table, report_text
    from landscape.store import load

    landscape = load(args.run)
    rows = report_table(landscape)
    width = max(len(what) for what, _ in rows)
    print("\n".join(f"{what.ljust(width)}  {found}" for what, found in rows))
    print(f"\n{report_text(landscape)}")


# ------------------------------------------------------------------------------------------------------ view


def _view(args: argparse.Namespace) -> None:
    out = args.out or Path(f"{args.run[0].resolve().stem}.html")
    if out.suffix.lower() not in PAGES:
        raise ValueError(f"cannot write {out}: a page is {' or '.join(PAGES)}")
    out = _target(out, args.force)
    import webbrowser

    from landscape import view
    from landscape.export import appearing

    stems = [run.resolve().stem for run in args.run]
    landscapes = {stem if stems.count(stem) == 1 else str(run): _load(args, run) for stem, run in zip(stems, args.run)}
    if args.output is not None and not any(args.output in one for one in landscapes.values()):
        known = sorted({name for one in landscapes.values() for name in one})
        raise ValueError(f"no output {args.output!r} in what is to be shown; there are {', '.join(known)}")
    text = view.page(landscapes, output=args.output, title=args.title)
    with appearing(out, ".html") as building:
        building.write_text(text, encoding="utf-8")
    print(f"wrote {out}")
    if args.open and not webbrowser.open(out.resolve().as_uri()):
        print(f"landscape: no browser was found; open {out} in one", file=sys.stderr)


def _serve(args: argparse.Namespace) -> None:
    import webbrowser

    from landscape.view import serve
    from landscape.view._serve import load_factory

    def ready(address: str) -> None:
        print(f"serving {address} until Ctrl-C", flush=True)
        if args.open:
            webbrowser.open(address)

    surface, grid = load_factory(args.target)
    serve(surface, grid, port=args.port, tolerance=args.tolerance or None, store=args.store, ready=ready)


# ------------------------------------------------------------------------------------------------------ info


def _info(args: argparse.Namespace) -> None:
    from landscape.store import encode

    summary = _summary(args.run)
    if args.json:
        print(json.dumps(encode(summary), indent=2, allow_nan=False))
    else:
        print("\n".join(_report(summary)))


def _summary(path: Path) -> dict[str, Any]:
    """Everything that `info` tells, as plain data."""
    from landscape.store import RunStore, load

    landscape = load(path)
    meta = dict(landscape.meta)
    paths = meta.pop("paths", None) or {}
    return {
        "path": str(path),
        "axes": [_axis(axis) for axis in landscape.grid.axes],
        "points": {"computed": int(landscape.computed.sum()), "total": landscape.grid.size},
        "outputs": {name: _statistics(landscape, name) for name in landscape},
        "paths": {str(name): len(_coords(path)) for name, path in paths.items()},
        # An unfinished run has not written its meta yet, but its plan is there from the start.
        "meta": {"plan": RunStore(path).plan, **meta},
    }


def _axis(axis: Any) -> dict[str, Any]:
    low, high = float(axis.values[0]), float(axis.values[-1])
    return {"name": axis.name, "label": axis.label, "num": len(axis), "low": low, "high": high}


def _coords(path: Any) -> Sequence[Any]:
    """Points of a path, given as `{"coords": ...}` or as they are."""
    return path["coords"] if isinstance(path, Mapping) else path


def _statistics(landscape: "Landscape", name: str) -> dict[str, Any]:
    """What the computed points of an output hold."""
    import numpy as np

    values = landscape[name]
    found = values[landscape.computed]
    return {
        "dtype": str(values.dtype),
        "shape": list(values.shape[landscape.grid.ndim :]),
        "min": _extreme(landscape, values, np.argmin, np.inf),
        "max": _extreme(landscape, values, np.argmax, -np.inf),
        "nan": int(np.isnan(found).sum()),
        "inf": int(np.isinf(found).sum()),
    }


def _extreme(landscape: "Landscape", values: "np.ndarray", pick: Any, worst: float) -> dict[str, Any] | None:
    """The smallest or largest finite value and where it is; `None` where nothing is finite."""
    import numpy as np

    ndim = landscape.grid.ndim
    usable = np.isfinite(values) & np.expand_dims(landscape.computed, tuple(range(ndim, values.ndim)))
    if not usable.any():
        return None
    index = np.unravel_index(pick(np.where(usable, values, worst)), values.shape)
    at = dict(zip(landscape.grid.names, landscape.coords(index[:ndim]).tolist()))
    return {"value": values[index].item(), "at": at, "component": [int(i) for i in index[ndim:]]}


def _report(summary: Mapping[str, Any]) -> Iterator[str]:
    """The lines of `info`."""
    done, total = summary["points"]["computed"], summary["points"]["total"]
    yield f"{summary['path']}"
    yield f"points   {done:,} of {total:,} computed" + ("" if done == total else f" ({done / total:.1%})")
    yield "axes"
    rows = [[a["name"], f"{a['num']:,} in [{a['low']:.6g}, {a['high']:.6g}]", a["label"]] for a in summary["axes"]]
    yield from _table(rows)
    yield "outputs"
    at = f"at ({', '.join(a['name'] for a in summary['axes'])})"
    yield from _table([["", "type", "min", at, "max", at, "NaN", "inf"], *_output_rows(summary["outputs"])])
    if summary["paths"]:
        yield "paths"
        yield from _table([[name, f"{num:,} points"] for name, num in summary["paths"].items()])
    yield from _meta_lines(summary["meta"])


def _output_rows(outputs: Mapping[str, Mapping[str, Any]]) -> Iterator[list[str]]:
    for name, found in outputs.items():
        shape = "x".join(map(str, found["shape"]))
        row = [name, f"{found['dtype']} {shape}".strip()]
        for extreme in (found["min"], found["max"]):
            row += [f"{extreme['value']:.6g}", _place(extreme)] if extreme else ["-", "-"]
        yield [*row, str(found["nan"]), str(found["inf"])]


def _place(extreme: Mapping[str, Any]) -> str:
    component = "".join(f"[{i}]" for i in extreme["component"])
    return "(" + ", ".join(f"{c:.4g}" for c in extreme["at"].values()) + ")" + component


def _meta_lines(meta: Mapping[str, Any]) -> Iterator[str]:
    """One section for each entry of meta; digests of arrays are left to `--json`."""
    from landscape.store import flatten

    for name, entry in meta.items():
        yield name
        if name == "calls":
            yield from (f"  {_call(call)}" for call in entry)
        elif isinstance(entry, Mapping):
            flat = {k: v for k, v in flatten(entry).items() if not k.startswith("function.arrays.")}
            yield from _table([[key, _short(value)] for key, value in flat.items()])
        else:
            yield f"  {_short(entry)}"


def _call(call: Mapping[str, Any]) -> str:
    devices = ", ".join(map(str, call.get("devices", [])))
    return f"{call.get('evaluations', 0):,} points in {call.get('seconds', 0):,} s on {devices}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 3]}..."


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows in aligned columns, indented."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        yield ("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths))).rstrip()


# ------------------------------------------------------------------------------------------------------ plot


def _plot(args: argparse.Namespace) -> None:
    out = args.out or Path(f"{args.run.resolve().stem}.png")
    if out.suffix.lower() not in PICTURES:
        raise ValueError(f"cannot draw {out}: pictures are {', '.join(PICTURES)}")
    out = _target(out, args.force)
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from landscape import plotting

    landscape = _load(args)
    with plotting.style(args.style):
        figure = _figure(landscape, args)
        _save_picture(figure, out, _provenance(landscape, args.run))
    pyplot.close(figure)
    print(f"wrote {out}")


def _figure(landscape: "Landscape", args: argparse.Namespace) -> Any:
    from landscape import plotting

    names, kind = _names(landscape, args.output), args.kind or _default_kind(landscape, args)
    if kind == "overview":
        return _overview(landscape, args)
    if kind in VERDICTS:
        return _verdicts(landscape, args, kind)
    if kind == "profile":
        axes = plotting.profile(landscape, names, scale=args.scale)
        axes.set_ylim(args.vmin, args.vmax)
        return axes.figure
    low, high = ("zmin", "zmax") if kind == "surface3d" else ("vmin", "vmax")
    options = {"scale": args.scale, low: args.vmin, high: args.vmax}
    return _panels(landscape, names, kind, options)


def _overview(landscape: "Landscape", args: argparse.Namespace) -> Any:
    from landscape import plotting

    if (args.vmin, args.vmax) != (None, None):
        raise ValueError("an overview shows several quantities, so --vmin and --vmax do not fit; choose another --kind")
    return plotting.overview(landscape, args.output, scale=args.scale)


def _verdicts(landscape: "Landscape", args: argparse.Namespace, kind: str) -> Any:
    """A basin map or a trainability map."""
    from landscape import plotting

    if (args.vmin, args.vmax, args.scale) != (None, None, "auto"):
        raise ValueError(f"--kind {kind} has colours of its own: leave --vmin, --vmax and --scale away")
    names = args.output or [VERDICTS[kind]]
    if names[0] not in landscape:
        raise ValueError(f"--kind {kind} draws {names[0]!r}, which this landscape lacks; it has {', '.join(landscape)}")
    if len(names) > 1:
        raise ValueError(f"--kind {kind} draws one output, got {', '.join(names)}")
    return getattr(plotting, kind)(landscape, names[0]).figure


def _panels(landscape: "Landscape", names: Sequence[str], kind: str, options: Mapping[str, Any]) -> Any:
    """One figure with a panel for each output, side by side, and the stored paths on them."""
    from matplotlib import pyplot

    from landscape import plotting

    figure = pyplot.figure(figsize=(PANEL[0] * len(names), PANEL[1]), layout="constrained")
    projection = "3d" if kind == "surface3d" else None
    for i, name in enumerate(names, 1):
        axes = figure.add_subplot(1, len(names), i, projection=projection)
        getattr(plotting, kind)(landscape, name, ax=axes, **options)
        if landscape.meta.get("paths") and projection is None:
            plotting.trajectory(landscape, ax=axes)
    return figure


def _names(landscape: "Landscape", asked: Sequence[str] | None) -> list[str]:
    """The outputs asked for, or the losses, or the first that are one number a point."""
    unknown = [name for name in asked or () if name not in landscape]
    if unknown:
        raise ValueError(f"no output {unknown[0]!r} in this landscape; it has {', '.join(landscape)}")
    plain = [name for name in landscape if landscape[name].ndim == landscape.grid.ndim]
    losses = sorted((n for n in plain if n == "loss" or n.endswith("_loss")), key=lambda n: "test" in n)
    names = list(asked or losses or plain[:3])
    if not names:
        raise ValueError("no output of this landscape is one number a point, so there is nothing to draw")
    return names


def _default_kind(landscape: "Landscape", args: argparse.Namespace) -> str:
    """What fits the outputs, where nothing particular was asked for: an overview of both losses, a map of verdicts."""
    if landscape.grid.ndim == 1:
        return "profile"
    plain = (args.output, args.scale, args.vmin, args.vmax) == (None, "auto", None, None)
    if plain and landscape.grid.ndim == 2 and "outcome" in landscape and "label" in landscape:
        return "basins"
    if plain and landscape.grid.ndim == 2 and {"value", "converged"} <= set(landscape):
        return "trainability"
    return "overview" if plain and {"train_loss", "test_loss"} <= set(landscape) else "heatmap"


def _provenance(landscape: "Landscape", path: Path) -> dict[str, str]:
    """How the run was made, one level of text, for the picture's metadata."""
    made = landscape.meta.get("provenance")
    return {"Run": str(path), **{k: str(v) for k, v in (made if isinstance(made, Mapping) else {}).items()}}


def _save_picture(figure: Any, path: Path, made: Mapping[str, str]) -> None:
    """Write one file, by a rename so that an interrupted one or half of one is not left behind."""
    import matplotlib

    from landscape import plotting
    from landscape.export import appearing

    suffix = path.suffix.lower()
    # Tight, since the layout does not make room for the z label of a surface.
    with appearing(path, suffix) as building, matplotlib.rc_context({"savefig.bbox": "tight"}):
        plotting.save_figure(figure, building.with_suffix(""), made, formats=[suffix[1:]])
