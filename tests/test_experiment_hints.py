"""Hints: the task, what is said, the loss, what is learned, the script."""

import dataclasses
import itertools

import hints
import jax
import numpy as np
import pytest
from _hints import task as task
from _lab import Lab, UsageError
from _lab.command import settings_rows, table
from scipy import special, stats

import landscape as ls

pytestmark = pytest.mark.xdist_group("hints")  # the tests share one run of the script


# ------------------------------------------------------------------------------------------------------------ task


def test_sprites_are_pentominoes_of_four_kinds():
    table = task.sprites()
    assert table.shape == (4, 8, 9, 25)
    np.testing.assert_array_equal(table.sum(axis=-1), 5)
    seen = [{tuple(sprite) for sprite in shape.reshape(-1, 25)} for shape in table]
    # T, U and V are their own mirror images and have 4 versions, P has 8; each at 9 places
    assert [len(one) for one in seen] == [36, 36, 36, 72]
    assert len(set.union(*seen)) == 36 * 3 + 72


def test_a_quarter_turn_is_one():
    table = task.sprites().reshape(4, 8, 9, 5, 5)
    for turn in (0, 1, 2, 4, 5, 6):
        middle = table[:, turn, 4]
        np.testing.assert_array_equal(np.rot90(middle, axes=(1, 2)), table[:, turn + 1, 4])


def test_all_but_one_concept_say_nothing_of_the_answer():
    shapes = np.array(list(itertools.product(range(4), repeat=3)))
    answers = task.answer(shapes)
    assert answers.mean() == 0.5
    for known in ((0, 1), (0, 2), (1, 2)):
        for values in itertools.product(range(4), repeat=2):
            assert answers[np.all(shapes[:, known] == values, axis=1)].mean() == 0.5


def test_no_linear_rule_of_three_bits_agrees_with_parity_in_more_than_six_of_eight():
    """There are 104 threshold functions of three bits (OEIS A000609), so these weights give all of them."""
    bits = np.array(list(itertools.product((0, 1), repeat=3)))
    rules = {
        tuple(bits @ weights > bias)
        for weights in itertools.product(range(-2, 3), repeat=3)
        for bias in np.arange(-6.5, 7)
    }
    assert len(rules) == 104
    assert max(np.sum(task.answer(bits) == rule) for rule in rules) == 6


def drawn(num=4000, fields=3):
    return task.draw(np.random.default_rng(17), num, fields, 0.1)


def test_pictures_are_sprites_with_noise():
    pictures = drawn()
    nearest = (
        np.abs(pictures.pixels[:200, :, None] - task.sprites().reshape(1, 1, -1, 25)).mean(axis=-1).argmin(axis=-1)
    )
    np.testing.assert_array_equal(nearest // 72, pictures.shape[:200])
    noise = pictures.pixels - np.rint(pictures.pixels)
    assert abs(np.std(noise) - 0.1) < 1e-3
    assert stats.chisquare(np.bincount(pictures.shape.ravel())).pvalue > 1e-3
    np.testing.assert_array_equal(pictures.answer, np.isin(pictures.shape, (1, 3)).sum(axis=1) % 2)


# ------------------------------------------------------------------------------------------------------------ hints


def said(pictures, **arm):
    return task.hints(np.random.default_rng(5), pictures, task.Arm("some", **arm))


def test_what_each_arm_says():
    pictures = drawn()
    shape, num = pictures.shape, pictures.shape.size
    np.testing.assert_array_equal(said(pictures), shape)
    np.testing.assert_array_equal(said(pictures, kind=task.RENAMED), np.choose(shape, [1, 2, 3, 0]))
    np.testing.assert_array_equal(said(pictures, kind=task.BESIDE), pictures.turn)
    wrong = said(pictures, kind=task.WRONG)
    np.testing.assert_array_equal(np.sort(wrong, axis=0), np.sort(shape, axis=0))
    assert stats.chi2_contingency(np.histogram2d(wrong.ravel(), shape.ravel(), 4)[0]).pvalue > 1e-3
    beside = np.histogram2d(pictures.turn.ravel(), shape.ravel(), 4)[0]
    assert stats.chi2_contingency(beside).pvalue > 1e-3
    noisy = np.sum(said(pictures, noise=0.4) == shape)
    assert stats.binomtest(int(noisy), num, 0.6 + 0.4 / 4).pvalue > 1e-3


def test_a_dose_is_a_share_of_the_pictures():
    pictures = drawn(num=1500)
    some = said(pictures, dose=0.3, noise=0.4)
    np.testing.assert_array_equal(np.sum(np.all(some == task.SILENT, axis=1)), 1050)
    np.testing.assert_array_equal(np.sum(some == task.SILENT), 3 * 1050)
    np.testing.assert_array_equal(some[:450], said(pictures, noise=0.4)[:450])  # arms share their draws


# ---------------------------------------------------------------------------------------------------------- network


def test_the_loss_is_that_of_scipy():
    net, pictures = task.Net(3, width=6), drawn(num=40)
    rng = np.random.default_rng(4)
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32) / 2, shapes)
    told = said(pictures, dose=0.6)
    weight = np.full(40, 0.7, np.float32)
    batch = {"pictures": pictures, "hints": told, "weight": weight}
    losses, metrics = jax.jit(task.loss, static_argnums=0)(net, params, batch)
    hidden, outputs = params["below"]
    concepts = np.maximum(pictures.pixels @ hidden["kernel"] + hidden["bias"], 0) @ outputs["kernel"] + outputs["bias"]
    hidden, outputs = params["above"]
    inputs = special.softmax(concepts, axis=-1).reshape(40, 12)
    logit = (np.maximum(inputs @ hidden["kernel"] + hidden["bias"], 0) @ outputs["kernel"] + outputs["bias"])[:, 0]
    task_part = -special.log_expit(np.where(pictures.answer, logit, -logit))
    spoken = -np.take_along_axis(special.log_softmax(concepts, axis=-1), told[..., None], axis=-1)[..., 0]
    spoken = np.where(told == task.SILENT, 0, spoken).mean(axis=1)
    np.testing.assert_allclose(losses, task_part + 0.7 * spoken, rtol=2e-5)
    np.testing.assert_array_equal(metrics["error"], (logit > 0) != pictures.answer)
    assert np.sum(metrics["concept_error"]) * 3 == pytest.approx(np.sum(concepts.argmax(-1) != pictures.shape))


