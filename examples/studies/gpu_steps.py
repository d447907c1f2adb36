"""The steps of ``gpu.py``: one process reads their names, makes them by the kit's workflows, and answers in JSON.

A dry run makes the same steps, small, on a CUDA device that ``tests/pretend_cuda.py`` pretends on the CPU.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
ROOT = HERE.parents[1]
TAPER = "taper:0.2"
H100 = 800e12, 3.0e12
"""Operations a second of a large product in bf16 and bytes a second of a copy, for floors without a measurement."""
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
        goals: What was to be shown, its value, and the least (or, where below 0, the negative of the most) wanted.
    """

    record: Any
    lines: list[str] = field(default_factory=list)
    mocked: list[str] = field(default_factory=list)
    goals: list[tuple[str, float, float]] = field(default_factory=list)


class Steps:
    """See the module.

    Args:
        device: ``cuda`` or ``cpu``; on the latter all is small.
        out: Folder of the results.
    """

    def __init__(self, device: str, out: Path) -> None:
        self.device, self.out, self.is_dry = torch.device("cuda", 0), out, device == "cpu"
        self.base, self.large = (
            ("vit_tiny_patch16_224",) * 2 if self.is_dry else ("vit_base_patch16_224", "vit_large_patch16_224")
        )
        self.seconds = 0.1 if self.is_dry else 1.0

    def size(self, pixels: int) -> int:
        return pixels // 7 if self.is_dry else pixels

    def batch(self, images: int) -> int:
        return {1: 1, 8: 2, 64: 4}[images] if self.is_dry else images

    def target(self, precision: str = "bf16", images: int = 8, mode: str = "eager") -> str:
        return f"torch:cuda:0:precision={precision}:batch={self.batch(images)}:mode={mode}"

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
    def peaks(self) -> dict[str, float]:
        """1e9 operations a second of a large product by its precision, and GB a second of a ``copy``."""
        from tavt_kit.core.device import TargetDevice
        from tavt_kit.runtimes.torch_session import torch_clock

        target, size = TargetDevice.parse("torch:cuda:0"), 256 if self.is_dry else 8192
        kinds = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
        left = torch.randn(size, size, device=self.device)
        some = {name: (left.to(kind), left.T.contiguous().to(kind)) for name, kind in kinds.items()}
        source = torch.ones(2**8 * (2**10 if self.is_dry else 2**20), device=self.device)
        calls = {name: partial(torch.matmul, *pair) for name, pair in some.items()}
        clocks = {name: torch_clock(call, target) for name, call in {**calls, "copy": source.clone}.items()}
        best = {name: min(clock() for _ in range(20)) for name, clock in clocks.items()}
        work = dict.fromkeys(kinds, 2.0 * size**3) | {"copy": 2.0 * source.nbytes}
        return {name: work[name] / ms / 1e6 for name, ms in best.items()}

    def share(self, gflops: float, precision: str = "bf16") -> float:
        """Of the measured peak."""
        return gflops / float(self.peaks[precision])

    def make(self, name: str) -> Answer:
        """A step by its name; a bench names its model, size, precision and batch."""
        if name.startswith("bench "):
            model, pixels, precision, batch, *more = name.split()[1:]
            return self.bench(model, int(pixels), precision, int(batch[1:]), bool(more))
        answer: Answer = getattr(self, name)()
        return answer

    def facts(self) -> Answer:
        from tavt_kit.workflows.doctor import doctor

        found = doctor().record
        names = (
            "timm",
            "triton",
            "nvidia-ml-py",
            "onnxruntime-gpu",
            "tensorrt",
            "nvidia-cudnn-cu13",
            "nvidia-cudnn-cu12",
        )
        told = {"torch": torch.__version__, "cuda": torch.version.cuda, "packages": versions(names), "doctor": found,
                "properties": str(torch.cuda.get_device_properties(0)), "peaks": self.peaks}  # fmt: skip
        speeds = ", ".join(f"{name} {speed / 1e3:.3g} TFLOP/s" for name, speed in self.peaks.items() if name != "copy")
        python = sys.version.split()[0]
        lines = [
            f"torch {torch.__version__}, CUDA {torch.version.cuda}, Python {python}, {os.cpu_count()} CPUs",
            str(told["properties"]),
            ", ".join(f"{name} {number}" for name, number in versions(names).items()) or "none of " + ", ".join(names),
            f"peaks: {speeds}; copy {self.peaks['copy']:.3g} GB/s",
            *(f"missing: {one['what']}" for one in found["findings"]),
        ]
        return Answer(told, lines, self.named("the device, its properties and peaks"))

    def named(self, *texts: str) -> list[str]:
        """What a dry run says of itself."""
        return list(texts) if self.is_dry else []

    def tests(self) -> Answer:
        files = [str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-o", "filterwarnings=", "-p", "no:cacheprovider",
                   "--continue-on-collection-errors", "-rfE", *files]  # fmt: skip
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        said = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        told = [line for line in done.stdout.splitlines() if " in " in line and ("passed" in line or "skipped" in line)]
        last = (told or [f"ended with {done.returncode}: {(done.stdout + done.stderr)[-200:]}"])[-1]
        print(done.stdout, file=sys.stderr)
        if any(line.startswith("FAILED") for line in said):
            raise AssertionError("; ".join([last, *said]))
        record = {"exit": done.returncode, "last": last, "failed": said, "output": done.stdout[-20000:]}
        mocked = self.named("the device of the tests marked gpu; those that only a real one can pass are skipped")
        return Answer(record, [last, *said], mocked)

    def parity(self) -> Answer:
        """Logits and kept tokens, CPU in f32 against the device."""
        rows = list[dict[str, Any]]()
        x, device = self.images(448, 8), self.device
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
        return Answer(rows, lines, self.named("CUDA's side: this CPU again, and in its kernels"))

    def bench(self, kind: str, pixels: int, precision: str, images: int, compiles: bool) -> Answer:
        """Dense, drop and merge, in each mode, by the kit's own interleaved protocol."""
        from tavt_kit.workflows.bench import bench

        name = self.base if kind == "base" else self.large
        if self.is_dry and (compiles or images == 64):
            why = "torch.compile for CUDA" if compiles else f"batch {images}, the same code as batch 8"
            return Answer(None, mocked=[f"skipped: {why}"])
        mocked = self.named(
            f"{name} at {self.size(pixels)} px, batch {self.batch(images)}", "CUDA graphs and clocks", "NVML"
        )
        modes = ("compile",) if compiles else ("eager", "graph")
        some = self.three(name, pixels)
        with tempfile.TemporaryDirectory() as folder:
            found = bench(
                some[:2] if compiles else some,
                target=[self.target(precision, images, mode) for mode in modes],
                min_time=self.seconds / 2, max_time=2 * self.seconds, out=folder,
            )  # fmt: skip
        lines, goals = [], list[tuple[str, float, float]]()
        for row, one in zip(found.record["candidates"], found.rows, strict=True):
            ratio, gain = row["ratio"], row["gain_share"]
            share = None if one.gflops is None else self.share(one.gflops, precision)
            floor = self.floor(some[0], one.schedule, images, precision)
            lines.append(
                f"{one.name[-48:]:48} {one.latency.median:8.3f} ms (floor {floor:.3f}) {one.throughput:7.0f}/s "
                f"x{ratio['value']:.2f} gain {'-' if gain is None else format(100 * gain['value'], '.0f')} % "
                f"peak {'-' if share is None else format(100 * share, '.0f')} % "
                f"{'' if one.latency.steady else 'unsteady'}"
            )
            if one.schedule == some[0].dense_schedule or pixels != 448:
                continue
            what = f"ViT {kind}, {pixels} px, {precision}, batch {images}, {'merge' if 'merge' in one.name else 'drop'}"
            if images >= 8:
                full = next(row for row in found.rows if row.target == one.target)  # dense, in the same mode
                realised = full.latency.median / one.latency.median / (full.macs / one.macs)
                mode = one.target.mode or "eager"
                goals.append((f"share of the multiply-add gain realised: {what}, {mode}", realised, 0.9))
            if images == 1 and one.target.mode == "graph":
                goals.append((f"CUDA graph, times as fast as dense eager: {what}", ratio["value"], 2.0))
        marks = {one.reduction: self.high_water(one, images, precision) for one in some[1:]}
        marks["dense"] = self.high_water(some[0], images, precision)
        lines.append("beside weights and images: " + ", ".join(f"{what} {mb:.0f} MB" for what, mb in marks.items()))
        return Answer({**found.record, "high_water_mb": marks}, lines, mocked, goals)

    def floor(self, model: Any, schedule: Any, images: int, precision: str) -> float:
        """Milliseconds of a pass, at least, by the peaks that were measured."""
        return 1e3 * floor_seconds(
            model, schedule, self.batch(images), 1e9 * self.peaks[precision], 1e9 * self.peaks["copy"]
        )

    def high_water(self, model: Any, images: int, precision: str) -> float:
        """MB of a lean pass beside weights and images."""
        from tavt_kit.runtimes.torch_session import DTYPES

        dtype = DTYPES[precision]
        there = copy.deepcopy(model).to(self.device, dtype)
        size = model.backbone.image_size[0]
        x = torch.rand(self.batch(images), 3, size, size).to(self.device, dtype)
        return self.most(lambda: there.forward_lean(x))

    def most(self, run: Callable[[], object]) -> float:
        """MB that a call needs beside what is there before it."""
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        with torch.inference_mode():
            run()
        return (torch.cuda.max_memory_allocated() - before) / 1e6

    def attention(self) -> Answer:
        """Which of torch's kernels attend, and what sizes and scores add to them."""
        from tavt_kit.core.device import TargetDevice
        from tavt_kit.models.token_reduction import (
            attend_and_score,
            attention_map,
            cls_score,
            column_score,
            fold_bias,
            gather_rows,
        )
        from tavt_kit.runtimes.torch_session import torch_clock

        attend, target = torch.nn.functional.scaled_dot_product_attention, TargetDevice.parse("torch:cuda:0")
        tokens, rows = 1 + (self.size(448) // 16) ** 2, {}
        q, k, v = (one.to(self.device, torch.bfloat16) for one in torch.randn(3, self.batch(8), 12, tokens, 64))
        sizes = torch.zeros(self.batch(8), 1, tokens).to(self.device)
        mask = sizes[:, :, None].to(torch.bfloat16)
        index = torch.arange(tokens // 2).expand(self.batch(8), -1).to(self.device)

        def folded() -> Tensor:
            longer, keys, scale = fold_bias(q, k, sizes, None)
            return attend(longer, keys, torch.nn.functional.pad(v, (0, 8)), scale=scale)

        ways: dict[str, Callable[[], object]] = {
            "plain": lambda: attend(q, k, v),
            "with a mask": lambda: attend(q, k, v, attn_mask=mask),
            "sizes folded in": folded,
            "attend and score columns": lambda: attend_and_score(q, k, v, None, None),
            "score columns by whole maps": lambda: column_score(attention_map(q, k, None, None)),
            "score by the class token": lambda: cls_score(q, k, None, None),
            "gather half of the rows": lambda: gather_rows(v.transpose(1, 2), index),
        }
        for name, call in ways.items():
            clock = torch_clock(call, target)
            for _ in range(3):
                clock()
            rows[name] = median(clock() for _ in range(3 if self.is_dry else 30))
        kinds = {
            "plain": (q, k, v),
            "with a mask": (q, k, v, mask),
            "sizes folded in": (*fold_bias(q, k, sizes, None)[:2],),
        }
        kinds["sizes folded in"] += (torch.nn.functional.pad(v, (0, 8)),)
        backends = {
            name: torch.nn.attention.SDPBackend(torch._fused_sdp_choice(*given)).name for name, given in kinds.items()
        }
        lines = [f"{name}: {rows[name]:.3f} ms{' by ' + backends[name] if name in backends else ''}" for name in rows]
        return Answer(
            {"ms": rows, "backends": backends}, lines, self.named("torch's CUDA kernels, and which it chooses")
        )

    def memory(self) -> Answer:
        """The most that a pass needs beside weights and images: ours, and one as TAVT's official code makes it."""
        from reference_step import ReferenceViT

        dense, drop, merge = (one.to(self.device, torch.bfloat16) for one in self.three(self.base, 448))
        reference = ReferenceViT(dense.bare).to(self.device, torch.bfloat16).eval()
        x = self.images(448, 64).to(self.device, torch.bfloat16)
        passes = {
            "official dense": lambda: reference(x, None),
            "official drop": lambda: reference(x, drop.schedule.counts),
            "dense": lambda: dense.forward_lean(x),
            "drop": lambda: drop.forward_lean(x),
            "merge": lambda: merge.forward_lean(x),
        }
        found = {name: self.most(run) for name, run in passes.items()}
        lines = [f"{name}: {mb:.0f} MB" for name, mb in found.items()]
        goal = (
            "memory of an official-style dropping pass over ours, batch 64",
            found["official drop"] / found["drop"],
            5.5,
        )
        return Answer(
            found, lines, self.named("torch's CUDA allocator: the passes ran, what it reads is made up"), [goal]
        )

    def distillation(self) -> Answer:
        """A step of ours against one as TAVT's official loop makes it."""
        small = ["--device", "cpu", "--image-size", "32", "--batch", "2", "--pairs", "1", "--threads", "1"]
        how = small if self.is_dry else ["--device", "cuda", "--image-size", "448", "--batch", "16", "--pairs", "4"]
        records, lines, goals = dict[str, Any](), list[str](), list[tuple[str, float, float]]()
        for name, chunk in (("whole batch", []), ("in halves", ["--chunk", "1" if self.is_dry else "8"])):
            found = self.study("distill_step.py", "--model", self.base, "--precision", "bf16", *how, *chunk)
            records[name] = record = json.loads(found)
            share, seconds = record["memory"]["share_beside_model"], record["seconds"]["ours"]
            lines.append(f"{name}: {seconds:.3g} s a step, official-style {record['seconds']['reference']:.3g} s")
            goals += [
                (f"distillation step, {name}: times as fast as official-style", record["ratio"]["value"], 2.5),
                (f"distillation step, {name}: memory beside the model, share of official-style", share, -0.35),
                (f"distillation step, {name}: share of the peak in bf16", record["floor_seconds"] / seconds, 0.6),
            ]
        mocked = self.named("the GPU: the step ran on the CPU, its memory is the process's")
        return Answer(records, lines, mocked, goals)

    def study(self, script: str, *flags: str) -> str:
        """What another study prints."""
        done = subprocess.run([sys.executable, str(HERE / script), *flags], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{script} ended with {done.returncode}: {done.stderr.strip()[-800:]}")
        return done.stdout

    def table(self) -> Answer:
        """A latency table, and its error on held-out schedules."""
        from tavt_kit.bench.latency_table import check_table, measure_table
        from tavt_kit.core.device import TargetDevice

        model, target = self.model(self.base, 448), TargetDevice.parse(self.target(images=64)).resolved()
        table = measure_table(model, target, name=self.base, seconds=20 * self.seconds, points=4 if self.is_dry else 12)
        table = check_table(table, model, count=4 if self.is_dry else HELD_OUT)
        line = (f"built in {table.seconds:.0f} s; error on {len(table.held_out)} held-out schedules: mean "
                f"{100 * (table.mean_error or 0):.1f} %, worst {100 * (table.worst_error or 0):.1f} %")  # fmt: skip
        return Answer(table.as_record(), [line], self.named("CUDA's clocks", "four held-out schedules instead of 20"))

    def search(self) -> Answer:
        """From images made on the spot to a report, under a latency measured here."""
        import tavt_kit as tk
        from tavt_kit.bench import bench, random_images
        from tavt_kit.bench.protocol import BRIEF
        from tavt_kit.core.device import TargetDevice
        from tavt_kit.models.wrap import LeanViT
        from tavt_kit.runtimes import open_module

        # Of 64 images it is the tokens that count; of few, launching kernels, which no schedule makes quicker.
        pixels, target = self.size(448), self.target(images=64)
        mocked = self.named("a tiny model", "CUDA's clocks", "the budget, three times what dense takes")
        share = 3.0 if self.is_dry else 0.7
        try:
            import pymoo.algorithms.moo.nsga2  # noqa: F401

            algorithm = "nsga2"
        except ImportError as error:
            algorithm = "surrogate"
            mocked.append(f"nsga2 needs pymoo ({error}): surrogate instead")
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            made_images(folder / "data", pixels, each=16 if self.is_dry else 60)
            kind = self.base if self.is_dry else "vit_small_patch16_224"
            tk.train(kind, data=folder / "data", weights="random", image_size=pixels, device="cuda", out=folder / "run")
            model = tk.load_model(folder / "run").eval()
            where = TargetDevice.parse(target)
            shape = (where.batch, 3, pixels, pixels)
            session = open_module(LeanViT(model), where, shape)
            dense = bench({"dense": session}, random_images(shape, np.random.default_rng(0)), BRIEF)["dense"]
            how = {"evaluations": 6, "final": 1} if self.is_dry else {
                "evaluations": 60, "final": 3}  # fmt: skip
            begin = time.perf_counter()
            found = tk.search(
                folder / "run", data=folder / "data", target=target, budget=f"latency={share * dense.p90:.4g}ms",
                algorithm=algorithm, baselines=False, measure_seconds=self.seconds / 2, out=folder / "search",
                table_seconds=15 * self.seconds, **how,
            )  # fmt: skip
            seconds = time.perf_counter() - begin
            shutil.copyfile(found.report, self.out / "report.html")
        lines = [f"dense {dense.p90:.3g} ms (p90), budget {share:g} of it: {found.verdict} after {seconds:.0f} s",
                 repr(found)[:300]]  # fmt: skip
        return Answer(dict(found.record), lines, mocked)

    def evaluation(self) -> Answer:
        """What the evaluator of a search reaches of the peak, its images being bytes in memory."""
        from tavt_kit.data.preprocess import Preprocessing
        from tavt_kit.evaluation.evaluator import Evaluator
        from tavt_kit.models.flops import count_macs

        model = self.model(self.base, 448).to(self.device)
        number = 16 if self.is_dry else 2048
        pixels = np.random.default_rng(0).integers(0, 256, (number, 3, *model.backbone.image_size), dtype=np.uint8)
        labels = np.zeros(number, np.int64)
        how = Preprocessing.from_record(model.card.preprocessing)
        rows, lines, goals = dict[str, Any](), list[str](), list[tuple[str, float, float]]()
        macs = count_macs(model, model.dense_schedule)
        for name, one, precision in (
            ("autocast", model, "bf16"), ("weights in bf16", copy.deepcopy(model).bfloat16(), "f32")
        ):  # fmt: skip
            evaluator, seconds = Evaluator(one, pixels, labels, how, precision=precision), 0.0
            for _ in range(2):  # the first warms up
                begin = time.perf_counter()
                list(evaluator.look([model.dense_schedule], 0, number))
                seconds = time.perf_counter() - begin
            share = self.share(2e-9 * number * macs / seconds)
            rows[name] = {"images": number, "seconds": seconds, "peak_share": share}
            lines.append(f"{name}: {number / seconds:.0f} images/s, {100 * share:.0f} % of the peak in bf16")
            if name == "autocast":
                goals.append(("evaluation in a search: share of the peak in bf16", share, 0.6))
        return Answer(rows, lines, self.named("pinned memory and its copies"), goals)

    def training(self) -> Answer:
        """Whether reading keeps up: JPEG files read alone, and by the loop that trains and distils all layers."""
        from training_feed import draw_photographs

        from tavt_kit.core.progress import Silent
        from tavt_kit.data.preprocess import Preprocessing
        from tavt_kit.distill.datasets import read_images, stream, workers_of
        from tavt_kit.distill.losses import make_step
        from tavt_kit.distill.options import DataOptions, OptimizerOptions, TrainingOptions
        from tavt_kit.distill.recipes import train_recipe
        from tavt_kit.distill.run_folder import read_metrics
        from tavt_kit.distill.trainer import Trainer
        from tavt_kit.models.flops import count_macs

        batch, updates = (4, 6) if self.is_dry else (32, 20)
        skipped, how = 3, Preprocessing((self.size(448),) * 2)
        settings = OptimizerOptions(batch=batch, steps=updates, lr=1e-5, warmup=0, freeze=0)
        rows, lines, goals = dict[str, Any](), list[str](), list[tuple[str, float, float]]()
        with tempfile.TemporaryDirectory() as name:
            (Path(name) / "files").mkdir()
            split = read_images(
                draw_photographs(Path(name) / "files", batch * updates), how, DataOptions().settled(how)
            )
            with closing(stream(split, settings, seed=1, first=1, last=updates, pinned=True)) as batches:
                for _ in range(skipped):
                    next(batches)
                begin = time.perf_counter()
                alone = batch * sum(1 for _ in batches) / (time.perf_counter() - begin)
            workers = workers_of(split, gpu=True)
            rows["reading alone"] = {"images_per_second": alone, "workers": workers}
            lines.append(f"reading alone: {alone:.0f} images/s by {workers} processes")
            for kind in ("training", "distillation"):
                model = self.model(self.base, 448).to(self.device)
                macs = [count_macs(model, model.dense_schedule)] * updates
                step = make_step(model, train_recipe("finetune").objective)[0]
                if kind == "distillation":
                    step, macs = distils(model)
                folder = Path(name) / kind
                folder.mkdir()
                Trainer(model, split, step, settings, TrainingOptions(precision="bf16"), folder, seed=0,
                         progress=Silent(), what=kind).run()  # fmt: skip
                told = read_metrics(folder)[skipped:]
                waited = sum(line["seconds_waiting"] for line in told)
                seconds = waited + sum(batch / line["images_per_second"] for line in told)
                speed = batch * len(told) / seconds
                computed = 3 * batch * sum(macs[skipped:])  # forward, and twice that backward
                share = self.share(2e-9 * computed / seconds)
                rows[kind] = {"images_per_second": speed, "peak_share": share, "waiting": waited / seconds}
                lines.append(f"{kind}: {speed:.0f} images/s, {100 * share:.0f} % of the peak in bf16, "
                             f"{100 * waited / seconds:.1f} % of the time waiting for images")  # fmt: skip
                goals.append((f"{kind}, images read from files: share of the peak in bf16", share, 0.6))
                goals.append((f"{kind}: share of the time waiting for images", waited / seconds, -0.05))
                del model, step
        return Answer(rows, lines, self.named("pinned memory and its copies", "CUDA's side of the steps"), goals)

    def floors(self) -> Answer:
        """What no pass can beat on an H100: nothing is measured here."""
        from tavt_kit.models.timm_import import timm
        from tavt_kit.models.wrap import wrap

        rows, lines = (
            list[dict[str, Any]](),
            [f"at {H100[0] / 1e12:.0f} TFLOP/s in bf16 and {H100[1] / 1e12:.1f} TB/s:"],
        )
        for name in ("vit_base_patch16_224", "vit_large_patch16_224"):
            for size in (224, 448):
                with torch.device("meta"):
                    model = wrap(timm.create_model(name, img_size=size, num_classes=200).eval())
                for text in ("dense", TAPER):
                    model.schedule = text
                    row = {"model": name, "size": size, "schedule": text, "ms": {
                        images: 1e3 * floor_seconds(model, model.schedule, images, *H100) for images in (1, 8, 64)
                    }}  # fmt: skip
                    rows.append(row)
                    times = ", ".join(f"batch {images} {ms:.2f} ms" for images, ms in row["ms"].items())
                    lines.append(f"{name[:9].rstrip('_')}, {size} px, {text}: {times}")
        return Answer(rows, lines)

    def export(self) -> Answer:
        """An exported file by onnxruntime's GPU providers, against torch on the CPU."""
        from tavt_kit.core.artifact_card import ArtifactCard
        from tavt_kit.core.device import TargetDevice
        from tavt_kit.errors import TavtError
        from tavt_kit.exporters.to_onnx import to_onnx
        from tavt_kit.runtimes import check_available, open_file

        rows, texts = list[dict[str, Any]](), ["onnxruntime:cuda", "onnxruntime:tensorrt"]
        x = self.images(224, 8)
        with tempfile.TemporaryDirectory() as folder:
            for model in self.three(self.base, 224):
                path = Path(folder) / f"{model.reduction}-{model.schedule == model.dense_schedule}.onnx"
                to_onnx(model, ArtifactCard(model.card, model.schedule, model.tokens, model.prefix), path)
                with torch.inference_mode():
                    expected = model.forward_lean(x).numpy()
                for text in ["onnxruntime:cpu"] if self.is_dry else texts:
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
        if self.is_dry:
            return Answer(None, mocked=["skipped: minutes; seed_tables.py runs on a CPU by itself"])
        flags = "--device cuda --batch 8 --mode eager,graph --precision bf16 --max-seconds 2".split()
        with tempfile.TemporaryDirectory() as folder:
            said = self.study("seed_tables.py", "--out", folder, *flags)
            records = {path.name: json.loads(path.read_text()) for path in Path(folder).glob("*.json")}
        return Answer({"tables": said, "records": records}, said.splitlines())


def versions(names: Sequence[str]) -> dict[str, str]:
    """Of the packages that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


_MOVED_BEFORE, _MOVED_AFTER = 2, 16
"""Numbers of a token's width that op by op a layer reads and writes beside its products: before tokens leave a norm
(1 + 1), after it the addition of attention (2 + 1), a norm, the activation of four times the width (4 + 4) and the
addition of the feed-forward half."""


def floor_seconds(model: Any, schedule: Any, images: int, operations: float, bandwidth: float) -> float:
    """The least time of a lean pass in half precision, op by op: products at the peak, then what only moves bytes.

    Scoring, choosing and gathering tokens are not in it, nor the time to launch kernels.

    Args:
        operations: Of the peak, a second.
        bandwidth: Bytes a second.
    """
    from tavt_kit.models.flops import count_macs

    width, counts = model.bare.embed_dim, schedule.counts
    before = (model.tokens, *counts[:-1])
    moved = sum(_MOVED_BEFORE * one + _MOVED_AFTER * other for one, other in zip(before, counts, strict=True))
    weights = 2 * sum(parameter.numel() for parameter in model.parameters())
    return images * 2 * count_macs(model, schedule) / operations + (2 * width * images * moved + weights) / bandwidth


def distils(model: Any) -> tuple[Any, list[int]]:
    """A step of in-place distillation for the loop, and a list to which it adds its networks' multiply-adds."""
    from tavt_kit.distill.sampling import Sampler
    from tavt_kit.distill.sandwich import sandwich_step
    from tavt_kit.models.flops import count_macs

    sampler, macs = Sampler(model.layout, bound=0.2, random=2), list[int]()

    def step(batch: Any, draws: np.random.Generator, backward: Any) -> dict[str, Tensor]:
        full, subs = sampler.draw(draws)
        macs.append(sum(count_macs(model, one) for one in (full or model.dense_schedule, *subs)))
        done = sandwich_step(model, batch.images, batch.labels, subs, full=full, backward=backward)
        return {"loss": done.loss}

    return step, macs


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
        name = line.strip()
        try:
            if not steps.is_dry and not torch.cuda.is_available():
                raise RuntimeError(f"torch {torch.__version__} sees no CUDA device; try --device cpu")
            with pretended() if steps.is_dry and name not in ("export", "distillation", "floors") else nullcontext():
                found = steps.make(name)
            answer: dict[str, Any] = {"state": "done" if found.record is not None else "skipped", "lines": found.lines,
                                      "mocked": found.mocked, "goals": found.goals, "record": found.record}  # fmt: skip
        except Exception as error:  # a step that fails says why, and the rest goes on
            traceback.print_exc()
            answer = {"state": "failed", "why": f"{type(error).__name__}: {str(error)[:600]}"}
        print(json.dumps(answer, default=str), file=answers, flush=True)


@contextmanager
def pretended() -> Iterator[None]:
    """The device of a dry run."""
    from tests.pretend_cuda import pretend_cuda

    with pretend_cuda():
        yield


if __name__ == "__main__":
    main()
