"""The same run between machines, carried by NVIDIA FLARE (optional extra ``infl[flare]``).

FLARE gives enrolment, mutual TLS and the streaming of large messages. An engine job is one *attempt* at finishing a run; the
run itself, its checkpoints, who is up and who is late are infl's (:mod:`infl.deploy.remote`,
:mod:`infl.deploy.site_worker`, :mod:`infl.deploy.run_attempt`). A job is configuration only: it names one controller and one
executor, the two classes that a participant's allow list has.
"""

from __future__ import annotations

from importlib.util import find_spec

from infl.errors import MissingExtraError

CONTROLLER_CLASS = "infl.deploy.flare.controller.InflController"
EXECUTOR_CLASS = "infl.deploy.flare.executor.InflExecutor"


def require_flare() -> None:
    """Raise a MissingExtraError unless NVIDIA FLARE is installed."""
    if find_spec("nvflare") is None:
        raise MissingExtraError("this needs NVIDIA FLARE: pip install 'infl[flare]'")
