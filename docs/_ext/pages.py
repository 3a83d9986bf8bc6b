"""The pages that follow from other files: the tour, the experiments, the gallery and the API.

`write(root)` is called by `conf.py` before Sphinx reads anything. A page is only written when it has changed, so that a
second build is quick. Figures are taken from `docs/figures/NAME.png` (and `NAME_*.png`), closing tables from
`docs/tables/NAME.txt`, where they are there; of each `docs/landscapes/NAME.zarr` a page to look around in is made,
which Sphinx copies as it is.
"""

import ast
import importlib
import importlib.util
import inspect
import re
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from docstrings import plain_types

NOT_LISTED = {"__init__", "__main__", "checks"}  # the last is for the package itself
FIGURES = {"surface": ["summary"]}  # where a figure has another name than its experiment
LOOK = {  # titles of the saved landscapes, in their order
    "surface": "The loss of a network on the digits, on a random plane through its weights",
    "paths": "Adam and gradient descent from one start, in their common plane",
    "over_time": "The plane through each step of a training, with a slider for the step",
    "basins": "Where gradient descent ends on Himmelblau's function",
    "learning_rates": "Learning rates and sizes of weights at which a small network trains",
    "himmelblau": "Himmelblau's function",
}
GROUPS = {
    "Describe": ("objective", "grid", "point", "subspace", "moving", "losses", "problems", "bridges"),
    "Evaluate": ("engine", "maps", "training", "recording", "store", "adaptive", "affine", "placement"),
    "Measure": ("curvature", "minima", "paths", "reach", "reporting", "analysis"),
    "Show": ("plotting", "view", "export", "cli"),
}


def write(root: Path) -> None:
    """Write all pages below `root/docs`."""
    docs = root / "docs"
    pages = {**tour(root), **experiments(root), **api(root), **look(root)}
    for folder in ("tour", "experiments", "api", "look/look"):
        (docs / folder).mkdir(parents=True, exist_ok=True)
        for old in (docs / folder).glob("*"):
            if old.is_file() and f"{folder}/{old.name}" not in pages:
                old.unlink()
    for name, text in pages.items():
        page = docs / name
        if not page.is_file() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


# ------------------------------------------------------------------------------------------------------------ tour


def tour(root: Path) -> dict[str, str]:
    """The notebooks, with links that fit their new place."""
    import jupytext

    pages = {}
    for script in sorted((root / "notebooks").glob("[0-9]*.py")):
        notebook = jupytext.read(script, fmt="py:percent")
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        for number, cell in enumerate(notebook.cells):
            cell["id"] = f"cell-{number}"  # random by default, which would make every build a new page
            if cell.cell_type == "markdown":
                cell.source = _moved(cell.source)
        pages[f"tour/{script.stem}.ipynb"] = jupytext.writes(notebook, fmt="ipynb")
    return pages


def _moved(markdown: str) -> str:
    """Links of `notebooks/` as links of `docs/tour/`."""
    markdown = re.sub(r"\]\(\.\./docs/", "](../", markdown)
    markdown = re.sub(r"\]\(\.\./experiments/(\w+)\.py\)", r"](../experiments/\1.md)", markdown)
    return re.sub(r"\]\((\d\d_\w+)\.py\)", r"](\1.ipynb)", markdown)


# ----------------------------------------------------------------------------------------------------- experiments


def experiments(root: Path) -> dict[str, str]:
    """A page for each experiment, and the gallery of their pictures."""
    scripts = sorted(script for script in (root / "experiments").glob("*.py") if not script.stem.startswith("_"))
    names = [script.stem for script in scripts]
    pages, tiles = {}, []
    for script in scripts:
        question, body = docstring_of(script)
        figures = _figures(root / "docs" / "figures", script.stem, names)
        table = root / "docs" / "tables" / f"{script.stem}.txt"
        pages[f"experiments/{script.stem}.md"] = _experiment_page(script.stem, question, body, figures, table)
        tiles += [_tile(script.stem, question, figure) for figure in figures]
    pages["experiments/gallery.md"] = _gallery_page(tiles, _landscapes(root))
    return pages


def docstring_of(script: Path) -> tuple[str, str]:
    """The first paragraph of a module's docstring, which is a question, on one line; and the rest."""
    text = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or script.stem
    question, _, body = text.partition("\n\n")
    return " ".join(question.split()), body


def _figures(folder: Path, name: str, names: list[str]) -> list[str]:
    """Files of `NAME.png` and `NAME_*.png`, without those of an experiment whose longer name starts alike."""
    longer = [other for other in names if other.startswith(f"{name}_")]
    found = [folder / f"{stem}.png" for stem in (name, *FIGURES.get(name, []))] + sorted(folder.glob(f"{name}_*.png"))
    return [f.name for f in found if f.is_file() and not any(f.stem.startswith(other) for other in longer)]


