"""What does a loss landscape mean? Eight doodles, each of a real measurement, and each with a law that it must obey.

1. darts: a guess, the truth and the miss; what least squares leaves over is orthogonal to the inputs.
2. hardest: one number for each example; they sum to the loss, and one moved target moves the mean by z / n.
3. buckets: the same misses through mean, sum, median and max; least at mean, median, quantile and midrange.
4. hills: squared against absolute error; efficiencies .6366 .9031 .9500 .9897 and the bias of the median.
5. compass: the gradient on a bowl and on a plane of trained networks; angles 54.90, 78.58, 86.38 degrees, step sizes
   and best rates.
6. marbles: which ditch holds a marble, by learning rate and start; ditches -146.6995, -108.1667, -80.7678, and none
   sharper than 2 / learning rate.
7. boards: practice and new data; excess losses .253 1.020 5.167 3.510 4.084 of ridgeless least squares.
8. culture: stuck learners and their children; 34.6 % are stuck alone.

What is expected of each, its source and its accuracy stand in `_doodle/NAME.py`. The data are the handwritten digits of
scikit-learn and samples drawn here. Without --idea, all eight are drawn, and a contact sheet with the main panel of
each, which explains a loss landscape on one page.

This experiment has its own problems and takes no --problem. It computes in float64, networks on digits in float32.

Cost: about a minute and a half of CPU time for the defaults.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from _lab import Lab, UsageError, main

import landscape as ls

IDEAS = {
    1: "darts",
    2: "hardest",
    3: "buckets",
    4: "hills",
    5: "compass",
    6: "marbles",
    7: "boards",
    8: "culture",
}


@dataclass(frozen=True)
class Config:
    """Settings of this experiment."""

    idea: int | None = None
    """One idea, 1 to 8; all of them and the contact sheet by default."""
    steps: int = 400
    """Steps of Adam for the networks on digits."""
    resolution: int = 61
    """Points along each side of a plane."""
    replicates: int = 4000
    """Samples for the efficiencies; a tenth as many for the biases and for the double descent."""
    marbles: int = 400
    """Marbles for each learning rate and initialisation."""
    learners: int = 300
    """Learners that start alone."""
    children: int = 200
    """Children of stuck learners, and as many for each control."""
    seed: int = 0
    """Seed of everything that is drawn at random."""


SMOKE = Config(steps=60, resolution=21, replicates=1000, marbles=40, learners=32, children=8)


def run(config: Config, lab: Lab) -> dict[str, ls.Landscape]:
    """What the chosen ideas measure, named `NUMBER/name` where ideas share a measurement only once."""
    _check(config)
    result: dict[str, Any] = {}
    for number in chosen(config):
        result |= {f"{number}_{name}": value for name, value in idea(number).run(config, lab).items()}
    return {name: value for name, value in result.items() if value is not None}


def _check(config: Config) -> None:
    if config.idea is not None and config.idea not in IDEAS:
        raise UsageError(f"--idea must be one of 1 to {len(IDEAS)}, got {config.idea}")
    small = {"steps": 1, "resolution": 5, "replicates": 20, "marbles": 2, "learners": 2, "children": 2}
    for name, least in small.items():
        if getattr(config, name) < least:
            raise UsageError(f"--{name} must be at least {least}, got {getattr(config, name)}")


def chosen(config: Config) -> list[int]:
    """Numbers of the ideas to draw."""
    return list(IDEAS) if config.idea is None else [config.idea]


def idea(number: int) -> Any:
    """The module of an idea."""
    return importlib.import_module(f"_doodle.{IDEAS[number]}")


def parts(result: Mapping[str, ls.Landscape]) -> dict[int, dict[str, ls.Landscape]]:
    """What each idea measured, by its own names."""
    divided: dict[int, dict[str, ls.Landscape]] = {}
    for key, landscape in result.items():
        number, _, name = key.partition("_")
        divided.setdefault(int(number), {})[name] = landscape
    return divided


def findings(result: Mapping[str, ls.Landscape]) -> list[tuple[str, str, str]]:
    """Rows of `(what, expected, found)`, those of each idea under its number."""
    rows = []
    for number, part in parts(result).items():
        rows += [(f"{number} {what}", expected, found) for what, expected, found in idea(number).findings(part)]
    return rows


def plot(result: Mapping[str, ls.Landscape]) -> dict[str, Any]:
    """The doodles, and the contact sheet where there are all of them."""
    from _doodle.pen import contact_sheet

    from landscape import plotting

    figures: dict[str, Any] = {}
    with plotting.style("doodle"):
        for number, part in parts(result).items():
            figures |= idea(number).draw(part)
        if len(parts(result)) == len(IDEAS):
            figures["doodles"] = contact_sheet([(n, idea(n), part) for n, part in parts(result).items()])
    return figures


if __name__ == "__main__":
    main("doodles", Config, SMOKE, run, plot, findings, takes_problem=False)
