"""``fgvc-kit profile``: the per-layer latency table of a model on a target, and how well it predicts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tavt_kit.core.command_line import command_line
from tavt_kit.core.parsing import parse_duration
from tavt_kit.errors import ParameterError
from tavt_kit.verbs import options

if TYPE_CHECKING:
    from tavt_kit.core.device import TargetDevice
    from tavt_kit.core.latency_table import LatencyTable, Uneven

__all__ = ["PROFILE_FILE", "profile_verb", "say_packed"]

_WORST = 6
"""Token counts that are named."""

PROFILE_FILE = "profile.json"
SCHEMA, VERSION = "fgvc-kit/profile", 1

HeldOutCount = Annotated[
    int, typer.Option("--held-out", min=0, help="Test the table on so many random schedules, measured end to end.")
]
ProfileOut = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Folder of profile.json. [default: the run folder, else runs/profile]"),
]
Pack = Annotated[
    Path | None,
    typer.Option(metavar="ZIP", help="Measure nothing here: write a zip that does so on the device, by python ZIP."),
]
MaxTime = Annotated[str, typer.Option(help="Aim for so much time for the table; a slow model takes longer.")]


def profile_verb(
    model: options.Model,
    target: options.Target = "openvino:cpu",
    weights: options.Weights = None,
    image_size: options.ImageSize = None,
    precision: options.Precision = None,
    score: options.Score = None,
    pool: options.Pool = None,
    reduction: options.Reduction = None,
    held_out: HeldOutCount = 0,
    pack: Pack = None,
    max_time: MaxTime = "60s",
    out: ProfileOut = None,
    seed: options.Seed = 0,
    as_json: options.Json = False,
    config: options.Config = None,
) -> int:
    """Time the halves of the model's layers at a grid of token counts, and write profile.json.

    The table predicts the latency of any schedule on this target; search uses it before it measures. --held-out
    measures random schedules end to end and prints prediction beside measurement. --pack is for a device that has
    numpy and the target's runtime only: the zip holds graphs and a runner, whose profile.json search --profile takes.
    """
    from tavt_kit.core.device import TargetDevice
    from tavt_kit.core.records import make_folder, write_record
    from tavt_kit.runtimes import check_available
    from tavt_kit.runtimes.available import refuse_modes

    def opened() -> Any:
        from tavt_kit.checkpoints import open_model

        return open_model(
            model, weights=weights or "hub", image_size=image_size, seed=seed, score=score, pool=pool,
            reduction=reduction,
        ).eval()  # fmt: skip

    device = TargetDevice.parse(target, precision=precision)
    refuse_modes(device)
    if pack is not None:
        if held_out:
            raise ParameterError("--held-out measures here, and --pack does not; give one of them")
        return _write_pack(opened, device, pack, as_json)
    check_available(device)
    folder = make_folder(out or (Path(model) if Path(model).is_dir() else Path("runs/profile")))
    table = _measure(opened(), device, _seconds(max_time), held_out, seed)
    body = {**table.as_record(), "command": command_line()}
    write_record(folder / PROFILE_FILE, SCHEMA, VERSION, body)
    if as_json:
        print(json.dumps({"schema": SCHEMA, "version": VERSION, "file": str(folder / PROFILE_FILE), **body}))
    else:
        _print(table, folder / PROFILE_FILE)
    return 0


def _seconds(text: str) -> float:
    return parse_duration(text) or 60.0


def _write_pack(opened: Callable[[], Any], device: TargetDevice, pack: Path, as_json: bool) -> int:
    from tavt_kit.bench.pack import pack_profile, refuse_live
    from tavt_kit.core.records import make_folder
    from tavt_kit.verbs.progress import watching

    refuse_live(device)
    make_folder(pack.parent)
    adaptive = opened()
    with watching("packing") as tell:
        digest = pack_profile(
            adaptive, device, pack, name=adaptive.card.name, on_part=lambda part: tell(f"converting {part}", None)
        )
    say_packed(pack, digest, "profile.json", "fgvc-kit search ... --profile profile.json", device.runtime, as_json)
    return 0


def say_packed(pack: Path, digest: str, record: str, then: str, runtime: str, as_json: bool) -> None:
    """What a pack is and what to do with it, on stdout."""
    size = pack.stat().st_size
    if as_json:
        print(json.dumps({"pack": str(pack), "sha256": digest, "bytes": size}))
        return
    print(f"{pack}: {size / 1e6:.0f} MB, SHA-256 {digest}")
    print(
        f"on the device, with Python 3.11, numpy and {runtime}: python {pack.name}, which writes {record}; then here:"
    )
    print(then)


def _measure(adaptive: Any, device: Any, seconds: float, held_out: int, seed: int) -> LatencyTable:
    import numpy as np

    from tavt_kit.bench import check_table, measure_table
    from tavt_kit.verbs.progress import watching

    height, width = adaptive.card.preprocessing["image_size"]
    size = (int(height), int(width))
    rng = np.random.default_rng(seed)
    with watching("opening") as tell:
        table = measure_table(adaptive, device, size, name=adaptive.card.name, seconds=seconds, rng=rng, on_step=tell)
        if held_out:
            table = check_table(table, adaptive, size, count=held_out, rng=rng, on_step=tell)
    return table


def _print(table: LatencyTable, file: Path) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    cells = Table("tokens", "attention ms", "drop to half ms", "drop to 90 % ms", "feed-forward ms", show_edge=False)
    drops = {cell.count: cell for cell in table.cells.drop}
    for count in reversed(table.cells.attend.counts):
        drop = drops.get(count)
        cells.add_row(
            str(count),
            f"{table.cells.attend_ms(count):.3f}",
            "" if drop is None else f"{table.cells.drop_ms(count, drop.few):.3f}",
            "" if drop is None else f"{table.cells.drop_ms(count, drop.many):.3f}",
            f"{table.cells.feed_ms(count):.3f}",
        )
    console.print(cells)
    console.print(
        escape(
            f"{table.model} on {table.target}: {table.seconds:.0f} s, scale {table.scale:.3f}, weights cached "
            f"{100 * table.cached:.0f} %, stem "
            f"{table.cells.stem_ms:.2f} ms; per layer, {table.score} score"
            + ("" if table.calibration is None else f"; int8 calibrated on {table.calibration}")
        ),
        highlight=False,
    )
    if table.cells.uneven is not None:
        console.print(_unevenness(table, table.cells.uneven), highlight=False)
    if table.held_out:
        _print_held_out(console, table)
    console.print(escape(f"{table.host}; {file}"), highlight=False)


def _unevenness(table: LatencyTable, uneven: Uneven) -> str:
    """Which counts take longer than their neighbours, the worst of them by name."""
    more = {count: ms / table.cells.feed.at(count) for count, ms in zip(uneven.counts, uneven.ms, strict=True)}
    worst = sorted(more, key=more.__getitem__, reverse=True)[:_WORST]
    if table.tokens in more and table.tokens not in worst:
        worst.append(table.tokens)
    named = ", ".join(f"{count} (+{100 * more[count]:.0f} %)" for count in sorted(worst))
    return (
        f"{len(more)} of {table.tokens} token counts take longer than their neighbours, because products are worked "
        f"off in blocks of rows; the feed-forward half most at {named}. Predictions know them"
    )


def _print_held_out(console: Any, table: LatencyTable) -> None:
    from rich.table import Table

    rows = Table("held-out schedule", "predicted ms", "x drift", "measured ms", "error", show_edge=False)
    for run in table.held_out:
        unsteady = "" if run.steady else " (unsteady)"
        rows.add_row(
            str(run.schedule),
            f"{run.predicted_ms:.2f}",
            f"{run.drift:.3f}",
            f"{run.measured_ms:.2f}{unsteady}",
            f"{100 * run.error:+.1f} %",
        )
    console.print(rows)
    mean, worst, raw = (100 * (share or 0.0) for share in (table.mean_error, table.worst_error, table.mean_raw_error))
    console.print(
        f"mean error {mean:.1f} %, worst {worst:.1f} % on {len(table.held_out)} held-out schedules at the machine's "
        f"speed while they ran, which the dense model beside them shows (x drift); {raw:.1f} % without that correction",
        highlight=False,
    )
