"""How an int8 model is chosen among several ways, and that what decides the tokens stays in float."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tavt_kit.core.artifact_card import ArtifactCard
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.model_card import ModelCard
from tavt_kit.core.progress import Silent
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.errors import ExportError
from tavt_kit.exporters import quantize as quantizing
from tavt_kit.exporters.quantize import (
    Examples,
    Int8Options,
    feeds,
    halve,
    make_int8,
    quantize_statically,
)
from tavt_kit.exporters.to_onnx import save, to_onnx
from tavt_kit.exporters.to_openvino import convert
from tavt_kit.models.wrap import AdaptiveViT, wrap
from tavt_kit.runtimes import open_file
from tests.contracts import zoo


def _model(switchable: bool = False) -> tuple[AdaptiveViT, ArtifactCard]:
    adaptive = wrap(zoo.build("plain"))
    model = ModelCard("timm_vit", "small", {}, tuple("abcdefg"), Preprocessing((64, 64)).as_record())
    schedule = TokenSchedule.taper(adaptive.layout, 0.2)
    presets = {"fast": schedule, "accurate": adaptive.dense_schedule} if switchable else {}
    return adaptive, ArtifactCard(model, schedule, adaptive.tokens, adaptive.prefix, presets=presets)


def _examples(held_out: int = 4) -> Examples:
    images = np.random.default_rng(0).normal(size=(4 + held_out, 3, 64, 64)).astype(np.float32)
    return Examples(images[:4], images[4:], np.arange(held_out) % 7)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> tuple[onnx.ModelProto, ArtifactCard]:
    adaptive, card = _model()
    path = tmp_path_factory.mktemp("int8") / "m.onnx"
    to_onnx(adaptive, card, path)
    return onnx.load(str(path)), card


@pytest.mark.parametrize(
    ("how", "format", "ways"),
    [
        (Int8Options(), "openvino", [("nncf", True), ("nncf", False)]),
        (Int8Options(), "onnx", [("nncf", True), ("nncf", False), ("onnxruntime", False)]),
        (Int8Options(smooth="off"), "openvino", [("nncf", False)]),
        (Int8Options(quantizer="onnxruntime"), "onnx", [("onnxruntime", False)]),
        (Int8Options(quantizer="nncf", smooth="on"), "onnx", [("nncf", True)]),
    ],
)
def test_what_is_tried(how: Int8Options, format: str, ways: list[tuple[str, bool]]) -> None:
    assert [(way["quantizer"], way["smooth_quant"]) for way in how.ways(format)] == ways


def test_what_cannot_be_asked_for() -> None:
    for wrong, said in (({"quantizer": "gptq"}, "got 'gptq'"), ({"smooth": "maybe"}, "got 'maybe'")):
        with pytest.raises(ExportError, match=said):
            Int8Options(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="not OpenVINO's"):
        Int8Options(quantizer="onnxruntime").ways("openvino")


def test_the_way_that_keeps_most_answers_wins(
    graph: tuple[onnx.ModelProto, ArtifactCard], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ways of quantizing are replaced by heads that are wrong by a known amount."""
    model, card = graph

    def spoilt(model: Any, way: dict[str, Any], *others: object) -> Any:
        worse = onnx.ModelProto()
        worse.CopyFrom(model)
        amount = {("nncf", True): 2.0, ("nncf", False): 0.001, ("onnxruntime", False): 9.0}
        head = next(one for one in worse.graph.initializer if one.name.endswith("head.bias"))
        shift = np.zeros(7, np.float32)
        shift[3] = 50 * amount[way["quantizer"], way["smooth_quant"]]
        head.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(head) + shift, head.name))
        return worse

    monkeypatch.setattr(quantizing, "_quantize", spoilt)
    made, record = make_int8(model, card, _examples(8), Int8Options(), Silent())
    assert (record["quantizer"], record["smooth_quant"], record["held_out"]) == ("nncf", False, 8)
    assert [one["quantizer"] for one in record["tried"]] == ["nncf", "nncf", "onnxruntime"]
    assert record["tried"][1]["agreement"] > record["tried"][0]["agreement"]
    head = next(one for one in made.graph.initializer if one.name.endswith("head.bias"))
    first = next(one for one in model.graph.initializer if one.name == head.name)
    difference = onnx.numpy_helper.to_array(head) - onnx.numpy_helper.to_array(first)
    assert difference.max() == pytest.approx(0.05, rel=1e-3)
    # With nothing to choose by, the first way is taken.
    _, record = make_int8(model, card, _examples(0), Int8Options(), Silent())
    assert (record["smooth_quant"], record["tried"]) == (True, [])


