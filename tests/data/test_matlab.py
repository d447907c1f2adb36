"""MATLAB files: what scipy writes is read, and what is damaged is refused without ending the process."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from tavt_kit.data import matlab
from tavt_kit.data.matlab import read_variable


def written(value: Any, *, packed: bool) -> bytes:
    buffer = io.BytesIO()
    savemat(buffer, {"other": np.arange(3), "wanted": value}, do_compression=packed)
    return buffer.getvalue()


def cells(*values: Any) -> Any:
    found = np.empty((1, len(values)), object)
    found[0] = values
    return found


ROWS = np.array([[(np.uint8(1), "a.jpg")], [(np.uint8(200), "b.jpg")]], [("class", "O"), ("fname", "O")])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("value", "items"),
    [
        (np.array([[1, 2], [3, 4]]), [1, 3, 2, 4]),
        (np.array([[0.5, -1e300]]), [0.5, -1e300]),
        (np.array([[2**60, -3]], np.int64), [2**60, -3]),
        (np.zeros((0, 4)), []),
        ("Zürich", ["Zürich"]),
        (np.array(["ab", "cd"]), ["ab", "cd"]),
        (cells("Auk", "", 7, np.array([1, 2]), cells("in")), ["Auk", "", 7, [1, 2], "in"]),
        (ROWS, [{"class": 1, "fname": "a.jpg"}, {"class": 200, "fname": "b.jpg"}]),
    ],
)
def test_what_scipy_writes_is_read(value: Any, items: list[Any], packed: bool) -> None:
    assert read_variable(written(value, packed=packed), "wanted") == items
    assert read_variable(written(value, packed=packed), "none") is None


def test_other_files_are_refused() -> None:
    whole = written(ROWS, packed=False)
    for raw in (b"", b"x" * 300, b"\x89HDF" + whole[4:126] + b"XX" + whole[128:], whole[:-9]):
        with pytest.raises(ValueError, match="MATLAB|damaged|shorter|missing"):
            read_variable(raw, "wanted")
    with pytest.raises(ValueError, match="not read"):
        read_variable(written(np.array([[1 + 2j]]), packed=False), "wanted")


def test_what_would_fill_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few bytes can unpack to many, and cells lie in cells."""
    value: Any = 7
    for _ in range(20):
        value = cells(value)
    with pytest.raises(ValueError, match="nested too deep"):
        read_variable(written(value, packed=False), "wanted")
    zeros = written(np.zeros(5000), packed=True)
    assert len(zeros) < 1000 and read_variable(zeros, "wanted") == [0] * 5000
    monkeypatch.setattr(matlab, "_MOST_BYTES", 4000)
    with pytest.raises(ValueError, match="larger than 4000 bytes"):
        read_variable(zeros, "wanted")


def test_a_cell_that_has_no_bytes_is_empty() -> None:
    """So MATLAB itself writes what was never filled; scipy writes an array without numbers."""
    raw = written(cells("Auk"), packed=False)
    element = struct.pack("<II", 14, 0)  # a matrix of length 0
    start = raw.rindex(struct.pack("<I", 14))
    size = struct.unpack_from("<I", raw, start + 4)[0]
    shorter = bytearray(raw[:start] + element + raw[start + 8 + size :])
    whole = raw.rindex(struct.pack("<I", 14), 0, start)
    struct.pack_into("<I", shorter, whole + 4, struct.unpack_from("<I", raw, whole + 4)[0] - size)
    assert read_variable(raw, "wanted") == ["Auk"] and read_variable(bytes(shorter), "wanted") == [[]]


def test_no_changed_byte_does_more_than_be_refused() -> None:
    rng, whole = np.random.default_rng(0), written(cells("Auk", ROWS, np.arange(5)), packed=False)
    for _ in range(3000):
        raw = bytearray(whole)
        for place in rng.integers(0, len(raw), rng.integers(1, 4)):
            raw[place] = rng.integers(256)
        try:
            read_variable(bytes(raw), "wanted")
        except ValueError:
            continue
