"""Google's ViTs, held against timm's own reader of the same files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tavt_kit.checkpoints import convert
from tavt_kit.errors import CheckpointError, DataError
from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import wrap
from tests.checkpoints.google import google_arrays

NAME = "vit_tiny_patch16_224"
TINY: dict[str, Any] = {"num_classes": 3, "img_size": 64, "embed_dim": 24, "depth": 2, "num_heads": 3}


def saved(folder: Path, **changes: Any) -> Path:
    torch.manual_seed(0)
    arrays = google_arrays(timm.create_model(NAME, **TINY).state_dict(), 3)
    np.savez(folder / "V.npz", **{n: array for n, array in {**arrays, **changes}.items() if array is not None})
    return folder / "V.npz"


@torch.no_grad()
def test_timms_reader_gives_the_same_model(tmp_path: Path) -> None:
    model, card = convert(saved(tmp_path))
    again = timm.create_model(NAME, **TINY).eval()
    again.load_pretrained(str(tmp_path / "V.npz"))
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model(images), again(images), atol=1e-5, rtol=0)
    assert "Google" in card.provenance and len(card.classes) == 3


def test_another_image_size_and_what_is_refused(tmp_path: Path) -> None:
    model, card = convert(saved(tmp_path), image_size=128)
    assert card.preprocessing["image_size"] == [128, 128] and wrap(model).tokens == 65
    one = np.zeros((1, 1, 1, 64), np.float32)
    query = "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel"
    cases: list[tuple[dict[str, Any], dict[str, Any], type[Exception], str]] = [
        ({"conv_root/kernel": one}, {}, CheckpointError, "a ViT over a ResNet, which is not read"),
        ({}, {"name": NAME}, CheckpointError, "leave `name` out"),
        ({}, {"image_size": 100}, DataError, "patches of 16x16, .* but 100x100"),
        ({"head/bias": None}, {}, CheckpointError, "lacks head/bias"),
        ({"more": one}, {}, CheckpointError, "adds more"),
        ({query: None}, {}, CheckpointError, "lacks"),
        ({query: np.zeros((24, 24), np.float32)}, {}, CheckpointError, "must have 3 dimensions"),
        ({"Transformer/posembed_input/pos_embedding": np.zeros((1, 4, 24), np.float32)}, {}, CheckpointError, "square"),
    ]
    for changes, options, kind, says in cases:
        with pytest.raises(kind, match=says) as caught:
            convert(saved(tmp_path, **changes), **options)
        assert "\n" not in str(caught.value)
