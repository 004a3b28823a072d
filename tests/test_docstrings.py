"""Every public name has a docstring that numpydoc finds nothing wrong with, and an example that runs.

Public is what `docs/api.md` lists, and that has to be all that the packages below export. The examples themselves are run
as doctests.
"""

import dataclasses
import importlib
import inspect
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from numpydoc.docscrape import NumpyDocString
from numpydoc.validate import ERROR_MSGS, validate

API = Path(__file__).parents[1] / "docs" / "api.md"
PACKAGES = (
    *("attacks", "datasets", "engines", "errors", "governance", "keys", "models", "pl", "pp", "privacy"),
    *("privacy.seal", "tl"),
)
LEFT_OUT = {
    "ES01": "a summary that says all needs no second paragraph",
    "SA01": "links are in the text",
    "PR04": "types are in the signature only",
    "RT02": "the same for what is returned",
    "RT03": "a section of one line, which says what is returned",
    "EX01": "asked for below, of public names; a method's use is shown in its class's",
    "SS05": "takes nouns for verbs: “Names and shapes of …”",
    "PR01": "asked for below: a dataclass documents its fields as attributes, a task what its bases do not",
    "RT01": "asked for below: not of those whose summary begins with “Return”",
    "YD01": "the same for “Yield”",
}
CHECKS = sorted(set(ERROR_MSGS) - set(LEFT_OUT))


def found(name: str) -> object:
    parts = name.split(".")
    for k in range(len(parts), 0, -1):
        try:
            thing: object = importlib.import_module(".".join(parts[:k]))
        except ImportError:
            continue
        for part in parts[k:]:
            thing = getattr(thing, part)
        return thing
    raise AssertionError(name)


def documentable(thing: object) -> bool:
    return callable(thing) and hasattr(thing, "__qualname__")


LISTED = [
    f"infl.{n}"
    for n in dict.fromkeys(re.findall(r"^   ([a-z_]+(?:\.\w+)+|load_model|Protection)$", API.read_text(), re.M))
]
PUBLIC = [name for name in LISTED if name != "infl.nn.published.STRENGTH"]  # a constant, which has no docstring


def exported(package: str) -> dict[str, object]:
    """Functions and classes of a package by name: what it says itself, else what is defined there."""
    module = importlib.import_module(f"infl.{package}")
    here = [name for name, thing in vars(module).items() if getattr(thing, "__module__", "") == module.__name__]
    names = getattr(module, "__all__", None) or [name for name in here if name[0] != "_"]
    return {name: getattr(module, name) for name in names if documentable(getattr(module, name))}


def place_of_tests(module: str) -> Path:
    """Where the tests of a module are: at its place in `tests`, without the underscore."""
    *package, name = module.split(".")[1:]
    return API.parents[1].joinpath("tests", *package, f"test_{name.lstrip('_')}.py")


def test_every_public_module_has_its_tests_beside_it() -> None:
    modules = {found(name).__module__ for name in LISTED if documentable(found(name))}
    modules = {module for module in modules if Path(importlib.import_module(module).__file__ or "").stem != "__init__"}
    assert len(modules) > 100
    assert sorted(module for module in modules if not place_of_tests(module).exists()) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_all_that_is_exported_is_listed(package: str) -> None:
    listed = [found(name) for name in LISTED]
    assert [name for name, thing in exported(package).items() if thing not in listed] == []


def methods(name: str) -> list[str]:
    thing = found(name)
    if not inspect.isclass(thing):
        return []
    kinds = (classmethod, staticmethod, property)
    return [
        f"{name}.{key}"
        for key, value in vars(thing).items()
        if key[0] != "_" and (isinstance(value, kinds) or (callable(value) and value.__name__ == key))
    ]


@pytest.mark.parametrize("name", PUBLIC)
def test_numpydoc_finds_nothing(name: str) -> None:
    wrong = [
        f"{each}: {code} {text}"
        for each in [name, *methods(name)]
        for code, text in validate(each)["errors"]
        if code in CHECKS
    ]
    assert wrong == []


def documented(thing: type | Callable) -> set[str]:
    """Names in the sections on parameters and attributes, of a class's bases too."""
    texts = (
        [c.__doc__ for c in thing.__mro__ if c.__module__.startswith("infl")]
        if inspect.isclass(thing)
        else [thing.__doc__]
    )
    docs = [NumpyDocString(inspect.cleandoc(text or "")) for text in texts]
    return {
        name for doc in docs for part in ("Parameters", "Attributes") for p in doc[part] for name in p.name.split(", ")
    }


def wanted(thing: type | Callable) -> set[str]:
    """Names that should be there: a function's parameters, a dataclass's fields, those of ``__init__``."""
    if dataclasses.is_dataclass(thing):  # the fields of messages say themselves what they are
        ours = {name for c in thing.__mro__ if c.__module__.startswith("infl") for name in inspect.get_annotations(c)}  # type: ignore[union-attr]
        return {
            f.name
            for f in dataclasses.fields(thing)
            if f.init and f.name[0] != "_" and f.name in ours and "what" not in f.metadata
        }
    if inspect.isclass(thing) and not getattr(thing.__init__, "__module__", "").startswith("infl"):
        return set()
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return {stars.get(p.kind, "") + p.name for p in inspect.signature(thing).parameters.values()}


@pytest.mark.parametrize("name", PUBLIC)
def test_all_that_goes_in_and_comes_out_is_documented(name: str) -> None:
    thing = found(name)
    assert isinstance(thing, Callable)  # type: ignore[arg-type]
    assert wanted(thing) - documented(thing) == set()
    if not inspect.isclass(thing) and inspect.signature(thing).return_annotation not in (None, "None"):
        doc = NumpyDocString(inspect.cleandoc(thing.__doc__ or ""))
        assert doc["Returns"] or doc["Yields"] or (thing.__doc__ or "").split()[0] in ("Return", "Yield")


@pytest.mark.parametrize("name", PUBLIC)
def test_there_is_an_example(name: str) -> None:
    assert ">>> " in (found(name).__doc__ or ""), "give it an example that runs"
