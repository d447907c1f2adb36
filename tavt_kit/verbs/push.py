"""``fgvc-kit push``: a model to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Pushed = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a fit's: then what it recommends.")]
Repository = Annotated[str, typer.Argument(metavar="OWNER/NAME", help="A repository of the Hugging Face hub.")]
Public = Annotated[bool, typer.Option("--public", help="Everyone sees a new repository.")]


def push_verb(thing: Pushed, repository: Repository, public: Public = False) -> int:
    """Upload a model to the Hugging Face hub, with a model card that has its figures; HF_TOKEN says who you are."""
    from tavt_kit.verbs.console import ConsoleProgress
    from tavt_kit.workflows.hub import push

    with ConsoleProgress() as progress:
        print(push(thing, repository, private=not public, progress=progress))
    return 0
