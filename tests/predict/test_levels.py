"""Slides of which two magnifications were read in part: what each kind of head makes of them, and what is said."""

from pathlib import Path

import numpy as np
import pytest
import torch

from parfocal.bags import RepresentSettings, read_bags, represent_regions
from parfocal.cli import main
from parfocal.cohort import LabelColumns
from parfocal.config import GridConfig
from parfocal.embed import EmbedSettings, create_embedding_set, embed_slides, load_encoders
from parfocal.errors import ConfigError, ParfocalWarning
from parfocal.evaluate.sources import common_slides
from parfocal.explain import Sources, explain_slide
from parfocal.geometry import lattice_um
from parfocal.heads import ProbeSettings
from parfocal.heads.contrast.fit import FittedContrast
from parfocal.heads.contrast.partly import score_partly_read
from parfocal.predict import FitSettings, fit_head, load_head, predict_slides, zoom_by
from parfocal.region_encoder import RegionEncoder, RegionEncoderConfig
from parfocal.store import EmbeddingSet, Reading, SlideTokens, open_set, write_tokens

from .scans import GRID, Scanned

LEVELS = GridConfig(region_um=GRID.region_um, mpps=(2.0, 1.0, 0.5), tile_px=GRID.tile_px, min_tissue=GRID.min_tissue)
MIDDLE, FINEST = 1.0, 0.5
SHARES = (0.5, 0.2)
N_TRAIN, N_REGIONS = 12, 8
LEAN = FitSettings(
    folds=2,
    repeats=1,
    probes=ProbeSettings(
        components=(2,), attention_steps=4, attention_validation=1, growth=1, inner_folds=2, sharpen=False, lifted=()
    ),
)
COLUMNS = LabelColumns(group="patient")
ARMS = {"contrast": "contrast", "attention": "union", "means": "concat", "middle": "1/mean", "first": "2/mean"}


def settings_of(scanned: Scanned) -> EmbedSettings:
    return EmbedSettings(encoder=scanned.encoder, grid=LEVELS, dtype="float32", coarse="native", qc=False)


def write_training(tiles: Path, labels: Path) -> None:
    """Slides whose regions vary together at every two magnifications; with the finest in a direction by the label."""
    rng, rows = np.random.default_rng(0), []
    for number in range(N_TRAIN):
        is_red = number % 2 == 0
        state = rng.standard_normal(N_REGIONS)
        signs = {2.0: 1.0, MIDDLE: -1.0, FINEST: 1.0 if is_red else -1.0}
        features, region, center = {}, {}, {}
        for mpp in LEVELS.mpps:
            places = lattice_um(LEVELS.region_um, LEVELS.tiles_per_side(mpp)).astype(np.float32)
            region[mpp] = np.repeat(np.arange(N_REGIONS), len(places)).astype(np.int32)
            center[mpp] = np.tile(places, (N_REGIONS, 1))
            rows_of = 0.3 * rng.standard_normal((len(region[mpp]), 9))
            rows_of[:, 0] += signs[mpp] * state[region[mpp]]
            features[mpp] = rows_of.astype(np.float32)
        xy_um = LEVELS.region_um * np.column_stack([np.arange(N_REGIONS), np.full(N_REGIONS, 2)]).astype(np.float64)
        write_tokens(tiles, SlideTokens(f"s{number:02d}", LEVELS.region_um, 0.5, xy_um, features, region, center))
        rows.append(f"s{number:02d},p{number:02d},{int(is_red)}")
    labels.write_text("\n".join(["slide,patient,red", *rows]) + "\n")


