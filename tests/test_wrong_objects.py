"""What is no data, no run and no table is refused in one line by every public function that takes some."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import infl
from infl.errors import DataError, InflError, SettingsError

NO_DATA: list[Any] = [
    None, 3, [], {}, "cohort.h5ad", pd.DataFrame({"a": [1]}), np.zeros((2, 2)), {"a": "b"}, {"a": None}, {"a": np.zeros((2, 2))}
]  # fmt: skip
GIVEN: dict[str, Any] = {
    "batch": "type", "by": "type", "keys": "type", "sample_key": "type", "groupby": "type", "target": "type", "reference": "type",
    "time": "months", "event": "died", "formula": "age", "design": "~ type", "size": 50.0, "space": {"lr": [0.1]}, "modality": "rna",
    "gene_list": ["g0"], "s_genes": ["g0"], "g2m_genes": ["g1"], "conditions": ["g0"],
}  # fmt: skip
FUNCTIONS = {
    f"{module.__name__.removeprefix('infl.')}.{name}": getattr(module, name)
    for module in (infl.pp, infl.tl, infl.pl)
    for name in module.__all__
    if inspect.isfunction(getattr(module, name))
}


def taking(*names: str) -> dict[str, tuple[Callable[..., Any], str, dict[str, Any]]]:
    """Functions with a parameter of one of these names, which it is, and what else they need."""
    found = {}
    for called, function in FUNCTIONS.items():
        parameters = inspect.signature(function).parameters
        name = next((name for name in names if name in parameters), None)
        if name is not None:
            needed = [n for n, p in parameters.items() if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
            found[called] = function, name, {n: GIVEN[n] for n in needed if n in GIVEN}
    return found


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(InflError) as error:
        call()
    line = str(error.value)
    assert line and "\n" not in line
    return line


@pytest.fixture(scope="module")
def run() -> Any:
    sites = {name: adata[:, :50].copy() for name, adata in infl.datasets.khan_sites().items()}
    return infl.tl.fit_federated(sites, target="tumour_class", rounds=1, progress=False)


DATA = taking("sites", "adata", "query", "mdata")


@pytest.mark.parametrize("called", sorted(set(DATA) - {"pp.obs_column"}))
@pytest.mark.filterwarnings("ignore")
def test_what_is_no_data(run: Any, called: str) -> None:
    function, name, others = DATA[called]
    models = {n: run for n in ("model", "run", "reference") if n in inspect.signature(function).parameters}
    models = {} if called in ("tl.fit_federated", "tl.compare", "tl.tune") else models
    models = {n: run for n in models if others.get(n) is None or called == "tl.map_to"}
    for wrong in NO_DATA:
        refused(lambda wrong=wrong: function(**{name: wrong} | others | models))


@pytest.mark.parametrize("wrong", NO_DATA[:-3], ids=lambda wrong: type(wrong).__name__)
def test_what_is_no_run(wrong: Any, tmp_path: Any) -> None:
    with pytest.raises(SettingsError, match=f"what infl.tl.fit_federated returned, not {type(wrong).__name__}"):
        infl.governance.report(wrong, tmp_path / "report.html")
    with pytest.raises(DataError, match="adata= is AnnData or MuData"):
        infl.privacy.spent(wrong)


@pytest.mark.parametrize(
    "draw", ["audit", "compare", "forest", "importance", "lock", "mean_variance", "survival", "volcano"]
)
def test_what_is_no_table(draw: str) -> None:
    for wrong in NO_DATA:
        refused(lambda wrong=wrong: getattr(infl.pl, draw)(wrong))


def objects(n_obs: int = 6, n_vars: int = 4) -> dict[str, AnnData]:
    obs = pd.DataFrame({"type": list("xyxyxy")[:n_obs], "found": list("001122")[:n_obs]})
    made = {
        name: AnnData(np.full((n_obs, n_vars), 0.5), obs=obs.set_index(obs.index.map(lambda i, s=name: f"{s}{i}")))
        for name in "abc"
    }
    for adata in made.values():
        adata.obsm["spatial"] = np.arange(2.0 * n_obs).reshape(n_obs, 2)
    return made


@pytest.mark.parametrize(
    "call",
    [lambda s: infl.pp.combat(s, "type"), lambda s: infl.tl.rank_genes_groups(s, "type"), infl.pp.moments],
    ids=range(3),
)
def test_sites_without_features(call: Callable[[Any], Any]) -> None:
    assert refused(lambda: call(objects(n_vars=0))) == "a has no features: give an object with values of some"


def test_pictures_of_nothing() -> None:
    nothing = {name: adata[:0].copy() for name, adata in objects().items()}
    assert "no observation has both" in refused(lambda: infl.pl.confusion(nothing, "type", found="found"))
    assert "a has no observations" in refused(lambda: infl.pl.spatial(nothing, "type"))
    assert "a has no observations" in refused(lambda: infl.pl.sites(nothing, "type"))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda s: infl.pp.combat(s, ""), "without a name"),
        (lambda s: infl.pp.remove_batch_effect(s, "type", covariates=" "), "without a name"),
        (lambda s: infl.pp.regress_out(s, ""), "without a name"),
        (lambda s: infl.pp.regress_out(s, []), "keys= names no column"),
        (lambda s: infl.tl.de(s, "~ type", contrast=3), "contrast=3: give (column, group, baseline)"),  # type: ignore[arg-type]
        (lambda s: infl.tl.de(s, "~ type", contrast=b"type"), "give (column, group, baseline)"),  # type: ignore[arg-type]
    ],
    ids=range(6),
)  # fmt: skip
def test_columns_and_contrasts_that_are_none(call: Callable[[Any], Any], said: str) -> None:
    assert said in refused(lambda: call(objects()))
