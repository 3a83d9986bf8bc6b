"""Oracles for coordinates and results: NumPy's linspace and meshgrid, order on a non-square asymmetric grid."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from landscape import Axis, Grid, Landscape

finite = st.floats(-1e3, 1e3, allow_nan=False, allow_subnormal=False)
seven_by_eleven = Grid((Axis.linspace("alpha", -0.5, 1.5, 7), Axis.linspace("beta", -3.0, 2.0, 11)))


def asymmetric(a, b):
    return 2.0 * a + 0.3 * b**2 + 5.0 * a * b


def landscape(values, grid=seven_by_eleven, **kwargs):
    kwargs.setdefault("computed", np.ones(grid.shape, bool))
    return Landscape(grid, {"loss": values}, **kwargs)


# ------------------------------------------------------------------------------------------------------ axes


@given(finite, st.floats(1e-3, 1e3), st.integers(2, 301))
def test_linspace_agrees_with_numpy_and_holds_both_ends(low, width, num):
    values = Axis.linspace("x", low, low + width, num).values
    assert values.dtype == np.float64
    assert (values[0], values[-1]) == (low, low + width)
    np.testing.assert_allclose(values, np.linspace(low, low + width, num), rtol=0, atol=1e-15 * (abs(low) + width) * 4)
    assert np.all(np.diff(values) > 0)


@given(st.floats(1e-6, 1e6), st.integers(0, 200))
def test_linspace_about_zero_is_symmetric_to_the_bit(extent, half):
    values = Axis.linspace("x", -extent, extent, 2 * half + 3).values
    assert values[half + 1] == 0.0
    np.testing.assert_array_equal(values, -values[::-1])


@pytest.mark.parametrize("num", [5, 9, 21, 41, 101, 201, 401])
def test_interpolation_line_holds_both_end_points_exactly(num):
    # over [-0.5, 1.5] the models lie at 0 and 1: they must be on the grid whenever num - 1 is divisible by 4
    values = Grid.line((-0.5, 1.5), num).axes[0].values
    assert values[(num - 1) // 4] == 0.0
    assert values[(num - 1) // 2] == 0.5
    assert values[3 * (num - 1) // 4] == 1.0


def test_one_point_is_the_middle():
    np.testing.assert_array_equal(Axis.linspace("x", -3.0, 8.0, 1).values, [2.5])


@given(finite, finite, finite, st.integers(3, 400))
def test_covering_covers_passes_through_and_wastes_little(a, b, c, num):
    low, through, high = sorted((a, b, c))
    if not high - low > 1e-9:
        return
    axis = Axis.covering("x", low, high, num, through=through)
    assert len(axis) == num
    assert axis.values[0] <= low
    assert axis.values[-1] >= high
    assert through in axis.values
    steps = np.diff(axis.values)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-9, atol=1e-12)
    # no axis with a step 1e-9 smaller could do it: it would need more than num points
    step = steps.mean() * (1 - 1e-9) - 1e-12
    assert np.ceil((through - low) / step) + np.ceil((high - through) / step) + 1 > num


def test_covering_needs_no_more_than_one_step_of_waste_in_the_worst_case():
    # 0.14 of ten steps: rounding 1.4 down would stretch the axis by 40 %; two steps below stretch it by 7.5 %
    values = Axis.covering("x", -0.14, 0.86, 11).values
    assert values[2] == 0.0
    assert values[-1] - values[0] == pytest.approx(1.075)


@pytest.mark.parametrize(("low", "high"), [(0.0, 3.0), (-3.0, 0.0)])
def test_covering_from_an_end_is_linspace(low, high):
    np.testing.assert_allclose(Axis.covering("x", low, high, 7).values, np.linspace(low, high, 7), atol=1e-15)


@pytest.mark.parametrize(("low", "high", "num"), [(0.5, 2.0, 9), (-3.0, -2.0, 9), (-2.0, 2.0, 2), (0.0, 0.0, 5)])
def test_covering_refuses(low, high, num):
    with pytest.raises(ValueError, match="axis 'x': needs finite low <= 0.0 <= high"):
        Axis.covering("x", low, high, num)


@pytest.mark.parametrize("low", [-np.inf, np.nan])
def test_covering_refuses_what_is_not_finite(low):
    with pytest.raises(ValueError, match="needs finite low"):
        Axis.covering("x", low, 2.0, 9)


@pytest.mark.parametrize(("low", "high"), [(2.0, 2.0), (3.0, 2.0), (np.nan, 2.0), (-np.inf, 2.0)])
def test_linspace_refuses_empty_and_infinite_ranges(low, high):
    with pytest.raises(ValueError, match="axis 'x' needs finite low < high"):
        Axis.linspace("x", low, high, 5)


@pytest.mark.parametrize("num", [2.0, "5", True, None])
def test_number_of_points_must_be_an_integer(num):
    with pytest.raises(TypeError, match="the number of points must be an integer, got"):
        Grid.line(1.0, num)


def test_number_of_points_must_be_positive():
    with pytest.raises(ValueError, match="at least 1, got -3"):
        Grid.square(2.0, -3)


def test_axis_text():
    assert Axis("alpha", np.arange(3.0)).text == "alpha"
    assert Axis.linspace("alpha", 2.0, 3.0, 4, label="1st PC").text == "1st PC"


# ------------------------------------------------------------------------------------------------------ grids


def test_points_are_in_the_order_of_meshgrid_ij():
    grid = Grid.of(x=[-2.0, 0.5, 3.0], y=np.linspace(5, 6, 4), z=[7.0, 8.0])
    expected = np.stack([m.ravel() for m in np.meshgrid(*(a.values for a in grid.axes), indexing="ij")], axis=1)
    assert (grid.shape, grid.size, grid.ndim, grid.names) == ((3, 4, 2), 24, 3, ("x", "y", "z"))
    np.testing.assert_array_equal(grid.points(), expected)
    np.testing.assert_array_equal(grid.points(5, 17), expected[5:17])
    np.testing.assert_array_equal(grid.points_at(np.array([23, 2, 7])), expected[[23, 2, 7]])
    assert grid.points().dtype == np.float64


def test_defaults_are_the_conventions_of_li_et_al():
    square, line = Grid.square(), Grid.line()
    assert square.shape == (51, 51)
    assert [(a.values[0], a.values[25], a.values[-1]) for a in square.axes] == [(-1.0, 0.0, 1.0)] * 2
    assert (line.axes[0].values[0], line.axes[0].values[-1]) == (-0.5, 1.5)


@given(st.integers(2, 20), st.integers(2, 7), st.floats(-100, 100), st.floats(0.01, 100))
def test_refined_keeps_the_old_points_to_the_bit(num, factor, low, width):
    grid = Grid.of(x=np.linspace(low, low + width, num), y=np.array([2.0, 3.0, 7.0]))
    fine = grid.refined(factor)
    assert fine.shape == ((num - 1) * factor + 1, 2 * factor + 1)
    for old, new in zip(grid.axes, fine.axes):
        np.testing.assert_array_equal(new.values[::factor], old.values)
        assert np.all(np.diff(new.values) > 0)
    np.testing.assert_allclose(fine.axes[1].values[: factor + 1], np.linspace(2, 3, factor + 1))
    fine.check()


def test_refined_keeps_labels_and_refuses_a_zero_factor():
    grid = Grid((Axis.linspace("x", 2.0, 3.0, 4, label="1st PC"),))
    assert grid.refined(3).axes[0].label == "1st PC"
    with pytest.raises(ValueError, match="at least 1, got 0"):
        grid.refined(0)


def test_zoom_keeps_the_number_of_points():
    grid = Grid((Axis.linspace("x", -2.0, 6.0, 5, label="1st PC"), Axis.linspace("y", -3.0, 3.0, 7)))
    zoomed = grid.zoom((5.0, 0.25), 4.0)
    assert zoomed.shape == grid.shape
    np.testing.assert_allclose(zoomed.axes[0].values, np.linspace(4.0, 6.0, 5))
    np.testing.assert_allclose(zoomed.axes[1].values, np.linspace(-0.5, 1.0, 7))
    assert zoomed.axes[0].label == "1st PC"
    with pytest.raises(ValueError, match="zoom factor must be positive, got -2"):
        grid.zoom(0.5, -2.0)


def test_zoom_keeps_unequal_spacing_and_the_bits_of_equal_one():
    values, equal = np.array([0.5, 2.0, 3.0, 8.5]), Axis.linspace("y", -0.7, 0.3, 7)
    zoomed = Grid((Axis("x", values, label="rate"), equal)).zoom((3.0, 0.1), 4.0)
    np.testing.assert_allclose(np.diff(zoomed.axes[0].values), np.diff(values) / 4)
    np.testing.assert_allclose(zoomed.axes[0].values[[0, -1]], [2.0, 4.0])  # 8 / 4 wide around 3
    assert (zoomed.axes[0].name, zoomed.axes[0].label) == ("x", "rate")
    np.testing.assert_array_equal(zoomed.axes[1].values, Axis.linspace("y", 0.1 - 0.125, 0.1 + 0.125, 7).values)
    np.testing.assert_array_equal(Grid.of(x=[2.0]).zoom(7.0, 3.0).axes[0].values, [7.0])


def test_index_is_the_nearest_point():
    assert seven_by_eleven.index((0.2, 1.9)) == (2, 10)
    assert seven_by_eleven.index((-99.0, -1.1)) == (0, 4)


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        (Grid(()), "the grid has no axes"),
        (Grid((Axis("x", np.arange(3.0)), Axis("x", np.arange(2.0)))), "must be distinct identifiers"),
        (Grid((Axis("learning rate", np.arange(3.0)),)), "must be distinct identifiers"),
        (Grid.of(x=[]), "'x' must hold at least one coordinate"),
        (Grid.of(x=np.ones((2, 2))), "'x' must hold at least one coordinate"),
        (Grid.of(x=[2.0, 2.0]), "'x' must be finite and strictly increasing"),
        (Grid.of(x=[2.0, np.nan]), "'x' must be finite and strictly increasing"),
    ],
)
def test_check_refuses(grid, said):
    with pytest.raises(ValueError, match=said):
        grid.check()


# ------------------------------------------------------------------------------------------------- landscapes


def test_array_order_on_a_non_square_asymmetric_grid():
    values = np.array([asymmetric(*p) for p in seven_by_eleven.points()]).reshape(seven_by_eleven.shape)
    result = landscape(values)
    for i, a in enumerate(seven_by_eleven.axes[0].values):
        for j, b in enumerate(seven_by_eleven.axes[1].values):
            assert result["loss"][i, j] == asymmetric(a, b)
            np.testing.assert_array_equal(result.coords((i, j)), [a, b])
    assert result.argmin("loss") == np.unravel_index(np.argmin(values), (7, 11))


def test_argmin_passes_over_nan_infinities_and_what_was_not_computed():
    values = np.full((7, 11), 5.0)
    values[0, 3], values[2, 2], values[1, 1], values[4, 9], values[6, 0] = np.nan, -np.inf, np.inf, -2.0, -7.0
    computed = np.ones((7, 11), bool)
    computed[6, 0] = False
    result = landscape(values, computed=computed)
    assert result.argmin("loss") == (4, 9)
    assert np.isneginf(result["loss"][2, 2])
    assert "76 of 77 computed" in repr(result)


def test_argmin_refuses_vectors_and_nothing_finite():
    with pytest.raises(ValueError, match=r"'loss' holds \(2,\) values a point; argmin needs one"):
        landscape(np.full((7, 11, 2), 3.0)).argmin("loss")
    with pytest.raises(ValueError, match="'loss' has no finite value"):
        landscape(np.full((7, 11), np.inf)).argmin("loss")


def test_slice_fixes_an_axis():
    values = np.arange(77.0 * 2).reshape(7, 11, 2)
    result = landscape(values, error={"loss": 0.25}, meta={"seed": 3})
    row, column = result.slice(alpha=4), result.slice(beta=-2)
    np.testing.assert_array_equal(row["loss"], values[4])
    np.testing.assert_array_equal(column["loss"], values[:, -2])
    assert (row.grid.names, column.grid.names) == (("beta",), ("alpha",))
    assert (row.computed.shape, column.computed.shape) == ((11,), (7,))
    assert (row.error["loss"], row.meta["seed"]) == (0.25, 3)


def test_slice_at_a_float_is_at_that_coordinate():
    values = np.array([asymmetric(*p) for p in seven_by_eleven.points()]).reshape(7, 11)
    result = landscape(values)
    for alpha in (-0.5, seven_by_eleven.axes[0].values[3], np.float32(seven_by_eleven.axes[0].values[3]), 1.5):
        np.testing.assert_allclose(
            result.slice(alpha=alpha)["loss"], asymmetric(alpha, seven_by_eleven.axes[1].values), rtol=1e-6
        )
    np.testing.assert_array_equal(result.slice(alpha=0)["loss"], values[0])
    np.testing.assert_array_equal(result.slice(alpha=np.int32(2))["loss"], values[2])
    assert not np.array_equal(result.slice(beta=0)["loss"], result.slice(beta=0.0)["loss"])
    np.testing.assert_allclose(result.slice(beta=0.0)["loss"], asymmetric(seven_by_eleven.axes[0].values, 0.0))
    lonely = Landscape(Grid.of(x=[0.0], y=[0.5, 2.0]), {"loss": np.array([[3.0, 5.0]])}, np.ones((1, 2), bool))
    np.testing.assert_array_equal(lonely.slice(x=0.0)["loss"], [3.0, 5.0])


@pytest.mark.parametrize(
    ("at", "error", "said"),
    [
        (0.3, ValueError, r"'alpha' has no coordinate 0.3; the nearest is 0.1666.*, index 2"),
        (np.nan, ValueError, "'alpha' has no coordinate nan"),
        (np.inf, ValueError, "'alpha' has no coordinate inf"),
        (99, ValueError, r"'alpha' has 7 coordinates, from -0.5 to 1.5: no index 99. .* give a float, alpha=99.0"),
        (-8, ValueError, "no index -8"),
        (True, TypeError, "takes an integer .an index. or a float .a coordinate., got True"),
        ("0", TypeError, "takes an integer"),
        (None, TypeError, "takes an integer"),
        (slice(2), TypeError, "takes an integer"),
        ([2, 3], TypeError, "takes an integer"),
    ],
)
def test_slice_where_there_is_nothing(at, error, said):
    with pytest.raises(error, match=said):
        landscape(np.full((7, 11), 3.0)).slice(alpha=at)


def test_slice_refuses():
    result = landscape(np.full((7, 11), 3.0))
    with pytest.raises(ValueError, match="no axis 'gamma'; the axes are alpha, beta"):
        result.slice(gamma=2)
    with pytest.raises(ValueError, match="must keep at least one axis"):
        result.slice(alpha=2, beta=3)


def test_assign_with_meta_and_names():
    result = landscape(np.full((7, 11), 3.0)).assign(gap=np.full((7, 11), 0.5)).with_meta(seed=4)
    assert result.names == tuple(result) == ("loss", "gap")
    assert "gap" in result
    assert result.meta["seed"] == 4
    with pytest.raises(ValueError, match=r"gap must have shape \(7, 11\)"):
        result.assign(gap=np.ones((11, 7)))
    with pytest.raises(KeyError, match="no output 'test_loss' in this landscape; it has loss, gap"):
        result["test_loss"]


def test_to_xarray():
    values = np.arange(77.0 * 2).reshape(7, 11, 2)
    grid = Grid((Axis.linspace("x", -0.5, 1.5, 7, label="1st PC"), Axis.linspace("y", 2.0, 3.0, 11)))
    data = landscape(values, grid).to_xarray()
    assert data["loss"].dims == ("x", "y", "loss_0")
    picked = data["loss"].sel(x=1.5, y=2.5).values
    np.testing.assert_array_equal(picked, values[6, 5])
    assert data["x"].attrs["long_name"] == "1st PC"
    assert data["computed"].dims == ("x", "y")
