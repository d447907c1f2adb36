"""Exported files: their graphs, their logits, and their bytes where the libraries are those they were recorded with."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import tavt_kit as tk
from tests.golden.golden import FOLDER, Golden, rounded
from tests.verbs.command import run

SCHEDULE = "14,11,8,8"


@pytest.fixture(scope="module")
def exported(start: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one f32 and one int8 file, of one schedule."""
    out = tmp_path_factory.mktemp("exported")
    files = ("export", start, "--data", data, "--schedule", SCHEDULE, "--format", "onnx")
    assert run(*files, "--precision", "f32", "-o", out) == 0
    int8 = ("--precision", "int8", "--quantizer", "onnxruntime", "--max-drop", 100, "--accept-inconclusive")
    assert run(*files, *int8, "-o", out) == 0
    return out


def graph(path: Path) -> dict[str, Any]:
    """What a file is made of, names of inner values left out: they count up, and mean nothing."""
    model = onnx.load(path)
    weights = Counter(
        f"{onnx.TensorProto.DataType.Name(one.data_type)} {list(one.dims)}" for one in model.graph.initializer
    )
    return {
        "operators": Counter(node.op_type for node in model.graph.node),
        "initializers": weights,
        "opsets": {one.domain: one.version for one in model.opset_import},
        "metadata": sorted(one.key for one in model.metadata_props),
        "inputs": [_end(one) for one in model.graph.input],
        "outputs": [_end(one) for one in model.graph.output],
    }


def _end(value: onnx.ValueInfoProto) -> list[Any]:
    """Name, element type and shape of an input or output."""
    kind = value.type.tensor_type
    return [value.name, kind.elem_type, [one.dim_param or one.dim_value for one in kind.shape.dim]]


def some_images() -> Any:
    """(5, 3, 32, 32), the same bits everywhere."""
    return (np.random.default_rng(0).integers(-128, 128, (5, 3, 32, 32)) / 128).astype(np.float32)


def test_the_graph_of_an_f32_file(golden: Golden, exported: Path) -> None:
    golden.compare("export-f32", graph(exported / "model.f32.onnx"))


def test_the_operators_of_an_int8_file(golden: Golden, exported: Path) -> None:
    golden.compare("export-int8", graph(exported / "model.int8.onnx"))


def test_the_logits_of_an_f32_file(golden: Golden, start: Path, exported: Path) -> None:
    session = onnxruntime.InferenceSession(exported / "model.f32.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: some_images()})
    expected = golden.expected("export-logits", rounded(logits.tolist()))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)
    model = tk.load_model(start)
    model.schedule = tk.TokenSchedule.parse(SCHEDULE, model.layout)
    with torch.inference_mode():
        np.testing.assert_allclose(model(torch.from_numpy(some_images())), expected, rtol=0, atol=1e-5)


def test_the_bytes_of_an_f32_file(golden: Golden, exported: Path) -> None:
    path = FOLDER / "export-bytes.json"
    hashes = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    key = f"torch {torch.__version__}, onnx {onnx.__version__}"
    found = hashlib.sha256((exported / "model.f32.onnx").read_bytes()).hexdigest()
    if golden.regenerate:
        hashes = {key: found}
        path.write_text(json.dumps(hashes, indent=1) + "\n", encoding="utf-8")
    if key not in hashes:
        pytest.skip(f"recorded with {', '.join(hashes)}; this is {key}")
    assert found == hashes[key]
