"""What merging costs in time beside dropping at equal counts: three layers, on CPU runtimes, in f32 and int8.

    python examples/studies/merge_costs.py --out runs/costs --run runs/elpv --data elpv                 # writes files
    python examples/studies/merge_costs.py --out runs/costs --run runs/elpv --data elpv --step bench    # in quiet

The run is a ViT's with patches of 14 pixels; its weights are taken at 112, 196 and 392 pixels: 65, 197 and 785
tokens, as time hardly depends on them. Three layers each keep 70 %. All files of a size take turns in one bench. The
floor is what merging multiplies more, at the rate of the fastest product in f32 that this machine was seen to make.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tavt_kit.checkpoints import load_model
from tavt_kit.core.records import atomic_text
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data import load_images
from tavt_kit.exporters.options import Form, Int8Options, Plan
from tavt_kit.exporters.writer import Writer
from tavt_kit.models.flops import count_macs
from tavt_kit.workflows.bench import bench

SIZES = {112: "65x3,46x3,33x3,24x3", 196: "197x3,138x3,97x3,68x3", 392: "785x3,550x3,385x3,270x3"}
FORMATS = ("openvino", "onnx")
PRECISIONS = ("f32", "int8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True, help="a trained run")
    parser.add_argument("--data", required=True, help="images that calibrate int8")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-time", default="10s", help="for each file")
    parser.add_argument("--step", choices=["write", "bench"], default="write")
    given = parser.parse_args()
    for size, schedule in SIZES.items():
        folder = given.out / str(size)
        if given.step == "write":
            write(given, folder, size, schedule)
    if given.step == "bench":
        body = [measured(given, given.out / str(size)) for size in SIZES]
        record = {"study": "merge_costs", "schedules": list(SIZES.values()), "sizes": body}
        atomic_text(given.out / "merge-costs.json", json.dumps(record, indent=1) + "\n")


def write(given: argparse.Namespace, folder: Path, size: int, schedule: str) -> None:
    """The files of a size, by names that say what each is, and their multiply-adds."""
    folder.mkdir(parents=True, exist_ok=True)
    images, macs = load_images(given.data), {}
    for what, text, reduction in (("dense", "dense", "drop"), ("drop", schedule, "drop"), ("merge", schedule, "merge")):
        model = load_model(given.run, image_size=size)
        model.reduction = reduction
        counts = TokenSchedule.parse(text, model.layout)
        macs[what] = count_macs(model, counts)
        writer = Writer(model, {what: counts}, images, Plan(calibrate=20, int8=Int8Options("nncf", "off")))
        for format in FORMATS:
            for precision in PRECISIONS:
                path = named(folder, what, format, precision)
                if not path.is_file():
                    print(path, flush=True)
                    writer.write(Form(format, precision, what), folder)
    atomic_text(folder / "macs.json", json.dumps(macs) + "\n")


def named(folder: Path, what: str, format: str, precision: str) -> Path:
    return folder / Form(format, precision, what).file


def measured(given: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Medians of each round; all files of a size and a runtime take turns."""
    rows, words = [], set()
    for format, runtime in (("openvino", "openvino"), ("onnx", "onnxruntime")):
        asked = [(what, precision) for precision in PRECISIONS for what in ("dense", "drop", "merge")]
        shutil.rmtree(folder / runtime, ignore_errors=True)
        record = bench(
            [named(folder, what, format, precision) for what, precision in asked],
            target=f"{runtime}:cpu:threads={given.threads}",
            max_time=given.max_time,
            out=folder / runtime,
        ).record
        words.add(record["noise"]["word"])
        for (what, precision), one in zip(asked, record["candidates"], strict=True):
            latency = one["latency_ms"]
            rows.append({
                "what": what, "runtime": runtime, "precision": precision, "median": latency["median"],
                "steady": latency["steady"], "rounds": by_round(latency),
            })  # fmt: skip
    macs = json.loads((folder / "macs.json").read_text())
    about = {"host": record["host"], "threads": given.threads, "gflops": peak(given.threads), "macs": macs}
    return {"pixels": int(folder.name), **about, "noise": " and ".join(sorted(words)), "rows": rows}


def peak(threads: int, rows: int = 1024) -> float:
    """1e9 additions and multiplications a second in the fastest of fifty square products by torch, in f32."""
    torch.set_num_threads(threads)
    left, right = torch.rand(rows, rows), torch.rand(rows, rows)
    times = []
    for _ in range(50):
        begin = time.perf_counter()
        left @ right
        times.append(time.perf_counter() - begin)
    return 2e-9 * rows**3 / min(times)


def by_round(latency: Mapping[str, Any]) -> list[float]:
    """The median of each round, in ms."""
    ends = np.cumsum(latency["rounds"])[:-1]
    return [float(np.median(part)) for part in np.split(latency["samples"], ends)]


if __name__ == "__main__":
    main()
