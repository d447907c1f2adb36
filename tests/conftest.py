"""Options, markers and fixtures every test may use."""

from __future__ import annotations

import gc
import hashlib
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import tavt_kit as tavt_kit  # before any test imports OpenVINO, which would report to its maker
from tests.parity.kinds import pytest_sessionfinish as pytest_sessionfinish
from tests.parity.kinds import pytest_terminal_summary as pytest_terminal_summary

# A shell starts what it puts in the background with SIGINT ignored, and every child inherits that: Ctrl-C's own tests
# would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)


# A busy machine draws slowly, which is no fault of what is drawn for.
settings.register_profile("ours", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ours")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--reference", default=None, help="folder of golden numbers (default: tests/reference)")
    parser.addoption("--regenerate-golden", action="store_true", help="write tests/golden's files anew")
    parser.addoption("--slice", default="0/1", metavar="K/N", help="only the tests whose name hashes to K modulo N")
    parser.addoption("--minutes", type=float, default=None, help="tests that would begin later than this are skipped")


def pytest_configure(config: pytest.Config) -> None:
    minutes = config.getoption("--minutes")
    config.stash[_DEADLINE] = None if minutes is None else time.monotonic() + 60 * minutes
    if not config.getoption("numprocesses", None) or hasattr(config, "workerinput"):
        # The class is looked up by importing torch, which who only hands tests to others need not wait for.
        config.addinivalue_line("filterwarnings", "ignore::torch.jit.TracerWarning")


_DEADLINE = pytest.StashKey[float | None]()


def pytest_runtest_setup(item: pytest.Item) -> None:
    deadline = item.config.stash[_DEADLINE]
    if deadline is not None and time.monotonic() > deadline:
        pytest.skip("its turn came after --minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slow tests run only where ``-m`` or a test's own name asks for them, gpu tests only where a CUDA device is."""
    asked = "slow" in config.getoption("-m") or any("::" in argument for argument in config.args)
    for item in items:
        gpu = item.get_closest_marker("gpu")
        if gpu and not gpu.kwargs.get("pretended") and not _has_cuda():
            item.add_marker(pytest.mark.skip(reason="gpu: no CUDA device"))
    wanted, parts = (int(number) for number in config.getoption("--slice").split("/"))
    kept = [
        item for item in items
        if (asked or not item.get_closest_marker("slow")) and _name_hash(item) % parts == wanted % parts
    ]  # fmt: skip
    if len(kept) < len(items):
        left_out = set(items) - set(kept)
        config.hook.pytest_deselected(items=[item for item in items if item in left_out])
        items[:] = kept


def pytest_collection_finish() -> None:
    """What is imported by now stays for ever: no collection of garbage need look at it, and measuring asks for many.

    What tests leave behind may lie for longer than a program's: looking for it as often takes a twentieth of the time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 10)


def _name_hash(item: pytest.Item) -> int:
    return int.from_bytes(hashlib.sha256(item.nodeid.encode()).digest()[:8], "big")


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture(autouse=True)
def _pretended_cuda(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests marked ``gpu(pretended=True)`` run everywhere: without a CUDA device on one that is pretended."""
    gpu = request.node.get_closest_marker("gpu")
    if gpu is None or not gpu.kwargs.get("pretended") or _has_cuda():
        yield
        return
    from tests.pretend_cuda import pretend_cuda

    with pretend_cuda():
        yield


@pytest.fixture(scope="session")
def reference(request: pytest.FixtureRequest) -> Path:
    """The folder of golden numbers."""
    given = request.config.getoption("--reference")
    return Path(given) if given else Path(__file__).parent / "reference"


@pytest.fixture
def short_series(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts of a latency table run a few times each: for tests that do not look at how sure its times are."""
    shorten_series(monkeypatch)


def shorten_series(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a fixture of a wider scope."""
    from tavt_kit.bench import timing

    monkeypatch.setattr(timing, "_SETTLE", (1.0, 2))
    monkeypatch.setattr(timing, "_ROUNDS", (5, 5))


@pytest.fixture(autouse=True)
def _one_torch_thread() -> None:
    """Tests run side by side; one thread each keeps them from fighting over the cores."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)
