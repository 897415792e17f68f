"""Heads that were shown slides which are read in part."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from parfocal.bags import bag_of_slide, fine_bag, open_filler, read_bags, read_in_part
from parfocal.cli import main
from parfocal.cohort import Cohort, LabelColumns, Outcome, make_splits
from parfocal.embed import EmbedSettings, embed_slides
from parfocal.errors import ConfigError, ParfocalWarning
from parfocal.geometry import format_mpp
from parfocal.heads import Fit, ProbeSettings, fit_attention, fit_mlp
from parfocal.heads.linear import fit_mean
from parfocal.lab.synthetic import FeatureModel, IidSettings, draw_cohort, write_cohort
from parfocal.predict import FitSettings, Head, ShownInPart, fit_head, load_head, predict_slides, usual_zoom, zoom_by
from parfocal.store import EmbeddingSet, Reading, SlideTokens, open_set
from parfocal.zoom import POLICIES, chosen

from .scans import GRID, LEAN, Native, Scanned

FINEST = min(GRID.mpps)
PARTS = (0.25, 0.5)
SHOWN = LEAN.model_copy(update={"parts": PARTS})
DECODED = SHOWN.model_copy(update={"parts": (0.0, *PARTS), "unread": "decoded"})
COLUMNS = LabelColumns(group="patient")


def embed(scanned: Scanned, slides: Path, store: Path, policy: str = "stride", budget: float = 1.0) -> EmbeddingSet:
    settings = EmbedSettings(encoder=scanned.encoder, grid=GRID, dtype="float32", coarse="native")
    zoom = None if budget == 1 else zoom_by(policy, budget)
    summary = embed_slides([slides], store, settings, zoom=zoom)
    assert not summary.failed, summary.failed
    return open_set(summary.set_path)


@pytest.fixture(scope="module")
def folder(scanned: Scanned, native: Native, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores, a model, and heads of means: one that was shown whole slides alone, one parts too, one filled parts."""
    root = tmp_path_factory.mktemp("parts")
    for name, made in (("store", native.store), ("whole", native.new), ("model", native.model)):
        (root / name).symlink_to(made)
    for budget in (0.0, 0.1, 0.3):
        embed(scanned, scanned.new_slides, root / f"read-{budget:g}", budget=budget)
    for name, how in (("plain", SHOWN.model_copy(update={"parts": ()})), ("shown", SHOWN), ("filled", DECODED)):
        models = [root / "model"] if name == "filled" else []
        fit_head([root / "store"], scanned.labels, "red", "concat", root / name, how, columns=COLUMNS, models=models)
    return root


def predicted(folder: Path, head: str, store: str) -> dict[str, float]:
    found = predict_slides([folder / store], folder / head, folder / "out.csv")
    assert not found.failed, found.failed
    return {one.slide: float(one.probability[1]) for one in found.predicted}


def read_of(part: EmbeddingSet, whole: SlideTokens) -> np.ndarray:
    """Which tiles of a slide that was read whole were read of it in part, by their places."""

    def places(one: SlideTokens) -> list[tuple[float, ...]]:
        return [tuple(row) for row in np.column_stack([one.region[FINEST], one.center_um[FINEST]]).tolist()]

    there = set(places(part.read(whole.slide)))
    return np.array([place in there for place in places(whole)])


def probability(head: Head, fine: SlideTokens, budget: float) -> float:
    """By the probe of slides that are read in part, and what its scores mean at a budget."""
    bags = [bag_of_slide(fine, mpp) for mpp in GRID.mpps]
    score = head.part_probes[0].score(bags, np.array([0]))
    return float(head.of_parts[head.facts.parts.budgets.index(budget)].probability(score)[0, 1])  # type: ignore[union-attr]


@pytest.mark.parametrize("head", ["shown", "filled"])
def test_a_slide_that_was_read_whole_gets_what_a_head_says_that_knows_no_parts(folder: Path, head: str) -> None:
    assert predicted(folder, head, "whole") == predicted(folder, "plain", "whole")


