"""Attacks that users run against their own runs: one file an attack, one contract."""

from __future__ import annotations

import difflib

from infl import _entry_points
from infl._renamed import renamed
from infl.attacks._kit.audit_context import UNPROTECTED, AuditContext
from infl.attacks._kit.contract import Attack, Attacker, Finding, Status
from infl.attacks._kit.statistics import correlation, interval
from infl.errors import SettingsError

__all__ = [
    "ATTACKS",
    "UNPROTECTED",
    "Attack",
    "Attacker",
    "AuditContext",
    "Finding",
    "Status",
    "correlation",
    "interval",
    "known_attacks",
    "load_attack",
]

__getattr__ = renamed(__name__, {"Evidence": "AuditContext"})

ATTACKS: dict[str, str] = {
    "analytic_leak": "infl.attacks.analytic_leak:AnalyticLeak",
    "gradient_inversion": "infl.attacks.gradient_inversion:GradientInversion",
    "patch_inversion": "infl.attacks.patch_inversion:PatchInversion",
    "ratio": "infl.attacks.ratio:Ratio",
    "sealed_traffic": "infl.attacks.sealed_traffic:SealedTraffic",
    "no_key": "infl.attacks.keys:NoKey",
    "wrong_key": "infl.attacks.keys:WrongKey",
    "one_bit_key": "infl.attacks.keys:OneBitKey",
    "thief_fine_tuning": "infl.attacks.thief_fine_tuning:ThiefFineTuning",
    "file_plus_oracle": "infl.attacks.file_plus_oracle:FilePlusOracle",
    "forged_key": "infl.attacks.forged_key:ForgedKey",
    "public_model_thief": "infl.attacks.public_model_thief:PublicModelThief",
    "importance_thief": "infl.attacks.importance_thief:ImportanceThief",
    "relabelling": "infl.attacks.relabelling:Relabelling",
    "known_model": "infl.attacks.known_model:KnownModel",
    "many_relocks": "infl.attacks.many_relocks:ManyRelocks",
    "chosen_salt": "infl.attacks.chosen_salt:ChosenSalt",
    "file_statistics": "infl.attacks.file_statistics:FileStatistics",
    "membership": "infl.attacks.membership:Membership",
    "rmia": "infl.attacks.rmia:Rmia",
    "sum_membership": "infl.attacks.sum_membership:SumMembership",
    "audited_epsilon": "infl.attacks.audited_epsilon:AuditedEpsilon",
    "missing_site": "infl.attacks.missing_site:MissingSite",
    "site_balance": "infl.attacks.site_balance:SiteBalance",
    "collusion": "infl.attacks.collusion:Collusion",
    "code_in_offer": "infl.attacks.coordinator.offers:CodeInOffer",
    "code_in_file": "infl.attacks.coordinator.files:CodeInFile",
    "downgrade": "infl.attacks.coordinator.offers:Downgrade",
    "data_probe": "infl.attacks.coordinator.offers:DataProbe",
    "ghost_members": "infl.attacks.coordinator.offers:GhostMembers",
    "replayed_round": "infl.attacks.coordinator.plans:ReplayedRound",
    "extra_rounds": "infl.attacks.coordinator.plans:ExtraRounds",
    "chosen_scale": "infl.attacks.coordinator.plans:ChosenScale",
    "early_end": "infl.attacks.coordinator.plans:EarlyEnd",
    "differencing": "infl.attacks.coordinator.plans:Differencing",
    "refusal_oracle": "infl.attacks.coordinator.visible:RefusalOracle",
    "split_view": "infl.attacks.coordinator.sums:SplitView",
    "crafted_model": "infl.attacks.coordinator.sums:CraftedModel",
}


def known_attacks() -> dict[str, str]:
    """Return the import path of every attack by name: ours, and third parties' by entry point ``infl.attacks``.

    Examples
    --------
    >>> known_attacks()["no_key"]
    'infl.attacks.keys:NoKey'
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
        Unknown name; the message has the nearest one, and where all are listed. Or what another package registered is not an attack of that name.

    Examples
    --------
    >>> print(load_attack("no_key").against)
    thief of a model file
    """
    known = known_attacks()
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)  # the whole list would be longer than a message may be
        meant = f"did you mean {near[0]!r}? " if near else ""
        raise SettingsError(f"attack {name!r} is not known: {meant}infl.attacks.known_attacks() has the names")
    attack: Attack = _entry_points.load(name, known[name], Attack)()
    if lacks := [attribute for attribute in ("against", "question") if not hasattr(attack, attribute)]:
        raise SettingsError(f"attack {name!r} has no {lacks[0]}: set {lacks[0]} in class {type(attack).__name__}")
    return attack
