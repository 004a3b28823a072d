"""How a key ring shows itself."""

from __future__ import annotations

from collections.abc import Mapping

from infl._html import notebook, table
from infl.keys.grants import Member


def ring_line(fingerprints: Mapping[int, str], *, is_holder: bool) -> str:
    """Return a ring's versions and their fingerprints, in a line."""
    versions = ", ".join(f"version {version}: {value}" for version, value in fingerprints.items())
    return f"Keyring({versions}{'' if is_holder else ', granted'})"


def ring_table(fingerprints: Mapping[int, str], members: Mapping[str, Member], *, is_holder: bool) -> str:
    """Return a ring's versions, and who was granted each, as a table for notebooks."""
    granted = {v: [m.name for m in members.values() if v in m.versions] for v in fingerprints}
    rows = [(v, value, ", ".join(granted[v]) or "nobody") for v, value in fingerprints.items()]
    kind = "key holder's" if is_holder else "granted"
    return notebook(table(("version", "fingerprint", "granted to"), rows, f"infl key ring ({kind})"))


def ranges(versions: list[int]) -> str:
    """Return ``1–3, 5`` for ``[1, 2, 3, 5]``."""
    runs: list[list[int]] = []
    for version in versions:
        if runs and version == runs[-1][-1] + 1:
            runs[-1].append(version)
        else:
            runs.append([version])
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
