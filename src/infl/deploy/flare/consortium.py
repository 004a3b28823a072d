"""Who the coordinator of a consortium is, and where: public, the same at all participants."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict, TypeAdapter

from infl._files import read_own
from infl.deploy.flare.enrolment import SITE_NAME_PATTERN
from infl.deploy.toml import read_checked
from infl.errors import SettingsError


@dataclass(frozen=True)
class Consortium:
    """Who the coordinator is and where; public, the same at all participants.

    Attributes
    ----------
    name
        Of the consortium.
    host, port
        Where sites reach the coordinator, by the host's name in its certificate.
    scheme
        ``"tcp"`` or ``"grpc"``, both under mutual TLS.
    valid_days
        How long certificates are valid.
    """

    name: str
    host: str
    port: int = 8002
    scheme: str = "tcp"
    valid_days: int = 365

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    def __post_init__(self) -> None:
        if not SITE_NAME_PATTERN.fullmatch(self.name):
            raise SettingsError(f"consortium {self.name!r}: use letters, digits, '_' and '-'")
        if self.scheme not in ("tcp", "grpc"):
            raise SettingsError(f"scheme {self.scheme!r}: 'tcp' or 'grpc'")
        if not 0 < self.port < 65536:
            raise SettingsError(f"port {self.port}: 1 to 65535")

    @property
    def _server(self) -> dict[str, object]:
        return {"host": self.host, "fed_learn_port": self.port, "admin_port": self.port}

    def profile(self) -> str:
        """Return FLARE's project profile (as JSON, which is YAML too)."""
        fields = {"name": self.name, "scheme": self.scheme, "connection_security": "mtls", "server": self._server}
        return json.dumps(fields)

    def participant(self, name: str, kind: str) -> str:
        """Return FLARE's definition of a participant."""
        row: dict[str, object] = {"name": name, "type": kind, "org": "infl"}
        row |= self._server if kind == "server" else {"server": self._server}
        row |= {"role": "lead"} if kind == "admin" else {}
        row.pop("host", None)
        return json.dumps({"name": self.name, "participants": [row]})


def read_consortium(path: Path) -> Consortium:
    """Read ``consortium.toml``.

    Raises
    ------
    SettingsError
        Something in it cannot work; the message has the line.
    """
    return read_checked(path, TypeAdapter(Consortium).validate_python)


def consortium_of(home: Path) -> Consortium:
    """Return which consortium a folder belongs to."""
    then = "make it anew from consortium.toml, or put it back from a backup"
    return read_own(home / "consortium.json", TypeAdapter(Consortium).validate_python, then)
