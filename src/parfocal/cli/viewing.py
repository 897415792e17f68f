"""The command `view`: slides and what is known of them, in a browser."""

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from parfocal.cli.command import Answer
from parfocal.terminal import say
from parfocal.view import view_store


def view(
    store: Positional[Path],
    set: str | None = None,
    head: Path | None = None,
    regions: Path | None = None,
    slides: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="PATH...")] = (),
    port: int = 0,
    no_browser: bool = False,
) -> Answer:
    """Look at the slides of STORE in a browser: regions, magnifications side by side, what a head says and why.

    The page is served on this machine alone, at an address with a random token, until Ctrl-C. It only shows: no file
    is written or changed. Tiles come straight from the slides; one whose file is gone is shown by its regions.

    Example:
        parfocal view store --head head

    Args:
        store: a store of embeddings, or one of its sets.
        set: the set, or the beginning of its name; needed where the store holds several and no head says which.
        head: the folder of a head that `fit` has made; predictions and explanations are shown.
        regions: a store of region embeddings that `represent` has made of STORE, by which regions are alike; without it
            those in STORE, or else the means of tiles.
        slides: where the slides are now, where that is not where they were embedded: files, folders or manifests.
        port: of the address, to forward it with ssh -L; 0 takes a free one.
        no_browser: print the address and open no browser.
    """
    view_store(
        store,
        set_name=set,
        head=head,
        regions=regions,
        slides=slides,
        port=port,
        browser=not no_browser,
        on_address=say,
    )
    return Answer({})
