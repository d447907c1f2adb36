"""One step of in-place distillation by the sandwich rule (TAVT; slimmable networks, Yu & Huang 2019)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import zip_longest

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tavt_kit.core.model_card import ModelCard
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.distill.losses import DIRECTIONS, divergence, full_terms, is_pairwise
from tavt_kit.distill.options import require_known, require_ranges
from tavt_kit.errors import DataError
from tavt_kit.models.prefix_sharing import Passes
from tavt_kit.models.token_reduction import TokenState
from tavt_kit.models.wrap import AdaptiveViT

_FEW_TOKENS = 160
_TOKENS_AT_ONCE = 1600
"""Tokens that enter a layer together on a CPU: with fewer its matrix products slow down, more only take memory."""


@dataclass(frozen=True, slots=True)
class SandwichRule:
    """What a step adds up; ``DistillRecipe`` says more of what is not listed here.

    Args:
        divide_full: False repeats the official code, which does not divide the full network's term.
        lean: Do no work for rows that do not go on (the same to the last bits, and 9 % faster).
        chunk: A model whose loss or norms mix the images of a batch takes the batch whole whatever is asked.

    Raises:
        UnknownName: No such direction.
        TrainingError: A value out of its range.
    """

    kl: str = "reverse"
    temperature: float = 1.0
    accumulation: int = 1
    divide_full: bool = True
    lean: bool = True
    chunk: int | None = None
    teacher_weight: float = 0.5

    def __post_init__(self) -> None:
        require_known(self, kl=DIRECTIONS)
        require_ranges(self, temperature="(0, inf)", accumulation="[1, inf)", chunk="[1, inf)", teacher_weight="[0, 1]")


@dataclass(frozen=True, slots=True, eq=False)
class SandwichStep:
    """What a step did; everything is detached.

    Args:
        logits: (B, C) of the full network, then of each sub-network.
        full: The terms of the full network's loss by name, ``cross_entropy`` among them for most families.
    """

    logits: tuple[Tensor, ...]
    full: Mapping[str, Tensor]
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
    targets: Tensor | None = None,
    taught: str = "all",
    backward: Callable[[Tensor], None] = torch.Tensor.backward,
) -> SandwichStep:
    """Accumulate the gradients of one step: the full network's own loss, divergences of its sub-networks.

    With S + 1 sub-networks every network weighs 1 / (S + 2). What networks share is computed once, and each network's
    own graph is freed before the next one runs (``Passes``). The full logits are detached: sub-networks learn from the
    full network, never the other way round.

    Args:
        model: Its schedule is neither used nor changed.
        images: (B, 3, H, W), with labels (B,) int64, or (B, C) shares of the classes.
        subs: The smallest network and random ones, from ``Sampler.draw``.
        full: The full network, where layer dropout thins it.
        targets: (B, C) logits of a teacher, which the full network learns beside its labels.
        taught: ``all`` where the sub-networks learn ``targets`` too, in place of what the full network says, or
            ``full``.
        backward: Called with each scaled term; replace it to scale for half precision.

    Raises:
        ScheduleError: A schedule does not fit the model.

    Example:
        >>> import tavt_kit as tk, timm
        >>> model = tk.wrap(timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=3))
        >>> from tavt_kit.core.layout import TokenLayout
        >>> taper = TokenSchedule.taper(TokenLayout(5, 12), ratio=0.2)
        >>> step = sandwich_step(model, torch.zeros(2, 3, 32, 32), torch.tensor([0, 2]), [taper])
        >>> len(step.logits)
        2
    """
    rule = rule or SandwichRule()
    networks = (full or model.dense_schedule, *subs)
    for schedule in networks:
        schedule.check(model.layout)
    at_once = len(images)
    # On a GPU the batch is taken whole unless asked, and everywhere where a loss is over pairs of images.
    if not is_pairwise(model) and (rule.chunk is not None or images.device.type == "cpu"):
        at_once = min(at_once, rule.chunk or max(1, _TOKENS_AT_ONCE // model.tokens))
    parts = math.ceil(len(images) / at_once)
    step = _StepSums(model, rule, taught, backward, networks=len(networks), batch=len(images))
    wanted = [None] * parts if targets is None else targets.detach().tensor_split(parts)
    for these, names, aims in zip(images.tensor_split(parts), labels.tensor_split(parts), wanted, strict=True):
        step.labels, step.targets = names, aims
        Passes(model, networks, step.learn, rule.lean).run(these)
    logits = tuple(torch.cat(step.logits[network]) for network in range(len(networks)))
    divergences = tuple(step.divergences[network] for network in range(1, len(networks)))
    return SandwichStep(logits, step.full, divergences, step.loss)


@dataclass(slots=True)
class _StepSums:
    """What each network of a step learns, part of the batch by part: of ``labels`` and ``targets`` at a time."""

    model: AdaptiveViT
    rule: SandwichRule
    taught: str
    backward: Callable[[Tensor], None]
    networks: int
    batch: int
    labels: Tensor = field(init=False)
    targets: Tensor | None = field(init=False)
    aims: Tensor = field(init=False)
    """What sub-networks learn from: the full network's logits, or ``targets`` where these teach all."""
    logits: dict[int, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    full: dict[str, Tensor] = field(default_factory=dict)
    divergences: dict[int, Tensor] = field(default_factory=dict)
    loss: Tensor = field(default_factory=lambda: torch.tensor(0.0))

    def learn(self, network: int, state: TokenState) -> None:
        """Differentiate a network's loss; the full network comes first."""
        part = len(self.labels) / self.batch
        loss = self._full(state, part) if network == 0 else self._sub(network, state, part)
        share = part / self.networks
        if network or self.rule.divide_full:
            share /= self.rule.accumulation
        self.backward(loss * share)
        self.loss = loss.detach() * share + self.loss.to(loss.device)

    def _full(self, state: TokenState, part: float) -> Tensor:
        outputs = self.model.outputs(state)
        logits: Tensor = outputs.logits
        self.logits[0].append(logits.detach())
        terms = full_terms(self.model, state, outputs, self.labels)
        loss, self.aims = torch.stack(tuple(terms.values())).sum(), logits.detach()
        if self.targets is not None:
            if self.taught == "all":
                self.aims = self.targets
            # Hinton et al. (2015), section 2: towards the teacher's soft targets, so always its "forward" direction.
            terms["teacher"] = divergence(logits, self.targets, "forward", self.rule.temperature)
            weight = self.rule.teacher_weight
            loss = (1 - weight) * loss + weight * terms["teacher"]
        for name, term in terms.items():
            self.full[name] = term.detach() * part + self.full.get(name, 0.0)
        return loss

    def _sub(self, network: int, state: TokenState, part: float) -> Tensor:
        logits = self.model.finish(state)
        self.logits[network].append(logits.detach())
        loss = divergence(logits, self.aims, self.rule.kl, self.rule.temperature)
        self.divergences[network] = loss.detach() * part + self.divergences.get(network, 0.0)
        return loss


@contextmanager
def training_attention(tokens: int, device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """The fastest way to differentiate attention: for few tokens in bfloat16 on a CPU the plain formula.

    The fused kernel's backward pass costs there 5 times the plain one at 65 tokens and 1.3 times at 145; they break
    even at 197, and in float32 everywhere (torch 2.13, AVX-512).
    """
    plain = device.type == "cpu" and dtype == torch.bfloat16 and tokens <= _FEW_TOKENS
    with sdpa_kernel(SDPBackend.MATH) if plain else nullcontext():
        yield


@dataclass(frozen=True, slots=True)
class Teacher:
    """A model that is asked and never trained.

    It sees the student's images, normalised as it expects and resized to its own size (bicubic, antialiased): what a
    crop left out, it does not see either. Images are read at the larger of the two sizes.

    Raises:
        DataError: The model has no card, or knows other classes, or the same in another order.
    """

    model: AdaptiveViT
    student: ModelCard

    def __post_init__(self) -> None:
        theirs, ours = self.model.require_card().classes, self.student.classes
        for index, (their, our) in enumerate(zip_longest(theirs, ours)):
            if their != our:
                raise DataError(
                    f"class {index} of the teacher is {their} and of the student {our}; give a teacher trained on the "
                    "same data"
                )
        self.model.eval().requires_grad_(False)

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised for the student, of any size -> (B, C)."""
        cards = (self.student, self.model.require_card())
        ours, theirs = (Preprocessing.from_record(card.preprocessing) for card in cards)
        if (ours.mean, ours.std) != (theirs.mean, theirs.std):
            images = (images * _channels(ours.std, images) + _channels(ours.mean, images)
                      - _channels(theirs.mean, images)) / _channels(theirs.std, images)  # fmt: skip
        if images.shape[-2:] != theirs.image_size:
            images = F.interpolate(images, theirs.image_size, mode="bicubic", antialias=True)
        return self.model.forward_lean(images)


def _channels(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None, None]
