"""See and measure the loss landscapes of neural networks.

A landscape is a function of coordinates. Describe the function (`Objective`, `Subspace`, `LossSurface`), lay a
`Grid`, and `sweep` evaluates it into a labelled `Landscape`.

Names are loaded on first use, so importing this package costs nothing and the command line starts at once.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Axis": "grid",
    "Grid": "grid",
    "Landscape": "grid",
    "Batches": "objective",
    "Objective": "objective",
    "Problem": "objective",
    "PointFunction": "point",
    "Subspace": "subspace",
    "LossSurface": "maps",
    "BasinMap": "maps",
    "TrainabilityMap": "maps",
    "radius": "reach",
    "auto_extent": "reach",
    "report": "reporting",
    "Run": "training",
    "Outcome": "training",
    "train": "training",
    "train_many": "training",
    "sweep": "engine",
    "plan": "engine",
    "Strategy": "engine",
    "Interrupted": "engine",
    "Recorder": "recording",
    "Trajectory": "recording",
    "save": "store",
    "load": "store",
    "PlanMismatch": "store",
    "StoreError": "store",
}
_MODULES = (
    "adaptive",
    "affine",
    "analysis",
    "bridges",
    "curvature",
    "engine",
    "export",
    "grid",
    "losses",
    "maps",
    "minima",
    "moving",
    "objective",
    "paths",
    "placement",
    "plotting",
    "point",
    "problems",
    "recording",
    "reach",
    "reporting",
    "store",
    "subspace",
    "training",
    "view",
)

__all__ = [*_HOME, *_MODULES]

if TYPE_CHECKING:
    from landscape import adaptive as adaptive
    from landscape import affine as affine
    from landscape import analysis as analysis
    from landscape import bridges as bridges
    from landscape import curvature as curvature
    from landscape import engine as engine
    from landscape import export as export
    from landscape import grid as grid
    from landscape import losses as losses
    from landscape import maps as maps
    from landscape import minima as minima
    from landscape import moving as moving
    from landscape import objective as objective
    from landscape import paths as paths
    from landscape import placement as placement
    from landscape import plotting as plotting
    from landscape import point as point
    from landscape import problems as problems
    from landscape import reach as reach
    from landscape import recording as recording
    from landscape import reporting as reporting
    from landscape import store as store
    from landscape import subspace as subspace
    from landscape import training as training
    from landscape import view as view
    from landscape.engine import Interrupted as Interrupted
    from landscape.engine import Strategy as Strategy
    from landscape.engine import plan as plan
    from landscape.engine import sweep as sweep
    from landscape.grid import Axis as Axis
    from landscape.grid import Grid as Grid
    from landscape.grid import Landscape as Landscape
    from landscape.maps import BasinMap as BasinMap
    from landscape.maps import LossSurface as LossSurface
    from landscape.maps import TrainabilityMap as TrainabilityMap
    from landscape.objective import Batches as Batches
    from landscape.objective import Objective as Objective
    from landscape.objective import Problem as Problem
    from landscape.point import PointFunction as PointFunction
    from landscape.reach import auto_extent as auto_extent
    from landscape.reach import radius as radius
    from landscape.recording import Recorder as Recorder
    from landscape.recording import Trajectory as Trajectory
    from landscape.reporting import report as report
    from landscape.store import PlanMismatch as PlanMismatch
    from landscape.store import StoreError as StoreError
    from landscape.store import load as load
    from landscape.store import save as save
    from landscape.subspace import Subspace as Subspace
    from landscape.training import Outcome as Outcome
    from landscape.training import Run as Run
    from landscape.training import train as train
    from landscape.training import train_many as train_many


def other_landscape() -> str:
    """What to do about the other distribution called landscape, or nothing where it is not installed.

    `pip install landscape` brings landscapes for terminals, `pip install loss-atlas` this package. Both write to the
    folder `landscape` and to the command `landscape`, so in one environment each overwrites files of the other.
    """
    import importlib.metadata  # not at the top: it costs as much as the rest of the package

    try:
        version = importlib.metadata.version("landscape")
    except importlib.metadata.PackageNotFoundError:
        return ""
    return (
        f"the distribution landscape {version} is installed too (pictures for terminals, not this package); its files "
        "and ours overwrite each other. Do: pip uninstall landscape; pip install --force-reinstall --no-deps loss-atlas"
    )


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"landscape.{name}")
    if name not in _HOME:
        other = "" if name.startswith("_") else other_landscape()
        raise AttributeError(f"module 'landscape' has no attribute {name!r}{other and f'; {other}'}")
    value = getattr(importlib.import_module(f"landscape.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
