"""The global model as every key holder has it.

All sites apply the same sums in the same order, so all replicas are equal; sites that are simulated in one process
share one. The coordinator has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from infl import _tell
from infl.errors import FederationError, SealError, SettingsError
from infl.federation.agreement import Agreement
from infl.federation.exchanges import TrainingSum, summarised
from infl.federation.holders import check_holders
from infl.federation.initial import build_flat_model, configure
from infl.federation.messages import CLOSE_KIND, REVEAL_KIND, Total, context_of, linked
from infl.federation.packings import left_out, rescaled
from infl.federation.programme import Exchange, Programme
from infl.federation.rules import fedadam, rule
from infl.federation.run_lock import RunLock, named
from infl.models.locked import LockedModel, content_of
from infl.models.registry import task_from_json
from infl.privacy.dp import NOISE_TAIL, check_module, grid_exponent, steps_of
from infl.privacy.seal import GroupSeal, NoSeal, Packing, dequantise
from infl.privacy.seal.packing import limit
from infl.sums.lanes import WIDER_COUNT, split_sums

if TYPE_CHECKING:
    from infl.federation.messages import Plan
    from infl.federation.start import Start
    from infl.keys import Keyring
    from infl.models.task import Sums, Task
    from infl.privacy.seal import Context


class Replica:
    """Global model, key-dependent parts and history of one run.

    Parameters
    ----------
    agreement
        The run's specification.
    key
        Key ring (None: neither lock nor seal).
    task
        The task, where it is not one that the agreement's name finds.
    min_holders
        Fewest sites that must have a feature, class or modality before anything of it is summed.
    start
        The model that the run begins with (None: fresh weights).
    device
        Where the module computes here; each site has its own, and the weights are kept on the processor.

    Attributes
    ----------
    lock
        Secret and salts of the run's lock.
    flat_model
        The module that sites load weights into to train and to judge.
    theta
        Global weights as the module computes with them (unlocked), flat.
    made
        Names the agreement and the sums that `theta` was computed from, in hexadecimal. Salts follow from it; a secret of the sites.
    seq
        Number of the last exchange whose sum was applied (−1: none).
    private
        Arrays learned from sums: moments, class counts, calibration.
    n_total
        Training samples of all sites.
    stopped
        Early stopping has been decided.
    wider
        By which powers of two the scales of an update's arrays are wider than the first ones, after what sums said.
    absent
        By number of the exchange, which sites of its cohort are not in the sum.
    counted
        Summed weights of the sites' updates, where the rule counts sites by a factor: of the last round in which all were (0:
        of none yet).
    begun_with
        Names of the private arrays before the final sums.
    lacks
        A final sum in which a site was missing stayed closed; those before and after it count as little.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> from infl.federation.agreement import Agreement
    >>> task, key = infl.models.Classifier(target="tumour_class"), infl.keys.Keyring.create()
    >>> agreement = Agreement.new(task, task.agree(sites), sites, key, rounds=2)
    >>> replica = Replica(agreement, key, task)
    >>> replica.seq, len(replica.rows)
    (-1, 0)
    """

    def __init__(
        self,
        agreement: Agreement,
        key: Keyring | None,
        task: Task | None = None,
        *,
        min_holders: int = 1,
        start: Start | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.lock, self.key, self.start = RunLock(agreement, key, start), key, start
        self.agreement, self.min_holders = agreement, min_holders
        self.task = task or task_from_json(agreement.task, agreement.options)
        if agreement.dp is not None and self.task.for_dp().options() != self.task.options():
            raise SettingsError(
                "under differential privacy nothing but noisy sums may be taken, and this task's options ask for others: "
                "agree on what task.for_dp() gives"
            )
        self.device = torch.device(device)
        self.flat_model = build_flat_model(self.task, agreement, start, self.device)
        self.lock.scheme.arm(self.flat_model.module, self.lock.secret(self.lock.scheme.label))
        self.sealed = agreement.seal != "none"
        self.seal_secret = self.lock.secret("seal") or b""
        self.gain = self.lock.gain(self.flat_model.shared, self.task.units(agreement.panel))
        self.seal = self._seal()
        self.rule = rule(agreement.aggregation, agreement.aggregation_options)
        if agreement.dp is not None:
            check_module(self.flat_model.module)
            self.rule = fedadam(lr=self.task.lr, eps=1e-8)
            if self.room * 2.0 ** grid_exponent(agreement.dp.clip_norm, self.flat_model.shared.total) < 1:
                raise SettingsError(
                    f"privacy: noise_multiplier={agreement.dp.noise_multiplier:g} for {self.flat_model.shared.total} weights leaves "
                    "no room for gradients in what is summed: take a smaller model, or less noise"
                )
        self.rule_state: dict[str, Tensor] = {}
        self.optimiser = self.task.optimise([self.flat_model.flat])
        self.programme = Programme(self.task, agreement, self.flat_model.shared)
        self.theta = self.flat_model.copy_shared()
        locked = self.flat_model.shared.views(self.theta) if self.lock.scheme.name == "field" else {}
        self._initial = {name: content_of(view) for name, view in locked.items()}
        self.made = self.best_made = named("run", self.lock.recipe).hex()
        self.best_theta: Tensor | None = None
        self.best_round = 0
        self.private: dict[str, np.ndarray] = {}
        self.n_total = 0
        self.seq, self.chain = -1, ""
        self._context: tuple[object, Context] | None = None
        self.stopped = False
        self.wider: dict[str, int] = {}
        self.absent: dict[str, list[str]] = {}
        self.counted, self.lacks = 0.0, False
        self.begun_with: list[str] = []
        self.rows: list[dict[str, Any]] = []

    @property
    def noise_in_steps(self) -> float:
        """Standard deviation of one site's noise under differential privacy, in steps of the grid."""
        dp = self.agreement.dp
        assert dp is not None
        noise = dp.site_noise(self.agreement.min_sites) * dp.clip_norm
        return noise / 2.0 ** grid_exponent(dp.clip_norm, self.flat_model.shared.total)

    @property
    def room(self) -> int:
        """Largest size of a site's summed gradient, in steps of the grid, beside which its noise fits the seal's range."""
        return limit(32, self.agreement.cohort_size) - int(np.ceil(NOISE_TAIL * self.noise_in_steps))

    def _seal(self) -> GroupSeal | NoSeal:
        minimum = self.agreement.min_sites
        return GroupSeal(self.seal_secret, min_sites=minimum) if self.sealed else NoSeal(min_sites=minimum)

    # -- sums ------------------------------------------------------------------------------------------------------
    def catch_up(self, totals: tuple[Total, ...]) -> None:
        """Apply the sums that this replica has not seen, in order.

        Raises
        ------
        SealError
            A sum was altered, or is not of this run; nothing of it is applied.
        FederationError
            A sum in between is missing.
        """
        for total in totals:
            if total.seq <= self.seq:
                continue
            if total.seq != self.seq + 1:
                raise FederationError(
                    f"the sum of exchange {self.seq + 1} is missing, the next that came is {total.seq}: "
                    "put a newer backup of this site back, if this one was put back, or begin the run anew"
                )
            context = self._apply(total)
            self.seq, self.chain = total.seq, linked(self.chain, context, total)
            if absent := [site for site in total.cohort if site not in total.responders]:
                self.absent[str(total.seq)] = absent

    @property
    def due(self) -> Exchange | None:
        """The exchange that comes next (None: the run is over)."""
        return self.programme.due(self.seq + 1, rounds=len(self.rows), stopped=self.stopped)

    def context(self, of: Plan | Total) -> Context:
        """Return what the seal of the exchange that is due is bound to; one for all sites of this process."""
        key = (of.seq, of.kind.removeprefix(REVEAL_KIND), of.attempt, self.chain, of.epochs)
        if self._context is None or self._context[0] != key:
            self._context = (key, context_of(self.agreement.run, of, self.packing, self.agreement.digest, self.chain))
        return self._context[1]

    @property
    def packing(self) -> Packing:
        """Arrays of the exchange that is due, on the scales that are due."""
        due = self.due
        return Packing(()) if due is None else due.packing.coarser(self.wider if due.round else {})

    def _apply(self, total: Total) -> Context:
        a, due = self.agreement, self.due
        if fault := self.programme.fault(total, due):
            raise SealError(f"round rejected: {fault}")
        assert due is not None and due.sum is not None  # else the sum would be none that is due
        context = self.context(total)
        packing, made = self.packing, self.made
        low, high = self.seal.unseal(context, total.responders, total.words, packing)
        if total.kind in ("count", "train"):
            made = named("opened sum", made, total.kind, packing.digest(), low.tobytes(), high.tobytes()).hex()
        vector, sums = dequantise((low, high), packing)
        arrays = split_sums(sums, packing)
        n_out = left_out(total, arrays)
        if isinstance(due.sum, TrainingSum):
            self._apply_round(total, vector, arrays, n_out)
            if WIDER_COUNT in arrays:
                self.wider = rescaled(self.wider, arrays[WIDER_COUNT], low, packing)
        elif total.kind == "count":
            check_holders(self.task.held_names(a.panel), arrays, self.min_holders, len(a.sites))
            self.n_total = due.sum.after(arrays, {}, step=0)["n_total"]
            if a.dp is not None:
                a.dp.check_records(self.n_total)
        elif total.kind == "judge":
            self._note_metrics(due.sum.after(arrays, {}, step=0)["metrics"])
            if self.best_theta is not None:
                self.theta, self.best_theta = self.best_theta, None
                made = self.best_made
        elif total.kind != CLOSE_KIND and self._is_told(total):
            self.private = due.sum.after(arrays, self.private, step=due.step)
            configure(self.task, self.flat_model, self.private)
            self.begun_with = self.begun_with if self.rows else sorted(self.private)
        self.made = made
        return context

    def _apply_round(self, total: Total, vector: np.ndarray, arrays: Mapping[str, np.ndarray], n_out: int) -> None:
        """Apply the sum of a training round; the parts of `n_out` sites count as zero."""
        a, dp = self.agreement, self.agreement.dp
        if dp is None:
            self._note_metrics(summarised(self.task, a.panel, arrays))
        # Σ wᵢΔᵢ / Σ wᵢ with wᵢ = nᵢ / n_total; or minus the mean of a Poisson sample's clipped, noisy gradients, to which
        # a lost site gives zero: how many records answered stays private
        expected = self.n_total * len(total.cohort) / len(a.sites)  # where that of the cohort stayed closed
        n = float(arrays.get("n", expected))
        counted = self._counted(arrays, n)
        # one row: the update, and with control variates a second: their weighted change
        rows = torch.from_numpy(vector).view(-1, self.flat_model.shared.total)
        if self.gain is not None:
            rows.mul_(self.gain)
        if not counted and "importance" in arrays and n_out < len(total.responders):
            raise FederationError(
                f"round {total.round}: aggregation={a.aggregation!r} gives no site any weight: choose a smaller power"
            )
        share = self.n_total / counted if counted else 0.0
        update = rows[0].mul_(share if dp is None else -1 / (dp.sample_rate * self.n_total))
        self.rule.change(self.theta, update, self.rule_state)
        if not self.theta.sum().isfinite():
            raise FederationError(
                f"round {total.round}: the model is not finite any more; training diverges: lower lr=, or scale the data"
            )
        if self.rule.control:
            self.rule_state["control"] = self.control + rows[1]
        known = n and "train_loss" in arrays and ("n" in arrays or not n_out)
        loss = float(arrays["train_loss"]) / n if known else float("nan")
        self.rows.append({"loss": loss, "n_sites": len(total.responders) - n_out})

    def _counted(self, arrays: Mapping[str, np.ndarray], n: float) -> float:
        """Return the summed weights of the updates in a sum: n, or Σ nᵢ fᵢ where the rule counts sites by a factor fᵢ too.

        Where a site is missing, that stays closed, and counts as in the last round in which none was.
        """
        if self.rule.importance is None:
            return n
        if "importance" not in arrays:
            return self.counted or n
        counted = float(arrays["importance"])
        self.counted = counted or self.counted
        return counted

    def _is_told(self, total: Total) -> bool:
        """Whether a task's own sum was opened. One that stays closed takes all final sums with it: they build on each other."""
        if not self.lacks and (missing := [site for site in total.cohort if site not in total.responders]):
            self.lacks = True
            self.private = {name: self.private[name] for name in self.begun_with}
            _tell.warning(
                f"{', '.join(missing[:8])} missing in the sums for {total.kind!r}: they stay closed, and what the model would get "
                "from sums after its last round is left out"
            )
        return not self.lacks

    def _note_metrics(self, metrics: Mapping[str, float]) -> None:
        """Note the validation metrics of the last round's model, and keep it when it is the best."""
        if not self.rows:
            return
        self.rows[-1] |= {f"val_{name}": value for name, value in metrics.items()}
        value, last = metrics[self.task.monitor], len(self.rows)
        if np.isnan(value):
            return
        best = self.rows[self.best_round - 1][f"val_{self.task.monitor}"] if self.best_round else None
        if best is None or (value > best if self.task.maximise else value < best):
            self.best_round, self.best_theta, self.best_made = last, self.theta.clone(), self.made
        self.stopped = self.stopped or 0 < self.agreement.patience <= last - self.best_round

    @property
    def control(self) -> Tensor:
        """Weighted mean of the sites' control variates (SCAFFOLD)."""
        return self.rule_state.get("control", torch.zeros(()))

    @property
    def steps(self) -> list[tuple[float, float, int]]:
        """What was done under differential privacy, for accounting: noise, sampling rate, number of rounds."""
        dp = self.agreement.dp
        return [] if dp is None else steps_of([row["n_sites"] for row in self.rows], dp, self.agreement.min_sites)

    def go_on_from(self, facts: Mapping[str, Any], **arrays: Any) -> None:
        """Take over the state of this replica that a checkpoint has."""
        vars(self).update(facts, **arrays)
        configure(self.task, self.flat_model, self.private)

    # -- results ---------------------------------------------------------------------------------------------------
    def module(self, local: Tensor | None = None, *, training: bool = False) -> nn.Module:
        """Return the module with the global weights (and a site's local ones), in evaluation mode unless `training`."""
        self.flat_model.load(self.theta, local)
        module = self.flat_model.module
        return module if module.training == training else module.train(training)

    def model(self, local: Tensor | None = None, kept: Sums | None = None) -> LockedModel:
        """Return the global model, locked under the run's key.

        With a site's local weights, and arrays that it keeps, it is that site's model. Shared tensors have one salt at all
        sites, whatever their processors' rounding: it follows from the sums that were opened. Those that no sum moved, and a
        site's own, have salts that follow from their weights.
        """
        views = self.flat_model.shared.views(self.theta)
        if local is not None:
            views |= self.flat_model.local.views(local)
        return self.lock.model(views, self.private | (kept or {}), made=self.made, initial=self._initial)
