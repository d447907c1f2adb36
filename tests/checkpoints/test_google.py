"""Google's ViTs, held against timm's own reader of the same files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tavt_kit.checkpoints import convert
from tavt_kit.checkpoints.official_vit import ConvertOptions, vit_model
from tavt_kit.errors import CheckpointError, DataError, ParameterError
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
    cases += [
        ({}, {"heads": 0}, ParameterError, "`heads` is a whole number above 0, got 0"),
        ({}, {"heads": 5}, CheckpointError, "a width of 24 cannot be shared by 5 heads"),
        ({}, {"image_size": 8}, DataError, "patches of 16 px need an image of at least so many, got 8"),
        ({}, {"slide_step": 17}, DataError, "a slide step is 1 to the patch size of 16, got 17"),
        ({}, {"family": "ffvt"}, CheckpointError, "nor do 3 classes; give `num_token`"),
        ({query: np.zeros((12, 3, 8), np.float32)}, {}, CheckpointError, "belong one below the other"),
    ]
    for changes, options, kind, says in cases:
        with pytest.raises(kind, match=says) as caught:
            convert(saved(tmp_path, **changes), **options)
        assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="the weight file .*absent.npz does not exist"):
        convert(tmp_path / "absent.npz")


def test_heads_are_the_kernels_unless_said(tmp_path: Path) -> None:
    file = saved(tmp_path)
    assert convert(file)[1].arguments["num_heads"] == 3
    assert convert(file, heads=4)[1].arguments["num_heads"] == 4


@pytest.mark.parametrize(("heads", "said"), [(12, False), (6, True)])
def test_what_the_name_tells_is_no_argument(heads: int, said: bool) -> None:
    """Shapes of ViT-B/16, without its values."""
    with torch.device("meta"):
        state = timm.create_model("vit_base_patch16_224", num_classes=200).state_dict()
    found = vit_model(state, "vit", "a test", ConvertOptions(heads=heads, image_size=224), recipe=False)
    shape = {"embed_dim": 768, "depth": 12, "patch_size": 16, "num_heads": heads, "mlp_ratio": 4.0}
    wanted = {"num_classes": 200, "img_size": [224, 224], **(shape if said else {})}
    assert (found.name, found.arguments) == ("vit_base_patch16_224", wanted)


def test_a_file_without_a_last_norm_is_of_no_family(tmp_path: Path) -> None:
    torch.save({"transformer.embeddings.position_embeddings": torch.zeros(1, 5, 8)}, tmp_path / "w.bin")
    with pytest.raises(CheckpointError, match="w.bin is of no family .* holds transformer.embeddings.position_emb"):
        convert(tmp_path / "w.bin")
