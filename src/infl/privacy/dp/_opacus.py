"""Opacus is an extra."""

from infl.errors import MissingExtraError


def require_opacus() -> None:
    """Raise an error with what to install where Opacus is missing.

    Raises
    ------
    MissingExtraError
        It is.
    """
    try:
        import opacus  # noqa: F401
    except ImportError:
        raise MissingExtraError("differential privacy needs Opacus: pip install 'infl[dp]'") from None
