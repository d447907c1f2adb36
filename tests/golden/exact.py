"""A tiny ViT whose weights are the same bits on every processor, and the name of the arithmetic at hand."""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from tavt_kit.checkpoints import save_model
from tavt_kit.core.model_card import ModelCard
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.models.timm_import import timm
from tests.verbs.tiny import CLASSES

STEP = 4096
"""Weights are whole multiples of 1 / STEP: no processor rounds one of them."""


HEAD = [
    [1057, -215, 4486, -6149, -5859, -688, 4249, -3587],
    [-2223, -2027, 4768, 2758, -3009, 7722, -3116, 4209],
    [2833, -2526, 3310, -1535, 3054, 5571, -4796, -1810],
]
HEAD_BIAS = [12126, -15757, 1735]
"""In units of 1 / STEP. Made so that what all of sixty images have in common decides for no class."""


def write_exact_run(folder: Path) -> Path:
    """A run folder with a ViT of 17 tokens, weights at random, and such that drops change answers."""
    arguments = {"img_size": [32, 32], "patch_size": 8, "embed_dim": 8, "depth": 4, "num_heads": 2}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=len(CLASSES), **arguments).eval()
    draws = np.random.default_rng(50)  # with it, accuracy falls as tokens do
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            matrix = weight.dim() > 1 and name not in ("cls_token", "pos_embed")
            most = int(STEP * (2 * (3 / weight[0].numel()) ** 0.5 if matrix else 0.1))
            noise = torch.from_numpy(draws.integers(-most, most + 1, tuple(weight.shape))) / STEP
            weight.copy_(noise + 1 if "norm" in name and name.endswith("weight") else noise)
        head = model.get_submodule("head")
        head.weight.copy_(torch.tensor(HEAD) / STEP)
        head.bias.copy_(torch.tensor(HEAD_BIAS) / STEP)
    preprocessing = Preprocessing((32, 32), 1.0, "center", "bicubic", (0.5,) * 3, (0.5,) * 3)
    card = ModelCard("timm_vit", "vit_tiny_patch16_224", arguments, CLASSES, preprocessing.as_record())
    save_model(folder, model, card)
    return folder


def arithmetic() -> str:
    """What the bits of a training depend on beside the code: the processor and its instructions, and torch."""
    cpuinfo = Path("/proc/cpuinfo")
    name = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.is_file() else None
    processor = name[1].strip() if name else platform.machine()
    return f"{processor}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"


def bits(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of names and values, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def weights(folder: Path) -> dict[str, Tensor]:
    """Those of a run folder by name."""
    found: dict[str, Tensor] = load_file(folder / "model.safetensors")
    return found


def without_keys(name: str, change: Tensor) -> Tensor:
    """Leave out the bias of the keys.

    It moves all scores of a softmax alike, so its gradient is nothing but rounding, which AdamW scales up.
    """
    if not name.endswith("qkv.bias"):
        return change
    query, _, value = change.chunk(3)
    return torch.cat([query, value])
