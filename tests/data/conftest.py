"""Counts like those that the tests of preprocessing have."""

from tests.pp.conftest import count_sites

__all__ = ["count_sites"]
