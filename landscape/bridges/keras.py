"""Keras models on the JAX backend: `problem` makes a `Problem` of one, `to_model` puts weights back.

Parameters are one flat dict by the paths of the variables (`params["sequential/dense/kernel"]`), copied, since `fit`
and `evaluate` give their buffers away. What is not trained (statistics of batch norm, random streams, frozen layers) is
`Objective.state`.
"""

import contextlib
import warnings
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from landscape import _tree
from landscape.bridges import _data
from landscape.bridges._parameters import Parameters, axes_by_layout
from landscape.bridges._problem import LOG, Bridged, largest_difference
from landscape.checks import check_count
from landscape.moving import chosen, listed
from landscape.objective import Objective
from landscape.point import matmul_precision

try:
    import keras
except ImportError as error:
    raise ImportError("landscape.bridges.keras needs Keras 3: pip install 'loss-atlas[keras]'") from error

EXAMPLES, TOLERANCE = 8, 1e-4


def problem(
    model: Any,
    loss: Any,
    train: Any,
    test: Any = None,
    *,
    trainable: Any = None,
    batch_size: int | None = None,
    weight_fn: Callable[[Any], Any] | None = None,
    tolerance: float = TOLERANCE,
    name: str | None = None,
) -> Bridged:
    """A `Problem` of a Keras model, as in `model(x, training=False)`: no dropout, batch norm by its stored statistics.

    Args:
        model: a built `keras.Model` on the JAX backend (`KERAS_BACKEND=jax` before Keras is imported).
        loss: a name, an object or a function of Keras, `loss(targets, outputs)`, such as
            `"sparse_categorical_crossentropy"` or `keras.losses.MeanSquaredError()`. What it gives for each example is
            averaged over all axes but the first.
        train: a pair `(inputs, targets)` of arrays, or an iterable of such pairs, batch by batch.
        test: the same for the objective `test`; `None` for none.
        trainable: which of the trainable variables move, as for `bridges.torch.problem`. All by default.
        batch_size: examples per pass, as in `Objective`.
        weight_fn: weights of examples, as in `Objective`.
        tolerance: the largest difference from the model's own outputs, as a share of the largest or of 1.
        name: for titles; by default that of the model.

    Returns:
        A `Problem`; `.difference` is the largest difference found. `to_model` puts its parameters back.

    Raises:
        RuntimeError: Keras runs on another backend.
        TypeError: an argument of the wrong kind.
        ValueError: a model that is not built, a loss that is no number for each example, data that cannot be used.
    """
    _check(model, batch_size, tolerance)
    parts = {"train": train} if test is None else {"train": train, "test": test}
    data = {part: _data.read(value, part, np.asarray) for part, value in parts.items()}
    for part, tree in data.items():
        if not isinstance(tree, tuple) or len(tree) != 2:
            raise TypeError(f"{part} must be a pair (inputs, targets), or batches of them, got {type(tree).__name__}")
    by_path = {variable.path: variable for variable in model.trainable_variables}
    names = chosen(list(by_path), trainable, by_path.get)
    program = _Program(model, _loss_of(model, loss))
    params = Parameters({one: _copied(by_path[one]) for one in names}, _filter_axes(by_path))
    staying = [one for one in by_path if one not in params]
    state = {one: _copied(by_path[one]) for one in staying} | {v.path: _copied(v) for v in program.fixed}
    few = jax.tree.map(jnp.asarray, _data.spread(data["train"], EXAMPLES))
    difference = _compared(program, (params, few, state), tolerance)
    options: dict[str, Any] = {"batch_size": batch_size, "state": state or None, "weight_fn": weight_fn}
    if any(isinstance(layer, keras.layers.BatchNormalization) for layer in _layers(model)):
        options["update_state"] = program.statistics
    LOG.info("%s: outputs differ from Keras's by at most %.1e", model.name, difference)
    return Bridged(
        init=partial(_fresh, model, names),
        objectives={p: Objective(program, jax.tree.map(jnp.asarray, tree), **options) for p, tree in data.items()},
        predict=lambda params, inputs: program.outputs(params, inputs, state),
        params=params,
        name=name or model.name,
        difference=difference,
        frozen=tuple(staying),
    )


def _check(model: Any, batch_size: Any, tolerance: Any) -> None:
    if keras.backend.backend() != "jax":
        raise RuntimeError(
            f"Keras runs on {keras.backend.backend()}: set the environment variable KERAS_BACKEND=jax before Keras is "
            "imported for the first time"
        )
    if not isinstance(model, keras.Model):
        raise TypeError(f"model must be a keras.Model, got {_tree.describe(model)}")
    if not model.built or not model.trainable_variables:
        reason = "has no trainable variables" if model.built else "is not built: call it once, or give an Input"
        raise ValueError(f"the model {model.name} {reason}")
    if batch_size is not None:
        check_count("batch_size", batch_size, 1)
    _tree.check_positive("tolerance", tolerance)


def _loss_of(model: Any, loss: Any) -> Callable[..., Any]:
    """The function of a loss that gives one number for each example, or for each of its outputs."""
    loss = getattr(model, "loss", None) if loss is None else loss
    if loss is None:
        raise TypeError("loss=None takes the loss that the model was compiled with, but it has none: pass loss=")
    try:
        found = keras.losses.get(loss)
    except (ValueError, TypeError) as error:
        raise ValueError(f"Keras knows no loss {loss!r}: {error}") from error
    return found.call if isinstance(found, keras.losses.Loss) else found


def _copied(variable: Any) -> jax.Array:
    return jnp.array(np.array(variable.value))


