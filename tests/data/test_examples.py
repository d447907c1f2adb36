from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    "name", ["tavt_kit.data.sources", "tavt_kit.data.loading", "tavt_kit.preprocess", "tavt_kit.model_card"]
)
def test_the_examples_in_the_docstrings_run(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted and not results.failed
