"""``fgvc-kit doctor``: what this machine can do, how fast, and what is missing."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from tavt_kit.verbs import options

Fast = Annotated[bool, typer.Option("--fast", help="Measure nothing: answers in seconds.")]


def doctor_verb(fast: Fast = False, as_json: options.Json = False) -> int:
    """Say what this machine can do, how fast it is, and what is missing.

    Which targets can be used; the processor, its instruction sets and what this process may have of it; how fast it
    multiplies in each precision and copies; a ViT-S on every runtime (half a minute; --fast leaves all measuring out);
    and for all that is missing the one command that mends it. A target that is not here is listed with the reason
    that a verb would refuse it with.
    """
    from tavt_kit.verbs.console_progress import ConsoleProgress
    from tavt_kit.verbs.doctor_table import print_doctor
    from tavt_kit.workflows.doctor import doctor

    with ConsoleProgress() as progress:
        found = doctor(fast=fast, progress=progress)
    if as_json:
        print(json.dumps(found.record, indent=1, allow_nan=False))
    else:
        print_doctor(found)
    return 0
