"""``fgvc-kit bench``: latency of models, schedules and exported files on a target, measured against one another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tavt_kit.verbs import options

if TYPE_CHECKING:
    from tavt_kit.bench.protocol import Protocol
    from tavt_kit.bench.record import Benched

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
MaxTime = Annotated[str, typer.Option(help="Most time for each candidate; unsteady if it is not sure by then.")]


def bench_verb(
    things: Things = None,
    read: Read = None,
    target: Targets = None,
    schedule: options.Schedules = None,
    preset: Presets = None,
    weights: options.Weights = None,
    data: options.Data = None,
    image_size: options.ImageSize = None,
    precision: options.Precision = None,
    score: options.Score = None,
    pool: options.Pool = None,
    min_time: MinTime = 3.0,
    max_time: MaxTime = "60s",
    executed: Executed = False,
    pack: Pack = None,
    carried: Carried = None,
    out: BenchOut = None,
    seed: options.Seed = 0,
    as_json: options.Json = False,
    config: options.Config = None,
) -> int:
    """Measure latency, all candidates interleaved in random order, and write bench.json with every sample.

    A run folder or a name is measured under each --schedule (dense by default) by the lean path, on torch or
    OpenVINO as it is, on onnxruntime through a temporary export. Ratios are paired with the first candidate.
    "MAC gain" is the share of the saving in multiply-adds that became time: (t_dense / t) / (MACs_dense / MACs).
    Images are random, or the first of --data. With --read nothing is measured: latencies.json is written instead.
    --executed opens each exported file once more, after the measuring, and shows what its runtime made of it.
    --pack writes the chosen and other schedules of a search, and a runner that needs numpy and the target's runtime
    only; --carried reads what it measured, and exits 1 unless PASS.
    """
    if pack is not None or carried is not None:
        return _away(things or (), pack, carried, as_json)
    from tavt_kit.bench import Protocol
    from tavt_kit.bench.record import SCHEMA, VERSION, bench_body
    from tavt_kit.host import HostFacts
    from tavt_kit.records import make_folder, write_record
    from tavt_kit.verbs.bench_things import Opener, default_folder
    from tavt_kit.verbs.foreign import read_foreign

    if read or not things:
        return read_foreign(read or [], things or [], out, as_json=as_json)
    folder = make_folder(out or default_folder(things[0]))
    most = options.parse_duration(max_time) or 60.0
    least = min(min_time, most)
    protocol = Protocol(min_seconds=least, max_seconds=most, visit_seconds=min(0.3, least / 10))
    opener = Opener(
        tuple(target or ()),
        tuple(schedule or ()),
        tuple(preset or ()),
        weights,
        data,
        image_size,
        precision,
        score,
        pool,
        seed,
    )
    host = HostFacts.gather()
    rows = _measure(opener, things, protocol, seed, executed)
    body = bench_body(rows, protocol=protocol, inputs=opener.inputs, seed=seed, host=host)
    write_record(folder / "bench.json", SCHEMA, VERSION, body)
    if as_json:
        print(json.dumps({"schema": SCHEMA, "version": VERSION, "file": str(folder / "bench.json"), **body}))
    else:
        _print(body, rows, folder / "bench.json")
    return 0


def _away(things: Sequence[str], pack: Path | None, carried: Path | None, as_json: bool) -> int:
    """A search's front on its way to the device, or back."""
    from tavt_kit.verbs.carried import settle
    from tavt_kit.verbs.front_view import print_front

    run = Path(things[0])
    if len(things) > 1 or not run.is_dir() or (pack and carried):
        raise options.BadOption(
            f"--pack or --carried takes the run folder of one search, got {', '.join(things)}"
            + (" and both flags" if pack and carried else "")
        )
    if carried is None:
        assert pack is not None
        return _write_pack(run, pack, as_json)
    body = settle(run, carried)
    if as_json:
        print(json.dumps(body))
    else:
        print_front(body, place=run)
    return 0 if body["verdict"] == "PASS" else 1


