"""Train against test, in numbers, on surfaces and curves whose answers are known in closed form."""

import dataclasses

import numpy as np
import pytest

from landscape import analysis
from landscape.grid import Axis, Grid, Landscape

GRID = Grid((Axis.linspace("alpha", -2.0, 3.0, 51), Axis.linspace("beta", -1.5, 1.5, 31)))  # steps of 0.1
TRAIN, TEST = np.array([0.7, -0.4]), np.array([1.9, 0.5])  # 1.5 apart


def bowl(centre, height=0.25):
    x, y = np.meshgrid(*(axis.values for axis in GRID.axes), indexing="ij")
    return height + 1.3 * (x - centre[0]) ** 2 + 0.6 * (y - centre[1]) ** 2


def surfaces(**values):
    values = {"train_loss": bowl(TRAIN), "test_loss": bowl(TEST, 0.75), **values}
    return Landscape(GRID, values, np.ones(GRID.shape, dtype=bool))


def test_two_bowls_lie_apart_by_the_distance_of_their_centres():
    found = analysis.minimum_offset(surfaces())
    np.testing.assert_allclose(found.train, TRAIN, atol=1e-12)
    np.testing.assert_allclose(found.test, TEST, atol=1e-12)
    np.testing.assert_allclose(found.offset, [1.2, 0.9], atol=1e-12)
    assert found.distance == pytest.approx(1.5)
    assert found.resolution == pytest.approx(np.sqrt(2) * 0.05)
    assert found.excess == pytest.approx(1.3 * 1.2**2 + 0.6 * 0.9**2)
    assert not found.on_border
    assert np.isnan(found.interval).all()


def test_a_minimum_on_the_edge_is_called_so_and_what_is_not_known_is_passed_over():
    assert analysis.minimum_offset(surfaces(test_loss=bowl((2.5, 1.7)))).on_border
    holes = bowl(TEST)
    holes[GRID.index(TEST)] = np.nan
    landscape = surfaces(test_loss=holes)
    computed = landscape.computed.copy()
    computed[GRID.index((1.9, 0.6))] = False  # of the next best, along the flat axis, one was not computed
    found = analysis.minimum_offset(dataclasses.replace(landscape, computed=computed))
    np.testing.assert_allclose(found.test, [1.9, 0.4], atol=1e-12)


def test_resampled_minima_give_the_interval():
    centres = np.stack([np.linspace(0.7, 2.7, 41), np.full(41, -0.4)], axis=1)  # at distances 0 .. 2
    many = np.stack([bowl(centre) for centre in centres], axis=-1)
    found = analysis.minimum_offset(surfaces(test_many=many), resampled="test_many")
    np.testing.assert_allclose(found.distances, np.linspace(0, 2, 41), atol=0.05 + 1e-9)  # half a step
    low, high = found.interval
    assert low == pytest.approx(0.05, abs=0.06)
    assert high == pytest.approx(1.95, abs=0.06)


def test_one_axis():
    grid = Grid.line((0.0, 2.0), 21)
    t = grid.axes[0].values
    landscape = Landscape(grid, {"a": (t - 0.5) ** 2, "b": np.abs(t - 1.3)}, np.ones(21, dtype=bool))
    assert analysis.minimum_offset(landscape, train="a", test="b").distance == pytest.approx(0.8)


def test_epochs_of_two_exponentials():
    # test - train = 0.5 (1 - exp(-t / 8)) exceeds 0.3 from t = 8 log 2.5 = 7.33; the test loss turns at its minimum.
    t = np.arange(0, 40, 0.5)
    train = 2.0 * np.exp(-t / 5)
    test = train + 0.5 * (1 - np.exp(-t / 8))
    assert analysis.divergence_epoch(train, test, t, margin=0.3) == 7.5
    # 0.4 exp(-t / 5) = exp(-t / 8) / 16: t = log(6.4) / (1 / 5 - 1 / 8) = 24.75
    assert analysis.best_epoch(test, t) == pytest.approx(np.log(6.4) / 0.075, abs=0.25)


def test_curves_part_when_they_part_for_good():
    train = np.array([[2.0, 1.0, 0.5, 0.25], [2.0, 1.0, 0.5, 0.25], [2.0, 1.0, 0.5, 0.25]])
    test = np.array([[2.5, 1.0, 1.5, 1.75], [2.5, 1.5, 1.0, 0.75], [2.0, 1.5, 1.0, 0.25]])
    np.testing.assert_array_equal(analysis.divergence_epoch(train, test), [2, 0, np.nan])
    np.testing.assert_array_equal(analysis.divergence_epoch(train, test, [3, 5, 7, 9], margin=0.45), [7, 3, np.nan])
    np.testing.assert_array_equal(analysis.divergence_epoch(train, test, margin=np.full((3, 4), 2.0)), [np.nan] * 3)
    np.testing.assert_array_equal(analysis.best_epoch(test, [3, 5, 7, 9]), [5, 9, 9])


def test_what_is_not_finite_in_a_curve():
    np.testing.assert_array_equal(analysis.best_epoch([[np.nan, 3.0, 2.0], [np.nan] * 3, [np.inf] * 3]), [2, np.nan, 0])
    # nothing is known of a gap of NaN, so these part after it, or not at all
    assert analysis.divergence_epoch([1.0, np.nan, 0.5], [2.0, 2.0, 2.0]) == 2
    assert np.isnan(analysis.divergence_epoch([1.0, 0.5, np.nan], [2.0, 2.0, 2.0]))
    assert np.isnan(analysis.divergence_epoch([1.0, 0.5, np.inf], [2.0, 2.0, np.inf]))
    assert analysis.divergence_epoch([1.0, 0.5, 0.25], [0.5, 0.5, np.inf]) == 2


def test_errors():
    with pytest.raises(KeyError, match="no output 'test_loss'"):
        analysis.minimum_offset(Landscape(GRID, {"train_loss": bowl(TRAIN)}, np.ones(GRID.shape, dtype=bool)))
    with pytest.raises(ValueError, match="no finite value"):
        analysis.minimum_offset(surfaces(test_loss=np.full(GRID.shape, np.nan)))
    with pytest.raises(ValueError, match=r"one loss for each resample, shape \(51, 31\) \+ \(b,\), got \(51, 31\)"):
        analysis.minimum_offset(surfaces(), resampled="test_loss")
    with pytest.raises(ValueError, match="a resample without a finite value"):
        analysis.minimum_offset(surfaces(many=np.full((*GRID.shape, 2), np.nan)), resampled="many")
    with pytest.raises(ValueError, match=r"shape \(\*runs, t\) with t >= 1, got \(\)"):
        analysis.best_epoch(3.0)
    with pytest.raises(ValueError, match=r"epochs must have shape \(3,\), one for each loss, got \(2,\)"):
        analysis.best_epoch([2.0, 3.0, 4.0], [5, 6])
    with pytest.raises(ValueError, match=r"one shape, got \(2, 3\) and \(3,\)"):
        analysis.divergence_epoch(np.ones((2, 3)), np.ones(3))
