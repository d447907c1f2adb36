"""``fgvc-kit bench``: latency of models, schedules and exported files on a target, measured against one another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tavt_kit.core.command_line import command_line
from tavt_kit.core.parsing import parse_duration
from tavt_kit.verbs import options

if TYPE_CHECKING:
    from tavt_kit.bench.protocol import Protocol
    from tavt_kit.workflows.bench_measure import Plan
    from tavt_kit.workflows.bench_things import Opener

__all__ = ["bench_verb"]

Things = Annotated[
    list[str] | None,
    typer.Argument(metavar="[THING...]", help="Run folders, timm models' names, .onnx and .xml files."),
]
Read = Annotated[
    list[Path] | None,
    typer.Option("--read", help="Show what trtexec or benchmark_app measured, from its result file; repeat."),
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
ByLayer = Annotated[
    bool, typer.Option("--layers", help="Run each once more with a profile, and show its time by layer.")
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
Presets = Annotated[
    list[str] | None,
    typer.Option("--preset", help="Of a switchable file; repeat for several. [default: all that it names]"),
]
Executed = Annotated[
    bool,
    typer.Option(
        "--executed", help="Show the kernels that each file's products and attention ran as, and the slow ones."
    ),
]
MinTime = Annotated[float, typer.Option(min=0.0, help="Least seconds of timed runs for each candidate.")]
Batch = Annotated[str | None, typer.Option(metavar="N[,N...]", help="Images of one inference: one number, or several.")]
Threads = Annotated[str | None, typer.Option(metavar="N[,N...]", help="CPU threads: one number, or several.")]
Precisions = Annotated[
    str | None, typer.Option(metavar="P[,P...]", help="f32, f16, bf16 or int8; several with commas between them.")
]
Sizes = Annotated[
    str | None,
    typer.Option(metavar="N[,N...]", help="Pixels a side, of names and run folders: one number, or several."),
]
Budgets = Annotated[
    list[str] | None,
    typer.Option("--budget", help="latency=8ms, latency[e2e]=20ms, throughput=100/s, memory=300MB ...; repeat."),
]
EndToEnd = Annotated[
    bool, typer.Option("--e2e", help="Time the way from picture files too: decode, resize, normalise, infer.")
]
Pictures = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="The picture files of --e2e. [default: those of --data]")
]
Memory = Annotated[
    bool, typer.Option("--memory", help="Peak memory, of a fresh process for each candidate: seconds more for each.")
]
MeterFlag = Annotated[
    bool,
    typer.Option("--meters/--no-meters", help="This machine's own peak before (2 s), and energy after (2 s for each)."),
]
Mixed = Annotated[bool, typer.Option("--mixed", help="Measure candidates with different classes side by side.")]
MaxTime = Annotated[str, typer.Option(help="Most time for each candidate; unsteady if it is not sure by then.")]


def bench_verb(
    things: Things = None,
    read: Read = None,
    target: Targets = None,
    schedule: options.Schedules = None,
    preset: Presets = None,
    weights: options.Weights = None,
    data: options.Data = None,
    image_size: Sizes = None,
    precision: Precisions = None,
    batch: Batch = None,
    threads: Threads = None,
    score: options.Score = None,
    pool: options.Pool = None,
    reduction: options.Reduction = None,
    budget: Budgets = None,
    e2e: EndToEnd = False,
    pictures: Pictures = None,
    memory: Memory = False,
    meters: MeterFlag = True,
    mixed: Mixed = False,
    min_time: MinTime = 3.0,
    max_time: MaxTime = "60s",
    executed: Executed = False,
    layers: ByLayer = False,
    pack: Pack = None,
    carried: Carried = None,
    out: BenchOut = None,
    seed: options.Seed = 0,
    as_json: options.Json = False,
    config: options.Config = None,
) -> int:
    """Measure latency, all candidates interleaved in random order, and write bench.json with every sample.

    A run folder or a name is measured under each --schedule (dense by default) by the lean path, on torch or
    OpenVINO as it is, on onnxruntime through a temporary export. Targets take mode=compile or mode=graph (torch) and
    hint=throughput (OpenVINO). Lists in --batch, --threads, --precision and --image-size are combined, each with each.
    Ratios are paired with the first candidate. "MAC gain" is the share of the saving in multiply-adds that became
    time: (t_dense / t) / (MACs_dense / MACs). Images are random, or the first of --data. With --budget every
    candidate is judged by its own interval, and the exit code is 1 unless all PASS. With --read nothing is measured:
    latencies.json is written instead. --executed opens each exported file once more, after the measuring, and shows
    what its runtime made of it; --layers runs every candidate once more with a profile, and shows what each layer took.
    --pack writes the chosen and other schedules of a search, and a runner that needs numpy and the target's runtime
    only; --carried reads what it measured, and exits 1 unless PASS.
    """
    if pack is not None or carried is not None:
        from tavt_kit.verbs.bench_away import go_away

        return go_away(things or (), pack, carried, as_json)
    from tavt_kit.verbs.foreign import read_foreign

    if read or not things:
        return read_foreign(read or [], things or [], out, as_json=as_json)
    from tavt_kit.bench.judged import refuse_qualities
    from tavt_kit.core.budget import Budget
    from tavt_kit.workflows.bench_images import Inputs
    from tavt_kit.workflows.bench_layers import refuse_targets
    from tavt_kit.workflows.bench_measure import Plan
    from tavt_kit.workflows.bench_sweep import Sweep, warn_of_many
    from tavt_kit.workflows.bench_things import Opener, default_folder

    limits = Budget.parse(budget or ())
    refuse_qualities(limits)
    sweep = Sweep.parse(precision=precision, threads=threads, batch=batch, image_size=image_size)
    whole = e2e or pictures is not None or any(limit.statistic == "e2e" for limit in limits)
    plan = Plan(
        _protocol(min_time, max_time),
        limits,
        seed,
        whole,
        memory or bool(limits.of("memory")),
        meters,
        mixed,
        executed,
        layers,
    )
    inputs = Inputs(data, pictures, seed)
    opener = Opener(
        tuple(target or ()),
        sweep,
        tuple(schedule or ()),
        tuple(preset or ()),
        inputs,
        weights,
        score,
        pool,
        reduction,
        seed,
    )
    if layers:
        refuse_targets(sweep.targets(tuple(target or ())))
    warn_of_many(opener.number(things), plan.protocol)
    return _run(opener, things, plan, out or default_folder(things[0]), as_json)


def _protocol(min_time: float, max_time: str) -> Protocol:
    from tavt_kit.bench import Protocol

    most = parse_duration(max_time) or 60.0
    least = min(min_time, most)
    return Protocol(
        min_seconds=least, max_seconds=most, visit_seconds=min(0.3, least / 10), warmup_seconds=min(5.0, most)
    )


def _run(opener: Opener, things: Sequence[str], plan: Plan, out: Path, as_json: bool) -> int:
    """Measure, write, print; the exit code."""
    from tavt_kit.bench.record import SCHEMA, VERSION, bench_body
    from tavt_kit.core.host import HostFacts
    from tavt_kit.core.records import make_folder, write_record
    from tavt_kit.runtimes.available import accelerator_name
    from tavt_kit.verbs.bench_table import print_bench
    from tavt_kit.verbs.progress import watching
    from tavt_kit.workflows.bench_measure import measure

    folder = make_folder(out)
    with opener, watching("measuring") as tell:
        opened = opener.open_all(things, lambda name: tell(f"opening {name}", None))
        host = HostFacts.gather(next(filter(None, (accelerator_name(one.session.target) for one in opened)), None))
        taken = measure(opened, opener.inputs, plan, tell)
    body = bench_body(
        taken.rows, protocol=plan.protocol, inputs=opener.inputs.name, seed=plan.seed, host=host, meters=taken.meters
    )
    body["command"] = command_line()
    file = folder / "bench.json"
    write_record(file, SCHEMA, VERSION, body)
    if as_json:
        print(json.dumps({"schema": SCHEMA, "version": VERSION, "file": str(file), **body}))
    else:
        print_bench(taken, body, file)
    return 0 if all(found["verdict"] == "PASS" for row in body["candidates"] for found in row["budgets"]) else 1
