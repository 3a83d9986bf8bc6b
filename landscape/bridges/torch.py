"""PyTorch modules as they are: `problem` makes a `Problem` of one, `to_module` puts weights back.

`torch.export` writes the module and its loss down as a graph of some 200 basic operators, and a table says what each is
in JAX. The graph is made for a batch of one example and mapped over the examples, so every example has a loss of its
own and the mean is exact for any `batch_size`.

Parameters are one flat dict by PyTorch's dotted names (`params["layers.0.weight"]`, as in `state_dict()`); tied weights
are one entry. Buffers, and parameters that stay, are `Objective.state`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from landscape import _tree
from landscape.bridges import _aten, _data
from landscape.bridges._parameters import Parameters
from landscape.bridges._problem import LOG, Bridged, largest_difference
from landscape.bridges._tokens import extremes, label_counts
from landscape.checks import check_count
from landscape.moving import chosen, listed
from landscape.objective import Objective

try:
    import torch
except ImportError as error:
    raise ImportError("landscape.bridges.torch needs PyTorch: pip install 'loss-atlas[torch]'") from error

from landscape.bridges import _export, _module
from landscape.bridges._functions import ByBatch, PerExample, Predict
from landscape.point import matmul_precision

operator = _aten.operator
UnsupportedOperator = _export.UnsupportedOperator

EXAMPLES = 8  # on which outputs and losses are compared
TOLERANCES = {torch.bfloat16: 5e-2, torch.float16: 1e-2}  # of a share; 1e-4 for wider types


def problem(
    module: torch.nn.Module,
    loss: Callable[[Any, Any], torch.Tensor] | None,
    train: Any,
    test: Any = None,
    *,
    trainable: Any = None,
    batch_size: int | None = None,
    weight_fn: Callable[[Any], Any] | None = None,
    batch_statistics: int | None = None,
    tolerance: float | None = None,
    name: str | None = None,
) -> Bridged:
    """A `Problem` of a PyTorch module, in evaluation mode: no dropout, batch norm by its stored statistics.

    Args:
        module: the module, on any device. Its mode and its weights are left as they are; later changes of its weights
            do not reach the problem.
        loss: `loss(outputs, targets)` as for training, such as `torch.nn.functional.cross_entropy`: a scalar mean over
            the batch, or one number for each example. With a dict as batch it is given the whole batch,
            `loss(outputs, batch)`. `None` takes the loss that the module returns, as those of transformers do when the
            batch has labels.
        train: a pair `(inputs, targets)`, where several inputs are a tuple or a dict; or a dict of arrays that is the
            module's keyword arguments; or batches of these, such as a `DataLoader`, which is read once into memory.
            Tensors, NumPy or JAX arrays, the first axis counts the examples.
        test: the same for the objective `test`; `None` for none.
        trainable: which parameters move: a pattern such as `"head.*"`, a compiled regular expression, a list of these,
            a dict of booleans by name or a function `(name, parameter) -> bool`, such as
            `lambda name, p: p.requires_grad`. All by default. The others are part of `Objective.state`.
        batch_size: examples per pass, as in `Objective`.
        weight_fn: weights of examples, as in `Objective`: `weight_fn(batch) -> (n,)` in JAX, such as class weights or
            numbers of tokens. Where the labels of an example are several and the loss of a batch is found to be a mean
            over all that are not -100, their number is taken.
        batch_statistics: normalise each batch of this size by its own statistics in batch norm. The batches are then
            the examples: the mean is over whole batches, and `batch_size` counts batches.
        tolerance: the largest difference from PyTorch's own outputs and losses, as a share of the largest of them or of
            1; by default 1e-4, and more for half precision.
        name: for titles; by default the name of the class.

    Returns:
        A `Problem`; `.difference` is the largest difference found.

    Raises:
        TypeError: an argument of the wrong kind, or a loss that is no tensor.
        ValueError: a loss of a shape that is neither a scalar nor one number for each example, or that is no mean over
            examples; a difference above the tolerance; data or parameters that cannot be used.
        UnsupportedOperator: an operator that is not in the table; the message names it and the submodule.
    """
    module = getattr(module, "_orig_mod", module)  # what torch.compile has wrapped
    _module.check(module, loss)
    _check_options(batch_size, tolerance, batch_statistics, weight_fn)
    parts = {"train": train} if test is None else {"train": train, "test": test}
    data = {part: _data.read(value, part, _module.as_numpy) for part, value in parts.items()}
    _check_alike(data)
    tensors = _module.Tensors(module)
    names = chosen(list(tensors.parameters), trainable, tensors.parameters.get)
    wrapped = _module.Wrapped(module, loss, jax.tree.structure(data["train"]))
    few = _data.spread(data["train"], EXAMPLES, also=extremes(data["train"]))
    with _module.evaluating(module):
        together, alone = _module.measured(wrapped, few)
        first = jax.tree.map(lambda leaf: leaf[:1], few)
        graph = _export.export(wrapped, _module.to_tensors(first, module), tensors.names)
    params, state = tensors.moving(names), tensors.staying(names, graph.weights)
    tolerance = _tolerance(module) if tolerance is None else tolerance
    weight_fn = _weights(together, alone[0], few, weight_fn, tolerance)
    difference = _compared(PerExample(graph), (params, few, state), alone, tolerance)
    options: dict[str, Any] = {"batch_size": batch_size, "state": state, "weight_fn": weight_fn}
    loss_fn: Any = PerExample(graph)
    by_batch = ByBatch(wrapped, {inner: name for inner, name in tensors.names.items() if name in graph.weights})
    if _module.keeps_statistics(module):
        options["update_state"] = by_batch.statistics
    if batch_statistics is not None:
        data, loss_fn = _batched(data, batch_statistics, module), by_batch.losses
        options |= {"update_state": None, "weight_fn": None}
    objectives = {part: Objective(loss_fn, _module.as_jax(arrays, part), **options) for part, arrays in data.items()}
    LOG.info("%s: outputs and losses differ from PyTorch's by at most %.1e", type(module).__name__, difference)
    return Bridged(
        init=partial(_fresh, tensors, names),
        objectives=objectives,
        predict=Predict(module, tensors.names, state),
        params=params,
        name=name or type(module).__name__,
        difference=difference,
        frozen=tuple(one for one in tensors.parameters if one not in params),
    )


def _check_options(batch_size: Any, tolerance: Any, batch_statistics: Any, weight_fn: Any) -> None:
    if batch_statistics is not None and weight_fn is not None:
        raise ValueError(
            "with batch_statistics= the examples are whole batches, which weight_fn= does not know: leave one"
        )
    if batch_size is not None:
        check_count("batch_size", batch_size, 1)
    if tolerance is not None:
        _tree.check_positive("tolerance", tolerance)


def _check_alike(data: Mapping[str, Any]) -> None:
    """The test data must be of the make of the training data."""
    kinds = {part: jax.tree.map(lambda x: (x.shape[1:], x.dtype.kind), tree) for part, tree in data.items()}
    if "test" in kinds and kinds["test"] != kinds["train"]:
        raise ValueError(
            "test must be like train but for the number of examples; (shape of an example, kind) are "
            f"{kinds['train']} in train and {kinds['test']} in test"
        )


def _tolerance(module: torch.nn.Module) -> float:
    return max(TOLERANCES.get(parameter.dtype, 1e-4) for parameter in module.parameters())


def _weights(together: Any, alone: Any, few: Any, weight_fn: Any, tolerance: float) -> Any:
    """By what the loss of a batch is the mean of those of its examples, which `batch_size` relies on.

    A mean over tokens weights each example by the number of its labels, which the data tell.

    Raises:
        ValueError: the loss is no such mean.
    """

    def expected(fn: Any) -> Any:
        if together.ndim and len(together) == len(alone):
            return alone
        weights = None if fn is None else np.asarray(fn(_module.as_jax(few, "train")), np.float64)
        return np.average(alone, weights=weights).reshape(together.shape)

    for fn in [weight_fn] if weight_fn is not None else [None, *label_counts(few)]:
        if largest_difference(expected(fn), together) <= tolerance:
            return fn
    if np.all(np.isfinite(together)) and not np.all(np.isfinite(alone)):
        raise ValueError(
            "some examples have no finite loss alone, as one without any label that counts: leave them away"
        )
    if largest_difference(np.sum(alone).reshape(together.shape), together) <= tolerance:
        raise ValueError("the loss of a batch is the sum over its examples: take its mean (reduction='mean')")
    mean = float(np.mean(expected(weight_fn)))
    raise ValueError(
        f"the loss of a batch of {len(alone)} examples is {float(np.mean(together)):.6g}, but the mean of the losses "
        f"of these examples, each alone, is {mean:.6g}: it depends on what else is in the batch. "
        "Where it is a mean over tokens or classes, give the weight of each example by weight_fn=; a module must not "
        "take a batch of one otherwise (squeeze() without an axis); a contrastive loss has no examples"
    )


def _compared(fn: PerExample, arguments: tuple[Any, ...], theirs: Any, tolerance: float) -> float:
    """The largest difference on a few examples, refused above the tolerance."""
    params, few, state = arguments
    with matmul_precision():
        ours = jax.jit(fn.all_outputs)(params, _module.as_jax(few, "train"), state)
    off = largest_difference([ours[0].reshape(-1), *ours[1:]], theirs)
    if not off <= tolerance:
        raise ValueError(
            f"outputs or losses differ from PyTorch's by {off:.1e} of the largest, more than tolerance={tolerance:g}: "
            "an operator is computed otherwise. Compare parts of the module alone to find which, and enter it anew by "
            '@ls.bridges.torch.operator("name")'
        )
    return off


def _batched(data: Mapping[str, Any], size: Any, module: torch.nn.Module) -> dict[str, Any]:
    """Batches as the examples."""
    check_count("batch_statistics", size, 2)
    if not _module.keeps_statistics(module):
        raise ValueError(f"batch_statistics={size}, but {type(module).__name__} has no batch norm: leave it away")
    for part, tree in data.items():
        count = len(jax.tree.leaves(tree)[0])
        if count % size:
            raise ValueError(f"batch_statistics={size} does not divide the {count} examples of {part}: leave some away")
    return {part: jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), tree) for part, tree in data.items()}


def _fresh(tensors: Any, names: list[str], key: Any) -> Parameters:
    """New weights from a random key."""
    _tree.check_key(key)
    if _tree.is_traced(key):
        raise TypeError("init of a PyTorch module cannot be compiled or mapped: call it for each key")
    return tensors.fresh(names, int(jax.random.bits(key) >> 1))


def to_module(params: Mapping[str, Any], module: torch.nn.Module) -> torch.nn.Module:
    """Copy parameters into a module, in place.

    Args:
        params: arrays by PyTorch's names, all parameters of the module or some, such as those that move. Buffers may be
            among them: `to_module({**params, **objective.state}, module)`.
        module: where they go; its types and devices stay.

    Returns:
        The module.

    Raises:
        TypeError: no dict of arrays, or no module.
        ValueError: names or shapes that the module does not have; then nothing has been copied.
    """
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {_tree.describe(module)}")
    if not isinstance(params, Mapping):
        raise TypeError(f"params must be a dict of arrays by PyTorch's names, got {_tree.describe(params)}")
    places = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    unknown = [str(name) for name in params if name not in places]
    if unknown or not params:
        raise ValueError(
            f"{type(module).__name__} has no parameters called {listed(unknown)}; it has {listed(list(places))}"
            if unknown
            else "params is empty: there is nothing to copy"
        )
    for name, value in params.items():
        if np.shape(value) != tuple(places[name].shape):
            raise ValueError(
                f"{name} has shape {np.shape(value)} in params and {tuple(places[name].shape)} in the module"
            )
    with torch.no_grad():
        for name, value in params.items():
            place = places[name]
            place.copy_(_module.as_tensor(np.array(value), place.dtype, place.device))
    return module
