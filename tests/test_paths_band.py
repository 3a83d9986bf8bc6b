"""The elastic band: saddles of Mueller-Brown from its minima alone, any scale and structure, honest failure."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape import Objective, minima, paths
from landscape.problems import mueller_brown

PUBLISHED = (-40.664844, -72.248940)  # energies of the saddles, Mueller & Brown 1979
FUNCTION = Objective(lambda p, _: mueller_brown(p))


def ends():
    """The two deepest minima, found by descent from near them."""
    return tuple(minima.polish(FUNCTION, jnp.array(near)).params for near in ([-0.6, 1.4], [0.6, 0.1]))


@pytest.fixture(scope="module")
def band():
    return paths.elastic_band(FUNCTION, *ends(), num_images=15)


def test_the_band_finds_both_saddles_of_mueller_brown(band):
    assert bool(band.converged)
    np.testing.assert_allclose(np.asarray(band.losses)[np.asarray(band.is_peak)], PUBLISHED, atol=1e-3)
    # the third minimum lies between them on the path of least energy
    assert np.min(np.asarray(band.losses)[5:-3]) < -79


def test_peaks_polish_to_saddles_of_index_one(band, x64):
    # the last digits: from the parameters in float64
    wide = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64) if x.dtype == jnp.float32 else x, band)
    found = paths.saddles(FUNCTION, wide)
    np.testing.assert_allclose([float(s.loss) for s in found], PUBLISHED, atol=1e-6)
    assert all(bool(s.converged) for s in found)
    assert [minima.classify(FUNCTION, s.params).index for s in found] == [1, 1]


def test_the_band_lies_along_the_gradient_and_is_evenly_spaced(band):
    x = np.asarray(band.path.nodes, np.float64)
    gradients = np.asarray(jax.vmap(jax.grad(mueller_brown))(band.path.nodes))
    chords = x[2:] - x[:-2]
    chords /= np.linalg.norm(chords, axis=1, keepdims=True)
    across = gradients[1:-1] - np.sum(gradients[1:-1] * chords, axis=1, keepdims=True) * chords
    steep = np.linalg.norm(gradients[1:-1], axis=1)
    assert np.median(np.linalg.norm(across, axis=1) / steep) < 0.3  # chords are not tangents
    peaks = np.flatnonzero(band.is_peak)
    for stretch in np.split(np.linalg.norm(np.diff(x, axis=0), axis=1), peaks):
        assert np.ptp(stretch) < 0.02 * stretch.mean() + 1e-3  # between climbing images the springs are equal
    assert band.history["force"][-1] <= 1e-3 * band.history["force"][0]
    np.testing.assert_array_equal(np.asarray(band.history["loss"])[int(band.steps) :], band.losses.max())


def test_scales_and_structures_do_not_matter():
    """The same energies of a stretched, turned function of a tree of parameters, whose ends are given far away."""
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    scaled = Objective(lambda p, _: 1e-4 * mueller_brown((jnp.stack([p["x"], p["y"][0]]) @ turn) / 300.0 + 2.0))
    a, b = (300.0 * turn @ (np.asarray(end) - 2.0) for end in ends())
    a, b = ({"x": jnp.float32(z[0]), "y": jnp.array([z[1]], jnp.float32)} for z in (a, b))
    band = paths.elastic_band(scaled, a, b, num_images=15)
    assert bool(band.converged)
    np.testing.assert_allclose(1e4 * np.asarray(band.losses)[np.asarray(band.is_peak)], PUBLISHED, atol=1e-3)
    assert band.path(0.0)["y"].shape == (1,)


WELLS = Objective(lambda p, _: (p[0] ** 2 - 9) ** 2 / 81 + (p[1] - 0.5 - p[0] ** 2 / 9) ** 2)
LEFT, RIGHT = jnp.array([-3.0, 1.5]), jnp.array([3.0, 1.5])


def test_bands_vmap_over_ends_and_start_from_a_path():
    def relax(a, b):
        return paths.elastic_band(WELLS, a, b, num_images=7, num_steps=2000)

    both = jax.vmap(relax)(jnp.stack([LEFT, RIGHT]), jnp.stack([RIGHT, LEFT]))
    assert np.all(both.converged)
    np.testing.assert_allclose(both.losses[0], both.losses[1][::-1], atol=1e-5)
    np.testing.assert_allclose(both.losses.max(axis=1), 1.0, atol=1e-5)  # at (0, 0.5)
    with pytest.raises(ValueError, match="these are 2 bands"):
        paths.saddles(WELLS, both)
    detour = paths.Bezier(jnp.stack([LEFT, jnp.array([0.5, -4.0]), RIGHT]))
    band = paths.elastic_band(WELLS, LEFT, RIGHT, start=detour, num_images=7, num_steps=2000, tol=1e-3)
    np.testing.assert_allclose(band.losses.max(), 1.0, atol=1e-5)
    assert bool(band.converged)
    np.testing.assert_array_equal(band.path.nodes[jnp.array([0, -1])], jnp.stack([LEFT, RIGHT]))


def test_without_climbing_the_peak_stays_below_the_saddle():
    band = paths.elastic_band(WELLS, LEFT, RIGHT, num_images=8, climb=False)
    assert bool(band.converged)
    assert band.losses.max() < 0.99


def test_what_does_not_converge_says_so():
    # forces cannot be that small: all steps are taken
    short = paths.elastic_band(WELLS, LEFT, RIGHT, num_images=7, num_steps=2000, tol=1e-30)
    assert not bool(short.converged)
    assert int(short.steps) == 2000
    cliff = Objective(lambda p, _: jnp.sum(p**2) - jnp.log(1.7 - p[0]))  # not a number beyond 1.7
    lost = paths.elastic_band(cliff, jnp.array([-0.5, 0.0]), jnp.array([2.5, 0.0]), num_images=5)
    assert not bool(lost.converged)
    assert int(lost.steps) == 0
    assert np.isnan(np.asarray(lost.losses)).any()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"objective": mueller_brown}, TypeError, "objective must be a landscape.Objective"),
        ({"a": jnp.arange(2)}, TypeError, "must be a real floating-point array"),
        ({"b": jnp.ones(3)}, ValueError, r"must have shape \(2,\) like a"),
        ({"start": 3.5}, TypeError, "start must be a path"),
        ({"start": lambda t: jnp.ones(5)}, ValueError, r"start\(\[t\]\).* must have shape \(2,\) like a"),
        ({"num_images": 2}, ValueError, "num_images must be at least 3, got 2"),
        ({"num_images": 7.5}, TypeError, "num_images must be an integer"),
        ({"num_steps": 0}, ValueError, "num_steps must be at least 1"),
        ({"tol": -0.5}, ValueError, "tol must be positive"),
        ({"spring": 0.0}, ValueError, "spring must be positive"),
        ({"spring": np.inf}, ValueError, "spring must be positive and finite, got inf"),
        ({"tol": np.nan}, ValueError, "tol must be positive and finite, got nan"),
        ({"tol": True}, TypeError, "tol must be a number, got True"),
        ({"climb": "yes"}, TypeError, "climb must be True or False, got 'yes'"),
        ({"b": jnp.array([1, 2])}, TypeError, "b.* must be a real floating-point array"),
    ],
)
def test_bad_bands_are_refused(changes, error, message):
    with pytest.raises(error, match=message):
        paths.elastic_band(**{"objective": WELLS, "a": LEFT, "b": RIGHT, **changes})


def test_saddles_of_what_is_no_band_are_refused(band):
    with pytest.raises(TypeError, match="band must be a Band, as elastic_band returns it, got NoneType"):
        paths.saddles(WELLS, None)
    with pytest.raises(TypeError, match="objective must be a landscape.Objective, got str"):
        paths.saddles("loss", band)
    flat = jax.tree.map(jnp.zeros_like, band)  # without a peak nothing would be polished
    with pytest.raises(ValueError, match="tol must be positive and finite, got inf"):
        paths.saddles(WELLS, flat, tol=np.inf)
