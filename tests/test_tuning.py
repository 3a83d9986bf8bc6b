"""The search for a batching strategy, with scripted timings in place of a clock."""

import os
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import landscape as ls
from landscape.engine import _kernel, _runners, _tuning
from landscape.engine._kernel import Strategy
from landscape.engine._tuning import Timing

COMPILE_SECONDS = 1.0


@pytest.fixture
def tuned(monkeypatch):
    """`tuned(cost, num_points)` tunes by `cost(width)`, seconds a point; `.tried` lists the widths that were timed.

    With `.threads` set, the cost depends on them too: `cost(width, threads)`. With `.hoist` set there is work to share:
    `cost(width, hoist)`.
    """

    def tune(cost, num_points):
        def seconds(kernel):
            if tune.hoist:
                return cost(kernel.width, kernel.strategy.hoist)
            return cost(kernel.width, kernel.threads) if tune.threads > 1 else cost(kernel.width)

        def measure(kernel, points, max_memory=np.inf):
            tune.tried.append(kernel.width)
            return Timing(kernel.strategy, seconds(kernel), COMPILE_SECONDS, threads=kernel.threads)

        def run(kernel, points):
            tune.rerun += len(points)
            return seconds(kernel) * len(points)

        monkeypatch.setattr(_tuning, "measure", measure)
        monkeypatch.setattr(_tuning, "_seconds", run)
        kernel = _kernel.Kernel.build(jax.tree_util.Partial(lambda c: c[0] * tune.salt), 1, jax.local_devices())
        return _tuning.tune(tune.kernel or kernel, np.zeros((4096, 1)), num_points, None)

    tune.rerun = 0
    tune.tried, tune.salt, tune.kernel, tune.threads, tune.hoist = [], 3.0, None, 1, False
    monkeypatch.setattr(_kernel.Kernel, "num_hoisted", lambda kernel: int(tune.hoist))
    monkeypatch.setattr(_kernel, "threads_for", lambda devices: tune.threads)
    with _tuning.forgotten():
        yield tune


def hold(tuned):
    """Let later calls see the same function."""
    tuned.kernel = _kernel.Kernel.build(jax.tree_util.Partial(lambda c: c[0] * 0.7), 1, jax.local_devices())


def test_a_long_sweep_finds_the_best_width_beyond_a_worse_one(tuned):
    cost = {1: 1e-2, 16: 3e-3, 256: 5e-3, 4096: 2e-3}
    found = tuned(lambda width: cost.get(width, 4e-3), 10**7)
    assert found.strategy == Strategy(4096)
    assert found.settled


def test_two_worse_widths_in_a_row_end_the_climb(tuned):
    cost = {1: 1e-2, 16: 3e-3, 256: 5e-3, 4096: 5e-3}
    assert tuned(lambda width: cost.get(width, 7e-3), 10**7).strategy == Strategy(16)
    assert 65536 not in tuned.tried


def test_a_width_that_is_hopeless_ends_the_climb(tuned):
    """Steps of 256 could take 16 times as long again."""
    assert tuned(lambda width: 1e-3 * (1.0 if width == 1 else 3.5), 10**7).strategy == Strategy(1)
    assert max(tuned.tried) == 16


def test_a_play_off_takes_no_longer_than_half_the_sweep(tuned):
    for num_points in (100, 250, 700, 10**4):
        tuned.rerun, tuned.salt = 0, num_points
        tuned(lambda width: 0.5 - 0.01 * (width == 16), num_points)
        assert tuned.rerun <= num_points / 2
    assert tuned.rerun  # where it may, it takes place


def test_a_short_sweep_is_not_held_up(tuned):
    found = tuned(lambda width: 1e-3 / width, 50)
    assert tuned.tried == [1]
    assert not found.settled


