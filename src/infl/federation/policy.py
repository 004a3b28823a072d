"""What a site accepts: its own file, read when a run is offered, never sent.

A missing file means the defaults: sealed runs of any task with at least three sites.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from infl.errors import FederationError
from infl.federation.toml import read_checked

if TYPE_CHECKING:
    from infl.federation.agreement import Agreement

TEMPLATE = """\
# What this site accepts. A run that asks for anything else is refused, with one line at both ends.
tasks = []            # names of tasks; empty: any
targets = []          # columns of obs that may be learned; empty: any
min_sites = 3         # fewest sites whose sum may be opened
max_rounds = 1000
seals = ["group", "pairwise"]
locks = ["field", "published"]
key_versions = []     # empty: any that the ring has
max_epsilon = 0       # differential privacy: largest budget; 0: not asked for
ask = false           # a person must say yes to each run: `infl site approve`
"""


class Policy(BaseModel):
    """What a site accepts; see :data:`TEMPLATE`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tasks: list[str] = []
    targets: list[str] = []
    min_sites: int = Field(default=3, ge=1)
    max_rounds: int = Field(default=1000, ge=1)
    seals: list[str] = ["group", "pairwise"]
    locks: list[str] = ["field", "published"]
    key_versions: list[int] = []
    max_epsilon: float = Field(default=0.0, ge=0)
    ask: bool = False

    @classmethod
    def read(cls, path: Path) -> Policy:
        """Read a policy file; the defaults where there is none.

        Raises
        ------
        SettingsError
            It cannot be read; the message has the line.
        """
        if not path.exists():
            return cls()
        return read_checked(path, lambda raw: cls(**raw))

    def check(self, agreement: Agreement, site: str) -> None:
        """Raise a FederationError unless the site accepts the run.

        Examples
        --------
        >>> Policy(max_rounds=10).min_sites
        3
        """
        a, target = agreement, agreement.options.get("target")
        refusals = {
            f"task {a.task!r}": self.tasks and a.task not in self.tasks,
            f"target {target!r}": self.targets and target not in self.targets,
            f"min_sites {a.min_sites} (at least {self.min_sites})": a.min_sites < self.min_sites,
            f"{a.rounds} rounds (at most {self.max_rounds})": a.rounds > self.max_rounds,
            f"seal {a.seal!r}": a.seal not in self.seals,
            f"lock {a.lock!r}": a.lock not in self.locks,
            f"key version {a.key_version}": self.key_versions and a.key_version not in self.key_versions,
            f"no differential privacy of epsilon {self.max_epsilon:g} or less": self._too_much(agreement),
        }
        for what, refused in refusals.items():
            if refused:
                raise FederationError(f"{site} refuses: its policy does not accept {what}")

    def _too_much(self, agreement: Agreement) -> bool:
        if not self.max_epsilon:
            return False
        dp = agreement.dp
        return dp is None or not dp.epsilon or dp.epsilon > self.max_epsilon
