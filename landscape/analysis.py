"""Numbers from a `Landscape`, in NumPy alone.

>>> import numpy as np
>>> from landscape.grid import Grid, Landscape
>>> grid = Grid.line(num=3)
>>> values = {"train_loss": np.array([0.5, 0.25, 2.0]), "test_loss": np.array([0.75, 0.75, 2.0])}
>>> generalization_gap(Landscape(grid, values, np.ones(3, dtype=bool)))
array([0.25, 0.5 , 0.  ])
"""

import numpy as np

from landscape.grid import Landscape


def generalization_gap(landscape: Landscape, *, train: str = "train_loss", test: str = "test_loss") -> np.ndarray:
    """The test loss minus the training loss at every point.

    Args:
        landscape: a landscape with both losses.
        train: name of the training loss.
        test: name of the test loss.

    Returns:
        Shape `grid.shape`, in units of the loss; positive where the test loss is the higher one. NaN where a
        loss is NaN or was not computed, and where both are infinite.

    Raises:
        ValueError: the landscape lacks one of the losses, or they differ in shape.
    """
    missing = [name for name in (train, test) if name not in landscape]
    if missing:
        raise ValueError(
            f"the generalization gap needs {train!r} and {test!r}; this landscape lacks {', '.join(missing)} and "
            f"has {', '.join(landscape.names)}: sweep both objectives, or name the losses with train= and test="
        )
    if landscape[train].shape != landscape[test].shape:
        raise ValueError(
            f"{train!r} and {test!r} must have one shape, got {landscape[train].shape} and {landscape[test].shape}"
        )
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, which is the right answer
        return np.subtract(landscape[test], landscape[train])
