"""What ``honesty`` plants: load on the cores, a slower session, and sessions that cheat."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tavt_kit.core.device import TargetDevice, available_threads
from tavt_kit.runtimes import Images, Session, open_file
from tavt_kit.runtimes.on_openvino import executed_precision, openvino_core, request_clock

LOADS = {"steady": (1e9, 0.0), "bursts": (0.5, 0.3)}
"""Seconds of work and of rest, at most; drawn evenly below that."""

_BURN = """
import os, random, sys, time
import numpy as np
rng, work, rest = random.Random(int(sys.argv[1])), float(sys.argv[2]), float(sys.argv[3])
square, long, parent = np.random.rand(300, 300), np.zeros(2**21), os.getppid()
while os.getppid() == parent:
    end = time.perf_counter() + min(rng.uniform(0, work), 1.0)
    while time.perf_counter() < end:
        square @ square
        long += 1
    time.sleep(rng.uniform(0, rest))
"""


@contextmanager
def load(kind: str, seed: int) -> Iterator[None]:
    """Other processes that compute and move memory on the cores of this one, one for each core."""
    one = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    words = [str(value) for value in LOADS[kind]]
    burning = [
        subprocess.Popen([sys.executable, "-c", _BURN, str(seed + place), *words], env=one)
        for place in range(available_threads())
    ]
    try:
        time.sleep(1.0)
        yield
    finally:
        for process in burning:
            process.kill()
            process.wait()


class Wrapped:
    """A session that is another one, but for what a cheat changes."""

    def __init__(self, session: Session, target: TargetDevice | None = None, *, told: bool = True) -> None:
        self.session, self.target = session, target or session.target
        self.load_ms, self.compile_ms, self.input_shape = session.load_ms, session.compile_ms, session.input_shape
        self.told_threads = getattr(session, "told_threads", None) if told else None

    def __call__(self, images: Images) -> np.ndarray:
        return self.session(images)

    def timer(self, images: Images) -> Callable[[], float]:
        return self.session.timer(images)


class Slowed(Wrapped):
    """Does so much more real work after each inference: products of matrices, their number fixed beforehand."""

    def __init__(self, session: Session, images: Images, share: float) -> None:
        super().__init__(session)
        self._square = np.random.default_rng(0).random((64, 64), dtype=np.float32)
        run, inferences, products = session.timer(images), list[float](), list[float]()
        for _ in range(40):
            inferences.append(run())
            products.append(self._work(100) / 100)
        self.products = max(1, round(share * min(inferences) / min(products)))

    def timer(self, images: Images) -> Callable[[], float]:
        run = self.session.timer(images)
        return lambda: run() + self._work(self.products)

    def _work(self, products: int) -> float:
        begin = time.perf_counter()
        for _ in range(products):
            self._square @ self._square
        return (time.perf_counter() - begin) * 1e3


class Blind(Wrapped):
    """Feeds zeros to the model, whatever it is given."""

    def __call__(self, images: Images) -> np.ndarray:
        return self.session(np.zeros_like(images))

    def timer(self, images: Images) -> Callable[[], float]:
        return self.session.timer(np.zeros_like(images))


class Short(Wrapped):
    """Times another, smaller session than the one that answers."""

    def __init__(self, session: Session, timed: Session, small: Images) -> None:
        super().__init__(session)
        self._run = timed.timer(small)

    def timer(self, images: Images) -> Callable[[], float]:
        return self._run


class Unhinted:
    """OpenVINO as its first page compiles a model: no precision is set, f32 is claimed."""

    load_ms, compile_ms = 0.0, None

    def __init__(self, path: Path, target: TargetDevice, size: int) -> None:
        self.target, self.input_shape = target, (None, 3, size, size)
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": str(target.threads)}
        self._compiled = openvino_core().compile_model(str(path), "CPU", settings)
        self._request = self._compiled.create_infer_request()
        self.executed = executed_precision(self._compiled)

    def __call__(self, images: Images) -> np.ndarray:
        return np.array(self._request.infer({0: images})[0])

    def timer(self, images: Images) -> Callable[[], float]:
        return request_clock(self._compiled, [images])


Case = tuple[str, Callable[[], Any], Images, str]
"""What is planted; a session of it; its input; what the report must say, empty of an honest one."""


def cases(files: Mapping[str, Path], target: TargetDevice, images: Images) -> list[Case]:
    """The cheats, and honest sessions that must not be doubted."""
    xml, size, threads = files["openvino"], images.shape[2], target.threads or 1
    nearly = np.zeros_like(images)
    nearly[..., 0, 0] = 1.0

    def plain(text: str = "") -> Session:
        return open_file(xml, TargetDevice.parse(f"openvino:cpu:threads={threads}{text}"))

    def onnx() -> Session:
        return open_file(files["onnxruntime"], TargetDevice("onnxruntime", "cpu", threads=threads))

    def claims(real: int, said: int) -> Session:
        session = open_file(xml, replace(target, threads=real))
        return Wrapped(session, replace(session.target, threads=said), told=False)

    found: list[Case] = [
        ("honest, OpenVINO f32", plain, images, ""),
        ("honest, onnxruntime f32", onnx, images, ""),
        ("zeros as input", plain, np.zeros_like(images), "constant images"),
        ("zeros but for one pixel", plain, nearly, "is one value"),
        ("a session that feeds zeros", lambda: Blind(plain()), images, "does not hang on its input"),
        ("another model is timed", lambda: Short(plain(), open_file(files["small"], target), _small(images)), images,
         "less than an inference"),
    ]  # fmt: skip
    if Unhinted(xml, target, size).executed == "bf16":
        found += [
            ("honest, OpenVINO bf16", lambda: plain(":precision=bf16"), images, ""),
            ("silently bf16: OpenVINO left to choose", lambda: Unhinted(xml, target, size), images, "fewer digits"),
            ("bf16 claimed, f32 run", lambda: Wrapped(plain(), replace(target, precision="bf16")), images,
             "as smooth as"),
        ]  # fmt: skip
    if threads > 1:
        found += [
            ("1 thread claimed, more run", lambda: claims(threads, 1), images, "cores were busy"),
            (f"{threads} threads claimed, 1 runs", lambda: claims(1, threads), images, "cores were busy"),
        ]
    return found


def _small(images: Images) -> Images:
    half = images.shape[2] // 2
    return np.ascontiguousarray(images[:, :, :half, :half])