def test_less_is_scored_by_what_was_shown_less_and_means_what_it_meant_there(folder: Path) -> None:
    head, whole, part = load_head(folder / "shown"), open_set(folder / "whole"), open_set(folder / "read-0.3")

    found = predicted(folder, "shown", "read-0.3")

    expected = {}
    for slide in whole.slides:
        tokens = whole.read(slide)
        expected[slide] = probability(head, read_in_part(tokens, read_of(part, tokens)), 0.25)
    assert found == pytest.approx(expected)
    assert found != pytest.approx(predicted(folder, "shown", "whole"), abs=1e-3)
    assert head.doubt(Reading("stride", 0.3), {"0.5"}) is None


def test_unread_tiles_of_a_new_slide_are_filled_in_by_the_model_that_the_head_keeps(folder: Path) -> None:
    head, whole, part = load_head(folder / "filled"), open_set(folder / "whole"), open_set(folder / "read-0.3")
    assert head.model == folder / "filled" / "model"
    filler = open_filler(whole, folder / "model")

    found = predicted(folder, "filled", "read-0.3")

    expected = {}
    for slide in whole.slides:
        tokens = whole.read(slide)
        read = read_of(part, tokens)
        region, center_um = part.unread_tiles(slide)
        assert np.array_equal(region, tokens.region[FINEST][~read])
        assert np.array_equal(center_um, tokens.center_um[FINEST][~read])
        expected[slide] = probability(head, filler.fill(read_in_part(tokens, read), region, center_um), 0.25)
    assert found == pytest.approx(expected)


def test_with_nothing_read_only_a_head_that_fills_in_says_something(folder: Path) -> None:
    found = predicted(folder, "filled", "read-0")
    refused = predict_slides([folder / "read-0"], folder / "shown", folder / "out.csv")

    assert all(0 < one < 1 for one in found.values())
    assert len(refused.failed) == len(found)
    assert "no vector to pool at 0.5 mpp: none of them was read" in refused.failed[0].message


def test_what_a_head_was_not_shown_is_said(folder: Path, scanned: Scanned, tmp_path: Path) -> None:
    with pytest.warns(ParfocalWarning, match=r"4 slides .* was shown no slide with less than 0\.25 read"):
        predicted(folder, "shown", "read-0.1")
    embed(scanned, scanned.new_slides, tmp_path / "other", "random", 0.3)
    with pytest.warns(ParfocalWarning, match="read in part by stride. Read with --zoom stride"):
        predict_slides([tmp_path / "other"], folder / "shown", tmp_path / "out.csv")
    predict_slides([tmp_path / "other"], folder / "filled", tmp_path / "out.csv")
    with pytest.warns(ParfocalWarning, match=r"takes that for all there is\. Fit it with --parts"):
        predicted(folder, "plain", "read-0.3")


@pytest.mark.parametrize(("arm", "how"), [("union", SHOWN), ("region-mlp", SHOWN), ("contrast", DECODED)])
def test_every_way_to_pool_can_be_shown_parts(
    folder: Path, scanned: Scanned, tmp_path: Path, arm: str, how: FitSettings
) -> None:
    models = [folder / "model"] if how is DECODED else []
    written = fit_head(
        [folder / "store"], scanned.labels, "red", arm, tmp_path / "head", how, columns=COLUMNS, models=models
    )
    part = predict_slides([folder / "read-0.3"], tmp_path / "head", tmp_path / "part.csv")
    whole = predict_slides([folder / "whole"], tmp_path / "head", tmp_path / "whole.csv")

    assert not part.failed + whole.failed
    read = load_head(tmp_path / "head")
    assert read.digest == written.digest
    bags = read_bags(open_set(folder / "whole"), ["n0"], names=[name for _, name in read.bags])
    for one in (written, read):
        score = one.score(dict(zip(one.bags, bags, strict=True)), 0)
        assert one.calibration.probability(score)[0] == pytest.approx(whole.predicted[0].probability)
    assert part.predicted[0].probability != pytest.approx(whole.predicted[0].probability, abs=1e-6)


def test_what_each_budget_reaches_is_kept_and_said(folder: Path) -> None:
    parts = load_head(folder / "filled").facts.parts

    assert parts is not None
    assert (parts.budgets, parts.policy, parts.unread) == ((0.0, *PARTS), "stride", "decoded")
    assert len(parts.metrics) == len(parts.calibrations) == 3
    assert all(one.low <= one.estimate <= one.high for one in parts.metrics)
    assert "read in part by stride, the rest as a model expects it" in (folder / "filled" / "head.html").read_text()


