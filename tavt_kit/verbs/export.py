"""``fgvc-kit export``: a model at a schedule, as files that provably kept its accuracy."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tavt_kit.errors import ParameterError
from tavt_kit.verbs import options
from tavt_kit.verbs.settings import read_settings

if TYPE_CHECKING:
    from tavt_kit.workflows.export import ExportedFile, ExportResult

Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder of train, distill or search.")]
ExportOut = Annotated[Path | None, typer.Option("--out", "-o", help="The folder to write. [default: RUN/export]")]
Pick = Annotated[
    list[str] | None,
    typer.Option(
        help="fast, balanced, accurate, or a place on the search's front from 0; repeat for several files. [default: "
        "what the search chose]"
    ),
]
NamedSchedules = Annotated[
    list[str] | None,
    typer.Option(
        "--schedule",
        help="dense, taper:0.2, stages:0.5, or counts such as 197x4,150x4,90x4; repeat for several files, with names "
        "if you like (fast=taper:0.3).",
    ),
]
Switchable = Annotated[
    bool,
    typer.Option(
        help="One file for every schedule: the counts are an input, with presets fast, balanced and accurate from the "
        "front, or each --schedule NAME=..."
    ),
]
Formats = Annotated[
    list[str] | None,
    typer.Option("--format", help="onnx, openvino, safetensors; repeat, or list with commas. [default: openvino]"),
]
Precisions = Annotated[
    list[str] | None,
    typer.Option(
        "--precision",
        help="f32, f16, bf16, int8, w8 (8-bit weights); repeat, or list with commas. [default: f32, or as a joint "
        "search chose]",
    ),
]
For = Annotated[str | None, typer.Option("--for", help="tensorrt: ONNX of operators that it is known to take.")]
Drop = Annotated[
    float, typer.Option("--max-drop", "--drop", min=0.0, help="Points of top-1 that a file narrower than f32 may lose.")
]
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
    schedule: NamedSchedules = None,
    pick: Pick = None,
    switchable: Switchable = False,
    format: Formats = None,
    precision: Precisions = None,
    for_: For = None,
    data: options.Data = None,
    drop: Drop = 0.5,
    accept_inconclusive: Accept = False,
    target: FileTarget = None,
    settings: options.Set = None,
    fresh: options.Fresh = False,
    as_json: options.Json = False,
    config: options.Config = None,
) -> int:
    """Write a model as ONNX, OpenVINO or safetensors, and check every file on the same real images.

    The schedule is frozen into the file unless it is --switchable; the batch stays free; labels and preprocessing
    travel inside. An f32 file must give its source's logits; others may lose --max-drop points of top-1, decided by the
    paired 95 % interval. A file that fails is removed; one that cannot be decided is kept as *.unproven. Exits 1 unless
    every file passed.
    """
    from tavt_kit.verbs.console import ConsoleProgress
    from tavt_kit.workflows.export import export

    if for_ not in (None, "tensorrt"):
        raise ParameterError(f"--for takes tensorrt, got {for_!r}")
    with ConsoleProgress() as progress:
        done = export(
            run, out, schedule=schedule, pick=pick, switchable=switchable, format=format, precision=precision,
            tensorrt=for_ is not None, data=data, max_drop=drop, accept_inconclusive=accept_inconclusive,
            target=target, fresh=fresh, progress=progress, **read_settings("export", settings),
        )  # fmt: skip
    if as_json:
        _say_licence(done)
        artifacts, checks = ([one.record for one in found] for found in (done.files, done.checks))
        print(json.dumps({"folder": str(done.folder), "artifacts": artifacts, "checks": checks}))
    else:
        print_exported(done)
    if for_ is not None:
        _say_trtexec(done)
    return 0 if done.settled else 1


def print_exported(done: ExportResult) -> None:
    """The checks and the files on stdout, and on stderr what is not for commercial use."""
    from tavt_kit.verbs.tables import print_checks

    _say_licence(done)
    print_checks([check.record for check in done.checks])
    for file in done:
        _print_file(done.folder, file)


def _say_licence(done: ExportResult) -> None:
    if done.licence is not None:
        print(done.licence, file=sys.stderr)


_ENDS = {
    "final": ": {size:.1f} MB",
    "unproven": ".unproven: {size:.1f} MB; check it on more images, or take it with --accept-inconclusive",
    "refused": ": not written",
}


def _print_file(folder: Path, file: ExportedFile) -> None:
    """A file with its fate and size, and below an int8 one the ways of quantizing that were tried, best first."""
    entry = file.record
    print(f"{folder / entry['file']}{_ENDS[file.status].format(size=entry['bytes'] / 1e6)}")
    tried = (entry["calibration"] or {}).get("tried") or []
    for one in sorted(tried, key=lambda trial: -trial["agreement"]):
        smooth = f", SmoothQuant {'on' if one['smooth_quant'] else 'off'}" if one["quantizer"] == "nncf" else ""
        print(
            f"  {one['quantizer']}{smooth}: {100 * one['agreement']:.1f} % as f32, top-1 {100 * one['top1']:.1f} % on "
            f"{entry['calibration']['held_out']} training images that did not calibrate"
        )


def _say_trtexec(done: ExportResult) -> None:
    """How to build the engines; on stderr, since stdout may be a JSON object."""
    from tavt_kit.core.artifact_card import read_metadata
    from tavt_kit.exporters.to_onnx import trtexec_line

    for file in done:
        if file.status == "final":
            print(
                f"{trtexec_line(file.path.name, read_metadata(file.path))}  # unverified on a device", file=sys.stderr
            )
