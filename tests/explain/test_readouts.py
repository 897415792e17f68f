"""Heads on what a region encoder made: it makes something else of every set of magnifications."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from parfocal.bags import RepresentSettings, represent_regions
from parfocal.cohort import LabelColumns, Target
from parfocal.explain import ExplainSettings, explain_slide, explain_slides, shapley_values
from parfocal.explain.run import sources_of
from parfocal.heads.linear import FittedMean
from parfocal.lab.synthetic import FeatureModel, PanelSettings, draw_cohort, write_cohort
from parfocal.lab.synthetic.xscale import FeatureCohort
from parfocal.predict import Head, fit_head, predict_slides
from parfocal.region_encoder import RegionEncoder, RegionEncoderConfig, collate_regions
from parfocal.run.events import warn_of
from parfocal.store import EmbeddingSet, SlideTokens, open_set

from .conftest import LEAN
from .test_run import numbers, table

MPPS = (2.0, 1.0, 0.5)
ARMS = ("mem/cls/mean", "mem/cls/gated-attention", "mem/cls/second-moment", "mem/tokens/contrast")


class Gappy(FeatureCohort):
    """In every slide region 3 has no tile at 0.5 mpp and region 5 none at 2 mpp."""

    def tokens(self, number: int) -> SlideTokens:
        whole = super().tokens(number)
        kept = {mpp: whole.region[mpp] != {0.5: 3, 2.0: 5}.get(mpp, -1) for mpp in MPPS}

        def left(of: Mapping[float, np.ndarray]) -> dict[float, np.ndarray]:
            return {mpp: rows[kept[mpp]] for mpp, rows in of.items()}

        return replace(whole, features=left(whole.features), region=left(whole.region), center_um=left(whole.center_um))


@dataclass(frozen=True, eq=False)
class Encoded:
    """A store with gaps, a region encoder of random weights, and heads on what it makes and on tiles."""

    folder: Path
    tiles: EmbeddingSet
    heads: Mapping[str, Head]


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Encoded:
    folder = tmp_path_factory.mktemp("encoded")
    law = PanelSettings(n_slides=12, n_regions=10, tau=0.25, omega=20.0, product=False, model=FeatureModel(dim=32))
    tiles = open_set(write_cohort(Gappy(**vars(draw_cohort(law))), folder / "store"))
    config = RegionEncoderConfig(
        width=8, depth=1, heads=2, mpps=MPPS, dims=(32,) * 3, encoders=(tiles.encoder_digest,) * 3,
        region_um=tiles.region_um, tile_px=224,
    )  # fmt: skip
    torch.manual_seed(0)
    encoder = RegionEncoder(config)
    with torch.no_grad():  # so that what it makes of regions differs, as it does of a trained one
        for one in encoder.parameters():
            one += 0.3 * torch.randn(one.shape)
    encoder.save_pretrained(folder / "mem")
    made = represent_regions(
        tiles, folder / "mem", folder / "regions", RepresentSettings(readouts=("cls", "tokens"), dtype="float32")
    )
    heads = {}
    for arm in (*ARMS, "contrast", "union"):
        heads[arm] = fit_head(
            [tiles, *made.sets], folder / "store" / "labels.csv", Target(name="coarse"), arm,
            folder / "heads" / arm.replace("/", "-"), LEAN, columns=LabelColumns(group="patient"),
            models=[folder / "mem"],
        )  # fmt: skip
    return Encoded(folder, tiles, heads)


@pytest.mark.parametrize("arm", [*ARMS, "contrast", "union"])
def test_parts_add_up_to_what_predict_says_where_tiles_are_absent_too(
    encoded: Encoded, tmp_path: Path, arm: str
) -> None:
    head, slides = encoded.heads[arm], encoded.tiles.slides[:2]
    predict_slides([replace(encoded.tiles, slides=slides)], head.path, tmp_path / "out.csv")
    said = [float(row["probability_1"]) for row in table(tmp_path / "out.csv")]

    found = explain_slides(
        encoded.tiles, head.path, tmp_path / "why", ExplainSettings(ends=2, pictures=False), slides=slides
    )

    assert not found.failed
    rows = table(tmp_path / "why" / "slides.csv")
    assert np.allclose([float(row["probability_1"]) for row in rows], said, rtol=0, atol=1e-5)
    for row in rows:
        score, base = float(row["score"]), float(row["base"])
        assert base + numbers([row], "shapley_").sum() == pytest.approx(score, abs=1e-6)
        regions = table(tmp_path / "why" / "regions" / f"{row['slide']}.csv")
        assert len(regions) == 10
        added = numbers(regions, "contribution")[:, 0]
        assert base + added.sum() == pytest.approx(score, abs=1e-6)
        assert np.allclose(numbers(regions, "shapley_").sum(axis=1), added, rtol=0, atol=1e-6)
    if arm.startswith("mem/cls"):
        assert not (tmp_path / "why" / "tiles").exists()  # its instances are regions


def test_the_region_encoder_is_asked_without_the_magnifications_that_are_absent(
    encoded: Encoded, tmp_path: Path
) -> None:
    head, slide = encoded.heads["mem/cls/mean"], encoded.tiles.slides[1]
    (probe,) = head.probes
    assert isinstance(probe, FittedMean)
    encoder = RegionEncoder.from_pretrained(encoded.folder / "mem").eval()
    tokens, worth = encoded.tiles.read(slide), [probe.intercept]
    for coalition in range(1, 8):
        mpps = [mpp for place, mpp in enumerate(MPPS) if coalition >> place & 1]
        less = SlideTokens(
            slide, tokens.region_um, tokens.slide_mpp, tokens.region_xy_um,
            {mpp: tokens.features[mpp] for mpp in mpps},
            {mpp: tokens.region[mpp] for mpp in mpps},
            {mpp: tokens.center_um[mpp] for mpp in mpps},
        )  # fmt: skip
        regions = np.unique(np.concatenate([less.region[mpp] for mpp in mpps]))
        batch = collate_regions([(less, regions)])
        with torch.no_grad():
            cls = encoder(batch.tokens, batch.xy_um, batch.mpp, batch.present).cls.numpy()
        worth.append(probe.intercept + (cls.mean(axis=0) - probe.offset[0]) @ probe.coefficient[0])
    sources, failed = sources_of(
        head, replace(encoded.tiles, slides=(slide,)), tmp_path / "store", ExplainSettings(), warn_of
    )

    one = explain_slide(head, sources, slide)

    assert not failed
    assert np.allclose(one.parts.shapley, shapley_values(np.array(worth)), rtol=1e-5, atol=1e-5)  # rows are float32
    assert (np.abs(one.parts.shapley) > 1e-4).all()
