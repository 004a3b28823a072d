"""What a task is: the protocol between a model and the federated engine.

Longer than other files, since a protocol is read in one place. The engine knows rounds, sites, sums and seals. A task knows data,
modules, losses and metrics. They meet here, and a third party's task is one class that follows this protocol, registered under the
entry point ``infl.tasks``.
"""

from __future__ import annotations

import dataclasses
import json
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

import numpy as np

from infl._parameters import Choice, Kind, Real, Whole, read_all
from infl._renamed import take_old_methods
from infl.data.labels import label_text
from infl.errors import SettingsError
from infl.models.site_data import SiteData, Step
from infl.models.spellings import Spellings

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData
    from pandas import DataFrame, Series
    from torch import Tensor, nn

    from infl.nn.steps import Stepper
    from infl.sums import FederatedSum

ADAM_EPS = 1e-5
"""With torch's 1e-8 a gradient of the size of a rounding error moves a weight by a whole ``lr``, and an average's last bit decides
where training goes; 1e-5 keeps locked, sealed and plain runs of one seed together to 1e-6."""

_OLD_METHODS = {"privately": "for_dp", "judged": "scoring_outputs", "keep": "local_arrays"}

SITE = "infl_site"
"""Column of ``obs`` by which observations that were put together remember their site."""

Sums = dict[str, np.ndarray]
"""Named float64 arrays that are added over sites."""

Predictor = Callable[["AnnData | MuData"], dict[str, np.ndarray]]
"""What gives a task's outputs on data."""

Data = TypeVar("Data", bound=SiteData)
"""What a task reads from a site."""

Net = TypeVar("Net", bound="nn.Module")
"""What a task builds."""

Part = TypeVar("Part")


