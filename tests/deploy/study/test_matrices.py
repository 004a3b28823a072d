"""Matrices of a working object: the bits of one file, whatever was left out of writing and reading; damage is noticed."""

import os
import signal
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

from infl.data.columns import layer_names
from infl.deploy.study import matrices
from infl.deploy.study.matrices import content_of
from infl.deploy.study.working import WorkingObject
from infl.errors import FileError


def source(folder: Path) -> Path:
    x = sparse.random(30, 8, density=0.4, format="csr", dtype=np.float32, random_state=0)
    adata = AnnData(x, layers={"counts": x * 2, "dense": np.asfortranarray(x.toarray()), "also": x.copy()})
    adata.raw = adata.copy()
    adata.write_h5ad(folder / "source.h5ad")
    (folder / "study").mkdir()
    return folder / "source.h5ad"


def opened(path: Path) -> WorkingObject:
    return WorkingObject(path.parent / "study", "digest", path, "a")


def step(working: WorkingObject, change: str = "") -> None:
    adata = working.read()
    if change == "values":
        adata.X.data += 1  # in place
    if change == "layer":
        adata.layers["dense"] = adata.layers["dense"] + 1
    if change == "names":
        del adata.layers["also"]
    adata.obs[f"step {working.done}"] = 1.0
    working.keep(working.done, working.write(working.done, adata))


def contents(adata: AnnData) -> dict[str, str]:
    return {
        name: content_of(m)
        for name, m in {
            "": adata.X,
            "raw": adata.raw.X,
            **{name: adata.layers[name] for name in layer_names(adata)},
        }.items()
    }


def test_an_object_that_was_read_in_part_has_the_bits_of_one_that_is_read_anew(tmp_path: Path) -> None:
    path = source(tmp_path)
    working = opened(path)
    for change in ("", "", "values", "", "layer", "names", ""):
        step(working, change)
        held, anew = working.read(), opened(path).read()
        assert layer_names(held) == layer_names(anew)
        assert contents(held) == contents(anew) and held.obs.equals(anew.obs)
        assert type(held.X) is type(anew.X) and held.X.has_sorted_indices == anew.X.has_sorted_indices
    assert layer_names(anew) == ["counts", "dense"]
    working.copy_to(tmp_path / "out.h5ad")
    assert contents(anndata.read_h5ad(tmp_path / "out.h5ad")) == contents(anew)


def test_a_matrix_that_a_step_left_is_neither_written_nor_read_again(tmp_path: Path) -> None:
    working = opened(source(tmp_path))
    step(working)
    step(working)
    files = {file: file.stat().st_mtime_ns for file in working.folder.glob("matrix_*")}
    assert len(files) == 3  # X and its copy have one content
    kept = working.read().X
    assert working.read().X is not kept  # nobody knows what was done to it
    adata = working.read()
    kept, adata.layers["dense"] = adata.X, adata.layers["dense"] + 1
    working.keep(working.done, working.write(working.done, adata))
    now = {file: file.stat().st_mtime_ns for file in working.folder.glob("matrix_*")}
    assert len(files.items() & now.items()) == 2 and len(now) == 3
    assert working.read().X is kept


def test_a_step_that_was_not_kept_leaves_what_was(tmp_path: Path) -> None:
    path = source(tmp_path)
    working = opened(path)
    step(working)
    before = contents(working.read())
    adata = working.read()
    adata.X.data *= 3
    working.write(1, adata)  # and the process ends here
    again = opened(path)
    assert contents(again.read()) == before
    again.clear()
    step(again)
    assert len(list(again.folder.glob("matrix_*"))) == 3


@pytest.mark.parametrize("place", ["half a matrix", "a matrix", "the object"])
def test_killed_while_a_step_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """−9 on the process, in a file, or between the files of matrices and the journal; what is left of it goes, and the step comes out alike."""
    path = source(tmp_path)
    step(opened(path))
    before = contents(opened(path).read())

    def child() -> None:
        write, elem = matrices._write, matrices.write_elem

        def killed(*args: Any) -> None:
            {"half a matrix": elem, "a matrix": write}[place](*args)
            os.kill(os.getpid(), signal.SIGKILL)

        if place != "the object":
            monkeypatch.setattr(matrices, {"half a matrix": "write_elem", "a matrix": "_write"}[place], killed)
        working = opened(path)
        adata = working.read()
        adata.X.data += 1
        working.write(1, adata)
        os.kill(os.getpid(), signal.SIGKILL)

    process = get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    again = opened(path)
    left = {file.name for file in again.folder.iterdir()}
    assert contents(again.read()) == before
    again.clear()
    assert {file.name for file in again.folder.iterdir()} < left
    step(again, "values")
    after = contents(again.read())
    assert after != before and len(list(again.folder.iterdir())) == len(set(again._journal.matrices.values())) + 2

    unbroken = tmp_path / "unbroken"
    unbroken.mkdir()
    step(whole := opened(source(unbroken)))
    step(whole, "values")
    assert contents(whole.read()) == after


def test_who_looks_at_a_study_while_a_step_waits_for_the_others_takes_nothing_away(tmp_path: Path) -> None:
    """``infl study fetch`` and ``report`` open the folder while its own process does."""
    path = source(tmp_path)
    working = opened(path)
    step(working)
    adata = working.read()
    adata.X.data *= 3
    written = working.write(1, adata)
    assert opened(path).done == 1
    working.keep(1, written)
    assert contents(opened(path).read()) == contents(adata)


def test_a_step_that_broke_off_in_a_process_that_goes_on_leaves_what_was(tmp_path: Path) -> None:
    working = opened(source(tmp_path))
    step(working)
    before = contents(working.read())
    for _ in range(2):
        broken = working.read()
        broken.X.data *= 3
        broken.layers["dense"] += 1
        assert contents(working.read()) == before
    step(working)
    assert contents(working.read()) == before


def test_damage_is_noticed(tmp_path: Path) -> None:
    path = source(tmp_path)
    step(opened(path))
    file = opened(path).folder / f"matrix_{content_of(opened(path).read().X)}.h5"
    with h5py.File(file, "r+") as content:
        content["matrix/data"][0] += 1
    with pytest.raises(FileError, match="is not as the last step left it: begin a new study"):
        opened(path).read()
