"""What a study left here: a copy in memory of the finished working object, or one line."""

from types import SimpleNamespace

import numpy as np
import pytest
from anndata import AnnData

import infl
from infl.deploy.study.consent import SiteStudies
from infl.errors import FileError


def test_where_no_study_was_there_is_no_result(tmp_path):
    with pytest.raises(FileError, match="no studies in .*: give the folder of a site that took part in one"):
        infl.study.result(tmp_path)


def test_the_result_is_that_of_the_study_that_was_named(tmp_path, monkeypatch):
    left = {"first": AnnData(np.zeros((2, 1))), "second": AnnData(np.ones((2, 1)))}
    asked = []

    def result(studies, study):
        asked.append((studies.site_folder.home, study))
        return None, SimpleNamespace(read=left[study].copy)

    monkeypatch.setattr(SiteStudies, "result", result)
    found = infl.study.result(tmp_path, "second")
    assert asked == [(tmp_path, "second")] and found.X.tolist() == [[1.0], [1.0]]
    found.X[:] = 5
    assert infl.study.result(tmp_path, "second").X.tolist() == [[1.0], [1.0]]
