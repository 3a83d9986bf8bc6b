"""What all views share: the styles, the reserved colours, outlines, legends and the files of a figure."""

import contextlib
import functools
import inspect
import os
import traceback
import uuid
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

import matplotlib
from cycler import cycler
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patheffects import withStroke
from matplotlib.transforms import ScaledTranslation

from landscape.plotting._checks import check_arguments, kind_of
from landscape.plotting._text import HANDLE, fit, place_of, tidy_axes, tidy_figure, width

P = ParamSpec("P")
T = TypeVar("T", Axes, Figure)

# Reserved for points without a value: neither viridis nor RdBu has a magenta or a mid grey.
NOT_FINITE = "#e0218a"
NOT_COMPUTED = "#c4c4c4"

# Okabe & Ito (2008), darkest first; yellow is left out since it vanishes on paper.
CYCLE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
# Paths over a colour map: warm colours, which viridis lacks, then white and black.
PATH_CYCLE = ("#ff5a36", "#ffffff", "#ffb000", "#ff8fd0", "#000000")
STAR: dict[str, Any] = {
    "color": "white",
    "markeredgecolor": "black",
    "markeredgewidth": 0.7,
    "markersize": 9.0,
}
DPI = 300.0  # of the files
NO_ROOM = "constrained_layout not applied"  # how matplotlib's warning starts
WIDE_ENTRY = 28  # characters of a legend entry that wants a row of its own

# The defaults of matplotlib, whatever style the user has chosen: on a dark background a figure is white all the same.
COLORS: dict[Any, Any] = {name: value for name, value in matplotlib.rcParamsDefault.items() if "color" in name}
PAPER: dict[Any, Any] = {
    **COLORS,
    "font.family": ["STIXGeneral", "DejaVu Sans"],
    "mathtext.fontset": "stix",
    "font.size": 9.0,
    "axes.labelsize": 9.0,
    "axes.titlesize": 9.5,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "figure.figsize": (3.4, 2.9),
    "figure.dpi": 150.0,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 300.0,
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "lines.linewidth": 1.2,
    "axes.prop_cycle": cycler(color=CYCLE),
}
ACCENT = "#e2401b"  # the one colour of a doodle: vermilion, as bright as a mid grey
SKETCH_DPI = 150.0  # matplotlib takes the sketch of a line in dots; these are the dots an inch it is meant for
DOODLE: dict[Any, Any] = {
    **PAPER,
    "font.family": ["DejaVu Sans"],
    "mathtext.fontset": "dejavusans",
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "figure.figsize": (4.4, 3.7),
    "path.sketch": (1.1, 110.0, 2.5),
    "path.effects": [withStroke(linewidth=3.0, foreground="white", joinstyle="round")],
    "axes.linewidth": 1.3,
    "xtick.major.width": 1.1,
    "ytick.major.width": 1.1,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "hatch.linewidth": 0.7,
    "contour.negative_linestyle": "solid",
    "axes.prop_cycle": cycler(color=("black", ACCENT, "0.55", "0.3", "0.75")),
}
STYLES = {"paper": PAPER, "doodle": DOODLE}


@dataclass(frozen=True)
class Inks:
    """The colours of a style for which matplotlib has no setting.

    Attributes:
        cycle: of curves.
        paths: of paths over a colour map.
        labels: of basins; empty for those of `_labels`.
        hatches: patterns that tell labels apart beside their colours, one for each of `labels`.
        unreached: of starts that reach no minimum.
        not_finite: of points whose value is NaN or infinite.
        not_computed: of points without a value.
        star: look of the marker of a minimum.
        sequential: colour map of a quantity.
        diverging: colour map of a quantity of both signs.
        verdicts: colour map of divergence, at its lower end, and convergence.
        room: how much larger panels side by side are than in print, for a wider font and thicker lines.
    """

    cycle: tuple[str, ...] = CYCLE
    paths: tuple[str, ...] = PATH_CYCLE
    labels: tuple[str, ...] = ()
    hatches: tuple[str, ...] = ()
    unreached: str = "#3d3d3d"
    not_finite: str = NOT_FINITE
    not_computed: str = NOT_COMPUTED
    star: Mapping[str, Any] = field(default_factory=lambda: STAR)
    sequential: Any = "viridis"
    diverging: Any = "RdBu_r"
    verdicts: Any = "RdYlBu"
    room: float = 1.0

    @property
    def by_hand(self) -> bool:
        """Whether areas are told apart by hatching, with a line around them."""
        return bool(self.hatches)


