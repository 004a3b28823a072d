"""The data set that comes with the package, so that the first evening needs no network."""

from importlib.resources import as_file, files

import anndata as ad
from anndata import AnnData

from infl.data.split import split_sites


def khan() -> AnnData:
    """Four childhood tumours: small round blue cell tumours of Khan et al. (2001).

    Returns
    -------
    83 samples × 2,308 genes, log ratios from cDNA microarrays. ``obs["tumour_class"]`` has four classes,
    ``obs["published_split"]`` says which samples the paper trained (63) and tested (20) on.

    References
    ----------
    Khan et al. (2001), Classification and diagnostic prediction of cancers using gene expression profiling and
    artificial neural networks. Nature Medicine 7, 673-679. As shipped in the ISLP package.

    Examples
    --------
    >>> import infl
    >>> infl.datasets.khan().shape
    (83, 2308)
    """
    with as_file(files("infl.datasets") / "srbct_khan.h5ad") as path:
        return ad.read_h5ad(path)


def khan_sites(n_sites: int = 5, *, seed: int = 0) -> dict[str, AnnData]:
    """The samples of :func:`khan`, dealt out to simulated hospitals.

    All 83 samples are dealt, so that each hospital has its share of every tumour class and, within a class, of the
    published training and test samples. ``obs["published_split"]`` stays: who wants the published test samples
    unseen takes ``adata[adata.obs["published_split"] == "train"]`` at each site before the fit.

    Parameters
    ----------
    n_sites
        Number of hospitals, 1 to 83.
    seed
        Fixes who gets which sample.

    Returns
    -------
    ``{"site_1": AnnData, …}``

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> {name: adata.n_obs for name, adata in sites.items()}
    {'site_1': 16, 'site_2': 17, 'site_3': 16, 'site_4': 17, 'site_5': 17}
    """
    return split_sites(khan(), n_sites, stratify=["tumour_class", "published_split"], seed=seed)
