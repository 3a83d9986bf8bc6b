"""Mathematics as MathML, which browsers draw by themselves: the pages need no script and no network."""

import re
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.util import logging

ALIASES = {r"\dots": r"\ldots", r"\lVert": r"\|", r"\rVert": r"\|"}  # which docutils does not know

log = logging.getLogger(__name__)


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_block, None))
    return {"parallel_read_safe": True}


def mathml(latex: str, *, block: bool = False) -> str:
    """The formula as a `<math>` element.

    Raises:
        docutils.utils.math.MathError: LaTeX that docutils cannot translate.
    """
    latex = re.sub(r"\\[A-Za-z]+", lambda command: ALIASES.get(command[0], command[0]), latex)
    return latex2mathml.tex2mathml(latex, as_block=block)


def _inline(translator: Any, node: Any) -> None:
    translator.body.append(_drawn(node, block=False))
    raise nodes.SkipNode


def _block(translator: Any, node: Any) -> None:
    """A displayed formula, with an anchor where it has a label."""
    anchor = f' id="{node["ids"][0]}"' if node.get("ids") else ""
    translator.body.append(f'<div class="math"{anchor}>{_drawn(node, block=True)}</div>\n')
    raise nodes.SkipNode


def _drawn(node: Any, *, block: bool) -> str:
    try:
        return mathml(node.astext(), block=block)
    except MathError as error:
        log.warning("%s in the formula %s", error, node.astext(), location=node)
        return ""
