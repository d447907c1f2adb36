"""What a class writes it reads again, and junk is refused in one sentence that names the place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tavt_kit.core.codec import Record, encode, recorded_as
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import MeasurementError, RecordError


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True)
class Inner(Record):
    low: float = field(metadata=recorded_as("ci95", 0))
    high: float = field(metadata=recorded_as("ci95", 1))
    names: tuple[str, ...] = ()
    VIEWS: ClassVar[tuple[str, ...]] = ("middle",)

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise MeasurementError(f"low must not be above high, got {self.low} and {self.high}")

    @property
    def middle(self) -> float:
        return self.low / 2 + self.high / 2


@dataclass(frozen=True, slots=True)
class Outer(Record):
    name: str
    count: int
    flag: bool
    size: tuple[int, int] | None
    colour: Colour
    way: Literal["left", "right"]
    candidates: tuple[Inner, ...]
    table: Mapping[str, float]
    file: Path
    schedule: TokenSchedule
    value: int | str = field(metadata=recorded_as("class"))
    inner: Inner = field(default=Inner(0.0, 1.0), metadata=recorded_as(inline=True))
    more: Mapping[str, Any] = field(default_factory=dict, metadata=recorded_as(omit_default=True))
    BESIDE: ClassVar[tuple[str, ...]] = ("schema",)


whole = st.integers(-(2**63) + 1, 2**63 - 1)
finite = st.floats(allow_nan=False, allow_infinity=False)
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
inners = st.tuples(finite, finite, st.lists(st.text(max_size=3), max_size=3)).map(
    lambda parts: Inner(min(parts[:2]), max(parts[:2]), tuple(parts[2]))
)
outers = st.builds(
    Outer,
    name=st.text(),
    count=whole,
    flag=st.booleans(),
    size=st.none() | st.tuples(whole, whole),
    colour=st.sampled_from(Colour),
    way=st.sampled_from(["left", "right"]),
    candidates=st.lists(inners, max_size=4).map(tuple),
    table=st.dictionaries(st.text(max_size=4), finite, max_size=4),
    file=st.just(Path("a/b")),
    schedule=st.lists(st.integers(2, 9), min_size=1, max_size=4).map(lambda c: TokenSchedule(sorted(c, reverse=True))),
    value=whole | st.text(max_size=4),
    inner=inners,
    more=st.dictionaries(st.text(max_size=3), whole | st.lists(st.text(max_size=2), max_size=2), max_size=2),
)
SOUND = Outer(
    "n", 1, True, (1, 2), Colour.RED, "left", (Inner(1.0, 2.0),), {"a": 1.5}, Path("f"), TokenSchedule((4, 2)), 3
)


@given(outers)
def test_what_is_written_is_read_again(outer: Outer) -> None:
    assert Outer.from_record(json.loads(json.dumps(outer.as_record(), allow_nan=False))) == outer


def places(record: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The path of every value in a record."""
    keys = record if isinstance(record, dict) else range(len(record)) if isinstance(record, list) else ()
    return [path, *(place for key in keys for place in places(record[key], (*path, key)))]


@given(junk, st.sampled_from(places(SOUND.as_record())))
def test_junk_at_any_depth_is_refused_or_read_as_what_it_is(value: Any, place: tuple[str | int, ...]) -> None:
    whole = {"record": json.loads(json.dumps(SOUND.as_record()))}
    holder: Any = whole
    *way, last = ("record", *place)
    for step in way:
        holder = holder[step]
    holder[last] = value
    try:
        found = Outer.from_record(whole["record"])
    except RecordError as error:
        assert str(error).startswith("a recorded outer cannot be used: ") and "\n" not in str(error)
    else:
        assert Outer.from_record(json.loads(json.dumps(found.as_record(), allow_nan=False))) == found


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"candidates": [{"ci95": [1, 2]}, {"ci95": "x"}]}, r"candidates\[1\].ci95 must be two numbers, but is 'x'"),
        ({"candidates": [{"ci95": [1, 2, 3]}]}, r"candidates\[0\].ci95 must be two numbers, but is \[1, 2, 3\]"),
        ({"candidates": [{"ci95": [2, 1]}]}, r"candidates\[0\]: low must not be above high, got 2 and 1"),
        ({"candidates": [{}]}, r"candidates\[0\].ci95 is missing"),
        ({"candidates": [{"ci95": [1, 2], "x": 0}]}, r"candidates\[0\].x is not known"),
        ({"candidates": 3}, "candidates must be a list of values, but is 3"),
        ({"count": True}, "count must be a whole number, but is True"),
        ({"count": 2**63}, "count must be a whole number, but is 9223372036854775808"),
        ({"count": 2.0}, "count must be a whole number, but is 2.0"),
        ({"table": {"a": float("nan")}}, "table.a must be a number, but is nan"),
        ({"table": {"a": 10**400}}, "table.a must be a number, but is 1000"),
        ({"more": {"a": [float("inf")]}}, r"more.a\[0\] must be a number, but is inf"),
        ({"size": [1]}, "size must be two whole numbers, but is"),
        ({"colour": "green"}, "colour must be one of red, blue, but is 'green'"),
        ({"way": "up"}, "way must be one of left, right, but is 'up'"),
        ({"file": 3}, "file must be text, but is 3"),
        ({"schedule": [2, 3]}, "schedule: layer 1 keeps 3 tokens, but only 2 reach it"),
        ({"class": None}, "class must be a whole number or text, but is None"),
        ({"name": None}, "name must be text, but is None"),
    ],
)  # fmt: skip
def test_the_sentence_names_the_place(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RecordError, match=sentence):
        Outer.from_record({**SOUND.as_record(), **change})


def test_keys() -> None:
    record = SOUND.as_record()
    assert record["candidates"] == [{"ci95": [1.0, 2.0], "names": [], "middle": 1.5}]
    assert record["ci95"] == [0.0, 1.0] and record["middle"] == 0.5 and "inner" not in record
    assert record["class"] == 3 and "value" not in record and "more" not in record
    assert Outer.from_record({"schema": "any", **record}) == SOUND


def test_what_nests_without_end_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(RecordError, match="nested too deep"):
        Outer.from_record({**SOUND.as_record(), "more": {"a": deep}})


def test_what_json_cannot_hold_is_a_mistake_of_the_program() -> None:
    with pytest.raises(TypeError, match="no form in a record"):
        encode({1, 2})
