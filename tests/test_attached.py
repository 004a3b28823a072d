"""Loading what is used first does not set the garbage collector to work, and leaves it as it was."""

import gc
import subprocess
import sys
from collections.abc import Callable

import pytest

from infl._attached import attach

COUNT = """
import gc
runs = []
gc.callbacks.append(lambda phase, about: runs.append(about["generation"]))
import infl
infl.datasets.khan_sites, infl.tl.fit_federated
print(len(runs), gc.isenabled(), gc.get_freeze_count())
"""


def test_nothing_is_collected_while_torch_and_anndata_are_loaded() -> None:
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    runs, enabled, frozen = done.stdout.split()
    assert int(runs) <= 10  # before and after; there are hundreds otherwise
    assert (enabled, frozen) == ("True", "0")


@pytest.fixture
def find() -> Callable[[str], object]:
    """Return what looks names up: one that is there, one in a module that is not."""
    return attach("infl.sums", submod_attrs={"shape": ["FederatedSum"], "none": ["absent"]})[0]


def test_the_collector_goes_on_where_loading_fails(find: Callable[[str], object]) -> None:
    with pytest.raises(ModuleNotFoundError):
        find("absent")
    assert gc.isenabled()


def test_a_collector_that_somebody_has_stopped_stays_so(find: Callable[[str], object]) -> None:
    gc.disable()
    try:
        find("FederatedSum")
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_somebody_has_frozen_stays_frozen(find: Callable[[str], object]) -> None:
    gc.freeze()
    try:
        find("FederatedSum")
        assert gc.get_freeze_count()
    finally:
        gc.unfreeze()


def test_a_name_that_there_is_not_is_an_attribute_error() -> None:
    find, listed, public = attach("infl.sums", submod_attrs={"shape": ["FederatedSum"]})
    assert find("FederatedSum").__name__ == "FederatedSum"
    assert listed() == public == ["FederatedSum"]
    with pytest.raises(AttributeError, match="none"):
        find("none")
