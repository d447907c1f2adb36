"""``fgvc-kit distill``: teach a fine-tuned model to work with dropped patches."""

from __future__ import annotations

import shlex
from pathlib import Path

from tavt_kit.core.records import command_line, read_record, reading
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
    from rich.markup import escape

    from tavt_kit.core.accuracy import Accuracy
    from tavt_kit.verbs.console import ConsoleProgress, console_of, table_of
    from tavt_kit.workflows.distill import distill

    given = read_settings("distill", settings)
    with ConsoleProgress() as progress:
        done = distill(model, out, progress=progress, **given)
    if print_record(done, as_json, given.get("dry_run", False)):
        return 0
    results, control = done.record["results"], control_beside(done.folder)
    rows = []
    for old, entry in zip(results["before"], results["after"], strict=True):
        before, after = (Accuracy.from_record(step["accuracy"]) for step in (old, entry))
        paired = entry["difference"]
        low, high = (100 * end for end in paired["ci95"])
        beside = f"{entry['macs'] / 1e9:.3g} G" if control is None else control.get(entry["name"])
        rows.append((
            entry["name"], beside, f"{100 * before.value:.1f}",
            f"{100 * after.value:.1f} [{100 * after.low:.1f}, {100 * after.high:.1f}]",
            f"{100 * paired['difference']:+.1f} [{low:+.1f}, {high:+.1f}]",
        ))  # fmt: skip
    title = f"{done.folder}: top-1 on {results['val']['split']}, % [95 %]"
    titles = ("schedule", "MACs" if control is None else CONTROL, "before", "after", "difference, paired")
    console_of().print(table_of(titles, rows, title=escape(title)))
    loop = results["loop"]
    pace = "" if loop["seconds_per_step"] is None else f", {loop['seconds_per_step']:.2f} s a step"
    print(f"{loop['steps']} steps in {loop['seconds']:.0f} s{pace}")
    if given.get("control"):
        print(f"both: fgvc-kit report {shlex.quote(str(done.folder.parent))}")
    elif control is None and (command := command_line()) is not None:
        print(f"what fine-tuning alone gives: {command} --control -o {shlex.quote(str(done.folder / CONTROL))}")
    return 0


CONTROL = "control"
"""Folder below a distilled run of the same steps by the labels alone."""


def control_beside(folder: Path) -> dict[str, str] | None:
    """Top-1 of each schedule after the control's steps, in %; None where there is no control that has ended."""
    file = folder / CONTROL / "run.json"
    if not file.is_file():
        return None
    with reading(file):
        after = read_record(file, "run")["results"].get("after", ())
        return {entry["name"]: f"{100 * entry['accuracy']['value']:.1f}" for entry in after} or None
