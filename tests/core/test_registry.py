"""What other packages add by entry points."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import pytest

from tavt_kit.core import registry
from tavt_kit.core.registry import Registry
from tavt_kit.errors import UnknownName


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> Registry[Any]:
    found = [
        EntryPoint("path", "pathlib:Path", "tavt_kit.shapes"),
        EntryPoint("disc", "pathlib:Path", "tavt_kit.shapes"),
        EntryPoint("gone", "no_such_package.module:thing", "tavt_kit.shapes"),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: [one for one in found if one.group == group])
    return Registry("a shape", "tavt_kit.shapes", {"disc": 1, "square": 2})


def test_others_come_after_our_own_and_replace_none(shapes: Registry[Any]) -> None:
    assert list(shapes) == ["disc", "square", "path", "gone"] and len(shapes) == 4
    assert shapes["disc"] == 1 and shapes["path"].__name__ == "Path" and "path" in shapes and "disk" not in shapes


def test_what_is_not_there_is_a_sentence(shapes: Registry[Any]) -> None:
    with pytest.raises(UnknownName, match="one of disc, square, path, gone, got 'sqare'; did you mean square"):
        shapes["sqare"]
    with pytest.raises(UnknownName, match="a shape named gone is no_such_package.module:thing of another package"):
        shapes["gone"]
