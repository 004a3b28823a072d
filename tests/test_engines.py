"""An engine for runs between machines: asked for by folders, and refused in one line where they are not what they should be."""

import sys

import pytest

import infl
from infl.errors import FileError, MissingExtraError


@pytest.mark.needs("nvflare")
def test_a_folder_that_is_no_kit_is_refused(tmp_path):
    with pytest.raises(FileError, match="no admin kit: it is the folder 'admin' that `infl coordinator init` makes"):
        infl.engines.flare(tmp_path, site=tmp_path)


def test_without_flare_the_extra_is_named(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith(("infl.deploy.flare", "nvflare"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "nvflare", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'infl\[flare\]'"):
        infl.engines.flare(tmp_path, site=tmp_path)
