"""Can what the parents learn, and do not pass on, guide evolution to what it could not find?

Hinton & Nowlan (1987), "How learning can guide evolution", Complex Systems 1, 495-502. An agent has 20 loci. Only if
all are right is it any good: a needle in a haystack. An allele is right (1), wrong (0) or undecided (?), with
probabilities 1/4, 1/4 and 1/2 in the first generation. In each of up to 1000 trials an agent guesses its undecided loci
anew, by a fair coin each, and stops when all 20 are right. With n trials left its fitness is 1 + 19 n / 1000 (20 if it
was born right). The 1000 agents of the next generation have two parents each, drawn with probabilities proportional to
fitness, and one-point crossover; there is no mutation, and what was learned is not inherited. Expected:

- generation 50: about 75 % of the alleles are right; generation 1000: about 9 % undecided (a replication: Hrvoje Stojic
  2017, submitted to ReScience, github.com/ReScience/ReScience-submission). Hinton and Nowlan themselves give 46 % that
  are undecided at the end of their 50 generations;
- generation 0, exactly: an agent without wrong alleles and with q undecided ones is right in a trial with probability
  p = 2^-q, learns with probability 1 - (1 - p)^T and has T - (1 - (1 - p)^T) / p trials left on average; q is binomial;
- without learning, from the same founders: nobody is right (10^-12), so alleles drift. The mean share of each stays as
  it was, and its variance after t generations is s (1 - s) (1 - (1 - 1/N)^(t + 1)) (Wright & Fisher);
- without learning and without ?, from right and wrong alleles at 1/2: until somebody is right, each agent is with
  probability 2^-20 exactly, so in t generations a population has had one with probability at most 1000 (t + 1) / 2^20
  (less than that when drift has made relatives of all). If one comes, it has 39 parents' places in a thousand children,
  and a child keeps all of it with probability 1/19, so about two are right again: it may spread.

The trial in which an agent succeeds is drawn by the geometric law, not by guessing. `literal` is the same evolution
with every guess made, as a check. Intervals are 95 %, Student's over populations. This experiment has its own problem
and takes no --problem.

Cost: a little more than one CPU minute for the defaults.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _lab import Lab, UsageError, main
from jaxtyping import Array, Float, Int
from scipy import stats

import landscape as ls
from landscape.point import as_number

_static: Any = {"static": True}
WRONG, RIGHT, UNDECIDED = range(3)
COLORS = {"right": "#0072b2", "wrong": "#d55e00", "undecided": "#009e73"}
EARLY = 50
LEARNING, SAME, DECIDED = range(3)
ARMS = ("learning", "no learning, same founders", "no learning, no undecided alleles")
LANES = 1  # populations at a time on a CPU: one fills the cache
MOST_LOCI = 32  # a guess of all loci is the bits of one word


@dataclass(frozen=True)
class Config:
    """Settings of this experiment."""

    populations: int = 100
    """Populations in each arm."""
    agents: int = 1000
    """Agents in a population."""
    loci: int = 20
    """Loci, all of which must be right."""
    trials: int = 1000
    """Trials in a life."""
    generations: int = 1000
    """Generations after the founders."""
    undecided: float = 0.5
    """Probability of ? in a founder; the rest is right or wrong alike."""
    literal: int = 50
    """Populations that make every guess, for 50 generations; 0 leaves them out."""
    seed: int = 0
    """Seed of everything."""


SMOKE = Config(populations=6, agents=200, loci=10, trials=100, generations=60, literal=4)


# ------------------------------------------------------------------------------------------------------------ world


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Evolution:
    """Point function `(arm, population) -> the history of a population`.

    Attributes:
        agents, loci, generations: sizes.
        trials: trials in a life, where agents learn; fitness is measured in them.
        literal: whether every guess is made, rather than their number drawn by the geometric law.
        learns: whether agents learn, in each arm.
        undecided: probability of ? in a founder, in each arm.
        key: random key.
    """

    agents: int = field(metadata=_static)
    loci: int = field(metadata=_static)
    generations: int = field(metadata=_static)
    trials: int = field(metadata=_static)
    literal: bool = field(metadata=_static)
    learns: Any
    undecided: Any
    key: Any

    def __call__(self, coords: Float[Array, " 2"]) -> dict[str, Array]:
        """Curves `(generations + 1,)`, and the shares of alleles at each locus in the end, `(loci,)`.

        `right`, `wrong`, `undecided`: shares of alleles; `learned`: share of agents that were right within their
        trials; `born`: share that were born right; `fitness`: the mean.
        """
        arm, population = as_number(coords)
        for_founders, for_lives = jax.random.split(jax.random.fold_in(jax.random.fold_in(self.key, arm), population))
        founders = self._founders(for_founders, self.undecided[arm])

        def generation(pair: Any, key: Array) -> tuple[Any, dict[str, Array]]:
            agents, _ = pair
            for_learning, for_mating = jax.random.split(key)
            life = self.live(for_learning, agents, self.learns[arm])
            children = mate(for_mating, agents, life["fitness"])
            return (children, agents), {name: jnp.mean(x) for name, x in {**life, **_kinds(agents)}.items()}

        keys = jax.random.split(for_lives, self.generations + 1)
        (_, last), curves = jax.lax.scan(generation, (founders, founders), keys)
        return curves | {f"{name}_at": jnp.mean(x, axis=0) for name, x in _kinds(last).items()}

    def live(self, key: Array, agents: Int[Array, "n loci"], learns: Any) -> dict[str, Array]:
        """What becomes of each agent, `(n,)`: `learned`, `born` right, `fitness`."""
        open_loci = agents == UNDECIDED
        hopeful = ~jnp.any(agents == WRONG, axis=1)
        born = hopeful & ~jnp.any(open_loci, axis=1)
        taken = guesses(key, open_loci, self.trials) if self.literal else first_success(key, open_loci)
        left = jnp.where(hopeful & learns & (taken <= self.trials), self.trials - taken, 0)
        left = jnp.where(born, self.trials, left)
        learned = born | (hopeful & learns & (taken <= self.trials))
        return {"learned": learned, "born": born, "fitness": 1 + 19 * left / self.trials}

    def _founders(self, key: Array, undecided: Any) -> Int[Array, "n loci"]:
        draw = jax.random.uniform(key, (self.agents, self.loci))
        decided = jnp.where(draw < undecided + (1 - undecided) / 2, RIGHT, WRONG)
        return jnp.where(draw < undecided, UNDECIDED, decided).astype(jnp.int8)


def _kinds(agents: Array) -> dict[str, Array]:
    return {"right": agents == RIGHT, "wrong": agents == WRONG, "undecided": agents == UNDECIDED}


def first_success(key: Array, open_loci: Array) -> Float[Array, " n"]:
    """The trial in which all open loci `(n, loci)` are guessed for the first time, by the geometric law.

    An exponential variate with rate -log(1 - p), rounded up, is geometric with success probability p.
    """
    rate = -jnp.log1p(-(0.5 ** jnp.sum(open_loci, axis=1)))
    waiting = -jnp.log1p(-jax.random.uniform(key, rate.shape))
    return jnp.floor(waiting / rate) + 1


def guesses(key: Array, open_loci: Array, trials: int) -> Float[Array, " n"]:
    """The same by making every guess; `trials + 1` where none of them succeeds."""
    bits = jax.random.bits(key, (trials, len(open_loci)), jnp.uint32)
    wanted = jnp.sum(jnp.where(open_loci, 1 << jnp.arange(open_loci.shape[1], dtype=jnp.uint32), 0), axis=1)
    wanted = wanted.astype(jnp.uint32)
    success = (bits & wanted) == wanted
    return jnp.where(jnp.any(success, axis=0), jnp.argmax(success, axis=0) + 1.0, trials + 1.0)


def mate(key: Array, agents: Int[Array, "n loci"], fitness: Float[Array, " n"]) -> Int[Array, "n loci"]:
    """As many children, each of two parents drawn by fitness: one's loci up to a random cut, then the other's."""
    num, loci = agents.shape
    for_parents, for_cuts = jax.random.split(key)
    parents = jax.random.choice(for_parents, num, (2, num), p=fitness / jnp.sum(fitness))
    cuts = jax.random.randint(for_cuts, (num, 1), 1, loci)
    first, second = agents[parents]
    return jnp.where(jnp.arange(loci) < cuts, first, second)


# ------------------------------------------------------------------------------------------------------------- run


def run(config: Config, lab: Lab) -> dict[str, ls.Landscape]:
    """Populations with and without learning, and some that make every guess."""
    _check(config)
    lab = lab.at_once(LANES)
    about = {"settings": dataclasses.asdict(config)}
    grid = ls.Grid.of(arm=range(len(ARMS)), population=range(config.populations))
    result = {"populations": lab.sweep("populations", world(config), grid, lambda _: about)}
    if config.literal:
        short = dataclasses.replace(config, generations=min(EARLY, config.generations), seed=config.seed + 1)
        grid = ls.Grid.of(arm=[LEARNING], population=range(config.literal))
        result["literal"] = lab.sweep("literal", world(short, literal=True), grid, lambda _: about)
    return {name: landscape for name, landscape in result.items() if landscape is not None}


def world(config: Config, literal: bool = False) -> Evolution:
    """The point function of a configuration."""
    return Evolution(
        agents=config.agents,
        loci=config.loci,
        generations=config.generations,
        trials=config.trials,
        literal=literal,
        learns=jnp.array([True, False, False]),
        undecided=jnp.array([config.undecided, config.undecided, 0.0]),
        key=jax.random.key(config.seed),
    )


def _check(config: Config) -> None:
    if min(config.populations, config.agents, config.generations) < 2 or config.trials < 1 or config.literal < 0:
        raise UsageError(f"needs --populations, --agents, --generations >= 2, --trials >= 1, --literal >= 0: {config}")
    if not 2 <= config.loci <= MOST_LOCI or config.literal == 1:
        raise UsageError(f"needs 2 <= --loci <= {MOST_LOCI}, and --literal other than 1 for an interval: {config}")
    if not 0 <= config.undecided < 1:
        raise UsageError(f"--undecided is a probability below 1, got {config.undecided}")


# -------------------------------------------------------------------------------------------------------- findings


def founders_learn(loci: int, trials: int, undecided: float) -> tuple[float, float]:
    """Probability that a founder learns, and its mean fitness, exactly."""
    learn, left = 0.0, 0.0
    for open_loci in range(loci + 1):
        share = math.comb(loci, open_loci) * undecided**open_loci * ((1 - undecided) / 2) ** (loci - open_loci)
        p = 0.5**open_loci
        success = -math.expm1(trials * math.log1p(-p)) if open_loci else 1.0
        learn += share * success
        left += share * (trials - success / p if open_loci else trials)
    return learn, 1 + 19 * left / trials


def drift(share: float, agents: int, generations: int) -> float:
    """Variance of the share of an allele among `agents`, `generations` after founders drawn with that probability."""
    return share * (1 - share) * -math.expm1((generations + 1) * math.log1p(-1 / agents))


def findings(result: Mapping[str, ls.Landscape]) -> list[tuple[str, str, str]]:
    """Rows of `(what, expected, found)`."""
    evolved, settings = result["populations"], result["populations"].meta["settings"]
    early, late = min(EARLY, settings["generations"]), settings["generations"]
    right, undecided, wrong = (evolved[name][LEARNING] for name in ("right", "undecided", "wrong"))
    learn, fitness = founders_learn(settings["loci"], settings["trials"], settings["undecided"])
    rows = [
        (f"right alleles, generation {early}", "about .75 (Stojic 2017)", _text(right[:, early])),
        ("... standard deviation of populations", "not published", f"{np.std(right[:, early], ddof=1):.4f}"),
        (f"undecided alleles, generation {early}", ".46 (1987)", _text(undecided[:, early])),
        (f"undecided alleles, generation {late}", "about .09 (Stojic 2017)", _text(undecided[:, late])),
        (f"wrong alleles, generation {late}", "about 0", _text(wrong[:, late])),
        ("founders that learn", f"{learn:.6f}", _text(evolved["learned"][LEARNING, :, 0], 6)),
        ("mean fitness of founders", f"{fitness:.5f}", _text(evolved["fitness"][LEARNING, :, 0], 5)),
    ]
    if "literal" in result:
        other = result["literal"]["right"][0, :, early]
        rows.append((f"right, generation {early}, every guess made", "as by the law", _text(other)))
        apart = stats.ttest_ind(other, right[:, early], equal_var=False).confidence_interval()
        rows.append(("... difference from the law, 95 %", "holds 0", f"{apart.low:.4f} ... {apart.high:.4f}"))
    return rows + _drift_rows(evolved, settings) + _haystack_rows(evolved, settings)


def _drift_rows(evolved: ls.Landscape, settings: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    late, share = settings["generations"], (1 - settings["undecided"]) / 2
    spread = np.mean((evolved["right_at"][SAME].astype(float) - share) ** 2, axis=1)
    expected = drift(share, settings["agents"], late)
    return [
        (f"no learning: right, generation {late}", f"{share:.4f}", _text(evolved["right"][SAME, :, late])),
        ("... variance of its share at a locus", f"{expected:.4f}", _text(spread)),
        ("... agents ever right", "0", f"{np.sum(evolved['learned'][SAME]) * settings['agents']:.0f}"),
    ]


def _haystack_rows(evolved: ls.Landscape, settings: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The arm with decided alleles alone."""
    early, late = min(EARLY, settings["generations"]), settings["generations"]
    hit = evolved["born"][DECIDED] > 0
    calm = evolved["right"][DECIDED, ~np.any(hit[:, : early + 1], axis=1), early]
    found = _text(calm) if len(calm) else "every population had a hit"
    rows = [(f"no ?: right alleles at {early}, nobody born right so far", "about 0.5", found)]
    for when in (early, late):
        births = settings["agents"] * (when + 1) / 2.0 ** settings["loci"]
        found, num = int(np.sum(np.any(hit[:, : when + 1], axis=1))), len(hit)
        low, high = (float(end) for end in ls.analysis.wilson_interval(found, num))
        what = f"no ?: populations where one was born right by {when}"
        rows.append((what, f"at most {min(1.0, births):.3f}", f"{found / num:.3f} ({low:.3f} ... {high:.3f})"))
    taken = int(np.sum(evolved["born"][DECIDED, :, late] > 0.5))
    rows.append((f"... and most are at {late}", "not published", f"{taken} of {len(hit)}"))
    return rows


