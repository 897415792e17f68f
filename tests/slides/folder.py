"""Folders of empty files, for tests of what is found in them."""

from pathlib import Path

from parfocal.slides import SlideSource


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def ids(sources: list[SlideSource]) -> list[str]:
    return [source.slide for source in sources]
