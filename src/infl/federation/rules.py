"""Aggregation rules: how sites train towards a common model, and what happens to the average of their updates.

A rule sees only sums over sites, never a site's update, so all of these work under the seal.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from infl import _entry_points
from infl._parameters import shown
from infl.errors import SettingsError
from infl.federation.adaptive import fedadam, fedyogi
from infl.federation.aggregation import AtSite, Rule

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "RULES",
    "AtSite",
    "Rule",
    "afl",
    "fedadam",
    "fedavg",
    "fedbn",
    "fedprox",
    "fedyogi",
    "known_rules",
    "partial",
    "qfedavg",
    "rule",
    "scaffold",
]


def fedavg(weight: Literal["samples", "sites"] = "samples") -> Rule:
    """Average of the sites' updates, weighted by their training samples (McMahan et al., AISTATS 2017).

    With ``weight="sites"`` all sites count alike, as studies do in a meta-analysis with random effects: where sites differ
    more than their samples do, a large site says little more about the next one than a small one.

    Parameters
    ----------
    weight
        ``"samples"``, or ``"sites"``.

    Returns
    -------
    Rule
        To be named in ``aggregation=``.

    Examples
    --------
    >>> fedavg().importance is None, fedavg(weight="sites").importance(AtSite(0.3, 50, mean_n=100))
    (True, 2.0)
    """
    if weight not in ("samples", "sites"):
        raise SettingsError(f"fedavg weight={weight!r}: 'samples' or 'sites'")
    return Rule("fedavg", importance=(lambda site: site.mean_n / max(site.n, 1)) if weight == "sites" else None)


def fedprox(mu: float = 0.01) -> Rule:
    """FedAvg whose sites are pulled back to the global model by ``mu / 2 · ‖θ − θ_global‖²`` (Li et al., MLSys 2020).

    Parameters
    ----------
    mu
        How strongly; 0 is FedAvg.

    Returns
    -------
    Rule
        To be named in ``aggregation=``.

    Examples
    --------
    >>> import torch
    >>> gradient, weights, anchor = torch.zeros(2), torch.tensor([1.0, 3.0]), torch.ones(2)
    >>> fedprox(mu=0.5).at_site(gradient, weights, anchor)
    >>> gradient
    tensor([0., 1.])
    """
    if not mu >= 0:
        raise SettingsError(f"fedprox mu={mu}: give a number of at least 0")

    def pull(gradient: Tensor, weights: Tensor, anchor: Tensor) -> None:
        gradient.add_(weights - anchor, alpha=mu)

    return Rule("fedprox", at_site=pull)


def scaffold() -> Rule:
    """FedAvg whose sites correct each gradient by the difference of the mean gradient of all sites and their own.

    Karimireddy et al., SCAFFOLD, ICML 2020. A site's control variate is the mean of its gradients in its last round
    (as option I of the paper, at the points that it passed; option II presumes plain SGD, and sites use AdamW). Only the
    weighted sum of the changes leaves the sites, sealed beside the update; a message is twice as long.

    Returns
    -------
    Rule
        To be named in ``aggregation=``.

    Examples
    --------
    >>> scaffold().control
    True
    """
    return Rule("scaffold", control=True)


def qfedavg(q: float = 1.0) -> Rule:
    """FedAvg in which a site counts by its samples times its training loss to the power `q`: worse sites count more.

    The direction of Li et al., Fair resource allocation in federated learning (q-FFL), ICLR 2020, whose step size for
    plain SGD is left out. ``q=0`` is FedAvg.

    Parameters
    ----------
    q
        How much more worse sites count.

    Returns
    -------
    Rule
        To be named in ``aggregation=``.

    Examples
    --------
    >>> qfedavg(q=2.0).importance(AtSite(0.5, 10)), qfedavg(q=2.0).importance(AtSite(0.5, 10, last=0.5))
    (0.25, 1.0)
    """
    if not 0 <= q <= 10:
        raise SettingsError(f"qfedavg q={q}: give a number from 0 to 10")
    # divided by the last round's mean, which all know: small losses would be lost in the steps of the sum
    return Rule("qfedavg", importance=lambda site: _bounded(q * math.log(max(site.loss, 1e-9) / max(site.last, 1e-9))))


def afl(gamma: float = 0.3) -> Rule:
    """Agnostic federated learning: FedAvg against the mixture of sites that is worst for the model.

    A site's weight grows by ``exp(gamma · loss)`` per round (exponentiated gradient ascent on the mixture; Mohri et al., Agnostic
    federated learning, ICML 2019), from its share of the samples on. Losses count from the last round's mean over sites, which
    all know, so that weights stay near 1; a factor that all share cancels in the average. ``gamma=0`` is FedAvg.

    Parameters
    ----------
    gamma
        Step of the ascent.

    Returns
    -------
    Rule
        To be named in ``aggregation=``.

    Examples
    --------
    >>> rule = afl(gamma=0.5)
    >>> rule.importance(AtSite(0.7, 10)), round(rule.importance(AtSite(0.7, 10, excess=2.0)), 3)
    (1.0, 2.718)
    """
    if not 0 <= gamma <= 10:
        raise SettingsError(f"afl gamma={gamma}: give a number from 0 to 10")
    return Rule("afl", importance=lambda site: _bounded(gamma * site.excess))


def _bounded(exponent: float) -> float:
    """Return e to the power of a number, within e⁻⁸ and e⁸."""
    return math.exp(min(max(exponent, -8.0), 8.0))


def fedbn() -> Rule:
    """FedAvg without the normalisation layers, which stay at the sites (Li et al., FedBN, ICLR 2021).

    Returns
    -------
    Rule
        To be named in ``aggregation=``.

    Examples
    --------
    >>> fedbn().is_local("body.norm.weight"), fedbn().is_local("body.linear.weight")
    (True, False)
    """
    return Rule("fedbn", local=("norm",))


def partial(local: Sequence[str] = ("head",)) -> Rule:
    """FedAvg without the modules named in `local`, which stay at the sites.

    With ``("head",)`` FedPer (Arivazhagan et al. 2019), with ``("embed",)`` a first layer for each site.

    Parameters
    ----------
    local
        Names of modules, by any part of their dotted name.

    Returns
    -------
    Rule
        To be named in ``aggregation=``.

    Examples
    --------
    >>> partial(local=["embed"]).is_local("embed.weight")
    True
    """
    names = (local,) if isinstance(local, str) else tuple(local)
    if not names:
        raise SettingsError("partial local=(): name the modules that stay at the sites, e.g. ('head',)")
    return Rule("partial", local=names)


RULES: dict[str, Callable[..., Rule]] = {
    rule.__name__: rule for rule in (fedavg, fedprox, fedadam, fedyogi, scaffold, qfedavg, afl, fedbn, partial)
}


def known_rules() -> list[str]:
    """Return the names of all rules: ours, and third parties' by entry point ``infl.rules``.

    Examples
    --------
    >>> "fedprox" in known_rules()
    True
    """
    return list(_entry_points.known("infl.rules", dict.fromkeys(RULES, "")))


def rule(name: str, options: Mapping[str, Any]) -> Rule:
    """Return a rule by its name.

    Raises
    ------
    SettingsError
        Unknown rule or option, or what another package registered returns no :class:`Rule`.
    """
    make = RULES.get(name) or _of_others(name)  # reading all entry points takes as long as a round
    try:
        inspect.signature(make).bind(**options)
    except TypeError as wrong:
        known = ", ".join(inspect.signature(make).parameters) if callable(make) else ""
        raise SettingsError(f"aggregation={name!r} {wrong}: its options are {known or 'none'}") from None
    try:
        found = make(**options)
    except TypeError:
        raise SettingsError(f"aggregation={name!r} does not take {_as_given(options)}: look at its types") from None
    if not isinstance(found, Rule):
        raise SettingsError(f"aggregation={name!r}: what is registered returns {type(found).__name__}, not a Rule")
    return found


def _as_given(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{option}={shown(value)}" for option, value in options.items()) or "no options"


def _of_others(name: str) -> Callable[..., Rule]:
    places = _entry_points.known("infl.rules", {})
    if name not in places:
        near = difflib.get_close_matches(name.lower(), known_rules(), 1)
        hint = f"did you mean {near[0]!r}?" if near else f"one of {', '.join(map(repr, known_rules()))}"
        raise SettingsError(f"aggregation={name!r} is not known: {hint}")
    return _entry_points.load(name, places[name])
