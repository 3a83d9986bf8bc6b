"""A PyTorch module seen from its own side: its tensors by name, its modes, and what it computes on a few examples."""

import contextlib
import copy
import inspect
from collections.abc import Callable, Generator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from landscape import _tree
from landscape.bridges._export import to_numpy
from landscape.bridges._parameters import Axes, Parameters, axes_by_layout

Norm = torch.nn.modules.batchnorm._NormBase


def check(module: Any, loss: Any) -> None:
    """Raise `TypeError` or `ValueError` unless it is a module with weights, and a loss."""
    if not isinstance(module, torch.nn.Module):
        advice = "; pass the module, not its weights" if isinstance(module, Mapping) else ""
        raise TypeError(f"module must be a torch.nn.Module, got {_tree.describe(module)}{advice}")
    if loss is not None and not callable(loss):
        raise TypeError(
            "loss must be a function loss(outputs, targets), such as torch.nn.functional.cross_entropy, or None for "
            f"the loss that the module itself returns, got {_tree.describe(loss)}"
        )
    if isinstance(loss, torch.nn.Module) and any(True for _ in loss.parameters()):
        raise ValueError("loss has parameters of its own, which would not move: make it a part of the module")
    tensors = [*module.named_parameters(), *module.named_buffers()]
    if not any(parameter.is_floating_point() for parameter in module.parameters()):
        raise ValueError(f"{type(module).__name__} has no floating-point parameters, so there is nothing to move")
    for name, tensor in tensors:
        _check_tensor(name, tensor)


def _check_tensor(name: str, tensor: Any) -> None:
    if torch.nn.parameter.is_lazy(tensor):
        raise ValueError(f"{name} has no shape yet: run the module once on a batch (lazy layers)")
    if tensor.device.type == "meta":
        raise ValueError(f"{name} is on the meta device and has no values: load weights first, as from_pretrained does")
    if tensor.dtype == torch.float64 and jnp.zeros((), jnp.result_type(float)).dtype != np.float64:
        raise ValueError(
            f"{name} is float64, which JAX does not have unless told: pass module.float(), or call "
            'jax.config.update("jax_enable_x64", True) first'
        )


# -------------------------------------------------------------------------------------------------------------- modes


@contextlib.contextmanager
def evaluating(module: torch.nn.Module, norms: bool = False) -> Generator[None]:
    """In evaluation mode, and after as before.

    With `norms`, batch norm goes by the batch, and what it keeps is what it measured on that batch alone.
    """
    modes = {one: one.training for one in module.modules()}
    momenta = {one: one.momentum for one in module.modules() if isinstance(one, Norm)}
    module.eval()
    try:
        for norm in momenta if norms else ():
            norm.momentum = 1.0
            norm.train()
        yield
    finally:
        for one, training in modes.items():
            one.training = training
        for norm, momentum in momenta.items():
            norm.momentum = momentum


def keeps_statistics(module: torch.nn.Module) -> bool:
    """Whether it has batch norm with running statistics."""
    return any(isinstance(one, Norm) and one.running_mean is not None for one in module.modules())


# ------------------------------------------------------------------------------------------------------------ tensors


