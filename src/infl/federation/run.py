"""What a federated fit returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infl._html import facts, notebook
from infl.federation.descriptions import with_descriptions
from infl.privacy.dp import epsilon_by_round, epsilon_of

if TYPE_CHECKING:
    import pandas as pd

    from infl.federation.replica import Replica
    from infl.federation.start import Origin
    from infl.keys import Keyring
    from infl.models.locked import LockedModel


@dataclass
class FederatedRun:
    """Result of :func:`infl.tl.fit_federated`.

    Attributes
    ----------
    model
        The model of the best round by validation, locked.
    key
        Key ring that opens it (None: neither lock nor seal).
    history
        One row per round: ``loss`` (training), ``val_…`` (validation, federated), ``n_sites``, ``bytes_sent`` (by all
        sites), ``best``. Equal runs have equal histories; how long each round took is in ``history.attrs["seconds"]``, and in
        ``history.attrs["device"]`` where it was trained here.
    settings
        The run's specification; no secret in it.
    ledger
        What left each site: ``site``, ``time``, ``kind``, ``round``, ``bytes``, ``sealed``, digests; and of which ``sum`` it
        was a part, and what that ``says``.
    privacy
        With differential privacy: ε spent, δ, clipping norm, noise multiplier, sampling rate, rounds, accountant.
    site_models
        Where weights or moments stay at the sites: each site's whole model, locked. A site alone has its own; here, with all
        of them in one process, they are together.
    origin
        The model that the run began with, locked as it was given (None: fresh weights).

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> run = infl.tl.fit_federated(sites, target="tumour_class", rounds=2, progress=False)
    >>> len(run.history), run.ledger["kind"].iloc[0], run.settings["seal"]
    (2, 'count', 'group')
    """

    model: LockedModel
    key: Keyring | None
    history: pd.DataFrame
    settings: dict[str, Any]
    ledger: pd.DataFrame = field(repr=False)
    privacy: dict[str, Any] | None = None
    site_models: dict[str, LockedModel] = field(default_factory=dict, repr=False)
    origin: Origin | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls,
        replica: Replica,
        ledger: pd.DataFrame,
        seconds: Sequence[float] = (),
        site_models: Mapping[str, LockedModel | None] | None = None,
    ) -> FederatedRun:
        """Return the result of a run that a replica went through.

        Parameters
        ----------
        replica
            After the last sum.
        ledger
            What left the sites, as far as it is known here.
        seconds
            Durations of the last rounds.
        site_models
            The model of each site with weights of its own; None for the others.
        """
        import pandas as pd

        agreement, n = replica.agreement, len(replica.rows)
        history = pd.DataFrame(replica.rows, index=pd.RangeIndex(1, n + 1, name="round"))
        history.attrs["device"] = str(replica.device)
        history.attrs["seconds"] = [float("nan")] * (n - len(seconds)) + list(seconds)  # differ between equal runs
        sent = ledger[ledger["round"] > 0].groupby("round")["bytes"].sum()
        history["bytes_sent"] = sent.reindex(history.index).fillna(0).astype(int)
        history["best"] = history.index == (replica.best_round or n)
        privacy = None
        if agreement.dp is not None:
            spent = epsilon_of(replica.steps, float(agreement.dp.delta or 0), agreement.dp.accountant)
            quick = epsilon_by_round(list(history["n_sites"]), agreement.dp, agreement.min_sites)
            history["epsilon"] = [min(so_far, spent) for so_far in quick]  # no round spent more than all of them
            privacy = {**agreement.dp.to_json(), "budget": agreement.dp.epsilon or float("inf"), "epsilon": spent}
            privacy["rounds"] = n
        ledger = with_descriptions(ledger, replica.task, agreement.panel)
        own = {site: model for site, model in (site_models or {}).items() if model is not None}
        origin = None if replica.start is None else replica.start.origin
        return cls(replica.model(), replica.key, history, agreement.settings(), ledger, privacy, own, origin)

    def save(self, path: str | Path, *, recipients: list[str] | None = None, overwrite: bool = False) -> Path:
        """Write the locked model; see :meth:`infl.models.LockedModel.save`. The key is saved apart from it."""
        return self.model.save(path, recipients=recipients, overwrite=overwrite)

    def summary(self) -> str:
        """Return a few lines that say what was fitted, how well, and what protects it."""
        unnamed = ("fitted", "protection")
        return "\n".join(line if name in unnamed else f"{name}: {line}" for name, line in self._described().items())

    def _described(self) -> dict[str, str]:
        s, best = self.settings, self.history[self.history["best"]]
        metrics = [c for c in map(str, self.history) if c.startswith("val_")]
        values = ", ".join(f"{c.removeprefix('val_')} {best[c].iloc[0]:.3f}" for c in metrics) if len(best) else "none"
        done = f"{len(self.history)} of {s['rounds']} rounds"
        lines = {
            "fitted": f"{s['task']} on {len(s['sites'])} sites, {done}, {s['aggregation']}",
            f"validation at the best round ({best.index[0] if len(best) else '-'})": values,
            "protection": f"lock {s['lock']} (strength {s['strength']:g}), seal {s['seal']}, key {s['fingerprint'] or 'none'}",
        }
        if s.get("init"):
            lines["began with"] = f"model {s['init'][:16]}"
        if self.privacy:
            lines["privacy"] = f"epsilon {self.privacy['epsilon']:.2f} at delta {self.privacy['delta']:g}"
        sent = float(self.history["bytes_sent"].sum())
        size = f"{sent / 1e6:.2f} MB" if sent >= 1e5 else f"{sent / 1e3:.1f} kB"
        return lines | {"left the sites": f"{size} in {len(self.ledger)} messages"}

    def __repr__(self) -> str:
        return f"FederatedRun\n{self.summary()}"

    def _repr_html_(self) -> str:
        return notebook(facts(self._described(), "infl federated run"))
