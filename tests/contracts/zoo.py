"""The models every adapter contract runs on: one small, shaken model for each kind of timm ViT."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn

from tavt_kit.models.backbones import make_adapter
from tavt_kit.models.timm_import import timm

SMALL: dict[str, Any] = {"depth": 4, "embed_dim": 48, "num_heads": 3, "num_classes": 7}
IMAGE = 64
PIM: dict[str, Any] = {
    "img_size": 40,
    "patch_size": 8,
    "fpn_size": 24,
    "num_selects": (20, 18, 14, 12),
    "drop_rate": 0.0,
}


def _named(name: str, **changes: Any) -> Callable[[], nn.Module]:
    arguments = {"img_size": IMAGE, **SMALL, **changes}
    return lambda: timm.create_model(name, **arguments)


def _overlapping() -> nn.Module:
    """TAVT's overlapping split: 16-pixel patches every 12 pixels, a grid of 5 x 5."""
    model = timm.create_model("vit_tiny_patch16_224", img_size=80, **SMALL)  # its table is 5 x 5 too
    stem = model.patch_embed
    stem.proj.stride = (12, 12)
    stem.img_size = (IMAGE, IMAGE)
    return model


def _vitae(name: str, **changes: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        model: nn.Module = timm.create_model(name, img_size=IMAGE, num_classes=SMALL["num_classes"], **changes)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):  # as after some training
                nn.init.normal_(module.running_mean, std=0.3)  # type: ignore[arg-type]
                nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
        return model

    return make


_V2: dict[str, Any] = {
    "embed_dims": (8, 8, 12, 16), "token_dims": (12, 16, 24, 32), "nc_depth": (1, 1, 4, 1), "nc_heads": (1, 2, 4, 8),
    "rc_heads": (1, 1, 2, 4), "rc_group": (1, 4, 4, 4), "nc_group": (1, 4, 8, 16), "mlp_ratio": 2.0,
}  # fmt: skip

