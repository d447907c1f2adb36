"""Verbs that are killed, interrupted, starved or misled about the time go on to the end that they would have had."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.faults.kills import KINDS, VERBS, Disturbance, Laboratory, Outcome, disturb_all, left_behind, unreadable

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals, limits and /proc as Linux has them")


@pytest.mark.slow
def test_sixty_disturbances(tmp_path: Path) -> None:
    found = disturb_all(60, 0, tmp_path)
    assert found.faults == [] and sum(found.counts.values()) == 60


@pytest.mark.slow
def test_a_full_disk_and_a_kill(tmp_path: Path) -> None:
    place, found = Laboratory(tmp_path), Outcome()
    place.disturb(Disturbance("probe", "full disk", limit=100_000), found)
    place.disturb(Disturbance("probe", "kill -9", after=0.7 * place.undisturbed("probe").seconds), found)
    assert found.faults == [] and ("probe", "full disk", "refused") in found.counts


@pytest.mark.slow
def test_a_full_disk_and_an_export(tmp_path: Path) -> None:
    place, found = Laboratory(tmp_path), Outcome()
    place.disturb(Disturbance("export, openvino", "full disk", limit=20_000), found)
    assert found.faults == [] and len(found.counts) == 1


def test_what_is_half_written_or_left_is_seen(tmp_path: Path) -> None:
    for name in ("a.json", "b.safetensors", "c.onnx", "d.db", ".tmp-e.json"):
        (tmp_path / name).write_text('{"half": ')
    assert len(unreadable(tmp_path)) == 4 and left_behind(tmp_path) == [".tmp-e.json"]
    assert len(VERBS) == 19 and len(KINDS) == 6
