"""A study as data: what travels, is shown to people before they agree, and is compared by digest."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from infl._files import check_file_names, parse_json
from infl.deploy.folders import NAME
from infl.deploy.study.steps import Step, fit_of
from infl.errors import SettingsError

FEWEST_SITES = 3
"""Sums of fewer are not sealed: of two, each knows the other's share."""
RUN = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Study:
    """What sites agree on when they say yes to a study.

    Attributes
    ----------
    run
        Random name, which no other study has; seals are bound to it.
    name
        As people call it.
    sites
        All of them, in order; each takes part in every step.
    steps
        In order.
    key_version, fingerprint
        The key that sums are sealed with.
    description
        For the people who are asked.

    Examples
    --------
    >>> study = Study.new("first", ["a", "b", "c"], [Step.read("pp.pca", {"n_comps": 6})], 1, "abcd")
    >>> Study.from_json(study.to_json()) == study, study.digest == Study.from_json(study.to_json()).digest
    (True, True)
    """

    run: str
    name: str
    sites: tuple[str, ...]
    steps: tuple[Step, ...]
    key_version: int
    fingerprint: str
    description: str = ""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise SettingsError(f"study {self.name!r}: a name has letters, digits, '.', '_' and '-'")
        if len(set(self.sites)) < len(self.sites):
            raise SettingsError("two sites of the study have one name: name each once")
        if len(self.sites) < FEWEST_SITES:
            raise SettingsError(
                f"a study has at least {FEWEST_SITES} sites: of two, a sum tells each the other's share"
            )
        check_file_names(self.sites)
        if not self.steps:
            raise SettingsError("a study has at least one [[step]]")
        for index, step in enumerate(self.steps):
            if step.kind.fit is not None:
                fit_of(self.steps, index)

    @classmethod
    def new(
        cls,
        name: str,
        sites: Sequence[str],
        steps: Sequence[Step],
        key_version: int,
        fingerprint: str,
        description: str = "",
    ) -> Study:
        """Return a study under a new random name."""
        return cls(os.urandom(16).hex(), name, tuple(sites), tuple(steps), key_version, fingerprint, description)

    @property
    def quorum(self) -> int:
        """How many sites an attempt needs."""
        return len(self.sites)

    def tolerance(self) -> str:
        """Say in one line what a study needs of its sites."""
        return f"all {len(self.sites)} sites take part in every step: the study waits whenever one is away"

    def to_json(self) -> str:
        """Return the study as JSON."""
        raw: dict[str, Any] = {name: getattr(self, name) for name in self.__dataclass_fields__}
        raw["steps"] = [{"do": step.do, "arguments": step.arguments} for step in self.steps]
        return json.dumps(raw, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Study:
        """Inverse of :meth:`to_json`, for text that may come from anybody.

        Raises
        ------
        SettingsError
            It is no study.
        """
        try:
            raw = parse_json(text)
            steps = tuple(Step.read(step["do"], dict(step["arguments"])) for step in raw["steps"])
            study = cls(**{**raw, "steps": steps, "sites": tuple(raw["sites"])})
            texts = (study.run, study.name, study.fingerprint, study.description, *study.sites)
            sound = all(isinstance(text, str) for text in texts) and type(study.key_version) is int
        except (ValueError, TypeError, KeyError):
            sound = False
        if not sound or not RUN.fullmatch(study.run):
            raise SettingsError("the study's specification cannot be read")
        return study

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all of it."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @property
    def specification(self) -> str:
        """SHA-256 of what people agree on: all but the random name."""
        return replace(self, run="0" * 32).digest


def step_words(study: Study) -> list[str]:
    """Return a line for each step: its number, the call, what it reads and writes.

    Examples
    --------
    >>> step_words(Study.new("first", ["a", "b", "c"], [Step.read("tl.cluster", {"use_rep": "X_pca"})], 1, "abcd"))
    ["1  tl.cluster(use_rep='X_pca')  needs obsm['X_pca']; writes obs['infl_cluster'], uns['infl_cluster']"]
    """
    return [
        f"{number}  {step}  {'; '.join(filter(None, (_fields('needs', step.needs), _fields('writes', step.writes))))}".rstrip()
        for number, step in enumerate(study.steps, 1)
    ]


def _fields(verb: str, fields: Sequence[tuple[str, str]], most: int = 6) -> str:
    shown = [f"{slot}[{name!r}]" for slot, name in fields[:most]]
    more = [f"{len(fields) - most} more"] if len(fields) > most else []
    return f"{verb} {', '.join(shown + more)}" if fields else ""
