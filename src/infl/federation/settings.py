"""How a run is to be done: one set of settings for notebook, table of methods, audit, run file and agreement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

from infl._parameters import LOCKS, PARAMETERS, SEALS, Choice, Kind, Whole, read_all
from infl.errors import SettingsError

if TYPE_CHECKING:
    from infl.privacy.dp import DP

FIT_SEAL = Choice(("auto", *SEALS))
"""``"auto"``: group in one process, pairwise between machines."""
_OF_FIT = ("rounds", "local_epochs", "aggregation", "aggregation_options", "participation", "patience")
_SHARED = (*_OF_FIT, "strength", "seal", "min_sites", "privacy", "bits")


@dataclass(frozen=True)
class Protection:
    """What protects the weights and what travels; for ``protection=`` of :func:`infl.tl.fit_federated`.

    Parameters
    ----------
    lock, strength
        ``"field"`` (default), ``"published"`` or None; strength from 0 to 1.
    seal
        ``"auto"``, ``"group"``, ``"pairwise"`` or ``"none"``.
    min_sites
        Fewest sites whose sum is opened (default: 3 with a seal, else 1).
    bits
        Bits of a weight in an update, 4 to 16 (default: 32). With n sites ``bits`` + ⌈log₂ n⌉ travel: 12 with 8 bits and ten
        sites. Weights are rounded up or down at random, so that the mean is right, and what is far larger than in the round
        before is clipped. Not with `privacy`, whose noise has a grid of its own, nor with ``aggregation="scaffold"``.

    Examples
    --------
    >>> import infl
    >>> strict = infl.Protection(seal="pairwise", min_sites=4)
    >>> sites = infl.datasets.khan_sites()
    >>> run = infl.tl.fit_federated(sites, target="tumour_class", rounds=1, protection=strict, progress=False)
    >>> run.settings["seal"], run.settings["min_sites"]
    ('pairwise', 4)
    """

    lock: str | None = "field"
    strength: float = 1.0
    seal: str = "auto"
    min_sites: int | None = None
    bits: int | None = None

    def __post_init__(self) -> None:
        kinds = {name: PARAMETERS[name] for name in ("lock", "strength", "min_sites", "bits")} | {"seal": FIT_SEAL}
        for name, value in read_all(kinds, {name: getattr(self, name) for name in kinds}, "protection: ").items():
            object.__setattr__(self, name, value)

    def given_once(self, protection: Protection | None) -> Protection:
        """Return what was given as one object, or by single keywords.

        Raises
        ------
        SettingsError
            Both were given.
        """
        if protection is None:
            return self
        default = Protection()
        twice = [f"{f.name}=" for f in fields(self) if getattr(self, f.name) != getattr(default, f.name)]
        if twice:
            raise SettingsError(f"protection= and {' and '.join(twice)} are both given: put all of it into protection=")
        return protection


@dataclass(frozen=True)
class RunSettings:
    """Settings of a run, whatever it is a run of; :meth:`infl.federation.agreement.Agreement.new` completes them.

    Parameters
    ----------
    rounds, local_epochs
        Training rounds; passes over a site's data in each.
    aggregation, aggregation_options
        Rule (:mod:`infl.federation.rules`).
    participation
        Share of the sites that is asked in each round.
    patience
        Stop after this many rounds without a better validation metric (0: never).
    lock, strength
        Lock of the weights.
    seal, min_sites
        Seal of what travels; fewest sites whose sum is opened (None: 3 with a seal, else 1).
    seed
        Fixes initial weights, batches, dropout, validation parts and cohorts.
    privacy
        Differential privacy of the training records.
    bits
        Bits of a weight in an update (None: 32).

    Examples
    --------
    >>> from dataclasses import replace
    >>> settings = RunSettings(rounds=5, lock=None)
    >>> settings.lock, settings.strength, replace(settings, seal="none").rounds
    ('none', 0.0, 5)
    """

    rounds: int = 20
    local_epochs: int = 1
    aggregation: str = "fedavg"
    aggregation_options: Mapping[str, Any] | None = field(default_factory=dict)
    participation: float = 1.0
    patience: int = 0
    lock: str | None = "field"
    strength: float = 1.0
    seal: str = "group"
    min_sites: int | None = None
    seed: int = 0
    privacy: DP | None = None
    bits: int | None = None

    parameters: ClassVar[dict[str, Kind]] = {
        **{name: PARAMETERS[name] for name in _SHARED},
        "lock": Choice(LOCKS, none=True),
        "seed": Whole(0, 2**63 - 1),  # attacks repeat runs with seeds that are derived, not given
    }
    """What each setting may be."""

    def __post_init__(self) -> None:
        given = read_all(self.parameters, {name: getattr(self, name) for name in self.parameters})
        given["aggregation_options"] = dict(given["aggregation_options"] or {})
        if given["lock"] is None:
            given |= {"lock": "none", "strength": 0.0}
        for name, value in given.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, recorded: Mapping[str, Any]) -> RunSettings:
        """Return the settings of a run from its result (``run.settings``)."""
        from infl.privacy.dp import DP

        known = {f.name: recorded[f.name] for f in fields(cls) if f.name in recorded or f.name != "bits"}
        return cls(**known | {"privacy": None if known["privacy"] is None else DP(**known["privacy"])})

    @property
    def fewest(self) -> int:
        """Fewest sites whose sum is opened: as given, or what seal and noise need."""
        if self.min_sites is not None:
            return self.min_sites
        fewest = 1 if self.seal == "none" else 3
        if self.privacy is not None and self.privacy.noise == "distributed":
            return max(fewest, self.privacy.colluders + 1)
        return fewest
