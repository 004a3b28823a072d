"""Public data sets that are too large for the package.

Each is looked for in ``infl.settings.data_dir`` (``INFL_DATA_DIR``), then on the mirror ``infl.settings.data_url``
(``INFL_DATA_URL``), then in the public archive that has it, if one does; see :mod:`infl.datasets._registry`.
"""

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import mudata as md
import pandas as pd
from anndata import AnnData
from mudata import MuData

from infl._mudata import without_pull
from infl.datasets._registry import find


def _only(name: str) -> Path:
    (path,) = find(name).values()
    return path


def breast_tcga() -> MuData:
    """TCGA breast cancer: mRNA, microRNA and protein of three subtypes.

    Returns
    -------
    220 samples with the modalities ``rna`` (200 features), ``mirna`` (184) and ``protein`` (142, RPPA; missing for
    the 70 published test samples). ``obs["subtype"]``, ``obs["published_split"]``.

    References
    ----------
    The Cancer Genome Atlas Network (2012), Nature 490, 61-70. As shipped in the mixOmics package (``breast.TCGA``).

    Examples
    --------
    >>> import infl
    >>> infl.datasets.breast_tcga()["protein"].shape
    (150, 142)
    """
    path = _only("breast_tcga")
    with without_pull():  # the file has the joint obs; mudata would warn about pulling it anew
        return md.read_h5mu(path)


def stemcells() -> AnnData:
    """Three stem cell types measured in four studies, which are natural sites with strong batch effects.

    Returns
    -------
    125 samples × 400 genes; ``obs["study"]``, ``obs["cell_type"]``.

    References
    ----------
    Rohart et al. (2017), MINT, BMC Bioinformatics 18, 128. As shipped in the mixOmics package (``stemcells``).

    Examples
    --------
    >>> import infl
    >>> list(infl.pp.split_sites(infl.datasets.stemcells(), by="study"))
    ['study_1', 'study_2', 'study_3', 'study_4']
    """
    return ad.read_h5ad(_only("stemcells"))


def gse7390() -> AnnData:
    """Lymph-node-negative breast cancer of five centres: expression of 76 genes, and time to distant metastasis.

    Returns
    -------
    198 patients × 76 probes, logarithms. ``obs["days"]`` to metastasis or the last visit, ``obs["metastasis"]``; ``obs["age"]``,
    ``obs["size"]`` (cm), ``obs["grade"]`` (two are unknown), ``obs["er"]``. The file does not say which centre a patient is of.

    References
    ----------
    Desmedt et al. (2007), Clinical Cancer Research 13, 3207-3214. GEO GSE7390, as shipped in the scikit-survival package, whose
    installed file is read; the package itself is not needed otherwise.

    Examples
    --------
    >>> import infl
    >>> infl.datasets.gse7390().shape  # doctest: +SKIP
    (198, 76)
    """
    from scipy.io import arff

    table = pd.DataFrame(arff.loadarff(_only("gse7390"))[0])
    table.index = [f"patient_{i}" for i in range(len(table))]
    probes = [name for name in table if name.endswith("_at")]
    words = {name: table[name].str.decode("ascii") for name in ("grade", "er", "e.tdm")}
    obs = table[["age", "size"]].assign(
        er=words["er"], days=table["t.tdm"], metastasis=(words["e.tdm"] == "1").astype(int)
    )
    obs["grade"] = words["grade"].where(words["grade"] != "unkown")  # so spelt in the file
    adata = AnnData(table[probes].to_numpy(dtype=float), obs=obs)
    adata.var_names = [name.removeprefix("X") for name in probes]
    return adata


def papalexi() -> AnnData:
    """CRISPR screen of THP-1 cells with RNA read-out (ECCITE-seq).

    Returns
    -------
    20,729 cells × 299 genes, raw counts (sparse). ``obs["perturbation"]`` (25 targets and ``control``),
    ``obs["grna"]``, ``obs["replicate"]`` (three: natural sites).

    References
    ----------
    Papalexi et al. (2021), Nature Genetics 53, 322-331. As shipped in the sceptredata package (MIT).

    Examples
    --------
    >>> import infl
    >>> list(infl.pp.split_sites(infl.datasets.papalexi(), by="replicate"))
    ['rep_1', 'rep_2', 'rep_3']
    """
    return ad.read_h5ad(_only("papalexi"))


def norman() -> AnnData:
    """CRISPR activation screen of K562 cells with pairs of genes, as scPerturb prepared it (0.7 GB).

    Returns
    -------
    Cells × genes, raw counts. ``obs["perturbation"]``: ``control``, one gene, or two as ``A+B``, where the file has ``A_B``;
    its other columns are as they are.

    Notes
    -----
    Address (Zenodo, record 10044268) and MD5 checksum are those that others have written down for this file. The download
    itself, and reading this very file, were not tried by us; a file with another checksum is refused.

    References
    ----------
    Norman et al. (2019), Science 365, 786-793. Peidli et al. (2024), scPerturb, Nature Methods 21, 531-540.

    Examples
    --------
    >>> import infl
    >>> cells = infl.datasets.norman()  # doctest: +SKIP
    """
    adata = _screen("norman")
    adata.obs["perturbation"] = _renamed(adata.obs["perturbation"], lambda label: label.replace("_", "+"))
    return adata


