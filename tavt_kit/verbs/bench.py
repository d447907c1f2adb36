"""``fgvc-kit bench``: latency of models, schedules and exported files on a target, measured against one another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tavt_kit.core.budget import Verdict
from tavt_kit.errors import ParameterError
from tavt_kit.verbs import options
from tavt_kit.verbs.settings import read_settings

Things = Annotated[
    list[str] | None,
    typer.Argument(metavar="[THING...]", help="Run folders, timm models' names, .onnx and .xml files."),
]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        help="Where to run, e.g. openvino:cpu:threads=2; repeat for several. [default: openvino:cpu, and "
        "onnxruntime:cpu for .onnx files]",
    ),
]
BenchOut = Annotated[
    Path | None, typer.Option("--out", "-o", help="Folder of bench.json. [default: the first THING's, else runs/bench]")
]
Pack = Annotated[
    Path | None,
    typer.Option(
        metavar="ZIP",
        help="Measure nothing here: pack the front of a search (THING is its run folder) for its device.",
    ),
]
Carried = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The bench.json that such a pack wrote there: it settles the search's verdict."),
]
Precisions = Annotated[
    str | None, typer.Option(metavar="P[,P...]", help="f32, f16, bf16 or int8; several with commas between them.")
]
Budgets = Annotated[
    list[str] | None,
    typer.Option("--budget", help="latency=8ms, latency[e2e]=20ms, throughput=100/s, memory=300MB ...; repeat."),
]
EndToEnd = Annotated[
    bool, typer.Option("--e2e", help="Time the way from image files too: decode, resize, normalise, infer.")
]
Memory = Annotated[
    bool, typer.Option("--memory", help="Peak memory, of a fresh process for each candidate: seconds more for each.")
]


def bench_verb(
    things: Things = None,
    target: Targets = None,
    schedule: options.Schedules = None,
    weights: options.Weights = None,
    data: options.Data = None,
    precision: Precisions = None,
    budget: Budgets = None,
    e2e: EndToEnd = False,
    memory: Memory = False,
    settings: options.Set = None,
    pack: Pack = None,
    carried: Carried = None,
    out: BenchOut = None,
    seed: options.Seed = 0,
    as_json: options.Json = False,
    config: options.Config = None,
) -> int:
    """Measure latency, all candidates interleaved in random order, and write bench.json with every sample.

    A run folder or a name is measured under each --schedule (dense by default) by the lean path, on torch or OpenVINO
    as it is, on onnxruntime through a temporary export. Targets take mode=compile or mode=graph (torch) and
    hint=throughput (OpenVINO). Lists in --batch, --threads, --precision and --image-size are combined, each with
    each, and with every --reduction. Ratios are paired with the first candidate. "MAC gain" is the share of the
    saving in multiply-adds that became time: (t_dense / t) / (MACs_dense / MACs). Images are random, or the first of
    --data. With --budget every candidate is judged by its own interval, and the exit code is 1 unless all PASS.
    --executed opens each exported file once more, after the measuring, and shows what its runtime made of it. --pack
    writes the chosen and other schedules of a search, and a runner that needs numpy and the target's runtime only;
    --carried reads what it measured, and exits 1 unless PASS.
    """
    if pack is not None or carried is not None:
        return _away(things or [], pack, carried, as_json)
    from tavt_kit.verbs.bench_table import print_bench
    from tavt_kit.verbs.console_progress import ConsoleProgress
    from tavt_kit.workflows.bench import bench

    with ConsoleProgress() as progress:
        found = bench(
            things or (), target=target or (), schedule=schedule or (), weights=weights, data=data,
            precision=_precisions(precision), budget=budget or (), e2e=e2e, memory=memory, out=out, seed=seed,
            progress=progress, **read_settings("bench", settings),
        )  # fmt: skip
    if as_json:
        print(json.dumps({**found.record, "file": str(found.file)}))
    else:
        print_bench(found)
    return 0 if found.verdict is Verdict.PASS else 1


def _precisions(text: str | None) -> list[str]:
    """``f32,bf16`` -> both."""
    found = [] if text is None else [part.strip() for part in text.split(",")]
    if not all(found):
        raise ParameterError(f"`precision` is f32, f16, bf16 or int8, or several such as f32,bf16, got {text!r}")
    return found


def _away(things: list[str], pack: Path | None, carried: Path | None, as_json: bool) -> int:
    """A search's front on its way to the device, or back."""
    from tavt_kit.verbs.console_progress import ConsoleProgress
    from tavt_kit.verbs.front_view import print_front
    from tavt_kit.verbs.pack_view import print_pack
    from tavt_kit.workflows.carried import pack_front, settle

    run = Path(things[0] if things else "")
    if len(things) != 1 or not run.is_dir() or (pack and carried):
        raise ParameterError(
            f"--pack or --carried takes the run folder of one search, got {', '.join(things) or 'none'}"
            + (" and both flags" if pack and carried else "")
        )
    if carried is None:
        assert pack is not None
        with ConsoleProgress() as progress:
            packed = pack_front(run, pack, progress=progress)
        print_pack(packed, "bench.json", f"fgvc-kit bench {run} --carried bench.json", as_json)
        return 0
    settled = settle(run, carried)
    if as_json:
        print(json.dumps(settled.record))
    else:
        print_front(settled.record, place=run)
    return 0 if settled.verdict is Verdict.PASS else 1
