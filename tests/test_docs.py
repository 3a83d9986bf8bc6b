"""The docs: links lead somewhere, every public name and experiment has its page, Sphinx builds without a warning."""

import html.parser
import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from landscape import load

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
WRITTEN = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.py"))
MADE = ("tour", "api", "experiments", "look")  # folders of docs/ that a build writes

sys.path.insert(0, str(DOCS / "_ext"))
import docstrings  # noqa: E402
import pages  # noqa: E402

# --------------------------------------------------------------------------------------------- links in the sources


def markdown_of(path):
    """The Markdown of a page, or of a notebook's text, without code."""
    text = path.read_text()
    if path.suffix == ".py":
        text = "\n".join(line[2:] for line in text.splitlines() if line.startswith("# "))
    return re.sub(r"(?ms)^```.*?^```|`[^`\n]+`", "", text)


def anchors_of(path):
    """Anchors of the headings, as GitHub and MyST make them."""
    headings = re.findall(r"(?m)^#+ (.*)$", re.sub(r"(?ms)^```.*?^```", "", path.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", [*WRITTEN, *NOTEBOOKS], ids=lambda path: path.name)
def test_relative_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", markdown_of(path)):
        link = urlsplit(target)
        if link.scheme or not (link.path or link.fragment):
            continue
        page = (path.parent / unquote(link.path)).resolve() if link.path else path
        if page.parent.parent == DOCS and page.parent.name in MADE:
            assert_will_be_made(page)
            continue
        assert page.exists(), f"{path.name} links to {target}"
        assert not link.fragment or link.fragment in anchors_of(page), f"{path.name} links to {target}"


def assert_will_be_made(page):
    """A page of the build stands for a notebook, an experiment or a module."""
    source = {
        "tour": ROOT / "notebooks" / f"{page.stem}.py",
        "experiments": ROOT / "experiments" / f"{page.stem}.py",
        "api": ROOT / "landscape" / f"{page.stem}.py",
    }[page.parent.name]
    assert source.exists() or page.stem in ("gallery", "index"), f"no page {page} will be made"


def test_links_of_notebooks_follow_them_into_the_docs():
    moved = pages._moved("[a](02_b.py) [c](../docs/d.md) [e](../experiments/f.py) [g](https://h.py)")
    assert moved == "[a](02_b.ipynb) [c](../d.md) [e](../experiments/f.md) [g](https://h.py)"


# -------------------------------------------------------------------------------------------------------- docstrings


def converted(text, homes=()):
    lines = text.split("\n")
    docstrings.convert(lines, dict(homes))
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("markdown", "restructured"),
    [
        ("a `name` of", "a ``name`` of"),
        ("the `Grid`s", r"the :py:obj:`Grid <landscape.grid.Grid>`\ s"),
        ("over $n^2$ points", "over :math:`n^2` points"),
        ("`code` over\n`two\nlines`", "``code`` over\n``two lines``"),
        ("the norm |g| of x_", r"the norm \|g\| of x\_"),
        ("see [that](https://x.org/y_z)", "see `that <https://x.org/y_z>`__"),
        ("before:\n- one\n- two", "before:\n\n- one\n- two"),
        ("```python\nx = `1`\n```", ".. code-block:: python\n\n    x = `1`\n"),
        ("```\nif a:\n    b\nc\n```", ".. code-block:: text\n\n    if a:\n        b\n    c\n"),
        (">>> f(`x`) | $y$\n3", ">>> f(`x`) | $y$\n3"),
        ("$$a = b$$", "\n.. math:: a = b\n"),
        (
            "| a | b |\n|---|---|\n| 1 | 2 |",
            "\n.. list-table::\n   :header-rows: 1\n\n   * - a\n     - b\n\n   * - 1\n     - 2",
        ),
    ],
)
def test_docstrings_become_restructured_text(markdown, restructured):
    assert converted(markdown, {"Grid": "landscape.grid.Grid"}) == restructured


def test_signatures_are_plain():
    raw = "(f: ~collections.abc.Callable[[~jax.jaxlib._jax.Array], int] = <PjitFunction of <function tanh>>)"
    assert docstrings.plain_types(raw) == "(f: Callable[[Array], int] = tanh)"
    assert docstrings.plain_types("(g=<function relu at 0x7f00>)") == "(g=relu)"
    assert docstrings.plain_types(None) is None


def test_formulas_are_drawn_without_a_script():
    pytest.importorskip("sphinx")
    mathml = importlib.import_module("mathml")
    drawn = mathml.mathml(r"\dots \lVert x \rVert^2")
    assert drawn.startswith("<math")
    assert "<mi>x</mi>" in drawn


# ---------------------------------------------------------------------------------------------------- generated pages


def test_every_public_module_and_name_has_its_place():
    import landscape

    made = pages.api(ROOT)
    for name, module in landscape._HOME.items():
        assert f":: landscape.{module}.{name}" in made[f"api/{module}.md"], name
    for module in landscape._MODULES:
        text = made[f"api/{module}.md"]
        for name in pages.public_names(getattr(landscape, module)):
            assert text.count(f":: landscape.{module}.{name}\n") + text.count(f":: landscape.{module}.{name}(") == 1


def test_every_experiment_has_a_page_with_its_question():
    made = pages.experiments(ROOT)
    for script in (ROOT / "experiments").glob("[a-z]*.py"):
        question, _ = pages.docstring_of(script)
        assert question.endswith(("?", ".")), f"{script.name} begins with its question"
        assert made[f"experiments/{script.stem}.md"].startswith(f"# {question}\n")


@pytest.fixture
def two_experiments(tmp_path):
    """A repository with two experiments, one of whose names begins with the other's."""
    for folder in ("experiments", "docs/figures", "docs/tables"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "experiments" / "fall.py").write_text('"""Does it\nfall?\n\nExpected: yes.\n"""\n')
    (tmp_path / "experiments" / "fall_slow.py").write_text('"""How slowly?"""\n')
    (tmp_path / "experiments" / "_lab.command.py").write_text('"""Not an experiment."""\n')
    for name in ("fall", "fall_zoom", "fall_slow", "other"):
        (tmp_path / "docs" / "figures" / f"{name}.png").touch()
    (tmp_path / "docs" / "tables" / "fall.txt").write_text("what  expected  found\nfall  yes  yes\n\n")
    return tmp_path


def test_an_experiment_shows_its_own_figures_and_its_table(two_experiments):
    made = pages.experiments(two_experiments)
    assert set(made) == {"experiments/fall.md", "experiments/fall_slow.md", "experiments/gallery.md"}
    page = made["experiments/fall.md"]
    assert page.startswith("# Does it fall?\n")
    assert re.findall(r"figures/(\w+\.png)", page) == ["fall.png", "fall_zoom.png"]
    assert "```text\nwhat  expected  found\nfall  yes  yes\n```" in page
    assert "Expected: yes." in page
    assert "## Expected and found" not in made["experiments/fall_slow.md"]
    assert re.findall(r"figures/(\w+\.png)", made["experiments/gallery.md"]) == [
        "fall.png",
        "fall_zoom.png",
        "fall_slow.png",
    ]


# -------------------------------------------------------------------------------------------------------- the build


class Links(html.parser.HTMLParser):
    """Where a page leads to, what it loads, and its anchors."""

    def __init__(self, page):
        super().__init__()
        self.leads, self.loads, self.anchors = set(), set(), set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.anchors |= {found[name] for name in ("id", "name") if found.get(name)}
        if tag == "a" and found.get("href"):
            self.leads.add(found["href"])
        if tag in ("img", "script") and found.get("src"):
            self.loads.add(found["src"])
        if tag == "link" and found.get("href"):
            self.loads.add(found["href"])


def build(folder, *options):
    """The docs, built from a copy, so that the checkout stays as it is."""
    for package in ("furo", "myst_nb", "sphinx"):
        pytest.importorskip(package, reason="the docs need the extra 'docs'")
    ignored = shutil.ignore_patterns("_build", "__pycache__", *MADE)
    shutil.copytree(DOCS, folder / "docs", ignore=ignored)
    for name in ("landscape", "experiments", "notebooks"):
        (folder / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", *options, "docs", "docs/_build/html"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, "MPLBACKEND": ""})
    assert done.returncode == 0, done.stderr[-4000:]
    return folder / "docs" / "_build" / "html"


def check_pages(site):
    """Every internal link has a target and an anchor there; nothing is loaded from elsewhere."""
    links = {page.resolve(): Links(page) for page in site.rglob("*.html")}
    assert len(links) > 40
    for page, found in links.items():
        for target in found.leads | found.loads:
            link = urlsplit(target)
            if link.scheme or link.netloc:
                assert target not in found.loads, f"{page.name} loads {target}: it must work offline"
                continue
            there = (page.parent / unquote(link.path)).resolve() if link.path else page
            assert there.exists(), f"{page.name} links to {target}"
            if link.fragment and there in links:
                assert unquote(link.fragment) in links[there].anchors | {"top"}, f"{page.name} links to {target}"


def test_the_docs_build_offline_and_no_link_is_broken(tmp_path):
    pytest.importorskip("plotly", reason="pages to look around in need the extra `view`")
    site = build(tmp_path, "-D", "nb_execution_mode=off")
    check_pages(site)
    gallery = (site / "experiments" / "gallery.html").read_text(encoding="utf-8")
    saved = {one.stem for one in (DOCS / "landscapes").glob("*.zarr")}
    assert set(re.findall(r'href="../look/(\w+)\.html"', gallery)) == saved == set(pages.LOOK)
    assert 'id="page"' in (site / "look" / "surface.html").read_text(encoding="utf-8")


def test_saved_landscapes_are_small_and_whole():
    for one in (DOCS / "landscapes").glob("*.zarr"):
        assert sum(file.stat().st_size for file in one.rglob("*") if file.is_file()) < 3e5, one.name
        landscape = load(one)
        assert landscape.computed.all() or landscape.promise is not None


@pytest.mark.slow
def test_the_docs_build_with_the_notebooks_run(tmp_path):
    site = build(tmp_path)
    check_pages(site)
    for notebook in NOTEBOOKS:
        page = (site / "tour" / f"{notebook.stem}.html").read_text()
        assert page.count('src="../_images/') >= 2, f"{notebook.stem} has lost its pictures"
        assert "output stderr" not in page
