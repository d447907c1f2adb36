"""A ViT's tensors as Google's ``.npz`` files hold them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def google_arrays(state: Mapping[str, Tensor], heads: int) -> dict[str, NDArray[Any]]:
    """timm's names and layout -> Google's."""
    own = {name: tensor.numpy() for name, tensor in state.items()}
    width = own["cls_token"].shape[-1]
    arrays = {"cls": own["cls_token"], "Transformer/posembed_input/pos_embedding": own["pos_embed"]}

    def norm(theirs: str, ours: str) -> None:
        arrays[f"{theirs}/scale"], arrays[f"{theirs}/bias"] = own[f"{ours}.weight"], own[f"{ours}.bias"]

    def linear(theirs: str, ours: str) -> None:
        arrays[f"{theirs}/kernel"], arrays[f"{theirs}/bias"] = own[f"{ours}.weight"].T, own[f"{ours}.bias"]

    arrays["embedding/kernel"] = own["patch_embed.proj.weight"].transpose(2, 3, 1, 0)
    arrays["embedding/bias"] = own["patch_embed.proj.bias"]
    norm("Transformer/encoder_norm", "norm")
    linear("head", "head")
    linear("pre_logits", "head")
    for layer in range(sum(name.endswith(".norm1.bias") and name.startswith("blocks.") for name in own)):
        block, ours = f"Transformer/encoderblock_{layer}", f"blocks.{layer}"
        attention = f"{block}/MultiHeadDotProductAttention_1"
        norm(f"{block}/LayerNorm_0", f"{ours}.norm1")
        norm(f"{block}/LayerNorm_2", f"{ours}.norm2")
        linear(f"{block}/MlpBlock_3/Dense_0", f"{ours}.mlp.fc1")
        linear(f"{block}/MlpBlock_3/Dense_1", f"{ours}.mlp.fc2")
        kernels = np.split(own[f"{ours}.attn.qkv.weight"], 3)
        biases = np.split(own[f"{ours}.attn.qkv.bias"], 3)
        for name, kernel, bias in zip(("query", "key", "value"), kernels, biases, strict=True):
            arrays[f"{attention}/{name}/kernel"] = kernel.T.reshape(width, heads, -1)
            arrays[f"{attention}/{name}/bias"] = bias.reshape(heads, -1)
        arrays[f"{attention}/out/kernel"] = own[f"{ours}.attn.proj.weight"].T.reshape(heads, -1, width)
        arrays[f"{attention}/out/bias"] = own[f"{ours}.attn.proj.bias"]
    return arrays
