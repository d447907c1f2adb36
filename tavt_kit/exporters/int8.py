"""Int8Options and the choice of an int8 model: training images that did not calibrate decide."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tavt_kit.core.artifact_card import ArtifactCard
from tavt_kit.core.codec import Record, recorded_as
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.progress import Progress
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import ExportError

QUANTIZERS = ("nncf", "onnxruntime")
SMOOTH = {"both": (True, False), "on": (True,), "off": (False,)}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Int8Options(Record):
    """How int8 is made.

    Args:
        quantizer: ``"nncf"`` or ``"onnxruntime"`` (for ONNX alone); ``None`` tries all that suit the format.
        smooth: NNCF's SmoothQuant: ``"both"`` are tried, or ``"on"`` or ``"off"``.
        max_drop: For accuracy control: the most that top-1 on held-out training images may fall, as a fraction;
            ``None`` for none.
        symmetric: Zero points of 0, as TensorRT wants them (onnxruntime's quantizer).

    Raises:
        ExportError: An unknown quantizer or choice.
    """

    quantizer: str | None = None
    smooth: str = field(default="both", metadata=recorded_as("smooth_quant"))
    max_drop: float | None = None
    symmetric: bool = False

    def __post_init__(self) -> None:
        if self.quantizer is not None and self.quantizer not in QUANTIZERS:
            raise ExportError(f"int8 is made by {' or '.join(QUANTIZERS)}, got {self.quantizer!r}")
        if self.smooth not in SMOOTH:
            raise ExportError(f"SmoothQuant is tried {', '.join(SMOOTH)}, got {self.smooth!r}")
        if self.max_drop is not None and self.quantizer == "onnxruntime":
            raise ExportError("accuracy control is NNCF's, and of OpenVINO models; leave out `quantizer` onnxruntime")

    def ways(self, format: str) -> list[dict[str, Any]]:
        """What is tried for a format.

        Raises:
            ExportError: Nothing suits it.
        """
        if format == "openvino" and self.quantizer == "onnxruntime":
            raise ExportError("onnxruntime quantizes ONNX files, not OpenVINO's; leave out `quantizer`")
        if format == "onnx" and self.max_drop is not None:
            raise ExportError("NNCF controls the accuracy of OpenVINO models alone; give `format` openvino")
        nncf = [{"quantizer": "nncf", "smooth_quant": smooth} for smooth in SMOOTH[self.smooth]]
        static = [{"quantizer": "onnxruntime", "smooth_quant": False}] if format == "onnx" else []
        return [way for way in (*nncf, *static) if self.quantizer in (None, way["quantizer"])]


@dataclass(frozen=True, slots=True)
class Examples:
    """Training images: some calibrate, others (which may be none) choose.

    Args:
        calibration: (n, 3, H, W).
        held_out: (m, 3, H, W).
        labels: (m,) of these.
    """

    calibration: NDArray[np.float32]
    held_out: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Trial:
    """One way, and what the held-out training images say of it.

    Args:
        way: ``quantizer`` and ``smooth_quant``.
        agreement: Share of images with the float model's answer; of a switchable model over all presets.
        top1: Share of right answers.
        difference: Mean absolute difference of the logits.
    """

    way: dict[str, Any]
    agreement: float
    top1: float
    difference: float

    @property
    def worth(self) -> tuple[float, float, float]:
        """The higher the better: agreement, then accuracy, then nearness."""
        return self.agreement, self.top1, -self.difference

    def as_record(self) -> dict[str, Any]:
        """JSON-ready."""
        numbers = {"agreement": self.agreement, "top1": self.top1, "difference": self.difference}
        return {**self.way, **{name: round(value, 6) for name, value in numbers.items()}}


def make_int8(
    model: Any, card: ArtifactCard, examples: Examples, how: Int8Options, progress: Progress
) -> tuple[Any, dict[str, Any]]:
    """The int8 model of the way that keeps most answers, and the record of all that was tried.

    Args:
        model: An ``openvino.Model`` or ``onnx.ModelProto`` in f32; it stays as it is.
        card: Its card; a switchable model is calibrated and tried at all of its presets.
        examples: Training images.
        how: What to try.
        progress: Told what is being done.

    Raises:
        ExportError: No way works, or accuracy control is asked for without held-out images.
    """
    presets = tuple(card.presets.values())
    ways = how.ways("onnx" if _is_onnx(model) else "openvino")
    choosing = len(ways) > 1 and len(examples.held_out) > 0
    trials: list[Trial] = []
    best: Any = None
    before = _answers(model, card, examples) if choosing else None
    for way in ways if choosing else ways[:1]:
        progress.update(f"quantizing by {way['quantizer']}, SmoothQuant {'on' if way['smooth_quant'] else 'off'}")
        made = _quantize(model, way, examples, presets, how)
        if before is None:
            best = made
            continue
        trial = _trial(way, before, _answers(made, card, examples), examples.labels)
        best = made if not trials or trial.worth > max(one.worth for one in trials) else best
        trials.append(trial)
    chosen = max(trials, key=lambda one: one.worth).way if trials else ways[0]
    record = {**chosen, "held_out": len(examples.held_out), "tried": [trial.as_record() for trial in trials]}
    if how.max_drop is not None:
        from tavt_kit.exporters.quantize import quantize_carefully

        progress.update("putting layers back to float until the accuracy is kept")
        best = quantize_carefully(
            model, examples.calibration, examples.held_out, examples.labels, presets,
            smooth=chosen["smooth_quant"], max_drop=how.max_drop,
        )  # fmt: skip
        record["max_drop"] = how.max_drop
    _log.info("int8: %s", record)
    return best, record


def _quantize(
    model: Any, way: dict[str, Any], examples: Examples, presets: Sequence[TokenSchedule], how: Int8Options
) -> Any:
    if way["quantizer"] == "onnxruntime":
        from tavt_kit.exporters.narrow_onnx import quantize_statically

        return quantize_statically(model, examples.calibration, presets, symmetric=how.symmetric)
    from tavt_kit.exporters.quantize import quantize

    return quantize(model, examples.calibration, presets, smooth=way["smooth_quant"])


def _trial(
    way: dict[str, Any], before: NDArray[np.float32], after: NDArray[np.float32], labels: NDArray[np.int64]
) -> Trial:
    """``before`` and ``after`` are (presets, m, classes)."""
    same = after.argmax(2) == before.argmax(2)
    right = after.argmax(2) == labels
    return Trial(way, float(same.mean()), float(right.mean()), float(np.abs(after - before).mean()))


def _answers(model: Any, card: ArtifactCard, examples: Examples) -> NDArray[np.float32]:
    """(presets or 1, m, classes): the logits of the held-out images, one by one, on the model's own runtime."""
    with tempfile.TemporaryDirectory() as folder:
        session = _session(model, card, Path(folder))
        runs = [session.at(schedule.counts) for schedule in card.presets.values()] or [session]
        return np.stack([np.concatenate(list(_one_by_one(run, examples.held_out))) for run in runs])


def _one_by_one(run: Any, images: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    for image in images:
        yield run(image[None])


def _session(model: Any, card: ArtifactCard, folder: Path) -> Any:
    if _is_onnx(model):
        import onnx

        from tavt_kit.runtimes import open_file

        onnx.save(model, str(folder / "m.onnx"))
        return open_file(folder / "m.onnx", TargetDevice("onnxruntime", "cpu"), card.lengths)
    from tavt_kit.runtimes.on_openvino import OpenvinoSession

    target = TargetDevice("openvino", "cpu")
    return OpenvinoSession(model, target, time.perf_counter(), of_file=True, lengths=card.lengths)


def _is_onnx(model: Any) -> bool:
    return type(model).__module__.startswith("onnx")
