"""How many instructions the products of sparse rows take."""

import pytest
from tests.instructions import instructions, needs_valgrind

PRODUCTS = """
import os
import sys
import numpy as np
from scipy import sparse
from infl.pp._centred import CentredRows

for n_rows in map(int, sys.argv[1:]):
    if os.fork() == 0:
        total, columns = np.zeros((500, 500)), (np.arange(25) * 20 + np.arange(n_rows)[:, None] % 20)
        rows = sparse.csr_matrix((np.ones(columns.size), columns.ravel(), np.arange(0, columns.size + 1, 25)))
        CentredRows.of(rows, np.full(500, 0.05), np.ones(500, dtype=bool)).add_products(total)
        break
    os.wait()
"""
"""Rows of 500 features with 25 stored values each, so 625 products a row."""
MOST = 33
"""A quarter more than there were when this was written; a block made dense multiplies 400 times as many numbers."""


@pytest.mark.long
@needs_valgrind
def test_a_product_of_stored_values_takes_no_more_instructions_than_it_did() -> None:
    few, many = 1000, 9000
    of_few, of_many = instructions(PRODUCTS, few, many)
    assert 0 < (of_many - of_few) / (many - few) / 625 <= MOST
