"""Branches and loops that points take each for itself: together they do what they do one after another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import landscape as ls
from landscape.affine import _lanes
from landscape.engine import _tuning
from landscape.engine._kernel import Strategy

GRID = ls.Grid.of(x=np.linspace(-1.5, 3.25, 20), y=np.linspace(0.5, 4.25, 4))


def count_of_products(c):
    """How often 2 is multiplied by `x` until it is 100; without end for `x <= 1`, where it is not asked for."""

    def count():
        return jax.lax.while_loop(lambda s: s[0] < 100.0, lambda s: (s[0] * c[0], s[1] + 1), (2.0, 0))[1]

    return jax.lax.cond(c[0] > 1.1, count, lambda: -7)


def halvings_in_turn(c):
    """Each turn halves 1 until it is below `gap`, which is 0 once the outer loop has ended: then without end."""

    def turn(state):
        gap, turns, halvings = state
        more = jax.lax.while_loop(lambda s: s[0] >= gap, lambda s: (s[0] / 2, s[1] + 1), (1.0, 0))[1]
        return jnp.where(turns + 1 < c[1], gap, 0.0), turns + 1, halvings + more

    return jax.lax.while_loop(lambda s: s[1] < c[1], turn, (0.3 + 0 * c[0], 0, 0))[2]


def in_a_scan(c):
    """The sum of the products that each of five numbers asks for, inside `scan`, `jit` and `checkpoint`."""

    def step(total, x):
        more = jax.jit(jax.checkpoint(count_of_products))(c + x)
        return total + more, more

    return jax.lax.scan(step, 0, jnp.arange(0.5, 3.0, 0.5), reverse=True)


def products(x):
    value, count = np.float32(2), 0
    while x > 1.1 and value < 100:
        value, count = np.float32(value * np.float32(x)), count + 1
    return count if x > 1.1 else -7


@pytest.mark.parametrize("batch", ["auto", 5, 64, Strategy(16, hoist=True)])
def test_a_loop_that_no_point_asks_for_does_not_run(batch, monkeypatch):
    monkeypatch.setattr(_tuning._Climb, "_pays", lambda climb, *arguments, **options: True)  # all widths are tried
    with _tuning.forgotten():
        found = ls.sweep(count_of_products, GRID, batch=batch)["value"]
    expected = [[products(np.float32(x))] * 4 for x in GRID.axes[0].values]
    np.testing.assert_array_equal(found, expected)


def test_an_inner_loop_does_not_run_on_after_its_outer_one():
    found = ls.sweep(halvings_in_turn, GRID, batch=16)["value"]
    np.testing.assert_array_equal(found, [2 * np.ceil(GRID.axes[1].values)] * 20)  # 1 and 0.5 are not below 0.3


def test_a_point_decides_in_loops_and_calls():
    points = jnp.array([[0.2, 3.0], [-4.0, 0.5], [2.3, 1.5]])
    total, each = jax.jit(jax.vmap(_lanes.lanewise(in_a_scan)))(points)
    expected = [[products(np.float32(x) + np.float32(s)) for s in np.arange(0.5, 3.0, 0.5)] for x in (0.2, -4.0, 2.3)]
    np.testing.assert_array_equal(each, expected)
    np.testing.assert_array_equal(total, np.sum(expected, axis=1))


def test_a_branch_that_no_point_takes_is_not_entered():
    """Ten thousand million steps: in seconds only where nobody takes them."""

    def long():
        return jax.lax.fori_loop(0, 10**5, lambda i, x: jax.lax.fori_loop(0, 10**5, lambda j, y: jnp.cos(y), x), 0.5)

    found = ls.sweep(lambda c: jax.lax.cond(c[1] > 7.5, long, lambda: c[0] ** 2), GRID, batch=8)
    np.testing.assert_allclose(found["value"][:, 0], GRID.axes[0].values ** 2, rtol=1e-6)


@pytest.mark.parametrize(
    "fn",
    [
        lambda c: jnp.where(c[0] > 0, c[1], jnp.sin(c[0])),
        lambda c: jax.lax.cond(c[0] > 0, lambda: c[1], lambda: c[0]),
        lambda c: jax.lax.while_loop(lambda x: x < c[1], lambda x: 2 * x, 0.1),
        lambda c: jax.lax.cond(_lanes.anyone(c[0] > 0), lambda: jnp.outer(c, c) @ c, lambda: c),
    ],
)
def test_nothing_else_is_rewritten(fn):
    coords = jnp.array([2.5, 0.75])
    assert str(jax.make_jaxpr(_lanes.lanewise(fn))(coords)) == str(jax.make_jaxpr(fn)(coords))
