"""What has not been asked yet: every algorithm takes its schedules from here, so none is asked twice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np

from tavt_kit.core.configuration import Choice
from tavt_kit.errors import BudgetTooTight
from tavt_kit.search.algorithm import Outcome
from tavt_kit.search.operators import fit
from tavt_kit.search.seeds import Fits, first_proposals
from tavt_kit.search.space import Levels, Space

__all__ = ["EXHAUSTED", "Untried"]

EXHAUSTED = "no schedule is left that was not tried"

_TRIES = 400  # random draws for one missing schedule, before the space is listed or the search ends
_LISTABLE = 20_000  # spaces up to this size are listed to the end before they count as exhausted


class Untried:
    """The schedules within the ceilings that were never asked, and who proposed those that were.

    Args:
        space: What may be proposed.
        rng: Of the random ones.
        fits: Whether a schedule keeps to the ceilings. ``None``: all do.

    Raises:
        BudgetTooTight: No schedule keeps to the ceilings.
    """

    def __init__(self, space: Space, *, rng: np.random.Generator, fits: Fits | None = None) -> None:
        self.space = space
        self.fits: Fits = fits or (lambda schedule: True)
        if not any(map(self.fits, space.ends)):
            raise BudgetTooTight(f"not even the least schedule keeps to the ceilings: {space.ends[-1]}")
        self.asked: set[bytes] = set()
        self._rng = rng
        self._origins: dict[Choice, str] = {}
        self._waiting = 0

    def first(self, number: int, seeds: Sequence[Choice]) -> list[Levels]:
        """The seeds and, up to ``number``, the families of ``first_proposals``; a small space gives fewer."""
        found = self._seeded(seeds)
        wanted = max(number, len(found))
        proposals = first_proposals(self.space, wanted, fits=self.fits, rng=self._rng)
        for schedule, origin in islice(proposals, wanted + _TRIES):
            if len(found) >= wanted:
                break
            self._admit(found, schedule, origin)
        return list(found.values())

    def random(self, number: int, seeds: Sequence[Choice] = ()) -> list[Levels]:
        """The seeds and, up to ``number``, schedules by chance; where chance finds none, from the list of all."""
        found = self._seeded(seeds)
        for _ in range(_TRIES):
            if len(found) >= number:
                break
            self._admit(found, self.space.decode(self.space.sample(self._rng)), "random")
        if not found and self.space.size <= _LISTABLE:
            found = {row.tobytes(): row for row in islice(self._listed(), number)}
        return list(found.values())

    def new(self, rows: Iterable[Levels], number: int) -> list[Levels]:
        """Up to ``number`` of the rows, brought into the ceilings, none asked before and none twice."""
        found: dict[bytes, Levels] = {}
        for row in rows:
            genes = fit(row, self.space, self.fits, fill=False)
            if genes.tobytes() not in self.asked:
                found.setdefault(genes.tobytes(), genes)
            if len(found) >= number:
                break
        return list(found.values())

    def issue(self, genes: Sequence[Levels], origin: str) -> list[Choice]:
        """The schedules of the genes, asked from now on; ``origin`` is of those that have none yet.

        Raises:
            RuntimeError: The outcomes of the last generation have not been told.
        """
        self.check_told()
        self.asked.update(row.tobytes() for row in genes)
        schedules = [self.space.decode(row) for row in genes]
        for schedule in schedules:
            self._origins.setdefault(schedule, origin)
        self._waiting = len(schedules)
        return schedules

    def check_told(self) -> None:
        """Raise RuntimeError where outcomes are still awaited."""
        if self._waiting:
            raise RuntimeError("tell the outcomes of the last generation before asking for the next")

    def take(self, outcomes: Sequence[Outcome]) -> None:
        """Check that the outcomes are those that were asked for."""
        if not self._waiting or len(outcomes) != self._waiting:
            raise RuntimeError(f"{self._waiting} schedules were asked, but {len(outcomes)} outcomes told")
        self._waiting = 0

    def origin(self, schedule: Choice, otherwise: str) -> str:
        """Who proposed it."""
        return self._origins.get(schedule, otherwise)

    def _seeded(self, seeds: Sequence[Choice]) -> dict[bytes, Levels]:
        found: dict[bytes, Levels] = {}
        for schedule in seeds:
            self._admit(found, schedule, "user")
        return found

    def _admit(self, found: dict[bytes, Levels], schedule: Choice, origin: str) -> None:
        wanted = self.space.encode(schedule)
        genes = fit(wanted, self.space, self.fits, fill=False)
        if genes.tobytes() not in self.asked:
            found.setdefault(genes.tobytes(), genes)
            same = np.array_equal(genes[: self.space.extras], wanted[: self.space.extras])
            self._origins.setdefault(self.space.decode(genes), origin if same else "joint")

    def _listed(self) -> Iterable[Levels]:
        for row in self.space.every():
            if row.tobytes() not in self.asked and self.fits(self.space.decode(row)):
                yield row
