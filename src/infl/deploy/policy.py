"""What a site accepts: its own file, read when a run is offered, never sent.

A missing file means the defaults: sealed and locked runs of any task with at least three sites, each after a person's yes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

from infl.deploy.toml import Declared, read_checked
from infl.errors import FederationError, InflError
from infl.models.panels import columns_of_task
from infl.models.registry import task_from_json
from infl.privacy.rules import KINDS, DisclosureRules

if TYPE_CHECKING:
    from infl.federation.agreement import Agreement
    from infl.models.locked import Header

POLICY_TEMPLATE = """\
# What this site accepts. A run that asks for anything else is declined; why stands in events.jsonl here, and is not sent.
ask = true            # a person says yes to each run: `infl site start run.toml`, or `infl site approve DIGEST`
tasks = []            # names of tasks; empty: any
targets = []          # columns of obs that may be used; empty: any, after a person's yes
panels = []           # with ask = false: digests of the panels (features and classes) that may be used; "*": any, and
                      # then offers learn by yes and no which classes and features are here
min_sites = 3         # fewest sites whose sum may be opened
min_holders = 2       # fewest sites that must have a feature, class, category or modality; of one alone, sums are its own
max_rounds = 1000
max_local_epochs = 100
max_features = 100000
max_weights = 100000000
max_runs = 1000       # that are offered in this site's life
repeat_seeds = false  # whether it trains again with the seed of an earlier run, which gives the same first update
seals = ["pairwise"]  # "group" too: then a coordinator and one site together can open this site's updates
locks = ["field"]
min_strength = 1.0    # of the lock
key_versions = []     # empty: any that the ring has
max_epsilon = 0       # differential privacy: largest budget, as this site computes it; 0: not asked for
max_delta = 1e-5
lifetime_epsilon = 0  # what one record may spend over all runs and data sets of this site; 0: no limit, but all is on account
lifetime_delta = 1e-5
colluders = 1         # least number of other members who may pool what they know of the noise
steps = []            # functions that a study may run here without a person's yes, such as "pp.log1p"; "*": all
disclosure_rules = true  # whether the rules below bind the steps of studies; without them more functions can be steps

[disclosure]          # sums of preprocessing and statistics: what this site does not give; see docs/privacy/disclosure.md
k = 5                 # fewest records in a released set, and by which two differ, over all data sets here and for life
dominance = 0.7       # largest share of one record in a sum of values that are not negative
min_holders = 2       # fewest sites with records behind an opened number, beside the colluders
colluders = 1         # sites that may pool what they know
features_per_record = 2.0    # most features whose means are released, per record of the set, in a record's life
records_per_parameter = 3.0  # fewest records here for each parameter of a model
groups = []           # columns of obs whose groups may be asked about; none: none are
# donor_key = "patient"      # column with the person that a record is of: then k counts persons
own = []              # rules of this site's own that are installed here, asked after the others

