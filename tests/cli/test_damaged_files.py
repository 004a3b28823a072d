"""Every file that an operator can touch, damaged in every way: one line, a documented exit code, no traceback."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from typer.testing import CliRunner

from infl.cli.app import app
from infl.deploy.attempt import Status
from infl.deploy.flare.consortium import Consortium
from infl.deploy.flare.enrolment import Entry, write_register
from infl.deploy.policy import POLICY_TEMPLATE
from infl.deploy.remote import Patience
from infl.deploy.run_attempt import RunFolder
from infl.deploy.security_log import coordinator_log
from infl.deploy.site_data import SiteSettings
from infl.deploy.site_folder import SiteFolder
from infl.deploy.study.attempt import StudyFolder
from infl.deploy.study.specification import Step, Study
from infl.errors import MAX_LENGTH, InflError
from infl.federation.agreement import Agreement
from infl.keys import Identity, Keyring
from infl.models import Classifier
from infl.privacy.seal.ledger import LEDGER_COLUMNS

SITES = ("hospital_a", "hospital_b", "hospital_c")
JSON = (b"[]", b'{"name": 5, "n": 1}', b"\xff\xfe\x00\x01", b"", b'{"name": 1e999, "n": "\\ud800"}')
CHECK = "site check run.toml --data cohort.h5ad --key site.key --identity me.key"
AT_COORDINATOR = ("coordinator sites", "coordinator check", "run list")
OF_RUN = (
    "run list",
    "run status tumours",
    "run stop tumours",
    "run prune --yes",
    "coordinator start run.toml --give-up 1",
)
AT_SITE = ("site status", CHECK)
OFFERED = ("site status", "site ledger", "site approve 0123456789", "run fetch results", "run report report.html")
FILES = {
    "coordinator/consortium.json": (*AT_COORDINATOR, "coordinator approve hospital_c.request.zip --yes"),
    "hospital_a/consortium.json": AT_SITE,
    "coordinator/members.json": ("coordinator sites", "coordinator revoke nobody"),
    "coordinator/kit/disabled_clients.json": ("coordinator sites", "coordinator revoke nobody"),
    "coordinator/seen.json": ("coordinator sites",),
    "coordinator/kit/startup/server.crt": ("coordinator check",),
    "hospital_a/kit/startup/client.crt": AT_SITE,
    "hospital_a/kit/startup/rootCA.pem": AT_SITE,
    "coordinator/runs/tumours/status.json": OF_RUN,
    "coordinator/runs/tumours/agreement.json": OF_RUN,
    "coordinator/runs/tumours/waiting.json": OF_RUN[-1:],
    "coordinator/runs/tumours/version": OF_RUN[-1:],
    "coordinator/runs/tumours/exchanges.jsonl": OF_RUN[:2],
    "coordinator/runs/tumours/coordinator.json": OF_RUN[-1:],
    "coordinator/runs/tumours/stop": OF_RUN[:2],
    "coordinator/runs/first/study.json": ("run list", "study status first", "study stop first"),
    "coordinator/security.jsonl": ("coordinator log", "coordinator log --verify", "coordinator revoke nobody"),
    "coordinator/log.key": ("coordinator log", "coordinator log --verify"),
    "hospital_a/security.jsonl": ("site log", "site log --verify", "site approve 0123456789"),
    "hospital_a/events.jsonl": ("site status",),
    "hospital_a/site.json": ("site status", "site log --verify", "run report report.html", "study report study.html"),
    "hospital_a/policy.toml": (CHECK, "study report study.html"),
    "hospital_a/line.json": ("site status",),
    "hospital_a/lock": ("site status",),
    "hospital_a/runs/*/agreement.json": OFFERED,
    "hospital_a/runs/*/*.ledger": OFFERED,
    "hospital_a/studies/*/study.json": (*OFFERED[1:3], "study report study.html", "study fetch study.h5ad"),
    "coordinator/kit/startup/fed_server.json": ("coordinator check", "coordinator start run.toml --give-up 1"),
    "coordinator/ca/rootCA.pem": ("coordinator check", "coordinator approve hospital_c.request.zip --yes"),
    "hospital_a/kit/startup/fed_client.json": AT_SITE,
    "consortium.toml": ("coordinator init consortium.toml --home another", "site enrol d", "site join e"),
    "study.toml": (
        "study check study.toml",
        "study start study.toml",
        "site check study.toml --data cohort.h5ad --key site.key --identity me.key",
    ),
    "hospital_b.pub": ("key grant hospital_b.pub --key site.key --identity me.key",),
    "run.toml": (CHECK, "coordinator check run.toml", "coordinator start run.toml --give-up 1"),
    "panel.json": (CHECK, "run panel panel.json --out more.json"),
    "hospital_c.request.zip": ("coordinator approve hospital_c.request.zip --yes",),
    "hospital_a.signed.zip": ("site install hospital_a.signed.zip --fingerprint 1a2b --home hospital_a",),
    "grant.key": ("key import grant.key --into site.key --identity me.key",),
    "site.key": (CHECK, "key show site.key"),
    "me.key": (CHECK, "site log --verify"),
    "cohort.h5ad": (CHECK,),
}
"""Every file, and the commands that read it."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    consortium = json.dumps(asdict(Consortium("tumours", "localhost", 1)))
    certificate = _certificate()
    home, site = root / "coordinator", root / "hospital_a"
    for folder in (
        home / "ca",
        home / "kit" / "startup",
        home / "kit" / "local",
        site / "kit" / "startup",
        site / "request" / site.name,
    ):
        folder.mkdir(parents=True)
    for folder in (home, site):
        (folder / "consortium.json").write_text(consortium)
    for path in (
        home / "ca" / "rootCA.pem",
        home / "kit" / "startup" / "server.crt",
        site / "kit" / "startup" / "client.crt",
    ):
        path.write_bytes(certificate)
    (home / "kit" / "disabled_clients.json").write_text('{"disabled_clients": ["hospital_c"]}')
    (home / "seen.json").write_text('{"hospital_a": 1.0}')
    write_register(home, [Entry("hospital_a", "1a", "2b", until=2e9), Entry("hospital_c", "3a", "4b", revoked=True)])
    coordinator_log(home).note("enrolled", name="hospital_a")
    _data().write_h5ad(root / "cohort.h5ad")
    task, ring, me = Classifier(target="label"), Keyring.create(), Identity.create()
    sites = {name: _data() for name in SITES}
    agreement = Agreement.new(task, task.agree(sites), sites, ring, rounds=2)
    run = RunFolder(home / "runs" / "tumours")
    run.store.begin(agreement)
    run.save_status(
        Status(sites={"hospital_a": {"up": True, "silent": 0.1, "trouble": "", "in": 1, "out": 1}}).now(state="running")
    )
    run.save_patience(Patience())
    run.check_version()
    run.journal.append({"seq": 0})
    StudyFolder(home / "runs" / "first").begin(
        study := Study.new("first", [*SITES], [Step.read("pp.log1p", {})], 1, "abcd")
    )
    me.save(root / "me.key")
    ring.save(root / "site.key")
    ring.grant("hospital_a", me)
    shutil.copy(root / "site.key", root / "grant.key")
    (site / "policy.toml").write_text(POLICY_TEMPLATE)
    folder = SiteFolder(site)
    folder.save_settings(
        SiteSettings(site.name, str(root / "cohort.h5ad"), str(root / "site.key"), str(root / "me.key"))
    )
    for kind, name, text in (("runs", "agreement", agreement.to_json()), ("studies", "study", study.to_json())):
        offered = site / kind / (agreement.run if kind == "runs" else study.run)
        offered.mkdir(parents=True)
        (offered / f"{name}.json").write_text(text)
    line: dict[str, object] = dict.fromkeys(LEDGER_COLUMNS, "") | {"round": 1, "bytes": 9, "kind": "a:train"}
    (site / "runs" / agreement.run / "hospital_a.ledger").write_text(json.dumps(line) + "\n")
    folder.log.note("first")
    folder.log.refused("hospital_a refuses")
    for key in (site / "kit" / "startup" / "client.key", site / "request" / site.name / "hospital_a.key"):
        key.write_text(key.parent.name)  # another than the kit's: it is renewed
    (site / "line.json").write_text('{"state": "up", "since": 1.0}')
    (root / "run.toml").write_text(
        'name = "tumours"\nmodel = "classifier"\ntarget = "label"\nsites = ["hospital_a", "hospital_b", "hospital_c"]\n'
    )
    (root / "panel.json").write_text(json.dumps(task.agree(sites)))
    (root / "consortium.toml").write_text('name = "tumours"\nhost = "localhost"\nport = 1\n')
    (root / "study.toml").write_text(
        'name = "first"\nsites = ["hospital_a", "hospital_b", "hospital_c"]\n[key]\nfingerprint = "abcd"\n[[step]]\ndo = "pp.log1p"\n'
    )
    Identity.create().save_public(root / "hospital_b.pub")
    for role, name in (("server", home), ("client", site)):
        (name / "kit" / "startup" / f"fed_{role}.json").write_text(json.dumps({"client": {"fqsn": name.name}}))
    for name in ("hospital_c.request.zip", "hospital_a.signed.zip"):
        (root / name).write_bytes(b"PK")
    return root


