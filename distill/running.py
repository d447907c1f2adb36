"""How a run is carried out: precision, accumulation, averaging, selection on ``val``, and what is kept on the disk."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tavt_kit.errors import TrainingError


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """What surrounds the optimisation; the same for fine-tuning and distillation.

    Args:
        precision: Precision of the products: ``"f32"``, ``"bf16"`` or ``"f16"`` (with loss scaling); ``None`` is
            decided by the machine, and the decision recorded.
        accumulation: Micro-batches per update; every term of the loss is divided by it.
        ema: Decay of the moving average of the weights, which is then what is evaluated and written; ``None`` for
            none. The first updates use ``1 - (1 + update) ** (-2 / 3)`` where that is smaller.
        evaluate_every: Updates between two evaluations on ``val``, of which the best gives the final weights; the last
            update is always one of them. ``None`` evaluates nothing on the way and selects nothing.
        metric: What is selected by: top1, top5, macro_f1, recall[CLASS] or loss (``selection.SelectionMetric``).
        patience: Evaluations in a row without a better one, after which training stops; ``None`` never does.
        keep: States kept to continue from, the newest ones.
        allow_smaller_batch: Whether fewer images are computed at once where memory runs out, and as many per update.

    Raises:
        TrainingError: A value out of its range, or a patience without evaluations.
    """

    precision: str | None = None
    accumulation: int = 1
    ema: float | None = None
    evaluate_every: int | None = None
    metric: str = "top1"
    patience: int | None = None
    keep: int = 1
    allow_smaller_batch: bool = False

    def __post_init__(self) -> None:
        if self.accumulation < 1:
            raise TrainingError(f"an update takes at least one micro-batch, got `accumulation` {self.accumulation}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise TrainingError(f"the decay of the averaged weights is above 0 and below 1, got `ema` {self.ema}")
        for name in ("evaluate_every", "patience", "keep"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise TrainingError(f"`{name}` must be at least 1, got {value}")
        if self.patience is not None and self.evaluate_every is None:
            raise TrainingError("stopping early needs evaluations to stop by: give `evaluate_every` with `patience`")

    def as_record(self) -> dict[str, Any]:
        """What decides the result, flat and JSON-ready; two runs that differ in the rest may continue each other."""
        return {key: value for key, value in asdict(self).items() if key not in ("keep", "allow_smaller_batch")}

    def check_split(self, batch: int, processes: int) -> None:
        """Refuse a batch that cannot be cut into equal parts.

        Raises:
            TrainingError: It cannot.
        """
        parts = self.accumulation * processes
        if batch % parts:
            each = f"{self.accumulation} micro-batches" + (
                f" in each of {processes} processes" if processes > 1 else ""
            )
            raise TrainingError(
                f"`batch` must be a multiple of {parts}, for {each} of equal size, got {batch}; change it or "
                "`accumulation`"
            )
