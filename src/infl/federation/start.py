"""What a run begins with in place of fresh weights: a fitted model, opened in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from infl.errors import SettingsError
from infl.models.carried import carried

if TYPE_CHECKING:
    from torch import Tensor

    from infl.federation.agreement import Agreement
    from infl.keys import Keyring
    from infl.models.locked import LockedModel
    from infl.models.task import Task
    from infl.nn.flat import FlatModule, Layout


@dataclass(frozen=True)
class Origin:
    """A fitted model that a run begins with, locked as it is, and the sites' own ones where there are such.

    Attributes
    ----------
    model
        The global model.
    site_models
        By site.
    """

    model: LockedModel
    site_models: Mapping[str, LockedModel] = field(default_factory=dict)

    def open(self, key: Keyring | None) -> Start:
        """Unlock the weights, in memory.

        Raises
        ------
        KeyringError
            The key does not open them.
        """
        h = self.model.header
        self.model.private_arrays(key)  # shows a header that was altered
        own = {site: model.effective(key) for site, model in self.site_models.items()}
        return Start(self, self.model.effective(key), h.salts, own, h.build_task().units(h.panel))


@dataclass(frozen=True)
class Start:
    """A fitted model as a run begins with it: unlocked here, and never written like this.

    Attributes
    ----------
    origin
        The model, locked as it was given.
    weights
        Effective weights by name.
    salts
        Public salts of the locked tensors, which those keep that no round moves.
    own
        By site, weights that stayed there.
    units
        Names along axes of the weights.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> run = infl.tl.fit_federated(sites, target="tumour_class", rounds=1, progress=False)
    >>> start = Origin(run.model).open(run.key)
    >>> start.digest == run.model.header.digest, start
    (True, Start(18 tensors))
    """

    origin: Origin
    weights: Mapping[str, Tensor] = field(repr=False)
    salts: Mapping[str, str] = field(repr=False)
    own: Mapping[str, Mapping[str, Tensor]] = field(repr=False)
    units: Mapping[str, Mapping[int, Any]] = field(repr=False)

    def __repr__(self) -> str:
        return f"Start({len(self.weights)} tensors)"

    @property
    def digest(self) -> str:
        """Of the model file, for the record."""
        return self.origin.model.header.digest

    def salts_of(self, weights: Mapping[str, Tensor]) -> dict[str, str]:
        """Return the salts of those tensors that are the model's to the bit."""
        import torch

        same = (n for n, t in weights.items() if n in self.salts and torch.equal(t, self.weights[n]))
        return {name: self.salts[name] for name in same}

    def load(self, flat_model: FlatModule, task: Task, panel: Mapping[str, Any]) -> None:
        """Put the weights into a fresh module. Those that stay at the sites and are in no global model stay fresh.

        Raises
        ------
        SettingsError
            The model lacks a tensor, or has it in another size.
        """
        new = task.units(panel)
        n = flat_model.shared.total
        flat = flat_model.flat.data
        for layout, part in ((flat_model.shared, flat[:n]), (flat_model.local, flat[n:])):
            self._put(layout, part, self.weights, new, all_of_them=layout is flat_model.shared)

    def local(self, flat_model: FlatModule, task: Task, panel: Mapping[str, Any], site: str) -> Tensor:
        """Return the weights with which a site's own part begins."""
        begun = flat_model.copy_local()
        self._put(flat_model.local, begun, self.own.get(site, {}), task.units(panel), all_of_them=False)
        return begun

    def _put(
        self,
        layout: Layout,
        flat: Tensor,
        weights: Mapping[str, Tensor],
        units: Mapping[str, Mapping[int, Any]],
        *,
        all_of_them: bool,
    ) -> None:
        for name, view in layout.views(flat).items():
            if name in weights:
                view.copy_(carried(view.cpu(), weights[name], name, units.get(name, {}), self.units.get(name, {})))
            elif all_of_them:
                raise SettingsError(
                    f"init= has no {name}, which this fit shares between sites: keep to the model's aggregation=, or fit anew"
                )


def check_start(agreement: Agreement, start: Start | None) -> None:
    """Refuse to begin a run with another model than was agreed on.

    Raises
    ------
    SettingsError
        It is another one, or is not there.
    """
    if agreement.init != ("" if start is None else start.digest):
        raise SettingsError(
            f"the run begins with model {agreement.init[:16] or 'none'}, and that is not what is given: init="
        )