def _text(values: np.ndarray, digits: int = 4) -> str:
    mean, low, high = ls.analysis.mean_interval(values)
    return f"{mean:.{digits}f} ({low:.{digits}f} ... {high:.{digits}f})"


# --------------------------------------------------------------------------------------------------------- figures


def plot(result: Mapping[str, ls.Landscape]) -> dict[str, Any]:
    """Alleles with learning, early and late; agents that learn; alleles without learning."""
    from matplotlib import pyplot

    evolved = result["populations"]
    figure, axes = pyplot.subplots(2, 2, figsize=(7.2, 5.2))
    early = min(EARLY, evolved.meta["settings"]["generations"])
    _draw_alleles(axes[0, 0], evolved, early)
    _draw_alleles(axes[0, 1], evolved, evolved.meta["settings"]["generations"])
    axes[0, 0].set_title("with learning: mean, 90 % of the populations", loc="left")
    axes[0, 1].set_title("the same, later", loc="left")
    axes[0, 1].legend(loc="center right")
    _draw_agents(axes[1, 0], evolved)
    _draw_controls(axes[1, 1], evolved)
    for ax, letter in zip(axes.flat, "abcd", strict=True):
        ax.set_title(f"({letter}) {ax.get_title(loc='left')}", loc="left")
        ax.spines[["top", "right"]].set_visible(False)
    return {"hinton_nowlan": figure}


