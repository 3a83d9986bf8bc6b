"""What all views share: the styles, the reserved colours, outlines, legends and the files of a figure."""

import contextlib
import os
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patheffects import withStroke
from matplotlib.transforms import ScaledTranslation

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
WIDE_ENTRY = 28  # characters of a legend entry that wants a row of its own

PAPER: dict[Any, Any] = {
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
STYLES = {"paper": PAPER}


@contextlib.contextmanager
def style(name: str) -> Generator[None]:
    """Draw in a style: `with style("paper"): ax = heatmap(landscape, "train_loss")`.

    Make *and* save a figure inside the context. `paper` sets Times-like fonts that ship with matplotlib, sizes
    for a column of 3.4 inches, constrained layout, 300 dots an inch, embedded TrueType fonts and the colour-blind
    safe cycle of Okabe and Ito.

    Args:
        name: `"paper"`.

    Raises:
        ValueError: there is no such style.
    """
    if name not in STYLES:
        raise ValueError(f"unknown style {name!r}; the styles are {', '.join(STYLES)}")
    with matplotlib.rc_context(STYLES[name]):
        yield


def save_figure(fig: Figure, path: str | os.PathLike[str], meta: Mapping[str, Any] | None = None) -> list[Path]:
    """Write a figure as PNG (300 dots an inch) and PDF with its provenance inside.

    Args:
        fig: the figure.
        path: where to, without suffix; missing directories are made.
        meta: one level of names and values. They become tEXt entries of the PNG; in the PDF, `Keywords` lists
            them as `name=value`, and `Subject` holds the entry of that name.

    Returns:
        The paths written: the PNG, then the PDF.

    Raises:
        TypeError: a value of `meta` is itself a mapping.
        ValueError: a name that PNG cannot hold.
    """
    text = _flat_text(meta or {})
    stem = Path(path)
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(f"{stem.name}.{suffix}") for suffix in ("png", "pdf")]
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        fig.savefig(paths[0], dpi=300, metadata=text)
        fig.savefig(paths[1], dpi=300, metadata=_pdf_entries(text))
    return paths


def _flat_text(meta: Mapping[str, Any]) -> dict[str, str]:
    for name, value in meta.items():
        if not 1 <= len(name) <= 79 or not name.isascii():
            raise ValueError(f"a name in meta must have 1 to 79 ASCII characters, as PNG demands; got {name!r}")
        if isinstance(value, Mapping):
            raise TypeError(f"meta must be flat, but {name!r} is a mapping: join its names, as in {name}.key")
    return {str(name): str(value) for name, value in meta.items()}


def _pdf_entries(text: Mapping[str, str]) -> dict[str, str]:
    entries = {"Keywords": "; ".join(f"{name}={value}" for name, value in text.items())}
    entries["Subject"] = text.get("Subject", "")
    return {name: value for name, value in entries.items() if value}


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

    return plt.figure(layout="none").add_axes((-0.05, -0.01, 1.05, 1.06), projection="3d")


def root_figure(ax: Axes) -> Any:
    """The figure that holds the axes, whatever lies between."""
    return ax.get_figure(root=True)


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


def swatch(ax: Axes, color: str, label: str) -> None:
    """A square of this colour in the legend."""
    ax.plot([], [], "s", color=color, markeredgecolor="0.3", markeredgewidth=0.4, markersize=6, label=label)


def font_size(name: str) -> float:
    """Size in points of the tick labels (`xtick`, `ytick`) of new axes."""
    key: Any = f"{name}.labelsize"
    return FontProperties(size=matplotlib.rcParams[key]).get_size_in_points()


def legend_below(ax: Axes, *others: Axes) -> None:
    """A legend of all labelled artists, those of overlaid axes too, under the x label, where it hides no data."""
    entries = _entries([ax, *others])
    if not entries:
        return
    below = ax.xaxis.get_tick_padding() + 1.3 * font_size("xtick")
    below += ax.xaxis.labelpad + 1.5 * float(ax.xaxis.label.get_fontsize())
    shift = ScaledTranslation(0, -below / 72, root_figure(ax).dpi_scale_trans)
    ax.legend(
        entries.values(),
        entries.keys(),
        loc="upper center",
        bbox_to_anchor=(0.5, 0),
        bbox_transform=ax.transAxes + shift,
        ncols=1 if any(len(text) > WIDE_ENTRY for text in entries) else 2,
        frameon=False,
        borderaxespad=0.0,
        labelspacing=0.35,
        handlelength=1.7,
        columnspacing=1.0,
        handletextpad=0.5,
    )


def _entries(axes: Sequence[Axes]) -> dict[str, Any]:
    """`{label: artist}`, each label once."""
    pairs = [ax.get_legend_handles_labels() for ax in axes]
    return {label: handle for handles, labels in pairs for handle, label in zip(handles, labels)}
