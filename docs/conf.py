"""How the documentation is built: `sphinx-build -W docs docs/_build/html`.

Every page is executed at every build, and a cell that raises, writes to stderr or refers to a
name that does not exist fails the build. Nothing is loaded from the network, neither while
building nor by the pages that are built.
"""

import inspect
import os
import re
from importlib.metadata import version as installed

from sphinx.util import logging

import estimand

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # tqdm's, without ipywidgets
os.environ.pop("MPLBACKEND", None)  # figures go into the page

project = "estimand"
author = "The estimand authors"
release = version = installed("estimand")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx-mathjax-offline",  # after sphinx.ext.mathjax: it sets the path of the local copy
]
exclude_patterns = ["_build", "strategies_table.md"]  # the table is included by a page
nitpicky = True  # a reference to a name of estimand that does not exist is a warning
nitpick_ignore = [("py:class", "estimand.ppl.steps.Objective")]  # in annotations only
nitpick_ignore_regex = [("py:.*", r"(?!estimand\b|em\b).*")]  # no intersphinx: others' names

html_theme = "furo"
html_title = "estimand"
html_static_path = ["_static"]
html_css_files = ["estimand.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
pygments_style = "friendly"

myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_merge_streams = True
nb_output_stderr = "error"
nb_render_error_lexer = "text"

default_role = "code"  # docstrings write `code` in single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
napoleon_custom_sections = [("Class attributes", "Attributes")]
python_maximum_signature_line_length = 100


def plain_text(app, what, name, obj, options, lines):
    """Docstrings are plain text with `code` and indented formulas: make that reST."""
    text = []
    before = around = 0  # indentation of the last line, and of the text around a formula
    formula = False
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if line:
            formula = formula and indent > around
            if not formula and indent > before and text and not text[-1]:
                formula, around = True, before
                text += [" " * before + ".. code-block:: text", ""]
            before = indent
        doctest = line.lstrip().startswith((">>>", "..."))
        text.append(line if formula or doctest else _escaped(line))
    lines[:] = text


def _escaped(line):
    """Asterisks and bars outside of code mean themselves."""
    parts = line.split("`")
    return "`".join(
        part if i % 2 else re.sub(r"[*|]", r"\\\g<0>", part) for i, part in enumerate(parts)
    )


def short_types(app, what, name, obj, options, signature, returns):
    return tuple(x and x.replace("jaxlib._jax.Array", "Array") for x in (signature, returns))


def check_api(app, env):
    """Every public name of the package is in the reference. (Twice in it is a warning.)"""
    public = {n for n, x in vars(estimand).items() if n[0] != "_" and not inspect.ismodule(x)}
    found = {n for n in env.domains.python_domain.objects if n.startswith("estimand.")}
    missing = sorted(public - {name.removeprefix("estimand.") for name in found})
    if missing:
        logging.getLogger(__name__).warning("docs/api.rst lacks %s", ", ".join(missing))


def setup(app):
    app.connect("autodoc-process-docstring", plain_text, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", short_types)
    app.connect("env-check-consistency", check_api)
