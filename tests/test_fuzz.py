"""Broken files and messages for every parser: nothing but the documented errors may come of them; `make fuzz`.

A case is a good file or message of ours with a few changes: bits, pieces cut out, doubled, moved, put in from another one, and,
where the content is JSON or TOML, values replaced by others while lengths and digests around them are made right again, so that
what lies behind those checks is reached too. ``python tests/test_fuzz.py [CASES] [SEED]`` makes so many in all; what breaks a
parser is written to a file and named.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import re
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import infl
from infl.deploy.policy import Policy
from infl.deploy.runfile import RunFile
from infl.errors import FileError, InflError
from infl.federation import wire
from infl.federation.messages import Alive, Answer, Offer, Plan, Stopped, Total
from infl.keys import Identity, Keyring
from infl.keys.payload import pack, unpack
from infl.models.locked import Header, load_model, lock_model
from infl.models.locked.header import digest_of
from infl.privacy.seal import Context, Ledger, MaskedArrays

CASES = 1_000_000
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**31, 2**53, 2**64, -(2**70), 1e308, float("nan"), float("inf"), "", "x", "../../x", "\0", "é" * 300,
    "0" * 5000, [], [[]], {}, {"x": {}}, [1] * 50, "[" * 200,
)  # fmt: skip
WORDS = (
    b"[",
    b"]",
    b"{",
    b"}",
    b'"',
    b"'",
    b"=",
    b"#",
    b"\n",
    b"\\u0000",
    b"1e999",
    b"nan",
    b"0x",
    b"\xff",
    b"\xed\xa0\x80",
)


@dataclass(frozen=True)
class Parser:
    """One parser: good inputs, what reads them, and how the values inside are changed (None: bytes only)."""

    name: str
    good: list[bytes]
    read: Callable[[bytes], object]
    inside: Callable[[random.Random, bytes], bytes] | None = None


# -- changes ----------------------------------------------------------------------------------------------------------


def broken(rng: random.Random, content: bytes, others: list[bytes]) -> bytes:
    """Return the content with one to four changes of its bytes."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        piece = slice(at, at + int(rng.expovariate(1 / 12)) + 1)
        match rng.randrange(7):
            case 0 if data:
                data[min(at, len(data) - 1)] ^= 1 << rng.randrange(8)
            case 1:
                del data[piece]
            case 2:
                data[at:at] = data[piece] * rng.choice((1, 1, 2, 50))
            case 3:
                del data[at:]
            case 4:
                data[at:at] = rng.choice(WORDS)
            case 5:
                data[piece] = rng.randbytes(rng.randint(0, 9))
            case _:
                other = rng.choice(others)
                cut = rng.randrange(len(other) + 1)
                data[piece] = other[cut : cut + rng.randint(1, 40)]
    return bytes(data)


def replaced(rng: random.Random, value: Any) -> Any:
    """Return JSON with one value, key or entry changed."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.1:
        if isinstance(value, str) and value and rng.random() < 0.5:
            at = rng.randrange(len(value))
            return value[:at] + rng.choice(("", "/", "\n", "\x7f", "0", value)) + value[at + 1 :]
        if isinstance(value, int) and rng.random() < 0.5:
            return value + rng.choice((-1, 1, 2**32, -(2**32)))
        return rng.choice(ODD)
    changed: Any = value.copy()
    keys = list(changed) if isinstance(changed, dict) else range(len(changed))
    key = rng.choice(list(keys))
    action = rng.random()
    if action < 0.1:
        del changed[key]
    elif action < 0.2 and isinstance(changed, dict):
        changed[rng.choice(("x", "", key + "x"))] = changed.pop(key)
    elif action < 0.2:
        changed.insert(key, changed[key])
    else:
        changed[key] = replaced(rng, changed[key])
    return changed


def in_json(rng: random.Random, content: bytes) -> bytes:
    return json.dumps(replaced(rng, json.loads(content))).encode()


def in_message(rng: random.Random, content: bytes) -> bytes:
    """Change a value of a message's header and give the header its new length."""
    size = int.from_bytes(content[8:12], "little")
    start = wire.PREFIX + size
    header = in_json(rng, content[wire.PREFIX : start])
    header += b" " * (-len(header) % 8)
    return content[:8] + len(header).to_bytes(4, "little") + content[12:16] + header + content[start:]


