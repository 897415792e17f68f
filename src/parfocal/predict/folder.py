"""The folder of a head, whatever it predicts: written whole or not at all, and every byte of its arrays checked.

head.safetensors   every array
head.html          the page for people
head.json          everything else, with the digest of the arrays; comes last and marks a whole head
model/             the region encoder, where the arm reads its embeddings
"""

import json
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from parfocal.errors import ConfigError, FormatVersionError, StoreError
from parfocal.files import check_permission, file_sha256
from parfocal.predict.facts import FORMAT_VERSION, AnyHeadFacts
from parfocal.version import __version__

Facts = TypeVar("Facts", bound=AnyHeadFacts)

_FACTS_FILE, _ARRAYS_FILE, _PAGE_FILE, _MODEL_FOLDER = "head.json", "head.safetensors", "head.html", "model"
_MODEL_FILES = ("config.json", "model.safetensors")


def write_folder(
    facts: Facts,
    arrays: Mapping[str, np.ndarray],
    model: Path | None,
    write_page: Callable[[Facts, Path], object],
    out: Path,
) -> Facts:
    """Write a head into a new folder; one that is there is replaced when the new one is whole.

    Args:
        facts: what is no array; its digest of the arrays is filled in here.
        arrays: by name.
        model: the folder of the region encoder.
        write_page: writes the page of the facts.
        out: the folder.

    Returns:
        The facts as they are in the folder.

    Raises:
        ConfigError: `out` is there and is no head.
    """
    if out.exists() and not (out / _FACTS_FILE).is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(f"cannot write a head to {out}: it is there and is no head. Name another folder.")
    token = secrets.token_hex(4)
    fresh, old = (out.with_name(f".{out.name}.{what}-{token}") for what in ("partial", "old"))
    try:
        fresh.mkdir(parents=True)
        # The format knows no strides; a copy in C order keeps an array without an axis as it is.
        # Not save_file, whose files only their owner can read.
        ordered = {name: np.array(array, order="C") for name, array in arrays.items()}
        (fresh / _ARRAYS_FILE).write_bytes(save(ordered))
        if model is not None:
            (fresh / _MODEL_FOLDER).mkdir()
            for name in _MODEL_FILES:
                shutil.copyfile(model / name, fresh / _MODEL_FOLDER / name)
        facts = facts.model_copy(update={"arrays_digest": file_sha256(fresh / _ARRAYS_FILE)})
        write_page(facts, fresh / _PAGE_FILE)
        content = json.dumps(facts.model_dump(mode="json"), indent=2, allow_nan=False)
        (fresh / _FACTS_FILE).write_text(content + "\n", encoding="utf-8")
        if out.exists():
            out.replace(old)
        fresh.replace(out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return facts


def is_head(path: Path) -> bool:
    """Whether a folder holds a head, of slides or of places."""
    return (path / _FACTS_FILE).is_file()


def is_place_head(path: Path) -> bool:
    """Whether a head predicts places inside slides, and not slides.

    Raises:
        StoreError: there is no head, or it is damaged.
        FormatVersionError: a newer parfocal wrote it.
    """
    return bool(read_content(path).get("kind") == "places")


def read_content(path: Path) -> dict[str, Any]:
    """What `head.json` says, unchecked but for its version.

    Raises:
        StoreError: there is none, or it is damaged.
        FormatVersionError: a newer parfocal wrote it.
    """
    file = path / _FACTS_FILE
    if not file.is_file():
        raise StoreError(f"there is no head at {path}: it has no {_FACTS_FILE}. Name a folder that `fit` has written.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        version = int(content["parfocal_head"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        check_permission(error, file)
        raise StoreError(f"cannot read {file}: it is damaged ({type(error).__name__}: {error}).") from error
    if version > FORMAT_VERSION:
        raise FormatVersionError(
            f"cannot read {file}: it has format {version}; this parfocal ({__version__}) reads up to {FORMAT_VERSION}. "
            "Install the parfocal that wrote it, or a newer one."
        )
    return dict(content)


def read_facts(path: Path, kind: type[Facts]) -> Facts:
    """The facts of a head, checked.

    Raises:
        StoreError: there is none, or it is damaged.
        FormatVersionError: a newer parfocal wrote it.
    """
    content = read_content(path)
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise StoreError(f"cannot read {path / _FACTS_FILE}: it is damaged ({place}: {first['msg']}).") from error


@contextmanager
def reading_arrays(path: Path, facts: AnyHeadFacts) -> Iterator[dict[str, np.ndarray]]:
    """The arrays of a head; whatever is made of them belongs into the block.

    Raises:
        StoreError: they are damaged, or what is made of them is.
    """
    file = path / _ARRAYS_FILE
    try:
        if file_sha256(file) != facts.arrays_digest:
            raise StoreError(f"cannot use the head {path}: {_ARRAYS_FILE} is not the file that {_FACTS_FILE} names.")
        yield load_file(file)
    except (OSError, KeyError, ValueError, TypeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        check_permission(error, file)
        raise StoreError(f"cannot use the head {path}: it is damaged ({reason}). Copy or fit it again.") from error


def model_folder(path: Path, facts: AnyHeadFacts) -> Path | None:
    """The folder of a head's region encoder; None where it has none.

    Raises:
        StoreError: a file of it is absent.
    """
    if facts.model is None:
        return None
    model = path / _MODEL_FOLDER
    lost = [name for name in _MODEL_FILES if not (model / name).is_file()]
    if lost:
        raise StoreError(f"cannot use the head {path}: its {_MODEL_FOLDER}/{lost[0]} is absent. Copy it again.")
    return model
