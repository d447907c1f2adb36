"""``fgvc-kit export``: a model at a schedule, as files that provably kept its accuracy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tavt_kit.errors import ParameterError
from tavt_kit.verbs import options

if TYPE_CHECKING:
    from tavt_kit.core.model_card import ModelCard

__all__ = ["Accept", "CheckSplit", "Dense", "Drop", "FileTarget", "export_verb", "print_checks", "say_licences"]

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
        "front, or each --schedule NAME=...",
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
Exporter = Annotated[str | None, typer.Option(help="torch's ONNX exporter: tracing or dynamo. [default: what works]")]
Opset = Annotated[str | None, typer.Option(help="Of ONNX: 17 to 23, or newest. [default: the oldest that works]")]
ShareWeights = Annotated[
    bool | None,
    typer.Option(
        "--share-weights/--own-weights",
        help="ONNX files keep their weights in one file beside them. [default: where there are several schedules]",
    ),
]
Quantizer = Annotated[
    str | None, typer.Option(help="nncf, or onnxruntime (for ONNX). [default: all that suit; the best is kept]")
]
SmoothQuant = Annotated[str, typer.Option(help="NNCF's SmoothQuant: both are tried, on or off.")]
AccuracyAware = Annotated[
    bool,
    typer.Option(
        help="int8 for OpenVINO: put layers back to float until --max-drop is kept on held-out training images."
    ),
]
For = Annotated[str | None, typer.Option("--for", help="tensorrt: ONNX of operators that it is known to take.")]
CheckSplit = Annotated[
    str | None, typer.Option("--split", help="Images of the check. [default: test if there is one, else val]")
]
Drop = Annotated[
    float, typer.Option("--max-drop", "--drop", min=0.0, help="Points of top-1 that a file narrower than f32 may lose.")
]
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
    schedule: NamedSchedules = None,
    pick: Pick = None,
    switchable: Switchable = False,
    format: Formats = None,
    precision: Precisions = None,
    exporter: Exporter = None,
    opset: Opset = None,
    share_weights: ShareWeights = None,
    quantizer: Quantizer = None,
    smooth_quant: SmoothQuant = "both",
    accuracy_aware: AccuracyAware = False,
    for_: For = None,
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

    The schedule is frozen into the file unless it is --switchable; the batch stays free; labels and preprocessing
    travel inside. An f32 file must give its source's logits; others may lose --max-drop points of top-1, decided by the
    paired 95 % interval. A file that fails is removed; one that cannot be decided is kept as *.unproven. Exits 1 unless
    every file passed.
    """
    from tavt_kit.checkpoints import load_model
    from tavt_kit.checks import Gate
    from tavt_kit.core.device import TargetDevice
    from tavt_kit.data.inherited import inherited_images
    from tavt_kit.errors import ExportError
    from tavt_kit.exporters.export import Plan, export
    from tavt_kit.exporters.forms import SWITCHABLE, forms_of
    from tavt_kit.exporters.how_onnx import OnnxHow
    from tavt_kit.exporters.int8 import Int8How
    from tavt_kit.verbs.exported_view import print_files, say_trtexec
    from tavt_kit.verbs.progress import watching
    from tavt_kit.workflows.picked import model_for, precision_for, presets_for, schedules_for

    tensorrt = _for_tensorrt(for_, format, switchable)
    formats, precisions = _texts(format, "onnx" if tensorrt else "openvino"), _texts(precision)
    forms_of(formats, precisions or ["f32"])  # what is not written at all is refused before a model is read
    onnx = OnnxHow.parse(exporter or ("tracing" if tensorrt else None), opset)
    most = drop / 100 if accuracy_aware else None
    int8 = Int8How(quantizer or ("onnxruntime" if tensorrt else None), smooth_quant, most, symmetric=tensorrt)
    device = None if target is None else TargetDevice.parse(target)
    model = load_model(run)
    texts, picks = _texts(schedule), _texts(pick)
    if switchable and picks:
        raise ParameterError(f"a switchable file takes every preset of the front; leave out --pick {picks[0]}")
    counts = presets_for(run, model, texts) if switchable else schedules_for(run, model, texts, picks)
    model = model_for(run, model, counts)
    wanted = precisions or [precision_for(counts)]
    try:
        forms = forms_of(formats, wanted, [SWITCHABLE] if switchable else list(counts))
    except ExportError as error:
        if precisions or wanted == ["f32"]:  # a precision that the user, or nobody, has chosen
            raise
        raise ExportError(f"{error}; the search chose {wanted[0]}, give --precision for another") from None
    several = len(counts) > 1 and not switchable
    plan = Plan(
        forms=forms,
        gate=Gate(drop=drop / 100),
        split=split,
        limit=limit,
        calibrate=calibrate,
        dense=dense,
        accept_inconclusive=accept_inconclusive,
        allow_unreadable=allow_unreadable,
        target=device,
        onnx=onnx,
        int8=int8,
        tensorrt=tensorrt,
        share=several if share_weights is None else share_weights,
    )
    folder = run if run.is_dir() else run.parent
    images = inherited_images(folder, data)
    with watching(f"exporting {', '.join(str(one) for one in counts.values())}") as tell:
        done = export(model, counts, images, out or folder / "export", plan, run=str(folder), fresh=fresh, tell=tell)
    say_licences(model.card, images.licence)  # type: ignore[arg-type]
    if as_json:
        print(json.dumps({"folder": str(done.folder), "artifacts": done.entries, "checks": done.checks}))
    else:
        print_checks(done.checks)
        print_files(done.folder, done.entries)
    if tensorrt:
        say_trtexec(done.folder, done.entries)
    return 0 if done.settled else 1


def _for_tensorrt(for_: str | None, format: list[str] | str | None, switchable: bool) -> bool:
    if for_ is None:
        return False
    if for_ != "tensorrt":
        raise ParameterError(f"--for takes tensorrt, got {for_!r}")
    if _texts(format, "onnx") != ["onnx"]:
        raise ParameterError(f"TensorRT reads ONNX, got --format {_texts(format)[0]}; leave --format out")
    if switchable:
        raise ParameterError("a switchable file is for onnxruntime and OpenVINO; give TensorRT each --schedule")
    return True


def print_checks(checks: Sequence[Mapping[str, Any]]) -> None:
    """A table of checks on stdout, and the sentence of each."""
    from rich.table import Table

    from tavt_kit.core.accuracy import Accuracy
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


def _texts(given: list[str] | str | None, default: str | None = None) -> list[str]:
    """What a repeatable flag holds; from Python a single word will do."""
    if not given:
        return [] if default is None else [default]
    return [given] if isinstance(given, str) else list(given)
