"""The steps of ``gpu.py``: one process reads their names, makes them by the kit's workflows, and answers in JSON."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
ROOT = HERE.parents[1]
TAPER = "taper:0.2"
HELD_OUT = 20
F32_TOLERANCE, BF16_TOLERANCE = 1e-3, 5e-2
"""Of the largest logit."""

SHARE = 0.75
"""Of the images that f32 keeps to it where tokens leave: of two near ties another one may stay, which rightly changes
an image's logits. In bf16 that happens to many, so there only the dense model is held to it, on every image."""


@dataclass
class Answer:
    """What a step found.

    Args:
        record: For ``gpu.json``.
        lines: For the summary.
        mocked: What stood in for something that only CUDA has, or was left out.
    """

    record: Any
    lines: list[str] = field(default_factory=list)
    mocked: list[str] = field(default_factory=list)


class Steps:
    """See the module.

    Args:
        device: ``cuda`` or ``cpu``; on the latter all is small.
        out: Folder of the results.
    """

    def __init__(self, device: str, out: Path) -> None:
        self.device, self.out, self.is_cuda = device, out, device == "cuda"
        self.base, self.large = (
            ("vit_base_patch16_224", "vit_large_patch16_224") if self.is_cuda else ("vit_tiny_patch16_224",) * 2
        )
        self.seconds = 1.0 if self.is_cuda else 0.1

    def size(self, pixels: int) -> int:
        return pixels if self.is_cuda else pixels // 7

    def batch(self, images: int) -> int:
        return images if self.is_cuda else {1: 1, 8: 2, 64: 4}[images]

    def target(self, precision: str = "bf16", images: int = 8, mode: str = "eager") -> str:
        place = "torch:cuda:0" if self.is_cuda else "torch:cpu:threads=1"
        return f"{place}:precision={precision}:batch={self.batch(images)}:mode={mode}"

    def model(self, name: str, pixels: int, reduction: str = "drop", schedule: str = "dense") -> Any:
        """Random weights by a seed, with peaked attention, so that it matters which tokens are kept."""
        from tavt_kit.checkpoints import open_model

        model = open_model(name, weights="random", image_size=self.size(pixels), seed=0, reduction=reduction).eval()
        with torch.no_grad():
            for block in model.bare.blocks:
                block.attn.qkv.weight.mul_(3)
            model.bare.head.weight.normal_(0, 0.05, generator=torch.Generator().manual_seed(0))
        model.schedule = schedule
        return model

    def three(self, name: str, pixels: int) -> list[Any]:
        """Dense, dropping and merging, of the same weights."""
        found = [self.model(name, pixels)]
        for reduction in ("drop", "merge"):
            found.append(found[0].again())
            found[-1].reduction, found[-1].schedule = reduction, TAPER
        return found

    def images(self, pixels: int, images: int) -> Tensor:
        size, generator = self.size(pixels), torch.Generator().manual_seed(1)
        return torch.randn(self.batch(images), 3, size, size, generator=generator)

    @cached_property
    def peaks(self) -> Any:
        from tavt_kit.bench.peaks import measure_peaks
        from tavt_kit.core.device import TargetDevice

        how: Mapping[str, Any] = {} if self.is_cuda else {"size": 256}
        return measure_peaks(TargetDevice.parse(self.target()), seconds=self.seconds, runtimes=("torch",), **how)

    def make(self, name: str) -> Answer:
        """A step by its name; a bench names its model, size, precision and batch."""
        if name.startswith("bench "):
            model, pixels, precision, batch, *more = name.split()[1:]
            return self.bench(model, int(pixels), precision, int(batch[1:]), bool(more))
        answer: Answer = getattr(self, name)()
        return answer

    def facts(self) -> Answer:
        from tavt_kit.workflows.doctor import doctor

        found = doctor(fast=True).record
        told = {"torch": torch.__version__, "cuda": torch.version.cuda, "doctor": found,
                "peaks": self.peaks.as_record()}  # fmt: skip
        lines = [f"torch {torch.__version__}, CUDA {torch.version.cuda}, Python {sys.version.split()[0]}"]
        if self.is_cuda:
            told["properties"] = str(torch.cuda.get_device_properties(0))
            lines.append(told["properties"])
        speeds = ", ".join(f"{name} {speed / 1e3:.3g} TFLOP/s" for name, speed in self.peaks.gflops.items())
        lines += [f"peaks: {speeds}; copy {self.peaks.copy_gbs:.3g} GB/s"]
        lines += [f"missing: {one['what']}" for one in found["findings"]]
        return Answer(told, lines, self.named("the device's properties and peaks: those of this CPU"))

    def named(self, *texts: str) -> list[str]:
        """What a dry run says of itself."""
        return [] if self.is_cuda else list(texts)

    def tests(self) -> Answer:
        files = [str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-o", "filterwarnings=", "-p", "no:cacheprovider",
                   "--continue-on-collection-errors", "-rfE", *files]  # fmt: skip
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        said = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        last = (done.stdout.strip().splitlines() or [done.stderr[-200:]])[-1]
        record = {"exit": done.returncode, "last": last, "failed": said, "output": done.stdout[-20000:]}
        return Answer(record, [last, *said], self.named("the tests marked gpu: all are skipped without CUDA"))

    def parity(self) -> Answer:
        """Logits and kept tokens, CPU in f32 against the device."""
        import copy

        rows = list[dict[str, Any]]()
        x = self.images(448, 8)
        device = torch.device(self.device)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        for model in self.three(self.base, 448):
            with torch.inference_mode():
                expected, kept = model.forward_kept(x)
            for dtype, tolerance in ((torch.float32, F32_TOLERANCE), (torch.bfloat16, BF16_TOLERANCE)):
                there = copy.deepcopy(model).to(device, dtype)
                with torch.inference_mode():
                    lean = there.forward_lean(x.to(device, dtype)).float().cpu()
                    logits, places = there.forward_kept(x.to(device, dtype))
                same = torch.stack([(a == b.cpu()).all(1) for a, b in zip(kept, places, strict=True)]).all(0)
                largest = expected.abs().max()
                off = [(one - expected).abs().amax(1) / largest for one in (logits.float().cpu(), lean)]
                within = min(float((one <= tolerance).float().mean()) for one in off)
                is_dense = model.schedule == model.dense_schedule
                wanted = 1.0 if is_dense else SHARE if dtype == torch.float32 else 0.0
                row = {"reduction": "dense" if is_dense else model.reduction, "dtype": str(dtype)[6:],
                       "difference": float(off[0].max()), "lean_difference": float(off[1].max()),
                       "tolerance": tolerance, "within": within, "wanted": wanted, "ok": within >= wanted,
                       "same_tokens": float(same.float().mean())}  # fmt: skip
                rows.append(row)
        lines = [
            f"{row['reduction']:5} {row['dtype']:8} off by {row['difference']:.1e}, lean {row['lean_difference']:.1e} "
            f"of the largest logit; {100 * row['within']:.0f} % of the images within {row['tolerance']:g} "
            f"({100 * row['wanted']:.0f} % wanted), {100 * row['same_tokens']:.0f} % keep the same tokens"
            for row in rows
        ]
        if not all(row["ok"] for row in rows):
            raise AssertionError("; ".join(lines))
        return Answer(rows, lines, self.named("CUDA's side: this CPU again"))

    def bench(self, kind: str, pixels: int, precision: str, images: int, compiles: bool) -> Answer:
        """Dense, drop and merge, in each mode, by the kit's own interleaved protocol."""
        from tavt_kit.workflows.bench import bench

        name = self.base if kind == "base" else self.large
        mocked = self.named(f"{name} at {self.size(pixels)} px, batch {self.batch(images)}, on this CPU")
        if not self.is_cuda and (compiles or images != 8):
            why = "torch.compile, a minute a point here" if compiles else f"batch {images}, the same code as batch 8"
            return Answer(None, mocked=[f"skipped on a CPU: {why}"])
        modes = ("compile",) if compiles else ("eager", "graph") if self.is_cuda else ("eager",)
        if not self.is_cuda:
            mocked += ["CUDA graphs: skipped", *(["f16: bf16 instead"] if precision == "f16" else [])]
            precision = "bf16"
        some = self.three(name, pixels)
        with tempfile.TemporaryDirectory() as folder:
            found = bench(
                some[:2] if compiles else some,
                target=[self.target(precision, images, mode) for mode in modes],
                min_time=self.seconds / 2, max_time=2 * self.seconds, meters=kind == "base" and pixels == 448,
                out=folder,
            )  # fmt: skip
        lines = []
        for row, one in zip(found.record["candidates"], found.rows, strict=True):
            ratio, gain, joules = row["ratio"], row["gain_share"], (row["energy"] or {}).get("joules")
            share = None if one.gflops is None else self.peaks.share(one.gflops, precision)
            lines.append(
                f"{one.name[-48:]:48} {one.latency.median:8.3f} ms {one.throughput:7.0f}/s x{ratio['value']:.2f} "
                f"gain {'-' if gain is None else format(100 * gain['value'], '.0f')} % "
                f"peak {'-' if share is None else format(100 * share, '.0f')} % "
                f"{'-' if joules is None else format(joules, '.3g')} J{'' if one.latency.steady else ' unsteady'}"
            )
        return Answer(dict(found.record), lines, mocked)

    def memory(self) -> Answer:
        """The most that a pass needs beside weights and images: ours, and one as TAVT's official code makes it."""
        from reference_step import ReferenceViT

        device, found = torch.device(self.device), dict[str, float]()
        dense, drop, merge = (one.to(device, torch.bfloat16) for one in self.three(self.base, 448))
        reference = ReferenceViT(dense.bare).to(device, torch.bfloat16).eval()
        x = self.images(448, 64).to(device, torch.bfloat16)
        passes = {
            "official dense": lambda: reference(x, None),
            "official drop": lambda: reference(x, drop.schedule.counts),
            "dense": lambda: dense.forward_lean(x),
            "drop": lambda: drop.forward_lean(x),
            "merge": lambda: merge.forward_lean(x),
        }
        for name, run in passes.items():
            if self.is_cuda:
                torch.cuda.synchronize()
                torch.cuda.empty_cache()
                before = torch.cuda.memory_allocated()
                torch.cuda.reset_peak_memory_stats()
            with torch.inference_mode():
                run()
            if self.is_cuda:
                found[name] = (torch.cuda.max_memory_allocated() - before) / 1e6
        if not self.is_cuda:
            return Answer(list(passes), mocked=["torch's CUDA allocator: the passes ran, nothing was read"])
        lines = [f"{name}: {mb:.0f} MB" for name, mb in found.items()]
        return Answer(found, [*lines, f"official drop / drop: {found['official drop'] / found['drop']:.2f} (goal 5.5)"])

    def distillation(self) -> Answer:
        """A step of ours against one as TAVT's official loop makes it."""
        small = ["--image-size", "32", "--batch", "2", "--pairs", "1", "--threads", "1"]
        how = ["--image-size", "448", "--batch", "16", "--pairs", "5"] if self.is_cuda else small
        found = self.study(
            "distill_step.py", "--model", self.base, "--device", self.device, "--precision", "bf16", *how
        )
        record = json.loads(found)
        share = record["memory"]["share_beside_model"]
        line = (f"{record['ratio']['value']:.2f} times as fast as official-style (goal 2.5), {100 * share:.0f} % of "
                f"its memory beside the model (goal 35), {record['seconds']['ours']:.3g} s a step")  # fmt: skip
        return Answer(record, [line], self.named("CUDA's allocator: the process's memory"))

    def study(self, script: str, *flags: str) -> str:
        """What another study prints."""
        done = subprocess.run([sys.executable, str(HERE / script), *flags], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{script} ended with {done.returncode}: {done.stderr.strip()[-800:]}")
        return done.stdout

    def table(self) -> Answer:
        """A latency table, and its error on held-out schedules."""
        from tavt_kit.bench import check_table, measure_table
        from tavt_kit.core.device import TargetDevice

        model, size = self.model(self.base, 448), (self.size(448),) * 2
        target = TargetDevice.parse(self.target()).resolved()
        table = measure_table(
            model, target, size, name=self.base, seconds=20 * self.seconds, points=12 if self.is_cuda else 4
        )
        table = check_table(table, model, size, count=HELD_OUT if self.is_cuda else 4)
        line = (f"built in {table.seconds:.0f} s; error on {len(table.held_out)} held-out schedules: mean "
                f"{100 * (table.mean_error or 0):.1f} %, worst {100 * (table.worst_error or 0):.1f} %")  # fmt: skip
        return Answer(table.as_record(), [line], self.named("four held-out schedules instead of 20"))

    def search(self) -> Answer:
        """From images made on the spot to a report, under a latency measured here."""
        import tavt_kit as tk
        from tavt_kit.bench import bench, random_images
        from tavt_kit.bench.protocol import BRIEF
        from tavt_kit.core.device import TargetDevice
        from tavt_kit.models.wrap import LeanViT
        from tavt_kit.runtimes import open_module

        pixels, target, mocked = self.size(224), self.target(), self.named("a tiny model on this CPU")
        try:
            import pymoo.algorithms.moo.nsga2  # noqa: F401

            algorithm = "nsga2"
        except ImportError as error:
            algorithm = "surrogate"
            mocked.append(f"nsga2 needs pymoo ({error}): surrogate instead")
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            made_images(folder / "data", self.size(224), each=60 if self.is_cuda else 16)
            kind = "vit_small_patch16_224" if self.is_cuda else self.base
            tk.train(
                kind, data=folder / "data", weights="random", image_size=pixels, device=self.device, out=folder / "run"
            )
            model = tk.load_model(folder / "run").eval()
            where = TargetDevice.parse(target)
            shape = (where.batch, 3, pixels, pixels)
            session = open_module(LeanViT(model), where, shape)
            dense = bench({"dense": session}, random_images(shape, np.random.default_rng(0)), BRIEF)["dense"]
            begin = time.perf_counter()
            found = tk.search(
                folder / "run", data=folder / "data", target=target, budget=f"latency={0.9 * dense.p90:.4g}ms",
                algorithm=algorithm, evaluations=60 if self.is_cuda else 12, baselines=False, final=3,
                table_seconds=15 * self.seconds, table_points=8 if self.is_cuda else 3,
                measure_seconds=self.seconds / 2, out=folder / "search",
            )  # fmt: skip
            seconds = time.perf_counter() - begin
            shutil.copyfile(found.report, self.out / "report.html")
        lines = [f"dense {dense.p90:.3g} ms (p90), budget 90 % of it: {found.verdict} after {seconds:.0f} s",
                 repr(found)[:300]]  # fmt: skip
        return Answer(dict(found.record), lines, mocked)

    def evaluation(self) -> Answer:
        """What the evaluator of a search reaches of the peak, its images being bytes in memory."""
        from tavt_kit.data.preprocess import Preprocessing
        from tavt_kit.evaluation.evaluator import Evaluator
        from tavt_kit.models.flops import count_macs

        model = self.model(self.base, 448).to(self.device)
        number = 2048 if self.is_cuda else 16
        pixels = np.random.default_rng(0).integers(0, 256, (number, 3, *model.backbone.image_size), dtype=np.uint8)
        labels = np.zeros(number, np.int64)
        how = Preprocessing.from_record(model.card.preprocessing)
        evaluator = Evaluator(model, pixels, labels, how, precision="bf16")
        dense, begin = model.dense_schedule, 0.0
        for _ in range(2):  # the first warms up
            begin = time.perf_counter()
            list(evaluator.look([dense], 0, number))
            seconds = time.perf_counter() - begin
        speed = 2e-9 * number * count_macs(model, dense) / seconds
        share = self.peaks.share(speed, "bf16")
        line = f"{number / seconds:.0f} images/s, {100 * (share or 0):.0f} % of the peak in bf16 (goal 60)"
        return Answer({"images": number, "seconds": seconds, "gflops": speed, "peak_share": share}, [line],
                      self.named("the copy to the device"))  # fmt: skip

    def export(self) -> Answer:
        """An exported file by onnxruntime's GPU providers, against torch on the CPU."""
        from tavt_kit.bench.memory import write_plain
        from tavt_kit.core.device import TargetDevice
        from tavt_kit.errors import TavtError
        from tavt_kit.runtimes import check_available, open_file

        rows, texts = list[dict[str, Any]](), ["onnxruntime:cuda", "onnxruntime:tensorrt"]
        x = self.images(224, 8)
        with tempfile.TemporaryDirectory() as folder:
            for model in self.three(self.base, 224):
                path = Path(folder) / f"{model.reduction}-{model.schedule == model.dense_schedule}.onnx"
                write_plain(model, model.schedule, path)
                with torch.inference_mode():
                    expected = model.forward_lean(x).numpy()
                for text in texts if self.is_cuda else ["onnxruntime:cpu"]:
                    row: dict[str, Any] = {"file": path.name, "target": text}
                    try:
                        target = TargetDevice.parse(f"{text}:batch={len(x)}")
                        check_available(target)
                        logits = open_file(path, target)(x.numpy())
                        row["difference"] = float(np.abs(logits - expected).max() / np.abs(expected).max())
                    except TavtError as error:
                        row["refused"] = str(error)
                    rows.append(row)
        lines = [
            f"{row['file']} on {row['target']}: {row.get('refused') or format(row['difference'], '.1e')}"
            for row in rows
        ]
        return Answer(rows, lines, self.named("onnxruntime's CUDA and TensorRT providers: its CPU provider"))

    def seeds(self) -> Answer:
        """ViTAEv2's and TAVT's own speed tables."""
        if not self.is_cuda:
            return Answer(None, mocked=["skipped on a CPU: minutes; seed_tables.py runs there by itself"])
        flags = (
            "--device",
            "cuda",
            "--batch",
            "8",
            "--mode",
            "eager,graph",
            "--precision",
            "bf16",
            "--max-seconds",
            "2",
        )
        with tempfile.TemporaryDirectory() as folder:
            said = self.study("seed_tables.py", "--out", folder, *flags)
            records = {path.name: json.loads(path.read_text()) for path in Path(folder).glob("*.json")}
        return Answer({"tables": said, "records": records}, said.splitlines())


def made_images(folder: Path, size: int, each: int, classes: Sequence[str] = ("a", "b", "c", "d")) -> None:
    """A folder a class of noisy gratings, of an angle for each class."""
    from PIL import Image

    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:size, :size] / size
    for index, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            angle = np.pi * index / len(classes) + rng.normal(0, 0.1)
            wave = np.sin(40 * (rows * np.cos(angle) + columns * np.sin(angle)) + rng.uniform(0, 6))
            pixels = 127 + 50 * wave[..., None] + rng.normal(0, 20, (size, size, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{number}.png")


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("device", choices=("cuda", "cpu"))
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    steps = Steps(given.device, given.out)
    for line in sys.stdin:
        try:
            if given.device == "cuda" and not torch.cuda.is_available():
                raise RuntimeError(f"torch {torch.__version__} sees no CUDA device; try --device cpu")
            found = steps.make(line.strip())
            answer: dict[str, Any] = {"state": "done" if found.record is not None else "skipped", "lines": found.lines,
                                      "mocked": found.mocked, "record": found.record}  # fmt: skip
        except Exception as error:  # a step that fails says why, and the rest goes on
            traceback.print_exc()
            answer = {"state": "failed", "why": f"{type(error).__name__}: {str(error)[:600]}"}
        print(json.dumps(answer, default=str), file=answers, flush=True)


if __name__ == "__main__":
    main()
