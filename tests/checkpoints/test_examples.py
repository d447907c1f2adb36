from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["tavt_kit.checkpoints.build", "tavt_kit.checkpoints.folder"])
def test_the_examples_in_the_docstrings_run(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted and not results.failed
