"""A small valid file of every family that ``convert`` reads: its tensors, and what must be said of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tavt_kit.models.timm_import import timm
from tests.checkpoints.google import google_arrays
from tests.parity.official import state_of

_PLAIN = {"num_classes": 3, "img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
GOLDEN: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("tavt_forward_a", {"heads": 4}),
    "ffvt": ("ffvt_forward_a", {"heads": 4, "num_token": 3}),
    "transfg": ("transfg_overlap", {"heads": 4, "slide_step": 6, "image_size": 44}),
    "mixvit": ("mixvit_pure_a", {"heads": 4}),
    "mixvit_hybrid": ("mixvit_hybrid_a", {"heads": 4, "image_size": 96}),
    "pim": ("pim_vit_a", {"heads": 4, "num_selects": (20, 16, 16, 12)}),
    "pim_swin": ("pim_swin_a", {"num_selects": (48, 24, 12, 12)}),
}
"""Reader -> its golden file, and what no key of it tells."""

VITAE = {"vitae": "vitae_tiny", "vitaev2": "vitaev2_s"}

READERS = (*GOLDEN, *VITAE, "timm", "google")


@dataclass(frozen=True)
class Sample:
    """Tensors of a valid file, its name, and the options that it needs."""

    tensors: dict[str, Tensor]
    name: str = "w.pth"
    options: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path, tensors: Mapping[str, Tensor] | None = None) -> Path:
        """Write the file, or one of other tensors, as its family does; the path for ``convert``."""
        content = dict(self.tensors if tensors is None else tensors)
        file = folder / self.name
        if file.suffix == ".npz":
            np.savez(file, **{name: tensor.numpy() for name, tensor in content.items()})
        else:
            torch.save(content, file)
        return file


def sample(reader: str, reference: Path) -> Sample:
    """One of ``READERS``."""
    if reader in GOLDEN:
        name, options = GOLDEN[reader]
        with np.load(reference / f"{name}.npz", allow_pickle=False) as file:
            return Sample(state_of(dict(file)), options=options)
    torch.manual_seed(0)
    if reader in VITAE:
        state = dict(timm.create_model(VITAE[reader], num_classes=3, img_size=64).state_dict())
        return Sample(state, options={"image_size": 64})
    if reader == "timm":
        return Sample(dict(timm.create_model("test_vit", num_classes=3).state_dict()), options={"name": "test_vit"})
    state = dict(timm.create_model("vit_tiny_patch16_224", **_PLAIN).state_dict())
    arrays = google_arrays(state, 3)
    return Sample({name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}, "w.npz")
