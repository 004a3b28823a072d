"""A site's own files decide: data, key, policy, a person's yes."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData

from infl.deploy.site_data import SiteSettings, stamp
from infl.deploy.site_folder import SiteFolder
from infl.deploy.specification import specification_digest
from infl.errors import DataError, FederationError, FileError, InflWarning, KeyringError, SettingsError
from infl.federation.agreement import Agreement
from infl.federation.checkpoint import Checkpoint
from infl.federation.exchanges import count_sum
from infl.federation.local import run_in_process
from infl.federation.messages import KEYS_KIND, Answer, Key, Plan
from infl.federation.site import Site
from infl.keys import Identity, Keyring
from infl.models import Classifier
from infl.models.registry import task_from_json
from infl.privacy import DP
from infl.privacy.seal import Context, Ledger, MaskedArrays, Packing, PairwiseSite

TASK = Classifier(target="label", width=8, n_blocks=1)


@pytest.fixture
def agreement(small_sites: dict[str, AnnData], key: Keyring) -> Agreement:
    return Agreement.new(TASK, TASK.agree(small_sites), small_sites, key, seal="pairwise")


@pytest.fixture
def site_folder(
    small_sites: dict[str, AnnData], key: Keyring, identities: dict[str, Identity], tmp_path: Path
) -> SiteFolder:
    small_sites["site_1"].write_h5ad(tmp_path / "cohort.h5ad")
    identities["site_1"].save(tmp_path / "me.key")
    key.granted("site_1").save(tmp_path / "ring.key")
    site_folder = SiteFolder(tmp_path / "site_1")
    site_folder.home.mkdir()
    (site_folder.home / "policy.toml").write_text("ask = false\ntargets = ['label']\npanels = ['*']\n")
    files = (tmp_path / name for name in ("cohort.h5ad", "ring.key", "me.key"))
    site_folder.save_settings(SiteSettings("site_1", *map(str, files)))
    return site_folder


def changed(site_folder: SiteFolder, **settings: str) -> SiteFolder:
    site_folder.save_settings(SiteSettings(**{**asdict(site_folder.settings), **settings}))
    return site_folder


def plan(agreement: Agreement, kind: str, peers: dict[str, bytes]) -> Plan:
    a = agreement
    due = count_sum(task_from_json(a.task, a.options), a.panel).packing if kind == "count" else Packing(())
    lanes = due.lanes
    return Plan(
        a.run, 0, kind, 0, 0, a.sites, lanes, a.digest, a.key_version, a.fingerprint, (), peers=peers
    )  # fmt: skip


@pytest.fixture
def others(identities: dict[str, Identity], agreement: Agreement, key: Keyring) -> dict[str, bytes]:
    """What the other sites advertise."""
    secret = key.subkey("seal", version=1, salt=bytes.fromhex(agreement.salt))
    return {
        name: PairwiseSite(name, secret, agreement.run, identity=identity).advertise()
        for name, identity in identities.items()
        if name != "site_1"
    }


def count(site: Site, others: dict[str, bytes]) -> Plan:
    """The first plan, after the site was asked for its key."""
    agreement = site.replica.agreement
    public = site.handle(plan(agreement, KEYS_KIND, {}))
    assert isinstance(public, Key)
    return plan(agreement, "count", others | {"site_1": public.public})


def test_a_site_is_made_and_goes_on_where_it_was(
    site_folder: SiteFolder, agreement: Agreement, others: dict[str, bytes]
) -> None:
    site = site_folder.prepare(agreement)
    asked = count(site, others)
    first, again = site.handle(asked), site.handle(asked)
    assert isinstance(first, Answer)
    assert isinstance(again, Answer)
    assert first.words.digest() == again.words.digest()  # the same bytes within one start
    assert site.ledger is not None
    site.ledger.close()
    again = site_folder.prepare(agreement)
    assert again.noise_key == site.noise_key
    with pytest.raises(FederationError, match="site_1: the keys are not those of its last start"):
        again.handle(asked)
    second = again.handle(count(again, others))
    assert isinstance(second, Answer)
    assert first.words.digest() != second.words.digest()
    kinds = [entry["kind"] for entry in site_folder.ledger(site_folder.run_folder(agreement))]
    assert kinds == ["0:keys", "0:count", "0:keys", "0:count"]
    assert again.trainer.own.now.weights.equal(torch.empty(0))
    assert len(again.replica.programme.exchanges) > 20


def test_nothing_of_a_run_is_named_by_it(site_folder: SiteFolder, agreement: Agreement) -> None:
    """A specification cannot reach a file of the site's choice: its folder follows from a random name."""
    with pytest.raises(FederationError, match="random name"):
        site_folder.prepare(replace(agreement, run="../../elsewhere"))


