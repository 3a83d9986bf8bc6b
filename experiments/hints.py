"""Does a network learn a question that it cannot learn alone, if somebody tells it the concepts in between?

After Gulcehre & Bengio (2016), "Knowledge Matters" (arXiv 1301.4083): pictures with several pentominoes and one
question about all of them, which black-box learners answered no better than by chance, and which a network learned that
was told which shape is where ("hints"). Bengio (2012, arXiv 1203.2990) sees in it how culture helps against poor local
minima.

Here a picture has three fields with a pentomino in each, of four kinds, and the question is whether the number of U's
and P's is odd (`_hints_task.py`). A lower network looks at each field, an upper one at what the lower one says. Hints
are a second loss on the outputs of the lower network. All arms have the same network, pictures, start, optimizer and
steps; only what is said differs. Error is the share of wrong answers on new pictures; 50 % is chance. Expected:

- no hints: at least 40 % (chance, in the paper), although most training answers are known by heart;
- right hints: at most 5 %;
- wrong hints, those of another picture: no better than none. Hints that call every T a U, every U a V and so on are not
  wrong, only in another language: as good as right ones. True hints about something else, the turn of each shape,
  tell information from mere extra training;
- fewer or noisier hints: more errors;
- one concept: learned without hints; more of them: not. Deeper networks alone, or four times the pictures, do not
  change that. Without a hidden layer above the concepts no network answers: a linear rule of exact concepts errs in at
  least 25 % (of the 104 threshold functions of three bits none agrees with parity in more than 6 of 8 cases).

How much of each is needed is not published for this task: the paper's is larger (64 x 64 pixels, more shapes) and asks
whether one of three shapes differs from the others. Intervals are 95 %, Student's over seeds; a seed draws new
pictures and a new start. This experiment has its own problem and takes no --problem.

Cost: about five CPU minutes for the defaults.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from _hints.figures import plot
from _hints.task import ALL, BESIDE, NONE, RENAMED, WRONG, Arm, Net, Pictures, lessons
from _lab import Lab, UsageError, main
from _lab.optimizers import adam

import landscape as ls

LANES = 1  # runs at a time on a CPU: one fills the cache
RECORDS = 10  # entries of a run's history
SHOWN = 3  # pictures in the figure
LEARNED = 0.05


@dataclass(frozen=True)
class Config:
    """Settings of this experiment."""

    seeds: int = 10
    """Pictures and starts, drawn anew, in every arm."""
    fields: int = 3
    """Shapes in a picture: the concepts that the answer depends on."""
    doses: tuple[float, ...] = (0.02, 0.05, 0.1, 0.25, 0.5)
    """Shares of the training pictures that carry hints, besides none and all."""
    noises: tuple[float, ...] = (0.25, 0.5, 0.75, 0.9, 1.0)
    """Shares of the hints that are drawn at random."""
    concepts: tuple[int, ...] = (1, 2, 4, 6)
    """Other numbers of shapes in a picture."""
    below: tuple[int, ...] = (0, 2, 3)
    """Hidden layers below the concepts, besides one."""
    above: tuple[int, ...] = (0, 2)
    """Hidden layers above the concepts, besides one."""
    plain: tuple[int, ...] = (1, 2, 4)
    """Hidden layers of a network without a place for concepts, on all pixels, without hints."""
    more: int = 4
    """How many times the training pictures, in one more arm without hints; 1 leaves it out."""
    width: int = 32
    """Units of a hidden layer."""
    train: int = 2000
    """Training pictures."""
    test: int = 1000
    """Test pictures."""
    pixel_noise: float = 0.1
    """Standard deviation of the noise on a pixel; ink is 1."""
    weight: float = 1.0
    """Weight of the hints in the loss."""
    steps: int = 400
    """Steps of Adam, on all training pictures."""
    rate: float = 0.02
    """Its learning rate."""
    seed: int = 0
    """Seed of everything."""


SMOKE = Config(
    seeds=3, doses=(0.1,), noises=(1.0,), concepts=(), below=(), above=(), plain=(), more=1, train=1000, test=500,
    steps=150,
)  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- run


def run(config: Config, lab: Lab) -> dict[str, ls.Landscape]:
    """Every arm on the usual network, then none and all hints on other networks and other numbers of concepts."""
    _check(config)
    lab = lab.at_once(LANES)
    usual, ends = Net(config.fields, width=config.width), (NONE, ALL)
    wanted: dict[str, tuple[Net, Sequence[Arm]]] = {"hints": (usual, arms(config))}
    wanted |= {f"concepts_{n}": (dataclasses.replace(usual, fields=n), ends) for n in config.concepts}
    wanted |= {f"below_{n}": (dataclasses.replace(usual, below=n), ends) for n in config.below}
    wanted |= {f"above_{n}": (dataclasses.replace(usual, above=n), ends) for n in config.above}
    wanted |= {f"plain_{n}": (dataclasses.replace(usual, below=n, plain=True), (NONE,)) for n in config.plain}
    result = {name: _teach(config, lab, name, *what) for name, what in wanted.items()}
    if config.more > 1:
        more = dataclasses.replace(config, train=config.more * config.train)
        result["more_pictures"] = _teach(more, lab, "more_pictures", usual, (NONE,))
    return {name: landscape for name, landscape in result.items() if landscape is not None}


def arms(config: Config) -> tuple[Arm, ...]:
    """Doses, noises and controls; the first is without hints, the second with all of them."""
    doses = [Arm(f"{100 * dose:g} % of the pictures", dose) for dose in config.doses]
    noises = [Arm(f"{100 * noise:g} % of the hints at random", noise=noise) for noise in config.noises]
    controls = [
        Arm("wrong hints", kind=WRONG),
        Arm("renamed hints", kind=RENAMED),
        Arm("hints about the turn", kind=BESIDE),
    ]
    return (NONE, ALL, *doses, *noises, *controls)


def _check(config: Config) -> None:
    counts = (config.seeds - 1, config.fields, *config.concepts, *config.plain, config.more, config.width)
    if min(*counts, config.train, config.test) < 1 or min((*config.below, *config.above, 0)) < 0:
        raise UsageError(f"needs --seeds >= 2, positive sizes and no negative number of layers: {config}")
    if not all(0 <= share <= 1 for share in (*config.doses, *config.noises)):
        raise UsageError(f"--doses and --noises are shares from 0 to 1, got {config.doses} and {config.noises}")
    if config.steps < RECORDS or not (config.rate > 0 and config.weight >= 0 and config.pixel_noise >= 0):
        raise UsageError(f"needs --steps >= {RECORDS}, --rate > 0 and no negative --weight or --pixel-noise: {config}")


def _teach(config: Config, lab: Lab, name: str, net: Net, said: Sequence[Arm]) -> Any:
    seeds = range(config.seed, config.seed + config.seeds)
    point = lessons(
        net,
        said,
        seeds,
        (config.train, config.test, config.pixel_noise),
        optimizer=adam(config.rate),
        steps=config.steps,
        records=RECORDS,
        weight=config.weight,
        key=jax.random.key(config.seed),
    )
    about: dict[str, Any] = {"arms": [dataclasses.asdict(arm) for arm in said], "net": dataclasses.asdict(net)}
    about |= {"train": config.train, "examples": _examples(point.train)}
    return lab.sweep(name, point, ls.Grid.of(arm=range(len(said)), seed=range(config.seeds)), lambda _: about)


def _examples(train: Pictures) -> dict[str, Any]:
    """A few pictures, for the figure."""
    shown = {name: np.round(getattr(train, name)[0, :SHOWN], 3) for name in ("pixels", "shape", "answer")}
    return {name: x.astype(float if name == "pixels" else int).tolist() for name, x in shown.items()}


# -------------------------------------------------------------------------------------------------------- findings


def errors(landscape: ls.Landscape, arm: str, name: str = "test_error") -> np.ndarray:
    """Error at the end of each seed of an arm, in %."""
    names = [one["name"] for one in landscape.meta["arms"]]
    return 100 * landscape[name][names.index(arm), :, -1].astype(float)


def findings(result: Mapping[str, ls.Landscape]) -> list[tuple[str, str, str]]:
    """Rows of `(what, expected, found)`; errors in %."""
    return [*_control_rows(result["hints"]), *_dose_rows(result["hints"]), *_sweep_rows(result)]


def _control_rows(taught: ls.Landscape) -> list[tuple[str, str, str]]:
    none, right = errors(taught, NONE.name), errors(taught, ALL.name)
    learned = int(np.sum(right <= 100 * LEARNED))
    low, high = (100 * end for end in ls.analysis.wilson_interval(learned, len(right)))
    rows = [
        ("test error in %: no hints", ">= 40", _text(none)),
        ("... right hints", "<= 5", _text(right)),
        ("seeds with right hints that err in <= 5 %", "all", f"{learned} of {len(right)} ({low:.0f} ... {high:.0f} %)"),
        ("training error without hints", "< 50, by heart", _text(errors(taught, NONE.name, "train_error"))),
    ]
    for name, expected, other, difference in (
        ("wrong hints", "no better than none", "none", ">= 0: must not help"),
        ("renamed hints", "as right ones", "right", "0"),
        ("hints about the turn", "not known", "none", "not known"),
    ):
        found = errors(taught, name)
        rows.append((f"test error: {name}", expected, _text(found)))
        beside = right if other == "right" else none
        rows.append((f"... minus {other}, same seeds", difference, _text(found - beside)))
    return rows


def _dose_rows(taught: ls.Landscape) -> list[tuple[str, str, str]]:
    """Every dose and every noise, in order."""
    told = [arm for arm in taught.meta["arms"] if arm["kind"] == 0]
    doses = sorted((arm for arm in told if arm["noise"] == 0), key=lambda arm: arm["dose"])
    noises = sorted((arm for arm in told if arm["dose"] == 1), key=lambda arm: arm["noise"])
    rows = [(f"hints on {100 * arm['dose']:g} % of the pictures", "falls", arm["name"]) for arm in doses]
    rows += [(f"{100 * arm['noise']:g} % random hints", "rises", arm["name"]) for arm in noises]
    return [(what, expected, _learned_text(errors(taught, name))) for what, expected, name in rows]


def _sweep_rows(result: Mapping[str, ls.Landscape]) -> list[tuple[str, str, str]]:
    rows = []
    for name, taught in result.items():
        if name == "hints":
            continue
        net, alone = taught.meta["net"], ">= 40"
        if net["fields"] == 1:
            alone = "<= 5"
        what = _what(name, net, taught.meta["train"])
        rows.append((f"{what}: no hints", alone, _learned_text(errors(taught, NONE.name))))
        if len(taught.meta["arms"]) > 1:
            linear = "not known" if net["above"] or net["fields"] == 1 else ">= 25"
            rows.append((f"{what}: right hints", linear, _learned_text(errors(taught, ALL.name))))
    return rows


def _what(name: str, net: Mapping[str, Any], train: int) -> str:
    kind, _, number = name.partition("_")
    plural = "" if number == "1" else "s"
    words = {
        "concepts": f"{number} concept{plural}",
        "below": f"{number} hidden layer{plural} below",
        "above": f"{number} hidden layer{plural} above",
        "plain": f"plain network, {number} hidden layer{plural}",
        "more": f"{train:,} training pictures",
    }
    return words[kind]


def _text(values: np.ndarray) -> str:
    mean, low, high = ls.analysis.mean_interval(values)
    return f"{mean:.1f} ({low:.1f} ... {high:.1f})"


def _learned_text(values: np.ndarray) -> str:
    return f"{_text(values)}, <= 5 in {np.sum(values <= 100 * LEARNED)} of {len(values)}"


if __name__ == "__main__":
    main("hints", Config, SMOKE, run, plot, findings, takes_problem=False)
