"""A site's account of differential privacy in a run: asked before it, charged before each sum."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from anndata import AnnData

from infl.deploy.site_data import SiteSettings
from infl.deploy.site_folder import SiteFolder
from infl.errors import FederationError, SealError
from infl.federation.agreement import Agreement
from infl.federation.coordinator import Coordinator
from infl.federation.local import LocalTransport
from infl.federation.replica import Replica
from infl.federation.site import Site
from infl.keys import Identity, Keyring
from infl.models import Classifier
from infl.privacy import DP
from infl.privacy.account import Account
from infl.privacy.dp import epsilon_of

TASK = Classifier(target="label", width=8, n_blocks=1).for_dp()


@pytest.fixture
def agreement(small_sites: dict[str, AnnData], key: Keyring) -> Agreement:
    dp = DP(noise_multiplier=2.0, delta=1e-3, noise="local", accountant="rdp", sample_rate=0.2)
    return Agreement.new(TASK, TASK.agree(small_sites), small_sites, key, rounds=2, privacy=dp)


Fit = Callable[..., None]


@pytest.fixture
def fit(small_sites: dict[str, AnnData], agreement: Agreement, key: Keyring) -> Fit:
    """Fit over all sites; site_1 has an account, and its seal may break down in training."""

    def fit(account: Account, *, torn: bool = False) -> None:
        replica = Replica(agreement, key)
        accounts = {"site_1": account}
        sites = {name: Site(name, a, replica, account=accounts.get(name)) for name, a in small_sites.items()}
        seal = replica.seal.seal

        def tearing(context: Any, *args: Any, **options: Any) -> Any:
            if context.kind.endswith("train"):
                raise SealError("no power")
            return seal(context, *args, **options)

        with pytest.MonkeyPatch.context() as patch:
            if torn:
                patch.setattr(replica.seal, "seal", tearing)
            list(Coordinator(agreement, replica.programme.exchanges, LocalTransport(sites)).run())

    return fit


def charged(folder: Path) -> list[int]:
    return [len(json.loads(path.read_text())["charged"]) for path in folder.glob("*.json")]


def test_a_sum_is_charged_before_it_is_sealed(fit: Fit, tmp_path: Path) -> None:
    """Opened or not: what was drawn may have been seen."""
    with pytest.raises(SealError, match="no power"):
        fit(Account(tmp_path), torn=True)
    assert charged(tmp_path) == [1]


def test_a_run_that_begins_again_draws_and_charges_nothing_anew(
    fit: Fit, small_sites: dict[str, AnnData], tmp_path: Path
) -> None:
    """Its noise follows from a secret of the site, and the count of other sites and models is the same."""
    with pytest.raises(SealError, match="no power"):
        fit(Account(tmp_path), torn=True)
    fit(Account(tmp_path))
    names = [f"record {name}" for name in small_sites["site_1"].obs_names]
    assert charged(tmp_path) == [2]  # two rounds, of which the first was drawn before
    assert Account(tmp_path).spent(names) == pytest.approx(epsilon_of([(2.0, 0.2, 2)], 1e-5, "rdp"))


def test_a_station_keeps_an_account_over_its_runs(
    small_sites: dict[str, AnnData],
    agreement: Agreement,
    key: Keyring,
    identities: dict[str, Identity],
    tmp_path: Path,
) -> None:
    small_sites["site_1"].write_h5ad(tmp_path / "cohort.h5ad")
    identities["site_1"].save(tmp_path / "me.key")
    key.granted("site_1").save(tmp_path / "ring.key")
    site_folder = SiteFolder(tmp_path / "site_1")
    site_folder.home.mkdir()
    site_folder.save_settings(
        SiteSettings("site_1", *(str(tmp_path / n) for n in ("cohort.h5ad", "ring.key", "me.key")))
    )
    two = epsilon_of([(2.0, 0.2, 2)], 1e-5, "rdp")
    policy = f"ask = false\ntargets = ['label']\npanels = ['*']\nseals = ['group']\nlifetime_epsilon = {two + 1e-6}\n"
    (site_folder.home / "policy.toml").write_text(policy)
    site = site_folder.prepare(agreement)
    assert site.ledger is not None
    site.ledger.close()
    assert site.account is not None
    assert site.noise_key == site.account.secret
    site.account.charge(b"a sum")
    with pytest.raises(FederationError, match="lifetime_epsilon"):
        site_folder.prepare(replace(agreement, run="0" * 32))
    site_folder.prepare(agreement).ledger.close()  # type: ignore[union-attr]  # the same one goes on
    (site_folder.home / "policy.toml").write_text(policy.replace("lifetime_epsilon", "max_epsilon = 0\n#"))
    site_folder.prepare(replace(agreement, run="0" * 32)).ledger.close()  # type: ignore[union-attr]  # the control
