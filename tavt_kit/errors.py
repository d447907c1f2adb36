"""The errors this package raises on purpose, all of them a ``TavtError`` and one of Python's own kinds.

Every message is one sentence: the rule, what was given, what to do. Parameters stand in backticks by their Python names
(`max_time`, `fresh=True`); the command line writes them as its flags (`max_time`, `fresh`), prints the sentence
and exits 2. Any other exception is our bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "BudgetError", "BudgetTooTight", "CheckpointError", "DataError", "ExportError", "MeasurementError",
    "MissingDependency", "OutputError", "ParameterError", "RecordError", "ScheduleError", "TargetError", "TavtError",
    "TrainingError", "UnknownName", "UnsupportedBackbone",
]  # fmt: skip


class TavtError(Exception):
    """Anything a user can put right; the parent of all errors below."""


class ScheduleError(TavtError, ValueError):
    """A token schedule breaks its rules or does not fit the model."""


class BudgetError(TavtError, ValueError):
    """A budget or limit cannot be read."""


class BudgetTooTight(BudgetError):
    """No schedule of the model can meet the budget; the message names the nearest feasible value."""


class TargetError(TavtError, ValueError):
    """A target device text is wrong, or the device is not on this machine."""


class MeasurementError(TavtError, RuntimeError):
    """A measurement failed or cannot be trusted."""


class UnsupportedBackbone(TavtError, TypeError):
    """A model whose tokens cannot be dropped rightly."""


class ParameterError(TavtError, ValueError):
    """A parameter's value cannot be read, is out of range, or contradicts another's."""


class UnknownName(TavtError, ValueError):
    """A name that is in none of the tables."""


class DataError(TavtError, ValueError):
    """Images, labels or splits are missing, unreadable or contradictory."""


class CheckpointError(TavtError, ValueError):
    """A weight file is damaged, unsafe to load, or belongs to another model."""


class RecordError(TavtError, ValueError):
    """A JSON record has another schema or version, or a run folder another content, than was asked for."""


class OutputError(TavtError, OSError):
    """A result cannot be written where it was asked for."""


class ExportError(TavtError, RuntimeError):
    """A converter or quantizer refused the model."""


class TrainingError(TavtError, RuntimeError):
    """A training run that cannot start, go on or resume."""


class MissingDependency(TavtError, ImportError):
    """An optional package is needed for what was asked."""


def first_line(error: object) -> str:
    """What an error of another library says, for a sentence of ours: its first line, or else the name of its kind."""
    return next((line.strip()[:200] for line in str(error).splitlines() if line.strip()), type(error).__name__)


def did_you_mean(word: str, known: Iterable[str], *, most: int = 1, cutoff: float = 0.6) -> str:
    """The end of a sentence about an unknown word: the known ones that are near to it; empty where none is."""
    near = difflib.get_close_matches(word, list(known), n=most, cutoff=cutoff)
    return f"; did you mean {', '.join(near)}?" if near else ""