def _certificate() -> bytes:
    key, name = (
        ec.generate_private_key(ec.SECP256R1()),
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hospital_a")]),
    )
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(1), now + timedelta(99))
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM)


def _data() -> AnnData:
    obs = pd.DataFrame({"label": pd.Categorical(["a", "b"] * 6)}, index=[f"r{i}" for i in range(12)])
    return AnnData(np.arange(24, dtype=np.float32).reshape(12, 2), obs=obs, var=pd.DataFrame(index=["g1", "g2"]))


@pytest.fixture
def at(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    root = tmp_path / "root"
    shutil.copytree(made, root)
    monkeypatch.chdir(root)
    monkeypatch.setenv("INFL_SITE", "hospital_a")
    monkeypatch.setenv("HOME", str(root))
    yield root


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    return content[: len(content) // 3] + bytes([content[len(content) // 3] ^ 0x55]) + content[len(content) // 3 + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    **{repr(wrong): lambda content, wrong=wrong: wrong for wrong in JSON},
    "nested": lambda content: b"[" * 100_000,
    "cut off": cut,
    "a byte is another": flipped,
}
QUICK = [repr(JSON[1]), "cut off", "nested"]
"""One that is whole but of another form, one that is not, and one that is deeper than Python reads."""


@pytest.mark.parametrize("damages", [QUICK, pytest.param([*DAMAGE], marks=pytest.mark.long)], ids=["some", "all"])
@pytest.mark.parametrize("file", FILES)
def test_damage_is_one_line(file: str, damages: list[str], at: Path) -> None:
    (path,) = sorted(at.glob(file)) or [at / file]
    before = path.read_bytes() if path.exists() else b'{"damaged": "file"}'
    wrong = []
    for how in damages:
        path.write_bytes(DAMAGE[how](before))
        path.chmod(0o600)
        for command in FILES[file]:
            wrong += [f"{how}: infl {command}: {why}" for why in tried(command)]
        for made in ("results", "report.html", "study.html", "study.h5ad", "more.json"):
            shutil.rmtree(at / made, ignore_errors=True)
            (at / made).unlink(missing_ok=True)
    assert not wrong, "\n".join(wrong)


@pytest.mark.long
@pytest.mark.parametrize("file", FILES)
def test_a_folder_where_a_file_should_be_is_one_line(file: str, at: Path) -> None:
    (path,) = sorted(at.glob(file)) or [at / file]
    path.unlink(missing_ok=True)
    path.mkdir()
    wrong = [f"infl {command}: {why}" for command in FILES[file] for why in tried(command)]
    assert not wrong, "\n".join(wrong)


def tried(command: str) -> list[str]:
    """Return what is wrong with how a command ended: nothing, where it worked, or failed as documented."""
    done = CliRunner().invoke(app, command.split())
    error = done.exception
    if error is None:
        return []
    if isinstance(error, OSError) and error.filename is not None:
        return []  # `infl.cli.main` makes a line of it
    if not isinstance(error, InflError):
        return [f"{type(error).__name__}: {str(error)[:100]}"]
    line = str(error)
    return (
        []
        if "\n" not in line and len(line) <= MAX_LENGTH and error.exit_code in (2, 3, 4, 5)
        else [f"bad line {line!r}"]
    )


@pytest.mark.parametrize("command", sorted({command for commands in FILES.values() for command in commands}))
def test_commands_without_damage_end_as_documented(command: str, at: Path) -> None:
    assert tried(command) == []
