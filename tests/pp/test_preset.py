"""Defaults under scanpy's presets, which scanpy has from 1.13 on."""

from types import SimpleNamespace

import pytest
import scanpy as sc

import infl
from infl.errors import SettingsError


@pytest.fixture
def preview(monkeypatch):
    """Scanpy's preview of version 2, by its own preset where there is one."""
    if hasattr(sc, "Preset"):
        preset = sc.Preset.ScanpyV2Preview
    else:
        preset = SimpleNamespace(
            highly_variable_genes=SimpleNamespace(flavor="seurat_v3_paper"),
            pca=SimpleNamespace(key_added="pca"),
            scale=SimpleNamespace(zero_center=None),
        )
    monkeypatch.setattr(type(sc.settings), "preset", preset, raising=False)


def test_the_preview_changes_defaults(count_sites, preview):
    infl.pp.highly_variable_genes(count_sites, n_top_genes=50)
    assert count_sites["s0"].uns["hvg"]["flavor"] == "seurat_v3_paper"
    infl.pp.normalize_total(count_sites)
    infl.pp.log1p(count_sites)
    infl.pp.pca(count_sites, n_comps=3)
    assert "pca" in count_sites["s0"].obsm and "X_pca" not in count_sites["s0"].obsm
    with pytest.raises(SettingsError, match="no default for zero_center=: give True or False"):
        infl.pp.scale(count_sites)
    infl.pp.scale(count_sites, zero_center=False)


def test_what_is_given_counts_under_the_preview_too(count_sites, preview):
    infl.pp.normalize_total(count_sites)
    infl.pp.log1p(count_sites)
    infl.pp.highly_variable_genes(count_sites, n_top_genes=50, flavor="seurat")
    infl.pp.pca(count_sites, n_comps=3, key_added="mine")
    assert count_sites["s0"].uns["hvg"]["flavor"] == "seurat" and "mine" in count_sites["s0"].obsm