INKS = {
    "paper": Inks(),
    "doodle": Inks(
        cycle=("#000000", ACCENT, "#8c8c8c", "#4d4d4d", "#bfbfbf"),
        paths=(ACCENT, "#000000", "#ffffff", "#8c8c8c"),
        labels=("#f6ab96", "#ffffff", "#b4b4b4", "#ffffff", "#dedede", "#ffffff", "#878787", "#ffffff"),
        hatches=("", "", "", "////", "", "....", "", "xxxx"),
        not_finite="#000000",
        not_computed="#fbe3dc",
        star={**STAR, "color": ACCENT, "markersize": 12.0},
        # light enough for black writing
        sequential=LinearSegmentedColormap.from_list("ink", ["#ffffff", "#7d7d7d"]),
        diverging=LinearSegmentedColormap.from_list("ink and accent", ["#757575", "#ffffff", "#ee7355"]),
        verdicts=LinearSegmentedColormap.from_list("accent and ink", ["#ee7355", "#ffffff", "#5a5a5a"]),
        room=1.35,
    ),
}
_BELOW: WeakKeyDictionary[Axes, Any] = WeakKeyDictionary()  # the legends that stand under their axes
_WORN: ContextVar[Inks] = ContextVar("inks", default=INKS["paper"])


def inks() -> Inks:
    """The colours of the style that is being drawn in."""
    return _WORN.get()


@contextlib.contextmanager
def style(name: str) -> Generator[None]:
    """Draw in a style: `with style("paper"): ax = heatmap(landscape, "train_loss")`.

    Make *and* save a figure inside the context. `paper` sets Times-like fonts that ship with matplotlib, sizes
    for a column of 3.4 inches, constrained layout, 300 dots an inch, embedded TrueType fonts and the colour-blind
    safe cycle of Okabe and Ito. `doodle` draws by hand: wavy lines with white strokes around them, DejaVu Sans, black
    and white, few greys, hatching, and one accent. Colour maps are drawn exactly, not by hand.

    Args:
        name: `"paper"` or `"doodle"`.

    Raises:
        ValueError: there is no such style.
    """
    if not isinstance(name, str) or name not in STYLES:
        raise ValueError(f"unknown style {kind_of(name)}; the styles are {', '.join(STYLES)}")
    before = _WORN.set(INKS[name])
    try:
        with matplotlib.rc_context(STYLES[name]):
            yield
    finally:
        _WORN.reset(before)


def wearable(view: Callable[P, T]) -> Callable[P, T]:
    """Check what a view is given, and let it take `style=`: `heatmap(landscape, "loss", style="doodle")`."""
    own, called = inspect.signature(view), str(getattr(view, "__name__", view))

    @functools.wraps(view)
    def worn(*args: P.args, **options: P.kwargs) -> T:
        name: Any = options.pop("style", None)
        given = own.bind(*args, **options).arguments
        passed_on = given.get("options", {})
        check_arguments(called, {**given, "style": name})
        with contextlib.nullcontext() if name is None else style(name):
            try:
                drawn = view(*args, **options)
            except (AttributeError, TypeError, ValueError) as error:
                if not passed_on or not _raised_by_matplotlib(error):
                    raise
                refused = f"{called} has no option {' or '.join(passed_on)}, and matplotlib refused"
                raise TypeError(f"{refused} to draw with {dict(passed_on)}: {error}") from error
            _tidy(drawn)
            if name is not None:
                # ticks are made when they are first needed, which may be after this context
                (drawn if isinstance(drawn, Figure) else root_figure(drawn)).draw_without_rendering()
        return drawn

    extra = inspect.Parameter("style", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=str | None)
    parameters = list(own.parameters.values())
    place = len(parameters) - (parameters[-1].kind is inspect.Parameter.VAR_KEYWORD)
    described: Any = worn
    described.__signature__ = own.replace(parameters=[*parameters[:place], extra, *parameters[place:]])
    return described


