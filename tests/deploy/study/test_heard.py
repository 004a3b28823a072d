"""What a coordinator told is found again, but for a record that was cut off."""

from pathlib import Path

import pytest

from infl.deploy.study.heard import HeardFile
from infl.errors import FileError

TOLD = {0: b"begin", 1: b"", 2: bytes(300)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    told = HeardFile(tmp_path / "0003.heard")
    for number, content in TOLD.items():
        told.add(number, content)
    return told.path


def test_all_is_found_again_in_another_process(path: Path) -> None:
    again = HeardFile(path)
    assert {number: again.read(number) for number in again.numbers} == TOLD


@pytest.mark.parametrize("lost", [1, 299, 300, 331])
def test_a_record_that_was_cut_off_is_dropped_and_told_anew(path: Path, lost: int) -> None:
    path.write_bytes(path.read_bytes()[:-lost])
    again = HeardFile(path)
    assert again.numbers == [0, 1]
    again.add(2, b"anew")
    assert HeardFile(path).read(2) == b"anew" and HeardFile(path).read(0) == b"begin"


def test_a_record_whose_bytes_never_came_to_the_disk_is_dropped(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-300] + b"\1" * 300)
    assert HeardFile(path).numbers == [0, 1]


def test_what_cannot_be_written_is_told_to_nobody(tmp_path: Path) -> None:
    told = HeardFile(tmp_path / "missing" / "0000.heard")
    with pytest.raises(FileError, match=r"cannot write .*0000\.heard"):
        told.add(0, b"x")
    assert told.numbers == []
