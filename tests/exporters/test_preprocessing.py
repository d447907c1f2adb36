"""Preprocessing inside of a file: against Pillow's pixels, through the whole export, and in OpenVINO's ModelAPI."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from tavt_kit.checkpoints import load_model
from tavt_kit.checks import Source
from tavt_kit.checks.pixels import OwnPixels
from tavt_kit.core.artifact_card import PIXEL_ORDERS, ArtifactCard, read_metadata
from tavt_kit.core.model_card import ModelCard, read_card, write_card
from tavt_kit.core.records import read_record
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data import Sample
from tavt_kit.data.preprocess import Preprocessing, normalise, open_image, resize_crop
from tavt_kit.errors import DataError, ExportError, ParameterError
from tavt_kit.exporters import standalone
from tavt_kit.exporters.preprocessing import refuse_outside_alone
from tavt_kit.runtimes import open_file
from tavt_kit.runtimes.session import arrange
from tavt_kit.workflows.check import check
from tavt_kit.workflows.evaluate import evaluate
from tavt_kit.workflows.export import ExportResult, export
from tavt_kit.workflows.predict import predict
from tests.verbs.tiny import CLASSES, write_images, write_run

SCHEDULE = "14,8"
HOW = Preprocessing((32, 32), 0.9, "center", "bicubic", (0.25, 0.22, 0.2), (0.22, 0.2, 0.24))
SIZES = ((60, 44), (333, 500), (41, 90), (32, 35), (20, 26))
FEW = ((60, 44), (41, 90), (20, 26))
"""Shrunk, cut and enlarged: OpenVINO prepares itself anew for each size that it meets."""


def photo(size: tuple[int, int], seed: int) -> Image.Image:
    """Edges, gradients and grain, as in a photograph."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), np.uint8)).resize(size[::-1], Image.Resampling.BICUBIC)
    pixels = np.asarray(coarse).astype(int) + rng.integers(-20, 21, (*size, 3))
    pixels[size[0] // 3 : size[0] // 2] = rng.integers(0, 256, 3)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose images are of many sizes."""
    folder = tmp_path_factory.mktemp("inside")
    write_images(folder / "data")
    for index, path in enumerate(sorted((folder / "data").rglob("*.png"))):
        photo(FEW[index % len(FEW)], index).save(path)
    write_run(folder / "run", depth=2)
    card = read_card(folder / "run")
    write_card(folder / "run", replace(card, preprocessing=HOW.as_record()))
    return folder


def written(run: Path, out: Path, **more: Any) -> ExportResult:
    given = {"schedule": SCHEDULE, "format": ["onnx", "openvino"], "data": run / "data", "preprocessing": "inside"}
    return export(run / "run", out, **{**given, **more})


@pytest.fixture(scope="module")
def files(run: Path) -> ExportResult:
    return written(run, run / "inside")


def test_the_file_says_what_torch_says_of_the_same_images(run: Path, files: ExportResult) -> None:
    assert files.settled
    for file in files:
        found = file.check.record
        assert file.verdict == "PASS" and "its own preprocessing gives the kit's" in found["reason"]
        assert found["pixels"]["images"] == found["artifact_top1"]["n"] == 6
        assert found["pixels"]["largest"] <= 1 and found["pixels"]["differing"] < 0.005
        assert {1, 5} <= set(found["batches"]["sizes"]) and found["agreement"] == 1.0
        card = read_metadata(file.path)
        assert card.pixels == "nhwc:rgb" and Preprocessing.from_record(card.preprocessing) == HOW
    assert read_record(run / "inside" / "check.json", "check")["verdict"] == "PASS"


@pytest.mark.slow
@pytest.mark.parametrize("order", ["nhwc:bgr", "nchw:rgb"])
def test_one_image_in_another_order_alone_and_with_others(run: Path, order: str, tmp_path: Path) -> None:
    assert order in PIXEL_ORDERS
    model = load_model(run / "run")
    model.schedule = TokenSchedule.parse(SCHEDULE, model.layout)
    images = [photo(size, seed) for seed, size in enumerate((*FEW, FEW[0]))]
    given = np.empty(len(images), object)
    for index, image in enumerate(images):
        given[index] = np.asarray(image)
    with torch.inference_mode():
        prepared = normalise(np.stack([resize_crop(image, HOW) for image in images]), HOW)
        expected = model(torch.from_numpy(prepared)).numpy()
    for file in written(run, tmp_path / "inside", input_order=order):
        session = open_file(file.path, read_metadata(file.path).own_target(file.path))
        assert (session.pixels, session.input_shape) == (order, (None, 3, None, None))
        found = session(given)
        np.testing.assert_allclose(found, expected, atol=5e-3 * np.abs(expected).max())
        np.testing.assert_allclose(session(given[:1]), found[:1], atol=1e-6)
        with pytest.raises(DataError, match=r"\(batch, height, width, 3\) uint8, got float32"):
            session(np.zeros((1, 40, 40, 3), np.float32))


def how(**changes: Any) -> Preprocessing:
    return replace(HOW, **changes)


CHANGES = [
    how(image_size=(24, 40), crop_mode="squash", crop_pct=0.8),
    *(pytest.param(each, marks=pytest.mark.slow) for each in
      (how(), how(crop_pct=0.875), how(crop_pct=1.0), how(interpolation="bilinear"), how(crop_mode="squash"))),
]  # fmt: skip


@pytest.mark.parametrize("changed", CHANGES, ids=str)
def test_pixels_are_pillows_but_for_roundings(changed: Preprocessing, run: Path, tmp_path: Path) -> None:
    onnx, openvino = pytest.importorskip("onnx"), pytest.importorskip("openvino")
    from tavt_kit.exporters.preprocessing import prepend_onnx, prepend_openvino

    # Most values are Pillow's; bilinear weights are often halves, and of a squashed image Pillow may turn its passes.
    halves = changed.interpolation == "bilinear"
    most, share = (4, 0.4) if changed.crop_mode == "squash" else (2, 0.2 if halves else 0.01)
    model = ModelCard("timm_vit", "vit", {}, CLASSES, changed.as_record())
    card = ArtifactCard(model, TokenSchedule((17,) * 4), 17, 1, pixels="nhwc:rgb")
    shape = ["batch", 3, *changed.image_size]
    values = [onnx.helper.make_tensor_value_info(name, 1, shape) for name in ("images", "logits")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["images"], ["logits"])], "g", values[:1], values[1:])
    plain = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(prepend_onnx(plain, card), str(tmp_path / "m.onnx"))
    parameter = openvino.opset13.parameter([-1, 3, *changed.image_size], np.float32, name="images")
    parameter.output(0).set_names({"images"})
    whole = openvino.Model([openvino.opset13.relu(parameter)], [parameter], "m")
    openvino.save_model(prepend_openvino(whole, card), tmp_path / "m.xml")
    for name in ("m.onnx", "m.xml"):
        own = OwnPixels.of(tmp_path / name, card)
        for seed, size in enumerate(SIZES):
            image = photo(size, seed)
            made = own.prepare(arrange(np.asarray(image)[None], "nhwc:rgb"))[0].astype(int)
            apart = np.abs(made - resize_crop(image, changed))
            assert apart.max() <= most and (apart > 0).mean() < share, (name, size, apart.max(), (apart > 0).mean())


