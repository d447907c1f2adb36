"""The seeds' own tables, remade on this machine: ViTAEv2's speeds, and TAVT's factors with both denominators.

    python examples/studies/seed_tables.py --out runs/seed-tables             # CPU, batch 1, f32
    python examples/studies/seed_tables.py --out runs/seed-tables --device cuda --batch 1,8,64 \\
        --mode eager,compile,graph --precision bf16

Networks are those of ``seed_models.py``, with random weights, in torch. All rows of a table are timed in one
interleaved run, once for each batch and mode; a ratio is paired by rounds. Memory is the peak of a fresh process that
makes one network and runs one batch, above that of a process that has only imported everything (on CUDA the peak of
torch's allocator). Multiply-adds are counted by tracing one image. A row that a machine cannot run (no
memory left, nothing that compiles) is told as such. What is done is not done again; the tables are printed and written
to ``seed_tables.md``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from seed_models import Table, tavt_table, vitaev2_table
from seed_pages import page

from tavt_kit.bench import Protocol, bench, random_images
from tavt_kit.bench.memory import memory_mark
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.host import HostFacts
from tavt_kit.core.records import SCHEMAS, atomic_text, make_folder, read_record, write_record
from tavt_kit.errors import RecordError, TargetError, TavtError
from tavt_kit.models.costs import count_pass
from tavt_kit.runtimes import check_available, open_module
from tavt_kit.runtimes.out_of_memory import is_out_of_memory
from tavt_kit.runtimes.torch_session import placed, torch_device

SCHEMAS["seed-table"] = 1
MODES = ("eager", "compile", "graph")


def timed(table: Table, target: TargetDevice, mode: str, given: argparse.Namespace) -> dict[str, Any]:
    """Times of all rows that run, and why the others do not."""
    sessions, images, refused = {}, {}, {}
    for row, (size, make) in table.items():
        say(f"opening {row}, batch {target.batch}, {mode}")
        torch.manual_seed(0)
        one = random_images((target.batch, 3, size, size), np.random.default_rng(0))
        try:
            session = open_module(make(), replace(target, mode=mode), one.shape)
            session(one)
            sessions[row], images[row] = session, one
        except (RuntimeError, MemoryError, TargetError) as error:
            refused[row] = reason(error)
            say(f"{row} does not run: {refused[row]}")
    protocol = Protocol(min_seconds=min(1.0, given.max_seconds), max_seconds=given.max_seconds, min_runs=12,
                        visit_runs=2)  # fmt: skip
    found = bench(sessions, images, protocol, on_round=lambda spent, unsure: say(f"{spent:.0f} s, {len(unsure)} left"))
    times = {row: measurement.as_record() for row, measurement in found.items()}
    return {"times": times, "refused": refused, "host": HostFacts.gather().as_record()}


def reason(error: Exception) -> str:
    """Why a row does not run; an error that is neither of memory nor of a compiler is ours."""
    if is_out_of_memory(error):
        return "memory ran out"
    if isinstance(error, TargetError):
        return str(error)
    raise error


def memory(name: str, row: str | None, target: TargetDevice, given: argparse.Namespace) -> dict[str, Any]:
    """Peak MB of a fresh process that runs a row once (``None``: that only imports)."""
    own = ["--only", name, row or "", "--batch", str(target.batch)]
    shared = ["--out", str(given.out), "--device", given.device, "--precision", given.precision, "--taper",
              str(given.taper), "--size", str(given.size), "--threads", str(given.threads), "--sizes", given.sizes,
              "--vit", given.vit]  # fmt: skip
    done = subprocess.run([sys.executable, __file__, *own, *shared], capture_output=True, text=True)
    if done.returncode:
        return {"refused": (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]}
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def only(table: Table, row: str, target: TargetDevice) -> dict[str, float]:
    """Of this process: peak MB after one pass of a row, or of nothing."""
    if row:
        size, make = table[row]
        module = placed(make(), target)
        images = torch.randn(target.batch, 3, size, size).to(torch_device(target), next(module.parameters()).dtype)
        with torch.inference_mode():
            module(images)
    if not target.is_cpu:
        return {"mb": torch.cuda.max_memory_allocated() / 1e6}
    return {"mb": memory_mark("VmHWM") / 1e6}


def macs(table: Table) -> dict[str, int]:
    """Of each row, one image."""
    found = {}
    for row, (size, make) in table.items():
        say(f"counting {row}")
        with torch.inference_mode():
            found[row] = count_pass(make(), torch.zeros(1, 3, size, size))
    return found


def part(file: Path, asked: Mapping[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A record that is made once.

    Raises:
        RecordError: It was made by other flags.
    """
    if not file.exists():
        write_record(file, "seed-table", {"asked": dict(asked), **make()})
    body = read_record(file, "seed-table")
    if body["asked"] != dict(asked):
        raise RecordError(f"{file} was made with {body['asked']}, not {dict(asked)}; choose another --out")
    return body


