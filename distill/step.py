"""One step of in-place distillation by the sandwich rule (TAVT; slimmable networks, Yu & Huang 2019)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tavt_kit.adaptive import AdaptiveViT
from tavt_kit.distill.losses import at_least_f32, check_direction, divergence
from tavt_kit.errors import TrainingError
from tavt_kit.schedule import TokenSchedule
from tavt_kit.tokens import TokenState

__all__ = ["SandwichRule", "SandwichStep", "sandwich_step", "training_attention"]

_FEW_TOKENS = 160


@dataclass(frozen=True, slots=True)
class SandwichRule:
    """What a step adds up.

    Args:
        kl: Direction of the divergence of each sub-network from the full one.
        temperature: Of that divergence.
        accumulation: Micro-batches per update; every term is divided by it.
        divide_full: False repeats the official code, which does not divide the full network's term.
        frozen: Leading layers, embedding included, that train nothing: where no network drops in them, they run once
            for all networks and nothing is kept for a backward pass.
        lean: Do no work for rows that do not go on (the same to the last bits, and 9 % faster).

    Raises:
        UnknownName: No such direction.
        TrainingError: A temperature that is not above 0, or an accumulation below 1.
    """

    kl: str = "reverse"
    temperature: float = 1.0
    accumulation: int = 1
    divide_full: bool = True
    frozen: int = 0
    lean: bool = True

    def __post_init__(self) -> None:
        check_direction(self.kl)
        if not self.temperature > 0:
            raise TrainingError(f"the temperature must be above 0, got {self.temperature}")
        if self.accumulation < 1:
            raise TrainingError(f"gradients are accumulated over at least 1 micro-batch, got {self.accumulation}")


@dataclass(frozen=True, slots=True, eq=False)
class SandwichStep:
    """What a step did; everything is detached.

    Args:
        logits: (B, C) of the full network, then of each sub-network.
        cross_entropy: Of the full network.
        divergences: Of each sub-network from the full one.
        loss: The sum that was differentiated.
    """

    logits: tuple[Tensor, ...]
    cross_entropy: Tensor
    divergences: tuple[Tensor, ...]
    loss: Tensor


def sandwich_step(
    model: AdaptiveViT,
    images: Tensor,
    labels: Tensor,
    subs: Sequence[TokenSchedule],
    *,
    full: TokenSchedule | None = None,
    rule: SandwichRule | None = None,
    backward: Callable[[Tensor], None] = torch.Tensor.backward,
) -> SandwichStep:
    """Accumulate the gradients of one step: cross-entropy of the full network, divergences of its sub-networks.

    With S + 1 sub-networks every term weighs 1 / (S + 2). Each network's graph is freed before the next one runs. The
    full logits are detached: sub-networks learn from the full network, never the other way round.

    Args:
        model: Its schedule is neither used nor changed.
        images: (B, 3, H, W).
        labels: (B,) int64, or (B, C) shares of the classes.
        subs: The smallest network and random ones, from ``Sampler.draw``.
        full: The full network, where layer dropout thins it; ``None`` is the dense schedule.
        rule: ``None`` is the default rule.
        backward: Called with each scaled term; replace it to scale for half precision.

    Raises:
        ScheduleError: A schedule does not fit the model.

    Example:
        >>> import timm
        >>> from tavt_kit.adaptive import wrap
        >>> model = wrap(timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=3))
        >>> taper = TokenSchedule.taper(tokens=5, layers=12, ratio=0.2)
        >>> step = sandwich_step(model, torch.zeros(2, 3, 32, 32), torch.tensor([0, 2]), [taper])
        >>> len(step.logits)
        2
    """
    rule = rule or SandwichRule()
    full = full or model.dense_schedule
    passes = _Passes(model, images, (full, *subs), rule)
    share = 1 / (len(subs) + 1) / rule.accumulation
    teacher = passes.logits(full)
    cross_entropy = F.cross_entropy(at_least_f32(teacher), labels)
    loss = cross_entropy * (share if rule.divide_full else share * rule.accumulation)
    backward(loss)
    total, teacher = loss.detach(), teacher.detach()
    logits, divergences = [teacher], []
    for sub in subs:
        student = passes.logits(sub)
        apart = divergence(student, teacher, rule.kl, rule.temperature)
        loss = apart * share
        backward(loss)
        total = total + loss.detach()
        logits.append(student.detach())
        divergences.append(apart.detach())
    return SandwichStep(tuple(logits), cross_entropy.detach(), tuple(divergences), total)


class _Passes:
    """The forward passes of one batch; what frozen layers give to all of them is computed once."""

    def __init__(
        self, model: AdaptiveViT, images: Tensor, schedules: Sequence[TokenSchedule], rule: SandwichRule
    ) -> None:
        for schedule in schedules:
            schedule.check(tokens=model.tokens, layers=model.layers, prefix=model.prefix)
        self.model = model
        self.images = images
        self.lean = rule.lean
        self.depth = _common_depth(model, schedules, rule.frozen)
        self.shared: TokenState | None = None
        if rule.frozen:
            with torch.no_grad():
                self.shared = self._advance(self._start(), range(self.depth), model.dense_schedule)

    def logits(self, schedule: TokenSchedule) -> Tensor:
        """(B, C)"""
        state = self.shared
        if state is None:
            state = self._start()
        layers = [layer for layer in range(self.depth, self.model.layers) if schedule.runs(layer)]
        return self.model.finish(self._advance(state, layers, schedule))

    def _start(self) -> TokenState:
        track = self.model.pool == "restored" and not self.model.token_pooled
        return self.model.start(self.images, track=track)

    def _advance(self, state: TokenState, layers: Sequence[int], schedule: TokenSchedule) -> TokenState:
        return self.model.advance(state, layers, schedule.counts, lean=self.lean)


def _common_depth(model: AdaptiveViT, schedules: Sequence[TokenSchedule], frozen: int) -> int:
    """Leading frozen layers that every network runs without dropping."""
    depth = 0
    while depth < min(frozen, model.layers - 1) and all(
        schedule.runs(depth) and schedule.counts[depth] == model.tokens for schedule in schedules
    ):
        depth += 1
    return depth


@contextmanager
def training_attention(tokens: int, device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """The fastest way to differentiate attention: for few tokens in bfloat16 on a CPU the plain formula.

    The fused kernel's backward pass costs there 5 times the plain one at 65 tokens and 1.3 times at 145; they break
    even at 197, and in float32 everywhere (torch 2.13, AVX-512).
    """
    plain = device.type == "cpu" and dtype == torch.bfloat16 and tokens <= _FEW_TOKENS
    with sdpa_kernel(SDPBackend.MATH) if plain else nullcontext():
        yield
