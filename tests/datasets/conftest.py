"""Shared by the tests of this folder."""

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse


def screen(labels):
    """Cells with a name of a gene twice, as these files may have."""
    obs = pd.DataFrame({"perturbation": pd.Categorical(labels)}, index=[f"c{i}" for i in range(len(labels))])
    counts = sparse.csr_matrix(np.ones((len(labels), 3), dtype=np.float32))
    return ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=["CBL", "CNN1", "CNN1"]))
