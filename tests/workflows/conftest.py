"""Images, a model, and the record of a search for workflows, which say nothing on their own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tavt_kit.core.configuration import Configuration
from tavt_kit.core.progress import Silent
from tavt_kit.core.records import write_record
from tavt_kit.core.schedule import TokenSchedule
from tests.verbs.tiny import write_images, write_run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images of each class."""
    return write_images(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder."""
    return write_run(tmp_path_factory.mktemp("runs") / "model")


@pytest.fixture
def quiet(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Fails where a workflow wrote to stdout or stderr."""
    capfd.readouterr()
    yield
    assert capfd.readouterr() == ("", "")


class Heard(Silent):
    """Keeps what a workflow says and shows."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.shown: list[object] = []

    def say(self, sentence: str) -> None:
        self.said.append(sentence)

    def show(self, value: object) -> None:
        self.shown.append(value)


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def searched(model: Path, tmp_path: Path) -> Callable[..., Path]:
    """Makes the folder of a search of the model, by its front's schedules and the index of the chosen one."""

    def make(*schedules: TokenSchedule, chosen: int | None = 0) -> Path:
        folder = tmp_path / "searched"
        shutil.copytree(model, folder)
        known = {"macs": 1, "top1": 0.5, "n": 6, "latency_ms": None, "verdict": "PASS"}
        candidates = [{**Configuration.of(one).as_record(), **known} for one in schedules]
        body = {"metric": "top1", "candidates": candidates, "chosen": chosen, "verdict": "PASS", "budgets": []}
        write_record(folder / "front.json", "front", body)
        return folder

    return make
