"""Bad minima of the ReLU student: stages, families, shares with their bands, the script."""

import dataclasses
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import jax
import numpy as np
import pytest
import student_teacher
from _lab import Lab, UsageError
from _lab.command import settings_rows, table
from _students.published import FAMILY_RUNS, PUBLISHED, Published, band, beside_published, compare_families
from scipy import stats
from scripts import run_script
from student_teacher import Config, Ends, cases, ends, findings, found_minima, restarts

import landscape as ls
from landscape.problems import student_teacher as problem_of

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.xdist_group("student_teacher")  # the tests share one run of the script


def script(*arguments):
    return run_script("student_teacher", *arguments)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """What the script prints for `--smoke --rotate`, and what it leaves behind."""
    out = tmp_path_factory.mktemp("smoke")
    done = script("--smoke", "--rotate", "--out", out)
    assert done.returncode == 0, done.stderr
    return done, out, {path.stem: ls.load(path) for path in out.glob("*.zarr")}


def stage(k, n, w, loss, outcome, number=0, runs=None, steps=100):
    """A stage as a sweep would leave it."""
    runs = np.arange(len(loss)) if runs is None else runs
    values = {
        "params.w": np.asarray(w, float),
        "history.loss": np.stack([np.full(len(loss), 7.5), loss], axis=1),
        "outcome": np.asarray(outcome, np.int32),
        "steps": np.full(len(loss), steps, np.int32),
    }
    grid = ls.Grid.of(run=runs)
    meta = {"case": {"k": k, "n": n, "done": 0}}
    return {f"ends_{k}_{n}_{number}": ls.Landscape(grid, values, np.ones(len(loss), bool), {}, meta)}


def sample(k, n, bad, count, outcome=ls.Outcome.CONVERGED):
    loss = np.where(np.arange(count) < bad, 0.025, 3e-17)
    return stage(k, n, np.zeros((count, n, k)), loss, np.full(count, outcome))


def test_the_script_finds_a_family_in_a_random_basis(smoke):
    done, out, result = smoke
    with np.errstate(all="raise"):
        kinds = {one.family: one for one in found_minima(result, 8, 8)}
    assert kinds[8,].kind == "global"
    assert kinds[8,].lowest == pytest.approx(1 / 4 - 1 / (2 * np.pi), abs=1e-8)
    assert kinds[1, 7].kind == "local"
    assert kinds[1, 7].loss == pytest.approx(0.02151, abs=1e-5)
    assert kinds[1, 7].lowest == pytest.approx(0.0213, abs=1e-3)
    assert sum(one.runs for one in kinds.values()) == student_teacher.SMOKE.runs
    assert {"student_teacher.png", "student_teacher.pdf", "config.json"} <= {path.name for path in out.iterdir()}
    assert json.loads((out / "config.json").read_text())["config"]["rotate"] is True
    assert "k = 8, n = 8: (1, 7) loss, lowest eigenvalue" in done.stdout


def test_several_minima_of_a_family_have_numbers():
    families, kinds = [[8], [2, 6], [3, 5], [2, 6]], ["global", "local", "local", "local"]
    values = {"loss": np.array([0, 0.25, 0.5, 0.75]), "eigenvalues": np.full((4, 3), 2.5)}
    meta = {"minima": {"families": families, "kinds": kinds, "counts": [5, 3, 2, 7]}}
    landscape = ls.Landscape(ls.Grid.of(minimum=range(4)), values, np.ones(4, bool), {}, meta)
    names = [one.name for one in found_minima({"minima_8_8": landscape}, 8, 8)]
    assert names == ["global", "(2, 6) no. 1", "(3, 5)", "(2, 6) no. 2"]


def test_ends_lie_where_the_loss_says_and_are_stationary(smoke):
    result = smoke[2]
    found = ends(result, 8, 8)
    teacher = student_teacher._teacher(8, dataclasses.replace(student_teacher.SMOKE, rotate=True))
    np.testing.assert_allclose(teacher @ teacher.T, np.eye(8), atol=1e-14)
    assert np.all(found.converged)
    for w, loss in zip(found.w[:5], found.loss):
        np.testing.assert_allclose(_quadrant_loss(w, teacher), loss, atol=1e-12)
    assert np.all(result["minima_8_8"]["grad_norm"] < 1e-9)


