"""Differential privacy of training records: clipped per-record gradients, noise shared between sites, accounting.

With ``privacy=DP(…)`` every round is one step of DP-SGD over all sites. A site draws a Poisson sample of its units (records,
or patients), clips each unit's gradient, adds the clipped gradients and *its share* of the noise, and seals the result. Only
the sum is ever opened, and the sum carries the noise: the utility of a trusted aggregator, without one. Opacus finds the
gradients of many records in one pass; where it does not know a layer (an adapter's experts), one record follows the other.

A curious member knows its own share of the noise, so the shares are sized for `colluders` of them to be known: those of the
others alone carry what is promised.

Gradients are whole numbers of steps of the seal's grid, each unit's rounded towards zero, so rounding makes none longer than
the clipping norm. Noise is discrete Gaussian on that grid, so a sum modulo 2³² leaks nothing more than the sum. For noise as
wide as here (hundreds of grid steps and more) a sum of discrete Gaussians differs from a discrete Gaussian by less than
double precision can express, and a discrete Gaussian composes like the continuous one (Kairouz et al. 2021, theorem 1 and
proposition 5; Canonne et al. 2020), so Opacus' accountants apply.

What ε covers: each training unit, added or taken away, against everybody who sees the model or the opened sums, at any number
of rounds. The number of units of all sites is taken as public. Records that are held out stay at their sites: nothing of
them is summed.

References
----------
Abadi et al., Deep learning with differential privacy, CCS 2016. Kairouz, Liu, Steinke, The distributed discrete
Gaussian mechanism for federated learning with secure aggregation, ICML 2021. Canonne, Kamath, Steinke, The discrete
Gaussian for differential privacy, NeurIPS 2020. Gopi, Lee, Wutschitz, Numerical composition of differential privacy,
NeurIPS 2021 (the PRV accountant).
"""

from __future__ import annotations

import hmac
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from math import floor, log2
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from infl._parameters import Choice, Kind, Real, Text, Whole, read_all
from infl.errors import MissingExtraError, SettingsError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from infl._types import Data

GRID = 2.0**-6
"""Largest length of what rounding takes from a gradient, as a share of the clipping norm."""
TAIL = 12.0
"""Standard deviations of a site's noise that the seal's range has room for; more are as likely as guessing a 107-bit key."""
ORDERS = [1 + x / 10 for x in range(1, 100)] + list(range(12, 64))
"""Of the Rényi divergences, as Opacus has them."""
NO_LOSS = np.zeros(len(ORDERS))
"""Rényi divergences of a record that took part in nothing."""
MOST_NOISE, LEAST_NOISE = 1e4, 1e-2
"""Between which noise multipliers are looked for."""
LOOSE = 50.0
"""From this ε on the quick accountant is asked: nobody is protected by it."""
GRAD_SAMPLE = "grad_sample"
"""Attribute in which Opacus leaves per-record gradients."""
RECORDS = 64
"""Records whose gradients are in memory together."""
OF_DONOR = 512
"""Records of one donor that are in a pass together."""
REMEDIES = {
    "BatchNorm": "mixes the records of a batch: use LayerNorm or GroupNorm",
    "LSTM": "hides its steps: use opacus.layers.DPLSTM",
    "GRU": "hides its steps: use opacus.layers.DPGRU",
    "RNN": "hides its steps: use opacus.layers.DPRNN",
    "MultiheadAttention": "hides its steps: use opacus.layers.DPMultiheadAttention",
}
"""What is wrong with a layer, and what to do, by a part of its name."""
LOG = "infl_privacy"
"""Where a run leaves its account in ``uns``."""


