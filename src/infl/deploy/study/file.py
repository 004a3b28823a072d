"""``study.toml``: a study between machines, as people write it and show it to each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PlainValidator, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from infl.deploy.folders import NAME
from infl.deploy.remote import Patience
from infl.deploy.runfile import Key, RunFile
from infl.deploy.study.specification import Study
from infl.deploy.study.steps import Step, parameters, read_argument
from infl.deploy.toml import Declared, Table, read_checked
from infl.errors import InflError, SettingsError

TEMPLATE = """\
# A study. Coordinator and sites have the same file; a site takes part only in the study that its own copy describes.
name = "my_study"
description = ""              # what it is for: the people at the sites read it
sites = ["hospital_a", "hospital_b", "hospital_c"]   # as they were enrolled; all take part in every step

[key]
version = 1
fingerprint = ""              # of that version: `infl key show`

# Steps run one after the other at every site, on a copy of its data. Arguments are those of the function.
[[step]]
do = "pp.qc_summary"

[[step]]
do = "pp.normalize_total"

[[step]]
do = "pp.log1p"

[[step]]
do = "pp.highly_variable_genes"
n_top_genes = 2000

[[step]]
do = "pp.pca"
n_comps = 50

[[step]]
do = "tl.cluster"
n_clusters = 8
use_rep = "X_pca"

# [waiting]                   # seconds
# silence = 15                # a site that was not heard of for so long counts as lost until it is back
"""


def _step(raw: Any) -> Step:
    """Return a step; what is wrong is an error at the argument's own place."""
    if not isinstance(raw, dict) or "do" not in raw:
        raise _at("do", 'do is missing: name the function, e.g. do = "pp.log1p"', raw)
    given = {name: value for name, value in raw.items() if name != "do"}
    try:
        kinds = parameters(raw["do"], given)
    except InflError as error:
        raise _at("do", str(error), raw) from None
    for name, value in given.items():
        try:
            read_argument(kinds, name, value)
        except InflError as error:
            raise _at(name, str(error), value) from None
    try:
        return Step.read(raw["do"], given)
    except InflError as error:
        raise _at("do", str(error), raw) from None


def _at(name: str, text: str, value: Any) -> ValidationError:
    error = PydanticCustomError("declared", "{text}", {"text": text})
    return ValidationError.from_exception_data("step", [InitErrorDetails(type=error, loc=(name,), input=value)])


def read_plan(path: Path) -> RunFile | StudyFile:
    """Read a file that describes a run or a study; only the latter has steps.

    Raises
    ------
    SettingsError
        Something in it cannot work; the message has the line.
    """
    return StudyFile.read(path) if read_checked(path, lambda raw: "step" in raw) else RunFile.read(path)


class StudyFile(Table):
    """A study as in its file; see :data:`TEMPLATE`."""

    name: str = Field(pattern=f"^{NAME.pattern}$")
    description: str = ""
    sites: list[str] = Field(min_length=3)
    key: Key
    step: list[Annotated[Step, PlainValidator(_step)]] = Field(min_length=1)
    waiting: Annotated[Patience, Declared(Patience.parameters)] = Patience()

    @classmethod
    def read(cls, path: Path) -> StudyFile:
        """Read a file.

        Raises
        ------
        SettingsError
            Something in it cannot work; the message has the line.
        """
        file = read_checked(path, lambda raw: cls(**raw))
        try:
            file.study()
        except InflError as error:
            raise SettingsError(f"{path}: {error}") from None
        return file

    def study(self) -> Study:
        """Return the study under a new random name."""
        return Study.new(self.name, self.sites, self.step, self.key.version, self.key.fingerprint, self.description)

    @property
    def specification(self) -> str:
        """What a study must have to be the file's."""
        return self.study().specification
