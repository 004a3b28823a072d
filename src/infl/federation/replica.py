"""The global model as every key holder has it.

All sites apply the same sums in the same order, so all replicas are equal; sites that are simulated in one process
share one. The coordinator has none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from infl import _tell
from infl._isolation import torch_seed
from infl.errors import FederationError, KeyringError, SealError, SettingsError
from infl.federation.agreement import Agreement
from infl.federation.holders import check_holders
from infl.federation.messages import CLOSE, REVEAL, Total, context_of, linked
from infl.federation.packings import rescaled
from infl.federation.programme import Exchange, Programme
from infl.federation.rules import fedadam, rule
from infl.federation.seeds import derive
from infl.models.lock_schemes import lock_scheme
from infl.models.locked import Header, LockedModel, content_of, lock_model, tensor_salt
from infl.models.registry import task_from_json
from infl.nn.flat import FlatModule
from infl.privacy.dp import TAIL, check_module, grid_exponent, steps_of
from infl.privacy.seal import GroupSeal, NoSeal, Packing, dequantise
from infl.privacy.seal.packing import limit
from infl.sums.lanes import LEFT_OUT, WIDER, split_sums

if TYPE_CHECKING:
    from infl.federation.messages import Plan
    from infl.keys import Keyring
    from infl.models.task import Sums, Task
    from infl.privacy.seal import Context


def build_bench(task: Task, agreement: Agreement) -> FlatModule:
    """Return the module of an agreement with its initial weights, which the public seed fixes."""
    with torch_seed(derive(agreement.seed, "initial weights")):
        scheme = lock_scheme(agreement.lock, agreement.strength)
        chosen = rule(agreement.aggregation, agreement.aggregation_options)
        module = scheme.wrap(task.build(agreement.panel))
        bench = FlatModule(module, lambda name: task.is_local(name) or chosen.is_local(name))
    if not bench.shared.total:
        raise SettingsError("every parameter stays at its site, so there is nothing to average: name fewer modules")
    unknown = [part for part in chosen.local if not any(part in e.name.split(".") for e in bench.local.entries)]
    if unknown:
        known = dict.fromkeys(e.name.split(".")[0] for e in bench.shared.entries)
        raise SettingsError(f"the model has no module {unknown[0]!r} to keep at the sites: it has {', '.join(known)}")
    return bench


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
        Fewest sites that must have a feature, class or modality of which something is summed.

    Attributes
    ----------
    bench
        The module that sites load weights into to train and to judge.
    theta
        Global weights as the module computes with them (unlocked), flat.
    made
        Names what `theta` was computed from: the agreement, and the sums that were opened, in hexadecimal. Salts of the
        lock follow from it; it is a secret of the sites.
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
        self, agreement: Agreement, key: Keyring | None, task: Task | None = None, *, min_holders: int = 1
    ) -> None:
        if agreement.fingerprint:
            if key is None:
                raise KeyringError(
                    f"the run needs key version {agreement.key_version}, {agreement.fingerprint}: pass key="
                )
            key.check(agreement.key_version, agreement.fingerprint)
        self.agreement, self.min_holders = agreement, min_holders
        self.task = task or task_from_json(agreement.task, agreement.options)
        if agreement.dp is not None and self.task.privately().options() != self.task.options():
            raise SettingsError(
                "under differential privacy nothing but noisy sums may be taken, and this task's options ask for others: "
                "agree on what task.privately() gives"
            )
        self.scheme = lock_scheme(agreement.lock, agreement.strength)
        self.key = key
        self.bench = build_bench(self.task, agreement)
        self.scheme.arm(self.bench.module, self._secret(self.scheme.label))
        self.sealed = agreement.seal != "none"
        self.seal_secret = self._secret("seal") or b""
        self.gain = self._gain()
        self.seal = self._seal()
        self.rule = rule(agreement.aggregation, agreement.aggregation_options)
        if agreement.dp is not None:
            check_module(self.bench.module)
            self.rule = fedadam(lr=self.task.lr, eps=1e-8)
            if self.room * 2.0 ** grid_exponent(agreement.dp.clip_norm, self.bench.shared.total) < 1:
                raise SettingsError(
                    f"privacy: noise_multiplier={agreement.dp.noise_multiplier:g} for {self.bench.shared.total} weights leaves "
                    "no room for gradients in what is summed: take a smaller model, or less noise"
                )
        self.rule_state: dict[str, Tensor] = {}
        self.optimiser = self.task.optimise([self.bench.flat])
        self.programme = Programme(self.task, agreement, self.bench.shared)
        self.theta = self.bench.copy_shared()
        locked = self.bench.shared.views(self.theta) if self.scheme.name == "field" else {}
        self._initial = {name: content_of(view) for name, view in locked.items()}
        self.made = self.best_made = named("run", self._recipe).hex()
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

    @cached_property
    def _recipe(self) -> str:
        """Digest of all that the weights follow from beside the sums: not the run's names, nor how long it went on."""
        return replace(self.agreement, run="", salt="", rounds=1, patience=0).digest

    @property
    def noise_in_steps(self) -> float:
        """Standard deviation of one site's noise under differential privacy, in steps of the grid."""
        dp = self.agreement.dp
        assert dp is not None
        clip_norm = dp.clip_norm
        return (
            dp.site_noise(self.agreement.min_sites)
            * clip_norm
            / 2.0 ** grid_exponent(clip_norm, self.bench.shared.total)
        )

    @property
    def room(self) -> int:
        """Largest size of a site's summed gradient, in steps of the grid, beside which its noise fits the seal's range."""
        return limit(32, self.agreement.cohort_size) - int(np.ceil(TAIL * self.noise_in_steps))

    def _secret(self, label: str) -> bytes | None:
        if self.key is None:
            return None
        salt = bytes.fromhex(self._published_salt if label == "published" else self.agreement.salt)
        return self.key.subkey(label, version=self.agreement.key_version, salt=salt)

    @property
    def _published_salt(self) -> str:
        return self._salt("", named("published lock", self._recipe)) if self.scheme.name == "published" else ""

    def _salt(self, name: str, made: bytes) -> str:
        assert self.key is not None
        return tensor_salt(self.key, self.agreement.key_version, name, made)

    def _gain(self) -> Tensor | None:
        """Return M of the coordinate field, flat: update_effective = update_locked · M.

        None when updates travel sealed: whoever opened the seal would have the key ring, hence the lock too.
        """
        if self.sealed:
            return None
        if self.key is None or self.scheme.name != "field":
            return None
        secret = self.key.subkey("lock", version=self.agreement.key_version)
        # the digest has the run's random name: no file and no other run has this M
        made = named("updates of a run", self.agreement.digest)
        gain = torch.empty(self.bench.shared.total)
        units = self.task.units(self.agreement.panel)
        for name, view in self.bench.shared.views(gain).items():
            field = self.scheme.field(secret, bytes.fromhex(self._salt(name, made)))
            assert field is not None
            field.multipliers(name, tuple(view.shape), units.get(name), out=view)
        return gain

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
                    "ask the coordinator to send it again"
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
        key = (of.seq, of.kind.removeprefix(REVEAL), of.attempt, self.chain, of.epochs)
        if self._context is None or self._context[0] != key:
            self._context = (key, context_of(self.agreement.run, of, self.packing, self.agreement.digest, self.chain))
        return self._context[1]

    @property
    def packing(self) -> Packing:
        """Arrays of the exchange that is due, on the scales that are due."""
        due = self.due
        return Packing(()) if due is None else due.packing.coarser(self.wider if due.round else {})

    def _apply(self, total: Total) -> Context:
        a = self.agreement
        due = self.due
        if fault := self.programme.fault(total, due):
            raise SealError(f"round rejected: {fault}")
        context = self.context(total)
        packing, made = self.packing, self.made
        low, high = self.seal.unseal(context, total.responders, total.words, packing)
        if total.kind in ("count", "train"):
            made = named("opened sum", made, total.kind, packing.digest(), low.tobytes(), high.tobytes()).hex()
        vector, sums = dequantise((low, high), packing)
        arrays = split_sums(sums, packing)
        n_out = self._left_out(total, arrays)
        if total.kind == "count":
            check_holders(self.task.held_names(a.panel), arrays, self.min_holders, len(a.sites))
            self.n_total = int(arrays["n"])
            if a.dp is not None:
                a.dp.check_records(self.n_total)
        elif total.kind == "train":
            dp = a.dp
            if dp is None:
                self._judge(arrays)
            # Σ wᵢΔᵢ / Σ wᵢ with wᵢ = nᵢ / n_total; or minus the mean of a Poisson sample's clipped, noisy gradients, to which
            # a lost site gives zero: how many records answered is nobody's business
            expected = self.n_total * len(total.cohort) / len(a.sites)  # where that of the cohort stayed closed
            n = float(arrays.get("n", expected))
            counted = self._counted(arrays, n)
            # one row: the update, and with control variates a second: their weighted change
            rows = torch.from_numpy(vector).view(-1, self.bench.shared.total)
            if self.gain is not None:
                rows.mul_(self.gain)
            if not counted and "importance" in arrays and n_out < len(total.responders):
                raise FederationError(
                    f"round {total.round}: aggregation={a.aggregation!r} gives no site any weight: choose a smaller power"
                )
            share = self.n_total / counted if counted else 0.0
            update = rows[0].mul_(share if dp is None else -1 / (dp.sample_rate * self.n_total))
            self.rule.at_sum(self.theta, update, self.rule_state)
            if not self.theta.sum().isfinite():
                raise FederationError(
                    f"round {total.round}: the model is not finite any more; training diverges: lower lr=, or scale the data"
                )
            if self.rule.control:
                self.rule_state["control"] = self.control + rows[1]
            told = n and "train_loss" in arrays and ("n" in arrays or not n_out)
            loss = float(arrays["train_loss"]) / n if told else float("nan")
            self.rows.append({"loss": loss, "n_sites": len(total.responders) - n_out})
            if WIDER in arrays:
                self.wider = rescaled(self.wider, arrays[WIDER], low, packing)
        elif total.kind == CLOSE:
            pass
        elif total.kind == "judge":
            self._judge(arrays)
            if self.best_theta is not None:
                self.theta, self.best_theta = self.best_theta, None
                made = self.best_made
        elif due is not None and due.sum is not None and self._is_told(total):
            self.private = due.sum.after(arrays, self.private, step=due.step)
            self.task.configure(self.bench.module, self.private)
            self.begun_with = self.begun_with if self.rows else sorted(self.private)
        self.made = made
        return context

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

    def _left_out(self, total: Total, arrays: dict[str, np.ndarray]) -> int:
        """Return how many sites' parts of a sum count as zero.

        Raises
        ------
        FederationError
            It is a sum that all must be in, or a round that nobody is in, and no wider scale would help.
        """
        n_out, n = int(arrays.pop(LEFT_OUT, 0)), len(total.responders)
        if not n_out:
            return 0
        if total.kind == "train" and (n_out < n or arrays[WIDER].any()):
            scale = "; later rounds have a wider scale" if arrays[WIDER].any() else ""
            _tell.warning(
                f"round {total.round}: {n_out} of {n} updates were not finite or out of range, and count as zero{scale}"
            )
            return n_out
        if total.kind == "train":
            raise FederationError(
                f"round {total.round}: no site's update is finite; training diverges: lower lr=, or scale the data"
            )
        raise FederationError(
            f"{n_out} of {n} sites have values that are not finite, or larger than any scale, in the sums for {total.kind!r}: "
            "each site's own log says which site it is; look at its data"
        )

    def _judge(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Note the validation metrics of the last round's model, and keep it when it is the best."""
        if not self.rows:
            return
        sums = {name.removeprefix("metric."): value for name, value in arrays.items() if name.startswith("metric.")}
        shapes = self.task.metric_shapes(self.agreement.panel)
        metrics = self.task.summarise(sums or {name: np.zeros(shape) for name, shape in shapes.items()})
        if not sums:  # a site was missing, so they stayed closed
            metrics = dict.fromkeys(metrics, float("nan"))
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

    # -- results ---------------------------------------------------------------------------------------------------
    def module(self, local: Tensor | None = None, *, training: bool = False) -> nn.Module:
        """Return the module with the global weights (and a site's local ones), in evaluation mode unless `training`."""
        self.bench.load(self.theta, local)
        module = self.bench.module
        return module if module.training == training else module.train(training)

    def model(self, local: Tensor | None = None, kept: Sums | None = None) -> LockedModel:
        """Return the global model, locked under the run's key.

        With a site's local weights, and arrays that it keeps, it is that site's model. Shared tensors have one salt at all
        sites, whatever their processors' rounding: it follows from the sums that were opened. Those that no sum moved, and a
        site's own, have salts that follow from their weights.
        """
        a = self.agreement
        header = Header(
            task=a.task,
            options=a.options,
            panel=a.panel,
            lock=a.lock,
            strength=self.scheme.strength,
            salt=self._published_salt,
            key_version=a.key_version if a.lock != "none" else 0,
            fingerprint=a.fingerprint if a.lock != "none" else "",
            seed=a.seed,
            sites=a.sites,
        )
        shared = self.bench.shared.views(self.theta)
        views = shared | ({} if local is None else self.bench.local.views(local))
        effective = {name: view.clone() for name, view in views.items()}
        made = bytes.fromhex(self.made)
        moved = [name for name, initial in self._initial.items() if content_of(shared[name]) != initial]
        salts = {name: self._salt(name, made) for name in moved}
        return lock_model(
            header, effective, self.private | (kept or {}), self.key if a.lock != "none" else None, salts=salts
        )


def named(what: str, *parts: str | bytes) -> bytes:
    """Return the SHA-256 of what something is made of, each part with its length before it."""
    digest = hashlib.sha256(f"infl {what}\n".encode())
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.digest()
