"""Reading a model file."""

from __future__ import annotations

from pathlib import Path

from infl import __version__
from infl._files import explained, parse_json
from infl.errors import FileError, KeyringError
from infl.models.locked.header import FORMAT, READABLE, digest_of, header_of
from infl.models.locked.model import LockedModel
from infl.models.locked.private import PRIVATE
from infl.models.registry import task_class


def load_model(path: str | Path, *, identity: str | Path | None = None, base: str | Path | None = None) -> LockedModel:
    """Read a model file.

    Parameters
    ----------
    path
        Written by ``run.save`` or :meth:`LockedModel.save`.
    identity
        File with the age identity, when the whole file was encrypted to recipients.
    base
        Of an adapter: folder of the pretrained model that it was fitted on, checked by its digest. From then on its name means
        that folder, as ``infl.settings.bases`` says. Without it the name has to be known.

    Returns
    -------
    LockedModel
        Its key, if it has one, is checked by fingerprint when it is used.

    Raises
    ------
    FileError
        Not there, truncated, altered, encrypted, or of another format.
    SettingsError
        `base` is another base model, or the model has none.

    Examples
    --------
    >>> import infl
    >>> infl.load_model("nowhere.safetensors")
    Traceback (most recent call last):
    infl.errors.FileError: cannot read nowhere.safetensors: No such file or directory
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = Path(path).expanduser()
    with explained(path, "read"):
        content = path.read_bytes()
    if content.startswith(b"age-encryption.org/"):
        if identity is None:
            raise FileError(f"{path} is encrypted with age: pass identity=, the file with your age identity")
        from infl.keys import decrypt

        content = decrypt(content, identity=identity, source=path)
    try:
        size = int.from_bytes(content[:8], "little")
        metadata = parse_json(content[8 : 8 + size])["__metadata__"]["infl"]
        tensors = load(content)
        raw = parse_json(metadata)
        version = raw["format"]
        if version in READABLE:
            private = tensors.pop(PRIVATE).numpy().tobytes()
            header = header_of(raw, tensors)
    except (SafetensorError, ValueError, KeyError, TypeError, OverflowError, MemoryError):
        raise FileError(f"{path} is not an infl model, or was cut off or altered: get it again") from None
    if version not in READABLE:
        age = "older" if isinstance(version, int) and version < FORMAT else "newer"
        formats = " and ".join(map(str, READABLE))
        raise FileError(f"{path} has the {age} model format {version!r}; this infl {__version__} reads {formats}")
    if digest_of(header, tensors) != header.digest:
        raise FileError(f"{path} was altered after it was written: its digest does not match; get it again")
    if base is not None:
        task_class(header.task).place_base(header.options, header.panel, base)
    try:
        return LockedModel(header, tensors, private)
    except KeyringError as error:
        raise FileError(f"{path}: {error}") from None