ZOO: dict[str, Callable[[], nn.Module]] = {
    "plain": _named("vit_tiny_patch16_224"),
    "patch8": _named("vit_small_patch8_224", img_size=40),
    "non_square": _named("vit_tiny_patch16_224", img_size=(48, 96)),
    "overlapping": _overlapping,
    "flexivit": _named("flexivit_small"),
    "deit": _named("deit_tiny_patch16_224"),
    "deit_distilled": _named("deit_tiny_distilled_patch16_224"),
    "deit3": _named("deit3_small_patch16_224"),
    "layer_scale": _named("vit_tiny_patch16_224", init_values=0.1),
    "qk_norm": _named("vit_tiny_patch16_224", qk_norm=True),
    "scaled_norms": _named("vit_tiny_patch16_224", scale_attn_norm=True, scale_mlp_norm=True),
    "differential": _named("vit_tiny_patch16_224", attn_layer="diff", num_heads=2),
    "post_norm": _named("vit_base_patch16_rpn_224"),
    "parallel_things": _named("vit_small_patch16_18x2_224"),
    "parallel_scaling": _named("vit_base_patch16_xp_224"),
    "dinov2": _named("vit_small_patch14_dinov2", img_size=56),
    "dinov2_registers": _named("vit_small_patch14_reg4_dinov2", img_size=56),
    "registers_avg": _named("vit_medium_patch16_reg4_gap_256"),
    "no_class_token": _named("vit_medium_patch16_gap_256"),
    "clip": _named("vit_base_patch16_clip_224"),
    "siglip": _named("vit_base_patch16_siglip_224"),
    "siglip_avg": _named("vit_base_patch16_siglip_gap_224"),
    "aimv2": _named("aimv2_large_patch14_224", img_size=56),
    "eva": _named("eva_large_patch14_196", img_size=56),
    "eva02": _named("eva02_tiny_patch14_224", img_size=56),
    "rope": _named("vit_small_patch16_rope_224"),
    "rope_mixed": _named("vit_small_patch16_rope_mixed_224"),
    "dinov3": _named("vit_small_patch16_dinov3"),
    "dinov3_classifier": _named("vit_small_patch16_dinov3", global_pool="token"),
    "beit": _named("beit_base_patch16_224"),
    "beitv2": _named("beitv2_base_patch16_224"),
    "beit_shared_bias": _named("beit_base_patch16_224", use_rel_pos_bias=False, use_shared_rel_pos_bias=True),
    "relative_mlp": _named("vit_relpos_small_patch16_224"),
    "relative_shared": _named("vit_srelpos_small_patch16_224"),
    "relative_class_token": _named("vit_relpos_medium_patch16_cls_224"),
    "relative_post_norm": _named("vit_relpos_medium_patch16_rpn_224"),
    "ffvt": _named("ffvt_base_patch16", num_token=3, global_pool="token"),
    "transfg": _named("transfg_base_patch16", global_pool="token"),
    "vitae": _vitae(
        "vitae_tiny", embed_dims=(8, 8, 16), token_dims=(16, 12, 32), nc_depth=(0, 0, 4), nc_group=(1, 1, 8)
    ),
    "vitae_class_token": _vitae(
        "vitae_base",
        embed_dims=(32,) * 3,
        token_dims=(32,) * 3,
        nc_depth=(0, 0, 4),
        nc_heads=(1, 1, 4),
        nc_group=(1, 1, 8),
    ),
    "vitaev2": _vitae("vitaev2_s", **_V2),
    "relative_table": _named("vit_relpos_small_patch16_224", rel_pos_type="bias"),
    "pim": _named("pim_vit_base_patch16", **PIM),
    "pim_sum": _named("pim_vit_base_patch16", head="sum", **PIM),
}
ROPE = ("eva02", "rope", "rope_mixed", "dinov3", "dinov3_classifier")
QUICK = ("plain", "deit_distilled", "dinov2_registers", "siglip", "eva02", "relative_mlp", "ffvt", "vitae", "pim")
"""What the quick suite asks; CI asks the slow contracts of all others, every time."""
VITAE = ("vitae", "vitae_class_token", "vitaev2")
BIASED = ("beit", "beitv2", "beit_shared_bias", "relative_mlp", "relative_shared", "relative_class_token",
          "relative_post_norm", "relative_table")  # fmt: skip


def build(name: str, seed: int = 0) -> nn.Module:
    """A zoo model in eval mode, its weights shaken so that a wrong gather cannot pass unnoticed."""
    torch.manual_seed(seed)
    model = ZOO[name]().eval()
    shake(model, seed)
    return model


@cache
def made_once(name: str) -> nn.Module:
    """The same, made once: for tests that leave it as it is, mode and gradients too."""
    return build(name)


def shake(model: nn.Module, seed: int) -> None:
    """Peaked attention, non-zero biases, gammas, bias tables and head: timm's initial weights hide wrong gathers."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if "relative_position_bias_table" in name or "rel_pos.mlp.fc2" in name or "pos_embed" in name:
                weight.copy_(noise)
            elif name.startswith("rope") or ".rope" in name:
                weight.mul_(1 + 0.1 * noise)
            elif weight.dim() == 1 or name.endswith(("token", "latent")):
                weight.add_(0.3 * noise)
            elif any(part in name for part in ("qkv", "q_proj", "k_proj", "in_proj")):
                weight.copy_(noise * 1.5 / weight.shape[1] ** 0.5)
            elif name.startswith("head"):
                weight.copy_(noise * 0.2)
            else:
                weight.add_(0.5 * noise / weight[0].numel() ** 0.5)


def images(model: nn.Module, batch: int = 3, seed: int = 1) -> torch.Tensor:
    """Random images of the model's size."""
    height, width = make_adapter(model).image_size
    return torch.randn(batch, 3, int(height), int(width), generator=torch.Generator().manual_seed(seed))
