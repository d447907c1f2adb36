"""ViTAE's checkpoints as timm 0.4 saves them: read without running anything, averaged weights first."""

from __future__ import annotations

import argparse
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tavt_kit.checkpoints import convert
from tavt_kit.checkpoints.convert import read_vitae
from tavt_kit.checkpoints.official_vit import ConvertOptions
from tavt_kit.errors import CheckpointError, DataError
from tavt_kit.models.backbones.vitae import VARIANTS
from tavt_kit.models.timm_import import timm
from tests.parameters import few


def state(name: str, seed: int, **options: Any) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return dict(timm.create_model(name, **{"num_classes": 5, "img_size": 64, **options}).state_dict())


def saved(file: Path, name: str, **changes: Any) -> Path:
    """As timm 0.4.12's CheckpointSaver writes it."""
    content = {
        "epoch": 7, "arch": name, "state_dict": OrderedDict(state(name, 1)), "version": 2, "metric": 61.5,
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-3, "params": [0]}]},
        "args": argparse.Namespace(model=name, lr=5e-4, mean=None, aa="rand-m9", betas=[0.9, 0.999], amp=True),
        "state_dict_ema": OrderedDict((f"module.{n}", t) for n, t in state(name, 2).items()), **changes,
    }  # fmt: skip
    torch.save(content, file)
    return file


@pytest.mark.parametrize("name", few(["vitae_tiny", "vitaev2_s"], "vitae_tiny"))
def test_a_checkpoint_gives_its_averaged_weights(name: str, tmp_path: Path) -> None:
    file = saved(tmp_path / "model_best.pth.tar", name)
    model, card = convert(file, image_size=64)
    expected = state(name, 2)
    assert all(torch.equal(tensor, expected[n]) for n, tensor in model.state_dict().items())
    again = timm.create_model(name, num_classes=5, img_size=64).eval()
    again.load_state_dict(expected)
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(model(x), again(x))
    assert card.name == name and card.preprocessing["crop_pct"] == 0.9
    assert ("of ViTAEv2" if name == "vitaev2_s" else "of ViTAE") in card.provenance
    assert card.provenance.endswith(", its averaged weights")


def test_without_averaged_weights_the_plain_ones_are_read(tmp_path: Path) -> None:
    model, card = convert(saved(tmp_path / "a.pth.tar", "vitae_tiny", state_dict_ema=None), image_size=64)
    assert "averaged" not in card.provenance
    expected = state("vitae_tiny", 1)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


NAMES = (
    "vitae_tiny", "vitae_6m", "vitae_small", "vitaev2_s", "vitae_13m", "vitae_base", "vitaev2_48m", "vitaev2_b",
)  # fmt: skip


@pytest.mark.parametrize("name", few(NAMES, "vitae_6m"))
def test_official_sizes_are_told_by_their_depths_and_widths(name: str, tmp_path: Path) -> None:
    torch.save({"state_dict": state(name, 0, img_size=224)}, tmp_path / "w.pth.tar")
    _, card = convert(tmp_path / "w.pth.tar")
    assert card.name == name and card.arguments == {"num_classes": 5, "img_size": [224, 224]}


@pytest.mark.slow
def test_positions_of_another_size_are_resized(tmp_path: Path) -> None:
    torch.save(state("vitae_base", 1), tmp_path / "a.pth")
    same, card = convert(tmp_path / "a.pth")
    assert card.arguments["img_size"] == [64, 64]
    larger, _ = convert(tmp_path / "a.pth", image_size=96)
    assert larger.layers[0].RC.pos_embed.shape == (1, 37, 768)
    assert torch.equal(larger.layers[0].RC.pos_embed[:, 0], same.layers[0].RC.pos_embed[:, 0])
    with pytest.raises(DataError, match="multiples of that, but 90x90"):
        convert(tmp_path / "a.pth", image_size=90)


@pytest.mark.parametrize(("asked", "size"), [(None, 64), (96, 96)])
def test_a_table_of_positions_tells_the_size(asked: int | None, size: int) -> None:
    width, depth = VARIANTS["vitae_base"]["token_dims"][-1], VARIANTS["vitae_base"]["nc_depth"][-1]
    tensors = {
        "layers.0.RC.pos_embed": torch.rand(1, 17, width), "head.bias": torch.zeros(5),
        **{f"layers.2.NC.{i}.norm1.weight": torch.ones(width) for i in range(depth)},
    }  # fmt: skip
    found = read_vitae(tensors, ConvertOptions(image_size=asked))
    assert found is not None and found.name == "vitae_base" and found.arguments["img_size"] == [size, size]
    table = found.tensors["layers.0.RC.pos_embed"]
    assert table.shape == (1, 1 + (size // 16) ** 2, width)
    # The corners are aligned, so the first and the last patch keep theirs; so does the class token.
    torch.testing.assert_close(table[:, [0, 1, -1]], tensors["layers.0.RC.pos_embed"][:, [0, 1, -1]])
    tensors["layers.0.RC.pos_embed"] = torch.rand(1, 16, width)
    with pytest.raises(CheckpointError, match="layers.0.RC.pos_embed has 1 x 16 rows: no square grid"):
        read_vitae(tensors, ConvertOptions())


@pytest.mark.slow
def test_bad_files_are_one_sentence(tmp_path: Path) -> None:
    whole = state("vitae_tiny", 0)
    good = saved(tmp_path / "good.pth.tar", "vitae_tiny")
    (tmp_path / "cut.pth.tar").write_bytes(good.read_bytes()[:4000])
    torch.save({k: v for k, v in whole.items() if k != "layers.2.NC.0.mlp.fc1.bias"}, tmp_path / "lacks.pth")
    torch.save({k: v for k, v in whole.items() if k != "layers.2.NC.1.mlp.fc1.bias"}, tmp_path / "lacks_later.pth")
    torch.save(whole | {"layers.0.RC.extra": torch.zeros(1)}, tmp_path / "adds.pth")
    torch.save({k: v for k, v in whole.items() if ".NC." not in k}, tmp_path / "bare.pth")
    torch.save(state("vitae_tiny", 0, nc_depth=(0, 0, 2)), tmp_path / "other.pth")
    foreign = saved(tmp_path / "foreign.pth.tar", "vitae_tiny", args=Path("/"))
    inside = saved(tmp_path / "inside.pth.tar", "vitae_tiny", args=argparse.Namespace(output=Path("/")))
    for file, options, says in [
        (foreign, {}, "holds Python objects"),
        (inside, {}, "holds Python objects"),
        (tmp_path / "cut.pth.tar", {}, "damaged or truncated"),
        (tmp_path / "lacks.pth", {}, "lacks layers.2.NC.0.mlp.fc1.bias"),
        (tmp_path / "lacks_later.pth", {}, "lacks layers.2.NC.1.mlp.fc1.bias"),
        (tmp_path / "adds.pth", {}, "has layers.0.RC.extra too many"),
        (tmp_path / "bare.pth", {}, "lacks layers.2.NC.0.norm1.weight"),
        (tmp_path / "other.pth", {}, "a ViTAE of 0, 0, 2 normal cells, 256 wide in the end, is none of the official"),
    ]:
        with pytest.raises(CheckpointError, match=says) as caught:
            convert(file, image_size=64, **options)
        assert "\n" not in str(caught.value)


def test_reading_allows_nothing_for_good(tmp_path: Path) -> None:
    convert(saved(tmp_path / "a.pth.tar", "vitae_tiny"), image_size=64)
    assert argparse.Namespace not in torch.serialization.get_safe_globals()
