"""Metadata of an .onnx file, read with the standard library whatever the size of the file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO


def onnx_metadata(path: Path, key: str) -> str | None:
    """The value of a key among the model's ``metadata_props`` (field 14 of ModelProto: key = 1, value = 2).

    The top-level fields are walked and skipped by their lengths, so the weights are never read.
    Source: the protobuf wire format, and onnx.proto of ONNX 1.0 to date.

    Raises:
        OSError: There is no such file.
        ValueError: It is no ONNX file, or cut off.
    """
    size = path.stat().st_size
    found = None
    with path.open("rb") as file:
        for field, payload in _fields(file, size, wanted=14):
            if field == 14:
                entry = dict(_strings(payload))
                if entry.get(1) == key:
                    found = entry.get(2)
    return found


def _fields(file: IO[bytes], end: int, wanted: int) -> Iterator[tuple[int, bytes]]:
    """Each field up to ``end`` with its bytes; bytes are read for the field ``wanted`` only."""
    while file.tell() < end:
        key = _varint(file)
        field, wire = key >> 3, key & 7
        if wire == 0:
            _varint(file)
            continue
        if wire not in (1, 2, 5) or field == 0:
            raise ValueError("it is no ONNX file")
        length = {1: 8, 5: 4}.get(wire) or _varint(file)
        if file.tell() + length > end:
            raise ValueError("it is shorter than it says")
        if field == wanted and wire == 2:
            yield field, file.read(length)
        else:
            file.seek(length, os.SEEK_CUR)
            yield field, b""


def _strings(payload: bytes) -> Iterator[tuple[int, str]]:
    """The length-delimited fields of a small message."""
    place = 0
    while place < len(payload):
        key, place = _varint_at(payload, place)
        length, place = _varint_at(payload, place)
        if key & 7 != 2 or place + length > len(payload):
            raise ValueError("its metadata cannot be read")
        yield key >> 3, payload[place : place + length].decode()
        place += length


def _varint(file: IO[bytes]) -> int:
    raw = bytearray()
    while not raw or raw[-1] & 0x80:
        byte = file.read(1)
        if not byte or len(raw) == 10:
            raise ValueError("it is no ONNX file, or cut off")
        raw += byte
    return _varint_at(bytes(raw), 0)[0]


def _varint_at(payload: bytes, place: int) -> tuple[int, int]:
    """A base-128 number at ``place``, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(payload):
            break
        byte = payload[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, place
    raise ValueError("its metadata cannot be read")
