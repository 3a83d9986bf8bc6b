"""A table over the steps of a recorded run, against closed forms of gradient descent on a bowl."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import landscape as ls

VALUES = np.array([7.0, 5.0, 3.0, 0.4])
START = np.array([0.5, -1.5, 2.5, 0.3])
RATE, EVERY = 0.05, 3
BOWL = ls.Objective(lambda p, _: 0.5 * jnp.sum(jnp.asarray(VALUES, jnp.float32) * p["w"] ** 2))
STEPS = EVERY * np.arange(6)
# gradient descent on a bowl multiplies each coordinate by 1 - rate * eigenvalue
POINTS = START * (1 - RATE * VALUES) ** STEPS[:, None]


class Both(NamedTuple):
    value: jax.Array
    length: jax.Array
    tree: dict


def path():
    return ls.recording.along([{"w": jnp.asarray(x, jnp.float32)} for x in POINTS], steps=STEPS)


def table(measures):
    course = ls.recording.Course(path(), measures)
    return ls.sweep(course, ls.Grid((course.axis(),)), progress=False)


def test_a_course_measures_each_step_and_its_update():
    key = jax.random.key(5)

    def share(params, update):
        return ls.curvature.eigenspace_share(key, BOWL, params, 2, update=update).value

    def critical(params, update):
        return {"critical_sharpness": ls.reach.critical_sharpness(BOWL, params, learning_rate=RATE).value}

    def both(params, update):
        return Both(BOWL(params), jnp.linalg.norm(update["w"]), params)

    found = table({"share": share, "along": critical, "loss": both})
    updates, gradients = np.diff(POINTS, axis=0), VALUES * POINTS[:-1]
    assert found.grid.axes[0].name == "step"
    assert set(found) == {"share", "critical_sharpness", "loss", "loss_length"}
    np.testing.assert_array_equal(found.grid.axes[0].values, STEPS[:-1])
    np.testing.assert_allclose(found["loss"], 0.5 * np.sum(VALUES * POINTS[:-1] ** 2, axis=1), rtol=1e-5)
    np.testing.assert_allclose(found["loss_length"], np.linalg.norm(updates, axis=1), rtol=1e-4)
    np.testing.assert_allclose(
        found["share"], np.sum(updates[:, :2] ** 2, axis=1) / np.sum(updates**2, axis=1), rtol=1e-3
    )
    expected = np.sum(VALUES * gradients**2, axis=1) / np.sum(gradients**2, axis=1)
    np.testing.assert_allclose(found["critical_sharpness"], expected, rtol=0.05)  # the precision that is asked for


@pytest.mark.parametrize(
    ("measures", "error", "match"),
    [
        ({}, ValueError, "nothing to measure"),
        ([3.5], TypeError, "measures must be"),
        ({"loss": 3.5}, TypeError, "loss"),
        ({"loss": lambda params: 3.5}, TypeError, "update"),
    ],
)
def test_measures_that_are_none_are_refused(measures, error, match):
    with pytest.raises(error, match=match):
        table(measures)


def test_steps_without_a_next_one_are_refused():
    course = ls.recording.Course(path(), {"size": lambda params, update: jnp.sum(update["w"])})
    with pytest.raises(ValueError, match="was not recorded, the nearest is 12"):
        ls.sweep(course, ls.Grid((ls.Axis("step", STEPS.astype(float)),)), progress=False)
    alone = ls.recording.along([{"w": jnp.ones(3)}], steps=[4])
    with pytest.raises(ValueError, match="record two or more"):
        ls.recording.Course(alone, course.measures).axis()
