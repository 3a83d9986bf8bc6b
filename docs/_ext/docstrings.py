"""Docstrings as reStructuredText: theirs have Google sections, `code` in single backticks and $mathematics$.

Connected to autodoc before napoleon, which then reads the sections.
"""

import importlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

SPANS = re.compile(
    r"``.+?``|`(?P<code>[^`]+)`|(?P<indent>[ ]*)\$\$(?P<block>[^$]+)\$\$|\$(?P<math>[^$]+)\$"
    r"|\[(?P<text>[^]\[`]+)\]\((?P<url>https?://[^)]+)\)"
)
FENCE = re.compile(r"^(\s*)```(\w*)\s*$")
ROW = re.compile(r"^(\s*)\|(.*)\|\s*$")
ITEM = re.compile(r"^\s*([-*]|\d+\.) ")


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    app.setup_extension("sphinx.ext.autodoc")
    homes = public_homes()
    app.connect("autodoc-process-docstring", lambda *event: convert(event[-1], homes), priority=400)
    app.connect("autodoc-process-signature", lambda *event: tuple(map(plain_types, event[-2:])))
    return {"parallel_read_safe": True}


def plain_types(signature: str | None) -> str | None:
    """A signature or type with `Array` for the class that it is today, functions by name, and short names of types."""
    if signature is None:
        return None
    signature = re.sub(r"<(?:PjitFunction of <)?function (\w+)(?: at \w+)?>+", r"\1", signature)
    signature = re.sub(r"(jax\.)?jaxlib\._jax\.Array", "Array", signature)
    return re.sub(r"~|collections\.abc\.(?=[A-Z])", "", signature)


def public_homes() -> dict[str, str]:
    """Where each name of `landscape` is documented: `{"Grid": "landscape.grid.Grid"}`."""
    landscape: Any = importlib.import_module("landscape")
    homes = {name: f"landscape.{module}.{name}" for name, module in landscape._HOME.items()}
    return homes | {name: f"landscape.{name}" for name in landscape._MODULES}


def convert(lines: list[str], homes: Mapping[str, str]) -> None:
    """Turn the lines of a docstring into reStructuredText, in place."""
    lines[:] = list(_blocks(_tables(lines), homes))


def _blocks(lines: Iterable[str], homes: Mapping[str, str]) -> Iterator[str]:
    """Prose is converted; fenced code is indented; doctests stay as they are."""
    prose: list[str] = []
    fence: str | None = None
    doctest = False
    for line in lines:
        opening = FENCE.match(line)
        doctest = bool(line.strip()) and (doctest or line.lstrip().startswith(">>>"))
        if not (opening or doctest or fence is not None):
            prose.append(line)
            continue
        yield from _prose(prose, homes)
        prose = []
        if opening is None:
            yield line if fence is None else f"    {line}"
        elif fence is None:
            fence = opening[1]
            yield from (f"{fence}.. code-block:: {opening[2] or 'text'}", "")
        else:
            fence = None
            yield ""
    yield from _prose(prose, homes)


def _prose(lines: list[str], homes: Mapping[str, str]) -> list[str]:
    """Spans may cross lines, so the lines are converted as one text."""
    text, done, parts = "\n".join(lines), 0, []
    for span in SPANS.finditer(text):
        parts += [_escaped(text[done : span.start()]), _span(span, text[span.end() : span.end() + 1], homes)]
        done = span.end()
    text = "".join([*parts, _escaped(text[done:])])
    return list(_spaced(text.split("\n"))) if lines else []


def _span(span: re.Match[str], following: str, homes: Mapping[str, str]) -> str:
    end = r"\ " if following.isalnum() else ""
    if span["block"]:
        return f"\n{span['indent']}.. math:: {' '.join(span['block'].split())}\n"
    if span["math"]:
        return f":math:`{span['math']}`{end}"
    if span["url"]:
        return f"`{span['text']} <{span['url']}>`__{end}"
    if not span["code"]:
        return span[0]
    code = " ".join(span["code"].split())
    if code in homes:
        return f":py:obj:`{code} <{homes[code]}>`{end}"
    return f"``{code}``{end}"


def _escaped(prose: str) -> str:
    """What would be markup in reStructuredText and is none here: bars around a norm, and names with a final `_`."""
    return re.sub(r"(?<=\w)_(?!\w)", r"\\_", prose.replace("|", r"\|"))


def _tables(lines: Iterable[str]) -> Iterator[str]:
    """Tables of `| cell | cell |` as list-tables; the line of dashes below the first row makes it a header."""
    inside = False
    for line in lines:
        row = ROW.match(line)
        if row is None:
            yield line
        elif not inside:
            yield from ("", f"{row[1]}.. list-table::", f"{row[1]}   :header-rows: 1", "")
        inside = row is not None
        if row and not set(row[2]) <= set("-:| "):
            first, *others = (cell.strip() for cell in row[2].split("|"))
            yield from (f"{row[1]}   * - {first}", *(f"{row[1]}     - {cell}" for cell in others))


def _spaced(lines: Iterable[str]) -> Iterator[str]:
    """An empty line before a list and after what is indented, which Markdown and the eye do not need."""
    before = ""
    for line in lines:
        starts = ITEM.match(line) and not ITEM.match(before)
        if before.strip() and line.strip() and (starts or _indent(line) < _indent(before)):
            yield ""
        yield line
        before = line


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
