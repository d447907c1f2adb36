"""Which tokens an exported graph keeps: as many as its card says, and of equal scores the first.

Real pictures hardly ever tie, and a rounded graph may keep one token too many without anyone seeing it in its accuracy.
So the graph itself is asked. How many it keeps is read off its TopK nodes. Its rule for ties is tried: a copy of the
graph gets scores that tie in halves, and once more the same scores with the ties resolved towards the first; both must
give the same logits, in the very runtime and precision that is being checked. And the rows that it then gathers must be
those that the tied scores say, counted from the first token: a graph that turns its scores round before it chooses, and
the indices back after, keeps the last of equal ones.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tavt_kit.checks.onnx_choice import OnnxChoice
from tavt_kit.checks.openvino_choice import OpenvinoChoice
from tavt_kit.checks.swayed import ChoosingGraph, rows_wanted
from tavt_kit.core.artifact_card import ArtifactCard
from tavt_kit.core.device import TargetDevice

__all__ = ["TokenChoice", "choice_of"]

_log = logging.getLogger(__name__)

_TOLERANCE = 1e-3  # of the largest logit; the same tokens in the same order give the same logits to the bit


@dataclass(frozen=True, slots=True)
class TokenChoice:
    """What was found of a graph's choice of tokens.

    Args:
        kept: Patches kept by each choice, in the order of the graph; ``None`` where it does not say.
        ties_difference: Between logits under tied and under resolved scores, as a share of the largest; ``None`` where
            it could not be tried.
        reason: One clause, where it is not what the card says.
        untried: Why ties could not be tried, where that was.
    """

    kept: tuple[int, ...] | None
    ties_difference: float | None
    reason: str = ""
    untried: str = ""

    def as_record(self) -> dict[str, Any]:
        """JSON-ready."""
        kept = None if self.kept is None else list(self.kept)
        return {
            "kept": kept,
            "ties_difference": self.ties_difference,
            "reason": self.reason,
            "untried": self.untried,
        }


def choice_of(path: Path, card: ArtifactCard, target: TargetDevice, images: NDArray[np.float32]) -> TokenChoice | None:
    """Ask a file for its choice of tokens.

    Args:
        path: An ``.onnx`` or ``.xml`` file that the target can run.
        card: What it says of itself.
        target: Where it runs.
        images: (B, 3, H, W), preprocessed; two are enough.

    Returns:
        ``None`` of a file that drops nothing, or that takes more than images (a switchable one).
    """
    if card.is_dense or path.suffix not in (".onnx", ".xml"):
        return None
    graph: ChoosingGraph | None
    graph = OpenvinoChoice.read(path, target) if target.runtime == "openvino" else OnnxChoice.read(path, target)
    if graph is None:
        return None
    kept, wanted = graph.kept(), _wanted(card)
    if kept is not None and not _holds(kept, wanted):
        said = f"it keeps {_list(kept)} patches, where its card says {_list(wanted)}"
        return TokenChoice(kept, None, said)
    if card.model.reduction == "merge":
        # Made-up scores would be costs, and the choice of owners would not follow from them; a test of every route
        # holds the rule for ties.
        return TokenChoice(kept, None, untried="ties among costs of merging are not tried on a file")
    try:
        answers = graph.sway(images)
    except Exception as error:  # a graph whose choices are made otherwise; what its runtime says of that is recorded
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        _log.info("the choice of tokens of %s could not be tried: %s", path.name, line)
        return TokenChoice(kept, None, untried=line[:200])
    if answers is None:
        return TokenChoice(kept, None, untried="it chooses no tokens by TopK")
    apart = float(np.abs(answers.tied - answers.resolved).max() / max(float(np.abs(answers.resolved).max()), 1e-12))
    broken = not apart <= _TOLERANCE or not _first_stay(answers.rows, card)
    reason = (
        f"of tokens with equal scores it keeps others than the first where {target.runtime} runs it" if broken else ""
    )
    return TokenChoice(kept, apart if np.isfinite(apart) else None, reason)


def _wanted(card: ArtifactCard) -> tuple[int, ...]:
    """Patches that stay after each layer that drops some."""
    counts, runs = card.schedule.counts, card.schedule.runs
    executed = [count for layer, count in enumerate(counts) if runs(layer)]
    before = [card.tokens, *executed[:-1]]
    return tuple(count - card.prefix for count, old in zip(executed, before, strict=True) if count < old)


def _first_stay(rows: Sequence[tuple[int, ...] | None], card: ArtifactCard) -> bool:
    """Whether the rows that each layer should keep of tied scores are among those that are gathered, in order.

    As in ``_holds``, a family may have choices of its own beside them, and the last one may be missing.
    """
    if None in rows:
        return True  # then the logits alone decide
    stay = [kept + card.prefix for kept in _wanted(card)]
    wanted = [rows_wanted(n, kept, card.prefix) for n, kept in zip((card.tokens, *stay), stay, strict=False)]
    rest = iter(rows)
    return all(one in rest for one in (wanted if len(rows) == len(wanted) else wanted[:-1]))


def _holds(kept: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether the choices are among those found, in order: a family may have choices of its own beside them.

    The last one may be missing: a head that reads only the class token makes none in the last layer.
    """
    if len(kept) == len(wanted) and tuple(kept[:-1]) == tuple(wanted[:-1]):
        return kept[-1] == wanted[-1]
    rest = iter(kept)
    return all(count in rest for count in wanted[:-1])


def _list(counts: Sequence[int]) -> str:
    return ", ".join(map(str, counts)) or "none"
