"""``fgvc-kit distill``: teach a fine-tuned model to work with dropped patches."""

from __future__ import annotations

import shlex

from tavt_kit.core.records import command_line
from tavt_kit.verbs import options
from tavt_kit.verbs.settings import read_settings
from tavt_kit.verbs.train import print_record


def distill_verb(
    model: options.Run,
    out: options.Out,
    settings: options.Settings = None,
    as_json: options.Json = False,
    config: options.Config = None,
) -> int:
    """Defaults of the settings are those of the recipe modern, which --recipe replaces; run.json records all of them.

    `accelerate launch` or torchrun before it shares the work among several processes.
    """
    from tavt_kit.reports.blocks import Section
    from tavt_kit.reports.records import gather
    from tavt_kit.reports.training import ladder_section
    from tavt_kit.verbs.console import ConsoleProgress
    from tavt_kit.verbs.tables import print_blocks
    from tavt_kit.workflows.distill import CONTROL, distill

    given = read_settings("distill", settings)
    with ConsoleProgress() as progress:
        result = distill(model, out, progress=progress, **given)
    if print_record(result, as_json, given.get("dry_run", False)):
        return 0
    section, loop = ladder_section(gather([result.folder])), result.record["results"]["loop"]
    assert isinstance(section, Section)  # of a run that distilled
    print_blocks(section.blocks)
    pace = "" if loop["seconds_per_step"] is None else f", {loop['seconds_per_step']:.2f} s a step"
    print(f"{result.folder}: {loop['steps']} steps in {loop['seconds']:.0f} s{pace}")
    if given.get("control"):
        both, alone = (shlex.quote(str(folder)) for folder in (result.folder.parent, result.folder))
        print(f"both: fgvc-kit report {both}; what distillation gave beyond it: fgvc-kit compare {alone} {both}")
    elif not (result.folder / CONTROL).exists() and (command := command_line()) is not None:
        print(f"what fine-tuning alone gives: {command} --control -o {shlex.quote(str(result.folder / CONTROL))}")
    return 0
