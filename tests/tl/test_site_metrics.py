"""Metrics by site: a site with weights of its own is judged with them."""

import pandas as pd
from anndata import AnnData

import infl


def test_a_site_with_weights_of_its_own_is_judged_with_them(khan_sites: dict[str, AnnData]) -> None:
    run = infl.tl.fit_federated(
        khan_sites, target="tumour_class", standardise="site", rounds=3, validation=0.4, progress=False
    )
    name = "site_2"
    own = infl.tl.site_metrics(run, {name: khan_sites[name]})
    pd.testing.assert_frame_equal(
        own, infl.tl.site_metrics(run.site_models[name], {name: khan_sites[name]}, key=run.key)
    )
