"""Runtime: how one runs models; whether a target is on this machine, each absence in one sentence."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, cast

from tavt_kit.core.device import RUNTIMES, RuntimeFacts, TargetDevice, available_threads
from tavt_kit.errors import MissingDependency, TargetError, first_line
from tavt_kit.runtimes.session import FileSession, Lengths, PartClocks, Session


class Runtime(RuntimeFacts, ABC):
    """A runtime in ``RUNTIMES``. It imports its package when a target is checked or a model opened, not before."""

    package: str
    """What is imported, and installed by pip."""
    takes: Literal["modules", "onnx", "openvino"]
    """What it opens: a torch module as it is, the bytes of an ``.onnx`` file, or an ``openvino.Model``."""
    files: tuple[str, ...] = ()
    """Endings of the files that it opens."""
    compiles_by_length: bool = False
    """Whether each part that is timed has a copy of its weights for each number of tokens."""

    @abstractmethod
    def check(self, target: TargetDevice) -> None:
        """Raise TargetError where the device is absent, or cannot compute in the target's precision."""

    @abstractmethod
    def open(self, model: Any, target: TargetDevice, begin: float, shape: tuple[int, int, int, int]) -> Session:
        """Make ready what it takes, for images of a shape; ``begin`` is when loading began, by ``perf_counter``."""

    @abstractmethod
    def part_clocks(self, part: Callable[[str], Any], target: TargetDevice) -> PartClocks:
        """How a latency table times the parts of a model; ``part`` gives what it takes by name, of any length."""

    def open_file(self, path: Path, target: TargetDevice, lengths: Lengths | None) -> FileSession:
        """Make a file ready that ends as one of ``files``; see ``runtimes.open_file``."""
        raise NotImplementedError

    def accelerator_name(self, target: TargetDevice) -> str | None:
        """The product name of a GPU or NPU; ``None`` where it has none."""
        return None


def runtime_of(name: str) -> Runtime:
    """The runtime of a name; TargetError where nothing has it."""
    return cast(Runtime, RUNTIMES[name])


def check_available(target: TargetDevice) -> None:
    """Return if the target can run here.

    Raises:
        MissingDependency: The runtime's package is not installed.
        TargetError: The device is absent or cannot compute in this precision, or there are more threads than CPUs that
            this process may use.
    """
    runtime = runtime_of(target.runtime)
    try:
        import_module(runtime.package)
    except ImportError as error:  # absent, or broken
        lacks = f"target {target} needs the {runtime.package} package ({first_line(error)})"
        raise MissingDependency(f"{lacks}; install it (pip install {runtime.package})") from None
    allowed = available_threads()
    if target.threads is not None and target.threads > allowed:  # they would take turns: a time of their quarrel
        raise TargetError(
            f"target {target} asks for {target.threads} threads, but this process may use "
            f"{allowed} {'CPU' if allowed == 1 else 'CPUs'} (by its affinity and control group); ask for at most that "
            "many"
        )
    runtime.check(target)


def is_available(target: TargetDevice, precision: str | None = None) -> bool:
    """Whether the target can run here, in this precision: torch has kernels of some that OpenVINO lacks."""
    try:
        check_available(replace(target, precision=precision or target.precision))
    except TargetError:
        return False
    return True


def refuse_modes(target: TargetDevice) -> None:
    """Raise TargetError unless the target runs in its runtime's usual mode: tables of layers know no other."""
    if not target.is_usual:
        raise TargetError(
            f"layers are timed, and schedules searched, in a runtime's usual mode only, got {target}; leave out "
            f"{target.mode}, and measure what was found in that mode by fgvc-kit bench"
        )


def accelerator_name(target: TargetDevice) -> str | None:
    """The product name of the target's GPU or NPU, or ``None`` for a CPU or an unnamed device.

    A slice of a GPU has that in its name (``MIG 1g.10gb``); one of several says which it is.
    """
    return None if target.is_cpu else runtime_of(target.runtime).accelerator_name(target)
