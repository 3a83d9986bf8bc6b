"""Figures of `hints.py`, from saved results alone."""

from collections.abc import Mapping
from typing import Any

import numpy as np

import landscape as ls
from _hints.task import ALL, NONE, SHAPES, SIDE

COLORS = {
    NONE.name: "#d55e00",
    ALL.name: "#0072b2",
    "wrong hints": "#000000",
    "renamed hints": "#56b4e9",
    "hints about the turn": "#cc79a7",
}


WIDTHS = {NONE.name: 3.0, ALL.name: 2.4, "wrong hints": 1.6, "hints about the turn": 0.7}


def plot(result: Mapping[str, ls.Landscape]) -> dict[str, Any]:
    """What hints do; and how that depends on depth and on the number of concepts."""
    return {"hints": _draw_hints(result["hints"]), "depth": _draw_depth(result)}


def _draw_hints(taught: ls.Landscape) -> Any:
    """Pictures, curves of the controls, doses and noises."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(7.2, 5.4))
    _draw_pictures(axes[0, 0], taught.meta["examples"])
    _draw_curves(axes[0, 1], taught)
    told = [(number, arm) for number, arm in enumerate(taught.meta["arms"]) if arm["kind"] == 0]
    doses = sorted((100 * arm["dose"], number) for number, arm in told if arm["noise"] == 0)
    noises = sorted((100 * arm["noise"], number) for number, arm in told if arm["dose"] == 1)
    _draw_response(axes[1, 0], taught, [(place, number) for place, (_, number) in enumerate(doses)])
    axes[1, 0].set_xticks(range(len(doses)), [f"{dose:g}" for dose, _ in doses])
    axes[1, 0].set(xlabel="training pictures that carry hints, % (not to scale)")
    _draw_response(axes[1, 1], taught, noises)
    axes[1, 1].set(xlabel="hints that are drawn at random, %")
    titles = ("is the number of U's and P's odd?", "what is said", "how many pictures are hinted", "noise")
    for ax, title in zip(axes.flat, titles):
        ax.set_title(title, loc="left")
    return _dressed(figure, axes)


def _dressed(figure: Any, axes: Any) -> Any:
    for ax, letter in zip(axes.flat, "abcd"):
        ax.set_title(f"({letter}) {ax.get_title(loc='left')}", loc="left")
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_pictures(ax: Any, examples: Mapping[str, Any]) -> None:
    """Pictures below each other, each with its concepts and its answer."""
    pixels = np.asarray(examples["pixels"])
    num, fields = pixels.shape[:2]
    step = SIDE + 2
    for row in range(num):
        for column in range(fields):
            low, left = -row * (step + 1), column * step
            box = (left, left + SIDE, low, low + SIDE)
            ax.imshow(pixels[row, column].reshape(SIDE, SIDE), cmap="gray_r", vmin=-0.1, vmax=1.1, extent=box)
            shape = SHAPES[examples["shape"][row][column]]
            ax.text(left + SIDE / 2, low - 0.2, shape, ha="center", va="top", color=COLORS[ALL.name])
        said = "yes" if examples["answer"][row] else "no"
        ax.text(fields * step, low + SIDE / 2, said, ha="left", va="center")
    ax.set(xlim=(-0.3, fields * step + 3), ylim=((1 - num) * (step + 1) - 2, SIDE + 0.3), aspect="equal")
    ax.axis("off")


def _draw_curves(ax: Any, taught: ls.Landscape) -> None:
    """Thinner lines on top of wider ones, since several arms stay at chance."""
    step, names = taught["step"][0, 0], [arm["name"] for arm in taught.meta["arms"]]
    for name, color in COLORS.items():
        curves = 100 * taught["test_error"][names.index(name)]
        ax.plot(step, curves.T, color=color, linewidth=0.4, alpha=0.25)
        dashes = "--" if name == "renamed hints" else "-"
        ax.plot(step, curves.mean(axis=0), dashes, color=color, linewidth=WIDTHS.get(name, 1.4), label=name)
    _error_axis(ax)
    ax.set(xlabel="steps of Adam")
    ax.legend(loc="center right", bbox_to_anchor=(1.0, 0.52))


def _error_axis(ax: Any) -> None:
    ax.axhline(50, color="0.6", linewidth=0.8, linestyle=":", zorder=0)
    ax.set(ylabel="test error, % (chance: 50)", ylim=(-2, 60))


def _draw_response(ax: Any, taught: ls.Landscape, points: list[tuple[float, int]]) -> None:
    where, rows = np.array([x for x, _ in points]), [number for _, number in points]
    found = 100 * taught["test_error"][rows, :, -1]
    ax.plot(where, found, ".", color="0.6", markersize=3, zorder=1)
    _draw_means(ax, where, found, COLORS[ALL.name], "")
    ax.set_xticks(where, [f"{x:g}" for x in where])
    ax.minorticks_off()
    _error_axis(ax)


def _draw_means(ax: Any, where: Any, found: np.ndarray, color: str, label: str, style: str = "-") -> None:
    """Means over seeds `(points, seeds)` with Student's 95 % intervals."""
    mean, low, _ = ls.analysis.mean_interval(found)
    options: dict[str, Any] = {"fmt": "o" + style, "markersize": 3.5, "capsize": 2.5, "linewidth": 1.0}
    ax.errorbar(where, mean, yerr=mean - low, color=color, label=label, **options)


