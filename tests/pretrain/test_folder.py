"""A folder belongs to one run; a curve goes on where the point to resume from was; nothing pickled of ours is kept."""

import json
from pathlib import Path

import pytest
import torch

from parfocal.errors import MismatchError, StoreError
from parfocal.pretrain.metrics import MetricsFile, metric_columns, read_metrics
from parfocal.pretrain.setup import RunFolder


def test_another_run_is_refused_with_the_difference(tmp_path: Path) -> None:
    assert not RunFolder(tmp_path / "m", {"settings": {"lr": 1e-3, "seed": 0}, "set": {"slides": {"a": 3}}}).claim()
    assert not RunFolder(tmp_path / "m", {"settings": {"lr": 1e-3, "seed": 0}, "set": {"slides": {"a": 3}}}).claim()

    with pytest.raises(MismatchError, match=r"settings lr=0\.001, now it is 0\.01\. Choose another folder"):
        RunFolder(tmp_path / "m", {"settings": {"lr": 1e-2, "seed": 0}, "set": {"slides": {"a": 3}}}).claim()
    with pytest.raises(MismatchError, match=r"set slides b=None, now it is 4"):
        RunFolder(tmp_path / "m", {"settings": {"lr": 1e-3, "seed": 0}, "set": {"slides": {"a": 3, "b": 4}}}).claim()


def test_a_model_of_another_origin_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")

    with pytest.raises(StoreError, match="was not trained there"):
        RunFolder(tmp_path, {}).claim()


def test_a_run_is_finished_when_the_model_says_how_it_came_about(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, {"settings": {}})
    folder.claim()
    folder.save({"step": 3})
    (tmp_path / "config.json").write_text(json.dumps({"width": 8}))
    assert not folder.claim()

    folder.finish({"steps": 3})
    assert folder.claim()
    assert json.loads((tmp_path / "config.json").read_text()) == {"width": 8, "pretraining": {"steps": 3}}
    assert folder.load() is None


def test_the_point_to_resume_from_comes_back_and_damage_is_said(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, {})
    state = {"step": 7, "tensors": {"w": torch.arange(3.0)}, "said": ["x"], "peak": {"a": 1.5}}
    folder.save(state)

    loaded = folder.load()
    assert loaded is not None
    assert torch.equal(loaded.pop("tensors")["w"], torch.arange(3.0))
    assert loaded == {"step": 7, "said": ["x"], "peak": {"a": 1.5}}
    folder.resume.write_bytes(folder.resume.read_bytes()[:100])
    with pytest.raises(StoreError, match="damaged"):
        folder.load()


def test_a_pickle_is_not_loaded(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, {})
    torch.save({"path": tmp_path}, folder.resume)

    with pytest.raises(StoreError, match="damaged"):
        folder.load()


def test_the_curve_is_cut_at_a_step_and_half_a_row_goes(tmp_path: Path) -> None:
    columns = metric_columns((2.0, 0.5))
    curve = MetricsFile(tmp_path / "metrics.csv", columns)
    curve.cut(0)
    for step in (10.0, 20.0, 30.0):
        curve.append({"step": step, "loss": 0.1 + step, "r2_0.5": float("nan")})
    with curve.path.open("a") as file:
        file.write("2")

    curve.cut(20)
    assert read_metrics(curve.path) == [{"step": 10, "loss": 10.1}, {"step": 20, "loss": 20.1}]
    curve.append({"step": 30.0, "r2_whole_0.5": 0.25})
    assert read_metrics(curve.path)[-1] == {"step": 30, "r2_whole_0.5": 0.25}
    assert curve.path.read_text().splitlines()[0] == ",".join(columns)
