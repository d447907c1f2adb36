"""Every draw is a function of seed, update and image: whoever reads, and from wherever it goes on."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tavt_kit.data import ImageSet, load_images
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.distill import datasets as module
from tavt_kit.distill.datasets import Batch, ImageSplit, Order, Undecoded, check_pairs, read_images, stream, workers_of
from tavt_kit.distill.options import DataOptions, OptimizerOptions
from tavt_kit.distill.transforms import augment, crop, eraser, photometric, seeded
from tavt_kit.errors import DataError, TrainingError
from tests.distill.conftest import draw_coloured
from tests.parameters import few

P = Preprocessing((32, 32))
SETTINGS = OptimizerOptions(batch=8)
EVERYTHING = DataOptions(
    resize=(40, 48), crop="random", augment=("flip", "rotate", "shift"), rotation=20,
    auto_augment="rand-m9-mstd0.5-inc1",
    color_jitter=(0.4, 0.4, 0.4, 0.1), blur=0.5, sharpness=0.5, erasing=0.5, mixup=0.8, cutmix=1.0, workers=0,
)  # fmt: skip


def feed(split: ImageSplit, first: int = 1, last: int = 6, **share: int) -> list[Batch]:
    return list(stream(split, SETTINGS, seed=3, first=first, last=last, **share))


def assert_equal(ours: list[Batch], theirs: list[Batch]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)
        assert (one.soft is None) == (other.soft is None)
        assert one.soft is None or other.soft is None or torch.equal(one.soft, other.soft)
        np.testing.assert_array_equal(one.places, other.places)


@pytest.fixture
def lazily(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HELD_BYTES", 0)


@pytest.fixture
def split(images: ImageSet, lazily: None) -> ImageSplit:
    """Everything that can be drawn, decoded when it is asked for."""
    return read_images(images.split("train"), P, EVERYTHING.settled(P))


@pytest.mark.parametrize("workers", few([1, 3], 3))
def test_any_number_of_workers_gives_the_same_bits(split: ImageSplit, workers: int) -> None:
    alone = feed(split)
    assert isinstance(split.prepared, Undecoded) and len(alone) == 6
    assert_equal(feed(replace(split, reading=replace(EVERYTHING, workers=workers))), alone)


def test_going_on_gives_the_same_bits_whatever_was_drawn_before(split: ImageSplit) -> None:
    torch.manual_seed(1)
    whole = feed(split)
    np.random.seed(7)
    torch.manual_seed(2)
    assert_equal(feed(split, first=4), whole[3:])


def test_memory_and_files_give_the_same_bits(
    images: ImageSet, split: ImageSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HELD_BYTES", 10**9)
    held = read_images(images.split("train"), P, EVERYTHING.settled(P))
    assert isinstance(held.prepared, np.ndarray)
    for other in (held, pickle.loads(pickle.dumps(split))):  # where processes are spawned they are pickled
        assert_equal(feed(other), feed(split))


def test_by_default_a_batch_is_evaluations_bytes_changed_by_the_updates_own_draws(images: ImageSet) -> None:
    reading = DataOptions(augment=("flip", "shift"))
    split = read_images(images.split("train"), P, reading)
    for number, batch in enumerate(feed(split, last=5), start=1):
        places = Order(len(split), 8, 3).of(number)
        pixels = np.stack([split.pixels[int(place)] for place in places])
        changed = augment(pixels, reading.augment, np.random.default_rng([3, 1, number]))
        np.testing.assert_array_equal(batch.images.numpy(), split.inputs(changed))
        assert batch.labels.tolist() == split.labels[places].tolist() and batch.soft is None


@pytest.mark.parametrize(
    "reading",
    [
        DataOptions(augment=("shift",)),
        DataOptions(augment=(), resize=(40, 40), crop="random"),
        DataOptions(augment=(), resize=36, crop="random-resized"),
        DataOptions(augment=(), rotation=30.0),
        DataOptions(augment=(), auto_augment="original"),
        DataOptions(augment=(), color_jitter=0.4),
        DataOptions(augment=(), blur=1.0),
        DataOptions(augment=(), erasing=1.0),
        DataOptions(augment=(), mixup=1.0),
        DataOptions(augment=(), cutmix=1.0),
    ],
    ids=lambda reading: str({k: v for k, v in reading.as_record().items() if v != DataOptions().as_record()[k]}),
)
def test_each_change_is_drawn_anew_in_every_epoch(images: ImageSet, reading: DataOptions) -> None:
    split = read_images(images.split("train"), P, reading.settled(P))
    seen: dict[int, set[bytes]] = {}
    for batch in feed(split, last=12):  # three epochs of 32 images
        for place, image in zip(batch.places, batch.images, strict=True):
            seen.setdefault(int(place), set()).add(image.numpy().tobytes())
    often = [len(variants) for place, variants in seen.items()]
    assert sum(count > 1 for count in often) > len(often) / 2


@pytest.mark.parametrize("policy", ["rand-m10-mstd101-inc1-n4", "v0", "original-mstd1", "3a", "augmix-m9", "rand-m0"])
def test_a_policy_of_any_strength_can_be_applied(policy: str) -> None:
    change = photometric(DataOptions(auto_augment=policy), P)
    assert change is not None
    grey = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    with seeded(0):
        assert len({change(grey).tobytes() for _ in range(150)}) > 10


def test_mixing_shares_images_and_labels_alike(images: ImageSet) -> None:
    plain = read_images(images.split("train"), P, DataOptions(augment=()))
    for pure, mixed in zip(feed(plain), feed(replace(plain, reading=DataOptions(augment=(), mixup=0.8))), strict=True):
        assert mixed.soft is not None and mixed.soft.shape == (8, 3)
        torch.testing.assert_close(mixed.soft.sum(1), torch.ones(8))
        labels = torch.nn.functional.one_hot(pure.labels, 3).float()
        # Of a batch with different labels the share of the own one can be read off, and the images must agree.
        differ = (pure.labels != pure.labels.flip(0)).nonzero().flatten()
        lam = float((mixed.soft * labels).sum(1)[differ[0]])
        torch.testing.assert_close(mixed.images, lam * pure.images + (1 - lam) * pure.images.flip(0))
        assert torch.equal(mixed.labels, pure.labels)


def test_a_random_crop_reaches_every_place_and_a_resized_one_keeps_its_bounds() -> None:
    whole = np.arange(3 * 36 * 34, dtype=np.int64).reshape(3, 36, 34).astype(np.uint8)
    reading = DataOptions(resize=(36, 34), crop="random")
    found = set()
    for place in range(200):
        part = crop(whole, reading, P, 0, place)
        found |= {
            (top, left)
            for top in range(5)
            for left in range(3)
            if (whole[:, top : top + 32, left : left + 32] == part).all()
        }
    assert len(found) == 15
    whole[:] = 7
    assert (crop(whole, DataOptions(crop="random-resized"), P, 0, 1) == 7).all()


def test_what_is_erased_is_the_mean_colour_or_noise() -> None:
    for fill in ("zero", "noise"):
        erase = eraser(DataOptions(erasing=1.0, erasing_fill=fill))
        assert erase is not None
        for place in range(20):
            image = torch.full((3, 32, 32), 5.0)
            with seeded(place):
                erase(image)
            gone = (image != 5.0).any(0)
            assert 0.01 < gone.float().mean() < 0.35
            assert (image[:, gone] == 0).all() if fill == "zero" else image[:, gone].unique().numel() > 5
    assert eraser(DataOptions()) is None


def test_seeded_puts_the_generators_back() -> None:
    def draw() -> tuple[float, float]:
        return float(torch.rand(1)), float(np.random.rand())

    torch.manual_seed(5)
    np.random.seed(5)
    expected = [draw(), draw()]
    torch.manual_seed(5)
    np.random.seed(5)
    assert draw() == expected[0]
    with seeded(1, 2):
        first = draw()
    with seeded(1, 2):
        assert draw() == first
    assert draw() == expected[1]


def test_a_batch_that_cannot_be_paired_is_refused() -> None:
    check_pairs(7, DataOptions())
    with pytest.raises(TrainingError, match="even"):
        check_pairs(7, DataOptions(mixup=0.1))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_cannot_be_read_is_named_in_one_sentence(tmp_path: Path, lazily: None, workers: int) -> None:
    images = load_images(str(draw_coloured(tmp_path / "colours", 6)))
    sample = images.split("train")[2]
    split = read_images(images.split("train"), P, DataOptions(workers=workers))
    sample.path.write_bytes(sample.path.read_bytes()[:400])  # its head is whole
    with pytest.raises(DataError) as refused:
        feed(split, last=9)
    assert str(sample.path) in str(refused.value) and "\n" not in str(refused.value)
    assert not multiprocessing.active_children()
    # What is no image at all is found at the start.
    sample.path.write_bytes(b"no image")
    with pytest.raises(DataError, match=sample.path.name):
        read_images(images.split("train"), P)


def test_closing_ends_the_workers_and_signals_do_not_reach_them(images: ImageSet) -> None:
    split = read_images(images.split("train"), P, DataOptions(workers=2))
    before = signal.getsignal(signal.SIGCHLD)
    batches = stream(split, SETTINGS, seed=0, first=1, last=10**6)
    next(batches), next(batches)  # one of each worker, so that both have begun
    workers = multiprocessing.active_children()
    assert len(workers) == 2 and all(os.getpgid(worker.pid or 0) != os.getpgid(0) for worker in workers)
    assert signal.getsignal(signal.SIGCHLD) is before
    for worker in workers:
        os.kill(worker.pid or 0, signal.SIGINT)
    for _ in range(8):
        next(batches)
    batches.close()
    assert not multiprocessing.active_children()


@pytest.mark.slow  # torch looks after its processes every five seconds
def test_a_worker_that_dies_is_a_sentence(images: ImageSet) -> None:
    split = read_images(images.split("train"), P, DataOptions(workers=1))
    batches = stream(split, SETTINGS, seed=0, first=1, last=10**6)
    next(batches)
    os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)
    with pytest.raises(TrainingError, match="fewer `workers`"):
        for _ in range(100):
            next(batches)


ENDLESS = """
import multiprocessing, sys, time
from tavt_kit.data import load_images
from tavt_kit.distill.datasets import stream
from tavt_kit.distill.datasets import read_images
from tavt_kit.distill.options import DataOptions
from tavt_kit.distill.options import OptimizerOptions
from tavt_kit.data.preprocess import Preprocessing

