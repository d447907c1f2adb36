"""What ``fgvc-kit search`` searches beside token counts: sizes, layers, reductions, precisions; told, exported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tavt_kit.cli import main
from tavt_kit.core.configuration import Configuration
from tavt_kit.workflows import joint
from tests.verbs.tiny import write_images, write_run

GENES = ("--score", "any")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("joint")
    write_images(folder / "data", each=30)
    write_run(folder / "run")
    return folder


def search(place: Path, out: Path, *flags: object) -> int:
    fixed = ["search", place / "run", "--data", place / "data", "-o", out, "--population", 8, "--no-baselines",
             "--budget", "flops=300K"]  # fmt: skip
    return run(*fixed, *flags)


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return int(end.value.code or 0)


@pytest.mark.slow
def test_a_joint_front_is_found_told_and_exported(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tavt_kit.checkpoints import load_model
    from tavt_kit.data import load_bytes, load_images
    from tavt_kit.data.preprocess import Preprocessing
    from tavt_kit.evaluation.evaluator import Evaluator
    from tavt_kit.models.flops import count_macs

    out = tmp_path / "out"
    assert search(place, out, *GENES, "--evaluations", 24) == 0
    said, body = capsys.readouterr().out, json.loads((out / "front.json").read_text())
    found = [(index, Configuration.from_record(one)) for index, one in enumerate(body["candidates"])]
    index, chosen = next(pair for pair in found if pair[1].image_size)
    schedule = chosen.schedule
    assert str(chosen) in said and str(chosen) in (out / "report.html").read_text().replace("<wbr>", "")
    # Its figures are those of the model at that size, under that schedule.
    model = load_model(place / "run", image_size=chosen.image_size)
    model.score, model.reduction = chosen.score or model.score, chosen.reduction or model.reduction
    card = model.require_card()
    how = Preprocessing.from_record(card.preprocessing)
    pixels, labels = load_bytes(load_images(str(place / "data"), seed=0).split("val"), how)
    record = body["candidates"][index]
    assert record["top1"] == Evaluator(model, pixels, labels, how)(schedule).value
    assert record["macs"] == count_macs(model, schedule)
    code = run("export", out, "--data", place / "data", "-o", tmp_path / "files", "--pick", index, "--format", "onnx")
    exported = json.loads((tmp_path / "files" / "exported.json").read_text())["artifacts"][0]
    assert code == 0 and exported["verdict"] == "PASS" and exported["schedule"] == list(schedule.counts)
    # The same command goes on to the very same front, and the genes are part of what the store is tied to.
    assert search(place, out, *GENES, "--evaluations", 24) == 0
    assert json.loads((out / "front.json").read_text())["candidates"] == body["candidates"]
    assert search(place, out, "--evaluations", 24) == 2
    assert "joint was" in capsys.readouterr().err


def test_a_budget_out_of_reach_ends_before_an_image_is_looked_at(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*arguments: object, **named: object) -> None:
        raise AssertionError("an image was read")

    monkeypatch.setattr(joint, "load_arrays", never)
    fixed = ("search", place / "run", "--data", place / "data", "-o", tmp_path / "out")
    assert run(*fixed, "--budget", "flops=1K") == 2
    assert "cannot be met by any schedule" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_what_is_fixed_is_not_searched(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags, genes in (
        (("--fix", "all"), None),
        (("--algorithm", "tavt"), None),
        (("--fix", "image_size", "--fix", "layers"), {"reductions": ["drop", "merge"]}),
        (("--reduction", "merge", "--fix", "image-size"), {"reductions": ["merge"], "spared": 1}),
    ):
        out = tmp_path / "-".join(map(str, flags))
        assert search(place, out, *flags, "--evaluations", 2, "--min-patches", 1) in (0, 1)
        ties = json.loads((out / "recipe.json").read_text())["ties"].get("joint")
        assert (ties is None) == (genes is None)
        if genes is not None:
            found = ties | {"spared": len(ties["spared"])}
            assert found == {"sizes": [[32, 32]], "spared": 0, "scores": ["column"], "precisions": ["f32"]} | genes
    assert search(place, tmp_path / "out", "--fix", "size") == 2
    assert "'size'" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_finalists_are_measured_as_they_are(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    search(place, out, *GENES, "--evaluations", 12, "--target", "torch:cpu:threads=1", "--final", 2)
    body = json.loads((out / "front.json").read_text())
    measured = [one["latency_ms"] for one in body["candidates"] if one["latency_ms"] is not None]
    assert len(measured) >= 2 and all(one["samples"] >= 40 for one in measured)  # --final 2: the others are not timed
    assert body["candidates"][body["chosen"]]["latency_ms"] in measured


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runtime", "other"), [("openvino", "image-size"), ("onnxruntime", "image-size"), ("openvino", "layers")]
)
def test_int8_is_a_gene_that_answers_by_a_quantized_graph(
    place: Path, tmp_path: Path, runtime: str, other: str
) -> None:
    out = tmp_path / "out"
    flags = ("--target", f"{runtime}:cpu:threads=1", "--evaluations", 12, "--final", 2)
    asked = ["search", place / "run", "--data", place / "data", "-o", out, "--population", 6, "--no-baselines", *flags]
    fixed = {"image-size": "layers", "layers": "image-size"}[other]
    assert run(*asked, "--fix", f"reduction,{fixed}", "--budget", "top1=1%") in (0, 1)
    body = json.loads((out / "front.json").read_text())
    with (out / "candidates.csv").open() as file:
        said = file.read()
    assert "in int8" in said
    assert other != "layers" or any("without layer" in line and "in int8" in line for line in said.splitlines())
    joint = json.loads((out / "recipe.json").read_text())["ties"]["joint"]
    assert joint["precisions"][0] == "f32" and joint["precisions"][-1] == "int8"
    assert body["candidates"][body["chosen"]]["latency_ms"]["samples"] >= 40
    # A candidate in int8 is exported in int8, without being asked to.
    places = [place for place, one in enumerate(body["candidates"]) if one.get("precision") == "int8"]
    form = "openvino" if runtime == "openvino" else "onnx"
    if places:
        run("export", out, "--data", place / "data", "-o", tmp_path / "files", "--pick", places[0], "--format", form,
            "--drop", 100, "--accept-inconclusive")  # fmt: skip
        (exported,) = json.loads((tmp_path / "files" / "exported.json").read_text())["artifacts"]
        assert exported["precision"] == "int8" and exported["schedule"] == body["candidates"][places[0]]["schedule"]
