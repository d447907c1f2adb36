"""The memory of a search's schedules: what can be met, and the peaks of the finalists."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median
from typing import Any

from tavt_kit.bench.memory import ScheduleMemory
from tavt_kit.core.configuration import Choice, Configuration
from tavt_kit.core.records import sha256_text
from tavt_kit.search import Store
from tavt_kit.search.feasibility import Feasibility
from tavt_kit.search.finalists import Peaks
from tavt_kit.workflows.joint import target_of, variant_of
from tavt_kit.workflows.search_config import SearchConfig
from tavt_kit.workflows.search_context import SearchContext

IS = (
    "bytes at the high-water mark of a fresh process that loads the model and runs it three times, its runtime "
    "included; on a CUDA device of torch's allocator there"
)
"""What every figure is, as ``bench --memory`` has it."""

_PROCESSES = 3
"""Fresh processes of each schedule, all of which must keep to a limit."""


@dataclass
class SearchMemory:
    """Peak memory of schedules on the target of a search; where nobody asked about memory it does nothing.

    Every peak is stored as soon as it is known, so that a continued search measures none twice.

    Args:
        context: The model.
        config: Names the target.
        store: Where peaks are kept.
    """

    context: SearchContext
    config: SearchConfig
    store: Store
    _held: ExitStack = field(default_factory=ExitStack, init=False)
    _meters: dict[tuple[int, str], ScheduleMemory] = field(default_factory=dict, init=False)

    def feasibility(self) -> list[Feasibility]:
        """The feasibility of a ceiling on memory, by measuring the two ends."""
        limits = self.config.budget.of("memory")
        if not limits:
            return []
        space = self.context.space
        self.context.progress.update("memory of the dense and the smallest schedule")
        dense, *ends = (float(median(self._peak(one))) for one in (space.dense, *space.ends))
        return [Feasibility(limit, min(ends), dense, any(map(limit.admits, (dense, *ends)))) for limit in limits]

    @property
    def peaks(self) -> Peaks | None:
        """Measures finalists; ``None`` where nobody asked."""
        return self._peaks if self.config.asks_memory else None

    @property
    def record(self) -> dict[str, Any] | None:
        """What ``front.json`` says of how it was measured; ``None`` where nobody asked."""
        return {"is": IS, "allocator": _allocator()} if self.config.asks_memory else None

    def close(self) -> None:
        """Remove temporary files."""
        self._held.close()

    def _peaks(self, schedules: Sequence[Choice]) -> list[tuple[int, ...] | None]:
        """Of as many as half of the time that is left does for, of two at least."""
        found, least = list[tuple[int, ...] | None](), self.context.deadline.left() / 2
        for done, schedule in enumerate(schedules):
            if done > 1 and self.context.deadline.left() <= least < math.inf:
                found.append(None)
                continue
            doing = f"memory of {done + 1} of {len(schedules)} finalists"
            self.context.progress.update(doing, done / len(schedules))
            found.append(self._peak(schedule))
        return found

    def _peak(self, schedule: Choice) -> tuple[int, ...]:
        """Of fresh processes; measured once."""
        key = f"peak memory, {schedule}, {self._ties}"
        known: Sequence[int] | None = self.store.get_attr(key)
        if known is None:
            known = self._meter(schedule)(Configuration.of(schedule).schedule, _PROCESSES)
            self.store.set_attr(key, list(known))
        return tuple(known)

    def _meter(self, schedule: Choice) -> ScheduleMemory:
        """Of the model that the schedule is of, in its precision."""
        assert self.config.target is not None  # a config that asks about memory has one
        model, target = variant_of(self.context, schedule), target_of(self.config.target, schedule)
        key = id(model), target.precision
        if key not in self._meters:
            self._meters[key] = self._held.enter_context(closing(ScheduleMemory(model, target)))
        return self._meters[key]

    @cached_property
    def _ties(self) -> str:
        return sha256_text(json.dumps([self.context.ties(self.config), _allocator()], sort_keys=True))


def _allocator() -> dict[str, str]:
    """Settings of the C library's allocator, which fresh processes inherit; other ones make other peaks."""
    return {name: os.environ[name] for name in sorted(os.environ) if name.startswith("MALLOC_") or name == "LD_PRELOAD"}
