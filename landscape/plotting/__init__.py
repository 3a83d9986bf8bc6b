"""Views of a `Landscape` with matplotlib: `f(landscape, name, *, ax=None, **options) -> Axes`.

Each view draws one output by name into `ax`, or into a new figure, and returns the axes. Only here is the array
order turned: `values[i, j]` is drawn at x = `axes[0].values[i]`, y = `axes[1].values[j]`. Measured values are
never altered: a point without a finite value has a colour of its own and is counted in the legend. Every view
takes `style="paper"` or `"doodle"` for one picture; `style(name)` is a context for many.

```python
from landscape import plotting

with plotting.style("paper"):
    ax = plotting.heatmap(landscape, "train_loss", contours=True)
    plotting.trajectory(landscape, {"Adam": {"coords": coords, "loss": losses}}, ax=ax)
    plotting.save_figure(ax.figure, "figures/plane", {"seed": 3})
```
"""

from landscape.plotting._animate import animate, save_animation
from landscape.plotting._basins import basins, verdict_change
from landscape.plotting._endpoints import endpoints
from landscape.plotting._labels import MOST_ENTRIES as MOST_ENTRIES
from landscape.plotting._labels import label_color, label_name
from landscape.plotting._line import profile
from landscape.plotting._overview import overview
from landscape.plotting._path import trajectory
from landscape.plotting._plane import contours, heatmap, thin_labels
from landscape.plotting._planes import planes, radial_profile
from landscape.plotting._report import report
from landscape.plotting._scale import dress_log_ticks
from landscape.plotting._spectrum import spectrum
from landscape.plotting._style import ACCENT, plain, save_figure, style
from landscape.plotting._style import whole_files as whole_files
from landscape.plotting._surface import BOX as BOX
from landscape.plotting._surface import surface3d
from landscape.plotting._train_test import train_test
from landscape.plotting._trainability import trainability
from landscape.plotting._tree_graph import disconnectivity

__all__ = [
    "heatmap",
    "contours",
    "surface3d",
    "profile",
    "trajectory",
    "overview",
    "basins",
    "verdict_change",
    "trainability",
    "train_test",
    "disconnectivity",
    "spectrum",
    "planes",
    "report",
    "radial_profile",
    "endpoints",
    "animate",
    "style",
    "save_figure",
    "save_animation",
    "ACCENT",
    "dress_log_ticks",
    "label_color",
    "label_name",
    "plain",
    "thin_labels",
]
