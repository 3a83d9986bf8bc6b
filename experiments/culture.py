r"""Do learners that exchange ideas get out of the local minima that each of them alone is stuck in?

Bengio 2012 ("Evolving Culture vs Local Minima", arXiv 1203.2990) conjectures that learning alone is hampered by local
minima, and that recombining the ideas of several learners is an efficient way out. Here a learner is a ReLU student of
the student-teacher problem, whose bad minima are known (Safran & Shamir 2018, arXiv 1712.08968), and an idea is one of
its units. A learner has solved the task if its loss is below 1e-3. All arms start from the same learners, and every
learner of every arm makes exactly the same number of gradient evaluations, what a talk costs included.

Two protocols:

- *children of the stuck*: learners train alone until they are at rest; a child has half of its units from one stuck
  learner and half from another, not aligned, and trains alone. Controls: the mother's half with new random units
  (`mutation`), a new learner (`restart`); at k = `doses` also exchange with noise of 1e-6 (`tie`) and 1e-2 (`blurred`),
  the father's units turned to random directions or with shuffled entries, and the better parent as it is (`copy`);
- *populations*: learners talk every `period` evaluations until three quarters of the run, and go back to what they were
  if the idea did not help. Arms: `isolated`, `exchange`, `mutation`, `restart`, `copy` of the best. At k = `doses` one
  factor at a time is changed: bandwidth, period, noise, topology, selection, what is passed on, size.

Expected:

- isolated learners followed to the end are bad as often as in table 1 of Safran & Shamir, the two-proportion z test
  at 1 %, whether those that are not at rest by then count as bad or as good;
- children at k = 12 solve the task in 68 % of cases, against 34 % for mutation and about 41 % for a restart (an
  earlier sample of 239 children, not a publication);
- exchange beats mutation with z > 5 at k = 12 and k = 16, in both protocols. Found: 9.8 and 4.9 for children (8.5 at
  k = 16 in a replicate of twice the size with another seed), 7.6 and 12.9 for populations;
- zero bandwidth equals isolation; copying the best leaves one network alive.

Intervals are 95 %: Wilson's, for populations with the number of learners divided by the design effect, once they have
talked. z of children is that of two proportions, given the stuck learners; z of populations is paired, since both arms
start from the same.

This experiment has its own problem and takes no --problem. Populations compute in float32, unless --x64 is given:
whether a loss is below 1e-3 does not take more. Learners that are followed to the end, and children, use float64:
units of two learners at rest are so alike that they mirror each other, and rounding decides when a child leaves the
saddle that this leads to.

Cost: about seven minutes on two CPU cores for the defaults.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
import optax
from _culture.arms import CHILDREN, MORE_CHILDREN, arms, children, doses
from _culture.dynamics import RATE, Population, Rules
from _culture.figures import plot
from _culture.report import (
    Cell,
    Rest,
    best_restarts,
    cell,
    cells,
    early_record,
    in_print,
    paired_z,
    rest,
    sizes,
    unaided,
)
from _lab import Lab, UsageError, main
from _students.published import PUBLISHED, beside_published

import landscape as ls
from landscape.analysis import z_of_shares
from landscape.problems import student_teacher
from landscape.training import Runs

LANES = 256  # learners at a time on a CPU
TOL = 1e-9  # gradient norm of a learner at rest
EARLIER = {"exchange": "68", "mutation": "34", "restart": "about 41"}  # %, at k = 12


@dataclass(frozen=True)
class Config:
    """Settings of this experiment."""

    ks: tuple[int, ...] = (10, 12, 14, 16, 20)
    """Units of teacher and student."""
    learners: int = 512
    """Learners of each arm."""
    size: int = 8
    """Learners of a population."""
    blocks: int = 50
    """Recorded stretches of a run."""
    evaluations: int = 200
    """Gradient evaluations of each learner in a stretch."""
    doses: int = 12
    """The k, one of ks, at which one factor at a time is changed; 0 for none."""
    factors: tuple[str, ...] = ("bandwidth", "period", "noise", "topology", "selection", "passed")
    """Which ones."""
    sizes: tuple[int, ...] = (2, 4, 16)
    """Other sizes of populations to try at that k."""
    max_rest: int = 20_000
    """Steps until stuck learners must be at rest, in double precision."""
    seed: int = 0
    """Seed of everything."""


SMOKE = Config(ks=(9,), learners=48, blocks=20, doses=9, factors=("passed",), sizes=())


def run(config: Config, lab: Lab) -> dict[str, ls.Landscape]:
    """The arms and the children of each k, and the doses of one."""
    _check(config)
    result: dict[str, ls.Landscape] = {}
    for k in config.ks:
        study = Study(config, lab, k)
        result |= study.populations()
        if k == config.doses:
            result |= study.doses()
        if f"k{k}_isolated" in result and result[f"k{k}_isolated"].computed.all():
            result |= study.generation(result[f"k{k}_isolated"])
    return result


def _check(config: Config) -> None:
    if not config.ks or not all(4 <= k <= 20 for k in config.ks):
        raise UsageError(f"--ks must lie within 4 and 20, got {config.ks}")
    if config.doses and config.doses not in config.ks:
        raise UsageError(f"--doses must be one of --ks {config.ks}, or 0, got {config.doses}")
    if min((config.size, *config.sizes)) < 2 or any(config.learners % size for size in (config.size, *config.sizes)):
        raise UsageError(f"--learners must be a multiple of --size and of all --sizes, each at least 2: {config}")
    if config.blocks < 4 or config.evaluations < 100 or config.max_rest < 1:
        raise UsageError(f"needs --blocks >= 4, --evaluations >= 100 and --max-rest >= 1: {config}")


@dataclass(frozen=True)
class Study:
    """The sweeps of one k."""

    config: Config
    lab: Lab
    k: int

    def populations(self) -> dict[str, ls.Landscape]:
        """The arms."""
        found = {}
        for name, rules in arms(self.k, self.config.blocks).items():
            found |= self._sweep(f"k{self.k}_{name}", "arm", name, rules)
        return found

    def doses(self) -> dict[str, ls.Landscape]:
        """The arm `exchange` with one factor changed."""
        found = {}
        for dose in (dose for dose in doses(self.k) if dose.factor in self.config.factors):
            about = {"factor": dose.factor, "value": dose.value}
            found |= self._sweep(dose.name, "dose", dose.name, dose.rules, about=about)
        for size in self.config.sizes:
            rules, about = arms(self.k, self.config.blocks)["exchange"], {"factor": "size", "value": size}
            found |= self._sweep(f"dose_size_{size}", "dose", f"size_{size}", rules, size=size, about=about)
        return found

    def generation(self, isolated: ls.Landscape) -> dict[str, ls.Landscape]:
        """Isolated learners at rest, and the children of those that are stuck."""
        found, name = {}, f"k{self.k}_rest"
        if not rest(isolated, None).bad.any():
            return {}
        followed = self._rest(name, rest(isolated, None))
        if followed is None or not followed.computed.all():
            return {} if followed is None else {name: followed}
        found[name], ends = followed, rest(isolated, followed)
        if ends.stuck.sum() < 2:
            return found
        of = children(self.config.seed + self.k, ends.w[ends.stuck], ends.loss[ends.stuck], self.config.learners)
        alone = Rules(topology="isolated", selection="none")
        with jax.enable_x64(True):
            for way in CHILDREN + (MORE_CHILDREN if self.k == self.config.doses else ()):
                found |= self._sweep(f"k{self.k}_child_{way}", "child", way, alone, starts=of[way])
        return found

    @cached_property
    def _starts(self) -> np.ndarray:
        """All learners of a k, the same for all arms."""
        keys = jax.random.split(jax.random.fold_in(jax.random.key(self.config.seed), self.k), self.config.learners)
        return np.asarray(jax.vmap(student_teacher(self.k).init)(keys)["w"])

    def _sweep(
        self, store: str, role: str, name: str, rules: Rules, *, starts: Any = None, size: int = 0, about: Any = None
    ) -> dict[str, ls.Landscape]:
        config, size = self.config, size or self.config.size
        starts = self._starts if starts is None else starts
        population = Population(
            objective=student_teacher(self.k).objectives["train"],
            starts=jax.numpy.asarray(starts),
            key=jax.random.key(config.seed),
            rules=rules.numbers(),
            talks_until=np.int32(3 * config.blocks // 4),
            size=size,
            blocks=config.blocks,
            evaluations=config.evaluations,
        )
        case = {"k": self.k, "role": role, "name": name, "rules": dataclasses.asdict(rules)}
        case |= {"per_record": config.evaluations, **(about or {})}
        here, grid = self._at_once(LANES // size), ls.Grid.of(population=np.arange(config.learners // size))
        landscape = here.sweep(store, population, grid, lambda _: {"case": case})
        return {} if landscape is None else {store: landscape}

    def _rest(self, name: str, ends: Rest) -> ls.Landscape | None:
        """Gradient descent in double precision of those that have not solved the task, until they are at rest."""
        with jax.enable_x64(True):
            runs = Runs(
                objective=student_teacher(self.k).objectives["train"],
                optimizer=optax.sgd(RATE),
                num_runs=len(ends.w),
                num_steps=self.config.max_rest,
                inits={"w": ends.w},
                record_every=self.config.max_rest,
                check_every=min(100, self.config.max_rest),
                tol=TOL,
            )
            case = {"k": self.k, "role": "rest", "name": "rest"}
            here = self._at_once(32)
            return here.sweep(name, runs, ls.Grid.of(run=np.flatnonzero(ends.bad)), lambda _: {"case": case})

    def _at_once(self, cpu: int) -> Lab:
        """So many points at a time on a CPU and all of them elsewhere."""
        return self.lab.at_once(cpu, self.config.learners)


# -------------------------------------------------------------------------------------------------------- findings


def findings(result: Mapping[str, ls.Landscape]) -> list[tuple[str, str, str]]:
    """Rows of `(what, expected, found)`."""
    rows = []
    for k in sizes(result):
        ends = rest(result[f"k{k}_isolated"], result.get(f"k{k}_rest"))
        rows.append(_published_row(k, ends))
    still = sum(int(rest(result[f"k{k}_isolated"], result.get(f"k{k}_rest")).open.sum()) for k in sizes(result))
    rows.append(("learners that are neither good nor at rest", "0", str(still)))
    for k in sizes(result):
        rows += _child_rows(k, cells(result, "child", k), cells(result, "arm", k)["isolated"])
    for k in sizes(result):
        rows += _arm_rows(k, cells(result, "arm", k))
    return rows + _control_rows(result) + _dose_rows(result)


def _published_row(k: int, ends: Rest) -> tuple[str, str, str]:
    what = f"k = {k}: isolated, followed to the end, bad, %"
    return what, *beside_published(PUBLISHED.get((k, k)), ends.bad, ends.open)


def _child_rows(k: int, found: Mapping[str, Cell], isolated: Cell) -> list[tuple[str, str, str]]:
    """Children of stuck learners; a new learner with as many evaluations is an isolated one."""
    if not found:
        return []
    what = f"k = {k}: children of the stuck, {{}}, solved, %"
    rows = []
    for name, one in {**found, "restart": isolated}.items():
        expected = f"{EARLIER[name]} (earlier sample)" if k == 12 and name in EARLIER else "-"
        rows.append((what.format(name), "0" if name == "copy" else expected, one.text()))
    first, second = found["exchange"], found["mutation"]
    z = z_of_shares((int(first.counts[-1]), first.num), (int(second.counts[-1]), second.num))
    expected = "> 5" if k in (12, 16) else "-"
    return [*rows, (f"k = {k}: children, exchange against mutation, z", expected, f"{z:.1f}")]


def _arm_rows(k: int, found: Mapping[str, Cell]) -> list[tuple[str, str, str]]:
    rows = [(f"k = {k}: populations, {name}, solved, %", "-", one.text()) for name, one in found.items()]
    z = paired_z(found["exchange"].solved[:, -1], found["mutation"].solved[:, -1])
    rows.append((f"k = {k}: populations, exchange against mutation, z", "> 5" if k in (12, 16) else "-", f"{z:.1f}"))
    share, tries = best_restarts(found["isolated"].shares, len(found["isolated"].shares) - 1)
    rows.append((f"k = {k}: restarts at the best times in hindsight, %", "-", f"{100 * share:.1f} in {tries} tries"))
    return rows + _unaided_rows(k, found)


def _unaided_rows(k: int, found: Mapping[str, Cell]) -> list[tuple[str, str, str]]:
    """Populations none of whose learners solves the task alone: how often one does with exchange, and with mutation."""
    rows = []
    for name in ("exchange", "mutation"):
        hits, count = unaided(found["isolated"], found[name])
        if count:
            interval = ls.analysis.wilson_interval(hits, count)
            what = f"k = {k}: populations where nobody solves it alone, with {name} one does, %"
            rows.append((what, "-", f"{in_print(hits / count, interval)}, {hits} of {count}"))
    return rows


def _control_rows(result: Mapping[str, ls.Landscape]) -> list[tuple[str, str, str]]:
    """Laws that hold to the bit: equal cost, no bandwidth is isolation, copies are alike."""
    made = {int(n) for one in result.values() if "evaluations" in one.values for n in np.unique(one["evaluations"])}
    rows = [("gradient evaluations of every learner in every arm", "one number", ", ".join(map(str, sorted(made))))]
    for k in sizes(result):
        alive = cells(result, "arm", k)["copy"].alive[:, -1]
        rows.append((f"k = {k}: networks alive after copying the best", "1", f"{alive.min()} to {alive.max()}"))
        if (silent := result.get("dose_bandwidth_0_units")) is not None and silent.meta["case"]["k"] == k:
            apart = np.max(np.abs(silent["w"] - result[f"k{k}_isolated"]["w"]))
            rows.append((f"k = {k}: zero bandwidth and isolation, largest difference of a weight", "0", f"{apart:g}"))
    return rows


def _dose_rows(result: Mapping[str, ls.Landscape]) -> list[tuple[str, str, str]]:
    rows = []
    for landscape in (one for one in result.values() if one.meta["case"]["role"] == "dose"):
        case, found = landscape.meta["case"], cell(landscape)
        record = early_record(found)
        what = f"k = {case['k']}: {case['factor']} {case['value']}, {case['rules']['passed']}: solved, %"
        early = f"{100 * found.shares[record]:.1f} after {found.evaluations[record]:,}"
        rows.append((what, "-", f"{found.text()}, {early}"))
    return rows


if __name__ == "__main__":
    main("culture", Config, SMOKE, run, plot, findings, takes_problem=False)
