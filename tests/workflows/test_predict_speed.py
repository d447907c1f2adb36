"""What labels images takes as long as ``bench`` says: the same session, and the script beside a file no slower."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tavt_kit.core.artifact_card import ArtifactCard
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.model_card import ModelCard
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.exporters import standalone
from tavt_kit.exporters.to_onnx import to_onnx
from tavt_kit.exporters.to_openvino import to_openvino
from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import wrap
from tavt_kit.runtimes import open_file
from tavt_kit.workflows.evaluate import open_subject
from tests.workflows.told import Told

TARGETS = {".onnx": "onnxruntime:cpu:threads=1", ".xml": "openvino:cpu:threads=1"}


@pytest.fixture(scope="module", params=TARGETS)
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose pass takes some ten milliseconds, so that what is around it would be seen."""
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=160, num_classes=5, depth=6)
    adaptive = wrap(model.eval())
    how = Preprocessing((160, 160)).as_record()
    card = ArtifactCard(
        ModelCard("timm_vit", "vit_tiny_patch16_224", {}, tuple("abcde"), how), adaptive.dense_schedule,
        adaptive.tokens, adaptive.prefix,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("speed") / f"model{request.param}"
    (to_onnx if path.suffix == ".onnx" else to_openvino)(adaptive, card, path)
    return path


@pytest.mark.slow
def test_predict_runs_what_bench_times(file: Path) -> None:
    """The same class of session on the same target: threads, precision and mode are settled in one place."""
    target = TargetDevice.parse(TARGETS[file.suffix])
    timed = open_file(file, target)
    used: Any = open_subject(str(file), None, TARGETS[file.suffix], progress=Told()).session
    assert type(used) is type(timed) and used.target == timed.target
    assert used.told_threads == timed.told_threads == 1


@pytest.mark.slow
def test_a_pass_of_predict_and_of_the_script_takes_what_bench_says(file: Path) -> None:
    """In turns, so that what the machine does to one it does to the other. The script takes all threads that it may."""
    session: Any = open_file(file, TargetDevice.parse(TARGETS[file.suffix]))
    images = np.random.default_rng(0).random((1, 3, 160, 160), np.float32)
    whole: Any = open_file(file, TargetDevice.parse(TARGETS[file.suffix].partition(":threads")[0]))
    _, script = standalone.load(file)

    def clock(call: Callable[[Any], object]) -> float:
        begin = time.perf_counter()
        call(images)
        return (time.perf_counter() - begin) * 1e3

    one, every = session.timer(images), whole.timer(images)
    rounds = [(one(), clock(session), every(), clock(script)) for _ in range(60)][10:]
    predict = statistics.median(own / timed for timed, own, _, _ in rounds)
    beside = statistics.median(own / timed for _, _, timed, own in rounds)
    assert predict < 1.25 and beside < 1.5, (predict, beside)
