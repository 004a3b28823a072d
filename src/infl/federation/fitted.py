"""Reading a site's data as in the fit of a model: with labels, and with the same validation part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from infl.federation.seeds import generator

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from infl.models.locked import LockedModel
    from infl.models.task import SiteData, Task


def read_for_fit(
    task: Task, panel: Mapping[str, Any], seed: int, adata: AnnData | MuData, site: str, *, keyless: bool = False
) -> SiteData:
    """Return a site's data as a fit with a seed reads them: the seed and the site's name choose the validation part."""
    return task.read(adata, panel, site=site, rng=generator(seed, "validation part", site), keyless=keyless)


def read_as_fitted(model: LockedModel, adata: AnnData | MuData, site: str, *, keyless: bool = False) -> SiteData:
    """Return a site's data as the fit of a model read them: trained on and held out are the same observations.

    Parameters
    ----------
    model
        Of the fit.
    adata
        The site's data, as they were; not altered.
    site
        The site's name in the fit.
    keyless
        Read as somebody without the key would.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> run = infl.tl.fit_federated(sites, target="tumour_class", rounds=1, progress=False)
    >>> data = read_as_fitted(run.model, sites["site_1"], "site_1")
    >>> len(data.train), len(data.validation)
    (12, 4)
    """
    h = model.header
    return read_for_fit(h.build_task(), h.panel, h.seed, adata, site, keyless=keyless)
