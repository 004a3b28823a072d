"""Model card and data sheet say what is known, and no small number."""

from pathlib import Path
from typing import Any

import infl
from infl.governance import Facts, data_sheet, model_card


def test_sections_are_those_of_the_papers(usual: Any) -> None:
    card, sheet = model_card(Facts(usual.run)), data_sheet(Facts(usual.run))
    mitchell = "model_details intended_use factors metrics evaluation_data training_data quantitative_analyses"
    assert [*card][2:-1] == [*mitchell.split(), "ethical_considerations", "caveats_and_recommendations"]
    gebru = "motivation composition collection_process preprocessing_cleaning_labeling uses distribution maintenance"
    assert [*sheet][3:-1] == gebru.split()


def test_no_key_no_identity_and_no_path_is_in_it(usual: Any, audit, tmp_path: Path) -> None:
    infl.governance.report(usual.run, tmp_path / "report.html", audit=audit)
    ring = usual.key
    assert ring is not None
    secrets = [ring._roots[1], ring._signer, *(ring.subkey(label) for label in infl.keys.SUBKEY_LABELS)]
    members = [member.recipient for member in ring.members.values()]
    for file in tmp_path.iterdir():
        content = file.read_bytes()
        for secret in secrets:
            assert secret not in content and secret.hex().encode() not in content
        for recipient in members:
            assert recipient.encode() not in content
        assert str(tmp_path).encode() not in content and str(Path.home()).encode() + b"/" not in content
    assert {p.name for p in tmp_path.iterdir()} == {
        "report.html", "report.model_card.json", "report.data_sheet.json"
    }  # fmt: skip


def test_a_model_that_another_one_is_in_is_said(usual: Any, tmp_path: Path) -> None:
    run = infl.tl.fit_federated(usual.sites, init=usual.run, rounds=1, progress=False)
    digest = usual.run.model.header.digest
    infl.governance.report(run, tmp_path / "report.html")
    assert f"model {digest[:16]}" in (tmp_path / "report.html").read_text()
    assert digest in (tmp_path / "report.model_card.json").read_text()
