"""The golden files, and what the real verbs write of a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.golden.exact import write_exact_run
from tests.golden.golden import FOLDER, Golden
from tests.verbs.tiny import write_images


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Before any model is trained: threads share sums, and so change their last bits."""
    torch.set_num_threads(1)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """The golden files beside the tests."""
    return Golden(FOLDER, request.config.getoption("--regenerate-golden"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty images of each of three classes, as ``runs-v1`` was made of."""
    return write_images(tmp_path_factory.mktemp("golden") / "data", each=20)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a model with exact weights."""
    return write_exact_run(tmp_path_factory.mktemp("golden") / "model")
