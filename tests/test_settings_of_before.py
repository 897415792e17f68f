"""A setting that goes is understood with a notice that says what it is called now, and when it goes."""

import pytest

from parfocal.cli import main
from parfocal.cohort import LabelColumns
from parfocal.errors import ParfocalDeprecationWarning
from parfocal.lab.explore.run import ExploreSettings
from parfocal.pretrain import PretrainSettings


def test_devices_are_called_device() -> None:
    with pytest.warns(ParfocalDeprecationWarning, match=r"devices is called device now; .* version 0\.3"):
        assert PretrainSettings.model_validate({"devices": 2}).device == ("cuda:0", "cuda:1")
    with pytest.warns(ParfocalDeprecationWarning, match="Both are there, and device counts"):
        assert PretrainSettings.model_validate({"devices": 1, "device": "cpu"}).device == ("cpu",)
    with pytest.warns(ParfocalDeprecationWarning, match="devices is called device now"):
        assert ExploreSettings.model_validate({"devices": ["cuda:0", "cpu"]}).device == ("cuda:0", "cpu")


def test_threads_that_read_ahead_are_no_workers() -> None:
    with pytest.warns(ParfocalDeprecationWarning, match=r"workers is called read_threads now; .* version 0\.3"):
        assert PretrainSettings.model_validate({"workers": 3}).read_threads == 3


def test_the_column_of_slides_is_called_as_its_flag() -> None:
    with pytest.warns(ParfocalDeprecationWarning, match=r"slide is called slide_column now; .* version 0\.3"):
        assert LabelColumns.model_validate({"slide": "id"}).slide_column == "id"


@pytest.mark.parametrize(
    ("command", "old", "new"),
    [
        ("pretrain", "--workers", "--read-threads"),
        ("pretrain", "--devices", "--device"),
        ("explore", "--devices", "--device"),
    ],
)
def test_an_option_under_its_old_name_is_told(
    command: str, old: str, new: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "nowhere", *(["nowhere"] if command == "explore" else []), "-o", "out", old, "1"]) in (1, 2)

    first, last = capsys.readouterr().err.splitlines()
    assert first == f"parfocal {command}: {old} is called {new} now; the old name goes with version 0.3."
    assert "nowhere" in last
