"""How fast and how large a distillation step is, against one as TAVT's official loop makes it (``reference_step``).

    python examples/studies/distill_step.py --model vit_small_patch16_224 --image-size 224 --batch 16

Both steps get the same weights, images and schedules. They are timed one after the other, in an order that changes by
chance, and what counts is the median of the pairs' ratios: what else a machine does hits both. On a CPU the processor's
time stands beside the clock's: with one thread, other processes reach it through caches and clocks alone. Peak memory
is the high water mark of fresh processes that make one step each (on a GPU, of the allocator). The floor is what the
multiply-adds of the four networks, forward and twice backward, would take at the speed of one large matrix product,
timed in the same rounds.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent))
from reference_step import ReferenceViT, reference_step

from tavt_kit.core.host import HostFacts
from tavt_kit.core.measurement import Measurement, PairedRatio, paired_ratio
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.distill.sampling import SAMPLINGS, Sampler
from tavt_kit.distill.sandwich import SandwichRule, sandwich_step
from tavt_kit.models.flops import count_macs
from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import AdaptiveViT, wrap

Step = Callable[[], tuple[Tensor, ...]]
KINDS = ("reference", "ours")


class Bench:
    """Both steps on the same weights, images and schedules."""

    def __init__(self, given: argparse.Namespace) -> None:
        torch.manual_seed(given.seed)
        torch.set_num_threads(given.threads)
        self.device, self.bf16 = torch.device(given.device), given.precision == "bf16"
        model = timm.create_model(given.model, img_size=given.image_size, num_classes=200)
        with torch.no_grad():
            for block in model.blocks:
                block.attn.qkv.weight.mul_(2)  # peaked attention: which tokens are kept matters
            model.head.weight.normal_(0, 0.05)
        self.model: AdaptiveViT = wrap(model.to(self.device))
        self.images = torch.randn(given.batch, 3, given.image_size, given.image_size).to(self.device)
        self.labels = torch.randint(0, 200, (given.batch,)).to(self.device)
        sampler = Sampler(self.model.layout, bound=given.bound, random=2, sampling=given.sampling)
        _, self.subs = sampler.draw(np.random.default_rng(given.seed))
        self.rule = SandwichRule(chunk=given.chunk)
        self.given = given

    def step(self, kind: str) -> Step:
        """A step that returns its losses and leaves no gradients."""
        if kind == "ours":

            def ours() -> tuple[Tensor, ...]:
                done = sandwich_step(self.model, self.images, self.labels, self.subs, rule=self.rule)
                self.model.zero_grad(set_to_none=True)
                return (done.full["cross_entropy"], *done.divergences)

            return self._autocast(ours)
        reference = ReferenceViT(self.model.bare).to(self.device)

        def official() -> tuple[Tensor, ...]:
            losses = reference_step(reference, self.images, self.labels, self.subs)
            reference.zero_grad(set_to_none=True)
            return losses

        return self._autocast(official)

    def _autocast(self, step: Step) -> Step:
        def inside() -> tuple[Tensor, ...]:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                return step()

        return inside

    def seconds(self, step: Callable[[], object]) -> tuple[float, float]:
        """Of one call, by the clock and of the processor's time."""
        self._wait()
        start, used = time.perf_counter(), time.process_time()
        step()
        self._wait()
        return time.perf_counter() - start, time.process_time() - used

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def networks(self) -> list[TokenSchedule]:
        """The full one, then its sub-networks."""
        return [self.model.dense_schedule, *self.subs]

    def floor_macs(self) -> int:
        """Multiply-adds of all networks, forward and twice that backward."""
        return 3 * self.given.batch * sum(count_macs(self.model, each) for each in self.networks())


def peak(bench: Bench) -> Callable[[], object]:
    """One large product, whose multiply-adds in a second are what the processor can do."""
    size = 8192 if bench.device.type == "cuda" else 1536
    factor = torch.randn(size, size, device=bench.device, dtype=torch.bfloat16 if bench.bf16 else torch.float32)

    def multiply() -> Tensor:
        return factor @ factor

    multiply.macs = size**3  # type: ignore[attr-defined]
    return multiply


def counted(step: Step) -> tuple[list[float], int]:
    """A step's losses, and the multiply-adds of its matrix products and convolutions, backward passes included."""
    with FlopCounterMode(display=False) as counter:
        losses = [float(value) for value in step()]
    return losses, int(counter.get_total_flops()) // 2


def timed(bench: Bench) -> dict[str, Any]:
    """Pairs of both steps and the peak, interleaved in random order."""
    steps = {kind: bench.step(kind) for kind in KINDS}
    first = {kind: counted(step) for kind, step in steps.items()}  # the warm-up too
    losses = {kind: values for kind, (values, _) in first.items()}
    product = peak(bench)
    todo: dict[str, Callable[[], object]] = {**steps, "peak": product}
    order = np.random.default_rng(0)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in todo}
    for _ in range(bench.given.pairs):
        for name in order.permutation(list(todo)):
            taken[name].append(bench.seconds(todo[name]))
    speed = product.macs / min(wall for wall, _ in taken["peak"])  # type: ignore[attr-defined]
    return {
        "losses": losses,
        "largest_difference": max(abs(a - b) for a, b in zip(*losses.values(), strict=True)),
        "seconds": {kind: median(wall for wall, _ in taken[kind]) for kind in KINDS},
        "ratio": asdict(_ratio(taken, 0)),
        "processor_seconds": {kind: median(used for _, used in taken[kind]) for kind in KINDS},
        "processor_ratio": asdict(_ratio(taken, 1)),
        "peak_gmacs_per_second": speed / 1e9,
        "floor_seconds": bench.floor_macs() / speed,
        "gmacs": {"networks": bench.floor_macs() / 1e9, **{kind: macs / 1e9 for kind, (_, macs) in first.items()}},
    }


def _ratio(taken: dict[str, list[tuple[float, float]]], which: int) -> PairedRatio:
    slow, fast = (Measurement(tuple(1e3 * pair[which] for pair in taken[kind]), steady=False) for kind in KINDS)
    return paired_ratio(slow, fast)


def memory(given: argparse.Namespace) -> dict[str, Any]:
    """The peak of one step of each kind, and of neither, in fresh processes; MB."""
    found = {}
    for kind in ("nothing", *KINDS):
        command = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], "--only", kind]
        found[kind] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["mb"]
    added = {kind: found[kind] - found["nothing"] for kind in KINDS}
    return {
        "mb": found,
        "share": found["ours"] / found["reference"],
        "share_beside_model": added["ours"] / added["reference"],
    }


def only(given: argparse.Namespace) -> float:
    """Peak memory of this process after one step, in MB."""
    bench = Bench(given)
    if given.only != "nothing":
        bench.step(given.only)()
    if bench.device.type == "cuda":
        return torch.cuda.max_memory_allocated(bench.device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_small_patch16_224", help="a timm ViT with a class token")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--bound", type=float, default=0.2)
    parser.add_argument("--sampling", choices=SAMPLINGS, default="bound", help="how sub-networks are drawn")
    parser.add_argument("--chunk", type=int, default=None, help="images at a time in our step; default: its own")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("f32", "bf16"), default="f32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("nothing", *KINDS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        print(json.dumps({"mb": only(given)}))
        return
    asked = {key: value for key, value in vars(given).items() if key != "only"}
    record = {"asked": asked, "memory": memory(given), **timed(Bench(given)), "host": HostFacts.gather().as_record()}
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
