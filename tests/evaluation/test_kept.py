from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tavt_kit.core.model_card import Licence
from tavt_kit.core.records import read_record
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data import ImageSet, Sample
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.errors import DataError
from tavt_kit.evaluation.looking import write_kept
from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import AdaptiveViT, wrap

SIZE = (32, 48)
PREPROCESSING = Preprocessing(SIZE, crop_pct=1.0)


@pytest.fixture(scope="module")
def adaptive() -> AdaptiveViT:
    torch.manual_seed(0)
    model = timm.create_model(
        "deit_tiny_distilled_patch16_224",
        img_size=SIZE,
        patch_size=8,
        depth=3,
        embed_dim=24,
        num_heads=3,
        num_classes=2,
    )
    wrapped = wrap(model.eval())
    wrapped.schedule = TokenSchedule((26, 14, 8))  # 4 x 6 patches, 2 prefix tokens
    return wrapped


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    rng = np.random.default_rng(0)
    classes = ("bread & butter", "<b>")
    splits: dict[str, tuple[Sample, ...]] = {}
    for split in ("train", "val", "test"):
        samples = []
        for label in range(len(classes)):
            for index in range(2):
                path = tmp_path / "pictures" / split / f"{label}" / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)).save(path)
                samples.append(Sample(path, label))
        splits[split] = tuple(samples)
    licence = Licence("noise", "CC0", "made here")
    return ImageSet("noise", classes, tmp_path / "pictures", splits, licence=licence)


def test_kept_patches_are_those_of_forward_kept(adaptive: AdaptiveViT, images: ImageSet, tmp_path: Path) -> None:
    samples = images.split("test")
    path = write_kept(adaptive, samples, images, PREPROCESSING, tmp_path, split="test")
    record = read_record(path, "kept")
    assert record["grid"] == [4, 6] and record["prefix"] == 2 and record["layers"] == [0, 1, 2]
    assert record["licence"]["licence"] == "CC0" and record["split"] == "test"
    assert [entry["label"] for entry in record["images"]] == ["bread & butter"] * 2 + ["<b>"] * 2
    for entry in record["images"]:
        assert [len(layer) for layer in entry["kept"]] == [24, 12, 6]
        assert entry["kept"][0] == list(range(24))
        for before, after in zip(entry["kept"], entry["kept"][1:], strict=False):
            assert set(after) < set(before) and after == sorted(after)
        assert 0.5 <= entry["probability"] <= 1.0 and entry["prediction"] in images.classes
    assert len({tuple(entry["kept"][2]) for entry in record["images"]}) > 1


def test_where_tokens_merge_the_owner_of_each_patch_is_written(
    adaptive: AdaptiveViT, images: ImageSet, tmp_path: Path
) -> None:
    adaptive.reduction = "merge"
    path = write_kept(adaptive, images.split("test")[:2], images, PREPROCESSING, tmp_path, split="test")
    record = read_record(path, "kept")
    assert record["reduction"] == "merge"
    for entry in record["images"]:
        assert len(entry["owners"]) == len(entry["kept"])
        for kept, owners in zip(entry["kept"], entry["owners"], strict=True):
            assert len(owners) == adaptive.tokens - adaptive.prefix
            assert sorted(set(owners)) == kept
            assert all(owners[place] == place for place in kept)


def test_a_thumbnail_is_the_models_crop(adaptive: AdaptiveViT, images: ImageSet, tmp_path: Path) -> None:
    half = Image.new("RGB", (96, 64))
    half.paste((255, 255, 255), (48, 0, 96, 64))
    path = tmp_path / "half.png"
    half.save(path)
    write_kept(adaptive, [Sample(path, 0)], images, PREPROCESSING, tmp_path / "run", split="test")
    with Image.open(tmp_path / "run" / "thumbnails" / "00.jpg") as image:
        assert image.size == (48, 32)
        pixels = np.asarray(image)
    assert pixels[:, :20].max() < 30 and pixels[:, 28:].min() > 225


def test_large_crops_are_shrunk(adaptive: AdaptiveViT, images: ImageSet, tmp_path: Path) -> None:
    from tavt_kit.data.preprocess import save_thumbnail

    save_thumbnail(np.zeros((3, 448, 224), np.uint8), tmp_path / "x.jpg")
    with Image.open(tmp_path / "x.jpg") as image:
        assert image.size == (112, 224)


def test_the_model_is_left_as_it_was(adaptive: AdaptiveViT, images: ImageSet, tmp_path: Path) -> None:
    adaptive.train()
    write_kept(adaptive, images.split("val")[:1], images, PREPROCESSING, tmp_path, split="val")
    assert adaptive.training and adaptive.schedule.counts == (26, 14, 8)
    adaptive.eval()


def test_an_unreadable_image_is_refused(adaptive: AdaptiveViT, images: ImageSet, tmp_path: Path) -> None:
    broken = Sample(tmp_path / "broken.png", 0)
    broken.path.write_bytes(b"no image")
    with pytest.raises(DataError, match="broken.png"):
        write_kept(adaptive, [broken], images, PREPROCESSING, tmp_path, split="val")
