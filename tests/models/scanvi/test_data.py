"""Which labels are read, and what means that there is none."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from tests.models.scanvi.conftest import SMALL, N

import infl
from infl.errors import DataError, InflWarning, SettingsError
from infl.models.scanvi import Scanvi

pytestmark = pytest.mark.needs("scvi")


def test_what_a_user_can_mend(hospitals: dict[str, AnnData]) -> None:
    with pytest.raises(SettingsError, match="model='scanvi' needs target="):
        Scanvi().agree(hospitals)
    with pytest.raises(DataError, match=r"obs\['kind'\] has 0 classes over all sites"):
        Scanvi(target="kind").agree(hospitals)


def test_a_hospital_with_one_class_of_labels(hospitals: dict[str, AnnData]) -> None:
    name = next(iter(hospitals))
    adata = hospitals[name]
    first = sorted(set(adata.obs["cell_type"].dropna().astype(str)) - {"unknown"})[0]
    hospitals[name] = adata[(adata.obs["cell_type"].astype(str) == first).to_numpy()].copy()
    hospitals["tiny"] = hospitals[name][:1].copy()
    hospitals["tiny"].obs_names = ["one more"]
    methods = ["alone", "infl", "infl_personal", "baseline"]
    with pytest.warns(InflWarning) as said:
        table = infl.tl.compare(hospitals, "scanvi", target="cell_type", seeds=1, rounds=1, methods=methods, **SMALL)
    assert table["mean"].notna().all()
    texts = [str(w.message) for w in said]
    assert any(f"'{name} ({first})', 'tiny ({first})'" in text and "learn the site" in text for text in texts)
    assert any(f"'alone' is without {name}" in text for text in texts)
    with pytest.raises(DataError, match=r"is the only class"), pytest.warns(InflWarning):
        infl.tl.fit_federated({name: hospitals[name]}, "scanvi", target="cell_type", rounds=1, min_sites=1)


@pytest.mark.parametrize("none", ["unknown", "Unknown", " UNKNOWN ", "nan", "", "NaN", None])
@pytest.mark.parametrize("kind", [object, "category"])
def test_what_means_no_label_is_no_class(hospitals: dict[str, AnnData], none: str | None, kind: object) -> None:
    labels = hospitals["h1"].obs["cell_type"].astype(object)
    labels.iloc[:5] = none
    hospitals["h1"].obs["cell_type"] = labels.astype(kind)
    task = Scanvi(target="cell_type")
    panel = task.agree(hospitals)
    assert panel["classes"] == ["B", "NK", "T"]
    assert task.labels(hospitals["h1"], panel)[:6].tolist() == [-1] * 5 + [2]


@pytest.mark.parametrize("as_categories", [False, True])
def test_minus_one_is_no_label(hospitals: dict[str, AnnData], as_categories: bool) -> None:
    for site in ("h0", "h1"):
        numbers = np.arange(N) % 3
        numbers[:5] = -1
        hospitals[site].obs["cell_type"] = pd.Categorical(numbers) if as_categories else numbers
    task = Scanvi(target="cell_type")
    with pytest.warns(InflWarning, match="−1 in .* is taken for no label"):
        panel = task.agree(hospitals)
    assert panel["classes"] == ["0", "1", "2"]
    assert task.labels(hospitals["h1"], panel)[:6].tolist() == [-1] * 5 + [2]


@pytest.mark.parametrize("doubtful", ["Unassigned", "NA", "None", "-1"])
def test_what_may_mean_no_label_is_asked_about(hospitals: dict[str, AnnData], doubtful: str) -> None:
    hospitals["h0"].obs["cell_type"] = hospitals["h0"].obs["cell_type"].replace("unknown", None)
    hospitals["h1"].obs.loc[hospitals["h1"].obs_names[:5], "cell_type"] = doubtful
    with pytest.warns(InflWarning, match=f"{doubtful!r} in .* is learned as a class: .* set unlabelled={doubtful!r}"):
        Scanvi(target="cell_type").agree(hospitals)
    assert Scanvi(target="cell_type", unlabelled=doubtful).agree(hospitals)["classes"][0] == "B"


def test_ages_are_no_classes_and_whole_numbers_come_back(hospitals: dict[str, AnnData]) -> None:
    hospitals["h1"].obs["age"] = np.linspace(0, 90, N)
    with pytest.raises(DataError, match="'age' is numeric at h1"):
        Scanvi(target="age").agree(hospitals)
    for site in ("h0", "h1"):
        hospitals[site].obs["type"] = np.where(np.arange(N) < 5, np.nan, np.arange(N) % 3)
    infl.tl.fit_federated(hospitals, "scanvi", target="type", rounds=1, **SMALL)
    assert hospitals["h2"].obs["infl_prediction"].dtype == np.int64
