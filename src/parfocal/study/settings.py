"""A study file: what it may say, section by section; every key is checked before anything is run."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from parfocal.addresses import below
from parfocal.bags import DECODED, RepresentChoices, RepresentSettings
from parfocal.budget import BudgetChoices
from parfocal.cohort import CohortColumns, Target, TargetSettings
from parfocal.config import GridConfig, Settings, first_problem, read_yaml
from parfocal.embed.settings import EmbedSettings, RowChoices, SlideReading
from parfocal.encoders.loading import parse_spec
from parfocal.errors import ConfigError, EncoderError
from parfocal.evaluate.places import PlaceQuestion
from parfocal.evaluate.run import ELSEWHERE, EvaluateSettings
from parfocal.geometry import format_mpp
from parfocal.pretrain import PretrainSettings
from parfocal.run.executors import RunsSlides
from parfocal.store import FeatureSettings

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+-]*( [A-Za-z0-9_+-]+)*")


class SlidePaths(SlideReading):
    """Slides to embed."""

    paths: tuple[Path, ...] = Field(min_length=1, description="Slide files, folders of them, or manifests.")


class FeaturePaths(FeatureSettings):
    """Features that another tool has extracted, to be indexed."""

    paths: tuple[Path, ...] = Field(
        min_length=1, description="TRIDENT job folders, or one folder of HDF5 files for each magnification."
    )


class CohortSource(Settings):
    """Where the tile embeddings of a cohort come from: exactly one of three."""

    slides: SlidePaths | None = Field(None, description="Slides to embed.")
    features: FeaturePaths | None = Field(None, description="Features to index.")
    store: Path | None = Field(None, description="A store of tile embeddings, or one set of it, as it is.")

    @field_validator("slides", "features", mode="before")
    @classmethod
    def _paths_alone(cls, value: Any) -> Any:
        """`slides: scans/` and `slides: [a/, b.csv]` say the same as `slides: {paths: ...}`."""
        if isinstance(value, (str, Path)):
            return {"paths": [value]}
        return {"paths": value} if isinstance(value, (list, tuple)) else value

    @model_validator(mode="after")
    def _one_source(self) -> "CohortSource":
        named = [name for name in ("slides", "features", "store") if getattr(self, name) is not None]
        if len(named) != 1:
            found = " and ".join(named) or "none"
            raise ValueError(f"name exactly one of slides, features and store; found is {found}.")
        return self


class Labels(CohortColumns):
    """What is to be predicted."""

    file: Path = Field(description="A CSV or a workbook with a column of slides, the targets and the group.")
    splits: Path | None = Field(None, description="Folds of an earlier run, to use again.")
    targets: dict[str, TargetSettings] = Field(min_length=1, description="Columns to predict, with what each holds.")

    @field_validator("targets", mode="before")
    @classmethod
    def _names_alone(cls, value: Any) -> Any:
        """`targets: [msi, grade]` says the same as `targets: {msi: {}, grade: {}}`."""
        if isinstance(value, str):
            return {value: {}}
        if isinstance(value, (list, tuple)):
            return {str(name): {} for name in value}
        return {name: {} if own is None else own for name, own in value.items()} if isinstance(value, dict) else value

    @property
    def named_targets(self) -> tuple[Target, ...]:
        """The targets as the evaluation takes them."""
        return tuple(Target(name=name, **target.model_dump()) for name, target in self.targets.items())

    @property
    def columns(self) -> CohortColumns:
        """The columns beside the targets, as the evaluation takes them."""
        return CohortColumns(**self.model_dump(include=set(CohortColumns.model_fields)))


class PlaceTargets(PlaceQuestion):
    """What is to be predicted at places inside slides."""

    file: Path = Field(
        description="A table with slide, x_um, y_um (or x_px, y_px) and the targets, an .h5ad with obsm['spatial'], or "
        "GeoJSON areas with classes."
    )
    targets: tuple[str, ...] = Field(("all",), min_length=1, description="Columns to predict; all is every one.")
    group: str | None = Field(
        None, description="Column that says which slides stay together, such as the patient; none takes the slide."
    )

    @field_validator("targets", mode="before")
    @classmethod
    def _one_alone(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class BudgetSection(BudgetChoices):
    """How few fine tiles are enough, in the folds of the evaluation."""

    targets: tuple[str, ...] = Field(
        (), description="Targets of the labels that budgets are compared for; none takes all of two classes."
    )

    @field_validator("targets", mode="before")
    @classmethod
    def _one_alone(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class TestCohort(CohortSource):
    """A cohort that nothing is fitted, chosen or pretrained on."""

    labels: Path = Field(description="A CSV with the same columns.")


class TileSettings(RowChoices):
    """How tiles become rows, beside the grid and the encoder."""

    batch: int = Field(64, gt=0, description="How many tiles the encoder gets at once.")


class RunSettings(RunsSlides):
    """Where and with how much a study runs; nothing of it changes a result but in the last bits."""

    device: str = Field("auto", description="Where networks run: auto (a GPU where there is one), cpu, cuda:1, mps.")
    workers: int = Field(
        1, ge=0, description="Slides that are embedded at a time, each in a process of its own; 0 uses this process."
    )


class Study(CohortSource):
    """The content of a study file."""

    title: str = Field("", description="What it is about; stands over the stages in the report.")
    grid: GridConfig = Field(GridConfig(), description="How a slide is cut into regions and tiles.")
    encoder: str = Field("", description="The tile encoder, or one for each magnification: {0.5: SPEC, 2: SPEC}.")
    tiles: TileSettings = Field(TileSettings(), description="How tiles become rows.")
    pretraining: PretrainSettings = Field(PretrainSettings(), description="What all models share.")
    models: dict[str, PretrainSettings] = Field({}, description="Region encoders: a name, and what is its own.")
    readouts: tuple[RepresentChoices, ...] = Field(
        (RepresentChoices(readouts=("cls", "tokens")),),
        description="What is taken from every model: words, and where a model shall be given less than the store has "
        "{readouts: [decoded], read_mpps: [2], predict_mpp: 0.5}.",
    )
    finetune: tuple[str, ...] = Field((), description="Models that are trained on in every fold as well; slow.")
    labels: Labels | None = Field(None, description="What is to be predicted of slides.")
    places: PlaceTargets | None = Field(None, description="In place of labels, what is to be predicted inside slides.")
    evaluation: EvaluateSettings = Field(EvaluateSettings(), description="How arms are compared.")
    budget: BudgetSection | None = Field(None, description="How few fine tiles are enough; left out without it.")
    test: TestCohort | None = Field(None, description="An external cohort.")
    run: RunSettings = Field(RunSettings(), description="Where it runs.")

    @field_validator("encoder", mode="before")
    @classmethod
    def _one_for_each(cls, value: Any) -> Any:
        """`{0.5: a, 2: b}` says the same as `0.5=a,2=b`."""
        if isinstance(value, Mapping):
            return ",".join(f"{mpp}={spec}" for mpp, spec in value.items())
        return value

    @field_validator("places", mode="before")
    @classmethod
    def _file_alone(cls, value: Any) -> Any:
        """`places: spots.csv` says the same as `places: {file: spots.csv}`."""
        return {"file": value} if isinstance(value, (str, Path)) else value

    @field_validator("readouts", mode="before")
    @classmethod
    def _words_alone(cls, value: Any) -> Any:
        """`[cls, tokens]` says the same as `[{readouts: [cls, tokens]}]`."""
        if isinstance(value, (str, Mapping)):
            value = [value]
        if not isinstance(value, (list, tuple)):
            return value
        words = [one for one in value if isinstance(one, str)]
        return [*([{"readouts": words}] if words else []), *(one for one in value if not isinstance(one, str))]

    @model_validator(mode="before")
    @classmethod
    def _shared_by_models(cls, content: Any) -> Any:
        """Give every model what `pretraining` says, where it does not say otherwise itself."""
        if not isinstance(content, dict) or not isinstance(content.get("models"), dict):
            return content
        shared = content.get("pretraining") or {}
        if not isinstance(shared, dict):
            return content
        models = {
            name: {**shared, **(own or {})} if own is None or isinstance(own, dict) else own
            for name, own in content["models"].items()
        }
        return {**content, "models": models}

    @model_validator(mode="after")
    def _one_question(self) -> "Study":
        if (self.labels is None) == (self.places is None):
            found = "both are there" if self.labels is not None else "neither is there"
            raise ValueError(f"name labels of slides, or places inside slides with their targets; {found}.")
        if self.places is not None:
            if self.grid.overlaps:
                raise ValueError("places say where regions lie, so grid.stride_um would do nothing. Leave it out.")
            probes = {f"probes.{name}" for name in self.evaluation.probes.changed().keys() - _PROBES_AT_PLACES}
            others = {f"evaluation.{name}" for name in self.evaluation.changed().keys() - {"folds", "arms", "probes"}}
            of_slides = [name for name in ("test", "finetune", "budget") if getattr(self, name)]
            of_slides += sorted({f"evaluation.{name}" for name in probes} | others)
            if of_slides:
                raise ValueError(
                    f"{of_slides[0]} is about labels of slides, and this study is about places. Leave it out."
                )
        return self

    @model_validator(mode="after")
    def _fit_together(self) -> "Study":
        if self.slides is not None and not self.encoder:
            raise ValueError("slides need an encoder: name one, such as filterbank or virchow2.")
        if self.slides is None and self.encoder:
            raise ValueError("an encoder is for slides; features and stores bring their own. Leave it out.")
        unknown = [name for name in self.finetune if name not in self.models]
        if unknown:
            raise ValueError(
                f"finetune: there is no model {unknown[0]!r}; there are {', '.join(self.models) or 'none'}."
            )
        columns = self.labels.targets if self.labels is not None else {}
        absent = [name for name in (self.budget.targets if self.budget else ()) if name not in columns]
        if absent:
            raise ValueError(f"budget.targets: there is no target {absent[0]!r}; there are {', '.join(columns)}.")
        for name, model in self.models.items():
            if not _NAME.fullmatch(name):
                raise ValueError(f"models.{name}: use letters, digits, single spaces and _ + - in a model's name.")
            if len(model.device) > 1:
                raise ValueError(
                    f"models.{name}.device: a study is one process. Train this model with `parfocal pretrain` into "
                    "the folder that --dry-run prints; the study finds it finished."
                )
        return self

    def embed_settings(self, slides: SlidePaths, device: str) -> EmbedSettings:
        """The settings of `embed` for the slides of this study, or of its external cohort."""
        return EmbedSettings(
            grid=self.grid,
            encoder=self.encoder,
            **slides.model_dump(exclude={"paths"}),
            device=(device,),
            **{name: getattr(self.run, name) for name in RunsSlides.model_fields},
            **self.tiles.model_dump(),
            places=None if self.places is None else self.places.file,
        )

    @property
    def of_slides(self) -> Labels:
        """What is to be predicted of slides.

        Raises:
            ValueError: the study is about places.
        """
        if self.labels is None:
            raise ValueError("a study at places has no labels of slides")
        return self.labels

    def read_out(self, model: PretrainSettings, seen: Sequence[float]) -> tuple[RepresentChoices, ...]:
        """What is taken from a model, of what the file asks for: none of what it cannot give.

        A model cannot give what is about a magnification that it does not see, nor predicted tiles where it was not
        trained to predict any.

        Args:
            model: how it is trained.
            seen: the magnifications that it sees.
        """
        known, taken = set(map(format_mpp, seen)), []
        for one in self.readouts:
            named = {*one.read_mpps, *([] if one.predict_mpp is None else [one.predict_mpp])}
            given = tuple(readout for readout in one.readouts if _can_give(model, readout))
            if given and set(map(format_mpp, named)) <= known:
                asks = any(readout in DECODED for readout in given)
                changes = {"readouts": given, "predict_mpp": one.predict_mpp if asks else None}
                taken.append(one.model_copy(update=changes))
        return tuple(taken)

    def represent_settings(
        self, model: PretrainSettings, seen: Sequence[float], device: str
    ) -> tuple[RepresentSettings, ...]:
        """The settings of `represent` for a model, one run after the other; arguments as of `read_out`."""
        runs = {name: getattr(self.run, name) for name in RunsSlides.model_fields}
        if self.run.executor is None:
            runs = {}  # the workers of a study are of slides that are embedded; these are done in a moment
        return tuple(RepresentSettings(**dict(one), **runs, device=(device,)) for one in self.read_out(model, seen))

    def evaluation_on(self, device: str) -> EvaluateSettings:
        """The evaluation with networks on a device, where it names none, and fits where the study runs."""
        evaluation = self.evaluation.on(device)
        if self.run.executor is None or evaluation.executor is not None:
            return evaluation
        return evaluation.model_copy(update={"executor": self.run.executor, "address": self.run.address})

    def described(self) -> dict[str, Any]:
        """What decides the results, as plain values: neither paths nor where it runs."""
        apart = ("run", "slides", "features", "store", "test", "pretraining", "budget")
        content = self.model_dump(mode="json", exclude={**dict.fromkeys(apart, True), "evaluation": {*ELSEWHERE}})
        content["evaluation"]["slide_vectors"] = [path.name for path in self.evaluation.slide_vectors]
        for name, asked in (("labels", self.labels), ("places", self.places)):
            if asked is not None:
                content[name]["file"] = asked.file.name
        return content


def _can_give(model: PretrainSettings, readout: str) -> bool:
    """Whether a model that is trained so can be asked for a readout."""
    if readout not in DECODED:
        return True
    predicts = model.predicts_tokens and model.targets != "latent"
    varies = model.steps != 0 and model.variance_weight > 0 and model.variance_from < 1
    return predicts and (varies or readout != "decoded-variance")


_PROBES_AT_PLACES = {"inner_folds", "components", "seed", "device"}
_PACKAGED = Path(__file__).parent
_SOURCES = ("slides", "features", "store")
_QUESTIONS = ("labels", "places")
# Sections that may be written as their most important key alone.
_IN_SHORT = {"slides": "paths", "features": "paths", "labels": "file", "places": "file"}


def packaged_studies() -> tuple[str, ...]:
    """The names of the studies that come with parfocal."""
    return tuple(sorted(file.stem for file in _PACKAGED.glob("*.yaml")))


def read_study(path: Path | str, overrides: Mapping[str, Any] | None = None) -> Study:
    """The study in a YAML file, its paths made absolute.

    Args:
        path: the file, or the name of a study that comes with parfocal.
        overrides: values to take as if they stood in the file, by their place in it, such as `models.mem.steps`, one
            after the other; `targets` are those of its labels or places. Paths in the file are relative to it, paths in
            here to the working folder. A source of tiles that is named here (`slides`, `features`, `store`) takes the
            place of the file's, and so does a question (`labels`, `places`). Of a study that comes with parfocal they
            have to name its slides, and its labels or places; None takes it as it stands.

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
    except ConfigError as error:  # of settings whose words are the same on the command line
        raise ConfigError(f"{file}: {error}") from error
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
    said = {place.removesuffix(".paths").removesuffix(".file") for place in overrides}
    flags = {"--slides": said & set(_SOURCES), "--labels": said & set(_QUESTIONS)}
    absent = [flag for flag, given in flags.items() if not given]
    if absent:
        raise ConfigError(
            f"the study {name} comes with parfocal and without a cohort; {' and '.join(absent)} must be given: "
            f"parfocal study {name} --slides scans/ --labels labels.csv --target COLUMN, "
            "or --places spots.csv in place of labels."
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
        "places": lambda value: _each(value, folder, ("file",)),
        "test": lambda value: _rooted(value, folder) if isinstance(value, Mapping) else value,
        "evaluation": lambda value: _each(value, folder, ("slide_vectors",)) if isinstance(value, Mapping) else value,
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
    return str(below(folder, value)) if isinstance(value, (str, Path)) else value


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
    """Write a value over what stands at a place; a source of tiles takes the place of the file's, and so a question."""
    if place == "targets":
        place = f"{'places' if 'places' in content else 'labels'}.targets"
    section, *rest = place.split(".")
    if section in _QUESTIONS and rest in ([], ["file"]) and value is not None:
        for other in {*_QUESTIONS} - {section}:
            content.pop(other, None)
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
