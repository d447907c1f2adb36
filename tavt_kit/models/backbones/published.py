"""Results that the systems' authors published, for the list of models; none of them was measured by this project."""

from __future__ import annotations

from collections.abc import Mapping

_PAPER = "paper or its leaderboards"
_RECALLED = "as quoted, not verified"

_PUBLISHED: Mapping[str, str] = {
    "ffvt_base_patch16": f"CUB 91.6, Dogs 91.5 ({_PAPER}); Cotton80 57.92, SoyLocal 44.17 ({_RECALLED})",
    "transfg_base_patch16": "CUB 90.8 (users)",
    "transfg_base_patch16_overlap12": (
        f"CUB 91.7 (paper; users: 91.0 to 91.2); Cars 94.8, Dogs 92.3, NABirds 90.8 ({_RECALLED})"
    ),
    "mixvit_hybrid_r50": (
        f"Cotton80 60.42, SoyLocal 56.17, SoyGene 79.94, SoyGlobal 51.00, SoyAgeing 76.30 ({_RECALLED})"
    ),
    "pim_swin_large_patch4_window12_384": "CUB 92.77, NABirds 92.83 (README)",
    "vitae_tiny": "ImageNet 75.3 (README)",
    "vitae_6m": "ImageNet 77.9 (README)",
    "vitae_small": "ImageNet 82.0 (README)",
    "vitae_base": "ImageNet 83.8, after ImageNet-22k 84.8 (README)",
    "vitae_large": "ImageNet 86.0, after ImageNet-22k 87.5 (README)",
    "vitae_huge": "ImageNet 86.9, after ImageNet-22k 88.0 (README)",
    "vitaev2_s": "ImageNet 82.6 (README)",
    "vitaev2_48m": "ImageNet 83.8 (README)",
    "vitaev2_b": "ImageNet 84.6, after ImageNet-22k 86.1 (README)",
}


def published(name: str) -> str | None:
    """Top-1 accuracies in percent with their source, or None where none is known (TAVT's table is not public)."""
    return _PUBLISHED.get(name)