def in_model(rng: random.Random, content: bytes) -> bytes:
    """Change a value of a model file's header, in half of the cases with a digest that fits."""
    size = int.from_bytes(content[:8], "little")
    outer = json.loads(content[8 : 8 + size])
    if rng.random() < 0.3:
        outer = replaced(rng, outer)
    else:
        header = replaced(rng, json.loads(outer["__metadata__"]["infl"]))
        if isinstance(header, dict) and rng.random() < 0.5:
            try:
                made = Header(**{**header, "sites": tuple(header["sites"]), "digest": ""})
                header["digest"] = digest_of(made, MODEL.stored)
            except (TypeError, KeyError, ValueError):
                pass
        outer["__metadata__"]["infl"] = json.dumps(header)
    raw = json.dumps(outer).encode()
    return len(raw).to_bytes(8, "little") + raw + content[8 + size :]


def in_toml(rng: random.Random, content: bytes) -> bytes:
    """Change a value or a name of a TOML file."""
    lines = content.decode().splitlines()
    places = [i for i, line in enumerate(lines) if re.match(r"(# )?\w+ = ", line)]
    for place in rng.sample(places, min(rng.randint(1, 3), len(places))):
        name, _, _ = lines[place].removeprefix("# ").partition(" = ")
        odd = rng.choice(ODD)
        shown = {"nan": "nan", "inf": "inf", "null": "nothing"}.get(
            str(odd).lower(), json.dumps(odd).replace(":", " =")
        )
        lines[place] = f"{rng.choice((name, name, name, name + 'x'))} = {shown}"
    return "\n".join(lines).encode()


# -- parsers ----------------------------------------------------------------------------------------------------------

RING = Keyring.create()
CONTEXT = Context("run", 1, 0, ("a", "b", "c"), "train", "")


def _model() -> infl.models.LockedModel:
    task = infl.models.Classifier(target="y", width=4, n_blocks=1)
    panel = {"features": ["g1", "g2", "g3"], "classes": ["a", "b"]}
    header = Header(
        task="classifier",
        options=task.options(),
        panel=panel,
        lock="field",
        strength=1.0,
        salt="",
        key_version=1,
        fingerprint=RING.fingerprint(1),
        seed=0,
        sites=("a", "b"),
    )
    weights = {name: p.detach() for name, p in task.build(panel).named_parameters()}
    return lock_model(header, weights, {"center": np.zeros(3), "scale": np.ones(3)}, RING)


MODEL = _model()


def _messages() -> list[bytes]:
    words = MaskedArrays(np.arange(6, dtype="<u4"), np.arange(3, dtype="<u8"))
    total = Total(1, "train", 1, 0, ("a", "b", "c"), ("a", "c"), words)
    plan = Plan(
        run="r",
        seq=2,
        kind="train",
        round=1,
        attempt=0,
        cohort=("a", "b", "c"),
        lanes=(6, 3),
        agreement="d",
        key_version=1,
        fingerprint="f",
        previous=(total,),
        peers={"a": b"key"},
    )
    others = [plan, Answer("a", "r", 2, 0, 1, "f", words, {"b": b"share"}), Stopped("a", 2)]
    return [wire.encode(m) for m in (*others, *_plain(Offer), *_plain(Alive))]


def _plain(kind: type) -> list[Any]:
    """Return a message of simple fields."""
    values = {"str": "x", "int": 1, "float": 1.0, "bytes": b"x", "bool": True}
    hints = {f.name: str(f.type) for f in dataclasses.fields(kind)}
    return [kind(**{n: values[h] for n, h in hints.items()})] if set(hints.values()) <= values.keys() else []


