"""TargetDevice: where a model is to run, and how: runtime, processor, threads, precision, batch, mode."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from tavt_kit.core.codec import Record, recorded_as
from tavt_kit.core.registry import Registry
from tavt_kit.errors import TargetError

_BASE = "sys/fs/cgroup"
_UNLIMITED = 2**60  # Version 1 writes "no limit" as the largest whole number of pages


@dataclass(frozen=True, slots=True)
class ControlGroup:
    """Limits, and how often they were felt. Limits of the groups above hold too: the smallest counts.

    Args:
        cpus: CPUs' worth of time in each period, or ``None`` for no limit, as for the memory.
        throttled: Periods in which the group was stopped because its time was used up; ``None`` where not told.
        throttled_seconds: How long it was stopped, all CPUs together.

    Source: the kernel's documentation, admin-guide/cgroup-v2 and scheduler/sched-bwc.
    """

    cpus: float | None = None
    memory_bytes: int | None = None
    throttled: int | None = None
    throttled_seconds: float | None = None

    @classmethod
    def read(cls, root: Path = Path("/")) -> ControlGroup:
        """Of this process, now."""
        quotas, limits, stats = list[float](), list[int](), list[dict[str, int]]()
        for folder in _folders(root, "cpu"):
            limit, _, period = read_text(folder / "cpu.max").partition(" ")  # of version 2, else of version 1
            limit = limit or read_text(folder / "cpu.cfs_quota_us")
            period = period or read_text(folder / "cpu.cfs_period_us") or "100000"
            if 0 < _count(limit) < _UNLIMITED and 0 < _count(period):
                quotas.append(_count(limit) / _count(period))
            pairs = [line.split() for line in read_text(folder / "cpu.stat").splitlines()]
            stats.append({pair[0]: _count(pair[1]) for pair in pairs if len(pair) == 2})
        for folder in _folders(root, "memory"):
            most = read_text(folder / "memory.max") or read_text(folder / "memory.limit_in_bytes")
            if 0 <= _count(most) < _UNLIMITED:
                limits.append(_count(most))
        throttling = [stat for stat in stats if "nr_throttled" in stat]
        # Microseconds in version 2, nanoseconds in version 1.
        stopped = [stat.get("throttled_usec", 0) / 1e6 + stat.get("throttled_time", 0) / 1e9 for stat in throttling]
        return cls(
            cpus=min(quotas, default=None),
            memory_bytes=min(limits, default=None),
            throttled=sum(stat["nr_throttled"] for stat in throttling) if throttling else None,
            throttled_seconds=sum(stopped) if throttling else None,
        )


def _count(said: str) -> int:
    """A whole number; -1, which is no limit, of ``max`` and of all else."""
    return int(said) if said.isdecimal() and len(said) < 20 else -1


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """The group's folder and those above it; of both versions where both are mounted."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        names, _, group = rest.partition(":")
        if names and controller not in names.split(","):
            continue
        bases = (root / _BASE / names, root / _BASE / controller) if names else (root / _BASE,)
        base = next((folder for folder in bases if folder.is_dir()), None)
        if base is None:
            continue
        # Seen from inside a container the group can lie outside of what is mounted; then the base is the group.
        parts = [part for part in group.split("/") if part]
        if ".." in parts or not base.joinpath(*parts).is_dir():
            parts = []
        yield from (base.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1))


