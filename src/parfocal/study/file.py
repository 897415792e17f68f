"""A study file: the whole chain, from slides or features to the comparison that was named before looking."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from parfocal.config import first_problem, read_yaml
from parfocal.encoders.spec import parse_spec
from parfocal.errors import ConfigError, EncoderError
from parfocal.study.settings import Study

_PACKAGED = Path(__file__).parent
_SOURCES = ("slides", "features", "store")
# Sections that may be written as their most important key alone.
_IN_SHORT = {"slides": "paths", "features": "paths", "labels": "file"}


def packaged_studies() -> tuple[str, ...]:
    """The names of the studies that come with parfocal."""
    return tuple(sorted(file.stem for file in _PACKAGED.glob("*.yaml")))


def read_study(path: Path | str, overrides: Mapping[str, Any] | None = None) -> Study:
    """The study in a YAML file, its paths made absolute.

    Args:
        path: the file, or the name of a study that comes with parfocal.
        overrides: values to take as if they stood in the file, by their place in it, such as `models.mem.steps`, one
            after the other. Paths in the file are relative to it, paths in here to the working folder. A source of
            tiles that is named here (`slides`, `features`, `store`) takes the place of the file's. Of a study that
            comes with parfocal they have to name its slides and labels; None takes it as it stands.

    Raises:
        ConfigError: the file cannot be read, or it is no study; the text names the file and the place in it.
    """
    file = _find(Path(path))
    content = read_yaml(file, "study")
    try:
        content = _rooted(content, file.resolve().parent)
        for place, value in (overrides or {}).items():
            _set(content, place, value)
        study = Study.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{file}: {first_problem(error)}") from error
    except EncoderError as error:
        raise ConfigError(f"{file}: encoder: {error}") from error
    if file.parent == _PACKAGED and overrides is not None:
        _check_cohort_is_named(file.stem, overrides)
    return study


def _find(path: Path) -> Path:
    if path.exists():
        return path
    packaged = _PACKAGED / f"{path}.yaml"
    if path.parent == Path() and packaged.is_file():
        return packaged
    names = ", ".join(packaged_studies())
    raise ConfigError(f"cannot find the study {path}: there is no such file, and parfocal comes with {names}.")


def _check_cohort_is_named(name: str, overrides: Mapping[str, Any]) -> None:
    """Raise where a study that comes along would be run on the places that only stand for a user's own."""
    places = {place.removesuffix(".paths") for place in overrides}
    flags = {"--slides": places & set(_SOURCES), "--labels": places & {"labels", "labels.file"}}
    absent = [flag for flag, said in flags.items() if not said]
    if absent:
        raise ConfigError(
            f"the study {name} comes with parfocal and without a cohort; {' and '.join(absent)} must be given: "
            f"parfocal study {name} --slides scans/ --labels labels.csv --target COLUMN."
        )


def _rooted(content: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The same with every path absolute; what is no path where one is expected is left for the check of the keys."""
    places: dict[str, Callable[[Any], Any]] = {
        "slides": lambda value: _each(value, folder, ("paths",)),
        "features": lambda value: _each(value, folder, ("paths", "slides")),
        "store": lambda value: _absolute(value, folder),
        "labels": lambda value: (
            _each(value, folder, ("file", "splits")) if isinstance(value, Mapping) else _absolute(value, folder)
        ),
        "test": lambda value: _rooted(value, folder) if isinstance(value, Mapping) else value,
        "encoder": lambda value: _encoder(value, folder),
    }
    return {key: places[key](value) if key in places else value for key, value in content.items()}


def _each(value: Any, folder: Path, keys: tuple[str, ...]) -> Any:
    if isinstance(value, Mapping):
        return {key: _absolute(own, folder) if key in keys else own for key, own in value.items()}
    return _absolute(value, folder)


def _absolute(value: Any, folder: Path) -> Any:
    if isinstance(value, (list, tuple)):
        return [_absolute(one, folder) for one in value]
    return str(folder / value) if isinstance(value, (str, Path)) else value


def _encoder(value: Any, folder: Path) -> Any:
    """A spec with the paths in it made absolute: of a program, of a Python file, of weights."""
    if isinstance(value, Mapping):
        return {mpp: _encoder(spec, folder) for mpp, spec in value.items()}
    if not isinstance(value, str) or not value or value[:1].isdigit():
        return value
    spec = parse_spec(value)
    paths = [spec.options.get("checkpoint", "")]
    if spec.kind == "file":
        paths.append(spec.target)
    if spec.kind == "python" and ".py:" in spec.target:
        paths.append(spec.target.rpartition(":")[0])
    for path in paths:
        if path:
            value = value.replace(path, str(folder / path), 1)
    return value


def _set(content: dict[str, Any], place: str, value: Any) -> None:
    """Write a value over what stands at a place; a source of tiles takes the place of the file's."""
    section, *rest = place.split(".")
    if section in _SOURCES and rest in ([], ["paths"]) and value is not None:
        for other in {*_SOURCES, "encoder"} - {section}:
            if other != "encoder" or section != "slides":
                content.pop(other, None)  # features and stores bring their own encoder
    changes: Any = value
    for name in reversed((section, *rest)):
        changes = {name: changes}
    changes = _rooted(changes, Path.cwd())
    inside: dict[str, Any] = content
    for name in (section, *rest)[:-1]:
        changes = changes[name]
        # What was written in short, such as `slides: scans/`, is written in full, so that more can stand beside it.
        before = inside.get(name)
        if before is not None and not isinstance(before, Mapping) and name in _IN_SHORT:
            alone = _IN_SHORT[name] == "paths" and isinstance(before, (str, Path))
            before = {_IN_SHORT[name]: [before] if alone else before}
        inside[name] = dict(before) if isinstance(before, Mapping) else {}
        inside = inside[name]
    last = place.rpartition(".")[2]
    inside[last] = changes[last]
