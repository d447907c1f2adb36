"""The latency of all rows on a target, in one interleaved bench."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from peers.answers import Answers
from peers.plan import Row
from peers.vit import PeerViT
from tavt_kit.bench import Protocol, bench
from tavt_kit.bench.record import BenchRow, bench_body
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.host import HostFacts
from tavt_kit.core.records import SCHEMAS, read_record, write_record
from tavt_kit.errors import ExportError
from tavt_kit.runtimes import Session, check_available, open_module

SCHEMAS["peer-latencies"] = 1


def latencies(
    rows: Sequence[Row], answers: Answers, target: TargetDevice, protocol: Protocol, tell: Callable[[str], None]
) -> dict[str, Any]:
    """What ``bench.json`` would hold of all rows that run there, and why the others do not; kept.

    Args:
        rows: Dense first.
        answers: Where networks and images are.
        target: Where to run, one image at a time.
        protocol: How long.
        tell: Says what is being done.

    Raises:
        TargetError: There is no such target here.
    """
    file = answers.shop.out / f"latency-{target.runtime}-{target.processor}.json"
    if file.exists():
        return read_record(file, "peer-latencies")
    check_available(target)
    sessions: dict[str, Session] = {}
    images: dict[str, Any] = {}
    refused: dict[str, str] = {}
    for row in rows:
        if not runs_on(row, target):
            continue
        tell(f"opening on {target.runtime}: {row.name}")
        try:
            sessions[row.name], images[row.name] = opened(row, answers, target)
        except ExportError as error:
            refused[row.name] = str(error)
    host = HostFacts.gather()
    found = bench(sessions, images, protocol, rng=np.random.default_rng(answers.shop.seed),
                  on_round=lambda spent, unsure: tell(f"{spent:.0f} s, {len(unsure)} not sure"))  # fmt: skip
    benched = [
        BenchRow(row.name, row.run, sessions[row.name].target, found[row.name], row.schedule, answers.of(row).macs)
        for row in rows
        if row.name in found
    ]
    inputs = f"{answers.shop.images.name} (test)"
    body = bench_body(benched, protocol=protocol, inputs=inputs, seed=answers.shop.seed, host=host)
    write_record(file, "peer-latencies", {"target": str(target), "refused": refused, "bench": body})
    return read_record(file, "peer-latencies")


def runs_on(row: Row, target: TargetDevice) -> bool:
    """INT8 files are OpenVINO's."""
    return not row.int8 or target.runtime == "openvino"


def opened(row: Row, answers: Answers, target: TargetDevice) -> tuple[Session, Any]:
    """A session, and the image it is timed on."""
    model = answers.load(row)
    images = answers.image(model)
    if row.int8:
        return answers.session(row, model, target.threads), images
    module = row.make(model).eval()
    if isinstance(module, PeerViT) and target.runtime == "onnxruntime":
        module.selection = "topk"
    return open_module(module, target, images.shape), images
