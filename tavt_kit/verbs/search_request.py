"""What a user asks of a search, checked as far as it can be without a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tavt_kit.budget import Budget
from tavt_kit.device import TargetDevice
from tavt_kit.errors import BudgetError, DataError
from tavt_kit.latency_table import LatencyTable
from tavt_kit.verbs.options import BadOption

__all__ = ["Request"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The flags of ``fgvc-kit search``, read.

    Raises:
        TavtError: Flags that contradict each other, or a number out of range.
    """

    model: str
    out: Path
    data: str | None
    target: TargetDevice | None
    budget: Budget
    weights: str | None
    schedules: tuple[str, ...]
    score: str | None
    pool: str | None
    image_size: int | None
    evaluations: int
    population: int
    max_seconds: float | None
    final: int
    seed: int
    limit: int | None
    allow_unreadable: int
    fresh: bool
    profile: LatencyTable | None = None

    def __post_init__(self) -> None:
        for name, least in (("evaluations", 1), ("population", 2), ("final", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise BadOption(f"--{name} must be at least {least}, got {getattr(self, name)}")
        if self.limit is not None and self.limit < 1:
            raise DataError(f"a limit must allow at least one picture, got --limit {self.limit}")
        if self.target is None and self.budget.of("latency"):
            raise BudgetError(
                f"a latency is of a machine, so {self.budget.of('latency')[0]} needs --target, such as openvino:cpu"
            )

    @property
    def is_here(self) -> bool:
        """Whether the target is on this machine: a carried profile stands for one that is not."""
        return self.target is not None and self.profile is None

    @property
    def is_timed(self) -> bool:
        """Whether latency is what the search minimises or limits, so that the target's layers are timed first."""
        return self.target is not None and (bool(self.budget.of("latency")) or not self.budget.of("flops"))

    @property
    def precision(self) -> str:
        """In which what was measured in the end is evaluated: bf16 where the target runs it, else f32."""
        return "bf16" if self.target is not None and self.target.precision == "bf16" else "f32"

    @property
    def ranking_precision(self) -> str:
        """In which the search itself evaluates: bf16 where that is faster and finalists are evaluated once more."""
        import torch

        from tavt_kit.runtimes.on_torch import is_bf16_faster

        return "bf16" if self.is_timed and is_bf16_faster(torch.device("cpu")) else self.precision
