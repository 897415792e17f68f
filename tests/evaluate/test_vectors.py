"""Vectors of whole-slide encoders as arms: a fair comparison, beside ours, and what is left out of it."""

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from parfocal.cli import main
from parfocal.cohort import CohortColumns
from parfocal.errors import ConfigError, ParfocalWarning, StoreError
from parfocal.evaluate.arms import table_of_arms
from parfocal.evaluate.run import EvaluateSettings, evaluate_arms
from parfocal.heads import ProbeSettings
from parfocal.predict.finished import fit_study
from parfocal.store import EmbeddingSet, SlideTokens, create_set, open_set, write_tokens
from parfocal.study.checks import expected_arms, pictured_set
from parfocal.study.settings import read_study

N, DIM, WIDE = 30, 5, 7
PROBES = ProbeSettings(components=(4,), mlp_steps=4, growth=1, inner_folds=2)
QUICK = EvaluateSettings(folds=2, repeats=1, probes=PROBES, arms=("0.5/mean", "titan/mean"))
PATIENTS = CohortColumns(group="patient")
SLIDES = [f"ward/s{number:02d}" for number in range(N)]
POSITIVE = np.random.default_rng(5).permutation(np.arange(N) % 2 == 1)


def write_vector(folder: Path, slide: str, vector: np.ndarray) -> Path:
    """As TRIDENT does: by the name of the slide's file alone."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{slide.rsplit('/', 1)[-1]}.h5"
    with h5py.File(path, "w") as file:
        file["features"] = vector
    return path


def write_titan(folder: Path, slides: Sequence[str] = SLIDES) -> Path:
    """Vectors that know the label in four of their numbers."""
    rng = np.random.default_rng(1)
    for slide in slides:
        vector = rng.standard_normal(WIDE).astype(np.float32)
        vector[2:6] += 4.0 * POSITIVE[SLIDES.index(slide)]
        write_vector(folder, slide, vector)
    return folder


def write_tiles(root: Path) -> EmbeddingSet:
    """Tiles of two magnifications that know nothing; of the coarse one a slide has a single tile."""
    path = create_set(
        root, "toy", "tiles", region_um=448.0, dims={2.0: WIDE, 0.5: DIM}, settings={"encoder": "toy"},
        encoder_digests={2.0: "c", 0.5: "f"}, tile_px=224, dtype="float32",
    )  # fmt: skip
    rng = np.random.default_rng(2)
    for slide in SLIDES:
        features = {
            mpp: rng.standard_normal((n, dim)).astype(np.float32) for mpp, n, dim in ((2.0, 1, WIDE), (0.5, 3, DIM))
        }
        region = {mpp: np.zeros(len(rows), np.int32) for mpp, rows in features.items()}
        centre = {2.0: np.zeros((1, 2), np.float32), 0.5: np.array([[-168.0, 56], [56, 56], [56, -56]], np.float32)}
        write_tokens(path, SlideTokens(slide, 448.0, 0.5, np.array([[31.0, 77.0]]), features, region, centre))
    rows = [[slide, slide, "yes" if known else "no"] for slide, known in zip(SLIDES, POSITIVE, strict=True)]
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["slide", "patient", "label"], *rows])
    return open_set(path)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingSet:
    return write_tiles(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def titan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_titan(tmp_path_factory.mktemp("job") / "20x_512px_0px_overlap" / "slide_features_titan")


def labels_of(tiles: EmbeddingSet) -> Path:
    return tiles.path.parent / "labels.csv"


def evaluate(tiles: EmbeddingSet, out: Path, *folders: Path, settings: EvaluateSettings = QUICK):
    asked = settings.model_copy(update={"slide_vectors": folders})
    return evaluate_arms([tiles], labels_of(tiles), ["label"], out, asked, columns=PATIENTS)


def predictions(out: Path) -> dict[str, list[tuple[str, str, float]]]:
    found: dict[str, list[tuple[str, str, float]]] = {}
    with (out / "predictions.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["id"], []).append((row["slide"], row["fold"], float(row["score"])))
    return found


def test_vectors_that_know_the_label_are_found_alone_and_beside_ours(
    tiles: EmbeddingSet, titan: Path, tmp_path: Path
) -> None:
    ours = QUICK.model_copy(update={"arms": ("mean", "concat")})
    both = QUICK.model_copy(update={"arms": (*ours.arms, "titan/beside/mean")})
    with_titan = evaluate(tiles, tmp_path / "with", titan.parent.parent, settings=both)  # by the job's folder
    without = evaluate(tiles, tmp_path / "without", settings=ours)

    value = {run.arm.id: run.interval.estimate for run in with_titan.targets["label"].runs}
    assert {"titan/mean", "titan/beside/mean"} < set(value)
    assert min(value["titan/mean"], value["titan/beside/mean"]) > 0.9
    assert max(value["2/mean"], value["0.5/mean"], value["concat"]) < 0.8
    # What stands beside our arms changes nothing of them, nor of what is said of them.
    before, now = predictions(tmp_path / "without"), predictions(tmp_path / "with")
    assert {name: now[name] for name in before} == before
    assert with_titan.targets["label"].detectable == without.targets["label"].detectable
    assert with_titan.targets["label"].runs[with_titan.targets["label"].best_single].arm.kind == "single"
    page = with_titan.report.read_text()
    assert "Whole-slide encoder titan" in page
    assert "the same beside 5x + 20x" in page
    assert "The best arm with slide vectors is" in page
    assert "reads the one vector that another model made" in page
    assert "reads the one vector that another model made" not in without.report.read_text()
    written = json.loads((tmp_path / "with" / "results.json").read_text())
    assert written["settings"]["slide_vectors"] == ["titan"]
    assert {one["kind"] for one in written["targets"]["label"]["arms"] if one["id"].startswith("titan/")} == {"slide"}


def test_a_vector_is_read_by_the_very_heads_that_read_our_means(tiles: EmbeddingSet, tmp_path: Path) -> None:
    # The one coarse tile of a slide, as a vector of the slide: two ways to one number.
    for slide in SLIDES:
        write_vector(tmp_path / "same", slide, tiles.read(slide).features[2.0])

    evaluate(tiles, tmp_path / "out", tmp_path / "same", settings=QUICK.model_copy(update={"arms": ("mean", "mlp")}))

    found = predictions(tmp_path / "out")
    assert found["same/mean"] == found["2/mean"]
    assert found["same/mlp"] == found["2/mlp"]


def test_what_cannot_be_used_costs_one_slide_and_is_named(tiles: EmbeddingSet, tmp_path: Path) -> None:
    folder = write_titan(tmp_path / "titan")
    (folder / "s03.h5").unlink()
    write_vector(folder, "s00", np.ones(WIDE + 1, np.float32))  # the first is the odd one
    write_vector(folder, "s04", np.full(WIDE, np.nan, np.float32))
    write_vector(folder / "ward", "s05", np.ones(WIDE, np.float32))
    (folder / "s06.h5").unlink()
    (folder / "s06.h5").symlink_to(tmp_path / "gone.h5")
    write_vector(folder, "s07", np.ones((4, WIDE), np.float32))
    write_vector(folder, "elsewhere", np.ones(WIDE, np.float32))

    with pytest.warns(ParfocalWarning) as caught:
        result = evaluate(tiles, tmp_path / "out", folder)

    said = "\n".join(str(one.message) for one in caught)
    for line in (
        "1 of 30 slides has no vector of titan and is left out of all arms: ward/s03",
        "1 vector of titan is of no slide with embeddings: elsewhere",
        "5 slides cannot be read and are left out",
        "s00.h5: it has 8 numbers, and most vectors there have 7",
        "s04.h5: 7 of its 7 values are not finite",
        "2 files are its vector",
        "s06.h5: it is absent",
        "s07.h5: features have the shape (4, 7)",
    ):
        assert line in said
        assert line in "\n".join(result.targets["label"].cohort.notes)
    # Every arm reads the same slides.
    left = {"ward/s00", "ward/s03", "ward/s04", "ward/s05", "ward/s06", "ward/s07"}
    assert {slide for rows in predictions(tmp_path / "out").values() for slide, *_ in rows} == set(SLIDES) - left


def test_one_vector_for_two_slides_is_of_neither(tmp_path: Path) -> None:
    tiles = write_tiles(tmp_path / "store")
    twin = replace(tiles.read(SLIDES[0]), slide="other/s00")
    write_tokens(tiles.path, twin)

    with (
        pytest.warns(ParfocalWarning, match="no embeddings in toy with slide vectors"),
        pytest.warns(ParfocalWarning, match=r"s00\.h5 may be of 2 slides: other/s00, ward/s00"),
    ):
        evaluate(open_set(tiles.path), tmp_path / "out", write_titan(tmp_path / "titan"))


@pytest.mark.filterwarnings("ignore::parfocal.errors.ParfocalWarning")
def test_folders_that_say_nothing_of_the_cohort_are_refused(tiles: EmbeddingSet, tmp_path: Path) -> None:
    write_vector(tmp_path / "strange", "case-1", np.ones(WIDE, np.float32))
    write_titan(tmp_path / "half", SLIDES[:15])
    write_titan(tmp_path / "rest", SLIDES[15:])
    for slide in SLIDES:
        write_vector(tmp_path / "tiles", slide, np.ones((3, WIDE), np.float32))

    with pytest.raises(ConfigError, match="its files are called case-1, the slides ward/s00"):
        evaluate(tiles, tmp_path / "out", tmp_path / "strange")
    with pytest.raises(ConfigError, match="a vector in each of half, rest"):
        evaluate(tiles, tmp_path / "out", tmp_path / "half", tmp_path / "rest")
    with pytest.raises(StoreError, match=r"none of the 30 slides .*`parfocal index`"):
        evaluate(tiles, tmp_path / "out", tmp_path / "tiles")
    with pytest.raises(StoreError, match="is no folder"):
        evaluate(tiles, tmp_path / "out", tmp_path / "absent")


@pytest.mark.filterwarnings("ignore::parfocal.errors.ParfocalWarning")
def test_the_external_cohort_has_its_vectors_in_the_same_folder(tiles: EmbeddingSet, tmp_path: Path) -> None:
    folder = write_titan(tmp_path / "titan")
    write_vector(folder, SLIDES[21], np.ones(WIDE + 2, np.float32))
    half = replace(tiles, slides=tiles.slides[:20]), replace(tiles, slides=tiles.slides[20:])
    asked = QUICK.model_copy(update={"slide_vectors": (folder,)})

    result = evaluate_arms(
        [half[0]], labels_of(tiles), ["label"], tmp_path / "out", asked, columns=PATIENTS,
        test=[half[1]], test_labels=labels_of(tiles),
    ).targets["label"]  # fmt: skip

    assert result.external_cohort is not None
    assert set(result.external_cohort.slides) == set(SLIDES[20:]) - {SLIDES[21]}
    assert any("those of the training cohort have 7" in note for note in result.external_cohort.notes)
    (external,) = [run.external for run in result.runs if run.arm.id == "titan/mean"]
    assert external is not None
    assert external.interval.estimate > 0.9


def test_vectors_stand_beside_what_a_region_encoder_has_learnt(tiles: EmbeddingSet, tmp_path: Path) -> None:
    def made(model: str, readout: str, **more: str) -> EmbeddingSet:
        content = {**tiles.content, "kind": "regions", "settings": {"model": model, "readout": readout, **more}}
        return EmbeddingSet(Path(f"{model}-{readout}"), content, ())

    def beside(*sets: EmbeddingSet) -> tuple[tuple[int, str], ...]:
        arms = table_of_arms([tiles, *sets], only=["beside"], vectors=["titan"])
        return next(arm.bags for arm in arms if arm.id == "titan/beside/mean")

    assert beside() == ((1, "slide vector"), (0, "2"), (0, "0.5"))
    assert beside(made("random", "tokens", weights="random"))[1:] == ((0, "2"), (0, "0.5"))
    assert beside(made("mem", "cls"), made("mem", "tokens"))[1:] == ((2, "region"),)
    assert beside(made("mem", "cls"))[1:] == ((1, "region"),)


def test_a_study_file_names_them_beside_itself(tiles: EmbeddingSet, tmp_path: Path) -> None:
    write_titan(tmp_path / "vectors" / "slide_features_titan")
    (tmp_path / "study.yaml").write_text(
        f"store: {tiles.path}\nlabels: {{file: {labels_of(tiles)}, targets: label}}\n"
        "evaluation: {slide_vectors: [vectors], arms: [titan, concat]}\n"
    )

    study = read_study(tmp_path / "study.yaml")
    ids = [arm.id for arm in expected_arms(study, pictured_set(study.grid, ["2", "0.5"]))]

    assert ids == ["concat", "titan/mean", "titan/mlp", "titan/beside/mean", "titan/beside/mlp"]
    assert str(tmp_path) not in str(study.described()["evaluation"])
    with pytest.raises(StoreError, match="is no folder"):
        expected_arms(read_study(tmp_path / "study.yaml", {"evaluation.slide_vectors": ["gone"]}), tiles)


def test_no_head_is_fitted_of_another_tools_vectors(tmp_path: Path) -> None:
    about = {"sets": [], "labels": "labels.csv", "targets": {"label": {}}, "file": {}}
    content = {"settings": {"study": about, "slide_vectors": ["titan"]}}
    (tmp_path / "results.json").write_text(json.dumps(content))

    with pytest.raises(ConfigError, match=r"slide vectors of titan.*Fit an arm of tiles"):
        fit_study(tmp_path, "titan/beside/mean", tmp_path / "head")


def test_the_command_takes_folders_and_places_have_no_use_for_them(
    tiles: EmbeddingSet, titan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = [
        "evaluate",
        str(tiles.path),
        "--target",
        "label",
        "--slide-vectors",
        str(titan),
        "-o",
        str(tmp_path / "out"),
    ]
    quick = [
        "--folds",
        "2",
        "--repeats",
        "1",
        "--components",
        "4",
        "--arms",
        "titan/mean",
        "0.5/mean",
        "--group",
        "patient",
    ]

    assert main([*call, "--labels", str(labels_of(tiles)), *quick]) == 0
    assert "slide vectors of titan" in capsys.readouterr().out
    assert main([*call, "--places", "spots.csv"]) == 2
    assert "--places asks about places" in capsys.readouterr().err
