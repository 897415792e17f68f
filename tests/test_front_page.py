"""`import parfocal` offers the whole chain, and what it offers is there."""

import parfocal


def test_every_public_name_can_be_had() -> None:
    assert all(getattr(parfocal, name) is not None for name in parfocal.__all__)


def test_no_public_name_hides_a_stage() -> None:
    # A module of the same name would take its place as soon as somebody imports the stage.
    import pkgutil

    assert not {module.name for module in pkgutil.iter_modules(parfocal.__path__)} & set(parfocal.__all__)
