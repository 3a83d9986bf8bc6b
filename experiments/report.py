"""What is there to know of this minimum? One call, one figure, one table, one paragraph.

For a classifier of scikit-learn's handwritten digits, or your own model by --problem: the loss over one plane, drawn to
where it has risen in the median direction; the radius within which most random directions stay under that rise, with
its interval, and the smallest one that an ascent finds; largest and smallest eigenvalues, trace and spectral density;
whether the plane is like others of its kind; and what it hides.

Expected: the steepest direction curves many times more than the plane, and the worst radius is that many square roots
smaller; the plane lies among random planes of its kind.

Cost: under two minutes on two CPU cores for the digits.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
from _lab import Lab, UsageError, main, say

import landscape as ls


@dataclass(frozen=True)
class Config:
    """Settings of this experiment."""

    resolution: int = 31
    """Points along each axis of the plane."""
    share: float = 0.95
    """Share of the directions that the radius is for."""
    layout: str = "flax"
    """How kernels store their filters: flax, haiku, torch or equinox."""
    seed: int = 0
    """Seed of all random directions, and of the parameters where they are trained here."""


SMOKE = Config(resolution=9)


def run(config: Config, lab: Lab) -> dict[str, ls.Landscape]:
    """The landscape that holds the report."""
    if config.resolution < 3 or not 0 < config.share < 1:
        raise UsageError("needs --resolution of at least 3 and --share between 0 and 1")
    if lab.options.get("shard") is not None:
        raise UsageError("a report is made by one process: leave --shard away")
    problem = lab.problem or ls.problems.digits_mlp()
    if lab.planning:
        print(
            f"report of {problem.name}: {config.resolution**2} points of one plane, and some thousand evaluations more"
        )
        return {}
    store = lab.out and lab.out / "report.zarr"
    options = {name: value for name, value in lab.options.items() if name != "shard"}
    found = ls.report(
        problem,
        key=jax.random.key(config.seed),
        resolution=config.resolution,
        share=config.share,
        filter_axis=config.layout,
        store=store,
        say=say,
        **options,
    )
    return {"report": found.landscape}


def plot(result: Mapping[str, ls.Landscape]) -> dict[str, Any]:
    """The one figure."""
    return {name: ls.plotting.report(landscape) for name, landscape in result.items()}


def findings(result: Mapping[str, ls.Landscape]) -> list[tuple[str, str, str]]:
    """Rows of `(what, expected, found)`, and the paragraph on stderr."""
    rows = []
    for landscape in result.values():
        say(ls.analysis.report_text(landscape))
        rows += [(what, _EXPECTED.get(what, ""), found) for what, found in ls.analysis.report_table(landscape)]
    return rows


_EXPECTED = {
    "smallest eigenvalue": "not below 0, at a minimum",
    "norm of the gradient": "0, at a minimum",
    "curvature of the plane drawn": "anywhere among them",
}

if __name__ == "__main__":
    main("report", Config, SMOKE, run, plot, findings)
