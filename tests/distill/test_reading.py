"""DataOptions are valid by construction; Preparation resizes as torchvision does and evaluation as timm does."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tavt_kit.data.preprocess import Preprocessing, resize_crop
from tavt_kit.distill.options import DataOptions
from tavt_kit.distill.transforms import Preparation, photometric
from tavt_kit.errors import TavtError, TrainingError, UnknownName

from torchvision import transforms  # isort: skip  # after photometric, which makes it importable

P = Preprocessing((32, 48), crop_pct=1.0)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"crop": "center"}, "random, random-resized"),
        ({"interpolation": "cubic"}, "bicubic"),
        ({"erasing_fill": "red"}, "noise, zero"),
        ({"auto_augment": "imagenet"}, "original"),
        ({"augment": ("blur",)}, "flip"),
        ({"resize": (600, 600, 3)}, "height and width"),
        ({"resize": 0}, "at least 1 pixel"),
        ({"resize": 2.5}, "height and width"),
        ({"scale": (0.0, 1.0)}, "at most 1"),
        ({"scale": (0.5,)}, "least and a greatest"),
        ({"ratio": (2.0, 1.0)}, "least and a greatest"),
        ({"color_jitter": (0.1,) * 5}, "up to four"),
        ({"color_jitter": -0.1}, "at least 0"),
        ({"color_jitter": (0, 0, 0, 0.6)}, "half of the circle"),
        ({"blur": 1.1}, "`blur` must be at least 0 and at most 1"),
        ({"erasing": float("nan")}, "erasing"),
        ({"mixup": -1.0}, "mixup"),
        ({"rotation": 200.0}, "180"),
        ({"workers": -1}, "`workers` must be at least 0, got -1"),
    ],
)
def test_what_cannot_be_is_refused(values: dict[str, Any], named: str) -> None:
    with pytest.raises((TrainingError, UnknownName), match=named):
        DataOptions(**values)


@pytest.mark.parametrize(
    ("reading", "named"),
    [
        (DataOptions(crop="random"), "their own size"),
        (DataOptions(crop="random", resize=(40, 40)), "`resize` 40,40"),
        (DataOptions(crop="random", resize=40), "`resize` 40"),
        (DataOptions(resize=(40, 48)), "add `crop`"),
        (DataOptions(resize=48), "add `crop`"),
        (DataOptions(augment=("rotate",)), "32x48"),
    ],
)
def test_a_crop_that_does_not_fit_the_model_is_refused(reading: DataOptions, named: str) -> None:
    with pytest.raises(TrainingError, match=named):
        reading.settled(P)


@pytest.mark.parametrize("text", ["rand-x9", "v0-m9", "augmix-x3"])
def test_a_policy_that_timm_cannot_read_is_refused(text: str) -> None:
    with pytest.raises(TavtError, match="cannot read the policy"):
        photometric(DataOptions(auto_augment=text), P)


def test_the_record_tells_what_decides_and_nothing_else() -> None:
    plain = DataOptions(resize=(60, 60), crop="random", color_jitter=0.4).settled(P)
    record = json.loads(json.dumps(plain.as_record()))
    assert record["resize"] == [60, 60] and record["color_jitter"] == [0.4, 0.4, 0.4]
    assert record["interpolation"] == "bicubic" and record["augment"] == ["flip"]
    elsewhere = DataOptions(resize=(60, 60), crop="random", color_jitter=0.4, workers=3).settled(P)
    assert elsewhere.as_record() == plain.as_record()
    assert DataOptions(**record) == plain  # lists and tuples mean the same


def image(height: int, width: int) -> Image.Image:
    draws = np.random.default_rng(0)
    return Image.fromarray(draws.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(50, 70), (90, 61), (64, 64)])
@pytest.mark.parametrize(
    ("reading", "official"),
    [
        (DataOptions(resize=(60, 60), crop="random", interpolation="bilinear"), [transforms.Resize((60, 60))]),
        (DataOptions(resize=57, crop="random"), [transforms.Resize(57, transforms.InterpolationMode.BICUBIC)]),
        (DataOptions(resize=57, crop="random", interpolation="bilinear"), [transforms.Resize(57)]),
        (DataOptions(crop="random-resized"), []),
    ],
)
def test_an_image_is_prepared_as_by_torchvision(
    reading: DataOptions, official: list[Any], size: tuple[int, int]
) -> None:
    prepare = Preparation.of(reading, P)
    expected = np.asarray(transforms.Compose(official)(image(*size))).transpose(2, 0, 1)
    np.testing.assert_array_equal(prepare(image(*size)), expected)
    assert prepare.fixed_size in (None, expected.shape[1:])


def test_by_default_an_image_is_prepared_as_for_evaluation() -> None:
    np.testing.assert_array_equal(Preparation.of(DataOptions(), P)(image(50, 70)), resize_crop(image(50, 70), P))
    assert Preparation.of(DataOptions(), P).fixed_size == (32, 48)