[bases]               # pretrained transformers by name: what a run may call them, and their folders here
"""


class Policy(BaseModel):
    """What a site accepts; see :data:`POLICY_TEMPLATE`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ask: bool = True
    tasks: list[str] = []
    targets: list[str] = []
    panels: list[str] = []
    min_sites: int = Field(default=3, ge=1)
    min_holders: int = Field(default=2, ge=1)
    max_rounds: int = Field(default=1000, ge=1)
    max_local_epochs: int = Field(default=100, ge=1)
    max_features: int = Field(default=100_000, ge=1)
    max_weights: int = Field(default=100_000_000, ge=1)
    max_runs: int = Field(default=1000, ge=1)
    repeat_seeds: bool = False
    seals: list[str] = ["pairwise"]
    locks: list[str] = ["field"]
    min_strength: float = Field(default=1.0, ge=0, le=1)
    key_versions: list[int] = []
    max_epsilon: float = Field(default=0.0, ge=0)
    max_delta: float = Field(default=1e-5, gt=0, lt=1)
    lifetime_epsilon: float = Field(default=0.0, ge=0)
    lifetime_delta: float = Field(default=1e-5, gt=0, lt=1)
    colluders: int = Field(default=1, ge=0)
    steps: list[str] = []
    disclosure_rules: bool = True
    disclosure: Annotated[DisclosureRules, Declared(KINDS, groups=())] = DisclosureRules(groups=())
    bases: dict[str, Path] = {}

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

    def asks(self, agreement: Agreement) -> bool:
        """Whether a person must say yes to a run: always, but where features and classes are such as the policy lists.

        A yes or no that follows from the data would reveal which features and classes a site has.

        Examples
        --------
        >>> Policy().asks(None), Policy(ask=False, panels=["*"]).asks(None)
        (True, False)
        """
        return self.ask or not ("*" in self.panels or agreement.panel_digest in self.panels)

    def check(self, agreement: Agreement, site: str, *, consented: bool = True) -> None:
        """Raise a FederationError unless the site accepts the run.

        Parameters
        ----------
        agreement, site
            What is offered to whom.
        consented
            A person at the site said yes to this run.

        Examples
        --------
        >>> Policy(max_rounds=10).min_sites
        3
        """
        a, named = agreement, columns_of(agreement)
        other = sorted(named - set(self.targets))
        features = sum(len(names) for names in _features(a.panel))
        refusals: dict[str, Callable[[], bool]] = {  # looked at in this order; what takes work comes last
            f"task {a.task!r}": lambda: bool(self.tasks) and a.task not in self.tasks,
            f"column {other[0] if other else ''!r}": lambda: bool(self.targets and other),
            "just any column: it names no targets, and asks nobody": lambda: (
                not (consented or self.targets) and bool(named)
            ),
            f"min_sites {a.min_sites} (at least {self.min_sites})": lambda: a.min_sites < self.min_sites,
            f"participation {a.participation:g}: all sites take part in each round": lambda: a.participation < 1,
            f"{a.rounds} rounds (at most {self.max_rounds})": lambda: a.rounds > self.max_rounds,
            f"{a.local_epochs} local epochs (at most {self.max_local_epochs})": lambda: (
                a.local_epochs > self.max_local_epochs
            ),
            f"{features} features (at most {self.max_features})": lambda: features > self.max_features,
            f"seal {a.seal!r}": lambda: a.seal not in self.seals,
            f"lock {a.lock!r}": lambda: a.lock not in self.locks,
            f"strength {a.strength:g} (at least {self.min_strength:g})": lambda: a.strength < self.min_strength,
            "no differential privacy, without which lifetime_epsilon cannot be kept": lambda: (
                a.dp is None and self.lifetime_epsilon > 0
            ),
            f"key version {a.key_version}": lambda: bool(self.key_versions) and a.key_version not in self.key_versions,
            f"a share of noise under seal {a.seal!r}, which members open for each other": lambda: (
                a.dp is not None and a.dp.noise == "distributed" and a.seal != "pairwise"
            ),
            "an epsilon that is not what its noise and rounds give": lambda: self._too_little_said(agreement),
            f"a model of more than {self.max_weights:,} weights": lambda: weights_of(agreement) > self.max_weights,
            f"what exceeds epsilon {self.max_epsilon:g} at delta {self.max_delta:g}": lambda: self._too_much(agreement),
        }
        for what, refused in refusals.items():
            if refused():
                raise FederationError(f"{site} refuses: its policy does not accept {what}")

    def _epsilon(self, agreement: Agreement) -> float:
        """Return the privacy loss, computed here from what will be done."""
        from infl.privacy.dp import epsilon_of

        dp = agreement.dp
        assert dp is not None
        noise = dp.least_noise(agreement.min_sites, agreement.seal, self.colluders)
        return epsilon_of([(noise, dp.sample_rate, agreement.rounds)], float(dp.delta or 0), dp.accountant)

    def _too_little_said(self, agreement: Agreement) -> bool:
        """Whether an ε is declared that is less than what will be spent."""
        dp = agreement.dp
        if dp is None or dp.epsilon is None:
            return False
        return self._epsilon(agreement) > dp.epsilon * (1 + 1e-3)

    def _too_much(self, agreement: Agreement) -> bool:
        """Whether the privacy loss, computed here from the noise and the rounds, is more than is accepted."""
        if not self.max_epsilon:
            return False
        dp = agreement.dp
        if dp is None or float(dp.delta or 1) > self.max_delta:
            return True
        return self._epsilon(agreement) > self.max_epsilon * (1 + 1e-3)


def weights_of(agreement: Agreement) -> int:
    """Return how many weights a run's model has, without making them; 0 where that is not possible.

    What is read from a folder that the site named itself (adapters, image models) has the size that it has.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> panel = {"features": list("abc"), "classes": list("xy")}
    >>> options = {"target": "label", "width": 10**6, "n_blocks": 1}
    >>> weights_of(SimpleNamespace(task="classifier", options=options, panel=panel)) > 10**12
    True
    """
    try:
        return _weights_of(agreement.task, json.dumps([agreement.options, agreement.panel]))
    except (
        RuntimeError,
        TypeError,
        ValueError,
        LookupError,
        OSError,
        InflError,
    ):  # what is wrong is said when it is made
        return 0


@lru_cache(maxsize=8)
def _weights_of(task: str, settings: str) -> int:
    """Return how many weights a model with these options and panel has; the same run is often offered more than once."""
    import torch

    options, panel = json.loads(settings)
    with torch.device("meta"):
        module = task_from_json(task, options).build(panel)
    return sum(weight.numel() for weight in module.parameters())


def columns_of(agreement: Agreement | Header) -> set[str]:
    """Return the names of all obs columns that a run would look for: given, by default, or agreed on in the panel.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> options = {"continuous_covariates": ["age"]}
    >>> sorted(columns_of(SimpleNamespace(task="scvi", options=options, panel={}, dp=None)))
    ['age']
    """
    found = columns_of_task(agreement.task, agreement.options, agreement.panel)
    private = getattr(agreement, "dp", None)  # a model file's header has none
    if private is not None and private.donor_key is not None:
        found |= {private.donor_key}
    return found


def _features(panel: dict) -> list[list]:
    """All lists of names in a panel."""
    return [list(v) for v in panel.values() if isinstance(v, list | tuple)] + [
        list(names)
        for v in panel.values()
        if isinstance(v, dict)
        for names in v.values()
        if isinstance(names, list | tuple)
    ]