def test_refusals(
    site_folder: SiteFolder, agreement: Agreement, small_sites: dict[str, AnnData], tmp_path: Path
) -> None:
    with pytest.raises(FederationError, match=r"site_1 refuses: .* rounds"):
        site_folder.prepare(replace(agreement, rounds=100_000))
    with pytest.raises(FederationError, match="not a site of this run"):
        site_folder.prepare(replace(agreement, sites=("a", "b", "c")))
    with pytest.raises(KeyringError, match="wrong key"):
        site_folder.prepare(replace(agreement, fingerprint="abcd"))
    with pytest.raises(KeyringError, match="version 7"):
        site_folder.prepare(replace(agreement, key_version=7))
    with pytest.raises(KeyringError, match="need a key, and none is named"):
        replace(agreement, fingerprint="")
    fewer = {**agreement.panel, "classes": ["a", "b"]}
    with pytest.raises(DataError, match="site_1 has 'c', which is not a class of the run"):
        site_folder.prepare(replace(agreement, panel=fewer))
    with pytest.raises(FileError, match=r"site_1: cannot read .*gone\.h5ad"):
        changed(site_folder, data=str(tmp_path / "gone.h5ad")).prepare(agreement)


def test_only_members_of_the_sites_own_trail(
    site_folder: SiteFolder, agreement: Agreement, identities: dict[str, Identity], key: Keyring, tmp_path: Path
) -> None:
    """The coordinator names whom it likes; a site takes part with those that its key holder granted, each an identity."""
    ghost = replace(agreement, sites=("site_1", "site_2", "ghost"))
    with pytest.raises(KeyringError, match="site_1: 'ghost' is no member in this site's copy of the grant trail"):
        site_folder.prepare(ghost)
    policy = site_folder.home / "policy.toml"
    policy.write_text(policy.read_text() + "seals = ['group', 'pairwise']\n")
    with pytest.raises(KeyringError, match="'ghost' is no member"):
        site_folder.prepare(replace(ghost, seal="group"))

    def ring_with(change: Callable[[Keyring], object]) -> None:
        ring = Keyring._from_roots(dict(key._roots))
        change(ring)
        ring.save(tmp_path / "ring.key", recipients=identities["site_1"], overwrite=True)

    def granted(ring: Keyring, **other: Identity | str) -> None:
        for name, identity in (identities | other).items():
            ring.grant(name, identity)

    for change, why in (
        (
            lambda r: granted(r, site_3=identities["site_3"].public),
            "'site_3' was granted without an identity: .* new site_3.pub",
        ),
        (lambda r: granted(r, site_1=Identity.create()), "ring does not have its identity: send site_1.pub"),
        (lambda r: granted(r, site_1=identities["site_1"].public), "ring does not have its identity"),
        (lambda r: r.grant("hospital", identities["site_1"]), "ring calls it 'hospital'"),
        (lambda r: (granted(r), r.revoke("site_4")), "'site_4' is no member"),
    ):
        ring_with(change)
        with pytest.raises(KeyringError, match=f"site_1: .*{why}"):
            site_folder.prepare(agreement)
    assert not list((site_folder.run_folder(agreement)).glob("ledgers/*"))  # refused before any work
    ring_with(granted)
    site_folder.prepare(agreement)


