"""Doubts: what makes a candidate's times other than they seem, as sentences that its record keeps.

The input is no image, the runtime computes in another precision or on other threads than asked for, or what is timed is
not the whole inference. So the candidate is asked (``probe``), its runtime is asked for its threads, and the clock of
what all threads of this process have worked tells how many cores were busy in the timed runs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tavt_kit.core.device import TargetDevice
from tavt_kit.runtimes.session import Images, Session

_PLAIN = 0.9  # Share of one value from which an input is no image; photographs on white paper stay below
# Share of the threads asked for below which the cores were too idle for them. Small models leave a fifth idle.
_IDLE = 0.6
_EXTRA = 0.5  # Cores busy beyond the threads asked for: more than Python's own work beside an inference
_ENOUGH_SECONDS = 0.2  # Less time says nothing of busy cores: the processor's clock may tick in hundredths of a second
# A whole answer of so many times a timed run, and these milliseconds for copies and Python, is more than was timed.
_LESS, _LEAST_MS = 2.0, 1.0
# Length of the move, as a share of the input's spread: below bfloat16's and float16's steps, far above float32's.
_HAIR = 3e-4
_STRAIGHT = 0.2  # Largest rest, as a share of the move, that counts as straight
# Directions: a token that is dropped for another one makes an honest model jump, but hardly three times in a row.
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Probed:
    """What was found: ``fine`` is whether it computes in about float32's digits, ``None`` where the logits do not tell;
    ``answer_ms`` is of the quickest whole answer, images in and logits out.
    """

    finite: bool
    follows: bool
    fine: bool | None
    answer_ms: float


class ValidityMonitor:
    """Looks on while candidates are timed, and says afterwards what to doubt."""

    def __init__(self, sessions: Mapping[str, Session], images: Mapping[str, Images], rng: np.random.Generator) -> None:
        self._sessions, self._images = dict(sessions), dict(images)
        self._rng, self._probed, self._begin = rng, dict[str, Probed](), (0.0, 0.0)
        self._worked, self._passed = dict.fromkeys(sessions, 0.0), dict.fromkeys(sessions, 0.0)

    def begin(self, name: str) -> None:
        """A turn begins. In its first one a candidate is probed: not before, so that its first inference is timed."""
        if name not in self._probed:
            self._probed[name] = probe(self._sessions[name], self._images[name], self._rng)
        self._begin = (time.process_time(), time.perf_counter())

    def end(self, name: str) -> None:
        """Its timed runs are over."""
        self._worked[name] += time.process_time() - self._begin[0]
        self._passed[name] += time.perf_counter() - self._begin[1]

    def busy(self, name: str) -> float | None:
        """Cores that worked for this process on average while the candidate was timed; ``None`` of too little time."""
        passed = self._passed[name]
        return self._worked[name] / passed if passed >= _ENOUGH_SECONDS else None

    def doubts(self, name: str, timed_ms: float) -> tuple[str, ...]:
        """Sentences on a candidate, none where nothing is to be doubted."""
        session = self._sessions[name]
        told_threads: int | None = getattr(session, "told_threads", None)
        return (
            *of_images(self._images[name]),
            *of_threads(session.target, told_threads, self.busy(name)),
            *of_answers(session.target, self._probed[name], timed_ms),
        )


def of_images(images: Images) -> tuple[str, ...]:
    """Doubts in the input (B, 3, H, W); a constant image is refused by ``bench`` itself."""
    doubts = []
    channels = (channel for image in images for channel in image)
    share = float(np.mean([np.unique(channel, return_counts=True)[1].max() / channel.size for channel in channels]))
    if share > _PLAIN:
        doubts.append(f"{100 * share:.0f} % of its input is one value: that is no image")
    different = len({image.tobytes() for image in images})
    if different < len(images):
        doubts.append(f"its batch of {len(images)} holds only {different} different images")
    return tuple(doubts)


def of_threads(target: TargetDevice, told_threads: int | None, busy: float | None) -> tuple[str, ...]:
    """Doubts in the number of threads, on a CPU: ``told`` by the runtime, and cores ``busy`` in the timed runs."""
    asked = target.threads
    if asked is None:
        return ()
    doubts, words = [], f"asked for {asked} thread{'s' if asked > 1 else ''}"
    if told_threads is not None and told_threads != asked:
        doubts.append(f"{words}, but {target.runtime} says that it uses {told_threads}")
    if busy is not None and busy > asked + _EXTRA:
        doubts.append(
            f"{words}, but {busy:.1f} cores were busy in its timed runs: more threads ran, or those of another "
            "candidate still did"
        )
    if busy is not None and busy < _IDLE * asked:
        doubts.append(
            f"{words}, but only {busy:.1f} cores were busy in its timed runs: fewer threads ran, or they waited, or "
            "other programs had the cores"
        )
    return tuple(doubts)


def of_answers(target: TargetDevice, probed: Probed, timed_ms: float) -> tuple[str, ...]:
    """Doubts in what is computed."""
    if not probed.finite:
        return ("its logits are not numbers",)
    if not probed.follows:
        return ("other images get the very same logits: what it computes does not hang on its input",)
    doubts = []
    if target.precision == "f32" and probed.fine is False:
        doubts.append(
            "said to run in f32, but its logits move in steps when the input moves by a hair: it computes in fewer "
            "digits (bf16, f16, tf32 or int8)"
        )
    if target.precision != "f32" and probed.fine:
        doubts.append(f"said to run in {target.precision}, but its logits are as smooth as those of f32")
    if target.is_cpu and target.is_usual and probed.answer_ms > _LESS * timed_ms + _LEAST_MS:
        doubts.append(
            f"a timed run takes {timed_ms:.3g} ms, but a whole answer at least {probed.answer_ms:.3g} ms: what is "
            "timed is less than an inference"
        )
    return tuple(doubts)


def probe(session: Session, images: Images, rng: np.random.Generator) -> Probed:
    """Ask a session some questions: 4 inferences of an honest one in float32, up to 8 of others."""
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
