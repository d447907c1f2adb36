"""The official sizes of ViTAE and ViTAEv2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def _second(
    embed: Sequence[int], tokens: Sequence[int], depth: Sequence[int], nc: Sequence[int], rc: Sequence[int]
) -> Mapping[str, Any]:
    return {
        "version": 2, "embed_dims": embed, "token_dims": tokens, "nc_depth": depth, "nc_heads": nc, "rc_heads": rc,
        "downsample_ratios": (4, 2, 2, 2), "rc_tokens": ("window", "window", "transformer", "transformer"),
        "nc_tokens": ("window", "window", "transformer", "transformer"), "rc_group": (1, 16, 32, 64),
        "nc_group": (1, 32, 64, 128), "mlp_ratio": 4.0,
    }  # fmt: skip


def _plain(width: int, depth: int, heads: int) -> Mapping[str, Any]:
    return {
        "embed_dims": (width,) * 3, "token_dims": (width,) * 3, "downsample_ratios": (16, 1, 1), "class_token": True,
        "rc_tokens": ("embedding", "none", "none"), "nc_tokens": ("transformer_shallow",) * 3, "mlp_ratio": 4.0,
        "nc_depth": (0, 0, depth), "nc_heads": (1, 1, heads), "nc_group": (1, 1, width // 4),
    }  # fmt: skip


VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "vitae_tiny": {},
    "vitae_6m": {"nc_depth": (0, 0, 10)},
    "vitae_13m": {"embed_dims": (64, 64, 160), "token_dims": (64, 64, 320), "nc_depth": (0, 0, 11),
                  "nc_heads": (1, 1, 5)},
    "vitae_small": {"embed_dims": (64, 64, 192), "token_dims": (96, 192, 384), "nc_depth": (0, 0, 14),
                    "nc_heads": (1, 1, 6), "nc_group": (1, 1, 96), "mlp_ratio": 3.0},
    "vitae_base": _plain(768, 12, 12),
    "vitae_large": _plain(1024, 24, 16),
    "vitae_huge": _plain(1280, 32, 16),
    "vitaev2_s": _second((64, 64, 128, 256), (64, 128, 256, 512), (2, 2, 8, 2), (1, 2, 4, 8), (1, 1, 2, 4)),
    "vitaev2_48m": _second((64, 64, 192, 384), (96, 192, 384, 768), (2, 2, 11, 2), (1, 2, 4, 8), (1, 1, 2, 4)),
    "vitaev2_b": _second((96, 96, 256, 512), (128, 256, 512, 1024), (2, 2, 12, 2), (1, 4, 8, 16), (1, 1, 4, 8)),
}  # fmt: skip
"""The official sizes, as arguments that differ from the smallest one's."""
