"""Measuring for ``bench``: the candidates in one interleaved run, then what is taken of each alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from tavt_kit.errors import MeasurementError, RecordError

if TYPE_CHECKING:
    from tavt_kit.bench.end_to_end import Notes
    from tavt_kit.bench.noise import Noise
    from tavt_kit.bench.peaks import Peaks
    from tavt_kit.bench.protocol import Protocol
    from tavt_kit.bench.record import BenchRow, EndToEndTime
    from tavt_kit.bench.validity import ValidityMonitor
    from tavt_kit.core.budget import Budget
    from tavt_kit.core.device import TargetDevice
    from tavt_kit.core.measurement import Measurement
    from tavt_kit.core.progress import Progress
    from tavt_kit.runtimes import Images, Session
    from tavt_kit.runtimes.executed import ExecutedGraph
    from tavt_kit.workflows.bench_images import Inputs
    from tavt_kit.workflows.bench_things import BenchCandidate

_Processor: TypeAlias = tuple[str, int, int | None]
"""Its name and number, and the threads used of it: what has a peak of its own."""

_PEAK_SECONDS = 2.0

_WHOLE = " end to end"
"""Behind the name of a candidate whose way from the image files is timed beside it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is taken of every candidate.

    Args:
        protocol: How long and how surely.
        budget: Limits to judge by.
        seed: Of the order of the turns and of the resampling.
        end_to_end: Time the way from image files too.
        memory: Run each once more in a fresh process, to see its memory.
        meters: Measure what the machine reaches at best before, and the joules of each candidate after.
        mixed: Take candidates of different classes.
        executed: Open each file once more, and look at the kernels that ran.
    """

    protocol: Protocol
    budget: Budget
    seed: int
    end_to_end: bool = False
    memory: bool = False
    meters: bool = True
    mixed: bool = False
    executed: bool = False


@dataclass(frozen=True, slots=True)
class Measurements:
    """What came of it.

    Args:
        rows: In the order of the candidates.
        noise: Whether the machine was left in peace.
        meters: Records of the machine: ``peaks``, ``noise``.
    """

    rows: Sequence[BenchRow]
    noise: Noise
    meters: Mapping[str, Any]


def _refuse_mixed(opened: Sequence[BenchCandidate]) -> None:
    """Raise MeasurementError where candidates answer different questions, by the width of their logits."""
    known = [one for one in opened if one.classes is not None]
    other = next((one for one in known if one.classes != known[0].classes), None)
    if other is not None:
        raise MeasurementError(
            f"the candidates of one bench tell the same classes apart, but {known[0].name} has {known[0].classes} and "
            f"{other.name} has {other.classes}; measure them apart, or give `mixed`"
        )


def measure(opened: Sequence[BenchCandidate], inputs: Inputs, plan: Plan, progress: Progress) -> Measurements:
    """Measure all candidates together, and judge them.

    Args:
        opened: With names of their own.
        inputs: Where images come from.
        plan: What is taken.
        progress: Told what is done.

    Raises:
        TavtError: Images are constant or unreadable, or do not fit.
    """
    import numpy as np

    from tavt_kit.bench import bench
    from tavt_kit.bench.end_to_end import Notes
    from tavt_kit.bench.energy import gpu_state
    from tavt_kit.bench.noise import Watch
    from tavt_kit.bench.validity import ValidityMonitor
    from tavt_kit.runtimes.out_of_memory import is_out_of_memory

    if not plan.mixed:
        _refuse_mixed(opened)
    sessions, images = _sessions(opened, inputs, plan.end_to_end)
    peaks = _peaks(opened, plan, progress) if plan.meters else {}
    notes = Notes(sessions)
    watch = Watch(gpu=next(filter(None, (gpu_state(one.session.target) for one in opened)), None))
    alone = {one.name: one.session for one in opened}
    monitor = ValidityMonitor(alone, images, np.random.default_rng(plan.seed), then=notes)

    def on_round(seconds: float, unsure: Sequence[str]) -> None:
        watch.turn()
        progress.update(f"measuring, {len(unsure)} of {len(sessions)} not sure yet")

    found: dict[str, Measurement] = {}
    with watch:
        try:
            found = bench(
                sessions, images, plan.protocol, rng=np.random.default_rng(plan.seed), on_round=on_round, turns=monitor
            )
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
    if not found:
        raise MeasurementError(f"the memory ran out while {len(sessions)} candidates took turns; {_what_fits(opened)}")
    noise = watch.verdict()
    rows = [_row(one, found, notes, sessions, peaks) for one in opened]
    rows = [replace(row, **_validity(monitor, row)) for row in rows]
    rows = [_with_alone(row, one, plan, progress) for row, one in zip(rows, opened, strict=True)]
    meters = {"peaks": [each.as_record() for each in peaks.values()], "noise": noise.as_record()}
    return Measurements([_judged(row, plan, noise) for row in rows], noise, meters)


def _what_fits(opened: Sequence[BenchCandidate]) -> str:
    """What to do, found out by halving the largest batch."""
    from tavt_kit.runtimes.out_of_memory import free_memory, is_out_of_memory

    largest = max(opened, key=lambda one: one.session.target.batch)
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


def _peaks(opened: Sequence[BenchCandidate], plan: Plan, progress: Progress) -> dict[_Processor, Peaks]:
    """The best of every processor with every number of threads that is measured."""
    from tavt_kit.bench.peaks import measure_peaks

    found: dict[_Processor, Peaks] = {}
    for one in opened:
        target = one.session.target
        if _processor(target) not in found:
            progress.update(f"measuring the peak of {target.processor}")
            seconds = min(_PEAK_SECONDS, plan.protocol.min_seconds)
            found[_processor(target)] = measure_peaks(target, seconds=seconds)
    return found


def _processor(target: TargetDevice) -> _Processor:
    name = "cuda" if target.processor == "tensorrt" else target.processor
    return name, target.index, target.threads


def _sessions(
    opened: Sequence[BenchCandidate], inputs: Inputs, end_to_end: bool
) -> tuple[dict[str, Session], dict[str, Images]]:
    """What takes turns: the candidates and, where asked for, each once more from the image files on."""
    sessions, images = {one.name: one.session for one in opened}, {one.name: one.images for one in opened}
    if not end_to_end:
        return sessions, images
    from tavt_kit.bench.end_to_end import EndToEnd
    from tavt_kit.data.preprocess import Preprocessing

    files = inputs.files()
    for one in opened:
        if one.preprocessing is None:
            raise RecordError(f"{one.name} does not say how its images are prepared; leave it out, or leave out `e2e`")
        how = Preprocessing.from_record(one.preprocessing).at(one.image_size)
        sessions[one.name + _WHOLE], images[one.name + _WHOLE] = EndToEnd(one.session, files, how), one.images
    return sessions, images


def _row(
    one: BenchCandidate,
    found: Mapping[str, Measurement],
    notes: Notes,
    sessions: Mapping[str, Session],
    peaks: Mapping[_Processor, Peaks],
) -> BenchRow:
    from tavt_kit.bench.record import BenchRow

    target, measured = one.session.target, found[one.name]
    peak = peaks.get(_processor(target))
    return BenchRow(
        one.name,
        one.thing,
        target,
        measured,
        one.schedule,
        one.macs,
        one.size_bytes,
        notes.requests(one.name, measured),
        *notes.in_flight(one.name),
        one.session.compile_ms,
        one.image_size,
        None if peak is None else peak.gflops.get(target.precision),
        _whole(one.name + _WHOLE, found, notes, sessions),
    )


def _validity(monitor: ValidityMonitor, row: BenchRow) -> dict[str, Any]:
    return {"busy_cores": monitor.busy(row.name), "doubts": monitor.doubts(row.name, row.measurement.median)}


def _whole(
    name: str, found: Mapping[str, Measurement], notes: Notes, sessions: Mapping[str, Session]
) -> EndToEndTime | None:
    from tavt_kit.bench.end_to_end import EndToEnd
    from tavt_kit.bench.record import EndToEndTime

    session = sessions.get(name)
    if not isinstance(session, EndToEnd):
        return None
    return EndToEndTime(found[name], notes.parts(name), len(session.files))


def _with_alone(row: BenchRow, one: BenchCandidate, plan: Plan, progress: Progress) -> BenchRow:
    """What is taken of a candidate alone, because it cannot be told apart while others take turns."""
    from tavt_kit.bench.energy import energy_meter, measure_energy
    from tavt_kit.bench.memory import peak_memory

    energy = memory = None
    if plan.meters:
        progress.update(f"energy of {one.name}")
        target = one.session.target
        run = one.session.timer(one.images)
        images = target.batch * getattr(run, "inferences", 1)  # a burst of OpenVINO's throughput hint has many
        energy = measure_energy(run, energy_meter(target), batch=images).as_record()
    if plan.memory:
        progress.update(f"memory of {one.name}")
        assert one.job is not None  # what an opener promises where memory is asked for
        memory = peak_memory(one.job).as_record()
    executed = _executed(one, progress) if plan.executed else None
    return replace(row, energy=energy, memory=memory, executed=executed)


def _executed(one: BenchCandidate, progress: Progress) -> ExecutedGraph | None:
    """The kernels of a file on its target; ``None`` of a live model."""
    from tavt_kit.bench.memory import FileJob
    from tavt_kit.runtimes.executed import executed_graph

    if not isinstance(one.job, FileJob):
        return None
    progress.update(f"looking at what ran of {one.name}")
    return executed_graph(one.job.path, one.session.target, one.images, one.job.lengths)


def _judged(row: BenchRow, plan: Plan, noise: Noise) -> BenchRow:
    from tavt_kit.bench.judged import judge

    found = judge(row, plan.budget, is_quiet=noise.word == "steady")
    return replace(row, verdicts=[one.as_record() for one in found])
