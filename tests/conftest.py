"""Shared fixtures; every call of the library in the tests is checked against its shape annotations."""

import atexit
import inspect
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from beartype import beartype
from jaxtyping import AbstractArray, install_import_hook


def check_shapes(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Check the annotations that are array shapes; arguments of a wrong kind are for our own errors to refuse."""
    annotations = getattr(fn, "__annotations__", {})
    for name in [n for n, a in annotations.items() if not (inspect.isclass(a) and issubclass(a, AbstractArray))]:
        del annotations[name]
    return beartype(fn)


if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a shell has it that runs the tests in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

if (
    "PYTEST_XDIST_WORKER" not in os.environ
):  # the workers inherit the folder: each program is compiled once in a session
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="landscape-tests-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

install_import_hook("landscape", "conftest.check_shapes")

import jax  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402
from scripts import run_script  # noqa: E402

import landscape  # noqa: E402

settings.register_profile("landscape", deadline=None, max_examples=30, derandomize=True)
settings.load_profile("landscape")


# modules whose programs take longer to optimise than to run
RUN_ONCE = (
    "test_edge_of_stability", "test_experiment_", "test_fractal_experiments", "test_notebooks",
    "test_surface_experiment",
)  # fmt: skip
# what takes longest goes first, so that no worker ends alone with it
LONGEST = (
    "test_notebooks", "test_experiment_basins", "test_models", "test_experiment_culture", "test_experiment_doodles",
    "test_surface_experiment", "test_fractal_experiments", "test_docs", "test_edge_of_stability",
)  # fmt: skip


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of a module go to one worker: they share fixtures and compiled programs."""
    rank = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture
def x64() -> Iterator[None]:
    """Double precision for one test; `jax.config` stays as it is."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def smoke(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the experiment of a test module `test_experiment_NAME` prints for `--smoke`, its folder, its landscapes."""
    name, out = request.module.__name__.removeprefix("test_experiment_"), tmp_path_factory.mktemp("smoke")
    done = run_script(name, "--smoke", "--out", out)
    assert done.returncode == 0, done.stderr
    return done, out, {path.stem: landscape.load(path) for path in out.glob("*.zarr")}


@pytest.fixture(scope="module", autouse=True)
def programs_of_the_module(request: pytest.FixtureRequest) -> Iterator[None]:
    """Programs of one module are of no use to the next, and all together they take gigabytes.

    The tests of experiments and notebooks compile hundreds of programs and run each for milliseconds, so LLVM does not
    optimise them: that takes three times as long and is not what these tests are about. The tests of the library and
    of recipes, and every test of a session that runs slow ones, have programs as users have them.
    """
    name, config = request.path.stem, jax.config
    once = name.startswith(RUN_ONCE) and not any(item.get_closest_marker("slow") for item in request.session.items)
    before = config.values["jax_disable_most_optimizations"]
    config.update("jax_disable_most_optimizations", once or before)
    yield
    config.update("jax_disable_most_optimizations", before)
    jax.clear_caches()


@pytest.fixture
def torch() -> Any:
    """PyTorch, which the extra `bench` has: it is too large for the tests' own."""
    return pytest.importorskip("torch", reason="extra: bench")
