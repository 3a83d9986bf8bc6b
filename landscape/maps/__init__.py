"""Point functions: what is evaluated at each coordinate of a grid.

A point function is a callable pytree `coords -> {name: array}`. `sweep` evaluates it; anything that can be
computed from a loss surface's parameters is one more entry of its dictionary, measured in the same pass.

- `LossSurface`: losses and metrics of several objectives over a subspace of weights.
- `BasinMap`: where a training run ends, over its starts.
- `Radius`: how far the loss stays low, over directions; `Rise` and `Fall` say what low means, `Reached` what was found.
- `TrainabilityMap`: whether training succeeds, over its hyper-parameters.
"""

from landscape.maps._basins import BasinMap
from landscape.maps._radius import Fall, Radius, Reached, Rise, geometric
from landscape.maps._surface import LossSurface
from landscape.maps._trainability import TrainabilityMap

__all__ = ["BasinMap", "Fall", "LossSurface", "Radius", "Reached", "Rise", "TrainabilityMap", "geometric"]
