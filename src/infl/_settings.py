"""Package-wide settings: the one piece of global state.

Each has an environment variable of the same name in capitals with the prefix ``INFL_``.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path


def _folder(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value).expanduser() if value else None


@dataclass
class Settings:
    """Where data are, and how much is said.

    Attributes
    ----------
    data_dir
        Folder with the public data sets of :mod:`infl.datasets`, looked in before anything is downloaded
        (``INFL_DATA_DIR``; default: none).
    data_url
        Mirror of that folder, from which a missing file is fetched and verified (``INFL_DATA_URL``; default: none).
    cache_dir
        Where downloads are kept (``INFL_CACHE_DIR``; default: the operating system's cache folder).
    identity
        Your age identity, which opens the key files made for you (``INFL_IDENTITY``; default:
        ``~/.config/infl/identity.key``).
    progress
        Show progress bars (``INFL_PROGRESS=0`` switches them off; default: when standard error is a terminal).

    Examples
    --------
    >>> import infl
    >>> infl.settings.progress = False
    """

    data_dir: Path | None = field(default_factory=lambda: _folder("INFL_DATA_DIR"))
    data_url: str | None = field(default_factory=lambda: os.environ.get("INFL_DATA_URL") or None)
    cache_dir: Path | None = field(default_factory=lambda: _folder("INFL_CACHE_DIR"))
    identity: Path | None = field(default_factory=lambda: _folder("INFL_IDENTITY"))
    progress: bool | None = field(
        default_factory=lambda: None if "INFL_PROGRESS" not in os.environ else os.environ["INFL_PROGRESS"] != "0"
    )


settings = Settings()
