"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from infl._files import parse_json
from infl.errors import SettingsError

# as in infl.models.registry and infl.tl.compare, whose import would cost every command a second
MODEL_NAMES = (
    "adapter, classifier, histology, labels, mosaic, perturbation, regressor, scanvi, scvi, spatial or survival"
)
METHOD_NAMES = (
    "pooled, alone, alone_own, alone_others, fedavg, infl, infl_wrong_key, infl_no_key, published, published_wrong_key or "
    "baseline; also infl_personal, published_own_epochs or published_own_epochs_wrong_key"
)

Options = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="NAME=VALUE", help="Option of the model, e.g. layer=counts; may be repeated."),
]

DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        envvar="INFL_DEVICE",
        help="Where models compute: cpu, cuda, cuda:1; auto: a CUDA device where there is one.",
    ),
]


def task_options(target: str | None, options: list[str] | None) -> dict[str, Any]:
    """Return a task's options: values are JSON where they can be, else text.

    Raises
    ------
    SettingsError
        One has no ``=``.

    Examples
    --------
    >>> task_options("y", ["width=8", "layer=counts"])
    {'target': 'y', 'width': 8, 'layer': 'counts'}
    """
    found: dict[str, Any] = {} if target is None else {"target": target}
    for option in options or []:
        name, equals, value = option.partition("=")
        if not name or not equals:
            raise SettingsError(f"--option {option!r} has no value: write it as NAME=VALUE")
        try:
            found[name] = parse_json(value)
        except ValueError:
            found[name] = value
    return found
