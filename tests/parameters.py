"""What a test is asked of in the quick suite, and what is left to the slow one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def few(values: Iterable[Any], *quick: Any) -> list[Any]:
    """The values as parameters of a test: the quick suite takes the ``quick`` ones, all others are marked slow.

    A tuple is one set of arguments.
    """
    return [
        value if value in quick
        else pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow)
        for value in values
    ]  # fmt: skip
