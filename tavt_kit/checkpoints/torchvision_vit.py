"""Weight files of torchvision's VisionTransformer (``vit_b_16`` and its like) as timm ViTs.

Source of the names: torchvision 0.28, and the earlier ``linear_1``, ``linear_2`` of its feed-forward half.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from tavt_kit.checkpoints.official import Asked, Official, resize_positions
from tavt_kit.checkpoints.shapes import grid_side, shape_of, vit_arguments
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.errors import CheckpointError, DataError

_FIXED = {"class_token": "cls_token", "encoder.pos_embedding": "pos_embed"}
_STARTS = {"conv_proj.": "patch_embed.proj.", "encoder.ln.": "norm.", "heads.head.": "head."}
_LAYER = re.compile(r"encoder\.layers\.encoder_layer_(\d+)\.(.+)")
_PARTS = {
    "ln_1.": "norm1.",
    "ln_2.": "norm2.",
    "self_attention.in_proj_": "attn.qkv.",
    "self_attention.out_proj.": "attn.proj.",
    "mlp.0.": "mlp.fc1.",
    "mlp.3.": "mlp.fc2.",
    "mlp.linear_1.": "mlp.fc1.",
    "mlp.linear_2.": "mlp.fc2.",
}

_EVALUATION = {
    (1024, 16, 14): (224 / 242, "bilinear"),
    (768, 16, 24): (1.0, "bicubic"),
    (1024, 16, 32): (1.0, "bicubic"),
    (1280, 14, 37): (1.0, "bicubic"),
}
"""Width, patch and grid -> share of the shorter edge that is cropped, and interpolation, where they are not those of
most weights (256 px, then 224): L/16's, and the three of SWAG at the size they were fine-tuned at."""


def read_torchvision(tensors: Mapping[str, Tensor], asked: Asked) -> Official | None:
    """A file of the family, or ``None`` if it is of another.

    Raises:
        CheckpointError: A tensor has no place, is absent or mis-shaped, or the heads must be given.
        DataError: An image size that the patches do not allow.
    """
    if "class_token" not in tensors or "encoder.pos_embedding" not in tensors:
        return None
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        ours = _our_name(name)
        if ours is None:
            raise CheckpointError(f"the file is of torchvision's ViT, but adds {name}; nothing was loaded")
        found[ours] = tensor
    shape = vit_arguments(found, asked.heads)
    width, patch, side = shape["embed_dim"], shape["patch_size"], grid_side(found)
    size = asked.image_size or side * patch
    if size % patch:
        raise DataError(f"patches of {patch} px need an image size that is a multiple of that, got {size}")
    found["pos_embed"] = resize_positions(found["pos_embed"], size // patch, asked.positions)
    arguments = {"num_classes": shape_of(found, "head.bias", 1)[0], "img_size": [size, size], **shape}
    crop, interpolation = _EVALUATION.get((width, patch, side), (224 / 256, "bilinear"))
    preprocessing = Preprocessing((size, size), crop, "center", interpolation)
    return Official("torchvision", "vit_base_patch16_224", arguments, found, "torchvision's ViT", preprocessing)


def _our_name(name: str) -> str | None:
    if name in _FIXED:
        return _FIXED[name]
    layer = _LAYER.fullmatch(name)
    starts, rest, place = (_STARTS, name, "") if layer is None else (_PARTS, layer[2], f"blocks.{layer[1]}.")
    found = next((theirs for theirs in starts if rest.startswith(theirs)), None)
    return None if found is None else place + starts[found] + rest.removeprefix(found)
