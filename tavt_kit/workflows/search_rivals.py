"""The baselines of a search: evaluated on its pictures, measured among its finalists, judged by its budget."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tavt_kit.bench import random_images
from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.budget import Budget
from tavt_kit.core.candidate import Candidate
from tavt_kit.core.measurement import Measurement, paired_ratio
from tavt_kit.data import load_bytes
from tavt_kit.errors import DataError, TavtError
from tavt_kit.evaluation.answer import paired
from tavt_kit.evaluation.shared_evaluation import SharedEvaluator
from tavt_kit.runtimes import Images, Session
from tavt_kit.search.objectives import leading
from tavt_kit.search.rival import Rival
from tavt_kit.verbs.progress import watching
from tavt_kit.verbs.search_live import say_stage
from tavt_kit.workflows.search_contenders import Contender, own_contenders
from tavt_kit.workflows.search_given import given_contenders
from tavt_kit.workflows.search_request import Request
from tavt_kit.workflows.search_subject import Subject, pictures

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Rivals"]


@dataclass(slots=True)
class Rivals:
    """What the front is held against, from evaluation to record.

    Args:
        subject: Model and pictures.
        request: Which are wanted, and where they are to run.
        exact: Evaluates the dense model as the result shows it.
    """

    subject: Subject
    request: Request
    exact: SharedEvaluator
    left_out: list[dict[str, str]] = field(default_factory=list)
    _found: dict[str, Rival] = field(default_factory=dict)
    _open: dict[str, tuple[Session, Images]] = field(default_factory=dict)
    _measured: dict[str, tuple[Measurement, Measurement]] = field(default_factory=dict)
    _pixels: dict[Any, NDArray[np.uint8]] = field(default_factory=dict)
    _folder: tempfile.TemporaryDirectory[str] | None = None

    def prepare(self, choice: Candidate, tapered: bool) -> None:
        """Make, evaluate and open them; one that cannot be had is left out with its reason.

        Args:
            choice: What the search would choose, whose cost those that can be of any size are to match.
            tapered: Whether a uniform taper was evaluated already.
        """
        request = self.request
        if not request.baselines and not request.rivals:
            return
        begin = time.monotonic()
        self._folder = tempfile.TemporaryDirectory(prefix="fgvc-kit-baselines-")
        makes = given_contenders(self.subject, request)
        if request.baselines:
            own = own_contenders(self.subject, request, choice.macs, not tapered, Path(self._folder.name))
            makes = [*own, *makes]
        with watching("baselines") as tell:
            for done, (name, make) in enumerate(makes):
                tell(f"baseline: {name}", done / len(makes))
                self._try(name, make)
        self._pixels.clear()
        say_stage(f"{len(self._found)} baselines made and evaluated in {time.monotonic() - begin:.0f} s; none by "
                  "--no-baselines.")  # fmt: skip

    @property
    def waiting(self) -> list[str]:
        """Those that are open and not measured yet."""
        return [name for name in self._open if name not in self._measured]

    def opened(self, names: Sequence[str]) -> dict[str, tuple[Session, Images]]:
        """Sessions with their inputs."""
        return {name: self._open[name] for name in names}

    def note(self, names: Sequence[str], runs: Sequence[Measurement], dense: Measurement) -> None:
        """What was measured, and the dense model in the same rounds."""
        self._measured |= {name: (run, dense) for name, run in zip(names, runs, strict=True)}

    def finished(self, dense: Candidate, budget: Budget) -> tuple[Rival, ...]:
        """All of them, judged; their times at the pace of the final table, which the dense model in it shows."""
        found = []
        for name, rival in self._found.items():
            if name in self._measured:
                run, beside = self._measured[name]
                pace = 1.0 if dense.latency is None else dense.latency.median / beside.median
                rival = replace(rival, latency=run.at_pace(pace), ratio=paired_ratio(beside, run))
            found.append(rival.judged(budget))
        return tuple(found)

    def close(self) -> None:
        """Let go of sessions and files."""
        self._open.clear()
        if self._folder is not None:
            self._folder.cleanup()

    def _try(self, name: str, make: Callable[[], Contender]) -> None:
        try:
            contender = make()
            rival = self._evaluated(contender)
            if self.request.is_here:
                self._open[self._free(contender.name)] = contender.session(), self._inputs(contender)
            self._found[self._free(contender.name)] = rival
        except TavtError as error:
            self.left_out.append({"name": name, "reason": str(error)})

    def _free(self, name: str) -> str:
        """The name, numbered where another has it."""
        names = (name, *(f"{name} #{number}" for number in range(2, 100)))
        return next(text for text in names if text not in self._found)

    def _inputs(self, contender: Contender) -> Images:
        import numpy as np

        target = self.request.target
        assert target is not None  # it is here
        shape = (target.batch, 3, *contender.preprocessing.image_size)
        return random_images(shape, np.random.default_rng(self.request.seed))

    def _evaluated(self, contender: Contender) -> Rival:
        import numpy as np

        exact, dense = self.exact, self.subject.space.dense
        batch = 1 if self.request.target is None else self.request.target.batch
        rival = Rival(contender.name, contender.kind, exact.split, contender.macs, batch=batch, note=contender.note)
        if contender.logits is None:
            return rival
        logits = contender.logits(self._prepared(contender), exact.labels)
        if not np.isfinite(logits).all():
            raise DataError("its logits are not finite")
        right = logits.argmax(axis=1) == exact.labels
        accuracy = Accuracy.of_counts(int(right.sum()), len(right), split=exact.split)
        more = () if exact.scoring is None else exact.scoring.of(logits, lambda: exact.predicted(dense))
        leads, others = leading(self.request.metrics[0], (accuracy, *more))
        return replace(rival, accuracy=leads, others=others, difference=paired(exact.right(dense), right))

    def _prepared(self, contender: Contender) -> NDArray[np.uint8]:
        """The pictures of the search in its order, as this one wants them."""
        how = contender.preprocessing
        if how == self.subject.preprocessing:
            found: NDArray[np.uint8] = self.exact.pixels[:]
            return found
        if how not in self._pixels:
            read = load_bytes(pictures(self.subject, self.request), how,
                              allow_unreadable=self.request.allow_unreadable)  # fmt: skip
            self._pixels[how] = read.pixels
        return self._pixels[how]