def test_what_a_site_keeps_is_under_its_own_key(
    site_folder: SiteFolder, agreement: Agreement, identities: dict[str, Identity], key: Keyring
) -> None:
    """Another member has the same ring: it opens neither the checkpoint nor forges a line of the ledger."""
    site = site_folder.prepare(agreement)
    site.on_change(site)
    assert site.ledger is not None
    site.ledger.record_other(agreement.run, 0, "refusal")
    site.ledger.close()
    folder = site_folder.run_folder(agreement)
    with pytest.raises(FileError, match="belongs to another key or run"):
        Checkpoint(folder).restore_sites(site.replica, {"site_1": site})
    other = identities["site_2"].subkey("checkpoint", salt=bytes.fromhex(agreement.run))
    with pytest.raises(FileError, match="belongs to another key or run"):
        Checkpoint(folder, other).restore_sites(site.replica, {"site_1": site})
    path = Checkpoint(folder).ledger_path("site_1")
    for wrong in (key.subkey("ledger"), identities["site_2"].subkey("ledger", salt=bytes.fromhex(agreement.run))):
        with pytest.raises(FileError, match="written under another key"):
            Ledger(path, wrong)
    assert [entry["kind"] for entry in site_folder.ledger(folder)] == ["0:refusal"]
    site_folder.prepare(agreement)


def test_data_that_changed_since_the_check(site_folder: SiteFolder, agreement: Agreement, tmp_path: Path) -> None:
    changed(site_folder, stamp=stamp(tmp_path / "cohort.h5ad")).prepare(agreement).ledger.close()  # type: ignore[union-attr]
    with (tmp_path / "cohort.h5ad").open("ab") as file:
        file.write(b" ")
    with pytest.raises(DataError, match=r"site_1: .*cohort\.h5ad has changed since it was checked"):
        site_folder.prepare(agreement)


@pytest.mark.parametrize("n_obs", [None, 1])
def test_a_site_with_one_class_joins_with_a_warning(
    small_sites: dict[str, AnnData],
    site_folder: SiteFolder,
    agreement: Agreement,
    others: dict[str, bytes],
    tmp_path: Path,
    n_obs: int | None,
) -> None:
    adata = small_sites["site_1"]
    adata[adata.obs["label"] == "a"][:n_obs].copy().write_h5ad(tmp_path / "cohort.h5ad")
    with pytest.warns(InflWarning, match=r"one class only of 'label' at 'site_1 \(a\)'"):
        site = site_folder.prepare(agreement)
    assert isinstance(site.handle(count(site, others)), Answer)


def test_a_run_with_one_class_is_refused(agreement: Agreement) -> None:
    with pytest.raises(DataError, match="'a' is the only class"):
        replace(agreement, panel={**agreement.panel, "classes": ["a"]})
    with pytest.raises(DataError, match="no observation has a label"):
        replace(agreement, panel={**agreement.panel, "classes": []})


def test_its_own_run_file_decides(site_folder: SiteFolder, agreement: Agreement) -> None:
    changed(site_folder, expects=specification_digest(agreement)).prepare(agreement).ledger.close()  # type: ignore[union-attr]
    with pytest.raises(FederationError, match=r"differs from this site's run\.toml"):
        site_folder.prepare(replace(agreement, local_epochs=2))


def test_a_persons_yes(site_folder: SiteFolder, agreement: Agreement) -> None:
    (site_folder.home / "policy.toml").write_text("ask = true")
    with pytest.raises(FederationError, match=f"infl site approve {agreement.digest[:12]}"):
        site_folder.prepare(agreement)
    with pytest.raises(FederationError, match="0 runs with digest 'abcdefgh'"):
        site_folder.approve("abcdefgh")
    assert site_folder.approve(agreement.digest[:12]) == agreement.digest
    site_folder.prepare(agreement)


def test_its_own_run_file_is_a_persons_yes(site_folder: SiteFolder, agreement: Agreement) -> None:
    (site_folder.home / "policy.toml").unlink()
    with pytest.raises(FederationError, match="a person must say yes"):
        site_folder.prepare(agreement)
    changed(site_folder, expects=specification_digest(agreement)).prepare(agreement)


def test_a_persons_yes_is_to_one_run(site_folder: SiteFolder, agreement: Agreement) -> None:
    """Else the coordinator had as many runs as it likes of what was agreed on once, each with a salt of its choice."""
    (site_folder.home / "policy.toml").unlink()
    changed(site_folder, expects=specification_digest(agreement)).prepare(agreement).ledger.close()  # type: ignore[union-attr]
    site_folder.prepare(agreement).ledger.close()  # type: ignore[union-attr]
    with pytest.raises(FederationError, match="a person must say yes"):
        site_folder.prepare(replace(agreement, run="0" * 32))
    changed(site_folder).prepare(replace(agreement, run="0" * 32))