@pytest.fixture(scope="module")
def folder(scanned: Scanned, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heads of each kind on three magnifications, and new slides read whole and in part."""
    out = tmp_path_factory.mktemp("levels")
    settings = settings_of(scanned)
    path = create_embedding_set(out / "store", settings, load_encoders(settings))
    write_training(path, out / "labels.csv")
    tiles = open_set(path)
    for name, arm in ARMS.items():
        fit_head([tiles], out / "labels.csv", "red", arm, out / name, LEAN, columns=COLUMNS)
    digest = tiles.encoder_digest
    config = RegionEncoderConfig(
        width=8, depth=1, heads=2, mpps=LEVELS.mpps, dims=(9,) * 3, encoders=(digest,) * 3,
        region_um=LEVELS.region_um, tile_px=LEVELS.tile_px,
    )  # fmt: skip
    torch.manual_seed(0)
    RegionEncoder(config).save_pretrained(out / "mem")
    how = RepresentSettings(readouts=("cls",), dtype="float32")
    regions = represent_regions(tiles, out / "mem", out / "regions", how).sets[0]
    fit_head(
        [tiles, regions], out / "labels.csv", "red", "mem/cls/mean", out / "regions-head", LEAN, columns=COLUMNS,
        models=[out / "mem"],
    )  # fmt: skip
    for name, zoom in (("whole", None), ("part", zoom_by("diversity", SHARES))):
        assert not embed_slides([scanned.new_slides], out / name, settings, zoom=zoom).failed
    return out


@pytest.fixture(scope="module")
def part(folder: Path) -> EmbeddingSet:
    return open_set(folder / "part")


def probabilities(head: Path, store: EmbeddingSet, out: Path) -> list[float]:
    found = predict_slides([store], head, out / "out.csv")
    assert not found.failed, found.failed
    return [float(one.probability[1]) for one in found.predicted]


def test_contrast_counts_what_was_read_of_each_magnification(folder: Path, part: EmbeddingSet, tmp_path: Path) -> None:
    head = load_head(folder / "contrast")
    (probe,) = head.probes
    assert isinstance(probe, FittedContrast)
    names = [name for _, name in head.bags]
    assert names == ["2", "1", "0.5"]
    expected = []
    for slide in part.slides:
        bags = read_bags(part, [slide], names=names)
        share = {1: part.share_read(slide, MIDDLE), 2: part.share_read(slide, FINEST)}
        assert 0 < share[2].mean() < share[1].mean() < 1
        score = score_partly_read(probe, bags, np.array([0]), [1, 2], share=share)
        expected.append(float(head.calibration.probability(score)[0][1]))

    with pytest.warns(ParfocalWarning, match="was calibrated on slides that were read whole"):
        assert probabilities(folder / "contrast", part, tmp_path) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["attention", "means", "middle", "regions-head"])
def test_a_head_that_takes_what_was_read_for_all_says_so(
    folder: Path, part: EmbeddingSet, tmp_path: Path, kind: str
) -> None:
    text = r"diversity, 0\.5 0\.2 of its tiles at 1 and 0\.5 mpp\), and the head .* takes that for all there is"
    with pytest.warns(ParfocalWarning, match=text):
        probabilities(folder / kind, part, tmp_path)


def test_a_head_of_what_was_read_whole_says_what_it_says_of_whole_slides(
    folder: Path, part: EmbeddingSet, tmp_path: Path
) -> None:
    whole = open_set(folder / "whole")
    assert probabilities(folder / "first", part, tmp_path) == probabilities(folder / "first", whole, tmp_path)


def test_a_head_that_was_shown_parts_of_the_finest_says_that_it_knows_no_others(
    folder: Path, part: EmbeddingSet, tmp_path: Path
) -> None:
    shown = LEAN.model_copy(update={"parts": (0.2,)})
    for arm, text in (
        ("0.5/mean", "was shown slides that were read in part by stride"),
        ("concat", "was shown no slide of which a coarser magnification was read in part"),
    ):
        head = tmp_path / arm.replace("/", "-")
        fit_head([open_set(folder / "store")], folder / "labels.csv", "red", arm, head, shown, columns=COLUMNS)
        with pytest.warns(ParfocalWarning, match=text):
            probabilities(head, part, tmp_path)


def test_predict_reads_slides_one_magnification_after_the_other(
    scanned: Scanned, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["predict", str(scanned.new_slides / "n0.tif"), "--head", str(folder / "contrast")]
    command += [
        "--encoder",
        scanned.encoder,
        "-o",
        str(tmp_path / "out.csv"),
        "--store",
        str(tmp_path / "store"),
        "--workers",
        "0",
    ]

    assert main([*command, "--budget", "0.5", "0.2"]) == 0, capsys.readouterr().err
    found = open_set(tmp_path / "store")
    assert found.reading("n0") == Reading("contrast", 0.2, (0.5,))
    tokens = found.read("n0")
    assert {*tokens.region[FINEST].tolist()} <= {*tokens.region[MIDDLE].tolist()}
    assert main([*command, "--budget", "0.5", "0.5", "0.2"]) == 2
    assert "names 3 shares" in capsys.readouterr().err


def test_a_policy_that_asks_about_finest_tiles_is_refused_before_a_slide_is_read(folder: Path) -> None:
    with pytest.raises(ConfigError, match="cannot choose among coarser ones"):
        zoom_by(f"value={folder / 'means'},{folder / 'mem'}", (0.5, 0.2))


@pytest.mark.parametrize("name", ["contrast", "attention", "middle", "first"])
@pytest.mark.filterwarnings("ignore::parfocal.errors.ParfocalWarning")
def test_an_explanation_adds_up_to_what_predict_says(
    folder: Path, part: EmbeddingSet, tmp_path: Path, name: str
) -> None:
    head = load_head(folder / name)
    said = predict_slides([part], head.path, tmp_path / "out.csv").predicted[0]

    one = explain_slide(head, Sources(part), said.slide)

    assert one.parts.prediction["probability_1"] == pytest.approx(said.probability[1], abs=1e-6)
    assert np.allclose(one.parts.base + one.parts.shapley.sum(axis=0), one.parts.score, rtol=0, atol=1e-6)
    assert one.regions is not None
    assert np.allclose(one.parts.base + one.regions.contribution.sum(axis=0), one.parts.score, rtol=0, atol=1e-6)


def test_others_who_read_the_store_say_what_was_read(folder: Path, part: EmbeddingSet, tmp_path: Path) -> None:
    with pytest.warns(ParfocalWarning, match=r"read in part at 1 and 0\.5 mpp \(diversity 0\.5 0\.2\)"):
        common_slides([part])
    regions = represent_regions(part, folder / "mem", tmp_path / "regions", RepresentSettings(readouts=("cls",))).sets[
        0
    ]
    assert {regions.reading(slide) for slide in part.slides} == {Reading("diversity", 0.2, (0.5,))}
