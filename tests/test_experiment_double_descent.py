"""Double descent: NumPy's least squares, PyTorch's training, the findings' arithmetic, the script."""

import dataclasses

import matplotlib

matplotlib.use("Agg")

import double_descent
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _exact.ridgeless import Ridgeless, excess_risk, smallest_solution
from _lab import Lab, UsageError
from _lab.command import settings_rows, table
from _networks.wide_nets import Nets, draw_data, init, loss, padded_size, records

import landscape as ls

start = jax.jit(init, static_argnums=2)
pytestmark = pytest.mark.xdist_group("double_descent")  # the tests share one run of the script


# least squares


@pytest.mark.parametrize("num_features", [7, 30, 90])
def test_smallest_solution_against_numpy(x64, num_features):
    fn = Ridgeless(jax.random.key(3), signal=2.5, noise=0.6, num_examples=30, most=90)
    x, y, beta = fn.draw(jnp.array([num_features, 4.0]))
    assert np.sum(np.square(beta)) == pytest.approx(2.5)
    assert not np.any(x[:, num_features:])
    expected = np.linalg.lstsq(np.asarray(x[:, :num_features]), np.asarray(y))[0]
    found = smallest_solution(x, y, num_features)
    np.testing.assert_allclose(found[:num_features], expected, rtol=1e-6, atol=1e-8)
    assert not np.any(found[num_features:])


def test_excess_risk_is_the_published_table():
    found = excess_risk([20, 50, 125, 200, 400, 1000], 100, 5.0, 1.0)
    np.testing.assert_allclose(found, [0.253, 1.020, 5.167, 3.510, 4.084, 4.611], atol=5e-4)
    np.testing.assert_array_equal(excess_risk([99, 100, 101], 100, 5.0, 1.0), np.full(3, np.inf))


def test_draws_average_to_the_exact_risk(smoke):
    """And below the number of examples, what is left of the noise on them is 1 - p / n (Cochran)."""
    landscape = smoke[2]["ridgeless"]
    _, means, errors, exact = double_descent.risks(landscape)
    assert np.all(np.abs(means - exact) < 4 * errors)
    left = landscape["train_error"]
    np.testing.assert_allclose(left.mean(axis=1), [0.8, 0.5, 0, 0], atol=4 * 0.14 / np.sqrt(80))
    assert np.all(left[2:] < 1e-12)


# networks


def test_a_padded_network_starts_as_pytorchs(torch):
    for width, size in ((9, 48), (30, 48)):
        params = start(jax.random.key(1), width, size)
        sides = [40, width, width, 10]
        for layer, fan_in, fan_out in zip(params, sides, sides[1:]):
            bound = torch.nn.Linear(fan_in, fan_out).weight.abs().max().item()  # just below 1 / sqrt(fan_in)
            assert np.abs(layer["kernel"]).max() == pytest.approx(bound, rel=0.1)
            assert np.abs(layer["kernel"]).max() <= fan_in**-0.5
            assert np.std(layer["kernel"][:fan_in, :fan_out]) == pytest.approx((3 * fan_in) ** -0.5, rel=0.15)
            assert 0.3 * fan_in**-0.5 < np.abs(layer["bias"]).max() <= fan_in**-0.5
            assert not np.any(layer["kernel"][fan_in:])
            assert not np.any(layer["kernel"][:, fan_out:])
            assert not np.any(layer["bias"][fan_out:])


