"""Several columns of labels at once, of which many are missing: federated beside pooled fits, and with unlabelled sites beside without them.

150 breast tumours at seven sites: subtype, and whether ER-alpha and HER2 are above their median, from RNA. Forty in a hundred labels are missing; one
site has one class of each column, and two have no labels.

``python benchmarks/labels.py [KIND …]``
"""

from __future__ import annotations

import sys
import warnings

import anndata as ad
import numpy as np

import infl
from _evidence import Estimate, over_resplits
from _table import Table
from infl.errors import InflWarning
from panels import use_data_folder
from phenotypes import LINEAR, ONE_STEP, Values, values_of

SEEDS, TEST_SHARE, N_SITES, MISSING = 10, 0.3, 7, 0.4
PROTEINS = {"er": "ER-alpha", "her2": "HER2"}
COLUMNS = ["subtype", *PROTEINS]
UNLABELLED = ("site_6", "site_7")
KINDS = {
    "network": {},
    "linear": LINEAR,
    "network by whole steps": ONE_STEP,
    "linear by whole steps": LINEAR | ONE_STEP,
}
"""Otherwise a pooled fit takes two steps a round, of some of the records each, and sites one, of all that they have."""


def tumours() -> dict[str, ad.AnnData]:
    """Return RNA at seven sites with three columns of labels, of which some are missing."""
    use_data_folder()
    breast = infl.datasets.breast_tcga()
    rna, protein = breast.mod["rna"], breast.mod["protein"]
    both = rna.obs_names.intersection(protein.obs_names)
    rna = rna[both].copy()
    rna.obs = rna.obs[[]].assign(subtype=breast.obs["subtype"].reindex(both).astype(str))
    for name, measured in PROTEINS.items():
        level = np.asarray(protein[both, measured].X).ravel()
        rna.obs[name] = np.where(level > np.median(level), "high", "low")
    sites = infl.pp.split_sites(rna, N_SITES, stratify="subtype", seed=0)
    rng = np.random.default_rng(0)
    for site, adata in sites.items():
        for name in COLUMNS:
            labels = adata.obs[name].astype(object)
            labels[rng.random(adata.n_obs) < MISSING] = None
            if site == "site_5":
                labels[labels != labels.dropna().iloc[0]] = None
            if site in UNLABELLED:
                labels[:] = None
            adata.obs[name] = labels
        for name in COLUMNS:
            if adata.obs[name].isna().all():
                del adata.obs[name]
    return sites


def difference(first: Values, second: Values, methods: tuple[str, str]) -> Estimate:
    """Return the difference of two methods' balanced accuracies on the same splits."""
    a, b = (found[method, "balanced_accuracy"] for found, method in zip((first, second), methods, strict=True))
    return over_resplits([a[seed] - b[seed] for seed in sorted(a)], TEST_SHARE)


def main() -> None:
    """Run the comparisons."""
    warnings.simplefilter("ignore", InflWarning)
    table, sites = Table("labels"), tumours()
    labelled = {site: adata for site, adata in sites.items() if site not in UNLABELLED}
    for kind in sys.argv[1:] or KINDS:
        options = KINDS[kind]
        how = {"target": COLUMNS, "seeds": SEEDS, "test_share": TEST_SHARE, "progress": False, **options}
        methods = ["infl", "pooled", "infl_wrong_key", "infl_no_key", "baseline"]
        every = values_of(infl.tl.compare(sites, "classifier", methods=methods, **how))
        fewer = values_of(infl.tl.compare(labelled, "classifier", methods=["infl"], **how))
        for method in methods:
            own = list(every[method, "balanced_accuracy"].values())
            table.estimate(
                f"{kind}, {method}: balanced accuracy", "", over_resplits(own, TEST_SHARE), data="breast rna"
            )
        less = difference(every, every, ("infl", "pooled"))
        table.bound(f"{kind}, federated less pooled", less, data="breast rna", least=-0.02)
        gain = difference(every, fewer, ("infl", "infl"))
        ok = gain.value >= 0
        table.estimate(f"{kind}, with unlabelled sites less without", "at least 0", gain, data="breast rna", ok=ok)
        table.save()


if __name__ == "__main__":
    main()
