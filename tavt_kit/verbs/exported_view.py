"""What an export left, for people: each file, how its int8 was chosen, and how TensorRT builds an engine of it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["print_files", "say_trtexec"]

_ENDS = {
    "final": ": {size:.1f} MB",
    "unproven": ".unproven: {size:.1f} MB; check it on more images, or take it with --accept-inconclusive",
    "refused": ": not written",
}


def print_files(folder: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Each file with its fate and size, and below an int8 one the ways that were tried."""
    for entry in entries:
        print(f"{folder / entry['file']}{_ENDS[entry['status']].format(size=entry['bytes'] / 1e6)}")
        _say_how(entry)


def _say_how(entry: Mapping[str, Any]) -> None:
    """The ways of quantizing that were tried, best first."""
    tried = (entry["calibration"] or {}).get("tried") or []
    for one in sorted(tried, key=lambda trial: -trial["agreement"]):
        smooth = f", SmoothQuant {'on' if one['smooth_quant'] else 'off'}" if one["quantizer"] == "nncf" else ""
        print(
            f"  {one['quantizer']}{smooth}: {100 * one['agreement']:.1f} % as f32, top-1 {100 * one['top1']:.1f} % on "
            f"{entry['calibration']['held_out']} training images that did not calibrate"
        )


def say_trtexec(folder: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """How to build the engines; on stderr, since stdout may be a JSON object."""
    from tavt_kit.core.artifact_card import read_metadata
    from tavt_kit.exporters.tensorrt import trtexec_line

    for entry in entries:
        if entry["status"] == "final":
            card = read_metadata(folder / entry["file"])
            print(f"{trtexec_line(entry['file'], card)}  # unverified on a device", file=sys.stderr)