images = read_images(load_images(sys.argv[1]).split("train"), Preprocessing((32, 32)), DataOptions(workers=2))
batches = stream(images, OptimizerOptions(batch=8), seed=0, first=1, last=10**6)
next(batches)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
time.sleep(60)
"""


@pytest.mark.slow
def test_workers_end_where_their_process_is_killed(coloured_folder: Path) -> None:
    command = [sys.executable, "-c", ENDLESS, str(coloured_folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        workers = [int(number) for number in process.stdout.readline().split()]
        process.kill()
    deadline = time.monotonic() + 30
    while any(_alive(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert len(workers) == 2 and not any(_alive(worker) for worker in workers)


def _alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_workers_are_started_where_there_is_work_for_them(
    images: ImageSet, split: ImageSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    count: Callable[[DataOptions], int] = lambda reading: workers_of(replace(split, reading=reading))  # noqa: E731
    assert count(DataOptions()) >= 1 and count(DataOptions(workers=0)) == 0 and count(DataOptions(workers=5)) == 5
    held = replace(split, prepared=np.zeros((36, 3, 32, 32), np.uint8))
    assert workers_of(replace(held, reading=DataOptions())) == 0
    assert workers_of(replace(held, reading=DataOptions(color_jitter=0.1))) >= 1
    for cpus, expected in ((1, 1), (2, 1), (16, 15), (96, 16)):
        monkeypatch.setattr("tavt_kit.distill.datasets.available_threads", lambda cpus=cpus: cpus)
        assert workers_of(replace(held, reading=DataOptions()), gpu=True) == expected
