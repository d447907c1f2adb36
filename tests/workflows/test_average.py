"""``average``: the mean of weights, a network of every size that went in; what does not go together is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tavt_kit as tk
from tavt_kit.bench.parts import timed_model
from tavt_kit.checkpoints import load_model, save_model
from tavt_kit.core.budget import Verdict
from tavt_kit.core.configuration import Configuration
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.latency_table import Curve, DropCell, LatencyTable, LayerCells
from tavt_kit.errors import CheckpointError, OutputError, RecordError
from tests.verbs.command import run
from tests.verbs.tiny import write_images, write_run


def moved(source: Path, out: Path, step: float, size: int | None = None) -> Path:
    """A run whose weights are a little elsewhere, perhaps of another image size."""
    model = load_model(source, image_size=size)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += step
    save_model(out, model, replace(model.require_card(), weights_sha256=""))
    return out


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Images, and two runs of one start, the second of a smaller size."""
    folder = tmp_path_factory.mktemp("average")
    data, model = write_images(folder / "data"), write_run(folder / "model")
    size = load_model(model).backbone.image_size[0]
    return data, model, moved(model, folder / "other", 0.5, size // 2)


def test_weights_are_the_mean_and_every_size_is_known(runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    data, first, second = runs
    done = tk.average([first, second], tmp_path / "mean", data)
    mean, whole = load_model(done.folder), load_model(first)
    size = whole.backbone.image_size[0]
    assert mean.backbone.image_size == (size, size) and mean.require_card().image_sizes == (size // 2,)
    other = load_model(second, image_size=size).state_dict()
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(mean.state_dict()[name], (tensor + other[name]) / 2)
    assert [row["image_size"] for row in done.record["rows"]] == [size, size // 2]
    assert all(row["top1"]["n"] == row["average_top1"]["n"] for row in done.record["rows"])
    again = tk.average([first, second], tmp_path / "mean", data)
    assert again.record["rows"] == done.record["rows"] and str(size) in repr(done)
    assert not [file for file in done.folder.iterdir() if file.name.startswith(".tmp")]


@pytest.mark.slow
def test_a_mean_of_the_same_is_the_same(runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    data, first, _ = runs
    done = tk.average([first, first], tmp_path / "mean", data)
    assert done.record["rows"][0]["difference"]["difference"] == 0
    for name, tensor in load_model(first).state_dict().items():
        assert torch.equal(load_model(done.folder).state_dict()[name], tensor)


@pytest.mark.slow
def test_a_mean_is_searched_and_checked_at_every_size(runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    data, first, second = runs
    mean = load_model(tk.average([first, second], tmp_path / "mean", data).folder)
    cells = LayerCells(
        Curve((2, 17), (0.1, 0.85)), (DropCell(2, 2, 0.1, 2, 0.1), DropCell(17, 8, 0.85, 15, 0.85)),
        Curve((2, 17), (0.1, 0.85)), Curve((2, 17), (0.2, 1.7)), 2.0, Curve((1,), (0.001,)),
    )  # fmt: skip
    target = TargetDevice.parse("openvino:cpu:threads=1").resolved()
    table = LatencyTable(target, timed_model(mean, mean.require_card().name), cells)
    found = tk.search(
        tmp_path / "mean", data=data, out=tmp_path / "out", profile=table,
        budget="latency=7ms", objective="divergence", evaluations=16, population=4,
    )  # fmt: skip
    body, own = found.record, mean.backbone.image_size[0]
    everything = [*body["candidates"], *body["baselines"]]
    assert body["metric"] == "fidelity" and {one["others"]["top1"]["n"] for one in everything} == {6}
    (dense,) = [one for one in everything if one["origin"] == "dense"]
    assert dense["fidelity"] == 1 and 0 < min(one["fidelity"] for one in everything) < 1
    assert {tuple(one.get("image_size", (own, own))) for one in everything} == {(own, own), (own // 2, own // 2)}
    assert all(one["latency_ms"]["predicted"] <= 7 for one in body["candidates"])
    smaller = Configuration(load_model(tmp_path / "mean", image_size=own // 2).dense_schedule, (own // 2, own // 2))
    (file,) = tk.export(tmp_path / "mean", tmp_path / "files", schedule=[smaller], data=data, accept_inconclusive=True)
    checked = tk.check(file.path, tmp_path / "mean", data=data)
    assert checked.verdict is Verdict.PASS and checked.checks[0].top1.value == file.check.top1.value


def test_through_the_command(runs: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, first, second = runs
    assert run("average", first, second, "-o", tmp_path / "mean", "--data", data, "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 2
    assert run("average", first, second, "-o", tmp_path / "mean", "--data", data, "--limit", 3) == 2
    assert "--fresh" in capsys.readouterr().err


@pytest.mark.parametrize("case", ["one", "itself", "classes", "foreign"])
def test_what_does_not_go_together_writes_nothing(runs: tuple[Path, Path, Path], tmp_path: Path, case: str) -> None:
    data, first, second = runs
    out, given = tmp_path / "mean", [first, second]
    error: type[Exception] = CheckpointError
    if case == "one":
        given = [first]
    elif case == "itself":
        out, error = first, OutputError
    elif case == "classes":
        model = load_model(first)
        save_model(tmp_path / "other", model, replace(model.require_card(), classes=("x", "y", "z"), weights_sha256=""))
        given = [first, tmp_path / "other"]
    else:
        out, error = moved(first, tmp_path / "taken", 0.0), RecordError
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error):
        tk.average(given, out, data)
    assert [path for path in sorted(tmp_path.rglob("*")) if path.name != ".lock"] == before
