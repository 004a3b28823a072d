"""Beginning a fit with a fitted model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from infl._warn import warn
from infl.errors import KeyringError, SettingsError
from infl.federation.start import Origin, Start
from infl.models.carried import check_carried
from infl.models.registry import make_task, name_by_target
from infl.models.spellings import without_aliases
from infl.tl._results import needed_key

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from infl.federation.run import FederatedRun
    from infl.federation.settings import RunSettings
    from infl.keys import Keyring
    from infl.models.locked import Header, LockedModel
    from infl.models.task import Task

OF_ONE_RULE = ("lr", "weight_decay", "min_steps")
"""Options that go with the optimiser, and are not taken from a model that another one trained."""


@dataclass(frozen=True)
class Init:
    """What ``init=`` gave: the model, the ring that opens it, and sites' own models.

    Attributes
    ----------
    model
        The model; None where a fit begins with fresh weights.
    key
        Opens it.
    site_models
        Of sites that keep weights to themselves.
    """

    model: LockedModel | None = None
    key: Keyring | None = None
    site_models: Mapping[str, LockedModel] | None = None

    @classmethod
    def of(cls, init: FederatedRun | LockedModel | str | Path | None, key: Keyring | None) -> Init:
        """Return what a user gave. A run is opened by its own ring, a model by the fit's.

        Raises
        ------
        KeyringError
            The model is locked, and the ring is none or lacks its version, or is another.
        """
        if init is None:
            return cls()
        own: Keyring | None = getattr(init, "key", None)
        model, opener = needed_key(init, own or key, "init")
        h = model.header
        if not h.fingerprint:
            return cls(model, None, getattr(init, "site_models", None))
        assert opener is not None
        opener.check(h.key_version, h.fingerprint)
        return cls(model, opener, getattr(init, "site_models", None))

    def make_task(self, model: str | Task | None, options: dict[str, Any], also: Iterable[str]) -> Task:
        """Return the task of a fit: by name the model's own, with those options changed that are given.

        With another optimiser, its step is the usual one of that, unless it is given too.
        """
        if self.model is None or not (model is None or isinstance(model, str)):
            return make_task("classifier" if model is None else model, options, also)
        h = self.model.header
        fitted = name_by_target(model or h.task, options)
        if fitted != h.task:
            raise SettingsError(f"init= is a model of {h.task!r}, and {fitted!r} is fitted: give a model of that task")
        known = dict(h.options)
        given = without_aliases(options, known)
        if given.get("optimiser", known["optimiser"]) != known["optimiser"]:
            known = {name: value for name, value in known.items() if name not in OF_ONE_RULE}
        return make_task(h.task, known | given, also)

    @property
    def digest(self) -> str:
        """The model's digest; empty without one."""
        return "" if self.model is None else self.model.header.digest

    @property
    def seed(self) -> int:
        """The model's seed; 0 without one."""
        return 0 if self.model is None else self.model.header.seed

    def check(self, task: Task, panel: Mapping[str, Any], settings: RunSettings, sites: Mapping[str, Any]) -> None:
        """Refuse a fit that cannot begin with the model, before any work.

        Raises
        ------
        InflError
            Task, panel or lock do not go with it; or ε would be of the rounds of this fit alone.
        """
        if self.model is None:
            return
        self._check_sites(self.model.header, sites, settings)
        check_carried(self.model.header, task, panel)
        if settings.lock == "published":
            raise SettingsError(
                "init= goes with lock='field' or lock=None: coordinates of a published lock are of one run"
            )
        if settings.lock == "none" and self.model.header.fingerprint:
            raise KeyringError(
                "init= is locked, and lock=None would leave what it learned in the clear: use lock='field'"
            )

    @staticmethod
    def _check_sites(h: Header, sites: Mapping[str, Any], settings: RunSettings) -> None:
        """Refuse and warn of what would make a fit of sites that the model knows look better than it is."""
        both = [site for site in sites if site in h.sites]
        if both and settings.privacy is not None:
            raise SettingsError(
                f"{both[0]} was in the fit of init=, which the epsilon of this fit would not count: begin with a model of other "
                "sites, or without init="
            )
        if both and settings.seed != h.seed:
            warn(
                f"seed={settings.seed} holds out other records than init= was fitted without (seed={h.seed}), so validation "
                "metrics are too good: leave seed= out"
            )

    def start(self) -> Start | None:
        """Return the opened model."""
        return None if self.model is None else Origin(self.model, self.site_models or {}).open(self.key)
