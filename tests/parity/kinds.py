"""What kinds of golden files there are, and a count of what was compared.

A file's kind is the longest known beginning of its name. Of each file it is recorded which arrays a test has read; one
that none has read must stand in ``NOT_COMPARED`` with its reason, or the run fails.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

KINDS = (
    "ffvt_forward", "ffvt_google_input", "ffvt_google_loaded", "mixvit_hybrid", "mixvit_hybrid_google", "mixvit_pure",
    "pim_swin", "pim_vit", "tavt_distil", "tavt_evolution", "tavt_forward", "tavt_google_input", "tavt_google_loaded",
    "tavt_schedules", "transfg", "vitae_v1", "vitae_v2", "vitpytorch",
)  # fmt: skip

WEIGHTS = ("state/", "noff/state/", "ff/untouched_state/", "untouched_state/", "google/")
"""Beginnings of names of weights, which go in through the converter."""

NOT_COMPARED: dict[str, dict[str, str]] = {
    "ffvt_google_loaded": {"google/": "the same arrays as the input file of the pair"},
    "mixvit_hybrid": {"train/randint_draws": "raw draws; the partners accepted from them are compared"},
    "mixvit_pure": {"train/randint_draws": "raw draws; the partners accepted from them are compared"},
}
"""Kind -> beginning of an array's name -> why no test compares it."""


def kind_of(stem: str) -> str | None:
    """The longest known beginning of a file's name."""
    return max((kind for kind in KINDS if stem.startswith(kind)), key=len, default=None)


def folder_of(config: pytest.Config) -> Path:
    """Of the golden files."""
    given = config.getoption("--reference")
    return Path(given) if given else Path(__file__).parents[1] / "reference"


@dataclass(frozen=True)
class Count:
    """Of one file: how many quantities were compared, and which were not."""

    file: str
    compared: int
    left: tuple[str, ...]


def counts(reporter: Any, config: pytest.Config) -> list[Count]:
    """Of every file that a test has read; of all files where the whole folder of tests was asked for."""
    read: dict[str, set[str]] = {}
    for file, keys in noted(reporter, "golden"):
        read.setdefault(file, set()).update(keys)
    here = Path(__file__).parent
    asked = [Path(argument.split("::")[0]).resolve() for argument in config.args]
    whole = any(place == here or place in here.parents for place in asked) and not config.option.keyword
    found = []
    for file in sorted(folder_of(config).glob("*.npz")) if read else ():
        if whole or file.stem in read:
            seen, reasons = read.get(file.stem, set()), NOT_COMPARED.get(kind_of(file.stem) or "", {})
            names = quantities(file)
            left = [name for name in names if name not in seen and not name.startswith(tuple(reasons))]
            found.append(Count(file.stem, sum(name in seen for name in names), tuple(left)))
    return found


def differences(reporter: Any) -> dict[str, float]:
    """Of each file the largest difference of tensors, as a share of their largest number or of 1."""
    worst: dict[str, float] = {}
    for file, apart in noted(reporter, "difference"):
        worst[file] = max(apart, worst.get(file, 0.0))
    return worst


def noted(reporter: Any, kind: str) -> Iterator[tuple[str, Any]]:
    """What tests have noted of each file, under the property ``kind`` of their reports."""
    for report in (report for several in reporter.stats.values() for report in several):
        for name, value in getattr(report, "user_properties", ()):
            if name == kind:
                yield from json.loads(value).items()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A quantity that no test reads is a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and session.exitstatus == 0 and any(one.left for one in counts(reporter, session.config)):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """How many files and quantities were compared, and which were not."""
    found = counts(terminalreporter, config)
    if not found:
        return
    terminalreporter.section("golden numbers")
    worst = differences(terminalreporter)
    for one in found:
        left = f"; NOT COMPARED: {', '.join(one.left[:8])} ({len(one.left)} in all)" if one.left else ""
        apart = f", tensors at most {worst[one.file]:.1e} apart" if worst.get(one.file) else ""
        terminalreporter.write_line(f"{one.file}: {one.compared} quantities{apart}{left}")
    total = sum(one.compared for one in found)
    terminalreporter.write_line(f"{len(found)} files, {total} quantities compared")


def quantities(file: Path) -> list[str]:
    """Names of what was recorded; the weights and the meta are what it was recorded with."""
    if (kind_of(file.stem) or "").endswith("_google_input"):
        return []
    with np.load(file, allow_pickle=False) as arrays:
        return [name for name in arrays.files if name != "meta" and not name.startswith(WEIGHTS)]
