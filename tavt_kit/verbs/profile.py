"""``fgvc-kit profile``: the per-layer latency table of a model on a target, and how well it predicts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from tavt_kit.errors import ParameterError
from tavt_kit.verbs import options
from tavt_kit.verbs.settings import read_settings

if TYPE_CHECKING:
    from tavt_kit.core.latency_table import LatencyTable

_WORST = 6  # Token counts that are named


def profile_verb(
    model: options.Model,
    pack: options.Pack = None,
    settings: options.Settings = None,
    as_json: options.Json = False,
    config: options.Config = None,
) -> int:
    """--pack is for a device that has numpy and the target's runtime only: the zip holds graphs and a runner, whose
    profile.json search --profile takes.
    """
    from tavt_kit.verbs.console import ConsoleProgress
    from tavt_kit.workflows.profile import pack_profile, profile

    given = read_settings("profile", settings)
    if pack is not None:
        given = {name: value for name, value in given.items() if name not in ("max_time", "out")}
        if given.pop("held_out", 0):
            raise ParameterError("--held-out measures here, and --pack does not; give one of them")
        with ConsoleProgress() as progress:
            packed = pack_profile(model, pack, progress=progress, **given)
        if as_json:
            print(json.dumps({"pack": str(packed.path), "sha256": packed.sha256, "bytes": packed.size}))
            return 0
        print(f"{packed.path}: {packed.size / 1e6:.0f} MB, SHA-256 {packed.sha256}")
        print(
            f"on the device, with Python 3.11, numpy and {packed.target.runtime}: python {packed.path.name}, which "
            "writes profile.json; then here:\nfgvc-kit search ... --profile profile.json"
        )
        return 0
    with ConsoleProgress() as progress:
        result = profile(model, progress=progress, **given)
    if as_json:
        print(json.dumps({**result.record, "file": str(result.file)}))
    else:
        _print(result.table, result.file)
    return 0


def _print(table: LatencyTable, file: Path) -> None:
    from rich.markup import escape

    from tavt_kit.verbs.console import console_of, table_of

    console, cells, tokens = console_of(), table.cells, table.model.layout.tokens
    drops, rows = {cell.count: cell for cell in cells.drop}, list[tuple[str | None, ...]]()
    for count in reversed(cells.attend.counts):
        drop = drops.get(count)
        kept = [] if drop is None else [f"{cells.ms('drop', count, few):.3f}" for few in (drop.few, drop.many)]
        halves = [f"{cells.ms(half, count):.3f}" for half in ("attend", "feed")]
        rows.append((str(count), halves[0], *(kept or (None, None)), halves[1]))
    titles = ("tokens", "attention ms", "drop to half ms", "drop to 90 % ms", "feed-forward ms")
    console.print(table_of(titles, rows))
    calibrated = "" if table.calibration is None else f"; int8 calibrated on {table.calibration}"
    console.print(
        escape(
            f"{table.model.name} on {table.target}: {table.seconds:.0f} s, scale {table.scale:.3f}, weights cached "
            f"{100 * table.cached:.0f} %, stem {cells.stem_ms:.2f} ms; per layer, {table.model.score} score{calibrated}"
        ),
        highlight=False,
    )
    if cells.uneven is not None:  # counts that take longer than their neighbours, the worst of them by name
        more = {one: ms / cells.feed.at(one) for one, ms in zip(cells.uneven.counts, cells.uneven.ms, strict=True)}
        worst = {*sorted(more, key=more.__getitem__, reverse=True)[:_WORST], *({tokens} & more.keys())}
        named = ", ".join(f"{one} (+{100 * more[one]:.0f} %)" for one in sorted(worst))
        console.print(
            f"{len(more)} of {tokens} token counts take longer than their neighbours, because products are worked "
            f"off in blocks of rows; the feed-forward half most at {named}. Predictions know them",
            highlight=False,
        )
    if table.held_out:
        held_out = (
            (str(run.schedule), f"{run.predicted_ms:.2f}", f"{run.drift:.3f}",
             f"{run.measured_ms:.2f}{'' if run.steady else ' (unsteady)'}", f"{100 * run.error:+.1f} %")
            for run in table.held_out
        )  # fmt: skip
        console.print(table_of(("held-out schedule", "predicted ms", "x drift", "measured ms", "error"), held_out))
        errors = table.mean_error, table.worst_error, table.mean_raw_error
        mean, largest, raw = (100 * (share or 0.0) for share in errors)
        console.print(
            f"mean error {mean:.1f} %, worst {largest:.1f} % on {len(table.held_out)} held-out schedules at the "
            "machine's speed while they ran, which the dense model beside them shows (x drift); "
            f"{raw:.1f} % without that correction",
            highlight=False,
        )
    console.print(escape(f"{table.host}; {file}"), highlight=False)
