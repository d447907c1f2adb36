"""Images and a model for verbs that need no others; a module that does has its own fixture of the name."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.verbs.tiny import write_images, write_run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images of each class."""
    return write_images(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder."""
    return write_run(tmp_path_factory.mktemp("runs") / "model")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``data``, twenty images of each class, and a model in ``run``."""
    folder = tmp_path_factory.mktemp("place")
    write_images(folder / "data", each=20)
    write_run(folder / "run")
    return folder