def test_the_search_goes_on_where_a_function_is_swept_again(tuned):
    hold(tuned)
    total, widths = 0, []

    def costs(width):
        return 2e-3 / width**0.3 + 1e-5

    for _ in range(40):
        total += 1000
        found = tuned(costs, 1000)
        widths.append(found.strategy.width)
        assert found.num_points == total
    assert widths == sorted(widths)
    assert widths[0] < widths[-1]
    assert len(tuned.tried) == len(set(tuned.tried)), "a width was timed twice"
    trials = len(tuned.tried) * COMPILE_SECONDS
    assert trials <= 2 * total * costs(1), "more was spent on the search than on the sweeps"


def test_where_points_take_long_two_at_a_time_show_that_more_will_not_help(tuned):
    hold(tuned)
    for _ in range(5):
        found = tuned(lambda width: 0.3 if width == 1 else 3.0, 500)
    assert found.strategy == Strategy(1)
    assert tuned.tried == [1, 2]


def test_where_points_take_long_and_two_do_no_harm_more_are_tried(tuned):
    assert tuned(lambda width: 0.3 / width**0.5, 10**6).strategy.width > 16
    assert tuned.tried[:3] == [1, 2, 16]


def test_a_settled_search_is_not_repeated(tuned):
    hold(tuned)
    assert tuned(lambda width: 1e-3 / min(width, 64), 10**7).settled
    count = len(tuned.tried)
    tuned(lambda width: 1e-3 / min(width, 64), 10**8)
    assert len(tuned.tried) == count


def test_where_sharing_costs_more_than_it_brings_a_few_plain_ones_are_tried(tuned):
    tuned.hoist = True
    found = tuned(lambda width, hoist: 1e-3 * (3.0 if hoist else {1: 1.0, 4: 0.6}.get(width, 5.0)), 10**6)
    assert found.strategy == Strategy(4)


def test_the_best_hoisted_width_meets_its_plain_twin(tuned):
    tuned.hoist = True
    found = tuned(lambda width, hoist: 1e-3 / min(width, 4096 / width) * (1.0 if hoist else 0.5), 10**6)
    assert found.strategy == Strategy(64)


def test_a_small_program_runs_from_every_thread(tuned):
    tuned.threads = 5
    found = tuned(lambda width, threads: 1e-3 / (threads * min(width, 16)), 10**6)
    assert (found.strategy, found.threads) == (Strategy(16), 5)


def test_a_program_that_has_threads_of_its_own_is_called_by_one(tuned):
    tuned.threads = 5
    found = tuned(lambda width, threads: (1.0 + 0.3 * (threads > 1)) * 1e-2 / min(width, 16), 10**6)
    assert (found.strategy, found.threads) == (Strategy(16), 1)


def test_the_best_strategy_is_tried_with_another_number_of_threads(tuned):
    tuned.threads = 5
    costs = {(1, 5): 1e-3, (1, 1): 2e-3, (16, 5): 5e-4, (16, 1): 2e-4}
    found = tuned(lambda *strategy: costs.get(strategy, 3e-3), 10**6)
    assert (found.strategy, found.threads) == (Strategy(16), 1)


def test_few_points_are_not_held_up_by_trying_threads(tuned):
    tuned.threads = 5
    assert tuned(lambda width, threads: 3.0 / threads, 30).threads == 5
    assert tuned.tried == [1]


def test_short_sweeps_have_short_buffers(monkeypatch):
    fn = jax.tree_util.Partial(lambda c: c[0])
    devices = tuple(jax.local_devices())
    monkeypatch.setattr(_kernel, "threads_for", lambda devices: 1)
    sizes = {num: _runners.Local(fn, ls.Grid.of(t=np.arange(num)), devices).kernel.capacity for num in (5, 1024, 1025)}
    assert sizes == {5: 1024, 1024: 1024, 1025: 4096}
    assert _kernel.Kernel.build(fn, 1, devices).capacity == _kernel.MAX_WIDTH


def test_a_machine_that_does_not_say_how_much_memory_it_has(monkeypatch):
    monkeypatch.delattr(os, "sysconf", raising=False)
    device = SimpleNamespace(platform="cpu", memory_stats=lambda: None)
    assert _kernel.default_memory(device) == 2**31 // jax.local_device_count("cpu")
    assert _kernel.default_memory(SimpleNamespace(memory_stats=lambda: {"bytes_limit": 70})) == 35