@pytest.mark.parametrize(("below", "above"), [(0, 2), (3, 0)])
def test_layers_are_where_they_should_be(below, above):
    net = task.Net(2, below=below, above=above, width=5)
    params = jax.eval_shape(net.init, jax.random.key(0))
    sizes = {part: [leaf["kernel"].shape for leaf in params[part]] for part in params}
    assert sizes["below"] == list(itertools.pairwise([25, *[5] * below, 4]))
    assert sizes["above"] == list(itertools.pairwise([8, *[5] * above, 1]))
    logit, concepts = jax.eval_shape(net, params, jax.ShapeDtypeStruct((7, 2, 25), np.float32))
    assert (logit.shape, concepts.shape) == ((7,), (7, 2, 4))


def test_a_plain_network_sees_all_pixels():
    net = task.Net(2, below=2, width=5, plain=True)
    params = jax.eval_shape(net.init, jax.random.key(0))
    assert [leaf["kernel"].shape for leaf in params["below"]] == [(50, 5), (5, 5), (5, 1)]
    assert jax.eval_shape(net, params, jax.ShapeDtypeStruct((7, 2, 25), np.float32))[0].shape == (7,)


# ------------------------------------------------------------------------------------------------ script and findings


def test_hints_teach_and_wrong_ones_do_not(smoke):
    """The law at half the pictures and fewer steps."""
    taught = smoke[2]["hints"]
    assert np.all(taught["outcome"] == ls.Outcome.MAX_STEPS)
    none, right = (hints.errors(taught, name) for name in ("no hints", "right hints"))
    assert none.mean() > 40
    assert right.mean() < 15
    assert hints.errors(taught, "renamed hints").mean() < 15
    assert hints.errors(taught, "wrong hints").mean() > 40
    assert hints.errors(taught, "100 % of the hints at random").mean() > 40


def test_a_seed_starts_alike_in_every_arm(smoke):
    """Before the first step nothing that was said matters."""
    first = smoke[2]["hints"]["test_error"][:, :, 0]
    np.testing.assert_array_equal(first, np.broadcast_to(first[:1], first.shape))
    assert len(np.unique(first[0])) > 1


@pytest.mark.slow
def test_the_script_draws_and_its_folder_is_resumed(smoke):
    done, out, _ = smoke
    assert {"hints.png", "depth.png", "findings.json"} <= {path.name for path in out.iterdir()}
    result = hints.run(hints.SMOKE, Lab(out, {"progress": False}))
    rows = [*settings_rows(hints.SMOKE, hints.SMOKE), *hints.findings(result)]
    assert table(rows) == done.stdout.rstrip("\n")
    assert all(len(landscape.meta["calls"]) == 1 for landscape in result.values())


