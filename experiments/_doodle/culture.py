"""Doodle 8, culture: learners that are stuck alone get on when they put together what each has understood.

After Bengio 2012, "Evolving Culture vs Local Minima" (arXiv 1203.2990), on the student-teacher landscape of Safran &
Shamir 2018, k = 10: learners alone, by gradient descent with step 0.1 from N(0, 1/d), are stuck where their loss stays
at or above 1e-3. Children of two stuck learners take half of the neurons from each, without any alignment, and learn
on. Controls of equal size: half of the neurons of one stuck learner drawn anew, and a fresh start.

Law: 34.6 % of learners alone are stuck (table 1 of Safran & Shamir, from 1,000 runs); agreement is a two-sample z test
at 1 %. No published share for the children: they must beat both controls beyond their intervals of 95 %.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax
from _students.published import PUBLISHED, beside_published

import landscape as ls
from _doodle.pen import PALE, bare, caption, finished, open_frame, sheet
from landscape.plotting import ACCENT, plain
from landscape.problems import student_teacher
from landscape.training import Runs

TITLE = "Stuck alone, unstuck together"
SAYS = "Two stuck learners pool what they know; their child gets through."
READS = "whiskers: 95 %"
K = 10
BAD = 1e-3
ARMS = {
    "child of two": "half from A,\nhalf from B",
    "mutant of one": "half from A,\nhalf drawn anew",
    "fresh start": "all drawn\nanew",
}
KNOWN = 0.9  # cosine with a neuron of the teacher from which its idea counts as understood


def run(config: Any, lab: Any) -> dict[str, Any]:
    """Learners alone, and the children of the stuck ones with their controls."""
    with jax.enable_x64(True):
        problem = student_teacher(K)
        keys = jax.random.split(jax.random.key(config.seed), config.learners)
        alone = _learn(lab, "alone", problem, jax.vmap(problem.init)(keys))
        if alone is None or not alone.computed.all():
            return {"alone": alone}
        stuck = alone["params.w"][losses_of(alone) >= BAD]
        if len(stuck) < 2:
            return {"alone": alone}
        inits, parents = _offspring(np.random.default_rng(config.seed), stuck, config.children)
        return {"alone": alone, "children": _learn(lab, "children", problem, {"w": inits}, parents=parents, born=inits)}


def _learn(lab: Any, name: str, problem: ls.Problem, inits: Any, **about: Any) -> Any:
    count = len(inits["w"])
    runs = Runs(
        objective=problem.objectives["train"],
        optimizer=optax.sgd(0.1),
        num_runs=count,
        num_steps=20_000,
        inits=inits,
        record_every=20_000,
        check_every=200,
        tol=1e-6,
    )
    return lab.at_once(min(64, count)).sweep(name, runs, ls.Grid.of(run=np.arange(count)), lambda _: about)


def _offspring(rng: np.random.Generator, stuck: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Starts of the three arms one after the other, `(3 num, K, K)`, and the two stuck parents of each child."""
    parents = np.array([rng.choice(len(stuck), 2, replace=False) for _ in range(num)])
    halves = [[stuck[p][rng.permutation(K)[: K // 2]] for p in pair] for pair in parents]
    children = np.array([np.concatenate(pair) for pair in halves])
    new = rng.normal(size=(2, num, K, K)) / math.sqrt(K)
    mutants = np.concatenate([children[:, : K // 2], new[0][:, K // 2 :]], axis=1)
    return np.concatenate([children, mutants, new[1]]), stuck[parents]


def losses_of(landscape: Any) -> np.ndarray:
    """The loss at the end of each run."""
    return landscape["history.loss"][:, -1]


def shares(result: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """How many of how many reach the global minimum: alone, and each arm."""
    good = losses_of(result["alone"]) < BAD
    counts = {"alone": (int(good.sum()), len(good))}
    if "children" in result:
        arms = (losses_of(result["children"]) < BAD).reshape(len(ARMS), -1)
        counts |= {name: (int(arm.sum()), len(arm)) for name, arm in zip(ARMS, arms)}
    return counts


def findings(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Rows of `(what, expected, found)`."""
    counts, alone = shares(result), result["alone"]
    still = alone["outcome"] != ls.Outcome.CONVERGED
    rows = [("stuck alone, %", *beside_published(PUBLISHED[K, K], losses_of(alone) >= BAD, still))]
    for name in list(counts)[1:]:
        low, high = (100 * float(b) for b in ls.analysis.wilson_interval(*counts[name]))
        wanted = "above both controls" if name == "child of two" else "below the children"
        rows.append(
            (
                f"{name}: global minimum, %",
                wanted,
                f"{100 * counts[name][0] / counts[name][1]:.1f} ({low:.1f} ... {high:.1f})",
            )
        )
    if "children" in result:
        steps = result["children"]["steps"].reshape(len(ARMS), -1).mean(axis=1)
        rows.append(
            ("steps of descent each, on average", "alike", ", ".join(f"{name} {n:.0f}" for name, n in zip(ARMS, steps)))
        )
    return rows


def draw(result: Mapping[str, Any]) -> dict[str, Any]:
    """What two stuck learners and their child understand, and how often such children get through."""
    figure, axes = sheet([["heads", "shares"]], (10.5, 4.8), f"8   {TITLE}", width_ratios=[1.15, 1])
    if "children" in result:
        _draw_heads(axes["heads"], result)
    else:
        bare(axes["heads"])
    key_panel(axes["shares"], result)
    caption(axes["shares"], "How often each gets through (whiskers: 95 %). Only pooling beats trying anew.", 46)
    return {"doodle_8_culture": finished(figure)}


def known(weights: np.ndarray) -> np.ndarray:
    """Which ideas of the teacher, whose neurons are the unit vectors, some neuron has: `(..., K)`."""
    units = weights / np.linalg.norm(weights, axis=-1, keepdims=True)
    return np.max(units, axis=-2) > KNOWN


def _telling(children: Any) -> int:
    """A child that got through, of parents that each lack one idea, not the same; or else the first child."""
    through = losses_of(children)[: len(children.meta["parents"])] < BAD
    a, b = np.moveaxis(known(children.meta["parents"]), 1, 0)
    apart = (a.sum(axis=1) == K - 1) & (b.sum(axis=1) == K - 1) & np.any(a != b, axis=1)
    good = np.flatnonzero(through & apart)
    return int(good[0]) if len(good) else 0


def _draw_heads(ax: Any, result: Mapping[str, Any]) -> None:
    """One row for each head, one slot for each idea of the teacher: full where it is understood."""
    children, alone = result["children"], result["alone"]
    number = _telling(children)
    ideas = [
        *known(children.meta["parents"][number]),
        known(children.meta["born"][number]),
        known(children["params.w"][number]),
    ]
    names = ["A, stuck", "B, stuck", "child: half of A,\nhalf of B", "... after learning on"]
    heights = [3.3, 2.4, 1.1, 0.0]
    for name, y, has in zip(names, heights, ideas):
        ax.text(-0.9, y, name, ha="right", va="center", fontweight="bold")
        for slot in np.arange(K):
            face, edge = ("black", "black") if has[slot] else ("white", ACCENT)
            plain(ax.scatter(slot, y, s=190, facecolors=face, edgecolors=edge, linewidths=2.0, zorder=3))
            if not has[slot]:
                plain(ax.text(slot, y, "?", color=ACCENT, ha="center", va="center", fontweight="bold", zorder=4))
    for y in (1.9, 0.62):
        ax.annotate(
            "", (4.5, y - 0.33), (4.5, y + 0.13), arrowprops={"arrowstyle": "-|>", "color": "black", "linewidth": 2.2}
        )
    ax.text(4.5, 3.9, f"the {K} ideas of the teacher", ha="center", fontsize=8.5)
    ax.set(xlim=(-4.6, K - 0.3), ylim=(-0.5, 4.2))
    bare(ax)
    stuck = losses_of(alone) >= BAD
    one = np.mean(known(alone["params.w"][stuck]).sum(axis=1) == K - 1)
    caption(
        ax,
        f"{stuck.sum()} of {len(stuck)} learners get stuck alone; {one:.0%} of them miss one idea, not all the same.",
        52,
    )


def key_panel(ax: Any, result: Mapping[str, Any]) -> None:
    """Shares that get through, with their intervals."""
    counts = shares(result)
    words = {"alone": "alone,\nfirst try", **ARMS} if "children" not in result else ARMS
    for place, name in enumerate(words):
        good, num = counts[name]
        share = good / num
        low, high = (float(b) for b in ls.analysis.wilson_interval(good, num))
        color = ACCENT if name == "child of two" else PALE
        ax.bar(place, share, 0.6, facecolor=color, edgecolor="black", linewidth=1.3)
        line, caps, _ = ax.errorbar(
            place, share, [[share - low], [high - share]], color="black", capsize=4, linewidth=1.5
        )
        plain(line, *caps)
        ax.text(place, high + 0.03, f"{share:.0%}", ha="center", fontweight="bold", fontsize=11)
    ax.set_xticks(range(len(words)), [f"{name}\n{what}" if name in ARMS else what for name, what in words.items()])
    ax.set(ylim=(0, 1.12), yticks=[0, 0.5, 1], ylabel="share that finds the global minimum")
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    open_frame(ax)
