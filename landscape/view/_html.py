"""The one file that a page is: its parts put together, under a content security policy that allows nothing else."""

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import Any

SCRIPTS = ("numbers.js", "scale.js", "fields.js", "map.js", "plots.js", "legend.js", "path.js", "files.js", "app.js")
INLINE = 1000  # characters of packed data that stay where they are used; longer ones are blocks of their own


def html(content: dict[str, Any], last: Sequence[str] = ("start.js",), address: str = "") -> str:
    """The page of some content, as `_content` describes it.

    Args:
        content: plain JSON data.
        last: the scripts that start it.
        address: the one that it may connect to, if any.
    """
    blocks: list[str] = []
    moved = _moved(content, blocks)
    plotly, script = _as_parsed(plotly_js()), _as_parsed(script_of(*last))
    parts = {
        "POLICY": _policy(plotly, script) + (f"; connect-src {address}" if address else ""),
        "STYLE": static("page.css"),
        "CONTENT": json.dumps(moved, ensure_ascii=True, allow_nan=False).replace("<", "\\u003c"),
        "BLOCKS": "\n".join(_blocks(blocks)),
        "PLOTLY": plotly,
        "SCRIPT": script,
    }
    pieces = static("page.html").split("@")  # a part is put in once, whatever it holds
    return "".join(parts.get(piece, piece) if i % 2 else piece for i, piece in enumerate(pieces))


def script_of(*last: str) -> str:
    """The scripts of a page, then the last ones, as one script with a scope of its own."""
    return f'"use strict";\n{{\n{_joined(*last)}\n}}\n'


def module_of(*last: str) -> str:
    """The same as a module, whose last script exports something."""
    return _joined(*last)


def _joined(*last: str) -> str:
    return "\n".join(static(name) for name in (*SCRIPTS, *last))


def static(name: str) -> str:
    """The text of a file that comes with this package."""
    return files("landscape.view").joinpath("static", name).read_text(encoding="utf-8")


def plotly_js() -> str:
    """The source of plotly.js, from the installed distribution.

    Raises:
        ImportError: there is none.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ImportError("a page needs plotly 6 or later: pip install 'loss-atlas[view]'") from error
    return get_plotlyjs()


def _moved(value: Any, blocks: list[str]) -> Any:
    """The content with long data replaced by the numbers of blocks, so that no text is parsed that is not looked at."""
    if isinstance(value, list | tuple):
        return [_moved(one, blocks) for one in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"type", "shape", "data"} and len(value["data"]) > INLINE:
        blocks.append(value["data"])
        return {"type": value["type"], "shape": value["shape"], "block": len(blocks) - 1}
    return {key: _moved(one, blocks) for key, one in value.items()}


def _blocks(blocks: list[str]) -> Iterator[str]:
    for number, data in enumerate(blocks):
        yield f'<script type="application/octet-stream" id="block-{number}">{data}</script>'


def _as_parsed(script: str) -> str:
    """A script as the browser sees it, whose hash must fit: with line feeds alone, and nothing that ends it early."""
    script = script.replace("\r\n", "\n").replace("\r", "\n")
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _policy(*scripts: str) -> str:
    """Nothing but these scripts, inline styles, and pictures that the page makes itself."""
    digests = (hashlib.sha256(script.encode("utf-8")).digest() for script in scripts)
    allowed = " ".join(f"'sha256-{base64.b64encode(digest).decode('ascii')}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
