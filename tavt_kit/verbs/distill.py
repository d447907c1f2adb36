"""``fgvc-kit distill``: teach a fine-tuned model to work with dropped patches."""

from __future__ import annotations

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
    results = done.record["results"]
    rows = []
    for old, entry in zip(results["before"], results["after"], strict=True):
        before, after = (Accuracy.from_record(step["accuracy"]) for step in (old, entry))
        paired = entry["difference"]
        low, high = (100 * end for end in paired["ci95"])
        rows.append((
            entry["name"], f"{entry['macs'] / 1e9:.3g} G", f"{100 * before.value:.1f}",
            f"{100 * after.value:.1f} [{100 * after.low:.1f}, {100 * after.high:.1f}]",
            f"{100 * paired['difference']:+.1f} [{low:+.1f}, {high:+.1f}]",
        ))  # fmt: skip
    title = f"{done.folder}: top-1 on {results['val']['split']}, % [95 %]"
    titles = ("schedule", "MACs", "before", "after", "difference, paired")
    console_of().print(table_of(titles, rows, title=escape(title)))
    loop = results["loop"]
    pace = "" if loop["seconds_per_step"] is None else f", {loop['seconds_per_step']:.2f} s a step"
    print(f"{loop['steps']} steps in {loop['seconds']:.0f} s{pace}")
    return 0
