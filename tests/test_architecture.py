"""The layers: a module imports only from the rows above it, and the rules of the house hold in every file."""

import ast
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "landscape"
ROWS = [
    ("__init__", "checks"),
    ("_tree", "grid", "affine", "placement"),
    ("moving",),
    ("objective", "subspace", "losses", "point", "adaptive", "store"),
    ("engine", "curvature", "analysis", "problems", "bridges"),
    ("training", "minima", "plotting"),
    ("export",),
    ("maps", "paths", "view", "recording"),
    ("reach", "cli"),
    ("reporting",),
    ("__main__",),
]
NUMPY_ONLY = {"checks", "grid", "adaptive", "store", "analysis", "export", "plotting", "view", "cli"}
SOURCES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted((ROOT / "experiments").glob("*.py"))
USERS = [
    *sorted((ROOT / "experiments").rglob("*.py")),
    *sorted((ROOT / "benchmarks").glob("*.py")),
    *sorted((ROOT / "notebooks").glob("*.py")),
]
EVERYTHING = [*SOURCES, *(path for path in USERS if path.parent.name != "notebooks")]


def name_of(path):
    """The module, or the package at the top, that a file belongs to."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def title(path):
    return str(path.relative_to(ROOT))


def imports(path):
    """Modules that a file imports anywhere, leaving out what only a type checker sees."""
    tree = ast.parse(path.read_text())
    skipped = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(module):
    """The row's name for an import such as `landscape.grid.Grid`, or None for another package."""
    known = {name for row in ROWS for name in row}
    parts = module.split(".")
    if parts[0] != "landscape":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in known else "__init__"


def test_every_module_has_a_row():
    assert {name_of(path) for path in SOURCES} == {name for row in ROWS for name in row}


@pytest.mark.parametrize("path", SOURCES, ids=title)
def test_modules_import_only_from_rows_above(path):
    level = {name: i for i, row in enumerate(ROWS) for name in row}
    mine = name_of(path)
    for module in imports(path):
        target = own(module)
        if target not in (None, mine):
            assert level[target] < level[mine], f"{mine} imports {module}, which is not above it"


@pytest.mark.parametrize("path", [p for p in SOURCES if name_of(p) in NUMPY_ONLY], ids=title)
def test_interpreting_needs_no_jax(path):
    assert not [m for m in imports(path) if m.split(".")[0] in ("jax", "jaxlib", "optax")]


@pytest.mark.parametrize("path", EVERYTHING, ids=title)
def test_rules_of_the_house(path):
    text = path.read_text()
    assert "jax._src" not in text
    assert "from __future__ import annotations" not in text
    assert path.stem not in {"utils", "common", "base", "types", "helpers", "misc"}
    assert ast.get_docstring(ast.parse(text)), "a module says in one sentence what it owns"


@pytest.mark.parametrize("path", USERS, ids=title)
def test_nothing_private_of_the_library_is_used_outside(path):
    private = [m for m in imports(path) if m.startswith("landscape.") and any(p[:1] == "_" for p in m.split(".")[1:])]
    assert not private, f"{title(path)} imports {private}, which the packages do not offer"


@pytest.mark.parametrize("path", [p for p in USERS if "experiments" in p.parts], ids=title)
def test_no_experiment_imports_a_script(path):
    scripts = {script.stem for script in SCRIPTS} - {path.stem}
    assert not [m for m in imports(path) if m.split(".")[0] in scripts]


def test_the_house_is_small():
    rooms = {name for row in ROWS for name in row}
    assert [name for name in rooms if name[0] == "_" and name[:2] != "__"] == ["_tree"]
    assert len(SCRIPTS) <= 32


def code_lines(path):
    """Lines of each function without its docstring, comments and blank lines."""
    lines = path.read_text().splitlines()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            rows = range(body[0].lineno - 1, body[-1].end_lineno) if body else ()
            yield sum(bool(lines[i].strip()) and not lines[i].strip().startswith("#") for i in rows)


def test_functions_are_short():
    lengths = sorted(n for path in SOURCES for n in code_lines(path))
    assert statistics.median(lengths) <= 8
    assert lengths[int(0.9 * len(lengths))] <= 15
    assert lengths[-1] <= 45


HEAVY = "('jax', 'optax', 'matplotlib', 'zarr', 'sklearn', 'pandas', 'scipy', 'xarray')"


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [
        ("import landscape", set()),
        ("from landscape import Grid, Landscape", set()),
        ("from landscape import cli", set()),
        ("from landscape import sweep, Subspace, Objective, LossSurface, save, load", {"jax", "optax"}),
    ],
)
def test_importing_is_light(statement, allowed):
    code = f"{statement}\nimport sys\nprint(*sorted(m for m in {HEAVY} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= allowed


def test_public_names_resolve_and_are_documented():
    import landscape

    for name in landscape.__all__:
        assert getattr(landscape, name).__doc__, name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        landscape.nothing  # noqa: B018  (the attribute access is the test)
