"""Planted cheats are reported, honest sessions are not."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tavt_kit.bench import Protocol, bench, random_images
from tavt_kit.bench.validity import Probed, ValidityMonitor, of_answers, of_images, of_threads, probe
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.models.wrap import LeanViT
from tavt_kit.runtimes import open_module
from tavt_kit.runtimes.session import Images, InputShape, Session
from tests.runtimes.models import SHAPE, tiny_vit

RNG = np.random.default_rng
IMAGES = random_images((2, 3, 8, 8), RNG(0))
CPU = TargetDevice.parse("torch:cpu:threads=1:batch=2")
WEIGHTS = RNG(1).standard_normal((192, 5)).astype(np.float32)
HASTY = Protocol(min_seconds=0.0, max_seconds=0.3, min_runs=2, visit_seconds=0.05, warmup_seconds=0.0)


class Bent:
    """Two layers in numpy that work for some milliseconds; what each cheat changes is a method."""

    input_shape: InputShape = (None, 3, 8, 8)
    load_ms = 1.0
    compile_ms = None
    target = CPU

    def __call__(self, images: Images) -> np.ndarray:
        until = time.perf_counter() + 0.004
        hidden = np.tanh(self.seen(images).reshape(len(images), -1) / 10) @ WEIGHTS
        while time.perf_counter() < until:
            pass
        return self.said(hidden)

    def seen(self, images: Images) -> Images:
        return images

    def said(self, logits: np.ndarray) -> np.ndarray:
        return logits

    def timer(self, images: Images) -> Callable[[], float]:
        def run() -> float:
            begin = time.perf_counter()
            self(images)
            return (time.perf_counter() - begin) * 1e3

        return run


class Blind(Bent):
    def seen(self, images: Images) -> Images:
        return np.zeros_like(images)


class Coarse(Bent):
    def said(self, logits: np.ndarray) -> np.ndarray:
        return (logits.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)  # bfloat16, by cutting


class Broken(Bent):
    def said(self, logits: np.ndarray) -> np.ndarray:
        return logits * np.nan


class Short(Bent):
    def timer(self, images: Images) -> Callable[[], float]:
        def run() -> float:
            time.sleep(0.0005)
            return 0.5

        return run


def doubts(session: Session, images: Images = IMAGES) -> tuple[str, ...]:
    monitor = ValidityMonitor({"one": session}, {"one": images}, RNG(0))
    found = bench({"one": session}, images, HASTY, monitor=monitor)
    # How busy the cores were is the machine's, and judged by itself below.
    return tuple(one for one in monitor.doubts("one", found["one"].median) if "cores were busy" not in one)


def test_an_honest_session_is_not_doubted() -> None:
    assert doubts(Bent()) == ()


@pytest.mark.parametrize(
    ("session", "words"),
    [
        (Blind(), "does not hang on its input"),
        (Coarse(), "computes in fewer digits"),
        (Broken(), "not numbers"),
        (Short(), "what is timed is less than an inference"),
    ],
)
def test_a_planted_cheat_is_reported(session: Session, words: str) -> None:
    (doubt,) = doubts(session)
    assert words in doubt


def test_a_precision_that_is_not_lowered_is_reported_too() -> None:
    session = Bent()
    session.target = replace(CPU, precision="bf16")
    (doubt,) = doubts(session)
    assert "said to run in bf16" in doubt and "as smooth as those of f32" in doubt


@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_the_probe_tells_torchs_precisions_apart(precision: str, dropped: bool) -> None:
    lean = LeanViT(tiny_vit(), TokenSchedule((17, 11, 6) if dropped else (17, 17, 17)))
    session = open_module(lean, TargetDevice.parse(f"torch:cpu:threads=1:precision={precision}"), SHAPE)
    for seed in range(3):
        found = probe(session, random_images(SHAPE, RNG(seed)), RNG(seed))
        assert found.follows and found.finite and found.fine is (precision == "f32") and found.answer_ms > 0


def test_inputs_that_are_no_images() -> None:
    nearly = np.zeros((1, 3, 8, 8), np.float32)
    nearly[0, :, 0, 0] = 1.0
    assert of_images(IMAGES) == ()
    assert "98 % of its input is one value" in of_images(nearly)[0]
    twice = np.repeat(IMAGES, 2, axis=0)
    assert of_images(twice) == ("its batch of 4 holds only 2 different images",)


@pytest.mark.parametrize(
    ("threads", "told", "busy", "words"),
    [
        (2, 2, 1.9, None),
        (2, 2, 1.3, None),
        (1, None, 1.2, None),
        (2, 1, None, "torch says that it uses 1"),
        (1, 1, 1.9, "1.9 cores were busy"),
        (2, 2, 1.0, "only 1.0 cores were busy"),
        (1, 1, 0.3, "other programs had the cores"),
        (None, 7, 7.0, None),
    ],
)
def test_threads(threads: int | None, told: int | None, busy: float | None, words: str | None) -> None:
    found = of_threads(replace(CPU, threads=threads), told, busy)
    assert len(found) == (words is not None) and (words is None or words in found[0])


def test_busy_cores_are_counted_by_the_processors_clock() -> None:
    class Asleep(Bent):
        def __call__(self, images: Images) -> np.ndarray:
            time.sleep(0.02)
            return np.tanh(images.reshape(len(images), -1)) @ WEIGHTS

    monitor = ValidityMonitor({"one": Asleep()}, {"one": IMAGES}, RNG(0))
    bench({"one": Asleep()}, IMAGES, HASTY, monitor=monitor)
    busy = monitor.busy("one")
    assert busy is not None and busy < 0.4
    assert "cores were busy" in monitor.doubts("one", 20.0)[0]
    answer = Probed(finite=True, follows=True, fine=True, answer_ms=10.0)
    assert of_answers(CPU, answer, 4.4) and not of_answers(CPU, answer, 4.6)


def test_the_runtimes_word_on_threads() -> None:
    lean = LeanViT(tiny_vit(), TokenSchedule((17, 11, 6)))
    for runtime in ("torch", "openvino"):
        session = open_module(lean, TargetDevice.parse(f"{runtime}:cpu:threads=1"), SHAPE)
        assert getattr(session, "told_threads", None) == 1
