"""Every golden file of the folder, by its kind.

A test module says which kind it checks by ``pytestmark = pytest.mark.kind("transfg")`` and asks for ``name``: it runs
on every file of that kind.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.parity import official
from tests.parity.kinds import folder_of, kind_of


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``name``: every file of the module's kind."""
    marker = metafunc.definition.get_closest_marker("kind")
    if marker is None or "name" not in metafunc.fixturenames:
        return
    files = sorted(folder_of(metafunc.config).glob("*.npz"))
    names = [file.stem for file in files if kind_of(file.stem) in marker.args]
    metafunc.parametrize("name", names or [pytest.param("", marks=pytest.mark.skip("no such file"))], scope="module")


@pytest.fixture(autouse=True)
def _read_arrays(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tell the summary which arrays were read so far; it is made from the reports, as tests run in many processes."""
    yield
    read = {name: sorted(keys) for name, keys in official.READ.items()}
    request.node.user_properties.append(("golden", json.dumps(read)))


@pytest.fixture(autouse=True)
def _differences(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tell the summary the largest difference of the tensors compared, as a share of their largest number or of 1."""
    compare, worst = torch.testing.assert_close, 0.0

    def watched(actual: Any, expected: Any, **options: Any) -> None:
        nonlocal worst
        compare(actual, expected, **options)
        mine, theirs = (torch.as_tensor(value).detach().double() for value in (actual, expected))
        if mine.numel():
            worst = max(worst, float((mine - theirs).abs().max() / theirs.abs().max().clamp(min=1)))

    monkeypatch.setattr(torch.testing, "assert_close", watched)
    yield
    file = getattr(getattr(request.node, "callspec", None), "params", {}).get("name")
    if file:
        request.node.user_properties.append(("difference", json.dumps({file: worst})))
