"""Errors that a user can mend, and warnings that a user should read.

Each message is one line that says what is wrong, where, and what to do. The command line prints it and leaves with the
error's exit code; anything that is not an :class:`InflError` is a defect of ours and leaves with 1.
"""

from __future__ import annotations

import errno
from typing import ClassVar

MAX_LENGTH = 300
USAGE, REFUSED, UNREACHABLE, NO_ROOM = 2, 3, 4, 5
"""Exit codes: what was typed or given; a participant or a check refused; something was not there; no room on a disk."""


class InflError(Exception):
    """Base of every error that a user can mend.

    Parameters
    ----------
    message
        One line: what, where, what to do. White space is folded and anything past 300 characters is cut.

    Examples
    --------
    >>> raise InflError("no class 'x' at site_2:   check its labels")
    Traceback (most recent call last):
    infl.errors.InflError: no class 'x' at site_2: check its labels
    """

    exit_code: ClassVar[int] = USAGE
    """What the command line leaves with."""

    def __init__(self, message: str) -> None:
        line = " ".join(str(message).split())
        super().__init__(line if len(line) < MAX_LENGTH else line[: MAX_LENGTH - 2] + "…")


class DataError(InflError):
    """The data cannot be used as they are: a label, feature, value or modality is missing or wrong.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> infl.tl.fit_federated(sites, target="tumor_class")
    Traceback (most recent call last):
    infl.errors.DataError: ...; did you mean 'tumour_class'?
    """


class SettingsError(InflError):
    """An argument or a settings file has a value that cannot work.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> infl.tl.fit_federated(sites, target="tumour_class", rounds=0)
    Traceback (most recent call last):
    infl.errors.SettingsError: rounds=0: give a whole number of at least 1
    """


class KeyringError(InflError):
    """A key is missing, wrong, of another version, or kept carelessly.

    Examples
    --------
    >>> import infl
    >>> infl.keys.Keyring.create().only([2])
    Traceback (most recent call last):
    infl.errors.KeyringError: key version 2 needed, ring has 1: ask the key holder for a grant of it
    """


class FileError(InflError):
    """A file is missing, damaged, of another format, in the way, or cannot be written.

    Examples
    --------
    >>> import infl
    >>> infl.load_model("nowhere.safetensors")
    Traceback (most recent call last):
    infl.errors.FileError: cannot read nowhere.safetensors: No such file or directory
    """

    @classmethod
    def of(cls, what: str, error: OSError, then: str = "") -> FileError:
        """Return the error for what the operating system could not do: a :class:`NoRoomError` where a disk is full.

        Parameters
        ----------
        what
            Could not be done, and with which file.
        error
            The system's.
        then
            What follows from it.

        Examples
        --------
        >>> FileError.of("cannot write model", OSError(28, "No space left on device"))
        NoRoomError('cannot write model: No space left on device')
        """
        kind = NoRoomError if error.errno in (errno.ENOSPC, errno.EDQUOT) else cls
        return kind(f"{what}: {error.strerror or error}{then}")


class NoRoomError(FileError):
    """A disk is full; nothing half-written is left.

    Examples
    --------
    >>> raise NoRoomError("cannot write model.safetensors: No space left on device")
    Traceback (most recent call last):
    infl.errors.NoRoomError: cannot write model.safetensors: No space left on device
    """

    exit_code = NO_ROOM


class SealError(InflError):
    """A sealed message was altered, replayed, incomplete or out of range; nothing of it was applied.

    Examples
    --------
    >>> issubclass(SealError, InflError)
    True
    """

    exit_code = REFUSED


class FederationError(InflError):
    """Sites and coordinator do not agree, or too few of them answered.

    Examples
    --------
    >>> from infl.privacy.seal import Context
    >>> Context("run", 1, 0, ("a", "a", "b"), "train", "")
    Traceback (most recent call last):
    infl.errors.FederationError: two sites are called 'a': give each its own name
    """

    exit_code = REFUSED


class UnreachableError(FederationError):
    """Another machine or a port is not there now; the same command can work later.

    Examples
    --------
    >>> raise UnreachableError("coordinator.example.org:8002 cannot be reached: is the coordinator up?")
    Traceback (most recent call last):
    infl.errors.UnreachableError: coordinator.example.org:8002 cannot be reached: is the coordinator up?
    """

    exit_code = UNREACHABLE


class MissingExtraError(InflError):
    """An optional dependency is not installed; the message has the line that installs it.

    Examples
    --------
    >>> raise MissingExtraError("this needs scvi-tools: pip install 'infl[scvi]'")
    Traceback (most recent call last):
    infl.errors.MissingExtraError: this needs scvi-tools: pip install 'infl[scvi]'
    """


class InflWarning(UserWarning):
    """Something works, but perhaps not as the user believes.

    Examples
    --------
    >>> import warnings
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore", InflWarning)  # known, and meant so
    ...     warnings.warn("seal='none': the coordinator reads every site's update", InflWarning)
    """
