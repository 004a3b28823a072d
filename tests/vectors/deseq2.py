"""Writes deseq2.json: counts, and what PyDESeq2 0.5.4 says of them, for tests/tl/test_deseq2.py. Then run: Rscript deseq2.R

Run in an environment of its own with pydeseq2: python deseq2.py
"""

import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from pydeseq2.dds import DeseqDataSet
from pydeseq2.ds import DeseqStats

DESIGNS = {"condition": "~condition", "site": "~condition + site", "age": "~condition + age + site"}


def data() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Counts of 26 samples at three sites, of which one has no case; a gene nobody has, and one that a site does not have."""
    rng = np.random.default_rng(0)
    n, genes = 26, 800
    site = np.repeat(["a", "b", "c"], [12, 5, 9])
    condition = np.where(np.arange(n) % 2 == 0, "case", "control")
    condition[site == "b"] = "control"
    mean = np.exp(rng.uniform(np.log(3), np.log(5000), genes))
    dispersion = (0.05 + 2 / mean) * np.exp(rng.normal(0, 0.5, genes))
    effect = np.where(np.arange(genes) < 160, rng.normal(0, 1.2, genes), 0)
    at_sites = sum(np.outer(site == one, rng.normal(0, 0.3, genes)) for one in "abc")
    mu = mean * np.exp(np.outer(condition == "case", effect) + at_sites) * rng.lognormal(0, 0.4, n)[:, None]
    counts = rng.negative_binomial(1 / dispersion, 1 / (1 + mu * dispersion))
    counts[:, 5] = 0
    counts[site == "b", 7] = 0
    names = [f"sample_{i}" for i in range(n)]
    obs = pd.DataFrame({"condition": condition, "age": rng.uniform(30, 80, n).round(), "site": site}, index=names)
    return pd.DataFrame(counts, index=names, columns=[f"g{j}" for j in range(genes)]), obs


def answer(counts: pd.DataFrame, obs: pd.DataFrame, design: str) -> dict[str, list[float]]:
    """What PyDESeq2 says of cases and controls, without Cook's distances and without filtering."""
    fitted = DeseqDataSet(counts=counts, metadata=obs, design=design, refit_cooks=False, quiet=True)
    fitted.deseq2()
    contrast = ["condition", "case", "control"]
    tests = DeseqStats(fitted, contrast=contrast, cooks_filter=False, independent_filter=False, quiet=True)
    tests.summary()
    found = tests.results_df
    columns = {"log_fc": found["log2FoldChange"], "se": found["lfcSE"], "p": found["pvalue"], "adj_p": found["padj"]}
    columns |= {"mean": found["baseMean"], "dispersion": fitted.var["dispersions"]}
    return {name: [float(f"{v:.9g}") if np.isfinite(v) else None for v in values] for name, values in columns.items()}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    counts, obs = data()
    content = {"counts": counts.T.to_numpy().tolist()} | {name: obs[name].tolist() for name in obs}
    content |= {"pydeseq2": {name: answer(counts, obs, design) for name, design in DESIGNS.items()}}
    text = json.dumps(content).replace("], [", "],\n[")
    (Path(__file__).parent / "deseq2.json").write_text(text + "\n")
