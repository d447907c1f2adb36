"""The cache: filled once, whole or absent, filled again where it is stale or damaged."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tavt_kit.core.progress import Silent
from tavt_kit.data import ImageSet, Sample, load_images
from tavt_kit.data.preprocess import Preprocessing, open_image
from tavt_kit.distill import datasets as module
from tavt_kit.distill.datasets import CachedImages, open_cache
from tavt_kit.distill.options import DataOptions
from tavt_kit.distill.transforms import Preparation
from tavt_kit.errors import DataError, OutputError
from tests.distill.conftest import draw_coloured

P = Preprocessing((32, 32))
PREPARE = Preparation(P)


class Counting(Silent):
    """How many images were decoded."""

    def __init__(self) -> None:
        self.count, self.stages = 0, [""]

    def stage(self, what: str, total: int, done: int = 0) -> None:
        self.stages.append(what)

    def advance(self, units: int = 1, **values: float) -> None:
        self.count += units


@pytest.fixture
def own(tmp_path: Path) -> ImageSet:
    """Images that a test may damage."""
    return load_images(str(draw_coloured(tmp_path / "colours", 5)))


def opened(folder: Path, samples: tuple[Sample, ...], prepare: Preparation = PREPARE) -> tuple[CachedImages, int]:
    watcher = Counting()
    found, _ = open_cache(folder, samples, prepare, progress=watcher)
    return found, watcher.count


def test_it_holds_what_the_preparation_gives_and_is_filled_once(images: ImageSet, tmp_path: Path) -> None:
    samples = images.split("train")
    cached, decoded = opened(tmp_path / "cache", samples)
    assert decoded == len(samples) == len(cached)
    for place, sample in enumerate(samples):
        np.testing.assert_array_equal(cached[place], PREPARE(open_image(sample.path)))
    np.testing.assert_array_equal(cached[3:6], np.stack([cached[place] for place in (3, 4, 5)]))
    assert opened(tmp_path / "cache", samples)[1] == 0
    # Another split, size, filter or rule lies beside it.
    others: list[Callable[[], int]] = [
        lambda: opened(tmp_path / "cache", images.split("val"))[1],
        lambda: opened(tmp_path / "cache", samples, Preparation(P.at(24)))[1],
        lambda: opened(tmp_path / "cache", samples, Preparation(P, (36, 36), False, "bilinear"))[1],
        lambda: opened(tmp_path / "cache", samples, Preparation(P, (36, 36), False, "bicubic"))[1],
    ]
    assert all(other() > 0 for other in others) and not any(other() for other in others)
    assert opened(tmp_path / "cache", samples)[1] == 0


def test_images_may_differ_in_size_and_lie_on_their_side(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    samples = []
    for place, (height, width, orientation) in enumerate([(40, 64, 1), (70, 30, 1), (41, 57, 6)]):
        path = tmp_path / f"{place}.png"
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(draws.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path, exif=exif)
        samples.append(Sample(path, 0))
    for reading in (DataOptions(crop="random-resized"), DataOptions(crop="random", resize=35)):
        prepare = Preparation.of(reading, P)
        watcher = Counting()
        cached, _ = open_cache(tmp_path / "cache", samples, prepare, progress=watcher)
        for place, sample in enumerate(samples):
            np.testing.assert_array_equal(cached[place], prepare(open_image(sample.path)))
        said = next((tmp_path / "cache").glob(f"{cached.folder.name}/pixels.bin")).stat().st_size
        assert watcher.stages[1] == f"cache {said / 1e6:.1f} MB"  # by the files' heads, before any was decoded


def test_an_image_that_changed_is_decoded_again(own: ImageSet, tmp_path: Path) -> None:
    samples = own.split("train")
    opened(tmp_path / "cache", samples)
    Image.new("RGB", (40, 40), (1, 2, 3)).save(samples[4].path)
    cached, decoded = opened(tmp_path / "cache", samples)
    assert decoded == len(samples) and cached[4].max() < 5
    os.utime(samples[2].path, ns=(1, 1))
    assert opened(tmp_path / "cache", samples)[1] == len(samples)
    assert len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()]) == 1


@pytest.mark.parametrize("damage", ["cut", "index", "record", "no index", "part"])
def test_a_damaged_entry_is_filled_again(own: ImageSet, tmp_path: Path, damage: str) -> None:
    samples = own.split("train")
    first, _ = opened(tmp_path / "cache", samples)
    entry = first.folder
    if damage == "cut":
        os.truncate(entry / "pixels.bin", 1000)
    elif damage == "index":
        content = bytearray((entry / "index.npy").read_bytes())
        content[-1] ^= 1
        (entry / "index.npy").write_bytes(content)
    elif damage == "record":
        (entry / "cache.json").write_text("{")
    elif damage == "no index":
        (entry / "index.npy").unlink()
    else:  # killed while filling
        shutil.move(entry, entry.with_suffix(".part"))
        os.truncate(entry.with_suffix(".part") / "pixels.bin", 500)
    again, decoded = opened(tmp_path / "cache", samples)
    assert decoded == len(samples) and not entry.with_suffix(".part").exists()
    np.testing.assert_array_equal(again[0], PREPARE(open_image(samples[0].path)))


def test_an_image_whose_bytes_changed_is_refused(own: ImageSet, tmp_path: Path) -> None:
    cached, _ = opened(tmp_path / "cache", own.split("train"))
    content = bytearray((cached.folder / "pixels.bin").read_bytes())
    content[3 * 32 * 32 + 5] ^= 1
    (cached.folder / "pixels.bin").write_bytes(content)
    cached, _ = opened(tmp_path / "cache", own.split("train"))
    assert cached[0].shape == (3, 32, 32)
    with pytest.raises(DataError, match="place 1 .* remove this folder"):
        cached[1]


def test_what_cannot_be_read_is_left_out_if_allowed_and_remembered(own: ImageSet, tmp_path: Path) -> None:
    samples = own.split("train")
    samples[3].path.write_bytes(b"no image")
    with pytest.raises(DataError, match=samples[3].path.name):
        open_cache(tmp_path / "cache", samples, PREPARE)
    assert not any(path.is_dir() for path in (tmp_path / "cache").iterdir())
    for _ in range(2):
        cached, skipped = open_cache(tmp_path / "cache", samples, PREPARE, allow_unreadable=1)
        assert len(cached) == len(samples) - 1 and [item.index for item in skipped] == [3]
        np.testing.assert_array_equal(cached[3], PREPARE(open_image(samples[4].path)))
    with pytest.raises(DataError, match="0 may be skipped"):
        open_cache(tmp_path / "cache", samples, PREPARE)


def test_too_little_room_is_refused_before_anything_is_written(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 100_000))  # type: ignore[attr-defined]
    with pytest.raises(OutputError, match="0.1 MB free"):
        opened(tmp_path / "cache", images.split("train"))
    assert not any(path.is_dir() for path in (tmp_path / "cache").iterdir())
    monkeypatch.undo()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError):
        opened(tmp_path / "file", images.split("train"))


def test_of_two_processes_one_fills_it(images: ImageSet, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()

    def fill() -> None:
        cached, decoded = opened(tmp_path, images.split("train"))
        results.put((decoded, int(cached[7].astype(np.int64).sum())))

    processes = [context.Process(target=fill) for _ in range(3)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(decoded for decoded, _ in found) == [0, 0, 36]
    assert len({content for _, content in found}) == 1
