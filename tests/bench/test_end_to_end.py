"""The way from image files, and what sessions note beside their times."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tavt_kit.bench import Protocol, bench
from tavt_kit.bench.end_to_end import EndToEnd, Notes
from tavt_kit.core.device import TargetDevice
from tavt_kit.data.preprocess import Preprocessing, apply, open_image
from tavt_kit.errors import DataError, MeasurementError

HOW = Preprocessing((8, 8))
QUICK = Protocol(min_seconds=0.0, max_seconds=0.05, min_runs=4, visit_runs=2, visit_seconds=0.0, warmup_seconds=0.0)


class Seen:
    """A session that keeps what it is fed."""

    load_ms, compile_ms, input_shape = 1.0, None, (None, 3, 8, 8)

    def __init__(self, batch: int = 1) -> None:
        self.target, self.fed = TargetDevice("torch", "cpu", batch=batch), list[np.ndarray]()

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.fed.append(images)
        return images

    def timer(self, images: np.ndarray) -> Callable[[], float]:
        return lambda: 5.0


class InFlight(Seen):
    """A session whose runs are bursts of three requests."""

    class Burst:
        in_flight, streams = 3, 2

        def __init__(self) -> None:
            self.latencies = list[float]()

        def __call__(self) -> float:
            self.latencies += [30.0, 31.0, 32.0]
            return 10.0

    def timer(self, images: np.ndarray) -> Callable[[], float]:
        self.burst = self.Burst()
        return self.burst


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    rng, paths = np.random.default_rng(0), [tmp_path / f"{i}.png" for i in range(3)]
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (12, 10, 3), dtype=np.uint8)).save(path)
    return paths


def test_every_run_reads_the_next_images_as_the_model_wants_them(images: list[Path]) -> None:
    session = Seen(batch=2)
    whole = EndToEnd(session, images, HOW)
    run = whole.timer(np.zeros((2, 3, 8, 8), np.float32))
    took = [run(), run()]
    wanted = [apply(open_image(path), HOW) for path in (*images, images[0])]
    np.testing.assert_array_equal(np.concatenate(session.fed), np.stack(wanted))
    for ms, parts in zip(took, whole.parts, strict=True):
        assert len(parts) == 4 and min(parts) > 0 and sum(parts) == pytest.approx(ms)


def test_damaged_images_and_none_are_refused_before_anything_runs(images: list[Path], tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"bad\.png"):
        EndToEnd(Seen(), [*images, tmp_path / "bad.png"], HOW)
    with pytest.raises(MeasurementError, match="needs images"):
        EndToEnd(Seen(), [], HOW)


def test_notes_keep_timed_runs_only_and_pair_them_with_rounds(images: list[Path]) -> None:
    sessions = {"plain": Seen(), "many": InFlight(), "whole": EndToEnd(Seen(), images, HOW)}
    notes = Notes(sessions)
    images = np.random.default_rng(0).standard_normal((1, 3, 8, 8), dtype=np.float32)
    found = bench(sessions, images, QUICK, turns=notes)
    requests = notes.requests("many", found["many"])
    assert requests is not None and requests.n == 3 * found["many"].n  # not those of warm-up and of first runs
    assert requests.rounds == tuple(3 * size for size in found["many"].rounds) and requests.median == 31.0
    assert notes.requests("plain", found["plain"]) is None
    assert notes.in_flight("many") == (3, 2) and notes.in_flight("plain") == (1, 1)
    parts = notes.parts("whole")
    assert list(parts) == ["decode", "resize", "normalise", "inference"]
    assert sum(parts.values()) == pytest.approx(found["whole"].median, rel=0.5) and notes.parts("plain") == {}
