"""Bad input is refused before a folder is made for what would have come of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.core.test_lock import hold
from tests.verbs.command import run

MODEL, DATA, TARGET = "no_such_model", "no_such_data", "abacus:cpu"
CASES: dict[str, tuple[object, ...]] = {
    "train, model": ("train", MODEL, "--data", "{data}", "--weights", "random"),
    "train, data": ("train", "{run}", "--data", DATA),
    "train, other classes": ("train", "{run}", "--data", "{data}", "--fraction", "0"),
    "distill, model": ("distill", MODEL, "--data", "{data}"),
    "distill, data": ("distill", "{run}", "--data", DATA),
    "distill, no data": ("distill", "{run}"),
    "prune, model": ("prune", MODEL, "--mlp", 0.5, "--data", "{data}"),
    "prune, data": ("prune", "{run}", "--mlp", 0.5, "--data", DATA),
    "prune, target": ("prune", "{run}", "--data", "{data}", "--budget", "latency=1ms", "--target", TARGET),
    "search, model": ("search", MODEL, "--data", "{data}", "--weights", "random"),
    "search, data": ("search", "{run}", "--data", DATA),
    "search, target": ("search", "{run}", "--data", "{data}", "--target", TARGET),
    "search, absent target": ("search", "{run}", "--data", "{data}", "--target", "openvino:gpu.7"),
    "search, budget": ("search", "{run}", "--data", "{data}", "--budget", "flops=1"),
    "export, model": ("export", MODEL, "--schedule", "dense", "--data", "{data}"),
    "export, data": ("export", "{run}", "--schedule", "dense", "--data", DATA),
    "export, target": ("export", "{run}", "--schedule", "dense", "--data", "{data}", "--target", TARGET),
    "export, absent target": (
        "export",
        "{run}",
        "--schedule",
        "dense",
        "--data",
        "{data}",
        "--target",
        "openvino:gpu.7",
    ),
    "check, file": ("check", "{data}/disc/0.png", "--against", "{run}", "--data", "{data}"),
    "check, source": ("check", "{run}", "--against", MODEL, "--data", "{data}"),
    "check, data": ("check", "{run}", "--against", "{run}", "--data", DATA),
    "check, target": ("check", "{run}", "--against", "{run}", "--data", "{data}", "--target", TARGET),
    "check, absent target": ("check", "{run}", "--against", "{run}", "--data", "{data}", "--target", "torch:cuda:7"),
    "bench, model": ("bench", MODEL, "--weights", "random", "--target", "torch:cpu"),
    "bench, data": ("bench", "{run}", "--target", "torch:cpu", "--data", DATA),
    "bench, target": ("bench", "{run}", "--target", TARGET),
    "profile, model": ("profile", MODEL, "--weights", "random", "--target", "torch:cpu"),
    "profile, target": ("profile", "{run}", "--target", TARGET),
    "profile, score": ("profile", "{run}", "--target", "torch:cpu", "--score", "magic"),
    "eval, model": ("eval", MODEL, "--data", "{data}"),
    "eval, data": ("eval", "{run}", "--data", DATA),
    "eval, target": ("eval", "{run}", "--data", "{data}", "--target", TARGET),
    "eval, unlabelled": ("eval", "{run}", "--unlabelled", DATA),
    "explain, model": ("explain", MODEL, "{data}/disc/0.png"),
    "explain, images": ("explain", "{run}", "{data}/none.png"),
    "report, run": ("report", MODEL),
    "convert, file": ("convert", "no_such.pth"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_leaves_nothing_behind(
    case: str,
    data: Path,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(model.iterdir())
    words = [str(word).format(data=data, run=model) for word in CASES[case]]
    assert run(*words, "-o", "out/deep") == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"fgvc-kit {words[0]}: ")
    assert list(tmp_path.iterdir()) == [] and sorted(model.iterdir()) == before


def test_a_pack_that_cannot_be_made_leaves_nothing_behind(model: Path, tmp_path: Path) -> None:
    pack = tmp_path / "out" / "pack.zip"
    assert run("bench", model, "--pack", pack) == 2  # it is no search
    assert run("profile", MODEL, "--weights", "random", "--target", "openvino:cpu", "--pack", pack) == 2
    assert list(tmp_path.iterdir()) == []


HELD: dict[str, tuple[object, ...]] = {
    "train": ("train", "{run}", "--data", "{data}"),
    "distill": ("distill", "{run}", "--data", "{data}"),
    "prune": ("prune", "{run}", "--mlp", 0.5, "--data", "{data}"),
    "search": ("search", "{run}", "--data", "{data}"),
    "export": ("export", "{run}", "--schedule", "dense", "--data", "{data}"),
    "check": ("check", "{run}", "--against", "{run}", "--data", "{data}"),
    "bench": ("bench", "{run}", "--target", "torch:cpu"),
    "profile": ("profile", "{run}", "--target", "torch:cpu"),
    "eval": ("eval", "{run}", "--data", "{data}"),
    "eval, unlabelled": ("eval", "{run}", "--unlabelled", "{data}"),
    "explain": ("explain", "{run}", "{data}/disc/0.png"),
}


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """A folder that another process holds, and its number."""
    folder = tmp_path_factory.mktemp("held")
    process = hold(folder)
    yield folder, process.pid
    process.kill()
    process.communicate()


@pytest.mark.parametrize("case", HELD)
def test_two_processes_never_write_one_folder(
    case: str, data: Path, model: Path, held: tuple[Path, int], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, number = held
    assert run(*(str(word).format(data=data, run=model) for word in HELD[case]), "-o", folder) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"process {number} on " in said and "fresh" not in said
    assert [file.name for file in folder.iterdir()] == [".lock"]