def test_pixels_that_are_not_the_kits_fail(run: Path, files: ExportResult) -> None:
    """The same file, called one of another preprocessing."""
    model = load_model(run / "run")
    for name in ("model.f32.onnx", "model.f32.xml"):
        path = run / "inside" / name
        samples = [Sample(file, 0) for file in sorted((run / "data").rglob("*.png"))[:4]]
        other = replace(HOW, crop_pct=0.8).as_record()
        source = Source(model, samples, "test")
        source.adaptive.card = replace(model.require_card(), preprocessing=other)
        source.logits(model.dense_schedule)
        found = OwnPixels.of(path, read_metadata(path)).compare(source, 0)
        assert found.largest > 4 and "levels off" in found.fault
        source.adaptive.card = replace(model.require_card(), preprocessing=HOW.as_record())
        assert OwnPixels.of(path, read_metadata(path)).compare(source, 0).fault == ""


@pytest.mark.slow
def test_predict_eval_and_check_take_it_as_any_other_file(run: Path, files: ExportResult, tmp_path: Path) -> None:
    image = sorted((run / "data").rglob("*.png"))[1]
    plain = predict(run / "run", image, schedule=SCHEDULE)[0]
    for file in files:
        said = predict(file.path, image)[0]
        assert said.label == plain.label
        assert dict(said.ranked) == pytest.approx(dict(plain.ranked), abs=5e-3)
        assert evaluate(file.path, run / "data").top1.n == 6
        assert check(file.path, run / "run", data=run / "data", out=tmp_path / file.path.name).verdict == "PASS"


