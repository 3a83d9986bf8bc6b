"""One HTML page for every landscape, which anybody can open: no network, no server, the values as they were measured.

`page(landscape)` returns the text of one file that holds everything: linked views (a map with contours, a surface in
three dimensions, a profile along a line that the reader drags), the exact value under the cursor, and how it was made.
Drawing in three dimensions and of profiles is by plotly.js, from the installed `plotly` (extra `view`).

```python
import landscape as ls

html = ls.view.page(landscape, title="Digits MLP")
pathlib.Path("loss.html").write_text(html, encoding="utf-8")
```

`summary(landscape)` is what a notebook shows of a landscape: a table and a picture, without a script.

`explore(surface, grid)` is a plane that moves, in a notebook, and `serve(surface, grid)` the same in a browser: the
page asks for what is zoomed or turned to, and Python sweeps it.

On the command line: `landscape view run.zarr --out loss.html --open`, `landscape serve my_model.py:factory`.
"""

from landscape.view._explore import explore
from landscape.view._notebook import summary
from landscape.view._page import page
from landscape.view._serve import serve

__all__ = ["page", "summary", "serve", "explore"]
