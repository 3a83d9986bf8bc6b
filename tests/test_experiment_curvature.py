"""Curvature: counting outliers, shares, projected steps in closed form, findings on made-up spectra, the script."""

import dataclasses
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import curvature
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _lab import Lab, UsageError
from _lab.command import settings_rows, table
from _lab.optimizers import sgd
from _networks import curvature as points
from scipy import stats
from scripts import run_script

import landscape as ls
from landscape.problems import cross_entropy, mlp

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.xdist_group("curvature")


@pytest.mark.parametrize(
    ("values", "classes", "expected"),
    [
        ([9.0, 8.0, 7.0, 0.7, 0.6, 0.5, 0.4], 3, 3),
        ([9.0, 3.1, 2.9, 2.5, 2.2, 2.0, 1.9], 3, 1),
        ([9.0, 8.0, 7.0, 6.5, 6.0, 5.5, 5.0, 1e-3], 2, 2),  # 8 to 7; the gap after the seventh is beyond the first six
        ([9.0, 8.0, 2.0, -4.0, -5.0], 4, 2),  # a negative value has no logarithm
        ([-1.5, -2.5], 4, 0),
    ],
)
def test_outliers_lie_above_the_largest_gap(values, classes, expected):
    assert points.by_gap(np.array(values), classes) == expected


def test_eigenvalues_that_are_rounding_do_not_count():
    assert points.by_gap(np.array([9.0, 8.0, 2.0, 1e-7]), 2) == 2
    assert points.by_gap(np.array([9.0, 8.0, 2.0, 1e-3]), 2) == 3