def _experiment_page(name: str, question: str, body: str, figures: list[str], table: Path) -> str:
    pictures = "\n\n".join(f"![{question}](../figures/{figure})" for figure in figures)
    found = ""
    if table.is_file():
        found = f"## Expected and found\n\n```text\n{table.read_text(encoding='utf-8').rstrip()}\n```"
    commands = f"python experiments/{name}.py          # results and figures go to results/{name}/\n"
    commands += f"python experiments/{name}.py --smoke  # a tiny version, in seconds"
    source = f":::{{literalinclude}} ../../experiments/{name}.py\n:language: python\n:::"
    parts = [
        f"# {question}",
        pictures,
        body,
        f"```console\n{commands}\n```",
        found,
        "How all experiments compare with what was published: [expected beside found](../experiments.md).",
        f"<details><summary>The script, <code>experiments/{name}.py</code></summary>\n\n{source}\n\n</details>",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _tile(name: str, question: str, figure: str) -> str:
    return f":::{{figure}} ../figures/{figure}\n:target: {name}.html\n:alt: {question}\n\n[{question}]({name}.md)\n:::"


def _gallery_page(tiles: list[str], landscapes: list[Path]) -> str:
    intro = "Each picture answers a question. A click leads to how it was asked, what was expected and what was found."
    shown = [f'<a href="../look/{one.stem}.html">{LOOK.get(one.stem, one.stem)}</a>' for one in landscapes]
    items = "\n".join(f"<li>{one}</li>" for one in shown)
    look = (
        [f"## To look around in\n\nPages with the values themselves, of 5 MB each:\n\n<ul>\n{items}\n</ul>"]
        if shown
        else []
    )
    return "\n\n".join(["# Gallery", intro, *look, "## Pictures", "::::{container} gallery", *tiles, "::::"]) + "\n"


def _landscapes(root: Path) -> list[Path]:
    """The saved landscapes, where pages can be made of them."""
    if importlib.util.find_spec("plotly") is None:
        return []
    return sorted((root / "docs" / "landscapes").glob("*.zarr"), key=lambda one: [*LOOK, one.stem].index(one.stem))


def look(root: Path) -> dict[str, str]:
    """A page to look around in for each saved landscape."""
    from landscape import load, view

    pages = {one.stem: view.page(load(one), title=LOOK.get(one.stem)) for one in _landscapes(root)}
    return {f"look/look/{name}.html": text for name, text in pages.items()}


# ------------------------------------------------------------------------------------------------------------- API


def api(root: Path) -> dict[str, str]:
    """A page for each public module, and an index of the names of `landscape` itself."""
    found = {p.stem for p in (root / "landscape").iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()}
    public = {name for name in found - NOT_LISTED if not name.startswith("_")}
    listed = [name for names in GROUPS.values() for name in names]
    if unlisted := public - set(listed):
        raise ValueError(f"docs/_ext/pages.py does not say where these modules belong: {sorted(unlisted)}")
    modules = {name: importlib.import_module(f"landscape.{name}") for name in listed if name in public}
    pages = {f"api/{name}.md": _api_page(module) for name, module in modules.items()}
    return {**pages, "api/index.md": _api_index(modules)}


def _api_page(module: types.ModuleType) -> str:
    """Module docstring first, then every public name in the order of the source."""
    directives = [f".. automodule:: {module.__name__}", "   :no-members:", ""]
    for name in public_names(module):
        directives += [*_directive(module.__name__, name, getattr(module, name)), ""]
    return "\n".join([f"# `{module.__name__}`", "", "```{eval-rst}", *directives, "```", ""])


def public_names(module: types.ModuleType) -> list[str]:
    """`__all__`, or what the module itself defines without an underscore."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    own = [n for n, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
    return [name for name in own if not name.startswith("_")]


def _directive(module: str, name: str, value: Any) -> list[str]:
    full = f"{module}.{name}"
    if inspect.isclass(value):
        return [f".. autoclass:: {full}", "   :members:"]
    if not inspect.isroutine(value):
        return [f".. py:data:: {full}", "", f"   {_about(value)}"]
    if not value.__module__.startswith("landscape"):  # another package's docstring follows other rules
        names = ", ".join(inspect.signature(value).parameters)
        return [f".. py:function:: {full}({names})", "", f"   {_about(value)}"]
    return [f".. autofunction:: {full}"]


def _about(value: Any) -> str:
    """What a value is that has no docstring of ours: its own name and source, or its value."""
    if inspect.isroutine(value):
        return f"That of ``{value.__module__.split('.')[0]}``: {_summary(value)}"
    if hasattr(value, "source"):  # a function whose critical points are known
        return f"{value.name}, a ``{type(value).__name__}``. {value.source}".rstrip(".") + "."
    if isinstance(value, Mapping):
        return "By name: " + ", ".join(f"``{key}``" for key in value) + "."
    return f"``{plain_types(repr(value))}``"


def _api_index(modules: dict[str, types.ModuleType]) -> str:
    landscape: Any = importlib.import_module("landscape")
    rows = [
        f"| {{py:obj}}`landscape.{name} <landscape.{home}.{name}>` | {_summary(getattr(landscape, name))} |"
        for name, home in landscape._HOME.items()
    ]
    lines = ["# API", "", _API_INTRO, "", "| name | what it is |", "|---|---|", *rows, "", "## Modules", ""]
    for group, names in GROUPS.items():
        here = [name for name in names if name in modules]
        lines += [f"**{group}**", ""]
        lines += [f"- [`landscape.{name}`]({name}.md): {_summary(modules[name])}" for name in here] + [""]
    order = [name for names in GROUPS.values() for name in names if name in modules]
    return "\n".join([*lines, ":::{toctree}", ":hidden:", *order, ":::", ""])


_API_INTRO = """A point function says what to measure at given coordinates, `sweep` evaluates it over a grid, a labelled
`Landscape` comes back. These names are in `landscape` itself; everything else is in a module."""


def _summary(documented: Any) -> str:
    """The first sentence of a docstring, on one line."""
    first = (inspect.getdoc(documented) or "").split("\n\n")[0]
    return " ".join(first.split()).replace("|", r"\|")
