"""What a study file may say, section by section; every key is checked before anything is run."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from parfocal.bags import RepresentSettings
from parfocal.cohort import CohortColumns, Target, TargetSettings
from parfocal.config import GridConfig, Settings
from parfocal.embed.settings import EmbedSettings, RowChoices, SlideReading
from parfocal.evaluate.run import EvaluateSettings
from parfocal.pretrain import PretrainSettings
from parfocal.region_encoder import Readout
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


class TestCohort(CohortSource):
    """A cohort that nothing is fitted, chosen or pretrained on."""

    labels: Path = Field(description="A CSV with the same columns.")


class TileSettings(RowChoices):
    """How tiles become rows, beside the grid and the encoder."""

    batch: int = Field(64, gt=0, description="How many tiles the encoder gets at once.")


class RunSettings(Settings):
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
    readouts: tuple[Readout, ...] = Field(("cls", "tokens"), description="What is taken from every model.")
    finetune: tuple[str, ...] = Field((), description="Models that are trained on in every fold as well; slow.")
    labels: Labels = Field(description="What is to be predicted.")
    evaluation: EvaluateSettings = Field(EvaluateSettings(), description="How arms are compared.")
    test: TestCohort | None = Field(None, description="An external cohort.")
    run: RunSettings = Field(RunSettings(), description="Where it runs.")

    @field_validator("encoder", mode="before")
    @classmethod
    def _one_for_each(cls, value: Any) -> Any:
        """`{0.5: a, 2: b}` says the same as `0.5=a,2=b`."""
        if isinstance(value, Mapping):
            return ",".join(f"{mpp}={spec}" for mpp, spec in value.items())
        return value

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
            device=device,
            workers=self.run.workers,
            **self.tiles.model_dump(),
        )

    def represent_settings(self, device: str) -> RepresentSettings:
        """The settings of `represent` that the file asks for."""
        return RepresentSettings(readouts=self.readouts, device=device)

    def described(self) -> dict[str, Any]:
        """What decides the results, as plain values: neither paths nor where it runs."""
        content = self.model_dump(mode="json", exclude={"run", "slides", "features", "store", "test", "pretraining"})
        content["labels"]["file"] = self.labels.file.name
        return content
