"""The card inside an artifact: through JSON, through a real ONNX and OpenVINO file, and when things are damaged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import openvino
import pytest
from onnx import TensorProto, helper
from openvino import opset13

from tavt_kit.core.artifact_card import METADATA_KEY, ArtifactCard, files_of, read_metadata, require_unchanged, seal
from tavt_kit.core.model_card import Licence, ModelCard
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.errors import RecordError, ScheduleError, UnknownName
from tavt_kit.exporters.standalone import load
from tavt_kit.exporters.to_onnx import attach_card
from tavt_kit.exporters.to_openvino import save

NASTY = ("<b>bold</b> & \"quoted\" 'too'", "Grünspecht 啄木鸟 🐦", "tab\tnew\nline \\ \x01", "plain")


def _card(**changes: object) -> ArtifactCard:
    licence = Licence("weights", "CC BY-NC 4.0", "somewhere")
    preprocessing = Preprocessing((32, 48), 0.9, mean=(0.1, 0.2, 0.3)).as_record()
    model = ModelCard(
        "timm_vit", "vit_tiny", {"depth": 2}, NASTY, preprocessing, "cls", "kept", "ab" * 32, "shaken", (licence,)
    )
    values = {"schedule": TokenSchedule((7, 5)), "tokens": 7, "prefix": 1, **changes}
    return ArtifactCard(model, **values)  # type: ignore[arg-type]


def _onnx_file(path: Path, card: ArtifactCard | None) -> Path:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 3]) for name in ("images", "logits")]
    graph = helper.make_graph([helper.make_node("Identity", ["images"], ["logits"])], "g", value[:1], value[1:])
    weights = helper.make_tensor("unused", TensorProto.FLOAT, [5000], [0.5] * 5000)
    graph.initializer.append(weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    helper.set_model_props(model, {"author": "somebody else"})
    if card is not None:
        attach_card(model, card)
    onnx.save(model, str(path))
    return path


def _openvino_file(path: Path, card: ArtifactCard | None) -> Path:
    images = opset13.parameter([-1, 3], name="images")  # type: ignore[call-overload]
    model = openvino.Model([opset13.relu(images)], [images], "relu")
    if card is None:
        openvino.save_model(model, path)
    else:
        save(model, card, path)
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"schedule": TokenSchedule((7, 7), executed=(1,))},
        {"precision": "int8", "calibration": {"split": "train", "images": 300}},
        {"presets": {"fast": TokenSchedule((5, 3)), "accurate": TokenSchedule((7, 7))}},
        {"weights_file": "model.f32-01234567.weights"},
    ],
)
def test_a_record_comes_back_equal(changes: dict[str, object]) -> None:
    card = _card(**changes)
    assert ArtifactCard.from_record(card.as_record()) == card


@pytest.mark.parametrize(("write", "name"), [(_onnx_file, "m.onnx"), (_openvino_file, "m.xml")])
def test_a_file_carries_its_card(write, name: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    card = _card()
    assert read_metadata(write(tmp_path / name, card)) == card


def test_attaching_replaces_only_our_own_entry(tmp_path: Path) -> None:
    path = _onnx_file(tmp_path / "m.onnx", _card())
    model = onnx.load(str(path))
    attach_card(model, _card(precision="f16"))
    assert sorted(entry.key for entry in model.metadata_props) == ["author", METADATA_KEY]
    onnx.save(model, str(path))
    assert read_metadata(path).precision == "f16"


def test_reading_needs_the_standard_library_only(tmp_path: Path) -> None:
    path = _onnx_file(tmp_path / "m.onnx", _card())
    code = (
        "import sys; from pathlib import Path; from tavt_kit.core.artifact_card import read_metadata;"
        f"print(read_metadata(Path({str(path)!r})).classes[3]);"
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'openvino', 'numpy', 'timm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["plain", "[]"]


@pytest.mark.parametrize(("write", "name"), [(_onnx_file, "m.onnx"), (_openvino_file, "m.xml")])
def test_a_foreign_file_is_refused(write, name: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(RecordError, match="not made by fgvc-kit export"):
        read_metadata(write(tmp_path / name, None))


@pytest.mark.parametrize(("write", "name"), [(_onnx_file, "m.onnx"), (_openvino_file, "m.xml")])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_refused(write, name: str, share: float, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = write(tmp_path / name, _card())
    content = path.read_bytes().partition(b"<!-- fgvc_kit_sha256")[0]  # what lies behind is no part of the model
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(RecordError, match="damaged|not made by"):
        read_metadata(path)


@pytest.mark.parametrize("content", [b"", b"\xff" * 200, b"PK\x03\x04 a zip", b"not a model at all\n" * 9])
@pytest.mark.parametrize("name", ["m.onnx", "m.xml"])
def test_rubbish_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RecordError, match="damaged|not made by"):
        read_metadata(tmp_path / name)


def test_absent_and_unknown_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"cannot read .*No such file"):
        read_metadata(tmp_path / "absent.onnx")
    with pytest.raises(RecordError, match=r"ends in .onnx or .xml"):
        read_metadata(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": "fgvc-kit/model"}, "must be fgvc-kit/artifact version 1"),
        ({"version": 2}, "version 2"),
        ({"schedule": [5, 7]}, "only 5 reach it"),
        ({"schedule": None}, "TypeError"),
        ({"classes": []}, "at least one class"),
        ({"surprise": 1}, "surprise is not known"),
        ({"presets": {"fast": [9, 3]}}, "has 7 tokens"),
        ({"presets": [7, 5]}, "AttributeError"),
    ],
)
def test_wrong_metadata_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(RecordError, match=said):
        ArtifactCard.from_record({**_card().as_record(), **change})


def test_a_card_of_an_earlier_program_has_neither_presets_nor_a_weight_file() -> None:
    record = _card().as_record()
    del record["presets"], record["weights_file"]
    assert ArtifactCard.from_record(record) == _card()


def test_a_switchable_card_is_run_at_a_preset_or_a_schedule() -> None:
    card = _card(presets={"fast": TokenSchedule((5, 3)), "accurate": TokenSchedule((7, 7))})
    assert card.chosen(None).lengths == (7, 5)
    assert (card.chosen("fast").lengths, card.chosen("fast").setting) == ((5, 3), "fast")
    assert (card.chosen("6,4").lengths, card.chosen("6,4").setting) == ((6, 4), "6,4")
    with pytest.raises(UnknownName, match="presets fast, accurate, got 'slow'"):
        card.chosen("slow")
    for wrong, said in (("8,3", "has 7 tokens"), ("5,1", "at least"), ("5,6", "only 5 reach it"), ("5", "2 layers")):
        with pytest.raises(ScheduleError, match=said):
            card.chosen(wrong)
    with pytest.raises(ScheduleError, match="frozen into it"):
        _card().chosen("fast")
    odd = TokenSchedule((7, 7), executed=(0,))
    with pytest.raises(ScheduleError, match="same layers under every preset, but odd runs others"):
        _card(presets={"odd": odd})
    short = _card(schedule=odd, presets={"odd": odd})
    assert short.chosen("6,6").schedule == TokenSchedule((6, 6), (0,))
    assert ArtifactCard.from_record(short.as_record()) == short
    assert (_card().lengths, _card().setting) == (None, "")


def test_an_artifact_with_a_weight_file_has_its_parts_under_either_name(tmp_path: Path) -> None:
    card = _card(weights_file="model.f32-01234567.weights")
    path = _onnx_file(tmp_path / "m.onnx", card)
    parts = (tmp_path / "model.f32-01234567.weights", path)
    assert files_of(path) == parts
    path.rename(f"{path}.unproven")
    assert files_of(path) == parts
    for outside in ("../secret.weights", "/etc/secret.weights", "passwd"):
        assert files_of(_onnx_file(path, _card(weights_file=outside))) == (path,)


def test_an_openvino_artifact_is_two_files() -> None:
    assert files_of(Path("a/m.int8.xml")) == (Path("a/m.int8.bin"), Path("a/m.int8.xml"))
    assert files_of(Path("a/m.onnx")) == (Path("a/m.onnx"),)


@pytest.mark.parametrize("name", ["a.onnx", "a.xml"])
def test_a_lone_file_is_refused_wherever_a_byte_of_it_changed(name: str, tmp_path: Path) -> None:
    """No ``check.json`` lies beside it; it is refused for its own hash, and runs as it is under another name."""
    path = tmp_path / name
    if name.endswith(".xml"):
        _openvino_file(path, _card())
    else:
        seal(_onnx_file(path, _card()))
        onnx.checker.check_model(onnx.load(str(path)))
    other = tmp_path / f"b{path.suffix}"
    for file in files_of(path):
        other.with_suffix(file.suffix).write_bytes(file.read_bytes())
    require_unchanged(path)
    require_unchanged(other)
    assert read_metadata(other).classes == NASTY
    openvino.Core().read_model(other)
    for file in files_of(path):
        whole = bytearray(file.read_bytes())
        for place in range(0, len(whole) - 110, max(1, len(whole) // 40)):  # the hash itself is at the end
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            if file != path or _reads(path):
                with pytest.raises(RecordError, match="is not as it was exported"):
                    require_unchanged(path)
        file.write_bytes(whole)
    require_unchanged(path)


def _reads(path: Path) -> bool:
    """Whether the card can still be read, as every user of a file does first."""
    try:
        read_metadata(path)
    except RecordError:
        return False
    return True


@pytest.mark.parametrize("precision", ["f32", "int8", "bf16"])
def test_the_script_beside_a_file_runs_it_in_what_it_was_checked_in(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibration = {"images": 1} if precision == "int8" else None
    card = _card(precision=precision, calibration=calibration)
    path = _openvino_file(tmp_path / "m.xml", card)
    asked = []
    compile_model = openvino.Core.compile_model

    def noted(core: openvino.Core, model: object, device: str, config: dict[str, str]) -> object:
        asked.append(config["INFERENCE_PRECISION_HINT"])
        return compile_model(core, model, device, config)  # type: ignore[arg-type]

    monkeypatch.setattr(openvino.Core, "compile_model", noted)
    load(path)
    assert asked == [card.own_target(path).precision]
