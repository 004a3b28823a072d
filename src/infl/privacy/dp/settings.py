"""What differential privacy of a run is asked to be, and what of its noise is left against whom."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

from infl._parameters import Choice, Kind, Real, Text, Whole, read_all
from infl.errors import SettingsError
from infl.privacy.dp.accounting import epsilon_of, noise_for


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
        Chance of a record to take part in a round. At 1 the same number of rounds leaves the least noise beside the gradient; below,
        a round takes less time, which pays with many records.
    noise
        ``"distributed"``: each site adds a share such that the noise of ``min_sites`` responders keeps the promise;
        ``"local"``: each site adds all of it, and needs to trust nobody.
    accountant
        ``"prv"`` (tight) or ``"rdp"``.
    colluders
        Number of members who may pool what they know, each its own share of the noise; the noise of the others keeps the promise.
        Below ``min_sites``.
    unit
        Whose data are protected as a whole: ``"record"``, an observation; ``"donor"``, all observations of one patient at a
        site. Sampling, clipping and ε then go by patients, and a patient's gradient is that of the mean loss of its
        observations. A patient at two sites counts as two, and has half the protection: no site can know.
    donor_key
        With ``unit="donor"``, the column of ``obs`` with each observation's donor.

    Examples
    --------
    >>> DP(epsilon=8.0, delta=1e-5).clip_norm
    1.0
    """

    epsilon: float | None = None
    delta: float | None = None
    clip_norm: float = 1.0
    noise_multiplier: float | None = None
    sample_rate: float = 1.0
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
        """Return the ε of a number of rounds with as few responders as allowed."""
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
        """Refuse settings that do not determine the width of the noise.

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
        """Return the least noise that protects a record from those who may see a sum with it.

        Parameters
        ----------
        min_sites, seal
            Of the run. Under any seal but the pairwise one, members can open each other's parts, each with its share alone.
        colluders
            Least number of colluders that the site wants protection against.

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
