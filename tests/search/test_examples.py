"""The examples in the docstrings."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    "name",
    [
        "answer",
        "front",
        "scoring",
        "search.agreement",
        "search.by_chance",
        "search.evaluate",
        "search.evolution",
        "search.loop",
        "search.objectives",
        "search.racing",
        "search.regression",
        "search.store",
        "search.tavt_search",
        "shared_passes",
    ],
)
def test_examples(name: str) -> None:
    results = doctest.testmod(importlib.import_module(f"tavt_kit.{name}"))
    assert results.attempted and not results.failed
