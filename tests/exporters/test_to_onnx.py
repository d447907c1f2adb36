"""What to_onnx does where torch's first exporter fails, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from tavt_kit.core.artifact_card import ArtifactCard, read_metadata
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.model_card import ModelCard
from tavt_kit.core.records import sha256_file
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.errors import ExportError
from tavt_kit.exporters import to_onnx as module
from tavt_kit.exporters.to_onnx import to_onnx
from tavt_kit.exporters.to_openvino import convert
from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import AdaptiveViT, LeanViT, wrap
from tavt_kit.runtimes import open_file
from tests.contracts import zoo

TRACING = [("tracing", 17)]


def _model(kind: str) -> tuple[AdaptiveViT, ArtifactCard]:
    adaptive = wrap(zoo.build(kind))
    model = ModelCard("timm_vit", kind, {}, tuple("abcdefg"), Preprocessing((64, 64)).as_record())
    schedule = TokenSchedule.taper(adaptive.layout, 0.3)
    return adaptive, ArtifactCard(model, schedule, adaptive.tokens, adaptive.prefix)


@pytest.mark.slow
def test_the_tracing_exporter_is_taken_where_it_is_right(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    adaptive, card = _model("plain")
    assert to_onnx(adaptive, card, tmp_path / "m.onnx") == "tracing"
    assert read_metadata(tmp_path / "m.onnx") == card
    assert capfd.readouterr() == ("", "")


def test_what_an_exporter_prints_of_an_operator_it_lacks_stays_unsaid(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The tracing exporter knows no RMS norm, and would print the whole graph on stdout."""
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, norm_layer=timm.layers.RmsNorm, **zoo.SMALL)
    adaptive, (_, card) = wrap(model.eval()), _model("plain")
    with pytest.raises(ExportError, match="rms_norm"):
        to_onnx(adaptive, card, tmp_path / "m.onnx", TRACING)
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rope_mixed", "parallel_scaling"])
def test_the_other_exporter_is_asked_where_the_first_is_wrong_or_lacks_an_operator(kind: str, tmp_path: Path) -> None:
    adaptive, card = _model(kind)
    assert to_onnx(adaptive, card, tmp_path / "m.onnx") == "dynamo"
    assert read_metadata(tmp_path / "m.onnx") == card


def test_a_graph_that_disagrees_is_never_handed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter writes an untouched model; what is compared with it has another head."""
    adaptive, card = _model("plain")
    write = module._write

    def spoilt(*arguments: object) -> str | None:
        reason = write(*arguments)  # type: ignore[arg-type]
        with torch.no_grad():
            adaptive.bare.head.bias.add_(0.1)  # type: ignore[union-attr, operator]
        return reason

    monkeypatch.setattr(module, "_write", spoilt)
    with pytest.raises(ExportError, match=r"its logits differ from torch's by .* at batch 1"):
        to_onnx(adaptive, card, tmp_path / "m.onnx", TRACING)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_model_too_large_for_one_file_has_its_weights_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adaptive, card = _model("plain")
    monkeypatch.setattr("tavt_kit.exporters.to_onnx.LARGEST", 1000)
    path = tmp_path / "m.onnx"
    to_onnx(adaptive, card, path)
    found = read_metadata(path)
    weights = tmp_path / str(found.weights_file)
    assert {file.name for file in tmp_path.iterdir()} == {"m.onnx", weights.name}
    assert weights.name == f"m-{sha256_file(weights)[:8]}.weights"
    assert path.stat().st_size < weights.stat().st_size
    images = zoo.images(adaptive.bare, 2)
    with torch.inference_mode():
        expected = LeanViT(adaptive, card.schedule).eval()(images).numpy()
    got = open_file(path, TargetDevice.parse("onnxruntime:cpu:threads=1"))(images.numpy())
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


class Odd(nn.Module):
    """Of operators that no converter knows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.linalg.eigvals(x[..., :2, :2]).real.sum()


def test_what_cannot_be_exported_is_named(tmp_path: Path) -> None:
    adaptive, card = _model("plain")
    adaptive.bare.blocks[1].mlp.act = Odd()  # type: ignore[union-attr, index]
    with pytest.raises(ExportError, match=r"failed \(tracing, opset 17: .*eigvals"):
        to_onnx(adaptive, card, tmp_path / "m.onnx", TRACING)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_openvino_cannot_convert_is_named() -> None:
    adaptive, card = _model("plain")
    adaptive.bare.blocks[1].mlp.act = Odd()  # type: ignore[union-attr, index]
    with pytest.raises(ExportError, match=r"OpenVINO cannot convert plain: .*eigvals"):
        convert(adaptive, card)


@pytest.mark.slow
@pytest.mark.parametrize("opset", range(18, 24))
def test_the_dynamo_exporter_writes_each_opset(opset: int, tmp_path: Path) -> None:
    adaptive, card = _model("plain")
    assert to_onnx(adaptive, card, tmp_path / "m.onnx", [("dynamo", opset)]) == "dynamo"
    model = onnx.load(str(tmp_path / "m.onnx"))
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [opset]
