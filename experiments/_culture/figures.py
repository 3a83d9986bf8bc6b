"""Figures of `culture.py`, from its landscapes alone."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from _students.published import PUBLISHED

import landscape as ls
from _culture.report import Cell, cell, cells, early_record, sizes

LOOKS = {
    "isolated": ("0.25", "o", "isolated"),
    "exchange": ("#0072b2", "o", "exchange half of the units"),
    "mutation": ("#d55e00", "s", "new random units instead"),
    "restart": ("#009e73", "^", "start anew"),
    "copy": ("#cc79a7", "D", "copy the best"),
}
FACTORS = {
    "bandwidth": "units per talk",
    "period": "evaluations between talks",
    "noise": "noise, in lengths of a unit",
    "size": "learners of a population",
}
CHOICES = {"topology": "who hears whom", "selection": "what is kept", "passed": "what is passed on"}
TURN = {
    "noise": [0.0, 0.01, 0.1, 0.3, 1.0],
    "topology": ["ring", "pair", "star", "all"],
    "selection": ["none", "better", "accept"],
    "passed": ["units", "behaviour", "outputs"],
}
NAMES = {"pair": "random\npair", "none": "all", "better": "of the\nbetter", "accept": "if it\nhelped"}
NAMES |= {"units": "weights\nof units", "behaviour": "answers\nof units", "outputs": "only\noutputs"}


def plot(result: Mapping[str, ls.Landscape]) -> dict[str, Any]:
    """Success over time and by k, networks alive, children of the stuck; and one factor at a time."""
    figures = {"culture": _summary(result)}
    if any(landscape.meta["case"]["role"] == "dose" for landscape in result.values()):
        figures["culture_doses"] = _doses(result)
    return figures


def _summary(result: Mapping[str, ls.Landscape]) -> Any:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(7.4, 5.8))
    k = sizes(result)[len(sizes(result)) // 2]
    found = cells(result, "arm", k)
    for name, one in found.items():
        color, _, label = LOOKS[name]
        axes[0, 0].plot(one.evaluations, 100 * one.shares, color=color, label=label)
        axes[0, 0].fill_between(one.evaluations, *100 * one.intervals.T, color=color, alpha=0.18, linewidth=0)
        _draw_alive(axes[0, 1], one, color)
    size = found["isolated"].solved.shape[2]
    axes[0, 0].set(xlabel="gradient evaluations of each learner", ylabel="solved, % of learners", ylim=(-2, 102))
    axes[0, 1].set(
        xlabel="gradient evaluations of each learner", ylabel=f"different networks of {size}", ylim=(0, size + 0.3)
    )
    _draw_by_size(axes[1, 0], {at: cells(result, "arm", at) for at in sizes(result)})
    _draw_children(axes[1, 1], result)
    titles = (
        f"populations, k = {k}",
        f"networks alive, k = {k}",
        "populations at the end",
        "children of two stuck learners",
    )
    for ax, letter, title in zip(axes.flat, "abcd", titles):
        ax.set_title(f"({letter}) {title}", loc="left")
        ax.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=5, columnspacing=1.2)
    return figure


def _draw_alive(ax: Any, one: Cell, color: str) -> None:
    mean = one.alive.mean(axis=0)
    error = 1.96 * one.alive.std(axis=0, ddof=1) / np.sqrt(len(one.alive)) if len(one.alive) > 1 else 0 * mean
    ax.plot(one.evaluations, mean, color=color)
    ax.fill_between(one.evaluations, mean - error, mean + error, color=color, alpha=0.18, linewidth=0)


def _draw_by_size(ax: Any, found: Mapping[int, Mapping[str, Cell]]) -> None:
    """Shares at the end by k, arms a little apart."""
    for number, (name, (color, marker, _)) in enumerate(LOOKS.items()):
        rows = [(k, by_name[name]) for k, by_name in sorted(found.items()) if name in by_name]
        _draw_line(ax, [k + 0.12 * (number - 2) for k, _ in rows], [one for _, one in rows], color, marker)
    ax.set(xlabel="units k of teacher and student", ylabel="solved, % of learners", ylim=(-2, 102))
    ax.set_xticks(sorted(found))


def _draw_line(ax: Any, x: Sequence[float], found: Sequence[Cell], color: str, marker: str, **look: Any) -> None:
    """Shares at a record, the last by default, with their intervals."""
    record = look.pop("record", -1)
    shares = np.array([one.shares[record] for one in found])
    bounds = np.array([one.intervals[record] for one in found]).reshape(-1, 2)
    errors = 100 * np.abs(bounds.T - shares)
    look = {"ms": 4, "elinewidth": 0.8, "linewidth": 0.8, **look}
    ax.errorbar(x, 100 * shares, errors, color=color, marker=marker, **look)


def _draw_children(ax: Any, result: Mapping[str, ls.Landscape]) -> None:
    """Children of the stuck, and what a new learner does with as many evaluations."""
    ks = [k for k in sizes(result) if cells(result, "child", k)]
    for shift, name in ((-0.15, "exchange"), (0.0, "mutation"), (0.15, "isolated")):
        role, (color, marker, _) = ("arm" if name == "isolated" else "child"), LOOKS[name]
        label = "new learner" if name == "isolated" else None
        found = [cells(result, role, k)[name] for k in ks]
        _draw_line(ax, [k + shift for k in ks], found, color, marker, label=label)
    listed = [k for k in ks if (k, k) in PUBLISHED]
    published = [100 - PUBLISHED[k, k].percent for k in listed]
    ax.plot([k + 0.34 for k in listed], published, "_", color="0.25", ms=8, label="new learner, published")
    ax.set(xlabel="units k of teacher and student", ylabel="solved, % of children", ylim=(-2, 102))
    ax.set_xticks(ks)
    # matplotlib lists lines before error bars: what is published would stand before what it is compared with
    handles, texts = ax.get_legend_handles_labels()
    order = sorted(range(len(texts)), key=texts.__getitem__)
    ax.legend([handles[i] for i in order], [texts[i] for i in order], loc="upper right")


# ----------------------------------------------------------------------------------------------------------- doses


def _doses(result: Mapping[str, ls.Landscape]) -> Any:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 4, figsize=(9.6, 5.0), sharey=True, width_ratios=(1, 1, 1, 1.05))
    k = next(one.meta["case"]["k"] for one in result.values() if one.meta["case"]["role"] == "dose")
    alone = cells(result, "arm", k)["isolated"]
    record = early_record(alone)
    places = [axes[0, 0], axes[0, 1], axes[0, 2], axes[1, 0], axes[1, 1], axes[1, 2], axes[1, 3]]
    for ax, factor in zip(places, ("bandwidth", "period", "noise", "topology", "selection", "passed", "size")):
        by_way = {
            arm: _rows(result, k, factor, passed) for arm, passed in (("exchange", "units"), ("mutation", "fresh"))
        }
        if not any(by_way.values()):
            ax.set_axis_off()
            continue
        for arm, rows in by_way.items():
            if rows:
                _draw_dose(ax, factor, rows, record, *LOOKS[arm][:2])
        _label_axis(ax, factor, [row for rows in by_way.values() for row in rows])
        for at, style in ((record, ":"), (-1, "-")):
            ax.axhline(100 * alone.shares[at], color="0.25", linestyle=style, linewidth=0.9)
        ax.set(xlabel=FACTORS.get(factor) or CHOICES[factor], ylim=(-2, 102))
        ax.spines[["top", "right"]].set_visible(False)
    for ax in axes[:, 0]:
        ax.set_ylabel("solved, % of learners")
    _draw_key(axes[0, 3], alone.evaluations[record], alone.evaluations[-1], k)
    return figure


def _rows(result: Mapping[str, ls.Landscape], k: int, factor: str, passed: str) -> list[tuple[Any, Cell, bool]]:
    """Values of a factor with their cells, the usual value among them, and whether it is that."""
    rows = []
    for landscape in result.values():
        case = landscape.meta["case"]
        same = case.get("rules", {}).get("passed") == passed or (factor == "passed" and passed == "units")
        if case["role"] == "dose" and case["factor"] == factor and same:
            rows.append((case["value"], cell(landscape), False))
    usual = result[f"k{k}_{'mutation' if passed == 'fresh' else 'exchange'}"]
    size = len(usual["loss"][0, 0])
    value = size if factor == "size" else usual.meta["case"]["rules"][factor if rows else "passed"]
    rows = [*rows, (value, cell(usual), True)] if rows else []
    return sorted(rows, key=lambda row: row[0]) if factor in FACTORS else rows


def _draw_dose(ax: Any, factor: str, rows: Sequence[Any], record: int, color: str, marker: str) -> None:
    x, found = [_place(factor, value) for value, _, _ in rows], [one for _, one, _ in rows]
    line = factor in FACTORS
    _draw_line(ax, x, found, color, marker, record=record, mfc="white", linestyle=":" if line else "none")
    _draw_line(ax, x, found, color, marker, linestyle="-" if line else "none")


def _place(factor: str, value: Any) -> float:
    """Where a value stands: on a logarithmic scale, or in its turn."""
    return (
        math.log2(value + (factor == "bandwidth"))
        if factor in ("bandwidth", "period", "size")
        else TURN[factor].index(value)
    )


def _label_axis(ax: Any, factor: str, rows: Sequence[tuple[Any, Cell, bool]]) -> None:
    scale = rows[0][1].per_record if factor == "period" else 1
    values = sorted({value for value, _, _ in rows}) if factor in FACTORS else TURN[factor]
    texts = [f"{value * scale:g}" if factor in FACTORS else NAMES.get(value, value) for value in values]
    places = [_place(factor, value) for value in values]
    ax.set_xticks(places, texts)
    ax.set_xlim(min(places) - 0.4, max(places) + 0.4)


def _draw_key(ax: Any, early: int, late: int, k: int) -> None:
    """The legend of all panels, in the place of one."""
    for name in ("exchange", "mutation"):
        color, marker, label = LOOKS[name]
        ax.plot([], [], color=color, marker=marker, ms=4, label=label)
    ax.plot([], [], color="0.25", label="isolated")
    ax.plot([], [], color="0.5", marker="o", ms=4, linestyle="-", label=f"after {late:,} evaluations")
    ax.plot([], [], color="0.5", marker="o", ms=4, mfc="white", linestyle=":", label=f"after {early:,}")
    ax.legend(loc="center left", title=f"k = {k}, one factor changed", alignment="left", borderpad=0)
    ax.set_axis_off()
