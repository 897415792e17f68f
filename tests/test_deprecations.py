"""Names of before still work, and each says what it is called now."""

import importlib
import sys

import pytest

import parfocal
from parfocal.errors import ParfocalDeprecationWarning

from .run import fresh


@pytest.mark.parametrize(("former", "now"), [("represent", "represent_regions"), ("demo", "run_demo")])
def test_functions_under_their_former_names(former: str, now: str) -> None:
    with pytest.warns(ParfocalDeprecationWarning, match=f"parfocal.{former} is now parfocal.{now}"):
        assert getattr(parfocal, former) is getattr(parfocal, now)


@pytest.mark.parametrize(
    ("module", "former"), [("parfocal.evaluate", "evaluate"), ("parfocal.bags.represent", "represent")]
)
def test_a_module_that_has_the_name_of_a_function_can_be_called(module: str, former: str) -> None:
    folder = importlib.import_module(module)

    # The shape checks of the tests say it in one way, Python itself in another.
    with pytest.warns(ParfocalDeprecationWarning, match="is now parfocal"), pytest.raises(TypeError, match="missing"):
        folder()


@pytest.mark.parametrize(
    ("module", "name", "now"),
    [
        ("parfocal.embeddings", "open_set", "parfocal.store"),
        ("parfocal.embeddings", "embed_slides", "parfocal.embed"),
        ("parfocal.embeddings.layout", "index_path", "parfocal.store.layout"),
        ("parfocal.probes", "fit_contrast", "parfocal.heads"),
        ("parfocal.synthetic", "draw_cohort", "parfocal.lab.synthetic"),
        ("parfocal.report.statistics", "delong_test", "parfocal.stats"),
        ("parfocal.tiles", "iter_tiles", "parfocal.regions.tiles"),
    ],
)
def test_modules_under_their_former_names(module: str, name: str, now: str) -> None:
    home = importlib.import_module(now)
    sys.modules.pop(module, None)

    with pytest.warns(ParfocalDeprecationWarning, match=f"{module} is now .*{now}"):
        moved = importlib.import_module(module)

    assert getattr(moved, name) is getattr(home, name)


@pytest.mark.parametrize(
    ("former", "now"),
    [
        ("study", "run_study"),
        ("evaluate", "evaluate_arms"),
        ("synergy", "measure_synergy"),
        ("prove", "prove_encoder"),
        ("explore", "explore_designs"),
        ("demo", "run_demo"),
        ("fit", "fit_head"),
        ("predict", "predict_slides"),
    ],
)
def test_functions_of_studies(former: str, now: str) -> None:
    sys.modules.pop("parfocal.studies", None)
    with pytest.warns(ParfocalDeprecationWarning, match="parfocal.studies is now"):
        studies = importlib.import_module("parfocal.studies")

    with pytest.warns(ParfocalDeprecationWarning, match=f"parfocal.studies.{former} is now parfocal.{now}"):
        assert getattr(studies, former) is getattr(parfocal, now)


def test_pretrain_from_its_folder() -> None:
    with pytest.warns(ParfocalDeprecationWarning, match="is now parfocal.pretrain_encoder"):
        from parfocal.pretrain import pretrain

    assert pretrain is parfocal.pretrain_encoder


def test_what_never_was_is_no_name() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'unheard_of'"):
        _ = parfocal.unheard_of
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("parfocal.unheard_of")


def test_a_new_name_says_nothing() -> None:
    code = "import parfocal; parfocal.evaluate_arms; import parfocal.evaluate; parfocal.open_set"
    fresh.run([sys.executable, "-W", "error", "-c", code], check=True)
