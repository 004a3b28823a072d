"""What the sites and the coordinator agree on before the first round: a run's specification, as data."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from infl._files import parse_json
from infl._parameters import LOCKS, Choice, Names, Whole, read_all
from infl.errors import DataError, KeyringError, SettingsError
from infl.federation.rules import rule
from infl.federation.settings import RunSettings
from infl.models.lock_schemes import lock_scheme
from infl.privacy.seal.reveal import threshold

if TYPE_CHECKING:
    from infl.keys import Keyring
    from infl.models.task import Task
    from infl.privacy.dp import DP


MAX_PAIRWISE = 100
"""Most sites under the pairwise seal, which masks between each pair of them."""
SPECIFIED = {name: kind for name, kind in RunSettings.parameters.items() if name != "privacy"} | {
    "sites": Names(says="names of the sites, as text, each of them once"),
    "lock": Choice(LOCKS),
    "min_sites": Whole(1),
}
"""What the settings of a run may be."""


@dataclass(frozen=True)
class Agreement:
    """A run's specification. It travels, is shown to a site before it agrees, and is stored with the result.

    Attributes
    ----------
    run
        Random name. Masks of the seal are bound to it, so it is never derived from the seed.
    task, options, panel
        Which model, its options, names of features and classes.
    sites
        Names of all sites, in order.
    rounds, local_epochs
        Training rounds; passes over a site's data in each.
    aggregation, aggregation_options
        Rule (:mod:`infl.federation.rules`).
    participation
        Share of the sites that is asked in each round.
    patience
        Stop after this many rounds without a better validation metric (0: never).
    lock, strength, salt
        Lock of the weights.
    seal, min_sites
        Seal of what travels; fewest sites whose sum is opened.
    key_version, fingerprint
        The key in use.
    seed
        Fixes initial weights, batches, dropout, validation parts and cohorts.
    privacy
        Settings of differential privacy (:class:`infl.privacy.DP`), with the noise that was chosen.
    init
        Digest of the model that the run begins with, in place of fresh weights; empty without one.
    bits
        Bits of a weight in an update; None for 32.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> task, key = infl.models.Classifier(target="tumour_class"), infl.keys.Keyring.create()
    >>> agreement = Agreement.new(task, task.agree(sites), sites, key, rounds=2)
    >>> agreement.sites[:2], agreement.cohort_size, Agreement.from_json(agreement.to_json()) == agreement
    (('site_1', 'site_2'), 5, True)
    """

    run: str
    task: str
    options: dict[str, Any]
    panel: dict[str, Any]
    sites: tuple[str, ...]
    rounds: int
    local_epochs: int
    aggregation: str
    aggregation_options: dict[str, Any]
    participation: float
    patience: int
    lock: str
    strength: float
    salt: str
    seal: str
    min_sites: int
    key_version: int
    fingerprint: str
    seed: int
    privacy: dict[str, Any] | None = None
    init: str = ""
    bits: int | None = None

    def __post_init__(self) -> None:
        for name, value in read_all(SPECIFIED, {name: getattr(self, name) for name in SPECIFIED}).items():
            object.__setattr__(self, name, value)
        self._check_key()
        cohort = self.cohort_size
        if self.min_sites > len(self.sites):
            raise SettingsError(
                f"min_sites={self.min_sites}, but there are only {len(self.sites)} sites; a sum of two tells each the "
                "other's update: if that is acceptable, pass min_sites=2 (or 1 with seal='none')"
            )
        if cohort < self.min_sites:
            raise SettingsError(
                f"participation={self.participation} asks {cohort} of {len(self.sites)} sites per round, fewer than "
                f"min_sites={self.min_sites}: raise participation"
            )
        if self.seal == "pairwise" and len(self.sites) > MAX_PAIRWISE:
            raise SettingsError(
                f"seal='pairwise' is for at most {MAX_PAIRWISE} sites, and there are {len(self.sites)}: each works for each "
                "other one; split the run, or agree on seal='group', which a coordinator and one site together can open"
            )
        if self.dp is not None:
            self.dp.check_sites(self.min_sites)
        if self.bits is not None and self.dp is not None:
            raise SettingsError(
                "bits= goes without privacy=: its noise lies on a grid of its own; leave one of them out"
            )
        if self.bits is not None and rule(self.aggregation, self.aggregation_options).control:
            raise SettingsError(
                f"bits= goes without aggregation={self.aggregation!r}, which sends mean gradients too: leave one of them out"
            )
        rule(self.aggregation, self.aggregation_options)
        lock_scheme(self.lock, self.strength)
        check_classes(self.panel)

    def _check_key(self) -> None:
        if (self.seal, self.lock) != ("none", "none") and not (self.fingerprint and self.key_version > 0):
            raise KeyringError(
                f"seal={self.seal!r} and lock={self.lock!r} need a key, and none is named: without one nothing would be sealed "
                "or locked; pass key=, or seal='none' and lock=None"
            )

    @classmethod
    def new(
        cls,
        task: Task,
        panel: dict[str, Any],
        sites: Iterable[str],
        key: Keyring | None,
        settings: RunSettings | None = None,
        *,
        salt: str | None = None,
        init: str = "",
        **changes: Any,
    ) -> Agreement:
        """Return the specification of a new run, under the current version of `key`.

        Parameters
        ----------
        task, panel, sites, key
            What is fitted, on which names, by whom, under which key.
        settings
            How (default: those of :class:`RunSettings`).
        salt
            Of the lock (default: drawn).
        init
            Digest of the model that it begins with.
        **changes
            Single settings in place of those of `settings`.
        """
        settings = replace(settings or RunSettings(), **changes)
        privacy, rounds = settings.privacy, settings.rounds
        if privacy is not None:
            privacy, rounds = privacy.resolve(rounds)
        _check_json(task, panel)
        return cls(
            run=os.urandom(16).hex(),  # masks of the seal are bound to it, so it never follows from the seed
            task=task.name,
            options=task.options(),
            panel=panel,
            sites=tuple(sites),
            salt=salt or os.urandom(16).hex(),
            key_version=key.current if key else 0,
            fingerprint=key.fingerprint() if key else "",
            **{name: getattr(settings, name) for name in SPECIFIED if name != "sites"}
            | {"rounds": rounds, "min_sites": settings.fewest},
            privacy=None if privacy is None else privacy.to_json(),
            init=init,
        )

    @cached_property
    def dp(self) -> DP | None:
        """Settings of differential privacy."""
        from infl.privacy.dp import DP

        return None if self.privacy is None else DP(**self.privacy)

    @property
    def cohort_size(self) -> int:
        """Number of sites that are asked in a training round."""
        return max(1, round(self.participation * len(self.sites)))

    @property
    def quorum(self) -> int:
        """Fewest sites whose sum can be opened: `min_sites`, and under the pairwise seal more than two thirds."""
        return max(self.min_sites, threshold(self.cohort_size) if self.seal == "pairwise" else 0)

    def tolerance(self) -> str:
        """Say in one line what the seal needs of the sites, for people before a run; empty where any may be lost.

        Examples
        --------
        >>> import infl
        >>> sites = infl.datasets.khan_sites()
        >>> task, key = infl.models.Classifier(target="tumour_class"), infl.keys.Keyring.create()
        >>> Agreement.new(task, task.agree(sites), sites, key, seal="pairwise").tolerance()
        'seal "pairwise" opens a sum of at least 4 of the 5 sites: a round waits when more than 1 is away'
        """
        if self.seal != "pairwise":
            return ""
        n, lost = self.cohort_size, self.cohort_size - self.quorum
        if not lost:
            return f'seal "pairwise" opens sums of all {n} sites only: the run waits whenever one is away'
        return f'seal "pairwise" opens a sum of at least {n - lost} of the {n} sites: a round waits when more than {lost} is away'

    def to_json(self) -> str:
        """Return the specification as JSON."""
        late = ("init", "bits")  # absent where there is none
        names = [field.name for field in fields(self) if field.name not in late or getattr(self, field.name)]
        return json.dumps({name: getattr(self, name) for name in names}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Agreement:
        """Inverse of :meth:`to_json`."""
        raw = parse_json(text)
        return cls(**{**raw, "sites": tuple(raw["sites"])})

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the specification."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @cached_property
    def panel_digest(self) -> str:
        """SHA-256 of the features and classes that all sites share."""
        return hashlib.sha256(json.dumps(self.panel, sort_keys=True).encode()).hexdigest()

    def settings(self) -> dict[str, Any]:
        """Return what a reader of the results wants to know: all but the names of features."""
        raw = json.loads(self.to_json())
        raw.pop("panel")
        return raw


def _check_json(task: Task, panel: Any) -> None:
    """Refuse a panel that cannot be sent, and say whose it is."""
    try:
        json.dumps(panel)
    except TypeError as error:
        raise SettingsError(
            f"model {task.name!r}: agree returns what cannot be sent ({error}): give text, numbers and lists"
        ) from None
    if not isinstance(panel, Mapping):
        raise SettingsError(f"model {task.name!r}: agree returns {type(panel).__name__}, and a dict of names is needed")


def check_classes(panel: Mapping[str, Any]) -> None:
    """Refuse a panel in which no label has two classes. One site may be like that, all together may not.

    Raises
    ------
    DataError
        There is nothing to tell apart.

    Examples
    --------
    >>> check_classes({"classes": ["healthy"]})
    Traceback (most recent call last):
    infl.errors.DataError: 'healthy' is the only class, so there is nothing to tell apart: ...
    """
    columns = [panel["classes"]] if "classes" in panel else list(panel.get("tasks", {}).values())
    if not columns or any(len(classes) > 1 for classes in columns):
        return
    known = [classes[0] for classes in columns if len(classes)]
    if not known:
        raise DataError("no observation has a label: name another column with target=, or add sites that have labels")
    raise DataError(
        f"{known[0]!r} is the only class, so there is nothing to tell apart: name another column with target=, or add sites "
        "with other classes"
    )
