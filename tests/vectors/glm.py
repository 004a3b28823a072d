"""Writes glm.json: what statsmodels (0.15.0) finds. Run in this folder: python glm.py."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import statsmodels.api as sm
import statsmodels.formula.api as smf

rng = np.random.default_rng(0)
n = 300
data = pd.DataFrame(
    {"x": rng.normal(size=n).round(3), "group": rng.integers(1, 4, n), "year": rng.integers(1990, 2024, n)}
)
eta = 0.4 * data.x + 0.3 * (data.group == 2) + 0.02 * (data.year - 2005)
data["gaussian"] = (eta + rng.normal(size=n)).round(3)
data["binomial"] = (rng.random(n) < 1 / (1 + np.exp(-eta))).astype(int)
data["poisson"] = rng.poisson(np.exp(0.5 + eta))
data["negative_binomial"] = rng.poisson(np.exp(1 + eta) * rng.gamma(1 / 0.7, 0.7, n))
data["exposure"] = rng.uniform(0, 2, n).round(3)
families = {
    "gaussian": sm.families.Gaussian(),
    "binomial": sm.families.Binomial(),
    "poisson": sm.families.Poisson(),
    "negative_binomial": sm.families.NegativeBinomial(alpha=0.7),
}
found: dict = {"data": data.to_dict("list")}
for name, family in families.items():
    fit = smf.glm(f"{name} ~ x + C(group) + year", data, family=family).fit(tol=1e-14, maxiter=200)
    interval = fit.conf_int()
    order = ["Intercept", "x", "C(group)[T.2]", "C(group)[T.3]", "year"]
    columns = {
        "coefficient": fit.params,
        "std_error": fit.bse,
        "z": fit.tvalues,
        "p_value": fit.pvalues,
        "lower": interval[0],
        "upper": interval[1],
    }
    found[name] = {key: values[order].tolist() for key, values in columns.items()}
    found[name] |= {
        "deviance": fit.deviance,
        "scale": fit.scale,
        "covariance": fit.cov_params().loc[order, order].to_numpy().tolist(),
    }
offset = smf.glm("poisson ~ x", data, family=families["poisson"], offset=data.exposure).fit(tol=1e-14, maxiter=200)
found["offset"] = offset.params.tolist()
Path("glm.json").write_text(json.dumps(found))
