"""Jobs in threads and in processes, and what becomes of one that fails."""

import errno
import threading
from contextlib import closing
from pathlib import Path

import pytest

from parfocal.errors import ConfigError, ParfocalError
from parfocal.run.failures import Failed, FailedSlide
from parfocal.run.jobs import attempt, attempt_slides, each_in_process, each_in_thread
from parfocal.slides import SlideSource


def test_nobody_waits_for_a_job_that_is_at_work_when_the_others_are_left() -> None:
    gate, begun = threading.Event(), []

    def work(number: int) -> int:
        begun.append(number)
        if number == 1:
            gate.wait(60)
        return number

    with closing(each_in_thread(range(50), work, threads=2)) as results:
        next(results)
    at_work = len(begun)
    gate.set()
    while any(thread.name.startswith("parfocal-job") for thread in threading.enumerate()):
        threading.Event().wait(0.01)

    assert len(begun) <= at_work + 1


def test_what_a_job_in_a_thread_raises_is_raised_and_all_others_are_handed_out() -> None:
    def work(number: int) -> float:
        return 1 / number

    assert dict(each_in_thread([1, 2, 4], work, threads=2)) == {1: 1.0, 2: 0.5, 4: 0.25}
    with pytest.raises(ZeroDivisionError):
        list(each_in_thread([1, 0], work, threads=2))
    with pytest.raises(IndexError):
        list(each_in_thread([1, 0], [].__getitem__, threads=1))


def _halved(number: int) -> float:
    return 2 / number


def test_jobs_in_processes_give_what_they_give_here() -> None:
    assert dict(each_in_process([1, 2, 4], _halved, workers=2)) == dict(each_in_process([1, 2, 4], _halved, workers=1))
    with pytest.raises(ParfocalError, match="ZeroDivisionError: division by zero"):
        list(each_in_process([1, 0], _halved, workers=2))


def test_whatever_a_job_raises_is_its_failure_except_what_passes_and_a_stop() -> None:
    def fails(error: BaseException) -> None:
        error.add_note("on slide 3")
        raise error

    failed = attempt(lambda: fails(KeyError("a\n b")))
    assert isinstance(failed, Failed)
    assert str(failed) == "KeyError: 'a\\n b' (on slide 3)"
    assert "fails" in failed.traceback
    for error in (ConfigError("no"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            attempt(lambda error=error: fails(error), passing=(ConfigError,))


def test_after_a_slide_without_space_no_other_is_tried(tmp_path: Path) -> None:
    tried = []

    def job(source: SlideSource) -> str:
        tried.append(source.slide)
        if source.slide == "b":
            raise ValueError("an odd slide")
        if source.slide == "c":
            raise OSError(errno.ENOSPC, "No space left on device")
        return source.slide.upper()

    outcomes = list(attempt_slides([SlideSource(name, Path(name)) for name in "abcde"], job, writes_to=tmp_path))

    assert tried == ["a", "b", "c"]
    assert outcomes[0] == "A"
    failed = [one for one in outcomes if isinstance(one, FailedSlide)]
    assert [one.error for one in failed] == ["ValueError", "DiskFull", "NotTried", "NotTried"]
    assert [one.seconds is None for one in failed] == [False, False, True, True]
