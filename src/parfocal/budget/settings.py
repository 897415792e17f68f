"""What is asked of a comparison of budgets, on the command line and in a study file."""

from collections.abc import Sequence

from pydantic import Field, field_validator

from parfocal.budget.result import ORACLE
from parfocal.config import Settings
from parfocal.errors import ConfigError
from parfocal.evaluate.fitting import FitsWhere
from parfocal.evaluate.run import FoldSettings
from parfocal.store import EmbeddingSet
from parfocal.zoom import POLICIES

_NO_TISSUE = "the set does not keep how much of a tile is tissue, as an older version or another program wrote it"


class BudgetChoices(Settings):
    """Which budgets and policies are compared."""

    policies: tuple[str, ...] = Field(
        (),
        description="Policies that say what is read first; none takes all that ask no pretrained model. There is also "
        "oracle, which knows what reading a region does to the score, to compare with: one more scoring a region.",
    )
    budgets: tuple[float, ...] = Field(
        (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2),
        description="Shares of a slide's finest tiles that are read; none and all of them are always compared too.",
    )
    margin: float = Field(
        0.01, description="What AUC may lose against reading everything and still count as non-inferior."
    )
    readers: tuple[str, ...] = Field(
        (),
        description="Further arms of evaluate that read everything, such as region-mlp; the best of all is compared "
        "with.",
    )

    # As an error of ours and not as one of values, which the command line would show in the words of its libraries.
    @field_validator("budgets")
    @classmethod
    def _shares(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        wrong = [one for one in value if not 0 < one < 1]
        if wrong or not value:
            found = f"{wrong[0]:g} is none" if wrong else "there is none"
            raise ConfigError(
                f"budgets: these are shares above 0 and below 1, and {found}. Leave 0 and 1 out: nothing and "
                "everything are always compared too."
            )
        return value

    @field_validator("margin")
    @classmethod
    def _between(cls, value: float) -> float:
        if not 0 < value < 1:
            raise ConfigError(f"margin: {value:g} is no loss of AUC. Use one above 0 and below 1, such as 0.01.")
        return value


class BudgetSettings(BudgetChoices, FoldSettings, FitsWhere):
    """Which budgets and policies are compared, how, and where that is done."""


def choose_policies(asked: Sequence[str], source: EmbeddingSet) -> tuple[tuple[str, ...], dict[str, str]]:
    """The policies that are compared, and those that cannot be, with the reason.

    Args:
        asked: their names; none takes all that can be compared.
        source: on which they are.

    Raises:
        ConfigError: one that was named does not exist or cannot be tried on a set.
    """
    unknown = [name for name in asked if name not in POLICIES and name != ORACLE]
    if unknown:
        raise ConfigError(f"there is no policy {unknown[0]!r}, only {', '.join(POLICIES.names)} and {ORACLE}.")
    names = tuple(dict.fromkeys(asked)) or tuple(POLICIES.names)
    reasons = {
        name: _NO_TISSUE for name in names if name == "tissue" and not all(map(source.has_tissue, source.slides))
    }
    reasons |= {
        name: "it asks a pretrained model" for name in names if name in POLICIES and "model" in POLICIES.get(name).needs
    }
    refused = [name for name in asked if name in reasons]
    if refused:
        raise ConfigError(
            f"the policy {refused[0]} cannot be compared here: {reasons[refused[0]]}. Leave it out of --policies."
        )
    return tuple(name for name in names if name not in reasons), reasons
