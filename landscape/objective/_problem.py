"""`Problem`: what an experiment needs to know of a model."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
from jaxtyping import Array, PyTree

from landscape.moving import divided, join, moves
from landscape.objective._objective import Objective, check_objective


@dataclass(frozen=True, eq=False)
class _OfParts:
    """A prediction as a function of the parameters that move."""

    predict: Callable[..., Any]
    frozen: PyTree

    def __call__(self, params: PyTree, *inputs: Any) -> Any:
        return self.predict(join(params, self.frozen), *inputs)


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

    def only(self, trainable: Any = None, params: PyTree = None) -> "Problem":
        """The problem in which only some of the parameters move.

        Args:
            trainable: which, as for `subspace.split`; by default all floating-point arrays.
            params: where the others stay; by default at `self.params`, or else at `init(jax.random.key(0))`.

        Returns:
            A problem whose `init`, `params` and `snapshots` hold what moves, and whose objectives hold the rest
            (`Objective.frozen`).

        Raises:
            TypeError, ValueError: as for `subspace.split`.
        """
        at = self.params if params is None else params
        at = self.init(jax.random.key(0)) if at is None else at
        flags = moves(at, trainable)
        parts = divided(at, flags)

        def moving(tree: PyTree) -> PyTree:
            return None if tree is None else divided(tree, flags).moving

        return dataclasses.replace(
            self,
            init=lambda key: moving(self.init(key)),
            objectives={name: dataclasses.replace(o, frozen=parts.frozen) for name, o in self.objectives.items()},
            predict=None if self.predict is None else _OfParts(self.predict, parts.frozen),
            params=None if self.params is None else parts.moving,
            snapshots=moving(self.snapshots),
        )

    def check(self) -> None:
        """Raise `TypeError` or `ValueError` naming the field that is not what it should be."""
        if not callable(self.init):
            raise TypeError(f"Problem.init must be a function of a random key, got {type(self.init).__name__}")
        if not isinstance(self.objectives, Mapping) or "train" not in self.objectives:
            names = list(self.objectives) if isinstance(self.objectives, Mapping) else type(self.objectives).__name__
            raise ValueError(f"Problem.objectives must be a dict with the key 'train', got {names}")
        for name, objective in self.objectives.items():
            check_objective(objective, f"Problem.objectives[{name!r}]")
