"""The memory of a search's schedules: what can be met, the fit that predicts, and the peaks of the finalists."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from statistics import median
from typing import TYPE_CHECKING, Any

from tavt_kit.bench.memory_fit import fit_memory
from tavt_kit.bench.schedule_memory import ScheduleMemory
from tavt_kit.core.budget import Budget
from tavt_kit.core.configuration import Choice, Configuration
from tavt_kit.core.host import HostFacts
from tavt_kit.core.memory_fit import MemoryFit
from tavt_kit.core.records import sha256_text
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.runtimes.available import accelerator_name
from tavt_kit.search import Costs, Store
from tavt_kit.search.feasibility import Feasibility, feasibility_table
from tavt_kit.search.finalists import Peaks
from tavt_kit.workflows.joint import target_of, variant_of
from tavt_kit.workflows.search_request import Request
from tavt_kit.workflows.search_subject import Subject

if TYPE_CHECKING:
    import numpy as np

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
    _meters: dict[tuple[int, str], ScheduleMemory] = field(default_factory=dict, init=False)

    def feasibility(self) -> list[Feasibility]:
        """The feasibility of a ceiling on memory, by measuring the two ends."""
        limits = self.request.budget.of("memory")
        if not limits:
            return []
        space = self.subject.space
        self.subject.progress.update("memory of the dense and the smallest schedule")
        peaks = {end: float(median(self._peak("end", end))) for end in (space.dense, *space.ends)}
        return feasibility_table(space, Costs(lambda schedule: 0, memory_bytes=peaks.__getitem__), Budget(limits))

    def added(self, costs: Costs) -> Costs:
        """The costs with memory among them."""
        if not self.request.asks_memory:
            return costs
        fits, space = self.fits, self.subject.space
        for precision, fit in fits.items():
            self.subject.progress.say(f"Memory{'' if precision is None else f' in {precision}'}: {fit}.")

        def bytes_of(choice: Choice) -> float:
            return fits[Configuration.of(choice).precision].predict(choice, space.tokens_of(choice))

        return replace(costs, memory_bytes=cache(bytes_of), memory_error=max(fit.slack for fit in fits.values()))

    @cached_property
    def fits(self) -> Mapping[str | None, MemoryFit]:
        """By precision, ``None`` being the target's own: measured now or by an earlier run of this search."""
        joint = self.subject.joint
        further = () if joint is None else joint.precisions[1:]
        return {None: self._fit(0), **{name: self._fit(place) for place, name in enumerate(further, 1)}}

    def _fit(self, precision: int) -> MemoryFit:
        """From fresh processes, for a place among the precisions of a joint search."""
        assert self.request.target is not None
        space, joint = self.subject.space, self.subject.joint
        ends: tuple[Choice, Choice] = (space.dense, space.least)
        target = self.request.target
        if joint is not None:
            ends = joint.given(joint.dense, precision=precision), joint.given(joint.least, precision=precision)
            target = target_of(target, ends[0])
        key = f"memory fit {target.precision} {self._ties}"
        known = self.store.get_attr(key)
        if known is None:
            made = fit_memory(
                self._peak, target, name=self.subject.card.name, ends=ends, prefix=space.prefix,
                canonical=lambda one: self._chosen(one, precision), further=self._further(precision),
                varied=lambda one, rng: self._chosen(one, precision, **self._drawn(rng)), at_size=space.tokens_of,
                seed=self.request.seed, on_step=self.subject.progress.update,
            )  # fmt: skip
            known = replace(made, host=HostFacts.gather(accelerator_name(target))).as_record()
            self.store.set_attr(key, known)
        return MemoryFit.from_record(known)

    def _chosen(self, schedule: Choice, precision: int, **genes: int) -> Choice:
        """The schedule of the search's space that does the same as one of token counts, with genes."""
        space, joint = self.subject.space, self.subject.joint
        if joint is None:
            return space.decode(space.encode(schedule))
        return joint.given(schedule, precision=precision, **genes)

    def _further(self, precision: int) -> list[Choice]:
        """Every image size and two depths alone, the least of each under a taper, and the least schedule of all."""
        joint = self.subject.joint
        if joint is None:
            return []
        sizes, depths, _, _ = joint.choices
        wanted = [{"image_size": size} for size in range(1, sizes)]
        wanted += [{"layers": fewer} for fewer in sorted({(depths - 1) // 2, depths - 1}) if fewer]
        tapered = TokenSchedule.taper(joint.tokens, joint.layers, 0.2, joint.prefix)
        found = [self._chosen(joint.dense, precision, **genes) for genes in wanted]
        least = {"image_size": sizes - 1, "layers": depths - 1}
        found += [self._chosen(tapered, precision, **{gene: place}) for gene, place in least.items() if place]
        return [*found, joint.ends[precision]]

    def _drawn(self, rng: np.random.Generator) -> dict[str, int]:
        """An image size and a depth, where they are genes."""
        joint = self.subject.joint
        if joint is None:
            return {}
        sizes, depths, _, _ = joint.choices
        return {"image_size": int(rng.integers(sizes)), "layers": int(rng.integers(depths))}

    @property
    def peaks(self) -> Peaks | None:
        """Measures finalists; ``None`` where nobody asked."""
        return self._peaks if self.request.asks_memory else None

    @property
    def record(self) -> dict[str, Any] | None:
        """What ``front.json`` says of the fit; ``None`` where nobody asked."""
        if not self.request.asks_memory:
            return None
        own, *further = (fit.as_record() for fit in self.fits.values())
        return {**own, **({"further": further} if further else {}), "allocator": _allocator()}

    def close(self) -> None:
        """Remove temporary files."""
        self._held.close()

    def _peaks(self, schedules: Sequence[Choice]) -> list[tuple[int, ...]]:
        found = []
        for done, schedule in enumerate(schedules):
            doing = f"memory of {done + 1} of {len(schedules)} finalists"
            self.subject.progress.update(doing, done / len(schedules))
            found.append(self._peak("finalist", schedule))
        return found

    def _peak(self, purpose: str, schedule: Choice) -> tuple[int, ...]:
        """Of fresh processes for this purpose; measured once."""
        key = f"peak memory, {purpose} {schedule}, {self._ties}"
        known: Sequence[int] | None = self.store.get_attr(key)
        if known is None:
            known = self._meter(schedule)(Configuration.of(schedule).schedule, _PROCESSES.get(purpose, 1))
            self.store.set_attr(key, list(known))
        return tuple(known)

    def _meter(self, schedule: Choice) -> ScheduleMemory:
        """Of the model that the schedule is of, in its precision."""
        assert self.request.target is not None  # a request that asks about memory has one
        model, target = variant_of(self.subject, schedule), target_of(self.request.target, schedule)
        key = id(model), target.precision
        if key not in self._meters:
            self._meters[key] = self._held.enter_context(closing(ScheduleMemory(model, target)))
        return self._meters[key]

    @cached_property
    def _ties(self) -> str:
        return sha256_text(json.dumps([self.subject.ties(self.request), _allocator()], sort_keys=True))


def _allocator() -> dict[str, str]:
    """Settings of the C library's allocator, which fresh processes inherit; other ones make other peaks."""
    return {name: os.environ[name] for name in sorted(os.environ) if name.startswith("MALLOC_") or name == "LD_PRELOAD"}