def trained(site_folder: SiteFolder, agreement: Agreement, kind: str = "3:train") -> None:
    """Take part in a run up to an exchange, as far as the ledger says."""
    site = site_folder.prepare(agreement)
    assert site.ledger is not None
    context = Context(agreement.run, 1, 0, agreement.sites, kind, "")
    site.ledger.record(context, MaskedArrays(np.zeros(2, np.uint32), np.zeros(2, np.uint64)), sealed=True)
    site.ledger.close()


def test_a_site_trains_once_with_a_seed(site_folder: SiteFolder, agreement: Agreement) -> None:
    """The first update follows from it: two sums of which the site is in one would differ by that update."""
    trained(site_folder, agreement)
    trained(site_folder, agreement, "4:train")  # the same run goes on
    fewer = replace(agreement, run="0" * 32, sites=agreement.sites[:3], lock="field")
    for again in (fewer, replace(agreement, run="1" * 32), replace(fewer, rounds=3)):
        with pytest.raises(
            FederationError, match=f"trained with seed 0 before, in run {agreement.run[:12]}; its first"
        ):
            site_folder.prepare(again)
    trained(site_folder, replace(fewer, run="2" * 32, seed=1))
    with (site_folder.home / "policy.toml").open("a") as lines:
        lines.write("repeat_seeds = true\n")
    trained(site_folder, fewer)


def test_a_seed_of_a_run_that_never_trained_may_serve_again(site_folder: SiteFolder, agreement: Agreement) -> None:
    trained(site_folder, agreement, "0:count")
    site_folder.prepare(replace(agreement, run="0" * 32))


def test_of_two_runs_that_go_on_at_once_one_trains_with_a_seed(site_folder: SiteFolder, agreement: Agreement) -> None:
    """Both are taken on before either trains, and the coordinator asks for their first rounds at one time."""
    other = replace(agreement, run="0" * 32)
    first, second = site_folder.prepare(agreement), site_folder.prepare(other)
    due = [exchange.round for exchange in first.replica.programme.exchanges].index(1)
    for seq, sites in ((-1, (first, second)), (due - 1, (first, first))):
        for site in sites:
            site.replica.seq = seq
            site.on_change(site)
    second.replica.seq = due - 1
    with pytest.raises(FederationError, match=f"seed 0 before, in run {agreement.run[:12]}; its first"):
        second.on_change(second)
    assert first.ledger is not None
    first.ledger.close()
    site_folder.prepare(agreement)


def test_under_differential_privacy_seeds_are_not_what_an_update_follows_from(
    site_folder: SiteFolder, agreement: Agreement
) -> None:
    trained(site_folder, agreement)
    task = Classifier(**agreement.options).for_dp()
    dp = DP(noise_multiplier=2.0, delta=1e-3, accountant="rdp")
    private = replace(agreement, run="0" * 32, options=task.options(), privacy=dp.resolve(4)[0].to_json(), rounds=4)
    site_folder.prepare(private)


def test_another_run_under_a_runs_name_changes_nothing(site_folder: SiteFolder, agreement: Agreement) -> None:
    site_folder.prepare(agreement).ledger.close()  # type: ignore[union-attr]
    kept = site_folder.run_folder(agreement) / "agreement.json"
    before = kept.read_bytes()
    with pytest.raises(FederationError, match="under this run's name"):
        site_folder.prepare(replace(agreement, local_epochs=50))
    assert kept.read_bytes() == before


def test_a_line_for_people_has_no_control_characters(site_folder: SiteFolder) -> None:
    site_folder.log.note("refused \x1b[2J site")
    assert site_folder.log.events()[-1].endswith("refused ?[2J site")


def test_under_differential_privacy_nothing_is_summed_without_noise(
    site_folder: SiteFolder, agreement: Agreement
) -> None:
    private = DP(noise_multiplier=1.0, delta=1e-5).to_json()
    with pytest.raises(SettingsError, match="nothing but noisy sums"):
        site_folder.prepare(replace(agreement, privacy=private, seal="pairwise"))


def test_a_site_is_not_offered_runs_for_ever(site_folder: SiteFolder, agreement: Agreement) -> None:
    (site_folder.home / "policy.toml").write_text("max_runs = 2\n")
    for number in range(4):
        with pytest.raises(FederationError, match="a person must say yes" if number < 2 else "accepts no more"):
            site_folder.prepare(replace(agreement, run=f"{number:032x}"))
    with pytest.raises(FederationError, match="accepts no more"), site_folder.hold(replace(agreement, run="f" * 32)):
        pass
    assert len(list((site_folder.home / "runs").iterdir())) == 2


