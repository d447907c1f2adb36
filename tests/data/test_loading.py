from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tavt_kit.data import Sample, batches, load_arrays, load_bytes, load_images, thin_out
from tavt_kit.data.preprocess import Preprocessing, normalise, open_image, resize_crop
from tavt_kit.errors import DataError

Draw = Callable[..., Path]
P = Preprocessing((8, 8), crop_pct=1.0)


@pytest.fixture
def samples(tmp_path: Path, draw: Draw) -> list[Sample]:
    return [Sample(draw(tmp_path / f"{i:02}.png", value=i), i % 3) for i in range(40)]


def test_arrays_hold_every_image_in_order(samples: list[Sample]) -> None:
    images, labels = load_arrays(samples, P)
    assert images.dtype == np.float32 and labels.dtype == np.int64
    np.testing.assert_array_equal(images, normalise(np.stack([resize_crop(open_image(s.path), P) for s in samples]), P))
    assert labels.tolist() == [sample.label for sample in samples]
    np.testing.assert_array_equal(normalise(load_bytes(samples, P).images, P), images)


def test_batches_are_the_same_in_pieces(samples: list[Sample]) -> None:
    images, labels = load_arrays(samples, P)
    pieces = list(batches(samples, P, batch=16))
    assert [len(piece.labels) for piece in pieces] == [16, 16, 8]
    np.testing.assert_array_equal(np.concatenate([piece.images for piece in pieces]), images)
    np.testing.assert_array_equal(np.concatenate([piece.labels for piece in pieces]), labels)
    with pytest.raises(DataError, match="at least one"):
        next(batches(samples, P, batch=0))


@pytest.fixture
def damaged(samples: list[Sample]) -> list[Sample]:
    samples[5].path.write_bytes(samples[5].path.read_bytes()[:80])
    samples[20].path.unlink()
    return samples


def test_unreadable_images_are_counted_and_named(damaged: list[Sample]) -> None:
    with pytest.raises(DataError, match=r"2 of 40 images.*05\.png.*20\.png: no such file"):
        load_arrays(damaged, P)
    with pytest.raises(DataError, match="2 of 40 images"):
        list(batches(damaged, P, batch=8))


def test_many_unreadable_images_are_counted_not_listed(samples: list[Sample]) -> None:
    for sample in samples:
        sample.path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"40 of 40.*and 37 more"):
        load_arrays(samples, P)
    with pytest.raises(DataError, match="no image was given"):
        load_arrays([], P)


def test_a_limit_keeps_every_class() -> None:
    samples = [Sample(Path(f"/{label}/{i}"), label) for label in range(4) for i in range(25)]
    few = thin_out(samples, 8)
    assert [sample.label for sample in few] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert thin_out(samples, None) is samples and thin_out(samples, 100) is samples
    assert len({sample.path for sample in thin_out(samples, 99)}) == 99
    with pytest.raises(DataError, match="at least one"):
        thin_out(samples, 0)


@pytest.mark.parametrize("way", ["none", "copy", "symlink", "hard link"])
def test_an_image_in_two_splits_is_said(way: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for split in ("train", "val"):
        for number, name in enumerate(("a", "b")):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8), (number * 90, len(split) * 9, 0)).save(tmp_path / split / name / "0.bmp")
    own, other = tmp_path / "train" / "a" / "0.bmp", tmp_path / "val" / "b" / "9.bmp"
    if way == "copy":
        shutil.copyfile(own, other)
    elif way != "none":
        (other.symlink_to if way == "symlink" else other.hardlink_to)(own)
    load_images(str(tmp_path))
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == (way != "none")
    assert all("1 images of" in one and "9.bmp" in one for one in said)
