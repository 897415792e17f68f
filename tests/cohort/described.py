"""A target and its columns in one call, as a person says them."""

from typing import Any

from parfocal.cohort import CohortColumns, Target


def described(name: str, **said: Any) -> tuple[Target, CohortColumns]:
    """What is said, by the name of its field."""
    of_target = {key: said.pop(key) for key in Target.model_fields.keys() & said.keys()}
    return Target(name=name, **of_target), CohortColumns(**said)
