"""One contract, every registered runtime, those of other packages included."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tavt_kit.bench.latency_table import measure_table, open_schedule
from tavt_kit.core import registry
from tavt_kit.core.device import PRECISIONS, RUNTIMES, TargetDevice
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import TargetError
from tavt_kit.models.wrap import LeanViT, wrap
from tavt_kit.runtimes import FileSession, Runtime, Session, open_file, open_module, runtime_of
from tavt_kit.runtimes.available import is_available
from tavt_kit.runtimes.session import Clock, Images, Lengths, PartClocks
from tests.contracts import zoo


def clocked(call: Callable[[], object]) -> Clock:
    def run() -> float:
        begin = time.perf_counter()
        call()
        return (time.perf_counter() - begin) * 1e3

    return run


class ReferenceSession(FileSession):
    """ONNX's own reference in numpy."""

    def __init__(self, model: Any, target: TargetDevice, begin: float) -> None:
        import onnx
        from onnx.reference import ReferenceEvaluator

        graph = onnx.load_from_string(model)
        super().__init__(target.resolved(), "the graph", (None, 3, zoo.IMAGE, zoo.IMAGE), None, None, None)
        self._evaluator = ReferenceEvaluator(graph)
        self._input = graph.graph.input[0].name
        self.load_ms = (time.perf_counter() - begin) * 1e3

    def _run(self, inputs: list[npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        return np.asarray(self._evaluator.run(None, {self._input: inputs[0]})[0])

    def timer(self, images: Images) -> Clock:
        return clocked(lambda: self(images))


class ReferenceRuntime(Runtime):
    """A runtime that another package could bring: one class."""

    package, takes, files = "onnx", "onnx", (".onnx",)
    processors, precisions = ("cpu",), ("f32",)

    def check(self, target: TargetDevice) -> None:
        pass

    def open(self, model: Any, target: TargetDevice, begin: float, shape: tuple[int, int, int, int]) -> Session:
        return ReferenceSession(model, target, begin)

    def open_file(self, path: Path, target: TargetDevice, lengths: Lengths | None) -> FileSession:
        return ReferenceSession(path.read_bytes(), target, time.perf_counter())

    def part_clocks(self, part: Callable[[str], Any], target: TargetDevice) -> PartClocks:
        import onnx
        from onnx.reference import ReferenceEvaluator

        def clock(name: str, inputs: Sequence[npt.NDArray[Any]], kept: int | None) -> Clock:
            graph = onnx.load_from_string(part(name))
            arrays = [*([] if kept is None else [np.array(kept)]), *inputs]
            feeds = {node.name: array for node, array in zip(graph.graph.input, arrays, strict=True)}
            evaluator = ReferenceEvaluator(graph)
            return clocked(lambda: evaluator.run(None, feeds))

        return clock


REFERENCE = ReferenceRuntime()
every_runtime = pytest.mark.parametrize("name", RUNTIMES)


@every_runtime
def test_its_facts_are_such_as_a_target_can_say(name: str) -> None:
    runtime = runtime_of(name)
    assert runtime.processors and set(runtime.precisions) <= set(PRECISIONS)
    assert runtime.takes in ("modules", "onnx", "openvino") and all(each.startswith(".") for each in runtime.files)
    for mode, processors in runtime.modes.items():
        assert set(processors) <= set(runtime.processors)
        assert TargetDevice.parse(f"{name}:{processors[0]}:mode={mode}").runtime == name
    for processor in runtime.processors:
        target = TargetDevice(name, processor)
        assert TargetDevice.parse(str(target)) == target and TargetDevice.from_record(target.as_record()) == target


@every_runtime
def test_it_answers_as_torch_does_and_tells_its_time(name: str) -> None:
    _answers(TargetDevice.parse(f"{name}:cpu:threads=1"))


def _answers(target: TargetDevice) -> None:
    model = zoo.build("plain")
    adaptive = wrap(model)
    schedule = TokenSchedule.taper(adaptive.layout, 0.3)
    with torch.inference_mode():
        expected = {batch: LeanViT(adaptive, schedule)(zoo.images(model, batch)).numpy() for batch in (1, 3)}
    selection: Any = "topk" if runtime_of(target.runtime).takes == "onnx" else "argsort"
    lean = LeanViT(adaptive, schedule, selection=selection).eval()
    for session in (
        open_module(lean, target, (1, 3, zoo.IMAGE, zoo.IMAGE)),
        open_schedule(adaptive, target, schedule),
    ):
        for batch, logits in expected.items():
            np.testing.assert_allclose(session(zoo.images(model, batch).numpy()), logits, atol=1e-5)
        assert session.target.runtime == target.runtime and session.load_ms > 0
        assert session.timer(zoo.images(model, 1).numpy())() > 0


@pytest.mark.slow
@every_runtime
def test_a_latency_table_can_be_made_on_it(name: str) -> None:
    _tabled(TargetDevice.parse(f"{name}:cpu:threads=1"))


def _tabled(target: TargetDevice) -> None:
    adaptive = wrap(zoo.build("plain"))
    table = measure_table(adaptive, target, seconds=2, points=3)
    assert table.target == target and table.predict(adaptive.dense_schedule) > 0


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("reference", f"{__name__}:REFERENCE", "tavt_kit.targets")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == point.group else [])


@pytest.mark.usefixtures("reference")
def test_another_package_adds_one(tmp_path: Path) -> None:
    target = TargetDevice.parse("reference:cpu:threads=1")
    _answers(target)
    with pytest.raises(TargetError, match="reference runs f32, got precision=int8; that runs on onnxruntime"):
        TargetDevice.parse("reference:cpu:precision=int8")
    assert is_available(target) and not is_available(target, "int8")
    (tmp_path / "damaged.xml").write_bytes(b"")
    with pytest.raises(TargetError, match="choose openvino"):
        open_file(tmp_path / "damaged.xml", target)


@pytest.mark.slow
@pytest.mark.usefixtures("reference")
def test_a_latency_table_can_be_made_on_one_of_another_package() -> None:
    _tabled(TargetDevice.parse("reference:cpu:threads=1"))


def test_what_is_no_runtime_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("odd", "math:pi", "tavt_kit.targets")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == point.group else [])
    with pytest.raises(TargetError, match="odd is math:pi of another package, which is no RuntimeFacts"):
        TargetDevice.parse("odd:cpu")
