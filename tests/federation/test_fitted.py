"""What a fit trained on and what it held out are read again from its model."""

import numpy as np
from anndata import AnnData

import infl
from infl.federation.agreement import Agreement
from infl.federation.fitted import read_as_fitted
from infl.federation.local import run_in_process


def test_a_model_reads_what_its_sites_read(khan_sites: dict[str, AnnData]) -> None:
    task, key = infl.models.Classifier(target="tumour_class", width=4, n_blocks=0), infl.keys.Keyring.create()
    agreement = Agreement.new(task, task.agree(khan_sites), khan_sites, key, rounds=1, seed=7)
    outcome = run_in_process(agreement, task, khan_sites, key)
    parts = []
    for site, member in outcome.sites.items():
        data = read_as_fitted(outcome.run.model, khan_sites[site], site)
        np.testing.assert_array_equal(data.train, member.data.train)
        np.testing.assert_array_equal(data.validation, member.data.validation)
        other = read_as_fitted(outcome.run.model, khan_sites[site], "another name")
        parts.append(np.array_equal(other.validation, data.validation))
    assert not all(parts)  # the name has its part in the choice
