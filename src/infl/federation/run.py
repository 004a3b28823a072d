"""What a federated fit returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infl.privacy.dp import epsilon_by_round, epsilon_of

if TYPE_CHECKING:
    import pandas as pd

    from infl.federation.replica import Replica
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
        One row a round: ``loss`` (training), ``val_…`` (validation, federated), ``seconds``, ``n_sites``,
        ``bytes_sent`` (by all sites), ``best``.
    settings
        The run's specification; no secret in it.
    ledger
        What left each site: ``site``, ``time``, ``kind``, ``round``, ``bytes``, ``sealed``, digests.
    privacy
        With differential privacy: ε spent, δ, clipping norm, noise multiplier, sampling rate, rounds, accountant.
    site_models
        Where weights or moments stay at the sites: each site's whole model, locked. A site alone has its own; here, with all
        of them in one process, they are together.
    lock_curve
        Accuracy with the right key, wrong keys and none over strengths of the lock (:func:`infl.tl.lock_curve`) on the
        sites' validation data; measured when it is first asked for, None without a field lock.
    """

    model: LockedModel
    key: Keyring | None
    history: pd.DataFrame
    settings: dict[str, Any]
    ledger: pd.DataFrame = field(repr=False)
    privacy: dict[str, Any] | None = None
    site_models: dict[str, LockedModel] = field(default_factory=dict, repr=False)
    measure_lock: Callable[[], pd.DataFrame] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, replica: Replica, ledger: pd.DataFrame, seconds: Sequence[float] = ()) -> FederatedRun:
        """Return the result of a run that a replica went through.

        Parameters
        ----------
        replica
            After the last sum.
        ledger
            What left the sites, as far as it is known here.
        seconds
            Durations of the last rounds.
        """
        import pandas as pd

        agreement, n = replica.agreement, len(replica.rows)
        history = pd.DataFrame(replica.rows, index=pd.RangeIndex(1, n + 1, name="round"))
        history["seconds"] = [float("nan")] * (n - len(seconds)) + list(seconds)
        sent = ledger[ledger["round"] > 0].groupby("round")["bytes"].sum()
        history["bytes_sent"] = sent.reindex(history.index).fillna(0).astype(int)
        history["best"] = history.index == (replica.best_round or n)
        privacy = None
        if agreement.dp is not None:
            history["epsilon"] = epsilon_by_round(list(history["n_sites"]), agreement.dp, agreement.min_sites)
            spent = epsilon_of(replica.steps, float(agreement.dp.delta or 0), agreement.dp.accountant)
            privacy = {**agreement.dp.to_json(), "budget": agreement.dp.epsilon or float("inf"), "epsilon": spent}
            privacy["rounds"] = n
        return cls(replica.model(), replica.key, history, agreement.settings(), ledger, privacy)

    @cached_property
    def lock_curve(self) -> pd.DataFrame | None:  # noqa: D102 - described above
        return None if self.measure_lock is None else self.measure_lock()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"measure_lock": None}

    def save(self, path: str | Path, *, recipients: list[str] | None = None, overwrite: bool = False) -> Path:
        """Write the locked model; see :meth:`infl.models.LockedModel.save`. The key is saved apart from it."""
        return self.model.save(path, recipients=recipients, overwrite=overwrite)

    def summary(self) -> str:
        """Return a few lines that say what was fitted, how well, and what protects it."""
        s, best = self.settings, self.history[self.history["best"]]
        metrics = [c for c in map(str, self.history) if c.startswith("val_")]
        values = ", ".join(f"{c.removeprefix('val_')} {best[c].iloc[0]:.3f}" for c in metrics) if len(best) else "none"
        sent = self.history["bytes_sent"].sum() / 1e6
        return "\n".join(
            [
                f"{s['task']} on {len(s['sites'])} sites, {len(self.history)} of {s['rounds']} rounds, {s['aggregation']}",
                f"validation at the best round ({best.index[0] if len(best) else '-'}): {values}",
                f"lock {s['lock']} (strength {s['strength']:g}), seal {s['seal']}, key {s['fingerprint'] or 'none'}",
                *(
                    [f"privacy: epsilon {self.privacy['epsilon']:.2f} at delta {self.privacy['delta']:g}"]
                    if self.privacy
                    else []
                ),
                f"left the sites: {sent:.2f} MB in {len(self.ledger)} messages",
            ]
        )

    def __repr__(self) -> str:
        return f"FederatedRun\n{self.summary()}"

    def _repr_html_(self) -> str:
        lines = "".join(f"<li>{line}</li>" for line in self.summary().splitlines())
        return f"<b>FederatedRun</b><ul>{lines}</ul>"
