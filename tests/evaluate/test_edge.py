"""A network that might have done better with more training than it was offered is named wherever results are."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from parfocal.cli import main
from parfocal.store import SlideTokens, create_set, write_tokens

SLIDES, REGIONS, DIM, MPP = 20, 4, 6, 0.5


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A label that every region shows."""
    rng = np.random.default_rng(0)
    path = create_set(
        tmp_path / "store", "toy-00000000", "tiles", region_um=112.0, dims={MPP: DIM},
        settings={"encoder": "toy"}, encoder_digests={MPP: "aa"}, tile_px=224,
    )  # fmt: skip
    corner = 112.0 * np.stack([np.arange(REGIONS), np.zeros(REGIONS)], axis=1)
    for slide in range(SLIDES):
        rows = rng.standard_normal((REGIONS, DIM)).astype(np.float32) + 2 * (slide % 2)
        place = {MPP: np.arange(REGIONS, dtype=np.int32)}, {MPP: np.zeros((REGIONS, 2), dtype=np.float32)}
        write_tokens(path, SlideTokens(f"s{slide:02d}", 112.0, MPP, corner, {MPP: rows}, *place))
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("slide", "y"), *((f"s{n:02d}", "ab"[n % 2]) for n in range(SLIDES))])
    return tmp_path / "store"


def call(store: Path, out: Path, *more: str) -> list[str]:
    flags = [
        "--labels",
        str(store.parent / "labels.csv"),
        "--target",
        "y",
        "-o",
        str(out),
        "--arms",
        "gated-attention",
        "mean",
    ]
    return ["evaluate", str(store), *flags, "--folds", "2", "--repeats", "1", "--components", "2", *more]


def test_page_terminal_and_json_name_a_network_that_wanted_to_train_longer(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--attention-steps", "4", "--growth", "1", "--attention-rate", "0.003"]
    assert main(call(store, tmp_path / "few", *few)) == 0
    said = capsys.readouterr().err
    page = (tmp_path / "few" / "report.html").read_text()
    target = json.loads((tmp_path / "few" / "results.json").read_text())["targets"]["y"]

    note = "Chose the most training steps that were offered"
    assert note in said
    assert note in page
    assert "gated attention (" in target["most_steps_chosen"]
    assert {arm["pooling"]: arm["folds_with_most_steps"] for arm in target["arms"]}["gated attention"] > 0

    # So does a head, where it is fitted.
    head = ["fit", *call(store, tmp_path / "head", *few)[1:]]
    at = head.index("--arms")
    assert main([*head[:at], "--arm", "0.5/gated-attention", *head[at + 3 :]]) == 0
    assert "it chose the most training steps that it was offered" in capsys.readouterr().err

    # The twin: a rate so high that the first steps are the best says nothing.
    many = ["--attention-steps", "32", "--growth", "2", "--attention-rate", "0.3"]
    assert main(call(store, tmp_path / "many", *many)) == 0
    assert note not in capsys.readouterr().err
    assert note not in (tmp_path / "many" / "report.html").read_text()
    target = json.loads((tmp_path / "many" / "results.json").read_text())["targets"]["y"]
    assert target["most_steps_chosen"] is None