def parsers(folder: Path) -> Iterator[Parser]:
    """Yield every parser; files are written into `folder`."""
    path = folder / "file"

    def of_file(read: Callable[[Path], object]) -> Callable[[bytes], object]:
        def run(content: bytes) -> object:
            path.write_bytes(content)
            path.chmod(0o600)
            return read(path)

        return run

    def use_model(path: Path) -> None:
        model = load_model(path)
        repr(model), model._repr_html_()
        model.module(RING)

    MODEL.save(folder / "model")
    yield Parser("model file", [(folder / "model").read_bytes()], of_file(use_model), in_model)

    yield Parser("message", _messages(), wire.decode, in_message)

    RING.grant("site_1", Identity.create().public)
    ring = pack(RING._roots, RING._signer, (), RING.trail)
    yield Parser("key ring, opened", [ring], lambda plain: unpack(plain, "ring.key"), in_json)
    owner = Identity.create()
    RING.save(folder / "ring", recipients=[owner.public])
    own = (folder / "ring").read_bytes()
    yield Parser("key file", [own], of_file(lambda p: Keyring.load(p, owner)))

    (folder / "ledger").unlink(missing_ok=True)
    ledger = Ledger(folder / "ledger", bytes(32), run="run")
    for number in range(3):
        context = dataclasses.replace(CONTEXT, round=number)
        ledger.record(context, MaskedArrays(np.full(2, number, "<u4"), np.zeros(2, "<u8")), sealed=True)
    ledger.close()

    def read_ledger(path: Path) -> None:
        Ledger(path, bytes(32), run="run").close()

    def in_ledger(rng: random.Random, content: bytes) -> bytes:
        lines = content.splitlines()
        at = rng.randrange(len(lines))
        lines[at] = in_json(rng, lines[at])
        return b"\n".join(lines) + b"\n"

    yield Parser("ledger", [(folder / "ledger").read_bytes()], of_file(read_ledger), in_ledger)

    runs = [RunFile.template(model).encode() for model in ("classifier", "scvi", "perturbation")]
    yield Parser("run.toml", runs, of_file(RunFile.read), in_toml)
    policy = b'min_sites = 3\nmax_rounds = 50\ntasks = ["classifier"]\n'
    yield Parser("policy.toml", [policy], of_file(Policy.read), in_toml)


# -- running ----------------------------------------------------------------------------------------------------------


def fuzz(parser: Parser, n: int, seed: int) -> tuple[Counter[str], list[tuple[bytes, str]]]:
    """Return what came of n cases (accepted, or the name of the error), and those with an error that is not documented."""
    rng = random.Random(f"{parser.name} {seed}")
    outcomes: Counter[str] = Counter()
    defects: dict[str, tuple[bytes, str]] = {}  # one of each kind
    for _ in range(n):
        content = rng.choice(parser.good)
        if parser.inside is not None and rng.random() < 0.6:
            content = parser.inside(rng, content)
        else:
            content = broken(rng, content, parser.good)
        try:
            parser.read(content)
            outcomes["accepted"] += 1
        except InflError as error:
            outcomes[type(error).__name__] += 1
            if "\n" in str(error):
                defects.setdefault("several lines", (content, f"an error of several lines: {error}"))
        except Exception as error:  # noqa: BLE001 - anything else is what is looked for
            outcomes["DEFECT"] += 1
            at = traceback.extract_tb(error.__traceback__)[-1]
            defects.setdefault(f"{type(error)} {at.filename} {at.lineno}", (content, traceback.format_exc()))
    return outcomes, [*defects.values()]


# -- tests ------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_broken_files_and_messages_give_documented_errors_alone(tmp_path: Path) -> None:
    for parser in parsers(tmp_path):
        outcomes, defects = fuzz(parser, 700, seed=1)
        assert not defects, f"{parser.name}: {defects[0][1]}"
        assert outcomes.total() == 700
        assert outcomes["accepted"] < 300, parser.name  # the changes reach what is checked


def test_the_fuzzer_notices_what_is_not_a_documented_error(tmp_path: Path) -> None:
    parser = next(parsers(tmp_path))

    def careless(content: bytes) -> None:
        try:
            parser.read(content)
        except FileError as error:
            raise KeyError("not caught") from error

    outcomes, defects = fuzz(type(parser)("careless", parser.good, careless, parser.inside), 50, seed=1)
    assert outcomes["DEFECT"] > 10
    assert len(defects) == 1 and "not caught" in defects[0][1]


def main() -> int:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else CASES
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    failed = made = 0
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        every = list(parsers(Path(folder)))
        for parser in every:
            begun, share = time.monotonic(), -(-n // len(every))
            outcomes, defects = fuzz(parser, share, seed)
            made += share
            facts = ", ".join(f"{count:,} {what}" for what, count in outcomes.most_common())
            print(f"{parser.name:<18} {share:>9,} cases in {time.monotonic() - begun:5.0f} s: {facts}", flush=True)
            for content, text in defects:
                failed += 1
                path = Path(f"fuzz_{hashlib.sha256(content).hexdigest()[:8]}.bin")
                path.write_bytes(content)
                print(f"  {path}: {text}")
    print(f"{made:,} cases, {failed} kinds of defect")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
