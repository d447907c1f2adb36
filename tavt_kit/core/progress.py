"""What a workflow tells whoever watches it; the command line draws lines and bars from it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """A watcher of one workflow, told of its stages one after the other."""

    def say(self, sentence: str) -> None:
        """A sentence worth keeping: what begins now, or what was found on the way."""
        return

    def show(self, value: object) -> None:
        """A value worth a look while the work goes on: a feasibility table, the state of a search."""
        return

    def stage(self, what: str, total: int, done: int = 0) -> None:
        """A stage of counted units begins: ``what`` it does, how many units it has, how many were done before."""
        return

    def advance(self, units: int = 1, **values: float) -> None:
        """Some units of the stage are done; ``values`` are worth showing (loss, images per second)."""
        return

    def update(self, doing: str, share: float | None = None) -> None:
        """What is done now, and the share of the whole that is done (0 to 1), or None where nobody knows."""
        return


class Silent(Progress):
    """Nobody watches."""
