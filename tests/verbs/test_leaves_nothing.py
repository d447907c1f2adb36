"""A folder that another process holds is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.core.test_lock import hold
from tests.verbs.command import run

HELD: dict[str, tuple[object, ...]] = {
    "fit": ("fit", "{data}"),
    "train": ("train", "{run}", "--data", "{data}"),
    "distill": ("distill", "{run}", "--data", "{data}"),
    "prune": ("prune", "{run}", "--mlp", 0.5, "--data", "{data}"),
    "average": ("average", "{run}", "{run}", "--data", "{data}"),
    "search": ("search", "{run}", "--data", "{data}"),
    "export": ("export", "{run}", "--schedule", "dense", "--data", "{data}"),
    "check": ("check", "--predictions", "{run}/model.json", "--against", "{run}", "--data", "{data}"),
    "bench": ("bench", "{run}", "--target", "torch:cpu"),
    "profile": ("profile", "{run}", "--target", "torch:cpu"),
    "eval": ("eval", "{run}", "--data", "{data}"),
    "predict": ("predict", "{run}", "{data}"),
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