def _draw_depth(result: Mapping[str, ls.Landscape]) -> Any:
    """Error against the number of concepts and against layers, without and with hints."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(7.2, 5.2))
    labels = ("concepts in a picture", "hidden layers below the concepts", "hidden layers above the concepts")
    titles = ("abstraction", "depth below", "depth above", "black boxes, no hints")
    for ax, key, name, label in zip(axes.flat, ("fields", "below", "above"), ("concepts", "below", "above"), labels):
        _draw_against(ax, result, name, key)
        ax.set(xlabel=label)
    _draw_plain(axes[1, 1], result)
    for ax, title in zip(axes.flat, titles):
        ax.set_title(title, loc="left")
        _error_axis(ax)
    axes[1, 1].set(ylabel="error, % (chance: 50)")
    axes[0, 0].legend(loc="center left", bbox_to_anchor=(0.3, 0.62))
    return _dressed(figure, axes)


def _draw_against(ax: Any, result: Mapping[str, ls.Landscape], name: str, key: str) -> None:
    """Both ends of the dose over one property of the network; the usual network is among them."""
    chosen = [taught for title, taught in result.items() if title == "hints" or title.startswith(f"{name}_")]
    chosen = sorted(chosen, key=lambda taught: taught.meta["net"][key])
    where = [taught.meta["net"][key] for taught in chosen]
    for row, arm in enumerate((NONE, ALL)):  # the first two arms everywhere
        found = 100 * np.stack([taught["test_error"][row, :, -1] for taught in chosen])
        _draw_means(ax, where, found, COLORS[arm.name], arm.name)
    ax.set_xticks(where)


def _draw_plain(ax: Any, result: Mapping[str, ls.Landscape]) -> None:
    """Train and test error of networks that nobody told anything."""
    names = ["hints", *[name for name in result if name.startswith(("plain_", "more_"))]]
    for which, color, label in (("train_error", "0.55", "training"), ("test_error", COLORS[NONE.name], "test")):
        found = 100 * np.stack([result[name][which][0, :, -1] for name in names])
        _draw_means(ax, np.arange(len(names)), found, color, label, style="")
    words = ["usual\nnetwork"]
    for name in names[1:]:
        layers, train = result[name].meta["net"]["below"], result[name].meta["train"]
        words.append(f"plain,\n{layers} layer{'s' if layers > 1 else ''}" if name[0] == "p" else f"{train:,}\npictures")
    ax.set_xticks(np.arange(len(names)), words)
    ax.legend(loc="center left", bbox_to_anchor=(0.0, 0.5))
