"""ViTAE's and ViTAEv2's official forward: every recorded quantity."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tavt_kit.checkpoints.architecture import sketch
from tavt_kit.errors import DataError, UnsupportedBackbone
from tavt_kit.models.backbones.vitae import Vitae
from tavt_kit.models.flops import count_macs
from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import wrap
from tests.parameters import few
from tests.parity.official import load, state_of

TOLERANCE = {"atol": 5e-5, "rtol": 0.0}
every_file = pytest.mark.kind("vitae_v1", "vitae_v2")
SIZES = {
    "vitae_tiny": "ViTAE_basic_Tiny", "vitae_6m": "ViTAE_basic_6M", "vitae_13m": "ViTAE_basic_13M",
    "vitae_small": "ViTAE_basic_Small", "vitae_base": "ViTAE_basic_Base", "vitae_large": "ViTAE_basic_Large",
    "vitae_huge": "ViTAE_basic_Huge", "vitaev2_s": "ViTAEv2_S", "vitaev2_48m": "ViTAEv2_48M", "vitaev2_b": "ViTAEv2_B",
}  # fmt: skip
AT_448 = {"vitae_tiny": 8.712e9, "vitae_small": 29.763e9, "vitae_base": 80.708e9, "vitaev2_s": 25.287e9}
"""As another counter found them on the official code; it counts norms too, which are below 1 % of it all."""


def levels_of(model: Vitae, x: Tensor) -> list[Tensor]:
    """(B, 3, H, W) -> what leaves each stage, on its grid: (B, C, h, w), without a class token."""
    levels = []
    for stage in model.layers:
        x = stage(x)
        levels.append(x[:, model.prefix :].transpose(1, 2).unflatten(2, stage.grid))
    return levels


def arguments_of(meta: Any) -> dict[str, Any]:
    """A golden file's configuration, by our names."""
    renamed = {name.replace("_tokens_type", "_tokens").lower(): value for name, value in meta["config"].items()}
    return {name: value for name, value in renamed.items() if name not in ("batch", "stages")} | {
        "version": 2 if meta["system"] == "ViTAE v2" else 1
    }


def from_official(arrays: Any, meta: Any, **changes: Any) -> Any:
    """The golden weights in our model, by their own names."""
    model = timm.create_model("vitae_tiny", **{**arguments_of(meta), **changes}).eval()
    model.load_state_dict(state_of(arrays), strict=True)
    return model


@pytest.fixture(scope="module")
def golden(name: str, reference: Path) -> tuple[Any, Any, Any]:
    arrays, meta = load(reference, name)
    return from_official(arrays, meta), arrays, meta


def listen(model: Any) -> dict[str, Tensor]:
    """What each reduction cell and each stage gives, once the model has run."""
    seen: dict[str, Tensor] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: Any, output: Tensor) -> None:
            seen[name] = output

        return hook

    for i, stage in enumerate(model.layers):
        stage.RC.register_forward_hook(note(f"reduction_{i}"))
        stage.register_forward_hook(note(f"stage_{i}"))
    return seen


@every_file
@torch.no_grad()
def test_logits_features_and_every_stage(golden: Any) -> None:
    model, arrays, meta = golden
    x = torch.from_numpy(arrays["input"])
    seen = listen(model)
    logits = model(x)
    seen["pre_head"] = model.forward_head(model.forward_features(x), pre_logits=True)
    recorded = {name for name in arrays if name.startswith(("reduction_", "stage_"))} | {"pre_head"}
    assert recorded == set(seen) and all(list(seen[n].shape) == meta["stage_shapes"].get(n, [2, seen[n].shape[-1]])
                                         for n in seen)  # fmt: skip
    for name in sorted(recorded):
        torch.testing.assert_close(
            seen[name], torch.from_numpy(arrays[name]), msg=lambda m, n=name: f"{n}: {m}", **TOLERANCE
        )
    torch.testing.assert_close(logits, torch.from_numpy(arrays["logits"]), **TOLERANCE)
    adaptive = wrap(model)
    for again in (adaptive(x), adaptive.forward_lean(x)):
        torch.testing.assert_close(again, torch.from_numpy(arrays["logits"]), **TOLERANCE)


@torch.no_grad()
def test_the_last_norm_is_the_finer_one(reference: Path) -> None:
    """With an epsilon of 1e-5 instead of 1e-6 it would be 5e-6 off, within what a whole pass may differ by."""
    arrays, meta = load(reference, "vitae_v1_shallow_cls")
    model = from_official(arrays, meta)
    found = model.forward_head(torch.from_numpy(arrays["stage_2"]), pre_logits=True)
    torch.testing.assert_close(found, torch.from_numpy(arrays["pre_head"]), atol=2e-6, rtol=0)


@every_file
def test_loss_and_every_gradient_norm(golden: Any) -> None:
    model, arrays, meta = golden
    x = torch.from_numpy(arrays["input"])
    loss = F.cross_entropy(model(x), torch.arange(len(x)) % meta["config"]["num_classes"])
    np.testing.assert_allclose(loss.item(), float(arrays["evalmode_ce"]), rtol=1e-5)
    model.zero_grad()
    loss.backward()
    mine = {f"evalmode_gradnorm/{n}": float(p.grad.norm()) for n, p in model.named_parameters() if p.grad is not None}
    assert set(mine) == {name for name in arrays if name.startswith("evalmode_gradnorm/")}
    for name, norm in mine.items():
        np.testing.assert_allclose(norm, float(arrays[name]), rtol=1e-4, atol=1e-6, err_msg=name)