class Tensors:
    """Parameters and buffers by name; tied ones have the first of their names."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module
        self.names: dict[str, str] = {}
        self.parameters, self.buffers = {}, {}
        first: dict[int, str] = {}
        for name, tensor in module.named_parameters(remove_duplicate=False):
            self._enter(name, first.setdefault(id(tensor), name), tensor, self.parameters)
        for name, tensor in module.named_buffers(remove_duplicate=False):
            self._enter(name, first.setdefault(id(tensor), name), tensor, self.buffers)

    def _enter(self, name: str, first: str, tensor: torch.Tensor, place: dict[str, torch.Tensor]) -> None:
        self.names[f"module.{name}"] = first
        movable = place is self.parameters and tensor.is_floating_point()
        (self.parameters if movable else self.buffers)[first] = tensor

    def moving(self, names: list[str]) -> Parameters:
        """The parameters of these names, with what their filters are."""
        axes = filter_axes(self.module, self.parameters)
        return Parameters({name: jnp.array(to_numpy(self.parameters[name])) for name in names}, axes)

    def staying(self, moving: list[str], used: Mapping[str, Any]) -> dict[str, Any] | None:
        """What else is used, buffers and parameters: arguments of the program, no constants."""
        everything = {**self.parameters, **self.buffers}
        kept = {name: as_jax(to_numpy(everything[name]), name) for name in used if name not in moving}
        return kept or None

    def fresh(self, names: list[str], seed: int) -> Parameters:
        """The parameters as `reset_parameters` of the submodules draws them."""
        module = copy.deepcopy(self.module)
        for path, one in module.named_modules():
            if next(one.parameters(recurse=False), None) is not None and not hasattr(one, "reset_parameters"):
                raise ValueError(
                    f"init draws new weights by reset_parameters(), which {path or 'this'} ({type(one).__name__}) "
                    "lacks: use problem.params, or dataclasses.replace(problem, init=...)"
                )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for one in map(_anything, module.modules()):
                if next(one.parameters(recurse=False), None) is not None:
                    one.reset_parameters()
        return Tensors(module).moving(names)


def _anything(module: Any) -> Any:
    """Of no type: which methods a submodule has is known only when it is there."""
    return module


def filter_axes(module: torch.nn.Module, parameters: Mapping[str, torch.Tensor]) -> dict[str, Axes]:
    """The axes of the filters of each parameter: by the type of its module, otherwise as names and shapes tell."""
    axes = axes_by_layout({name: tuple(p.shape) for name, p in parameters.items()}, "torch")
    for path, one in module.named_modules():
        kind = _weight_axis(one)
        for name, parameter in one.named_parameters(prefix=path, recurse=False):
            if (
                kind is not None
                and name in axes
                and name.rpartition(".")[2].startswith("weight")
                and parameter.ndim > 1
            ):
                axes[name] = (kind,)
    return axes


def _weight_axis(module: torch.nn.Module) -> int | None:
    """Which axis of a layer's weight counts its outputs, where its type tells."""
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):  # of transformers, (in, out)
        return 1
    if isinstance(module, torch.nn.modules.conv._ConvTransposeNd):
        return 1
    known = (
        torch.nn.Linear, torch.nn.Bilinear, torch.nn.Embedding, torch.nn.EmbeddingBag, torch.nn.modules.conv._ConvNd,
        torch.nn.RNNBase,
    )  # fmt: skip
    return 0 if isinstance(module, known) else None


# --------------------------------------------------------------------------------------------------------------- data


def as_numpy(leaf: Any) -> np.ndarray:
    return to_numpy(leaf) if isinstance(leaf, torch.Tensor) else np.asarray(leaf)


def as_jax(tree: Any, what: str) -> Any:
    """Arrays of JAX; integers that do not fit into 32 bits are refused and not cut."""

    def convert(leaf: np.ndarray) -> Any:
        array = jnp.array(leaf)
        if leaf.dtype.kind in "iu" and np.any(np.asarray(array) != leaf):
            raise ValueError(f"{what} holds integers that do not fit into {array.dtype}: switch on jax_enable_x64")
        return array

    return jax.tree.map(convert, tree)


def as_tensor(leaf: np.ndarray, floating: torch.dtype, device: Any) -> torch.Tensor:
    """What PyTorch is given: indices in 64 bits, and no double precision for a module that has none."""
    if str(leaf.dtype) == "bfloat16":
        return torch.from_numpy(leaf.view(np.int16).copy()).view(torch.bfloat16).to(device)
    tensor = torch.from_numpy(np.ascontiguousarray(leaf)).to(device)
    if leaf.dtype.kind in "iu" and leaf.dtype != np.uint8:
        return tensor.long()
    return tensor.to(floating) if tensor.dtype == torch.float64 else tensor


# ---------------------------------------------------------------------------------------------------- module and loss


