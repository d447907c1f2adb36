"""Label images with an exported file: predict.py FILE IMAGE... [--save=LOGITS.npz]

Needs numpy, pillow and the runtime of the file alone, not the kit that made it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps


def load(path: Path) -> tuple[dict[str, Any], Callable[[NDArray[Any]], NDArray[np.float32]]]:
    """What the file says of itself, and a function from a batch of images to logits (B, classes)."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        card = session.get_modelmeta().custom_metadata_map["fgvc_kit"]
        return json.loads(card), lambda images: np.asarray(session.run(["logits"], {"images": images})[0])
    import openvino

    model = openvino.Core().read_model(path)
    card = json.loads(model.get_rt_info(["fgvc_kit"]).astype(str))
    # In what it was checked in; without the hint the CPU takes bf16 where it can.
    precision = "bf16" if card["precision"] == "bf16" else "f32"
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision})
    return card, lambda images: np.asarray(compiled([images])[0])


def prepare(path: str, card: Mapping[str, Any]) -> NDArray[Any]:
    """One image file as (3, H, W): shorter edge resized, centre cut out, normalised; or as the file takes it."""
    how, pixels = card["preprocessing"], card.get("pixels")
    height, width = how["image_size"]
    if pixels:
        whole = np.asarray(_open(path))[..., :: -1 if pixels.endswith("bgr") else 1]
        return whole.transpose(2, 0, 1) if pixels.startswith("nchw") else whole
    if how["crop_mode"] != "center" or height != width:
        raise SystemExit("this script cuts out squares from the centre; use fgvc-kit predict")
    image = _open(path)
    size = [int(int(height / how["crop_pct"]) * edge / min(image.size)) for edge in image.size]
    image = image.resize((size[0], size[1]), Image.Resampling[how["interpolation"].upper()])
    left, top = (round((edge - height) / 2) for edge in size)
    values = np.asarray(image.crop((left, top, left + width, top + height)), np.float32) / np.float32(255)
    return ((values - np.float32(how["mean"])) / np.float32(how["std"])).transpose(2, 0, 1)


def _open(path: str) -> Image.Image:
    with Image.open(path) as file:
        image: Image.Image = ImageOps.exif_transpose(file)
    if image.mode[:1] in "IF":
        if not image.mode.startswith("I;16"):
            raise OSError("32-bit pixels have no agreed range; save it with 8 or 16 bits")
        return Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:  # on white, as fgvc-kit sees it
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def main(words: list[str]) -> None:
    """Print the three likeliest classes of each image; exits 1 where one cannot be read."""
    images = [word for word in words[1:] if not word.startswith("--save=")]
    if not images:
        raise SystemExit(__doc__)
    card, run = load(Path(words[0]))
    answers: dict[str, NDArray[np.float32]] = {}
    for image in images:
        try:
            row = run(np.ascontiguousarray(prepare(image, card)[None]))[0]
        except OSError as error:
            sys.stderr.write(f"cannot read {image}: {error}\n")
            continue
        answers[image] = row
        shares = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        best = (f"{card['classes'][i]} {100 * shares[i]:.1f} %" for i in np.argsort(-shares)[:3])
        sys.stdout.write("  ".join([image, *best]) + "\n")
    for option in [word for word in words if word.startswith("--save=") and answers]:  # for `check --predictions`
        np.savez(option[7:], logits=np.stack(list(answers.values())), names=list(answers), classes=card["classes"])
    if len(answers) < len(set(images)):
        raise SystemExit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
