"""The model's folder: whose run it is, where the run can go on, and what is there when it is finished.

run.json           settings and data of the run, from its start; another run is refused
resume.pt          the point to go on from; removed at the end
metrics.csv        the curve
model.safetensors  and config.json: the model; config.json comes last and marks a finished run
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from parfocal.errors import MismatchError, StoreError
from parfocal.provenance import canonical_json, check_permission, writing
from parfocal.region_encoder.checkpoint import FINISHED
from parfocal.version import __version__

__all__ = ["RunFolder"]


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    Attributes:
        path: where it is.
        identity: settings and data, as plain values: what decides which model comes out.
    """

    path: Path
    identity: Mapping[str, Any]

    @property
    def metrics(self) -> Path:
        """The curve."""
        return self.path / "metrics.csv"

    @property
    def resume(self) -> Path:
        """The point to go on from."""
        return self.path / "resume.pt"

    def claim(self) -> bool:
        """Make the folder ours; whether the run is finished already.

        Raises:
            MismatchError: the folder holds a run with other settings or data; the message names the first difference.
            StoreError: the folder holds a model of another origin.
        """
        file = self.path / "run.json"
        if file.is_file():
            found = _read_json(file).get("identity", {})
            ours = json.loads(canonical_json(dict(self.identity)))
            differences = _differences(found, ours)
            if differences:
                raise MismatchError(
                    f"cannot pretrain into {self.path}: it holds a run with {differences[0]}"
                    + (f" (and {len(differences) - 1} other differences)" if len(differences) > 1 else "")
                    + ". Choose another folder, or remove this one."
                )
        elif (self.path / "config.json").is_file():
            raise StoreError(
                f"cannot pretrain into {self.path}: it holds a model that was not trained there. Choose another folder."
            )
        else:
            with writing(file) as temporary:
                content = {"parfocal_version": __version__, "identity": self.identity}
                temporary.write_text(json.dumps(content, indent=2, sort_keys=True))
        config = self.path / "config.json"
        return config.is_file() and FINISHED in _read_json(config)

    def save(self, state: Mapping[str, Any]) -> None:
        """Keep a point to resume from: tensors and plain values only, written whole or not at all."""
        with writing(self.resume) as temporary:
            torch.save(dict(state), temporary)

    def load(self) -> dict[str, Any] | None:
        """The point to resume from, if there is one.

        Raises:
            StoreError: the file is damaged.
        """
        if not self.resume.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(self.resume, map_location="cpu", weights_only=True)
        except Exception as error:  # of a crafted file the unpickler may raise anything
            check_permission(error, self.resume)
            raise StoreError(
                f"cannot resume from {self.resume}: it is damaged, or parfocal did not write it. "
                "Remove the folder to start again."
            ) from error
        return state

    def finish(self, entries: Mapping[str, Any]) -> None:
        """Add how the model came about to its config.json, which marks the run as finished, and drop the rest."""
        file = self.path / "config.json"
        content = _read_json(file) | {FINISHED: dict(entries)}
        with writing(file) as temporary:
            temporary.write_text(json.dumps(content, indent=2, sort_keys=True))
        self.resume.unlink(missing_ok=True)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read {file}: {error}. Choose another folder.") from error
    return content if isinstance(content, dict) else {}


def _differences(found: Any, ours: Any, name: str = "") -> list[str]:
    if isinstance(found, dict) and isinstance(ours, dict):
        names = sorted({*found, *ours})
        return [line for key in names for line in _differences(found.get(key), ours.get(key), f"{name}{key} ")]
    if found == ours:
        return []
    return [f"{name.strip()}={_short(found)}, now it is {_short(ours)}"]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
