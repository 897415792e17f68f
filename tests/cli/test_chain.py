"""The commands, one after the other, on real slides: what a new user does on the first day."""

import json
from pathlib import Path

import numpy as np
import pytest

from parfocal.cli import COMMANDS, main
from parfocal.store import open_set

ENCODER = '''
import numpy as np

def colours(tiles):
    """Mean and spread of each colour, in the four quarters of a tile: enough to be embedded, and quick."""
    pixels = tiles[:, ::4, ::4].astype(np.float32)
    quarters = pixels.reshape(len(tiles), 2, 28, 2, 28, 3)
    return np.stack([quarters.mean((2, 4)), quarters.std((2, 4))], 1).reshape(len(tiles), -1)
'''


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chain")
    (folder / "colours.py").write_text(ENCODER)
    return folder


@pytest.fixture(scope="module")
def store(workplace: Path, real_data: Path) -> Path:
    """The three real slides, embedded in one call; the one without a resolution is given it in a second call."""
    spec = f"python:{workplace / 'colours.py'}:colours"
    out = workplace / "store"
    how = ["-o", str(out), "--encoder", spec, "--mpps", "4", "2", "--region-um", "896", "--workers", "0"]
    assert main(["embed", str(real_data / "slides"), *how]) == 3
    tcga = real_data / "slides" / "tcga-cr-7395-01a-01-ts1.svs"
    assert (out / "failures.csv").read_text().count("--slide-mpp") == 1
    assert main(["embed", str(tcga), *how, "--slide-mpp", "0.5"]) == 0
    return out


def test_a_slide_without_a_resolution_does_not_stop_the_others_and_can_be_told_it(store: Path) -> None:
    tiles = open_set(store)

    assert tiles.slides == ("cmu-1-small-region", "colon-he-section", "tcga-cr-7395-01a-01-ts1")
    assert not (store / "failures.csv").exists()
    assert all(min(tiles.n_tiles(slide).values()) > 0 for slide in tiles.slides)


def test_pretrain_and_represent_run_on_real_slides(
    store: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, regions = workplace / "model", workplace / "regions"
    quick = ["--size", "T", "--steps", "6", "--batch", "16", "--monitor-every", "3", "--device", "cpu"]
    assert main(["pretrain", str(store), "-o", str(model), *quick]) == 0
    assert "held-out R2" in capsys.readouterr().out
    assert (
        main(["represent", str(store), "--model", str(model), "-o", str(regions), "--readouts", "cls", "tokens"]) == 0
    )
    printed = capsys.readouterr().out.splitlines()

    made = [open_set(Path(line.split(": ")[0])) for line in printed]
    cls, tokens = (next(one for one in made if one.kind == kind) for kind in ("regions", "tiles"))
    tiles = open_set(store)
    for slide in tiles.slides:
        assert cls.n_regions(slide) == tiles.n_regions(slide)
        assert tokens.n_tiles(slide) == tiles.n_tiles(slide)
        assert np.isfinite(cls.read_regions(slide).features.astype(np.float32)).all()


def test_inspect_describes_all_slides_and_says_what_is_missing(
    real_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["inspect", str(real_data / "slides"), "--json", "--workers", "0"])
    cmu, colon, tcga = json.loads(capsys.readouterr().out)

    assert status == 3
    assert (colon["mpp"], colon["width_px"], colon["problem"]) == (0.5, 15360, None)
    assert cmu["mpp"] == pytest.approx(0.499)
    assert tcga["mpp"] is None
    assert "--slide-mpp" in tcga["problem"]


def test_a_dry_run_writes_nothing(workplace: Path, real_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = workplace / "nothing"
    call = ["embed", str(real_data / "slides" / "cmu-1-small-region.svs"), "-o", str(out), "--encoder", "filterbank"]
    assert main([*call, "--dry-run", "--json", "--workers", "0"]) == 0
    plan = json.loads(capsys.readouterr().out)

    assert not out.exists()
    # A region that lies mostly beyond the edge has no tile of its own size.
    assert plan["slides"][0]["regions"] >= plan["tiles"]["2"] > 0
    assert plan["bytes"] > 0
    assert plan["seconds"] > 0


def test_embed_without_an_encoder_lists_what_there_is(
    workplace: Path, real_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["embed", str(real_data / "slides"), "-o", str(workplace / "x")])
    told = capsys.readouterr().err

    assert status == 2
    assert "filterbank" in told
    assert "virchow2" in told
    assert not (workplace / "x").exists()


def test_an_error_is_one_line_without_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["represent", str(tmp_path / "no-store"), "--model", "m", "-o", str(tmp_path / "out")])
    told = capsys.readouterr().err

    assert status == 1
    assert len(told.strip().splitlines()) == 1
    assert "no-store" in told


def test_an_unknown_command_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embedd"]) == 2
    assert "embed" in capsys.readouterr().err


def test_the_overview_has_every_command_and_its_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    overview = capsys.readouterr().out

    assert all(name in overview and line in overview for name, line in COMMANDS.items())


def test_an_output_that_cannot_be_written_is_one_line_before_the_work(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "labels.csv").write_text("slide,y\n" + "".join(f"s{n},{n % 2}\n" for n in range(8)))
    evaluation = ["evaluate", str(store), "--labels", str(tmp_path / "labels.csv"), "--target", "y", "--group", "slide"]
    training = ["pretrain", str(store), "--device", "cpu", "--size", "T"]
    for call in (evaluation, training):
        capsys.readouterr()
        assert main([*call, "-o", str(tmp_path / "file")]) == 1
        told = capsys.readouterr().err.strip().splitlines()
        assert "file" in told[-1]
        assert len(told) == 1


def test_a_wrong_value_of_a_flag_says_what_would_be_right(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["inspect", str(store), "--mpps", "0.75", "1.5"])
    told = capsys.readouterr().err

    assert ended.value.code == 2
    assert "multiple of" in told
    assert "input_value" not in told
    assert "errors.pydantic.dev" not in told
