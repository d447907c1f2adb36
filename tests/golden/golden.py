"""Golden files: what the kit answers today, kept as JSON beside the tests and compared line by line.

``pytest tests/golden --regenerate-golden`` writes them anew; the change is then read in ``git diff`` and named in the
commit that means it.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent
BY_NAME = ("packages", "sha256", "loss_weights")
"""Objects whose keys are data too: names of packages, files and terms of a loss."""


class Golden:
    """The golden files of a folder.

    Args:
        folder: Where they lie.
        regenerate: Whether to write what is found instead of comparing it.
    """

    def __init__(self, folder: Path, regenerate: bool) -> None:
        self.folder = folder
        self.regenerate = regenerate

    def compare(self, name: str, found: Any) -> None:
        """Fail with a diff unless ``found`` is what the file ``name`` holds."""
        self._show(name, _lines(self.expected(name, found)), _lines(_as_json(found)))

    def compare_structure(self, name: str, records: dict[str, Any]) -> None:
        """Compare the keys and JSON types of records, by name, whatever their values.

        A null and an empty list or object tell nothing of what they may hold, so they agree with everything.
        """
        found = {record: dict(structure(body)) for record, body in records.items()}
        expected = self.expected(name, found)
        for record in expected.keys() & found.keys():
            _forgive(expected[record], found[record])
        self._show(name, _lines(expected), _lines(found))

    def expected(self, name: str, found: Any) -> Any:
        """What the file holds, or with ``regenerate`` what it holds from now on."""
        path = self.folder / f"{name}.json"
        if self.regenerate:
            path.write_text("\n".join(_lines(_as_json(found))) + "\n", encoding="utf-8")
        return json.loads(path.read_text(encoding="utf-8"))

    def _show(self, name: str, expected: list[str], found: list[str]) -> None:
        diff = list(difflib.unified_diff(expected, found, f"golden/{name}.json", "now", lineterm="", n=2))
        if diff:
            pytest.fail("\n".join([*diff, "pytest tests/golden --regenerate-golden takes it"]), pytrace=False)


def structure(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Each path of a JSON value and its types: ``("candidates[].macs", "int")``."""
    types: dict[str, set[str]] = {}
    for place, kind in _leaves(value, path):
        types.setdefault(place, set()).add(kind)
    yield from ((place, "|".join(sorted(kinds))) for place, kinds in types.items())


def rounded(value: Any, digits: int = 9) -> Any:
    """The same with floats rounded: the last bits are the processor's own."""
    if isinstance(value, float):
        return round(value, digits)
    if isinstance(value, dict):
        return {key: rounded(held, digits) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(held, digits) for held in value]
    return value


def _leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        yield path, "object" if value else "empty"
        for key, held in value.items():
            # A key that is data, such as a schedule's counts, stands for all of its kind.
            name = key if key.isidentifier() and not path.endswith(BY_NAME) else "*"
            yield from _leaves(held, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        yield path, "list" if value else "empty"
        for held in value:
            yield from _leaves(held, f"{path}[]")
    else:
        yield path, "null" if value is None else type(value).__name__


def _forgive(expected: dict[str, str], found: dict[str, str]) -> None:
    """Take out of both what one cannot know: paths below a null or an empty of the other, and those marks."""
    for one, other in ((expected, found), (found, expected)):
        untold = [path for path, kinds in one.items() if {"null", "empty"} & set(kinds.split("|"))]
        for path in [path for path in other if path not in one]:
            if any(path.startswith((f"{above}.", f"{above}[]")) for above in untold):
                del other[path]
    for path in expected.keys() & found.keys():
        both = [set(kinds[path].split("|")) - {"null", "empty"} for kinds in (expected, found)]
        if not all(both):
            both = [set(), set()]
        expected[path], found[path] = ("|".join(sorted(kinds)) for kinds in both)


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _lines(value: Any) -> list[str]:
    """JSON, a line for each thing that is not nested any further: short to read in a diff."""
    return list(_written(value, ""))


def _written(value: Any, indent: str, before: str = "") -> Iterator[str]:
    held = list(value.values() if isinstance(value, dict) else value) if isinstance(value, dict | list) else []
    flat = json.dumps(value, ensure_ascii=False, sort_keys=True)
    if len(flat) + len(indent) + len(before) < 110 and not (indent == "" and held) or not held:
        yield f"{indent}{before}{flat}"
        return
    yield f"{indent}{before}{'{' if isinstance(value, dict) else '['}"
    keys = sorted(value) if isinstance(value, dict) else None
    for number in range(len(held)):
        label = "" if keys is None else f"{json.dumps(keys[number])}: "
        lines = list(_written(value[keys[number]] if keys else held[number], indent + " ", label))
        yield from lines[:-1]
        yield lines[-1] + ("," if number < len(held) - 1 else "")
    yield f"{indent}{'}' if isinstance(value, dict) else ']'}"
