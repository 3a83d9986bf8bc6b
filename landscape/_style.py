"""What all views share: the styles, the reserved colours, outlines, legends and the files of a figure."""

import contextlib
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.transforms import ScaledTranslation

# Reserved for points without a value: neither viridis nor RdBu has a magenta or a mid grey.
NOT_FINITE = "#e0218a"
NOT_COMPUTED = "#c4c4c4"

# Okabe & Ito (2008), darkest first; yellow is left out since it vanishes on paper.
CYCLE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
# Paths over a colour map: warm colours, which viridis lacks, then white and black.
PATH_CYCLE = ("#ff5a36", "#ffffff", "#ffb000", "#ff8fd0", "#000000")

PAPER = {
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
    "axes.prop_cycle": matplotlib.cycler(color=CYCLE),
}
STYLES = {"paper": PAPER}


@contextlib.contextmanager
def style(name: str) -> Iterator[None]:
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
        if isinstance(value, Mapping):
            raise TypeError(f"meta must be flat, but {name!r} is a mapping: join its names, as in {name}.key")
    return {str(name): str(value) for name, value in meta.items()}


def _pdf_entries(text: Mapping[str, str]) -> dict[str, str]:
    entries = {"Keywords": "; ".join(f"{name}={value}" for name, value in text.items())}
    entries["Subject"] = text.get("Subject", "")
    return {name: value for name, value in entries.items() if value}


def new_axes(**options: Any) -> Axes:
    """Axes of a new figure with constrained layout."""
    from matplotlib import pyplot as plt

    return plt.subplots(layout="constrained", subplot_kw=options)[1]


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


def legend_below(ax: Axes) -> None:
    """A legend of all labelled artists under the x label, where it hides no data."""
    handles, labels = ax.get_legend_handles_labels()
    if not handles:
        return
    axis, tick = ax.xaxis, ax.xaxis.get_ticklabels()
    tick_height = tick[0].get_size() if tick else 0
    points = axis.get_tick_padding() + 1.3 * tick_height + axis.labelpad + 1.5 * axis.label.get_size()
    shift = ScaledTranslation(0, -points / 72, ax.get_figure(root=True).dpi_scale_trans)
    ax.legend(
        handles,
        labels,
        loc="upper center",
        bbox_to_anchor=(0.5, 0),
        bbox_transform=ax.transAxes + shift,
        ncols=1 if max(map(len, labels)) > 30 else math.ceil(len(labels) / math.ceil(len(labels) / 2)),
        frameon=False,
        borderpad=0.2,
        columnspacing=1.2,
        handletextpad=0.4,
    )
