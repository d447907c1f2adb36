"""OpenVINO files: the same model is the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tavt_kit.core.artifact_card import ArtifactCard
from tavt_kit.core.model_card import ModelCard
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.exporters.to_openvino import to_openvino
from tavt_kit.models.wrap import wrap
from tests.contracts import zoo


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_a_file_does_not_tell_what_the_process_made_before(precision: str, tmp_path: Path) -> None:
    adaptive = wrap(zoo.build("plain"))
    model = ModelCard("timm_vit", "small", {}, tuple("abcdefg"), Preprocessing((64, 64)).as_record())
    schedule = TokenSchedule.taper(adaptive.layout, 0.2)
    card = ArtifactCard(model, schedule, adaptive.tokens, adaptive.prefix, precision)
    for name in ("first", "second"):
        to_openvino(adaptive, card, tmp_path / f"{name}.xml")
    for suffix in (".xml", ".bin"):
        first, second = ((tmp_path / f"{name}{suffix}").read_bytes() for name in ("first", "second"))
        assert first == second
