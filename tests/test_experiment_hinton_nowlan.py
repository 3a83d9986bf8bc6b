"""Learning that guides evolution: the geometric law, exact founders, drift, the script."""

import dataclasses
import itertools
import json

import hinton_nowlan as hn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _lab import Lab, UsageError
from _lab.command import settings_rows, table
from scipy import stats

import landscape as ls

pytestmark = pytest.mark.xdist_group("hinton_nowlan")  # the tests share one run of the script


# ------------------------------------------------------------------------------------------------- one life, exactly


def open_loci(counts, repeats, loci=7):
    """`repeats` rows for each number of undecided loci."""
    return jnp.asarray(np.repeat(np.arange(loci)[None] < np.array(counts)[:, None], repeats, axis=0))


@pytest.mark.parametrize("draw", [hn.first_success, lambda key, open_loci: hn.guesses(key, open_loci, 40)])
def test_first_successes_are_geometric(draw):
    """Every guess made, and the law: both against SciPy's geometric distribution."""
    trials, num, counts = 40, 5000, (1, 3, 6)
    taken = jax.jit(draw)(jax.random.key(11), open_loci(counts, num))
    taken = np.asarray(taken).reshape(len(counts), num)
    upto = np.arange(1, trials + 1)
    for row, num_open in zip(taken, counts, strict=True):
        law = stats.geom(0.5**num_open)
        seen = np.array([np.sum(row == t) for t in upto] + [np.sum(row > trials)])
        expected = num * np.append(law.pmf(upto), law.sf(trials))
        cut = np.searchsorted(-expected[:-1], -5.0)  # chi-square wants five in a cell
        pooled = [np.append(x[:cut], x[cut:].sum()) for x in (seen, expected)]
        assert stats.chisquare(*pooled).pvalue > 1e-3


def test_the_needle_of_twenty_loci_is_not_lost_to_rounding():
    """p = 2^-20 in single precision: the chance of success within 1000 trials."""
    taken = np.asarray(jax.jit(hn.first_success)(jax.random.key(3), jnp.ones((400_000, 20), bool)))
    chance = stats.geom(2.0**-20).cdf(1000)
    assert stats.binomtest(int(np.sum(taken <= 1000)), 400_000, chance).pvalue > 1e-3


def small(**changes):
    return hn.world(dataclasses.replace(hn.SMOKE, **changes))


def test_a_life_is_worth_what_the_paper_says():
    live = jax.jit(small(trials=50).live)
    special = [[1] * 9 + [0], [1] * 10, [1] * 10, [1] * 5 + [0] + [2] * 4]
    undecided = [[1] * 7 + [2] * 3] * 4000
    agents = jnp.asarray(np.array(special + undecided, np.int8))
    life = jax.tree.map(np.asarray, live(jax.random.key(5), agents, True))
    np.testing.assert_array_equal(life["fitness"][:4], [1, 20, 20, 1])
    np.testing.assert_array_equal(life["born"][:4], [False, True, True, False])
    trials = np.arange(1, 51)
    worth = 1 + 19 * (50 - trials) / 50
    law = stats.geom(1 / 8)
    mean = np.sum(law.pmf(trials) * worth) + law.sf(50)
    assert abs(np.mean(life["fitness"][4:]) - mean) < 4 * stats.sem(life["fitness"][4:])
    assert not np.any(np.asarray(live(jax.random.key(5), agents, False)["learned"])[4:])


def test_founders_learn_with_the_exact_probability():
    """Against a sum over all 3^6 founders."""
    trials, undecided = 9, 0.3
    learn, fitness = 0.0, 0.0
    for alleles in itertools.product((0, 1, 2), repeat=6):
        share = np.prod([undecided if a == 2 else (1 - undecided) / 2 for a in alleles])
        p = 0.0 if 0 in alleles else 0.5 ** alleles.count(2)
        left = trials if p == 1 else sum(p * (1 - p) ** (t - 1) * (trials - t) for t in range(1, trials + 1))
        learn += share * (1 - (1 - p) ** trials)
        fitness += share * (1 + 19 * left / trials)
    np.testing.assert_allclose(hn.founders_learn(6, trials, undecided), (learn, fitness), rtol=1e-12)