def _tidy(drawn: Axes | Figure) -> None:
    whole = isinstance(drawn, Figure)
    axes = drawn.axes if whole else [drawn, *drawn.get_shared_x_axes().get_siblings(drawn)]
    figure = drawn if whole else root_figure(drawn)
    for ax in axes:
        tidy_axes(ax)
    if whole:
        tidy_figure(drawn)
    fit(axes, lambda: _draw_unseen(figure, axes))
    for ax in axes:
        _anchor_legend(ax)


def _raised_by_matplotlib(error: BaseException) -> bool:
    folders = Path(traceback.extract_tb(error.__traceback__)[-1].filename).parts
    return "matplotlib" in folders or "mpl_toolkits" in folders


def plain(*artists: Artist | None) -> None:
    """Draw these exactly: thousands of cells drawn by hand are slow, and no cell would keep its place."""
    for artist in artists:
        if artist is not None:
            artist.set_sketch_params(None)
            artist.set_path_effects([])


def save_figure(
    fig: Figure,
    path: str | os.PathLike[str],
    meta: Mapping[str, Any] | None = None,
    *,
    formats: Sequence[str] | None = None,
) -> list[Path]:
    """Write a figure as PNG (300 dots an inch) and PDF, or SVG, with its provenance inside.

    Args:
        fig: the figure.
        path: where to, without suffix; missing directories are made.
        meta: one level of names and values. They become tEXt entries of the PNG; in the PDF, `Keywords` lists
            them as `name=value`, and `Subject` holds the entry of that name; in an SVG, `Description` holds that list.
        formats: which files to write, `"png"`, `"pdf"`, `"svg"`; when None those in the attribute `formats` of the
            figure, if whoever drew it has set one, else PNG and PDF.

    Returns:
        The paths written, in the order of `formats`.

    Raises:
        TypeError: a value of `meta` is itself a mapping.
        ValueError: a name that PNG cannot hold, or another format.
        OSError: the disk refuses; earlier files of these names stay as they were.
    """
    if not isinstance(fig, Figure):
        advice = ": give ax.figure" if isinstance(fig, Axes) else ""
        raise TypeError(f"save_figure: fig must be a matplotlib Figure, got {type(fig).__name__}{advice}")
    if not isinstance(path, str | os.PathLike) or not Path(path).name:
        raise TypeError(f"save_figure: path must be the path of a file without its suffix, got {kind_of(path)}")
    if not isinstance(meta, Mapping | None):
        raise TypeError(f"save_figure: meta must be a mapping of names to values, got {type(meta).__name__}")
    text = _flat_text(meta or {})
    stem = Path(path)
    formats = getattr(fig, "formats", ("png", "pdf")) if formats is None else formats
    if isinstance(formats, str) or not isinstance(formats, Sequence):
        raise TypeError(f"save_figure: formats must be a list such as ['png', 'pdf'], got {kind_of(formats)}")
    entries = {"png": text, "pdf": _pdf_entries(text), "svg": _svg_entries(text)}
    if unknown := [suffix for suffix in formats if not isinstance(suffix, str) or suffix not in entries]:
        raise ValueError(f"formats must be among {', '.join(entries)}, got {unknown[0]!r}")
    tidy_figure(fig)
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(f"{stem.name}.{suffix}") for suffix in formats]
    with matplotlib.rc_context({"pdf.fonttype": 42}), whole_files(paths) as partial, _laid_out(fig):
        for suffix, path in zip(formats, partial):
            with _sketched_for(fig, 300.0 if suffix == "png" else 72.0):  # vector formats count in points
                fig.savefig(path, format=suffix, dpi=DPI, metadata=entries[suffix])
    return paths


@contextlib.contextmanager
def whole_files(paths: Sequence[Path]) -> Generator[list[Path]]:
    """Other names to write files under, which get their own when all are written; none stays behind on an error."""
    partial = [path.with_name(f"{uuid.uuid4().hex}.partial{path.suffix}") for path in paths]
    try:
        yield partial
        for written, path in zip(partial, paths):
            written.replace(path)
    finally:
        for left in partial:
            left.unlink(missing_ok=True)


