"""Attributes that share a description, ``low, high``, are shown as such: Sphinx takes all but the last name for types."""

import re

from sphinx.application import Sphinx

SEVERAL = re.compile(r"^:ivar (\w+(?:, \w+)+):")
NO_SPACE = ",\u200b"
"""A comma after which a line may break, and a field's name does not end."""


def join_names(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Join the names of one field."""
    for number, line in enumerate(lines):
        if found := SEVERAL.match(line):
            lines[number] = f":ivar {found[1].replace(', ', NO_SPACE)}:{line[found.end() :]}"


def setup(app: Sphinx) -> dict[str, bool]:
    """Come after napoleon, which makes fields of sections."""
    app.connect("autodoc-process-docstring", join_names, priority=600)
    return {"parallel_read_safe": True}
