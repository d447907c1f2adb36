"""What a user asks of a search, checked as far as it can be without a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tavt_kit.budget import Budget
from tavt_kit.device import TargetDevice, read_precision
from tavt_kit.errors import BudgetError, DataError, TargetError
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
    engine: str
    workers: int | None
    ray_address: str | None
    screen: int
    evaluate_on: str | None

    def __post_init__(self) -> None:
        for name, least in (("evaluations", 1), ("population", 2), ("final", 1), ("seed", 0), ("screen", 0)):
            if getattr(self, name) < least:
                raise BadOption(f"--{name} must be at least {least}, got {getattr(self, name)}")
        if self.engine not in ("local", "ray"):
            raise BadOption(f"--engine is local or ray, got {self.engine!r}")
        if self.workers is not None and self.workers < 1:
            raise BadOption(f"--workers must be at least 1, got {self.workers}")
        if self.ray_address is not None and self.engine != "ray":
            raise BadOption(f"--ray-address is for --engine ray, but the engine is {self.engine}")
        if self.limit is not None and self.limit < 1:
            raise DataError(f"a limit must allow at least one picture, got --limit {self.limit}")
        if self.target is None and self.budget.of("latency"):
            raise BudgetError(
                f"a latency is of a machine, so {self.budget.of('latency')[0]} needs --target, such as openvino:cpu"
            )
        if self.target is not None and (self.target.runtime == "onnxruntime" or self.target.precision == "int8"):
            raise TargetError(
                f"a search runs live models, on torch or openvino in f32, f16 or bf16, got {self.target}; search on "
                "one of these, then export and bench"
            )
        if self.evaluate_on is not None:
            _ = self.looks  # refuses what cannot be

    @property
    def is_timed(self) -> bool:
        """Whether latency is what the search minimises or limits, so that the target's layers are timed first."""
        return self.target is not None and (bool(self.budget.of("latency")) or not self.budget.of("flops"))

    @property
    def precision(self) -> str:
        """In which what was measured in the end is evaluated: bf16 where the target runs it, else f32."""
        return "bf16" if self.target is not None and self.target.precision == "bf16" else "f32"

    @property
    def looks(self) -> TargetDevice:
        """By which runtime, and in which precision, the search itself evaluates.

        Where ``--evaluate-on`` does not say: torch, in bf16 where that is faster and finalists are evaluated once more.

        Raises:
            BadOption: Neither torch nor openvino, or another precision than f32 and bf16.
        """
        if self.evaluate_on is None:
            return TargetDevice("torch", "cpu", precision=self._quick_precision)
        runtime, _, precision = self.evaluate_on.strip().lower().partition(":")
        precision = read_precision(precision or "f32")
        if runtime not in ("torch", "openvino") or precision not in ("f32", "bf16"):
            raise BadOption(
                f"--evaluate-on is torch or openvino, with f32 or bf16, such as openvino:bf16, got {self.evaluate_on!r}"
            )
        threads = self.target.threads if self.target is not None and self.target.is_cpu else None
        return TargetDevice(runtime, "cpu", threads=threads, precision=precision)

    @property
    def _quick_precision(self) -> str:
        import torch

        from tavt_kit.runtimes.on_torch import is_bf16_faster

        return "bf16" if self.is_timed and is_bf16_faster(torch.device("cpu")) else self.precision

    @property
    def precisions(self) -> dict[str, str]:
        """How pictures were evaluated, as ``front.json`` says it."""
        found = {"search": self.looks.precision, "final": self.precision, "runtime": self.looks.runtime}
        return found | ({"screen": str(self.screen)} if self.screen else {})
