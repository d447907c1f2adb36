"""Notes: what sessions note beside the time of a run, kept of the timed runs only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from tavt_kit.bench.end_to_end import PARTS, EndToEnd
from tavt_kit.core.measurement import Measurement
from tavt_kit.runtimes.session import Session


class Notes:
    """Looks on as ``Turns``: latencies of single requests where many are in flight, parts of end-to-end times.

    Args:
        sessions: As given to ``bench``.
    """

    def __init__(self, sessions: Mapping[str, Session]) -> None:
        self._sessions = sessions
        self._latencies: dict[str, list[float]] = {name: [] for name in sessions}
        self._rounds: dict[str, list[int]] = {name: [] for name in sessions}
        self._parts: dict[str, list[tuple[float, ...]]] = {name: [] for name in sessions}

    def begin(self, name: str) -> None:
        """See ``Turns``."""
        for noted in self._noted(name):
            noted.clear()

    def end(self, name: str, times: Sequence[float]) -> None:
        """See ``Turns``."""
        latencies, parts = self._noted(name)
        if latencies:
            self._latencies[name] += latencies
            self._rounds[name].append(len(latencies))
        self._parts[name] += parts

    def requests(self, name: str, whole: Measurement) -> Measurement | None:
        """Latencies of single requests (ms), or ``None`` where one inference was run at a time.

        Args:
            name: Of the candidate.
            whole: Its measurement, as sure as this one is.
        """
        found = self._latencies[name]
        if not found:
            return None
        return Measurement(tuple(found), whole.steady, tuple(self._rounds[name]), whole.load_ms)

    def in_flight(self, name: str) -> tuple[int, int]:
        """Requests at once, and OpenVINO's streams that compute them; (1, 1) where one inference is run at a time."""
        burst = getattr(self._sessions[name], "burst", None)
        return (1, 1) if burst is None else (burst.in_flight, burst.streams)

    def parts(self, name: str) -> dict[str, float]:
        """Medians of the parts of an end-to-end time (ms); empty for the model alone."""
        columns = zip(*self._parts[name], strict=True)
        return {part: median(column) for part, column in zip(PARTS, columns, strict=False)}

    def _noted(self, name: str) -> tuple[list[float], list[tuple[float, ...]]]:
        session = self._sessions[name]
        burst = getattr(session, "burst", None)  # of OpenVINO's sessions, whose runtime may not be installed
        return ([] if burst is None else burst.latencies), (session.parts if isinstance(session, EndToEnd) else [])
