"""Labels of perturbations in the conventions that there are."""

import pytest

from infl.models.perturbation.data import genes_of


@pytest.mark.parametrize(
    ("label", "genes"),
    [("A+B", ("A", "B")), ("B + A", ("A", "B")), ("A,B", ("A", "B")), ("A+ctrl", ("A",)), ("NT", ()), ("A_B", ("A", "B")),
     ("A_9", ("A_9",))],
)  # fmt: skip
def test_labels_of_several_conventions(label, genes):
    assert genes_of(label, "control", {"A", "B", "A_9"}) == genes
