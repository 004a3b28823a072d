"""Attack one's own run, and return the findings in one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from infl import _tell
from infl._parameters import Names, door
from infl._threads import one_blas_thread, threads_for
from infl._warn import warn
from infl.errors import DataError, SettingsError
from infl.federation.report import round_bar
from infl.federation.run import FederatedRun

if TYPE_CHECKING:
    import pandas as pd

    from infl._types import Data
    from infl.attacks import Attack, AuditContext, Finding

ATTACKS = Names(none=True, says="names of attacks, each of them once, or 'quick'")
COLUMNS = (
    "attack", "against", "protection", "metric", "value", "chance", "control", "low", "high", "limit", "trials", "needed",
    "status", "note",
)  # fmt: skip


@door(attacks=ATTACKS)
def audit(
    run: FederatedRun,
    sites: Mapping[str, Data] | Data,
    *,
    attacks: str | Sequence[str] | None = None,
    site_key: str | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Attack a run as a capable enemy would, next to the same attack on an unprotected run of the same data.

    The run is repeated with an eavesdropper on the line, under its own settings and under none, so nothing had to be kept
    while it was fitted.

    Parameters
    ----------
    run
        From :func:`infl.tl.fit_federated`.
    sites
        The data that it was fitted on.
    attacks
        Names of attacks (:func:`infl.attacks.known_attacks`), ``"quick"`` for those that take seconds, or None
        for all that apply to the run.
    site_key
        As for :func:`infl.tl.fit_federated`, when `sites` is one object.
    seed
        Of the attackers' own randomness.
    progress
        Show a progress bar.

    Returns
    -------
    DataFrame
        One row per finding: ``attack``, ``against`` (who attacks), ``protection``, ``metric``, ``value`` (with ``low`` and
        ``high``, 95 %), ``chance``, ``control`` (the same attack without protection; for keys, the right key), ``limit``,
        ``trials``, ``needed``, ``status`` and ``note``. ``status`` is "holds", where ``high`` is no higher than ``limit`` (chance
        and a margin, or what is promised); "leak" where a protection that was promised did not hold; "not promised"
        where the attack works and nothing was promised; "not judged", where the attack did not work on the
        control either, for lack of data; "inconclusive", where the interval is too wide to tell, and about ``needed``
        trials in place of ``trials`` would; or "cannot tell", where the attack could not show a broken promise if it was one.
        ``attrs["passed"]`` is whether no row is a leak or not judged, and every promise is shown to hold,
        ``attrs["left_out"]`` names attacks that do not apply to the run, ``attrs["run"]`` is the run's random name.

    Raises
    ------
    SettingsError
        Unknown attack.
    DataError
        The data are not those of the run.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> run = infl.tl.fit_federated(sites, target="tumour_class", progress=False)
    >>> table = infl.tl.audit(run, sites, attacks=["wrong_key"], progress=False)
    >>> table["status"].tolist(), table.attrs["passed"]
    (['holds'], True)
    """
    from infl._tables import Findings
    from infl.attacks import AuditContext
    from infl.data.sites import as_sites
    from infl.tl._use import check_use

    if not isinstance(run, FederatedRun):
        raise SettingsError(
            f"audit takes what fit_federated returned, not {type(run).__name__}: a model alone has no run to repeat and attack; "
            "infl.tl.lock_curve measures what its key is worth"
        )
    loaded = _load(attacks)
    data = as_sites(sites, site_key)
    check_use(data, run.model.header.build_task(), run.model.header.panel, training=True)
    context = AuditContext(run, data, seed)
    _check_data(context)
    chosen = [attack for attack in loaded if attack.applies(context)]
    left_out = [attack.name for attack in loaded if attack not in chosen]
    if not chosen:
        raise SettingsError(
            f"{', '.join(left_out[:5])}: no such attack applies to this run ({context.protection}); attacks=None takes those that do"
        )
    if left_out and attacks not in (None, ("quick",)):
        warn(f"{', '.join(left_out[:5])} left out: not applicable to this run ({context.protection})")
    rows, passed = [], True
    with round_bar(len(chosen), progress, what="attack") as show, threads_for(run.model.n_weights), one_blas_thread():
        for number, attack in enumerate(chosen, 1):
            for f in _findings(attack, context):
                known = [np.nan if number is None else float(number) for number in (f.trials, f.needed)]
                numbers = (f.value, f.chance, f.control, f.low, f.high, f.limit, *known)
                values = (f.metric, *numbers, str(f.status), f.said)
                passed &= f.passed
                rows.append((attack.name, str(attack.against), context.protection, *values))
                _tell.info(f"{attack.name}, {f.metric}: {f.value:.2f} (chance {f.chance:.2f}), {f.status}")
            show(number, [])
    table = Findings(rows, columns=list(COLUMNS))
    table.attrs |= {"passed": passed, "left_out": left_out}
    table.attrs["run"] = run.settings["run"]
    return table


def _findings(attack: Attack, context: AuditContext) -> Sequence[Finding]:
    """Return what an attack found; one of another package may return anything."""
    from infl.attacks import Finding

    with _tell.quiet():  # its own fits, on records and classes of its own
        found = attack.run(context)
    if not isinstance(found, list | tuple) or not all(isinstance(f, Finding) for f in found):
        raise SettingsError(
            f"attack {attack.name!r}: run returns {type(found).__name__}, and a list of Finding is needed"
        )
    return found


def _load(attacks: Sequence[str] | None) -> list[Attack]:
    """Return the attacks of a preset or by name."""
    from infl.attacks import known_attacks, load_attack

    if attacks in (None, ("quick",)):
        loaded = [load_attack(name) for name in known_attacks()]
        return [attack for attack in loaded if attack.quick or attacks is None]
    return [load_attack(name) for name in attacks or ()]


def _check_data(context: AuditContext) -> None:
    """Refuse data that the run was not fitted on: its first training loss must come out again.

    Under differential privacy nothing comes out again; names of sites and features are compared then.
    """
    run, names = context.run, set(context.run.settings["sites"])
    if set(context.sites) != names:
        odd = sorted(names ^ set(context.sites))
        raise DataError(f"these are not the sites of the run: {', '.join(odd[:3])} is in one of the two only")
    if run.privacy is not None:
        return
    again = context.protected.run.history["loss"].iloc[0]
    if not np.isclose(again, run.history["loss"].iloc[0], rtol=1e-3):
        raise DataError(
            "these are not the data of the run: its first round does not come out again; pass the data of the fit"
        )