def _layers(model: Any) -> list[Any]:
    return list(model._flatten_layers(include_self=False))


def _filter_axes(variables: Mapping[str, Any]) -> dict[str, Any]:
    """By the rules for flax, whose layouts are those of Keras."""
    dotted = {path.replace("/", "."): path for path in variables}
    axes = axes_by_layout({name: tuple(variables[path].shape) for name, path in dotted.items()}, "flax")
    return {dotted[name]: one for name, one in axes.items()}


@dataclass(frozen=True, eq=False)
class _Program:
    """A model and its loss as functions of variables by their paths."""

    model: Any
    loss: Callable[..., Any]

    @property
    def fixed(self) -> list[Any]:
        """Variables that no optimizer moves."""
        return list(self.model.non_trainable_variables)

    def __call__(self, params: Any, batch: Any, state: Any = None) -> Any:
        inputs, targets = batch
        values = jnp.asarray(self.loss(targets, self.outputs(params, inputs, state)))
        count = len(jax.tree.leaves(inputs)[0])
        if values.ndim == 0 or len(values) != count:
            raise ValueError(
                f"loss must give one number for each of {count} examples, got shape {values.shape}: a function or an "
                "object of keras.losses does"
            )
        return values.reshape(count, -1).mean(1)

    def outputs(self, params: Any, inputs: Any, state: Any) -> Any:
        """Of the model in evaluation mode."""
        return self._run(params, inputs, state, training=False)[0]

    def statistics(self, params: Any, batch: Any, state: Any) -> Any:
        """The state with running statistics as measured on this batch alone."""
        with _only_norms(self.model):
            new = self._run(params, batch[0], state, training=True)[1]
        measured = {variable.path: value for variable, value in zip(self.fixed, new)}
        kinds = {v.path for layer in _layers(self.model) for v in _running(layer)}
        return {path: measured[path] if path in kinds else old for path, old in state.items()}

    def _run(self, params: Any, inputs: Any, state: Any, training: bool) -> Any:
        values = {**(state or {}), **params}
        paths = [[v.path for v in part] for part in (self.model.trainable_variables, self.fixed)]
        missing = [path for part in paths for path in part if path not in values]
        if missing:
            raise ValueError(
                f"the parameters lack {listed(missing)}; they hold {listed(list(params))}: another model's?"
            )
        trained, fixed = ([values[path] for path in part] for part in paths)
        return self.model.stateless_call(trained, fixed, inputs, training=training)


def _running(layer: Any) -> list[Any]:
    if not isinstance(layer, keras.layers.BatchNormalization):
        return []
    return [layer.moving_mean, layer.moving_variance]


@contextlib.contextmanager
def _only_norms(model: Any) -> Generator[None]:
    """In training mode without dropout, batch norm keeping what it measures and nothing of before."""
    changed = [(x, "momentum", 0.0) for x in _layers(model) if isinstance(x, keras.layers.BatchNormalization)]
    changed += [(x, "rate", 0.0) for x in _layers(model) if isinstance(getattr(x, "rate", None), float)]
    before = [getattr(layer, name) for layer, name, _ in changed]
    try:
        for layer, name, value in changed:
            setattr(layer, name, value)
        yield
    finally:
        for (layer, name, _), value in zip(changed, before):
            setattr(layer, name, value)


def _compared(program: _Program, arguments: tuple[Any, ...], tolerance: float) -> float:
    """The largest difference of outputs on a few examples, refused above the tolerance."""
    params, few, state = arguments
    with matmul_precision():
        ours = jax.jit(program.outputs)(params, few[0], state)
        theirs = program.model(few[0], training=False)
    off = largest_difference(ours, theirs)
    if not off <= tolerance:
        raise ValueError(f"outputs differ from those of the model by {off:.1e} of the largest: more than {tolerance:g}")
    program(params, few, state)  # what is wrong with the loss is said now
    return off


def _fresh(model: Any, names: list[str], key: Any) -> Parameters:
    """New weights from a random key, by the initialisers of a copy of the model."""
    _tree.check_key(key)
    if _tree.is_traced(key):
        raise TypeError("init of a Keras model cannot be compiled or mapped: call it for each key")
    keras.utils.set_random_seed(int(jax.random.bits(key) >> 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Keras says of its own use of NumPy
        copies = keras.models.clone_model(model).trainable_variables
    by_path = dict(zip((v.path for v in model.trainable_variables), copies))
    return Parameters({one: _copied(by_path[one]) for one in names}, _filter_axes(by_path))


def to_model(params: Mapping[str, Any], model: Any) -> Any:
    """Copy parameters into a model, in place, and return it; all of them or some.

    Raises:
        TypeError: no dict of arrays, or no model.
        ValueError: paths or shapes that the model does not have; then nothing has been copied.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"model must be a keras.Model, got {_tree.describe(model)}")
    if not isinstance(params, Mapping) or not params:
        raise TypeError(f"params must be a dict of arrays by the paths of variables, got {_tree.describe(params)}")
    places = {variable.path: variable for variable in model.variables}
    unknown = [str(path) for path in params if path not in places]
    if unknown:
        raise ValueError(f"{model.name} has no variables {listed(unknown)}; it has {listed(list(places))}")
    for path, value in params.items():
        if np.shape(value) != tuple(places[path].shape):
            raise ValueError(
                f"{path} has shape {np.shape(value)} in params and {tuple(places[path].shape)} in the model"
            )
    for path, value in params.items():
        places[path].assign(np.asarray(value))
    return model
