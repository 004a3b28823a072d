"""``import infl`` and ``infl --help`` stay light; what they load is counted, since seconds depend on the machine."""

import subprocess
import sys

HEAVY = ("torch", "scanpy", "anndata", "mudata", "pandas", "matplotlib", "sklearn", "scipy", "pooch")
EXTRAS = ("decoupler", "nvflare", "opacus", "peft", "scvi", "skmisc", "squidpy", "transformers")


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


def test_every_function_works_without_the_extras() -> None:
    code = """
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in EXTRAS:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
import infl
for part in (infl.pp, infl.tl, infl.pl, infl.datasets, infl.models, infl.attacks, infl.privacy, infl.study, infl.engines):
    for name in part.__all__:
        getattr(part, name)
""".replace("EXTRAS", repr(EXTRAS))
    modules = loaded(code)
    assert "infl.tl._fit" in modules and not modules & {*EXTRAS}


def test_a_fit_in_process_loads_nothing_of_deployment() -> None:
    modules = loaded("import infl\ninfl.tl.fit_federated")
    assert "infl.tl._fit" in modules
    assert not {name for name in modules if name.startswith("infl.deploy")}
