"""PIM exports at any batch, and the check of that catches a graph with a baked one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from tavt_kit.core.artifact_card import ArtifactCard
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.model_card import ModelCard
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.exporters.to_onnx import to_onnx
from tavt_kit.exporters.to_openvino import to_openvino
from tavt_kit.models.wrap import wrap
from tavt_kit.runtimes import open_file
from tavt_kit.runtimes.on_openvino import convert_module, openvino_core
from tests.contracts.pim_models import SWIN, small
from tests.contracts.zoo import images
from tests.parameters import few


class Looping(nn.Module):
    """A deliberately broken copy: the selector loops over the images of the traced batch, as the official one."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        features, logits = self.model.judge(self.model.levels(x))
        picked = []
        for feature, each, count in zip(features, logits, self.model.num_selects, strict=True):
            order = each.softmax(2).amax(2).topk(count, dim=1).indices
            picked.append(torch.stack([feature[i][order[i]] for i in range(2)]))
        return self.model.combiner(picked)  # type: ignore[no-any-return]


def largest_difference(run: Any, model: Any) -> float:
    """Of the logits at batches 1, 2 (traced) and 5; infinite where a batch cannot be run."""
    worst = 0.0
    for batch in (1, 2, 5):
        x = images(model, batch, seed=batch)
        with torch.inference_mode():
            expected = model(x).numpy()
        try:
            got = run(x.numpy())
        except Exception:
            return float("inf")
        if got.shape != expected.shape:
            return float("inf")
        worst = max(worst, float(np.abs(got - expected).max()))
    return worst


def exported(model: Any, path: Path) -> Any:
    """A session of the model's file, dense."""
    adaptive = wrap(model)
    card = ModelCard("timm_vit", "small", {}, tuple("abcdefg"), Preprocessing(model.image_size).as_record())
    artifact = ArtifactCard(card, adaptive.dense_schedule, adaptive.tokens, adaptive.prefix)
    (to_onnx if path.suffix == ".onnx" else to_openvino)(adaptive, artifact, path)
    target = "onnxruntime:cpu:threads=1" if path.suffix == ".onnx" else "openvino:cpu:threads=1:precision=f32"
    return open_file(path, TargetDevice.parse(target))


@pytest.mark.parametrize("suffix", few([".onnx", ".xml"], ".onnx"))
@pytest.mark.parametrize(
    "backbone",
    [
        "vit_tiny_patch16_224",
        pytest.param("convnext_atto", marks=pytest.mark.slow),
        pytest.param("resnet18", marks=pytest.mark.slow),
        pytest.param(SWIN, marks=pytest.mark.slow),
    ],
)
def test_an_export_agrees_with_torch_at_any_batch(backbone: str, suffix: str, tmp_path: Path) -> None:
    model = small(backbone)
    assert largest_difference(exported(model, tmp_path / f"model{suffix}"), model) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["vit_tiny_patch16_224", "resnet18"])
def test_the_check_catches_a_loop_over_a_baked_batch(backbone: str, tmp_path: Path) -> None:
    model = small(backbone)
    x = images(model, 2)
    for broken in (False, True):
        module = Looping(model).eval() if broken else model
        path = str(tmp_path / f"{broken}.onnx")
        with pytest.warns(DeprecationWarning):
            torch.onnx.export(module, (x,), path, dynamo=False, opset_version=17, input_names=["images"],
                              dynamic_axes={"images": {0: "batch"}})  # fmt: skip
        session = onnxruntime.InferenceSession(path)
        worst = largest_difference(lambda given, run=session: run.run(None, {"images": given})[0], model)
        assert (worst > 1e-4) == broken
    height, width = model.image_size
    converted = convert_module(Looping(model).eval(), (x,), [(-1, 3, height, width)])
    compiled = openvino_core().compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert largest_difference(lambda given: np.asarray(compiled([given])[0]), model) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_equal_confidences_keep_the_order_of_places(suffix: str, tmp_path: Path) -> None:
    """Classifiers that say the same of every place: the combiner reads the first ones in order, on every route."""
    model = small("vit_tiny_patch16_224")
    with torch.no_grad():
        for classifier in model.classifiers:
            classifier[3].weight.zero_()
    x = images(model)
    with torch.inference_mode():
        features, logits = model.judge(model.levels(x))
        first = model.combiner([f[:, :count] for f, count in zip(features, model.num_selects, strict=True)])
        assert torch.equal(model(x), first)
        backwards = [f[:, :count].flip(1) for f, count in zip(features, model.num_selects, strict=True)]
        assert (model.combiner(backwards) - first).abs().max() > 1e-2
    assert largest_difference(exported(model, tmp_path / f"model{suffix}"), model) < 1e-4
