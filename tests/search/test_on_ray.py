"""Workers on a Ray cluster: a real one of two machines, of which one is lost in the middle."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tavt_kit.errors import MeasurementError, MissingDependency, TargetError
from tavt_kit.search import Progress, Store, search
from tavt_kit.search.workers import Actors, Workers, join_cluster
from tests.search.engine_workers import Toy
from tests.search.test_loop import summary
from tests.search.toy import COSTS, SPACE, answers

# Ray leaves files, sockets and processes to the interpreter's end.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependency, match=r"pip install 'tavt-kit\[distributed\]'"):
        join_cluster()


@pytest.mark.slow
@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "127.0.0.1:99999", "nowhere"])
def test_no_cluster_is_said(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    with pytest.raises(TargetError, match=f"no Ray cluster answers at {address} .*ray start --head"):
        join_cluster(address)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(TargetError, match=f"no Ray cluster answers at {address} "):
        join_cluster()


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster with a head and, on this machine, two more of one CPU each."""
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    root = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]))
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    yield cluster
    cluster.shutdown()


@pytest.mark.slow
def test_the_very_front_though_a_worker_and_a_machine_are_lost(machines: Any, tmp_path: Path) -> None:
    here = search(SPACE, answers, costs=COSTS, evaluations=120, population=8, seed=3)
    first, _ = machines.add_node(num_cpus=1), machines.add_node(num_cpus=1)
    cluster = join_cluster(machines.address)
    assert cluster.free("CPU") == 2 and cluster.free("GPU") == 0

    removed: list[Any] = []

    def watch(now: Progress) -> None:
        """The machine goes once one worker was replaced and both are at work again."""
        if removed or crew._started < 3:
            return
        if crew._begun >= set(crew._actors):
            removed.append(machines.remove_node(first, allow_graceful=False))
        else:
            time.sleep(1)  # a busy machine begins processes slowly, and the other worker would be done before

    crew = Actors(cluster, Toy(tmp_path, dies=1, seconds=0.1))
    try:
        with Workers(crew, 2) as workers, Store(tmp_path / "search.db") as store:
            there = search(
                SPACE, workers, costs=COSTS, evaluations=120, population=8, seed=3, store=store, on_progress=watch
            )
            assert len(store) == 120
        assert summary(there) == summary(here) and there.history == here.history
        # Two, and one for each that was lost; one that began on the lost machine before the cluster knew is lost too.
        assert removed and crew._started in (4, 5)
        with Workers(Actors(cluster, Toy(wrong="starting")), 1) as workers:
            with pytest.raises(MeasurementError, match="a worker cannot work: the images are gone"):
                list(workers([SPACE.least]))
        with Workers(Actors(cluster, Toy(wrong="answering")), 1) as workers:
            with pytest.raises(RuntimeError, match="ZeroDivisionError: in the middle"):
                list(workers([SPACE.least]))
    finally:
        cluster.leave()