@every_file
def test_names_and_numbers_of_parameters(golden: Any) -> None:
    model, arrays, meta = golden
    own = model.state_dict()
    assert set(own) == set(state_of(arrays))
    assert sum(tensor.numel() for tensor in own.values()) == meta["n_params"] + meta["n_buffers"]
    # The projections of random features are frozen parameters there, and buffers here.
    assert sum(parameter.numel() for parameter in model.parameters()) == meta["n_params_trainable"]


@pytest.mark.parametrize("file", ["vitae_v2_window", "vitae_v2_window_relpos"])
def test_places_in_windows_are_those_of_the_file(file: str, reference: Path) -> None:
    """A loaded table would hide that ours is another."""
    arrays, meta = load(reference, file)
    fresh = timm.create_model("vitae_tiny", **arguments_of(meta)).state_dict()
    names = [name for name in fresh if name.endswith("relative_position_index")]
    assert len(names) == 4
    for name in names:
        np.testing.assert_array_equal(fresh[name].numpy(), arrays[f"state/{name}"])


# ------------------------------------------------------------------------------------------ the official sizes


each_size = pytest.mark.parametrize("name", few(SIZES, "vitae_tiny"))


@each_size
def test_official_sizes(name: str, reference: Path) -> None:
    facts = json.loads((reference / "fullsize_facts.json").read_text())[SIZES[name]]
    model = sketch(name)
    with torch.device("meta"):
        with torch.no_grad():
            levels = levels_of(model, torch.empty(1, 3, 224, 224))
            with FlopCounterMode(display=False) as counter:
                model.forward_head(model.forward_features(torch.empty(1, 3, 224, 224)))
    assert sum(parameter.numel() for parameter in model.parameters()) == facts["trainable_params"]
    own = model.state_dict()
    assert len(own) == facts["state_dict_entries"]
    assert sum(tensor.numel() for tensor in own.values()) == facts["params"] + facts["buffers_numel"]
    for i, level in enumerate(levels):
        prefix = int(model.class_token)
        assert [1, prefix + level.shape[2] * level.shape[3], level.shape[1]] == facts["stage_shapes"][f"stage_{i}"]
    assert count_macs(wrap(model), rule="matmul") == facts["macs_224"]
    assert count_macs(wrap(model)) == facts["macs_224"]
    assert counter.get_total_flops() // 2 == facts["macs_224"]


@each_size
def test_official_sizes_at_448(name: str) -> None:
    model = wrap(sketch(name, {"img_size": 448}))
    with torch.device("meta"):
        assert model(torch.empty(1, 3, 448, 448)).shape == (1, 1000)
    assert model.tokens == 784 + model.prefix
    if name in AT_448:
        assert 0.99 < count_macs(model) / AT_448[name] <= 1


# ------------------------------------------------------------------------------------------ what is official


@torch.no_grad()
def test_a_transformer_reduction_cell_of_the_first_version_is_its_pyramid(reference: Path) -> None:
    arrays, meta = load(reference, "vitae_v1_rc_transformer")
    model = from_official(arrays, meta, rc_tokens=("performer_less", "performer", "performer_less"))
    torch.testing.assert_close(
        model(torch.from_numpy(arrays["input"])), torch.from_numpy(arrays["logits"]), **TOLERANCE
    )


def test_drop_path_rates_begin_after_the_previous_stage() -> None:
    def rates(model: Any, stage: int) -> list[float]:
        return [getattr(cell.drop_path, "drop_prob", 0.0) for cell in model.layers[stage].NC]

    with torch.device("meta"):
        official = timm.create_model("vitaev2_s", drop_path_rate=1.3)
    assert rates(official, 2) == pytest.approx([0.1 * step for step in range(2, 10)])  # of 14 cells, 2 + 2 before
    assert rates(official, 3) == pytest.approx([0.8, 0.9])


# ------------------------------------------------------------------------------------------ sizes and settings


@torch.no_grad()
def test_levels_lie_on_their_grids() -> None:
    model = timm.create_model(
        "vitaev2_s", img_size=(64, 96), embed_dims=(16, 16, 32, 64), token_dims=(16, 32, 64, 128)
    ).eval()
    x = torch.randn(2, 3, 64, 96)
    levels = levels_of(model, x)
    assert [tuple(level.shape) for level in levels] == [(2, 16, 16, 24), (2, 32, 8, 12), (2, 64, 4, 6), (2, 128, 2, 3)]
    torch.testing.assert_close(levels[-1].flatten(2).mean(2), model.forward_head(model.forward_features(x), True))


@pytest.mark.parametrize(("name", "changes", "says"), [
    ("vitae_tiny", {"img_size": 200}, "multiples of that, but 200x200"),
    ("vitaev2_s", {"img_size": 304}, "take 288x288 or 320x320"),
    ("vitae_tiny", {"img_size": 8}, "take 16x16"),
])  # fmt: skip
def test_a_size_that_the_stages_do_not_divide_is_refused(name: str, changes: Any, says: str) -> None:
    with torch.device("meta"), pytest.raises(DataError, match=says):
        timm.create_model(name, **changes)


def test_a_model_without_full_attention_is_refused() -> None:
    with torch.device("meta"):
        model = timm.create_model("vitaev2_s", nc_depth=(2, 2, 0, 0))
    with pytest.raises(UnsupportedBackbone, match="normal cells with full attention"):
        wrap(model)
