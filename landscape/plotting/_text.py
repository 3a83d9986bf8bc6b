"""Texts of a figure: characters that LaTeX would stop at, and lines that are too long for their place."""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import matplotlib
from matplotlib.axes import Axes
from matplotlib.cbook import is_math_text
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text
from matplotlib.textpath import text_to_path

# Shares of the place of some axes in their figure that a text may fill; what is left is for ticks and colour bars.
ALONG_X, ALONG_Y, SOLID, INSIDE = 0.85, 0.72, 0.45, 0.62
SHRINK, MOST_ATTEMPTS = 0.85, 10  # how much narrower, and how often, the lines of a text become that sticks out
LEAST_SIZE, LEAST_SHARE = 4.0, 0.6  # points, and of the room at first
HANDLE = 3.2  # width of the handle of a legend entry, in units of the font size
UNICODE = {
    "→": r"$\rightarrow$",
    "←": r"$\leftarrow$",
    "±": r"$\pm$",
    "\N{MINUS SIGN}": "$-$",
    "<": "$<$",
    ">": "$>$",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
}

_BROKEN: WeakKeyDictionary[Text, tuple[str, str]] = WeakKeyDictionary()  # texts with broken lines: before, after


def as_latex(text: str) -> str:
    r"""A text that LaTeX sets as it stands: `37.1 %` is `37.1 \%`. Formulas and what is escaped already stay.

    As in matplotlib, dollars that come in pairs enclose a formula, and others are dollars.
    """
    pieces = re.split(r"(?<!\\)\$", text)
    if len(pieces) % 2 == 0:
        return _escaped(r"\$".join(pieces))
    outside, inside = [_escaped(piece) for piece in pieces[::2]], [_escaped(p, "%#&") for p in pieces[1::2]]
    return outside[0] + "".join(f"${formula}${after}" for formula, after in zip(inside, outside[1:]))


def _escaped(text: str, characters: str = "%#&_") -> str:
    text = re.sub(rf"(?<!\\)([{characters}])", r"\\\1", text)
    if "_" in characters:
        text = "".join(UNICODE.get(character, character) for character in text)
    return text


def as_name(name: str) -> str:
    """A name that is to stand beside formulas: a single dollar is a dollar, and starts none."""
    return name if len(re.findall(r"(?<!\\)\$", name)) % 2 == 0 else re.sub(r"(?<!\\)\$", r"\\$", name)


def shortened(text: str, lines: int) -> str:
    """The first lines of a text, with dots where there are more."""
    kept = text.split("\n")[:lines]
    return text if text.count("\n") < lines else "\n".join([*kept[:-1], kept[-1][:-1] + "…"])


def width(text: str, font: FontProperties) -> float:
    """Width of a line in points."""
    try:
        return float(text_to_path.get_text_width_height_descent(text, font, bool(is_math_text(text)))[0])
    except (ValueError, RuntimeError):  # a formula that only LaTeX knows
        return 0.5 * len(text) * font.get_size_in_points()


def wrapped(text: str, font: FontProperties, room: float) -> str:
    """The text with line breaks, so that no line is wider than so many points; formulas stay whole."""
    size = font.get_size_in_points()
    lines = text.split("\n")
    if all(len(line) * size < room or width(line, font) <= room for line in lines):
        return text
    return "\n".join(part for line in lines for part in _lines(line, font, room))


def _lines(line: str, font: FontProperties, room: float) -> Iterator[str]:
    current = ""
    for word in _words(line, font, room):
        if current.strip() and width((current + word).strip(), font) > room:
            yield current.strip()
            current = ""
        current += word
    yield current.strip()


def _words(line: str, font: FontProperties, room: float) -> Iterator[str]:
    """Pieces of a line that may stand on different lines, each with the space before it."""
    # a formula is a piece of a word; \x is one character
    for word in re.findall(r"\s*(?:(?<!\\)\$[^$]*\$|\\.|[^\s])+|\s+$", line):
        if width(word.strip(), font) <= room:
            yield word
            continue
        piece = ""
        for character in re.findall(r"(?<!\\)\$[^$]*\$|\\.|.", word):
            if piece.strip() and width((piece + character).strip(), font) > room:
                yield piece
                piece = ""
            piece += character
            if character in "_-./,:;)" and width(piece.strip(), font) > 0.5 * room:
                yield piece
                piece = ""
        yield piece


