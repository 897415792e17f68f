"""How long each stage of a study took, kept beside its results."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parfocal.errors import StoreError
from parfocal.provenance import writing
from parfocal.studies.chain.stages import Made

__all__ = ["StageClock"]


@dataclass
class StageClock:
    """Wall-clock seconds of each stage; a rerun that finds a stage done tells what it took when it was done.

    Attributes:
        file: where they are kept.
        seconds: by the stage's name, in the order in which they ran.
    """

    file: Path
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, stage: str, work: Callable[[], Made]) -> Made:
        """Do a stage and note the time; a time is kept only for the same result."""
        started = time.monotonic()
        made = work()
        seconds = round(time.monotonic() - started, 2)
        known = self._read()
        before = known.get(stage, {})
        if not made.worked and before.get("result") == made.result:
            seconds = float(before["seconds"])
        else:
            known[stage] = {"result": made.result, "seconds": seconds}
            with writing(self.file) as temporary:
                temporary.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
        self.seconds[stage] = seconds
        return made

    def _read(self) -> dict[str, Any]:
        if not self.file.is_file():
            return {}
        try:
            return dict(json.loads(self.file.read_text(encoding="utf-8")))
        except ValueError as error:
            raise StoreError(
                f"cannot read {self.file}: it is damaged ({error}). Remove it; it holds nothing but times."
            ) from error
