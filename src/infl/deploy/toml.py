"""Errors in TOML files that people write, in one line with the line's number."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError
from pydantic_core import PydanticCustomError, core_schema

from infl._files import explained
from infl.errors import InflError, SettingsError

if TYPE_CHECKING:
    from infl._parameters import Kind

Checked = TypeVar("Checked")
REFUSED = {
    "init": "goes with no fit between machines, which begins with fresh weights: leave it out, or fit in one process by infl.tl.fit_federated"
}
"""Why there is no such field, where people may look for one."""


DUE = {
    "string_type": "give a text, in quotes",
    "list_type": "give a list, in square brackets",
    "model_type": "give a table",
    "path_type": "give the path of a file, in quotes",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "give a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "give a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "give true or false"),
}
"""What a field wants, by the kinds of pydantic's errors."""


class Table(BaseModel):
    """A table of a file; what it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Declared:
    """Reads a table as the dataclass whose fields it sets; what each may be is declared there.

    Parameters
    ----------
    kinds
        The dataclass's ``parameters``, of those that the table may have.
    **defaults
        Where the file's defaults are others.
    """

    def __init__(self, kinds: Mapping[str, Kind], **defaults: Any) -> None:
        self.kinds, self.defaults = kinds, defaults

    def __get_pydantic_core_schema__(self, source: Any, _: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        fields = {
            name: core_schema.typed_dict_field(
                core_schema.no_info_plain_validator_function(partial(told, kind.read, name)), required=False
            )
            for name, kind in self.kinds.items()
        }
        table = core_schema.typed_dict_schema(fields, extra_behavior="forbid")
        return core_schema.no_info_after_validator_function(
            lambda given: told(lambda: source(**self.defaults | given)), table
        )


def told(read: Callable[..., Any], *args: Any) -> Any:
    """Return what `read` reads; what it refuses is an error at this place of the file.

    Examples
    --------
    >>> told(int, "3")
    3
    """
    try:
        return read(*args)
    except InflError as error:
        raise PydanticCustomError("declared", "{text}", {"text": str(error)}) from None


def read_checked(path: Path, check: Callable[[dict[str, Any]], Checked]) -> Checked:
    """Return what pydantic makes of a file.

    Raises
    ------
    SettingsError
        Something in it cannot work; the message has the line.
    """
    with explained(path, "read"):
        content = path.read_bytes()
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"{path}, line {line}: TOML is UTF-8, and this is not: save the file as UTF-8") from None
    try:
        return check(tomllib.loads(text))
    except RecursionError:
        raise SettingsError(f"{path}: its lists or tables lie too deep in one another") from None
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise _explain(path, text, error) from None


def _explain(path: Path, text: str, error: tomllib.TOMLDecodeError | ValidationError) -> SettingsError:
    """Return the error that names the file, the line, the field and what is wrong with it."""
    if isinstance(error, tomllib.TOMLDecodeError):
        return SettingsError(f"{path}: {error}")
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    line = line_of(text, place)
    known = dict.fromkeys(("extra_forbidden", "unexpected_keyword_argument"), "is not known")
    known |= dict.fromkeys(("missing", "missing_argument"), "is missing")
    what = known.get(first["type"]) or plain(first)
    what = REFUSED.get(place[-1], what) if place and first["type"] == "extra_forbidden" else what
    more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
    where = ".".join(part for part in place if not part.isdigit())
    return SettingsError(f"{path}, line {line}: {where}: {what.removeprefix(f'{where}: ')}{more}")


def plain(error: Mapping[str, Any]) -> str:
    """Return what is wrong with a value, and what is due, of an error of pydantic.

    Examples
    --------
    >>> plain({"type": "int_type", "msg": "Input should be a valid integer"})
    'give a whole number'
    """
    limits = error.get("ctx", {})
    match error["type"]:
        case "string_too_short":
            return "is empty: fill it in"
        case "too_short":
            return f"has {limits['actual_length'] or 'none'}: give at least {limits['min_length']}"
        case "greater_than_equal":
            return f"give at least {limits['ge']}"
    return DUE.get(error["type"], error["msg"])


def line_of(text: str, place: list[str]) -> int:
    r"""Return the number of the line of a TOML text that sets a field, or that begins the table it is missing from.

    Examples
    --------
    >>> line_of("name = 'x'\n[fit]\nrounds = 0", ["fit", "rounds"])
    3
    >>> line_of("[[step]]\ndo = 'a'\n[[step]]\ndo = 'b'", ["step", "1", "do"])
    4
    """
    seen: dict[str, int] = {}
    tables, (wanted, name) = [""], (".".join(place[:-1]), place[-1] if place else "")
    best = 1
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*(\[+)\s*([^\]]+?)\s*\]+", line):
            table = header[2]
            if len(header[1]) > 1:  # one of several tables of this name
                seen[table] = seen.get(table, -1) + 1
                table = f"{table}.{seen[table]}"
            tables.append(table)
            if table in (wanted, ".".join(place)):
                best = number
        elif (key := re.match(r"\s*[\"']?([A-Za-z0-9_.-]+)[\"']?\s*=", line)) and f"{tables[-1]}.{key[1]}".strip(
            "."
        ) in (f"{wanted}.{name}".strip("."), wanted):
            return number
    return best
