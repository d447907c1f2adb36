"""``fgvc-kit convert``: official files become runs that every verb takes, and bad files one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tavt_kit.checkpoints import load_model
from tavt_kit.checkpoints.official_vit import official_names
from tests.verbs.command import run
from tests.verbs.tiny import CLASSES, write_images

WIDTH, LAYERS, PATCH = 24, 3, 8


def official_state(side: int = 4, classes: int = len(CLASSES)) -> dict[str, Tensor]:
    """A TAVT state dict of random weights: 8-pixel patches on a grid of ``side`` x ``side``."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "cls_token": (1, 1, WIDTH), "pos_embed": (1, side * side + 1, WIDTH), "patch_embed": (WIDTH, 3, PATCH, PATCH),
        "fc1": (2 * WIDTH, WIDTH), "fc2": (WIDTH, 2 * WIDTH), "head": (classes, WIDTH), "norm": (WIDTH,),
    }  # fmt: skip
    state = {}
    for ours, theirs in official_names(LAYERS).items():
        shape = next((shape for part, shape in shapes.items() if part in ours), (WIDTH, WIDTH))
        shape = shape[:1] if ours.endswith("bias") else shape
        for name in theirs:
            state[name] = torch.randn(shape, generator=generator) / max(1, shape[-1]) ** 0.5
    return state


def save(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data"), each=20)


@pytest.mark.parametrize("content", [lambda s: s, lambda s: {"model": s}, lambda s: {"model": s, "amp": {"x": 1.0}}])
def test_a_file_with_and_without_its_trainings_state(content: Any, tmp_path: Path) -> None:
    state = official_state()
    file = save(tmp_path / "cub_checkpoint.bin", content(state))
    assert run("convert", file, "-o", tmp_path / "out", "--heads", 3) == 0
    model = load_model(tmp_path / "out")
    mine = model.state_dict()
    for ours, theirs in official_names(LAYERS).items():
        assert torch.equal(mine[ours], torch.cat([state[name] for name in theirs])), ours
    card = json.loads((tmp_path / "out" / "model.json").read_text())
    assert card["classes"] == ["class 0", "class 1", "class 2"] and card["preprocessing"]["image_size"] == [32, 32]
    assert card["preprocessing"]["crop_mode"] == "squash" and "cub_checkpoint.bin" in card["provenance"]


def test_the_whole_way(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """convert -> eval -> distil -> search -> export with its check, on the overlapping split."""
    file = save(tmp_path / "tavt.bin", official_state(side=5))
    place = tmp_path / "tavt"
    assert run("convert", file, "-o", place, "--heads", 3, "--slide-step", 6, "--data", data, "--json") == 0
    card = json.loads(capsys.readouterr().out)
    assert card["classes"] == list(CLASSES) and card["arguments"]["slide_step"] == 6
    assert load_model(place).grid == (5, 5)
    assert run("eval", place, "--data", data, "--schedule", "26,20,12") == 0
    assert run("distill", place, "--data", data, "-o", tmp_path / "distilled", "--steps", 2, "--batch", 4) == 0
    flags = ("--budget", "flops=900K", "--evaluations", 8, "--population", 4, "--no-baselines")
    assert run("search", tmp_path / "distilled", "-o", tmp_path / "search", *flags) == 0
    out = tmp_path / "export"
    assert run("export", tmp_path / "search", "-o", out, "--format", "onnx", "--drop", "50") == 0
    check = json.loads((out / "check.json").read_text())["checks"][0]
    assert check["verdict"] == "PASS" and (out / "model.f32.onnx").exists()


def test_bad_files_are_one_sentence(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = official_state()
    name, table = "transformer.encoder.layer.1.ffn.fc1.weight", "transformer.embeddings.position_embeddings"
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    np.savez(tmp_path / "objects.npz", a=np.array([{}], dtype=object))
    (tmp_path / "text.npz").write_text("no archive")
    whole = save(tmp_path / "whole.bin", state).read_bytes()
    (tmp_path / "cut.bin").write_bytes(whole[: len(whole) // 2])
    cases: list[tuple[Path, tuple[object, ...], str]] = [
        (tmp_path / "absent.bin", (), "does not exist"),
        (tmp_path / "cut.bin", (), "damaged or truncated"),
        (save(tmp_path / "pickled.bin", {"model": Path("/")}), (), "holds Python objects"),
        (save(tmp_path / "lacks.bin", {k: v for k, v in state.items() if k != name}), (), f"lacks {name}"),
        (save(tmp_path / "adds.bin", state | {"part_head.bias": torch.zeros(3)}), (), "adds part_head.bias"),
        (save(tmp_path / "nan.bin", state | {name: state[name] * torch.nan}), (), "not finite"),
        (save(tmp_path / "family.bin", {"stages.0.weight": torch.zeros(3)}), (), "no family that is known"),
        (save(tmp_path / "grid.bin", state | {table: torch.zeros(1, 16, WIDTH)}), ("--heads", 3), "no square grid"),
        (save(tmp_path / "shape.bin", state | {name: torch.zeros(5, WIDTH)}), ("--heads", 3), "other shapes"),
        (save(tmp_path / "four.bin", official_state(classes=4)), ("--heads", 3, "--data", data), "head of 4 classes"),
        (tmp_path / "whole.bin", (), "give --heads"),
        (tmp_path / "whole.bin", ("--heads", 5), "cannot be shared by 5 heads"),
        (tmp_path / "whole.bin", ("--heads", 3, "--image-size", 33), "a multiple of that"),
        (tmp_path / "whole.bin", ("--heads", 3, "--slide-step", 9), "1 to the patch size of 8"),
        (tmp_path / "whole.bin", ("--heads", 3, "--family", "cubic"), "vit or ffvt or transfg"),
        (tmp_path / "other.npz", (), "no family that is known"),
        (tmp_path / "objects.npz", (), "holds Python objects"),
        (tmp_path / "text.npz", (), "no .npz file"),
    ]  # fmt: skip
    for file, flags, says in cases:
        assert run("convert", file, "-o", tmp_path / "out", *flags) == 2, (file, flags)
        said = capsys.readouterr()
        assert says in said.err and said.err.count("\n") == 1 and not said.out, said.err
        assert not (tmp_path / "out").exists()


def test_an_ambiguous_grid_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """37 x 37 patches of 16 px are 448 px in TAVT's overlapping split, and 592 px without one."""
    state = official_state()
    state["transformer.embeddings.position_embeddings"] = torch.zeros(1, 37 * 37 + 1, WIDTH)
    state["transformer.embeddings.patch_embeddings.weight"] = torch.zeros(WIDTH, 3, 16, 16)
    file = save(tmp_path / "overlap.bin", state)
    assert run("convert", file, "-o", tmp_path / "a", "--heads", 3) == 2
    assert "--slide-step 12 or 16" in capsys.readouterr().err
    assert run("convert", file, "-o", tmp_path / "b", "--heads", 3, "--slide-step", 12) == 0
    assert load_model(tmp_path / "b").backbone.image_size == (448, 448)