@pytest.mark.parametrize("listed", [False, True], ids=["closed", "control"])
def test_a_panel_that_nobody_said_yes_to_does_not_open_the_data(
    site_folder: SiteFolder, agreement: Agreement, listed: bool
) -> None:
    """Offers with one class more or less would learn by yes and no which classes are here."""
    panels = "panels = ['*']" if listed else f"panels = ['{agreement.panel_digest}']"
    (site_folder.home / "policy.toml").write_text(f"ask = false\ntargets = ['label']\n{panels}\n")
    said = set()
    for classes in (["a", "b"], ["a", "b", "c"]):  # of the site's three
        offer = replace(agreement, run=f"{len(classes):032x}", panel={**agreement.panel, "classes": classes})
        try:
            site_folder.prepare(offer)
            said.add("yes")
        except (DataError, FederationError) as error:
            said.add(str(error).split(";")[0])
    answer = "site_1 has 'c', which is not a class of the run: harmonise, or agree on it anew"
    assert said == ({"yes", answer} if listed else {"yes", "site_1: a person must say yes"})


def test_files_of_a_site_are_its_own(site_folder: SiteFolder, agreement: Agreement) -> None:
    site_folder.prepare(agreement)
    kept = [site_folder.home / "site.json", site_folder.run_folder(agreement) / "agreement.json"]
    assert {path.stat().st_mode & 0o777 for path in kept} == {0o600}


def test_without_settings(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"site\.json is missing: run `infl site start`"):
        SiteFolder(tmp_path).settings  # noqa: B018
    with pytest.raises(FileError, match="has no request"):
        SiteFolder(tmp_path).enrolled_name()


def test_one_process_at_a_time(site_folder: SiteFolder, agreement: Agreement, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infl.deploy.folders.WAIT", 0.0)
    with (
        site_folder.hold(agreement),
        pytest.raises(FileError, match="in use by another process"),
        site_folder.hold(agreement),
    ):
        pass


def test_events_are_lines(site_folder: SiteFolder) -> None:
    assert site_folder.log.events() == []
    site_folder.log.note("first")
    site_folder.log.note("second")
    assert [line.partition(" ")[2] for line in site_folder.log.events()] == ["first", "second"]


def test_what_stays_at_a_site_is_written_there_as_its_own_model(
    small_sites: dict[str, AnnData], site_folder: SiteFolder, key: Keyring
) -> None:
    plain, partial = (
        Agreement.new(TASK, TASK.agree(small_sites), small_sites, key, rounds=2, aggregation=rule, seal="pairwise")
        for rule in ("fedavg", "partial")
    )
    for agreement in (plain, partial):
        site_folder.prepare(agreement)  # makes the run's folder
        site_folder.finish(run_in_process(agreement, TASK, small_sites, key).sites["site_1"])
    assert site_folder.result(plain, key).site_models == {}
    run = site_folder.result(partial, key)
    assert "head.weight" not in run.model.effective(key)
    assert "head.weight" in run.site_models["site_1"].effective(key)


def test_digests_that_look_like_numbers_are_read_back_as_text(
    small_sites: dict[str, AnnData], site_folder: SiteFolder, key: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = "0" * 20 + "12e" + "34" * 20 + "5"  # a number to who guesses, and too large a one for pandas 2.3's parser
    agreement = Agreement.new(TASK, TASK.agree(small_sites), small_sites, key, rounds=2, seal="pairwise")
    site_folder.prepare(agreement)
    site = run_in_process(agreement, TASK, small_sites, key).sites["site_1"]
    frame = site.ledger.frame().assign(run="1e" + "0" * 30, context=digest, digest=digest)  # type: ignore[union-attr]
    monkeypatch.setattr(type(site.ledger), "frame", lambda ledger: frame)
    site_folder.finish(site)
    read = site_folder.result(agreement, key).ledger
    written = read.drop(columns=["sum", "says"])  # these follow from the task
    pd.testing.assert_frame_equal(written, frame.assign(site="site_1"), check_dtype=False)
