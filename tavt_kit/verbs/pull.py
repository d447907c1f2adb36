"""``fgvc-kit pull``: a model from the Hugging Face hub."""

from __future__ import annotations

from typing import Annotated

import typer

from tavt_kit.verbs import options
from tavt_kit.verbs.push import Repository

Revision = Annotated[str | None, typer.Option(help="A commit, tag or branch. [default: the newest]")]


def pull_verb(repository: Repository, out: options.Out, revision: Revision = None) -> int:
    """Fetch a model that push uploaded; nothing in it is run."""
    from tavt_kit.verbs.console import ConsoleProgress
    from tavt_kit.workflows.hub import pull

    with ConsoleProgress() as progress:
        print(pull(repository, out, revision=revision, progress=progress))
    return 0
