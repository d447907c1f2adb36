"""MATLAB files of level 5 (versions 5 to 7): numbers, texts, cells and structures, and nothing else.

Read here and not by scipy, whose reader ends the process on some damaged files.
Source: MathWorks, "MAT-File Format", the chapter on level 5.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_LITTLE = {1: "latin-1", 2: "latin-1", 4: "utf-16-le", 16: "utf-8", 17: "utf-16-le", 18: "utf-32-le"}
_BIG = _LITTLE | {4: "utf-16-be", 17: "utf-16-be", 18: "utf-32-be"}
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCTURE, _TEXT, _FIRST_NUMBER, _LAST_NUMBER, _IS_COMPLEX = 1, 2, 4, 6, 15, 0x0800
_HEADER = 128
_MOST_BYTES, _MOST_DEPTH = 2**28, 16

_Element = tuple[int, bytes]


def read_variable(raw: bytes, name: str) -> list[Any] | None:
    """The items of an array in a file, column by column; None where the file has no variable of this name.

    A number is a number, a text a text, a structure a dictionary by its fields; an array inside a cell or a field is
    its only item, or the list of its items.

    Raises:
        ValueError: It is no such file, or it is damaged.
    """
    order = {b"IM": "<", b"MI": ">"}.get(raw[_HEADER - 2 : _HEADER])
    if order is None or struct.unpack(f"{order}H", raw[_HEADER - 4 : _HEADER - 2])[0] != 0x0100:
        raise ValueError("it is no MATLAB file of level 5")
    try:
        for element in _elements(raw[_HEADER:], order):
            kind, payload = _unpacked(element, order)
            if kind == _MATRIX:
                own, items = _array(payload, order, name)
                if own == name:
                    return items
    except (struct.error, zlib.error) as error:
        raise ValueError(f"it is damaged: {error}") from None
    return None


def _unpacked(element: _Element, order: str) -> _Element:
    kind, payload = element
    if kind != _COMPRESSED:
        return element
    packed = zlib.decompressobj()
    whole = packed.decompress(payload, _MOST_BYTES)
    if packed.unconsumed_tail:
        raise ValueError(f"a variable is larger than {_MOST_BYTES} bytes")
    return _next(_elements(whole, order))


def _elements(raw: bytes, order: str) -> Iterator[_Element]:
    """The kind and the bytes of each; those of up to four bytes are packed into eight with their kind and length."""
    place = 0
    while place < len(raw):
        kind, size = struct.unpack_from(f"{order}II", raw, place)
        start = place + 8
        if kind >> 16:
            kind, size, start = kind & 0xFFFF, kind >> 16, place + 4
            place += 8
        else:
            place = start + size + (0 if kind == _COMPRESSED else -size % 8)
        if start + size > len(raw) or (start + size > place):
            raise ValueError("it is shorter than it says")
        yield kind, raw[start : start + size]


def _next(elements: Iterator[_Element], wanted: int | None = None) -> _Element:
    element = next(elements, None)
    if element is None or wanted not in (None, element[0]):
        raise ValueError("a part of an array is missing")
    return element


def _array(payload: bytes, order: str, wanted: str | None = None, depth: int = 0) -> tuple[str, list[Any]]:
    """Name and items; no items where another name is wanted."""
    if not payload:  # an empty cell
        return "", []
    if depth > _MOST_DEPTH:
        raise ValueError("its cells are nested too deep")
    parts = _elements(payload, order)
    (flags,) = struct.unpack_from(f"{order}I", _next(parts)[1])
    sizes = np.frombuffer(_next(parts)[1], f"{order}i4").tolist()
    name = _next(parts)[1].decode("latin-1")
    kind, count = flags & 0xFF, math.prod(sizes)
    if len(sizes) < 2 or min(sizes) < 0 or max(sizes) > len(payload) or count > len(payload):
        raise ValueError("the size of an array is not that of its items")
    if wanted not in (None, name):
        return name, []
    if kind == _CELL:
        return name, [_inside(parts, order, depth) for _ in range(count)]
    if kind == _STRUCTURE:
        (length,) = struct.unpack_from(f"{order}i", _next(parts)[1])
        names = _next(parts)[1]
        if length < 1:
            raise ValueError("the names of its fields have no length")
        fields = [names[at : at + length].partition(b"\0")[0].decode("latin-1") for at in range(0, len(names), length)]
        if count and not fields:
            raise ValueError("a structure has no fields")
        return name, [{field: _inside(parts, order, depth) for field in fields} for _ in range(count)]
    if kind == _TEXT:
        return name, _texts(_next(parts) if count else (1, b""), order, sizes[0])
    if not _FIRST_NUMBER <= kind <= _LAST_NUMBER or flags & _IS_COMPLEX:
        raise ValueError("it holds arrays of a kind that is not read")
    of, data = _next(parts) if count else (1, b"")
    if of not in _NUMBERS:
        raise ValueError("its numbers are of no known kind")
    numbers = np.frombuffer(data, f"{order}{_NUMBERS[of]}").tolist()
    if len(numbers) != count:
        raise ValueError("the size of an array is not that of its items")
    return name, numbers


def _inside(parts: Iterator[_Element], order: str, depth: int) -> Any:
    """What one cell or one field holds."""
    items = _array(_next(parts, _MATRIX)[1], order, depth=depth + 1)[1]
    return items[0] if len(items) == 1 else items


def _texts(element: _Element, order: str, rows: int) -> list[str]:
    """Each row of a table of letters, which are stored column by column."""
    encoding = (_LITTLE if order == "<" else _BIG).get(element[0])
    if encoding is None:
        raise ValueError("its letters are of no known kind")
    letters = element[1].decode(encoding)
    return [letters] if rows <= 1 else [letters[row::rows] for row in range(rows)]
