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

    Examples
    --------
    >>> raise InflError("no class 'x' at site_2:   check its labels")
    Traceback (most recent call last):
    infl.errors.InflError: no class 'x' at site_2: check its labels
    """

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


class SealError(InflError):
    """A sealed message was altered, replayed, incomplete or out of range; nothing of it was applied.

    Examples
    --------
    >>> issubclass(SealError, InflError)
    True
    """


class FederationError(InflError):
    """Sites and coordinator do not agree, or too few of them answered.

    Examples
    --------
    >>> from infl.privacy.seal import Context
    >>> Context("run", 1, 0, ("a", "a", "b"), "train", "")
    Traceback (most recent call last):
    infl.errors.FederationError: two sites are called 'a': give each its own name
    """


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
