"""The budget of ``fgvc-kit prune``: counted, or measured on the target while the share is looked for and at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tavt_kit.core.budget import Limit
from tavt_kit.errors import BudgetError

if TYPE_CHECKING:
    from torch import nn

    from tavt_kit.bench import Protocol
    from tavt_kit.core.measurement import Measurement
    from tavt_kit.core.schedule import TokenSchedule
    from tavt_kit.models.wrap import AdaptiveViT
    from tavt_kit.pruning.prune import Ceiling

__all__ = ["PruneBudget"]

_TARGET = "openvino:cpu"


@dataclass(frozen=True, slots=True)
class PruneBudget:
    """What the pruned model may cost.

    Args:
        limit: On ``flops`` or ``latency``.
        schedule: The schedule it is meant for, as text.
        target: Where a latency is measured.
        seed: Of the inputs that are timed.

    Raises:
        BudgetError: A limit of another kind, or a target or schedule without a limit that uses it.
    """

    limit: Limit
    schedule: str = "dense"
    target: str = _TARGET
    seed: int = 0

    @classmethod
    def read(cls, budget: str | None, schedule: str | None, target: str | None, seed: int) -> PruneBudget | None:
        """The flags of the command line; ``None`` where no budget is given."""
        if budget is None:
            for flag, value in (("--schedule", schedule), ("--target", target)):
                if value is not None:
                    raise BudgetError(
                        f"{flag} {value} is for a budget, but none is given; give `budget`, or leave it out"
                    )
            return None
        limit = Limit.parse(budget)
        if limit.quantity not in ("flops", "latency") or limit.statistic == "e2e":
            raise BudgetError(f"pruning meets a budget of flops or latency, got {limit}; check it after the export")
        if target is not None and limit.quantity == "flops":
            raise BudgetError(f"`target` {target} is for a latency, but the budget is {limit}; leave `target` out")
        from tavt_kit.core.device import TargetDevice

        device = str(TargetDevice.parse(target or _TARGET).resolved()) if limit.quantity == "latency" else ""
        return cls(limit, schedule or "dense", device, seed)

    def ceiling(self, model: AdaptiveViT) -> Ceiling:
        """For ``prune``: what a candidate costs, cut from this model; the machine's noise is in a latency."""
        from tavt_kit.models.wrap import wrap
        from tavt_kit.pruning.prune import Ceiling

        def cost(bare: nn.Module) -> float:
            return self.cost(wrap(bare, model.score, model.pool, model.reduction))

        return Ceiling(cost, self.limit.value, self.limit.show, f"--budget {self.limit}")

    def cost(self, model: AdaptiveViT) -> float:
        """Multiply-adds, or the limit's quantile of the latency by a brief measurement (ms)."""
        from tavt_kit.models.macs import count_macs

        if self.limit.quantity == "flops":
            return float(count_macs(model, self._schedule(model)))
        from tavt_kit.bench.passes import BRIEF

        return _quantile(self._measured(model, BRIEF), self.limit)

    def judged(self, model: AdaptiveViT) -> dict[str, Any]:
        """The verdict on the pruned model, counted or measured by the protocol, as a record."""
        from tavt_kit.bench import Protocol
        from tavt_kit.core.budget import judge_latency, judge_macs
        from tavt_kit.models.macs import count_macs

        if self.limit.quantity == "flops":
            macs = count_macs(model, self._schedule(model))
            verdict, value = judge_macs(self.limit, macs), float(macs)
        else:
            run = self._measured(model, Protocol(max_seconds=20.0, min_runs=40))
            verdict, value = judge_latency(self.limit, run), _quantile(run, self.limit)
        return {
            "budget": str(self.limit),
            "schedule": self.schedule,
            "target": self.target or None,
            "value": value,
            "verdict": str(verdict),
        }

    def _schedule(self, model: AdaptiveViT) -> TokenSchedule:
        from tavt_kit.core.schedule import TokenSchedule

        return TokenSchedule.parse(self.schedule, tokens=model.tokens, layers=model.layers, prefix=model.prefix)

    def _measured(self, model: AdaptiveViT, protocol: Protocol) -> Measurement:
        import numpy as np

        from tavt_kit.bench import measure_schedules
        from tavt_kit.core.device import TargetDevice

        size, rng = model.backbone.image_size, np.random.default_rng(self.seed)
        model.eval()
        target = TargetDevice.parse(self.target)
        return measure_schedules(model, target, size, [self._schedule(model)], protocol, rng)[0]


def _quantile(run: Measurement, limit: Limit) -> float:
    return {"p50": run.median, "p90": run.p90, "p99": run.p99}[limit.statistic or "p90"]
