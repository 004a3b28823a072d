"""``import infl`` and ``infl --help`` stay light; what they load is counted, since seconds depend on the machine."""

import subprocess
import sys

HEAVY = ("torch", "scanpy", "anndata", "mudata", "pandas", "matplotlib", "sklearn", "scipy", "pooch")


def loaded(code: str) -> set[str]:
    """Return the modules that a fresh interpreter loads for `code`."""
    script = f"import sys\nbefore = set(sys.modules)\n{code}\nprint(*(set(sys.modules) - before), sep='\\n', file=sys.stderr)"
    return set(
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stderr.split()
    )


def test_import_loads_nothing_heavy() -> None:
    modules = loaded("import infl")
    assert "infl" in modules
    assert not modules & {*HEAVY, "rich", "numpy"}
    assert len(modules) <= 20


def test_help_loads_nothing_heavy() -> None:
    modules = loaded(
        "from infl.cli import main\nsys.argv = ['infl', '--help']\ntry:\n    main()\nexcept SystemExit:\n    pass"
    )
    assert "typer" in modules
    assert not modules & {*HEAVY, "numpy"}
    assert len(modules) <= 450


def test_certificates_and_the_administrators_session_load_nothing_heavy() -> None:
    modules = loaded("import infl.deploy.flare.console, infl.deploy.flare.kits, infl.deploy.flare.commands")
    assert "infl.deploy.flare.enrolment" in modules
    assert not modules & {*HEAVY, "numpy"}
