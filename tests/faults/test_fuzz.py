"""Small mutations of what every parser and record reader reads end in an answer or in one of our sentences."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults.doors import TARGETS, feed, seeds

_JUNK = st.one_of(
    st.binary(max_size=12),
    st.sampled_from(
        [b"NaN", b"1e999", b"-1", b"9" * 40, b"null", b"[" * 2000, b'"', b"\xff", b"\n", b"=", b"{}", b"\0"]
    ),
)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.*")
@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=25, derandomize=True, database=None)
@given(data=st.data())
def test_a_mutation_is_answered_or_refused(name: str, data: st.DataObject) -> None:
    raw = bytearray(data.draw(st.sampled_from(seeds(name) or (b"{}",))))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(raw)))
        raw[start : start + data.draw(st.integers(0, 8))] = data.draw(_JUNK)
    feed(name, bytes(raw))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.*")
@pytest.mark.parametrize("name", TARGETS)
def test_what_fuzzing_kept_is_answered_or_refused(name: str) -> None:
    for raw in seeds(name):
        feed(name, raw)
