"""Patch inversion: optimise an image of tissue until its gradient is the observed one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infl.attacks._kit.audit_context import UNPROTECTED
from infl.attacks._kit.classifiers import with_options
from infl.attacks._kit.contract import Attack, Attacker, Finding
from infl.attacks._kit.statistics import interval
from infl.attacks.analytic_leak import gradient_of_step
from infl.models.protocols import PatchData

if TYPE_CHECKING:
    from infl.attacks._kit.audit_context import AuditContext

N_REPEATS = 4
N_GUESSES = 20
STAGES = ((1e-2, 200), (1e-4, 300))
"""Weight of smoothness, and steps of L-BFGS, of each stage."""
LAYOUT: dict[str, Any] = {"backbone": "small_cnn", "backbone_options": {"grid": 4}}
PLAIN: dict[str, Any] = {
    "statistics": False, "context": 0, "validation": 0.0, "augment": False, "dropout": 0.0, "batch_size": 1, "grad_clip": None,
}  # fmt: skip
"""What makes one step easiest to invert."""


def ssim(a: np.ndarray, b: np.ndarray, *, window: int = 7) -> float:
    """Return the structural similarity of two images (channels, height, width), on the range of `b`.

    References
    ----------
    Wang et al., Image quality assessment: from error visibility to structural similarity, IEEE TIP 2004.

    Examples
    --------
    >>> image = np.random.default_rng(0).random((3, 16, 16))
    >>> round(ssim(image, image), 6)
    1.0
    """
    x, y = (torch.from_numpy(np.asarray(v, dtype=np.float64))[None] for v in (a, b))
    window = min(window, *x.shape[2:])
    low, high = ((k * float(y.max() - y.min())) ** 2 for k in (0.01, 0.03))
    mx, my, xx, yy, xy = (F.avg_pool2d(v, window, 1) for v in (x, y, x * x, y * y, x * y))
    top = (2 * mx * my + low) * (2 * (xy - mx * my) + high)
    return float((top / ((mx**2 + my**2 + low) * (xx - mx**2 + yy - my**2 + high))).mean())


def invert_patch(
    module: nn.Module,
    observed: dict[str, Tensor],
    counts: Tensor,
    shape: tuple[int, int, int],
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the image (3, h, w) whose gradient is nearest to the observed one; the spot's counts (1, n) are given.

    Each tensor's gradient counts alike. Smoothness helps at the start.

    References
    ----------
    Geiping et al., Inverting gradients, NeurIPS 2020.
    """
    from infl.nn.histology import count_loss

    module = module.double().eval()
    named = {n: p for n, p in module.named_parameters() if not n.startswith(("genes.", "dispersion"))}
    target = torch.cat([observed[n].double().ravel() for n in named])
    target = target / target.norm().clamp(min=1e-30)
    sizes = [p.numel() for p in named.values()]
    weight = torch.cat([1 / part.square().sum().clamp(min=1e-12).expand(len(part)) for part in target.split(sizes)])
    x = torch.from_numpy(rng.normal(0, 0.3, (1, *shape))).requires_grad_()
    empty, counts = torch.zeros(1, 0, dtype=torch.float64), counts.double()

    def distance() -> Tensor:
        loss = count_loss(module(x, empty), counts, module.dispersion).mean()  # type: ignore[arg-type]
        flat = torch.cat([g.ravel() for g in torch.autograd.grad(loss, list(named.values()), create_graph=True)])
        return ((flat / flat.norm().clamp(min=1e-30) - target) ** 2 * weight).sum()

    for smooth, steps in STAGES:
        lbfgs = torch.optim.LBFGS(
            [x], max_iter=steps, history_size=30, tolerance_change=1e-12, line_search_fn="strong_wolfe"
        )

        def closure(smooth: float = smooth, lbfgs: torch.optim.LBFGS = lbfgs) -> Tensor:
            lbfgs.zero_grad()
            value = distance() + smooth * (x.diff(dim=2).square().mean() + x.diff(dim=3).square().mean())
            value.backward()
            return value

        lbfgs.step(closure)
    return np.nan_to_num(x.detach()[0].numpy())


class PatchInversion(Attack):
    """Reconstruct the stained tissue of a spot from one update on it."""

    name: ClassVar[str] = "patch_inversion"
    against: ClassVar[Attacker] = Attacker.COORDINATOR
    question: ClassVar[str] = "Can the coordinator see the tissue of a spot in a hospital's update?"

    def applies(self, context: AuditContext) -> bool:
        """Whether the task has patches, and trains without noise."""
        return isinstance(context.task, PatchData) and context.run.privacy is None

    def run(self, context: AuditContext) -> list[Finding]:
        """Attack one step on one spot at each site; the first site's message is enough."""
        found: list[list[float]] = [[], []]
        chance: list[float] = []
        for trial in range(N_REPEATS):
            for protected in (True, False):
                value, guesses = self._attack(context, trial, protected)
                found[not protected].append(value)
                chance += guesses
        return [
            Finding(
                metric="structural similarity with the patch, batch of 1",
                **interval(found[0]),
                chance=float(np.mean(chance)),
                control=float(np.mean(found[1])),
                promised=context.sealed,
                margin=0.2,
                note="An image is optimised until its gradient fits; counts and start are given, and our network keeps a layout.",
            )
        ]

    def _attack(self, context: AuditContext, trial: int, protected: bool) -> tuple[float, list[float]]:
        from infl.federation.initial import build_flat_model

        rng = context.rng(self.name, trial)
        own = context.task
        assert isinstance(own, PatchData)
        task = with_options(own, **PLAIN, **({} if own.backbone else LAYOUT))
        spots = {s: self._whole(own, a) for s, a in context.sites.items()}
        chosen = {s: a[[int(rng.choice(spots[s]))]] for s, a in context.sites.items()}
        common: dict[str, Any] = {"rounds": 1, "local_epochs": 1, "patience": 0, "participation": 1.0}
        recorded = context.repeat(sites=chosen, task=task, **common, **({} if protected else UNPROTECTED))
        update = recorded.updates()[0]
        replica, data = recorded.outcome.replica, recorded.outcome.sites[update.site].data
        flat_model = build_flat_model(task, replica.agreement, replica.start)
        task.configure(flat_model.module, replica.private)
        change = update.values * len(chosen)  # all sites have one spot
        flat = gradient_of_step(change, flat_model.copy_shared().numpy(), lr=task.lr, weight_decay=task.weight_decay)
        gradient = {n: torch.from_numpy(v.copy()) for n, v in recorded.tensors(flat).items()}
        batch = data.batch(data.train)
        truth = batch.images[0].numpy()
        guess = invert_patch(flat_model.module, gradient, batch.counts, truth.shape, rng)
        others = task.read(context.sites[update.site], context.panel, site=update.site)
        some = rng.choice(spots[update.site], N_GUESSES)
        return ssim(guess, truth), [ssim(image.numpy(), truth) for image in others.images(some)]

    @staticmethod
    def _whole(task: PatchData, adata: Any) -> np.ndarray:
        """Return the spots that have a patch and counts."""
        from infl.models.counts import table_of
        from infl.models.histology.patches import Patches

        table = table_of(adata, task.modality, "the data")
        x = table.X if task.layer is None else table.layers[task.layer]
        return np.flatnonzero(
            Patches(table, key=task.patches, site="the data").present & (np.asarray(x.sum(1)).ravel() > 0)
        )
