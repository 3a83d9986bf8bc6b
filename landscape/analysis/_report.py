"""What a report says: its numbers as a table, and in plain words."""

from typing import Any

import numpy as np

from landscape.grid import Landscape

UNLIKE = (
    0.95  # share of random planes below from which a plane is steeper than most; above the other from which flatter
)


def report_of(landscape: Landscape) -> dict[str, Any]:
    """The numbers of a report.

    Raises:
        ValueError: the landscape holds none.
    """
    if "report" not in landscape.meta:
        raise ValueError("this landscape holds no report: landscape.report(problem) makes one")
    return landscape.meta["report"]


def report_table(landscape: Landscape) -> list[tuple[str, str]]:
    """Rows of what was measured and what was found, of the landscape of a `landscape.report`.

    Raises:
        ValueError: the landscape holds no report.
    """
    found = report_of(landscape)
    return [*_model_rows(found), *_radius_rows(found), *_curvature_rows(found), *_typical_rows(found)]


def _model_rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    model = found["model"]
    losses = [(f"{name} loss", f"{value:.5g}") for name, value in _losses(model)]
    return [("model", f"{model['name']}, {model['num_params']:,} parameters of norm {model['norm']:.4g}"), *losses]


def _losses(model: dict[str, Any]) -> list[tuple[str, float]]:
    """Names and losses, that of the training data first."""
    return sorted(model["losses"].items(), key=lambda item: item[0] != "train")


def _radius_rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    radius, worst = found["radius"], found["worst"]
    rows = [
        ("rise that the radii are about", f"{radius['rise'][0]:.4g}"),
        (f"radius of {radius['share']:.0%} of directions", _between(radius["value"], *radius["interval"])),
        ("radius of half of them", _between(radius["median"], *radius["median_interval"])),
    ]
    if radius["units"]["filters"] > 0:
        rows.append(("the first in norms of the filters", f"{radius['value'] / radius['units']['filters']:.4g}"))
    rows.append(("radius of the worst direction found", f"{worst['value']:.4g} (an upper bound)"))
    if worst["quadratic"] is not None:
        quadratic = worst["quadratic"]
        between = _between(quadratic["value"], quadratic["lower"], quadratic["upper"])
        rows.append(("the same, of the quadratic", between))
    return rows


def _curvature_rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    curved = found["curvature"]
    top = ", ".join(f"{value:.4g}" for value in np.asarray(curved["eigenvalues"]))
    return [
        ("largest eigenvalues", f"{top} (each within {np.max(curved['residuals']):.1g})"),
        ("smallest eigenvalue", f"{curved['lowest']:.4g} (within {curved['lowest_residual']:.1g})"),
        ("trace", f"{curved['trace']:.4g} ± {curved['trace_sem']:.1g}"),
        ("norm of the gradient", f"{curved['gradient_norm']:.3g}"),
    ]


def _typical_rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    plane, place = found["typical"], found["typical"]["percentile"]
    num = len(plane["curvatures"])
    above = f"{place['share']:.0%} [{place['lower']:.0%}, {place['upper']:.0%}]"
    return [
        ("curvature of the plane drawn", f"{plane['curvature']:.4g}, above {above} of {num} random planes"),
        ("mean curvature over all directions", f"{plane['mean']:.4g} ± {plane['sem']:.1g}"),
    ]


def report_text(landscape: Landscape) -> str:
    """What was found and what was not looked at, in plain words: one paragraph.

    Raises:
        ValueError: the landscape holds no report.
    """
    found = report_of(landscape)
    return " ".join([_picture(found), _reach(found), _hidden(found), _minimum(found), _unseen(found)])


def _picture(found: dict[str, Any]) -> str:
    model, extent = found["model"], found["extent"]
    losses = " and ".join(f"{value:.4g} ({name})" for name, value in _losses(model))
    size, reach = f"{model['num_params']:,}", f"{extent['value']:g}"
    here = f" (after {model['trained_here']}, as no trained ones were given)" if model["trained_here"] else ""
    return (
        f"The loss of {model['name']} at its parameters{here} is {losses}. The picture is one plane of "
        f"{size} dimensions, drawn to {reach}, where the training loss {extent['why']}, in the median direction."
    )


def _reach(found: dict[str, Any]) -> str:
    radius, worst = found["radius"], found["worst"]
    low, high = radius["interval"]
    kind = "filter-normalised" if found["model"]["kind"] == "filter" else "random"
    text = (
        f"In {radius['share']:.0%} of {kind} directions the training loss rises by less than {radius['rise'][0]:.3g} "
        f"within a distance of {radius['value']:.3g} ({low:.3g} to {high:.3g} at 95 % confidence, from "
        f"{len(radius['radii'])} directions), {radius['value'] / found['model']['norm']:.2g} times the norm of the "
        "parameters"
        if found["model"]["norm"] > 0
        else f"In {radius['share']:.0%} of {kind} directions the training loss stays under the rise within "
        f"{radius['value']:.3g}"
    )
    nearer = radius["value"] / worst["value"] if worst["value"] > 0 else np.inf
    other = f"it has risen by as much at {worst['value']:.3g}, {nearer:.3g} times nearer"
    return f"{text}; in the worst direction that was found {other}."


def _hidden(found: dict[str, Any]) -> str:
    plane, top = found["typical"], float(np.asarray(found["curvature"]["eigenvalues"])[0])
    place = plane["percentile"]
    verdict = "is typical of its kind"
    if place["lower"] > UNLIKE - 0.1 and place["share"] > UNLIKE:
        verdict = "is steeper than most of its kind"
    if place["upper"] < 1.1 - UNLIKE and place["share"] < 1 - UNLIKE:
        verdict = "is flatter than most of its kind"
    text = (
        f"The plane {verdict}: it curves by {plane['curvature']:.3g}, more than {place['share']:.0%} of "
        f"{len(plane['curvatures'])} random planes, and the mean over all such directions is {plane['mean']:.3g}."
    )
    if plane["curvature"] > 0 and top > 0:
        text += (
            f" What it hides: along the steepest direction the loss curves by {top:.3g}, "
            f"{top / plane['curvature']:.3g} times as much."
        )
    return text


def _minimum(found: dict[str, Any]) -> str:
    curved = found["curvature"]
    low, error, top = curved["lowest"], curved["lowest_residual"], float(np.max(np.abs(curved["eigenvalues"])))
    slope = f"The norm of the gradient is {curved['gradient_norm']:.2g}"
    if low < -error:
        way = f"{-low / top:.2g} of the largest in size: these parameters are at no minimum, the loss falls that way"
        return f"{slope}, and the smallest eigenvalue {low:.3g} (within {error:.1g}), {way}."
    way = "no way down by curvature was found"
    return f"{slope}, and no eigenvalue was found below {low:.2g} (within {error:.1g}): {way}."


def _unseen(found: dict[str, Any]) -> str:
    distance = max(np.max(found["typical"]["distances"]), found["radius"]["value"])
    return (
        f"Not looked at: anything farther than about {distance:.3g}, other minima and the ways to them, directions "
        "steeper than the ascent found (the worst radius is an upper bound), rises between two measured distances, and "
        "other data than these."
    )


def _between(value: float, low: float, high: float) -> str:
    return f"{value:.4g} [{low:.4g}, {high:.4g}]"
