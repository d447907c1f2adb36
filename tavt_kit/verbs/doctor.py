"""``fgvc-kit doctor``: what this machine can do, how fast, and what is missing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from tavt_kit.verbs import options

__all__ = ["doctor_verb"]

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

Fast = Annotated[bool, typer.Option("--fast", help="Measure nothing: answers in seconds.")]


def doctor_verb(fast: Fast = False, as_json: options.Json = False) -> int:
    """Say what this machine can do, how fast it is, and what is missing.

    Which targets can be used; the processor, its instruction sets and what this process may have of it; how fast it
    multiplies in each precision and copies; a ViT-S on every runtime (half a minute; --fast leaves all measuring out);
    and for all that is missing the one command that mends it. A target that is not here is listed with the reason
    that a verb would refuse it with.
    """
    from tavt_kit.core.host import HostFacts
    from tavt_kit.workflows.doctor_findings import Place, findings
    from tavt_kit.workflows.doctor_room import Room

    facts, room = HostFacts.gather(), Room.gather()
    refused = {text: _answer(text) for text in TARGETS}
    found = findings(Place(facts, room, refused))
    speed = None if fast else _speed(refused)
    record = {
        "schema": "fgvc-kit/doctor",
        "version": 1,
        "host": facts.as_record(),
        "room": room.as_record(),
        "targets": {text: {"usable": not reason, "reason": reason} for text, reason in refused.items()},
        "speed": speed,
        "findings": [one.as_record() for one in found],
    }
    if as_json:
        print(json.dumps(record, indent=1, allow_nan=False))
        return 0
    from tavt_kit.verbs.doctor_table import print_doctor

    print_doctor(facts, room, refused, speed, found)
    return 0


def _answer(text: str) -> str:
    """Empty where the target can be used, else why not."""
    from tavt_kit.core.device import TargetDevice
    from tavt_kit.errors import TavtError
    from tavt_kit.runtimes import check_available

    try:
        check_available(TargetDevice.parse(text))
    except TavtError as error:
        return str(error)
    return ""


def _speed(refused: Mapping[str, str]) -> dict[str, Any]:
    from tavt_kit.verbs.progress import watching
    from tavt_kit.workflows.doctor_speed import measure_speed

    usable = [text for text, reason in refused.items() if not reason]
    with watching("measuring") as tell:
        return measure_speed(usable, lambda what: tell(f"measuring {what}", None))
