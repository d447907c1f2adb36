"""Two thousand evaluations and ten thousand predictions take no more memory and no more handles than the first few."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tavt_kit.checkpoints import load_model
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.evaluation.evaluator import Evaluator
from tavt_kit.workflows.export import export
from tavt_kit.workflows.predict import predict
from tests.verbs.tiny import write_images, write_run

MOST = 8 * 2**20
"""Bytes that an allocator may keep of a half without a leak: 8 KB for each evaluation, 1.6 KB for each prediction."""


def taken() -> tuple[int, int]:
    """Bytes in memory, and open handles."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize(), sum(1 for _ in Path("/proc/self/fd").iterdir())


def grown(act: Callable[[int], object], times: int) -> tuple[int, int]:
    """What each half of the later nine tenths of so many calls takes, at least: a pool that is made once is no leak."""
    marks = []
    for number in range(times):
        if number in (times // 10, times // 2):
            marks.append(taken())
        act(number)
    first, middle, last = *marks, taken()
    memory, handles = ((middle[kind] - first[kind], last[kind] - middle[kind]) for kind in (0, 1))
    return min(memory), min(handles)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_two_thousand_evaluations_leave_nothing(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    images, labels = draws.integers(0, 255, (12, 3, 32, 32), dtype=np.uint8), draws.integers(0, 3, 12)
    model = load_model(write_run(tmp_path / "run"))
    evaluator = Evaluator(model, images, labels, Preprocessing((32, 32), 1.0, "center", "bicubic"))

    def evaluate(number: int) -> None:
        counts = np.sort(np.random.default_rng(number).integers(2, 18, 4))[::-1]
        assert next(iter(evaluator.evaluate([TokenSchedule(tuple(map(int, counts)))])))[1].accuracy is not None

    memory, handles = grown(evaluate, 2000)
    assert memory < MOST and handles <= 0, (memory, handles)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
@pytest.mark.parametrize("suffix", ["run", "onnx", "openvino"])
def test_ten_thousand_predictions_leave_nothing(suffix: str, tmp_path: Path) -> None:
    runtime = {"run": "torch", "onnx": "onnxruntime"}.get(suffix, suffix)
    run, data = write_run(tmp_path / "run"), write_images(tmp_path / "data", each=20)
    thing: Path = run
    if suffix != "run":
        made = export(
            run, data=data, schedule="17,12,9,9", format=suffix, out=tmp_path / "out", accept_inconclusive=True
        )
        thing = made.files[0].path
    images = [data / "disc" / f"{number}.png" for number in range(20)] * 5

    def ask(number: int) -> None:
        assert predict(thing, images, target=f"{runtime}:cpu:threads=1").unreadable == 0

    memory, handles = grown(ask, 100)  # each of a hundred images
    assert memory < MOST and handles <= 0, (memory, handles)
