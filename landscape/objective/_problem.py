"""`Problem`: what an experiment needs to know of a model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Array, PyTree

from landscape.objective._objective import Objective, check_objective


@dataclass(frozen=True, eq=False)
class Problem:
    """What an experiment needs to know of a model: how to start it and what to measure.

    Attributes:
        init: `init(key) -> params`, a pytree of floating-point arrays.
        objectives: `{"train": .., "test": ..}`; `train` is the one that is minimised, others are only measured.
        predict: `predict(params, inputs)`, where an experiment shows predictions.
        params: parameters that are already trained; experiments then skip the training.
        snapshots: a stack of parameters along a training path, where there is one.
        name: for titles and tables.
    """

    init: Callable[[Array], PyTree]
    objectives: Mapping[str, Objective]
    predict: Callable[..., Any] | None = None
    params: PyTree = None
    snapshots: PyTree = None
    name: str = "problem"

    def check(self) -> None:
        """Raise `TypeError` or `ValueError` naming the field that is not what it should be."""
        if not callable(self.init):
            raise TypeError(f"Problem.init must be a function of a random key, got {type(self.init).__name__}")
        if not isinstance(self.objectives, Mapping) or "train" not in self.objectives:
            names = list(self.objectives) if isinstance(self.objectives, Mapping) else type(self.objectives).__name__
            raise ValueError(f"Problem.objectives must be a dict with the key 'train', got {names}")
        for name, objective in self.objectives.items():
            check_objective(objective, f"Problem.objectives[{name!r}]")
