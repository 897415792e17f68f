"""What parfocal itself adds keeps the contracts that packages of others are held to."""

from pathlib import Path

import pytest

from parfocal.encoders import TileEncoder, load_tile_encoder
from parfocal.heads import HEADS, RegisteredHead
from parfocal.pretrain.objectives import OBJECTIVES, Objective
from parfocal.store.formats.format import FORMATS, FeatureFormat
from parfocal.testing import FeatureFormatContract, HeadContract, ObjectiveContract, PolicyContract, TileEncoderContract
from parfocal.zoom import POLICIES, Policy

from .zoom.bound import bound


class TestFilterbank(TileEncoderContract):
    def make(self) -> TileEncoder:
        return load_tile_encoder("filterbank,tile_px=64")


class TestNetworkOfTimm(TileEncoderContract):
    def make(self) -> TileEncoder:
        return load_tile_encoder("timm:resnet10t,random=0,tile_px=64", dtype="float32")


class TestFunction(TileEncoderContract):
    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.file = tmp_path / "means_of_tiles.py"
        self.file.write_text("def means(tiles):\n    return tiles.reshape(len(tiles), -1, 3).mean(axis=1)\n")

    def make(self) -> TileEncoder:
        return load_tile_encoder(f"python:{self.file}:means,tile_px=64")


# The formats that say how their files are written; what was written is read.
@pytest.mark.parametrize("name", [name for name, format in FORMATS.ours.items() if format.write is not None])
class TestFormats(FeatureFormatContract):
    @pytest.fixture(autouse=True)
    def _name(self, name: str) -> None:
        self.name = name

    def make(self) -> FeatureFormat:
        return FORMATS.get(self.name)


@pytest.mark.parametrize("name", [name for name, head in HEADS.ours.items() if head.fit is not None])
class TestHeads(HeadContract):
    @pytest.fixture(autouse=True)
    def _name(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.name = name
        # The published length, which no setting changes: on a dozen small slides a tenth of it, at ten times the rate.
        monkeypatch.setattr("parfocal.heads.abmil._EPOCHS", 10)
        monkeypatch.setattr("parfocal.heads.abmil._RATE", 1e-3)

    def make(self) -> RegisteredHead:
        return HEADS.get(self.name)


@pytest.mark.parametrize("name", OBJECTIVES.ours)
class TestObjectives(ObjectiveContract):
    @pytest.fixture(autouse=True)
    def _name(self, name: str) -> None:
        self.name = name

    def make(self) -> Objective:
        return OBJECTIVES.get(self.name)


@pytest.mark.parametrize("name", POLICIES.ours)
class TestPolicies(PolicyContract):
    @pytest.fixture(autouse=True)
    def _name(self, name: str) -> None:
        self.name = name

    def make(self) -> Policy:
        return bound(self.name, dim=6)