def study(given: argparse.Namespace) -> None:
    make_folder(given.out)
    tables = {"vitaev2": vitaev2_table(sizes_of(given)), "tavt": tavt_table(given.size, given.taper, given.vit)}
    pages = []
    for name, table in tables.items():
        asked = {"rows": list(table), "taper": given.taper, "threads": given.threads, "precision": given.precision}
        counted = part(
            given.out / f"{name}-macs.json", {"rows": list(table)}, lambda table=table: {"macs": macs(table)}
        )
        for batch in map(int, given.batch.split(",")):
            target = target_of(given, batch)
            kept = memories(name, table, target, given, asked)
            for mode in given.mode.split(","):
                file = given.out / f"{name}-{given.device}-{batch}-{mode}.json"
                body = part(file, {**asked, "seconds": given.max_seconds},
                            lambda t=table, d=target, m=mode: timed(t, d, m, given))  # fmt: skip
                title = f"{name}, {given.device} {given.precision}, batch {batch}, {mode}"
                pages.append(page(name, title, body, counted["macs"], kept))
    atomic_text(given.out / "seed_tables.md", "\n".join(pages))
    print("\n".join(pages))


def memories(
    name: str, table: Table, target: TargetDevice, given: argparse.Namespace, asked: Mapping[str, Any]
) -> dict[str, Any]:
    """Of every row at a batch, and of a process that runs none."""

    def make() -> dict[str, Any]:
        found = {}
        for row in (None, *table):
            say(f"memory of {row or 'no network'}, batch {target.batch}")
            found[row or ""] = memory(name, row, target, given)
        return {"memory": found}

    return dict(part(given.out / f"{name}-{given.device}-{target.batch}-memory.json", asked, make)["memory"])


def target_of(given: argparse.Namespace, batch: int) -> TargetDevice:
    threads = given.threads if given.device == "cpu" else None
    target = TargetDevice("torch", given.device, threads=threads, precision=given.precision, batch=batch)
    check_available(target)
    return target.resolved()


def sizes_of(given: argparse.Namespace) -> tuple[int, ...]:
    return tuple(map(int, given.sizes.split(",")))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    given = arguments()
    try:
        if given.only is not None:
            name, row = given.only
            tables = {"vitaev2": lambda: vitaev2_table(sizes_of(given)),
                      "tavt": lambda: tavt_table(given.size, given.taper, given.vit)}  # fmt: skip
            target = target_of(given, int(given.batch))
            torch.set_num_threads(given.threads)
            print(json.dumps(only(tables[name](), row, target)))
        else:
            study(given)
    except TavtError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/seed-tables"))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", default="1", help="1,8,64")
    parser.add_argument("--mode", default="eager", help=",".join(MODES))
    parser.add_argument("--precision", choices=("f32", "bf16", "f16"), default="f32")
    parser.add_argument("--sizes", default="224,448,896", help="of ViTAEv2's table")
    parser.add_argument("--size", type=int, default=448, help="of TAVT's")
    parser.add_argument("--vit", default="base_patch16", help="of TAVT's")
    parser.add_argument("--taper", type=float, default=0.2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-seconds", type=float, default=60.0, help="of timed runs for each row")
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if wrong := sorted(set(given.mode.split(",")) - set(MODES)):
        parser.error(f"--mode is {', '.join(MODES)}, several separated by commas, got {', '.join(wrong)}")
    if "graph" in given.mode.split(",") and given.device == "cpu":
        parser.error("a CUDA graph needs --device cuda")
    for flag in ("batch", "sizes"):
        if not all(text.isdecimal() and int(text) for text in getattr(given, flag).split(",")):
            parser.error(f"--{flag} takes whole numbers above 0, separated by commas, got {getattr(given, flag)}")
    return given


if __name__ == "__main__":
    sys.exit(main())
