"""What a study left at this site, for a notebook."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["result"]


def result(folder: str | Path, study: str = "") -> AnnData:
    """Return the working object of a finished study: this site's data with what every step wrote.

    Parameters
    ----------
    folder
        This site's folder, of ``infl site enrol``.
    study
        Name of the study, or the beginning of its random name, where the site was in several.

    Returns
    -------
    A copy in memory; the file in the site's folder stays as it is.

    Raises
    ------
    infl.errors.FileError
        There is no such study, or it is not finished.

    Examples
    --------
    >>> import infl
    >>> infl.study.result("nowhere")
    Traceback (most recent call last):
    infl.errors.FileError: no studies in nowhere: give the folder of a site that took part in one
    """
    from infl.deploy.site_folder import SiteFolder
    from infl.deploy.study.consent import SiteStudies

    _, working = SiteStudies(SiteFolder(folder)).result(study)
    return working.read()
