"""Files in timm's own names: which model they are of, and what the keys cannot tell."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from tavt_kit import cli
from tavt_kit.checkpoints import convert, load_model
from tavt_kit.checkpoints.convert import _trained_size
from tavt_kit.checkpoints.folder import read_weight_file
from tavt_kit.errors import CheckpointError, RecordError, UnknownName, UnsupportedBackbone
from tavt_kit.models.timm_import import timm


def state(name: str, **options: Any) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return dict(timm.create_model(name, **{"num_classes": 3, **options}).state_dict())


def saved(folder: Path, name: str, **options: Any) -> Path:
    save_file(state(name, **options), folder / "w.safetensors")
    return folder / "w.safetensors"


@pytest.mark.parametrize(("name", "size"), [("test_vit", 160), ("test_vit", 96), ("test_vit_relpos", 160)])
def test_the_size_is_the_files(name: str, size: int, tmp_path: Path) -> None:
    model, card = convert(saved(tmp_path, name, img_size=size), name=name)
    assert (card.name, len(card.classes), card.preprocessing["image_size"]) == (name, 3, [size, size])
    expected = state(name, img_size=size)
    assert all(torch.equal(t, expected[n]) for n, t in model.state_dict().items())


def test_a_table_of_relative_positions_tells_the_size(tmp_path: Path) -> None:
    options = {"img_size": 64, "depth": 1, "embed_dim": 24, "num_heads": 3, "patch_size": 16}
    file = saved(tmp_path, "beit_base_patch16_224", **options)
    tensors = read_weight_file(file).tensors
    laid_out = timm.create_model("beit_base_patch16_224", **{**options, "img_size": 224})
    assert _trained_size(tensors, laid_out) == 64


@pytest.mark.slow
def test_what_no_key_tells_is_told_by_the_name(tmp_path: Path) -> None:
    file = saved(tmp_path, "vit_tiny_patch16_224")
    with pytest.raises(CheckpointError, match="no key tells heads, .*; give `name`"):
        convert(file)
    _, vit = convert(file, name="vit_tiny_patch16_224", image_size=64)
    _, deit = convert(file, name="deit_tiny_patch16_224")
    assert (vit.preprocessing["mean"], vit.preprocessing["image_size"]) == ([0.5] * 3, [64, 64])
    assert deit.preprocessing["mean"][0] == pytest.approx(0.485)
    for name, kind, says in (
        ("vit_tiny_patch16_22", UnknownName, "did you mean"),
        ("resnet18", UnsupportedBackbone, "none"),
        ("test_vit", CheckpointError, "does not fit"),
    ):
        with pytest.raises(kind, match=says):
            convert(file, name=name)


@pytest.mark.slow
def test_what_training_scripts_write_around_the_weights(tmp_path: Path) -> None:
    """timm's own checkpoint names its model; Lightning and torch.compile put words before the names."""
    own = state("test_vit", img_size=32)
    for content in (
        {"state_dict": {f"module.{n}": t for n, t in own.items()}},
        {"model": {f"model._orig_mod.{n}": t for n, t in own.items()}},
        own,
    ):
        torch.save(content, tmp_path / "w.pth")
        model, card = convert(tmp_path / "w.pth", name="test_vit")
        assert card.name == "test_vit" and card.preprocessing["image_size"] == [32, 32]
        assert all(torch.equal(t, own[n]) for n, t in model.state_dict().items())
    with pytest.raises(CheckpointError, match="does not fit"):
        convert(tmp_path / "w.pth", name="vit_tiny_patch16_224")
    named = {
        "arch": "deit_tiny_patch16_224",
        "args": argparse.Namespace(lr=1),
        "state_dict": state("deit_tiny_patch16_224"),
    }
    torch.save(named, tmp_path / "model_best.pth.tar")
    assert convert(tmp_path / "model_best.pth.tar")[1].name == "deit_tiny_patch16_224"
    file = saved(tmp_path, "vit_tiny_patch16_224")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit_tiny_patch16_224"}))
    assert convert(file)[1].name == "vit_tiny_patch16_224"
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RecordError, match="is not a JSON record"):
        convert(file)


def test_the_verb_takes_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    headless = {n: t for n, t in state("test_vit", img_size=32).items() if not n.startswith("head")}
    save_file(headless, tmp_path / "w.safetensors")
    for name in ("ant", "bee"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(10):
            Image.new("L", (4, 4)).save(tmp_path / "data" / name / f"{number}.png")
    data = ("--data", tmp_path / "data")

    def run(*more: object) -> int:
        named = () if "--name" in more else ("--name", "test_vit")
        arguments = (
            "convert",
            tmp_path / "w.safetensors",
            "-o",
            tmp_path / "out",
            "--json",
            *named,
            *more,
        )
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        return int(ended.value.code or 0)

    for more, says in (
        ((), "no classifier; give the classes"),
        (("--classes", "2"), "--classes is gone"),
        (("--data", tmp_path / "absent"), "absent"),
        ((*data, "--family", "ffvt"), "cannot be read as ffvt"),
        ((*data, "--name", "no_such_vit"), "no_such_vit"),
    ):
        assert run(*more) == 2
        err = capsys.readouterr().err
        assert says in err and err.count("\n") == 1 and not (tmp_path / "out").exists()
    assert run(*data) == 0
    card = json.loads(capsys.readouterr().out)
    assert card["classes"] == ["ant", "bee"] and "random at the start: head.weight" in card["provenance"]
    assert load_model(tmp_path / "out")(torch.zeros(1, 3, 32, 32)).shape == (1, 2)


@pytest.mark.parametrize("taken", ["blocks.1.attn.qkv.weight", "norm.bias", "cls_token", "patch_embed.proj.bias"])
def test_a_file_that_lacks_something(taken: str, tmp_path: Path) -> None:
    lacking = {n: t for n, t in state("test_vit", img_size=32).items() if n != taken}
    save_file(lacking, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=rf"lacks {re.escape(taken)}"):
        convert(tmp_path / "w.safetensors", name="test_vit")
