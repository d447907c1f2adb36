from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tavt_kit.data.preprocess import Preprocessing, normalise, open_image, open_size, resize_crop
from tavt_kit.errors import DataError, RecordError

SIZES = [(300, 300), (17, 90), (91, 33), (224, 224), (640, 481), (5, 5)]  # width, height


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("crop_mode", ["center", "border", "squash"])
@pytest.mark.parametrize(
    ("image_size", "crop_pct", "interpolation"),
    [((112, 112), 1.0, "bicubic"), ((56, 56), 0.875, "bilinear"), ((48, 80), 0.9, "nearest")],
)
def test_equal_to_timms_evaluation_transform(
    crop_mode: str, image_size: tuple[int, int], crop_pct: float, interpolation: str
) -> None:
    from tavt_kit.models.timm_import import timm

    mean, std = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
    config: dict[str, Any] = {
        "input_size": (3, *image_size),
        "crop_pct": crop_pct,
        "crop_mode": crop_mode,
        "interpolation": interpolation,
        "mean": mean,
        "std": std,
    }
    theirs = timm.data.create_transform(**config, is_training=False)
    ours = Preprocessing.from_config(config)
    for width, height in SIZES:
        image = noise(width, height)
        expected = theirs(image).numpy()
        np.testing.assert_array_equal(normalise(resize_crop(image, ours), ours), expected)


def test_image_size_replaces_the_configured_one_and_nothing_else() -> None:
    config = {"input_size": (3, 518, 518), "crop_pct": 1.0, "crop_mode": "border", "mean": None}
    p = Preprocessing.from_config(config, image_size=112)
    assert p.image_size == (112, 112)
    assert (p.crop_pct, p.crop_mode, p.interpolation) == (1.0, "border", "bicubic")
    assert p.mean == (0.485, 0.456, 0.406)
    assert p.at((14, 28)).image_size == (14, 28)


def test_record_round_trip() -> None:
    p = Preprocessing((96, 128), 0.95, "squash", "lanczos", (0.1, 0.2, 0.3), (1, 2, 3))
    assert Preprocessing.from_record(p.as_record()) == p
    with pytest.raises(RecordError, match="std"):
        Preprocessing.from_record(p.as_record() | {"std": [0, 1, 1]})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"image_size": (0, 5)}, "at least 1 pixel"),
        ({"image_size": (2.5, 5)}, "whole pixels"),
        ({"crop_pct": 0.0}, "crop_pct"),
        ({"crop_mode": "zoom"}, "crop_mode"),
        ({"interpolation": "random"}, "interpolation"),
        ({"mean": (0.5,)}, "3 channels"),
        ({"std": (0.0, 1.0, 1.0)}, "above 0"),
    ],
)
def test_a_value_out_of_range_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        Preprocessing(**({"image_size": (8, 8)} | change))


def test_models_of_other_channels_are_refused() -> None:
    with pytest.raises(DataError, match="takes 1"):
        Preprocessing.from_config({"input_size": (1, 28, 28)})


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    source = noise(9, 7).convert(mode)
    image = open_image(encoded(source, "TIFF" if mode == "CMYK" else "PNG"))
    assert (image.mode, image.size) == ("RGB", (9, 7))
    np.testing.assert_array_equal(np.asarray(image), np.asarray(source.convert("RGB")))


def test_a_palette_with_transparency_opens_without_a_warning() -> None:
    data = encoded(noise(9, 7).convert("P"), transparency=bytes(range(256)))
    assert open_image(data).mode == "RGB"


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    deep = np.array([[0, 257, 32896, 65535]], np.uint16)
    image = open_image(encoded(Image.fromarray(deep)))
    assert np.asarray(image)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_pixels_without_a_range_are_refused() -> None:
    with pytest.raises(DataError, match="32-bit"):
        open_image(encoded(Image.fromarray(np.ones((3, 3), np.float32)), "TIFF"))


def test_exif_orientation_turns_the_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate 90 degrees clockwise to see it upright
    source = noise(9, 7)
    image = open_image(encoded(source, exif=exif))
    assert image.size == (7, 9)
    np.testing.assert_array_equal(np.asarray(image), np.asarray(source.transpose(Image.Transpose.ROTATE_270)))


def test_damaged_files_are_named(tmp_path: Path) -> None:
    whole = encoded(noise(64, 64), "JPEG")
    for name, data in {"cut.jpg": whole[: len(whole) // 2], "text.jpg": b"hello", "empty.png": b""}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=name):
            open_image(tmp_path / name)
    with pytest.raises(DataError, match="no such file"):
        open_image(tmp_path / "absent.png")
    png = bytearray(encoded(noise(64, 64)))
    png[60:80] = bytes(20)
    with pytest.raises(DataError, match="the image"):
        open_image(bytes(png))


def test_images_are_normalised_one_by_one_or_together() -> None:
    p = Preprocessing((16, 24), crop_mode="border")
    images = [noise(40, 30), noise(11, 50, seed=1)]
    pixels = np.stack([resize_crop(image, p) for image in images])
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(normalise(pixels, p), np.stack([normalise(each, p) for each in pixels]))


def test_no_torch_is_needed() -> None:
    code = "import sys, tavt_kit.data.preprocess; assert not {'torch', 'timm'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_a_line_is_refused_before_it_takes_gigabytes() -> None:
    with pytest.raises(DataError, match="60000x1 would become 26880000x448; crop it"):
        resize_crop(Image.new("RGB", (60000, 1)), Preprocessing((448, 448), 1.0))
    assert resize_crop(Image.new("RGB", (1, 1)), Preprocessing((8, 8))).shape == (3, 8, 8)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes as POSIX has them")
def test_a_pipe_named_as_an_image_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    for read in (open_image, open_size):
        with pytest.raises(DataError, match="no regular file"):
            read(tmp_path / "x.png")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_shows_white(mode: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The colours that a file hides there, here black, are nobody's."""
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 2, 4))
    if mode == "P":
        image = image.convert("LA").convert("RGBA").quantize(4)
    else:
        image = image.convert(mode)
    image.save(tmp_path / "x.png")
    pixels = np.asarray(open_image(tmp_path / "x.png"))
    assert (pixels[:, :2] < 5).all() and (pixels[:, 2:] > 250).all()
    opaque = noise(5, 5).convert("RGBA")
    opaque.save(tmp_path / "y.png")
    assert np.array_equal(np.asarray(open_image(tmp_path / "y.png")), np.asarray(opaque)[..., :3])


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("name", ["mean", "std"])
def test_means_are_finite(name: str, value: float) -> None:
    with pytest.raises(DataError, match=name):
        Preprocessing((8, 8), **{name: (value, 0.5, 0.5)})
