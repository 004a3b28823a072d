"""Mutation testing: is a change of the code noticed by the tests that belong to it? `make mutants`.

cosmic-ray makes the mutants (another operator, comparison or number, a condition turned round, a decorator gone, a loop left
out, …). Left out are those in annotations, which nothing evaluates; those in the text of an error or a warning, which are what
stands between the brackets after `raise` and `_tell.`; and `is None` written `== None`, which is the same. Of the places that
are left a seeded sample is taken, and one change of each that is still Python is tried on a copy of the repository, in a process
that has the libraries loaded already. The tests that take the changed line run, the shortest first, until one fails.
``python tests/mutants.py [--number N] [--seed S] [PART …]`` tries N of each part and writes ``tests/mutants.json``;
``--again`` tries only those that survived before. A survivor to which a person adds ``"same": "why"`` in that file, because the
changed program does the same, is not one that tests could notice; ``--judge`` counts the score without such.
"""

from __future__ import annotations

import argparse
import ast
import gc
import hashlib
import importlib
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from itertools import count, islice
from pathlib import Path

import cosmic_ray.plugins
import coverage
import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from scipy.stats import binomtest

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "tests" / "mutants.json"
KNOWN = ROOT / ".cache" / "mutants.json"
"""Which lines tests take, as far as they ran."""
LIBRARIES = ("anndata", "cryptography.hazmat.bindings.openssl.binding", "hypothesis", "mudata", "numpydoc", "pandas")
LIBRARIES += ("Crypto.Protocol.SecretSharing", "matplotlib.pyplot", "pyrage", "scipy.stats", "torch", "typer")
LIBRARIES += ("_pytest.doctest", "_pytest.python", "_pytest.terminal")
OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "-m", "not alone and not slow", "-k")
OPTIONS += ("not resume and not kill_9 and not other_data and not ctrl_c",)  # programs begun anew: long, and of files
MEMORY = 8 << 30
"""Bytes that a change may ask for, such as one of a size's unit."""
SEAL, LOCK = "src/infl/privacy/seal", ("src/infl/nn/field.py", "src/infl/nn/lock.py", "src/infl/nn/unlocked.py")
FEDERATION = ("agreement", "due", "membership", "packings", "programme", "replica", "run_lock", "site", "state")
SITE = (
    *(f"src/infl/federation/{name}.py" for name in FEDERATION),
    "src/infl/deploy/policy.py",
    "src/infl/sums/lanes.py",
)
"""What decides what a site accepts, answers, applies and gives."""
SITE_TESTS = ("account_of_a_site", "engine", "members", "rules", *(name for name in FEDERATION if name != "membership"))
PARTS = {  # what is changed, and its tests
    "seal": ((SEAL,), ("tests/privacy/seal", SEAL)),
    "site": (
        SITE,
        (*SITE, *(f"tests/federation/test_{name}.py" for name in SITE_TESTS), "tests/deploy/test_policy.py"),
    ),
    "lock": (LOCK, ("tests/nn/test_lock_vectors.py", *LOCK, "tests/nn/test_lock.py", "tests/nn/test_field.py")),
    "keys": (("src/infl/keys",), ("src/infl/keys", "tests/keys")),
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
    """Yield all changes of the files but for those that no test can be asked to notice."""
    for file in _files(paths):
        source = file.read_text()
        tree, notes = get_ast(source), [*_annotations(source), *_texts(source)]
        for name in cosmic_ray.plugins.operator_names():
            operator = cosmic_ray.plugins.get_operator(name)
            if operator.arguments():
                continue  # those that want to be told the names of variables
            number = count()
            for node in ast_nodes(tree):
                for begin, _ in operator().mutation_positions(node):
                    occurrence = next(number)
                    if not (any(first <= begin < last for first, last in notes) or _same(name, source, begin)):
                        yield Mutant(str(file.relative_to(ROOT)), *begin, name, occurrence)


def _files(paths: tuple[str, ...]) -> list[Path]:
    """Return the files of Python at some paths."""
    return [file for path in paths for file in sorted((ROOT / path).rglob("*.py")) or [ROOT / path]]


def _annotations(source: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Yield where types are written, and what only type checkers read."""
    for node in ast.walk(ast.parse(source)):
        notes = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            notes.append(node)
        for note in notes:
            if isinstance(note, ast.AST):
                yield (note.lineno, note.col_offset), (note.end_lineno, note.end_col_offset)  # type: ignore[attr-defined]


def _texts(source: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Yield where errors and warnings are told."""
    for node in ast.walk(ast.parse(source)):
        call = node.exc if isinstance(node, ast.Raise) else node
        if not isinstance(call, ast.Call):
            continue
        of = call.func.value if isinstance(call.func, ast.Attribute) else None
        if isinstance(node, ast.Raise) or (isinstance(of, ast.Name) and of.id == "_tell"):
            for told in call.args:
                yield (told.lineno, told.col_offset), (told.end_lineno, told.end_col_offset)  # type: ignore[misc]


def _same(operator: str, source: str, begin: tuple[int, int]) -> bool:
    """Whether a change only writes `is None` as `== None`, or `is not None` as `!= None`."""
    rest = source.splitlines()[begin[0] - 1][begin[1] :]
    return operator.endswith(("_Is_Eq", "_IsNot_NotEq")) and re.match(r"is (not )?None\b", rest) is not None


class Lines:
    """Which lines each test takes, and how long it needs; a plugin of pytest."""

    def __init__(self) -> None:
        self.coverage = coverage.Coverage(data_file=None, config_file=False, source=["src/infl"])
        self.seconds: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Note what one test does."""
        begun = time.process_time()
        self.coverage.switch_context(item.nodeid)
        try:
            return (yield)
        finally:
            self.coverage.switch_context("")
            self.seconds[item.nodeid] = time.process_time() - begun

    def save(self, path: Path, root: Path) -> None:
        """Write what was noted."""
        data = self.coverage.get_data()
        taken = {str(Path(f).relative_to(root)): data.contexts_by_lineno(f) for f in data.measured_files()}
        path.write_text(json.dumps({"seconds": self.seconds, "taken": taken}))


class Copy:
    """A copy of the repository in which one file at a time is changed."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "infl"
        shutil.copytree(
            ROOT, self.root, ignore=shutil.ignore_patterns(".*", "__pycache__", "_build", "benchmarks", "tutorials")
        )
        os.environ |= {"HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "hypothesis"), "PYTHONPATH": str(self.root / "src")}
        os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(folder), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        sys.path.insert(0, str(self.root / "src"))
        os.chdir(self.root)
        self.log, self.examples = folder / "log", folder / "hypothesis"
        self.seconds: dict[str, float] = {}
        self.taken: dict[str, dict[str, list[str]]] = {}

    def learn(self, paths: tuple[str, ...], tests: tuple[str, ...]) -> None:
        """Run the tests with no change, and note which lines each takes; not again while their file and `paths` are the same.

        Raises
        ------
        SystemExit
            One of them fails.
        """
        known = json.loads(KNOWN.read_text()) if KNOWN.exists() else {}
        noted, self.seconds, self.taken = self.root / "lines.json", {}, {}
        for file in _files(tests):
            these = (self.root / path.relative_to(ROOT) for path in (*_files(paths), file))
            digest = hashlib.sha256(b"".join(path.read_bytes() for path in these)).hexdigest()
            if digest not in known:
                if not self._passes([str(file.relative_to(ROOT))], 3600, noted):
                    raise SystemExit(f"the tests fail without a change\n{self.log.read_text()[-3000:]}")
                known[digest] = json.loads(noted.read_text())
                KNOWN.parent.mkdir(exist_ok=True)
                KNOWN.write_text(json.dumps(known))
            self.seconds |= known[digest]["seconds"]
            for name, lines in known[digest]["taken"].items():
                for line, those in lines.items():
                    self.taken.setdefault(name, {}).setdefault(line, []).extend(those)

    def tests_of(self, mutant: Mutant) -> list[str]:
        """Return the tests that take the statement of a change, the shortest first; all, where it is run by an import."""
        taken = self.taken.get(mutant.file, {})
        tests = {test for line in _statement(mutant) for test in taken.get(str(line), ())}
        if not tests or "" in tests:
            tests = set(self.seconds)
        return sorted(tests, key=lambda test: (self.seconds[test], test))

    def survives(self, mutant: Mutant) -> bool:
        """Whether all tests of a change pass, within a few times the processor's time that they take without it.

        Those in the file that mirrors the changed one come first: reading all files with tests takes longer than most tests.
        """
        tests, mirror = self.tests_of(mutant), f"test_{Path(mutant.file).name}"
        own = [test for test in tests if Path(test.partition("::")[0]).name == mirror]
        (self.root / mutant.file).write_text(mutant.code())
        try:
            return all(
                self._passes(part, 20 + 5 * sum(self.seconds[test] for test in part))
                for part in (own, [test for test in tests if test not in own])
                if part
            )
        finally:
            shutil.copy2(ROOT / mutant.file, self.root / mutant.file)  # as old as its bytecode says

    def _passes(self, tests: list[str], seconds: float, noted: Path | None = None) -> bool:
        shutil.rmtree(self.examples, ignore_errors=True)  # what failed with another change must not be tried first
        child = os.fork()
        if child == 0:
            resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds)))
            resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
            self._test(tests, noted)
        end = time.monotonic() + 120 + 20 * seconds  # for those that wait, on a machine that others use too
        while (done := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < end:
            time.sleep(0.02)
        if done[0] == 0:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
        return done[0] != 0 and done[1] == 0

    def failed(self) -> str:
        """Return the test that failed."""
        lines = [
            line.split(" - ")[0] for line in self.log.read_text().splitlines() if line.startswith(("FAILED", "ERROR"))
        ]
        return lines[-1].partition(" ")[2] if lines else "took too long, or could not be imported"

    def _test(self, tests: list[str], noted: Path | None) -> None:
        os.setsid()
        out = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        code, lines = 3, Lines()
        try:
            sys.dont_write_bytecode = noted is None  # what is written with no change serves all changes of other files
            if noted is not None:
                lines.coverage.start()
            code = int(pytest.main([*OPTIONS, *tests], plugins=[] if noted is None else [lines]))
            if noted is not None:
                lines.coverage.stop()
                lines.save(noted, self.root)
                code = 0 if code == pytest.ExitCode.NO_TESTS_COLLECTED else code
        finally:
            os._exit(code)


def _statement(mutant: Mutant) -> range:
    """Return the lines of the innermost statement that a change is in, of one with a body those before it."""
    around = [
        node
        for node in ast.walk(ast.parse((ROOT / mutant.file).read_text()))
        if isinstance(node, ast.stmt | ast.ExceptHandler) and node.lineno <= mutant.line <= (node.end_lineno or 0)
    ]
    if not around:
        return range(mutant.line, mutant.line + 1)
    inner = max(around, key=lambda node: (node.lineno, node.col_offset))
    body = getattr(inner, "body", None)
    return range(inner.lineno, max(body[0].lineno, inner.lineno + 1) if body else (inner.end_lineno or 0) + 1)


def draw(part: str, number: int, seed: int) -> tuple[list[Mutant], int, int]:
    """Return one change each of some places of a part, in random order; and how many changes and places it has."""
    everything = sorted(mutants(PARTS[part][0]))
    places: dict[tuple[str, int, int, str], list[Mutant]] = {}
    for mutant in everything:
        places.setdefault(mutant.place, []).append(mutant)
    rng = random.Random(f"{seed} {part}")
    drawn = (rng.choice(places[place]) for place in rng.sample([*places], len(places)))
    return list(islice(filter(_is_python, drawn), number)), len(everything), len(places)


def _is_python(mutant: Mutant) -> bool:
    try:
        compile(mutant.code(), mutant.file, "exec")
    except SyntaxError:  # such as `+` in place of the `*` of a signature
        return False
    return True


def try_all(part: str, copy: Copy, chosen: list[Mutant], minutes: float) -> tuple[int, list[Mutant]]:
    """Return how many changes were tried in a time, and those that survived."""
    copy.learn(*PARTS[part])
    survivors: list[Mutant] = []
    begun = time.monotonic()
    for number, mutant in enumerate(chosen, 1):
        if time.monotonic() - begun > 60 * minutes:
            return number - 1, survivors
        alive = copy.survives(mutant)
        survivors += [mutant] if alive else []
        how = "SURVIVED" if alive else f"noticed by {copy.failed()}"
        print(f"{part} {number}/{len(chosen)} {mutant.file}:{mutant.line} {mutant.change()} | {how}", flush=True)
    return len(chosen), survivors


def try_part(part: str, copy: Copy, asked: argparse.Namespace, before: dict | None) -> dict:
    """Try a sample of a part's mutants; return how many there are, how many were tried and killed, and which survived."""
    if asked.again and before:
        names = {field.name for field in fields(Mutant)}
        chosen = [Mutant(**{k: v for k, v in row.items() if k in names}) for row in before["survivors"]]
        counts = {name: before[name] for name in ("seed", "mutants", "places")}
        _, survivors = try_all(part, copy, chosen, asked.minutes)
        tried = before["tried"]
    else:
        chosen, n_mutants, n_places = draw(part, asked.number, asked.seed)
        counts = {"seed": asked.seed, "mutants": n_mutants, "places": n_places}
        tried, survivors = try_all(part, copy, chosen, asked.minutes)
    rows = [asdict(mutant) | {"change": mutant.change()} for mutant in survivors]
    return judged(part, counts | {"tried": tried, "survivors": rows})


def judged(part: str, found: dict) -> dict:
    """Return a part's result with its score: the share of changes noticed, of those that do not leave the program the same."""
    same = sum("same" in row for row in found["survivors"])
    tried, killed = found["tried"] - same, found["tried"] - len(found["survivors"])
    low, high = map(float, binomtest(killed, tried).proportion_ci(method="wilson"))
    print(
        f"{part}: {killed} of {tried} killed ({killed / tried:.1%}, 95 % interval {low:.1%} to {high:.1%}; {same} the same)"
    )
    return found | {"same": same, "killed": killed, "killed_share": killed / tried, "low": low, "high": high}


def main() -> None:
    """Try the parts that were asked for, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--number", type=int, default=110, help="places of each part")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60, help="begin no more of a part after so long")
    parser.add_argument("--again", action="store_true", help="try only those that survived the run before")
    parser.add_argument("--judge", action="store_true", help="try nothing; count again after survivors were judged")
    asked = parser.parse_args()
    found = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    if asked.judge:
        found = {part: judged(part, found[part]) for part in found}
        RESULT.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
        return
    for library in LIBRARIES:
        importlib.import_module(library)
    gc.freeze()
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(Path(folder))
        for part in asked.parts or PARTS:
            found[part] = try_part(part, copy, asked, found.get(part))
            if not asked.again:
                RESULT.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
        os.chdir(ROOT)


if __name__ == "__main__":
    main()
