"""``fgvc-kit doctor``: what this machine can do."""

from __future__ import annotations

import json

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


def doctor_verb(as_json: options.Json = False) -> int:
    """Say what this machine can do.

    Which targets can be used, the processor's instruction sets, the versions of the runtimes.
    A target that is not here is listed with the sentence that a verb would refuse it with.
    """
    from tavt_kit.host import HostFacts

    facts = HostFacts.gather().as_record()
    targets = {text: _answer(text) for text in TARGETS}
    if as_json:
        answers = {text: {"usable": not reason, "reason": reason} for text, reason in targets.items()}
        record = {"schema": "fgvc-kit/doctor", "version": 1, "host": facts, "targets": answers}
        print(json.dumps(record, indent=1))
        return 0
    _print(facts, targets)
    return 0


def _answer(text: str) -> str:
    """Empty where the target can be used, else why not."""
    from tavt_kit.device import TargetDevice
    from tavt_kit.errors import TavtError
    from tavt_kit.runtimes import check_available

    try:
        check_available(TargetDevice.parse(text))
    except TavtError as error:
        return str(error)
    return ""


def _print(facts: dict[str, object], targets: dict[str, str]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    about = Table("this machine", "", show_edge=False)
    for name, value in facts.items():
        shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        shown = ", ".join(map(str, shown)) if isinstance(shown, list | tuple) else shown
        about.add_row(name.replace("_", " "), "-" if shown is None else escape(str(shown)))
    console.print(about)
    table = Table("target", "usable", "why not", show_edge=False)
    for text, reason in targets.items():
        table.add_row(text, "no" if reason else "yes", escape(reason))
    console.print(table)