@dataclass(frozen=True)
class DP:
    """Settings of differential privacy.

    Parameters
    ----------
    epsilon
        Budget. The noise is chosen to spend it over the run's rounds, unless `noise_multiplier` is given; the run stops
        before it would spend more.
    delta
        Chance that the bound does not hold; below one over the number of records.
    clip_norm
        Largest norm of one record's gradient.
    noise_multiplier
        Standard deviation of the noise in the sum, in units of `clip_norm`.
    sample_rate
        Chance of a record to take part in a round.
    noise
        ``"distributed"``: each site adds a share such that the noise of ``min_sites`` responders keeps the promise;
        ``"local"``: each site adds all of it, and needs to trust nobody.
    accountant
        ``"prv"`` (tight) or ``"rdp"``.
    colluders
        So many members may pool what they know, each its own share of the noise; the noise of the others keeps the promise.
        Below ``min_sites``.
    unit
        Whose data are protected as a whole: ``"record"``, an observation; ``"donor"``, all observations of one patient at a
        site. Sampling, clipping and ε then go by patients, and a patient's gradient is that of the mean loss of its
        observations. A patient at two sites counts as two, and has half the protection: no site can know.
    donor_key
        With ``unit="donor"``, the column of ``obs`` that says whose an observation is.

    Examples
    --------
    >>> DP(epsilon=8.0, delta=1e-5).clip_norm
    1.0
    """

    epsilon: float | None = None
    delta: float | None = None
    clip_norm: float | None = 1.0
    noise_multiplier: float | None = None
    sample_rate: float = 0.2
    noise: Literal["distributed", "local"] = "distributed"
    accountant: Literal["prv", "rdp"] = "prv"
    colluders: int = 1
    unit: Literal["record", "donor"] = "record"
    donor_key: str | None = None

    parameters: ClassVar[dict[str, Kind]] = {
        "epsilon": Real(0, open="low", none=True),
        "delta": Real(0, 1, open="both", says="a number above 0, well below one over the records"),
        "clip_norm": Real(0, open="low", says="the largest norm of a record's gradient, e.g. 1"),
        "noise_multiplier": Real(0, open="low", none=True),
        "sample_rate": Real(0, 1, open="low"),
        "noise": Choice(("distributed", "local")),
        "accountant": Choice(("prv", "rdp")),
        "colluders": Whole(0),
        "unit": Choice(("record", "donor")),
        "donor_key": Text(none=True, says="the name of one obs column"),
    }
    """What each setting may be."""

    def __post_init__(self) -> None:
        given = {name: getattr(self, name) for name in self.parameters}
        for name, value in read_all(self.parameters, given, "privacy: ").items():
            object.__setattr__(self, name, value)
        if self.epsilon is None and self.noise_multiplier is None:
            raise SettingsError("privacy: give epsilon= (a budget) or noise_multiplier=")
        if (self.unit == "donor") != (self.donor_key is not None):
            raise SettingsError('privacy: unit="donor" and donor_key=, the obs column with the patients, go together')

    def resolve(self, rounds: int) -> tuple[DP, int]:
        """Return the settings with the noise that spends the budget over `rounds`, or the rounds that a noise allows.

        Raises
        ------
        SettingsError
            One round costs more than the budget.
        """
        if self.noise_multiplier is None:
            budget, delta = float(self.epsilon or 0), float(self.delta or 0)
            multiplier = noise_for(budget, delta, self.sample_rate, rounds, self.accountant)
            return replace(self, noise_multiplier=multiplier), rounds
        if self.epsilon is None or self.epsilon_after(rounds) <= self.epsilon:
            return self, rounds
        if self.epsilon_after(1) > self.epsilon:
            raise SettingsError(
                f"privacy: one round costs epsilon {self.epsilon_after(1):.3g}, above the budget of {self.epsilon}: "
                "raise noise_multiplier= or epsilon="
            )
        low, high = 1, rounds  # the budget lasts for `low` rounds and not for `high`
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.epsilon_after(middle) <= self.epsilon else (low, middle)
        return self, low

    def epsilon_after(self, rounds: int) -> float:
        """Return the ε of so many rounds with as few responders as allowed."""
        return epsilon_of(
            [(float(self.noise_multiplier or 0), self.sample_rate, rounds)], float(self.delta or 0), self.accountant
        )

    def check_records(self, n: int) -> None:
        """Refuse a δ at which one unit's data could simply be given away.

        Raises
        ------
        SettingsError
            δ is at least one over the number of units.
        """
        if self.delta is not None and self.delta * n >= 1:
            what = "training records" if self.unit == "record" else "donors"
            raise SettingsError(f"privacy: delta={self.delta:g} must be below 1/n = {1 / n:.2g} for {n} {what}")

    def check_sites(self, min_sites: int) -> None:
        """Refuse settings that say of no noise how wide it is.

        Raises
        ------
        SettingsError
            No noise was chosen, or as many members as are asked may pool what they know.
        """
        if not self.noise_multiplier or not self.delta:
            raise SettingsError(
                "privacy: an agreement needs noise_multiplier= and delta=; infl.privacy.DP.resolve finds noise"
            )
        if self.noise == "distributed" and self.colluders >= min_sites:
            raise SettingsError(
                f"privacy: with min_sites={min_sites} and colluders={self.colluders} no noise would be left that the colluders "
                f'do not know: raise min_sites=, or use noise="local", or colluders={min_sites - 1}'
            )

    def check_seal(self, seal: str) -> None:
        """Refuse shares of noise between machines, where somebody could open a part that has a share alone.

        Raises
        ------
        SettingsError
            The noise is distributed, and the seal is not the pairwise one.
        """
        if self.noise == "distributed" and seal != "pairwise":
            raise SettingsError(
                f"privacy: under seal={seal!r} a member that works with the coordinator opens another one's part, which has only "
                'a share of the noise: use seal="pairwise", or noise="local"'
            )

    def site_noise(self, min_sites: int) -> float:
        """Return the standard deviation of one site's noise, in units of `clip_norm`.

        Examples
        --------
        >>> DP(noise_multiplier=2.0, delta=1e-5).site_noise(min_sites=5)  # the noise of four is 2
        1.0
        """
        share = 1 if self.noise == "local" else max(min_sites - self.colluders, 1)
        return float(self.noise_multiplier or 0) / share**0.5

    def noise_left(self, n_sites: int, min_sites: int, colluders: int | None = None) -> float:
        """Return the noise in a sum of `n_sites` that `colluders` of them (default: as planned) do not know.

        Noise that each site adds whole counts once: whoever opens one site's part sees as much.

        Examples
        --------
        >>> DP(noise_multiplier=2.0, delta=1e-5).noise_left(5, min_sites=5)
        2.0
        """
        if self.noise == "local":
            return self.site_noise(min_sites)
        known = self.colluders if colluders is None else colluders
        return self.site_noise(min_sites) * max(n_sites - known, 0) ** 0.5

    def least_noise(self, min_sites: int, seal: str, colluders: int = 1) -> float:
        """Return the noise that is there at the least between a record and whoever may see a sum with it.

        Parameters
        ----------
        min_sites, seal
            Of the run. Under any seal but the pairwise one, members can open each other's parts, each with its share alone.
        colluders
            The site that asks wants protection against so many at the least.

        Examples
        --------
        >>> dp = DP(noise_multiplier=2.0, delta=1e-5)
        >>> dp.least_noise(5, "pairwise"), dp.least_noise(5, "group")
        (2.0, 1.0)
        """
        if seal != "pairwise":
            return self.site_noise(min_sites)
        return self.noise_left(min_sites, min_sites, max(colluders, self.colluders))

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON."""
        return asdict(self)


def epsilon_of(steps: list[tuple[float, float, int]], delta: float, accountant: str = "prv") -> float:
    """Return the ε of a sequence of (noise multiplier, sampling rate, number of rounds) at `delta`.

    Examples
    --------
    >>> round(epsilon_of([(1.5, 0.2, 100)], 1e-5), 1)
    7.6
    """
    _opacus()
    from opacus.accountants import create_accountant

    if not steps:
        return 0.0
    quick = _rdp_epsilon(steps, delta)
    if accountant == "rdp" or quick > LOOSE:  # so little noise takes the tight accountant gigabytes
        return quick
    account = create_accountant(accountant)
    account.history = [(float(s), float(q), int(n)) for s, q, n in steps]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(account.get_epsilon(delta))


@lru_cache(maxsize=64)
def noise_for(epsilon: float, delta: float, sample_rate: float, rounds: int, accountant: str = "prv") -> float:
    """Return the smallest noise multiplier, up to 1 % of `epsilon`, that spends no more than `epsilon` over `rounds`.

    The tight accountant takes a fraction of a second for each noise that is tried, so the quick one, which asks for more
    noise, says where to begin.

    Raises
    ------
    SettingsError
        No noise is enough.

    Examples
    --------
    >>> round(noise_for(8.0, 1e-5, 0.2, 60), 1)
    1.2
    """

    def cost(noise: float) -> float:
        return epsilon_of([(noise, sample_rate, rounds)], delta, accountant)

    high = 1.0 if accountant == "rdp" else noise_for(epsilon, delta, sample_rate, rounds, "rdp")
    while (cost_now := cost(high)) > epsilon:
        high *= 2
        if high > MOST_NOISE:
            raise SettingsError(
                f"privacy: no noise spends as little as epsilon={epsilon} over {rounds} rounds: "
                "lower rounds= or sample_rate="
            )
    low = high / 2
    while cost(low) <= epsilon:
        low, high = low / 2, low
        if high < LEAST_NOISE:
            return high
    while cost_now < 0.99 * epsilon and high - low > 1e-4 * high:
        middle = (low + high) / 2
        cost_there = cost(middle)
        low, high, cost_now = (middle, high, cost_now) if cost_there > epsilon else (low, middle, cost_there)
    return high


def spent(adata: Data, *, delta: float | None = None) -> float:
    """Return the ε that all differentially private runs on this object have spent together.

    Parameters
    ----------
    adata
        An object that took part in fits with ``privacy=``; each left its account in ``uns["infl_privacy"]``.
    delta
        At which δ to add up (default: the largest of the runs').

    Returns
    -------
    float
        0 when there was none. Runs are composed step by step, which is tighter than adding their ε.

    Examples
    --------
    >>> import infl
    >>> infl.privacy.spent(infl.datasets.khan())
    0.0
    """
    log = adata.uns.get(LOG)
    if log is None:
        return 0.0
    steps = list(zip(log["noise_multiplier"], log["sample_rate"], log["rounds"], strict=True))
    return epsilon_of(steps, float(delta if delta is not None else np.max(log["delta"])), "rdp")


def log_run(adata: Data, dp: Mapping[str, Any], steps: list[tuple[float, float, int]]) -> None:
    """Add a run to an object's account in ``uns["infl_privacy"]``."""
    old = adata.uns.get(LOG, {})
    new = {
        "noise_multiplier": [s for s, _, _ in steps],
        "sample_rate": [q for _, q, _ in steps],
        "rounds": [n for _, _, n in steps],
        "delta": [dp["delta"]] * len(steps),
    }
    adata.uns[LOG] = {name: np.concatenate([np.asarray(old.get(name, [])), np.asarray(v)]) for name, v in new.items()}


def steps_of(responders: Sequence[int], dp: DP, min_sites: int) -> list[tuple[float, float, int]]:
    """Return what was really done, for accounting: more responders than planned carry more noise.

    Examples
    --------
    >>> steps_of([5, 5, 4], DP(delta=1e-5, noise_multiplier=2.0), min_sites=5)[0]
    (2.0, 0.2, 2)
    """
    rounds = Counter(responders)
    return [(dp.noise_left(n, min_sites), dp.sample_rate, rounds[n]) for n in rounds]


def epsilon_by_round(responders: Sequence[int], dp: DP, min_sites: int) -> list[float]:
    """Return the ε spent after each round, by the quick accountant (RDP: an upper bound of the tight one)."""
    delta = float(dp.delta or 0)
    return [_rdp_epsilon(steps_of(responders[: n + 1], dp, min_sites), delta) for n in range(len(responders))]


def _rdp_epsilon(steps: Sequence[tuple[float, float, int]], delta: float) -> float:
    """Return the ε of several rounds from the Rényi divergences of one: they add up (Mironov 2017)."""
    return epsilon_of_curve(
        sum((int(n) * renyi_curve(float(sigma), float(q)) for sigma, q, n in steps), NO_LOSS), delta
    )


def epsilon_of_curve(curve: np.ndarray, delta: float) -> float:
    """Return the ε at `delta` of Rényi divergences of :data:`ORDERS`.

    Examples
    --------
    >>> epsilon_of_curve(NO_LOSS, 1e-5)
    0.0
    >>> round(epsilon_of_curve(100 * renyi_curve(1.5, 0.2), 1e-5), 1)
    8.3
    """
    _opacus()
    from opacus.accountants.analysis.rdp import get_privacy_spent

    if not curve.any():
        return 0.0
    if not np.isfinite(curve).any():
        return float("inf")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        epsilon, _ = get_privacy_spent(orders=ORDERS, rdp=curve, delta=delta)
    return float(epsilon)


@lru_cache(maxsize=256)
def renyi_curve(sigma: float, sample_rate: float) -> np.ndarray:
    """Return the Rényi divergences of one round, for :data:`ORDERS`; those of several rounds add up."""
    _opacus()
    from opacus.accountants.analysis.rdp import compute_rdp

    if sigma <= 0:
        return np.full(len(ORDERS), np.inf)
    return np.asarray(compute_rdp(q=sample_rate, noise_multiplier=sigma, steps=1, orders=ORDERS))


def check_module(module: nn.Module) -> None:
    """Say all that is wrong with a module for per-record gradients, each with what to do.

    Raises
    ------
    SettingsError
        E.g. BatchNorm: every record's value depends on the others'.
    """
    _opacus()
    from opacus.validators import ModuleValidator

    wrong = []
    for name, part in module.named_modules():
        kind = type(part).__name__
        remedy = next((r for k, r in REMEDIES.items() if k in kind and not kind.startswith("DP")), None)
        if remedy is not None:
            wrong.append(f"{name or 'the module'} ({kind}) {remedy}")
    if not wrong:
        wrong = [str(problem).split(". ")[0] for problem in ModuleValidator.validate(module, strict=False)]
    if wrong:
        raise SettingsError(f"privacy: the model cannot be trained with per-record gradients: {'; '.join(wrong)}")


def grid_exponent(clip_norm: float, size: int) -> int:
    """Return the exponent of the grid for gradients of `size` numbers.

    A step is at most C · 2⁻⁶ / √size, so rounding takes at most C / 64 from a gradient's length.

    Examples
    --------
    >>> grid_exponent(1.0, 10_000)
    -13
    """
    return floor(log2(clip_norm * GRID / max(size, 1) ** 0.5))


def clipped_gradients(
    module: nn.Module,
    loss: Callable[[np.ndarray], torch.Tensor],
    units: Sequence[np.ndarray],
    clip_norm: float,
    exponent: int,
) -> np.ndarray:
    """Return the sum of the units' gradients, each clipped and rounded towards zero, in steps of 2**exponent: integers, flat.

    No unit changes the sum by more than `clip_norm`, rounding included; one whose gradient is not finite counts as zero.

    Parameters
    ----------
    module
        Its parameters are views of one flat buffer, in order.
    loss
        Called with some of the records; returns their mean loss.
    units
        Indices of each unit's records; of one record each, or of all that a donor has.
    clip_norm
        Largest norm.
    exponent
        Of the grid (:func:`grid_exponent`).
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    total = np.zeros(sum(p.numel() for p in parameters), dtype=np.int64)
    if _has_samplers(module) and all(len(unit) == 1 for unit in units):
        records = np.concatenate(units) if len(units) else np.empty(0, dtype=np.int64)
        for start in range(0, len(records), RECORDS):
            block = records[start : start + RECORDS]
            total += _whole_steps(_sampled_gradients(module, parameters, partial(loss, block)), clip_norm, exponent)
    else:
        for unit in units:
            total += _whole_steps(_gradient(parameters, loss, unit), clip_norm, exponent)
    return total


def _gradient(
    parameters: Sequence[nn.Parameter], loss: Callable[[np.ndarray], torch.Tensor], records: np.ndarray
) -> torch.Tensor:
    """Return the gradient (1, size) of the records' mean loss."""
    import torch

    total = torch.zeros(1, sum(p.numel() for p in parameters))
    for start in range(0, len(records), OF_DONOR):
        part = records[start : start + OF_DONOR]
        gradients = torch.autograd.grad(loss(part), parameters, allow_unused=True, materialize_grads=True)
        total[0].add_(torch.cat([g.flatten() for g in gradients]), alpha=len(part) / len(records))
    return total


def _whole_steps(gradients: torch.Tensor, clip_norm: float, exponent: int) -> np.ndarray:
    """Return the sum over units of their gradients (n_units, size), clipped, in whole steps; the gradients are overwritten.

    Lengths are found in double precision, and what is clipped is made shorter by 2⁻²⁰, more than the three roundings of single
    precision that follow can add. Rounding towards zero makes nothing longer.
    """
    import torch

    most = clip_norm * (1 - 2.0**-20)
    length = torch.stack([(double := row.double()).dot(double) for row in gradients]).sqrt()
    if not length.isfinite().all():
        gradients[~length.isfinite()] = 0.0  # what is not a number would be the sum's
    factor = 2.0**-exponent * most / length.nan_to_num(0.0, 0.0, 0.0).clamp(min=most)
    gradients.mul_(factor.to(gradients.dtype)[:, None]).trunc_()
    if len(gradients) * clip_norm * 2.0**-exponent >= 2**24:  # more than single precision adds exactly
        return gradients.sum(0, dtype=torch.float64).numpy().astype(np.int64)
    return (torch.ones(len(gradients)) @ gradients).numpy().astype(np.int64)


def _has_samplers(module: nn.Module) -> bool:
    """Whether Opacus knows all trained layers, and finds the gradients of many records in one pass.

    It does not know the experts of an adapter, whose second input and buffers it cannot follow.
    """
    from opacus import GradSampleModule

    trained = (m for m in module.modules() if any(p.requires_grad for p in m.parameters(recurse=False)))
    return all(type(part) in GradSampleModule.GRAD_SAMPLERS for part in trained)


def _sampled_gradients(
    module: nn.Module, parameters: Sequence[nn.Parameter], loss: Callable[[], torch.Tensor]
) -> torch.Tensor:
    """Return the gradient of each record (n_records, size), from one pass over all of them."""
    import torch
    from opacus import GradSampleModule

    wrapped = GradSampleModule(module, loss_reduction="mean", strict=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loss().backward()
        return torch.cat([getattr(p, GRAD_SAMPLE).flatten(1) for p in parameters], 1)
    finally:
        wrapped.to_standard_module()
        for p in parameters:
            setattr(p, GRAD_SAMPLE, None)


def round_key(secret: bytes, agreement: str, seq: int, chain: str) -> bytes:
    """Return the key of a site's randomness in one exchange.

    It follows from the site's secret, the run, the exchange and all sums before it, so asking again, or starting again, draws
    nothing new, and another history draws noise of its own.

    Examples
    --------
    >>> round_key(bytes(32), "digest", 3, "chain") == round_key(bytes(32), "digest", 3, "another chain")
    False
    """
    return hmac.digest(secret, "\n".join(["infl private round", agreement, str(seq), chain]).encode(), "sha256")


class SecretUniform:
    """Uniform random numbers that only a holder of the key can repeat: a ChaCha20 stream.

    Parameters
    ----------
    key
        32 secret bytes.
    stream
        Number of the stream.
    """

    def __init__(self, key: bytes, stream: int = 0) -> None:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

        nonce = bytes(8) + stream.to_bytes(8, "little")
        self._stream = Cipher(algorithms.ChaCha20(key, nonce), mode=None).encryptor()

    def random(self, n: int) -> np.ndarray:
        """Return n numbers in [0, 1), multiples of 2⁻⁵³."""
        words = np.frombuffer(self._stream.update(bytes(8 * n)), dtype="<u8")
        return (words >> np.uint64(11)) * 2.0**-53


def discrete_gaussian(sigma: float, size: int, rng: np.random.Generator | SecretUniform) -> np.ndarray:
    """Draw integers k with probability proportional to exp(−k² / 2σ²) by rejection from a discrete Laplace distribution.

    Parameters
    ----------
    sigma
        Above 0.
    size
        How many.
    rng
        Source of randomness.

    References
    ----------
    Canonne, Kamath, Steinke 2020, algorithm 3 (uniform numbers of 53 bits stand for its exact coin flips).

    Examples
    --------
    >>> draws = discrete_gaussian(3.0, 10_000, np.random.default_rng(0))
    >>> round(float(draws.std()))
    3
    """
    t = np.floor(sigma) + 1
    out, filled = np.empty(size, dtype=np.int64), 0
    while filled < size:
        n = int(1.5 * (size - filled)) + 16
        magnitude = np.floor(-t * np.log1p(-rng.random(n)))  # P(k) ∝ exp(−k / t)
        sign = np.where(rng.random(n) < 0.5, -1, 1)
        keep = (magnitude > 0) | (sign > 0)  # minus zero is not a second zero
        keep &= rng.random(n) < np.exp(-((magnitude - sigma**2 / t) ** 2) / (2 * sigma**2))
        accepted = (sign * magnitude)[keep][: size - filled]
        out[filled : filled + len(accepted)] = accepted
        filled += len(accepted)
    return out


def _opacus() -> None:
    try:
        import opacus  # noqa: F401
    except ImportError:
        raise MissingExtraError("differential privacy needs Opacus: pip install 'infl[dp]'") from None
