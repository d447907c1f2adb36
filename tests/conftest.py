"""Options, markers and fixtures every test may use."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from tests.parity.kinds import pytest_sessionfinish as pytest_sessionfinish
from tests.parity.kinds import pytest_terminal_summary as pytest_terminal_summary

# A shell starts what it puts in the background with SIGINT ignored, and every child inherits that: Ctrl-C's own tests
# would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--reference", default=None, help="folder of golden numbers (default: tests/reference)")
    parser.addoption("--regenerate-golden", action="store_true", help="write tests/golden's files anew")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slow tests run only where ``-m`` or a test's own name asks for them, gpu tests only where a CUDA device is."""
    asked = "slow" in config.getoption("-m") or any("::" in argument for argument in config.args)
    for item in items:
        if not asked and item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="slow: run with -m slow"))
        if item.get_closest_marker("gpu") and not _has_cuda():
            item.add_marker(pytest.mark.skip(reason="gpu: no CUDA device"))


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture(scope="session")
def reference(request: pytest.FixtureRequest) -> Path:
    """The folder of golden numbers."""
    given = request.config.getoption("--reference")
    return Path(given) if given else Path(__file__).parent / "reference"


@pytest.fixture(autouse=True)
def _one_torch_thread() -> None:
    """Tests run side by side; one thread each keeps them from fighting over the cores."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)