def pytorch_net(params, width):
    import torch

    """The network without its padding."""
    sides = [40, width, width, 10]
    layers = []
    for layer, fan_in, fan_out in zip(params, sides, sides[1:]):
        linear = torch.nn.Linear(fan_in, fan_out)
        linear.weight.data = torch.tensor(np.array(layer["kernel"][:fan_in, :fan_out]).T)
        linear.bias.data = torch.tensor(np.array(layer["bias"][:fan_out]))
        layers += [linear, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def pytorch_measures(net, data):
    import torch

    criterion, found = torch.nn.CrossEntropyLoss(), {}
    for part, x, y in (("train", "x", "y"), ("test", "test_x", "test_y")):
        outputs, labels = net(data[x]), data[y]
        found[f"{part}_loss"] = criterion(outputs, labels).item()
        found[f"{part}_error"] = (outputs.argmax(1) != labels).float().mean().item()
    return found


def test_padded_networks_train_as_pytorchs_unpadded_ones(smoke, torch):
    """One network of the script, which pads them to 48 units, against PyTorch's module, optimizer and loss."""
    config, width, level, seed = double_descent.SMOKE, 12, 1, 1
    landscape = smoke[2]["nets_48"]
    assert landscape.grid.axes[0].values.tolist() == [4, 12]
    data = draw_data(config.examples, config.tests, config.noise, config.seeds, config.seed)
    nets = Nets(data, jax.random.key(config.seed), config.noise, 48, config.epochs, config.batch_size)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(nets.key, seed), level), width)
    for_init, for_order = jax.random.split(key)
    batches = jax.jit(lambda number: nets.batches(for_order, number, config.examples))
    net = pytorch_net(start(for_init, width, 48), width)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    data = {name: np.array(leaf[seed]) for name, leaf in data.items()}
    data["y"] = data["y"][level]
    data = {name: torch.tensor(leaf.astype(np.int64) if "y" in name else leaf) for name, leaf in data.items()}
    measured = [pytorch_measures(net, data)]
    for number in range(config.epochs):
        order = np.array(batches(number))
        np.testing.assert_array_equal(np.sort(order.ravel()), np.arange(config.examples))
        for chosen in order:
            optimizer.zero_grad()
            torch.nn.CrossEntropyLoss()(net(data["x"][chosen]), data["y"][chosen]).backward()
            optimizer.step()
        measured.append(pytorch_measures(net, data))
    assert landscape.meta["epochs"] == [0, 1, 2, 3, 4, 5, 6]
    for name in landscape:
        found = landscape[name][1, level, seed]
        np.testing.assert_allclose(found, [entry[name] for entry in measured], atol=1e-4, err_msg=name)


def test_gradients_of_padding_are_exactly_zero():
    params = start(jax.random.key(4), 7, 48)
    x, y = jnp.asarray(np.random.default_rng(0).normal(size=(9, 40)), jnp.float32), jnp.arange(9)
    gradient = jax.jit(jax.grad(loss))(params, x, y)
    assert all(np.any(layer["kernel"]) for layer in gradient)
    for layer, rows, columns in zip(gradient, (40, 7, 7), (7, 7, 10)):
        assert not np.any(layer["kernel"][rows:])
        assert not np.any(layer["kernel"][:, columns:])
        assert not np.any(layer["bias"][columns:])


def test_sizes_and_records():
    assert [padded_size(width) for width in (2, 48, 49, 300, 700)] == [48, 48, 64, 304, 700]
    assert records(500)[:4] == (0, 1, 2, 3)
    assert records(500)[-1] == 500
    assert len(records(500)) == 22


# findings


def nets_landscape(widths, ends, seeds=2):
    """Runs that end with these values: `{name: (widths, noise, seeds)}`, after starting at twice that."""
    grid = ls.Grid.of(width=widths, noise=(0.0, 0.15), seed=np.arange(seeds))
    values = {name: np.stack([2.0 * np.asarray(v), np.asarray(v)], axis=-1) for name, v in ends.items()}
    meta = {"epochs": [0, 500], "calls": [{"seconds": 7.5}]}
    return ls.Landscape(grid, values, np.ones(grid.shape, bool), meta=meta)


def synthetic():
    """Two sizes of nets whose clean errors meet the published ones but for one, and a ridgeless one that is exact."""
    error = {9: (0.4933, 0.4897), 47: (0.4101, 0.5405), 300: (0.3725, 0.4147)}  # 300, noisy: 4 points too low
    parts = {}
    for size, widths in ((48, (9, 47)), (304, (300,))):
        test = np.array([[[e - 0.01, e + 0.01] for e in error[width]] for width in widths])
        fit = np.array([[[0.3, 0.3] if width == 9 else [0.002, 0.004]] * 2 for width in widths])
        loss = np.array([[[1.5, 1.5] if width == 9 else [width / 10, width / 10]] * 2 for width in widths])
        ends = {"test_error": test, "train_error": fit, "test_loss": np.minimum(loss, 4.7), "train_loss": fit}
        parts[f"nets_{size}"] = nets_landscape(widths, ends)
    grid = ls.Grid.of(features=[20, 125], draw=np.arange(4))
    spread = np.array([-0.3, -0.1, 0.1, 0.3])
    risk = np.array([20 / 79 + spread, 31 / 6 + 5.0 + spread])
    exact = ls.Landscape(grid, {"excess_risk": risk, "train_error": risk}, np.ones(grid.shape, bool))
    return {"ridgeless": exact, "nets_304": parts["nets_304"], "nets_48": parts["nets_48"]}


