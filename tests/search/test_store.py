"""The store: answers survive, strangers are refused."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest

from tavt_kit.accuracy import Accuracy
from tavt_kit.answer import Answer
from tavt_kit.errors import OutputError, RecordError
from tavt_kit.schedule import TokenSchedule
from tavt_kit.search import Store

SCHEDULE = TokenSchedule((5, 4, 4))


def test_answers_survive(tmp_path: Path) -> None:
    right = np.array([True, False, False, True, False, False, True, True, True, False])
    answer = Answer(
        Accuracy.of_counts(5, 10, split="val"), 0.25, right=right, values={"loss": 0.1 + 0.2}, timings={"worker": 1.5}
    )
    failed = Answer(None, 0.1, "ran out of memory")
    with Store(tmp_path / "search.db") as store:
        store.hold_to({"seed": 7})
        store.hold_to({"seed": 0})  # nothing is answered yet, so nothing is lost
        store.put(SCHEDULE, answer)
        store.put(TokenSchedule((5, 5, 5)), failed)
        store.put(TokenSchedule((5, 5, 5), executed=(0, 2)), answer)
    with Store(tmp_path / "search.db") as store:
        store.hold_to({"seed": 0})
        assert len(store) == 3
        assert store.get(SCHEDULE) == answer
        assert store.get(TokenSchedule((5, 5, 5))) == failed
        assert store.get(TokenSchedule((5, 5, 5), executed=(0, 2))) == answer
        assert store.get(TokenSchedule((5, 5, 4))) is None


def test_notes_survive_exactly(tmp_path: Path) -> None:
    with Store(tmp_path / "search.db") as store:
        assert store.note("profile") is None
        store.keep("profile", {"scale": 0.1 + 0.2})
    with Store(tmp_path / "search.db") as store:
        assert store.note("profile") == {"scale": 0.1 + 0.2}


def test_another_search_is_refused_with_all_that_differs(tmp_path: Path) -> None:
    with Store(tmp_path / "search.db") as store:
        store.hold_to({"weights": "a" * 64, "seed": 0, "limit": None})
        store.put(SCHEDULE, Answer(None, 0.0, "x"))
    with Store(tmp_path / "search.db") as store:
        with pytest.raises(RecordError, match="--fresh") as caught:
            store.hold_to({"weights": "b" * 64, "seed": 1, "limit": None, "new": 3})
        said = str(caught.value)
        assert "seed was 0, is 1" in said and "weights was" in said and "new was absent" in said
        assert "limit was" not in said
        store.hold_to({"weights": "a" * 64, "seed": 0})


def test_held_by_another_process(tmp_path: Path) -> None:
    with Store(tmp_path / "search.db") as first:
        first.hold_to({"seed": 0})
        with pytest.raises(RecordError, match="another process"):
            Store(tmp_path / "search.db")
    Store(tmp_path / "search.db").close()


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        Store(tmp_path / "absent" / "search.db")
    (tmp_path / "text.db").write_text("not a data base at all, only text that is long enough\n" * 40)
    with pytest.raises(RecordError, match="--fresh"):
        Store(tmp_path / "text.db")
    base = sqlite3.connect(tmp_path / "other.db")
    base.execute("CREATE TABLE things (x)")
    base.commit()
    base.close()
    with pytest.raises(RecordError, match="no search store"):
        Store(tmp_path / "other.db")


def test_an_earlier_layout_is_refused(tmp_path: Path) -> None:
    base = sqlite3.connect(tmp_path / "old.db")
    base.execute("CREATE TABLE evaluations (number INTEGER PRIMARY KEY)")
    base.execute("PRAGMA user_version=1")
    base.commit()
    base.close()
    with pytest.raises(RecordError, match="earlier version .*--fresh"):
        Store(tmp_path / "old.db")