def test_the_share_of_a_gradient_in_a_plane():
    basis = jnp.array([[0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
    assert float(points.share(basis, jnp.array([3.0, 4.0, 12.0]))) == pytest.approx(1.0)
    assert float(points.share(basis, jnp.array([4.0, -3.0, 12.0]))) == pytest.approx(144 / 169)
    assert np.isnan(points.share(basis, jnp.zeros(3)))


def test_classes_without_examples_are_cut_off():
    rng = np.random.default_rng(3)
    inputs = rng.normal(size=(2, 2, 5, 9, 3)).astype(np.float32)
    point = points.ByClasses(inputs, jax.random.key(4), sgd(0.5), 12, 2, 10)
    init, objective = point.problem(1, 3, 1)
    params = init(jax.random.key(7))
    kept = [params[0], {"kernel": params[1]["kernel"][:, :3], "bias": params[1]["bias"][:3]}]
    _, predict = mlp((3, 2, 3))
    labels = np.arange(12) % 3
    x = jnp.asarray(inputs[1, 1, labels, np.arange(12) // 3])

    def loss(p):
        return jnp.mean(cross_entropy(predict(p, x), jnp.asarray(labels))[0])

    flat, unravel = jax.flatten_util.ravel_pytree(kept)
    expected = np.linalg.eigvalsh(jax.jit(jax.hessian(lambda v: loss(unravel(v))))(flat))
    measured, dense = jax.jit(lambda o, p: (o(p), ls.curvature.hessian(o, p)))(objective, params)
    found = np.linalg.eigvalsh(dense)
    assert float(measured) == pytest.approx(float(loss(kept)), rel=1e-5)
    zeros = np.zeros(len(found) - len(expected))
    np.testing.assert_allclose(found, np.sort(np.concatenate([expected, zeros])), atol=2e-6)


def test_data_by_class_are_what_they_say():
    rng = np.random.default_rng(8)
    x = points.clusters_by_class(rng, 3.0, 400, 50, 6)
    assert x.shape == (6, 400, 50)
    within = x.var(axis=1).mean() * 10  # scaled by the variance 1 + 3^2 of an example
    assert abs(within - 1) < 5 * np.sqrt(2 / (6 * 400 * 50))
    between = x.mean(axis=1).var(axis=0, ddof=1).mean() * 10 - 1 / 400
    assert abs(between - 9) < 5 * 9 * np.sqrt(2 / (5 * 50))
    images = points.digits_by_class(rng, 30)
    train, test = ls.problems.digits()
    assert images.shape == (10, 30, 16)
    for label, rows in enumerate(images):
        known = np.concatenate([part["x"][part["y"] == label] for part in (train, test)]).reshape(-1, 8, 8)
        corner, sums = known[:, 4:6, 2:4].mean(axis=(1, 2)), known.mean(axis=(1, 2))
        near = np.abs(corner - rows[:, None, 9]) + np.abs(sums - rows.mean(axis=1)[:, None])
        assert np.all(near.min(axis=1) < 1e-5)  # each is the small form of a digit of its class
    assert len(np.unique(images.reshape(-1, 16), axis=0)) == 300


STIFF = np.array([7.0, 5.0, 0.5, 0.25])


def test_projected_steps_on_a_quadratic():
    """x_i <- (1 - rate h_i) x_i in the directions that are left, and the others stay."""
    bowl = ls.Objective(lambda p, batch: batch * 0.5 * jnp.sum(jnp.array(STIFF) * p**2), jnp.ones(6))
    starts = np.array([[2.0, -3.0, 4.0, 5.0], [1.5, 2.5, -3.5, 4.5]], np.float32)
    point = points.Projected(bowl, starts, jax.random.key(2), 0.1, 2, 3, 6, 3)
    found = ls.sweep(point, ls.Grid.of(arm=np.arange(3), run=[0, 1]), batch=1, progress=False)
    for arm, moving in enumerate(([0, 1, 2, 3], [0, 1], [2, 3])):
        factors = np.ones(4)
        factors[moving] = 1 - 0.1 * STIFF[moving]
        for steps, column in ((0, 0), (3, 1), (6, 2)):
            ends = starts * factors**steps
            np.testing.assert_allclose(found["loss"][arm, :, column], 0.5 * ends**2 @ STIFF, rtol=2e-4)
        before = starts * factors**5  # where the last step's gradient was taken
        slopes = (STIFF * before) ** 2
        np.testing.assert_allclose(found["share"][arm, :, -1], slopes[:, :2].sum(1) / slopes.sum(1), rtol=1e-3)


# ------------------------------------------------------------------------------------------------------- the script


def settled(shape, outliers):
    """Eigenvalues that fall from 8 to 7 and then from 0.7 to 0.6, by place: `outliers` of them are large."""
    ranks = np.arange(31)
    values = np.where(ranks < np.asarray(outliers)[..., None], 8.0, 0.7) - ranks / 310
    return np.broadcast_to(values, (*shape, 31)).astype(np.float32)


def study(**more):
    rates = {"sgd": 0.5, "descent": 0.5, "edge": 2.0}
    said = {"model": "a net", "size": 400, "top": 10, "every": 50, "batch_size": 20, "rates": rates}
    return {**said, "steps": [0, 100, 200], "switch": 100, "refresh": 5, **more}


def landscape(grid, values, **meta):
    return ls.Landscape(grid, values, np.ones(grid.shape, bool)).with_meta(**meta)


def made_up():
    rng = np.random.default_rng(5)
    dense = np.sort(np.concatenate([settled((), 9)[:12], np.linspace(-0.2, 0.5, 388)]))
    spectra = {
        "loss": np.array([2.5, 0.5, 0.25]),
        "nodes": np.broadcast_to(np.linspace(-0.2, 8.0, 20), (3, 4, 20)),
        "weights": rng.dirichlet(np.full(20, 3.0), (3, 4)),
        "values": settled((3,), 9),
        "residuals": np.full((3, 31), 1e-3),
        "trace": np.array([126.5, 130.5, 127.25]),
        "trace_sem": np.array([2.5, 3.5, 1.25]),
        "dense": np.broadcast_to(dense, (3, 400)),
    }
    shares = np.array([0.75, 0.125, 0.625])[:, None, None] * np.ones((3, 3, 5))
    shares[0] += np.array([-0.05, 0.0, 0.05])[:, None]
    along = {
        "loss": np.full((3, 3, 5), 0.5),
        "values": settled((3, 3, 5), 9)[..., :10],
        "residuals": np.full((3, 3, 5, 10), 4e-3),
        "share": shares,
        "random_share": np.full((3, 3, 5), 0.024),
        "batch_share": np.full((3, 3, 5, 8), 0.7),
    }
    fall = np.array([0.25, 0.9, 0.3])[:, None, None] ** np.linspace(0, 1, 5)
    projected = {"loss": 1.5 * fall * np.array([1.0, 1.1, 1.2])[:, None], "share": np.full((3, 3, 4), 0.7)}
    classes = np.array([2, 5])
    numbers = np.array([[[1, 2, 3], [4, 5, 1]], [[2, 2, 2], [5, 5, 5]]])  # data, classes, run
    values = np.stack([settled((2, 2, 3), numbers)] * 3, axis=3)
    grid = ls.Grid.of(data=[0, 1], classes=classes, run=[0, 1, 2])
    many = {"values": values}
    three = {"arm": [0, 1, 2], "run": [0, 1, 2]}
    return {
        "spectra": landscape(ls.Grid.of(moment=[0, 1, 2]), spectra, study=study()),
        "along": landscape(ls.Grid.of(training=[0, 1, 2], run=[0, 1, 2], record=np.arange(5)), along, study=study()),
        "projected": landscape(ls.Grid.of(**three), projected, study=study()),
        "classes": landscape(grid, many, titles=["clusters", "digits"]),
    }


def test_findings_put_counts_and_shares_beside_what_was_expected():
    result = made_up()
    rows = {what: (expected, found) for what, expected, found in curvature.findings(result)}
    assert rows["middle of training: outliers above the largest gap"] == ("9 or 10", "9")
    exact = result["spectra"]["dense"][1].sum()
    assert rows["middle of training: trace"] == (f"{exact:.3f} (dense)", "130.500 ± 3.500")
    expected, found = rows["clusters, end: cases with C - 1 or C outliers"]
    assert expected == "all; 23% by chance"  # the mean of 1/3 and 2/15
    assert found == "4 of 6 (95 % over 3 runs 0 ... 100 %)"  # all, all and none of the two cases of each run
    assert rows["digits, start: cases with C - 1 or C outliers"][1].startswith("6 of 6")
    assert rows["clusters, end: outliers of each run, by C"][1] == "2: 1 2 3; 5: 4 5 1"
    half = stats.t.ppf(0.975, 2) * 0.05 / 3**0.5
    found = rows["SGD, rate 0.5, second half: share of the full gradient in the top 10"][1]
    assert found == f"0.750 [{0.75 - half:.3f}, {0.75 + half:.3f}]"
    assert rows["share in a random 10-space"] == ("0.0250", "0.0240 [0.0240, 0.0240]")
    what = "large rate, sharpness above 0.9 of 2 / rate: share of the full gradient"
    assert rows[what] == ("> 0.5", "0.625 (0.625 ... 0.625), 12 records")  # 8 is 8 times the edge
    assert rows[what.replace("above", "below")] == ("< 0.5", "none")
    assert rows["loss after projected training / before, top space only"][1].startswith("0.900 [0.900")
    what = "fall of the log loss relative to that with the whole gradient, without the top space"
    assert rows[what][1].startswith(f"{np.log(0.3) / np.log(0.25):.3f} [")


def test_shares_of_cases_have_the_interval_of_their_runs():
    found = made_up()["classes"]
    numbers = np.array([[[1, 3, 2], [4, 4, 5], [6, 5, 6], [7, 3, 3]]])  # of 2, 5, 6 and 8 classes: 4, 2 and 3 are right
    values = np.stack([settled((1, 4, 3), numbers)] * 3, axis=3)
    grid = ls.Grid.of(data=[0], classes=[2, 5, 6, 8], run=[0, 1, 2])
    rows = curvature._classes_rows(landscape(grid, {"values": values}, titles=found.meta["titles"][:1]))
    low, high = stats.t.interval(0.95, 2, 0.75, stats.sem([1.0, 0.5, 0.75]))
    assert low > 0
    assert rows[0][2] == f"9 of 12 (95 % over 3 runs {100 * low:.0f} ... {100 * min(high, 1):.0f} %)"


def test_figures_show_the_null_and_the_band():
    result = made_up()
    figures = curvature.plot(result)
    titles = [ax.get_title(loc="left") for ax in figures["curvature"].axes]
    assert [title[:3] for title in titles] == ["(a)", "(b)", "(c)"]
    levels = [line.get_ydata()[0] for line in figures["curvature"].axes[1].lines if line.get_linestyle() == ":"]
    assert levels == [10 / 400]
    labels = [text.get_text() for text in figures["spectrum"].axes[1].get_legend().get_texts()]
    assert labels == ["dense Hessian", "Lanczos, ± 2 s.e.", "9 above the gap"]
    assert "130.5 ± 3.5" in figures["spectrum"].axes[1].get_title(loc="left")
    without = {name: one for name, one in result.items() if name != "classes"}
    assert len(curvature.plot(without)["curvature"].axes) == 2
    assert len(curvature.findings(without)) < len(curvature.findings(result))
    matplotlib.pyplot.close("all")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 1}, "--seeds >= 2"),
        ({"steps": 42}, "--steps must be a multiple of twice --records"),
        ({"switch": 9}, "--switch must be one of the 4 records"),
        ({"refresh": 7}, "--projected-steps must be a multiple of --refresh"),
        ({"large_rate": 0.0}, "--large-rate and --separation > 0"),
        ({"probes": 1}, "--probes, --depth >= 2"),
        ({"classes": (2, 11)}, "--classes must lie within 2 and 10"),
        ({"per_case": 500}, "--per-case must be 10 to 348"),
        ({"batch_size": 81}, "--batch-size must be 1 to 80 examples"),
        ({"examples": 5000}, "--examples must be 1 to 1438, all that there are for training"),
        ({"top": 310}, "--top must be at least 1 and below the 310 parameters"),
    ],
)
def test_bad_settings_name_their_flag(changes, message):
    with pytest.raises(UsageError, match=message):
        curvature.run(dataclasses.replace(curvature.SMOKE, **changes), Lab())


def test_a_problem_without_data_is_refused():
    bowl = ls.Problem(lambda key: jnp.ones(7), {"train": ls.Objective(lambda p, _: jnp.sum(p**2))})
    with pytest.raises(UsageError, match="needs data"):
        curvature.run(curvature.SMOKE, Lab(problem=bowl))


@dataclasses.dataclass(frozen=True)
class Recorder(Lab):
    """A lab that traces every point function and computes nothing."""

    seen: dict = dataclasses.field(default_factory=dict)

    def sweep(self, name, fn, grid, about=None, **options):
        self.seen[name] = grid.shape, jax.eval_shape(fn, jax.ShapeDtypeStruct((grid.ndim,), jnp.float32))


def test_ones_own_problem_takes_the_place_of_the_digits():
    def loss(params, batch):
        return (jnp.tanh(batch["x"] @ params["w"]) @ params["v"] - batch["y"]) ** 2

    data = {"x": jnp.ones((90, 3)), "y": jnp.ones(90)}
    own = ls.Problem(lambda key: {"w": jnp.ones((3, 2)), "v": jnp.ones(2)}, {"train": ls.Objective(loss, data)})
    lab = Recorder(problem=own)
    assert curvature.run(curvature.SMOKE, lab) == {}
    assert list(lab.seen) == ["nets_sgd", "nets_descent", "along", "spectra", "projected"]
    assert lab.seen["along"][0] == (3, 2, 5)
    assert lab.seen["spectra"][1]["values"].shape == (8,)  # no more than there are parameters
    with pytest.raises(UsageError, match="--batch-size must be 1 to 90 examples"):  # --examples is about the digits
        curvature.run(dataclasses.replace(curvature.SMOKE, batch_size=91), lab)
    curvature.run(dataclasses.replace(curvature.SMOKE, batch_size=85), lab)


def test_clusters_and_digits_share_one_program():
    lab = Recorder()
    curvature._by_classes(curvature.SMOKE, lab)
    assert lab.seen["classes"][0] == (4, 2, 2)
    assert lab.seen["classes"][1]["values"].shape == (3, 31)


def test_both_kinds_of_data_come_at_both_scales():
    kinds = curvature._kinds(curvature.SMOKE)
    clusters, small, pixels, standard = kinds.values()
    assert {x.shape for x in kinds.values()} == {(2, 10, 30, 16)}
    assert small.std() == pytest.approx(pixels.std() * clusters.std(), rel=1e-5)
    np.testing.assert_allclose(standard.std(axis=(0, 1, 2)), 1, atol=1e-3)
    np.testing.assert_allclose(standard.mean(axis=(0, 1, 2)), 0, atol=1e-4)


@pytest.mark.slow
def test_the_script_draws_and_prints_what_the_stores_hold(tmp_path):
    done = run_script("curvature", "--smoke", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert {"curvature.png", "spectrum.png", "findings.json"} <= {path.name for path in tmp_path.iterdir()}
    result = {path.stem: ls.load(path) for path in tmp_path.glob("*.zarr")}
    rows = [*settings_rows(curvature.SMOKE, curvature.SMOKE), *curvature.findings(result)]
    assert table(rows) == done.stdout.rstrip("\n")
    spectra = result["spectra"]
    errors = np.abs(spectra["values"] - spectra["dense"][:, ::-1][:, : spectra["values"].shape[1]])
    assert np.all(errors <= spectra["residuals"] + 1e-5)
    again = run_script("curvature", "--smoke", "--out", tmp_path)
    assert again.stdout == done.stdout
