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

from infl._renamed import renamed
from infl.privacy.dp.accounting import (
    NO_PRIVACY_LOSS,
    epsilon_of,
    epsilon_of_curve,
    log_run,
    noise_for,
    renyi_curve,
    spent,
)
from infl.privacy.dp.gradients import GRADIENT_GRID, check_module, clipped_gradients, grid_exponent
from infl.privacy.dp.noise import NOISE_TAIL, SecretUniform, discrete_gaussian, round_key
from infl.privacy.dp.rounds import epsilon_by_round, steps_of
from infl.privacy.dp.settings import DP

__all__ = [
    "DP",
    "GRADIENT_GRID",
    "NOISE_TAIL",
    "NO_PRIVACY_LOSS",
    "SecretUniform",
    "check_module",
    "clipped_gradients",
    "discrete_gaussian",
    "epsilon_by_round",
    "epsilon_of",
    "epsilon_of_curve",
    "grid_exponent",
    "log_run",
    "noise_for",
    "renyi_curve",
    "round_key",
    "spent",
    "steps_of",
]

__getattr__ = renamed(__name__, {"NO_LOSS": "NO_PRIVACY_LOSS", "GRID": "GRADIENT_GRID", "TAIL": "NOISE_TAIL"})
