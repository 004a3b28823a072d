"""Attacks that users run against their own runs: one file an attack, one contract."""

from __future__ import annotations

from infl import _entry_points
from infl.errors import SettingsError
from infl.privacy.attacks.contract import Attack, Attacker, Finding, Status
from infl.privacy.attacks.evidence import Evidence

__all__ = ["ATTACKS", "Attack", "Attacker", "Evidence", "Finding", "Status", "known_attacks", "load_attack"]

ATTACKS: dict[str, str] = {
    "analytic_leak": "infl.privacy.attacks.analytic_leak:AnalyticLeak",
    "gradient_inversion": "infl.privacy.attacks.gradient_inversion:GradientInversion",
    "patch_inversion": "infl.privacy.attacks.patch_inversion:PatchInversion",
    "ratio": "infl.privacy.attacks.ratio:Ratio",
    "sealed_traffic": "infl.privacy.attacks.sealed_traffic:SealedTraffic",
    "no_key": "infl.privacy.attacks.keys:NoKey",
    "wrong_key": "infl.privacy.attacks.keys:WrongKey",
    "one_bit_key": "infl.privacy.attacks.keys:OneBitKey",
    "thief_fine_tuning": "infl.privacy.attacks.thief_fine_tuning:ThiefFineTuning",
    "importance_thief": "infl.privacy.attacks.importance_thief:ImportanceThief",
    "relabelling": "infl.privacy.attacks.relabelling:Relabelling",
    "known_model": "infl.privacy.attacks.known_model:KnownModel",
    "many_relocks": "infl.privacy.attacks.many_relocks:ManyRelocks",
    "chosen_salt": "infl.privacy.attacks.chosen_salt:ChosenSalt",
    "file_statistics": "infl.privacy.attacks.file_statistics:FileStatistics",
    "membership": "infl.privacy.attacks.membership:Membership",
    "audited_epsilon": "infl.privacy.attacks.audited_epsilon:AuditedEpsilon",
    "site_balance": "infl.privacy.attacks.site_balance:SiteBalance",
    "collusion": "infl.privacy.attacks.collusion:Collusion",
}


def known_attacks() -> dict[str, str]:
    """Return the import path of every attack by name: ours, and third parties' by entry point ``infl.attacks``.

    Examples
    --------
    >>> known_attacks()["no_key"]
    'infl.privacy.attacks.keys:NoKey'
    """
    return _entry_points.known("infl.attacks", ATTACKS)


def load_attack(name: str) -> Attack:
    """Return an attack.

    Parameters
    ----------
    name
        One of :func:`known_attacks`.

    Raises
    ------
    SettingsError
        Unknown name; the message lists the known ones. Or what another package registered cannot be imported.

    Examples
    --------
    >>> print(load_attack("no_key").against)
    thief of a model file
    """
    known = known_attacks()
    if name not in known:
        raise SettingsError(f"attack {name!r} is not known: one of {', '.join(sorted(known))}")
    return _entry_points.load(name, known[name])()
