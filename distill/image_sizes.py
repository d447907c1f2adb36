"""One network for several image sizes: the trained model at a smaller size, sharing every weight with it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from tavt_kit.distill.sampling import Draws
from tavt_kit.errors import TrainingError, UnsupportedBackbone
from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import AdaptiveViT

__all__ = ["FULL_SIZE_SHARE", "check_sizes", "draw_size", "full_size_logits", "resize_images", "share_weights"]

FULL_SIZE_SHARE = 0.4
"""Share of the steps that train the model at its own size; the others draw a smaller one, each as likely."""


def check_sizes(model: AdaptiveViT, twins: Sequence[AdaptiveViT]) -> None:
    """Refuse sizes that are not smaller than the model's own, or given twice.

    Raises:
        TrainingError: One is as large as the model's own size or larger, or two are the same.
    """
    own, sizes = model.backbone.image_size, [twin.backbone.image_size for twin in twins]
    if len(set(sizes)) < len(sizes) or any(twin.tokens >= model.tokens for twin in twins):
        given = ", ".join(f"{height}x{width}" for height, width in sizes)
        raise TrainingError(
            f"further image sizes differ and lie below the model's own {own[0]}x{own[1]}, got {given}; to train at a "
            "larger one, train a run of that size first"
        )


def share_weights(trained: AdaptiveViT, twin: AdaptiveViT) -> None:
    """Give ``twin`` the weights of ``trained``: the same parameters, which learn from both.

    The position table alone depends on the image size. It is resized anew before each pass, by timm's rule for loading
    weights at another size, so that its gradients reach the trained table, and a run that is loaded at the smaller
    size later gives the very same answers.

    Args:
        trained: The model that learns.
        twin: The same architecture at another size.

    Raises:
        UnsupportedBackbone: More than one position table depends on the image size, or norms mix the images of a batch.
    """
    own, bare = dict(trained.unwrap().named_parameters()), twin.unwrap()
    if any(isinstance(module, _BatchNorm) for module in bare.modules()):
        raise UnsupportedBackbone(
            "a model with batch norms keeps statistics of one image size; distil a run for each size instead"
        )
    for name, parameter in list(bare.named_parameters()):
        holder, leaf = bare.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
        if parameter.shape == own[name].shape:
            holder._parameters[leaf] = own[name]
        elif name == "pos_embed":
            _follow_table(trained, twin)
        else:
            raise UnsupportedBackbone(
                f"{name} of this model depends on the image size, and only one position table can be shared between "
                "sizes; distil a run for each size instead"
            )


def _follow_table(trained: AdaptiveViT, twin: AdaptiveViT) -> None:
    bare, old, new = twin.unwrap(), trained.grid, twin.grid
    table = trained.unwrap().get_parameter("pos_embed")
    prefix = table.shape[1] - old[0] * old[1]
    del bare._parameters["pos_embed"]

    def resize(module: nn.Module, inputs: object) -> None:
        bare.pos_embed = timm.layers.resample_abs_pos_embed(
            table, new_size=list(new), old_size=list(old), num_prefix_tokens=prefix
        )

    bare.get_submodule("patch_embed").register_forward_pre_hook(resize)


def draw_size(twins: Sequence[AdaptiveViT], draws: Draws) -> AdaptiveViT | None:
    """A model at a smaller size, or None for the model's own; nothing is drawn where there is no choice."""
    if not twins or draws.random() < FULL_SIZE_SHARE:
        return None
    return twins[min(int(draws.random() * len(twins)), len(twins) - 1)]


def resize_images(images: Tensor, twin: AdaptiveViT) -> Tensor:
    """(B, 3, H, W) normalised images at the size of ``twin``: bicubic, antialiased."""
    return F.interpolate(images, twin.backbone.image_size, mode="bicubic", antialias=True)


@torch.no_grad()
def full_size_logits(model: AdaptiveViT, images: Tensor, at_once: int) -> Tensor:
    """(B, K): what the model says of the images at its own size, with nothing dropped; smaller sizes learn from it."""
    before = model.schedule
    model.schedule = model.dense_schedule
    try:
        return torch.cat([model.forward_lean(part) for part in torch.split(images, at_once)])
    finally:
        model.schedule = before
