"""Old names of public things, which are taken for one more version."""

import importlib

import numpy as np
import pytest
from anndata import AnnData

import infl
from infl._renamed import model_first, renamed, spelled
from infl.errors import InflWarning, SettingsError


@pytest.mark.parametrize(("module", "old", "new"), [
    ("infl.attacks", "Evidence", "infl.attacks.AuditContext"),
    ("infl.privacy.seal", "Words", "infl.privacy.seal.MaskedArrays"),
    ("infl.keys", "LABELS", "infl.keys.SUBKEY_LABELS"),
    ("infl.privacy.dp", "TAIL", "infl.privacy.dp.NOISE_TAIL"),
    ("infl.sums", "FINE", "infl.sums.FINE_SCALE"),
    ("infl.nn.trex", "attach_intuition", "infl.nn.trex.attach_prior"),
    ("infl.nn.trex.intuition", "Intuition", "infl.nn.trex.semantic_prior.SemanticPrior"),
    ("infl.nn.trex.intuition", "TokenIntuition", "infl.nn.trex.semantic_prior.TokenPrior"),
    ("infl.nn.trex.intuition", "level", "infl.nn.trex.semantic_prior.level"),
])  # fmt: skip
def test_an_old_name_is_the_new_thing_with_a_warning(module: str, old: str, new: str) -> None:
    owner, _, name = new.rpartition(".")
    with pytest.warns(
        DeprecationWarning, match=f"^{module}.{old} is now {new}; the old name goes in the next version$"
    ):
        found = getattr(importlib.import_module(module), old)
    assert found is getattr(importlib.import_module(owner), name)


def test_a_name_that_never_was() -> None:
    with pytest.raises(AttributeError, match=r"module 'infl\.attacks' has no attribute 'Line'"):
        _ = infl.attacks.Line  # type: ignore[attr-defined]


def test_the_warning_is_of_the_line_that_has_the_old_name() -> None:
    with pytest.warns(DeprecationWarning) as caught:
        from infl.attacks import Evidence  # noqa: F401
    assert [line.filename for line in caught] == [__file__]  # once, though the import asks for the name twice


def test_a_former_module_gives_a_former_name_with_a_warning_of_its_own_alone() -> None:
    with pytest.warns(InflWarning, match="infl.privacy.attacks is infl.attacks now") as caught:
        from infl.privacy.attacks import Evidence
    assert Evidence is infl.attacks.AuditContext
    assert [line.filename for line in caught] == [__file__]


def test_other_names_of_a_lazy_module_are_found_as_before() -> None:
    assert renamed("infl.errors", {}, otherwise=str.upper)("other") == "OTHER"


def test_components_take_the_seed_by_scanpys_name(khan_sites: dict[str, AnnData]) -> None:
    by_seed, by_state = ({site: adata.copy() for site, adata in khan_sites.items()} for _ in range(2))
    infl.pp.pca(by_seed, 3, svd_solver="randomized", seed=4)
    infl.pp.pca(by_state, 3, svd_solver="randomized", random_state=4)
    assert all(np.array_equal(by_seed[site].obsm["X_pca"], by_state[site].obsm["X_pca"]) for site in khan_sites)
    with pytest.raises(SettingsError, match="seed= and its other spelling random_state= were both given: give one"):
        infl.pp.pca(by_seed, 3, seed=4, random_state=4)


class Model:
    header = "of a model"


MODEL, SITES = Model(), {"a": 1}


@model_first
def measure(model: object, sites: object, *, epochs: int = 1) -> tuple[object, object, int]:
    return model, sites, epochs


def test_the_order_of_before_is_taken_with_a_warning() -> None:
    with pytest.warns(DeprecationWarning, match="^measure takes the model before the sites now; the old order goes"):
        assert measure(SITES, MODEL, epochs=2) == (MODEL, SITES, 2)
    with pytest.warns(DeprecationWarning):
        assert measure(SITES, model=MODEL) == (MODEL, SITES, 1)


def test_the_order_of_today_and_keywords_warn_of_nothing(recwarn: pytest.WarningsRecorder) -> None:
    for found in (measure(MODEL, SITES), measure(MODEL, sites=SITES), measure(sites=SITES, model=MODEL)):
        assert found == (MODEL, SITES, 1)
    assert not len(recwarn)


def test_a_spelling_is_not_taken_beside_the_parameter() -> None:
    @spelled(random_state="seed")
    def draw(seed: int = 0) -> int:
        return seed

    assert draw(random_state=3) == draw(3) == 3
    with pytest.raises(SettingsError, match="both given"):
        draw(seed=1, random_state=1)


def test_methods_of_a_task_are_taken_under_their_old_names() -> None:
    with pytest.warns(DeprecationWarning, match="^Theirs.judged is now scoring_outputs; the old name goes in the next"):

        class Theirs(infl.models.Classifier):
            def judged(self, module: object, data: object, private: object) -> dict[str, int]:
                return {"loss": 7}

    assert Theirs(target="label").scoring_outputs(None, None, {}) == {"loss": 7}  # type: ignore[arg-type]


def test_methods_of_a_task_are_called_by_their_old_names() -> None:
    """By users, and by a task of one's own that builds on ours."""
    task = infl.models.Classifier(target="label")
    with pytest.warns(
        DeprecationWarning, match="^Classifier.privately is now for_dp; the old name goes in the"
    ) as caught:
        assert task.privately() == task.for_dp()  # type: ignore[attr-defined]
    assert [line.filename for line in caught] == [__file__]

    class Base(infl.models.Classifier):
        def local_arrays(self, data: object) -> dict[str, int]:
            return {"base": 1}

    with pytest.warns(DeprecationWarning, match="^Theirs.keep is now local_arrays"):

        class Theirs(Base):
            def keep(self, data: object) -> dict[str, int]:
                return super().keep(data) | {"theirs": 2}  # type: ignore[misc]

    with pytest.warns(DeprecationWarning, match="^Base.keep is now local_arrays"):
        assert Theirs(target="label").local_arrays(None) == {"base": 1, "theirs": 2}


def test_old_names_in_a_class_that_is_mixed_in_are_taken() -> None:
    class Mixed:
        def keep(self, data: object) -> dict[str, int]:
            return {"mixed": 1}

    with pytest.warns(DeprecationWarning, match="^Theirs.keep is now local_arrays") as caught:

        class Theirs(Mixed, infl.models.Classifier):
            pass

    assert [line.filename for line in caught] == [__file__]
    assert Theirs(target="label").local_arrays(None) == {"mixed": 1}  # type: ignore[arg-type,comparison-overlap]


@pytest.mark.parametrize("spelling", ["seed", "random_state"])
def test_an_error_names_the_spelling_that_was_given(khan_sites: dict, spelling: str) -> None:
    with pytest.raises(SettingsError, match=f"^{spelling}=-1: give a whole number"):
        infl.pp.pca(khan_sites, 3, svd_solver="randomized", **{spelling: -1})
