"""The examples in the docstrings."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    "name",
    [
        "answer",
        "search.agreement",
        "search.evaluate",
        "search.evolution",
        "search.loop",
        "search.racing",
        "search.store",
        "shared_passes",
    ],
)
def test_examples(name: str) -> None:
    results = doctest.testmod(importlib.import_module(f"tavt_kit.{name}"))
    assert results.attempted and not results.failed