def read_text(path: Path) -> str:
    """What a file of the kernel says, without space at its ends; empty where there is none."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


PRECISIONS = ("f32", "f16", "bf16", "int8")


class RuntimeFacts:
    """What a target may say of a runtime; how that runs models is ``tavt_kit.runtimes.Runtime``."""

    processors: tuple[str, ...]
    """What it can drive."""
    precisions: tuple[str, ...] = PRECISIONS
    modes: Mapping[str, tuple[str, ...]] = {}
    """How it can run a model, its usual way first, and on which processors."""


_RUNTIMES = ("torch", "onnxruntime", "openvino")
RUNTIMES: Registry[RuntimeFacts] = Registry(
    "a runtime", "tavt_kit.targets",
    {name: EntryPoint(name, f"tavt_kit.runtimes.on_{name}:RUNTIME", "") for name in _RUNTIMES},
    error=TargetError, kind=RuntimeFacts,
)  # fmt: skip
"""Those of this package and of others that are installed, by the name with which a target begins."""

_SPELLINGS = {
    "fp32": "f32", "float32": "f32", "float": "f32", "fp16": "f16", "float16": "f16", "half": "f16",
    "bfloat16": "bf16", "i8": "int8", "u8": "int8",
}  # fmt: skip
_KEYS = ("threads", "precision", "batch", "mode")
_FORM = "RUNTIME:PROCESSOR[:INDEX][:threads=N][:precision=P][:batch=N][:mode=M], such as 'openvino:cpu:threads=2'"
_WHOLE = re.compile(r"[0-9]+")


@dataclass(frozen=True, slots=True)
class TargetDevice(Record):
    """A runtime on a processor, with everything set that changes how long an inference takes.

    Args:
        runtime: ``torch``, ``onnxruntime``, ``openvino``, or one that another package adds.
        processor: ``cpu``, ``cuda``, ``tensorrt``, ``gpu`` or ``npu``, as the runtime has it.
        threads: CPU threads of one inference; ``None`` (all CPUs the process may use) until ``resolved``, and
            always for other processors.
        precision: ``f32``, ``f16``, ``bf16`` or ``int8``. For a model file it is what the file was made for.
        mode: One that the runtime has; empty for the usual one.

    Raises:
        TargetError: An unknown name, or a combination that no runtime offers.

    Example:
        >>> str(TargetDevice.parse("openvino:cpu:threads=2"))
        'openvino:cpu:threads=2:precision=f32:batch=1'
        >>> TargetDevice.parse("torch:cuda:1:precision=bf16").index
        1
    """

    runtime: str
    processor: str
    index: int = 0
    threads: int | None = None
    precision: str = "f32"
    batch: int = 1
    mode: str = field(default="", metadata=recorded_as(omit_default=True))

    def __post_init__(self) -> None:
        facts = RUNTIMES[self.runtime]
        _known(f"processor of {self.runtime}", self.processor, facts.processors)
        object.__setattr__(self, "precision", read_precision(self.precision))
        _at_least("index", self.index, 0)
        _at_least("batch", self.batch, 1)
        if self.threads is not None:
            _at_least("threads", self.threads, 1)
        if self.is_cpu and self.index:
            raise TargetError(f"a CPU has no index, got {self.runtime}:cpu:{self.index}; leave the index out")
        if not self.is_cpu and self.threads is not None:
            raise TargetError(
                f"threads are set for a CPU only, got {self.threads} for {self.runtime}:{self.processor}; "
                "leave them out"
            )
        if self.precision not in facts.precisions:
            able = _choices([name for name, other in RUNTIMES.items() if self.precision in other.precisions])
            raise TargetError(
                f"{self.runtime} runs {_choices(facts.precisions)}, got precision={self.precision}; that runs on {able}"
            )
        if self.mode and not facts.modes:
            raise TargetError(f"{self.runtime} has no modes, got mode={self.mode}; leave it out")
        if self.mode:
            _known(f"mode of {self.runtime}", self.mode, tuple(facts.modes))
            if self.processor not in facts.modes[self.mode]:
                able = _choices([f"{self.runtime}:{each}" for each in facts.modes[self.mode]])
                raise TargetError(
                    f"mode={self.mode} runs on {able}, got {self.runtime}:{self.processor}; choose {able}"
                )
            object.__setattr__(self, "mode", "" if self.mode == next(iter(facts.modes)) else self.mode)

    @property
    def is_cpu(self) -> bool:
        """Whether the model runs on the CPU, so that threads matter."""
        return self.processor == "cpu"

    @property
    def is_usual(self) -> bool:
        """Whether it runs in its runtime's usual mode, which is what tables and searches are about."""
        return not self.mode

    @classmethod
    def parse(
        cls, text: str, *, precision: str | None = None, batch: int | None = None, threads: int | None = None
    ) -> TargetDevice:
        """Read a target as the command line spells it; a key given twice, in the text or beside it, has one value."""
        runtime, _, rest = text.strip().partition(":")
        able = RUNTIMES[runtime].processors
        processor, *parts = rest.split(":")
        if not processor:
            raise TargetError(f"a target is {_FORM}, got {text!r}: add a processor ({_choices(able)})")
        index, given = 0, list[tuple[str, str]]()
        for position, part in enumerate(parts):
            key, equals, value = part.partition("=")
            if position == 0 and _WHOLE.fullmatch(part):
                index = int(part)
            elif equals:
                given.append((key, value))
            else:
                raise TargetError(f"a target is {_FORM}, got {part!r} in {text!r}")
        flags = {"precision": precision, "batch": batch, "threads": threads}
        given += [(key, str(value)) for key, value in flags.items() if value is not None]
        settings = dict[str, Any]()
        for key, value in given:
            _known("key of a target", key, _KEYS)
            read: Any = value
            if key == "precision":
                read = read_precision(value)
            elif key != "mode" and not _WHOLE.fullmatch(value):
                raise TargetError(f"{key} must be a whole number, got {value!r} in target {text!r}")
            elif key != "mode":
                read = int(value)
            if settings.setdefault(key, read) != read:
                raise TargetError(f"{key} is given twice, as {settings[key]} and {read}, in {text!r}; give it once")
        return cls(runtime, processor, index, **settings)

    def resolved(self) -> TargetDevice:
        """The same target with its number of threads filled in: as many as this process may keep busy."""
        if not self.is_cpu or self.threads is not None:
            return self
        return replace(self, threads=available_threads())

    def __str__(self) -> str:
        parts = [self.runtime, self.processor]
        if not self.is_cpu:
            parts.append(str(self.index))
        if self.threads is not None:
            parts.append(f"threads={self.threads}")
        parts += [f"precision={self.precision}", f"batch={self.batch}"]
        if not self.is_usual:
            parts.append(f"mode={self.mode}")
        return ":".join(parts)


def allowed_cpus() -> tuple[int, ...]:
    """The CPUs this process may use, by number: its affinity mask where the system has one."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def available_threads() -> int:
    """How many threads this process may keep busy: its CPUs, or the CPUs' time of its control group where less."""
    quota = ControlGroup.read().cpus
    return len(allowed_cpus()) if quota is None else min(len(allowed_cpus()), max(1, math.ceil(quota)))


def read_precision(text: str) -> str:
    """``f32 f16 bf16 int8``, from these or their long spellings (``fp32``, ``float16``, ...)."""
    word = _SPELLINGS.get(text.lower(), text.lower())
    _known("precision", word, PRECISIONS)
    return word


def _known(what: str, word: str, choices: tuple[str, ...]) -> None:
    if word not in choices:
        raise TargetError(f"unknown {what} {word!r}; choose {_choices(choices)}")


def _choices(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " or " + words[-1]


def _at_least(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise TargetError(f"{name} must be a whole number, at least {least}, got {value!r}")
