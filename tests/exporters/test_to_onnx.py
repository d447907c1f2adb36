"""What to_onnx does where torch's first exporter fails, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tavt_kit.adaptive import AdaptiveViT, wrap
from tavt_kit.artifact_card import ArtifactCard, read_metadata
from tavt_kit.errors import ExportError
from tavt_kit.exporters import to_onnx as module
from tavt_kit.exporters.to_onnx import to_onnx
from tavt_kit.model_card import ModelCard
from tavt_kit.preprocess import Preprocessing
from tavt_kit.schedule import TokenSchedule
from tests.contracts import zoo


def _model(kind: str) -> tuple[AdaptiveViT, ArtifactCard]:
    adaptive = wrap(zoo.build(kind))
    model = ModelCard("timm_vit", kind, {}, tuple("abcdefg"), Preprocessing((64, 64)).as_record())
    schedule = TokenSchedule.taper(adaptive.tokens, adaptive.layers, 0.3, adaptive.prefix)
    return adaptive, ArtifactCard(model, schedule, adaptive.tokens, adaptive.prefix)


def test_the_tracing_exporter_is_taken_where_it_is_right(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    adaptive, card = _model("plain")
    assert to_onnx(adaptive, card, tmp_path / "m.onnx") == "tracing"
    assert read_metadata(tmp_path / "m.onnx") == card
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
    monkeypatch.setattr(module, "OPSETS", {"tracing": 17})
    with pytest.raises(ExportError, match=r"its logits differ from torch's by .* at batch 1"):
        to_onnx(adaptive, card, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_model_too_large_for_one_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adaptive, card = _model("plain")
    monkeypatch.setattr(module, "_LARGEST", 1000)
    with pytest.raises(ExportError, match="at most 2 GiB"):
        to_onnx(adaptive, card, tmp_path / "m.onnx")
