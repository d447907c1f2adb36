"""``fgvc-kit search``: the schedules that fit a budget, found on val, measured on the target."""

from __future__ import annotations

import json

from tavt_kit.core.budget import Verdict
from tavt_kit.verbs import options
from tavt_kit.verbs.settings import read_settings


def search_verb(
    model: options.Model,
    out: options.Out,
    settings: options.Settings = None,
    as_json: options.Json = False,
    config: options.Config = None,
) -> int:
    """The fastest model that loses at most half a point: --budget drop=0.5 --target openvino:cpu.

    Exits 1 where the chosen schedule is not proven to keep to the budget, 2 where no schedule can.
    """
    from tavt_kit.verbs.live import SearchProgress
    from tavt_kit.verbs.tables import print_front
    from tavt_kit.workflows.search import search

    given = read_settings("search", settings)
    with SearchProgress() as progress:
        result = search(model, out=out, progress=progress, **given)
    if given.get("dry_run"):
        print(json.dumps(result.record, indent=1))
        return 0
    if as_json:
        print(json.dumps(result.record))
    else:
        print_front(result.record, folder=out)
    return 0 if result.verdict is Verdict.PASS else 1