def _write_pack(run: Path, pack: Path, as_json: bool) -> int:
    from tavt_kit.bench.pack import pack_passes, refuse_live
    from tavt_kit.checkpoints import load_model
    from tavt_kit.device import TargetDevice
    from tavt_kit.records import make_folder
    from tavt_kit.verbs.carried import front_schedules, read_front
    from tavt_kit.verbs.profile import say_packed
    from tavt_kit.verbs.progress import watching

    body = read_front(run)
    target = TargetDevice.from_record(body["target"])
    refuse_live(target)
    make_folder(pack.parent)
    model = load_model(run).eval()
    card: Any = model.card
    with watching("packing") as tell:
        digest = pack_passes(
            model,
            target,
            front_schedules(body),
            pack,
            thing=str(run),
            name=card.name,
            on_part=lambda what: tell(f"converting {what}", None),
        )
    say_packed(pack, digest, "bench.json", f"fgvc-kit bench {run} --carried bench.json", target.runtime, as_json)
    return 0


def _measure(opener: Any, things: Sequence[str], protocol: Protocol, seed: int, executed: bool) -> list[Benched]:
    """Open everything, then measure all of it together; what ran is looked at after that."""
    import numpy as np

    from tavt_kit.bench import bench
    from tavt_kit.bench.record import Benched
    from tavt_kit.verbs.progress import watching

    with opener, watching("measuring") as tell:
        opened = opener.open_all(things, lambda name: tell(f"opening {name}", None))
        images = {one.name: one.images for one in opened}
        found = bench(
            {one.name: one.session for one in opened},
            images,
            protocol,
            rng=np.random.default_rng(seed),
            on_round=lambda seconds, unsure: tell(f"measuring, {len(unsure)} of {len(opened)} not sure yet", None),
        )
        tell("looking at what ran", None)
        return [
            Benched(
                one.name,
                one.thing,
                one.session.target,
                found[one.name],
                one.schedule,
                one.macs,
                one.size_bytes,
                one.executed() if executed else None,
            )
            for one in opened
        ]


def _print(body: dict[str, Any], rows: Sequence[Benched], file: Path) -> None:
    from rich.markup import escape
    from rich.table import Table

    from tavt_kit.host import HostFacts
    from tavt_kit.verbs.console import console_of

    console = console_of(140)
    table = Table(show_edge=False)
    table.add_column("candidate", overflow="fold", min_width=16)
    for title in ("median", "p90", "images/s", "GMACs", "ratio", "MAC gain"):
        table.add_column(title, justify="right", no_wrap=True)
    for one, row in zip(rows, body["candidates"], strict=True):
        table.add_row(
            escape(one.name),
            escape(str(one.measurement).split(" (n=")[0]),
            f"{one.measurement.p90:.3g} ms",
            f"{one.throughput:.3g}",
            "" if one.macs is None else f"{one.macs / 1e9:.3g}",
            _with_interval(row["ratio"], 1, "x"),
            "" if row["gain_share"] is None else _with_interval(row["gain_share"], 100, " %"),
        )
    console.print(table)
    targets = ", ".join(dict.fromkeys(str(one.target) for one in rows))
    console.print(escape(f"{targets}; ratio: time of {body['reference']} over this one's"), highlight=False)
    for one in rows:
        if one.executed is not None:
            console.print(escape(f"{one.name} ran {one.executed}"), highlight=False)
    console.print(escape(f"{HostFacts.from_record(body['host'])}; inputs: {body['inputs']}; {file}"), highlight=False)


def _with_interval(ratio: dict[str, Any], factor: float, unit: str) -> str:
    value, low, high = (f"{factor * ratio[key]:.3g}" for key in ("value", "low", "high"))
    return f"{value}{unit}" if low == high else f"{value}{unit} [{low}, {high}]"