# --------------------------------------------------------------------------------------------------------- evolution


def test_children_are_cut_from_two_parents_drawn_by_fitness():
    agents = jnp.asarray(np.repeat(np.arange(4, dtype=np.int8), 500)[:, None].repeat(6, axis=1))
    fitness = jnp.asarray(np.repeat([1.0, 2.0, 3.0, 4.0], 500), jnp.float32)
    children = np.asarray(jax.jit(hn.mate)(jax.random.key(7), agents, fitness))
    for locus in (0, 5):
        counts = np.bincount(children[:, locus], minlength=4)
        assert stats.chisquare(counts, 200 * np.arange(1, 5)).pvalue > 1e-3
    changes = np.sum(np.diff(children, axis=1) != 0, axis=1)
    assert changes.max() == 1
    cuts = 1 + np.argmax(np.diff(children, axis=1) != 0, axis=1)[changes == 1]
    assert stats.chisquare(np.bincount(cuts, minlength=6)[1:]).pvalue > 1e-3  # 1 to 5 alike
    apart = np.sum(children[:, 0] != children[:, 5])  # two independent parents
    assert stats.binomtest(int(apart), 2000, 1 - 0.01 - 0.04 - 0.09 - 0.16).pvalue > 1e-3


def test_drift_is_that_of_wright_and_fisher(smoke):
    """The variance by the matrix of Wright and Fisher's chain, and of the populations without learning."""
    num, generations, share = 9, 4, 0.3
    states = np.arange(num + 1)
    chain = stats.binom.pmf(states[None, :], num, states[:, None] / num)
    after = stats.binom.pmf(states, num, share) @ np.linalg.matrix_power(chain, generations)
    variance = after @ (states / num - share) ** 2
    np.testing.assert_allclose(hn.drift(share, num, generations), variance, rtol=1e-12)
    same = smoke[2]["populations"]["right_at"][hn.SAME].astype(float)
    spread = np.mean((same - 0.25) ** 2, axis=1)
    assert abs(np.mean(spread) - hn.drift(0.25, 200, 60)) < 4 * stats.sem(spread)


def test_curves_are_shares_and_learning_wins(smoke):
    evolved = smoke[2]["populations"]
    total = evolved["right"] + evolved["wrong"] + evolved["undecided"]
    np.testing.assert_allclose(total, 1, rtol=1e-6)
    np.testing.assert_array_equal(evolved["undecided"][hn.DECIDED], 0)
    np.testing.assert_allclose(evolved["right_at"].mean(axis=2), evolved["right"][:, :, -1], rtol=1e-5)
    assert np.all(evolved["right"][hn.LEARNING, :, -1] > 0.7)
    assert np.all(np.abs(evolved["right"][hn.SAME, :, -1] - 0.25) < 0.25)
    assert not np.any(evolved["learned"][hn.SAME] - evolved["born"][hn.SAME])


def test_every_guess_made_gives_the_same_founders(smoke):
    learned = smoke[2]["literal"]["learned"][0, :, 0]
    chance = hn.founders_learn(10, 100, 0.5)[0]
    assert stats.binomtest(round(float(learned.sum()) * 200), 200 * len(learned), chance).pvalue > 1e-3


# -------------------------------------------------------------------------------------------------- script and table


def test_the_script_draws_and_its_folder_is_resumed(smoke):
    done, out, _ = smoke
    assert {"hinton_nowlan.png", "hinton_nowlan.pdf", "findings.json"} <= {path.name for path in out.iterdir()}
    result = hn.run(hn.SMOKE, Lab(out, {"progress": False}))
    rows = [*settings_rows(hn.SMOKE, hn.SMOKE), *hn.findings(result)]
    assert table(rows) == done.stdout.rstrip("\n")
    assert all(len(landscape.meta["calls"]) == 1 for landscape in result.values())
    assert json.loads((out / "config.json").read_text())["config"]["populations"] == hn.SMOKE.populations