def test_the_script_beside_a_file_gives_it_the_image_as_it_is(
    run: Path, files: ExportResult, capsys: pytest.CaptureFixture[str]
) -> None:
    image = sorted((run / "data").rglob("*.png"))[1]
    for file in files:
        standalone.main([str(file.path), str(image)])
        assert capsys.readouterr().out.split("  ")[1].rsplit(" ", 2)[0] == predict(file.path, image)[0].label


def test_the_script_reads_odd_images_as_the_kit_does(
    run: Path, files: ExportResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, grey = photo((40, 56), 1), np.asarray(photo((40, 56), 1).convert("L")).astype(np.uint16) * 257
    turned = whole.getexif()
    turned[0x112] = 6
    whole.convert("CMYK").save(tmp_path / "cmyk.jpg")
    whole.save(tmp_path / "turned.jpg", exif=turned)
    whole.save(tmp_path / "moving.gif", save_all=True, append_images=[whole.rotate(180)])
    whole.convert("P").save(tmp_path / "palette.png")
    Image.fromarray(grey).save(tmp_path / "sixteen bits é.png")
    Image.new("RGBA", (30, 20), (10, 200, 30, 90)).save(tmp_path / "clear.png")
    for path in sorted(tmp_path.iterdir()):
        assert np.array_equal(np.asarray(standalone._open(str(path))), np.asarray(open_image(path))), path.name
    short = tmp_path / "short.jpg"
    short.write_bytes((tmp_path / "cmyk.jpg").read_bytes()[:-100])
    with pytest.raises(SystemExit) as ended:
        standalone.main([str(files[0].path), str(short), str(tmp_path / "clear.png")])
    said = capsys.readouterr()
    assert ended.value.code == 1 and said.out.startswith(f"{tmp_path / 'clear.png'}  ")
    assert said.err.startswith(f"cannot read {short}: image file is truncated")


@pytest.mark.slow
def test_a_switchable_file_and_half_precision_prepare_images_too(run: Path, tmp_path: Path) -> None:
    both = written(run, tmp_path / "switchable", schedule=["a=14,8", "b=17,9"], switchable=True)
    assert both.settled and [one.verdict for one in both.checks] == ["PASS"] * 4
    half = written(run, tmp_path / "half", precision="f16", accept_inconclusive=True)
    assert half.settled and all(one.record["pixels"]["largest"] <= 1 for one in half.checks)


def test_what_no_graph_can_do_is_refused(run: Path, tmp_path: Path) -> None:
    for one in (how(interpolation="lanczos"), how(crop_mode="border"), how(crop_pct=1.2), how(image_size=(24, 40))):
        with pytest.raises(ExportError, match="leave `preprocessing` outside"):
            refuse_outside_alone(one)
    for more, said in (
        ({"preprocessing": "within"}, "outside or inside of the files, got 'within'"),
        ({"input_order": "hwc"}, "`input_order` is nhwc:rgb"),
        ({"format": "safetensors"}, "safetensors cannot hold"),
    ):
        with pytest.raises(ParameterError, match=said):
            written(run, tmp_path / "none", **more)
    assert not (tmp_path / "none").exists()


# ------------------------------------------------------------------------------------------------ OpenVINO's ModelAPI


def test_the_model_api_reads_labels_and_gives_the_same_scores(run: Path, files: ExportResult) -> None:
    """Of OpenVINO's files; its way through onnxruntime knows no uint8 input (openvino-model-api 0.4.7)."""
    models = pytest.importorskip("model_api.models")
    model = models.Model.create_model(str(files[1].path), device="CPU")
    assert isinstance(model, models.ClassificationModel)
    assert tuple(model.params.labels) == CLASSES and model.params.topk == len(CLASSES)
    for path in sorted((run / "data").rglob("*.png"))[:3]:
        reference = dict(predict(run / "run", path, schedule=SCHEDULE)[0].ranked)
        found = model(np.asarray(open_image(path))).top_labels
        assert {one.name: float(one.confidence) for one in found} == pytest.approx(reference, abs=2e-2)  # in bf16


def test_onnx_carries_the_same_facts(files: ExportResult) -> None:
    import openvino

    onnx, xml = (file.path for file in files)
    props = onnxruntime.InferenceSession(str(onnx)).get_modelmeta().custom_metadata_map
    model = openvino.Core().read_model(xml)
    told = {key.partition(" ")[2]: value for key, value in props.items() if key.startswith("model_info ")}
    assert told["model_type"] == "Classification" and told["embedded_processing"] == "True"
    assert told == {key: model.get_rt_info(["model_info", key]).astype(str) for key in told}
