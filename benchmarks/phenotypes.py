"""Regressor and survival beside pooled fits, simple baselines and wrong keys, on paired random splits of real cohorts.

A protein of breast tumours from their RNA, dealt out to five sites; survival of four cohorts at five sites: GBSG2, the convicts of Rossi and
the lung cancer patients of Loprinzi from their covariates, GSE7390 from 76 genes. Each with the defaults, a linear model, whose steps were
chosen on other proteins of the breast tumours; the protein with a network, too. Federated and pooled fits have the same validation
records and take the same number of steps.

The files of GSE7390, Rossi and Loprinzi are those of scikit-survival and lifelines: ``pip install --no-deps scikit-survival lifelines``.
"""

from __future__ import annotations

from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

import infl
from _evidence import Estimate, over_resplits
from _table import Table
from infl.federation.held_out import folds
from infl.models import Survival
from infl.sums.concordance import concordance_of_pairs, ordered_pairs
from panels import use_data_folder

SEEDS, TEST_SHARE, N_SITES = 10, 0.3, 5
PROTEIN = "ER-alpha"
METHODS = ["infl", "pooled", "infl_wrong_key", "infl_no_key", "baseline"]
CHANCE = {"r2": 0.02, "concordance": 0.55}
"""What a wrong key may reach."""
MOST_OF_COX = 20
"""Features that a regression without a penalty can take of so few patients."""
GBSG2 = Path(__file__).parents[1] / "tutorials" / "gbsg2.csv"
ONE_STEP = {"batch_size": 1000}
"""All records of a site in one batch."""
KINDS = {"": ONE_STEP, " network": ONE_STEP | {"width": 64}}
LINEAR = {"width": 0, "optimiser": "sgd", "lr": 1.0, "weight_decay": 0.0, "rounds": 60}


def breast_sites() -> dict[str, ad.AnnData]:
    """Return RNA with a protein's level in ``obs``, of the tumours that have both."""
    use_data_folder()
    breast = infl.datasets.breast_tcga()
    rna, protein = breast.mod["rna"], breast.mod["protein"]
    both = rna.obs_names.intersection(protein.obs_names)
    rna = rna[both].copy()
    rna.obs["protein"] = np.asarray(protein[both, PROTEIN].X).ravel().astype(float)
    rna.obs["subtype"] = breast.obs["subtype"].reindex(both).astype(str)
    return infl.pp.split_sites(rna, N_SITES, stratify="subtype", seed=0)


def cohort_sites(table: pd.DataFrame, time: str, died: pd.Series, features: pd.DataFrame) -> dict[str, ad.AnnData]:
    """Return features of patients at five sites, with ``time`` and ``died`` in ``obs``."""
    obs = pd.DataFrame({"time": table[time].astype(float), "died": died.astype(bool)})
    obs.index = [f"patient_{i}" for i in range(len(obs))]
    cohort = ad.AnnData(features.to_numpy(np.float32), obs=obs, var=pd.DataFrame(index=list(features.columns)))
    return infl.pp.split_sites(cohort, N_SITES, seed=0)


def gbsg2_sites() -> dict[str, ad.AnnData]:
    """Return eight covariates of 686 patients as features."""
    table = pd.read_csv(GBSG2)
    features = pd.get_dummies(table.drop(columns=["time", "cens"]), drop_first=True).astype(np.float32)
    features[["pnodes", "progrec", "estrec"]] = np.log1p(features[["pnodes", "progrec", "estrec"]])
    return cohort_sites(table, "time", table["cens"] == 1, features)


def of_lifelines(name: str) -> pd.DataFrame:
    """Return a table of an installed lifelines, which is not imported."""
    found = find_spec("lifelines")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("pip install --no-deps lifelines scikit-survival: their data are read")
    return pd.read_csv(Path(found.submodule_search_locations[0]) / "datasets" / f"{name}.csv")


def rossi_sites() -> dict[str, ad.AnnData]:
    """Return seven covariates of 432 convicts as features, with weeks to an arrest."""
    table = of_lifelines("rossi")
    return cohort_sites(table, "week", table["arrest"] == 1, table.drop(columns=["week", "arrest"]))


def lung_sites() -> dict[str, ad.AnnData]:
    """Return age, sex and scores of performance of the patients with lung cancer who have all of them."""
    table = of_lifelines("lung")
    names = ["age", "sex", "ph.ecog", "ph.karno", "pat.karno"]
    table = table.dropna(subset=names)
    return cohort_sites(table, "time", table["status"] == table["status"].max(), table[names])


