"""A page about a study at one site: what was agreed on, what each step did, and what left the site in it."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from infl.deploy.study.consent import SiteStudies
from infl.deploy.study.specification import step_words

if TYPE_CHECKING:
    from infl.deploy.site_folder import SiteFolder

KIND = re.compile(r"step (\d+), (.*)")
HEAD = "| step | what | messages | bytes | read by |\n| --- | --- | --- | --- | --- |"


def study_page(site_folder: SiteFolder, name: str = "") -> str:
    """Return the page, as Markdown.

    Raises
    ------
    FileError
        There is no such study at the site.
    """
    studies = SiteStudies(site_folder)
    study = studies.find(name)
    rows = left_in_steps(site_folder.ledger(studies.folder(study)))
    lines = [
        f"# {study.name}",
        study.description,
        f"Study {study.run}, specification {study.specification}, key version {study.key_version} ({study.fingerprint}); "
        f"sites {', '.join(study.sites)}. This page is of {site_folder.settings.name}.",
        "## Steps",
        "```text\n" + "\n".join(step_words(study)) + "\n```",
        "## What left this site",
        "Sums are sealed: the coordinator adds what it cannot read, and all sites see the total. Names are encrypted for the sites. "
        "Each message was written into the ledger before it left; one that was sent again is counted once.",
        "\n".join([HEAD, *(f"| {' | '.join(map(str, row))} |" for row in rows)]),
    ]
    return "\n\n".join(filter(None, lines)) + "\n"


def left_in_steps(ledger: list[dict[str, Any]]) -> list[tuple[int, str, int, int, str]]:
    """Return a row for each step and kind of message: step, what, number of messages, bytes, who reads it.

    Examples
    --------
    >>> left_in_steps(
    ...     [{"kind": "3:step 1, quality of features", "bytes": 90}, {"kind": "0:step 1, names: begin", "bytes": 256}]
    ... )
    [(1, 'quality of features', 1, 90, 'sites, as a sum'), (1, 'names: begin', 1, 256, 'sites')]
    """
    found: dict[tuple[int, str], list[int]] = defaultdict(list)
    for entry in ledger:
        kind = str(entry["kind"]).partition(":")[2]
        step, what = match.groups() if (match := KIND.fullmatch(kind)) else ("0", kind)
        found[(int(step), what)].append(int(entry["bytes"]))
    return [
        (step, what, len(sizes), sum(sizes), "sites" if what.startswith("names: ") or not step else "sites, as a sum")
        for (step, what), sizes in found.items()
    ]
