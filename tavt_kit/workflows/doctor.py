"""doctor: what this machine can do, how fast, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tavt_kit.core.device import TargetDevice
from tavt_kit.core.host import HostFacts
from tavt_kit.core.progress import Progress, Silent
from tavt_kit.errors import TavtError
from tavt_kit.evaluation.frames import frame
from tavt_kit.workflows.doctor_findings import Finding, Place, Room, findings

if TYPE_CHECKING:
    import pandas

__all__ = ["TARGETS", "DoctorResult", "doctor"]

SCHEMA, VERSION = "fgvc-kit/doctor", 1

TARGETS = (
    "torch:cpu",
    "torch:cuda:0",
    "openvino:cpu",
    "openvino:gpu",
    "openvino:npu",
    "onnxruntime:cpu",
    "onnxruntime:cuda",
    "onnxruntime:tensorrt",
)
"""Those that are tried."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DoctorResult:
    """What a machine can do.

    Args:
        host: Facts of the machine.
        room: Memory, disk and files that this process may have.
        refused: Why each target cannot be used; empty where it can.
        speed: Peaks and the reference model's latencies, as ``measure_speed`` records them; ``None`` where nothing was
            measured.
        findings: What is missing or in the way, what is needed first.
    """

    host: HostFacts
    room: Room
    refused: Mapping[str, str]
    speed: Mapping[str, Any] | None
    findings: tuple[Finding, ...]

    @property
    def usable(self) -> tuple[str, ...]:
        """The targets that can be used."""
        return tuple(text for text, reason in self.refused.items() if not reason)

    @property
    def record(self) -> Mapping[str, Any]:
        """Everything, JSON-ready; no file is written."""
        return {
            "schema": SCHEMA,
            "version": VERSION,
            "host": self.host.as_record(),
            "room": self.room.as_record(),
            "targets": {text: {"usable": not reason, "reason": reason} for text, reason in self.refused.items()},
            "speed": self.speed,
            "findings": [one.as_record() for one in self.findings],
        }

    def to_frame(self) -> pandas.DataFrame:
        """One line a target: whether it can be used, and why not.

        Raises:
            MissingDependency: pandas is not installed.
        """
        return frame([{"target": text, **found} for text, found in self.record["targets"].items()])

    def __repr__(self) -> str:
        return f"<doctor: {', '.join(self.usable) or 'no target'} usable, {len(self.findings)} findings>"


def doctor(*, fast: bool = False, progress: Progress | None = None) -> DoctorResult:
    """Find out what this machine can do, how fast it is, and what is missing.

    Args:
        fast: Whether all measuring is left out, which takes half a minute.
        progress: Told what is measured.

    Example:
        >>> doctor(fast=True).usable  # doctest: +SKIP
        ('torch:cpu', 'openvino:cpu', 'onnxruntime:cpu')
    """
    host, room = HostFacts.gather(), Room.gather()
    refused = {text: _refusal(text) for text in TARGETS}
    found = tuple(findings(Place(host, room, refused)))
    speed = None
    if not fast:
        from tavt_kit.workflows.doctor_speed import measure_speed

        usable = [text for text, reason in refused.items() if not reason]
        speed = measure_speed(usable, Silent() if progress is None else progress)
    return DoctorResult(host, room, refused, speed, found)


def _refusal(text: str) -> str:
    """Empty where the target can be used, else why not."""
    from tavt_kit.runtimes import check_available

    try:
        check_available(TargetDevice.parse(text))
    except TavtError as error:
        return str(error)
    return ""
