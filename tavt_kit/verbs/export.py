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
    from tavt_kit.workflows.export import ExportedFile

For = Annotated[str | None, typer.Option("--for", help="tensorrt: ONNX of operators that it is known to take.")]


def export_verb(
    run: options.Run,
    for_: For = None,
    settings: options.Settings = None,
    as_json: options.Json = False,
    config: options.Config = None,
) -> int:
    """Exits 1 unless every file passed or is taken."""
    from tavt_kit.core.artifact_card import read_metadata
    from tavt_kit.verbs.console import ConsoleProgress
    from tavt_kit.verbs.tables import print_checks
    from tavt_kit.workflows.export import export

    given = read_settings("export", settings)
    if for_ not in (None, "tensorrt"):
        raise ParameterError(f"--for takes tensorrt, got {for_!r}")
    with ConsoleProgress() as progress:
        result = export(run, tensorrt=for_ is not None, progress=progress, **given)
    if result.licence is not None:
        print(result.licence, file=sys.stderr)
    artifacts, checks = ([one.record for one in found] for found in (result.files, result.checks))
    if as_json:
        print(json.dumps({"folder": str(result.folder), "artifacts": artifacts, "checks": checks}))
    else:
        print_checks(checks)
        for file in result:
            _print_file(result.folder, file)
    if for_ is not None:
        from tavt_kit.exporters.to_onnx import trtexec_line

        for path in (file.path for file in result if file.status == "final"):  # stdout may be a JSON object
            print(f"{trtexec_line(path.name, read_metadata(path))}  # unverified on a device", file=sys.stderr)
    return 0 if result.settled else 1


_ENDS = {
    "final": ": {size:.1f} MB",
    "unproven": ".unproven: {size:.1f} MB; its sentence says what to do, --accept-inconclusive takes it all the same",
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
