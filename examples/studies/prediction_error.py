"""How far are predicted latencies off? Held-out random schedules, cell by cell: a model at a size, on a target.

    python examples/studies/prediction_error.py --out runs/prediction             # every cell that this machine has
    python examples/studies/prediction_error.py --out runs/prediction --only onnxruntime --threads 2

For each cell the latency table is built, then random schedules that had no part in it are predicted and measured end
to end beside the dense model, whose own change of speed since the table was built is taken out ("drift"; the worst
error with it is printed too). Weights are random: they change no time. Each cell's ``profile.json`` stays in a folder
of its own, and a cell that has one is not measured again. Leave the machine alone meanwhile. The goal: 2 % in the mean,
5 % at worst, and a table of ViT-S in at most 60 s.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tavt_kit.bench.latency_table import check_table, measure_table
from tavt_kit.checkpoints import open_model
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.latency_table import LatencyTable
from tavt_kit.core.records import make_folder, read_record, write_record
from tavt_kit.errors import MissingDependency, TargetError
from tavt_kit.models.wrap import AdaptiveViT
from tavt_kit.runtimes import check_available

PROFILE = "profile.json"
MODELS = {"vit_small_patch16_224": (224, 50), "vit_base_patch16_224": (448, 12)}
"""Model -> image size, and how many schedules are held out."""

TARGETS = (
    "torch:cpu", "torch:cpu:precision=bf16", "onnxruntime:cpu", "onnxruntime:cpu:precision=int8", "openvino:cpu",
    "openvino:cpu:precision=bf16", "openvino:cpu:precision=int8", "torch:cuda", "torch:cuda:precision=bf16",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cell:
    """One row: a model at an image size, on a target, tested on so many schedules."""

    model: str
    size: int
    target: TargetDevice
    held_out: int

    @property
    def folder(self) -> str:
        """Where its profile.json lies."""
        return f"{self.model}@{self.size}_{str(self.target).replace(':', '_')}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, help="of CPU targets; all by default")
    parser.add_argument("--only", action="append", default=[], help="cells whose name holds this text; repeatable")
    parser.add_argument("--held-out", type=int, help="schedules, instead of 50 and 12")
    parser.add_argument("--again", action="store_true", help="tables anew, against the recorded held-out schedules")
    parser.add_argument("--model", help="another model than ViT-S/16 and ViT-B/16, with --image-size")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--max-time", type=float, default=60.0, help="seconds to aim for, for each table")
    given = parser.parse_args()
    rows = []
    for cell in cells(given):
        if any(text not in cell.folder for text in given.only):
            continue
        try:
            check_available(cell.target)
        except (TargetError, MissingDependency) as error:
            print(f"left out: {error}", file=sys.stderr, flush=True)
            continue
        table = table_of(cell, make_folder(given.out / cell.folder), given.max_time)
        rows.append((cell, built_again(cell, table, given.max_time) if given.again else table))
        print(row(*rows[-1]), file=sys.stderr, flush=True)
    report(rows)


def cells(given: argparse.Namespace) -> list[Cell]:
    models = MODELS if given.model is None else {given.model: (given.image_size, 12)}
    threads = "" if given.threads is None else f":threads={given.threads}"
    targets = [TargetDevice.parse(text + (threads if ":cpu" in text else "")).resolved() for text in TARGETS]
    return [
        Cell(name, size, target, given.held_out or count)
        for name, (size, count) in models.items()
        for target in targets
    ]


def table_of(cell: Cell, folder: Path, seconds: float) -> LatencyTable:
    """The cell's table with its held-out schedules, from an earlier run or measured now."""
    if (folder / PROFILE).is_file():
        return LatencyTable.from_record(read_record(folder / PROFILE, "profile"))
    model, table = built(cell, seconds)
    table = check_table(table, model, count=cell.held_out, rng=np.random.default_rng(1), on_step=say(cell))
    write_record(folder / PROFILE, "profile", table.as_record())
    return table


def built(cell: Cell, seconds: float) -> tuple[AdaptiveViT, LatencyTable]:
    """The model and a table of it, measured now."""
    model = open_model(cell.model, weights="random", image_size=cell.size).eval()
    table = measure_table(model, cell.target, name=cell.model, seconds=seconds,
                          rng=np.random.default_rng(0), on_step=say(cell))  # fmt: skip
    return model, table


def built_again(cell: Cell, known: LatencyTable, seconds: float) -> LatencyTable:
    """A table measured now, held against the recorded ratios of held-out schedules to the dense model."""
    _, table = built(cell, seconds)
    assert known.dense_ms is not None and table.dense_ms is not None
    moved = known.dense_ms / table.dense_ms
    held_out = (
        replace(run, predicted_ms=table.predict(run.schedule), drift=run.drift * moved) for run in known.held_out
    )
    return replace(table, held_out=tuple(held_out))


def say(cell: Cell) -> Callable[[str, float], None]:
    """Tells on stderr what begins."""
    said = list[str]()

    def tell(step: str, share: float) -> None:
        if step not in said:
            said.append(step)
            print(f"{cell.folder}: {step}", file=sys.stderr, flush=True)

    return tell


def row(cell: Cell, table: LatencyTable) -> str:
    errors = [run.error for run in table.held_out]
    raw = max(abs(run.raw_error) for run in table.held_out)
    unsteady = sum(not run.steady for run in table.held_out)
    cached = f"{table.scale:.3f} | {100 * table.cached:.0f} %"
    return (
        f"| {cell.model}@{cell.size} | {cell.target} | {len(errors)} | {100 * (table.mean_error or 0):.2f} % | "
        f"{100 * (table.worst_error or 0):.2f} % | {100 * np.mean(errors):+.2f} % | {100 * raw:.1f} % | {unsteady} | "
        f"{cached} | {table.seconds:.0f} |"
    )


def report(rows: Sequence[tuple[Cell, LatencyTable]]) -> None:
    print(
        "| model | target | schedules | mean | worst | bias | worst with drift | unsteady | scale | cached | build, s |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for cell, table in rows:
        print(row(cell, table))
    hosts = {str(table.host) for _, table in rows}
    print("\n" + json.dumps(sorted(hosts), ensure_ascii=False))


if __name__ == "__main__":
    main()
