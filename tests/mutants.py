"""Mutation testing of seal, lock and keys: is a change of the code noticed by the tests that belong to it? `make mutants`.

cosmic-ray makes the mutants (another operator, comparison or number, a condition turned round, a decorator gone, a loop left
out, …). Those in annotations are left out: nothing evaluates them. Of the places that are left a seeded sample is taken, and
one change of each is tried, in a process that has the libraries loaded already, on a copy of the repository. ``python tests/mutants.py [--number N] [--seed S] [PART …]``
tries N of each part and writes ``tests/mutants.json``; ``--again`` tries only those that survived before.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

import cosmic_ray.plugins
import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from scipy.stats import binomtest

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "tests" / "mutants.json"
LIBRARIES = ("anndata", "cryptography.hazmat.bindings.openssl.binding", "hypothesis", "mudata", "numpydoc", "pandas")
LIBRARIES += ("pyrage", "scipy.stats", "torch", "typer")
SEAL, LOCK = "src/infl/privacy/seal", ("src/infl/nn/field.py", "src/infl/nn/lock.py")
PARTS = {  # what is changed, and its tests, those first that fail soonest
    "seal": (
        (SEAL,),
        (
            "tests/privacy/seal/test_vectors.py",
            "tests/privacy/seal/test_tag.py",
            SEAL,
            "tests/privacy/seal/test_pairwise.py",
            "tests/privacy/seal",
        ),
    ),
    "lock": (LOCK, ("tests/nn/test_lock_vectors.py", *LOCK, "tests/nn/test_lock.py", "tests/nn/test_field.py")),
    "keys": (("src/infl/keys",), ("src/infl/keys", "tests/keys/test_derive.py", "tests/keys")),
}


@dataclass(frozen=True, order=True)
class Mutant:
    """One change: the `occurrence`-th place of a file where an operator of cosmic-ray applies."""

    file: str
    line: int
    column: int
    operator: str
    occurrence: int

    @property
    def place(self) -> tuple[str, int, int, str]:
        """Where it is, and which kind of thing it changes there."""
        return self.file, self.line, self.column, self.operator.split("_")[0]

    def code(self) -> str:
        """Return the file with the change."""
        changed = mutate_code(
            (ROOT / self.file).read_text(), cosmic_ray.plugins.get_operator(self.operator)(), self.occurrence
        )
        assert changed is not None
        return changed

    def change(self) -> str:
        """Return the line as it is and as it would be."""
        pairs = zip((ROOT / self.file).read_text().splitlines(), self.code().splitlines(), strict=False)
        return next((f"{a.strip()}  →  {b.strip()}" for a, b in pairs if a != b), "")


def mutants(paths: tuple[str, ...]) -> Iterator[Mutant]:
    """Yield all changes of the files, but for those in annotations."""
    for path in paths:
        for file in sorted((ROOT / path).rglob("*.py")) or [ROOT / path]:
            source = file.read_text()
            tree, notes = get_ast(source), list(_annotations(source))
            for name in cosmic_ray.plugins.operator_names():
                operator = cosmic_ray.plugins.get_operator(name)
                if operator.arguments():
                    continue  # those that want to be told the names of variables
                number = count()
                for node in ast_nodes(tree):
                    for begin, _ in operator().mutation_positions(node):
                        occurrence = next(number)
                        if not any(first <= begin < last for first, last in notes):
                            yield Mutant(str(file.relative_to(ROOT)), *begin, name, occurrence)


def _annotations(source: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Yield where types are written, and what only type checkers read."""
    for node in ast.walk(ast.parse(source)):
        notes = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            notes.append(node)
        for note in notes:
            if isinstance(note, ast.AST):
                yield (note.lineno, note.col_offset), (note.end_lineno, note.end_col_offset)  # type: ignore[attr-defined]


