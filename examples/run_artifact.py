"""Run an exported file with numpy, pillow and its runtime alone: run_artifact.py FILE PICTURE... [--save=LOGITS.npz]"""

import json
import sys

import numpy as np
from PIL import Image, ImageOps


def load(path):  # the file's own card, and a function from images (B, 3, H, W) to logits (B, classes)
    if path.endswith(".onnx"):
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        card = session.get_modelmeta().custom_metadata_map["fgvc_kit"]
        return json.loads(card), lambda images: session.run(["logits"], {"images": images})[0]
    import openvino

    model = openvino.Core().read_model(path)  # without the hint it computes in bf16 where the CPU can
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return json.loads(model.get_rt_info(["fgvc_kit"]).astype(str)), lambda images: compiled([images])[0]


def prepare(picture, how):  # resize the shorter edge, cut out the centre, normalise
    side, other = how["image_size"]
    assert how["crop_mode"] == "center" and side == other, "this example cuts out squares; use fgvc-kit predict"
    image = ImageOps.exif_transpose(Image.open(picture))
    if image.has_transparency_data:  # on white, as fgvc-kit sees it
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    image = image.convert("RGB")
    size = [int(int(side / how["crop_pct"]) * edge / min(image.size)) for edge in image.size]
    image = image.resize(size, Image.Resampling[how["interpolation"].upper()])
    left, top = (round((edge - side) / 2) for edge in size)
    pixels = np.asarray(image.crop((left, top, left + side, top + side)), np.float32) / 255
    return ((pixels - np.float32(how["mean"])) / np.float32(how["std"])).transpose(2, 0, 1)


pictures = [one for one in sys.argv[2:] if not one.startswith("--save=")]
card, run = load(sys.argv[1])
logits = np.concatenate([run(prepare(one, card["preprocessing"])[None]) for one in pictures])
for picture, row in zip(pictures, logits, strict=True):
    shares = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
    print(picture, *(f"{card['classes'][i]} {100 * shares[i]:.1f} %" for i in np.argsort(-shares)[:3]), sep="  ")
for option in (one for one in sys.argv[2:] if one.startswith("--save=")):  # for fgvc-kit check --predictions
    np.savez(option[7:], logits=logits, names=pictures, classes=card["classes"])
