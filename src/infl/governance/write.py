"""A run's report as files: the page, the model card and the data sheet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infl._files import write_atomic
from infl.errors import FileError
from infl.governance.cards import data_sheet, model_card
from infl.governance.facts import Facts
from infl.governance.steward import steward_page

if TYPE_CHECKING:
    import pandas as pd

    from infl.federation.run import FederatedRun


def report(
    run: FederatedRun,
    path: str | Path,
    *,
    audit: pd.DataFrame | None = None,
    comparison: pd.DataFrame | None = None,
    lock_curve: pd.DataFrame | None = None,
    site_metrics: pd.DataFrame | None = None,
    statements: Mapping[str, str] | None = None,
    min_count: int = 10,
    language: str = "en",
    overwrite: bool = False,
) -> Path:
    """Write a page for a data steward or an ethics board, and a model card and a data sheet beside it.

    The page is one file that loads nothing from elsewhere, to be read on a screen or printed and signed: who took part, what
    left each site, who can read what, key and grants, ε, audit, accuracy by site, settings, versions, and what is not
    protected. There is no record, no key and no path in any of the three files.

    Parameters
    ----------
    run
        What :func:`infl.tl.fit_federated` returned.
    path
        ``NAME.html``; ``NAME.model_card.json`` and ``NAME.data_sheet.json`` are written beside it.
    audit
        What :func:`infl.tl.audit` returned for this run.
    comparison
        What :func:`infl.tl.compare` returned for the same data.
    lock_curve
        What :func:`infl.tl.lock_curve` returned.
    site_metrics
        What :func:`infl.tl.site_metrics` returned; without it the page notes that accuracy by site was not measured.
    statements
        What only people can say, by name: ``purpose``, ``users``, ``not_for``, ``people``, ``legal_basis``, ``licence``,
        ``upkeep``, ``contact``. What is left out is a line to fill in on the page.
    min_count
        Numbers of records below this, and what was measured on so few, are left out.
    language
        Language of the page: ``"en"``, ``"de"`` or ``"fr"``. The two files for programs are in English, and so are notes of attacks.
    overwrite
        Replace files that exist.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    FileError
        The name does not end in ``.html``, or one of the three files exists or cannot be written.
    DataError
        A table is not what it should be, or is of another run.
    SettingsError
        An unknown statement or language, or a `min_count` below 1.

    Examples
    --------
    >>> import infl, tempfile
    >>> sites = infl.datasets.khan_sites()
    >>> run = infl.tl.fit_federated(sites, target="tumour_class", rounds=2, progress=False)
    >>> by_site = infl.tl.site_metrics(run, sites)
    >>> path = report(
    ...     run, f"{tempfile.mkdtemp()}/report.html", site_metrics=by_site, statements={"purpose": "Teaching"}
    ... )
    >>> sorted(file.name for file in path.parent.iterdir())
    ['report.data_sheet.json', 'report.html', 'report.model_card.json']
    """
    facts = Facts(
        run,
        audit=audit,
        comparison=comparison,
        lock_curve=lock_curve,
        site_metrics=site_metrics,
        statements=statements or {},
        min_count=min_count,
        language=language,
    )
    return write_report(facts, path, overwrite=overwrite)


def write_report(facts: Facts, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write the page, and beside it ``NAME.model_card.json`` and ``NAME.data_sheet.json``.

    Parameters
    ----------
    facts
        The run, and what else is known of it.
    path, overwrite
        As for :func:`report`, which also says what is raised.

    Returns
    -------
    Path
        The page.

    Examples
    --------
    >>> import infl, tempfile
    >>> run = infl.tl.fit_federated(infl.datasets.khan_sites(), target="tumour_class", rounds=1, progress=False)
    >>> write_report(Facts(run), f"{tempfile.mkdtemp()}/report.html").name
    'report.html'
    """
    path = Path(path).expanduser()
    if path.suffix.lower() not in (".html", ".htm"):
        raise FileError(f"{path} is no name for a page: give it one that ends in .html")
    contents = {
        path.with_suffix(".model_card.json"): _json(model_card(facts)),
        path.with_suffix(".data_sheet.json"): _json(data_sheet(facts)),
        path: steward_page(facts).html().encode(),
    }
    for name in contents:
        if name.exists() and not overwrite:
            raise FileError(f"{name} exists: choose another name or pass overwrite=True")
    for name, content in contents.items():
        write_atomic(name, content, overwrite=overwrite)
    return path


def _json(card: dict[str, Any]) -> bytes:
    return (json.dumps(card, indent=2, allow_nan=False) + "\n").encode()
