"""`--problem FILE:NAME`: a problem of the user's own, imported from a file or a module."""

from typing import Any

from _lab.lab import UsageError


def load_problem(target: str) -> Any:
    """The `Problem` that `module:factory` or `file.py:factory` makes.

    Raises:
        UsageError: no such module, file or factory, or it returns something else.
    """
    import landscape as ls
    from landscape.checks import NoFactory, factory_of

    source, separator, name = target.rpartition(":")
    if not separator or not source or not name:
        raise UsageError(f"--problem wants module:factory or file.py:factory, got {target!r}")
    try:
        factory = factory_of(source, name)
    except NoFactory as error:
        raise UsageError(f"--problem {target}: {error}") from error
    problem = factory()
    if not isinstance(problem, ls.Problem):
        raise UsageError(f"--problem {target}: {name}() must return a landscape.Problem, got {type(problem).__name__}")
    problem.check()
    return problem
