"""What a session really computes, found out by asking: whether its answers follow its images, and in how many digits.

A runtime's own word on its precision is read where it gives one (``runtimes/on_openvino.py``), but a wrapper, a setting
of the process or a file with casts inside can make it wrong. Rounding shows from outside: move the input by a hair to
either side. A model that computes in float32 moves straight, so that the two moves cancel but for a curvature that is
tiny at this distance; one that rounds to 8 or 11 bits jumps from step to step, and nothing cancels. On a ViT of 17
tokens in torch and OpenVINO the rest is 0.002 to 0.03 of the move in float32, and 1 to 3 times the move in bfloat16.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tavt_kit.runtimes.session import Images, Session

__all__ = ["Probed", "probe"]

_HAIR = 3e-4
"""Length of the move, as a share of the input's spread: below bfloat16's and float16's steps, far above float32's."""

_STRAIGHT = 0.2
"""Largest rest, as a share of the move, that counts as straight."""

_TRIES = 3
"""Directions: a token that is dropped for another one makes an honest model jump, but hardly three times in a row."""


@dataclass(frozen=True, slots=True)
class Probed:
    """What was found.

    Args:
        finite: Whether all logits are numbers.
        follows: Whether other images get other logits.
        fine: Whether it computes in about float32's digits; ``None`` where the logits do not tell.
        answer_ms: The quickest whole answer, images in and logits out.
    """

    finite: bool
    follows: bool
    fine: bool | None
    answer_ms: float


def probe(session: Session, images: Images, rng: np.random.Generator) -> Probed:
    """Ask a session some questions: 4 inferences of an honest one in float32, up to 8 of others.

    Args:
        session: Ready to run.
        images: (B, 3, H, W) such as it will be timed on.
        rng: Draws the directions.
    """
    times = list[float]()

    def answer(asked: Images) -> npt.NDArray[np.float64]:
        begin = time.perf_counter()
        logits = session(asked)
        times.append((time.perf_counter() - begin) * 1e3)
        return logits.astype(np.float64)

    here, elsewhere = answer(images), answer(-images)
    finite, follows = bool(np.isfinite(here).all()), not np.array_equal(here, elsewhere)
    fine: bool | None = None
    if finite and follows:
        spread = np.float32(_HAIR * images.std())
        moves = (rng.standard_normal(images.shape, dtype=np.float32) * spread for _ in range(_TRIES))
        fine = any(_rest(answer(images + move), here, answer(images - move)) < _STRAIGHT for move in moves)
    return Probed(finite, follows, fine, min(times))


def _rest(ahead: npt.NDArray[np.float64], here: npt.NDArray[np.float64], behind: npt.NDArray[np.float64]) -> float:
    """How much of two opposite moves does not cancel, as a share of the move: the median of the logits.

    The median, because a logit near zero moves in finer steps than the others even where all are rounded.
    """
    rest, move = np.abs(ahead + behind - 2 * here), np.abs(ahead - behind)
    return float(np.median(np.divide(rest, move, out=np.full_like(rest, np.inf), where=move > 0)))
