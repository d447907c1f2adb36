"""A watcher that writes down what it is told."""

from __future__ import annotations

from tavt_kit.core.progress import Silent


class Told(Silent):
    """What was said, what was done and how much of it, each in order."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.done: list[str] = []
        self.shares: list[float | None] = []

    def say(self, sentence: str) -> None:
        self.said.append(sentence)

    def update(self, doing: str, share: float | None = None) -> None:
        self.done.append(doing)
        self.shares.append(share)
