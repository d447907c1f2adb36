"""The memory of a search's schedules: what can be met, the fit that predicts, and the peaks of the finalists."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from statistics import median
from typing import Any

from tavt_kit.bench.memory_fit import fit_memory
from tavt_kit.bench.schedule_memory import ScheduleMemory
from tavt_kit.budget import Budget
from tavt_kit.host import HostFacts
from tavt_kit.memory_fit import MemoryFit
from tavt_kit.records import sha256_text
from tavt_kit.runtimes.available import accelerator_name
from tavt_kit.schedule import TokenSchedule
from tavt_kit.search import Costs, Store
from tavt_kit.search.feasibility import Reach, reach_of
from tavt_kit.search.final import Peaks
from tavt_kit.verbs.progress import watching
from tavt_kit.verbs.search_live import say_stage
from tavt_kit.verbs.search_request import Request
from tavt_kit.verbs.search_subject import Subject

__all__ = ["SearchMemory"]

_PROCESSES = {"end": 3, "finalist": 3}
"""Of what is judged; of what only serves to predict, one."""


@dataclass
class SearchMemory:
    """Peak memory of schedules on the target of a search; where nobody asked about memory it does nothing.

    Every peak is stored as soon as it is known, so that a continued search measures none twice and goes by the very
    same fit.

    Args:
        subject: The model.
        request: Names the target.
        store: Where peaks are kept.
    """

    subject: Subject
    request: Request
    store: Store
    _held: ExitStack = field(default_factory=ExitStack, init=False)

    def reach(self) -> list[Reach]:
        """The feasibility of a ceiling on memory, by measuring the two ends."""
        limits = self.request.budget.of("memory")
        if not limits:
            return []
        space = self.subject.space
        with watching("measuring the memory of the dense and the smallest schedule") as tell:
            tell("memory of the dense and the smallest schedule", None)
            peaks = {end: float(median(self._peak("end", end))) for end in (space.dense, space.least)}
        return reach_of(space, Costs(lambda schedule: 0, memory_bytes=peaks.__getitem__), Budget(limits))

    def added(self, costs: Costs) -> Costs:
        """The costs with memory among them."""
        if not self.request.asks_memory:
            return costs
        fit = self.fit
        say_stage(f"Memory: {fit}.")
        return replace(costs, memory_bytes=cache(fit.predict), memory_error=fit.slack)

    @cached_property
    def fit(self) -> MemoryFit:
        """From fresh processes, measured now or by an earlier run of this search."""
        request, space, key = self.request, self.subject.space, f"memory fit {self._ties}"
        known = self.store.note(key)
        if known is None:
            assert request.target is not None
            with watching("measuring memory in fresh processes") as tell:
                made = fit_memory(
                    self._peak, request.target, name=self.subject.card.name, ends=(space.dense, space.least),
                    prefix=space.prefix, canonical=lambda one: space.decode(space.encode(one)),
                    seed=request.seed, on_step=tell,
                )  # fmt: skip
            known = replace(made, host=HostFacts.gather(accelerator_name(request.target))).as_record()
            self.store.keep(key, known)
        return MemoryFit.from_record(known)

    @property
    def peaks(self) -> Peaks | None:
        """Measures finalists; ``None`` where nobody asked."""
        return self._peaks if self.request.asks_memory else None

    @property
    def record(self) -> dict[str, Any] | None:
        """What ``front.json`` says of the fit; ``None`` where nobody asked."""
        return {**self.fit.as_record(), "allocator": _allocator()} if self.request.asks_memory else None

    def close(self) -> None:
        """Remove temporary files."""
        self._held.close()

    def _peaks(self, schedules: Sequence[TokenSchedule]) -> list[tuple[int, ...]]:
        found = []
        with watching("measuring memory") as tell:
            for done, schedule in enumerate(schedules):
                tell(f"memory of {done + 1} of {len(schedules)} finalists", done / len(schedules))
                found.append(self._peak("finalist", schedule))
        return found

    def _peak(self, purpose: str, schedule: TokenSchedule) -> tuple[int, ...]:
        """Of fresh processes for this purpose; measured once."""
        key = f"peak memory, {purpose} {schedule}, {self._ties}"
        known: Sequence[int] | None = self.store.note(key)
        if known is None:
            known = self._measure(schedule, _PROCESSES.get(purpose, 1))
            self.store.keep(key, list(known))
        return tuple(known)

    @cached_property
    def _measure(self) -> ScheduleMemory:
        assert self.request.target is not None  # a request that asks about memory has one
        return self._held.enter_context(closing(ScheduleMemory(self.subject.model, self.request.target)))

    @cached_property
    def _ties(self) -> str:
        return sha256_text(json.dumps([self.subject.ties(self.request), _allocator()], sort_keys=True))


def _allocator() -> dict[str, str]:
    """Settings of the C library's allocator, which fresh processes inherit; other ones make other peaks."""
    return {name: os.environ[name] for name in sorted(os.environ) if name.startswith("MALLOC_") or name == "LD_PRELOAD"}
