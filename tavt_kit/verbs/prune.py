"""``fgvc-kit prune``: take heads, channels and layers from a trained model, and save what is left as a run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tavt_kit.verbs import options
from tavt_kit.verbs.settings import read_settings

if TYPE_CHECKING:
    from tavt_kit.workflows.prune import PruneResult


def prune_verb(
    run: options.Run,
    out: options.Out,
    settings: options.Settings = None,
    as_json: options.Json = False,
    config: options.Config = None,
) -> int:
    """Exits 1 where the budget is not met for sure."""
    from tavt_kit.core.budget import Verdict
    from tavt_kit.verbs.console import ConsoleProgress
    from tavt_kit.workflows.prune import prune

    given = read_settings("prune", settings)
    with ConsoleProgress() as progress:
        result = prune(run, out, progress=progress, **given)
    if as_json:
        about = {key: result.record[key] for key in ("schema", "version")}
        print(json.dumps({**about, "folder": str(result.folder), **result.record}))
    else:
        _say(result)
    return 0 if result.verdict in (None, Verdict.PASS) else 1


def _say(result: PruneResult) -> None:
    from tavt_kit.core.accuracy import Accuracy
    from tavt_kit.reports.candidates import Estimate, points_of
    from tavt_kit.verbs.console import console_of, table_of

    record = result.record
    left = record["left"]
    words = [f"{len(left['layers'])} layers"]
    for kind, name in _NAMES.items():
        if units := left.get(kind):  # 4,4,4 is 4, where all are alike
            words.append(f"{units[0] if len(set(units)) == 1 else ','.join(map(str, units))} {name}")
    print(f"{result.folder}: {', '.join(words)} left")
    rows = []
    for when in ("before", "after"):
        facts, top1 = record[when], Accuracy.from_record(record[when]["top1"])
        shown = f"{100 * top1.value:.1f} [{100 * top1.low:.1f}, {100 * top1.high:.1f}]"
        rows.append((when, f"{facts['macs'] / 1e9:.3g}", f"{facts['parameters'] / 1e6:.3g}", shown))
    console_of().print(table_of(("", "GMACs", "M parameters", "top-1 on val, % [95 %]"), rows))
    change = Estimate.of(record["difference"], "difference")
    print(f"change of top-1, paired: {points_of(change)} points, 95 % {change.points if change else ''}")
    if (verdict := record["budget"]) is not None:
        from tavt_kit.core.budget import Limit

        limit = Limit.parse(verdict["budget"])
        print(f"{limit} under {verdict['schedule']}: {verdict['verdict']} ({limit.show(verdict['value'])})")
    print(f"what was lost has to be learned anew: fgvc-kit distill {result.folder} --teacher {result.run} -o NEXT")
    print(
        "pruning often loses to a dense model that is smaller from the start, or sees smaller images: train one as well"
    )


_NAMES = {"heads": "heads", "mlp": "feed-forward channels", "width": "embedding channels"}
