"""Forty sound files, no two alike, pass the gate: kinds of models, reductions, precisions, formats and last batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tavt_kit.checks import Artifact, Gate, Source, check
from tavt_kit.checks.batch_sizes import further_sizes
from tavt_kit.core.artifact_card import ArtifactCard
from tavt_kit.core.budget import Verdict
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.model_card import ModelCard
from tavt_kit.core.records import sha256_file
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data import Sample
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.exporters.to_onnx import to_onnx
from tavt_kit.exporters.to_openvino import to_openvino
from tavt_kit.models.backbones import make_adapter
from tavt_kit.models.wrap import AdaptiveViT, wrap
from tavt_kit.runtimes.available import is_available
from tavt_kit.workflows.export import export
from tests.checks.trained import Subject
from tests.contracts import zoo

CLASSES = tuple("abcdefg")
Form = Callable[[AdaptiveViT], tuple[TokenSchedule, dict[str, TokenSchedule]]]
"""The schedule of a file, and its presets where it is switchable."""


def _taper(ratio: float) -> Form:
    return lambda adaptive: (TokenSchedule.taper(adaptive.layout, ratio), {})


def _dense(adaptive: AdaptiveViT) -> tuple[TokenSchedule, dict[str, TokenSchedule]]:
    return adaptive.dense_schedule, {}


def _fewer_layers(adaptive: AdaptiveViT) -> tuple[TokenSchedule, dict[str, TokenSchedule]]:
    executed = tuple(layer for layer in range(adaptive.layers) if layer != 1)
    return TokenSchedule.taper(adaptive.layout, 0.2, executed), {}


def _switchable(adaptive: AdaptiveViT) -> tuple[TokenSchedule, dict[str, TokenSchedule]]:
    presets = {f"taper-{ratio}": TokenSchedule.taper(adaptive.layout, ratio) for ratio in (0.4, 0.1, 0.0)}
    return presets["taper-0.1"], presets


@dataclass(frozen=True)
class Case:
    """A file: the kind of its model, the images that check it, and how it is written."""

    kind: str
    suffix: str
    form: Form
    images: int
    reduction: str = "drop"


CASES = [
    Case("plain", ".onnx", _taper(0.3), 21),
    Case("plain", ".xml", _taper(0.2), 8, "merge"),
    Case("plain", ".xml", _switchable, 11),
    Case("patch8", ".onnx", _switchable, 9),
    Case("non_square", ".xml", _taper(0.1), 1),
    Case("overlapping", ".onnx", _taper(0.25), 16),
    Case("flexivit", ".xml", _fewer_layers, 10),
    Case("deit", ".onnx", _dense, 12),
    Case("deit_distilled", ".xml", _taper(0.3), 13),
    Case("deit3", ".onnx", _taper(0.15), 14, "merge"),
    Case("deit3", ".xml", _switchable, 9, "merge"),
    Case("layer_scale", ".xml", _dense, 15),
    Case("qk_norm", ".onnx", _fewer_layers, 17),
    Case("differential", ".xml", _taper(0.3), 18),
    Case("post_norm", ".onnx", _taper(0.2), 19),
    Case("parallel_scaling", ".xml", _taper(0.2), 20),
    Case("dinov2", ".onnx", _taper(0.3), 21),
    Case("dinov2_registers", ".xml", _switchable, 9),
    Case("registers_avg", ".onnx", _taper(0.3), 10),
    Case("no_class_token", ".xml", _taper(0.2), 11, "merge"),
    Case("clip", ".onnx", _taper(0.3), 12),
    Case("siglip", ".xml", _taper(0.3), 13),
    Case("siglip_avg", ".onnx", _taper(0.2), 2),
    Case("eva02", ".xml", _taper(0.3), 15),
    Case("rope_mixed", ".onnx", _taper(0.3), 5),
    Case("dinov3", ".onnx", _taper(0.1), 17, "merge"),
    Case("beit", ".xml", _taper(0.3), 18),
    Case("relative_mlp", ".onnx", _taper(0.3), 19),
    Case("ffvt", ".onnx", _taper(0.3), 20),
    Case("transfg", ".xml", _taper(0.3), 21),
    Case("vitae_class_token", ".onnx", _taper(0.3), 9),
    Case("vitaev2", ".xml", _taper(0.3), 10),
    Case("pim", ".onnx", _taper(0.3), 11),
]
OF_A_TRAINED_MODEL: list[dict[str, Any]] = [
    {"format": "onnx", "precision": "f16"},
    {"format": "openvino", "precision": "f16"},
    {"format": "openvino", "precision": "bf16"},
    {"format": "onnx", "precision": "int8"},
    {"format": "openvino", "precision": "int8"},
    {"format": "onnx", "precision": "f32", "preprocessing": "inside"},
    {"format": "openvino", "precision": "f32", "preprocessing": "inside"},
]


def _write(case: Case, folder: Path) -> tuple[Path, Source]:
    """A file of a small model with shaken weights, which is its own truth."""
    model = zoo.build(case.kind)
    how = Preprocessing(make_adapter(model).image_size)
    adaptive = wrap(model, reduction=case.reduction)
    adaptive.card = ModelCard("timm_vit", "small", {}, CLASSES, how.as_record(), weights_sha256="ab",
                              reduction=case.reduction)  # fmt: skip
    schedule, presets = case.form(adaptive)
    card = ArtifactCard(adaptive.card, schedule, adaptive.tokens, adaptive.prefix, presets=presets)
    file = folder / f"model{case.suffix}"
    (to_onnx if case.suffix == ".onnx" else to_openvino)(adaptive, card, file)
    rng = np.random.default_rng(case.images)
    samples = []
    for index in range(case.images):
        samples.append(Sample(folder / f"{index}.png", index % len(CLASSES)))
        coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
        coarse.resize((120, 90), Image.Resampling.BICUBIC).save(samples[-1].path)
    return file, Source(adaptive, samples, "test")


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=f"{case.kind}{case.suffix}-{case.images}", marks=pytest.mark.slow if place else ())
        for place, case in enumerate(CASES)
    ],
)
def test_a_sound_file_passes(case: Case, tmp_path: Path) -> None:
    file, source = _write(case, tmp_path)
    assert all(
        size < 8 for size in further_sizes(file, sha256_file(file))[1:]
    )  # no number of the graph is taken for a large batch
    for artifact in Artifact.open(file).at_presets():
        report = check(artifact, source, Gate(), dense=False)
        assert report.verdict is Verdict.PASS, report.sentence


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return Subject(tmp_path_factory.mktemp("trained"))


@pytest.mark.slow
@pytest.mark.parametrize("form", OF_A_TRAINED_MODEL, ids=lambda form: "-".join(form.values()))
def test_a_sound_file_of_another_form_passes(form: dict[str, Any], subject: Subject, tmp_path: Path) -> None:
    """72 images cannot prove half a point; ten they can, and at half a point a file that rounds is not refused."""
    if form["precision"] == "bf16" and not is_available(TargetDevice("openvino", "cpu", precision="bf16")):
        pytest.skip("this CPU has no bf16")
    run, data = subject.folder / "run", subject.folder / "data"
    schedule = ",".join(map(str, subject.card.schedule.counts))
    files = export(str(run), data=str(data), schedule=schedule, out=tmp_path / "out", accept_inconclusive=True, **form)
    source = replace(subject.source(), further={})
    artifact = Artifact.open(files[0].path)
    assert check(artifact, source, Gate(drop=0.1), dense=False).verdict is Verdict.PASS
    assert check(artifact, source, Gate(), dense=False).verdict is not Verdict.FAIL


def test_they_are_forty_and_no_two_alike() -> None:
    written = {(case.kind, case.suffix, case.form, case.reduction) for case in CASES}
    assert len(written) == len(CASES) and len(CASES) + len(OF_A_TRAINED_MODEL) == 40