class Copy:
    """A copy of the repository in which one file at a time is changed."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "infl"
        shutil.copytree(
            ROOT, self.root, ignore=shutil.ignore_patterns(".*", "__pycache__", "_build", "benchmarks", "tutorials")
        )
        os.environ |= {"HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "hypothesis"), "PYTHONPATH": str(self.root / "src")}
        os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(folder)}
        sys.dont_write_bytecode = True
        sys.path.insert(0, str(self.root / "src"))
        os.chdir(self.root)
        self.log, self.examples = folder / "log", folder / "hypothesis"

    def survives(self, mutant: Mutant | None, tests: tuple[str, ...], limit: float) -> bool:
        """Whether all tests pass with a change (None: with none) within a time."""
        if mutant is not None:
            (self.root / mutant.file).write_text(mutant.code())
        try:
            shutil.rmtree(self.examples, ignore_errors=True)  # what failed with another change must not be tried first
            child = os.fork()
            if child == 0:
                self._test(tests)
            end = time.monotonic() + limit
            while (done := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < end:
                time.sleep(0.02)
            if done[0] == 0:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
            return done[0] != 0 and done[1] == 0
        finally:
            if mutant is not None:
                shutil.copyfile(ROOT / mutant.file, self.root / mutant.file)

    def failed(self) -> str:
        """Return the test that failed."""
        lines = [
            line.split(" - ")[0] for line in self.log.read_text().splitlines() if line.startswith(("FAILED", "ERROR"))
        ]
        return lines[-1].partition(" ")[2] if lines else "took too long, or could not be imported"

    def _test(self, tests: tuple[str, ...]) -> None:
        os.setsid()
        out = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        code = 3
        try:
            code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))
        finally:
            os._exit(code)


def try_part(part: str, copy: Copy, number: int, seed: int, again: list[dict] | None, minutes: float) -> dict:
    """Try a sample of a part's mutants; return how many there are, how many were tried and killed, and which survived."""
    paths, tests = PARTS[part]
    everything = sorted(mutants(paths))
    places: dict[tuple[str, int, int, str], list[Mutant]] = {}
    for mutant in everything:
        places.setdefault(mutant.place, []).append(mutant)
    rng = random.Random(f"{seed} {part}")
    chosen = [rng.choice(places[place]) for place in rng.sample([*places], min(number, len(places)))]
    if again is not None:
        chosen = [Mutant(**{k: v for k, v in row.items() if k != "change"}) for row in again]
    begun = time.monotonic()
    if not copy.survives(None, tests, 1800):
        raise SystemExit(f"{part}: the tests fail without a change\n{copy.log.read_text()[-3000:]}")
    limit = 60 + 5 * (time.monotonic() - begun)
    survivors, noticed = [], Counter[str]()
    for i, mutant in enumerate(chosen, 1):
        if again is None and time.monotonic() - begun > 60 * minutes:
            chosen = chosen[: i - 1]  # they are in random order
            break
        alive = copy.survives(mutant, tests, limit)
        if alive:
            survivors.append(asdict(mutant) | {"change": mutant.change()})
            print(f"{part} {i}/{len(chosen)} {mutant.file}:{mutant.line} {mutant.change()}", flush=True)
        else:
            noticed[copy.failed()] += 1
    if not copy.survives(None, tests, limit):
        raise SystemExit(f"{part}: what was changed last fails the tests of all: {copy.log.read_text()[-3000:]}")
    tried = len(chosen) if again is None else number
    killed = tried - len(survivors)
    low, high = binomtest(killed, tried).proportion_ci(method="wilson")
    print(f"{part}: {killed} of {tried} killed ({killed / tried:.1%}, 95 % interval {low:.1%} to {high:.1%})")
    share = {"killed_share": killed / tried, "low": float(low), "high": float(high)}
    return {
        "mutants": len(everything),
        "places": len(places),
        "tried": tried,
        "killed": killed,
        **share,
        "survivors": survivors,
    }


def main() -> None:
    """Try the parts that were asked for, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--number", type=int, default=110, help="places of each part")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60, help="begin no more of a part after so long")
    parser.add_argument("--again", action="store_true", help="try only those that survived the run before")
    asked = parser.parse_args()
    for library in LIBRARIES:
        importlib.import_module(library)
    found = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    before = found.get("parts", {})
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(Path(folder))
        for part in asked.parts or PARTS:
            again = before[part]["survivors"] if asked.again else None
            number = before[part]["tried"] if asked.again else asked.number
            before[part] = try_part(part, copy, number, asked.seed, again, asked.minutes)
            if not asked.again:
                RESULT.write_text(
                    json.dumps({"seed": asked.seed, "parts": before}, indent=1, ensure_ascii=False) + "\n"
                )
        os.chdir(ROOT)


if __name__ == "__main__":
    main()