class Wrapped(torch.nn.Module):
    """A module and its loss as one that takes the arrays of a batch and gives `[loss, outputs ..]`."""

    def __init__(self, module: torch.nn.Module, loss: Callable[..., Any] | None, structure: Any) -> None:
        super().__init__()
        self.module, self.loss, self.structure = module, loss, structure

    def forward(self, *leaves: torch.Tensor) -> list[torch.Tensor]:
        batch = jax.tree.unflatten(self.structure, leaves)
        inputs, targets = batch if isinstance(batch, tuple) else (batch, batch)
        outputs = call(self.module, inputs, strict=self.loss is None or isinstance(batch, tuple))
        found = own_loss(outputs) if self.loss is None else self.loss(outputs, targets)
        check_loss(found, len(leaves[0]))
        return [found, *floating(outputs)]


def call(module: torch.nn.Module, inputs: Any, strict: bool = True) -> Any:
    """The module on its inputs: one, a tuple, or a dict of arguments by name, all of them or those that it knows."""
    if isinstance(inputs, dict):
        known = inspect.signature(module.forward).parameters
        open_ended = any(p.kind is p.VAR_KEYWORD for p in known.values())
        return module(**{name: x for name, x in inputs.items() if strict or open_ended or name in known})
    return module(*inputs) if isinstance(inputs, tuple) else module(inputs)


def own_loss(outputs: Any) -> Any:
    """The loss that a module of transformers returns."""
    found = outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", None)
    if found is None:
        raise TypeError(
            f"with loss=None the module returns its own loss, but its output ({type(outputs).__name__}) has none: put "
            "the labels into the batch, {'input_ids': .., 'labels': ..}, or pass loss="
        )
    return found


def check_loss(value: Any, count: int) -> None:
    """Raise unless it is one number, or one for each example."""
    if not isinstance(value, torch.Tensor):
        advice = ": is a `return` missing?" if value is None else ""
        raise TypeError(
            f"loss must return a tensor, a scalar or one number for each example, got {_tree.describe(value)}{advice}"
        )
    if not value.is_floating_point():
        raise TypeError(f"loss must return a floating-point tensor, got {value.dtype}: accuracy is no loss")
    if tuple(value.shape) not in ((), (1,), (count,)):
        raise ValueError(
            f"loss must return a scalar or shape ({count},), one number for each example, got {tuple(value.shape)}: "
            "average it, as reduction='mean' does"
        )


def floating(outputs: Any) -> list[torch.Tensor]:
    """All floating-point tensors of an output, of nested ones too; caches and the like are passed over."""
    if isinstance(outputs, torch.Tensor):
        return [outputs] if outputs.is_floating_point() else []
    if isinstance(outputs, Mapping):
        outputs = [value for name, value in outputs.items() if name != "loss"]
    return [x for part in outputs for x in floating(part)] if isinstance(outputs, list | tuple) else []


def first_parameter(module: torch.nn.Module) -> torch.Tensor:
    return next(p for p in module.parameters() if p.is_floating_point())


def to_tensors(tree: Any, module: torch.nn.Module) -> list[torch.Tensor]:
    """The leaves of a batch as the module takes them."""
    like = first_parameter(module)
    wide = torch.float64 if like.dtype == torch.float64 else torch.float32
    return [as_tensor(leaf, wide, like.device) for leaf in jax.tree.leaves(tree)]


def measured(wrapped: Wrapped, batch: Any) -> tuple[np.ndarray, list[np.ndarray]]:
    """By PyTorch: the loss of a batch, and loss and outputs of each of its examples alone, stacked."""
    leaves = to_tensors(batch, wrapped.module)
    with torch.no_grad():
        together = wrapped(*leaves)[0]
        alone = [wrapped(*(leaf[i : i + 1] for leaf in leaves)) for i in range(len(leaves[0]))]
    stacked = [np.stack(parts) for parts in zip(*([to_numpy(x).astype(np.float64) for x in one] for one in alone))]
    return to_numpy(together).astype(np.float64), [stacked[0].reshape(-1), *stacked[1:]]


class Alone(torch.nn.Module):
    """A module without a loss: `[first output]` for the arrays of its inputs."""

    def __init__(self, module: torch.nn.Module, structure: Any) -> None:
        super().__init__()
        self.module, self.structure = module, structure

    def forward(self, *leaves: torch.Tensor) -> list[torch.Tensor]:
        return floating(call(self.module, jax.tree.unflatten(self.structure, leaves)))[:1]