def test_findings_measure_shares_and_hits():
    settings = {**dataclasses.asdict(hn.Config(populations=4, agents=1000, generations=80)), "undecided": 0.5}
    shape = (3, 4, 81)
    flat = dict.fromkeys(("right", "wrong", "undecided", "learned", "born", "fitness"))
    values = {name: np.zeros(shape) for name in flat}
    values["right"][hn.LEARNING, :, 50] = [0.70, 0.72, 0.74, 0.76]
    values["undecided"][hn.LEARNING, :, 80] = [0.08, 0.10, 0.08, 0.10]
    values["born"][hn.DECIDED, 1, 30:] = 0.9
    values["born"][hn.DECIDED, 2, 70] = 0.001
    values["right"][hn.DECIDED, :, 50] = [0.45, 0.95, 0.5, 0.55]
    values["right_at"] = np.full((3, 4, 20), 0.25 + 0.3)
    grid = ls.Grid.of(arm=range(3), population=range(4))
    evolved = ls.Landscape(grid, values, np.ones((3, 4), bool), meta={"settings": settings})
    rows = {what: (expected, found) for what, expected, found in hn.findings({"populations": evolved})}
    half = stats.t.ppf(0.975, 3) * np.std([0.70, 0.72, 0.74, 0.76], ddof=1) / 2
    found = rows["right alleles, generation 50"][1]
    assert found == f"0.7300 ({0.73 - half:.4f} ... {0.73 + half:.4f})"
    assert rows["undecided alleles, generation 80"][1].startswith("0.0900 (")
    assert rows["... variance of its share at a locus"][1].startswith("0.0900 (0.0900")
    low, high = stats.t.interval(0.95, 2, 0.5, 0.05 / 3**0.5)  # without the population that had one by then
    what = "no ?: right alleles at 50, nobody born right so far"
    assert rows[what] == ("about 0.5", f"0.5000 ({low:.4f} ... {high:.4f})")
    assert rows["no ?: populations where one was born right by 50"][1].startswith("0.250 (")
    assert rows["no ?: populations where one was born right by 80"][1].startswith("0.500 (")
    assert rows["... and most are at 80"][1] == "1 of 4"
    always = evolved.assign(born=np.full(shape, 0.5))
    found = {row[0]: row[2] for row in hn.findings({"populations": always})}
    assert found[what] == "every population had a hit"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"populations": 1}, "needs --populations"),
        ({"loci": 33}, "2 <= --loci <= 32"),
        ({"literal": 1}, "--literal other than 1"),
        ({"undecided": 1.0}, "a probability below 1"),
    ],
)
def test_bad_settings_name_their_flag(changes, message):
    with pytest.raises(UsageError, match=message):
        hn.run(dataclasses.replace(hn.SMOKE, **changes), Lab())


@pytest.mark.slow
def test_the_replication(tmp_path):
    result = hn.run(hn.Config(populations=30), Lab(tmp_path, {"progress": False}))
    evolved, literal = result["populations"], result["literal"]
    assert 0.70 <= evolved["right"][hn.LEARNING, :, 50].mean() <= 0.82
    assert evolved["undecided"][hn.LEARNING, :, 1000].mean() < 0.2
    same = stats.ttest_ind(literal["right"][0, :, 50], evolved["right"][hn.LEARNING, :, 50], equal_var=False)
    assert same.pvalue > 1e-3
    spread = np.mean((evolved["right_at"][hn.SAME].astype(float) - 0.25) ** 2, axis=1)
    assert abs(np.mean(spread) - hn.drift(0.25, 1000, 1000)) < 4 * stats.sem(spread)