ADAMSON_CONTROLS = ("62(mod)_pBA581", "63(mod)_pBA580", "Gal4-4(mod)_pBA582")


def adamson() -> AnnData:
    """CRISPR interference screen of K562 cells: the unfolded protein response, as scPerturb prepared it (0.5 GB).

    Returns
    -------
    Cells × genes, raw counts. ``obs["guide"]``: as in the file, e.g. ``SRP72_pDS453``; ``obs["perturbation"]``: its gene, or
    ``control`` for the three control vectors. Cells without a guide (``*``) are left out.

    Notes
    -----
    Of the three experiments this is the large one (GSM2406681). Address (Zenodo, record 10044268) and MD5 checksum are
    those that others have written down for this file. The download itself, and reading this very file, were not tried by
    us; a file with another checksum is refused.

    References
    ----------
    Adamson et al. (2016), Cell 167, 1867-1882. Peidli et al. (2024), scPerturb, Nature Methods 21, 531-540.

    Examples
    --------
    >>> import infl
    >>> cells = infl.datasets.adamson()  # doctest: +SKIP
    """
    adata = _screen("adamson")
    guide = adata.obs["perturbation"]
    adata = adata[(guide.notna() & (guide != "*")).to_numpy()].copy()
    adata.obs["guide"] = adata.obs["perturbation"].astype(str).astype("category")
    adata.obs["perturbation"] = _renamed(
        adata.obs["guide"], lambda label: "control" if label in ADAMSON_CONTROLS else label.split("_")[0]
    )
    return adata


def _screen(name: str) -> AnnData:
    adata = ad.read_h5ad(_only(name))
    adata.var_names_make_unique()
    return adata


def _renamed(labels: pd.Series, name: Callable[[str], str]) -> pd.Series:
    return labels.astype(str).map(name).astype("category")


def her2st_labelled() -> AnnData:
    """HER2-positive breast tumours, spatial transcriptomics with regions drawn by a pathologist.

    Returns
    -------
    1,123 spots × 1,500 genes, counts (sparse). ``obs["region"]`` (one label is ``undetermined``),
    ``obs["section"]``, ``obs["patient"]`` (four: natural sites), ``obsm["spatial"]``, ``obsm["array"]``.

    References
    ----------
    Andersson et al. (2021), Nature Communications 12, 6012.

    Examples
    --------
    >>> import infl
    >>> list(infl.pp.split_sites(infl.datasets.her2st_labelled(), by="patient"))
    ['A', 'B', 'C', 'D']
    """
    return ad.read_h5ad(_only("her2st_labelled"))


def her2st_histology() -> AnnData:
    """HER2-positive breast tumours, spots with the stained tissue around each.

    Returns
    -------
    834 spots × 250 genes, counts (sparse). ``obsm["patches"]`` holds H&E patches, 32 × 32 × 3 uint8 in row-major
    order (``uns["patch_shape"]``); ``obs["section"]`` (four), ``obs["patient"]`` (two), ``obsm["spatial"]``.

    References
    ----------
    Andersson et al. (2021), Nature Communications 12, 6012.

    Examples
    --------
    >>> import infl
    >>> infl.datasets.her2st_histology().obsm["patches"].shape
    (834, 3072)
    """
    return ad.read_h5ad(_only("her2st_histology"))


def spamosaic_sim() -> dict[str, MuData]:
    """Simulated spatial mosaic with batch effects: three sections; only the first has both modalities.

    Returns
    -------
    ``{"s1": rna + adt, "s2": rna, "s3": adt}``, 1,296 spots each. ``obs["domain"]`` has the true domain, five in
    all; ``obsm["spatial"]`` the coordinates. The files number their features; here they are called ``gene_0`` …
    and ``protein_0`` …, so that a name means one thing.

    References
    ----------
    SpaMosaic, simulation dataset 1 with batch effects (MIT).

    Examples
    --------
    >>> import infl
    >>> {name: list(section.mod) for name, section in infl.datasets.spamosaic_sim().items()}
    {'s1': ['rna', 'adt'], 's2': ['rna'], 's3': ['adt']}
    """
    kinds = {"rna": "gene", "adt": "protein"}
    sections: dict[str, dict[str, AnnData]] = {}
    for path in find("spamosaic_sim").values():
        section, modality = path.stem.split("_")
        adata = ad.read_h5ad(path)
        adata.var_names = [f"{kinds[modality]}_{name}" for name in adata.var_names]
        sections.setdefault(section, {})[modality] = adata
    return {name: _joined(modalities) for name, modalities in sections.items()}


def _joined(modalities: dict[str, AnnData]) -> MuData:
    with without_pull():
        mdata = MuData(modalities)
    first = next(iter(modalities.values()))  # both modalities were measured on the same spots
    mdata.obs["domain"] = first.obs["domain"].reindex(mdata.obs_names)
    mdata.obsm["spatial"] = first[mdata.obs_names].obsm["spatial"].copy()
    mdata.uns["source"] = first.uns["source"]
    return mdata
