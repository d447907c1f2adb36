"""Where distillation under a large bound trains stably, and whether a bound that grows helps.

    python examples/studies/growing_bound.py

Generated images of four shapes, a small ViT fine-tuned on them, then distilled anew for every setting: the bounds 0.4
and 0.6, and 0.2 growing to 0.6 linearly or by a cosine, at learning rates up to far too large ones. A table of top-1 on
held-out images for the dense network and two tapers, of the loss at the end, and of the largest gradient norm before
clipping after the warm-up.
"""

from __future__ import annotations

import argparse
import copy
import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.distill.optimizer import make_optimiser
from tavt_kit.distill.options import LearningRate
from tavt_kit.distill.sampling import Bound, Sampler
from tavt_kit.distill.sandwich import sandwich_step
from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import AdaptiveViT, wrap

BOUNDS = ("0.2", "0.4", "0.6", "0.2:0.6", "0.2:0.6:cosine")
RUNGS = ("dense", "taper:0.3", "taper:0.6")
SIZE = 48


def shapes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy images (n, 3, SIZE, SIZE) of a disc, a square, a bar or a cross somewhere, and their kinds (n,)."""
    draws = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    images: NDArray[np.float64] = draws.normal(0, 0.6, (count, 3, SIZE, SIZE))
    kinds = np.arange(count) % 4
    for image, kind in zip(images, kinds, strict=True):
        y, x = draws.integers(10, SIZE - 10, 2)
        across, down = abs(columns - x), abs(rows - y)
        masks = (across**2 + down**2 < 49, (across < 7) & (down < 7), (across < 9) & (down < 3),
                 ((across < 2) | (down < 2)) & (across + down < 11))  # fmt: skip
        image[:, masks[kind]] += 1.2
    return torch.from_numpy(images).float(), torch.from_numpy(kinds)


def fine_tuned(images: Tensor, kinds: Tensor, steps: int) -> AdaptiveViT:
    """A ViT of 37 tokens and 6 layers that knows the shapes as long as it sees everything."""
    torch.manual_seed(0)
    options = {"img_size": SIZE, "patch_size": 8, "embed_dim": 64, "depth": 6, "num_heads": 4, "num_classes": 4}
    model = wrap(timm.create_model("vit_tiny_patch16_224", **options))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    draws = np.random.default_rng(0)
    for _ in range(steps):
        some = torch.from_numpy(draws.integers(0, len(kinds), 32))
        F.cross_entropy(model(images[some]), kinds[some]).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad()
    return model


def distilled(
    model: AdaptiveViT, images: Tensor, kinds: Tensor, bound: Bound, rate: float, steps: int, optimiser: str
) -> tuple[AdaptiveViT, float, float]:
    """A copy of the model after distillation, its mean loss over the last tenth, and its largest gradient norm."""
    model = wrap(copy.deepcopy(model.unwrap()))
    sampler = Sampler(model.layout, bound=bound, random=1)
    mover = make_optimiser(model, optimiser, rate=rate)
    rates, norms, losses = LearningRate(rate, steps // 20, steps), [], []
    for number in range(1, steps + 1):
        draws = np.random.default_rng([1, number])
        some = torch.from_numpy(draws.integers(0, len(kinds), 16))
        full, subs = sampler.draw(draws, (number - 1) / (steps - 1))
        losses.append(sandwich_step(model, images[some], kinds[some], subs, full=full).loss.item())
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
        for group in mover.param_groups:
            group["lr"] = rates.at(number)
        if not math.isfinite(norms[-1]):
            return model, math.nan, math.nan
        mover.step()
        mover.zero_grad()
    return model.eval(), sum(losses[-(steps // 10) :]) / (steps // 10), max(norms[steps // 20 :])


@torch.no_grad()
def top1(model: AdaptiveViT, rung: str, images: Tensor, kinds: Tensor) -> float:
    """In percent, under a schedule."""
    model.schedule = TokenSchedule.parse(rung, model.layout)
    return 100 * float((model(images).argmax(1) == kinds).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--tuning-steps", type=int, default=400)
    parser.add_argument("--rates", type=float, nargs="+", default=[3e-4, 1e-3, 3e-3, 1e-2])
    parser.add_argument("--optimiser", choices=("adamw", "sgd"), default="adamw")
    given = parser.parse_args()
    torch.set_num_threads(1)
    (images, kinds), held_out = shapes(640, 1), shapes(400, 2)
    model = fine_tuned(images, kinds, given.tuning_steps)
    print("| bound | learning rate | " + " | ".join(RUNGS) + " | loss at the end | largest gradient norm |")
    print("|---|---|" + "---|" * (len(RUNGS) + 2))
    before = " | ".join(f"{top1(model.eval(), rung, *held_out):.1f}" for rung in RUNGS)
    print(f"| not distilled | | {before} | | |", flush=True)
    for rate in given.rates:
        for bound in BOUNDS:
            parsed = Bound.parse(bound)
            after, loss, norm = distilled(model, images, kinds, parsed, rate, given.steps, given.optimiser)
            tops = " | ".join(f"{top1(after, rung, *held_out):.1f}" for rung in RUNGS)
            print(f"| {bound} | {rate:g} | {tops} | {loss:.3f} | {norm:.2f} |", flush=True)


if __name__ == "__main__":
    main()
