"""Links to source files lead to the highlighted source in the built pages.

A page links to ``src/infl/federation/site.py`` so that the link works where the Markdown is read as it is. Sphinx would
offer the file for download; this points to the page that ``sphinx.ext.viewcode`` made of it, where there is one.
"""

from pathlib import PurePosixPath

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.osutil import relative_uri


def _module_of(target: str) -> str | None:
    """Return ``infl.federation.site`` for any path that ends in ``src/infl/federation/site.py``."""
    parts = PurePosixPath(target).parts
    if "src" not in parts or not target.endswith(".py"):
        return None
    return ".".join(parts[parts.index("src") + 1 :])[: -len(".py")].removesuffix(".__init__")


def _point_to_source(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    if app.builder.format != "html":
        return
    shown = {name for name, entry in getattr(app.env, "_viewcode_modules", {}).items() if entry}
    for link in list(doctree.findall(addnodes.download_reference)):
        module = _module_of(link["reftarget"])
        if module in shown:
            page = app.builder.get_target_uri(f"_modules/{module.replace('.', '/')}")
            uri = relative_uri(app.builder.get_target_uri(docname), page)
            link.replace_self(nodes.reference("", "", *link.children, internal=True, refuri=uri))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register."""
    # Before Sphinx replaces the targets of downloads by names of copies.
    app.connect("doctree-resolved", _point_to_source)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
