"""Settings of differential privacy: what is wrong, of a module too, is one line with the remedy."""

import sys

import pytest
from anndata import AnnData
from tests.privacy.conftest import SETTINGS
from torch import nn

import infl
from infl.errors import MissingExtraError, SettingsError
from infl.nn.mlp import ResidualMLP
from infl.privacy import DP
from infl.privacy.dp import (
    check_module,
)


@pytest.mark.parametrize(
    ("settings", "pattern"),
    [
        ({"epsilon": 1.0}, "delta=None"),
        ({"epsilon": 1.0, "delta": 0.0}, "delta=0"),
        ({"epsilon": 1.0, "delta": 1e-5, "clip_norm": None}, "clip_norm=None"),
        ({"delta": 1e-5}, "epsilon="),
        ({"epsilon": -1.0, "delta": 1e-5}, "epsilon=-1"),
        ({"epsilon": 1.0, "delta": 1e-5, "sample_rate": 0.0}, "sample_rate=0"),
        ({"epsilon": 1.0, "delta": 1e-5, "noise": "loud"}, "noise='loud'"),
        ({"epsilon": 1e-3, "delta": 1e-5, "noise_multiplier": 0.5}, "one round costs"),
        ({"epsilon": 1.0, "delta": 0.02}, "below 1/n"),
    ],
)
def test_bad_settings_are_one_line(khan_sites: dict[str, AnnData], settings: dict[str, object], pattern: str) -> None:
    with pytest.raises(SettingsError, match=pattern) as error:
        infl.tl.fit_federated(khan_sites, privacy=DP(**settings), **SETTINGS)
    assert "\n" not in str(error.value)
    assert all("infl" not in a.uns for a in khan_sites.values())


def test_all_that_is_wrong_with_a_module_is_said_with_the_remedy() -> None:
    with pytest.raises(SettingsError, match=r"1 \(BatchNorm1d\) mixes the records of a batch: use LayerNorm"):
        check_module(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)))
    with pytest.raises(SettingsError) as error:
        check_module(nn.Sequential(nn.BatchNorm1d(3), nn.LSTM(3, 3), nn.MultiheadAttention(4, 2)))
    for part in ("0 (BatchNorm1d)", "1 (LSTM)", "DPLSTM", "2 (MultiheadAttention)"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)
    check_module(ResidualMLP(3, 2))


def test_missing_opacus_gives_the_line_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opacus", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'infl\[dp\]'"):
        DP(epsilon=2.5, delta=1e-4).resolve(7)