@dataclass(frozen=True)
class Task(Generic[Data, Net], metaclass=Spellings):
    """Base of all tasks. The fields of a concrete task are its options; all of them can be written as JSON.

    A task has no state: what is learned lives in the module's parameters (averaged, locked) and in *private arrays* (moments, priors,
    calibration: sums over sites, encrypted in the model file). For type checkers: ``class Mine(Task[Rows, nn.Linear])``.

    Parameters
    ----------
    optimiser
        What sites train with. Adam's first steps are of the size `lr` whatever the gradient, so with one or two steps per round it weights
        parameters by how often a gradient keeps its sign; ``"sgd"`` with one step a round is gradient descent on the pooled loss.
    lr
        Learning rate at the sites.
    weight_decay
        Weight decay of the optimiser.
    batch_size
        Observations in a step.
    grad_clip
        Largest norm of a gradient (None: not clipped).

    Examples
    --------
    >>> import infl
    >>> task = infl.models.Classifier(target="tumour_class", lr=0.01)
    >>> isinstance(task, infl.models.Task), task.name, task.options()["lr"]
    (True, 'classifier', 0.01)
    """

    name: ClassVar[str]
    monitor: ClassVar[str] = "loss"
    """Validation metric that chooses the best round."""
    maximise: ClassVar[bool] = False
    """Whether a larger `monitor` is better."""

    headline: ClassVar[str] = "loss"
    """Metric that tables and the lock's calibration report first."""

    takes_missing: ClassVar[bool] = False
    """Whether a fitted model takes data without some of the features, or with NaN in them, and masks those."""

    predicts_from_features: ClassVar[bool] = True
    """Whether a fitted model reads values of its features; else it takes data that have their names alone."""

    columns_in_panel: ClassVar[tuple[str, ...]] = ()
    """Entries of the panel that name an obs column, which sites read although no option names it."""

    carried_by_name: ClassVar[tuple[str, ...]] = ("features", "classes")
    """Entries of the panel whose names may differ from those of a model that a fit begins with, because :meth:`units` has them."""

    bounded_metrics: ClassVar[tuple[str, ...]] = ()
    """Sums of :meth:`evaluate` to which a record adds about 1 at most: they take a third of the room of others in a message."""

    min_steps: ClassVar[int] = 1
    """Fewest steps per local epoch: a site with fewer batches passes over its observations again."""

    optimiser: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 1e-4
    batch_size: int = 32
    grad_clip: float | None = None

    parameters: ClassVar[dict[str, Kind]] = {
        "optimiser": Choice(("adamw", "sgd")),
        "lr": Real(0, open="low"),
        "weight_decay": Real(0),
        "batch_size": Whole(1),
        "grad_clip": Real(0, open="low", none=True),
    }
    """What each option may be, by :mod:`infl.models.options`; text in one that is left out counts as the name of an obs column."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Take methods under the names that they had before."""
        super().__init_subclass__(**kwargs)
        take_old_methods(cls, _OLD_METHODS)

    def __post_init__(self) -> None:
        """Check the options, and keep them as plain Python."""
        for name, value in read_all(self.parameters, {name: getattr(self, name) for name in self.parameters}).items():
            object.__setattr__(self, name, value)

    # -- what the sites must agree on ------------------------------------------------------------------------------
    @abstractmethod
    def agree(self, sites: Mapping[str, AnnData | MuData]) -> dict[str, Any]:
        """Check the sites' data and return the panel: names of features and classes, as JSON, alike for all sites.

        Raises
        ------
        DataError
            What is wrong, at which site, and what to do.
        """

    def settled(self, panel: Mapping[str, Any]) -> dict[str, Any]:
        """Return a panel whose names were joined from those of several sites, with what follows from the names."""
        return dict(panel)

    @abstractmethod
    def read(
        self,
        adata: AnnData | MuData,
        panel: Mapping[str, Any],
        *,
        site: str,
        rng: np.random.Generator | None = None,
        keyless: bool = False,
    ) -> Data:
        """Read a site's data, in the panel's order.

        Parameters
        ----------
        adata
            The site's data; not altered.
        panel
            From :meth:`agree`.
        site
            The site's name, for messages.
        rng
            Splits off the validation part; None reads for prediction (no labels needed).
        keyless
            Read as somebody without the key would: what private arrays would tell is estimated from these data.
        """

    def observations(self, adata: AnnData | MuData, site: str) -> DataFrame:
        """Return ``obs`` of the table whose rows a :class:`SiteData` of this task numbers: whose data they are."""
        return adata.obs

    # -- sums before and after the rounds --------------------------------------------------------------------------
    def before(self, panel: Mapping[str, Any]) -> Sequence[FederatedSum]:
        """Return the sums before training, in order, each of a :class:`infl.sums.SiteView`; private arrays are their state."""
        return ()

    def after(self, panel: Mapping[str, Any]) -> Sequence[FederatedSum]:
        """Return the sums that are needed after training, computed with the best model (calibration)."""
        return ()

    def for_dp(self) -> Task:
        """Return the task without sums over training records that have no noise: for differential privacy.

        Whether a record is trained on must not depend on the others: see :func:`infl.models.labelled.split_rows`.

        Raises
        ------
        SettingsError
            The task needs such sums.
        """
        if type(self).before is not Task.before or type(self).after is not Task.after:
            raise SettingsError(f"model {self.name!r} needs sums that have no noise; it cannot be fitted with privacy=")
        return self

    def suited_to_dp(self, panel: Mapping[str, Any], rounds: int, given: Collection[str]) -> Task:
        """Return the task with what suits noisy gradients better than its own defaults, for a fit with ``privacy=``.

        Parameters
        ----------
        panel
            What the sites agreed on.
        rounds
            Of the fit, each of them one noisy step.
        given
            Names of the options that the user set, which stay as they are.
        """
        return self

    # -- who has what ----------------------------------------------------------------------------------------------
    def held_names(self, panel: Mapping[str, Any]) -> Mapping[str, Sequence[str]]:
        """Names of the panel that a site may lack (``{"class": ["a", "b"]}``): a sum of what one site alone has is its own number."""
        return {}

    def held(self, data: Data, panel: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
        """Which of :meth:`held_names` a site has: arrays of 0 and 1."""
        return {}

    def named_groups(self, panel: Mapping[str, Any]) -> Mapping[str, Sequence[str]]:
        """Groups of records that the panel names, by the column of ``obs`` that has them."""
        classes = {str(self.options().get("target")): panel["classes"]} if panel.get("classes") else {}
        return panel.get("tasks", classes)

    def named_as(self, values: Series, panel: Mapping[str, Any]) -> Series:
        """Return what the panel calls the values of such a column."""
        return label_text(values)

    # -- model -----------------------------------------------------------------------------------------------------
    @abstractmethod
    def build(self, panel: Mapping[str, Any]) -> Net:
        """Return a freshly initialised module (from torch's global generator)."""

    def configure(self, module: Net, private: Sums) -> None:
        """Put private arrays where the module uses them."""

    def units(self, panel: Mapping[str, Any]) -> dict[str, dict[int, Sequence[str]]]:
        """Names of the units along axes of parameters, where they have names: ``{parameter: {axis: names}}``."""
        return {}

    def local_arrays(self, data: Data) -> Sums:
        """Return what a site's own model knows of the site beside the global model (moments); it is never sent."""
        return {}

    def adapt(self, module: Net, data: Data, private: Sums) -> None:
        """Estimate, from unlabelled data, the parameters that a site learns for itself; for a site not in the fit."""

    def is_local(self, parameter: str) -> bool:
        """Whether a parameter stays at its site and is not averaged."""
        return False

    def losses(self, module: Net, batch: Any) -> Tensor:
        """Return the loss (n,) of each observation of a batch, where it does not depend on the others.

        With this in place of :meth:`loss`, and tuples of tensors as batches, sites of one process are trained together; randomness is
        :class:`torch.nn.Dropout`'s alone.

        Raises
        ------
        SettingsError
            The task has neither.
        """
        raise SettingsError(f"model {self.name!r} cannot be trained: its class must define loss, or losses")

    @property
    def has_losses(self) -> bool:
        """Whether the task has :meth:`losses`."""
        return type(self).losses is not Task.losses

    def loss(self, module: Net, batch: Any, step: Step) -> Tensor:
        """Return the mean loss of a batch, to be differentiated; a task has this or :meth:`losses`."""
        return self.losses(module, batch).mean()

    # -- judging ---------------------------------------------------------------------------------------------------
    @abstractmethod
    def metric_shapes(self, panel: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Names and shapes of what :meth:`evaluate` returns."""

    @abstractmethod
    def evaluate(self, module: Net, data: Data, index: np.ndarray) -> Sums:
        """Return sums over the observations `index`, never values per observation."""

    def evaluate_each(self, module: Net, parts: Sequence[tuple[Data, np.ndarray]]) -> list[Sums]:
        """Return the sums of several sites, of data and index each; one pass for all of them may be faster."""
        return [self.evaluate(module, data, index) for data, index in parts]

    @abstractmethod
    def summarise(self, sums: Sums) -> dict[str, float]:
        """Turn sums over sites into metrics; one of them is :attr:`monitor`."""

    # -- results ---------------------------------------------------------------------------------------------------
    @abstractmethod
    def infer(self, module: Net, data: Data, private: Sums) -> dict[str, np.ndarray]:
        """Return what the model says of every observation of `data`."""

    @abstractmethod
    def write(
        self, adata: AnnData | MuData, outputs: Mapping[str, np.ndarray], panel: Mapping[str, Any], *, key_added: str
    ) -> None:
        """Put `outputs` into ``obs``, ``obsm`` and ``layers`` of `adata`, all at once."""

    # -- comparing -------------------------------------------------------------------------------------------------
    def hold_out(self, adata: AnnData | MuData, share: float, rng: np.random.Generator) -> np.ndarray:
        """Return which observations (n_obs,) are held out to compare methods on."""
        raise SettingsError(f"model {self.name!r} cannot be compared: its class must define hold_out")

    def scoring_outputs(self, module: Net, data: Data, private: Sums) -> dict[str, np.ndarray]:
        """Return what :meth:`score` needs of every observation, where that is not what users get."""
        return self.infer(module, data, private)

    def score(
        self, adata: AnnData | MuData, outputs: Mapping[str, np.ndarray], panel: Mapping[str, Any]
    ) -> dict[str, float]:
        """Return the metrics of outputs on held-out observations; :attr:`headline` comes first."""
        raise SettingsError(f"model {self.name!r} cannot be compared: its class must define score")

    def chance(self, panel: Mapping[str, Any]) -> float | None:
        """Return what :attr:`headline` is of a guess; None where nobody can say."""
        return 1 / len(panel["classes"]) if panel.get("classes") else None

    def baseline(self, train: AnnData | MuData, panel: Mapping[str, Any], *, seed: int) -> Predictor:
        """Fit what practitioners would try first on pooled data; return what gives its outputs on other data."""
        raise SettingsError(f"model {self.name!r} has no baseline: its class must define one")

    # -- training --------------------------------------------------------------------------------------------------
    def optimise(self, parameters: Iterable[Tensor]) -> Stepper:
        """Return what trains `parameters` at a site."""
        from infl.nn.steps import Stepper

        return Stepper(parameters, self.optimiser, lr=self.lr, eps=ADAM_EPS, weight_decay=self.weight_decay)

    # -- as data ---------------------------------------------------------------------------------------------------
    @classmethod
    def check_names(cls, options: Mapping[str, Any]) -> None:
        """Refuse options of a message or a model file that name what is not known on this machine."""

    @classmethod
    def place_base(cls, options: Mapping[str, Any], panel: Mapping[str, Any], base: str | Path) -> None:
        """Let the base that a model file names be the one in the folder `base`.

        Raises
        ------
        SettingsError
            Models of this kind have none, or it is another one.
        """
        raise SettingsError(f"base={str(base)!r}: a model of model={cls.name!r} has no base; leave it out")

    def options(self) -> dict[str, Any]:
        """Return the options as JSON: as they are when they come back from a file."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def options_for(self, kind: type[Part]) -> Part:
        """Return a dataclass of the options that have the names of its fields: what reads data needs no task."""
        names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
        return kind(**{name: getattr(self, name) for name in names})


take_old_methods(Task, _OLD_METHODS)
