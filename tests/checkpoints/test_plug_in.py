"""PIM over pretrained backbones: the whole backbone is loaded, and only what PIM plugs in is random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tavt_kit.checkpoints import hub, open_model, save_model
from tavt_kit.checkpoints.build import fill_backbone
from tavt_kit.errors import CheckpointError
from tavt_kit.models.backbones.pim import Pim, whole_backbone
from tavt_kit.models.backbones.registry import FGVC_EVALUATION, register
from tavt_kit.models.timm_import import timm
from tests.contracts.pim_models import SWIN, small
from tests.parameters import few

NAME, SIZE = "pim_of_a_toy", 48
TOY: dict[str, Any] = {"embed_dim": 24, "depth": 4, "num_heads": 3}
default_cfgs: Any = None  # set by register


def setup_module() -> None:
    shape = {"backbone": "test_vit", "fpn_size": 8, "num_selects": (10, 8, 8, 6), **TOY}
    register(__name__, Pim, {NAME: shape}, {**FGVC_EVALUATION, "input_size": (3, SIZE, SIZE)})


def whole(name: str = "test_vit", **options: Any) -> Any:
    torch.manual_seed(7)
    return timm.create_model(name, **{**TOY, **options}).eval()


def is_loaded(model: Any, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, state[name]) for name, tensor in model.backbone.state_dict().items())


@pytest.mark.parametrize(
    "backbone", few(["vit_tiny_patch16_224", "resnet18", "efficientnet_b0", SWIN], "vit_tiny_patch16_224")
)
def test_every_kind_of_backbone_is_filled_whole(backbone: str) -> None:
    model = small(backbone)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    given = whole_backbone(backbone, model.image_size, 3, {**model.backbone_options, "num_classes": 9})
    said = fill_backbone(model, given.state_dict(), "w.pth", seed=3)
    assert said == f"backbone: {backbone} from the file w.pth; pyramid, classifiers, combiner random (seed 3)"
    assert is_loaded(model, given.state_dict())
    after = model.state_dict()
    assert all(torch.equal(before[n], after[n]) for n in after if not n.startswith("backbone."))
    lacking = dict(given.state_dict())
    del lacking[next(n for n in lacking if n.endswith("weight"))]
    with pytest.raises(CheckpointError, match="w.pth does not fit this architecture: it lacks"):
        fill_backbone(model, lacking, "w.pth")
    assert is_loaded(model, given.state_dict())


def test_a_file_of_a_backbone_opens_a_pim(tmp_path: Path) -> None:
    state = whole(num_classes=5, img_size=SIZE).state_dict()
    save_file(state, tmp_path / "vit.safetensors")
    model = open_model(NAME, weights=str(tmp_path / "vit.safetensors"), classes=("a", "b"), seed=1)
    assert is_loaded(model.bare, state) and model(torch.zeros(2, 3, SIZE, SIZE)).shape == (2, 2)
    said = "backbone: test_vit from the file vit.safetensors; pyramid, classifiers, combiner random (seed 1)"
    assert model.card is not None and model.card.provenance == said
    random = open_model(NAME, weights="random", classes=("a", "b"), seed=1).bare.state_dict()
    assert all(torch.equal(t, random[n]) for n, t in model.bare.state_dict().items() if not n.startswith("backbone."))
    # A file of the whole PIM is still read as one.
    save_model(tmp_path / "run", model, model.card)
    again = open_model(NAME, weights=str(tmp_path / "run" / "model.safetensors"))
    assert torch.equal(again.bare.combiner.head.weight, model.bare.combiner.head.weight)  # type: ignore[union-attr]


@pytest.mark.slow
def test_files_that_are_no_backbone_of_it(tmp_path: Path) -> None:
    state = whole(img_size=SIZE).state_dict()
    cases: dict[str, dict[str, Tensor]] = {
        "lacks blocks.2.norm1.bias": {n: t for n, t in state.items() if n != "blocks.2.norm1.bias"},
        "has strange too many": {**state, "strange": torch.zeros(1)},
        "has other shapes": {**state, "norm.weight": torch.ones(5)},
        "does not fit": timm.create_model("resnet18").state_dict(),
    }
    for says, tensors in cases.items():
        save_file(tensors, tmp_path / "w.safetensors")
        with pytest.raises(CheckpointError, match=says) as caught:
            open_model(NAME, weights=str(tmp_path / "w.safetensors"), classes=("a", "b"))
        assert "\n" not in str(caught.value)


def test_the_hub_fills_the_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = whole().state_dict()  # at its own size: the position table is resized
    save_file(state, tmp_path / "model.safetensors")
    monkeypatch.setattr(hub, "_cached", lambda _: str(tmp_path / "model.safetensors"))
    monkeypatch.setattr(hub, "is_reachable", lambda _: pytest.fail("asked the network"))
    model = open_model(NAME, classes=("a", "b"))
    own: Any = model.bare.backbone
    assert own.pos_embed.shape == (1, 10, 24) != state["pos_embed"].shape
    assert torch.equal(own.blocks[3].mlp.fc2.weight, state["blocks.3.mlp.fc2.weight"])
    card = model.card
    assert card is not None and card.provenance.startswith("backbone: timm's weights test_vit (r160_in1k); pyramid")
    assert card.licences[0].licence == "apache-2.0" and len(card.classes) == 2
    monkeypatch.setattr(hub, "_cached", lambda _: None)
    monkeypatch.setattr(hub, "is_reachable", lambda _: False)
    with pytest.raises(CheckpointError, match="weights of test_vit could not be fetched"):
        open_model(NAME, classes=("a", "b"))