def _draw_alleles(ax: Any, evolved: ls.Landscape, until: int) -> None:
    """Mean shares of alleles, and the band of 90 % of the populations."""
    when = np.arange(until + 1)
    for name, color in COLORS.items():
        curves = evolved[name][LEARNING, :, : until + 1]
        ax.fill_between(when, *np.quantile(curves, (0.05, 0.95), axis=0), color=color, alpha=0.2, linewidth=0)
        ax.plot(when, curves.mean(axis=0), color=color, label=name)
    ax.set(xlabel="generation", ylabel="share of alleles", xlim=(0, until), ylim=(-0.02, 1.02))


def _draw_agents(ax: Any, evolved: ls.Landscape) -> None:
    """Agents that are right in the end of their trials, and from birth."""
    when = 1 + np.arange(evolved["learned"].shape[-1])
    for name, color, label in (("learned", "#0072b2", "within their trials"), ("born", "#000000", "from birth")):
        curves = evolved[name][LEARNING]
        ax.fill_between(when, *np.quantile(curves, (0.05, 0.95), axis=0), color=color, alpha=0.2, linewidth=0)
        ax.plot(when, curves.mean(axis=0), color=color, label=label)
    ax.set(xscale="log", xlabel="generation + 1 (log scale)", ylabel="share of agents", ylim=(-0.02, 1.3))
    ax.set_title("agents that are right, with learning", loc="left")
    ax.set_yticks(np.linspace(0, 1, 6))
    ax.legend(loc="upper left")


def _draw_controls(ax: Any, evolved: ls.Landscape) -> None:
    """Right alleles of every population without learning, beside those with it."""
    when = 1 + np.arange(evolved["right"].shape[-1])
    for arm, color in ((DECIDED, "#e69f00"), (SAME, "0.45"), (LEARNING, COLORS["right"])):
        curves = evolved["right"][arm]
        ax.plot(when, curves.T, color=color, linewidth=0.4, alpha=0.4)
        ax.plot([], [], color=color, label=ARMS[arm])
    ax.set(xscale="log", xlabel="generation + 1 (log scale)", ylabel="share of right alleles", ylim=(-0.02, 1.3))
    ax.set_title("the controls, every population", loc="left")
    ax.set_yticks(np.linspace(0, 1, 6))
    ax.legend(loc="upper left")


if __name__ == "__main__":
    main("hinton_nowlan", Config, SMOKE, run, plot, findings, takes_problem=False)
