"""``fgvc-kit export``: a model at a schedule, as files that provably kept its accuracy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tavt_kit.verbs import options

if TYPE_CHECKING:
    from tavt_kit.model_card import ModelCard

__all__ = ["Accept", "CheckSplit", "Dense", "Drop", "FileTarget", "export_verb", "print_checks", "say_licences"]

Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder of train, distill or search.")]
ExportOut = Annotated[Path | None, typer.Option("--out", "-o", help="The folder to write. [default: RUN/export]")]
Pick = Annotated[
    str | None,
    typer.Option(help="cheapest, best, or a place on the search's front from 0. [default: what the search chose]"),
]
Formats = Annotated[
    list[str] | None,
    typer.Option("--format", help="onnx, openvino, safetensors; repeat, or list with commas. [default: openvino]"),
]
Precisions = Annotated[
    list[str] | None,
    typer.Option("--precision", help="f32, f16, int8; repeat, or list with commas. [default: f32]"),
]
CheckSplit = Annotated[
    str | None, typer.Option("--split", help="Images of the check. [default: test if there is one, else val]")
]
Drop = Annotated[float, typer.Option(min=0.0, help="Points of top-1 that a file narrower than f32 may lose.")]
Calibrate = Annotated[int, typer.Option(min=1, help="Training images that int8 is calibrated on.")]
Dense = Annotated[bool, typer.Option("--dense/--no-dense", help="Compare with the dense model too.")]
Accept = Annotated[
    bool, typer.Option("--accept-inconclusive", help="Take a file whose check has too few images to decide.")
]
FileTarget = Annotated[
    str | None,
    typer.Option("--target", help="Where the file is run. [default: onnxruntime:cpu, openvino:cpu for .xml]"),
]


def export_verb(
    run: Run,
    out: ExportOut = None,
    schedule: options.Schedule = None,
    pick: Pick = None,
    format: Formats = None,
    precision: Precisions = None,
    data: options.Data = None,
    split: CheckSplit = None,
    limit: options.Limit = None,
    drop: Drop = 0.5,
    calibrate: Calibrate = 300,
    dense: Dense = True,
    accept_inconclusive: Accept = False,
    target: FileTarget = None,
    allow_unreadable: options.AllowUnreadable = 0,
    fresh: options.Fresh = False,
    as_json: options.Json = False,
    config: options.Config = None,
) -> int:
    """Write a model as ONNX, OpenVINO or safetensors, and check every file on the same real images.

    The schedule is frozen into the file, the batch stays free; labels and preprocessing travel inside. An f32 file must
    give its source's logits; int8 and f16 may lose --drop points of top-1, decided by the paired 95 % interval. A file
    that fails is removed; one that cannot be decided is kept as *.unproven. Exits 1 unless every file passed.
    """
    from tavt_kit.checkpoints import load_model
    from tavt_kit.checks import Gate
    from tavt_kit.data.inherited import inherited_images
    from tavt_kit.device import TargetDevice
    from tavt_kit.exporters.export import Plan, export
    from tavt_kit.exporters.forms import forms_of
    from tavt_kit.verbs.picked import schedule_for
    from tavt_kit.verbs.progress import watching

    plan = Plan(
        forms=forms_of(_texts(format, "openvino"), _texts(precision, "f32")),
        gate=Gate(drop=drop / 100),
        split=split,
        limit=limit,
        calibrate=calibrate,
        dense=dense,
        accept_inconclusive=accept_inconclusive,
        allow_unreadable=allow_unreadable,
        target=None if target is None else TargetDevice.parse(target),
    )
    model = load_model(run)
    counts = schedule_for(run, model, schedule, pick)
    folder = run if run.is_dir() else run.parent
    images = inherited_images(folder, data)
    with watching(f"exporting {counts}") as tell:
        done = export(model, counts, images, out or folder / "export", plan, run=str(folder), fresh=fresh, tell=tell)
    say_licences(model.card, images.licence)  # type: ignore[arg-type]
    if as_json:
        print(json.dumps({"folder": str(done.folder), "artifacts": done.entries, "checks": done.checks}))
    else:
        print_checks(done.checks)
        for entry in done.entries:
            print(f"{done.folder / entry['file']}{_ENDS[entry['status']].format(size=entry['bytes'] / 1e6)}")
    return 0 if done.settled else 1


_ENDS = {
    "final": ": {size:.1f} MB",
    "unproven": ".unproven: {size:.1f} MB; check it on more images, or take it with --accept-inconclusive",
    "refused": ": not written",
}


def print_checks(checks: Sequence[Mapping[str, Any]]) -> None:
    """A table of checks on stdout, and the sentence of each."""
    from rich.table import Table

    from tavt_kit.accuracy import Accuracy
    from tavt_kit.verbs.check_details import details
    from tavt_kit.verbs.console import console_of

    console = console_of(140)
    table = Table(show_edge=False)
    for name in ("file", "source", "file's top-1", "change", "agree", "dense", "verdict"):
        table.add_column(name)
    for check in checks:
        source, own = (Accuracy.from_record(check[name]) for name in ("source_top1", "artifact_top1"))
        low, high = (100 * end for end in check["difference"]["ci95"])
        dense = check["dense_top1"]
        table.add_row(
            check["artifact"],
            f"{100 * source.value:.1f} %",
            f"{100 * own.value:.1f} % \\[{100 * own.low:.1f}, {100 * own.high:.1f}]",
            f"{100 * check['difference']['difference']:+.2f} \\[{low:+.2f}, {high:+.2f}]",
            f"{100 * check['agreement']:.1f} %",
            "" if dense is None else f"{100 * dense['value']:.1f} %",
            check["verdict"],
        )
    first = checks[0]["source_top1"]
    print(f"top-1 on the {first['split']} split, n = {first['n']}, same schedule, 95 % intervals")
    console.print(table)
    for check in checks:
        print(f"{check['artifact']}: {check['verdict']}: {check['reason']}")
        for line in details(check):
            print(line)


def say_licences(card: ModelCard, data: Any) -> None:
    """One line on stderr where weights or data are not for commercial use."""
    import sys

    bound = [x for x in (*card.licences, data) if x is not None and "NC" in x.licence.upper().replace("-", " ").split()]
    names = dict.fromkeys(f"{x.name} ({x.licence})" for x in bound)
    if names:
        print(f"not for commercial use: {'; '.join(names)}", file=sys.stderr)


def _texts(given: list[str] | str | None, default: str) -> list[str]:
    """What a repeatable flag holds; from Python a single word will do."""
    return [default] if given is None else [given] if isinstance(given, str) else list(given)