def test_findings_compare_with_the_published_runs():
    rows = {what: (expected, found) for what, expected, found in double_descent.findings(synthetic())}
    assert rows["clean labels, 9 units: test error %"] == ("49.33", "49.33 (a run +- 1.41)")
    assert rows["15 % label noise, 300 units: test error %"] == ("45.47", "41.47 (a run +- 1.41)")
    met = rows["... within 2.5 points, 500 epochs"]
    assert met == ("all 6 listed", "5 of 6; farthest -4.0 at 300 units, 15 % label noise")
    assert rows["clean labels: highest test loss, at units"] == ("4.42 at 47", "4.70 at 47")
    assert rows["... training error first below 1 %, at units"] == ("the peak, 47", "47, 0.30 %")
    assert rows["networks: seconds in all"] == ("below 2289", "15")
    # standard deviation of the four numbers: sqrt(.2 / 3) = .2582, so the standard error is .1291
    assert rows["least squares, 125 features: excess risk"] == ("5.167", "10.167 +- 0.129")
    assert rows["... within 3 standard errors"][1] == "1 of 2, the farthest 38.7"


def test_the_published_table_is_that_of_the_notebook():
    assert len(double_descent.WIDTHS) == 19
    np.testing.assert_array_equal(double_descent.WIDTHS, np.unique(np.geomspace(2, 300, 20, dtype=int)))
    for table_of in (double_descent.PUBLISHED_ERROR, double_descent.PUBLISHED_LOSS, double_descent.PUBLISHED_TRAIN):
        assert {len(row) for row in table_of.values()} == {19}
    listed = [double_descent.published(0.15, width) for width in (9, 16, 27, 36, 47, 61, 80, 135, 230, 300)]
    np.testing.assert_allclose(listed, [49.0, 47.2, 50.7, 52.8, 54.1, 54.0, 52.1, 48.4, 46.5, 45.5], atol=0.06)


# the script


def test_the_script_draws_and_its_folder_is_resumed(smoke):
    done, out, _ = smoke
    assert {"double_descent.png", "parting.png", "findings.json"} <= {path.name for path in out.iterdir()}
    result = double_descent.run(double_descent.SMOKE, Lab(out, {"progress": False}))
    rows = [*settings_rows(double_descent.SMOKE, double_descent.SMOKE), *double_descent.findings(result)]
    assert table(rows) == done.stdout.rstrip("\n")
    assert all(len(landscape.meta["calls"]) == 1 for landscape in result.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 0}, "--seeds and --epochs >= 1"),
        ({"draws": 1}, "--draws >= 2"),
        ({"noise": ()}, "a level of --noise"),
        ({"widths": ()}, "--features and --widths must be positive"),
        ({"features": (20, 101)}, "--features 99 to 101 have no finite mean risk"),
        ({"batch_size": 7}, "--batch-size must divide --examples 300, got 7"),
        ({"noise": (0.15, 0.0)}, "--noise must ascend"),
    ],
)
def test_bad_settings_name_their_flag(changes, message):
    with pytest.raises(UsageError, match=message):
        double_descent.run(dataclasses.replace(double_descent.SMOKE, **changes), Lab())


@pytest.mark.slow
def test_the_published_curve(tmp_path):
    """At the largest widths, where one run differs little from another, and around the peak."""
    config = dataclasses.replace(double_descent.Config(), widths=(47, 61, 300), features=(20, 125, 400))
    result = double_descent.run(config, Lab(tmp_path, {"progress": False}))
    features, means, errors, exact = double_descent.risks(result["ridgeless"])
    assert np.all(np.abs(means - exact) < 3 * errors), features
    curves = double_descent.Curves.of(result)
    for level, noise in enumerate((0.0, 0.15)):
        for width, error in zip(curves.widths, curves.mean("test_error", level)):
            assert abs(error - double_descent.published(noise, width)) < 2.5, (noise, width)
