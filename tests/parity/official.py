"""Golden files, and the official weights in them through the public converter."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tavt_kit.checkpoints import convert
from tavt_kit.checkpoints.official_vit import as_vit, official_names
from tavt_kit.distill.datasets import Batch
from tavt_kit.distill.losses import make_step
from tavt_kit.distill.options import Objective
from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import AdaptiveViT

Arrays = Mapping[str, NDArray[Any]]

READ: dict[str, set[str]] = {}
"""File -> names of the arrays that tests have read so far."""


class Golden(dict[str, NDArray[Any]]):
    """A file's arrays by name; remembers which of them were asked for."""

    def __init__(self, name: str, arrays: Arrays) -> None:
        super().__init__(arrays)
        self.seen = READ.setdefault(name, set())

    def __getitem__(self, key: str) -> NDArray[Any]:
        self.seen.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """As a dictionary's."""
        return self[key] if key in self else default


_PIM_V0 = (
    ("backbone.", "extractor."),
    ("fpn.Proj_layer", "fpn_"),
    ("fpn.Up_layer", "upsample_"),
    ("fpn_classifier_layer", "classifier_l"),
    ("combiner.param_pool0", "gcn.pool1"),
    ("combiner.param_pool1", "gcn.pool4"),
    ("combiner.", "gcn."),
)
"""PIM: the second version's names -> the first one's."""


def load(reference: Path, name: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """A golden file's arrays and its meta."""
    with np.load(reference / f"{name}.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    meta = json.loads(str(arrays.pop("meta")))
    return Golden(name, arrays), meta


def official_state(reference: Path, name: str) -> dict[str, Tensor]:
    """The official weights in a golden file; of a ViTAE's name, those of that size for four classes at 64 pixels."""
    if name.startswith("vitae"):  # golden files of ViTAE are of no official size
        torch.manual_seed(0)
        return dict(timm.create_model(name, num_classes=4, img_size=64).state_dict())
    return state_of(load(reference, name)[0])


def state_of(arrays: Arrays, prefix: str = "state/") -> dict[str, Tensor]:
    """The official state dict below ``prefix``."""
    return {key.removeprefix(prefix): torch.from_numpy(v) for key, v in arrays.items() if key.startswith(prefix)}


def as_pim_v0(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights as the first version of the official code names them."""
    renamed = {}
    for name, tensor in state.items():
        new, old = next((new, old) for new, old in _PIM_V0 if name.startswith(new))
        rest = name.removeprefix(new)
        if old.endswith(("_", "_l")):
            rest = f"{int(rest[0]) - 1}{rest[1:]}"
        renamed[old + rest] = tensor.unsqueeze(-1) if old == "classifier_l" and tensor.dim() == 3 else tensor
    return renamed


def timm_from_official(state: Mapping[str, Tensor], config: Mapping[str, Any], **options: Any) -> nn.Module:
    """The official weights through the public converter, from a file as TAVT leaves it, mixed precision included."""
    amp = {"loss_scaler0": {"loss_scale": 2.0**20, "unskipped": 7}}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cub_checkpoint.bin"
        torch.save({"model": dict(state), "amp": amp}, file)
        overlaps = config.get("split") == "overlap"
        model, _ = convert(
            file, heads=config["num_heads"], slide_step=config["slide_step"] if overlaps else None,
            image_size=config["img_size"], **options,
        )  # fmt: skip
    return model


def assert_gradients(arrays: Arrays, module: nn.Module, names: Mapping[str, tuple[str, ...]]) -> set[str]:
    """Norms of all gradients of a module, cut back into the official tensors.

    Args:
        arrays: Has ``train/gradnorm/<official name>``.
        module: After its backward pass.
        names: Our name -> the official ones whose tensors, one below the other, it holds.

    Returns:
        The keys that were compared.
    """
    compared = set()
    for ours, parameter in module.named_parameters():
        assert parameter.grad is not None, ours
        for part, theirs in zip(parameter.grad.chunk(len(names[ours])), names[ours], strict=True):
            key = f"train/gradnorm/{theirs}"
            compared.add(key)
            # A key bias moves no softmax: its gradient is rounding, about 1e-7.
            assert float(part.norm()) == pytest.approx(float(arrays[key]), rel=1e-4, abs=1e-6), key
    return compared


def take_step(model: AdaptiveViT, objective: Objective, arrays: Arrays, *, accumulation: int = 1) -> dict[str, float]:
    """One training step of the file's batch by the wired objective, on a model without gradients; its values."""
    step, branch = make_step(model, objective)
    assert branch is None
    x, labels = torch.from_numpy(arrays["input"]), torch.from_numpy(arrays["labels"])
    model.zero_grad()
    found = step(
        Batch(x, labels, None, np.arange(len(x))),
        np.random.default_rng(0),
        lambda term: torch.autograd.backward(term / accumulation),
    )
    return {name: value.item() for name, value in found.items()}


def aliased(state: Mapping[str, Tensor], family: str, layers: int) -> dict[str, tuple[str, ...]]:
    """Our name -> the names that a family of the ViT-pytorch line gives the plain ViT's tensors."""
    aliases = dict(zip(as_vit(state, family), state, strict=True))
    return {ours: tuple(aliases[name] for name in theirs) for ours, theirs in official_names(layers).items()}
