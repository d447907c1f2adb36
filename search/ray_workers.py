"""Workers that are actors of a Ray cluster, on whichever machines it has."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from tavt_kit.core.records import code_version
from tavt_kit.errors import MeasurementError, MissingDependency, TargetError, TavtError
from tavt_kit.evaluation.result import EvaluationResult
from tavt_kit.search.workers import MakeEvaluate, WorkerEvent

_KNOCK = 10.0
"""Seconds that the head of a cluster may take to be reached."""

_PATIENCE = 300.0
"""Seconds without any worker at work after which a cluster that starts none is given up."""


def join_cluster(address: str | None = None) -> Cluster:
    """Join a Ray cluster that is running.

    Args:
        address: Of its head, such as ``10.0.0.5:6379``; ``None`` takes ``RAY_ADDRESS``, else the one on this machine.

    Raises:
        MissingDependency: Ray is not installed.
        TargetError: There is no such cluster.
    """
    try:
        import ray
    except ImportError:
        raise MissingDependency(
            "evaluating on a Ray cluster needs Ray, which is not installed: pip install 'tavt-kit[distributed]'"
        ) from None
    if ray.is_initialized():
        return Cluster(ray, ours=False)
    address = address or os.environ.get("RAY_ADDRESS") or "auto"  # without any, Ray would start a cluster of its own
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (OSError, ValueError, RuntimeError) as error:
        said = str(error).strip().splitlines()[0]
        raise TargetError(
            f"no Ray cluster answers at {'this machine' if address == 'auto' else address} ({said}); start one with "
            "ray start --head, or give `ray_address`"
        ) from None
    return Cluster(ray, ours=True)


def _knock(address: str) -> None:
    """See that somebody listens at an address that names a port: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK).close()


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that was joined.

    Args:
        ray: The module.
        ours: Whether it was joined by us, so that we leave it.
    """

    ray: ModuleType
    ours: bool

    def free(self, resource: str) -> int:
        """How many whole units of ``CPU`` or ``GPU`` nobody uses."""
        return int(self.ray.available_resources().get(resource, 0))

    def leave(self) -> None:
        """Disconnect."""
        if self.ours:
            self.ray.shutdown()


class _Holder:
    """What an actor is: an evaluator, made once."""

    def __init__(self, make: MakeEvaluate) -> None:
        self.make = make

    def begin(self) -> str:
        """Make the evaluator; which code it runs."""
        self.evaluate = self.make()
        return code_version()

    def answer(self, schedules: Sequence[Any]) -> list[tuple[Any, EvaluationResult]] | str:
        """The answers, or the traceback of a bug."""
        try:
            return list(self.evaluate(schedules))
        except Exception:
            return traceback.format_exc()


@dataclass
class Actors:
    """A pool of actors, as ``WorkerPool`` says; each takes one CPU of the cluster, or one GPU.

    Args:
        cluster: Joined.
        make: Called once in each actor; kept once on each machine.
        gpus: GPUs of an actor.
    """

    cluster: Cluster
    make: MakeEvaluate
    gpus: int = 0
    _actors: dict[int, Any] = field(default_factory=dict, init=False)
    _tasks: dict[Any, int] = field(default_factory=dict, init=False)
    _begun: set[int] = field(default_factory=set, init=False)
    _started: int = field(default=0, init=False)
    _payload: Any = field(default=None, init=False)

    def start(self) -> int:
        """As ``WorkerPool``."""
        ray = self.cluster.ray
        if self._payload is None:
            self._payload = ray.put(self.make)
        options = {"num_cpus": 1, "num_gpus": self.gpus, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
        actor = ray.remote(_Holder).options(**options).remote(self._payload)
        self._started += 1
        self._actors[self._started] = actor
        self._tasks[actor.begin.remote()] = self._started
        return self._started

    def give(self, worker: int, schedules: Sequence[Any]) -> None:
        """As ``WorkerPool``."""
        self._tasks[self._actors[worker].answer.remote(list(schedules))] = worker

    def events(self) -> Iterator[WorkerEvent]:
        """As ``WorkerPool``.

        Raises:
            MeasurementError: The cluster starts no worker, or a worker's machine has other code.
            RuntimeError: An evaluator failed, with its traceback.
        """
        working = any(worker in self._begun for worker in self._tasks.values())
        done, _ = self.cluster.ray.wait(list(self._tasks), timeout=None if working else _PATIENCE)
        if not done:
            raise MeasurementError(
                f"the Ray cluster has started no worker in {_PATIENCE:.0f} s; each needs a free "
                f"{'GPU' if self.gpus else 'CPU'}: give fewer `workers`, or wait for the cluster"
            )
        for task in done:
            yield self._heard(task, self._tasks.pop(task))

    def _heard(self, task: Any, worker: int) -> WorkerEvent:
        ray = self.cluster.ray
        try:
            content = ray.get(task)
        except ray.exceptions.RayTaskError as error:  # out of the evaluator's making: a bug or a missing package
            if isinstance(error.cause, TavtError):
                raise MeasurementError(f"a worker cannot work: {error.cause}") from None
            raise
        except ray.exceptions.RayError as error:
            del self._actors[worker]
            return WorkerEvent(worker, lost=f"{type(error).__name__}: {str(error).strip().splitlines()[0]}")
        if worker in self._begun:
            if isinstance(content, str):
                raise RuntimeError(f"an evaluator failed in a worker:\n{content}")
            return WorkerEvent(worker, content, idle=True)
        if content != code_version():
            raise MeasurementError(
                f"a machine of the Ray cluster has tavt_kit {content}, but this one {code_version()}; install the same"
            )
        self._begun.add(worker)
        return WorkerEvent(worker, idle=True)

    def close(self) -> None:
        """As ``WorkerPool``; the cluster itself stays."""
        for actor in self._actors.values():
            self.cluster.ray.kill(actor)
        self._actors.clear()
        self._tasks.clear()
        self._payload = None
