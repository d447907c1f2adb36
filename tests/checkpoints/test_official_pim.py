"""Weight files of FGVC-PIM over every backbone, and what is wrong with some."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tavt_kit.checkpoints import convert
from tavt_kit.checkpoints.official_pim import read_pim
from tavt_kit.checkpoints.official_vit import ConvertOptions
from tavt_kit.errors import CheckpointError, DataError
from tavt_kit.models.backbones import pim
from tavt_kit.models.backbones.pim import CUB_SELECTS, Pim
from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import wrap
from tests.contracts.pim_models import small
from tests.parity.official import as_pim_v0, load, state_of


def official_names(model: Any, cnn: bool) -> dict[str, Tensor]:
    """Our tensors as the official code would save them, by the reverse of the reader's rules."""
    from tavt_kit.checkpoints.official_pim import _PARTS

    found = {}
    ours = {"project": ("fpn.Proj_layer", 1), "up": ("fpn.Up_layer", 2)}
    simple = {
        "adjacency": "adj1",
        "strength": "alpha1",
        "gather": "param_pool0",
        "join": "param_pool1",
        "mix": "conv1",
        "query": "conv_q1",
        "key": "conv_k1",
        "norm": "batch_norm1",
        "head": "classifier",
    }
    assert len(_PARTS) == len(simple) + 3
    for name, tensor in model.state_dict().items():
        first, second, *rest = name.split(".")
        if first == "pyramid":
            start, offset = ours[second]
            new = f"{start}{int(rest[0]) + offset}.{'.'.join(rest[1:])}"
            tensor = tensor[..., None, None] if cnn and tensor.dim() == 2 else tensor
        elif first == "classifiers":
            new = f"fpn_classifier_layer{int(second) + 1}.{'.'.join(rest)}"
        elif first == "combiner":
            new = ".".join(["combiner", simple[second], *rest])
        else:
            new = name
        found[new] = tensor
    return found


@pytest.mark.slow
@pytest.mark.parametrize("v0", [False, True])
def test_a_resnets_file(v0: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Pim("resnet50", num_classes=3, fpn_size=8, img_size=64, num_selects=(16, 8, 4, 4)).eval()
    state = official_names(model, cnn=True)
    torch.save({"model": as_pim_v0(state) if v0 else state, "optimizer": {}, "epoch": 1}, tmp_path / "best.pt")
    read, card = convert(tmp_path / "best.pt", image_size=64, num_selects=(16, 8, 4, 4))
    assert card.name == "pim_resnet50" and card.arguments["fpn_size"] == 8
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(read(x), model(x))


@pytest.mark.slow
def test_an_efficientnets_file(tmp_path: Path) -> None:
    """torchvision's B7 with random weights and statistics: its names, and the same levels from timm's."""
    import torchvision

    torch.manual_seed(0)
    theirs = torchvision.models.efficientnet_b7(num_classes=3).features[:8].eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr, operator]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr, operator]
    given = {"num_classes": 3, "fpn_size": 8, "img_size": 128, "num_selects": (16, 8, 4, 4)}
    model = timm.create_model("pim_efficientnet_b7", **given).eval()
    rest = {n: t for n, t in official_names(model, cnn=True).items() if not n.startswith("backbone.")}
    state = rest | {f"backbone.features.{name}": t for name, t in theirs.state_dict().items()}
    torch.save({"model": state, "optimizer": {}, "epoch": 1}, tmp_path / "best.pt")
    read, card = convert(tmp_path / "best.pt", image_size=128, num_selects=(16, 8, 4, 4))
    assert card.name == "pim_efficientnet_b7"
    x, expected = torch.randn(2, 3, 128, 128), []
    with torch.no_grad():
        y = x
        for stage, part in enumerate(theirs):
            y = part(y)
            expected += [y.flatten(2).transpose(1, 2)] if stage >= 4 else []
        for mine, level in zip(read.levels(x), expected, strict=True):  # type: ignore[operator]
            torch.testing.assert_close(mine, level, atol=1e-5 * float(level.abs().max()), rtol=0)


