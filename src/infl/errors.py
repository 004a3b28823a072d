"""Errors that a user can mend, and warnings that a user should read.

Each message is one line that says what is wrong, where, and what to do. The command line prints it and leaves with
exit code 2; anything that is not an :class:`InflError` is a defect of ours and leaves with 1.
"""

MAX_LENGTH = 300


class InflError(Exception):
    """Base of every error that a user can mend.

    Parameters
    ----------
    message
        One line: what, where, what to do. White space is folded and anything past 300 characters is cut.
    """

    def __init__(self, message: str) -> None:
        line = " ".join(str(message).split())
        super().__init__(line if len(line) < MAX_LENGTH else line[: MAX_LENGTH - 2] + "…")


class DataError(InflError):
    """The data cannot be used as they are: a label, feature, value or modality is missing or wrong."""


class SettingsError(InflError):
    """An argument or a settings file has a value that cannot work."""


class KeyringError(InflError):
    """A key is missing, wrong, of another version, or kept carelessly."""


class FileError(InflError):
    """A file is missing, damaged, of another format, in the way, or cannot be written."""


class SealError(InflError):
    """A sealed message was altered, replayed, incomplete or out of range; nothing of it was applied."""


class FederationError(InflError):
    """Sites and coordinator do not agree, or too few of them answered."""


class MissingExtraError(InflError):
    """An optional dependency is not installed; the message has the line that installs it."""


class InflWarning(UserWarning):
    """Something works, but perhaps not as the user believes."""