def _quadrant_loss(w, v):
    """The population loss from the mean of relu(a) relu(b) of correlated normal numbers, one pair at a time."""

    def mean(a, b):
        na, nb = np.linalg.norm(a), np.linalg.norm(b)
        angle = np.arctan2(np.linalg.norm(nb * a - na * b), np.linalg.norm(nb * a + na * b)) * 2
        return na * nb * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)

    def total(x, y):
        return sum(mean(a, b) for a in x for b in y)

    return total(w, w) / 2 - total(w, v) + total(v, v) / 2


@pytest.mark.slow
def test_a_folder_of_the_script_is_resumed_to_the_same_table(smoke):
    done, out, _ = smoke
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.zarr/params.w/c/**/*")}
    config = dataclasses.replace(student_teacher.SMOKE, rotate=True)
    result = student_teacher.run(config, Lab(out, {"progress": False}))
    assert table([*settings_rows(config, student_teacher.SMOKE), *findings(result)]) == done.stdout.rstrip("\n")
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.zarr/params.w/c/**/*")} == before
    assert before


def test_with_two_more_neurons_no_run_is_bad(smoke):
    found = ends(smoke[2], 4, 6)
    assert not found.bad.any()
    assert not found.under_way.any()


def test_stages_are_one_descent(x64, monkeypatch):
    config = Config(ks=(3,), more=(), runs=5, max_steps=1000)
    lab = Lab(options={"progress": False, "batch": 5})
    problem = problem_of(3)
    monkeypatch.setattr(student_teacher, "MANY", (500, 5))
    monkeypatch.setattr(student_teacher, "FEW", (700, 2))
    stages = student_teacher._descend(config, lab, problem, 3, 3)
    assert len(stages) >= 2
    key = jax.random.fold_in(jax.random.key(config.seed), 303)
    starts = jax.vmap(problem.init)(jax.random.split(key, 5))
    whole = ls.train_many(
        problem.objectives["train"], student_teacher.OPTIMIZER, starts, num_steps=1000, tol=1e-9, batch=5
    )
    found = ends(stages, 3, 3)
    np.testing.assert_allclose(found.w, whole.params["w"], rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(found.steps, whole.steps)
    np.testing.assert_array_equal(found.outcome, whole.outcome_code)


def test_a_later_stage_replaces_only_the_runs_that_it_trained():
    first = stage(3, 3, np.full((4, 3, 3), 2.5), np.array([0.5, 0.25, 0.125, 0.75]), [1, 0, 1, 2])
    second = stage(3, 3, np.full((2, 3, 3), 4.5), np.array([0.0625, 3e-9]), [1, 0], 1, np.array([0, 2]), 40)
    found = ends({**second, **first}, 3, 3)
    np.testing.assert_array_equal(found.loss, [0.0625, 0.25, 3e-9, 0.75])
    np.testing.assert_array_equal(found.steps, [140, 100, 140, 100])
    np.testing.assert_array_equal(found.w[:, 0, 0], [4.5, 2.5, 4.5, 2.5])
    np.testing.assert_array_equal(found.under_way, [True, False, False, False])


def test_good_runs_of_wider_students_are_settled_and_diverged_ones_bad():
    w, outcome = np.zeros((4, 5, 3)), np.array([1, 1, 2, 0])
    found = Ends(w, np.array([5e-4, 2e-3, np.nan, 2e-3]), np.full(4, 10), outcome)
    np.testing.assert_array_equal(found.bad, [False, True, True, True])
    np.testing.assert_array_equal(found.under_way, [False, True, False, False])


@pytest.mark.parametrize(
    ("listed", "count"),
    [
        (Published(34.6, 346), 240),
        (Published(0.3, 3), 400),
        (Published(73.6, 736), 300),
        (Published(73.0, 73, 100), 1000),
        (Published(73.0, 73, 100), 150),
    ],
)
def test_the_band_is_that_of_the_two_proportion_test(listed, count):
    passing = []
    for hits in range(count + 1):
        table = [[hits, count - hits], [listed.bad, listed.runs - listed.bad]]
        if stats.chi2_contingency(table, correction=False).pvalue >= 0.01:
            passing.append(hits / count)
    assert band(listed, count) == (passing[0], passing[-1])


@pytest.mark.parametrize(("k", "n"), PUBLISHED)
def test_counts_of_the_raw_results_are_the_per_cents_of_the_table(k, n):
    listed = PUBLISHED[k, n]
    uncertified = FAMILY_RUNS[20][0.059753] if (k, n) == (20, 20) else 0
    assert 100 * (listed.bad - uncertified) / listed.runs == pytest.approx(listed.percent, abs=1e-9)
    assert listed.runs == (100 if (k, n) == (13, 13) else 1000)


def test_the_raw_results_are_the_families_of_the_table_of_losses():
    for (k, p), (loss, _) in student_teacher.FAMILIES.items():
        assert any(abs(other - loss) <= 6e-6 for other in FAMILY_RUNS[k]), (k, p)
    assert {k: sum(runs.values()) for k, runs in FAMILY_RUNS.items()} == {k: PUBLISHED[k, k].bad for k in range(6, 21)}
    assert all(np.all(np.diff(list(runs)) > 1e-5) for runs in FAMILY_RUNS.values())  # each family once, by rising loss


@pytest.mark.parametrize(("bad", "runs"), [(101, 100), (-3, 100), (0, 0)])
def test_a_count_that_cannot_be_is_refused(bad, runs):
    with pytest.raises(ValueError, match=f"needs 0 <= bad <= runs and runs >= 1, got {bad} of {runs}"):
        Published(73.0, bad, runs)


def test_shares_of_families_are_compared_by_chi_square():
    ours = [(3e-17, 700), (0.020014 - 8e-6, 250), (0.03749, 12), (0.055, 6), (0.066, 5)]
    found = compare_families(9, ours, 980)  # seven ended nowhere; .055 and .066 are not listed
    table = [[782, 213, 5, 0], [700, 250, 12, 18]]
    np.testing.assert_array_equal(found.counts, table)
    assert found.others
    assert found.p == pytest.approx(stats.chi2_contingency(table, correction=False).pvalue, rel=1e-12)
    assert found.in_print(0) == "782, 213, 5, others 0"


def test_a_family_that_is_the_same_in_loss_is_the_same_family():
    parts = compare_families(8, [(2e-17, 500), (0.021508, 60), (0.021508 + 7e-6, 40)], 600)
    np.testing.assert_array_equal(parts.counts, [[874, 126], [500, 100]])
    assert not parts.others
    apart = compare_families(8, [(2e-17, 500), (0.021508, 60), (0.021508 + 1.3e-5, 40)], 600)
    np.testing.assert_array_equal(apart.counts, [[874, 126, 0], [500, 60, 40]])


def test_a_pool_that_expects_less_than_one_run_takes_the_rarest_family():
    found = compare_families(9, [(0.0, 250), (0.020014, 70)], 320)  # of five others a fourth is expected in ours
    np.testing.assert_array_equal(found.counts, [[782, 213, 5], [250, 70, 0]])  # 1.2: few, yet enough
    fewer = compare_families(11, [(0.0, 520), (0.017547, 380), (0.033348, 80)], 980)
    np.testing.assert_array_equal(fewer.counts, [[545, 383, 72], [520, 380, 80]])
    assert fewer.others


def test_families_are_compared_with_as_many_runs_as_are_distinct():
    ours = [(0.0, 336), (0.015613, 415), (0.029924, 204), (0.043289, 36)]
    found = compare_families(13, ours, 1000)
    table = [[27, 47, 22, 4], [336, 415, 204, 45]]
    np.testing.assert_array_equal(found.counts, table)
    assert found.p == pytest.approx(stats.chi2_contingency(table, correction=False).pvalue, rel=1e-12)


@pytest.mark.parametrize(("k", "ours", "runs"), [(5, [(0.0, 7), (0.25, 6)], 13), (9, [], 40), (9, [(0.0, 4)], 4)])
def test_families_that_cannot_be_compared_have_no_test(k, ours, runs):
    assert compare_families(k, ours, runs) is None


def test_more_runs_in_minima_than_there_are_is_refused():
    with pytest.raises(ValueError, match="27 runs are said to end in the minima, of 25"):
        compare_families(9, [(0.0, 20), (0.020014, 7)], 25)


def test_findings_say_whether_a_share_is_inside_its_band():
    rows = findings(
        {**sample(10, 10, 351, 1000), **sample(11, 11, 600, 1000), **sample(5, 5, 1, 40), **sample(4, 6, 0, 50)}
    )
    by_name = {what: (expected, found) for what, expected, found in rows}
    assert by_name["k = 10, n = 10: bad runs, %"][0].startswith("34.6, 346 of 1000 (99 % band 29.")
    assert by_name["k = 10, n = 10: bad runs, %"][1].endswith("351 of 1000: inside")
    assert by_name["k = 11, n = 11: bad runs, %"][1].endswith("OUTSIDE")
    assert by_name["k = 5, n = 5: bad runs, %"][0] == "not listed"
    assert by_name["k = 4, n = 6: bad runs, %"][0].startswith("0.0, 0 of 1000 (99 % band 0.0 ...")
    assert by_name["k = 10, n = 10: (2, 8) loss, lowest eigenvalue"] == ("0.03533, 0.0160", "no run ended there")


@pytest.mark.parametrize(
    ("bad", "open_ends", "verdict"),
    [
        (370, 20, "inside"),
        (370, 100, "open"),  # 270 if all of them become good
        (450, 100, "open"),
        (450, 200, "open"),  # from below the band to above it
        (450, 20, "OUTSIDE"),
        (200, 20, "OUTSIDE"),
    ],
)
def test_runs_that_are_not_at_rest_may_leave_a_verdict_open(bad, open_ends, verdict):
    listed = Published(34.6, 346)
    least, most = band(listed, 1000)
    assert 0.27 < least < 0.3
    assert 0.37 < most < 0.43
    runs = np.arange(1000)
    expected, found = beside_published(listed, runs < bad, runs < open_ends)
    assert expected == f"34.6, 346 of 1000 (99 % band {100 * least:.1f} ... {100 * most:.1f})"
    assert found.endswith(f"{bad} of 1000, {open_ends} of them not at rest: {verdict}")


def test_good_runs_need_not_be_at_rest():
    bad = np.arange(1000) < 370
    assert beside_published(Published(34.6, 346), bad, ~bad)[1].endswith("370 of 1000: inside")
    expected, found = beside_published(None, bad, ~bad)
    assert expected == "not listed"
    assert found.endswith("370 of 1000")


def test_the_largest_z_is_that_of_all_listed_shares():
    rows = findings({**sample(10, 10, 351, 1000), **sample(9, 9, 250, 1000), **sample(5, 5, 1, 40)})
    expected, found = {what: rest for what, *rest in rows}["largest |z| of these shares"]
    limit = stats.norm.isf(0.01 / 2 / 2)
    assert expected == f"at most {limit:.2f} (1 % over 2 looks)"
    z = stats.chi2_contingency([[250, 750], [218, 782]], correction=False).statistic ** 0.5
    assert found == f"{z:.2f} (k = 9, n = 9): inside"
    assert not any("largest" in what for what, _, _ in findings(sample(5, 5, 1, 40)))


def test_the_z_of_a_share_is_that_of_distinct_runs():
    rows = {what: rest for what, *rest in findings(sample(13, 13, 639, 1000))}
    z = stats.chi2_contingency([[639, 361], [73, 27]], correction=False).statistic ** 0.5
    assert rows["largest |z| of these shares"][1] == f"{z:.2f} (k = 13, n = 13): inside"
    assert rows["k = 13, n = 13: bad runs, %"][0].startswith("73.0, 73 of 100 (99 % band")


def kinds(k, counts):
    """What is stored of minima of n = k, with as many runs at each loss."""
    values = {"loss": np.array(list(counts)), "eigenvalues": np.full((len(counts), 3), 0.25)}
    entries = {"families": [[k - i, i] for i in range(len(counts))], "kinds": ["local"] * len(counts)}
    meta = {"minima": {**entries, "counts": list(counts.values())}}
    number = ls.Grid.of(minimum=range(len(counts)))
    return {f"minima_{k}_{k}": ls.Landscape(number, values, np.ones(len(counts), bool), {}, meta)}


def test_findings_say_whether_the_shares_of_families_agree():
    same = {2e-17: 660, 0.018702: 300, 0.035327: 35}  # and five that ended nowhere
    result = {**sample(10, 10, 340, 1000), **kinds(10, same), **sample(9, 9, 200, 1000)}
    result |= {**kinds(9, {3e-17: 800, 0.020014: 140, 0.037489: 60}), **sample(5, 5, 1, 40), **kinds(5, {2e-17: 39})}
    rows = {what: rest for what, *rest in findings(result) if "families" in what}
    p = stats.chi2_contingency([[654, 312, 34, 0], [660, 300, 35, 5]], correction=False).pvalue
    assert rows.pop("k = 10: shares of the families") == [
        "654, 312, 34, others 0 (p at least 0.005)",
        f"660, 300, 35, others 5: p = {p:.2g}, agree",
    ]
    expected, found = rows.pop("k = 9: shares of the families")
    assert expected == "782, 213, 5 (p at least 0.005)"
    assert found.startswith("800, 140, 60: p = ")
    assert found.endswith(", DIFFER")
    assert not rows


def test_findings_count_open_ends():
    rows = findings(sample(7, 7, 3, 20, ls.Outcome.MAX_STEPS))
    assert ("runs of unknown end (steps used up), diverged", "0, 0", "20, 0") in rows


@pytest.mark.parametrize(
    ("losses", "verdicts"),
    [
        ([0.0187], ["agree (local, 3 runs)"]),
        ([0.0197], ["DIFFER (local, 3 runs)"]),
        ([0.0187, 0.0758], ["agree (local, 3 runs)", "0.03210 (local, 2 runs)"]),  # another one, not listed
        ([0.0175, 0.0197], ["0.03210 (local, 3 runs)", "DIFFER (local, 2 runs)"]),  # the nearest is still not it
    ],
)
def test_a_minimum_is_compared_with_the_published_one(losses, verdicts):
    num = len(losses)
    values = {"loss": np.array(losses), "eigenvalues": np.tile([0.0321, 1.5], (num, 1))}
    entries = {"families": [[1, 9]] * num, "kinds": ["local"] * num, "counts": [3, 2][:num]}
    minima = ls.Landscape(ls.Grid.of(minimum=range(num)), values, np.ones(num, bool), {}, {"minima": entries})
    found = [row[2] for row in findings({**sample(10, 10, 5, 20), "minima_10_10": minima}) if "(1, 9)" in row[0]]
    assert all(text.endswith(verdict) for text, verdict in zip(found, verdicts, strict=True)), found


def test_restarts_count_blocks_with_a_good_run():
    bad = np.array([1, 1, 0, 1, 1, 1, 1, 0, 1, 1], bool)
    assert restarts(bad, 1) == (2, 10)
    assert restarts(bad, 2) == (2, 5)
    assert restarts(bad, 3) == (2, 3)
    assert restarts(bad, 4) == (2, 2)


def test_the_law_of_restarts_is_fitted_on_one_half_and_seen_on_the_other():
    result = sample(9, 9, 0, 40)
    loss = np.where(np.arange(40) % 2 == 0, 0.025 * (np.arange(40) < 30), 0.025 * (np.arange(40) < 8))
    result["ends_9_9_0"] = stage(9, 9, np.zeros((40, 9, 9)), loss, np.zeros(40))["ends_9_9_0"]
    rows = {what: rest for what, *rest in findings(result)}
    assert rows["k = 9: best of 2 is good"][0] == f"{1 - 0.75**2:.3f} = 1 - share^2"  # 15 of 20 are bad
    assert rows["k = 9: best of 2 is good"][1].startswith("0.800 (")  # the first 4 of 20, two of ten blocks


def test_cases_are_taken_once():
    config = Config(ks=(6, 7), extra=1, more=((6, 7), (6, 8)))
    assert cases(config) == [(6, 7), (7, 8), (6, 8)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extra": 2}, "--extra must be 0 or 1, got 2"),
        ({"ks": (21,)}, "--ks must lie within 2 and 20"),
        ({"more": ((8, 7),)}, "--more hold pairs k n with k <= n"),
        ({"runs": 0}, "needs --runs and --max-steps >= 1"),
    ],
)
def test_bad_settings_name_their_flag(changes, message):
    with pytest.raises(UsageError, match=message):
        student_teacher.run(dataclasses.replace(student_teacher.SMOKE, **changes), Lab())


@pytest.mark.slow
def test_published_shares_and_families(tmp_path):
    config = Config(ks=(8, 10, 12), more=((13, 14), (10, 12)))
    rows = findings(student_teacher.run(config, Lab(tmp_path, {"progress": False})))
    shares = [found for what, _, found in rows if "bad runs" in what]
    assert all(found.endswith("inside") for found in shares)
    families = [found for what, expected, found in rows if "lowest eigenvalue" in what and expected != "not listed"]
    assert not any("DIFFER" in found for found in families)
    assert sum("shares of the families" in what and found.endswith("agree") for what, _, found in rows) == 3