def taught(arms, ends, train=2000, train_errors=0.02, **net):
    """Runs of some arms that end in these test errors, `(arms, seeds)`."""
    values = {"test_error": np.stack([np.full_like(ends, 0.5), ends], axis=-1)}
    values["train_error"] = np.full_like(values["test_error"], train_errors)
    meta = {"arms": [dataclasses.asdict(arm) for arm in arms], "net": dataclasses.asdict(task.Net(**net))}
    grid = ls.Grid.of(arm=range(len(arms)), seed=range(ends.shape[1]))
    return ls.Landscape(grid, values, np.ones(grid.shape, bool), meta={**meta, "train": train})


def test_findings_are_means_over_seeds_with_their_intervals():
    config = dataclasses.replace(hints.Config(), doses=(0.25,), noises=(0.5,))
    arms = hints.arms(config)
    ends = {"no hints": [0.48, 0.52], "right hints": [0.02, 0.06], "wrong hints": [0.49, 0.55]}
    main = taught(arms, np.array([ends.get(arm.name, [0.3, 0.4]) for arm in arms]), fields=3)
    one = taught((task.NONE, task.ALL), np.array([[0.03, 0.05], [0.02, 0.04]]), fields=1)
    linear = taught((task.NONE, task.ALL), np.array([[0.5, 0.5], [0.3, 0.5]]), fields=3, above=0)
    more = taught((task.NONE,), np.array([[0.5, 0.5]]), train=8000, fields=3)
    result = {"hints": main, "concepts_1": one, "above_0": linear, "more_pictures": more}
    rows = {what: (expected, found) for what, expected, found in hints.findings(result)}
    low, high = stats.t.interval(0.95, 1, 50, np.std([48, 52], ddof=1) / np.sqrt(2))
    assert rows["test error in %: no hints"] == (">= 40", f"50.0 ({low:.1f} ... {high:.1f})")
    assert rows["seeds with right hints that err in <= 5 %"][1].startswith("1 of 2 (")
    assert rows["... minus none, same seeds"][1].startswith("-15.0 (")  # of the last control, 35 - 50
    below = {row[0]: after[:2] for row, after in itertools.pairwise(hints.findings(result))}
    assert below["test error: wrong hints"] == ("... minus none, same seeds", ">= 0: must not help")
    assert rows["training error without hints"][1] == "2.0 (2.0 ... 2.0)"
    assert [what for what in rows if what.startswith("hints on")] == [
        f"hints on {dose} % of the pictures" for dose in (0, 25, 100)
    ]
    assert [what for what in rows if what.endswith("random hints")] == [f"{n} % random hints" for n in (0, 50)]
    assert rows["1 concept: no hints"] == ("<= 5", "4.0 (-8.7 ... 16.7), <= 5 in 2 of 2")
    assert rows["0 hidden layers above: right hints"][0] == ">= 25"
    assert rows["8,000 training pictures: no hints"][0] == ">= 40"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 1}, "needs --seeds >= 2"),
        ({"doses": (0.5, 1.5)}, "shares from 0 to 1"),
        ({"steps": 5}, "needs --steps >= 10"),
        ({"rate": -0.1}, "--rate > 0"),
    ],
)
def test_bad_settings_name_their_flag(changes, message):
    with pytest.raises(UsageError, match=message):
        hints.run(dataclasses.replace(hints.SMOKE, **changes), Lab())


@pytest.mark.slow
def test_the_law(tmp_path):
    config = hints.Config(doses=(0.1,), noises=(), concepts=(1, 2), below=(), above=(0,), plain=(2,), more=1)
    result = hints.run(config, Lab(tmp_path, {"progress": False}))
    main = result["hints"]
    none, right, wrong = (hints.errors(main, name) for name in ("no hints", "right hints", "wrong hints"))
    assert none.mean() >= 40
    assert right.mean() <= 5
    assert ls.analysis.mean_interval(wrong - none)[2] > 0
    assert hints.errors(result["concepts_1"], "no hints").mean() <= 5
    assert hints.errors(result["concepts_2"], "no hints").mean() >= 40
    assert hints.errors(result["above_0"], "right hints").mean() >= 25
    assert hints.errors(result["plain_2"], "no hints").mean() >= 40
