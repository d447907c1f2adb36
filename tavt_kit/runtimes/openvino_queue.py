"""OpenVINO with many inferences in flight, as its throughput hint means it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino

_TIMES = 8
"""Inferences of one burst for each request in flight: at its two ends not all of them are busy, a small share of it."""


class Burst:
    """Many inferences of one compiled model, as many at once as OpenVINO proposes for it.

    A call runs one burst and returns its milliseconds per inference: the wall clock's, over all of them. How long each
    request took by itself, from its start to its end, is kept in ``latencies``.

    Args:
        compiled: By ``compile_for`` with the throughput hint.
        inputs: In the graph's order; the same for every inference.
    """

    def __init__(self, compiled: Any, inputs: Sequence[npt.NDArray[Any]]) -> None:
        self.in_flight = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self.inferences = _TIMES * self.in_flight  # of one call
        self.streams = int(compiled.get_property("NUM_STREAMS"))
        self.latencies: list[float] = []
        self._queue = openvino.AsyncInferQueue(compiled, self.in_flight)
        tensors = [openvino.Tensor(np.ascontiguousarray(array)) for array in inputs]
        for request in self._queue:
            for place, tensor in enumerate(tensors):
                request.set_input_tensor(place, tensor)
        self._queue.set_callback(lambda request, told: self.latencies.append(request.latency))

    def __call__(self) -> float:
        begin = time.perf_counter()
        for _ in range(self.inferences):
            self._queue.start_async()
        self._queue.wait_all()
        return (time.perf_counter() - begin) * 1e3 / self.inferences