@contextlib.contextmanager
def _laid_out(fig: Figure) -> Generator[None]:
    """Make the layout once for all files: it takes longer than to draw, and each file would make it twice."""
    engine, dpi = fig.get_layout_engine(), fig.dpi
    if engine is None:
        yield
        return
    try:
        fig.dpi = DPI
        if any(ax.name == "3d" for ax in fig.axes):  # they know how large they are once they have been drawn
            fig.draw_without_rendering()
        engine.execute(fig)
        with matplotlib.rc_context({"figure.constrained_layout.use": False, "figure.autolayout": False}):
            fig.set_layout_engine(None)  # of the settings, which is none
        yield
    finally:
        fig.set_layout_engine(engine)
        fig.dpi = dpi


@contextlib.contextmanager
def _sketched_for(fig: Figure, dpi: float) -> Generator[None]:
    """Scale what is drawn by hand, so that a line is as wavy in every file. matplotlib takes its waves in dots."""
    artists: Any = fig.findobj()
    by_hand = [(artist, artist.get_sketch_params()) for artist in artists if artist.get_sketch_params() is not None]
    factor = dpi / SKETCH_DPI
    try:
        for artist, (scale, length, randomness) in by_hand:
            artist.set_sketch_params(scale * factor, length * factor, randomness)
        yield
    finally:
        for artist, params in by_hand:
            artist.set_sketch_params(*params)


def _flat_text(meta: Mapping[str, Any]) -> dict[str, str]:
    for name, value in meta.items():
        if not isinstance(name, str):
            raise TypeError(f"a name in meta must be a string, got {name!r}")
        if not 1 <= len(name) <= 79 or not name.isascii():
            raise ValueError(f"a name in meta must have 1 to 79 ASCII characters, as PNG demands; got {name!r}")
        if isinstance(value, Mapping):
            raise TypeError(f"meta must be flat, but {name!r} is a mapping: join its names, as in {name}.key")
    return {str(name): str(value) for name, value in meta.items()}


def _pdf_entries(text: Mapping[str, str]) -> dict[str, str]:
    entries = {"Keywords": "; ".join(f"{name}={value}" for name, value in text.items())}
    entries["Subject"] = text.get("Subject", "")
    return {name: value for name, value in entries.items() if value}


def _svg_entries(text: Mapping[str, str]) -> dict[str, Any]:
    # without a date, equal figures are equal files
    return {"Description": "; ".join(f"{name}={value}" for name, value in text.items()), "Date": None}


def new_axes() -> Axes:
    """Flat axes of a new figure."""
    return new_panels(1, 1, matplotlib.rcParams["figure.figsize"])[0]


def new_panels(rows: int, columns: int, size: Sequence[float]) -> list[Axes]:
    """Flat axes of a new figure of this size in inches, in the constrained layout for axes of any aspect."""
    from matplotlib import pyplot as plt

    fig, axes = plt.subplots(rows, columns, figsize=size, layout="compressed", squeeze=False)
    if columns > 1:
        engine: Any = fig.get_layout_engine()
        engine.set(w_pad=0.08)
    return list(axes.flat)


def new_solid_axes() -> Any:
    """3-D axes that fill a new figure. Constrained layout does not see their labels, so it is off."""
    from matplotlib import pyplot as plt

    fig = plt.figure()
    fig.set_layout_engine("none")  # layout="none" would leave a constrained layout of rcParams in force
    return fig.add_axes((-0.05, -0.01, 1.05, 1.06), projection="3d")


def root_figure(ax: Axes) -> Any:
    """The figure that holds the axes, whatever lies between."""
    return ax.get_figure(root=True)


def settle(*drawn: Axes) -> None:
    """Give the figure of these axes its layout now, as it will be when drawn, for what depends on sizes."""
    figure = root_figure(drawn[0])
    for ax in drawn:
        tidy_axes(ax)
        _anchor_legend(ax)
    _lay_out(figure)
    fit(drawn, lambda: _draw_unseen(figure, drawn))
    for axes in figure.axes:
        axes.apply_aspect()


def _lay_out(figure: Figure) -> None:
    engine = figure.get_layout_engine()
    if any(ax.name == "3d" for ax in figure.axes):
        _draw_unseen(figure, [])
    elif engine is not None:
        with warnings.catch_warnings():  # a figure that is not complete yet may have no room for its layout
            warnings.filterwarnings("ignore", NO_ROOM)
            engine.execute(figure)


