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
from tavt_kit.errors import CheckpointError, DataError
from tavt_kit.models.timm_import import timm

SMALL: dict[str, dict[str, Any]] = {
    "vitae_tiny": {"token_dims": (16, 12, 32), "embed_dims": (8, 8, 16), "nc_group": (1, 1, 8), "nc_depth": (0, 0, 2)},
    "vitae_base": {"embed_dims": (32,) * 3, "token_dims": (32,) * 3, "nc_group": (1, 1, 8), "nc_depth": (0, 0, 2),
                   "nc_heads": (1, 1, 4)},
    "vitaev2_s": {"embed_dims": (8, 8, 12, 16), "token_dims": (12, 16, 24, 32), "rc_group": (1, 4, 4, 4),
                  "nc_group": (1, 4, 8, 16), "nc_depth": (1, 1, 2, 1), "window_size": 5, "mlp_ratio": 2.0},
}  # fmt: skip
HEADS = {"vitae_tiny": 4, "vitae_base": 4, "vitaev2_s": (1, 2, 4, 8, 1, 1, 2, 4)}


def state(name: str, seed: int, *, whole: bool = False, **options: Any) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    arguments = {"num_classes": 5, "img_size": 64, **({} if whole else SMALL[name]), **options}
    return dict(timm.create_model(name, **arguments).state_dict())


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


@pytest.mark.parametrize("name", SMALL)
def test_a_checkpoint_gives_its_averaged_weights(name: str, tmp_path: Path) -> None:
    file = saved(tmp_path / "model_best.pth.tar", name)
    model, card = convert(file, heads=HEADS[name], image_size=64)
    expected = state(name, 2)
    assert all(torch.equal(tensor, expected[n]) for n, tensor in model.state_dict().items())
    again = timm.create_model(name, num_classes=5, img_size=64, **SMALL[name]).eval()
    again.load_state_dict(expected)
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(model(x), again(x))
    assert card.name == name and card.preprocessing["crop_pct"] == 0.9
    assert ("of ViTAEv2" if name == "vitaev2_s" else "of ViTAE") in card.provenance
    assert card.provenance.endswith(", its averaged weights")


def test_without_averaged_weights_the_plain_ones_are_read(tmp_path: Path) -> None:
    model, card = convert(saved(tmp_path / "a.pth.tar", "vitae_tiny", state_dict_ema=None), heads=4, image_size=64)
    assert "averaged" not in card.provenance
    expected = state("vitae_tiny", 1)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_a_plain_state_dict_is_read(tmp_path: Path) -> None:
    torch.save(state("vitaev2_s", 3), tmp_path / "w.pth")
    model, card = convert(tmp_path / "w.pth", heads=HEADS["vitaev2_s"], image_size=96)
    assert card.arguments["rc_tokens"] == ["window", "window", "transformer", "transformer"]
    assert model(torch.zeros(1, 3, 96, 96)).shape == (1, 5)


@pytest.mark.parametrize("name", ["vitae_tiny", "vitae_small", "vitaev2_s"])
def test_official_sizes_are_told_by_their_widths(name: str, tmp_path: Path) -> None:
    torch.save({"state_dict": state(name, 0, whole=True)}, tmp_path / "w.pth.tar")
    _, card = convert(tmp_path / "w.pth.tar")
    assert card.name == name and card.arguments == {"num_classes": 5, "img_size": [224, 224]}


def test_other_depths_of_official_widths_need_no_heads(tmp_path: Path) -> None:
    torch.save(state("vitaev2_s", 0, whole=True, nc_depth=(1, 1, 2, 1)), tmp_path / "w.pth")
    model, card = convert(tmp_path / "w.pth", image_size=64)
    assert card.arguments["nc_heads"] == [1, 2, 4, 8] and card.arguments["rc_heads"] == [1, 1, 2, 4]


def test_positions_of_another_size_are_resized(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.pth.tar", "vitae_base")
    same, card = convert(file, heads=4)
    assert card.arguments["img_size"] == [64, 64]
    larger, _ = convert(file, heads=4, image_size=96)
    assert larger.layers[0].RC.pos_embed.shape == (1, 37, 32)
    assert torch.equal(larger.layers[0].RC.pos_embed[:, 0], same.layers[0].RC.pos_embed[:, 0])
    with pytest.raises(DataError, match="patches of 16 px"):
        convert(file, heads=4, image_size=90)


def test_bad_files_are_one_sentence(tmp_path: Path) -> None:
    whole = state("vitae_tiny", 0)
    good = saved(tmp_path / "good.pth.tar", "vitae_tiny")
    (tmp_path / "cut.pth.tar").write_bytes(good.read_bytes()[:4000])
    torch.save({k: v for k, v in whole.items() if k != "layers.2.NC.0.mlp.fc1.bias"}, tmp_path / "lacks.pth")
    torch.save({k: v for k, v in whole.items() if k != "layers.2.NC.1.mlp.fc1.bias"}, tmp_path / "lacks_later.pth")
    torch.save(whole | {"layers.0.RC.extra": torch.zeros(1)}, tmp_path / "adds.pth")
    torch.save({k: v for k, v in whole.items() if ".NC." not in k}, tmp_path / "bare.pth")
    foreign = saved(tmp_path / "foreign.pth.tar", "vitae_tiny", args=Path("/"))
    inside = saved(tmp_path / "inside.pth.tar", "vitae_tiny", args=argparse.Namespace(output=Path("/")))
    for file, options, says in [
        (foreign, {}, "holds Python objects"),
        (inside, {}, "holds Python objects"),
        (tmp_path / "cut.pth.tar", {}, "damaged or truncated"),
        (tmp_path / "lacks.pth", {}, "lacks layers.2.NC.0.mlp.fc1.bias"),
        (tmp_path / "lacks_later.pth", {"heads": 4}, "lacks layers.2.NC.1.mlp.fc1.bias"),
        (tmp_path / "adds.pth", {"heads": 4}, "has layers.0.RC.extra too many"),
        (tmp_path / "bare.pth", {}, "has no normal cells"),
        (good, {}, r"give `heads` .* such as 1,1,1,1,1,2"),
        (good, {"heads": (1, 4)}, r"got 1,4"),
    ]:
        with pytest.raises(CheckpointError, match=says) as caught:
            convert(file, image_size=64, **options)
        assert "\n" not in str(caught.value)


def test_reading_allows_nothing_for_good(tmp_path: Path) -> None:
    convert(saved(tmp_path / "a.pth.tar", "vitae_tiny"), heads=4, image_size=64)
    assert argparse.Namespace not in torch.serialization.get_safe_globals()