def test_onnxruntimes_own_int8_keeps_scores_in_float(
    graph: tuple[onnx.ModelProto, ArtifactCard], tmp_path: Path
) -> None:
    model, card = graph
    before = model.SerializeToString()
    made = quantize_statically(model, feeds(_examples().calibration))
    assert model.SerializeToString() == before
    makers = {output: node for node in made.graph.node for output in node.output}
    for node in made.graph.node:
        if node.op_type in ("Softmax", "TopK", "ReduceSum", "LayerNormalization"):
            maker = makers.get(node.input[0])
            assert maker is None or maker.op_type != "DequantizeLinear", node.name
    save(made, card.quantized({}), tmp_path / "m.onnx")
    assert open_file(tmp_path / "m.onnx", TargetDevice.parse("onnxruntime:cpu:threads=1")).target.precision == "int8"


def test_half(graph: tuple[onnx.ModelProto, ArtifactCard], tmp_path: Path) -> None:
    model, card = graph
    target = TargetDevice.parse("onnxruntime:cpu:threads=1")
    save(halve(model), card, tmp_path / "narrow.onnx")
    onnx.save(model, str(tmp_path / "wide.onnx"))
    assert (tmp_path / "narrow.onnx").stat().st_size < 0.6 * (tmp_path / "wide.onnx").stat().st_size
    images = _examples().calibration
    wide, small = (open_file(tmp_path / f"{name}.onnx", target)(images) for name in ("wide", "narrow"))
    assert 1e-6 < np.abs(small - wide).max() / np.abs(wide).max() < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".xml", ".onnx"])
def test_a_switchable_model_in_int8_at_all_presets(suffix: str, tmp_path: Path) -> None:
    adaptive, card = _model(switchable=True)
    path = tmp_path / f"m{suffix}"
    if suffix == ".onnx":
        to_onnx(adaptive, card, path)
        model = onnx.load(str(path))
    else:
        model = convert(adaptive, card)
    made, record = make_int8(model, card, _examples(), Int8Options(), Silent())
    assert len(record["tried"]) == (3 if suffix == ".onnx" else 2)
    assert all(one["agreement"] > 0.4 for one in record["tried"])
    if suffix == ".onnx":
        save(made, card.quantized(record), path)
    else:
        from tavt_kit.exporters.to_openvino import save as save_openvino

        save_openvino(made, card.quantized(record), path)
    target = TargetDevice("onnxruntime" if suffix == ".onnx" else "openvino", "cpu", threads=1)
    session = open_file(path, target, card.presets["fast"].counts)
    assert session.target.precision == "int8"
    fast, dense = session(_examples().held_out), session.at(adaptive.dense_schedule.counts)(_examples().held_out)
    assert np.abs(fast - dense).max() > 1e-3


def test_only_training_images_calibrate_and_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    from tavt_kit.data import ImageSet, Sample
    from tavt_kit.data.loading import Arrays
    from tavt_kit.exporters.options import Form
    from tavt_kit.exporters.writer import Writer

    splits = {
        name: tuple(Sample(Path(f"{name}/{place}.png"), place % 7) for place in range(count))
        for name, count in (("train", 40), ("val", 9), ("test", 9))
    }
    images = ImageSet("some", tuple("abcdefg"), Path(), splits)
    seen: list[list[Path]] = []

    def read(samples: Any, *others: object, **more: object) -> Arrays:
        seen.append([sample.path for sample in samples])
        return Arrays(np.zeros((len(samples), 3, 2, 2), np.float32), np.zeros(len(samples), np.int64))

    monkeypatch.setattr("tavt_kit.exporters.writer.load_arrays", read)
    adaptive, card = _model()
    adaptive.card = card.model
    writer = Writer(adaptive, {"": card.schedule}, images)
    examples = writer._examples()
    calibrating, choosing = map(set, seen)
    assert (len(examples.calibration), len(examples.held_out)) == (30, 10)
    assert not calibrating & choosing
    assert {path.parent.name for path in calibrating | choosing} == {"train"}
    said = writer.card_of(Form("onnx", "int8")).calibration
    assert said is not None and (said["split"], said["images"], said["data"]) == ("train", 30, "some")
