"""``run.toml``: a run between machines, as people write it and show it to each other."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from infl._files import explained, parse_json
from infl.deploy.folders import NAME
from infl.deploy.remote import Patience
from infl.deploy.toml import Declared, Table, read_checked
from infl.errors import FileError, SettingsError
from infl.federation.agreement import Agreement
from infl.federation.seeds import new_seed
from infl.federation.settings import RunSettings
from infl.models.registry import check_installed, make_task, task_from_json
from infl.privacy.dp import DP

if TYPE_CHECKING:
    from infl.keys import Keyring

TEMPLATE = """\
# A run. Coordinator and sites have the same file; a site takes part only in the run that its own copy describes.
name = "{name}"
sites = ["hospital_a", "hospital_b", "hospital_c"]   # as they were enrolled

[model]
name = "{model}"
{options}
[panel]
file = "panel.json"           # features and classes: `infl run panel cohort.h5ad --target COLUMN`

[fit]
rounds = 20
local_epochs = 1              # passes of a site over its data in a round
aggregation = "fedavg"        # or "fedprox", with aggregation_options = {{ mu = 0.01 }}
participation = 1.0           # share of the sites that is asked in each round
patience = 0                  # rounds without a better validation metric after which to stop; 0: never
lock = "field"
strength = 1.0
seal = "pairwise"             # "group" lets more sites be away, and is open to a coordinator that conspires with a site
min_sites = 3                 # fewest sites whose sum is opened
# bits = 8                    # of a weight in an update, 4 to 16: a message is smaller; left out, 32
# seed = 1                    # left out, the coordinator draws one for each run; a site trains once with a seed

[key]
version = 1
fingerprint = ""              # of that version: `infl key show`

# [privacy]                   # differential privacy of the training records; needs seal = "pairwise", or noise = "local" here
# epsilon = 8.0
# delta = 1e-5
# unit = "donor"              # of patients, not of their single observations
# donor_key = "patient"       # the obs column that says whose an observation is

# [waiting]                   # seconds
# silence = 15                # a site that was not heard of for so long counts as lost until it is back
# first = 3600                # deadline of the first round; later ones follow from those before
"""


FIT = {name: kind for name, kind in RunSettings.parameters.items() if name != "privacy"}
"""What the table ``[fit]`` may have; ``[privacy]`` is one of its own."""
FIT_DEFAULTS: dict[str, Any] = {"seal": "pairwise"}


@dataclass(frozen=True)
class PublicKey:
    """What is public of a key: enough to agree on it, of no use for anything else."""

    current: int
    of_current: str

    def fingerprint(self) -> str:
        """Return the fingerprint of the version in use."""
        return self.of_current


class _Model(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)

    name: str


class _Panel(Table):
    file: Path


class Key(Table):
    """Which key ring a run or study needs: version and fingerprint of it."""

    version: int = Field(ge=1)
    fingerprint: str = Field(min_length=1)


class RunFile(Table):
    """A run as in its file; see :data:`TEMPLATE`.

    Examples
    --------
    >>> print(RunFile.template("classifier").splitlines()[1])
    name = "my_run"
    """

    name: str = Field(pattern=f"^{NAME.pattern}$")
    sites: list[str] = Field(min_length=1)
    model: _Model
    panel: _Panel
    fit: Annotated[RunSettings, Declared(FIT, **FIT_DEFAULTS)] = RunSettings(**FIT_DEFAULTS)
    key: Key | None = None
    privacy: Annotated[DP, Declared(DP.parameters)] | None = None
    waiting: Annotated[Patience, Declared(Patience.parameters)] = Patience()
    _draws: bool = PrivateAttr(default=False)

    @classmethod
    def read(cls, path: Path) -> RunFile:
        """Read a file.

        Raises
        ------
        SettingsError
            Something in it cannot work; the message has the line.
        """
        run, raw = read_checked(path, lambda raw: (cls(**raw), raw))
        run = run.model_copy(update={"panel": _Panel(file=path.parent / run.panel.file)})
        run._draws = "seed" not in raw.get("fit", {})
        return run

    @classmethod
    def template(cls, model: str) -> str:
        """Return a file with comments, for a task."""
        defaults = asdict(make_task(model, {}))
        known = {name: value for name, value in defaults.items() if isinstance(value, str | bool | int | float)}
        lines = [f"{name} = {json.dumps(value)}" for name, value in known.items() if name != "target"]
        first = ['target = ""                   # column of obs to learn'] if "target" in defaults else []
        options = "\n".join([*first, *(f"# {line}" for line in lines)]) + "\n"
        return TEMPLATE.format(name="my_run", model=model, options=options)

    def agreement(self) -> Agreement:
        """Return the specification of a new run.

        From call to call its random name and salt differ, and its seed, where the file gives none.
        """
        options = dict(self.model.model_extra or {})
        task = task_from_json(self.model.name, options)
        check_installed(task)
        if self.privacy is not None:
            task = task.for_dp()
            self.privacy.check_seal(self.fit.seal)
        if self.key is None and (self.fit.lock != "none" or self.fit.seal != "none"):
            raise SettingsError("[key] is missing: a lock or a seal needs version and fingerprint of a key ring")
        key = None if self.key is None else PublicKey(self.key.version, self.key.fingerprint)
        panel = self.read_panel()
        if "sites" in panel and set(panel["sites"]) != set(self.sites):
            named = ", ".join(panel["sites"])
            raise SettingsError(
                f"{self.panel.file} is of the sites {named}: name them as in sites, `infl run panel --site`"
            )
        if self.privacy is not None:
            task = task.suited_to_dp(panel, self.fit.rounds, options)
        seed = new_seed() if self._draws else self.fit.seed
        settings = replace(self.fit, seed=seed, privacy=self.privacy)
        return Agreement.new(task, panel, self.sites, cast("Keyring | None", key), settings)

    @property
    def specification(self) -> str:
        """What a run must have to be the file's: see :func:`infl.deploy.specification.specification_digest`."""
        from infl.deploy.specification import specification_digest

        return specification_digest(self.agreement(), any_seed=self._draws)

    def read_panel(self) -> dict[str, Any]:
        """Return features and classes."""
        return read_panel(self.panel.file)


def read_panel(path: Path) -> dict[str, Any]:
    """Return features and classes from a file of `infl run panel`.

    Raises
    ------
    FileError
        It is none.
    """
    with explained(path, "read"):
        text = path.read_text(errors="replace")
    try:
        panel = parse_json(text)
    except ValueError:
        panel = None
    if not isinstance(panel, dict) or not any(isinstance(v, list) for v in panel.values()):
        raise FileError(f"{path} is no panel: write it with `infl run panel`")
    return panel
