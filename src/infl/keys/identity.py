"""A site's own age identity: the X25519 key to which key rings are granted. It never leaves the site."""

from __future__ import annotations

from pathlib import Path

from infl._files import explained, write_atomic
from infl.errors import FileError, KeyringError
from infl.keys.keyring import check_private


class Identity:
    """An age X25519 identity.

    Attributes
    ----------
    public
        The public key, ``age1…``; others grant keys to it.

    Examples
    --------
    >>> Identity.create().public[:4]
    'age1'
    """

    __slots__ = ("public", "secret")

    def __init__(self, secret: object) -> None:
        self.secret = secret
        self.public = str(secret.to_public())  # type: ignore[attr-defined]

    @classmethod
    def create(cls) -> Identity:
        """Return a fresh identity."""
        import pyrage

        return cls(pyrage.x25519.Identity.generate())

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the identity, readable by its owner only, and its public key beside it as ``NAME.pub``."""
        path = Path(path)
        write_atomic(path, f"# public key: {self.public}\n{self.secret}\n".encode(), overwrite=overwrite, mode=0o600)
        write_atomic(path.with_suffix(".pub"), f"{self.public}\n".encode(), overwrite=overwrite)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Identity:
        """Read an identity file.

        Raises
        ------
        FileError
            Not there, no identity, or readable by others.
        """
        import pyrage

        path = Path(path)
        check_private(path)
        with explained(path, "read"):
            lines = path.read_text(errors="replace").splitlines()
        for line in lines:
            if line.startswith("AGE-SECRET-KEY-"):
                try:
                    return cls(pyrage.x25519.Identity.from_str(line.strip()))
                except pyrage.IdentityError:
                    break
        raise FileError(f"{path} holds no age identity: make one with 'infl key identity'")

    @classmethod
    def coerce(cls, value: object) -> Identity:
        """Return an identity from itself, or from the path of its file."""
        if isinstance(value, cls):
            return value
        if isinstance(value, str | Path):
            return cls.load(value)
        raise KeyringError(f"identity= takes an Identity or the path of its file, not {type(value).__name__}")

    def __repr__(self) -> str:
        return f"Identity({self.public})"

    def __reduce__(self) -> object:
        raise TypeError("an identity is not pickled: save it with identity.save(path)")