def test_predict_reads_slides_as_training_slides_were_shown(
    folder: Path, scanned: Scanned, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert usual_zoom(folder / "shown") == "stride"
    assert usual_zoom(folder / "plain") == folder / "plain"
    out, words = tmp_path / "out.csv", ["--encoder", scanned.encoder, "--budget", "0.3", "--workers", "0"]

    status = main(["predict", str(scanned.new_slides), "--head", str(folder / "shown"), "-o", str(out), *words])

    assert status == 0, capsys.readouterr().err
    assert open_set(tmp_path / "out-store").reading("n0") == Reading("stride", 0.3)
    assert out.read_text().count("\n") == 5


@pytest.mark.parametrize(
    ("arm", "changes", "message"),
    [
        ("2/mean", {}, "reads none of these. Leave it out"),
        ("contrast", {}, "a contrast head knows what was not read"),
        ("concat", {"parts_by": "contrast"}, "no policy that looks at the slide alone; these do: change"),
        ("concat", {"parts_by": "nothing"}, "no policy that looks at the slide alone; these do: change"),
        ("concat", {"unread": "decoded"}, "asks one pretrained model, and 0 are named: --model FOLDER"),
    ],
)
def test_arms_and_settings_that_make_no_such_head_are_refused(
    folder: Path, scanned: Scanned, tmp_path: Path, arm: str, changes: dict[str, str], message: str
) -> None:
    how = SHOWN.model_copy(update=changes)
    with pytest.raises(ConfigError, match=message):
        fit_head([folder / "store"], scanned.labels, "red", arm, tmp_path / "head", how, columns=COLUMNS)
    assert not (tmp_path / "head").exists()


def test_coarse_tiles_that_hold_what_is_not_read_are_refused(scanned: Scanned, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"are averaged from all of these\. Embed with --coarse native"):
        fit_head([scanned.store], scanned.labels, "red", "concat", tmp_path / "head", SHOWN, columns=COLUMNS)


def test_training_slides_that_were_read_in_part_are_refused(folder: Path, scanned: Scanned, tmp_path: Path) -> None:
    tiles = embed(scanned, scanned.folder / "slides", tmp_path / "store", budget=0.3)
    with (
        pytest.warns(ParfocalWarning, match="were read in part at"),
        pytest.raises(ConfigError, match=r"needs training slides that were read whole, and 16 of 16 .* --budget 1"),
    ):
        fit_head([tiles], scanned.labels, "red", "concat", tmp_path / "head", SHOWN, columns=COLUMNS)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"unread": "decoded"}, "Name budgets: --parts"),
        ({"parts_by": "random"}, "Name budgets: --parts"),
        ({"parts": (0.0, 0.1)}, "--unread decoded"),
        ({"parts": (0.1, 0.1)}, "names a budget twice"),
        ({"parts": (1.0,)}, "less than 1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FitSettings.model_validate(given)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[EmbeddingSet, Outcome]:
    """Slides whose label shifts how often a fine tile shows C."""
    model = FeatureModel(dim=32, shift_c=3.0, size_type=1.0, size_orientation=1.0, size_product=1.0, size_slide=0.5)
    cohort = draw_cohort(IidSettings(n_slides=60, n_regions=8, tau_c=0.15, kappa=0.01, model=model, seed=0))
    tiles = open_set(write_cohort(cohort, tmp_path_factory.mktemp("drawn")))
    return tiles, Outcome.binary(cohort.labels["label"])


def test_showings_of_a_slide_never_lie_on_both_sides_and_count_alike(drawn: tuple[EmbeddingSet, Outcome]) -> None:
    tiles, outcome = drawn
    patients = tuple(f"p{number // 2:02d}" for number in range(len(outcome)))
    of_patients = Outcome.binary(np.arange(len(outcome)) % 4 < 2)
    shown = ShownInPart((0.1, 0.5), POLICIES.get("stride"), 0)
    cohort = Cohort(tiles.slides, patients, of_patients)
    (bag,) = read_bags(tiles, tiles.slides, names=[format_mpp(2.0)], seen_as=shown)
    patient_of = dict(zip(tiles.slides, patients, strict=True))

    def of(numbers: np.ndarray) -> set[str]:
        return {patient_of[bag.slides[number]] for number in numbers}

    for fold in map(shown.fold, make_splits(cohort, folds=3, repeats=1).folds(cohort, inner=3, seed=0)):
        assert not of(fold.train) & of(fold.test)
        assert of(fold.train) | of(fold.test) == set(patients)
        inner = [of(fold.train[fold.inner == number]) for number in range(3)]
        assert sum(map(len, inner)) == len(set.union(*inner))
        assert set(np.bincount(fold.train // shown.times)) == {0, shown.times}
    shown_labels = shown.outcome(of_patients).value.reshape(-1, shown.times)
    assert np.array_equal(shown_labels, np.repeat(of_patients.value[:, None], shown.times, axis=1))
    assert bag.slides == tuple(slide for slide in tiles.slides for _ in range(shown.times))


def test_a_training_slide_is_shown_as_the_policy_reads_it_and_the_rest_is_never_looked_at(
    drawn: tuple[EmbeddingSet, Outcome],
) -> None:
    tokens = drawn[0].read(drawn[0].slides[0])
    shown = ShownInPart((0.1, 0.5), POLICIES.get("stride"), 0)
    whole, tenth, half = shown(tokens)
    assert whole is tokens
    order = [set(map(tuple, part.features[FINEST].tolist())) for part in (tenth, half)]
    assert order[0] < order[1]  # what a small budget reads a larger one reads too
    assert [len(one) for one in order] == [13, 64]  # of 8 regions with 16 tiles

    class Glances:
        read: np.ndarray

        def __call__(self, glance: object) -> np.ndarray:
            found = POLICIES.get("stride")(glance)  # type: ignore[arg-type]
            self.read = chosen(found, 0.5)
            return found

    seen = Glances()
    list(replace(shown, policy=replace(POLICIES.get("stride"), order=seen))(tokens))
    fine = tokens.features[FINEST].copy()
    fine[~seen.read] = np.nan
    _, *parts = shown(replace(tokens, features={**tokens.features, FINEST: fine}))
    assert all(np.isfinite(part.features[FINEST]).all() for part in parts)


@pytest.mark.parametrize("fit", [fit_mean, fit_mlp, fit_attention], ids=["mean", "mlp", "attention"])
def test_a_head_that_was_shown_parts_is_not_surer_of_them_than_it_may_be(
    drawn: tuple[EmbeddingSet, Outcome], fit: Fit
) -> None:
    """`change` takes tiles that are unlike the slide's others: a head of whole slides is sure of what that does."""
    tiles, outcome = drawn
    settings = ProbeSettings(components=(8,), inner_folds=3, attention_steps=32, growth=1)
    shown = ShownInPart((0.1, 0.2), POLICIES.get("change"), 0)
    bags = read_bags(tiles, tiles.slides, names=[format_mpp(FINEST)], seen_as=shown)
    cohort = Cohort(tiles.slides, tiles.slides, outcome)
    folds = make_splits(cohort, folds=2, repeats=1).folds(cohort, inner=3, seed=0)
    every = [shown.fold(fold) for fold in folds]
    alone = fit([shown.whole(bag) for bag in bags], outcome, folds, settings)
    parts = fit(bags, shown.outcome(outcome), every, settings)
    sign = 2 * outcome.value - 1

    def loss(probes: list) -> np.ndarray:
        """Mean log loss of held-out slides in each showing."""
        found = [
            np.logaddexp(0, -sign[fold.test, None] * probe.score(bags, whole.test).reshape(-1, shown.times))
            for probe, fold, whole in zip(probes, folds, every, strict=True)
        ]
        return np.concatenate(found).mean(axis=0)

    assert (loss(parts)[1:] < loss(alone)[1:] - 0.1).all()


def test_the_bag_of_a_part_is_that_of_the_tiles_that_are_read(drawn: tuple[EmbeddingSet, Outcome]) -> None:
    tokens = drawn[0].read(drawn[0].slides[0])
    read = np.arange(len(tokens.region[FINEST])) % 5 == 0
    ours = bag_of_slide(read_in_part(tokens, read), FINEST)
    theirs = fine_bag(tokens, read, np.zeros(32, np.float32))
    assert np.array_equal(ours.rows, theirs.rows)
    assert np.array_equal(ours.region_present, theirs.region_present)
