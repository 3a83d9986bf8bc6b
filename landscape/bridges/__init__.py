"""Models of other frameworks, as they are, and checkpoints: `bridges.torch`, `bridges.keras`, `bridges.load`."""

import importlib
from typing import TYPE_CHECKING, Any

_MODULES = ("keras", "torch")

__all__ = ["load"]  # the modules need what is not always installed

if TYPE_CHECKING:
    from landscape.bridges import keras as keras
    from landscape.bridges import torch as torch
    from landscape.bridges._checkpoints import load as load


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"landscape.bridges.{name}")
    if name == "load":
        return importlib.import_module("landscape.bridges._checkpoints").load
    raise AttributeError(f"module 'landscape.bridges' has no attribute {name!r}")
