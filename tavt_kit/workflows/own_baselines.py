"""What a dropped ViT competes with: the same model made cheaper in the ways that need no token dropping."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tavt_kit.bench.passes import open_schedule
from tavt_kit.checkpoints import load_model
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data import load_arrays, thin_out
from tavt_kit.data.preprocess import Preprocessing, normalise
from tavt_kit.errors import TargetError
from tavt_kit.evaluation.evaluator import LeanEvaluator
from tavt_kit.models.macs import MacsFormula
from tavt_kit.pruning.depth import spared_layers
from tavt_kit.runtimes import Session
from tavt_kit.workflows.joint import write_int8
from tavt_kit.workflows.search_request import Request
from tavt_kit.workflows.search_subject import Subject

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tavt_kit.models.wrap import AdaptiveViT

__all__ = ["BaselineModel", "Logits", "Make", "of_schedule", "own_baselines", "session_logits"]

_CALIBRATE = 100
"""Training pictures, at most, that tell which layers can be spared."""

_AT_ONCE = 32

_MOST = 0.75
"""Share of the dense multiply-adds that a baseline has at most, where the search's choice saves little or nothing."""


class Logits(Protocol):
    """A model's answers."""

    def __call__(self, pixels: NDArray[np.uint8], labels: NDArray[np.int64], /) -> NDArray[np.float32]:
        """Prepared pictures (n, 3, H, W) in bytes and their classes (n,) -> (n, classes)."""
        ...


@dataclass(frozen=True, slots=True)
class BaselineModel:
    """A baseline before it is evaluated and measured.

    Args:
        name: For people.
        kind: As of ``Baseline``.
        preprocessing: Of its pictures.
        logits: Its answers; ``None`` where they would mean nothing.
        session: Opens it on the target.
        macs: Multiply-adds of one image, where they can be counted.
        note: How it was made.
    """

    name: str
    kind: str
    preprocessing: Preprocessing
    logits: Logits | None
    session: Callable[[], Session]
    macs: int | None = None
    note: str = ""


Make = tuple[str, Callable[[], BaselineModel]]
"""What it will be called, and how it is made."""


def own_baselines(subject: Subject, request: Request, macs: int, tapers: bool, folder: Path) -> Iterator[Make]:
    """The dense model at lower resolutions, with fewer layers, and in int8; a uniform taper where none was evaluated.

    Args:
        subject: The model.
        request: Where it is to run.
        macs: Multiply-adds of the search's choice, which those that can be made of any size are to match.
        tapers: Whether a uniform taper is wanted too.
        folder: For files that have to stay until all is measured.
    """
    formula = MacsFormula.of(subject.model)
    most = min(macs, int(_MOST * formula.macs(subject.space.dense)))
    for size in _sizes(subject, most):
        yield f"dense at {size[1]} px", _resized(subject, request, size)
    yield "fewer layers", lambda: _shallow(subject, request, formula, most)
    if tapers:
        yield "uniform taper", lambda: _tapered(subject, request, formula, most)
    yield "dense INT8", lambda: _quantized(subject, request, folder)


