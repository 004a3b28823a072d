"""What a perturbation model adds over sites: effects of conditions, and how much the network helps beside the stack."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from infl.models.perturbation.data import Conditions, has_products
from infl.models.perturbation.effects import Effects
from infl.models.task import Sums
from infl.nn.perturbation import EffectNet
from infl.sums import FederatedSum, SiteView, State
from infl.sums.shape import Records
from infl.sums.share import share_moments, share_of_network


def effect_sums(k: int, p: int) -> FederatedSum:
    """Return the sum of effects of k conditions on p features, and of what control cells look like."""
    of_control: dict[str, tuple[int, ...]] = {"n_control": (), "control": (p,), "control_squares": (p,)}
    of_control |= {"products": (p, p)} if has_products(p) else {}

    def local(site: SiteView[Conditions, EffectNet], state: State) -> Sums:
        data = site.data
        sums = {"n": np.zeros(k), "change": np.zeros((k, p)), "squares": np.zeros((k, p))}
        for i, number in enumerate(data.number):
            sums["n"][number] = data.n[i]
            sums["change"][number] = data.n[i] * data.delta[i]
            sums["squares"][number] = data.squares[i]
        sums["n_control"] = np.asarray(float(data.n_control))
        sums["control"] = data.n_control * data.control
        sums["control_squares"] = data.control_squares
        return sums | ({} if data.products is None else {"products": data.products})

    def records(site: SiteView[Conditions, EffectNet], state: State) -> Records:
        n = local(site, state)["n"]
        return {"n": n, "change": n[:, None], "squares": n[:, None]} | dict.fromkeys(of_control, site.data.n_control)

    return FederatedSum(
        name="effects",
        shapes={"n": (k,), "change": (k, p), "squares": (k, p)} | of_control,
        local=local,
        combine=effects_of,
        says="for each perturbation: number of cells, sums and sums of squares of the change of each feature; the same "
        "of control cells",
        records=records,
        sensitivity={"n": 1, "n_control": 1},
    )


def effects_of(total: Sums, state: State) -> State:
    """Return the state with effects, their noise, and the moments of control cells."""
    n, n_control = np.maximum(total["n"], 1)[:, None], max(float(total["n_control"]), 1.0)
    delta = total["change"] / n
    spread = np.maximum(total["squares"] / n - delta**2, 0)
    variance = spread / n + total["control_squares"] / n_control**2
    state = {**state, "n": total["n"], "delta": delta, "variance": variance}
    state["control"] = total["control"] / n_control
    state["control_variance"] = total["control_squares"] / n_control
    if "products" in total:
        state["covariance"] = total["products"] / n_control
    return state


def helpfulness(stack_of: Callable[[State], Effects]) -> FederatedSum:
    """Return the sum that tells how much the network helps beside the stack, on conditions that it was not trained on."""

    def moments_of(site: SiteView[Conditions, EffectNet], state: State) -> np.ndarray:
        stack, net, data = stack_of(state), site.module, site.data
        numbers = {genes: i for i, genes in enumerate(stack.conditions)}
        gains, rooms = [], []
        for i in data.validation:
            base = stack.predict(data.genes[i], without=numbers[data.genes[i]])
            step, rest = data.network(net, i) - base, data.delta[i] - base
            scale = max(float(np.linalg.norm(data.delta[i])), 1e-12)
            gains.append(float(step @ rest) / scale)
            rooms.append(float(step @ step) / scale)
        return share_moments(gains, rooms)[None]

    return share_of_network(moments_of, lambda site, state: int(site.data.n[site.data.validation].sum()))
