"""Google's hybrids of ResNet and ViT, held against timm's own reader of the same files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tavt_kit.checkpoints import convert, convert_checkpoint, load_model
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import CheckpointError, DataError
from tavt_kit.models.costs import count_pass
from tavt_kit.models.flops import count_macs
from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import LeanViT, wrap
from tests.checkpoints.google import google_arrays

TINY: dict[str, Any] = {"num_classes": 3, "img_size": 64, "embed_dim": 24, "depth": 2, "num_heads": 3}


def hybrid(name: str = "vit_tiny_r_s16_p8_224") -> Any:
    torch.manual_seed(0)
    model = timm.create_model(name, **TINY).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize(
    "name", ["vit_tiny_r_s16_p8_224", pytest.param("vit_base_r50_s16_224", marks=pytest.mark.slow)]
)
@torch.no_grad()
def test_timms_reader_gives_the_same_model(name: str, tmp_path: Path) -> None:
    theirs = hybrid(name)
    np.savez(tmp_path / "R.npz", **google_arrays(theirs.state_dict(), 3))
    card = convert_checkpoint(tmp_path / "R.npz", tmp_path / "run")
    assert card.name == name and "hybrid" in card.provenance and len(card.classes) == 3
    again = timm.create_model(name, **TINY).eval()
    again.load_pretrained(str(tmp_path / "R.npz"))
    model = load_model(tmp_path / "run")
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(model(images), again(images)) and torch.equal(model(images), theirs(images))
    model.schedule = TokenSchedule.taper(model.layout, 0.3)
    assert model.forward_lean(images).shape == (2, 3)
    assert count_macs(model, model.dense_schedule) == count_pass(LeanViT(wrap(theirs)), images[:1])


def test_another_image_size_and_what_is_refused(tmp_path: Path) -> None:
    arrays = google_arrays(hybrid().state_dict(), 3)

    def saved(**changes: Any) -> Path:
        names = {name: array for name, array in {**arrays, **changes}.items() if array is not None}
        np.savez(tmp_path / "R.npz", **names)
        return tmp_path / "R.npz"

    model, card = convert(saved(), image_size=128)
    assert card.preprocessing["image_size"] == [128, 128] and wrap(model).tokens == 17
    one = np.zeros((1, 1, 1, 64), np.float32)
    query = "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel"
    cases: list[tuple[dict[str, Any], dict[str, Any], type[Exception], str]] = [
        ({}, {"family": "ffvt"}, CheckpointError, "leave `family` out"),
        ({}, {"name": "vit_tiny_r_s16_p8_224"}, CheckpointError, "leave `name` out"),
        ({}, {"image_size": 100}, DataError, "patches of 32 px .*, got 100"),
        ({"block1/unit1/gn1/scale": one}, {}, CheckpointError, "a ResNet of 1 units"),
        ({"gn_root/scale": None}, {}, CheckpointError, "lacks gn_root/scale"),
        ({"conv_root/more": one}, {}, CheckpointError, "adds conv_root/more"),
        ({query: None}, {}, CheckpointError, "lacks"),
        ({query: np.zeros((24, 24), np.float32)}, {}, CheckpointError, "three dimensions"),
        ({"Transformer/posembed_input/pos_embedding": np.zeros((1, 4, 24), np.float32)}, {}, CheckpointError, "square"),
    ]  # fmt: skip
    for changes, options, kind, says in cases:
        with pytest.raises(kind, match=says) as caught:
            convert(saved(**changes), **options)
        assert "\n" not in str(caught.value)
