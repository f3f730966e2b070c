"""Configuration of the documentation: Sphinx, the pydata theme, numpydoc for docstrings, MyST for Markdown."""

import importlib.metadata
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # the modules of this folder

import make_gallery

from branchsig.frameworks._table import as_markdown as frameworks_as_markdown

project = "branchsig"
author = "The branchsig developers"
copyright = "The branchsig developers"
release = importlib.metadata.version("branchsig")
version = release

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "myst_parser",
    "sphinx_design",
    "mathml",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]

autosummary_generate = True
autodoc_typehints = "none"
numpydoc_show_class_members = False
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 3

html_math_renderer = "mathml"
html_theme = "pydata_sphinx_theme"
html_title = "branchsig"
html_static_path = ["_static"]
html_css_files = ["branchsig.css"]
html_theme_options = {
    "navigation_with_keys": False,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "navbar_end": ["theme-switcher"],
}
html_context = {"default_mode": "auto"}  # without it the theme complains on the first page that is opened
html_show_sourcelink = False

# A public name without a docstring, or with one that leaves out a parameter or the result, fails the build.
numpydoc_validation_checks = {"GL08", "PR01", "PR02", "RT01"}
# The classes that users subclass describe the arguments of their methods in one line.
numpydoc_validation_exclude = {r"^branchsig\.(Context|StaticKernel)\."}


def escape_stars_of_shapes(app, what, name, obj, options, lines):
    """Let a docstring say ``(*batch, length)`` without the star opening an emphasis in reStructuredText."""
    # Literals and lines of examples are left alone; so is an emphasis that closes, as in *this*.
    pattern = re.compile(
        r"(``.*?``|^ *(?:>>>|\.\.\.).*?$)|(?<=[(\s])\*(?=\w)(?!\w[^*\n]*\w\*(?!\w))",
        re.DOTALL | re.MULTILINE,
    )
    lines[:] = pattern.sub(lambda found: found[1] or r"\*", "\n".join(lines)).split("\n")


def fill_in_tables(app, name, source):
    """Put the table of frameworks, by which the library and its tests go, and the gallery in their places."""
    source[0] = source[0].replace("<!-- table of frameworks -->", "\n".join(frameworks_as_markdown()))
    source[0] = source[0].replace("<!-- gallery -->", make_gallery.cards())


def setup(app):
    """Connect the hooks, the first behind that of numpydoc."""
    make_gallery.write_pages()
    app.connect("source-read", fill_in_tables)
    app.connect("autodoc-process-docstring", escape_stars_of_shapes, priority=900)
