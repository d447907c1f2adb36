"""A tiny ViT in a run folder and a few generated images, for verbs that need both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tavt_kit.checkpoints import save_model
from tavt_kit.core.model_card import ModelCard
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.models.timm_import import timm

CLASSES = ("disc", "square", "stripe")


def write_images(folder: Path, each: int = 10, classes: tuple[str, ...] = CLASSES, size: int = 32) -> Path:
    """One folder per class of noisy images with a bright shape somewhere."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:size, :size]
    for kind, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(each):
            pixels = rng.integers(0, 90, (size, size, 3)).astype(np.uint8)
            y, x = rng.integers(8, size - 8, 2)
            shapes = ((rows - y) ** 2 + (columns - x) ** 2 < 36, (abs(rows - y) < 5) & (abs(columns - x) < 5),
                      abs(rows - y) < 3)  # fmt: skip
            pixels[shapes[kind % 3]] = (230, 180, 90)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder


def write_run(folder: Path, *, seed: int = 1, classes: tuple[str, ...] = CLASSES, depth: int = 4) -> Path:
    """A ViT of 17 tokens and ``depth`` layers, weights at random, and such that drops change answers."""
    arguments = {"img_size": [32, 32], "patch_size": 8, "embed_dim": 24, "depth": depth, "num_heads": 3}
    torch.manual_seed(seed)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=len(classes), **arguments).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and name not in ("cls_token", "pos_embed"):
                parameter.normal_(0.0, 2.0 / parameter[0].numel() ** 0.5)
        # What all images have in common would decide for one class; taken out, images decide.
        images = 0.7 * torch.rand(60, 3, 32, 32) - 1
        for index, image in enumerate(images):
            top, left = 6 + index % 16, 6 + 5 * index % 16
            image[:, top : top + 9, left : left + 9] = 0.6
        logits = model(images)
        model.head.bias -= logits.mean(0)
        model.head.weight *= (1 / logits.std(0))[:, None]
        model.head.bias *= 1 / logits.std(0)
    preprocessing = Preprocessing((32, 32), 1.0, "center", "bicubic", (0.5,) * 3, (0.5,) * 3)
    card = ModelCard("timm_vit", "vit_tiny_patch16_224", arguments, classes, preprocessing.as_record())
    save_model(folder, model, card)
    return folder
