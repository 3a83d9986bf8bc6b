"""How many points the doodles compute at a time."""

import dataclasses
from typing import Any

import jax


def at_once(lab: Any, count: int) -> Any:
    """The lab with so many points at a time on a CPU, where to measure would take longer; --batch overrules it."""
    if lab.options.get("batch", "auto") != "auto" or jax.default_backend() != "cpu":
        return lab
    return dataclasses.replace(lab, options={**lab.options, "batch": count})