def tidy_axes(ax: Axes) -> None:
    """Break the lines of these axes that are too long for their place, and escape them where LaTeX sets them."""
    for text, room in _rooms(ax).items():
        tidy_text(text, room)
    if matplotlib.rcParams["text.usetex"]:
        _escape_others(ax)


def _rooms(ax: Axes) -> dict[Text, float]:
    """How many points the lines of each text may be long."""
    across, up = place_of(ax)
    solid = ax.name == "3d"
    along_x = (SOLID if solid else ALONG_X) * across
    rooms: dict[Text, float] = {}
    children: list[Any] = [ax, *ax.child_axes]
    for child in children:
        rooms |= {child.xaxis.label: along_x, child.yaxis.label: along_x if solid else ALONG_Y * up}
        titles = [a for a in child.get_children() if isinstance(a, Text) and a not in child.texts]
        rooms |= dict.fromkeys(titles, ALONG_X * across)
        legend = child.get_legend()
        for text in [] if legend is None else legend.get_texts():
            inside = legend.get_bbox_to_anchor() is child.bbox
            rooms[text] = (INSIDE if inside else 1.0) * across - HANDLE * text.get_fontsize()
    height: Any = getattr(ax, "zaxis", None)
    return rooms if height is None else {**rooms, height.label: ALONG_Y * up}


def _escape_others(ax: Axes) -> None:
    """Texts in the picture, and the labels of which a later legend is made."""
    for text in ax.texts:
        text.set_text(as_latex(text.get_text()))
    for artist in (*ax.lines, *ax.collections, *ax.patches):
        label = str(artist.get_label())
        if not label.startswith("_"):
            artist.set_label(as_latex(label))


def tidy_figure(figure: Figure) -> None:
    """The same for the title and the labels of a figure."""
    across = figure.get_figwidth() * 72
    for text in figure.texts:
        tidy_text(text, 0.97 * across)


def tidy_text(text: Text, room: float) -> None:
    """Break the lines of a text that are wider than so many points, and escape them where LaTeX sets them."""
    source = _source(text) or text.get_text()
    new = wrapped(source, text.get_fontproperties(), room)
    if new != source:
        _BROKEN[text] = source, new
    new = as_latex(new) if text.get_usetex() else new
    if new != text.get_text():
        text.set_text(new)


def _source(text: Text) -> str | None:
    """What a text was before its lines were broken, unless somebody has changed it since."""
    source, shown = _BROKEN.get(text, (None, None))
    return source if text.get_text() in (shown, as_latex(shown or "")) else None


def fit(axes: Iterable[Axes], draw: Callable[[], bool]) -> None:
    """Break the lines that were broken already once more, and make them smaller, until they lie in the figure.

    Where a text lies is known only once it is drawn, and the layout makes room for the texts.

    Args:
        axes: with the texts.
        draw: makes the layout and draws all texts, unseen; False if they leave no room for the picture.
    """
    rooms = {text: room for ax in axes for text, room in _rooms(ax).items() if text in _BROKEN}
    least = {text: LEAST_SHARE * room for text, room in rooms.items()}
    for attempt in range(MOST_ATTEMPTS if rooms else 0):
        has_room = draw()
        outside = [text for text in rooms if not has_room or _sticks_out(text)]
        if not outside:
            return
        for text in outside:
            if has_room:
                rooms[text] = max(least[text], SHRINK * rooms[text])
            if attempt % 2 or not has_room or rooms[text] == least[text]:
                text.set_fontsize(max(LEAST_SIZE, SHRINK * float(text.get_fontsize())))
            tidy_text(text, rooms[text])


def _sticks_out(text: Text) -> bool:
    figure: Any = text.get_figure(root=True)
    box, outer = text.get_window_extent(), figure.bbox
    return box.x0 < outer.x0 or box.y0 < outer.y0 or box.x1 > outer.x1 or box.y1 > outer.y1


def place_of(ax: Axes) -> tuple[float, float]:
    """Width and height in points of the place in the figure that belongs to some axes."""
    figure: Any = ax.figure
    across, up = (72 * side / figure.dpi for side in (figure.bbox.width, figure.bbox.height))
    spec = ax.get_subplotspec()
    if spec is None:
        return across, up
    rows, columns = spec.get_gridspec().get_geometry()
    return across * len(spec.colspan) / columns, up * len(spec.rowspan) / rows
