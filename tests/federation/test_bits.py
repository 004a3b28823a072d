"""Updates of a few bits per weight: agreed on, the same wherever they are made, and smaller."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from anndata import AnnData
from tests.deploy.test_remote import House

import infl
from infl.deploy.runfile import RunFile
from infl.errors import FederationError, SettingsError
from infl.federation.agreement import Agreement
from infl.federation.exchanges import training_sum
from infl.federation.initial import build_flat_model
from infl.federation.local import run_in_process
from infl.federation.messages import Answer
from infl.federation.packings import HEADROOM, rescaled, update_exponent
from infl.federation.settings import RunSettings
from infl.federation.wire import decode, encode
from infl.keys import Keyring
from infl.models import Classifier
from infl.privacy.seal import Field, MaskedArrays, Packing
from infl.sums.lanes import MOST_STEPS_AT_ONCE, WIDER_COUNT, fitted, split_sums

FIT = {"target": "label", "width": 8, "n_blocks": 1, "rounds": 3, "progress": False}
pytestmark = pytest.mark.filterwarnings("ignore:seal='none'")


def agreement(sites: dict[str, AnnData], **settings: object) -> tuple[Classifier, Agreement, Keyring]:
    task, key = Classifier(target="label", width=8, n_blocks=1), Keyring.create()
    return task, Agreement.new(task, task.agree(sites), sites, key, **{"rounds": 3, "bits": 8, **settings}), key


def test_agreements_have_bits_where_there_are_some(small_sites):
    _, some, _ = agreement(small_sites)
    assert Agreement.from_json(some.to_json()) == some and some.settings()["bits"] == 8
    none = replace(some, bits=None)
    assert "bits" not in none.to_json() and none.digest != some.digest
    assert RunSettings.of(some.settings()).bits == 8 and RunSettings.of(none.settings()).bits is None


def test_between_machines_the_same_bits_as_in_process(small_sites, tmp_path: Path):
    with House(small_sites, tmp_path, bits=8).open() as house:
        house.coordinator().run()
    for replica in house.results.values():
        assert torch.equal(replica.theta, house.expected())


def test_in_a_stack_as_one_after_the_other(small_sites):
    task, agreed, key = agreement(small_sites)
    together, apart = (
        run_in_process(agreed, task, small_sites, key, stacked=stacked).replica.theta for stacked in (True, False)
    )
    assert (together != apart).float().mean() < 0.05  # rounding of a float may turn one of a step
    torch.testing.assert_close(together, apart, atol=2e-3, rtol=0)


def test_one_seed_and_resuming_give_the_same_bits(small_sites, tmp_path: Path):
    key, protection = Keyring.create(), infl.Protection(bits=5, seal="pairwise")
    written = []
    for folder, rounds in ((tmp_path / "a", 3), (tmp_path / "b", 3)):
        infl.tl.fit_federated(
            small_sites, key=key, protection=protection, checkpoint=folder, **FIT | {"rounds": rounds}
        )
        written.append(np.concatenate([a.obsm["X_infl"] for a in small_sites.values()]))
    np.testing.assert_array_equal(*written)
    run = infl.tl.fit_federated(
        small_sites, key=key, protection=protection, checkpoint=tmp_path / "a", resume=True, **FIT
    )
    assert len(run.history) == 3 and run.settings["bits"] == 5


def test_the_history_has_the_bytes_that_travelled(small_sites):
    sent = {}
    for bits in (None, 8):
        run = infl.tl.fit_federated(small_sites, protection=infl.Protection(bits=bits), **FIT | {"width": 256})
        sent[bits] = run.history["bytes_sent"].iloc[-1]
    n = len(small_sites)
    assert sent[None] / sent[8] > 0.95 * 32 / (8 + int(np.ceil(np.log2(n))))


def test_a_run_file_says_the_bits(tmp_path: Path):
    path = tmp_path / "run.toml"
    template = RunFile.template("classifier").replace('fingerprint = ""', 'fingerprint = "ab"')
    for line, bits in (("", None), ("bits = 8", 8)):
        path.write_text(template.replace("# bits = 8 ", f"{line} "))
        assert RunFile.read(path).fit.bits == bits
    path.write_text(template.replace("# bits = 8 ", "bits = 2 "))
    with pytest.raises(SettingsError, match="bits=2: give a whole number of at least 4, at most 16"):
        RunFile.read(path)


def test_a_site_that_clips_marks_the_array_with_one_word(small_sites):
    task, some, _ = agreement(small_sites)
    shared = build_flat_model(task, some).shared
    packings = [training_sum(task, replace(some, bits=bits), shared).packing for bits in (None, 8)]
    shapes = [next(f.shape for f in packing.fields if f.name == WIDER_COUNT) for packing in packings]
    assert shapes == [(len(shared.entries), MOST_STEPS_AT_ONCE), (len(shared.entries), 1)]
    assert packings[0].n64 - packings[1].n64 == len(shared.entries) * (MOST_STEPS_AT_ONCE - 1)


def test_what_does_not_go_together_is_refused_in_one_line(small_sites):
    for options, why in (
        ({"privacy": infl.privacy.DP(epsilon=8, delta=1e-3, clip_norm=1.0)}, "bits= goes without privacy="),
        ({"aggregation": "scaffold"}, "bits= goes without aggregation='scaffold'"),
    ):
        with pytest.raises(SettingsError, match=why):
            infl.tl.fit_federated(small_sites, protection=infl.Protection(bits=8), **FIT, **options)
    with pytest.raises(
        SettingsError, match="protection: bits=2: give a whole number of at least 4, at most 16, or None"
    ):
        infl.Protection(bits=2)


def test_scales_follow_the_last_sum():
    packing = Packing((Field("w", (3,), -20), Field("b", (2,), -20)), 12)
    quiet = np.zeros((2, 1))
    top = 1 << 11
    small = rescaled({"w": 2}, quiet, np.array([3, -5, 0, 0, 0], np.int32), packing)
    assert small["w"] == 2 + int(np.ceil(np.log2(HEADROOM * 5 / top))) and small["b"] == -1
    wide = rescaled({}, quiet, np.array([top // 2, 0, 0, 1, 1], np.int32), packing)
    assert wide["w"] == 1
    assert rescaled({}, np.ones((2, 1)), np.array([3, 0, 0, 1, 1], np.int32), packing) == {"w": 1, "b": 1}
    assert update_exponent(1e-2, 1, 12) < update_exponent(1e-2, 1, 9)


def test_values_out_of_range_are_clipped_and_marked_but_those_that_are_no_numbers_are_left_out():
    fields = (
        Field("w", (3,), -8),
        Field("left_out", (), 0, bits=64),
        Field(WIDER_COUNT, (1, 1), 0, bits=64),
    )
    packing = Packing(fields, 12)
    update = np.array([0.01, 1e3, -0.01])
    kept, high, fits = fitted(update, {}, packing, 3, weight=0.5)
    assert fits and kept is update and split_sums(high, packing)[WIDER_COUNT].any()
    assert split_sums(high, packing)["left_out"] == 0
    kept, high, fits = fitted(np.array([0.0, np.nan, 1.0]), {}, packing, 3, weight=0.5)
    assert not fits and not kept.any() and split_sums(high, packing)["left_out"] == 1


def test_messages_have_packed_words_and_others_are_refused():
    low = np.array([0, 5, 511], np.uint32)
    words = MaskedArrays(low, np.arange(2, dtype=np.uint64), width=9)
    message = Answer("a", "run", 0, 0, 1, "", words)
    content = encode(message)
    back = decode(content).words
    assert back.lanes == words.lanes == (3, 2, 0, 9) and back.low.tolist() == low.tolist()
    assert len(content) <= len(encode(replace(message, words=replace(words, width=32))))
    for wrong in (b"[3,2,0,3]", b"[3,2,0,33]", b"[9,2,0,9]"):
        with pytest.raises(FederationError, match="refused"):
            decode(content.replace(b"[3,2,0,9]", wrong))