def test_the_names_of_an_efficientnet() -> None:
    """In the first stage blocks have no expansion, so torchvision's numbers mean other parts there."""
    names = {
        "features.0.0.weight": "conv_stem.weight", "features.0.1.running_mean": "bn1.running_mean",
        "features.1.0.block.0.0.weight": "blocks.0.0.conv_dw.weight",
        "features.1.0.block.1.fc2.bias": "blocks.0.0.se.conv_expand.bias",
        "features.1.0.block.2.1.bias": "blocks.0.0.bn2.bias",
        "features.2.3.block.0.0.weight": "blocks.1.3.conv_pw.weight",
        "features.2.3.block.2.fc1.weight": "blocks.1.3.se.conv_reduce.weight",
        "features.2.3.block.3.0.weight": "blocks.1.3.conv_pwl.weight",
        "features.8.0.weight": "features.8.0.weight",  # of no block: left, and refused as too many
    }  # fmt: skip
    state = {
        "combiner.param_pool0.weight": torch.zeros(4, 128), "combiner.classifier.weight": torch.zeros(3, 8),
        "fpn.Proj_layer1.0.weight": torch.zeros(8, 5, 1, 1),
        **{f"backbone.{name}": torch.full((1,), float(i)) for i, name in enumerate(names)},
    }  # fmt: skip
    found = read_pim(state, ConvertOptions())
    assert found is not None and found.name == "pim_efficientnet_b7" and found.arguments["img_size"] == [448, 448]
    backbone = {n.removeprefix("backbone."): int(t) for n, t in found.tensors.items() if n.startswith("backbone.")}
    assert backbone == {ours: i for i, ours in enumerate(names.values())}


def vit_file(folder: Path, selects: tuple[int, ...] = (12, 10, 6, 4), **changes: Tensor | None) -> Path:
    state: dict[str, Any] = official_names(small("vit_tiny_patch16_224", num_selects=selects), cnn=False) | changes
    torch.save({"model": {n: t for n, t in state.items() if t is not None}}, folder / "best.pt")
    return folder / "best.pt"


@pytest.mark.slow
def test_bad_files_are_one_sentence(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], dict[str, Any], type[Exception], str]] = [
        ({}, {}, CheckpointError, "give `num_selects`"),
        ({}, {"num_selects": (12, 10, 6, 5)}, CheckpointError, "4 numbers of that sum"),
        ({}, {"num_selects": (22, 10)}, CheckpointError, "4 numbers of that sum"),
        ({}, {"num_selects": (12, 10, 6, 4), "image_size": 65}, DataError, "multiple"),
        ({"fpn.Proj_layer1.0.weight": None}, {}, CheckpointError, "without a feature pyramid"),
        ({"backbone.blocks.0.attn.qkv.weight": None}, {}, CheckpointError, "an unknown backbone"),
        ({"backbone.blocks.1.norm1.bias": None}, {"num_selects": (12, 10, 6, 4)}, CheckpointError, "lacks backbone"),
        ({"combiner.more": torch.zeros(3)}, {"num_selects": (12, 10, 6, 4)}, CheckpointError, "combiner.more too many"),
    ]  # fmt: skip
    for changes, options, kind, says in cases:
        with pytest.raises(kind, match=says) as caught:
            convert(vit_file(tmp_path, **changes), **{"heads": 3, **options})
        assert "\n" not in str(caught.value)


def test_a_vit_at_another_size(tmp_path: Path) -> None:
    file = vit_file(tmp_path)
    model, card = convert(file, heads=3, num_selects=(12, 10, 6, 4), image_size=96)
    assert card.arguments["img_size"] == [96, 96] and wrap(model).tokens == 37
    assert model(torch.randn(1, 3, 96, 96)).shape == (1, 7)


def test_the_verb_takes_the_selection(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tavt_kit import cli
    from tavt_kit.checkpoints import load_model

    file = vit_file(tmp_path)

    def run(*more: object) -> int:
        with pytest.raises(SystemExit) as ended:
            cli.main(["convert", str(file), "-o", str(tmp_path / "out"), "--heads", "3", *map(str, more)])
        return int(ended.value.code or 0)

    assert run("--num-selects", "a,b") == 2 and "--num-selects is whole numbers" in capsys.readouterr().err
    assert run() == 2 and "give --num-selects" in capsys.readouterr().err
    assert run("--num-selects", "12,10,6,4", "--json") == 0
    assert json.loads(capsys.readouterr().out)["arguments"]["num_selects"] == [12, 10, 6, 4]
    loaded = load_model(tmp_path / "out")
    assert isinstance(loaded.bare, pim.Pim) and isinstance(loaded.backbone, pim.PimVitBackbone)
    assert load_model(tmp_path / "out", image_size=96).tokens == 37


@pytest.mark.parametrize("selects", [CUB_SELECTS, (256, 128, 64, 32), (32, 32, 32, 32)])
def test_selections_of_the_official_configurations_are_known(selects: tuple[int, ...]) -> None:
    state = official_names(small("vit_tiny_patch16_224"), cnn=False)
    state["combiner.param_pool0.weight"] = torch.zeros(sum(selects) // 32, sum(selects))
    found = read_pim(state, ConvertOptions(heads=3))
    assert found is not None and found.arguments["num_selects"] == list(selects)


def test_the_pyramid_of_a_swin_is_made_for_one_size(reference: Path, tmp_path: Path) -> None:
    arrays, _ = load(reference, "pim_swin_a")
    torch.save(state_of(arrays), tmp_path / "best.pt")
    with pytest.raises(DataError, match="made for images of 64 px, got 96"):
        convert(tmp_path / "best.pt", num_selects=(48, 24, 12, 12), image_size=96)
