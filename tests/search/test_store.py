"""The store: answers survive, strangers are refused."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.records import code_version
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import OutputError, RecordError
from tavt_kit.evaluation.result import EvaluationResult
from tavt_kit.search import Store

SCHEDULE = TokenSchedule((5, 4, 4))


def test_answers_survive(tmp_path: Path) -> None:
    right = np.array([True, False, False, True, False, False, True, True, True, False])
    answer = EvaluationResult(
        Accuracy.of_counts(5, 10, split="val"), 0.25, correct=right, values={"loss": 0.1 + 0.2}, timings={"worker": 1.5}
    )
    failed = EvaluationResult(None, 0.1, "ran out of memory")
    with Store(tmp_path / "search.db") as store:
        store.bind({"seed": 7})
        store.bind({"seed": 0})  # nothing is answered yet, so nothing is lost
        store.add(SCHEDULE, answer)
        store.add(TokenSchedule((5, 5, 5)), failed)
        store.add(TokenSchedule((5, 5, 5), executed=(0, 2)), answer)
    with Store(tmp_path / "search.db") as store:
        store.bind({"seed": 0})
        assert len(store) == 3
        assert store.get(SCHEDULE) == answer
        assert store.get(TokenSchedule((5, 5, 5))) == failed
        assert store.get(TokenSchedule((5, 5, 5), executed=(0, 2))) == answer
        assert store.get(TokenSchedule((5, 5, 4))) is None


def test_notes_survive_exactly(tmp_path: Path) -> None:
    with Store(tmp_path / "search.db") as store:
        assert store.get_attr("profile") is None
        store.set_attr("profile", {"scale": 0.1 + 0.2})
    with Store(tmp_path / "search.db") as store:
        assert store.get_attr("profile") == {"scale": 0.1 + 0.2}


def test_another_search_is_refused_with_all_that_differs(tmp_path: Path) -> None:
    with Store(tmp_path / "search.db") as store:
        store.bind({"weights": "a" * 64, "seed": 0, "limit": None})
        store.add(SCHEDULE, EvaluationResult(None, 0.0, "x"))
    with Store(tmp_path / "search.db") as store:
        with pytest.raises(RecordError, match="`fresh`") as caught:
            store.bind({"weights": "b" * 64, "seed": 1, "limit": None, "new": 3})
        said = str(caught.value)
        assert "seed was 0, is 1" in said and "weights was" in said and "new was absent" in said
        assert "limit was" not in said
        store.bind({"weights": "a" * 64, "seed": 0})


def test_held_by_another_process(tmp_path: Path) -> None:
    path = tmp_path / "search.db"
    with Store(path) as first:
        first.bind({"seed": 0})
        first.add(SCHEDULE, EvaluationResult(None, 0.0, "x"))
        for fresh in (False, True):
            with pytest.raises(RecordError, match="held by another process"):
                Store(path, fresh=fresh)
        assert len(first) == 1
    Store(path).close()
    assert [file.name for file in tmp_path.iterdir()] == ["search.db"]


def test_fresh_forgets_whatever_was_there(tmp_path: Path) -> None:
    path = tmp_path / "search.db"
    for content in (b"", b"no data base, only text that is long enough\n" * 40):
        path.write_bytes(content)
        with Store(path, fresh=True) as store:
            store.bind({"seed": 0})
            store.add(SCHEDULE, EvaluationResult(None, 0.0, "x"))
            store.set_attr("profile", 1)
        with Store(path) as store:
            assert len(store) == 1
        with Store(path, fresh=True) as store:
            assert len(store) == 0 and store.get_attr("profile") is None
            store.bind({"seed": 1})


def test_answers_of_other_code_are_taken_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Store(tmp_path / "search.db") as store:
        store.add(SCHEDULE, EvaluationResult(None, 0.0, "x"))
        assert not caplog.text
    caplog.set_level("WARNING", logger="tavt_kit")
    monkeypatch.setattr("tavt_kit.search.store.code_version", lambda: "9.9 abc")
    with Store(tmp_path / "search.db") as store:
        assert store.get(SCHEDULE) is not None
    assert f"1 by {code_version()}" in caplog.text and "than this, 9.9 abc" in caplog.text


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        Store(tmp_path / "absent" / "search.db")
    (tmp_path / "text.db").write_text("not a data base at all, only text that is long enough\n" * 40)
    with pytest.raises(RecordError, match="`fresh`"):
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
    with pytest.raises(RecordError, match="earlier version .*`fresh`"):
        Store(tmp_path / "old.db")


def test_final_answers_are_kept_apart(tmp_path: Path) -> None:
    """What the result shows was evaluated once more, in the target's precision."""
    schedule = TokenSchedule((5, 4))
    quick = EvaluationResult(Accuracy.of_counts(3, 4, split="val"), 0.1, correct=np.array([True, True, True, False]))
    exact = EvaluationResult(Accuracy.of_counts(2, 4, split="val"), 0.2, correct=np.array([True, True, False, False]))
    with Store(tmp_path / "search.db") as store:
        assert store.get(schedule, final=True) is None
        store.add(schedule, quick)
        store.add(schedule, exact, final=True)
    with Store(tmp_path / "search.db") as store:
        assert store.get(schedule) == quick and store.get(schedule, final=True) == exact and len(store) == 1


@pytest.mark.parametrize(
    ("column", "value"),
    [("accuracy", "{"), ("accuracy", "[1]"), ("metrics", "{}"), ("metrics", "[" * 100_000), ("timings", '{"a": "b"}'),
     ("seconds", "soon"), ("bits", b""), ("bits", "text")],
)  # fmt: skip
def test_a_damaged_row_is_refused(column: str, value: object, tmp_path: Path) -> None:
    with Store(tmp_path / "search.db") as store:
        store.add(SCHEDULE, EvaluationResult(Accuracy.of_counts(3, 4, split="val"), 0.1))
    with closing(sqlite3.connect(tmp_path / "search.db")) as base:
        base.execute(f"UPDATE evaluations SET {column} = ?", (value,))
        base.commit()
    with Store(tmp_path / "search.db") as store, pytest.raises(RecordError, match="cannot be read"):
        store.get(SCHEDULE)
