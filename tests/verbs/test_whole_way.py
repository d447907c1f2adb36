"""Every family through the command line, from its official file to a checked export, on real images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tavt_kit.checkpoints import load_model
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.models.flops import count_macs
from tests.parity.official import load, official_state, state_of
from tests.verbs.command import run
from tests.verbs.tiny import write_images

FAMILIES = {
    "ffvt": ("ffvt_forward_a", ("--heads", 4, "--num-token", 3)),
    "transfg": ("transfg_overlap", ("--heads", 4, "--slide-step", 6, "--image-size", 44)),
    "mixvit_pure": ("mixvit_pure_a", ("--heads", 4)),
    "vitae": ("vitae_tiny", ("--image-size", 64)),
    "vitaev2": ("vitaev2_s", ("--image-size", 64)),
    "pim": ("pim_vit_a", ("--heads", 4, "--num-selects", "20,16,16,12")),
}
"""Golden file whose weights are the official checkpoint, or the official size of a ViTAE; what its keys do not tell."""

"""Like one that is tested quickly, or long: a ViT, a fusion, the ViTAEs."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten classes, as many as the golden files have at most."""
    return write_images(tmp_path_factory.mktemp("data"), each=10, classes=tuple("abcdefghij"), size=48)


def images_for(data: Path, classes: int, folder: Path) -> Path:
    """As many class folders as the checkpoint has classes."""
    for place in sorted(data.iterdir())[:classes]:
        (folder / "data").mkdir(exist_ok=True)
        (folder / "data" / place.name).symlink_to(place)
    return folder / "data"


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_goes_the_whole_way(family: str, data: Path, reference: Path, tmp_path: Path) -> None:
    name, flags = FAMILIES[family]
    classes = 4 if name.startswith("vitae") else load(reference, name)[1]["config"]["num_classes"]
    torch.save({"model": official_state(reference, name)}, tmp_path / "official.bin")
    images = images_for(data, classes, tmp_path)
    place = tmp_path / family
    assert run("convert", tmp_path / "official.bin", "-o", place, "--data", images, *flags) == 0
    assert run("eval", place, "--data", images, "--schedule", "taper:0.3") == 0
    distilled = ("distill", place, "--data", images, "-o", tmp_path / "distilled", "--steps", 2, "--batch", 4)
    assert run(*distilled) == 0
    found = tmp_path / "search"
    model = load_model(place)
    taper = TokenSchedule.taper(model.layout, 0.4)
    budget = f"flops={(count_macs(model) + count_macs(model, taper)) / 2:.0f}"
    assert run("search", tmp_path / "distilled", "-o", found, "--budget", budget, "--evaluations", 8,
               "--no-baselines") == 0  # fmt: skip
    front = json.loads((found / "front.json").read_text())
    assert front["verdict"] == "PASS" and front["candidates"][front["chosen"]]["macs"] <= float(budget[6:])
    for form in ("onnx", "openvino"):
        export = ("export", found, "-o", tmp_path / form, "--format", form, "--drop", "50")
        assert run(*export) == 0
        check = json.loads((tmp_path / form / "check.json").read_text())["checks"][0]
        assert check["verdict"] == "PASS" and {1, 5, 8} <= set(check["batches"]["sizes"]), check


@pytest.mark.slow
def test_a_model_with_nothing_to_drop(
    data: Path, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Mix-ViT's hybrid model is converted, evaluated and exported; distil and search say why they will not."""
    arrays, meta = load(reference, "mixvit_hybrid_a")
    torch.save(state_of(arrays), tmp_path / "official.bin")
    images, place = images_for(data, meta["config"]["num_classes"], tmp_path), tmp_path / "hybrid"
    flags = ("--heads", 4, "--image-size", 96, "--data", images)
    assert run("convert", tmp_path / "official.bin", "-o", place, *flags) == 0
    assert run("eval", place, "--data", images) == 0
    for form in ("onnx", "openvino"):
        out = tmp_path / form
        assert run("export", place, "-o", out, "--data", images, "--format", form, "--schedule", "dense") == 0
    capsys.readouterr()
    for verb in (("distill", place, "--data", images), ("search", place, "--data", images, "--budget", "flops=1G")):
        assert run(*verb, "-o", tmp_path / "never") == 2
        said = capsys.readouterr().err
        assert "dropping saves nothing; make it smaller by fgvc-kit export --precision int8" in said
        assert said.count("\n") == 1 and not (tmp_path / "never").exists()
