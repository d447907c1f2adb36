"""Small models for the runtime tests: a tiny ViT, and files written without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import AdaptiveViT, wrap

SIZE = 32
SHAPE = (1, 3, SIZE, SIZE)


def tiny_vit(name: str = "vit_tiny_patch16_224", *, score: str = "column", depth: int = 3) -> AdaptiveViT:
    """17 tokens of width 64, weights shaken so that layers differ."""
    torch.manual_seed(0)
    sizes = {"img_size": SIZE, "patch_size": 8, "embed_dim": 64, "num_heads": 2, "depth": depth}
    model = timm.create_model(name, num_classes=5, **sizes).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return wrap(model, score=score)


def images(batch: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((batch, 3, SIZE, SIZE), dtype=np.float32)


def write_linear(path: Path, *, half: bool = False, quantized: bool = False, classes: int = 4) -> np.ndarray:
    """An ONNX file of one matrix product on flattened images; returns its (3 * 32 * 32, classes) weights."""
    kind, dtype = (TensorProto.FLOAT16, np.float16) if half else (TensorProto.FLOAT, np.float32)
    weights = (np.random.default_rng(1).standard_normal((3 * SIZE * SIZE, classes)) / 50).astype(dtype)
    nodes = [helper.make_node("Flatten", ["images"], ["flat"])]
    constants = [numpy_helper.from_array(weights, "weights")]
    if quantized:
        constants += [
            numpy_helper.from_array(np.array(0.05, np.float32), "scale"),
            numpy_helper.from_array(np.array(0, np.int8), "zero"),
        ]
        nodes += [
            helper.make_node("QuantizeLinear", ["flat", "scale", "zero"], ["small"]),
            helper.make_node("DequantizeLinear", ["small", "scale", "zero"], ["rounded"]),
        ]
    nodes.append(helper.make_node("MatMul", ["rounded" if quantized else "flat", "weights"], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("images", kind, ["batch", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", kind, ["batch", classes])],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return weights


def write_flat(path: Path) -> None:
    """An ONNX file of a model of vectors, which no image fits."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["vector"], ["logits"])],
        "flat",
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
