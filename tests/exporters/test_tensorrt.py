"""Which families' graphs hold only operators that TensorRT is known to take."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from tavt_kit.core.artifact_card import ArtifactCard
from tavt_kit.core.model_card import ModelCard
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.errors import ExportError
from tavt_kit.exporters.options import attempts
from tavt_kit.exporters.to_onnx import refuse_operators, to_onnx, trtexec_line
from tavt_kit.models.wrap import wrap
from tests.contracts import zoo


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "eva02", "beit", "siglip", "ffvt", "transfg", "pim", "vitae", "vitaev2"])
def test_a_family_keeps_to_the_list(kind: str, tmp_path: Path) -> None:
    model = zoo.build(kind)
    adaptive = wrap(model)
    schedule = TokenSchedule.taper(adaptive.layout, 0.3)
    preprocessing = Preprocessing(adaptive.backbone.image_size).as_record()
    card = ModelCard("timm_vit", kind, {}, tuple("abcdefg"), preprocessing)
    to_onnx(
        adaptive,
        ArtifactCard(card, schedule, adaptive.tokens, adaptive.prefix),
        tmp_path / "m.onnx",
        attempts(tensorrt=True),
    )
    refuse_operators(onnx.load(str(tmp_path / "m.onnx")))


def test_an_operator_off_the_list_is_named_with_its_node() -> None:
    node = onnx.helper.make_node("NonZero", ["x"], ["y"], name="/blocks.3/NonZero")
    graph = onnx.helper.make_graph([node], "g", [], [])
    with pytest.raises(ExportError, match=r"operator NonZero \(node /blocks.3/NonZero\)"):
        refuse_operators(onnx.helper.make_model(graph))


def test_the_line_that_builds_an_engine() -> None:
    card = ModelCard("timm_vit", "small", {}, ("a", "b"), Preprocessing((32, 48)).as_record())
    line = trtexec_line("model.f16.onnx", ArtifactCard(card, TokenSchedule((7, 5)), 7, 1))
    assert line == (
        "trtexec --onnx=model.f16.onnx --minShapes=images:1x3x32x48 --optShapes=images:4x3x32x48 "
        "--maxShapes=images:16x3x32x48 --stronglyTyped --saveEngine=model.f16.engine"
    )
