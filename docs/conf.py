"""Sphinx configuration.

Environment variables: ``INFL_DOCS_INTERSPHINX=1`` links to other projects' documentation (needs the network; on by
default on Read the Docs), ``NB_EXECUTE=1`` runs the tutorials while building.
"""

import os
import sys
from datetime import datetime
from importlib.metadata import metadata
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "extensions"))

# -- project -----------------------------------------------------------------------------------------------------------
info = metadata("infl")
project = info["Name"]
author = info["Author"]
copyright = f"{datetime.now():%Y}, {author}"
version = release = info["Version"]
urls = dict(entry.split(", ") for entry in info.get_all("Project-URL") or ())

# -- what is built -----------------------------------------------------------------------------------------------------
extensions = [
    "myst_nb",
    "sphinx_copybutton",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_autodoc_typehints",
    *sorted(path.stem for path in (HERE / "extensions").glob("*.py")),
]
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb", ".ipynb": "myst-nb"}
templates_path = ["_templates"]
exclude_patterns = ["_build", "tutorials/README.md", "**.ipynb_checkpoints"]
default_role = "literal"
nitpicky = False  # without intersphinx every type of another project would be a broken link
# `Data` of infl._types is for type checkers; the signature is shown as it is written.
suppress_warnings = ["sphinx_autodoc_typehints.forward_reference"]

# -- docstrings --------------------------------------------------------------------------------------------------------
autosummary_generate = True
# What is left out of tables of methods: dunders of torch, fields whose default is a function, and old names of methods.
autosummary_context = {
    "not_methods": ["__init__", "extra_repr", "at_site", "at_sum", "privately", "judged", "keep"],
}
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # sphinx_autodoc_typehints writes them
napoleon_google_docstring = False
napoleon_include_init_with_doc = False
napoleon_use_rtype = True
napoleon_use_param = True
napoleon_use_ivar = True  # attributes of a dataclass once, in its own text
typehints_defaults = "comma"
always_document_param_types = False
typehints_use_signature = True

# -- pages -------------------------------------------------------------------------------------------------------------
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "deflist"]
nb_execution_mode = "cache" if os.environ.get("NB_EXECUTE") else "off"
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_output_stderr = "remove"
nb_merge_streams = True

# -- links -------------------------------------------------------------------------------------------------------------
online = os.environ.get("INFL_DOCS_INTERSPHINX") or os.environ.get("READTHEDOCS")
intersphinx_mapping = (
    {
        "anndata": ("https://anndata.readthedocs.io/en/stable/", None),
        "matplotlib": ("https://matplotlib.org/stable/", None),
        "mudata": ("https://mudata.readthedocs.io/stable/", None),
        "numpy": ("https://numpy.org/doc/stable/", None),
        "pandas": ("https://pandas.pydata.org/docs/", None),
        "python": ("https://docs.python.org/3", None),
        "scanpy": ("https://scanpy.readthedocs.io/en/stable/", None),
        "torch": ("https://docs.pytorch.org/docs/stable/", None),
    }
    if online
    else {}
)

# -- HTML --------------------------------------------------------------------------------------------------------------
html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["infl.css"]
html_show_sourcelink = False
html_theme_options = {
    "path_to_docs": "docs/",
    "show_navbar_depth": 1,
    "use_download_button": False,
    "use_fullscreen_button": False,
    **({"repository_url": urls["Source"], "use_repository_button": True} if "Source" in urls else {}),
}
