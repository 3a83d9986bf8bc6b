"""What every experiment stands on: its command line, its run, the user's own problem, its optimizers."""

from _lab.command import main
from _lab.lab import Lab, UsageError, say
from _lab.problem import load_problem

__all__ = ["Lab", "UsageError", "load_problem", "main", "say"]
