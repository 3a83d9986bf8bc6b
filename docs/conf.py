"""Sphinx configuration. One command, offline: `sphinx-build -W --keep-going docs docs/_build/html` (extra `docs`)."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

import pages  # noqa: E402

import landscape  # noqa: E402

pages.write(HERE.parent)

project = "landscape"
author = "The landscape developers"
project_copyright = author
version = release = landscape.__version__

extensions = ["docstrings", "mathml", "myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "_ext", "_static", "figures", "tables", "landscapes", "look"]
html_extra_path = ["look"]  # its folder `look` comes to stand beside the other pages

# Pages
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

# Notebooks: run once, kept until they change
nb_execution_mode = "cache"
nb_execution_cache_path = str(HERE / "_build" / ".notebooks")
nb_execution_in_temp = True  # one of them writes files
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
nb_execution_excludepatterns: list[str] = []

# API
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_use_ivar = True
napoleon_attr_annotations = False  # shapes such as "*runs k" are no markup; the signature has them
python_maximum_signature_line_length = 90
python_use_unqualified_type_names = True

# Looks
smartquotes = False  # they would make a dash of the two hyphens of a flag
html_theme = "furo"
html_title = "landscape"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_math_renderer = "mathml"
templates_path: list[str] = []
suppress_warnings: list[str] = []
