"""Fine-tuning of stolen weights: what is drawn, and that a locked file gives no head start."""

import numpy as np
import pytest

from infl.attacks import AuditContext, Status
from infl.attacks._kit.theft import draw
from infl.attacks.thief_fine_tuning import ThiefFineTuning

CLOSED = (Status.HOLDS, Status.INCONCLUSIVE)
"""No leak: so few trials as a test has often do not show that there is none."""


def test_draw_has_every_class_and_leaves_the_others() -> None:
    y = np.arange(40) % 4
    train, judge = draw(y, 8, np.random.default_rng(0))
    assert len(train) == 8
    assert set(y[train]) == {0, 1, 2, 3}
    assert sorted([*train, *judge]) == list(range(40))


@pytest.mark.long
def test_default_gives_no_head_start_and_the_control_has_one(default: AuditContext, monkeypatch) -> None:
    monkeypatch.setattr(ThiefFineTuning, "n_trials", 24)
    (locked,) = ThiefFineTuning().run(default)
    assert locked.status in CLOSED
    assert locked.control > locked.chance + 0.05
    assert locked.value < locked.control - 0.05  # an open file is worth what the control is
