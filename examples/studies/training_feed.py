"""Is the data pipeline the bottleneck? Reading alone, the training step alone, and both together, in images a second.

Generates photographs-like JPEG files of 500x375 pixels and trains all layers of a ViT on them by cross-entropy, the
quickest step there is (a distillation step computes three networks). The three are measured one right after the other,
case by case in random order, so that ratios mean something on a machine that other work disturbs; there, processor time
an image is the steadiest figure (with one thread: those that wait for one another are busy too).

    python examples/studies/training_feed.py  # ViT-S/16 at 224, f32, batch 16; ten minutes on two cores
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tavt_kit.data import Sample
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.distill.datasets import Batch, ImageSplit, read_images, stream
from tavt_kit.distill.options import DataOptions, OptimizerOptions
from tavt_kit.distill.sandwich import sandwich_step
from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import AdaptiveViT, wrap

LIGHTEST = "default: resize, flip"
READINGS = {
    LIGHTEST: DataOptions(),
    "ViTAE: random-resized, RandAugment, erasing, mixup": DataOptions(
        crop="random-resized", auto_augment="rand-m9-mstd0.5-inc1", erasing=0.25, mixup=0.8, cutmix=1.0
    ),
}
DISTINCT = 64


@dataclass(frozen=True)
class Case:
    """One row of the table, under one number of workers."""

    reading: str
    workers: int


@dataclass
class Found:
    """What was measured of a case, round by round.

    Args:
        reading: Images a second of reading alone.
        both: Of reading and step together, over the step's alone right before or after.
        cost: Processor time of reading in this process, ms an image; none where other processes read.
        step: Images a second of the step alone.
        step_cost: Its processor time, ms an image.
    """

    reading: list[float] = field(default_factory=list)
    both: list[float] = field(default_factory=list)
    cost: list[float] = field(default_factory=list)
    step: list[float] = field(default_factory=list)
    step_cost: list[float] = field(default_factory=list)


def draw_photographs(folder: Path, count: int) -> tuple[Sample, ...]:
    """JPEG files of 500x375 pixels and about 65 kB: smooth shapes with noise; a few contents under many names."""
    draws = np.random.default_rng(0)
    files = []
    for place in range(count):
        path = folder / f"{place:05}.jpg"
        if place < DISTINCT:
            shapes = Image.fromarray(draws.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize((500, 375))
            noise = draws.integers(-12, 13, (375, 500, 3))
            Image.fromarray((np.asarray(shapes) + noise).clip(0, 255).astype(np.uint8)).save(path, quality=90)
        else:
            path.write_bytes(files[place % DISTINCT].read_bytes())
        files.append(path)
    return tuple(Sample(path, place % 2) for place, path in enumerate(files))


def feed_of(images: ImageSplit, case: Case, settings: OptimizerOptions) -> Generator[Batch]:
    """The batches that a training run would get, without end."""
    asked = replace(images, reading=replace(images.reading, workers=case.workers))
    return stream(asked, settings, seed=random.randrange(10**6), first=1, last=10**6)


def rate(
    feed: Generator[Batch], consume: Callable[[Batch], None], batch: int, updates: int, skip: int
) -> tuple[float, float]:
    """Images a second of ``updates`` batches, those of the beginning (``skip``) not counted; processor ms an image."""
    with closing(feed) as batches:
        for _ in range(skip):
            consume(next(batches))
        start, busy = time.perf_counter(), time.process_time()
        for _ in range(updates):
            consume(next(batches))
        images = batch * updates
        return images / (time.perf_counter() - start), 1e3 * (time.process_time() - busy) / images


def trainer(model: AdaptiveViT) -> Callable[[Batch], None]:
    """One update of all layers."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def update(batch: Batch) -> None:
        sandwich_step(model, batch.images, batch.labels if batch.soft is None else batch.soft, ())
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return update


def measure(options: argparse.Namespace, folder: Path) -> Iterator[dict[Case, Found]]:
    """Everything found so far, after each round."""
    samples = draw_photographs(folder, options.images)
    preprocessing = Preprocessing((options.image_size, options.image_size))
    images = {
        name: read_images(samples, preprocessing, reading.settled(preprocessing)) for name, reading in READINGS.items()
    }
    settings = OptimizerOptions(batch=options.batch)
    net = timm.create_model(options.model, img_size=options.image_size, num_classes=2)
    update = trainer(wrap(net).train())
    fixed = next(feed_of(images[LIGHTEST], Case(LIGHTEST, 0), settings))
    found = {Case(name, workers): Found() for name in images for workers in (0, 1, 2)}
    for _ in range(options.rounds):
        for case in random.sample(list(found), len(found)):
            entry, split = found[case], images[case.reading]
            # What was read ahead before the clock started is a small part of these.
            alone, cost = rate(
                feed_of(split, case, settings), lambda batch: None, options.batch, 10 * options.updates, 5
            )
            entry.reading.append(alone)
            entry.cost.append(cost)
            step, step_cost = rate(
                (fixed for _ in range(options.updates + 1)), update, options.batch, options.updates, 1
            )
            entry.step.append(step)
            entry.step_cost.append(step_cost)
            both, _ = rate(feed_of(split, case, settings), update, options.batch, options.updates, 1)
            entry.both.append(both / step)
        yield found


def table(found: dict[Case, Found]) -> str:
    """Markdown; medians over rounds."""
    middle = statistics.median
    steps = middle([value for entry in found.values() for value in entry.step])
    cost = middle([value for entry in found.values() for value in entry.step_cost])
    lines = [
        f"step alone: {steps:.1f} images/s, {cost:.0f} ms of processor time an image",
        "",
        "| reading | workers | images/s alone | processor ms an image | of the step's | both / step alone |",
        "|---|---|---|---|---|---|",
    ]
    for case in sorted(found, key=lambda case: (case.reading, case.workers)):
        entry = found[case]
        own = middle(entry.cost)
        costs = f"{own:.1f} | {100 * own / cost:.1f} %" if case.workers == 0 else " | "
        lines.append(
            f"| {case.reading} | {case.workers} | {middle(entry.reading):.0f} | {costs} | {middle(entry.both):.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="vit_small_patch16_224")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--updates", type=int, default=4, help="timed in each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=2000, help="1,701 and more are not held in memory at 224")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    random.seed(0)
    what = f"{options.model} at {options.image_size}, f32, batch {options.batch}, CPU, {options.threads} threads"
    with tempfile.TemporaryDirectory() as folder:
        for number, found in enumerate(measure(options, Path(folder)), start=1):
            print(f"{what}, rounds: {number}; {table(found)}\n", flush=True)


if __name__ == "__main__":
    main()