def gse7390_sites() -> dict[str, ad.AnnData]:
    """Return 76 genes of 198 patients as features, with days to a metastasis."""
    whole = infl.datasets.gse7390()
    return cohort_sites(whole.obs, "days", whole.obs["metastasis"] == 1, whole.to_df())


COHORTS = {"gbsg2": gbsg2_sites, "rossi": rossi_sites, "lung": lung_sites, "gse7390": gse7390_sites}


Values = dict[tuple[str, str], dict[int, float]]
"""By method and metric: by seed."""


def values_of(found: pd.DataFrame) -> Values:
    """Return the values of a comparison over all held-out records."""
    values: Values = defaultdict(dict)
    for record in found.attrs["values"]:
        if not record["site"]:
            values[record["method"], record["metric"]][record["seed"]] = record["value"]
    return values


def cox_values(sites: dict[str, ad.AnnData]) -> dict[int, float]:
    """Return the concordance on the same held-out patients of `infl.tl.cox` over the same sites, by seed."""
    task = Survival(time="time", event="died")
    found = {}
    for seed in range(SEEDS):
        train, test = next(folds(task, sites, "observations", TEST_SHARE, seed))
        names = list(next(iter(train.values())).var_names)
        for adata in train.values():
            adata.obs = adata.obs.assign(**{f"x{i}": adata.X[:, i].astype(float) for i in range(len(names))})
        formula = "~ " + " + ".join(f"x{i}" for i in range(len(names)))
        model = infl.tl.cox(train, "time", "died", formula)
        weights = model.table["coefficient"].reindex([f"x{i}" for i in range(len(names))]).to_numpy()
        held = ad.concat(list(test.values()))
        pairs = ordered_pairs(held.obs["time"].to_numpy(float), held.obs["died"].to_numpy(bool), held.X @ weights)
        found[seed] = concordance_of_pairs(pairs)[0]
    return found


def add(table: Table, name: str, data: str, values: Values, metrics: tuple[str, ...]) -> None:
    """Add each method's metrics, and the paired difference of federated and pooled fits and baselines."""

    def estimate(method: str, metric: str, less: str = "") -> Estimate:
        own = values[method, metric]
        other = values[less, metric] if less else dict.fromkeys(own, 0.0)
        return over_resplits([own[seed] - other[seed] for seed in sorted(own)], TEST_SHARE)

    methods = list(dict.fromkeys(method for method, _ in values))
    for metric in metrics:
        for method in methods:
            own = list(values[method, metric].values())
            if own and np.isfinite(own).all():
                table.estimate(f"{name}, {method}: {metric}", "", estimate(method, metric), data=data, by_seed=own)
    first = metrics[0]
    table.bound(f"{name}, federated less pooled: {first}", estimate("infl", first, "pooled"), data=data, least=-0.02)
    table.bound(f"{name}, wrong key: {first}", estimate("infl_wrong_key", first), data=data, most=CHANCE[first])
    for other in [method for method in methods if method in ("baseline", "cox")]:
        table.estimate(f"{name}, federated less {other}: {first}", "", estimate("infl", first, other), data=data)


def main() -> None:
    """Run the comparisons."""
    table = Table("phenotypes")
    options = {"seeds": SEEDS, "test_share": TEST_SHARE, "methods": METHODS, "progress": False}
    breast, cohorts = breast_sites(), {name: sites_of() for name, sites_of in COHORTS.items()}
    small = {name: sites for name, sites in cohorts.items() if next(iter(sites.values())).n_vars <= MOST_OF_COX}
    cox = {name: cox_values(sites) for name, sites in small.items()}
    for kind, more in KINDS.items():
        protein = infl.tl.compare(breast, "regressor", target="protein", **options, **more)
        add(table, f"protein{kind}", "breast rna", values_of(protein), ("r2", "spearman", "coverage"))
        table.save()
        for name, sites in cohorts.items() if not kind else ():
            found = values_of(infl.tl.compare(sites, "survival", time="time", event="died", **options, **more))
            if name in cox:
                found["cox", "concordance"] = cox[name]
            add(table, f"{name}{kind}", name, found, ("concordance", "integrated_brier"))
            table.save()


if __name__ == "__main__":
    main()
