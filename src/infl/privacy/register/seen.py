"""Heads of other members' registers, so that none of them goes back to a backup unnoticed.

A restored register would forget what was released since, and release what is now too near to it. So members of a study tell each
other the heads that they have seen, and each looks whether its own register ever had those.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infl._files import explained, parse_json, write_atomic
from infl.errors import FederationError, FileError
from infl.privacy.register.register import Register

MOST = 8
"""Heads that are kept of each member."""


class SeenHeads:
    """What a site has seen of other members' registers.

    Parameters
    ----------
    register
        The site's own, in whose folder it is kept.

    Examples
    --------
    >>> seen = SeenHeads(Register())
    >>> said = seen.said()
    >>> seen.check("a", {"a": said, "b": {"head": 32 * "0", "seen": {}}})
    """

    def __init__(self, register: Register) -> None:
        self.register = register
        self._seen: dict[str, list[str]] = {}

    def said(self) -> dict[str, Any]:
        """Return what the site tells the others: the head of its register, and those that it has seen of them."""
        with self.register.alone():
            return {"head": self.register.head, "seen": self._read()}

    def check(self, site: str, said: Mapping[str, Mapping[str, Any]]) -> None:
        """Refuse to go on where another member has seen a head that the site's own register never had; keep the others' heads.

        Raises
        ------
        FederationError
            The register went back to a backup, or another one took its place.
        """
        for other, of_other in said.items():
            if any(not self.register.had(str(head)) for head in of_other["seen"].get(site, ())):
                raise FederationError(
                    f"{site}: its register of released sums goes back behind what {other} has seen of it; nothing was sent: restore the "
                    f"newest backup of {self.register.folder}"
                )
        with self.register.alone():
            known, before = self._read(), json.dumps(self._read())
            for other, of_other in said.items():
                if other != site and of_other["head"] not in known.get(other, ()):
                    known[other] = [*known.get(other, ()), str(of_other["head"])][-MOST:]
            if json.dumps(known) != before:
                self._write(known)

    @property
    def _path(self) -> Path | None:
        return None if self.register.folder is None else self.register.folder / "seen.json"

    def _read(self) -> dict[str, list[str]]:
        if self._path is None or not self._path.exists():
            return {member: [*heads] for member, heads in self._seen.items()}
        with explained(self._path, "read"):
            try:
                return {
                    str(member): [str(head) for head in heads]
                    for member, heads in parse_json(self._path.read_text()).items()
                }
            except (ValueError, TypeError, AttributeError):
                raise FileError(
                    f"{self._path} is damaged: restore it from a backup, or delete it and forget others' registers"
                ) from None

    def _write(self, known: dict[str, list[str]]) -> None:
        self._seen = known
        if self._path is not None:
            write_atomic(self._path, json.dumps(known).encode(), overwrite=True, mode=0o600)
