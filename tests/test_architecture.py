"""The page on the architecture says of the packages what the import contract says."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]


def test_the_table_has_the_layers_of_the_contract_from_top_to_bottom() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    table = re.findall(r"^\| `infl\.(\w+)` \|", page, re.M)
    layers = [re.split(r" \| ", row) for row in CONTRACTS["contracts"][0]["layers"]]
    rows = [named for row in layers if (named := {n for n in row if n[0] != "_" and n != "errors"})]
    found = [set(table[sum(map(len, rows[:i])) :][: len(row)]) for i, row in enumerate(rows)]
    assert found == rows and len(table) == sum(map(len, rows))


def test_no_import_is_excepted() -> None:
    assert CONTRACTS["exclude_type_checking_imports"] is False
    assert {contract["type"] for contract in CONTRACTS["contracts"]} == {"layers", "acyclic_siblings"}
    assert not [key for contract in CONTRACTS["contracts"] for key in contract if key.startswith(("ignore", "skip"))]
