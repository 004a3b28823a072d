"""Small sites that train in milliseconds."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from hypothesis import strategies as st

import infl
from infl.federation.agreement import Agreement
from infl.federation.coordinator import Reply, Transport
from infl.federation.local import run_in_process
from infl.federation.messages import (
    Alive,
    Answer,
    Applied,
    Consent,
    Done,
    Heard,
    Key,
    Offer,
    Plan,
    Reveal,
    Said,
    Stopped,
    StudyOffer,
    Subtotal,
    Total,
    Trouble,
)
from infl.federation.wire import LANE_FORMATS, MAGIC, VERSION
from infl.keys import Identity, Keyring
from infl.models import Classifier
from infl.privacy.seal import MaskedArrays, Revealed


def make_sites(n_sites: int = 4, n_obs: int = 12, n_vars: int = 8, seed: int = 0) -> dict[str, AnnData]:
    """Three well separated classes at each site; sites differ in size."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(3, n_vars)) * 2
    sites = {}
    for i in range(n_sites):
        y = np.arange(n_obs + i) % 3
        x = (centers[y] + rng.normal(size=(len(y), n_vars))).astype(np.float32)
        obs = pd.DataFrame(
            {"label": pd.Categorical.from_codes(y, ["a", "b", "c"])}, index=[f"{i}_{j}" for j in range(len(y))]
        )
        sites[f"site_{i + 1}"] = AnnData(x, obs=obs, var=pd.DataFrame(index=[f"g{j}" for j in range(n_vars)]))
    return sites


@pytest.fixture
def small_sites() -> dict[str, AnnData]:
    return make_sites()


@pytest.fixture
def identities(small_sites: dict[str, AnnData]) -> dict[str, Identity]:
    return {name: Identity.create() for name in small_sites}


@pytest.fixture
def key(identities: dict[str, Identity]) -> Keyring:
    """A ring that was granted to the sites."""
    ring = Keyring.create()
    for name, identity in identities.items():
        ring.grant(name, identity)
    return ring


OPTIONS = {"target": "label", "width": 8, "n_blocks": 1, "progress": False, "rounds": 4}


def fit(sites: dict[str, AnnData], **options: object) -> object:
    return infl.tl.fit_federated({s: a.copy() for s, a in sites.items()}, **{**OPTIONS, **options})


def weights(run) -> torch.Tensor:
    key = run.key if run.model.header.fingerprint else None
    return torch.cat([t.ravel() for t in run.model.effective(key).values()])


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@dataclass
class TappedTransport:
    """A transport with somebody on the line, who may lose or change answers and plans."""

    inner: Transport
    on_answer: Callable[[Plan, Answer], Reply | None] = lambda plan, reply: reply
    on_plan: Callable[[str, Plan], Plan] = lambda site, plan: plan
    asked: list[Plan] = field(default_factory=list)

    def ask(self, cohort: tuple[str, ...], plan_for: Callable[[str], Plan]) -> Iterator[Reply]:
        plans: dict[str, Plan] = {}

        def plan(site: str) -> Plan:
            plans[site] = self.on_plan(site, plan_for(site))
            self.asked.append(plans[site])
            return plans[site]

        for reply in self.inner.ask(cohort, plan):
            changed = self.on_answer(plans[reply.site], reply) if isinstance(reply, Answer) else reply
            if changed is not None:
                yield changed

    def holder(self, site: str) -> str:
        return self.inner.holder(site)


def run_over(sites: dict[str, AnnData], wrap: Callable[[Transport], Transport], **settings: object):
    task = Classifier(target="label", width=8, n_blocks=1)
    key = Keyring.create()
    agreement = Agreement.new(task, task.agree(sites), sites, key, **{"rounds": 4, **settings})
    return run_in_process(agreement, task, sites, key, wrap=wrap).run


names = st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=12)


numbers = st.integers(0, 1 << 53)


blobs = st.binary(max_size=40)


tables = st.dictionaries(names, blobs, max_size=3)


sites = st.lists(names, max_size=4, unique=True).map(tuple)


lanes = st.builds(
    lambda low, high, of_all: MaskedArrays(np.asarray(low, "<u4"), np.asarray(high, "<u8"), np.asarray(of_all, "<u8")),
    st.lists(st.integers(0, 2**32 - 1), max_size=5),
    st.lists(st.integers(0, 2**64 - 1), max_size=5),
    st.lists(st.integers(0, 2**64 - 1), max_size=5),
)


totals = st.builds(Total, numbers, names, numbers, numbers, sites, sites, lanes)


plans = st.builds(
    Plan, names, numbers, names, numbers, numbers, sites, st.tuples(numbers, numbers, numbers), names, numbers, names,
    st.lists(totals, max_size=2).map(tuple), tables, sites, tables,
)  # fmt: skip


messages = st.one_of(
    plans,
    totals,
    st.builds(Answer, names, names, numbers, numbers, numbers, names, lanes, tables),
    st.builds(
        Subtotal,
        names,
        names,
        numbers,
        numbers,
        numbers,
        names,
        sites,
        lanes,
        st.dictionaries(names, tables, max_size=2),
    ),
    st.builds(Stopped, names, numbers),
    st.builds(Key, names, numbers, blobs),
    st.builds(Applied, names, numbers),
    st.builds(Reveal, names, numbers, st.builds(Revealed, names, tables, tables)),
    st.builds(Offer, names, blobs),
    st.builds(Consent, names, names, names, names, names, numbers),
    st.builds(Trouble, names, numbers, names),
    st.builds(Alive, names, numbers, numbers, names),
    st.builds(Done, names, numbers),
    st.builds(StudyOffer, names, blobs),
    st.builds(Said, names, names, numbers, numbers, names, lanes, blobs),
    st.builds(Heard, names, numbers, numbers, lanes, tables),
)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, MaskedArrays):
        return all(np.array_equal(getattr(a, lane), getattr(b, lane)) for lane in LANE_FORMATS)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if is_dataclass(a):
        return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    return a == b


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def framed(header: bytes, buffers: bytes = b"") -> bytes:
    header += b" " * (-len(header) % 8)
    return MAGIC + VERSION.to_bytes(4, "little") + len(header).to_bytes(4, "little") + bytes(4) + header + buffers
