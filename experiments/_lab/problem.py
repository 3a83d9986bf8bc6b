"""`--problem FILE:NAME`: a problem of the user's own, imported from a file or a module."""

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from _lab.lab import UsageError


def load_problem(target: str) -> Any:
    """The `Problem` that `module:factory` or `file.py:factory` makes.

    Raises:
        UsageError: no such module, file or factory, or it returns something else.
    """
    import landscape as ls

    source, separator, name = target.rpartition(":")
    if not separator or not source or not name:
        raise UsageError(f"--problem wants module:factory or file.py:factory, got {target!r}")
    factory = getattr(_import(source, target), name, None)
    if not callable(factory):
        raise UsageError(f"--problem {target}: {source} has no function {name!r}")
    problem = factory()
    if not isinstance(problem, ls.Problem):
        raise UsageError(f"--problem {target}: {name}() must return a landscape.Problem, got {type(problem).__name__}")
    problem.check()
    return problem


def _import(source: str, target: str) -> Any:
    if source.endswith(".py"):
        path = Path(source)
        if not path.is_file():
            raise UsageError(f"--problem {target}: there is no file {path.resolve()}")
        spec: Any = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
        return module
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(source)
    except ModuleNotFoundError as error:
        if error.name is not None and not f"{source}.".startswith(f"{error.name}."):
            raise
        raise UsageError(
            f"--problem {target}: there is no module {error.name!r} here or on the Python path; "
            "give module:factory or file.py:factory"
        ) from error
