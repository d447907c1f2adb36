"""Exported files of every family keep as many tokens as their card says, and of equal scores the first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tavt_kit.checks.claims import _holds, choice_of, stored_precision
from tavt_kit.core.artifact_card import ArtifactCard
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.model_card import ModelCard
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.exporters.to_onnx import to_onnx
from tavt_kit.exporters.to_openvino import to_openvino
from tavt_kit.models.wrap import wrap
from tests.contracts import zoo
from tests.contracts.ties import tied_and_resolved

TARGETS = {".onnx": "onnxruntime:cpu:threads=1", ".xml": "openvino:cpu:threads=1"}
FAMILIES = ("plain", "ffvt", "transfg", "pim", "vitae", "vitaev2", "siglip", "deit_distilled", "beit", "eva02")


@pytest.mark.parametrize(
    ("kept", "wanted", "holds"),
    [
        ((12, 9, 6), (12, 9, 6), True),
        ((12, 9), (12, 9, 6), True),  # a class-token head needs no choice in its last layer
        ((12, 10, 6), (12, 9, 6), False),
        ((12, 9, 7), (12, 9, 6), False),
        ((12, 10), (12, 9, 6), False),
        ((11, 3, 8, 3, 6, 3), (11, 8, 6, 4), True),  # FFVT picks three tokens in every layer beside
        ((11, 3, 8, 3), (11, 8, 6, 4), False),
        ((), (9,), True),
    ],
)
def test_choices_are_compared_in_order(kept: tuple[int, ...], wanted: tuple[int, ...], holds: bool) -> None:
    assert _holds(kept, wanted) is holds


def _cases() -> list[object]:
    quick = {("plain", ".onnx")}
    return [
        pytest.param(kind, suffix, marks=() if (kind, suffix) in quick else pytest.mark.slow)
        for kind in FAMILIES
        for suffix in TARGETS
    ]


@pytest.mark.parametrize(("kind", "suffix"), _cases())
def test_every_family_s_export_keeps_the_first_of_equal_scores(kind: str, suffix: str, tmp_path: Path) -> None:
    model = zoo.build(kind)
    adaptive = wrap(model)
    schedule = TokenSchedule.taper(adaptive.layout, 0.3)
    height, width = adaptive.backbone.image_size
    classes = tuple(f"class {i}" for i in range(7))
    about = ModelCard("timm_vit", "small", {}, classes, Preprocessing((height, width)).as_record())
    card = ArtifactCard(about, schedule, adaptive.tokens, adaptive.prefix)
    path, target = tmp_path / f"model{suffix}", TargetDevice.parse(TARGETS[suffix])
    (to_onnx if suffix == ".onnx" else to_openvino)(adaptive, card, path)
    found = choice_of(path, card)
    assert found is not None and found.reason == "" and found.kept is not None
    tied, resolved = tied_and_resolved(path, target, zoo.images(model, 2).numpy())
    assert np.abs(tied - resolved).max() < 1e-5 * np.abs(resolved).max()
    assert stored_precision(path) == "f32"
    dense = ArtifactCard(about, adaptive.dense_schedule, adaptive.tokens, adaptive.prefix)
    assert choice_of(path, dense) is None


@pytest.mark.slow
def test_the_trial_tells_a_graph_that_keeps_others(tmp_path: Path) -> None:
    """OpenVINO's ONNX importer does not keep ONNX's rule for ties."""
    adaptive = wrap(model := zoo.build("plain"))
    schedule = TokenSchedule.taper(adaptive.layout, 0.3)
    about = ModelCard(
        "timm_vit", "small", {}, tuple("abcdefg"), Preprocessing(adaptive.backbone.image_size).as_record()
    )
    to_onnx(adaptive, ArtifactCard(about, schedule, adaptive.tokens, adaptive.prefix), tmp_path / "model.onnx")
    target = TargetDevice.parse(TARGETS[".xml"])
    tied, resolved = tied_and_resolved(tmp_path / "model.onnx", target, zoo.images(model, 2).numpy())
    assert np.abs(tied - resolved).max() > 1e-3 * np.abs(resolved).max()
