"""What a long job tells whoever watches it; the verbs draw a bar from it."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Progress", "Silent"]


class Progress(Protocol):
    """A watcher of stages, one after the other."""

    def stage(self, what: str, total: int, done: int = 0) -> None:
        """A new stage begins: ``what`` it does, of how many units, and how many were done before."""
        ...

    def advance(self, units: int = 1, **values: float) -> None:
        """Some units are done; ``values`` are worth showing (loss, images per second)."""
        ...


class Silent:
    """Nobody watches."""

    def stage(self, what: str, total: int, done: int = 0) -> None:
        """Nothing."""

    def advance(self, units: int = 1, **values: float) -> None:
        """Nothing."""