def _draw_unseen(figure: Figure, axes: Sequence[Axes]) -> bool:
    """Make the layout and draw everything, to see where it lies; False where there is no room for the layout."""
    for ax in axes:
        _anchor_legend(ax)
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", NO_ROOM)
        figure.draw_without_rendering()
    return not any(NO_ROOM in str(warning.message) for warning in caught)


def outline(color: str, width: float) -> list[Any]:
    """Path effects that give a line or a text of any colour an edge, so that it reads on any colour."""
    return [withStroke(linewidth=width, foreground=color)]


def edge_color(color: Any) -> str:
    """Black for a light colour, white for a dark one."""
    return "black" if luminance(color) > 0.35 else "white"


def luminance(color: Any) -> float:
    """Perceived brightness of a colour, 0 for black and 1 for white (ITU-R BT.709 weights)."""
    red, green, blue = matplotlib.colors.to_rgb(color)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def swatch(ax: Axes, color: str, label: str, hatch: str = "") -> None:
    """A square of this colour in the legend, hatched where there is a pattern."""
    if inks().by_hand and ax.name != "3d":
        plain(*ax.fill([], [], facecolor=color, edgecolor="0.2", linewidth=0.6, hatch=hatch, label=label))
        return
    ax.plot([], [], "s", color=color, markeredgecolor="0.3", markeredgewidth=0.4, markersize=6, label=label)


def dress_bar(bar: Any, ax: Axes) -> None:
    """A colour bar drawn exactly, with words in the colour of the axes that it belongs to."""
    plain(bar.solids, bar.outline)
    color = ax.xaxis.label.get_color()
    bar.ax.tick_params(which="both", colors=color)
    bar.ax.yaxis.label.set_color(color)


def font_size(name: str) -> float:
    """Size in points of the tick labels (`xtick`, `ytick`) of new axes."""
    key: Any = f"{name}.labelsize"
    return FontProperties(size=matplotlib.rcParams[key]).get_size_in_points()


def legend_below(ax: Axes, *others: Axes) -> None:
    """A legend of all labelled artists, those of overlaid axes too, under the x label, where it hides no data."""
    entries = _entries([ax, *others])
    if not entries:
        return
    legend = ax.legend(
        entries.values(),
        entries.keys(),
        loc="upper center",
        ncols=1 if _are_wide(list(entries), ax) else 2,
        labelcolor=ax.xaxis.label.get_color(),  # of axes that are given, whose figure has colours of its own
        frameon=False,
        borderaxespad=0.0,
        labelspacing=0.35,
        handlelength=1.7,
        columnspacing=1.0,
        handletextpad=0.5,
    )
    _BELOW[ax] = legend
    _anchor_legend(ax)


def _anchor_legend(ax: Axes) -> None:
    """Move a legend under the label of the x axis, which may have several lines."""
    legend = ax.get_legend()
    if legend is None or legend is not _BELOW.get(ax):
        return
    size = float(ax.xaxis.label.get_fontsize())
    lines = 1.25 * ax.xaxis.label.get_text().count("\n")
    below = ax.xaxis.get_tick_padding() + 1.3 * font_size("xtick") + ax.xaxis.labelpad + (1.5 + lines) * size
    shift = ScaledTranslation(0, -below / 72, root_figure(ax).dpi_scale_trans)
    legend.set_bbox_to_anchor((0.5, 0), transform=ax.transAxes + shift)


def _are_wide(entries: Sequence[str], ax: Axes) -> bool:
    """Whether legend entries want a row each."""
    if any(len(text) > WIDE_ENTRY for text in entries):
        return True
    font = FontProperties(size=matplotlib.rcParams["legend.fontsize"], family=matplotlib.rcParams["font.family"])
    widest = max(width(text, font) for text in entries) + (HANDLE + 0.5) * font.get_size_in_points()
    return 2 * widest > place_of(ax)[0]


def _entries(axes: Sequence[Axes]) -> dict[str, Any]:
    """`{label: artist}`, each label once."""
    pairs = [ax.get_legend_handles_labels() for ax in axes]
    return {label: handle for handles, labels in pairs for handle, label in zip(handles, labels)}