def _sizes(subject: Subject, most: int) -> list[tuple[int, int]]:
    """Image sizes, in whole patches: the largest of at most ``most``, and the next one."""
    model, (height, width) = subject.model, subject.preprocessing.image_size
    rows, columns = model.grid
    found: list[tuple[int, int]] = []
    for row in range(rows - 1, 0, -1):
        column = max(1, round(columns * row / rows))
        size = (height * row // rows, width * column // columns)
        tokens = model.prefix + row * column
        found.append(size)
        if _cost_of(model, tokens) <= most:
            break
    return found[-2:]


def _cost_of(model: AdaptiveViT, tokens: int) -> int:
    """About the multiply-adds of the dense model on fewer tokens: what the whole layers take, as a share."""
    dense = MacsFormula.of(model).macs(model.dense_schedule)
    return round(dense * tokens / model.tokens)


def _resized(subject: Subject, request: Request, size: tuple[int, int]) -> Callable[[], BaselineModel]:
    def make() -> BaselineModel:
        model = load_model(request.out, image_size=size).eval()
        model.to(next(subject.model.parameters()).device)
        note = f"{size[1]} px instead of {subject.preprocessing.image_size[1]}, "
        if size[1] in subject.card.image_sizes:
            note += "trained for this size too"
        else:
            note += "not trained for this size"
            subject.progress.say(
                f"The weights were never trained for {size[1]} px, so nothing found here counts as better than a "
                "smaller image; distil for that size too, and search again."
            )
        return of_schedule(model, model.dense_schedule, f"dense at {size[1]} px", "resolution", note, request)

    return make


def _shallow(subject: Subject, request: Request, formula: MacsFormula, most: int) -> BaselineModel:
    """The layers whose absence costs least on training pictures are left out, until it is as cheap."""
    model, dense = subject.model, subject.space.dense
    depth = max(1, next((d for d in range(model.layers - 1, 0, -1) if _of_first(formula, dense, d) <= most), 1))
    samples = thin_out(subject.images.split("train"), _CALIBRATE)
    seen = load_arrays(samples, subject.preprocessing, allow_unreadable=request.allow_unreadable)
    import torch

    device = next(model.parameters()).device
    gone = spared_layers(
        model, model.layers - depth, torch.from_numpy(seen.images).to(device), torch.from_numpy(seen.labels).to(device)
    )
    note = f"without layers {', '.join(map(str, sorted(gone)))}"
    schedule = replace(dense, executed=tuple(layer for layer in range(model.layers) if layer not in gone))
    depth = model.layers - len(gone)
    return of_schedule(model, schedule, f"{depth} of {model.layers} layers", "layers", note, request)


def _of_first(formula: MacsFormula, dense: TokenSchedule, depth: int) -> int:
    """Multiply-adds of so many layers."""
    return formula.macs(replace(dense, executed=tuple(range(depth))))


def _tapered(subject: Subject, request: Request, formula: MacsFormula, most: int) -> BaselineModel:
    """The gentlest uniform taper that is as cheap."""
    space = subject.space
    ratios = [step / 200 for step in range(1, 180)]
    tapers = [TokenSchedule.taper(space.layout, ratio) for ratio in ratios]
    place = next((i for i, taper in enumerate(tapers) if formula.macs(taper) <= most), len(tapers) - 1)
    note = f"{100 * ratios[place]:g} % dropped in every layer"
    return of_schedule(subject.model, tapers[place], "uniform taper", "taper", note, request)


def of_schedule(
    model: AdaptiveViT, schedule: TokenSchedule, name: str, kind: str, note: str, request: Request
) -> BaselineModel:
    """A wrapped model with its card, at one schedule."""
    how = Preprocessing.from_record(model.require_card().preprocessing)

    def logits(pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.float32]:
        evaluator = LeanEvaluator(model, pixels, labels, how, precision=request.precision)
        found: NDArray[np.float32] = evaluator.logits(schedule).numpy()
        return found

    def session() -> Session:
        assert request.target is not None  # opened only to be measured
        return open_schedule(model, request.target, how.image_size, schedule)

    return BaselineModel(name, kind, how, logits, session, MacsFormula.of(model).macs(schedule), note)


def _quantized(subject: Subject, request: Request, folder: Path) -> BaselineModel:
    """The file that ``fgvc-kit export `precision` int8`` would write: the better of SmoothQuant on and off.

    Raises:
        TargetError: The target has no int8, or is not here; without a target nothing would be gained.
    """
    target = request.target
    if target is None or not request.is_here:
        raise TargetError("it has as many multiply-adds as the dense model in f32; only a target here shows its gain")
    if target.runtime == "torch":
        raise TargetError("torch runs no int8 here; search on openvino or onnxruntime to see it")
    model = load_model(request.out).eval()
    written = write_int8(subject, request, model, {"": model.dense_schedule}, folder)
    session, facts = written.session, dict(written.card.calibration or {})
    macs = MacsFormula.of(model).macs(model.dense_schedule)
    note = f"quantized by {facts['quantizer']}, calibrated on {facts['images']} training pictures"
    how_seen = subject.preprocessing
    return BaselineModel("dense INT8", "int8", how_seen, session_logits(session, how_seen), lambda: session, macs, note)


def session_logits(session: Session, how: Preprocessing, order: list[int] | None = None) -> Logits:
    """The answers of an open session, in batches that it takes.

    Args:
        session: Of any model.
        how: Its preprocessing.
        order: Which of its columns holds each class; ``None`` where they are in order.
    """

    def logits(pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.float32]:
        import numpy as np

        size = session.input_shape[0] or _AT_ONCE
        parts = []
        for start in range(0, len(pixels), size):
            images = normalise(pixels[start : start + size], how)
            count = len(images)
            if session.input_shape[0] is not None and count < size:  # the batch is frozen into it
                images = np.concatenate([images, np.repeat(images[-1:], size - count, axis=0)])
            parts.append(session(images)[:count])
        found: NDArray[np.float32] = np.concatenate(parts)
        return found if order is None else found[:, order]

    return logits
